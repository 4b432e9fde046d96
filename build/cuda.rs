//! The kernels for GPUs: every `cuda/*.cu` compiled for every architecture, as fatbins that the
//! library embeds, and the table of what they take.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use crate::nvcc::{self, Missing, Nvcc};
use crate::{Build, files, read, resources, write};

/// Cards from Ampere on: A100, RTX 30, RTX 40, H100 and H200, B200, RTX 50. Code for one of these also
/// runs on a later minor revision of the same major (sm_100 on a B300's 10.3).
const ARCHITECTURES: [u32; 6] = [80, 86, 89, 90, 100, 120];

const FLAGS: [&str; 5] = [
    "-std=c++17",
    "-O3",
    "-fatbin",
    "--compress-mode=size",
    "-Xptxas=-v",
];

/// What one call of nvcc made.
struct Compiled {
    source: String,
    arch: u32,
    ptx: bool,
    /// A folder with `image` and `log`.
    folder: PathBuf,
}

/// Writes `device_code.rs` with the images, `resources.txt` with what the kernels take, and
/// `cuda_tools.rs` for the tests.
pub fn compile(build: &Build) -> Result<(), String> {
    for variable in nvcc::PLACES
        .iter()
        .chain(&nvcc::FLAGS)
        .chain(&["ONEGRID_CUDA_ARCHS"])
    {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let asked = asked_architectures()?;
    if asked.as_ref().is_some_and(Vec::is_empty) {
        let why = "ONEGRID_CUDA_ARCHS asked for no architecture when it was built";
        return write_results(build, Err(why), None, &[]);
    }
    let nvcc = match nvcc::find() {
        Ok(nvcc) => nvcc,
        Err(Missing::NotFound(why)) => return write_results(build, Err(&why), None, &[]),
        Err(Missing::Wrong(error)) => return Err(error),
    };
    println!("cargo::rerun-if-changed={}", nvcc.path.display());
    let is_known = |arch: &u32| nvcc.architectures.contains(arch);
    let architectures = match asked {
        Some(asked) => match asked.iter().find(|arch| !is_known(arch)) {
            Some(unknown) => {
                return Err(format!(
                    "ONEGRID_CUDA_ARCHS holds {unknown}, but {} (version {}) compiles for {:?}",
                    nvcc.path.display(),
                    nvcc.version,
                    nvcc.architectures
                ));
            }
            None => asked,
        },
        None => ARCHITECTURES.into_iter().filter(is_known).collect(),
    };
    let compiled = compile_all(build, &nvcc, &architectures)?;
    let name = format!("nvcc {}", nvcc.version);
    write_results(build, Ok(&name), Some(&nvcc.path), &compiled)
}

/// What `ONEGRID_CUDA_ARCHS` lists, in ascending order; `None` where it is not set.
fn asked_architectures() -> Result<Option<Vec<u32>>, String> {
    let Ok(list) = std::env::var("ONEGRID_CUDA_ARCHS") else {
        return Ok(None);
    };
    if ["", "none"].contains(&list.trim()) {
        return Ok(Some(Vec::new()));
    }
    let oldest = ARCHITECTURES[0];
    let parse = |name: &str| {
        let arch = name.trim().parse().ok().filter(|arch| *arch >= oldest);
        arch.ok_or_else(|| {
            format!(
                "ONEGRID_CUDA_ARCHS holds {name:?}; it takes \"none\", or compute capabilities from \
                 {oldest} on without their points, as in \"80,90\""
            )
        })
    };
    let mut architectures = list
        .split(',')
        .map(parse)
        .collect::<Result<Vec<u32>, _>>()?;
    architectures.sort_unstable();
    architectures.dedup();
    Ok(Some(architectures))
}

/// Compiles every source for every architecture, as many at once as cargo allows.
fn compile_all(build: &Build, nvcc: &Nvcc, architectures: &[u32]) -> Result<Vec<Compiled>, String> {
    let folder = build.root.join("cuda");
    let sources =
        fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut sources: Vec<PathBuf> = sources.flatten().map(|entry| entry.path()).collect();
    sources.retain(|path| path.extension().is_some_and(|extension| extension == "cu"));
    // The one that takes longest first, so that it does not run alone at the end.
    sources.sort();
    let headers = files(&folder, &["h"], "emulator")?;
    let headers: Result<Vec<_>, _> = headers.iter().map(|path| read(path)).collect();
    let headers = headers?.concat();
    let jobs: Vec<(&Path, u32)> = sources
        .iter()
        .flat_map(|source| architectures.iter().map(|&arch| (source.as_path(), arch)))
        .collect();
    // PTX is what the driver compiles for cards that none of the images was made for: the newest
    // for those that come after them, and the oldest for those in between (Orin, Thor).
    let ptx = |arch| [architectures.first(), architectures.last()].contains(&Some(&arch));

    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let worker = || {
        let mut results = Vec::new();
        while !failed.load(Ordering::Relaxed)
            && let index = next.fetch_add(1, Ordering::Relaxed)
            && let Some(&(source, arch)) = jobs.get(index)
        {
            let result = compile_one(build, nvcc, source, &headers, arch, ptx(arch));
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            results.push((index, result));
        }
        results
    };
    let mut results = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..build.jobs).map(|_| scope.spawn(worker)).collect();
        let results = workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("no panic"));
        results.collect::<Vec<_>>()
    });
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

fn compile_one(
    build: &Build,
    nvcc: &Nvcc,
    source: &Path,
    headers: &str,
    arch: u32,
    ptx: bool,
) -> Result<Compiled, String> {
    let name = source.file_stem().unwrap_or_default().to_string_lossy();
    let ptx_code = if ptx {
        format!(",compute_{arch}")
    } else {
        String::new()
    };
    let target = format!("-gencode=arch=compute_{arch},code=[sm_{arch}{ptx_code}]");
    // One source may include another, for what both have.
    let text = read(source)?;
    let of_include = |line: &str| {
        let name = line.strip_prefix("#include \"")?.strip_suffix(".cu\"")?;
        Some(source.with_file_name(name).with_extension("cu"))
    };
    let included = text.lines().filter_map(of_include);
    let included = included
        .map(|path| read(&path))
        .collect::<Result<String, _>>()?;
    let environment: Vec<_> = nvcc::FLAGS
        .map(|name| std::env::var(name).unwrap_or_default())
        .into();
    let inputs = [
        &nvcc.version,
        &FLAGS.join(" "),
        &target,
        &environment.join(" "),
        headers,
        &text,
        &included,
    ];
    let folder = build
        .cache
        .made(&format!("{name}-sm_{arch}"), &inputs, |folder| {
            let start = Instant::now();
            let image = folder.join("image");
            let mut command = Command::new(&nvcc.path);
            command
                .args(FLAGS)
                .arg(&target)
                .arg("-o")
                .arg(&image)
                .arg(source);
            let output = command.output();
            let output = output.map_err(|error| format!("{}: {error}", nvcc.path.display()))?;
            let printed = [output.stdout, output.stderr].concat();
            let printed = String::from_utf8_lossy(&printed);
            if !output.status.success() {
                return Err(format!(
                    "nvcc could not compile {} for sm_{arch}\n{command:?}\n{printed}",
                    source.display()
                ));
            }
            // For `cargo build -vv`.
            println!(
                "{name} for sm_{arch}: {:.1} s",
                start.elapsed().as_secs_f64()
            );
            write(&folder.join("log"), &printed)
        })?;
    Ok(Compiled {
        source: name.into_owned(),
        arch,
        ptx,
        folder,
    })
}

fn write_results(
    build: &Build,
    compiler: Result<&str, &str>,
    nvcc: Option<&Path>,
    compiled: &[Compiled],
) -> Result<(), String> {
    let mut code = format!(
        "const COMPILED_BY: Result<&str, &str> = {compiler:?};\nstatic ALL: &[Image] = &[\n"
    );
    let mut table = resources::Table::new();
    let mut warnings = String::new();
    for Compiled {
        source,
        arch,
        ptx,
        folder,
    } in compiled
    {
        let file = format!("{source}.sm_{arch}.fatbin");
        let image = build.out.join(&file);
        fs::copy(folder.join("image"), &image)
            .map_err(|error| format!("{}: {error}", image.display()))?;
        let _ = writeln!(
            code,
            "    Image {{ source: {source:?}, arch: {arch}, has_ptx: {ptx}, code: &Aligned(*include_bytes!({file:?})).0 }},"
        );
        let log = read(&folder.join("log"))?;
        resources::parse_ptxas(&log, &mut table)?;
        for warning in log
            .lines()
            .filter(|line| line.to_lowercase().contains("warning"))
        {
            println!("cargo::warning={warning}");
            warnings += &format!("{warning}\n");
        }
    }
    code += "];\n";
    write(&build.out.join("device_code.rs"), &code)?;
    write(
        &build.out.join("resources.txt"),
        &resources::to_text(&table, compiler.unwrap_or("nothing")),
    )?;
    let tools = format!(
        "const NVCC: Option<&str> = {nvcc:?};\nconst NVCC_WARNINGS: &str = {warnings:?};\n"
    );
    write(&build.out.join("cuda_tools.rs"), &tools)
}
