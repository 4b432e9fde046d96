//! What a result must say of the machine and the program that made it.
//!
//! What a system does not tell is `None` (`null` in JSON): most of it comes from Linux's `/proc`
//! and `/sys`.

use serde::{Deserialize, Serialize};

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
        let thp = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok();
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed();
        Self {
            cpu: cpus.as_deref().and_then(cpu_name),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            architecture: std::env::consts::ARCH.to_owned(),
            instruction_sets: instruction_sets(),
            memory_bytes: memory("MemTotal"),
            os: std::env::consts::OS.to_owned(),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
                .ok()
                .map(|release| release.trim().to_owned()),
            transparent_huge_pages: thp.as_deref().and_then(bracketed).map(str::to_owned),
            git_revision: env!("ONEGRID_GIT_REVISION").to_owned(),
            versions: Versions {
                onegrid: env!("CARGO_PKG_VERSION").to_owned(),
                rustc: env!("ONEGRID_RUSTC_VERSION").to_owned(),
            },
            unix_time: now.map_or(0, |now| now.as_secs()),
        }
    }
}

/// Bytes of memory that could be had without swapping, if the system says.
pub fn available_memory() -> Option<u64> {
    memory("MemAvailable")
}

/// Most bytes of memory this process held at once since [`reset_peak_rss`], or since its start
/// where that could not be done. Pages of mapped files count while they are mapped in.
pub fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    kilobytes(&status, "VmHWM")
}

/// Lets the peak of [`peak_rss`] begin anew at what is held now; says whether the system did.
///
/// Without it a second model's figure would be the larger of the two.
pub fn reset_peak_rss() -> bool {
    // "5" resets the peak: proc(5), /proc/pid/clear_refs. Some containers deny it.
    cfg!(target_os = "linux") && std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

fn memory(field: &str) -> Option<u64> {
    kilobytes(&std::fs::read_to_string("/proc/meminfo").ok()?, field)
}

/// The value in bytes of a line `field:   123 kB`.
fn kilobytes(text: &str, field: &str) -> Option<u64> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kilobytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
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

/// The chosen one in `always [madvise] never`.
fn bracketed(text: &str) -> Option<&str> {
    Some(text.split_once('[')?.1.split_once(']')?.0)
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
    fn fields_of_proc_are_read() {
        let text = "MemTotal:       24689312 kB\nMemAvailable:   23112556 kB\nHugePages_Total: 0\n";
        assert_eq!(kilobytes(text, "MemTotal"), Some(24_689_312 * 1024));
        assert_eq!(kilobytes(text, "Mem"), None);
        assert_eq!(kilobytes(text, "HugePages_Total"), None);
        assert_eq!(bracketed("always [madvise] never\n"), Some("madvise"));
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

    #[cfg(target_os = "linux")]
    #[test]
    fn the_peak_covers_what_was_touched() {
        let size = 64 << 20;
        let before = peak_rss().unwrap();
        let touched = vec![1_u8; size];
        std::hint::black_box(&touched);
        let peak = peak_rss().unwrap();
        assert!(
            peak >= size as u64 && peak >= before,
            "{peak} after {before}"
        );
    }
}
