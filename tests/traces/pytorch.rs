//! Traces of PyTorch's profiler: those that `tests/fixtures/make_traces.py` made, and one of a device.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use onegrid::trace::comparison::Comparison;
use onegrid::trace::profile::{Given, Group, Profile};
use onegrid::trace::{file, pytorch};
use serde::Deserialize;
use serde_json::{Value, json};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/traces")
        .join(name)
}

/// What the profiler itself counted.
#[derive(Deserialize)]
struct Expected {
    layers: u64,
    steps: u64,
    counts: BTreeMap<String, u64>,
}

fn expected() -> BTreeMap<String, Expected> {
    let text = std::fs::read_to_string(fixture("counts.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn profile(name: &str, given: Given) -> Profile {
    let mut content = file::open(&fixture(&format!("{name}.json.gz"))).unwrap();
    Profile::of_pytorch(pytorch::read(&mut content).unwrap(), given).unwrap()
}

fn of_json(events: &[Value], given: Given) -> Profile {
    let trace = json!({"schemaVersion": 1, "traceEvents": events}).to_string();
    let trace = pytorch::read(&mut trace.as_bytes()).unwrap();
    Profile::of_pytorch(trace, given).unwrap()
}

/// How often an operation ran, whatever group it was counted in.
fn count(profile: &Profile, name: &str) -> u64 {
    let operations = profile
        .operations
        .iter()
        .filter(|operation| operation.name == name);
    operations.map(|operation| operation.total.count).sum()
}

#[test]
fn operators_are_counted_as_the_profiler_counts_them() {
    for (name, expected) in expected() {
        let profile = profile(&name, Given::default());
        assert!(expected.counts.len() > 30);
        for (operator, expected) in &expected.counts {
            assert_eq!(count(&profile, operator), *expected, "{name}: {operator}");
        }
    }
}

#[test]
fn counts_by_step_and_layer_are_what_the_models_structure_says() {
    for (name, expected) in expected() {
        let profile = profile(&name, Given::default());
        let Expected { layers, steps, .. } = expected;
        assert_eq!(
            (profile.steps, profile.layers, profile.tokens),
            (Some(steps), Some(layers), Some(steps))
        );
        assert_eq!(profile.count(Group::Attention), steps * layers, "{name}");
        // Q, K, V, O, gate, up, down; and the head.
        assert_eq!(
            profile.count(Group::MatrixProducts),
            steps * (7 * layers + 1),
            "{name}"
        );
        // Two halves of Q and of K in RoPE, two of its angles once, keys and values behind those cached;
        // transformers' own loop also appends the token to the text, and to its mask.
        let concatenations = count(&profile, "aten::cat");
        assert_eq!(profile.count(Group::Concatenation), concatenations);
        assert_eq!(
            concatenations / steps / layers,
            if name.starts_with("qwen3") { 4 } else { 5 }
        );
        assert_eq!(profile.count(Group::Embedding), steps, "{name}");
        assert!(profile.doubts().is_empty(), "{:?}", profile.doubts());
        // No time is counted twice.
        let own: u64 = profile
            .operations
            .iter()
            .map(|of| of.total.nanoseconds)
            .sum();
        let operators = profile
            .groups
            .iter()
            .find(|(group, _)| *group == Group::Operators);
        assert_eq!(own, operators.unwrap().1.nanoseconds, "{name}");
        assert!(own < profile.nanoseconds);
    }
}

#[test]
fn layers_that_are_not_the_models_are_pointed_out() {
    let given = Given {
        layers: Some(2),
        ..Given::default()
    };
    let doubts = profile("qwen3-3-layers", given).doubts();
    assert_eq!(
        doubts,
        ["attention: 12 is no whole multiple of 4 steps x 2 layers (1.50 each)"]
    );
    let given = Given {
        steps: Some(3),
        ..Given::default()
    };
    let profile = profile("qwen3-3-layers", given);
    let notes = profile.notes.join("; ");
    assert!(
        notes.contains("3 steps were given; the profiler marked 4"),
        "{notes}"
    );
    assert!(
        profile
            .doubts()
            .iter()
            .any(|doubt| doubt.contains("of 3 steps"))
    );
}

fn event(
    category: &str,
    name: &str,
    thread: u64,
    [begin, length]: [f64; 2],
    correlation: u64,
) -> Value {
    json!({"ph": "X", "cat": category, "name": name, "pid": 1, "tid": thread, "ts": begin, "dur": length,
           "args": {"correlation": correlation, "External id": 3}})
}

/// Two steps of a model of two layers on a device, which lags behind the host by more than a step.
fn on_a_device() -> Vec<Value> {
    let mut events = Vec::new();
    let mut correlation = 0;
    for step in 0..3_u64 {
        // The last is not marked: nothing of it counts.
        let start = 1000.0 * step as f64;
        if step < 2 {
            let name = format!("ProfilerStep#{step}");
            events.push(event("user_annotation", &name, 1, [start, 900.0], 0));
            events.push(event(
                "gpu_user_annotation",
                &name,
                7,
                [start + 950.0, 900.0],
                0,
            ));
        }
        let mut at = start + 10.0;
        let mut launch = |kernel: &str, length: f64| {
            correlation += 1;
            events.push(event("cpu_op", "aten::op", 1, [at, 20.0], 0));
            events.push(event(
                "cuda_runtime",
                "cudaLaunchKernel",
                1,
                [at + 5.0, 10.0],
                correlation,
            ));
            events.push(event(
                "kernel",
                kernel,
                7,
                [at + 950.0, length],
                correlation,
            ));
            at += 30.0;
        };
        for _layer in 0..2 {
            launch("nvjet_gemm", 15.0);
            launch("fmha_cutlassF_bf16", 12.0);
            launch("at::native::silu_kernel", 2.0);
            launch("CatArrayBatchedCopy<int>", 3.0);
        }
        correlation += 1;
        let copies = [
            ("cuda_runtime", "cudaMemcpyAsync", 1, [at, 8.0]),
            (
                "gpu_memcpy",
                "Memcpy DtoH (Device -> Pageable)",
                7,
                [at + 1200.0, 4.0],
            ),
            (
                "cuda_runtime",
                "cudaStreamSynchronize",
                1,
                [at + 10.0, 300.0],
            ),
        ];
        events.extend(copies.map(|(category, name, thread, times)| {
            event(category, name, thread, times, correlation)
        }));
        correlation += 1;
        events.push(event(
            "cuda_runtime",
            "cudaMemcpyAsync",
            1,
            [at + 320.0, 8.0],
            correlation,
        ));
        events.push(event(
            "gpu_memcpy",
            "Memcpy HtoD (Pinned -> Device)",
            7,
            [at + 1300.0, 2.0],
            correlation,
        ));
    }
    events
}

#[test]
fn what_a_device_did_is_of_the_step_that_launched_it() {
    let profile = of_json(&on_a_device(), Given::default());
    assert_eq!((profile.steps, profile.layers), (Some(2), Some(2)));
    assert_eq!(profile.nanoseconds, 2 * 900_000);
    let total = |group| {
        let found = profile.groups.iter().find(|(of, _)| *of == group);
        let total = found.unwrap().1;
        (total.count, total.nanoseconds)
    };
    assert_eq!(total(Group::Launches), (16, 160_000));
    assert_eq!(total(Group::Kernels), (16, 4 * 32_000));
    assert_eq!(total(Group::Attention), (4, 48_000));
    assert_eq!(total(Group::MatrixProducts), (4, 60_000));
    assert_eq!(total(Group::Concatenation), (4, 12_000));
    assert_eq!(total(Group::Copies), (4, 12_000));
    assert_eq!(total(Group::Waiting), (2, 600_000));
    assert_eq!(count(&profile, "Memcpy DtoH"), 2);
    assert_eq!(count(&profile, "Memcpy HtoD"), 2);
    assert_eq!(count(&profile, "cudaStreamSynchronize"), 2);
    assert!(profile.doubts().is_empty(), "{:?}", profile.doubts());
}

#[test]
fn steps_that_nobody_marked_are_given_or_inferred_and_never_guessed() {
    let events: Vec<Value> = on_a_device()
        .into_iter()
        .filter(|event| !event["name"].as_str().unwrap().starts_with("ProfilerStep"))
        .collect();
    let of = |given: Given| of_json(&events, given);
    let none = of(Given::default());
    assert_eq!((none.steps, none.layers, none.tokens), (None, None, None));
    assert!(none.notes[0].contains("--steps"), "{:?}", none.notes);
    let by_layers = of(Given {
        layers: Some(2),
        ..Given::default()
    });
    assert_eq!((by_layers.steps, by_layers.tokens), (Some(3), Some(3)));
    // Six times attention are no whole number of steps of four layers.
    let wrong = of(Given {
        layers: Some(4),
        ..Given::default()
    });
    assert_eq!(wrong.steps, None);
    assert_eq!(
        wrong.doubts(),
        ["attention: 6 is no whole multiple of 4 layers (1.50 steps)"]
    );
    let by_steps = of(Given {
        steps: Some(3),
        tokens: Some(96),
        ..Given::default()
    });
    assert_eq!((by_steps.layers, by_steps.tokens), (Some(2), Some(96)));
}

#[test]
fn ratios_are_by_token() {
    let a = profile("qwen3-3-layers", Given::default());
    let b = profile(
        "llama-2-layers",
        Given {
            tokens: Some(10),
            ..Given::default()
        },
    );
    let comparison = Comparison { a, b };
    let rows = comparison.table().to_json();
    let row = |operation: &str| {
        let rows = rows.as_array().unwrap();
        rows.iter()
            .find(|row| row["operation"] == operation)
            .unwrap()
            .clone()
    };
    let attention = row("aten::scaled_dot_product_attention");
    assert_eq!(
        (&attention["A count"], &attention["B count"]),
        (&12.into(), &10.into())
    );
    assert_eq!(attention["A count per step"], "1 x 3");
    assert_eq!(attention["A count per token"], 3.0);
    assert_eq!(attention["B count per token"], 1.0);
    let ratio = attention["B / A count per token"].as_f64().unwrap();
    assert!((ratio - 1.0 / 3.0).abs() < 1e-12);
    // Only one of them asks for a mask.
    let only = row("aten::bitwise_or");
    assert!(
        only["A count"].is_null() && only["B / A per token"].is_null(),
        "{only}"
    );
    assert_eq!(only["B count"], 10);
    let linear = row("aten::linear");
    assert_eq!(linear["A count per step"], "7 x 3 + 1");
}

/// Events as they come, never all of them in memory.
struct Endless {
    left: u64,
    pending: Vec<u8>,
    read: usize,
}

impl Read for Endless {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        if self.read == self.pending.len() && self.left > 0 {
            self.left -= 1;
            let comma = if self.left > 0 { "," } else { "]}" };
            let event = event("cpu_op", "aten::mm", 1, [self.left as f64, 0.5], self.left);
            self.pending = format!("{event}{comma}").into_bytes();
            self.read = 0;
        }
        let read = (&self.pending[self.read..]).read(to)?;
        self.read += read;
        Ok(read)
    }
}

#[test]
fn a_large_file_streams_by() {
    const EVENTS: u64 = 200_000;
    let mut file = std::io::BufReader::new(Endless {
        left: EVENTS,
        pending: br#"{"traceEvents": ["#.to_vec(),
        read: 0,
    });
    let trace = pytorch::read(&mut file).unwrap();
    assert_eq!((trace.events.len() as u64, trace.names.len()), (EVENTS, 1));
    let profile = Profile::of_pytorch(trace, Given::default()).unwrap();
    assert_eq!(profile.count(Group::MatrixProducts), EVENTS);
}

#[test]
fn a_trace_of_nothing_is_an_error() {
    let trace = pytorch::read(&mut &br#"{"traceEvents": []}"#[..]).unwrap();
    let error = Profile::of_pytorch(trace, Given::default()).unwrap_err();
    assert!(error.to_string().contains("no operators"), "{error}");
}
