//! The file of an experiment: what ran where, and every cell with all its samples.

use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ExperimentError;
use crate::measure::environment::Environment;
use crate::report::pending_file::PendingFile;

/// What a result file holds. The names of the JSON fields are a contract.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResultFile {
    /// The experiment's name.
    pub experiment: String,
    /// How far it came.
    pub status: Status,
    /// The machine and the program.
    pub environment: Environment,
    /// The device that was asked for, as `auto` turned out.
    pub device: String,
    /// What was to be measured.
    pub plan: Value,
    /// Seconds that all cells took together.
    pub seconds: f64,
    /// What was found, in the plan's order.
    pub cells: Vec<CellRecord>,
}

/// How far an experiment came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Every cell of the plan was measured, or can't be here.
    Done,
    /// Cells are missing: the same command goes on.
    Partial,
    /// Something failed.
    Failed,
}

/// What came of one cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CellRecord {
    /// The cell's name in its plan.
    pub id: String,
    /// How it came out.
    pub outcome: CellOutcome,
    /// Why it was not measured, or what failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Seconds it took.
    pub seconds: f64,
    /// When it ended, in seconds since 1970.
    pub unix_time: u64,
    /// What was measured: see the experiment.
    #[serde(skip_serializing_if = "Value::is_null", default)]
    pub result: Value,
}

/// How a cell came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CellOutcome {
    /// It has a result.
    Measured,
    /// It can't be measured here.
    NotMeasured,
    /// It failed, or its output was wrong.
    Failed,
}

impl CellRecord {
    /// What was measured, read as `T`; `None` if nothing was.
    ///
    /// # Errors
    /// A result of another form.
    pub fn measured<T: serde::de::DeserializeOwned>(&self) -> Result<Option<T>, serde_json::Error> {
        match self.outcome {
            CellOutcome::Measured => Ok(Some(serde_json::from_value(self.result.clone())?)),
            _ => Ok(None),
        }
    }

    /// Why nothing was measured; `None` if something was.
    pub fn missing(&self) -> Option<String> {
        let reason = self.reason.clone().unwrap_or_default();
        match self.outcome {
            CellOutcome::Measured => None,
            CellOutcome::NotMeasured => Some(format!("not measured: {reason}")),
            CellOutcome::Failed => Some(format!("failed: {reason}")),
        }
    }
}

/// What was not measured, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// What it was to be: an engine, a meter.
    pub what: String,
    /// Why.
    pub reason: String,
}

/// All of them in one line, a reason of several once: `a, b: reason; c: reason`.
pub fn list_missing(missing: &[Missing]) -> String {
    let mut reasons: Vec<(Vec<&str>, &str)> = Vec::new();
    for Missing { what, reason } in missing {
        match reasons.iter_mut().find(|(_, known)| known == reason) {
            Some((names, _)) => names.push(what),
            None => reasons.push((vec![what], reason)),
        }
    }
    let told = reasons
        .iter()
        .map(|(names, reason)| format!("{}: {reason}", names.join(", ")));
    told.collect::<Vec<_>>().join("; ")
}

/// What all measured cells hold, in order, with their names.
///
/// # Errors
/// A result of another form.
pub fn measured<T: serde::de::DeserializeOwned>(
    cells: &[CellRecord],
) -> Result<Vec<(&str, T)>, serde_json::Error> {
    let results = cells
        .iter()
        .map(|cell| Ok((cell.id.as_str(), cell.measured()?)));
    let found = |(id, result): (_, Option<T>)| result.map(|result| (id, result));
    let results = results.filter_map(|result| result.map(found).transpose());
    results.collect()
}

impl ResultFile {
    /// The record of the cell called `id`.
    pub fn cell(&self, id: &str) -> Option<&CellRecord> {
        self.cells.iter().find(|cell| cell.id == id)
    }

    /// Reads a result; `None` where there is no such file.
    ///
    /// # Errors
    /// A file that can't be read, or is no result.
    pub fn read(path: &Path) -> Result<Option<Self>, ExperimentError> {
        let bytes = match std::fs::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(|source| ExperimentError::System {
                what: path.display().to_string(),
                source,
            })?,
        };
        let file = serde_json::from_slice(&bytes);
        file.map(Some).map_err(|error| ExperimentError::NoResult {
            path: path.to_owned(),
            reason: error.to_string(),
        })
    }

    /// Writes it, beside its place and then renamed.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn write(&self, path: &Path) -> Result<(), ExperimentError> {
        let written = || {
            let mut pending = PendingFile::create(path)?;
            serde_json::to_writer_pretty(&mut pending, self)?;
            pending.write_all(b"\n")?;
            pending.commit()
        };
        written().map_err(|source| ExperimentError::System {
            what: path.display().to_string(),
            source,
        })
    }

    /// What must be the same for a run to go on with it, in words.
    pub(super) fn origin(&self) -> String {
        let Environment {
            cpu, git_revision, ..
        } = &self.environment;
        format!(
            "revision {git_revision} on {} ({} cores), device {}",
            cpu.as_deref().unwrap_or("an unnamed processor"),
            self.environment.cores,
            self.device
        )
    }
}
