//! What can be chosen of a megakernel: all of it compared with its absence somewhere.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::abi::{
    OG_BARRIER_COOPERATIVE, OG_BARRIER_EPOCH, OG_MAX_COLUMNS, OG_MAX_THREADS, OgBarrierKind,
};

/// Columns that one pass takes at most.
pub const MAX_COLUMNS: usize = OG_MAX_COLUMNS as usize;
/// Threads of a warp, on every GPU.
pub const WARP: u32 = 32;

/// How the kernel's phases are put together: a compile-time policy with a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// Every block computes every RMSNorm for itself.
    #[default]
    RedundantNorm,
    /// One block computes the norm, the others wait for it.
    Block0Norm,
    /// Work divided by head: no barrier between QKV and attention.
    HeadBlocks,
    /// Attention and output projection of a head in one phase.
    FusedPhases,
}

impl Variant {
    /// All of them, the default first.
    pub const ALL: [Self; 4] = [
        Self::RedundantNorm,
        Self::Block0Norm,
        Self::HeadBlocks,
        Self::FusedPhases,
    ];

    /// Its name, also in the names of its kernels.
    pub fn name(self) -> &'static str {
        match self {
            Self::RedundantNorm => "redundant_norm",
            Self::Block0Norm => "block0_norm",
            Self::HeadBlocks => "head_blocks",
            Self::FusedPhases => "fused_phases",
        }
    }
}

/// How a decode is divided into launches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// A cooperative launch for each token, sampled on the host.
    V0,
    /// One cooperative launch for many tokens, sampled on the device.
    #[default]
    V1,
    /// The same phases as separate kernels, launched one by one.
    Launches,
    /// The separate kernels as a graph, launched once for each token.
    Graph,
}

impl Stage {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::V0, Self::V1, Self::Launches, Self::Graph];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::V0 => "v0",
            Self::V1 => "v1",
            Self::Launches => "launches",
            Self::Graph => "graph",
        }
    }

    /// Whether it runs phases as kernels of their own.
    pub fn is_separate(self) -> bool {
        matches!(self, Self::Launches | Self::Graph)
    }
}

/// How blocks wait for each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Barrier {
    /// Cooperative groups' `grid.sync()`.
    #[default]
    Cooperative,
    /// Monotonic epochs with release and acquire, and a watchdog.
    Epoch,
}

impl Barrier {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Cooperative, Self::Epoch];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cooperative => "cooperative",
            Self::Epoch => "epoch",
        }
    }

    /// As the kernels know it.
    pub fn kind(self) -> OgBarrierKind {
        match self {
            Self::Cooperative => OG_BARRIER_COOPERATIVE,
            Self::Epoch => OG_BARRIER_EPOCH,
        }
    }
}

/// How to set up a [`MegakernelEngine`](super::MegakernelEngine).
#[derive(Clone, Debug, PartialEq)]
pub struct MegakernelOptions {
    /// Positions of each sequence's KV cache.
    pub context: usize,
    /// Sequences it holds.
    pub sequences: usize,
    /// The kernel's variant.
    pub variant: Variant,
    /// How a decode is divided into launches.
    pub stage: Stage,
    /// How blocks wait for each other.
    pub barrier: Barrier,
    /// Blocks of the grid; `None` is one for each multiprocessor.
    pub blocks: Option<u32>,
    /// Threads of a block, whole warps; `None` is what the device likes.
    pub threads: Option<u32>,
    /// Tokens of one sequence that a pass takes, at most: a piece of prefill, or of what a guide forces.
    pub columns: usize,
    /// Past positions below which attention is not split further.
    pub split_length: u32,
    /// Bytes of the next phase's weights that a block fetches into L2 while it waits.
    pub prefetch: u32,
    /// How long a block may wait at an epoch barrier; zero is for ever.
    pub watchdog: Duration,
    /// Tokens that one launch can hand to the host.
    pub ring_capacity: usize,
    /// Device memory for the tables of guides; `None` is enough for as many as decode together, each of
    /// 1 MiB and two bytes a token.
    pub guide_bytes: Option<u64>,
    /// For tests: this block never arrives at this epoch (from 1) of a launch.
    pub stall: Option<(u32, u32)>,
}

impl MegakernelOptions {
    /// The defaults, for `sequences` sequences of up to `context` positions.
    pub fn new(context: usize, sequences: usize) -> Self {
        Self {
            context,
            sequences,
            variant: Variant::default(),
            stage: Stage::default(),
            barrier: Barrier::default(),
            blocks: None,
            threads: None,
            columns: MAX_COLUMNS,
            split_length: 64,
            prefetch: 0,
            watchdog: Duration::from_secs(10),
            ring_capacity: 4096,
            guide_bytes: None,
            stall: None,
        }
    }

    /// Device memory for the tables of guides, with a vocabulary of `vocab_size` tokens.
    pub(super) fn guide_bytes(&self, vocab_size: usize) -> u64 {
        let each = (1 << 20) + 2 * vocab_size as u64;
        let count = self.sequences.min(MAX_COLUMNS) as u64;
        self.guide_bytes.unwrap_or(count * each)
    }

    /// # Panics
    /// If a number that only the program's own code chooses makes no sense.
    pub(super) fn assert_sensible(&self) {
        assert!((1..=MAX_COLUMNS).contains(&self.columns), "{self:?}");
        assert!(self.ring_capacity >= 2 * MAX_COLUMNS, "{self:?}");
        assert!(self.blocks != Some(0) && self.split_length > 0, "{self:?}");
        let threads = self.threads.unwrap_or(WARP);
        assert!(threads.is_multiple_of(WARP) && (WARP..=OG_MAX_THREADS).contains(&threads));
    }
}
