//! `onegrid experiment`.

use super::*;

/// A plan that is soon done, on the demo model: one workload that is all there is to it.
const SMALL: &str = r#"
rounds = 2
temperature = 1.0
seed = 1
check_seconds = 1000.0
methods = ["none", "position", "position-truncate", "automaton"]
batches = [1, 2]

[[models]]
model = "demo"
texts = 3

[[workloads]]
name = "point"
prompt = "[SMILES]CO[/SMILES][CONFORMER][C]<"
max_tokens = 24
points = true
segments = [
    { slot = "x", regex = '-?[0-9]\.[0-9]{4}', placeholder = "0.0000", joined = true },
    { literal = "," },
]

[[workloads]]
name = "record"
prompt = "A person: "
max_tokens = 40
schema = { type = "object", properties = { name = { type = "string", pattern = "^[A-Z][a-z]{1,5}$" }, age = { type = "integer", minimum = 0, maximum = 99 } }, required = ["name", "age"], additionalProperties = false }
segments = [
    { literal = '{"name": "' },
    { slot = "name", regex = '[A-Z][a-z]{1,5}', placeholder = "Jane" },
    { literal = '", "age": ' },
    { slot = "age", regex = '[0-9]|[1-9][0-9]', placeholder = "42" },
    { literal = "}" },
]
"#;

/// A folder with `plan`, and the command that follows it and leaves its results there.
fn following(plan: &str) -> (tempfile::TempDir, impl Fn(&[&str]) -> Command + use<>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plan.toml");
    std::fs::write(&path, plan).unwrap();
    let results = folder.path().join("results");
    let command = move |args: &[&str]| {
        let mut command = onegrid(&["experiment", "constraints", "--threads", "1"]);
        command.arg("--plan").arg(&path);
        command.arg("--output").arg(&results).args(args);
        command
    };
    (folder, command)
}

fn read_result(folder: &Path) -> Value {
    let path = folder.join("results/constraints.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn constraints_are_measured_against_none_and_what_automata_write_is_valid() {
    let (folder, command) = following(SMALL);
    let result = json_of(command(&["--format", "json"]));
    assert_eq!(result, read_result(folder.path()));
    assert_eq!(
        (&result["status"], &result["device"]),
        (&"done".into(), &"cpu".into())
    );
    let cells = result["cells"].as_array().unwrap();
    let ids: Vec<_> = cells
        .iter()
        .map(|cell| cell["id"].as_str().unwrap())
        .collect();
    let expected = [
        "demo/point/batch-1",
        "demo/point/batch-2",
        "demo/record/batch-1",
        "demo/record/batch-2",
    ];
    assert_eq!(ids, expected);
    for cell in cells {
        let found = &cell["result"];
        let batch = found["batch"].as_u64().unwrap();
        let methods = found["methods"].as_array().unwrap();
        assert_eq!(methods.len(), 4);
        let [none, automaton] = [&methods[0], &methods[3]];
        let rounds = none["tokens"].as_array().unwrap();
        assert_eq!(rounds.len(), 2);
        // As many tokens, at the same positions.
        assert_eq!(none["tokens"], automaton["tokens"]);
        for method in methods {
            let of = |field: &str| method["guided"][field].as_u64().unwrap();
            let tokens: u64 = method["tokens"]
                .as_array()
                .unwrap()
                .iter()
                .map(|n| n.as_u64().unwrap())
                .sum();
            assert_eq!(of("forced") + of("gathered") + of("full"), tokens);
            let texts = method["verdicts"]["texts"].as_u64().unwrap();
            assert!(texts >= 3 && texts % batch == 0);
            // The reference engine had the time to make the whole text, or up to a near tie.
            let checked = &method["checked"];
            assert!(
                checked["whole"] == true || checked["near_tie"] == true,
                "{checked}"
            );
        }
        assert_eq!(
            automaton["verdicts"]["valid"],
            automaton["verdicts"]["texts"]
        );
        assert!(none["speedup"].is_null());
        let speedup = &automaton["speedup"];
        assert_eq!(speedup["samples"].as_array().unwrap().len(), 2);
        // Bytes are saved wherever tokens are forced or gathered.
        let bytes = |method: &Value| method["bytes"].as_u64().unwrap();
        assert!(bytes(automaton) < bytes(none), "{}", cell["id"]);
    }
}

#[test]
fn the_same_command_goes_on_and_another_plan_is_refused() {
    let (folder, command) = following(SMALL);
    let text = stdout(command(&[]));
    for part in [
        "What constraints cost",
        "speed over none",
        "automaton",
        "What was written",
    ] {
        assert!(text.contains(part), "{part}");
    }
    let mut first = read_result(folder.path());
    // As if the first run had been stopped before the last cell.
    let cells = first["cells"].as_array_mut().unwrap();
    let last = cells.pop().unwrap();
    let kept = cells.clone();
    let path = folder.path().join("results/constraints.json");
    std::fs::write(&path, first.to_string()).unwrap();
    let output = command(&[]).assert().success().get_output().clone();
    assert_says(
        &String::from_utf8_lossy(&output.stderr),
        &["3 cells were measured before"],
    );
    let second = read_result(folder.path());
    let cells = second["cells"].as_array().unwrap();
    assert_eq!(cells[..3], kept);
    assert_eq!(cells[3]["id"], last["id"]);

    std::fs::write(
        folder.path().join("plan.toml"),
        SMALL.replace("seed = 1", "seed = 2"),
    )
    .unwrap();
    let message = error(command(&[]), 2);
    assert_says(&message, &["constraints.json", "another plan", "--output"]);
}

#[test]
fn each_method_of_each_cell_leaves_a_trace() {
    let (folder, command) = following(SMALL);
    let traces = folder.path().join("traces");
    std::fs::create_dir(&traces).unwrap();
    let path = traces.join("run.pftrace.gz");
    let output = command(&["--trace", path.to_str().unwrap(), "--trace-steps", "6"]);
    let output = { output }.assert().success().get_output().clone();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut files: Vec<_> = std::fs::read_dir(&traces).unwrap().collect();
    assert_eq!(files.len(), 16);
    files.retain(|file| {
        let name = file.as_ref().unwrap().file_name();
        message.contains(name.to_str().unwrap())
    });
    assert_eq!(files.len(), 16, "{message}");
    assert_says(
        &message,
        &[
            "trace of demo/record/batch-2/automaton",
            "first 6 steps",
            "--trace-steps",
        ],
    );
    let of = |method: &str| {
        let name = format!("run-demo-point-batch-2-{method}.pftrace.gz");
        traces.join(name).to_str().unwrap().to_owned()
    };
    let (none, automaton) = (of("none"), of("automaton"));
    let compared = json_of(onegrid(&["compare", &none, &automaton, "--format", "json"]));
    // The other two are the last tokens of the prompts.
    assert_eq!(
        (&compared["a"]["steps"], &compared["b"]["steps"]),
        (&json!(4), &json!(4))
    );
    assert_eq!(compared["a"]["doubts"], json!([]));

    let barriers = onegrid(&["experiment", "sync-overhead", "--trace", "x.pftrace"]);
    assert_says(
        &error(barriers, 2),
        &["--trace", "sync-overhead runs no engine"],
    );
}

#[test]
fn what_can_not_be_followed_is_refused_by_name() {
    let message = error(onegrid(&["experiment", "constraint"]), 2);
    assert_says(&message, &["'constraint' is no experiment", "constraints"]);
    for (from, to, parts) in [
        ("rounds = 2", "rounds = 0", ["`rounds`", "1 or more"]),
        (
            "seed = 1",
            "seeds = 1",
            ["unknown field `seeds`", "expected one of"],
        ),
        (
            "batches = [1, 2]",
            "batches = []",
            ["`batches` is empty", "one entry"],
        ),
        (
            r#""automaton"]"#,
            r#""magic"]"#,
            ["unknown variant `magic`", "position-truncate"],
        ),
        (
            "texts = 3",
            r#"workloads = ["none"]"#,
            ["no workload 'none'", "plan"],
        ),
        (
            "points = true",
            r#"molecule = "CO""#,
            ["neither or both", "'point'"],
        ),
        ("[[models]]", "[[models", ["plan", "line"]),
    ] {
        let (_folder, command) = following(&SMALL.replace(from, to));
        assert_says(&error(command(&[]), 2), &parts);
    }
    let message = error(
        onegrid(&["experiment", "constraints", "--plan", "nowhere.toml"]),
        1,
    );
    assert_says(&message, &["--plan nowhere.toml"]);
}

#[test]
fn without_a_name_all_are_listed_and_each_shows_its_plan() {
    let list = stdout(onegrid(&["experiment"]));
    let names: Vec<_> = list.lines().filter(|line| !line.starts_with(' ')).collect();
    assert!(names.contains(&"constraints"), "{list}");
    for name in names {
        let plan = stdout(onegrid(&["experiment", name, "--show-plan"]));
        assert!(plan.starts_with("# "), "{name}: {plan}");
    }
}

#[test]
fn a_model_that_is_not_there_fails_its_cells_and_not_the_others() {
    let more = "[[models]]\nmodel = \"no-such-model\"\n\n[[workloads]]\nname = \"point\"";
    let plan = SMALL.replacen("[[workloads]]\nname = \"point\"", more, 1);
    let (folder, command) = following(&plan);
    let output = command(&[]).assert().code(1).get_output().clone();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_says(
        &message,
        &[
            "FAILED: no-such-model/point/batch-1",
            "there is no such folder",
        ],
    );
    let result = read_result(folder.path());
    assert_eq!(result["status"], "failed");
    let outcomes = result["cells"].as_array().unwrap();
    let measured = outcomes.iter().filter(|cell| cell["outcome"] == "measured");
    assert_eq!(measured.count(), 4);
}

/// Barriers of CPU threads, and those of the kernel on the emulator: two of each at most.
const BARRIERS: &str = r#"
phases = 6
repeats = 2
loads = [0, 4096]
threads = [1, 2, 4096]
ways = ["spinning-barrier", "parking-barrier", "thread-pool", "spawned"]
memory_bytes = 65536
blocks = [1, 1000]
"#;

#[test]
fn barriers_are_measured_in_every_way_and_what_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let plan = folder.path().join("plan.toml");
    std::fs::write(&plan, BARRIERS).unwrap();
    for (device, ways, absent) in [
        ("cpu", 4, "4096 threads/load-0: this machine has"),
        ("emulated", 5, "1000 blocks-a-multiprocessor/load-0:"),
    ] {
        let mut command = onegrid(&["experiment", "sync-overhead", "--device", device]);
        command.arg("--plan").arg(&plan).args(["--format", "json"]);
        command.arg("--output").arg(folder.path().join(device));
        let output = command.assert().success().get_output().clone();
        assert_says(
            &String::from_utf8_lossy(&output.stderr),
            &["not measured: ", absent],
        );
        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(result["device"], device);
        let cells = result["cells"].as_array().unwrap().iter();
        let found: Vec<_> = cells
            .map(|cell| &cell["result"])
            .filter(|r| !r.is_null())
            .collect();
        assert!(found.len() >= 2);
        for one in found {
            let of_cell = one["ways"].as_array().unwrap();
            assert_eq!(of_cell.len(), ways, "{one}");
            for way in of_cell {
                let samples = way["phase_microseconds"]["samples"].as_array().unwrap();
                assert!(samples.len() >= 2 && samples.iter().all(|s| s.as_f64().unwrap() > 0.0));
                let [run, phase] = ["run_microseconds", "phase_microseconds"]
                    .map(|field| way[field]["median"].as_f64().unwrap());
                assert!((run / phase - 6.0).abs() < 1e-9);
            }
        }
    }
}
