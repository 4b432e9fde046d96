//! `onegrid bench`.

use super::*;

/// A benchmark that is soon done.
fn bench(args: &[&str]) -> Command {
    let mut command = onegrid(&["bench", "--model", "random:tiny", "--threads", "2"]);
    command.args([
        "--prompt-tokens",
        "5",
        "--new-tokens",
        "4",
        "--repetitions",
        "2",
    ]);
    command.args(args);
    command
}

#[test]
fn results_are_json_by_the_names_of_the_contract() {
    let report = json_of(bench(&["--format", "json", "--engines", "cpu,reference"]));
    for field in ["cpu", "cores", "memory_bytes", "git_revision", "versions"] {
        assert!(report["environment"].get(field).is_some(), "{field}");
    }
    let runs = report["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2);
    for (run, engine) in runs.iter().zip(["cpu", "reference"]) {
        assert_eq!(run["engine"], engine);
        assert_eq!(run["model"], "random:tiny");
        assert_eq!(
            (&run["prompt_tokens"], &run["new_tokens"]),
            (&5.into(), &4.into())
        );
        for field in ["decode_tokens_per_second", "first_token_ms"] {
            assert_eq!(run[field]["samples"].as_array().unwrap().len(), 2);
            for part in ["median", "low", "high"] {
                assert!(run[field][part].as_f64().unwrap() > 0.0, "{field}.{part}");
            }
        }
        let numbers = [
            "threads",
            "load_seconds",
            "bytes_per_token",
            "read_bandwidth_bytes_per_second",
            "fraction_of_floor",
        ];
        for field in numbers {
            assert!(run[field].as_f64().unwrap() > 0.0, "{field}");
        }
        assert!(run["checked"]["passed"].as_bool().unwrap());
    }
    assert_eq!(runs[0]["threads"], 2);
    let check = &runs[0]["checked"]["reference"];
    assert_eq!(
        (&check["prompt_tokens"], &check["new_tokens"]),
        (&5.into(), &4.into())
    );
    assert_eq!(runs[0]["tokens"], runs[1]["tokens"]);
    assert_eq!(report["comparisons"][0]["against"], "reference");
}

#[test]
fn a_result_says_which_variant_was_measured() {
    let report = json_of(bench(&["--format", "json", "--variant", "pool"]));
    assert_eq!(report["runs"][0]["engine_variant"], "pool");
    assert_eq!(report["runs"][0]["checked"]["passed"], true);
    let plain = json_of(bench(&["--format", "json"]));
    assert_eq!(plain["runs"][0].get("engine_variant"), None);
    assert_eq!(report["runs"][0]["tokens"], plain["runs"][0]["tokens"]);
    let table = bench(&["--variant", "parking"]).output().unwrap();
    assert_says(&String::from_utf8(table.stdout).unwrap(), &["cpu, parking"]);
}

#[test]
fn weights_are_moved_before_speeds_are_measured_and_the_report_says_so() {
    let model = copy_of("qwen3-tied-bf16");
    let run = |placement: &str| {
        let mut command = onegrid(&["bench", "--format", "json", "--repetitions", "2"]);
        command.args(["--prompt-tokens", "5", "--new-tokens", "4"]);
        command.args(["--placement", placement, "--model"]);
        command.arg(model.path());
        json_of(command)["runs"][0].take()
    };
    for placement in ["huge-pages", "mapped"] {
        let run = run(placement);
        assert_eq!(
            (&run["placement"], &run["first_run"]["placement"]),
            (&placement.into(), &placement.into())
        );
        assert!(run["promotion"].is_null(), "{run}");
    }
    let moved = run("auto");
    let granted = onegrid::memory::transparent_huge_pages();
    if onegrid::model::promotion::is_supported() && granted.is_some_and(|when| when != "never") {
        assert_eq!(moved["first_run"]["placement"], "mapped");
        assert_eq!(moved["placement"], "huge-pages");
        assert!(moved["promotion"]["bytes"].as_u64().unwrap() > 0);
        assert!(moved["promotion"]["seconds"].as_f64().unwrap() > 0.0);
    }
    assert!(moved["first_run"]["first_token_ms"].as_f64().unwrap() > 0.0);
}

#[test]
fn tables_go_to_a_file_that_appears_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bench.csv");
    let path = path.to_str().unwrap();
    let printed = stdout(bench(&["--format", "csv", "--output", path]));
    assert_eq!(printed, "");
    let csv = std::fs::read_to_string(path).unwrap();
    let lines: Vec<_> = csv.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].starts_with("model,engine,kernels,threads,batch,prompt (tokens)"));
    assert!(lines[1].starts_with("random:tiny,cpu,"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn what_can_not_be_measured_is_wrong_use() {
    let wrong = |args: &[&str], words: &str| assert_says(&error(bench(args), 2), &[words]);
    wrong(&["--engines", "warp"], "warp");
    wrong(&["--engines", "cpu", "--device", "cpu"], "--device");
    wrong(&["--check-seconds", "-1"], "--check-seconds");
    let alone = |args: &[&str]| onegrid(&[&["bench", "--model", "random:tiny"], args].concat());
    assert_says(
        &error(alone(&["--repetitions", "0"]), 2),
        &["--repetitions"],
    );
    assert_says(
        &error(alone(&["--new-tokens", "1"]), 2),
        &["at least 2 tokens"],
    );
}

#[test]
fn what_fits_neither_the_model_nor_the_memory_is_refused_with_both_numbers() {
    let too_long = onegrid(&["bench", "--model", "random:tiny", "--new-tokens", "50000"]);
    assert_says(&error(too_long, 1), &["50031", "40960"]);
    #[cfg(target_os = "linux")]
    {
        let shape = "random:qwen3-32b";
        let too_large = onegrid(&["bench", "--model", shape, "--batch", "100000"]);
        assert_says(&error(too_large, 1), &[shape, "needs", "MB are free"]);
    }
}
