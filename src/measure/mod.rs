//! Measuring: samples and statistics, the machine, its read bandwidth, the decode benchmark.
//!
//! - [`statistics`]: medians, intervals, verdicts
//! - [`environment`]: what machine and what program
//! - [`bandwidth`]: how fast the weights can be read at all
//! - [`divergence`]: how far logits are from others
//! - [`device_costs`]: what a device's memory, launches and barriers give at best
//! - [`energy`]: how many joules something takes
//! - [`decode`]: the decode benchmark
//! - [`inspection`]: what a model is, and the floor of its speed
//! - [`synchronisation`]: what it costs CPU threads to keep in step
//! - [`step_budget`]: what a step of the megakernel reads, and what it waits for
//! - [`ladder`]: what must hold of an engine that runs the megakernel

pub mod bandwidth;
pub mod decode;
pub mod device_costs;
pub mod divergence;
pub mod energy;
pub mod environment;
pub mod inspection;
pub mod ladder;
pub mod statistics;
pub mod step_budget;
pub mod synchronisation;
