use std::num::NonZeroUsize;

use super::*;
use crate::engine::altered::Altered;
use crate::engine::cpu::{CpuEngine, CpuOptions};
use crate::engine::reference::ReferenceEngine;
use crate::model::config::Rope;
use crate::model::{Architecture, random};

fn weights() -> Weights {
    let config = ModelConfig {
        architecture: Architecture::Qwen3,
        hidden_size: 64,
        intermediate_size: 96,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 32,
        vocab_size: 200,
        max_positions: 128,
        rms_norm_eps: 1e-6,
        rope: Rope {
            theta: 1e4,
            scaling: None,
        },
        tied_embeddings: false,
    };
    random::weights(&config, 7, &mut |_, _| ()).unwrap()
}

fn plan() -> DecodePlan {
    DecodePlan {
        prompt_tokens: 6,
        new_tokens: 5,
        repetitions: 3,
        batch: 1,
        bandwidth_seconds: 1e-3,
        check_seconds: 60.0,
    }
}

fn cpu(plan: &DecodePlan) -> Subject {
    let options = CpuOptions {
        threads: NonZeroUsize::new(2),
        ..CpuOptions::new(plan.context(), plan.batch)
    };
    subject(CpuEngine::new(weights(), &options).unwrap())
}

fn reference(plan: &DecodePlan) -> ReferenceEngine {
    ReferenceEngine::new(Arc::new(weights()), plan.context(), plan.batch).unwrap()
}

fn subject(engine: impl Engine + 'static) -> Subject {
    Subject {
        engine: Box::new(engine),
        load_seconds: 0.25,
    }
}

fn run(mut subjects: Vec<Subject>, plan: &DecodePlan) -> Measured {
    let weights = Arc::new(weights());
    bench("tiny", &weights, &mut subjects, plan, &mut |_| ()).unwrap()
}

#[test]
fn engines_side_by_side_are_measured_checked_and_compared() {
    let plan = plan();
    let measured = run(vec![cpu(&plan), subject(reference(&plan))], &plan);
    let [cpu, reference] = &measured.runs[..] else {
        panic!("two runs");
    };
    assert_eq!((cpu.engine.as_str(), cpu.threads), ("cpu", 2));
    assert_eq!(reference.engine, "reference");
    for run in [cpu, reference] {
        assert!(run.checked.passed, "{:?}", run.checked);
        let decode = run.decode_tokens_per_second.as_ref().unwrap();
        assert_eq!(decode.samples.len(), plan.repetitions);
        assert!(decode.samples.iter().all(|&speed| speed > 0.0));
        let first = run.first_token_ms.as_ref().unwrap();
        assert_eq!(first.samples.len(), plan.repetitions);
        assert_eq!(run.tokens[0].len(), plan.new_tokens);
        let floor = run.floor.as_ref().unwrap();
        assert_eq!(floor.neighbours.len(), plan.repetitions);
        // The fraction is that of each repetition with its own neighbours.
        let fraction = floor.fraction.as_ref().unwrap();
        let expected =
            decode.samples[1] * run.bytes_per_token * 2.0 / floor.neighbours[1].iter().sum::<f64>();
        assert!((fraction.samples[1] - expected).abs() < 1e-9 * expected);
        assert_eq!(run.fraction_of_floor, Some(fraction.median));
    }
    let check = cpu.checked.reference.as_ref().unwrap();
    assert_eq!(check.weights, "bfloat16");
    assert_eq!(
        (check.prompt_tokens, check.new_tokens, check.positions),
        (6, 5, 10)
    );
    assert_eq!(reference.checked.reference, None);
    assert_eq!(measured.comparisons.len(), 1);
    assert_eq!(measured.comparisons[0].against, "reference");
}

#[test]
fn a_batch_decodes_every_sequence() {
    let plan = DecodePlan { batch: 3, ..plan() };
    let measured = run(vec![cpu(&plan)], &plan);
    let run = &measured.runs[0];
    assert!(run.checked.passed, "{:?}", run.checked);
    assert_eq!((run.prompt.len(), run.tokens.len()), (3, 3));
    assert_ne!(run.prompt[0], run.prompt[1]);
    assert!(
        run.tokens
            .iter()
            .all(|tokens| tokens.len() == plan.new_tokens)
    );
}

#[test]
fn a_measurement_between_two_repetitions_counts_once() {
    let plan = plan();
    let measured = run(vec![cpu(&plan)], &plan);
    let floor = measured.runs[0].floor.as_ref().unwrap();
    let samples = &floor.read_bandwidth_bytes_per_second.samples;
    assert_eq!(samples.len(), plan.repetitions + 1);
    for (index, neighbours) in floor.neighbours.iter().enumerate() {
        assert_eq!(neighbours, &samples[index..index + 2]);
    }
}

#[test]
fn bytes_per_token_are_the_mean_over_the_steps() {
    let config = weights().config;
    let plan = plan();
    // Five tokens: the first comes of the prompt, the others of steps at positions 6 to 9.
    let steps: usize = (6..10)
        .map(|position| config.bytes_per_token(position))
        .sum();
    assert_eq!(plan.bytes_per_token(&config), steps as f64 / 4.0);
    let batch = DecodePlan {
        batch: 2,
        ..plan.clone()
    };
    let weights = config.weight_bytes_per_token() as f64;
    assert_eq!(
        plan.bytes_per_token(&config) - batch.bytes_per_token(&config),
        weights / 2.0
    );
}

#[test]
fn a_check_without_time_still_takes_two_positions() {
    let plan = DecodePlan {
        check_seconds: 1e-9,
        ..plan()
    };
    let measured = run(vec![cpu(&plan)], &plan);
    let check = measured.runs[0].checked.reference.as_ref().unwrap();
    assert!(check.passed);
    assert_eq!(
        (check.prompt_tokens, check.new_tokens, check.positions),
        (1, 2, 2)
    );
}

#[test]
fn prompts_are_the_same_every_time_and_inside_the_vocabulary() {
    let plan = DecodePlan {
        prompt_tokens: 500,
        ..plan()
    };
    let prompt = plan.prompt(1, 40);
    assert_eq!(prompt, plan.prompt(1, 40));
    assert!(prompt.iter().all(|&token| token < 40));
    assert!(
        (0..40).all(|token| prompt.contains(&token)),
        "a long prompt has every token"
    );
}

/// How an engine may be wrong.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// Every call of `decode` gives other tokens.
    Restless,
    /// Its logits are a little off everywhere.
    Logits,
    /// Its tokens are not those of its logits.
    Tokens,
}

fn faulty(fault: Fault) -> Run {
    let plan = plan();
    let mut engine = Altered::new(reference(&plan));
    let mut calls = 0;
    engine.finished = Box::new(move |finished| {
        calls += 1;
        let last = finished.tokens.last_mut().unwrap();
        match fault {
            Fault::Restless => *last = calls,
            Fault::Tokens => *last = (*last + 1) % 200,
            Fault::Logits => {}
        }
    });
    if fault == Fault::Logits {
        engine.logits = Box::new(|_, logits| {
            for pair in logits.chunks_mut(2) {
                pair[0] += 0.5;
                if let Some(second) = pair.get_mut(1) {
                    *second -= 0.5;
                }
            }
        });
    }
    run(vec![subject(engine)], &plan).runs.remove(0)
}

#[test]
fn what_fails_its_check_has_no_speed() {
    for fault in [Fault::Restless, Fault::Logits, Fault::Tokens] {
        let run = faulty(fault);
        assert!(!run.checked.passed);
        assert_eq!(run.decode_tokens_per_second, None);
        assert_eq!(run.first_token_ms, None);
        assert_eq!(run.fraction_of_floor, None);
        assert_eq!(run.checked.repetitions_agree, fault != Fault::Restless);
    }
    let check = |fault| faulty(fault).checked.reference.unwrap();
    assert!(check(Fault::Logits).kl_max > check::KL_LIMIT);
    assert!(!check(Fault::Tokens).tokens_agree);
    assert!(check(Fault::Tokens).kl_max < 1e-9);
}

#[test]
fn a_report_has_the_fields_of_the_contract() {
    let plan = plan();
    let measured = run(vec![cpu(&plan)], &plan);
    let report = report::Report {
        environment: crate::measure::environment::Environment::current(),
        runs: measured.runs,
        comparisons: measured.comparisons,
        notes: Vec::new(),
    };
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(
        serde_json::from_value::<report::Report>(json.clone()).unwrap(),
        report
    );
    for field in ["cpu", "cores", "memory_bytes", "git_revision", "versions"] {
        assert!(json["environment"].get(field).is_some(), "{field}");
    }
    let run = &json["runs"][0];
    for field in ["engine", "model"] {
        assert!(run[field].is_string(), "{field}");
    }
    let numbers = [
        "threads",
        "prompt_tokens",
        "new_tokens",
        "load_seconds",
        "bytes_per_token",
        "read_bandwidth_bytes_per_second",
        "fraction_of_floor",
    ];
    for field in numbers {
        assert!(run[field].is_number(), "{field}");
    }
    assert!(run.get("peak_rss_bytes").is_some());
    for field in ["decode_tokens_per_second", "first_token_ms"] {
        for part in ["median", "low", "high"] {
            assert!(run[field][part].is_number(), "{field}.{part}");
        }
        assert_eq!(
            run[field]["samples"].as_array().unwrap().len(),
            plan.repetitions
        );
    }
    assert_eq!(report.table().to_json().as_array().unwrap().len(), 1);
}

#[test]
fn failures_are_named_beside_the_table() {
    let report = report::Report {
        environment: crate::measure::environment::Environment::current(),
        runs: vec![
            faulty(Fault::Restless),
            faulty(Fault::Tokens),
            faulty(Fault::Logits),
        ],
        comparisons: Vec::new(),
        notes: vec!["a note".into()],
    };
    assert!(!report.passed());
    let remarks = report.remarks();
    let holds = |index: usize, words: &str| {
        assert!(remarks[index].contains(words), "{}", remarks[index]);
    };
    holds(0, "repetitions differ");
    holds(1, "tokens differ");
    holds(2, "KL");
    assert_eq!(remarks[3], "a note");
}
