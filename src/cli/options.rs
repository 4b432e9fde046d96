//! The flags that several commands share: which model, which engine, how to sample.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Args, ValueEnum};

use super::WrongUse;
use super::load::Bar;
use crate::engine::Engine;
use crate::engine::choice::{ChoiceError, DeviceName, EngineChoice};
use crate::engine::cpu::CpuVariant;
use crate::engine::megakernel::{Barrier, Stage, Variant};
use crate::model::checkpoint::{LoadOptions, Placement};
use crate::model::{TokenId, Weights};
use crate::sampling::SamplingParams;
use crate::text::sampling_choice::SamplingChoice;

/// Which model, and where it is.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// A Hugging Face folder, a hub id (Qwen/Qwen3-0.6B), `demo`, or `random:<shape>[@seed]`
    #[arg(long, value_name = "MODEL", default_value = "demo")]
    pub model: String,

    /// A tokenizer.json, or a folder that holds one, to use instead of the model's own
    #[arg(long, value_name = "PATH")]
    pub tokenizer: Option<PathBuf>,

    /// Never ask the hub: use what was downloaded before
    #[arg(long)]
    pub offline: bool,
}

/// Which engine decodes, and with what.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Engine")]
pub struct EngineArgs {
    /// What computes; `auto` takes the fastest that this machine has
    #[arg(long, value_enum, default_value_t)]
    pub device: DeviceName,

    /// Threads of the CPU engine [default: one for each core]
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,

    /// Positions of the KV cache of each sequence, at most what the model was made for
    ///
    /// The cache's memory is set aside at the start, so the default is no more than the command
    /// needs: the prompt and --max-tokens, or 4096 positions for a chat.
    #[arg(long, value_name = "N")]
    pub context: Option<NonZeroUsize>,

    /// Instruction set of the CPU engine's kernels; `auto` takes the best this processor runs
    #[arg(long, value_enum, default_value_t)]
    pub kernels: KernelChoice,

    /// Where a checkpoint's weights lie in memory
    #[arg(long, value_enum, default_value_t)]
    pub placement: PlacementChoice,

    /// What to do in another way than measured best, for comparison [default: redundant_norm]
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(variants()))]
    pub variant: Option<String>,

    /// What can be chosen of the CUDA kernel.
    #[command(flatten)]
    pub megakernel: MegakernelArgs,
}

/// What can be chosen of the CUDA kernel. The defaults are what measured best.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Advanced (--device cuda and emulated)")]
pub struct MegakernelArgs {
    /// How a decode is divided into launches [default: v1]
    #[arg(long, value_enum, value_name = "NAME")]
    pub stage: Option<Stage>,

    /// How the blocks of the grid wait for each other [default: cooperative]
    #[arg(long, value_enum, value_name = "NAME")]
    pub barrier: Option<Barrier>,
}

/// The variants of all engines by name, each once.
fn variants() -> Vec<PossibleValue> {
    let of_kernel = Variant::ALL.map(|variant| {
        let help = match variant {
            Variant::RedundantNorm => {
                "cpu, cuda: every thread, or block, computes every RMSNorm for itself"
            }
            Variant::Block0Norm => "cpu, cuda: one computes the norm, and the others wait for it",
            Variant::HeadBlocks => {
                "cuda: work divided by head, no barrier between QKV and attention"
            }
            Variant::FusedPhases => "cuda: attention and output projection of a head in one phase",
        };
        (variant.name(), help)
    });
    let of_cpu = CpuVariant::ALL.into_iter().filter_map(|variant| {
        let help = match variant {
            CpuVariant::RedundantNorm | CpuVariant::Block0Norm => return None,
            CpuVariant::Parking => "cpu: threads that wait sleep at once, and don't spin",
            CpuVariant::NoPrefetch => "cpu: no weights are fetched ahead",
            CpuVariant::ClaimedRows => {
                "cpu: rows are claimed from a shared counter, not fixed ranges"
            }
            CpuVariant::Pool => "cpu: a thread pool is handed one part of a pass after the other",
        };
        Some((variant.name(), help))
    });
    let value = |(name, help): (&'static str, &'static str)| PossibleValue::new(name).help(help);
    of_kernel.into_iter().chain(of_cpu).map(value).collect()
}

impl ValueEnum for Stage {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self {
            Self::V0 => "A cooperative launch for each token, sampled on the host",
            Self::V1 => "One cooperative launch for many tokens, sampled on the device",
            Self::Launches => "The same phases as separate kernels, launched one by one",
            Self::Graph => "The separate kernels as a CUDA graph, launched for each token",
        };
        Some(PossibleValue::new(self.name()).help(help))
    }
}

impl ValueEnum for Barrier {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self {
            Self::Cooperative => "grid.sync() of cooperative groups",
            Self::Epoch => "Monotonic epochs with release and acquire, and a watchdog",
        };
        Some(PossibleValue::new(self.name()).help(help))
    }
}

/// Where a checkpoint's weights lie in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum PlacementChoice {
    /// Mapped at first, and moved into huge pages while the first tokens are decoded
    #[default]
    Auto,
    /// Read into huge pages before anything else: decodes at full speed from the first token on
    HugePages,
    /// Left in the mapped file: shared with other processes, and slower to decode
    Mapped,
}

impl ValueEnum for DeviceName {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self {
            Self::Auto => "The fastest that this machine has",
            Self::Cpu => "The CPU's cores, at the speed of memory",
            Self::Cuda => "An NVIDIA GPU",
            Self::Emulated => "The CUDA kernel on CPU threads: slow, for tests of the kernel",
            Self::Reference => "The plain forward pass in f32: slow, for comparison",
        };
        Some(PossibleValue::new(self.name()).help(help))
    }
}

/// Instruction sets of the CPU engine's kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum KernelChoice {
    /// The best that this processor runs
    #[default]
    Auto,
    /// Plain Rust
    Portable,
    /// x86-64 with AVX2 and FMA
    Avx2,
    /// x86-64 with AVX-512
    Avx512,
    /// x86-64 with AVX-512 and BF16 products
    Avx512Bf16,
    /// 64-bit Arm
    Neon,
}

impl EngineArgs {
    /// What the flags say.
    pub fn choice(&self) -> EngineChoice {
        let kernels = match self.kernels {
            KernelChoice::Auto => None,
            forced => forced.to_possible_value(),
        };
        EngineChoice {
            device: self.device,
            threads: self.threads,
            kernels: kernels.map(|value| value.get_name().to_owned()),
            placement: match self.placement {
                PlacementChoice::Auto => Placement::Auto,
                PlacementChoice::HugePages => Placement::HugePages,
                PlacementChoice::Mapped => Placement::Mapped,
            },
            variant: self.variant.clone(),
            stage: self.megakernel.stage,
            barrier: self.megakernel.barrier,
        }
    }

    /// Whether this machine has the engine, which is worth knowing before a model is loaded.
    ///
    /// # Errors
    /// If it has not; a flag of another engine.
    pub fn check(&self) -> anyhow::Result<()> {
        self.choice().check().map_err(to_wrong_use)
    }

    /// How the engine wants a checkpoint loaded.
    pub fn load_options(&self) -> LoadOptions {
        self.choice().load_options()
    }

    /// The engine, for `sequences` sequences of up to `context` positions.
    ///
    /// # Errors
    /// An engine that this machine does not have; a context beyond the model's; no memory or
    /// threads.
    pub fn engine(
        &self,
        weights: Weights,
        context: usize,
        sequences: usize,
    ) -> anyhow::Result<Box<dyn Engine>> {
        let mut bar = Bar::default();
        let mut progress = |done, total| bar.bytes("copying to the GPU", done, total);
        let engine = self
            .choice()
            .engine(weights, context, sequences, &mut progress);
        engine.map_err(to_wrong_use)
    }
}

/// An engine that is asked for in a way that can't be is wrong use of the command line.
fn to_wrong_use(error: ChoiceError) -> anyhow::Error {
    match error.is_wrong_use() {
        true => WrongUse(error.to_string()).into(),
        false => error.into(),
    }
}

/// How to choose among the tokens that the model finds likely.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Sampling (defaults: the checkpoint's generation_config.json)")]
pub struct SamplingArgs {
    /// Divides the logits before a token is drawn; 0 takes the likeliest token, always
    ///
    /// Without the flag the checkpoint decides: `do_sample` false or absent is 0, else its
    /// temperature, else 1.
    #[arg(long, value_name = "T", value_parser = temperature, allow_negative_numbers = true)]
    pub temperature: Option<f32>,

    /// Draw from the K likeliest tokens only; 0 is all
    ///
    /// Where the checkpoint names none it is 50, as in transformers.
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    pub top_k: Option<usize>,

    /// Draw from the likeliest tokens whose probabilities reach P together; 1 is all
    #[arg(long, value_name = "P", value_parser = top_p, allow_negative_numbers = true)]
    pub top_p: Option<f32>,

    /// Draw from tokens at least P times as likely as the likeliest; 0 is all
    #[arg(long, value_name = "P", value_parser = min_p, allow_negative_numbers = true)]
    pub min_p: Option<f32>,

    /// Make tokens that occurred before less likely (above 1) or likelier (below); 1 is neither
    #[arg(long, value_name = "R", value_parser = repetition_penalty, allow_negative_numbers = true)]
    pub repetition_penalty: Option<f32>,

    /// Seed of the random numbers: the same seed gives the same text, on every engine
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

impl SamplingArgs {
    /// What the user asks for.
    pub fn choice(&self) -> SamplingChoice {
        SamplingChoice {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
        }
    }
}

fn temperature(text: &str) -> Result<f32, String> {
    parameter(text, |params, value| params.temperature = value)
}

fn top_p(text: &str) -> Result<f32, String> {
    parameter(text, |params, value| params.top_p = value)
}

fn min_p(text: &str) -> Result<f32, String> {
    parameter(text, |params, value| params.min_p = value)
}

fn repetition_penalty(text: &str) -> Result<f32, String> {
    parameter(text, |params, value| params.repetition_penalty = value)
}

/// A number that the sampler takes where `set` puts it.
fn parameter(text: &str, set: impl Fn(&mut SamplingParams, f32)) -> Result<f32, String> {
    let value = text.parse().map_err(|_| "expected a number".to_owned())?;
    let mut params = SamplingParams::default();
    set(&mut params, value);
    let checked = params.check();
    checked.map_err(|error| format!("it must be {}", error.expected))?;
    Ok(value)
}

/// Parses one id of a list such as `1, 2, 3`.
///
/// # Errors
/// If it is no id.
pub fn token_id(text: &str) -> Result<TokenId, String> {
    text.trim()
        .parse()
        .map_err(|_| "expected token ids, separated by commas: 1,2,3".to_owned())
}
