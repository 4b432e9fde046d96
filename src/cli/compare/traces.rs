//! Two traces, by step, layer and token.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};

use super::CompareArgs;
use crate::cli::output::Format;
use crate::cli::{Outcome, WrongUse};
use crate::trace::comparison::Comparison;
use crate::trace::file::{self, Kind};
use crate::trace::profile::{Given, Profile};
use crate::trace::steps::Steps;
use crate::trace::{pytorch, reading};

/// What can be said of traces. A list of two is of A and of B.
#[derive(Debug, Args)]
#[command(next_help_heading = "Traces")]
pub(super) struct TraceArgs {
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

/// Compares two traces.
///
/// # Errors
/// Files that can't be read, or are no traces.
pub(super) fn run(args: &CompareArgs) -> anyhow::Result<Outcome> {
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
    /// A flag of these that was given.
    pub(super) fn given_flag(&self) -> Option<&'static str> {
        let flags = [
            ("--steps", !self.steps.is_empty()),
            ("--layers", !self.layers.is_empty()),
            ("--tokens", !self.tokens.is_empty()),
            ("--passes", self.passes != Steps::default()),
        ];
        flags
            .into_iter()
            .find(|(_, given)| *given)
            .map(|(flag, _)| flag)
    }

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
        WrongUse(format!(
            "{}: neither a trace of onegrid's (Perfetto's format, as --trace writes it) nor of \
             PyTorch's profiler (JSON with traceEvents), and the other file is a trace",
            path.display()
        ))
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
