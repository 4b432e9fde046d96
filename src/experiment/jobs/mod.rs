//! Shards as jobs: of a cluster, or of processes on this machine.
//!
//! - here: what was submitted, and what a further submission has to run
//! - [`script`]: the one batch script, each of whose tasks measures a shard
//! - [`slurm`]: its tasks as a job array of Slurm
//! - [`local`]: its tasks as processes
//! - [`shards`]: how far the shards are, by their files
//!
//! What is done is read from results, never from a queue: clusters forget jobs that have ended.

pub mod local;
pub mod script;
pub mod shards;
pub mod slurm;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ExperimentError;
use super::result::ResultFile;
use super::shard::{self, FOLDER, Shard};
use crate::measure::environment::Environment;
use crate::report::pending_file::PendingFile;
use script::Script;
use shards::Shards;
use slurm::SlurmOptions;

/// What keeps shards from being submitted.
#[derive(Debug, thiserror::Error)]
pub enum JobsError {
    /// A program that is not there.
    #[error("there is no {program} on PATH: {advice}")]
    NoProgram {
        /// Its name.
        program: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// A program that said no.
    #[error("{program} refused: {reason}")]
    Refused {
        /// Its name.
        program: &'static str,
        /// Its words.
        reason: String,
    },
    /// A queue that does not say whether a job is at its end.
    #[error(
        "can't tell whether {job} is at its end: {source}; if it is, remove {}", record.display()
    )]
    Unknown {
        /// The job.
        job: String,
        /// Why.
        source: Box<JobsError>,
        /// The file that names the job.
        record: PathBuf,
    },
    /// A file in the place of the record of what was submitted.
    #[error("{}: {reason}; expected is what --submit keeps there", path.display())]
    NoRecord {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// More tasks than an earlier submission was divided into, or fewer.
    #[error(
        "{} holds {found} shards, and --shards asks for {asked}: leave it out, or name another folder \
         with --output", folder.display()
    )]
    OtherCount {
        /// The folder of shards.
        folder: PathBuf,
        /// How many shards there are.
        found: usize,
        /// How many were asked for.
        asked: usize,
    },
    /// Results, or the plan.
    #[error(transparent)]
    Experiment(#[from] ExperimentError),
}

/// Where jobs run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Queue {
    /// A cluster's.
    Slurm,
    /// Processes of this machine.
    Local,
}

/// Shards that were submitted together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Where they run.
    pub queue: Queue,
    /// Its number: of the job array, or of the process group.
    pub id: u64,
    /// The cluster, where there are several.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cluster: Option<String>,
    /// The file that the processes of a local job hold locked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lock: Option<PathBuf>,
    /// Its shards, from 1 on.
    pub shards: Vec<usize>,
    /// When it was submitted, in seconds since 1970.
    pub unix_time: u64,
}

/// Which shards of a job are not at their end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// They run, or wait.
    pub shards: BTreeSet<usize>,
    /// What they do, in words: `2 running, 3 waiting (Resources)`.
    pub words: String,
}

impl Job {
    /// Which of its shards are not at their end.
    ///
    /// # Errors
    /// A queue that does not answer.
    pub fn activity(&self) -> Result<Activity, JobsError> {
        match self.queue {
            Queue::Slurm => slurm::activity(self),
            Queue::Local => local::activity(self),
        }
    }

    /// Its name: `job 4711`.
    pub fn name(&self) -> String {
        match (self.queue, &self.cluster) {
            (Queue::Slurm, None) => format!("job {}", self.id),
            (Queue::Slurm, Some(cluster)) => format!("job {} of {cluster}", self.id),
            (Queue::Local, _) => format!("process group {}", self.id),
        }
    }

    /// The command that ends it.
    pub fn cancel_command(&self) -> String {
        match (self.queue, &self.cluster) {
            (Queue::Slurm, None) => format!("scancel {}", self.id),
            (Queue::Slurm, Some(cluster)) => format!("scancel --clusters={cluster} {}", self.id),
            (Queue::Local, _) => format!("kill -- -{}", self.id),
        }
    }
}

/// What was submitted of an experiment into one folder. It lies beside the shards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The experiment's name.
    pub experiment: String,
    /// The program that the jobs run.
    pub git_revision: String,
    /// Into how many shards the plan is divided.
    pub shards: usize,
    /// The plan, as it is carried out.
    pub plan: Value,
    /// Every submission.
    pub jobs: Vec<Job>,
}

impl Record {
    /// The file of the record.
    pub fn path(experiment: &str, folder: &Path) -> PathBuf {
        folder
            .join(FOLDER)
            .join(format!("{experiment}.submission.json"))
    }

    fn read(path: &Path) -> Result<Option<Self>, JobsError> {
        let bytes = match std::fs::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(|source| system(path.display(), source))?,
        };
        let record = serde_json::from_slice(&bytes);
        record.map(Some).map_err(|error| JobsError::NoRecord {
            path: path.to_owned(),
            reason: error.to_string(),
        })
    }

    fn write(&self, path: &Path) -> Result<(), JobsError> {
        write(path, |file| {
            serde_json::to_writer_pretty(&mut *file, self)?;
            file.write_all(b"\n")
        })
    }
}

/// What to submit.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The experiment's name.
    pub experiment: &'static str,
    /// The folder that the result goes to, absolute.
    pub folder: PathBuf,
    /// The plan as its file has it: tasks read a copy, so that the file may be edited.
    pub plan_text: &'a str,
    /// The plan as it is carried out.
    pub plan: Value,
    /// Its cells.
    pub cells: usize,
    /// How many shards to divide it into; without it as many as before, or one for each cell.
    pub shards: Option<usize>,
    /// Where to.
    pub target: Target,
    /// What each task runs.
    pub script: Script,
}

/// Where a submission goes, and what can be chosen there.
#[derive(Clone, Debug)]
pub enum Target {
    /// To Slurm.
    Slurm(SlurmOptions),
    /// To processes, so many at a time.
    Local {
        /// How many at a time.
        parallel: usize,
    },
}

/// What became of a request.
#[derive(Clone, Debug)]
pub struct Submitted {
    /// The new job; `None` if all that is missing runs or waits already, or nothing is missing.
    pub new: Option<Job>,
    /// All jobs with shards that are not at their end, the new one included.
    pub active: Vec<Job>,
    /// How many shards there are.
    pub shards: usize,
}

/// Submits all shards that have no whole result and are in no job that still runs.
///
/// # Errors
/// Shards of another plan, program or number in the folder; a queue that is not there or refuses.
pub fn submit(request: &Request) -> Result<Submitted, JobsError> {
    let shards_folder = request.folder.join(FOLDER);
    std::fs::create_dir_all(&shards_folder)
        .map_err(|source| system(format!("cannot make {}", shards_folder.display()), source))?;
    let record_path = Record::path(request.experiment, &request.folder);
    let mut record = match Record::read(&record_path)? {
        Some(record) => record,
        None => request.fresh_record(&shards_folder)?,
    };
    request.check(&record, &record_path)?;
    if let Some(asked) = request.asked().filter(|asked| *asked != record.shards) {
        return Err(JobsError::OtherCount {
            folder: shards_folder,
            found: record.shards,
            asked,
        });
    }
    let mut shards = Shards::new(request.experiment, &request.folder, record.shards);
    shards.look()?;
    let mut missing = shards.missing();
    let mut active = Vec::new();
    for job in &record.jobs {
        // A job whose shards have their results needs no question.
        if !job.shards.iter().any(|shard| missing.contains(shard)) {
            continue;
        }
        let activity = job.activity().map_err(|source| JobsError::Unknown {
            job: job.name(),
            source: Box::new(source),
            record: record_path.clone(),
        })?;
        missing.retain(|shard| !activity.shards.contains(shard));
        if !activity.shards.is_empty() {
            active.push(job.clone());
        }
    }
    let mut new = None;
    if !missing.is_empty() {
        let script_path = request.write_files(&shards_folder, record.shards)?;
        let task = TaskFiles {
            experiment: request.experiment,
            folder: &shards_folder,
            script: &script_path,
            shards: record.shards,
            missing,
        };
        let job = match &request.target {
            Target::Slurm(options) => slurm::submit(&task, options)?,
            Target::Local { parallel } => local::submit(&task, *parallel, record.jobs.len() + 1)?,
        };
        record.jobs.push(job.clone());
        active.push(job.clone());
        new = Some(job);
    }
    record.write(&record_path)?;
    Ok(Submitted {
        new,
        active,
        shards: record.shards,
    })
}

/// What a queue is told of a submission.
struct TaskFiles<'a> {
    experiment: &'static str,
    /// The folder of shards.
    folder: &'a Path,
    script: &'a Path,
    /// How many there are.
    shards: usize,
    /// Those that are to run, from 1 on, not empty.
    missing: Vec<usize>,
}

impl TaskFiles<'_> {
    fn job(&self, queue: Queue, id: u64) -> Job {
        Job {
            queue,
            id,
            cluster: None,
            lock: None,
            shards: self.missing.clone(),
            unix_time: Environment::now(),
        }
    }
}

/// The file that the task of a shard writes its messages to.
pub fn log_path(experiment: &str, folder: &Path, shard: Shard) -> PathBuf {
    let name = shard.file_name(experiment);
    folder.join(FOLDER).join(name).with_extension("log")
}

impl Request<'_> {
    /// How many shards were asked for, but no more than there are cells: one without cells would never
    /// have a result.
    fn asked(&self) -> Option<usize> {
        self.shards.map(|asked| asked.min(self.cells))
    }

    /// The record of a folder into which nothing was submitted. It may hold shards that were measured
    /// by hand.
    fn fresh_record(&self, shards_folder: &Path) -> Result<Record, JobsError> {
        let found = shard::counts(self.experiment, shards_folder)?;
        let shards = match (found.first(), self.asked()) {
            (Some(count), _) => *count,
            (None, asked) => asked.unwrap_or(self.cells),
        };
        let asked = self.asked().unwrap_or(shards);
        if let Some(other) = found.iter().find(|count| **count != asked) {
            return Err(JobsError::OtherCount {
                folder: shards_folder.to_owned(),
                found: *other,
                asked,
            });
        }
        Ok(Record {
            experiment: self.experiment.to_owned(),
            git_revision: Environment::current().git_revision,
            shards,
            plan: self.plan.clone(),
            jobs: Vec::new(),
        })
    }

    /// That what is in the folder is of this plan and of this program.
    fn check(&self, record: &Record, record_path: &Path) -> Result<(), JobsError> {
        let revision = Environment::current().git_revision;
        let check = |path: &Path, plan: &Value, found: &str| {
            let (found, expected) = if *plan != self.plan {
                ("another plan".to_owned(), "this one".to_owned())
            } else if found != revision {
                let words = |revision: &str| format!("revision {revision}");
                (words(found), words(&revision))
            } else {
                return Ok(());
            };
            let path = path.to_owned();
            Err(ExperimentError::OtherResult {
                path,
                found,
                expected,
            })
        };
        check(record_path, &record.plan, &record.git_revision)?;
        for shard in Shard::all(record.shards) {
            let path = self
                .folder
                .join(FOLDER)
                .join(shard.file_name(self.experiment));
            if let Some(file) = ResultFile::read(&path)? {
                check(&path, &file.plan, &file.environment.git_revision)?;
            }
        }
        Ok(())
    }

    /// Writes the plan and the batch script, and returns the latter's path.
    fn write_files(&self, shards_folder: &Path, shards: usize) -> Result<PathBuf, JobsError> {
        let name = |ending: &str| shards_folder.join(format!("{}.{ending}", self.experiment));
        let (plan, script) = (name("plan.toml"), name("sbatch"));
        write(&plan, |file| file.write_all(self.plan_text.as_bytes()))?;
        let text = self
            .script
            .text(self.experiment, &plan, &self.folder, shards);
        write(&script, |file| file.write_all(&text))?;
        Ok(script)
    }
}

fn write(
    path: &Path,
    fill: impl FnOnce(&mut PendingFile) -> std::io::Result<()>,
) -> Result<(), JobsError> {
    let written = || {
        let mut pending = PendingFile::create(path)?;
        fill(&mut pending)?;
        pending.commit()
    };
    written().map_err(|source| system(path.display(), source))
}

fn system(what: impl ToString, source: std::io::Error) -> JobsError {
    let what = what.to_string();
    ExperimentError::System { what, source }.into()
}
