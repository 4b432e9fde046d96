//! `onegrid bench`: the decode benchmark.

use std::io::Write;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::options::EngineArgs;
use super::output::{Format, OutputArgs};
use super::trace::TraceArgs;
use super::{Outcome, WrongUse};
use crate::engine::choice::DeviceName;
use crate::measure::bandwidth::SAMPLE_SECONDS;
use crate::measure::decode::phases::{self, PhaseTime};
use crate::measure::decode::report::Report;
use crate::measure::decode::{self, DecodePlan, Measured, Progress, Subject, memory_needed};
use crate::measure::environment::Environment;
use crate::memory;
use crate::model::checkpoint::{LoadOptions, Precision};
use crate::model::{self, Source, SourceOptions};
use crate::trace::perfetto::About;

/// What is measured where nothing is asked for: the model that everyone has, and one whose weights
/// exceed every cache.
const DEFAULT_MODELS: [&str; 2] = ["demo", "random:qwen3-0.6b"];

/// Measure how fast models decode, beside how fast memory can be read
///
/// Each repetition decodes greedily from a fixed prompt of random tokens, between two measurements
/// of the read bandwidth by as many threads. `of floor` is the share of the speed that reading the
/// weights and the KV cache at that bandwidth would allow. Tokens are checked against the other
/// repetitions and the reference engine; what fails has no speed.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// A Hugging Face folder, a hub id, `demo`, or `random:<shape>[@seed]`; may be given repeatedly
    ///
    /// [default: demo, and random:qwen3-0.6b where memory allows]
    #[arg(long = "model", value_name = "MODEL", help_heading = "Model")]
    models: Vec<String>,

    /// Never ask the hub: use what was downloaded before
    #[arg(long, help_heading = "Model")]
    offline: bool,

    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value = "32")]
    prompt_tokens: NonZeroUsize,

    /// Tokens decoded after it, at least 2
    #[arg(long, value_name = "N", default_value = "64")]
    new_tokens: NonZeroUsize,

    /// How often each engine runs
    #[arg(long, value_name = "N", default_value = "5")]
    repetitions: NonZeroUsize,

    /// Sequences that decode together
    #[arg(long, value_name = "N", default_value = "1")]
    batch: NonZeroUsize,

    /// Engines to measure in turns, separated by commas, instead of --device
    #[arg(long, value_name = "ENGINES", value_delimiter = ',', value_enum)]
    #[arg(conflicts_with = "device", help_heading = "Engine")]
    engines: Vec<DeviceName>,

    /// Seconds that the reference engine may take to check each run; 0 leaves that check out
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = seconds)]
    #[arg(allow_negative_numbers = true)]
    check_seconds: f64,

    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    trace: TraceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the command.
///
/// # Errors
/// A model that can't be loaded or decoded; a check that failed, after the results are written.
pub fn run(args: &BenchArgs) -> anyhow::Result<Outcome> {
    let plan = args.plan()?;
    let engines = args.engines()?;
    let mut report = Report {
        environment: Environment::current(),
        runs: Vec::new(),
        comparisons: Vec::new(),
        notes: Vec::new(),
    };
    let mut output = args.output.open()?;
    let models: Vec<&str> = match args.models.is_empty() {
        true => DEFAULT_MODELS.to_vec(),
        false => args.models.iter().map(String::as_str).collect(),
    };
    for model in models {
        match args.run_model(model, &engines, &plan)? {
            Ran::Measured(measured) => {
                report.runs.extend(measured.runs);
                report.comparisons.extend(measured.comparisons);
            }
            Ran::LeftOut(note) => report.notes.push(note),
        }
    }
    match args.output.format {
        Format::Json => writeln!(output, "{}", serde_json::to_string_pretty(&report)?)?,
        Format::Csv => write!(output, "{}", report.table().to_csv())?,
        Format::Markdown => writeln!(output, "{}", report.table().to_markdown())?,
        Format::Table => writeln!(
            output,
            "{}\n{}",
            report.heading(),
            report.summary().to_text()
        )?,
    }
    output.finish()?;
    report
        .remarks()
        .iter()
        .for_each(|remark| eprintln!("{remark}"));
    anyhow::ensure!(
        report.passed(),
        "a check failed: the speeds above are not whole"
    );
    Ok(Outcome::Done)
}

/// What came of a model.
enum Ran {
    Measured(Measured),
    LeftOut(String),
}

impl BenchArgs {
    fn plan(&self) -> Result<DecodePlan, WrongUse> {
        if self.new_tokens.get() < 2 {
            let message = "--new-tokens: a speed needs at least 2 tokens, found 1";
            return Err(WrongUse(message.into()));
        }
        Ok(DecodePlan {
            prompt_tokens: self.prompt_tokens.get(),
            new_tokens: self.new_tokens.get(),
            repetitions: self.repetitions.get(),
            batch: self.batch.get(),
            bandwidth_seconds: SAMPLE_SECONDS,
            check_seconds: self.check_seconds,
        })
    }

    /// The engines as if each were asked for alone.
    fn engines(&self) -> anyhow::Result<Vec<EngineArgs>> {
        let one = |device: &DeviceName| EngineArgs {
            device: *device,
            ..self.engine.clone()
        };
        let engines: Vec<EngineArgs> = match self.engines.is_empty() {
            true => vec![self.engine.clone()],
            false => self.engines.iter().map(one).collect(),
        };
        if self.trace.trace.is_some() && (self.models.len() != 1 || engines.len() != 1) {
            let message = format!(
                "--trace: a trace is of one --model and one engine; found {} and {}",
                self.models.len(),
                engines.len()
            );
            return Err(WrongUse(message).into());
        }
        engines.iter().try_for_each(EngineArgs::check)?;
        Ok(engines)
    }

    fn run_model(
        &self,
        name: &str,
        engines: &[EngineArgs],
        plan: &DecodePlan,
    ) -> anyhow::Result<Ran> {
        let progress = BenchProgress::new(name);
        let source = Source::parse(name)?;
        let options = SourceOptions {
            load: LoadOptions {
                precision: Precision::Bf16,
                ..self.engine.load_options()
            },
            offline: self.offline,
            ..SourceOptions::default()
        };
        let mut loading = |event: model::Progress| progress.loading(event);
        let config = source.config(&options, &mut loading)?;
        let (needed, free) = (
            memory_needed(&config, plan, engines.len()),
            memory::available(),
        );
        if let Some(free) = free.filter(|&free| free < needed) {
            let megabytes = |bytes: u64| bytes / 1_000_000;
            let short = format!(
                "{name} needs {} MB of memory, and {} MB are free",
                megabytes(needed),
                megabytes(free)
            );
            anyhow::ensure!(self.models.is_empty(), "{short}");
            return Ok(Ran::LeftOut(format!("{short}: left out")));
        }

        // So that the peak is this model's.
        memory::reset_peak_rss();
        let started = Instant::now();
        let loaded = source.load(&options, &mut loading)?;
        let weights_seconds = started.elapsed().as_secs_f64();
        let context = self
            .engine
            .context
            .map_or(plan.context(), NonZeroUsize::get);
        let subjects: anyhow::Result<Vec<Subject>> = engines
            .iter()
            .map(|engine| {
                let started = Instant::now();
                let engine = engine.engine(loaded.weights.clone(), context, plan.batch)?;
                Ok(Subject {
                    engine,
                    load_seconds: weights_seconds + started.elapsed().as_secs_f64(),
                })
            })
            .collect();
        let weights = Arc::new(loaded.weights);
        let mut show = |event: Progress| progress.measuring(event);
        let mut subjects = subjects?;
        let measured = decode::bench(&loaded.name, &weights, &mut subjects, plan, &mut show);
        let mut measured = measured.with_context(|| format!("benchmark of {name}"))?;
        if let ([subject], [run]) = (&mut subjects[..], &mut measured.runs[..]) {
            run.phases = self.record(subject, &loaded.name, plan)?;
        }
        Ok(Ran::Measured(measured))
    }

    /// Records one more run, which is not among those that were measured, where that is asked for.
    fn record(
        &self,
        subject: &mut Subject,
        model: &str,
        plan: &DecodePlan,
    ) -> anyhow::Result<Option<Vec<PhaseTime>>> {
        if self.trace.trace.is_none() {
            return Ok(None);
        }
        let recording = decode::record(subject, plan, self.trace.trace_steps.get());
        let recording = recording.context("--trace")?;
        let about = About::of(&*subject.engine, model);
        self.trace.write(recording.as_ref(), &about)?;
        let config = subject.engine.config();
        Ok(recording.map(|recording| phases::of(&recording, config, plan.batch)))
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds >= 0.0 && seconds.is_finite() => Ok(seconds),
        _ => Err("expected a number of seconds, 0 or more".into()),
    }
}

/// A bar on standard error while a model is measured; nothing where that is no terminal.
struct BenchProgress(ProgressBar);

impl BenchProgress {
    fn new(model: &str) -> Self {
        let style = ProgressStyle::with_template("{prefix} {wide_bar} {msg}");
        let bar = ProgressBar::new(1)
            .with_style(style.expect("the template is valid"))
            .with_prefix(model.to_owned());
        Self(bar)
    }

    fn loading(&self, event: model::Progress) {
        let (what, done, total) = match event {
            model::Progress::Downloading { file, done, total } => (file, done, total),
            model::Progress::Loading { done, total } => ("loading", done, total),
            model::Progress::Note(note) => return self.0.println(note),
        };
        self.show(what.to_owned(), done, total);
    }

    fn measuring(&self, event: Progress) {
        match event {
            Progress::Bandwidth(threads) => {
                self.show(format!("read bandwidth, {threads} threads"), 0, 1);
            }
            Progress::WarmUp(engine) => self.show(format!("{engine}: warming up"), 0, 1),
            Progress::Repetition(engine, done, all) => {
                self.show(
                    format!("{engine}: {done} of {all} runs"),
                    done as u64,
                    all as u64,
                );
            }
            Progress::Check(engine) => self.show(format!("{engine}: checking"), 1, 1),
        }
    }

    fn show(&self, message: String, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done);
        self.0.set_message(message);
        self.0.tick();
    }
}

impl Drop for BenchProgress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
