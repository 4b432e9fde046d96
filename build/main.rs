//! Makes what the library embeds: the revision it was built from, the Rust side of `cuda/abi.h`, the
//! kernels for CPU threads, and the kernels for GPUs where there is an nvcc.
//!
//! Cargo runs this after every edit and every commit, so that the revision is right. What takes long
//! is therefore kept in a [`cache::Cache`] and made again only when what it is made from changed.

mod bindings;
mod cache;
mod cuda;
mod emulator;
mod git;
mod nvcc;
mod resources;

use std::path::{Path, PathBuf};

/// What all parts need to know.
struct Build {
    /// The folder of Cargo.toml.
    root: PathBuf,
    /// Where generated files go that the library includes.
    out: PathBuf,
    /// What was made before.
    cache: cache::Cache,
    /// Compilers to run at once.
    jobs: usize,
}

fn main() {
    for path in ["build", "Cargo.toml", "Cargo.lock", "cuda", "src"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let out = PathBuf::from(variable("OUT_DIR"));
    let build = Build {
        root: variable("CARGO_MANIFEST_DIR").into(),
        cache: cache::Cache::beside(&out),
        out,
        jobs: variable("NUM_JOBS").parse().unwrap_or(1),
    };
    git::record_revision(&build.root, Path::new(&variable("RUSTC")));
    let made = bindings::generate(&build)
        .and_then(|()| emulator::compile(&build))
        .and_then(|()| cuda::compile(&build));
    if let Err(error) = made {
        // Cargo shows the first line by itself, and the rest below what this printed.
        let (summary, rest) = error.split_once('\n').unwrap_or((&error, ""));
        println!("cargo::error={summary}");
        eprint!("{rest}");
        std::process::exit(1);
    }
}

/// Writes a generated file.
fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Reads a file as text.
fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// The files of `folder` with one of these extensions, and those of its folders but the ones named
/// `without`; in the order of their names.
fn files(folder: &Path, extensions: &[&str], without: &str) -> Result<Vec<PathBuf>, String> {
    let problem = |error| format!("{}: {error}", folder.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(problem)? {
        let path = entry.map_err(problem)?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != without) {
                found.extend(files(&path, extensions, without)?);
            }
        } else if extension.is_some_and(|extension| extensions.contains(&extension)) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
