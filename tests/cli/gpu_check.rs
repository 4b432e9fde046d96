//! `onegrid gpu-check`, on the emulator: that the parts run, what they write, and when they stop.

use super::*;

const PARTS: [&str; 5] = ["correctness", "ceilings", "decode", "options", "sanitizers"];

fn results(folder: &Path) -> Vec<Value> {
    let read = |part: &str| {
        let text = std::fs::read(folder.join(format!("{part}.json"))).expect(part);
        serde_json::from_slice(&text).expect(part)
    };
    PARTS.map(read).into()
}

fn gpu_check(folder: &Path, limit: &str) -> Command {
    let mut command = onegrid(&["gpu-check", "--device", "emulated", "--limit", limit]);
    command.arg("--output").arg(folder);
    command
}

#[test]
fn every_part_writes_what_it_found_and_the_table_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let table = stdout(gpu_check(folder.path(), "200"));
    let files = results(folder.path());
    for file in &files {
        assert_eq!(file["device"], "emulated");
        assert!(file["environment"]["git_revision"].is_string());
        assert!(file["gpu"]["name"].is_string());
    }
    let [correctness, ceilings, decode, options, sanitizers] = &files[..] else {
        unreachable!("five parts");
    };
    assert_eq!(correctness["status"], "done", "{correctness}");
    let cases = correctness["findings"]["cases"].as_array().unwrap();
    assert_eq!(cases.len() as u64, correctness["findings"]["all"]);
    let named = |name: &str, value: &str| cases.iter().any(|case| case[name] == value);
    for (name, value) in [
        ("stage", "v0"),
        ("stage", "graph"),
        ("variant", "head_blocks"),
        ("barrier", "epoch"),
    ] {
        assert!(named(name, value), "{name} {value}");
    }

    assert_eq!(ceilings["status"], "done", "{ceilings}");
    let found = &ceilings["findings"];
    assert_eq!(found["launches"].as_array().unwrap().len(), 4);
    assert!(
        !found["reads"][0]["bytes_per_second"]["samples"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    assert!(!found["barriers"].as_array().unwrap().is_empty());
    // So little memory says nothing of a bandwidth.
    assert!(found["read_bandwidth_bytes_per_second"].is_null());

    for (file, contenders) in [(decode, 4), (options, 6)] {
        assert_eq!(file["status"], "done", "{file}");
        let positions = file["findings"]["positions"].as_array().unwrap();
        assert_eq!(positions.len(), 2);
        for at in positions {
            let runs = at["runs"].as_array().unwrap();
            assert_eq!(runs.len(), contenders);
            for run in runs {
                assert_eq!(run["checked"]["passed"], true, "{run}");
                let samples = run["step_microseconds"]["samples"].as_array().unwrap();
                assert_eq!(samples.len(), 2);
            }
            assert_eq!(at["ratios"].as_array().unwrap().len(), contenders - 1);
        }
    }

    assert_eq!(sanitizers["status"], "not_measured");
    assert_says(&table, &["correctness", "done", "not measured", "emulator"]);

    // What was found is not lost to a second run.
    let message = error(gpu_check(folder.path(), "1"), 2);
    assert_says(&message, &["correctness.json", "--output"]);
}

#[test]
fn a_limit_too_short_for_anything_measures_nothing_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let table = stdout(gpu_check(&folder.path().join("new"), "1"));
    for file in results(&folder.path().join("new")) {
        assert_eq!(file["status"], "not_measured");
        let reason = file["reason"].as_str().unwrap();
        assert!(reason.contains("limit of 1 s"), "{reason}");
        assert!(file["findings"].is_null());
    }
    assert_eq!(table.matches("not measured").count(), PARTS.len());
}

#[test]
fn a_limit_ends_what_is_under_way() {
    let folder = tempfile::tempdir().unwrap();
    let start = std::time::Instant::now();
    stdout(gpu_check(folder.path(), "6"));
    assert!(
        start.elapsed().as_secs_f64() < 10.0,
        "{:?}",
        start.elapsed()
    );
    let files = results(folder.path());
    assert!(files.iter().any(|file| file["status"] == "not_measured"));
}

#[test]
fn without_a_gpu_it_says_so_and_fails() {
    let mut command = onegrid(&["gpu-check"]);
    command.env("CUDA_VISIBLE_DEVICES", "");
    let message = error(command, 1);
    assert_says(&message, &["no GPU", "NVIDIA driver"]);
}

#[test]
fn the_parts_and_the_kernels_are_listed() {
    let list = stdout(onegrid(&["gpu-check", "--list"]));
    assert_says(&list, &PARTS);
    assert_says(&list, &["kernels:"]);
}
