//! `onegrid gpu-check`: everything that a GPU has to show, in one run of a few minutes.
//!
//! - here: the parts, and the time they have
//! - [`supervise`]: runs each part in a process of its own, so that one which crashes or hangs takes
//!   nothing along, and prints what they found
//! - [`results`]: the file that each part writes; [`sections`]: what it says, for people
//! - [`machine`]: what the parts run on: a GPU, or the emulator to test them without one
//! - [`correctness`], [`ceilings`], [`decode`], [`sanitizers`]: the parts

pub mod ceilings;
pub mod correctness;
pub mod decode;
pub mod machine;
pub mod results;
pub mod sanitizers;
pub mod sections;
pub mod supervise;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use machine::Machine;
use results::Recorder;

use crate::engine::EngineError;
use crate::engine::megakernel::DeviceError;

/// What is checked or measured together, and kept in one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// Logits and tokens of every variant against the engines on the host.
    Correctness,
    /// What memory gives, and what launches and barriers cost.
    Ceilings,
    /// How fast each stage decodes, beside its floor.
    Decode,
    /// Barriers, variants and prefetch against the default.
    Options,
    /// compute-sanitizer's tools.
    Sanitizers,
}

impl Part {
    /// All of them, in the order they run.
    pub const ALL: [Self; 5] = [
        Self::Correctness,
        Self::Ceilings,
        Self::Decode,
        Self::Options,
        Self::Sanitizers,
    ];

    /// Its name, also that of its file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Correctness => "correctness",
            Self::Ceilings => "ceilings",
            Self::Decode => "decode",
            Self::Options => "options",
            Self::Sanitizers => "sanitizers",
        }
    }

    /// What it does.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Correctness => {
                "logits of every variant, barrier, number of columns and architecture against the \
                 reference engine; greedy and sampled tokens of every stage against the CPU \
                 engine's; every run's bits against the first's"
            }
            Self::Ceilings => {
                "read bandwidth over 1 GB and more; launches, plain, cooperative and as nodes of a \
                 graph; each barrier, idle and while memory is read, by grid"
            }
            Self::Decode => {
                "V0, V1, separate launches and a graph of them on random:qwen3-0.6b at positions 1, \
                 128, 1024 and 8192, in turns, beside the floor; greedy tokens against the CPU \
                 engine's first"
            }
            Self::Options => {
                "V1 with the other barrier, each other variant, and prefetch, against V1"
            }
            Self::Sanitizers => {
                "compute-sanitizer's memcheck, racecheck and synccheck on random:tiny and \
                 random:tiny-h128, where that tool is installed"
            }
        }
    }

    /// Of the time that is left when it begins, the share it may take at most.
    fn share(self) -> f64 {
        match self {
            Self::Correctness => 0.4,
            Self::Ceilings => 0.35,
            Self::Decode => 0.7,
            Self::Options => 0.5,
            Self::Sanitizers => 1.0,
        }
    }

    /// Seconds without which it is not worth beginning.
    fn least_seconds(self) -> f64 {
        match self {
            Self::Correctness | Self::Ceilings => 2.0,
            Self::Decode | Self::Options | Self::Sanitizers => 5.0,
        }
    }
}

/// What keeps a part, or all of them, from being done.
#[derive(Debug, thiserror::Error)]
pub enum GpuCheckError {
    /// The device failed where nothing is checked.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// An engine on the host failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A folder that would lose what it holds.
    #[error("{} is there already: name another folder with --output", path.display())]
    Occupied {
        /// The file.
        path: PathBuf,
    },
    /// A file, or a process.
    #[error("{0}")]
    System(#[from] std::io::Error),
    /// Results that JSON can't hold.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

impl GpuCheckError {
    /// Whether another command line would do.
    pub fn is_wrong_use(&self) -> bool {
        matches!(self, Self::Occupied { .. })
    }
}

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    end: Instant,
}

impl Deadline {
    /// In `time` from now.
    pub fn after(time: Duration) -> Self {
        Self {
            end: Instant::now() + time,
        }
    }

    /// Time until then.
    pub fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Whether it has come.
    pub fn has_come(&self) -> bool {
        self.left().is_zero()
    }

    /// A deadline after `share` of what is left, and not after this one.
    pub fn share(&self, share: f64) -> Self {
        Self::after(self.left().mul_f64(share.clamp(0.0, 1.0)))
    }
}

/// Runs one part in this process; its results are in the recorder's file.
///
/// # Errors
/// If the part could do nothing; why is in the file too.
pub fn run_part<M: Machine>(
    part: Part,
    machine: &M,
    deadline: &Deadline,
    recorder: &mut Recorder,
) -> Result<(), GpuCheckError> {
    match part {
        Part::Correctness => correctness::run(machine, deadline, recorder),
        Part::Ceilings => ceilings::run(machine, deadline, recorder),
        Part::Decode => decode::run(machine, &decode::stages(), deadline, recorder),
        Part::Options => decode::run(machine, &decode::options(), deadline, recorder),
        Part::Sanitizers => sanitizers::run(machine, deadline, recorder),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_time_ends_no_later_than_all_of_it() {
        let all = Deadline::after(Duration::from_secs(100));
        let half = all.share(0.5).left();
        assert!(half > Duration::from_secs(49) && half <= Duration::from_secs(50));
        assert!(all.share(2.0).left() <= all.left() + Duration::from_millis(10));
        assert!(Deadline::after(Duration::ZERO).has_come());
    }
}
