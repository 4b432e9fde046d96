//! `onegrid report`: result files as a page, and its charts as SVG files.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;

use super::{Outcome, WrongUse};
use crate::report::pending_file::PendingFile;
use crate::results::{Document, ResultsError, page};

/// Make a page of result files: what ran where, tables, charts, and what was not measured
///
/// Takes what `onegrid experiment`, `onegrid bench --format json` and `onegrid gpu-check` write, in any
/// mix. The page is one file, without scripts, that needs nothing else.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Result files, in the order in which they are shown
    #[arg(value_name = "FILES", required = true)]
    files: Vec<PathBuf>,

    /// Write the page to this file, which appears when it is whole
    #[arg(long, short, value_name = "FILE", required_unless_present = "svg")]
    output: Option<PathBuf>,

    /// Write each chart to this folder as an SVG file, named after its section and title
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,

    /// Title of the page
    #[arg(long, default_value = "onegrid: what was measured")]
    title: String,
}

/// Runs the command.
///
/// # Errors
/// A file that is no result; a place that can't be written.
pub fn run(args: &ReportArgs) -> anyhow::Result<Outcome> {
    let documents: Result<Vec<_>, _> = args.files.iter().map(|path| Document::read(path)).collect();
    let page = documents.and_then(|documents| page::page(&args.title, &documents));
    let page = page.map_err(to_wrong_use)?;
    if let Some(path) = &args.output {
        write(path, &page.to_html())?;
        eprintln!("report: {}", path.display());
    }
    if let Some(folder) = &args.svg {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("--svg: cannot make {}", folder.display()))?;
        for (name, chart) in page.charts() {
            let path = folder.join(name);
            write(&path, &chart)?;
            eprintln!("chart: {}", path.display());
        }
    }
    Ok(Outcome::Done)
}

fn write(path: &Path, content: &str) -> anyhow::Result<()> {
    let written = || {
        let mut file = PendingFile::create(path)?;
        file.write_all(content.as_bytes())?;
        file.commit()
    };
    written().with_context(|| format!("cannot write {}", path.display()))
}

/// What another command line could mend is wrong use.
pub(super) fn to_wrong_use(error: ResultsError) -> anyhow::Error {
    match error {
        error @ (ResultsError::Read { .. } | ResultsError::Damaged { .. }) => error.into(),
        error => WrongUse(error.to_string()).into(),
    }
}
