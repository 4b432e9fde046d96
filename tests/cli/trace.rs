//! `--trace` of generate and bench, and `onegrid compare` of traces.

use super::*;

/// Records a text of the small random model; the file.
fn recorded(folder: &Path, name: &str, args: &[&str]) -> String {
    let path = folder.join(name).to_str().unwrap().to_owned();
    let mut command = onegrid(&["generate", "--model", "random:tiny", "--trace", &path]);
    command.args(["--prompt-tokens", "1,2,3", "--max-tokens", "6"]);
    command.args(["--ignore-eos", "--format", "json"]);
    command.args(args);
    let completion = json_of(command);
    assert_eq!(completion["tokens"].as_array().unwrap().len(), 6);
    path
}

fn pytorch(name: &str) -> String {
    let path = fixture("traces").join(name);
    path.to_str().unwrap().to_owned()
}

/// The row of an operation, or of a group where that is empty.
fn row<'a>(compared: &'a Value, group: &str, operation: &str) -> &'a Value {
    let rows = compared["operations"].as_array().unwrap();
    let found = rows
        .iter()
        .find(|row| row["group"] == group && row["operation"] == operation);
    found.unwrap_or_else(|| panic!("{group} {operation}: {compared:#}"))
}

#[test]
fn traces_of_two_engines_are_compared_by_step_layer_and_token() {
    let folder = tempfile::tempdir().unwrap();
    let cpu = recorded(
        folder.path(),
        "cpu.pftrace",
        &["--device", "cpu", "--threads", "2"],
    );
    let emulated = recorded(
        folder.path(),
        "emulated.pftrace.gz",
        &["--device", "emulated"],
    );
    let compared = json_of(onegrid(&["compare", &cpu, &emulated, "--format", "json"]));
    for side in ["a", "b"] {
        // The first token comes of the prompt.
        assert_eq!(compared[side]["steps"], 5);
        assert_eq!(compared[side]["layers"], 2);
        assert_eq!(compared[side]["tokens"], 5);
        assert_eq!(compared[side]["doubts"], json!([]));
    }
    assert_says(
        compared["a"]["about"].as_str().unwrap(),
        &["cpu", "random:tiny", "2 threads"],
    );
    for phase in ["qkv", "output", "gate_up", "down"] {
        let row = row(&compared, "matrix products", phase);
        assert_eq!(
            (&row["A count"], &row["B count"]),
            (&10.into(), &10.into()),
            "{phase}"
        );
        assert_eq!(row["A count per step"], "1 x 2");
        let number = |name: &str| row[name].as_f64().unwrap();
        let (a, b) = (number("A per token (us)"), number("B per token (us)"));
        assert!(a > 0.0 && b > 0.0);
        assert!((number("B / A per token") - b / a).abs() < 1e-9 * b / a);
        assert!((number("A per layer (us)") - number("A per step (us)") / 2.0).abs() < 1e-9);
    }
    assert_eq!(row(&compared, "waiting", "")["A count per step"], "6 x 2");
    let prefill = json_of(onegrid(&[
        "compare", &cpu, &cpu, "--passes", "prefill", "--format", "json",
    ]));
    assert_eq!(
        (&prefill["a"]["steps"], &prefill["a"]["tokens"]),
        (&1.into(), &3.into())
    );
    let nothing = onegrid(&["compare", &cpu, &emulated, "--passes", "prefill"]);
    // The kernel that ran the prompt records nothing but the choice of its token.
    let nothing = stdout(nothing);
    assert_says(&nothing, &["sampling"]);
}

#[test]
fn a_framework_is_compared_with_an_engine_by_what_operations_are_for() {
    let folder = tempfile::tempdir().unwrap();
    let cpu = recorded(
        folder.path(),
        "cpu.pftrace",
        &["--device", "cpu", "--threads", "1"],
    );
    let torch = pytorch("qwen3-3-layers.json.gz");
    let compared = json_of(onegrid(&["compare", &torch, &cpu, "--format", "json"]));
    let attention = row(&compared, "attention", "");
    assert_eq!(
        (
            &attention["A count per step"],
            &attention["B count per step"]
        ),
        (&"1 x 3".into(), &"1 x 2".into())
    );
    let products = row(&compared, "matrix products", "");
    assert_eq!(products["A count per step"], "7 x 3 + 1");
    assert_eq!(products["B count per step"], "4 x 2 + 1");
    assert!(row(&compared, "operators", "")["B count"].is_null());
    assert!(row(&compared, "waiting", "")["B count"].is_number());
}

#[test]
fn two_traces_of_a_framework_are_a_table_and_doubts_are_told() {
    let [qwen3, llama] = ["qwen3-3-layers.json.gz", "llama-2-layers.json.gz"].map(pytorch);
    let mut command = onegrid(&["compare", &qwen3, &llama]);
    let output = command.assert().success().get_output().clone();
    let table = String::from_utf8(output.stdout).unwrap();
    assert_says(
        &table,
        &[
            "4 steps of 3 layers",
            "5 steps of 2 layers",
            "7 x 3 + 1",
            "attention",
        ],
    );
    let notes = String::from_utf8(output.stderr).unwrap();
    assert_says(&notes, &["A: note: 3 layers, from 12 times attention"]);
    assert!(!notes.contains("warning"), "{notes}");

    let mut command = onegrid(&[
        "compare", &qwen3, &llama, "--layers", "2,2", "--tokens", "4,40",
    ]);
    command.args(["--format", "csv"]);
    let output = command.assert().success().get_output().clone();
    let notes = String::from_utf8(output.stderr).unwrap();
    assert_says(
        &notes,
        &["A: warning: attention: 12 is no whole multiple of 4 steps x 2 layers"],
    );
    assert!(!notes.contains("B: warning"), "{notes}");
    let csv = String::from_utf8(output.stdout).unwrap();
    let first = csv.lines().next().unwrap();
    assert!(
        first.starts_with("group,operation,A count per step,A count,A total (ms)"),
        "{first}"
    );
    assert!(csv.lines().count() > 40);
    assert_eq!(
        stdout(onegrid(&[
            "compare", &qwen3, &qwen3, "--format", "markdown"
        ]))
        .lines()
        .next()
        .unwrap()
        .matches('|')
        .count(),
        24
    );
}

#[test]
fn what_is_no_trace_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let good = pytorch("qwen3-3-layers.json.gz");
    let path = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let text = path("notes.md", b"# Notes\n");
    for args in [[&text, &good], [&good, &text]] {
        let message = error(onegrid(&["compare", args[0], args[1]]), 2);
        assert_says(&message, &["notes.md", "neither", "traceEvents"]);
    }
    let missing = error(onegrid(&["compare", "no-such-file", &good]), 1);
    assert_says(&missing, &["no-such-file"]);
    let whole = std::fs::read(&good).unwrap();
    let cut = path("cut.json.gz", &whole[..whole.len() / 2]);
    assert_says(
        &error(onegrid(&["compare", &good, &cut]), 1),
        &["cut.json.gz"],
    );
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 0x55;
    let damaged = path("damaged.json.gz", &damaged);
    assert_says(
        &error(onegrid(&["compare", &damaged, &good]), 1),
        &["damaged.json.gz"],
    );
    let ours = recorded(
        folder.path(),
        "ours.pftrace",
        &["--threads", "1", "--device", "cpu"],
    );
    let ours = std::fs::read(ours).unwrap();
    let cut = path("cut.pftrace", &ours[..ours.len() - 3]);
    let message = error(onegrid(&["compare", &cut, &good]), 1);
    assert_says(
        &message,
        &["cut.pftrace", "damaged at byte", "ends within a packet"],
    );
}

#[test]
fn wrong_use_of_traces_is_told() {
    let good = pytorch("qwen3-3-layers.json.gz");
    let wrong = |args: &[&str], words: &[&str]| {
        let command = onegrid(&[&["compare", good.as_str(), &good], args].concat());
        assert_says(&error(command, 2), words);
    };
    wrong(&["--layers", "0"], &["--layers", "found 0"]);
    wrong(&["--steps", "1,2,3"], &["--steps", "found 3"]);
    wrong(&["--passes", "some"], &["--passes", "decode", "prefill"]);
    wrong(
        &["--fail-if-slower", "2%"],
        &["--fail-if-slower is for results"],
    );
    let bench = onegrid(&["bench", "--trace", "x.pftrace", "--device", "cpu"]);
    assert_says(&error(bench, 2), &["--trace", "one --model", "found 0"]);
    let mut bench = onegrid(&["bench", "--trace", "x.pftrace", "--model", "random:tiny"]);
    bench.args(["--engines", "cpu,reference"]);
    assert_says(
        &error(bench, 2),
        &["--trace", "one engine", "found 1 and 2"],
    );
    let mut generate = onegrid(&[
        "generate",
        "--model",
        "random:tiny",
        "--device",
        "reference",
    ]);
    generate.args(["--prompt-tokens", "1", "--trace", "x.pftrace"]);
    assert_says(
        &error(generate, 1),
        &["--trace", "reference engine records no trace"],
    );
    let mut nowhere = onegrid(&["generate", "--model", "random:tiny", "--device", "cpu"]);
    nowhere.args(["--prompt-tokens", "1", "--max-tokens", "1"]);
    nowhere.args(["--trace", "no/such/folder/x.pftrace"]);
    let output = nowhere.assert().code(1).get_output().clone();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_says(&message, &["--trace", "no/such/folder"]);
}

#[test]
fn a_benchmark_records_one_more_run_and_measures_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bench.pftrace");
    let path = path.to_str().unwrap();
    let mut command = onegrid(&["bench", "--model", "random:tiny", "--threads", "2"]);
    command.args([
        "--device",
        "cpu",
        "--repetitions",
        "2",
        "--prompt-tokens",
        "5",
    ]);
    command.args(["--new-tokens", "9", "--trace", path, "--trace-steps", "5"]);
    command.args(["--format", "json"]);
    let output = command.assert().success().get_output().clone();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let speeds = &report["runs"][0]["decode_tokens_per_second"]["samples"];
    assert_eq!(speeds.as_array().unwrap().len(), 2);
    let notes = String::from_utf8(output.stderr).unwrap();
    assert_says(&notes, &["first 5 steps", "4 more", "--trace-steps"]);
    let compared = json_of(onegrid(&["compare", path, path, "--format", "json"]));
    // The prompt was one of the five.
    assert_eq!(compared["a"]["steps"], 4);
    let notes = compared["a"]["notes"].to_string();
    assert_says(&notes, &["4 steps came after"]);
    assert_eq!(row(&compared, "attention", "")["B / A per token"], 1.0);
}
