//! The flags that several commands share: which model, which engine.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

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
    pub device: Device,

    /// Threads of the CPU engine [default: one for each core]
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,

    /// Positions of the KV cache of each sequence, whose memory is taken at the start
    ///
    /// [default: no more than the command needs]
    #[arg(long, value_name = "N")]
    pub context: Option<NonZeroUsize>,

    /// Instruction set of the CPU engine's kernels; `auto` takes the best this processor runs
    #[arg(long, value_enum, default_value_t)]
    pub kernels: KernelChoice,
}

/// What can compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// The fastest that this machine has
    #[default]
    Auto,
    /// The CPU's cores, at the speed of memory
    Cpu,
    /// An NVIDIA GPU
    Cuda,
    /// The CUDA kernel on CPU threads: slow, for tests of the kernel
    Emulated,
    /// The plain forward pass in f32: slow, for comparison
    Reference,
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
