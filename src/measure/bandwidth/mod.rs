//! How fast memory can be read: the floor that every decode speed stands beside.
//!
//! A decode step must read all weights once, so no engine can be faster than the best plain read
//! of the same bytes by the same number of threads. What is read here is therefore the very
//! weights that the engine reads (same pages, same place in the caches, no second copy), by a team
//! of threads that stands ready before the clock starts, each with one fixed contiguous range.
//!
//! A ceiling that is too low would flatter the engine. So [`Bandwidth::calibrate`] first reads the
//! weights with every [`Kernel`] that the processor runs, and keeps the fastest;
//! `cargo run --release --example read_bandwidth` shows them all side by side.
//!
//! - [`Kernel`]: a loop that reads and adds up, by instruction set, streams and prefetch
//! - [`team`]: the threads
//! - here: what is read, and the measurement

mod kernel;
pub mod team;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use std::sync::Arc;

pub use kernel::Kernel;
use team::{ReadTeam, Reading};

use crate::model::storage::Storage;
use crate::model::Weights;

/// Bytes that can be read, in the order in which they should be.
pub trait Readable: Send + Sync {
    /// The stretches of memory.
    fn stretches(&self) -> Vec<&[u8]>;
}

impl Readable for Weights {
    /// Every matrix that a decode step reads in full: the layers', then the LM head.
    fn stretches(&self) -> Vec<&[u8]> {
        let layers = self.layers.iter().flat_map(|layer| {
            let (attention, mlp) = (
                [&layer.q, &layer.k, &layer.v, &layer.o],
                [&layer.gate, &layer.up, &layer.down],
            );
            attention.into_iter().chain(mlp)
        });
        layers
            .chain([self.head()])
            .map(|matrix| matrix.values().as_bytes())
            .collect()
    }
}

impl Readable for Storage {
    fn stretches(&self) -> Vec<&[u8]> {
        vec![self.bytes()]
    }
}

impl Readable for Vec<u8> {
    fn stretches(&self) -> Vec<&[u8]> {
        vec![self]
    }
}

/// How long one measurement should read, in seconds: long enough to hide the rendezvous, short
/// beside the decoding that it is interleaved with.
pub const SAMPLE_SECONDS: f64 = 0.3;

/// How long each kernel is tried for in a calibration round, as a share of a sample.
const TRIAL_SHARE: f64 = 0.25;

/// Rounds of a calibration; the kernels' order turns around after each.
const TRIAL_ROUNDS: usize = 2;

/// A measurement that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BandwidthError {
    /// There is nothing to read.
    #[error("there is nothing to measure the read bandwidth with: the model has no weights")]
    Empty,
    /// Two passes over the same bytes added up to different sums.
    #[error(
        "reading the weights with {kernel} gave the checksum {found:#x}, not {expected:#x}: \
         the memory is faulty or was written to"
    )]
    Checksum {
        /// The kernel that read.
        kernel: Kernel,
        /// Its sum.
        found: u64,
        /// The sum of the portable kernel.
        expected: u64,
    },
}

/// A team, what it reads, and the kernel that reads it fastest.
pub struct Bandwidth {
    team: ReadTeam,
    source: Arc<dyn Readable>,
    bytes: u64,
    checksum: u64,
    kernel: Kernel,
    passes: usize,
}

impl Bandwidth {
    /// Tries every kernel that this processor runs and keeps the fastest. A measurement then reads
    /// for about `sample_seconds`, and at least once through everything.
    ///
    /// # Errors
    /// If `source` is empty, or a kernel does not read what the others read.
    pub fn calibrate(
        mut team: ReadTeam,
        source: Arc<dyn Readable>,
        sample_seconds: f64,
    ) -> Result<Self, BandwidthError> {
        let bytes: usize = source.stretches().iter().map(|bytes| bytes.len()).sum();
        if bytes == 0 {
            return Err(BandwidthError::Empty);
        }
        let first = team.read(&source, Kernel::PORTABLE, 1);
        let passes = |seconds: f64| (seconds / first.seconds).ceil().clamp(1.0, 1e6) as usize;
        let mut kernels = Kernel::available();
        let mut best = (Kernel::PORTABLE, 0.0);
        for _ in 0..TRIAL_ROUNDS {
            for &kernel in &kernels {
                let reading = team.read(&source, kernel, passes(sample_seconds * TRIAL_SHARE));
                check(first.checksum, kernel, &reading)?;
                if reading.bytes_per_second() > best.1 {
                    best = (kernel, reading.bytes_per_second());
                }
            }
            kernels.reverse();
        }
        let pass_seconds = bytes as f64 / best.1;
        Ok(Self {
            team,
            source,
            bytes: bytes as u64,
            checksum: first.checksum,
            kernel: best.0,
            passes: (sample_seconds / pass_seconds).ceil().clamp(1.0, 1e6) as usize,
        })
    }

    /// One sample of the read bandwidth, in bytes a second.
    ///
    /// # Errors
    /// If what was read is not what was read before.
    pub fn measure(&mut self) -> Result<f64, BandwidthError> {
        let reading = self.team.read(&self.source, self.kernel, self.passes);
        check(self.checksum, self.kernel, &reading)?;
        Ok(reading.bytes_per_second())
    }

    /// The fastest kernel.
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Bytes of one pass.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Threads that read.
    pub fn threads(&self) -> usize {
        self.team.threads()
    }
}

/// Whether `reading` added up to `checksum` in every pass.
fn check(checksum: u64, kernel: Kernel, reading: &Reading) -> Result<(), BandwidthError> {
    let expected = checksum.wrapping_mul(reading.passes as u64);
    if reading.checksum == expected {
        return Ok(());
    }
    Err(BandwidthError::Checksum {
        kernel,
        found: reading.checksum,
        expected,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::statistics::hash;

    #[test]
    fn a_calibrated_team_measures_something() {
        let bytes: Vec<u8> = (0..1 << 20).map(|i| hash(i) as u8).collect();
        let team = ReadTeam::new(2).unwrap();
        let mut bandwidth = Bandwidth::calibrate(team, Arc::new(bytes), 1e-3).unwrap();
        assert!(bandwidth.measure().unwrap() > 0.0);
        assert_eq!(bandwidth.bytes(), 1 << 20);
    }

    #[test]
    fn nothing_to_read_is_an_error() {
        let team = ReadTeam::new(1).unwrap();
        let result = Bandwidth::calibrate(team, Arc::new(Vec::new()), 1e-3);
        assert!(matches!(result, Err(BandwidthError::Empty)));
    }

    #[test]
    fn a_reading_that_adds_up_to_something_else_is_refused() {
        let reading = Reading {
            bytes: 8,
            seconds: 1.0,
            passes: 2,
            checksum: 10,
        };
        assert!(check(5, Kernel::PORTABLE, &reading).is_ok());
        assert!(check(6, Kernel::PORTABLE, &reading).is_err());
    }
}
