//! The command line: a file for each subcommand, and no logic of their own.
