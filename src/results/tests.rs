use serde_json::json;

use super::compare::{Comparison, compare};
use super::*;
use crate::measure::statistics::{SAME_WITHIN, Summary, Verdict};

fn environment(cpu: &str) -> Value {
    let mut environment = serde_json::to_value(Environment::current()).unwrap();
    environment["cpu"] = cpu.into();
    environment
}

/// Nine samples around a value, within a thousandth.
fn around(value: f64) -> Value {
    let samples = (0..9).map(|index| value * (1.0 + 1e-4 * f64::from(index - 4)));
    serde_json::to_value(Summary::new(samples.collect()).unwrap()).unwrap()
}

/// An engine's run in a result of bench.
fn run(engine: &str, model: &str, speed: Option<f64>) -> Value {
    json!({
        "engine": engine, "model": model, "kernels": "avx512", "threads": 2, "batch": 1,
        "prompt_tokens": 32, "new_tokens": 64,
        "decode_tokens_per_second": speed.map(around),
        "first_token_ms": speed.map(|speed| around(4000.0 / speed)),
        "load_seconds": 0.5, "first_run": null, "placement": "mapped", "promotion": null,
        "peak_rss_bytes": 1000, "bytes_per_token": 1e9,
        "read_bandwidth_bytes_per_second": 35e9,
        "fraction_of_floor": speed.map(|speed| speed / 35.0), "floor": null,
        "checked": {"passed": speed.is_some(), "repetitions_agree": speed.is_some(), "reference": null},
        "prompt": [[1]], "tokens": [[2]],
    })
}

fn bench(cpu: &str, runs: Vec<Value>) -> Value {
    json!({"environment": environment(cpu), "runs": runs, "comparisons": [], "notes": ["a note"]})
}

/// What is read of a file that holds this.
fn read(text: &str) -> Result<Document, ResultsError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("result.json");
    std::fs::write(&path, text).unwrap();
    Document::read(&path)
}

fn document(json: &Value) -> Document {
    read(&json.to_string()).unwrap()
}

fn compared(a: &Value, b: &Value) -> Comparison {
    compare(&document(a), &document(b), SAME_WITHIN).unwrap()
}

/// What a row says: of what, which quantity, the word.
fn words(found: &Comparison) -> Vec<(String, String, &'static str)> {
    let rows = found.rows.iter().map(|row| {
        let engine = &row.named.identity[0].1;
        (engine.clone(), row.named.quantity.clone(), row.word)
    });
    rows.collect()
}

#[test]
fn what_is_no_result_is_refused_by_name_with_what_was_expected() {
    for (text, found) in [
        ("", "empty"),
        ("{\"runs\": [", "cut off"),
        ("hello", "no JSON"),
        ("[1]", "a JSON array"),
        ("3", "a single JSON value"),
        ("{\"a\": 1, \"b\": 2}", "JSON with the fields a, b;"),
    ] {
        let message = read(text).unwrap_err().to_string();
        assert!(message.contains("result.json is"), "{message}");
        assert!(message.contains(found), "{message}");
        assert!(message.contains("onegrid bench --format json"), "{message}");
    }
    let message = read("{\"environment\": {}, \"runs\": []}")
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("looks like a result of `onegrid bench`"),
        "{message}"
    );
    assert!(message.contains("missing field"), "{message}");
    let folder = tempfile::tempdir().unwrap();
    let message = Document::read(folder.path()).unwrap_err().to_string();
    assert!(message.contains("is a folder"), "{message}");
}

#[test]
fn an_experiment_of_another_version_is_named_with_those_that_are_known() {
    let file = json!({
        "experiment": "time-travel", "status": "done", "environment": environment("cpu"),
        "device": "cpu", "plan": {}, "seconds": 1.0, "cells": [],
    });
    let message = page::page("title", &[document(&file)])
        .unwrap_err()
        .to_string();
    assert!(message.contains("'time-travel'"), "{message}");
}

#[test]
fn rows_are_paired_by_what_they_are_and_judged_by_their_unit() {
    let a = bench(
        "cpu",
        vec![run("cpu", "m", Some(20.0)), run("cuda", "m", Some(100.0))],
    );
    let b = bench(
        "cpu",
        vec![run("cuda", "m", Some(100.5)), run("cpu", "m", Some(15.0))],
    );
    let found = compared(&a, &b);
    let word = |engine: &str, quantity: &str, word| (engine.to_owned(), quantity.to_owned(), word);
    assert_eq!(
        words(&found),
        [
            word("cpu", "decode_tokens_per_second", "slower"),
            word("cpu", "first_token_ms", "slower"),
            word("cuda", "decode_tokens_per_second", "same"),
            word("cuda", "first_token_ms", "same"),
        ]
    );
    // More milliseconds are a disadvantage.
    let advantages: Vec<f64> = found.rows.iter().filter_map(|row| row.advantage).collect();
    for (advantage, expected) in advantages.iter().zip([0.75, 0.75, 1.005, 1.005]) {
        assert!((advantage - expected).abs() < 1e-9, "{advantages:?}");
    }
    assert_eq!(found.slower().count(), 2);
    assert!(found.notes.is_empty(), "{:?}", found.notes);
    let back = compared(&b, &a);
    assert_eq!(back.rows[2].verdict, Some(Verdict::Faster));
}

#[test]
fn a_result_is_the_same_as_itself() {
    let file = bench("cpu", vec![run("cpu", "m", Some(20.0))]);
    let found = compared(&file, &file);
    assert!(found.rows.iter().all(|row| row.word == "same"));
    assert!(found.only_a.is_empty() && found.only_b.is_empty());
}

#[test]
fn rows_of_one_side_are_listed() {
    let a = bench(
        "cpu",
        vec![
            run("cpu", "m", Some(20.0)),
            run("reference", "m", Some(1.0)),
        ],
    );
    let b = bench(
        "cpu",
        vec![run("cpu", "m", Some(20.0)), run("cpu", "n", Some(5.0))],
    );
    let found = compared(&a, &b);
    assert_eq!(found.rows.len(), 2);
    let names = |named: &[compare::Named]| -> Vec<String> {
        let names = named
            .iter()
            .map(|named| format!("{} {}", named.identity[0].1, named.quantity));
        names.collect()
    };
    assert_eq!(
        names(&found.only_a),
        [
            "reference decode_tokens_per_second",
            "reference first_token_ms"
        ]
    );
    assert_eq!(found.only_b[0].identity[1], ("model".into(), "n".into()));
    let table = found.table().to_csv();
    assert!(table.contains("reference, m"), "{table}");
    assert!(
        table.contains("only in A") && table.contains("only in B"),
        "{table}"
    );
}

#[test]
fn other_machines_and_models_are_compared_and_said_loudly() {
    let a = bench("old cpu", vec![run("cpu", "m", Some(20.0))]);
    let mut theirs = run("cpu", "n", Some(30.0));
    theirs["kernels"] = "neon".into();
    let b = bench("new cpu", vec![theirs]);
    let found = compared(&a, &b);
    assert_eq!(found.rows[0].word, "faster");
    let notes = found.notes.join("\n");
    for note in [
        "DIFFERENT MACHINES: old cpu",
        "DIFFERENT MODELS: m against n",
        "different kernels: avx512 against neon",
    ] {
        assert!(notes.contains(note), "{note} is missing in {notes}");
    }
}

#[test]
fn what_failed_its_checks_is_no_row_and_the_side_says_so() {
    let a = bench("cpu", vec![run("cpu", "m", Some(20.0))]);
    let b = bench("cpu", vec![run("cpu", "m", None)]);
    let found = compared(&a, &b);
    assert!(found.b.has_failed && !found.a.has_failed);
    assert!(found.rows.is_empty());
    assert_eq!(found.only_a.len(), 2);
}

/// A part of gpu-check with one position.
fn gpu_check(step: f64) -> Value {
    let run = |name: &str, step: f64| {
        json!({"name": name, "variant": "redundant_norm", "stage": name, "barrier": "cooperative",
            "prefetch": 0, "grid": [132, 256], "checked": null, "step_microseconds": around(step),
            "token_microseconds": around(step), "not_measured": null})
    };
    json!({
        "part": "decode", "status": "done", "reason": null,
        "not_measured": [{"what": "position 8192", "result": "no time"}],
        "device": "cuda", "seconds": 1.0, "environment": environment("cpu"),
        "gpu": {"name": "H200", "clocks_before": {"clocks.sm": "1980 MHz"}}, "summary": [],
        "findings": {"model": "random:qwen3-0.6b", "floor_from": "ceilings.json", "positions": [
            {"position": 1, "steps": 64, "bytes_per_step": 1.2e9, "floor_microseconds": 271.0,
             "floor_of_specification_microseconds": 248.0,
             "runs": [run("v1", step), run("v0", 2.0 * step)], "ratios": []},
        ]},
    })
}

#[test]
fn experiments_and_parts_of_gpu_check_are_compared_row_by_row() {
    let found = compared(&gpu_check(400.0), &gpu_check(300.0));
    let steps: Vec<_> = found
        .rows
        .iter()
        .map(|row| (row.named.identity.clone(), row.word))
        .collect();
    assert_eq!(steps.len(), 4);
    assert!(steps.iter().all(|(_, word)| *word == "faster"));
    assert!(steps[0].0.contains(&("position".into(), "1".into())));
    let cell = |id: &str, step: f64| {
        json!({"id": id, "outcome": "measured", "seconds": 1.0, "unix_time": 0,
            "result": {"engine": "cpu", "methods": [{"method": "regex", "token_ms": around(step)}]}})
    };
    let file = |device: &str, step: f64| {
        json!({"experiment": "constraints", "status": "done", "environment": environment("cpu"),
            "device": device, "plan": {"device": device}, "seconds": 1.0,
            "cells": [cell("a", step), cell("b", step)]})
    };
    let found = compared(&file("cpu", 2.0), &file("cuda", 2.1));
    let identities: Vec<_> = found
        .rows
        .iter()
        .map(|row| row.named.identity.clone())
        .collect();
    let of = |id: &str| -> rows::Fields {
        vec![
            ("cell".into(), id.into()),
            ("method".into(), "regex".into()),
        ]
    };
    assert_eq!(identities, [of("a"), of("b")]);
    assert!(
        found
            .notes
            .iter()
            .any(|note| note.contains("DIFFERENT DEVICES: cpu against cuda"))
    );
    assert!(
        found
            .notes
            .iter()
            .any(|note| note.contains("DIFFERENT PLANS"))
    );
    let csv = found.table().to_csv();
    // The method is the same in all rows, and so says nothing.
    assert!(csv.contains("\na,token (ms),2.000,2.100,0.952"), "{csv}");
}

#[test]
fn kinds_that_differ_are_refused_by_both_names() {
    let bench = document(&bench("cpu", vec![run("cpu", "m", Some(20.0))]));
    let gpu = document(&gpu_check(400.0));
    let message = compare(&bench, &gpu, SAME_WITHIN).unwrap_err().to_string();
    assert!(message.contains("a result of bench"), "{message}");
    assert!(
        message.contains("the part decode of gpu-check"),
        "{message}"
    );
}

#[test]
fn a_page_says_what_ran_where_what_was_found_and_what_was_not_measured() {
    let failed = run("cuda", "m", None);
    let documents = [
        document(&bench("a <cpu>", vec![run("cpu", "m", Some(20.0)), failed])),
        document(&gpu_check(400.0)),
    ];
    let page = page::page("title", &documents).unwrap();
    let overview = page.overview.as_ref().unwrap().table.to_csv();
    for words in ["bench", "gpu-check: decode", "a <cpu>", "H200", "FAILED"] {
        assert!(overview.contains(words), "{words} is missing in {overview}");
    }
    assert_eq!(
        page.parts[0].warnings,
        ["A check failed: what failed it has no speed."]
    );
    assert_eq!(
        page.parts[1].not_measured,
        [("position 8192".into(), "no time".into())]
    );
    let facts: Vec<&str> = page.parts[1]
        .facts
        .iter()
        .map(|fact| fact.1.as_str())
        .collect();
    assert!(
        facts.contains(&"H200") && facts.contains(&"clocks.sm: 1980 MHz"),
        "{facts:?}"
    );
    let html = page.to_html();
    for words in [
        "Decode speed",
        "a note",
        "not measured",
        "floor at the measured bandwidth",
    ] {
        assert!(html.contains(words), "{words}");
    }
    assert!(!html.contains("<cpu>"));
}

#[test]
fn the_second_result_of_a_machine_does_not_repeat_it() {
    let file = document(&bench("cpu", vec![run("cpu", "m", Some(20.0))]));
    let other = document(&bench("another", vec![run("cpu", "m", Some(20.0))]));
    let page = page::page("title", &[file.clone(), file, other]).unwrap();
    let has = |part: usize, name: &str| page.parts[part].facts.iter().any(|fact| fact.0 == name);
    assert!(has(0, "processor") && !has(1, "processor") && has(2, "processor"));
    assert!(has(1, "machine and program") && has(1, "date (UTC)"));
}
