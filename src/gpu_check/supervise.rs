//! Runs the parts one after the other, each in a process of its own: a kernel that faults takes its
//! process's GPU along, one that hangs can only be ended from outside, and what the others found is
//! kept either way.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::results::{self, PartFile, Recorder, Status};
use super::{Deadline, GpuCheckError, Part};
use crate::report::table::{Cell, Column, Table};

/// Of the limit, what the parts may plan with; the rest is for ending what is under way.
const PLANNED: f64 = 0.9;

/// How often it is looked whether a part has ended.
const LOOK: Duration = Duration::from_millis(50);

/// Reasons of one part that the table shows.
const SHOWN_REASONS: usize = 3;

/// What to run, and where results go.
#[derive(Clone, Debug)]
pub struct Plan {
    /// `cuda` or `emulated`, for the parts' command line.
    pub device: &'static str,
    /// What the device is.
    pub gpu: Value,
    /// All parts together take no longer.
    pub limit: Duration,
    /// Where results go.
    pub folder: PathBuf,
}

/// Runs all parts.
///
/// # Errors
/// If the folder already holds results, or can't be written. What parts find, and whether they
/// fail, is in the result.
pub fn run(plan: &Plan, progress: &mut dyn FnMut(&str)) -> Result<Vec<PartFile>, GpuCheckError> {
    let folder = &plan.folder;
    std::fs::create_dir_all(folder)?;
    let paths = Part::ALL.map(|part| results::path(folder, part.name()));
    if let Some(path) = paths.into_iter().find(|path| path.exists()) {
        return Err(GpuCheckError::Occupied { path });
    }
    let hard = Deadline::after(plan.limit);
    let planned = hard.share(PLANNED);
    let mut files = Vec::new();
    for part in Part::ALL {
        let left = planned.left().as_secs_f64();
        let least = part.least_seconds();
        if left < least {
            let limit = plan.limit.as_secs_f64();
            let reason = format!(
                "the limit of {limit} s left {left:.1} s for it, and it is not begun with less than {least} s"
            );
            let mut recorder = Recorder::new(part, folder, plan.device, plan.gpu.clone());
            recorder.give_up(reason)?;
            files.push(recorder.file().clone());
            continue;
        }
        let time = planned.share(part.share()).left();
        progress(&format!(
            "{}: up to {:.0} s: {}",
            part.name(),
            time.as_secs_f64(),
            part.describe()
        ));
        let ended = run_part(part, plan, time, &hard)?;
        files.push(after(part, plan, ended)?);
    }
    Ok(files)
}

/// How a part's process ended; `None` if it had to be ended.
fn run_part(
    part: Part,
    plan: &Plan,
    time: Duration,
    hard: &Deadline,
) -> Result<Option<ExitStatus>, GpuCheckError> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["gpu-check", "--part", part.name(), "--device", plan.device])
        .args(["--limit", &time.as_secs_f64().to_string()])
        .arg("--output")
        .arg(&plan.folder);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = command.spawn()?;
    // A part looks at the clock between two measurements; this is for one that hangs.
    let end = Deadline::after((time.mul_f64(1.5) + Duration::from_secs(10)).min(hard.left()));
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if end.has_come() {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(LOOK);
    }
}

/// What the part left, with the reason where its process did not end well.
fn after(part: Part, plan: &Plan, ended: Option<ExitStatus>) -> Result<PartFile, GpuCheckError> {
    let reason = match ended {
        Some(status) if status.success() => None,
        Some(status) => Some(format!("its process ended with {status}")),
        None => Some("it did not end in its time, and its process was ended".to_owned()),
    };
    let found = results::read(&plan.folder, part);
    let Some(reason) = reason else {
        if let Some(file) = found {
            return Ok(file);
        }
        let mut recorder = Recorder::new(part, &plan.folder, plan.device, plan.gpu.clone());
        recorder.give_up("its process wrote nothing")?;
        return Ok(recorder.file().clone());
    };
    let mut file = match found {
        Some(file) => file,
        None => Recorder::new(part, &plan.folder, plan.device, plan.gpu.clone())
            .file()
            .clone(),
    };
    // A process that crashes is a failure of what it checked; one that is slow is not.
    if ended.is_some() {
        file.status = Status::Failed;
    }
    file.reason = Some(reason);
    results::write(&plan.folder, &file)?;
    Ok(file)
}

/// The table of what was found.
pub fn table(files: &[PartFile]) -> Table {
    let mut table = Table::new([
        Column::text("part"),
        Column::text("what"),
        Column::text("result"),
    ]);
    for file in files {
        let mut push = |what: &str, result: String| {
            table.push([&file.part, what, &result].map(Cell::text));
        };
        let reason = file.reason.as_ref().map(|reason| format!(": {reason}"));
        let status = file.status.name();
        push("status", format!("{status}{}", reason.unwrap_or_default()));
        for line in &file.summary {
            push(&line.what, line.result.clone());
        }
        for line in file.not_measured.iter().take(SHOWN_REASONS) {
            push(&line.what, format!("not measured: {}", line.result));
        }
        if let Some(more) = file.not_measured.len().checked_sub(SHOWN_REASONS)
            && more > 0
        {
            push("others", format!("not measured: {more} more, in its file"));
        }
    }
    table
}

/// Whether nothing that was checked has failed.
pub fn has_passed(files: &[PartFile]) -> bool {
    files.iter().all(|file| file.status != Status::Failed)
}

/// A folder's name for results of this GPU: `gpu-check-nvidia-h200`.
pub fn default_folder(gpu: &Value) -> PathBuf {
    let name = gpu["name"].as_str().unwrap_or("gpu");
    let name = name.split(':').next().unwrap_or(name).to_lowercase();
    let words = name.split(|c: char| !c.is_ascii_alphanumeric());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    Path::new(&format!("gpu-check-{}", words.join("-"))).to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_folder_is_named_after_the_gpu() {
        let name = default_folder(&json!({"name": "NVIDIA GeForce RTX 4090"}));
        assert_eq!(name, Path::new("gpu-check-nvidia-geforce-rtx-4090"));
    }

    #[cfg(unix)]
    #[test]
    fn a_process_that_crashed_is_a_failure_and_what_it_wrote_is_kept() {
        use std::os::unix::process::ExitStatusExt;
        let folder = tempfile::tempdir().unwrap();
        let plan = Plan {
            device: "emulated",
            gpu: json!({}),
            limit: Duration::from_secs(1),
            folder: folder.path().to_owned(),
        };
        let mut recorder = Recorder::new(Part::Decode, folder.path(), "emulated", json!({}));
        recorder
            .write(Status::Partial, &json!({"kept": 1}), Vec::new())
            .unwrap();
        let segmentation_fault = ExitStatus::from_raw(11);
        let file = after(Part::Decode, &plan, Some(segmentation_fault)).unwrap();
        assert_eq!(file.status, Status::Failed);
        assert_eq!(file.findings, json!({"kept": 1}));
        assert_eq!(results::read(folder.path(), Part::Decode).unwrap(), file);
        let slow = after(Part::Options, &plan, None).unwrap();
        assert_eq!(slow.status, Status::NotMeasured);
        assert!(slow.reason.unwrap().contains("did not end"));
        assert!(!has_passed(&[file]));
    }
}
