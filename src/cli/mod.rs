//! The command line: a file for each subcommand, and no logic of their own.
//!
//! - [`options`]: the flags that several commands share
//! - [`output`]: results on standard output or in a file, notes on standard error

pub mod options;
pub mod output;
