//! The kernels for CPU threads: the CUDA sources compiled as C++20 with `cuda/emulator/`.

use std::fs;

use crate::{Build, files, read};

/// The sources that the emulator runs, in `cuda/`.
const SOURCES: [&str; 5] = [
    "emulator/emulator.cpp",
    "megakernel.cu",
    "step_kernels.cu",
    "traced_megakernel.cu",
    "sync_overhead.cu",
];

const FLAGS: [&str; 7] = [
    "-O2",
    "-g1",
    "-pthread",
    // The same bits from every compiler.
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
];

/// Compiles the sources to a static library, and has the crate linked with it.
pub fn compile(build: &Build) -> Result<(), String> {
    let folder = build.root.join("cuda");
    let sources = SOURCES.map(|source| folder.join(source));
    if !sources[0].exists() {
        return Ok(());
    }
    let mut compiler = cc::Build::new();
    // The file names say CUDA, but it is read as C++.
    compiler
        .cpp(true)
        .std("c++20")
        .flag("-x")
        .flag("c++")
        .files(&sources);
    compiler
        .no_default_flags(true)
        .flags(FLAGS)
        .cargo_metadata(false);
    let command = compiler
        .try_get_compiler()
        .map_err(|error| format!("C++ compiler: {error}"))?;
    let mut inputs = vec![format!("{:?}", command.to_command())];
    for path in files(&folder, &["h", "cu", "cpp"], "")? {
        inputs.push(read(&path)?);
    }
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let made = build.cache.made("emulator", &inputs, |folder| {
        compiler.out_dir(folder);
        compiler
            .try_compile("onegrid_emulator")
            .map_err(|error| error.to_string())
    })?;
    let library = "libonegrid_emulator.a";
    fs::copy(made.join(library), build.out.join(library))
        .map_err(|error| format!("{library}: {error}"))?;
    println!("cargo::rustc-link-search=native={}", build.out.display());
    // Whole, because nothing names the kernels: they register themselves.
    println!("cargo::rustc-link-lib=static:+whole-archive=onegrid_emulator");
    println!(
        "cargo::rustc-link-lib={}",
        if cfg!(target_os = "macos") {
            "c++"
        } else {
            "stdc++"
        }
    );
    Ok(())
}
