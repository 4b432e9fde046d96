//! `onegrid experiment`: measures what a plan says, and shows what was found.

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::interrupt::Watch;
use super::options::EngineArgs;
use super::output::Format;
use super::submit::{self, Ended, SubmitArgs};
use super::{Outcome, WrongUse};
use crate::experiment::jobs;
use crate::experiment::result::{CellOutcome, ResultFile, Status};
use crate::experiment::run::{self, Place, Progress, Ran};
use crate::experiment::shard::{self, MissingCell, Shard};
use crate::experiment::traces::Traces;
use crate::experiment::{self, ExperimentError, Kind, Setting};
use crate::report::section::Section;

/// Run an experiment: measure what its plan says, and write every sample to a JSON file
///
/// The file is written after each cell of the plan. A run that was stopped goes on where it ended, by
/// the same command; what was measured stays. What this machine can't measure is listed with the reason.
#[derive(Debug, Args)]
pub struct ExperimentArgs {
    /// Which one; without a name all of them are listed
    #[arg(value_name = "NAME")]
    name: Option<String>,

    /// What varies, a TOML file; without it the experiment's own plan
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,

    /// The folder that relative paths in the plan start from [default: the plan's own]
    #[arg(long, value_name = "DIR", requires = "plan")]
    plan_folder: Option<PathBuf>,

    /// Show the plan that would be followed, as a start for one of your own
    #[arg(long)]
    show_plan: bool,

    /// The folder that NAME.json goes to
    #[arg(long, value_name = "DIR", default_value = "onegrid-results")]
    output: PathBuf,

    /// Measure a part of the plan alone, the I-th of N, into shards/NAME.I-of-N.json of that folder: for
    /// several processes or machines, whose parts --merge joins
    #[arg(long, value_name = "I/N", help_heading = "Parts")]
    shard: Option<Shard>,

    /// Join the parts that lie in this folder's shards/ into its NAME.json, list what is missing, and
    /// measure nothing
    #[arg(
        long,
        value_name = "DIR",
        help_heading = "Parts",
        conflicts_with_all = ["shard", "plan", "show_plan", "output", "trace"]
    )]
    merge: Option<PathBuf>,

    #[command(flatten)]
    jobs: SubmitArgs,

    /// How what was found is shown
    #[arg(long, value_enum, default_value_t)]
    format: Format,

    /// Never ask the hub: use what was downloaded before
    #[arg(long)]
    offline: bool,

    #[command(flatten)]
    engine: EngineArgs,

    /// Record one more run of each engine of each cell, which is not timed, and write it for
    /// ui.perfetto.dev and `onegrid compare`: from x.pftrace, x-CELL.pftrace is made
    #[arg(long, value_name = "FILE", help_heading = "Trace")]
    trace: Option<PathBuf>,

    /// Steps that are recorded of each
    #[arg(long, value_name = "N", default_value = "64", help_heading = "Trace")]
    trace_steps: NonZeroUsize,
}

/// Runs the command.
///
/// # Errors
/// No such experiment, a plan that can't be followed, a folder that holds something else, a cell that
/// failed.
pub fn run(args: &ExperimentArgs) -> anyhow::Result<Outcome> {
    let Some(name) = &args.name else {
        list();
        return Ok(Outcome::Done);
    };
    let kind = experiment::find(name).ok_or_else(|| {
        let names: Vec<_> = experiment::ALL.iter().map(|kind| kind.name).collect();
        let names = names.join(", ");
        WrongUse(format!("'{name}' is no experiment; there are {names}"))
    })?;
    if let Some(folder) = &args.merge {
        return merge(kind, folder, args.format);
    }
    let (plan, folder) = args.read_plan(kind)?;
    if args.show_plan {
        print!("{plan}");
        return Ok(Outcome::Done);
    }
    args.engine.check()?;
    let traces = args.traces(kind)?;
    let setting = Setting {
        engine: args.engine.choice(),
        folder: folder.clone(),
        offline: args.offline,
        results: args.output.clone(),
        traces: traces.clone(),
    };
    let mut experiment = kind.open(&plan, &setting).map_err(to_wrong_use)?;
    if let Some(to) = args.jobs.submit {
        let plan = submit::Plan {
            name: kind.name,
            text: &plan,
            folder: &folder,
            value: experiment.plan(),
            cells: experiment.cells().len(),
            output: &args.output,
            threads: args.engine.threads,
        };
        return match args.jobs.run(to, &plan)? {
            Ended::Left => Ok(Outcome::Done),
            Ended::Followed => merge(kind, &args.output, args.format),
            Ended::Interrupted => Ok(Outcome::Interrupted),
        };
    }
    let place = Place {
        name: kind.name,
        device: setting.engine.device.resolved().name(),
        folder: args.output.clone(),
        shard: args.shard,
    };
    let bar = ExperimentBar::new(kind.name);
    let ran = {
        let watch = Watch::begin();
        let mut show = |progress: Progress| bar.show(&progress);
        run::run(
            &mut *experiment,
            &place,
            &|| watch.pressed(),
            &mut show,
            &|what| bar.doing(what),
        )
    };
    drop(bar);
    let ran = ran.map_err(to_wrong_use)?;
    show(kind, &ran.file, args.format)?;
    for note in traces.iter().flat_map(Traces::take_notes) {
        eprintln!("{note}");
    }
    conclude(&ran, &place)
}

fn list() {
    for kind in experiment::ALL {
        println!("{}\n    {}", kind.name, kind.question);
    }
}

impl ExperimentArgs {
    /// The traces that are asked for.
    fn traces(&self, kind: &Kind) -> Result<Option<Traces>, WrongUse> {
        let Some(path) = &self.trace else {
            return Ok(None);
        };
        if !kind.has_traces {
            let reason = format!(
                "--trace: {} runs no engine that could be recorded",
                kind.name
            );
            return Err(WrongUse(reason));
        }
        Ok(Some(Traces::new(path, self.trace_steps.get())))
    }

    /// The plan, and the folder that its paths start from.
    fn read_plan(&self, kind: &Kind) -> anyhow::Result<(String, PathBuf)> {
        let Some(path) = &self.plan else {
            return Ok((kind.plan.to_owned(), PathBuf::from(".")));
        };
        let plan = std::fs::read_to_string(path)
            .with_context(|| format!("--plan {}: cannot read it", path.display()))?;
        let own = path.parent().unwrap_or(Path::new("."));
        let folder = self.plan_folder.as_deref().unwrap_or(own);
        Ok((plan, folder.to_owned()))
    }
}

/// Shows what was found.
///
/// # Errors
/// A result that this program did not write.
fn show(kind: &Kind, file: &ResultFile, format: Format) -> anyhow::Result<()> {
    let mut output = std::io::stdout();
    if format == Format::Json {
        writeln!(output, "{}", serde_json::to_string_pretty(file)?)?;
        return Ok(());
    }
    for section in kind.sections(&file.cells)? {
        write_section(&section, format, &mut output)?;
    }
    Ok(())
}

fn write_section(section: &Section, format: Format, output: &mut dyn Write) -> anyhow::Result<()> {
    let heading = match format {
        Format::Markdown => format!("## {}", section.heading),
        _ => section.heading.clone(),
    };
    if format != Format::Csv {
        writeln!(output, "{heading}\n")?;
        for paragraph in &section.text {
            writeln!(output, "{paragraph}\n")?;
        }
    }
    for captioned in &section.tables {
        let table = match format {
            Format::Csv => captioned.table.to_csv(),
            Format::Markdown => captioned.table.to_markdown(),
            Format::Table | Format::Json => captioned.table.to_text(),
        };
        match format {
            Format::Csv => write!(output, "{table}")?,
            _ => writeln!(output, "{}\n\n{table}\n", captioned.caption)?,
        }
    }
    Ok(())
}

/// Joins the parts in `folder`, shows what was found and says what is missing.
///
/// # Errors
/// No parts, or parts that don't belong together; cells that are missing or failed.
fn merge(kind: &Kind, folder: &Path, format: Format) -> anyhow::Result<Outcome> {
    let merged = shard::merge(kind, folder, &Setting::default()).map_err(to_wrong_use)?;
    show(kind, &merged.file, format)?;
    report_cells(&merged.file);
    let mut log_of = None;
    for cell in &merged.missing {
        let MissingCell { id, shard, reason } = cell;
        eprintln!("missing: {id} of shard {shard}: {reason}");
        let log = jobs::log_path(kind.name, folder, *shard);
        if log_of != Some(*shard) && log.exists() {
            eprintln!("    what it said last is in {}", log.display());
        }
        log_of = Some(*shard);
    }
    eprintln!("results: {}", merged.path.display());
    anyhow::ensure!(
        merged.missing.is_empty() && merged.file.status != Status::Failed,
        "the result is not whole: see above; run the shards that are named again (--shard or --submit), and merge"
    );
    Ok(Outcome::Done)
}

/// Says which cells were not measured, on standard error.
fn report_cells(file: &ResultFile) {
    for cell in &file.cells {
        let reason = cell.reason.as_deref().unwrap_or_default();
        match cell.outcome {
            CellOutcome::Measured => {}
            CellOutcome::NotMeasured => eprintln!("not measured: {}: {reason}", cell.id),
            CellOutcome::Failed => eprintln!("FAILED: {}: {reason}", cell.id),
        }
    }
}

/// Says what became of the run, on standard error.
fn conclude(ran: &Ran, place: &Place) -> anyhow::Result<Outcome> {
    if ran.kept > 0 {
        eprintln!("{} cells were measured before", ran.kept);
    }
    report_cells(&ran.file);
    eprintln!("results: {}", place.path().display());
    if ran.interrupted {
        eprintln!("interrupted: the same command goes on from here");
        return Ok(Outcome::Interrupted);
    }
    anyhow::ensure!(
        ran.file.status != Status::Failed,
        "cells failed: see above; the same command tries them again"
    );
    Ok(Outcome::Done)
}

/// What another command line could mend is wrong use.
pub(super) fn to_wrong_use(error: ExperimentError) -> anyhow::Error {
    match error {
        ExperimentError::Plan { .. }
        | ExperimentError::OtherResult { .. }
        | ExperimentError::NoResult { .. } => WrongUse(error.to_string()).into(),
        error => error.into(),
    }
}

/// A bar on standard error; lines where that is no terminal.
struct ExperimentBar(ProgressBar);

impl ExperimentBar {
    fn new(name: &str) -> Self {
        let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {msg}");
        let bar = ProgressBar::new(1)
            .with_style(style.expect("the template is valid"))
            .with_prefix(name.to_owned());
        Self(bar)
    }

    fn show(&self, progress: &Progress) {
        let left = progress.left.map_or(String::new(), |left| {
            let seconds = Duration::from_secs(left.as_secs());
            format!(", {} left", indicatif::HumanDuration(seconds))
        });
        let message = format!("{}{left}", progress.cell);
        if self.0.is_hidden() {
            eprintln!("{}/{}: {message}", progress.done + 1, progress.all);
        }
        self.0.set_length(progress.all as u64);
        self.0.set_position(progress.done as u64);
        self.0.set_message(message);
        self.0.tick();
    }

    fn doing(&self, what: &str) {
        self.0.set_message(what.to_owned());
        self.0.tick();
    }
}

impl Drop for ExperimentBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
