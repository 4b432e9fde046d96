//! Compiled tables against the regex crate.
