//! The `onegrid` program.

fn main() {}
