//! onegrid decodes Qwen3 models and their close relatives for one user at a time.
//!
//! Dependencies between the modules point one way: [`cli`] builds on [`results`], [`text`] and
//! [`trace`], results on [`experiment`] and [`gpu_check`], all of these on [`measure`] and [`report`], these
//! on [`engine`], the engines on [`constraint`], [`sampling`] and [`model`], constraints on [`model`], and
//! all of them may ask [`memory`]. Nothing under `engine` knows of the
//! command line, and nothing under `model` knows of an engine.

pub mod cli;
pub mod constraint;
pub mod engine;
pub mod experiment;
pub mod gpu_check;
pub mod measure;
pub mod memory;
pub mod model;
pub mod report;
pub mod results;
pub mod sampling;
pub mod text;
pub mod trace;
