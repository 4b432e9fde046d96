//! Results as tables and files.
//!
//! - [`pending_file`]: files that appear whole or not at all
//! - [`table`]: tables for people and for spreadsheets

pub mod pending_file;
pub mod table;
