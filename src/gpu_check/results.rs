//! The file that a part writes: the machine, the program, and everything that was found, every
//! sample included. It is written again whenever there is more, beside its place and then renamed,
//! so that whatever ends the part leaves what it had.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{GpuCheckError, Part};
use crate::measure::environment::Environment;
use crate::report::pending_file::PendingFile;

/// How far a part came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// All of it was done, and what it checks holds.
    Done,
    /// What was done holds; the rest is named.
    Partial,
    /// Something that was checked does not hold.
    Failed,
    /// Nothing was done.
    NotMeasured,
}

impl Status {
    /// For tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Partial => "partial",
            Self::Failed => "FAILED",
            Self::NotMeasured => "not measured",
        }
    }
}

/// A line of the table at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// What was checked or measured.
    pub what: String,
    /// How it came out, with its unit.
    pub result: String,
}

/// What a part's file holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartFile {
    /// The part's name.
    pub part: String,
    /// How far it came.
    pub status: Status,
    /// Why it came no farther.
    pub reason: Option<String>,
    /// What was not reached, or could not be done, and why.
    pub not_measured: Vec<Line>,
    /// `cuda` or `emulated`.
    pub device: String,
    /// Seconds it took so far.
    pub seconds: f64,
    /// The machine and the program.
    pub environment: Environment,
    /// The GPU, its driver and clocks, and what the kernels were compiled with.
    pub gpu: Value,
    /// For the table at the end.
    pub summary: Vec<Line>,
    /// What was found: see the part.
    pub findings: Value,
}

/// Keeps a part's file.
#[derive(Debug)]
pub struct Recorder {
    folder: PathBuf,
    file: PartFile,
    started: Instant,
}

impl Recorder {
    /// For `part` on `device`, in `folder`. Nothing is written yet.
    pub fn new(part: Part, folder: &Path, device: &str, gpu: Value) -> Self {
        Self {
            folder: folder.to_owned(),
            file: PartFile {
                part: part.name().to_owned(),
                status: Status::NotMeasured,
                reason: None,
                not_measured: Vec::new(),
                device: device.to_owned(),
                seconds: 0.0,
                environment: Environment::current(),
                gpu,
                summary: Vec::new(),
                findings: Value::Null,
            },
            started: Instant::now(),
        }
    }

    /// Where all parts have their files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Notes the clocks of the GPU, or whatever else it is known by.
    pub fn note(&mut self, name: &str, value: Value) {
        if let Value::Object(gpu) = &mut self.file.gpu {
            gpu.insert(name.to_owned(), value);
        }
    }

    /// Notes that `what` was not measured, and why.
    pub fn skip(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.file.not_measured.push(Line {
            what: what.into(),
            result: why.into(),
        });
    }

    /// Writes what was found so far.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn write(
        &mut self,
        status: Status,
        findings: &impl Serialize,
        summary: Vec<Line>,
    ) -> Result<(), GpuCheckError> {
        self.file.status = status;
        self.file.findings = serde_json::to_value(findings)?;
        self.file.summary = summary;
        self.save()
    }

    /// Writes that the part could not be done, or not to its end.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn give_up(&mut self, reason: impl Into<String>) -> Result<(), GpuCheckError> {
        self.file.reason = Some(reason.into());
        if self.file.status == Status::Done {
            self.file.status = Status::Partial;
        }
        self.save()
    }

    /// Writes that the part failed.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn fail(&mut self, reason: impl Into<String>) -> Result<(), GpuCheckError> {
        self.file.reason = Some(reason.into());
        self.file.status = Status::Failed;
        self.save()
    }

    /// What was recorded.
    pub fn file(&self) -> &PartFile {
        &self.file
    }

    fn save(&mut self) -> Result<(), GpuCheckError> {
        self.file.seconds = self.started.elapsed().as_secs_f64();
        write(&self.folder, &self.file)
    }
}

/// Where the file of the part called `part` is.
pub fn path(folder: &Path, part: &str) -> PathBuf {
    folder.join(format!("{part}.json"))
}

/// Writes a part's file.
///
/// # Errors
/// If it can't be written.
pub fn write(folder: &Path, file: &PartFile) -> Result<(), GpuCheckError> {
    let mut pending = PendingFile::create(&path(folder, &file.part))?;
    serde_json::to_writer_pretty(&mut pending, file)?;
    pending.write_all(b"\n")?;
    Ok(pending.commit()?)
}

/// Reads a part's file; `None` where it has none.
pub fn read(folder: &Path, part: Part) -> Option<PartFile> {
    let text = std::fs::read(path(folder, part.name())).ok()?;
    serde_json::from_slice(&text).ok()
}
