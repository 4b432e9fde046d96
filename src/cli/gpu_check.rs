//! `onegrid gpu-check`: everything that a GPU has to show, in one run.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};

use super::{Outcome, WrongUse};
use crate::engine::cuda::device_code;
use crate::engine::megakernel::DeviceError;
use crate::gpu_check::machine::{Emulator, Gpu, Machine};
use crate::gpu_check::results::Recorder;
use crate::gpu_check::supervise::{self, Plan};
use crate::gpu_check::{Deadline, Part, run_part};

/// Check the CUDA kernel on this machine's GPU, and measure it: correctness, ceilings, speed
///
/// Needs a driver and nothing else: no network, no toolkit, no model. Each part writes a JSON file
/// when it is done; what the time limit leaves out is listed as not measured. The exit status is 1
/// if something that was checked does not hold.
#[derive(Debug, Args)]
pub struct GpuCheckArgs {
    /// All parts together take no longer than this
    #[arg(long, value_name = "SECONDS", default_value = "480", value_parser = seconds)]
    limit: Duration,

    /// The folder that results go to, which must not hold any [default: gpu-check-<name of the GPU>]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,

    /// What to check; `emulated` tries the parts themselves, on CPU threads
    #[arg(long, value_enum, default_value_t)]
    device: CheckedDevice,

    /// Show what would run, and for which GPUs this program holds kernels
    #[arg(long)]
    list: bool,

    /// Run one part, in this process.
    #[arg(long, value_enum, hide = true, requires = "output")]
    part: Option<Part>,
}

/// What can be checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum CheckedDevice {
    /// The first NVIDIA GPU
    #[default]
    Cuda,
    /// The CUDA kernel on CPU threads: its times say nothing
    Emulated,
}

impl ValueEnum for Part {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()).help(self.describe()))
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected seconds")?;
    match seconds > 0.0 {
        true => Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string()),
        false => Err("it must be above 0".into()),
    }
}

/// Runs the command.
///
/// # Errors
/// No GPU; a folder that holds results, or can't be written; something that does not hold.
pub fn run(args: &GpuCheckArgs) -> anyhow::Result<Outcome> {
    if args.list {
        list();
        return Ok(Outcome::Done);
    }
    match args.device {
        CheckedDevice::Cuda => check(args, &Gpu, "cuda"),
        CheckedDevice::Emulated => check(args, &Emulator, "emulated"),
    }
}

fn list() {
    let architectures = |source: &str| {
        let images = device_code::images().iter();
        let images = images.filter(|image| image.source == source);
        let names = images.map(|image| match image.has_ptx {
            true => format!("sm_{} (with PTX)", image.arch),
            false => format!("sm_{}", image.arch),
        });
        names.collect::<Vec<_>>().join(", ")
    };
    match device_code::compiled_by() {
        Ok(nvcc) => println!("kernels: {nvcc}: {}\n", architectures("megakernel")),
        Err(why) => println!("kernels: none: {why}\n"),
    }
    for part in Part::ALL {
        println!("{}.json: {}", part.name(), part.describe());
    }
}

fn check<M: Machine>(
    args: &GpuCheckArgs,
    machine: &M,
    device: &'static str,
) -> anyhow::Result<Outcome> {
    let gpu = machine.describe().map_err(|error| match error {
        DeviceError::NoDriver | DeviceError::NoDevice { .. } => {
            anyhow::anyhow!("there is no GPU to check: {error}")
        }
        error => error.into(),
    })?;
    if let (Some(part), Some(folder)) = (args.part, &args.output) {
        let mut recorder = Recorder::new(part, folder, device, gpu);
        let deadline = Deadline::after(args.limit);
        if let Err(error) = run_part(part, machine, &deadline, &mut recorder) {
            recorder.fail(error.to_string())?;
        }
        return Ok(Outcome::Done);
    }
    let folder = args.output.clone();
    let plan = Plan {
        device,
        limit: args.limit,
        folder: folder.unwrap_or_else(|| supervise::default_folder(&gpu)),
        gpu,
    };
    let files = supervise::run(&plan, &mut |what| eprintln!("{what}"));
    let files = files.map_err(|error| match error {
        error if error.is_wrong_use() => WrongUse(error.to_string()).into(),
        error => anyhow::Error::from(error),
    })?;
    println!("{}", supervise::table(&files).to_text());
    println!("results: {}", plan.folder.display());
    match supervise::has_passed(&files) {
        true => Ok(Outcome::Done),
        false => anyhow::bail!("something that was checked does not hold: see above"),
    }
}
