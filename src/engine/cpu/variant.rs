//! What can be chosen of the CPU engine: each optimisation by the name of what it is compared with.

use serde::{Deserialize, Serialize};

/// How the engine runs a pass. All of them give the same bits; the default is what measured best, and
/// each of the others leaves one thing of it out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CpuVariant {
    /// A team that spins at its barriers, every member with norms of its own, fixed row ranges, and
    /// weights fetched ahead.
    #[default]
    RedundantNorm,
    /// Member 0 computes every RMSNorm, and the others wait for it. (Norms of more columns than are
    /// streamed are shared out by all variants.)
    Block0Norm,
    /// Members that wait sleep at once, until the last one wakes them.
    Parking,
    /// Nothing is fetched ahead: neither in the loops nor at the barriers.
    NoPrefetch,
    /// A member's first rows of a matrix are its own; it claims the others from a shared counter.
    ClaimedRows,
    /// No team: every part of a pass is handed to a thread pool (rayon) and waited for.
    Pool,
}

impl CpuVariant {
    /// All of them, the default first.
    pub const ALL: [Self; 6] = [
        Self::RedundantNorm,
        Self::Block0Norm,
        Self::Parking,
        Self::NoPrefetch,
        Self::ClaimedRows,
        Self::Pool,
    ];

    /// Its name, in plans, on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::RedundantNorm => "redundant_norm",
            Self::Block0Norm => "block0_norm",
            Self::Parking => "parking",
            Self::NoPrefetch => "no_prefetch",
            Self::ClaimedRows => "claimed_rows",
            Self::Pool => "pool",
        }
    }
}
