//! Traces: what an engine recorded, as a file for [Perfetto](https://ui.perfetto.dev), and what such
//! files, or those of PyTorch's profiler, say of each step, layer and token.
//!
//! - [`proto`]: the messages of Perfetto's format that are used here
//! - [`perfetto`]: a recording as a file; [`reading`]: the same back
//! - [`mod@file`]: files that may be compressed, and what is in them
//! - [`profile`]: what a trace comes to, by operation
//! - [`steps`]: an engine's trace as a profile
//! - [`pytorch`]: the profiler's events; [`operators`]: what their names mean; [`launches`]: such a
//!   trace as a profile
//! - [`comparison`]: two profiles side by side

pub mod comparison;
pub mod file;
pub mod launches;
pub mod operators;
pub mod perfetto;
pub mod profile;
pub mod proto;
pub mod pytorch;
pub mod reading;
pub mod steps;
