//! `onegrid compare`: two files side by side.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};

use super::output::{Format, OutputArgs};
use super::{Outcome, WrongUse};
use crate::trace::comparison::Comparison;
use crate::trace::file::{self, Kind};
use crate::trace::profile::{Given, Profile};
use crate::trace::steps::Steps;
use crate::trace::{pytorch, reading};

/// Compare two traces
///
/// Each is one of onegrid's (`--trace FILE` of generate and bench) or of PyTorch's profiler
/// (`prof.export_chrome_trace`), gzipped or not. Counts and times are given by step, layer and token;
/// counts that are no whole multiple of steps and layers are pointed out. The table leaves out
/// what takes little time; csv, markdown and json have all of it.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// The first file
    #[arg(value_name = "A")]
    a: PathBuf,

    /// The second file
    #[arg(value_name = "B")]
    b: PathBuf,

    #[command(flatten)]
    trace: TraceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// What can be said of traces. A list of two is of A and of B.
#[derive(Debug, Args)]
#[command(next_help_heading = "Traces")]
struct TraceArgs {
    /// Steps of a trace in which the profiler marked none
    #[arg(long, value_name = "N[,N]", value_delimiter = ',', num_args = 1)]
    steps: Vec<u64>,

    /// Layers of the model [default: what the trace says, or how often a step attends]
    #[arg(long, value_name = "N[,N]", value_delimiter = ',', num_args = 1)]
    layers: Vec<u64>,

    /// Tokens of all steps together [default: what the trace says, or one a step]
    #[arg(long, value_name = "N[,N]", value_delimiter = ',', num_args = 1)]
    tokens: Vec<u64>,

    /// Which steps of onegrid's traces to look at
    #[arg(long, value_enum, default_value_t)]
    passes: Steps,
}

impl ValueEnum for Steps {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self {
            Self::Decode => "Those that decode",
            Self::Prefill => "Those of prompts",
            Self::All => "Both",
        };
        Some(PossibleValue::new(self.name()).help(help))
    }
}

/// Runs the command.
///
/// # Errors
/// Files that can't be read, or are nothing that can be compared.
pub fn run(args: &CompareArgs) -> anyhow::Result<Outcome> {
    let [a, b] = args.trace.given()?;
    let comparison = Comparison {
        a: profile(&args.a, args.trace.passes, a)?,
        b: profile(&args.b, args.trace.passes, b)?,
    };
    let names = [&args.a, &args.b].map(|path| path.display().to_string());
    let names = [names[0].as_str(), &names[1]];
    let mut output = args.output.open()?;
    match args.output.format {
        Format::Json => {
            let json = serde_json::to_string_pretty(&comparison.to_json(names))?;
            writeln!(output, "{json}")?;
        }
        Format::Csv => write!(output, "{}", comparison.table().to_csv())?,
        Format::Markdown => writeln!(output, "{}", comparison.table().to_markdown())?,
        Format::Table => {
            let summary = comparison.summary().to_text();
            writeln!(output, "{}\n{summary}", comparison.heading(names))?;
        }
    }
    output.finish()?;
    (comparison.remarks().iter()).for_each(|remark| eprintln!("{remark}"));
    Ok(Outcome::Done)
}

impl TraceArgs {
    /// What is said of A and of B.
    fn given(&self) -> Result<[Given; 2], WrongUse> {
        let of = |flag: &str, list: &[u64]| match list {
            [] => Ok([None, None]),
            [0] | [0, _] | [_, 0] => Err(WrongUse(format!("{flag}: expected 1 or more, found 0"))),
            &[both] => Ok([Some(both); 2]),
            &[a, b] => Ok([Some(a), Some(b)]),
            more => Err(WrongUse(format!(
                "{flag}: expected a number, or one for A and one for B; found {}",
                more.len()
            ))),
        };
        let steps = of("--steps", &self.steps)?;
        let layers = of("--layers", &self.layers)?;
        let tokens = of("--tokens", &self.tokens)?;
        Ok([0, 1].map(|side| Given {
            steps: steps[side],
            layers: layers[side],
            tokens: tokens[side],
        }))
    }
}

/// The profile of the trace in a file.
fn profile(path: &Path, passes: Steps, given: Given) -> anyhow::Result<Profile> {
    let name = || path.display().to_string();
    let kind = file::kind(path).with_context(name)?;
    let kind = kind.ok_or_else(|| {
        anyhow!(
            "{}: neither a trace of onegrid's (Perfetto's format, as --trace writes it) nor of \
             PyTorch's profiler (JSON with traceEvents)",
            path.display()
        )
    })?;
    let mut content = file::open(path).with_context(name)?;
    let profile = match kind {
        Kind::Perfetto => {
            reading::read(&mut content).and_then(|trace| Profile::of_engine(&trace, passes, given))
        }
        Kind::PyTorch => {
            pytorch::read(&mut content).and_then(|trace| Profile::of_pytorch(trace, given))
        }
    };
    profile.with_context(name)
}
