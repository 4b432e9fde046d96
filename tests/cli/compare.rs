//! `onegrid compare`.

use super::report::bench_result;
use super::*;

/// A result of bench, and the same with the speeds of the CPU engine `factor` times as high.
fn results(folder: &Path, factor: f64) -> (PathBuf, PathBuf) {
    let a = bench_result(folder);
    let mut result: Value = serde_json::from_slice(&std::fs::read(&a).unwrap()).unwrap();
    assert_eq!(result["runs"][0]["engine"], "cpu");
    let speed = &mut result["runs"][0]["decode_tokens_per_second"];
    // All of them alike, so that no noise of the machine decides.
    let speeds = vec![speed["median"].as_f64().unwrap(); 8];
    speed["samples"] = json!(speeds);
    std::fs::write(&a, result.to_string()).unwrap();
    let scaled: Vec<f64> = speeds.iter().map(|speed| speed * factor).collect();
    result["runs"][0]["decode_tokens_per_second"]["samples"] = json!(scaled);
    let b = folder.join("b.json");
    std::fs::write(&b, result.to_string()).unwrap();
    (a, b)
}

fn compare(a: &Path, b: &Path, args: &[&str]) -> Command {
    let mut command = onegrid(&["compare"]);
    command.args([a, b]).args(args);
    command
}

/// Its exit status, standard output and standard error.
fn run(mut command: Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn a_slower_row_fails_only_where_that_is_asked_and_by_more_than_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = results(folder.path(), 0.9);
    let (status, table, _) = run(compare(&a, &b, &[]));
    assert_eq!(status, 0);
    assert_says(
        &table,
        &["decode (tok/s)", "first token (ms)", "0.900", "slower"],
    );
    let (status, table, message) = run(compare(&a, &b, &["--fail-if-slower", "2%"]));
    assert_eq!(status, 1, "{message}");
    assert_says(&message, &["1 of", "slower by more than 2%"]);
    // What was found is shown all the same.
    assert_says(&table, &["slower"]);
    assert_eq!(run(compare(&a, &b, &["--fail-if-slower", "20%"])).0, 0);
    assert_eq!(run(compare(&b, &a, &["--fail-if-slower", "2%"])).0, 0);
    assert_eq!(run(compare(&a, &a, &["--fail-if-slower", "0.5%"])).0, 0);
}

#[test]
fn what_was_compared_is_json_by_names() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = results(folder.path(), 2.0);
    let found = json_of(compare(&a, &b, &["--format", "json"]));
    assert_eq!(found["kind"], "a result of bench");
    assert_eq!(
        (&found["a"]["file"], &found["b"]["file"]),
        (&json!("bench.json"), &json!("b.json"))
    );
    let row = &found["rows"][0];
    assert_eq!(row["identity"]["engine"], "cpu");
    assert_eq!(row["identity"]["model"], "random:tiny");
    assert_eq!(row["quantity"], "decode_tokens_per_second");
    for name in ["advantage", "low", "high"] {
        assert!((row[name].as_f64().unwrap() - 2.0).abs() < 1e-9, "{row}");
    }
    assert_eq!(
        (&row["verdict"], &row["samples"]),
        (&json!("faster"), &json!([8, 8]))
    );
    assert_eq!(
        (&found["only_a"], &found["only_b"]),
        (&json!([]), &json!([]))
    );
}

#[test]
fn a_side_that_failed_its_checks_or_has_nothing_in_common_fails_too() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = results(folder.path(), 1.0);
    let mut result: Value = serde_json::from_slice(&std::fs::read(&b).unwrap()).unwrap();
    result["runs"][0]["checked"]["passed"] = false.into();
    result["runs"][0]["decode_tokens_per_second"] = Value::Null;
    std::fs::write(&b, result.to_string()).unwrap();
    let (status, table, message) = run(compare(&a, &b, &["--fail-if-slower", "50%"]));
    assert_eq!(status, 1);
    assert_says(&table, &["only in A"]);
    assert_says(&message, &["b.json failed its own checks"]);
    result["runs"] = json!([]);
    std::fs::write(&b, result.to_string()).unwrap();
    let (status, _, message) = run(compare(&a, &b, &["--fail-if-slower", "50%"]));
    assert_eq!(status, 1);
    assert_says(&message, &["nothing to compare"]);
}

#[test]
fn files_and_limits_that_can_not_be_used_are_wrong_use() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = results(folder.path(), 1.0);
    let other = folder.path().join("other.json");
    std::fs::write(&other, "[]").unwrap();
    assert_says(
        &error(compare(&a, &other, &[]), 2),
        &["other.json is a JSON array", "or a trace"],
    );
    for limit in ["2", "100%", "fast"] {
        let message = error(compare(&a, &b, &["--fail-if-slower", limit]), 2);
        assert_says(&message, &["--fail-if-slower", "such as 2%"]);
    }
}
