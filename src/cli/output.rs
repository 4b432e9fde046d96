//! Where results go: standard output, or a file that appears whole.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, ValueEnum};

use crate::report::pending_file::PendingFile;

/// How results that are tables are written, and where.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// How the result is written
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,

    /// Write the result to this file, which appears when it is whole
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// How results that are text are written, and where.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct TextOutputArgs {
    /// How the result is written
    #[arg(long, value_enum, default_value_t)]
    pub format: TextFormat,

    /// Write the result to this file, which appears when it is whole
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Formats of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table for a terminal
    #[default]
    Table,
    /// One JSON object
    Json,
    /// Comma-separated values with a header line
    Csv,
    /// A Markdown table
    Markdown,
}

/// Formats of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TextFormat {
    /// The text alone
    #[default]
    Text,
    /// A JSON object on one line
    Json,
}

impl OutputArgs {
    /// Opens the place that the result goes to.
    ///
    /// # Errors
    /// If the file can't be made.
    pub fn open(&self) -> anyhow::Result<Output> {
        Output::open(self.output.as_ref())
    }
}

impl TextOutputArgs {
    /// Opens the place that the result goes to.
    ///
    /// # Errors
    /// If the file can't be made.
    pub fn open(&self) -> anyhow::Result<Output> {
        Output::open(self.output.as_ref())
    }
}

/// Standard output, or a file that appears with [`finish`](Output::finish).
#[derive(Debug)]
pub enum Output {
    /// Standard output.
    Stdout(io::Stdout),
    /// A file.
    File(PendingFile),
}

impl Output {
    fn open(path: Option<&PathBuf>) -> anyhow::Result<Self> {
        Ok(match path {
            None => Output::Stdout(io::stdout()),
            Some(path) => Output::File(
                PendingFile::create(path)
                    .with_context(|| format!("--output: cannot write {}", path.display()))?,
            ),
        })
    }

    /// Says that the result is whole.
    ///
    /// # Errors
    /// If the rest can't be written.
    pub fn finish(self) -> anyhow::Result<()> {
        match self {
            Output::Stdout(mut stdout) => Ok(stdout.flush()?),
            Output::File(file) => {
                let path = file.path().to_owned();
                file.commit()
                    .with_context(|| format!("--output: cannot write {}", path.display()))
            }
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Output::Stdout(stdout) => stdout.write(bytes),
            Output::File(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Output::Stdout(stdout) => stdout.flush(),
            Output::File(file) => file.flush(),
        }
    }
}
