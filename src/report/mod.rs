//! Results as tables and files.
//!
//! - [`pending_file`]: files that appear whole or not at all
//! - [`logits_file`]: logits as a safetensors file
//! - [`saved_logits`]: such files read, also those of other programs
//! - [`section`]: what a result says
//! - [`table`]: tables for people and for spreadsheets

pub mod logits_file;
pub mod pending_file;
pub mod saved_logits;
pub mod section;
pub mod table;
