//! The engines and the sampler against what Hugging Face transformers computes.
//!
//! `fixtures/README.md` says how the fixtures are made.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::bf16;
use onegrid::engine::cpu::{CpuEngine, CpuOptions, kernels};
use onegrid::engine::reference::{Arithmetic, ReferenceEngine};
use onegrid::engine::{DecodeRequest, Engine};
use onegrid::measure::divergence::kl;
use onegrid::model::checkpoint::{self, LoadOptions, Precision};
use onegrid::model::files::Files;
use onegrid::model::{TokenId, Weights};
use onegrid::sampling::{Sampler, SamplingParams};
use safetensors::SafeTensors;

const CHECKPOINTS: [&str; 7] = [
    "qwen3-tied-bf16",
    "qwen3-untied-f32-sharded",
    "qwen3-odd-shapes-f16",
    "qwen2-tied-bf16",
    "qwen2-untied-f32",
    "llama3-scaled-untied-bf16",
    "llama-tied-f16",
];
const CONTEXT: usize = 1200;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn weights(name: &str) -> Weights {
    load(name, LoadOptions::default())
}

fn bf16_weights(name: &str) -> Weights {
    let options = LoadOptions {
        precision: Precision::Bf16,
        ..LoadOptions::default()
    };
    load(name, options)
}

fn load(name: &str, options: LoadOptions) -> Weights {
    let files = Files::folder(fixtures().join("checkpoints").join(name)).expect("a folder");
    checkpoint::load(&files, options, &mut |_, _| ()).expect("a checkpoint")
}

/// What transformers computed for one checkpoint.
struct Expected {
    bytes: Vec<u8>,
}

impl Expected {
    fn of(name: &str) -> Self {
        let path = fixtures()
            .join("logits")
            .join(format!("{name}.safetensors"));
        Self {
            bytes: std::fs::read(path).expect("a fixture"),
        }
    }

    fn tensor<const SIZE: usize, T>(
        &self,
        name: &str,
        from: fn([u8; SIZE]) -> T,
    ) -> Option<Vec<T>> {
        let tensors = SafeTensors::deserialize(&self.bytes).expect("safetensors");
        let data = tensors.tensor(name).ok()?.data();
        let (numbers, rest) = data.as_chunks::<SIZE>();
        assert!(rest.is_empty());
        Some(numbers.iter().copied().map(from).collect())
    }

    fn ids(&self, name: &str) -> Option<Vec<TokenId>> {
        let ids = self.tensor(name, i64::from_le_bytes)?;
        Some(ids.into_iter().map(|id| id as TokenId).collect())
    }

    fn tokens(&self) -> Vec<TokenId> {
        self.ids("tokens").expect("every fixture has tokens")
    }

    /// The logits called `name` by position.
    fn rows(&self, name: &str) -> Option<BTreeMap<usize, Vec<f32>>> {
        let values = if name == "logits_bf16" {
            self.tensor(name, |bytes| bf16::from_le_bytes(bytes).to_f32())?
        } else {
            self.tensor(name, f32::from_le_bytes)?
        };
        let positions = self.ids("positions").expect("every fixture has positions");
        let rows = values
            .chunks(values.len() / positions.len())
            .map(<[f32]>::to_vec);
        Some(
            positions
                .into_iter()
                .map(|p| p as usize)
                .zip(rows)
                .collect(),
        )
    }
}

fn cpu_engine(weights: Weights, kernels: Option<&str>) -> CpuEngine {
    let options = CpuOptions {
        threads: NonZeroUsize::new(2),
        kernels: kernels.map(String::from),
        ..CpuOptions::new(CONTEXT, 1)
    };
    CpuEngine::new(weights, &options).expect("an engine")
}

/// The engine's logits at `positions` of `tokens`, teacher-forced.
fn logits(
    engine: &mut dyn Engine,
    tokens: &[TokenId],
    positions: &BTreeMap<usize, Vec<f32>>,
) -> BTreeMap<usize, Vec<f32>> {
    let mut rows = BTreeMap::new();
    let keep = &mut |position: usize, row: &[f32]| {
        if positions.contains_key(&position) {
            rows.insert(position, row.to_vec());
        }
    };
    engine.logits(0, tokens, keep).expect("finite logits");
    rows
}

/// The largest difference over the largest magnitude.
fn relative_error(found: &[f32], expected: &[f32]) -> f32 {
    let scale = expected.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
    let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max) / scale
}

#[test]
fn the_reference_engine_is_within_1e_4_of_transformers_at_every_position() {
    for name in CHECKPOINTS {
        let expected = Expected::of(name);
        let rows = expected.rows("logits_f32").expect("f32 logits");
        assert!(rows.keys().any(|position| *position > 1000));
        let mut engine = ReferenceEngine::new(Arc::new(weights(name)), CONTEXT, 1).unwrap();
        let found = logits(&mut engine, &expected.tokens(), &rows);
        let errors = rows.iter().map(|(p, row)| relative_error(&found[p], row));
        let worst = errors.fold(0.0, f32::max);
        println!("{name}: {worst:.1e}");
        assert!(worst < 1e-4, "{name}: {worst}");
    }
}

/// Our error is stated as a multiple of bf16's own: KL(f32 || engine) over KL(f32 || transformers
/// in bf16), for every path of kernels. An engine with bf16 weights and caches but f32 arithmetic
/// should be well below 1.
#[test]
fn the_cpu_engine_is_closer_to_f32_than_transformers_bf16_on_every_fixture() {
    for name in CHECKPOINTS {
        let expected = Expected::of(name);
        let tokens = expected.tokens();
        let bf16_rows = expected.rows("logits_bf16").expect("bf16 logits");
        let mut reference = ReferenceEngine::new(Arc::new(weights(name)), CONTEXT, 1).unwrap();
        let exact = logits(&mut reference, &tokens, &bf16_rows);
        let mean_kl = |rows: &BTreeMap<usize, Vec<f32>>| {
            let total: f64 = exact.iter().map(|(p, row)| kl(row, &rows[p])).sum();
            total / exact.len() as f64
        };
        let yardstick = mean_kl(&bf16_rows);
        for path in kernels::available() {
            let mut engine = cpu_engine(weights(name), Some(path.name));
            let ours = mean_kl(&logits(&mut engine, &tokens, &bf16_rows));
            println!(
                "{name} {}: {ours:.1e} of {yardstick:.1e}, {:.3}",
                path.name,
                ours / yardstick
            );
            assert!(
                ours <= yardstick,
                "{name} {}: {ours} > {yardstick}",
                path.name
            );
        }
    }
}

/// The yardstick where there is no transformers: the reference engine rounding to bf16. It sums in
/// another order, so that it is another draw of the same rounding errors: 0.98 to 1.24 times as far from
/// f32, where biases are rounded twice.
#[test]
fn the_reference_rounding_to_bf16_is_as_far_from_f32_as_transformers_in_bf16() {
    for name in CHECKPOINTS {
        let expected = Expected::of(name);
        let tokens = expected.tokens();
        let theirs = expected.rows("logits_bf16").expect("bf16 logits");
        let engine = |weights| ReferenceEngine::new(Arc::new(weights), CONTEXT, 1).unwrap();
        let exact = logits(&mut engine(weights(name)), &tokens, &theirs);
        let mut rounding = engine(bf16_weights(name)).with_arithmetic(Arithmetic::Bf16);
        let ours = logits(&mut rounding, &tokens, &theirs);
        let mean_kl = |rows: &BTreeMap<usize, Vec<f32>>| {
            let total: f64 = exact.iter().map(|(p, row)| kl(row, &rows[p])).sum();
            total / exact.len() as f64
        };
        let ratio = mean_kl(&ours) / mean_kl(&theirs);
        println!("{name}: {ratio:.2}");
        assert!((0.75..1.5).contains(&ratio), "{name}: {ratio}");
    }
}

/// Weights rounded to bf16 leave only arithmetic and the cache between the two, on kernels that
/// round nothing else: some processors' default rounds the inputs of prefill as well.
#[test]
fn the_cpu_engine_converts_f16_and_f32_weights_as_transformers_would() {
    let mut paths = kernels::available().into_iter();
    let exact = paths.find(|path| !path.rounds_panels);
    let exact = exact.expect("the portable kernels round nothing").name;
    for name in CHECKPOINTS {
        let expected = Expected::of(name);
        let Some(rows) = expected.rows("logits_f32_bf16_weights") else {
            continue;
        };
        let mut engine = cpu_engine(weights(name), Some(exact));
        let found = logits(&mut engine, &expected.tokens(), &rows);
        let divergence: f64 = rows.iter().map(|(p, row)| kl(row, &found[p])).sum();
        let mean = divergence / rows.len() as f64;
        // Keys and values in bf16 alone: up to a quarter of the 6.5e-4 to 9.1e-4 that bf16 costs
        // these checkpoints when everything is rounded to it.
        assert!(mean < 2.5e-4, "{name}: {mean}");
    }
}

fn greedy(engine: &mut dyn Engine, prompt: &[TokenId], repetition_penalty: f32) -> Vec<TokenId> {
    engine.truncate(0, 0).unwrap();
    let go_on = &mut |_| ControlFlow::Continue(());
    engine.prefill(0, prompt, go_on).unwrap();
    let request = DecodeRequest {
        sequence: 0,
        max_tokens: 32,
        sampling: SamplingParams {
            repetition_penalty,
            ..SamplingParams::default()
        },
        stop_tokens: Vec::new(),
        guide: None,
    };
    let finished = engine.decode(&[request], &mut |_| ControlFlow::Continue(()));
    finished.unwrap().remove(0).tokens
}

/// The least lead of the best token is 0.003 in one fixture and 0.018 in the other; keys and values
/// in bf16 move logits by more than the former, so that only the reference engine is held to it.
#[test]
fn greedy_tokens_are_those_of_transformers() {
    for (name, cpu_too) in [
        ("qwen3-tied-bf16", true),
        ("llama3-scaled-untied-bf16", false),
    ] {
        let expected = Expected::of(name);
        let prompt = expected.ids("greedy_prompt").unwrap();
        let plain = expected.ids("greedy_tokens").unwrap();
        let penalised = expected.ids("greedy_repetition_penalty_tokens").unwrap();
        let reference = ReferenceEngine::new(Arc::new(weights(name)), CONTEXT, 1).unwrap();
        let mut engines = vec![Box::new(reference) as Box<dyn Engine>];
        if cpu_too {
            engines.push(Box::new(cpu_engine(weights(name), None)));
        }
        for mut engine in engines {
            assert_eq!(greedy(engine.as_mut(), &prompt, 1.0), plain, "{name}");
            assert_eq!(greedy(engine.as_mut(), &prompt, 1.3), penalised, "{name}");
        }
    }
}

/// Draws until every survivor came up, and checks that nothing else ever does.
#[test]
fn filters_keep_the_tokens_that_transformers_keeps() {
    let text = std::fs::read_to_string(fixtures().join("sampling/warpers.json")).unwrap();
    let fixture: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut checked = 0;
    for case in fixture["cases"].as_array().unwrap() {
        let vector = fixture["vectors"][case["vector"].as_str().unwrap()]
            .as_array()
            .unwrap();
        // Engines never produce minus infinity, and the sampler refuses it.
        let Some(logits) = vector
            .iter()
            .map(|x| x.as_f64())
            .collect::<Option<Vec<_>>>()
        else {
            continue;
        };
        let logits: Vec<f32> = logits.into_iter().map(|x| x as f32).collect();
        let parameters = &case["parameters"];
        let number = |name: &str, default: f64| parameters[name].as_f64().unwrap_or(default);
        let params = SamplingParams {
            temperature: number("temperature", 1.0) as f32,
            top_k: number("top_k", 0.0) as usize,
            top_p: number("top_p", 1.0) as f32,
            min_p: number("min_p", 0.0) as f32,
            repetition_penalty: number("repetition_penalty", 1.0) as f32,
            seed: 1,
        };
        if params.check().is_err() {
            continue;
        }
        let ids = |value: &serde_json::Value| -> Vec<TokenId> {
            let ids = value.as_array().unwrap().iter();
            ids.map(|id| id.as_u64().unwrap() as TokenId).collect()
        };
        let surviving = ids(&case["surviving"]);
        let probabilities = case["probabilities"].as_array().unwrap();
        let previous = ids(&parameters["previous"]);
        const DRAWS: u32 = 3000;
        let mut counts = vec![0_u32; logits.len()];
        for position in 0..DRAWS {
            let mut sampler = Sampler::new(&params, logits.len(), &previous, 1).unwrap();
            let token = sampler.sample(&mut logits.clone(), 0, position).unwrap();
            counts[token as usize] += 1;
        }
        for (token, &count) in counts.iter().enumerate() {
            let survivor = surviving.iter().position(|id| *id as usize == token);
            let Some(index) = survivor else {
                assert_eq!(count, 0, "{case}: token {token} should have been cut");
                continue;
            };
            let mean = probabilities[index].as_f64().unwrap() * f64::from(DRAWS);
            // Six standard deviations of a Poisson count, and six counts where it is small.
            let bound = 6.0 * mean.sqrt() + 6.0;
            assert!(
                (f64::from(count) - mean).abs() < bound,
                "{parameters}: token {token} came {count} times instead of {mean}"
            );
        }
        checked += 1;
    }
    assert!(checked > 50, "{checked}");
}
