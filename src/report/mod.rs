//! Results as tables, charts and files.
//!
//! - [`pending_file`]: files that appear whole or not at all
//! - [`logits_file`]: logits as a safetensors file
//! - [`saved_logits`]: such files read, also those of other programs
//! - [`section`]: what a result says
//! - [`table`]: tables for people and for spreadsheets
//! - [`grouping`]: groups in the order in which they come
//! - [`chart`]: charts as data; [`svg`]: charts drawn
//! - [`page`]: sections as an HTML page

pub mod chart;
pub mod grouping;
pub mod logits_file;
pub mod page;
pub mod pending_file;
pub mod saved_logits;
pub mod section;
pub mod svg;
pub mod table;
