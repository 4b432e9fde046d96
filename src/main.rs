//! The `onegrid` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    onegrid::cli::run()
}
