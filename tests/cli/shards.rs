//! `onegrid experiment --shard` and `--merge`.

use super::*;

/// Three cells on the demo model.
pub const PLAN: &str = r#"
rounds = 2
temperature = 1.0
seed = 1
check_seconds = 1000.0
methods = ["none", "automaton"]
batches = [1, 2, 3]

[[models]]
model = "demo"

[[workloads]]
name = "point"
prompt = "[SMILES]CO[/SMILES][CONFORMER][C]<"
max_tokens = 16
points = true
segments = [
    { slot = "x", regex = '-?[0-9]\.[0-9]{4}', placeholder = "0.0000", joined = true },
    { literal = "," },
]
"#;

pub fn command(plan: &Path, results: &Path, args: &[&str]) -> Command {
    let mut command = onegrid(&["experiment", "constraints", "--threads", "1"]);
    command.arg("--plan").arg(plan);
    command.arg("--output").arg(results).args(args);
    command
}

pub fn merge(results: &Path) -> Command {
    let mut command = onegrid(&["experiment", "constraints", "--format", "json", "--merge"]);
    command.arg(results);
    command
}

/// What does not depend on the clock.
pub fn without_times(mut result: Value) -> Value {
    let object = result.as_object_mut().unwrap();
    for field in ["seconds", "environment"] {
        object.remove(field);
    }
    for cell in object["cells"].as_array_mut().unwrap() {
        for field in ["seconds", "unix_time"] {
            cell.as_object_mut().unwrap().remove(field);
        }
        for method in cell["result"]["methods"].as_array_mut().unwrap() {
            for field in ["seconds", "token_ms", "speedup"] {
                method.as_object_mut().unwrap().remove(field);
            }
            if let Some(compiled) = method["compiled"].as_object_mut() {
                compiled.remove("compile_ms");
            }
        }
    }
    result
}

pub fn errors(mut command: Command, status: i32) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{errors}");
    errors
}

#[test]
fn merged_shards_are_what_a_run_in_one_piece_writes() {
    let folder = tempfile::tempdir().unwrap();
    let plan = folder.path().join("plan.toml");
    std::fs::write(&plan, PLAN).unwrap();
    let [whole, parts] = ["whole", "parts"].map(|name| folder.path().join(name));
    let whole = json_of(command(&plan, &whole, &["--format", "json"]));
    assert_eq!(whole["cells"].as_array().unwrap().len(), 3);

    // The second of two shards alone: what is missing is listed, and what is there is joined.
    stdout(command(&plan, &parts, &["--shard", "2/2"]));
    let listed = errors(merge(&parts), 1);
    for part in [
        "missing: demo/point/batch-1 of shard 1/2: the shard has no result yet",
        "missing: demo/point/batch-3 of shard 1/2",
        "--shard",
    ] {
        assert!(listed.contains(part), "{listed}");
    }
    let path = parts.join("constraints.json");
    let partial: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(partial["status"], "partial");

    stdout(command(&plan, &parts, &["--shard", "1/2"]));
    let merged = json_of(merge(&parts));
    assert_eq!(without_times(merged.clone()), without_times(whole));
    let kept: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(kept, merged);
}

#[test]
fn shards_that_do_not_belong_together_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let plan = folder.path().join("plan.toml");
    std::fs::write(&plan, PLAN).unwrap();
    let results = folder.path().join("results");
    assert!(errors(merge(&results), 2).contains("shards"));
    stdout(command(&plan, &results, &["--shard", "3/3"]));
    let first = results.join("shards/constraints.3-of-3.json");
    let text = std::fs::read_to_string(&first).unwrap();

    let second = results.join("shards/constraints.1-of-3.json");
    std::fs::write(&second, text.replace("\"rounds\": 2", "\"rounds\": 3")).unwrap();
    let refused = errors(merge(&results), 2);
    assert!(refused.contains("another plan"), "{refused}");
    std::fs::remove_file(&second).unwrap();

    let second = results.join("shards/constraints.1-of-2.json");
    std::fs::write(&second, &text).unwrap();
    let refused = errors(merge(&results), 2);
    assert!(
        refused.contains("one of 3 shards") || refused.contains("one of 2 shards"),
        "{refused}"
    );
    std::fs::remove_file(&second).unwrap();
    assert!(!results.join("constraints.json").exists());

    // A result that a run in one piece wrote is not lost.
    stdout(command(&plan, &results, &[]));
    let refused = errors(merge(&results), 2);
    assert!(
        refused.contains("a run that measured demo/point/batch-1"),
        "{refused}"
    );

    for args in [["--shard", "0/3"], ["--shard", "half"]] {
        let refused = errors(command(&plan, &results, &args), 2);
        assert!(refused.contains("I/N"), "{refused}");
    }
}
