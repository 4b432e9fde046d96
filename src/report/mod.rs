//! Results as tables and files.
//!
//! - [`pending_file`]: files that appear whole or not at all

pub mod pending_file;
