//! Finds nvcc, and asks it what it is.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A compiler for GPUs.
pub struct Nvcc {
    /// The program.
    pub path: PathBuf,
    /// As in "13.0.88".
    pub version: String,
    /// Architectures it compiles for: `90` for sm_90.
    pub architectures: Vec<u32>,
}

/// Environment variables that say where to look.
pub const PLACES: [&str; 4] = ["NVCC", "CUDA_HOME", "CUDA_PATH", "VIRTUAL_ENV"];

/// Environment variables from which nvcc takes flags and the C++ compiler that it calls.
pub const FLAGS: [&str; 3] = ["NVCC_CCBIN", "NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"];

/// The first release that compiles for every architecture we want, and compresses fatbins well.
const OLDEST: (u32, u32) = (12, 8);

/// Why there is no compiler.
pub enum Missing {
    /// There is none on this machine, or none that is new enough.
    NotFound(String),
    /// What the environment asks for can't be had.
    Wrong(String),
}

/// The compiler that `NVCC` names, or the first that is found and new enough.
pub fn find() -> Result<Nvcc, Missing> {
    if let Some(path) = set("NVCC") {
        let asked = |why| Missing::Wrong(format!("NVCC={}: {why}", path.display()));
        // A bare name is looked for on the PATH.
        let is_name = path.components().count() == 1;
        let found = if is_name {
            on_path(&path)
        } else {
            Some(path.clone())
        };
        let found = found.filter(|found| found.is_file());
        return describe(found.ok_or_else(|| asked("there is no such program".into()))?)
            .map_err(asked);
    }
    let home = |variable| set(variable).map(|home| home.join("bin/nvcc"));
    let places: [&dyn Fn() -> Option<PathBuf>; 5] = [
        &|| home("CUDA_HOME"),
        &|| home("CUDA_PATH"),
        &|| on_path(Path::new("nvcc")),
        &|| Some("/usr/local/cuda/bin/nvcc".into()),
        &in_python,
    ];
    let mut why = "no nvcc was found when it was built".to_owned();
    for path in places
        .iter()
        .filter_map(|place| place())
        .filter(|path| path.is_file())
    {
        match describe(path) {
            Ok(nvcc) => return Ok(nvcc),
            Err(problem) => why = format!("the nvcc found when it was built {problem}"),
        }
    }
    Err(Missing::NotFound(why))
}

fn set(variable: &str) -> Option<PathBuf> {
    env::var_os(variable)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

fn on_path(program: &Path) -> Option<PathBuf> {
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

/// The one of the package nvidia-cuda-nvcc, which lies in `nvidia/cu13/bin` of a folder that Python
/// imports from.
fn in_python() -> Option<PathBuf> {
    let python = set("VIRTUAL_ENV").map_or("python3".into(), |home| home.join("bin/python3"));
    let arguments = ["-c", r"import sys; print('\n'.join(sys.path))"];
    let output = Command::new(python).args(arguments).output().ok()?;
    let folders = String::from_utf8(output.stdout).ok()?;
    folders
        .lines()
        .map(|folder| Path::new(folder).join("nvidia/cu13/bin/nvcc"))
        .find(|path| path.is_file())
}

/// What is at `path`, or what is wrong with it.
fn describe(path: PathBuf) -> Result<Nvcc, String> {
    let ask = |argument: &str| {
        let output = Command::new(&path).arg(argument).output();
        let output = output.map_err(|error| format!("can't be run: {error}"))?;
        Ok::<_, String>(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let about = ask("--version")?;
    // "Cuda compilation tools, release 13.0, V13.0.88"
    let version = about
        .split_once(", V")
        .and_then(|(_, rest)| rest.split_whitespace().next());
    let version = version.ok_or("is none, as far as --version says")?;
    let mut parts = version.split('.').map_while(|part| part.parse().ok());
    if (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < OLDEST {
        let (major, minor) = OLDEST;
        return Err(format!(
            "is {version}, and {major}.{minor} or later is needed"
        ));
    }
    let architectures = ask("--list-gpu-code")?;
    let architectures = architectures
        .lines()
        .filter_map(|line| line.strip_prefix("sm_")?.parse().ok());
    Ok(Nvcc {
        version: version.to_owned(),
        architectures: architectures.collect(),
        path,
    })
}
