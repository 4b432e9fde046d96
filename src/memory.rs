//! What the system says of memory: how much is free, how much this process holds, which pages it
//! grants.
//!
//! Linux says it in `/proc` and `/sys`; elsewhere the answer is `None`.

/// Bytes of memory.
pub fn total() -> Option<u64> {
    meminfo("MemTotal")
}

/// Bytes of memory that could be had without swapping.
pub fn available() -> Option<u64> {
    meminfo("MemAvailable")
}

/// When memory comes in transparent huge pages: `always`, `madvise` or `never`.
pub fn transparent_huge_pages() -> Option<String> {
    let text = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok()?;
    bracketed(&text).map(str::to_owned)
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

fn meminfo(field: &str) -> Option<u64> {
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

/// The chosen one in `always [madvise] never`.
fn bracketed(text: &str) -> Option<&str> {
    Some(text.split_once('[')?.1.split_once(']')?.0)
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
