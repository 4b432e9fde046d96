//! Result files of every kind: read, shown on a page, compared with each other.
//!
//! - here: the kinds, told apart by what is in a file
//! - [`page`]: files as parts of a report
//! - [`rows`]: what was measured in a file, row by row
//! - [`mod@compare`]: the rows of two files beside each other

pub mod compare;
pub mod page;
pub mod rows;

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::experiment;
use crate::experiment::result::ResultFile;
use crate::gpu_check::results::PartFile;
use crate::measure::decode::report::Report;
use crate::measure::environment::Environment;

/// A result file.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Where it was read.
    pub path: PathBuf,
    /// What it holds.
    pub content: Content,
    /// The same as JSON.
    pub json: Value,
}

/// What a result file holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Of `onegrid bench --format json`.
    Bench(Box<Report>),
    /// A part of `onegrid gpu-check`.
    GpuCheck(Box<PartFile>),
    /// Of `onegrid experiment`.
    Experiment(Box<ResultFile>),
}

/// The kinds of files there are, for messages.
const KINDS: &str = "a result of `onegrid experiment`, of `onegrid bench --format json`, or of a \
                     part of `onegrid gpu-check`";

/// A file that is no result, or not what it says.
#[derive(Debug, thiserror::Error)]
pub enum ResultsError {
    /// It can't be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// A folder.
    #[error("{} is a folder; expected {KINDS}: name the files in it", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
    },
    /// It is something else.
    #[error("{} is {found}; expected {KINDS}", path.display())]
    NoResult {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: String,
    },
    /// It has the fields that tell its kind, and others are wrong.
    #[error("{} looks like {kind}, but is damaged or of another version: {source}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which kind.
        kind: &'static str,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// An experiment that this version does not have.
    #[error(
        "{} is of the experiment '{name}', which this version does not know; it knows {known}",
        path.display()
    )]
    UnknownExperiment {
        /// The file.
        path: PathBuf,
        /// The experiment's name.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// Two files that can't be compared.
    #[error(
        "{} is {found_a} and {} is {found_b}; expected two results of the same kind",
        a.display(), b.display()
    )]
    DifferentKinds {
        /// The first file.
        a: PathBuf,
        /// What it is.
        found_a: String,
        /// The second file.
        b: PathBuf,
        /// What it is.
        found_b: String,
    },
}

impl Document {
    /// Reads a result file, and says of which kind it is.
    ///
    /// # Errors
    /// What can't be read, or is no result.
    pub fn read(path: &Path) -> Result<Self, ResultsError> {
        if path.is_dir() {
            let path = path.to_owned();
            return Err(ResultsError::Folder { path });
        }
        let bytes = std::fs::read(path).map_err(|source| ResultsError::Read {
            path: path.to_owned(),
            source,
        })?;
        let no_result = |found: String| ResultsError::NoResult {
            path: path.to_owned(),
            found,
        };
        let json: Value = serde_json::from_slice(&bytes).map_err(|error| {
            no_result(match error.is_eof() {
                true if bytes.is_empty() => "empty".into(),
                true => format!("JSON that was cut off ({error})"),
                false => format!("no JSON ({error})"),
            })
        })?;
        let has = |field: &str| json.get(field).is_some();
        let content = if has("experiment") && has("cells") {
            Content::Experiment(typed(path, &json, "a result of `onegrid experiment`")?)
        } else if has("part") && has("findings") {
            Content::GpuCheck(typed(path, &json, "a part of `onegrid gpu-check`")?)
        } else if has("environment") && has("runs") {
            Content::Bench(typed(path, &json, "a result of `onegrid bench`")?)
        } else {
            return Err(no_result(describe(&json)));
        };
        Ok(Self {
            path: path.to_owned(),
            content,
            json,
        })
    }

    /// The machine and the program that made it.
    pub fn environment(&self) -> &Environment {
        match &self.content {
            Content::Bench(report) => &report.environment,
            Content::GpuCheck(file) => &file.environment,
            Content::Experiment(file) => &file.environment,
        }
    }

    /// What it is, in words; two files can be compared if this is the same.
    pub fn kind(&self) -> String {
        match &self.content {
            Content::Bench(_) => "a result of bench".into(),
            Content::GpuCheck(file) => format!("the part {} of gpu-check", file.part),
            Content::Experiment(file) => format!("a result of the experiment {}", file.experiment),
        }
    }

    /// The experiment that it is of.
    ///
    /// # Errors
    /// One that this version does not have.
    fn experiment(&self, file: &ResultFile) -> Result<&'static experiment::Kind, ResultsError> {
        experiment::find(&file.experiment).ok_or_else(|| {
            let names: Vec<_> = experiment::ALL.iter().map(|kind| kind.name).collect();
            ResultsError::UnknownExperiment {
                path: self.path.clone(),
                name: file.experiment.clone(),
                known: names.join(", "),
            }
        })
    }
}

fn typed<T: DeserializeOwned>(
    path: &Path,
    json: &Value,
    kind: &'static str,
) -> Result<Box<T>, ResultsError> {
    let content = T::deserialize(json).map_err(|source| ResultsError::Damaged {
        path: path.to_owned(),
        kind,
        source,
    })?;
    Ok(Box::new(content))
}

/// JSON that is no result.
fn describe(json: &Value) -> String {
    /// Fields that a message names.
    const NAMED: usize = 6;
    match json {
        Value::Object(fields) => {
            let mut names: Vec<_> = fields.keys().take(NAMED).map(String::as_str).collect();
            if fields.len() > NAMED {
                names.push("...");
            }
            format!("JSON with the fields {}", names.join(", "))
        }
        Value::Array(_) => "a JSON array".into(),
        _ => "a single JSON value".into(),
    }
}

#[cfg(test)]
mod tests;
