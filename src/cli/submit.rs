//! `onegrid experiment --submit`: shards as jobs, and how far they are.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::parser::ValueSource;
use clap::{Args, CommandFactory, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::interrupt::Watch;
use super::{Cli, WrongUse};
use crate::experiment::jobs::script::Script;
use crate::experiment::jobs::shards::Shards;
use crate::experiment::jobs::slurm::{SlurmOptions, ranges};
use crate::experiment::jobs::{self, Job, JobsError, Queue, Request, Submitted, Target};
use crate::experiment::shard::FOLDER;

/// How often Ctrl-C is looked for.
const BLINK: Duration = Duration::from_millis(200);
/// How often results are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often a cluster's queue is asked, which many users do.
const ASK: Duration = Duration::from_secs(5);

/// Whether to submit, and what can be chosen of that.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Jobs")]
pub struct SubmitArgs {
    /// Measure the plan's cells as jobs, in parts, and come back at once; what has its result or is
    /// under way already is left out, so the same command again runs what is missing
    #[arg(long, value_enum, value_name = "QUEUE", conflicts_with_all = ["shard", "merge", "show_plan"])]
    pub submit: Option<SubmitTo>,

    /// Into how many parts [default: one for each cell]
    #[arg(long, value_name = "N", requires = "submit")]
    shards: Option<NonZeroUsize>,

    /// How many parts are measured at a time, at most [default: slurm: the cluster's limit, local: 1]
    #[arg(long, value_name = "K", requires = "submit")]
    max_parallel: Option<NonZeroUsize>,

    /// Slurm's partition
    #[arg(long, value_name = "P", requires = "submit")]
    partition: Option<String>,

    /// Slurm's generic resources of each task, like gpu:1; without them and without --threads a task
    /// has its node for itself
    #[arg(long, value_name = "G", requires = "submit")]
    gres: Option<String>,

    /// Follow the jobs to their end, and join the parts (--merge). Ctrl-C leaves the jobs
    #[arg(long, requires = "submit")]
    wait: bool,
}

/// Where jobs go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SubmitTo {
    /// One job array, through sbatch
    Slurm,
    /// Processes on this machine, which outlive this one
    Local,
}

/// The flags of `onegrid experiment` that say what is submitted, and how; a task gets all others.
const NOT_FORWARDED: [&str; 11] = [
    "name",
    "plan",
    "plan_folder",
    "output",
    "format",
    "submit",
    "shards",
    "max_parallel",
    "partition",
    "gres",
    "wait",
];

/// What is to be submitted of an experiment.
pub struct Plan<'a> {
    /// The experiment's name.
    pub name: &'static str,
    /// Its file.
    pub text: &'a str,
    /// What its paths start from.
    pub folder: &'a Path,
    /// As it is carried out.
    pub value: Value,
    /// How many cells it has.
    pub cells: usize,
    /// Where its result goes.
    pub output: &'a Path,
    /// Threads of each task, if they were given.
    pub threads: Option<NonZeroUsize>,
}

/// How a submission ended.
pub enum Ended {
    /// The jobs run on.
    Left,
    /// They are at their end, and their parts can be joined.
    Followed,
    /// The user pressed Ctrl-C. The jobs run on.
    Interrupted,
}

impl SubmitArgs {
    /// Submits what is missing, and follows it where that was asked for.
    ///
    /// # Errors
    /// Flags that the queue has not; parts of something else in the folder; a queue that refuses.
    pub fn run(&self, to: SubmitTo, plan: &Plan) -> anyhow::Result<Ended> {
        let request = Request {
            experiment: plan.name,
            folder: absolute(plan.output)?,
            plan_text: plan.text,
            plan: plan.value.clone(),
            cells: plan.cells,
            shards: self.shards.map(usize::from),
            target: self.target(to, plan)?,
            script: Script {
                program: std::env::current_exe().context("cannot find this program's own file")?,
                work_folder: absolute(Path::new("."))?,
                plan_folder: absolute(plan.folder)?,
                flags: forwarded(std::env::args_os())?,
            },
        };
        let submitted = jobs::submit(&request).map_err(to_wrong_use)?;
        self.report(&submitted, plan);
        if !self.wait {
            return Ok(Ended::Left);
        }
        let shards = Shards::new(plan.name, &request.folder, submitted.shards);
        follow(shards, &submitted, plan)
    }

    fn target(&self, to: SubmitTo, plan: &Plan) -> Result<Target, WrongUse> {
        if to == SubmitTo::Slurm {
            return Ok(Target::Slurm(SlurmOptions {
                partition: self.partition.clone(),
                gres: self.gres.clone(),
                max_parallel: self.max_parallel.map(usize::from),
                cpus: plan.threads.map(usize::from),
            }));
        }
        let flags = [("--partition", &self.partition), ("--gres", &self.gres)];
        if let Some((flag, _)) = flags.iter().find(|(_, value)| value.is_some()) {
            let reason =
                format!("{flag} is Slurm's, and --submit local runs processes here: leave it out");
            return Err(WrongUse(reason));
        }
        // Processes at the same time would slow each other down, and measure that.
        Ok(Target::Local {
            parallel: self.max_parallel.map_or(1, usize::from),
        })
    }

    fn report(&self, submitted: &Submitted, plan: &Plan) {
        if self
            .shards
            .is_some_and(|asked| asked.get() > submitted.shards)
        {
            let Submitted { shards, .. } = submitted;
            eprintln!("the plan has {shards} cells: {shards} shards are enough");
        }
        match &submitted.new {
            Some(job) => {
                if !self.wait {
                    println!("{}", job.id);
                }
                let of = submitted.shards;
                eprintln!("{}: shards {} of {of}", job.name(), ranges(&job.shards));
            }
            None if submitted.active.is_empty() => eprintln!("nothing is missing"),
            None => eprintln!("all that is missing is under way"),
        }
        if !self.wait {
            eprintln!(
                "the result so far: onegrid experiment {} --merge {}",
                plan.name,
                plan.output.display()
            );
            report_cancel(&submitted.active);
        }
    }
}

fn report_cancel(jobs: &[Job]) {
    for job in jobs {
        eprintln!("to end {}: {}", job.name(), job.cancel_command());
    }
}

/// Shows how far the jobs are, until they are at their end.
fn follow(mut shards: Shards, submitted: &Submitted, plan: &Plan) -> anyhow::Result<Ended> {
    let is_cluster = submitted.active.iter().any(|job| job.queue == Queue::Slurm);
    let (mut asked, mut queue) = (None::<Instant>, Ok(String::new()));
    let watch = Watch::begin();
    let bar = JobsBar::new(plan);
    let mut looked = None::<Instant>;
    loop {
        if watch.pressed() {
            drop(bar);
            eprintln!("the jobs run on; the same command follows them again");
            report_cancel(&submitted.active);
            return Ok(Ended::Interrupted);
        }
        if is_due(looked, LOOK) {
            looked = Some(Instant::now());
            // Before the results are read: what a job wrote at its end is seen then.
            if is_due(asked, if is_cluster { ASK } else { LOOK }) {
                asked = Some(Instant::now());
                queue = activity(&submitted.active);
            }
            shards.look()?;
            let words = match &queue {
                Ok(words) => words.clone(),
                Err(JobsError::NoProgram { .. }) => {
                    drop(bar);
                    return queue.map(|_| Ended::Left).map_err(to_wrong_use);
                }
                // It may be back soon, and the jobs need no answer.
                Err(error) => format!("{error}; asking again"),
            };
            bar.show(&shards, submitted.shards, &words);
            let is_ended = queue.as_ref().is_ok_and(String::is_empty);
            if is_ended || shards.missing().is_empty() {
                drop(bar);
                anyhow::ensure!(
                    shards.counts().cells > 0,
                    "no task measured anything: {}/{FOLDER}/{}.*.log has what they said",
                    plan.output.display(),
                    plan.name
                );
                return Ok(Ended::Followed);
            }
        }
        std::thread::sleep(BLINK);
    }
}

fn is_due(last: Option<Instant>, period: Duration) -> bool {
    last.is_none_or(|last| last.elapsed() >= period)
}

/// What the jobs do, in words; none if they are at their end.
fn activity(jobs: &[Job]) -> Result<String, JobsError> {
    let mut words = Vec::new();
    for job in jobs {
        words.push(job.activity()?.words);
    }
    words.retain(|words| !words.is_empty());
    Ok(words.join(", "))
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    // The parent of a file's mere name is empty.
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    std::path::absolute(path).with_context(|| path.display().to_string())
}

/// The flags that a task is given of a command line: those that were given, but for what only a
/// submission needs.
fn forwarded(line: impl Iterator<Item = OsString>) -> Result<Vec<OsString>, clap::Error> {
    let command = Cli::command();
    let matches = command.clone().try_get_matches_from(line)?;
    let experiment = command.find_subcommand("experiment");
    let (Some(experiment), Some(("experiment", matches))) = (experiment, matches.subcommand())
    else {
        return Ok(Vec::new());
    };
    let mut flags = Vec::new();
    for argument in experiment.get_arguments() {
        let id = argument.get_id().as_str();
        let is_given = || matches.value_source(id) == Some(ValueSource::CommandLine);
        if NOT_FORWARDED.contains(&id) || !is_given() {
            continue;
        }
        let Some(name) = argument.get_long() else {
            continue;
        };
        if !argument.get_action().takes_values() {
            flags.push(format!("--{name}").into());
            continue;
        }
        for value in matches.get_raw(id).into_iter().flatten() {
            let mut flag = OsString::from(format!("--{name}="));
            flag.push(value);
            flags.push(flag);
        }
    }
    Ok(flags)
}

/// What another command line could mend is wrong use.
fn to_wrong_use(error: JobsError) -> anyhow::Error {
    match error {
        JobsError::Experiment(error) => super::experiment::to_wrong_use(error),
        JobsError::OtherCount { .. } | JobsError::NoRecord { .. } | JobsError::NoProgram { .. } => {
            WrongUse(error.to_string()).into()
        }
        error => error.into(),
    }
}

/// A bar on standard error; a line for each change where that is no terminal.
struct JobsBar {
    bar: ProgressBar,
    shown: std::cell::RefCell<String>,
    cells: usize,
}

impl JobsBar {
    fn new(plan: &Plan) -> Self {
        let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {msg}");
        let bar = ProgressBar::new(plan.cells as u64)
            .with_style(style.expect("the template is valid"))
            .with_prefix(plan.name);
        Self {
            bar,
            shown: String::new().into(),
            cells: plan.cells,
        }
    }

    fn show(&self, shards: &Shards, count: usize, queue: &str) {
        let counts = shards.counts();
        let mut message = format!("cells, {}/{count} shards", counts.shards);
        if counts.failed > 0 {
            message += &format!(", {} FAILED", counts.failed);
        }
        if !queue.is_empty() {
            message += &format!("; {queue}");
        }
        let line = format!("{}/{} {message}", counts.cells, self.cells);
        if self.bar.is_hidden() && *self.shown.borrow() != line {
            eprintln!("{line}");
        }
        self.shown.replace(line);
        self.bar.set_position(counts.cells as u64);
        self.bar.set_message(message);
        self.bar.tick();
    }
}

impl Drop for JobsBar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Vec<String> {
        let words = line.split(' ').map(OsString::from);
        let flags = forwarded(words).unwrap().into_iter();
        flags.map(|flag| flag.into_string().unwrap()).collect()
    }

    #[test]
    fn a_task_gets_the_flags_that_were_given_but_those_of_the_submission() {
        let line = "onegrid experiment --submit=local --shards 3 --max-parallel 2 --wait --output out \
                    --plan p.toml --format json --plan-folder f quality --threads 2 --offline \
                    --trace t.pftrace --device=cpu";
        let mut flags = of(line);
        flags.sort();
        assert_eq!(
            flags,
            [
                "--device=cpu",
                "--offline",
                "--threads=2",
                "--trace=t.pftrace"
            ]
        );
        let slurm = "onegrid experiment --submit slurm --partition p --gres gpu:1 quality";
        assert_eq!(of(slurm), [] as [String; 0]);
    }

    #[test]
    fn what_is_not_forwarded_is_there() {
        let command = Cli::command();
        let experiment = command.find_subcommand("experiment").unwrap();
        for name in NOT_FORWARDED {
            let mut arguments = experiment.get_arguments();
            assert!(
                arguments.any(|argument| argument.get_id() == name),
                "{name}"
            );
        }
    }
}
