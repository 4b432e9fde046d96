//! Measuring: samples and statistics, the machine, its read bandwidth, the decode benchmark.
//!
//! - [`statistics`]: medians, intervals, verdicts
//! - [`environment`]: what machine and what program
//! - [`bandwidth`]: how fast the weights can be read at all

pub mod bandwidth;
pub mod environment;
pub mod statistics;
