//! The program as its users meet it: every command, its output, its errors and its exit status.

// Shared with other test programs.
#[path = "../qwen3/mod.rs"]
mod qwen3;

mod bad_weights;
mod bench;
mod chat;
mod compare;
mod constraint;
mod demo;
mod device;
mod energy;
mod experiment;
mod generate;
mod gpu_check;
mod inspect;
mod jobs;
mod logits;
mod molecules;
mod quality;
mod report;
mod shards;
mod tokenize;
mod trace;

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use safetensors::SafeTensors;
use serde_json::{Value, json};

fn onegrid(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onegrid"));
    command.args(args);
    command
}

/// `onegrid COMMAND` on a small random model with Qwen3's tokenizer.
fn on_tiny(command: &str, args: &[&str]) -> Command {
    let mut process = onegrid(&[command]);
    process
        .args(["--model", "random:tiny", "--tokenizer"])
        .arg(qwen3::unpacked());
    // Many tests run at once, and teams that share a core wait for each other.
    if command != "tokenize" {
        process.args(["--threads", "1"]);
    }
    process.args(args);
    process
}

/// Standard output of a command that succeeds.
fn stdout(mut command: Command) -> String {
    let output = command.assert().success().get_output().stdout.clone();
    String::from_utf8(output).unwrap()
}

/// The one JSON object that a command that succeeds writes.
fn json_of(command: Command) -> Value {
    serde_json::from_str(&stdout(command)).unwrap()
}

/// Standard error of a command that ends with this status and writes no result.
fn error(mut command: Command, status: i32) -> String {
    let output = command
        .write_stdin("")
        .assert()
        .code(status)
        .get_output()
        .clone();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.stdout.is_empty(), "{error}");
    error
}

fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "'{part}' is missing in: {message}");
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// A copy of a checkpoint among the fixtures; none of them has a tokenizer.
fn copy_of(checkpoint: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture("checkpoints").join(checkpoint)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    folder
}
