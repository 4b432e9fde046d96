//! Ctrl-C: it stops an answer and not the conversation, and ends everything else cleanly.
#![cfg(unix)]

mod qwen3;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

use onegrid::trace::profile::{Given, Profile};
use onegrid::trace::steps::Steps;
use onegrid::trace::{file, reading};

/// The status of a program that Ctrl-C ended, as shells have it.
const INTERRUPTED: i32 = 130;

/// `onegrid COMMAND` on a small random model, with all its streams piped.
fn spawn(command: &str, args: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_onegrid"))
        .args([command, "--model", "random:tiny", "--tokenizer"])
        .arg(qwen3::unpacked())
        .args(["--threads", "1"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn press_ctrl_c(child: &Child) {
    let id = i32::try_from(child.id()).unwrap();
    // SAFETY: a signal to a child that was not waited for, so the id is still its own.
    let sent = unsafe { libc::kill(id, libc::SIGINT) };
    assert_eq!(sent, 0);
}

/// Waits for the first text and reads the rest in the background, so that the pipe never fills.
fn wait_for_text(child: &mut Child) -> std::thread::JoinHandle<Vec<u8>> {
    let mut stdout = child.stdout.take().unwrap();
    let mut text = vec![0];
    stdout.read_exact(&mut text).unwrap();
    std::thread::spawn(move || {
        stdout.read_to_end(&mut text).unwrap();
        text
    })
}

#[test]
fn it_stops_an_answer_and_not_the_program() {
    // An answer would take seconds: it ends only where the context does.
    let mut child = spawn("chat", &["--context", "1000"]);
    let mut stdin = child.stdin.take().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut next_note = || stderr.next().map(|line| line.unwrap()).unwrap_or_default();
    stdin.write_all(b"Hello!\n").unwrap();
    let text = wait_for_text(&mut child);
    press_ctrl_c(&child);
    let note = next_note();
    assert!(note.contains("stopped"), "{note}");
    stdin.write_all(b"Go on!\n").unwrap();
    drop(stdin);
    let note = next_note();
    assert!(note.contains("1000 positions"), "{note}");
    assert!(child.wait().unwrap().success());
    assert!(text.join().unwrap().ends_with(b"\n"));
}

#[test]
fn it_ends_a_text_with_what_is_there() {
    let args = ["--prompt", "Hello", "--max-tokens", "20000"];
    let mut child = spawn("generate", &args);
    let text = wait_for_text(&mut child);
    press_ctrl_c(&child);
    assert_eq!(child.wait().unwrap().code(), Some(INTERRUPTED));
    let text = String::from_utf8(text.join().unwrap()).unwrap();
    assert!(text.ends_with('\n') && text.len() > 1, "{text:?}");
}

#[test]
fn it_ends_a_program_that_waits_for_a_line() {
    let mut child = spawn("chat", &["--max-tokens", "1", "--format", "json"]);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"Hello!\n").unwrap();
    let mut answer = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut answer).unwrap();
    assert!(answer.ends_with("}\n"), "{answer}");
    press_ctrl_c(&child);
    assert_eq!(child.wait().unwrap().code(), Some(INTERRUPTED));
    drop(stdin);
}

#[test]
fn it_leaves_a_trace_of_what_was_decoded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.pftrace");
    let path = path.to_str().unwrap();
    let args = [
        "--prompt",
        "Hello",
        "--max-tokens",
        "20000",
        "--device",
        "cpu",
        "--trace",
        path,
    ];
    let mut child = spawn("generate", &args);
    let text = wait_for_text(&mut child);
    press_ctrl_c(&child);
    assert_eq!(child.wait().unwrap().code(), Some(INTERRUPTED));
    drop(text.join());
    let mut content = file::open(path.as_ref()).unwrap();
    let trace = reading::read(&mut content).unwrap();
    assert!(trace.numbers["steps"] > 0 && trace.numbers["lost_events"] == 0);
    let profile = Profile::of_engine(&trace, Steps::All, Given::default()).unwrap();
    assert!(profile.doubts().is_empty(), "{:?}", profile.doubts());
}
