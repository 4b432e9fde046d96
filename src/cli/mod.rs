//! The command line: a file for each subcommand, and no logic of their own.
//!
//! - [`options`]: the flags that several commands share
//! - [`constraint`]: those that say what a text must follow
//! - [`load`]: the model that those flags name
//! - [`output`]: results on standard output or in a file
//! - [`streaming`]: text that comes in and goes out piece by piece
//! - [`interrupt`]: what Ctrl-C does
//! - [`submit`]: the flags that make jobs of an experiment, and how far those are
//! - [`trace`]: the flags that record a trace
//! - [`generate`], [`chat`], [`mod@bench`], [`experiment`], [`report`], [`mod@compare`], [`logits`],
//!   [`tokenize`], [`inspect`], [`mod@gpu_check`]: the commands
//!
//! Results go to standard output, notes and progress to standard error. The exit status is 0 when
//! the work is done, 1 when it failed, 2 when the command line can't be carried out as it stands,
//! and 130 after Ctrl-C.

pub mod bench;
pub mod chat;
pub mod compare;
pub mod constraint;
pub mod experiment;
pub mod generate;
pub mod gpu_check;
pub mod inspect;
pub mod interrupt;
pub mod load;
pub mod logits;
pub mod options;
pub mod output;
pub mod report;
pub mod streaming;
pub mod submit;
pub mod tokenize;
pub mod trace;

use std::io::ErrorKind;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Exit status of work that failed.
const FAILED: u8 = 1;
/// Exit status of a command line that can't be carried out; clap's own for what it refuses.
const WRONG_USE: u8 = 2;
/// Exit status after Ctrl-C: 128 and the number of SIGINT, as shells have it.
pub const INTERRUPTED: u8 = 130;

/// Decodes Qwen3 models and their relatives at the speed of memory
#[derive(Debug, Parser)]
#[command(name = "onegrid", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Generate(generate::GenerateArgs),
    Chat(chat::ChatArgs),
    Bench(bench::BenchArgs),
    Experiment(experiment::ExperimentArgs),
    Report(report::ReportArgs),
    Compare(compare::CompareArgs),
    Logits(logits::LogitsArgs),
    Tokenize(tokenize::TokenizeArgs),
    Inspect(inspect::InspectArgs),
    GpuCheck(gpu_check::GpuCheckArgs),
}

/// How a command ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of it is done.
    Done,
    /// Ctrl-C ended it; what was made so far is written.
    Interrupted,
}

/// A command line that can't be carried out as it stands.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WrongUse(pub String);

/// Runs the program: parses the command line, does the work, reports an error.
pub fn run() -> ExitCode {
    let outcome = interrupt::install().and_then(|()| match Cli::parse().command {
        Command::Generate(args) => generate::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Experiment(args) => experiment::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Logits(args) => logits::run(&args),
        Command::Tokenize(args) => tokenize::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::GpuCheck(args) => gpu_check::run(&args),
    });
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Interrupted) => INTERRUPTED.into(),
        // Whoever read the output has seen enough of it (`onegrid ... | head`).
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", describe(&error));
            if error.is::<WrongUse>() {
                WRONG_USE.into()
            } else {
                FAILED.into()
            }
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// The error and its causes. Many of the library's errors say their cause themselves.
fn describe(error: &anyhow::Error) -> String {
    let mut message = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !message.contains(&cause) {
            message += ": ";
            message += &cause;
        }
    }
    message
}
