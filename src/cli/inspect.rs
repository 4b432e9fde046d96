//! `onegrid inspect`: what a model is, and how fast this machine could decode it.

use std::io::Write;
use std::num::NonZeroUsize;

use clap::Args;

use super::Outcome;
use super::options::ModelArgs;
use super::output::{Format, OutputArgs};
use crate::engine::choice::DeviceName;
use crate::engine::cuda::{self, CudaDevice};
use crate::engine::megakernel::device::Device as _;
use crate::engine::megakernel::plan::Plan;
use crate::engine::megakernel::{DeviceError, MegakernelOptions};
use crate::measure::inspection::{
    CardInspection, Inspection, MachineFloor, Provenance, declared_dtype,
};
use crate::model::ModelConfig;
use crate::model::generation::GenerationDefaults;
use crate::model::hub::Parts;
use crate::model::tokenizer::{Tokenizer, TokenizerError};
use crate::model::{Source, SourceOptions};

/// Show a model's shape, its bytes per token, and the floor of its speed on this machine
///
/// The floor is how many times a second memory can be read as often as a decode step must read it:
/// the weights and the past keys and values. No weights are loaded.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Leave the measurement of the read bandwidth out
    #[arg(long)]
    no_floor: bool,

    /// Threads that read [default: one for each core]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,

    /// What would decode: `cuda` shows the GPU, and how the kernel would be launched on it
    #[arg(long, value_enum, default_value_t = DeviceName::Cpu)]
    device: DeviceName,

    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the command.
///
/// # Errors
/// A model that does not exist or is malformed; no memory or threads for the measurement.
pub fn run(args: &InspectArgs) -> anyhow::Result<Outcome> {
    if args.device == DeviceName::Cuda {
        cuda::check_usable()?;
    }
    let source = Source::parse(&args.model.model)?;
    let mut quiet = |_: crate::model::Progress| ();
    let mut options = SourceOptions {
        offline: args.model.offline,
        ..SourceOptions::default()
    };
    let files = source.files(Parts::WithoutWeights, &options, &mut quiet)?;
    let tokenizer = match (&args.model.tokenizer, &files) {
        (Some(path), _) => Some(Tokenizer::from_path(path)?),
        (None, Some(files)) => match Tokenizer::from_files(files) {
            Err(TokenizerError::Missing { .. }) => None,
            tokenizer => Some(tokenizer?),
        },
        (None, None) => None,
    };
    options.vocab_size = tokenizer.as_ref().map(Tokenizer::own_size);
    let config = source.config(&options, &mut quiet)?;
    let defaults = match &files {
        Some(files) => Some(GenerationDefaults::from_files(files, tokenizer.as_ref())?),
        None => None,
    };
    let dtype = files.as_ref().and_then(declared_dtype);
    let mut inspection = Inspection::new(
        &config,
        Provenance {
            model: source.name(),
            dtype: dtype.unwrap_or_else(|| match source {
                Source::Random { .. } => "bfloat16".into(),
                _ => "not declared".into(),
            }),
            tokenizer_tokens: tokenizer.as_ref().map(Tokenizer::own_size),
            stop_tokens: defaults.map(|defaults| defaults.stop_tokens),
        },
    );
    if args.device == DeviceName::Cuda {
        inspection.card = Some(card(&config)?);
    } else if !args.no_floor {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = args.threads.map_or_else(cores, NonZeroUsize::get);
        inspection.floor = Some(MachineFloor::measure(&config, threads)?);
    }
    let mut output = args.output.open()?;
    match args.output.format {
        Format::Json => writeln!(output, "{}", serde_json::to_string_pretty(&inspection)?)?,
        Format::Csv => write!(output, "{}", inspection.table().to_csv())?,
        Format::Markdown => writeln!(output, "{}", inspection.table().to_markdown())?,
        Format::Table => writeln!(output, "{}", inspection.table().to_text())?,
    }
    output.finish()?;
    Ok(Outcome::Done)
}

/// The first GPU, and how it would decode one sequence of `config`.
fn card(config: &ModelConfig) -> Result<CardInspection, DeviceError> {
    let mut device = CudaDevice::new()?;
    let plan = Plan::new(&mut device, config, &MegakernelOptions::new(1, 1))?;
    let pass = plan.decode(1)?;
    let resources = device.kernel_resources(&pass.kernel)?;
    let resident_blocks = device.resident_blocks(&pass.kernel, pass.threads, pass.shared.bytes)?;
    let card = device.card();
    let (major, minor) = card.capability;
    Ok(CardInspection {
        name: card.name.clone(),
        compute_capability: format!("{major}.{minor}"),
        driver: card.driver.clone(),
        memory_bytes: card.memory_bytes,
        l2_bytes: card.l2_bytes,
        multiprocessors: card.multiprocessors,
        kernel: pass.kernel.clone(),
        blocks: pass.blocks,
        threads: pass.threads,
        resident_blocks,
        shared_bytes: pass.shared.bytes,
        registers: resources.registers,
        spilled_bytes: resources.spilled_bytes,
        specified_bandwidth_bytes_per_second: card.specified_bandwidth,
        read_bandwidth_bytes_per_second: None,
        positions: CardInspection::floors(config, card.specified_bandwidth),
    })
}
