//! A run that is killed leaves no half-written file, and what was there before stays.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// `onegrid generate` of many tokens into `output`.
fn generate(output: &Path, tokens: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_onegrid"))
        .args(["generate", "--model", "random:tiny", "--prompt-tokens", "1"])
        .args(["--threads", "1", "--ignore-eos", "--max-tokens", tokens])
        .args(["--format", "json", "--output"])
        .arg(output)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn what_was_there_before_a_killed_run_stays_whole() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("result.json");
    std::fs::write(&output, "the result before").unwrap();
    // Seconds of work, of which it is given the time until its file lies beside the result.
    let mut child = generate(&output, "40000");
    let started = Instant::now();
    while std::fs::read_dir(folder.path()).unwrap().count() < 2 {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        assert!(started.elapsed() < Duration::from_secs(60), "no file began");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success());
    let before = std::fs::read_to_string(&output).unwrap();
    assert_eq!(before, "the result before");
    // The next run is not in its way.
    assert!(generate(&output, "3").wait().unwrap().success());
    let result = std::fs::read(&output).unwrap();
    let result: serde_json::Value = serde_json::from_slice(&result).unwrap();
    assert_eq!(result["tokens"].as_array().unwrap().len(), 3);
}
