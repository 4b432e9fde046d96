//! `onegrid compare`: two files side by side.
//!
//! - here: which kind they are of
//! - `traces`: two traces, by step, layer and token
//! - `results`: two results, row by row

mod results;
mod traces;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;

use super::output::OutputArgs;
use super::{Outcome, WrongUse};
use crate::trace::file;
use traces::TraceArgs;

/// Compare two results of the same kind, or two traces
///
/// Results are files of `onegrid bench --format json`, of one experiment, or of one part of `onegrid
/// gpu-check`. Each row that both have gets the ratio of its medians with an interval and a verdict; the
/// advantage of B is above 1 where B is faster or better. The files were not measured in turns, so what
/// changed on the machine between them is in the ratios too: a difference that matters shows in further
/// runs.
///
/// Traces are onegrid's (`--trace FILE` of generate and bench) or those of PyTorch's profiler
/// (`prof.export_chrome_trace`), gzipped or not. Counts and times are given by step, layer and token;
/// counts that are no whole multiple of steps and layers are pointed out. The table leaves out
/// what takes little time; csv, markdown and json have all of it.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// The first file: what is compared with
    #[arg(value_name = "A")]
    a: PathBuf,

    /// The second file
    #[arg(value_name = "B")]
    b: PathBuf,

    /// Of results: exit with status 1 if a speed or a time of B is slower by more than this, such as 2%
    ///
    /// Verdicts are then on this share: less than it counts as the same. Also fails if B failed its own
    /// checks, or if there is nothing to compare.
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    fail_if_slower: Option<f64>,

    #[command(flatten)]
    trace: TraceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the command.
///
/// # Errors
/// Files that can't be read, or compared with each other; with `--fail-if-slower` a row that is slower.
pub fn run(args: &CompareArgs) -> anyhow::Result<Outcome> {
    let wrong = |flag: &str, what: &str| Err(WrongUse(format!("{flag} is for {what}")).into());
    match (
        is_trace(&args.a)? || is_trace(&args.b)?,
        args.fail_if_slower,
    ) {
        (true, Some(_)) => wrong("--fail-if-slower", "results, and these are traces"),
        (true, None) => traces::run(args),
        (false, _) => match args.trace.given_flag() {
            Some(flag) => wrong(flag, "traces, and these are none"),
            None => results::run(args),
        },
    }
}

fn is_trace(path: &Path) -> anyhow::Result<bool> {
    // A folder is no trace; what it is instead is told by who reads results.
    let kind = match path.is_dir() {
        true => None,
        false => file::kind(path).with_context(|| path.display().to_string())?,
    };
    Ok(kind.is_some())
}

/// `2%` as a number.
fn percent(text: &str) -> Result<f64, String> {
    let number = text
        .strip_suffix('%')
        .and_then(|number| number.trim().parse::<f64>().ok());
    match number {
        Some(percent) if (0.0..100.0).contains(&percent) => Ok(percent),
        _ => Err("expected a percentage from 0% to below 100%, such as 2%".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_percentage() {
        assert_eq!(percent("2%"), Ok(2.0));
        assert_eq!(percent("0.5 %"), Ok(0.5));
        for wrong in ["2", "0.02", "-1%", "100%", "NaN%", "%", "two%"] {
            assert!(percent(wrong).is_err(), "{wrong}");
        }
    }
}
