//! The CPU engine's decode loop takes its memory before the first token and none after it.
//!
//! This is a test program of its own, with one test: the counter sees every thread, and so all
//! members of the engine's team, but nobody else's work.

use std::alloc::{GlobalAlloc, Layout, System};
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use onegrid::constraint::template::Template;
use onegrid::constraint::{Compiler, Guide, Source};
use onegrid::engine::cpu::{CpuEngine, CpuOptions, CpuVariant, kernels};
use onegrid::engine::guide::Guided;
use onegrid::engine::{DecodeRequest, Engine};
use onegrid::model::checkpoint::{self, LoadOptions};
use onegrid::model::tokenizer::Tokenizer;
use onegrid::model::{Files, ModelConfig, Weights, promotion, random, shapes};
use onegrid::sampling::SamplingParams;

/// The system's allocator, with a count of how often it was asked for memory.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

fn count() {
    ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
}

// SAFETY: all work is the system allocator's, with the arguments it was asked with.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: passed on to the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: passed on to the caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: passed on to the caller.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: passed on to the caller.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations() -> u64 {
    ALLOCATIONS.load(Ordering::Relaxed)
}

/// Decodes `max_tokens` of every sequence from a prompt of its own; returns how many allocations
/// there were in the whole call, and between its first token and its last.
fn decode(engine: &mut CpuEngine, sampling: &SamplingParams, max_tokens: usize) -> (u64, u64) {
    guided_decode(engine, sampling, max_tokens, None).0
}

/// The same under a guide; and what it had to do with the tokens of all sequences.
fn guided_decode(
    engine: &mut CpuEngine,
    sampling: &SamplingParams,
    max_tokens: usize,
    guide: Option<&Guide>,
) -> ((u64, u64), Guided) {
    let mut requests = Vec::new();
    for sequence in 0..engine.capabilities().sequences {
        engine.truncate(sequence, 0).unwrap();
        // Prompts of different lengths, so that the sequences' stretches of past positions differ.
        let prompt: Vec<_> = (1..=20 + 7 * sequence as u32).collect();
        engine
            .prefill(sequence, &prompt, &mut |_| ControlFlow::Continue(()))
            .unwrap();
        requests.push(DecodeRequest {
            sequence,
            max_tokens,
            sampling: sampling.clone(),
            stop_tokens: Vec::new(),
            guide: guide.cloned(),
        });
    }
    let (mut first, mut last) = (None, 0);
    let before = allocations();
    let finished = engine.decode(&requests, &mut |_| {
        last = allocations();
        first.get_or_insert(last);
        ControlFlow::Continue(())
    });
    let call = allocations() - before;
    let finished = finished.unwrap();
    assert!(finished.iter().all(|done| done.tokens.len() == max_tokens));
    let mut guided = Guided::default();
    for one in finished.iter().filter_map(|done| done.guided) {
        guided.forced_tokens += one.forced_tokens;
        guided.gathered_steps += one.gathered_steps;
        guided.full_steps += one.full_steps;
    }
    ((call, last - first.unwrap()), guided)
}

/// Weights of many huge pages, in a mapped file.
fn mapped() -> Weights {
    let config = ModelConfig {
        vocab_size: 200_000,
        ..shapes::config("tiny").unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let made = random::weights(&config, 1, &mut |_, _| ()).unwrap();
    checkpoint::write(folder.path(), &made).unwrap();
    let files = Files::folder(folder.path()).unwrap();
    checkpoint::load(&files, LoadOptions::default(), &mut |_, _| ()).unwrap()
}

fn moving_weights_allocates_nothing() {
    let options = CpuOptions {
        threads: NonZeroUsize::new(2),
        ..CpuOptions::new(256, 1)
    };
    let mut engine = CpuEngine::new(mapped(), &options).unwrap();
    let (_, between) = decode(&mut engine, &SamplingParams::default(), 60);
    assert_eq!(between, 0, "between tokens, while weights are moved");
    // None where there are no huge pages, or no memory.
    if let Some(progress) = promotion::progress(engine.weights()) {
        assert_eq!(progress.moved, progress.bytes, "all of it in 60 tokens");
    }
}

/// All but the pool, which takes memory for each task that it hands out.
fn a_token_of_each_variant_allocates_nothing() {
    let config = shapes::config("tiny").unwrap();
    let teams = CpuVariant::ALL.into_iter();
    for variant in teams.filter(|variant| *variant != CpuVariant::Pool) {
        let weights = random::weights(&config, 1, &mut |_, _| ()).unwrap();
        let options = CpuOptions {
            threads: NonZeroUsize::new(2),
            variant,
            ..CpuOptions::new(256, 3)
        };
        let mut engine = CpuEngine::new(weights, &options).unwrap();
        decode(&mut engine, &SamplingParams::default(), 2);
        let (_, between) = decode(&mut engine, &SamplingParams::default(), 60);
        assert_eq!(between, 0, "between tokens: {}", variant.name());
    }
}

fn a_recorded_token_allocates_nothing() {
    let config = shapes::config("tiny").unwrap();
    let weights = random::weights(&config, 1, &mut |_, _| ()).unwrap();
    let options = CpuOptions {
        threads: NonZeroUsize::new(2),
        ..CpuOptions::new(256, 3)
    };
    let mut engine = CpuEngine::new(weights, &options).unwrap();
    // Some steps find no room any more.
    for steps in [400, 50] {
        engine.start_trace(steps).unwrap();
        let (_, between) = decode(&mut engine, &SamplingParams::default(), 120);
        assert_eq!(between, 0, "between tokens, with a trace of {steps} steps");
        let recording = engine.take_trace().unwrap().unwrap();
        assert_eq!(recording.lost(), 0);
        assert_eq!(recording.steps_not_recorded > 0, steps == 50);
    }
}

/// A long text of literal runs, slots of few tokens and slots of many.
fn guide(vocab_size: usize) -> Guide {
    let tokenizer = Tokenizer::from_files(&Files::demo()).unwrap();
    let tokenizer = tokenizer.padded_to(vocab_size);
    let point = [
        r#"{"literal": "[CONFORMER][C]<0.1234,"}"#,
        r#"{"slot": "yNUMBER", "regex": "-?[0-9]\\.[0-9]{4}"}"#,
        r#"{"literal": ",0.5678>[O]"}"#,
        r#"{"slot": "wordsNUMBER", "regex": "[ -~]{6}"}"#,
    ];
    let numbered = |number: usize| point.join(",").replace("NUMBER", &number.to_string());
    let points: Vec<String> = (0..30).map(numbered).collect();
    let template = format!("[{}]", points.join(","));
    let template = Template::from_json(template.as_bytes()).unwrap();
    let compiler = Compiler::new(&tokenizer, &[]).unwrap();
    let compiled = compiler.compile(&Source::Template(template)).unwrap();
    compiled.guide
}

fn a_guided_token_allocates_nothing() {
    let config = shapes::config("tiny").unwrap();
    let guide = guide(config.vocab_size);
    for (threads, sequences) in [(1, 1), (2, 1), (2, 3)] {
        let weights = random::weights(&config, 1, &mut |_, _| ()).unwrap();
        let options = CpuOptions {
            threads: NonZeroUsize::new(threads),
            ..CpuOptions::new(256, sequences)
        };
        let mut engine = CpuEngine::new(weights, &options).unwrap();
        for temperature in [0.0, 1.0] {
            let sampling = SamplingParams {
                temperature,
                ..SamplingParams::default()
            };
            let case = format!("{threads} threads, {sequences} sequences, {temperature}");
            guided_decode(&mut engine, &sampling, 2, Some(&guide));
            let ((_, between), guided) = guided_decode(&mut engine, &sampling, 120, Some(&guide));
            assert_eq!(between, 0, "between tokens: {case}");
            let Guided {
                forced_tokens,
                gathered_steps,
                full_steps,
                ..
            } = guided;
            let least = forced_tokens.min(gathered_steps).min(full_steps);
            assert!(least > 10, "{case}: {guided:?}");
        }
    }
}

#[test]
fn a_token_allocates_nothing() {
    moving_weights_allocates_nothing();
    a_guided_token_allocates_nothing();
    a_recorded_token_allocates_nothing();
    a_token_of_each_variant_allocates_nothing();
    let before = allocations();
    drop(std::hint::black_box(Box::new(1)));
    assert!(allocations() > before, "the counter counts");

    let greedy = SamplingParams::default();
    let drawn = SamplingParams {
        temperature: 0.8,
        top_k: 40,
        top_p: 0.95,
        min_p: 0.01,
        repetition_penalty: 1.1,
        seed: 7,
    };
    let all_tokens = SamplingParams {
        temperature: 1.0,
        ..greedy.clone()
    };
    for path in kernels::available() {
        for (threads, sequences) in [(1, 1), (2, 1), (2, 3)] {
            let config = shapes::config("tiny").unwrap();
            let weights = random::weights(&config, 1, &mut |_, _| ()).unwrap();
            let options = CpuOptions {
                threads: NonZeroUsize::new(threads),
                kernels: Some(path.name.into()),
                ..CpuOptions::new(256, sequences)
            };
            let mut engine = CpuEngine::new(weights, &options).unwrap();
            for sampling in [&greedy, &drawn, &all_tokens] {
                let case = format!(
                    "{}, {threads} threads, {sequences} sequences, {sampling:?}",
                    path.name
                );
                // What is set up only once.
                decode(&mut engine, sampling, 2);
                let (short_call, short) = decode(&mut engine, sampling, 20);
                let (long_call, long) = decode(&mut engine, sampling, 120);
                assert_eq!((short, long), (0, 0), "between tokens: {case}");
                assert_eq!(short_call, long_call, "20 and 120 tokens: {case}");
            }
        }
    }
}
