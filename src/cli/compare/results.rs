//! Two results of the same kind, row by row.

use std::io::Write;

use super::CompareArgs;
use crate::cli::output::{Format, Output};
use crate::cli::report::to_wrong_use;
use crate::cli::{Outcome, WrongUse};
use crate::measure::statistics::SAME_WITHIN;
use crate::results::compare::{Comparison, compare};
use crate::results::{Document, ResultsError};

/// Compares two results.
///
/// # Errors
/// Files that are no results, or of different kinds; with `--fail-if-slower` a row that is slower.
pub(super) fn run(args: &CompareArgs) -> anyhow::Result<Outcome> {
    let read = |path| match Document::read(path) {
        Err(error @ ResultsError::NoResult { .. }) => {
            let message = format!("{error}, or a trace of onegrid's or of PyTorch's profiler");
            Err(WrongUse(message).into())
        }
        document => document.map_err(to_wrong_use),
    };
    let (a, b) = (read(&args.a)?, read(&args.b)?);
    let same_within = args
        .fail_if_slower
        .map_or(SAME_WITHIN, |percent| percent / 100.0);
    let found = compare(&a, &b, same_within).map_err(to_wrong_use)?;
    let mut output = args.output.open()?;
    write(&found, args.output.format, &mut output)?;
    output.finish()?;
    found
        .remarks()
        .iter()
        .for_each(|remark| eprintln!("{remark}"));
    match args.fail_if_slower {
        None => Ok(Outcome::Done),
        Some(percent) => judge(&found, percent),
    }
}

fn write(found: &Comparison, format: Format, output: &mut Output) -> anyhow::Result<()> {
    match format {
        Format::Json => writeln!(output, "{}", serde_json::to_string_pretty(found)?)?,
        Format::Csv => write!(output, "{}", found.table().to_csv())?,
        Format::Markdown => writeln!(output, "{}", found.table().to_markdown())?,
        Format::Table => writeln!(output, "{}", found.table().to_text())?,
    }
    Ok(())
}

/// Whether B is as fast as it must be.
fn judge(found: &Comparison, percent: f64) -> anyhow::Result<Outcome> {
    anyhow::ensure!(
        !found.b.has_failed,
        "{} failed its own checks: its speeds are not whole",
        found.b.file
    );
    anyhow::ensure!(
        !found.rows.is_empty(),
        "nothing to compare: no row of {} is in {}",
        found.a.file,
        found.b.file
    );
    let slower = found.slower().count();
    anyhow::ensure!(
        slower == 0,
        "{slower} of {} rows are slower by more than {}%: see above",
        found.rows.len(),
        percent
    );
    Ok(Outcome::Done)
}
