//! What a result must say of the machine and the program that made it.
//!
//! What a system does not tell is `None` (`null` in JSON): most of it comes from Linux's `/proc`
//! and `/sys`.

use serde::{Deserialize, Serialize};

use crate::memory;

/// The machine and the program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// The processor's name.
    pub cpu: Option<String>,
    /// Processors that this process may run on.
    pub cores: usize,
    /// The processor's architecture, as Rust calls it.
    pub architecture: String,
    /// Instruction sets that the kernels could use, of those the processor has.
    pub instruction_sets: Vec<String>,
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
    /// The operating system, as Rust calls it.
    pub os: String,
    /// Release of the kernel.
    pub kernel: Option<String>,
    /// Transparent huge pages: `always`, `madvise` or `never`.
    pub transparent_huge_pages: Option<String>,
    /// Commit that the program was built from, `-dirty` where it was edited since; `unknown` when
    /// built outside git.
    pub git_revision: String,
    /// The versions of what it was built from and with.
    pub versions: Versions,
    /// Seconds since 1970 when this was asked.
    pub unix_time: u64,
}

/// The versions in an [`Environment`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Versions {
    /// This crate's.
    pub onegrid: String,
    /// The compiler's.
    pub rustc: String,
}

impl Environment {
    /// This machine and this program, now.
    pub fn current() -> Self {
        let cpus = std::fs::read_to_string("/proc/cpuinfo").ok();
        Self {
            cpu: cpus.as_deref().and_then(cpu_name),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            architecture: std::env::consts::ARCH.to_owned(),
            instruction_sets: instruction_sets(),
            memory_bytes: memory::total(),
            os: std::env::consts::OS.to_owned(),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
                .ok()
                .map(|release| release.trim().to_owned()),
            transparent_huge_pages: memory::transparent_huge_pages(),
            git_revision: env!("ONEGRID_GIT_REVISION").to_owned(),
            versions: Versions {
                onegrid: env!("CARGO_PKG_VERSION").to_owned(),
                rustc: env!("ONEGRID_RUSTC_VERSION").to_owned(),
            },
            unix_time: Self::now(),
        }
    }

    /// Seconds since 1970, by the system's clock.
    pub fn now() -> u64 {
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed();
        now.map_or(0, |now| now.as_secs())
    }
}

/// The name of the first processor in `/proc/cpuinfo` (x86: `model name`; others may have none).
fn cpu_name(cpuinfo: &str) -> Option<String> {
    ["model name", "Model", "cpu model", "Hardware"]
        .iter()
        .find_map(|field| {
            let line = cpuinfo.lines().find(|line| line.starts_with(field))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        })
}

#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
fn instruction_sets() -> Vec<String> {
    macro_rules! detected {
        ($($name:tt),*) => {
            [$(($name, std::is_x86_feature_detected!($name))),*]
        };
    }
    let sets = detected!(
        "avx",
        "avx2",
        "fma",
        "f16c",
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512vnni",
        "avx512bf16",
        "avx512fp16"
    );
    let present = sets.iter().filter(|(_, present)| *present);
    present.map(|(name, _)| (*name).to_owned()).collect()
}

#[cfg(target_arch = "aarch64")]
fn instruction_sets() -> Vec<String> {
    macro_rules! detected {
        ($($name:tt),*) => {
            [$(($name, std::arch::is_aarch64_feature_detected!($name))),*]
        };
    }
    let sets = detected!("neon", "fp16", "dotprod", "bf16", "i8mm", "sve", "sve2");
    let present = sets.iter().filter(|(_, present)| *present);
    present.map(|(name, _)| (*name).to_owned()).collect()
}

#[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
fn instruction_sets() -> Vec<String> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processors_name_is_read() {
        let cpus = "processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\nmodel name\t: other\n";
        assert_eq!(cpu_name(cpus).as_deref(), Some("Some CPU @ 3 GHz"));
        assert_eq!(cpu_name("processor\t: 0\n"), None);
    }

    #[test]
    fn the_environment_survives_json() {
        let environment = Environment::current();
        let json = serde_json::to_string(&environment).unwrap();
        assert_eq!(
            serde_json::from_str::<Environment>(&json).unwrap(),
            environment
        );
        assert!(environment.cores >= 1);
        assert!(environment.versions.rustc.starts_with("rustc"));
    }
}
