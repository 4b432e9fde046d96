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

/// The architectures that PTX is made for. nvcc's front half, which takes as long as the rest, makes the same
/// PTX for all from one of these to the next, as long as no source asks which of them it is compiled for
/// (`tests/cuda_build.rs` sees to that): so it runs once for each of these, and not for each card.
const PTX_ARCHITECTURES: [u32; 2] = [80, 100];

const TO_PTX: [&str; 3] = ["-std=c++17", "-O3", "-ptx"];
const TO_MACHINE_CODE: [&str; 3] = ["-fatbin", "--compress-mode=size", "-Xptxas=-v"];

/// The architecture whose PTX the machine code for `arch` is made from.
fn ptx_architecture(arch: u32) -> u32 {
    let mut older = PTX_ARCHITECTURES.into_iter().rev();
    older.find(|of| *of <= arch).unwrap_or(PTX_ARCHITECTURES[0])
}

/// The PTX of a source, and what nvcc said of it.
struct Ptx {
    source: String,
    arch: u32,
    code: PathBuf,
    log: String,
}

/// The machine code of a source for an architecture.
struct Compiled {
    source: String,
    arch: u32,
    /// Whether the PTX that it was made from is in the image too.
    has_ptx: bool,
    image: PathBuf,
    /// What ptxas said: also what the kernels take.
    log: String,
}

/// All that was compiled.
#[derive(Default)]
struct DeviceCode {
    ptx: Vec<Ptx>,
    compiled: Vec<Compiled>,
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
        return write_results(build, Err(why), None, &DeviceCode::default());
    }
    let nvcc = match nvcc::find() {
        Ok(nvcc) => nvcc,
        Err(Missing::NotFound(why)) => {
            return write_results(build, Err(&why), None, &DeviceCode::default());
        }
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
    let code = compile_all(build, &nvcc, &architectures)?;
    let name = format!("nvcc {}", nvcc.version);
    write_results(build, Ok(&name), Some(&nvcc.path), &code)
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

/// Compiles every source for every architecture: first all PTX, then the machine code.
fn compile_all(build: &Build, nvcc: &Nvcc, architectures: &[u32]) -> Result<DeviceCode, String> {
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

    let mut ptx_architectures = architectures.to_vec();
    for arch in &mut ptx_architectures {
        *arch = ptx_architecture(*arch);
    }
    ptx_architectures.dedup();
    let mut jobs = Vec::new();
    for source in &sources {
        jobs.extend(ptx_architectures.iter().map(|&arch| (source, arch)));
    }
    let ptx = in_parallel(build.jobs, &jobs, |&(source, arch)| {
        to_ptx(build, nvcc, source, &headers, arch)
    })?;
    let mut jobs = Vec::new();
    for ptx in &ptx {
        let fits = |arch: &&u32| ptx_architecture(**arch) == ptx.arch;
        jobs.extend(architectures.iter().filter(fits).map(|&arch| (ptx, arch)));
    }
    // The driver makes code of PTX for cards that no image was made for: the first image of each holds it.
    let has_ptx = |arch| {
        let same = |other: &&u32| ptx_architecture(**other) == ptx_architecture(arch);
        architectures.iter().find(same) == Some(&arch)
    };
    let compiled = in_parallel(build.jobs, &jobs, |&(ptx, arch)| {
        to_machine_code(build, nvcc, ptx, arch, has_ptx(arch))
    })?;
    Ok(DeviceCode { ptx, compiled })
}

/// What `work` makes of each of `items`, `workers` at a time; nothing is begun any more once one has failed.
fn in_parallel<T: Sync, R: Send>(
    workers: usize,
    items: &[T],
    work: impl Fn(&T) -> Result<R, String> + Sync,
) -> Result<Vec<R>, String> {
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let worker = || {
        let mut results = Vec::new();
        while !failed.load(Ordering::Relaxed)
            && let index = next.fetch_add(1, Ordering::Relaxed)
            && let Some(item) = items.get(index)
        {
            let result = work(item);
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            results.push((index, result));
        }
        results
    };
    let mut results = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        let results = workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("no panic"));
        results.collect::<Vec<_>>()
    });
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

fn to_ptx(
    build: &Build,
    nvcc: &Nvcc,
    source: &Path,
    headers: &str,
    arch: u32,
) -> Result<Ptx, String> {
    let name = source.file_stem().unwrap_or_default().to_string_lossy();
    let target = format!("-arch=compute_{arch}");
    let flags = [&TO_PTX[..], &[&target]].concat();
    let text = read(source)?;
    // One source may include another, for what both have.
    let of_include = |line: &str| {
        let name = line.strip_prefix("#include \"")?.strip_suffix(".cu\"")?;
        Some(source.with_file_name(name).with_extension("cu"))
    };
    let included = text.lines().filter_map(of_include);
    let included: Result<String, _> = included.map(|path| read(&path)).collect();
    let inputs = [headers, &text, &included?];
    let what = format!("{name}-compute_{arch}");
    let folder = run_nvcc(build, nvcc, &what, &flags, &inputs, source, "ptx")?;
    Ok(Ptx {
        source: name.into_owned(),
        arch,
        code: folder.join("code.ptx"),
        log: read(&folder.join("log"))?,
    })
}

fn to_machine_code(
    build: &Build,
    nvcc: &Nvcc,
    ptx: &Ptx,
    arch: u32,
    has_ptx: bool,
) -> Result<Compiled, String> {
    let of_ptx = ptx.arch;
    let kept = if has_ptx {
        format!(",compute_{of_ptx}")
    } else {
        String::new()
    };
    let target = format!("-gencode=arch=compute_{of_ptx},code=[sm_{arch}{kept}]");
    let flags = [&TO_MACHINE_CODE[..], &[&target]].concat();
    let inputs = [&read(&ptx.code)?[..]];
    let what = format!("{}-sm_{arch}", ptx.source);
    let folder = run_nvcc(build, nvcc, &what, &flags, &inputs, &ptx.code, "fatbin")?;
    Ok(Compiled {
        source: ptx.source.clone(),
        arch,
        has_ptx,
        image: folder.join("code.fatbin"),
        log: read(&folder.join("log"))?,
    })
}

/// The folder in which nvcc made `code.` and `extension` of `from`, now or earlier, with a `log` of what it
/// printed. `inputs` is all that decides what comes out, but for nvcc and its flags.
fn run_nvcc(
    build: &Build,
    nvcc: &Nvcc,
    what: &str,
    flags: &[&str],
    inputs: &[&str],
    from: &Path,
    extension: &str,
) -> Result<PathBuf, String> {
    let environment = nvcc::FLAGS.map(|name| std::env::var(name).unwrap_or_default());
    let environment = environment.each_ref().map(String::as_str);
    let inputs = [&[&nvcc.version[..]], flags, &environment[..], inputs].concat();
    build.cache.made(what, &inputs, |folder| {
        let start = Instant::now();
        let mut command = Command::new(&nvcc.path);
        let to = folder.join("code").with_extension(extension);
        command.args(flags).arg("-o").arg(to).arg(from);
        let output = command.output();
        let output = output.map_err(|error| format!("{}: {error}", nvcc.path.display()))?;
        let printed = [output.stdout, output.stderr].concat();
        let printed = String::from_utf8_lossy(&printed);
        if !output.status.success() {
            return Err(format!(
                "nvcc could not compile {what}\n{command:?}\n{printed}"
            ));
        }
        // For `cargo build -vv`.
        println!("{what}: {:.1} s", start.elapsed().as_secs_f64());
        write(&folder.join("log"), &printed)
    })
}

fn write_results(
    build: &Build,
    compiler: Result<&str, &str>,
    nvcc: Option<&Path>,
    device_code: &DeviceCode,
) -> Result<(), String> {
    let mut code = format!(
        "const COMPILED_BY: Result<&str, &str> = {compiler:?};\nstatic ALL: &[Image] = &[\n"
    );
    let mut table = resources::Table::new();
    for Compiled {
        source,
        arch,
        has_ptx,
        image,
        log,
    } in &device_code.compiled
    {
        let file = format!("{source}.sm_{arch}.fatbin");
        let copy = build.out.join(&file);
        fs::copy(image, &copy).map_err(|error| format!("{}: {error}", copy.display()))?;
        let _ = writeln!(
            code,
            "    Image {{ source: {source:?}, arch: {arch}, has_ptx: {has_ptx}, code: &Aligned(*include_bytes!({file:?})).0 }},"
        );
        resources::parse_ptxas(log, &mut table)?;
    }
    let mut warnings = String::new();
    let logs = device_code.ptx.iter().map(|ptx| &ptx.log);
    for log in logs.chain(device_code.compiled.iter().map(|compiled| &compiled.log)) {
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
