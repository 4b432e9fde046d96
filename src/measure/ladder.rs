//! What must hold of an engine that runs the megakernel, whichever device it is on: its logits are the
//! reference engine's, its tokens those of the CPU engine, and every run gives the same bits.
//!
//! The models are small and random, with dimensions that nothing divides. The tests of the emulator
//! and [`gpu_check`](crate::gpu_check) are made of these.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::constraint::template::{Segment, Slot, Template};
use crate::constraint::{Compiler, Source, Tables};
use crate::engine::cpu::{CpuEngine, CpuOptions, kernels};
use crate::engine::guide::Guide;
use crate::engine::megakernel::MegakernelOptions;
use crate::engine::past::ReadPast;
use crate::engine::reference::{KvPrecision, ReferenceEngine};
use crate::engine::{DecodeRequest, Decoded, Engine, EngineError, Finished};
use crate::model::config::{Llama3Scaling, Rope};
use crate::model::tokenizer::Tokenizer;
use crate::model::{Architecture, ModelConfig, TokenId, Weights, random};
use crate::sampling::SamplingParams;

/// Positions of each sequence.
pub const CONTEXT: usize = 48;

/// Largest [`distance`] of logits from the reference's. The sums are f32 in another order, over two
/// layers of a few hundred terms: 1e-6 is usual.
pub const TOLERANCE: f32 = 1e-4;

/// Shapes that nothing divides, for each architecture: grouped heads or not, biases, norms, tied
/// or not, both widths of heads. Small, since the emulator's time goes with the number of rows.
pub fn shapes() -> [ModelConfig; 3] {
    let qwen3 = ModelConfig {
        architecture: Architecture::Qwen3,
        hidden_size: 42,
        intermediate_size: 37,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 64,
        vocab_size: 83,
        max_positions: 2048,
        rms_norm_eps: 1e-6,
        rope: Rope {
            theta: 1e6,
            scaling: None,
        },
        tied_embeddings: true,
    };
    let qwen2 = ModelConfig {
        architecture: Architecture::Qwen2,
        hidden_size: 27,
        heads: 3,
        kv_heads: 1,
        tied_embeddings: false,
        ..qwen3.clone()
    };
    let llama = ModelConfig {
        architecture: Architecture::Llama,
        hidden_size: 19,
        intermediate_size: 265,
        heads: 1,
        kv_heads: 1,
        head_dim: 128,
        rope: Rope {
            theta: 5e5,
            scaling: Some(Llama3Scaling {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_positions: 128,
            }),
        },
        ..qwen3.clone()
    };
    [qwen3, qwen2, llama]
}

/// The same shapes, and those with heads of 64 once more with heads of 128: on a GPU that is all that some
/// variants have kernels for.
pub fn shapes_and_wide_heads() -> Vec<ModelConfig> {
    let mut all = Vec::from(shapes());
    for config in shapes() {
        if config.head_dim < WIDE_HEAD {
            all.push(ModelConfig {
                head_dim: WIDE_HEAD,
                ..config
            });
        }
    }
    all
}

/// The larger of the two widths of heads.
pub const WIDE_HEAD: usize = 128;

/// Random weights of one of these shapes.
///
/// # Errors
/// If the system has no memory for them.
pub fn weights(config: &ModelConfig) -> std::io::Result<Weights> {
    random::weights(config, 7, &mut |_, _| ())
}

/// How to set up the engine under test.
pub fn options(sequences: usize) -> MegakernelOptions {
    MegakernelOptions {
        // Short, so that these few positions are split too.
        split_length: 5,
        watchdog: Duration::from_secs(60),
        // A few kilobytes each.
        guide_bytes: Some(1 << 16),
        ..MegakernelOptions::new(CONTEXT, sequences)
    }
}

/// Tables for models of these shapes: with runs of forced tokens longer than a step takes, states that
/// allow a few tokens, and states that allow most.
///
/// # Panics
/// If they don't compile, which no input can cause: they are always the same.
pub fn guides() -> Vec<Arc<Tables>> {
    let tokenizer = tokenizer();
    let compiler = Compiler::new(&tokenizer, &[end_token()]).expect("its own end token");
    let literal = |text: &str| Segment::Literal(text.into());
    let slot = |name: &str, regex: &str| {
        Segment::Slot(Slot {
            name: name.into(),
            regex: regex.into(),
            placeholder: None,
            joined: false,
        })
    };
    let template = Template::new(vec![
        literal("the quick brown fox: "),
        slot("number", r"-?\d{1,2}\.\d{3}"),
        literal(",<"),
        slot("word", "[a-z]{0,3}"),
        literal("> and so on"),
    ]);
    let sources = [
        Source::Template(template.expect("a template")),
        Source::Regex(r"(ab|ba){1,5}c(-?\d{2}[.,]){1,4}".into()),
        Source::Regex(r"[a-zA-Z0-9 _.,:<>-]{4,40}".into()),
    ];
    let tables = |source| {
        let constraint = compiler.compile(source).expect("a constraint");
        Arc::clone(constraint.tables().expect("tables"))
    };
    sources.iter().map(tables).collect()
}

/// The token that ends a text that follows one of the [`guides`].
///
/// # Panics
/// If their tokenizer has none, which no input can cause.
pub fn end_token() -> TokenId {
    tokenizer().token_id(END).expect("the last token")
}

/// What it is called.
const END: &str = "<end>";

/// A tokenizer of one character a token, and a few longer ones, for the vocabulary of these shapes.
fn tokenizer() -> Tokenizer {
    let characters = ('0'..='9').chain('a'..='z').chain('A'..='Z');
    // Byte-level BPE writes a space as U+0120.
    let characters = characters.chain("-.,<>:_\u{120}".chars());
    let mut vocab: Vec<String> = characters.map(String::from).collect();
    let pairs = [
        ["a", "b"],
        ["b", "a"],
        ["1", "2"],
        ["0", "0"],
        ["-", "1"],
        ["o", "n"],
    ];
    vocab.extend(pairs.map(|pair| pair.concat()));
    let ids = vocab.iter().enumerate();
    let ids: serde_json::Map<_, _> = ids.map(|(id, text)| (text.clone(), id.into())).collect();
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false,
    });
    let end = json!({
        "id": vocab.len(), "content": END, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true,
    });
    let file = json!({
        "version": "1.0", "normalizer": null, "pre_tokenizer": byte_level, "post_processor": null,
        "decoder": byte_level, "added_tokens": [end],
        "model": {"type": "BPE", "vocab": ids, "merges": pairs},
    });
    let tokenizer = Tokenizer::from_json(file.to_string().as_bytes(), "the ladder's tokenizer");
    let rows = shapes()[0].vocab_size;
    tokenizer.expect("a tokenizer").padded_to(rows)
}

/// The CPU engine, on kernels that round nothing on the way.
///
/// # Errors
/// No memory, no threads.
pub fn cpu(weights: Weights, sequences: usize) -> Result<CpuEngine, EngineError> {
    let mut paths = kernels::available().into_iter();
    let exact = paths.find(|path| !path.rounds_panels);
    let options = CpuOptions {
        threads: NonZeroUsize::new(1),
        kernels: exact.map(|path| path.name.to_owned()),
        ..CpuOptions::new(CONTEXT, sequences)
    };
    CpuEngine::new(weights, &options)
}

/// The reference engine, with keys and values rounded to bf16.
///
/// # Errors
/// No memory.
pub fn reference(weights: &Weights) -> Result<ReferenceEngine, EngineError> {
    let engine = ReferenceEngine::new(Arc::new(weights.clone()), CONTEXT, 1)?;
    Ok(engine.with_kv_precision(KvPrecision::Bf16))
}

/// The logits of `engine` after each of `tokens`, at the beginning of sequence 0, and their largest
/// [`distance`] from the reference's.
///
/// A key on the edge between two bf16 numbers may fall to either side, which moves logits by a thousandth
/// and says nothing of the engine: there the reference rounds [as the engine
/// did](ReferenceEngine::rounding_as).
///
/// # Errors
/// As [`Engine::logits`].
pub fn logits_and_distance<E: Engine + ReadPast>(
    engine: &mut E,
    weights: &Weights,
    tokens: &[TokenId],
) -> Result<(Vec<Vec<f32>>, f32), EngineError> {
    let found = all_logits(engine, tokens)?;
    let mut reference = reference(weights)?.rounding_as(engine.read_past(0)?);
    let expected = all_logits(&mut reference, tokens)?;
    let distances = found.iter().zip(&expected).map(|(a, b)| distance(a, b));
    let largest = distances.fold(0.0, |max: f32, d| if d <= max { max } else { d });
    Ok((found, largest))
}

/// `len` tokens of `config`'s vocabulary.
pub fn tokens(config: &ModelConfig, len: usize) -> Vec<TokenId> {
    let token = |i: usize| (i * i * 31 + i * 7 + 3) % config.vocab_size;
    (0..len).map(|i| token(i) as TokenId).collect()
}

/// Ways to sample: greedy, with a penalty, and with each filter and all of them.
pub fn samplings() -> Vec<SamplingParams> {
    let sampled = SamplingParams {
        temperature: 0.8,
        seed: 5 << 33 | 9,
        ..SamplingParams::default()
    };
    vec![
        SamplingParams::default(),
        SamplingParams {
            repetition_penalty: 1.3,
            ..SamplingParams::default()
        },
        sampled.clone(),
        SamplingParams {
            min_p: 0.05,
            ..sampled.clone()
        },
        SamplingParams {
            top_k: 20,
            ..sampled.clone()
        },
        SamplingParams {
            top_k: 50,
            top_p: 0.9,
            min_p: 0.02,
            repetition_penalty: 1.2,
            ..sampled
        },
    ]
}

/// Logits after each of `tokens`, at the beginning of sequence 0: `[tokens][vocabulary]`.
///
/// # Errors
/// As [`Engine::logits`].
pub fn all_logits(
    engine: &mut dyn Engine,
    tokens: &[TokenId],
) -> Result<Vec<Vec<f32>>, EngineError> {
    let mut rows = Vec::new();
    engine.logits(0, tokens, &mut |_, row| rows.push(row.to_vec()))?;
    Ok(rows)
}

/// Largest difference over the largest magnitude.
pub fn distance(found: &[f32], expected: &[f32]) -> f32 {
    let scale = expected.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
    let difference = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    // NaN is no distance at all.
    let largest = difference.fold(0.0, |max: f32, d| if d <= max { max } else { d });
    largest / scale
}

/// A request without stop tokens.
pub fn request(sequence: usize, max_tokens: usize, sampling: &SamplingParams) -> DecodeRequest {
    DecodeRequest {
        sequence,
        max_tokens,
        sampling: sampling.clone(),
        stop_tokens: Vec::new(),
        guide: None,
    }
}

/// Decodes `prompts` together, from the beginning, each on a sequence of its own.
///
/// # Errors
/// As [`Engine::decode`].
pub fn decode(
    engine: &mut dyn Engine,
    prompts: &[Vec<TokenId>],
    max_tokens: usize,
    sampling: &SamplingParams,
) -> Result<Vec<Finished>, EngineError> {
    let guides = vec![None; prompts.len()];
    decode_guided(engine, prompts, &guides, max_tokens, sampling)
}

/// The same with a guide for each sequence that has one, which its [`end_token`] then ends.
///
/// # Errors
/// As [`Engine::decode`].
pub fn decode_guided(
    engine: &mut dyn Engine,
    prompts: &[Vec<TokenId>],
    guides: &[Option<Arc<Tables>>],
    max_tokens: usize,
    sampling: &SamplingParams,
) -> Result<Vec<Finished>, EngineError> {
    let mut requests = Vec::new();
    for (sequence, (prompt, guide)) in prompts.iter().zip(guides).enumerate() {
        engine.truncate(sequence, 0)?;
        engine.prefill(sequence, prompt, &mut |_| ControlFlow::Continue(()))?;
        requests.push(DecodeRequest {
            stop_tokens: guide.iter().map(|_| end_token()).collect(),
            guide: guide.clone().map(Guide::Tables),
            ..request(sequence, max_tokens, sampling)
        });
    }
    engine.decode(&requests, &mut |_: Decoded| ControlFlow::Continue(()))
}
