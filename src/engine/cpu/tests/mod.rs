//! The CPU engine against the reference engine, on random weights of odd shapes.

mod variants;

use std::ops::ControlFlow;
use std::sync::Arc;

use super::*;
use crate::engine::StopReason;
use crate::engine::reference::{KvPrecision, ReferenceEngine};
use crate::model::checkpoint::{self, LoadOptions, Placement, Precision};
use crate::model::config::{Llama3Scaling, Rope};
use crate::model::{Architecture, Files, random};
use crate::sampling::SamplingParams;

/// Shapes that nothing divides, for each architecture.
fn shapes() -> Vec<ModelConfig> {
    let qwen3 = ModelConfig {
        architecture: Architecture::Qwen3,
        hidden_size: 90,
        intermediate_size: 154,
        layers: 3,
        heads: 6,
        kv_heads: 3,
        head_dim: 34,
        vocab_size: 203,
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
        heads: 7,
        kv_heads: 1,
        tied_embeddings: false,
        ..qwen3.clone()
    };
    let llama = ModelConfig {
        architecture: Architecture::Llama,
        heads: 4,
        kv_heads: 4,
        head_dim: 64,
        hidden_size: 256,
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
    vec![qwen3, qwen2, llama]
}

fn weights(config: &ModelConfig) -> Weights {
    random::weights(config, 7, &mut |_, _| ()).expect("memory")
}

fn engine(config: &ModelConfig, threads: usize, sequences: usize, kernels: &str) -> CpuEngine {
    let options = CpuOptions {
        threads: NonZeroUsize::new(threads),
        kernels: Some(kernels.into()),
        ..CpuOptions::new(700, sequences)
    };
    let mut engine = CpuEngine::new(weights(config), &options).expect("an engine");
    engine.cache.poison();
    engine
}

fn tokens(config: &ModelConfig, len: usize) -> Vec<TokenId> {
    let token = |i: usize| (i * i * 31 + i * 7 + 3) % config.vocab_size;
    (0..len).map(|i| token(i) as TokenId).collect()
}

fn all_logits(engine: &mut dyn Engine, tokens: &[TokenId]) -> Vec<Vec<f32>> {
    let mut rows = Vec::new();
    let result = engine.logits(0, tokens, &mut |_, row| rows.push(row.to_vec()));
    result.expect("finite logits");
    rows
}

/// Largest difference over the largest magnitude.
fn distance(found: &[f32], expected: &[f32]) -> f32 {
    let scale = expected.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
    let difference = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    difference.fold(0.0, f32::max) / scale
}

fn go_on(_: Decoded) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// What is left beside the rounding of keys and values to bf16 is f32 arithmetic in another order
/// over 3 layers; but a key on the edge between two bf16 numbers may fall to either side, which
/// moves a logit by up to 2^-9 of one key's part in it.
const TOLERANCE: f32 = 2e-3;
/// A path that rounds the inputs of prefill to bf16 (8 bits) errs by up to 2^-9 of each.
const ROUNDED_TOLERANCE: f32 = 2e-2;

/// The paths that compute in f32 throughout, and so agree token for token.
fn exact_paths() -> impl Iterator<Item = Kernels> {
    let paths = kernels::available().into_iter();
    paths.filter(|path| !path.rounds_panels)
}

fn exact_path() -> &'static str {
    exact_paths()
        .next()
        .expect("the portable path is exact")
        .name
}

#[test]
fn logits_equal_the_references_on_every_path_at_early_and_late_positions() {
    for config in shapes() {
        let tokens = tokens(&config, 600);
        let reference = ReferenceEngine::new(Arc::new(weights(&config)), 700, 1).unwrap();
        let mut reference = reference.with_kv_precision(KvPrecision::Bf16);
        let expected = all_logits(&mut reference, &tokens);
        for path in kernels::available() {
            let mut engine = engine(&config, 3, 1, path.name);
            let found = all_logits(&mut engine, &tokens);
            for (position, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let distance = distance(found, expected);
                let tolerance = if path.rounds_panels {
                    ROUNDED_TOLERANCE
                } else {
                    TOLERANCE
                };
                assert!(
                    distance < tolerance,
                    "{:?} {} position {position}: {distance}",
                    config.architecture,
                    path.name
                );
            }
        }
    }
}

#[test]
fn decoding_token_by_token_equals_the_reference() {
    for config in shapes() {
        let prompt = tokens(&config, 13);
        let reference = ReferenceEngine::new(Arc::new(weights(&config)), 700, 1).unwrap();
        let mut reference = reference.with_kv_precision(KvPrecision::Bf16);
        let mut engine = engine(&config, 2, 1, exact_path());
        let mut worst = 0.0_f32;
        for engine in [&mut engine as &mut dyn Engine, &mut reference] {
            engine
                .prefill(0, &prompt, &mut |_| ControlFlow::Continue(()))
                .unwrap();
        }
        // Past 512 positions, so that the attention is split in three.
        for token in tokens(&config, 560) {
            let column = Column {
                sequence: 0,
                token,
                head: Head::All,
            };
            engine.step(&[column]).unwrap();
            Step::step(&mut reference, &[column]).unwrap();
            let found = engine.take_logits(0).unwrap().to_vec();
            let distance = distance(&found, reference.take_logits(0).unwrap());
            worst = worst.max(distance);
        }
        assert!(worst < TOLERANCE, "{:?}: {worst}", config.architecture);
    }
}

fn decode(
    engine: &mut dyn Engine,
    prompts: &[Vec<TokenId>],
    sampling: &SamplingParams,
) -> Vec<Vec<TokenId>> {
    let mut requests = Vec::new();
    for (sequence, prompt) in prompts.iter().enumerate() {
        engine.truncate(sequence, 0).unwrap();
        engine
            .prefill(sequence, prompt, &mut |_| ControlFlow::Continue(()))
            .unwrap();
        requests.push(DecodeRequest {
            sequence,
            max_tokens: 40,
            sampling: sampling.clone(),
            stop_tokens: Vec::new(),
            guide: None,
        });
    }
    let finished = engine.decode(&requests, &mut go_on).unwrap();
    finished
        .into_iter()
        .map(|finished| finished.tokens)
        .collect()
}

fn samplings() -> Vec<SamplingParams> {
    let sampled = SamplingParams {
        temperature: 0.8,
        seed: 5,
        ..SamplingParams::default()
    };
    vec![
        SamplingParams::default(),
        sampled.clone(),
        SamplingParams {
            top_k: 20,
            top_p: 0.9,
            min_p: 0.02,
            repetition_penalty: 1.2,
            ..sampled
        },
    ]
}

#[test]
fn every_engine_team_and_path_samples_the_same_tokens() {
    for config in shapes() {
        let prompts = vec![tokens(&config, 21)];
        for sampling in samplings() {
            let reference = ReferenceEngine::new(Arc::new(weights(&config)), 700, 1).unwrap();
            let mut reference = reference.with_kv_precision(KvPrecision::Bf16);
            let expected = decode(&mut reference, &prompts, &sampling);
            for path in exact_paths() {
                for threads in [1, 2, 5] {
                    let mut engine = engine(&config, threads, 1, path.name);
                    for _ in 0..2 {
                        assert_eq!(decode(&mut engine, &prompts, &sampling), expected);
                    }
                }
            }
        }
    }
}

#[test]
fn logits_are_the_same_bits_for_every_team_and_run() {
    let config = &shapes()[0];
    let prompt = tokens(config, 300);
    let mut first: Option<Vec<u32>> = None;
    for threads in [1, 2, 3, 4] {
        let mut engine = engine(config, threads, 1, exact_path());
        for _ in 0..2 {
            engine.truncate(0, 0).unwrap();
            engine
                .prefill(0, &prompt, &mut |_| ControlFlow::Continue(()))
                .unwrap();
            engine
                .step(&[Column {
                    sequence: 0,
                    token: 9,
                    head: Head::All,
                }])
                .unwrap();
            let logits = engine.take_logits(0).unwrap();
            let bits: Vec<u32> = logits.iter().map(|logit| logit.to_bits()).collect();
            assert_eq!(first.get_or_insert_with(|| bits.clone()), &bits);
        }
    }
}

#[test]
fn a_batch_decodes_what_each_sequence_would_alone() {
    for config in shapes() {
        // More sequences than are streamed at once, of different lengths.
        let prompts: Vec<Vec<TokenId>> = (0..11)
            .map(|i| tokens(&config, 3 + 40 * i)[i..].to_vec())
            .collect();
        let sampling = &samplings()[0];
        let path = exact_path();
        let together = decode(&mut engine(&config, 2, 11, path), &prompts, sampling);
        let mut alone = engine(&config, 2, 1, path);
        for (prompt, together) in prompts.iter().zip(together) {
            assert_eq!(
                decode(&mut alone, std::slice::from_ref(prompt), sampling)[0],
                together
            );
        }
    }
}

#[test]
fn what_is_truncated_leaves_no_trace() {
    let config = &shapes()[0];
    let path = exact_path();
    let mut fresh = engine(config, 2, 1, path);
    let mut used = engine(config, 2, 1, path);
    let prompt = tokens(config, 50);
    used.prefill(0, &prompt, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    used.prefill(0, &[1, 2, 3], &mut |_| ControlFlow::Continue(()))
        .unwrap();
    used.truncate(0, 20).unwrap();
    fresh
        .prefill(0, &prompt[..20], &mut |_| ControlFlow::Continue(()))
        .unwrap();
    for engine in [&mut fresh, &mut used] {
        engine
            .prefill(0, &prompt[20..], &mut |_| ControlFlow::Continue(()))
            .unwrap();
    }
    assert_eq!(fresh.take_logits(0), used.take_logits(0));
    assert_eq!(fresh.cached(0), used.cached(0));
}

#[test]
fn decoding_ends_when_the_cache_is_full_or_a_stop_token_comes_or_the_callback_breaks() {
    let config = &shapes()[0];
    let mut engine = engine(config, 2, 1, "portable");
    let prompt = tokens(config, 690);
    engine
        .prefill(0, &prompt, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    let request = |max_tokens, stop_tokens| DecodeRequest {
        sequence: 0,
        max_tokens,
        sampling: SamplingParams::default(),
        stop_tokens,
        guide: None,
    };
    let finished = engine.decode(&[request(1000, vec![])], &mut go_on).unwrap();
    assert_eq!(finished[0].stop, StopReason::Context);
    assert_eq!(finished[0].tokens.len(), 11, "ten are cached, one is not");
    let all = finished[0].tokens.clone();

    let mut again = |request: DecodeRequest, stop_after: usize| {
        engine.truncate(0, 680).unwrap();
        engine
            .prefill(0, &prompt[680..], &mut |_| ControlFlow::Continue(()))
            .unwrap();
        let mut count = 0;
        let finished = engine.decode(&[request], &mut |_| {
            count += 1;
            if count == stop_after {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        finished.unwrap().remove(0)
    };
    let finished = again(request(1000, vec![all[4]]), 0);
    let first = all.iter().position(|token| *token == all[4]).unwrap();
    assert_eq!(finished.stop, StopReason::Eos);
    assert_eq!(finished.tokens, all[..=first]);
    let finished = again(request(3, vec![]), 0);
    assert_eq!(
        (finished.stop, finished.tokens.len()),
        (StopReason::Length, 3)
    );
    let finished = again(request(1000, vec![]), 2);
    assert_eq!(
        (finished.stop, finished.tokens.len()),
        (StopReason::Callback, 2)
    );
}

#[test]
fn misuse_is_an_error_and_changes_nothing() {
    let config = &shapes()[0];
    let mut engine = engine(config, 1, 2, "portable");
    let go = &mut |_: usize| ControlFlow::Continue(());
    let request = |sequence| DecodeRequest {
        sequence,
        max_tokens: 1,
        sampling: SamplingParams::default(),
        stop_tokens: Vec::new(),
        guide: None,
    };
    let error = |result: Result<(), EngineError>| result.unwrap_err().to_string();
    assert!(error(engine.prefill(0, &[203], go)).contains("token 203 is outside"));
    assert!(error(engine.prefill(0, &vec![1; 701], go)).contains("700"));
    assert!(error(engine.prefill(2, &[1], go)).contains("holds 2"));
    assert!(engine.cached(0).is_empty());
    let decode = |engine: &mut CpuEngine, requests: &[DecodeRequest]| {
        engine.decode(requests, &mut go_on).map(|_| ())
    };
    assert!(error(decode(&mut engine, &[request(0)])).contains("no prompt"));
    engine.prefill(0, &[1], go).unwrap();
    assert!(error(decode(&mut engine, &[request(0), request(0)])).contains("twice"));
    decode(&mut engine, &[request(0)]).unwrap();
    assert!(error(decode(&mut engine, &[request(0)])).contains("no prompt"));
    let options = CpuOptions::new(2049, 1);
    let result = CpuEngine::new(weights(config), &options).map(|_| ());
    assert!(error(result).contains("2048"));
}

/// A NaN in some row of some matrix reaches the residual stream behind it.
#[test]
fn values_that_are_not_finite_are_named_by_layer_and_position() {
    use crate::model::{Matrix, weights::Values};
    let config = &shapes()[0];
    let with_nan = |matrix: &Matrix| {
        let mut values = matrix.as_bf16().unwrap().to_vec();
        let middle = values.len() / 2;
        values[middle] = half::bf16::NAN;
        let values = values.iter().map(|v| v.to_f32()).collect::<Vec<_>>();
        let slice = crate::model::storage::Slice::converted(&values);
        Matrix::new(matrix.rows(), matrix.columns(), Values::Bf16(slice))
    };
    type Change = fn(&mut Weights, &dyn Fn(&Matrix) -> Matrix);
    let cases: [(&str, Change); 4] = [
        ("layer 1 (attention)", |w, nan| {
            w.layers[1].v = nan(&w.layers[1].v)
        }),
        ("layer 2 (MLP)", |w, nan| {
            w.layers[2].up = nan(&w.layers[2].up)
        }),
        ("layer 0 (MLP)", |w, nan| {
            w.layers[0].down = nan(&w.layers[0].down)
        }),
        ("the logits", |w, nan| w.head = Some(nan(&w.embedding))),
    ];
    for (place, change) in cases {
        let mut weights = weights(config);
        change(&mut weights, &with_nan);
        let reference = ReferenceEngine::new(Arc::new(weights.clone()), 700, 1).unwrap();
        let options = CpuOptions {
            threads: NonZeroUsize::new(2),
            ..CpuOptions::new(700, 1)
        };
        let cpu = CpuEngine::new(weights, &options).unwrap();
        for mut engine in [Box::new(reference) as Box<dyn Engine>, Box::new(cpu)] {
            let prompt = tokens(config, 5);
            let outcome = engine
                .prefill(0, &prompt, &mut |_| ControlFlow::Continue(()))
                .and_then(|()| {
                    let request = DecodeRequest {
                        sequence: 0,
                        max_tokens: 2,
                        sampling: SamplingParams::default(),
                        stop_tokens: Vec::new(),
                        guide: None,
                    };
                    engine.decode(&[request], &mut go_on).map(|_| ())
                });
            let message = outcome.unwrap_err().to_string();
            assert!(message.contains(place), "{place}: {message}");
            assert!(message.contains("at position"), "{message}");
            engine.truncate(0, 0).unwrap();
            let forced = engine.logits(0, &prompt, &mut |_, _| ());
            let message = forced.unwrap_err().to_string();
            assert!(message.contains(place), "{place}: {message}");
        }
    }
}

/// A shape whose checkpoint is many huge pages long, with a head of its own or without.
fn large(tied_embeddings: bool) -> ModelConfig {
    let qwen3 = shapes().remove(0);
    ModelConfig {
        hidden_size: 128,
        vocab_size: 160_000,
        tied_embeddings,
        ..qwen3
    }
}

#[test]
fn logits_are_the_same_before_during_and_after_the_weights_are_moved() {
    for (tied, threads) in [(true, 2), (false, 3)] {
        let config = large(tied);
        let folder = tempfile::tempdir().unwrap();
        checkpoint::write(folder.path(), &weights(&config)).unwrap();
        let [mut moving, mut settled] = [Placement::Auto, Placement::HugePages].map(|placement| {
            let files = Files::folder(folder.path()).unwrap();
            let load = LoadOptions {
                placement,
                precision: Precision::Bf16,
            };
            let weights = checkpoint::load(&files, load, &mut |_, _| ()).unwrap();
            let options = CpuOptions {
                threads: NonZeroUsize::new(threads),
                ..CpuOptions::new(64, 1)
            };
            CpuEngine::new(weights, &options).unwrap()
        });
        if moving.promoter.is_none() {
            // No huge pages here, or no memory.
            return;
        }
        let mut same_logits = |moving: &mut CpuEngine, token| {
            let [a, b] = [moving, &mut settled].map(|engine| {
                let head = Head::All;
                engine
                    .step(&[Column {
                        sequence: 0,
                        token,
                        head,
                    }])
                    .unwrap();
                engine.take_logits(0).unwrap().to_vec()
            });
            assert!(a == b, "tied {tied}, token {token}");
        };
        let mut placements = Vec::new();
        for token in 0..12 {
            // Time enough to begin one stretch, and not to end it.
            moving.step_time = Duration::from_micros(if token > 0 { 100 } else { 0 });
            same_logits(&mut moving, token);
            placements.push(moving.weights().placement());
        }
        assert_eq!(placements.first(), Some(&"mapped"), "the first step waits");
        assert!(placements.contains(&"both"));
        assert_eq!(placements.last(), Some(&"huge-pages"));
        assert!(moving.promoter.is_none());
    }
}

#[test]
fn prefill_moves_nothing() {
    let config = large(true);
    let folder = tempfile::tempdir().unwrap();
    checkpoint::write(folder.path(), &weights(&config)).unwrap();
    let files = Files::folder(folder.path()).unwrap();
    let weights = checkpoint::load(&files, LoadOptions::default(), &mut |_, _| ()).unwrap();
    let options = CpuOptions {
        threads: NonZeroUsize::new(2),
        ..CpuOptions::new(64, 1)
    };
    let mut engine = CpuEngine::new(weights, &options).unwrap();
    let before = engine.weights().placement();
    for _ in 0..2 {
        engine
            .prefill(0, &tokens(&config, 20), &mut |_| ControlFlow::Continue(()))
            .unwrap();
    }
    assert_eq!(engine.weights().placement(), before);
}
