//! Every way to read memory, side by side: which kernel is the floor, and by how much.
//!
//! `cargo run --release --example read_bandwidth -- [threads] [megabytes] [rounds]`
//!
//! Reads a buffer in huge pages and one in small pages with each kernel in turns, forwards and
//! backwards, and prints gigabytes a second. The buffer should be many times the last cache.

use std::sync::Arc;

use onegrid::measure::bandwidth::team::ReadTeam;
use onegrid::measure::bandwidth::{Kernel, Readable};
use onegrid::measure::statistics::Summary;

fn main() -> std::io::Result<()> {
    let cores = std::thread::available_parallelism()?.get();
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse());
    let mut next = |default: usize| match arguments.next() {
        Some(value) => value.map_err(std::io::Error::other),
        None => Ok(default),
    };
    let (threads, megabytes, rounds) = (next(cores)?, next(1200)?, next(7)?);
    println!("{threads} threads, {megabytes} MB, {rounds} rounds, GB/s: median [low high] best");
    for huge in [true, false] {
        let source: Arc<dyn Readable> = Arc::new(Buffer::new(megabytes << 20, huge)?);
        let mut team = ReadTeam::new(threads)?;
        let mut kernels: Vec<(Kernel, Vec<f64>)> = Kernel::available()
            .into_iter()
            .map(|k| (k, Vec::new()))
            .collect();
        for _ in 0..rounds {
            for (kernel, samples) in &mut kernels {
                let reading = team.read(&source, *kernel, 1);
                samples.push(reading.bytes_per_second() * 1e-9);
            }
            kernels.reverse();
        }
        kernels.sort_by_key(|(kernel, _)| kernel.to_string());
        for (kernel, samples) in kernels {
            let best = samples.iter().copied().fold(0.0, f64::max);
            let Some(Summary {
                median, low, high, ..
            }) = Summary::new(samples)
            else {
                continue;
            };
            let pages = if huge { "huge" } else { "small" };
            println!(
                "{pages:<5} pages, {kernel:<32} {median:6.2} [{low:6.2} {high:6.2}] {best:6.2}"
            );
        }
    }
    Ok(())
}

struct Buffer(memmap2::MmapMut);

impl Buffer {
    fn new(bytes: usize, huge: bool) -> std::io::Result<Self> {
        let mut map = memmap2::MmapOptions::new().len(bytes).map_anon()?;
        #[cfg(target_os = "linux")]
        map.advise(match huge {
            true => memmap2::Advice::HugePage,
            false => memmap2::Advice::NoHugePage,
        })?;
        // Written, so that it has pages of its own.
        map.fill(if huge { 1 } else { 2 });
        Ok(Self(map))
    }
}

impl Readable for Buffer {
    fn stretches(&self) -> Vec<&[u8]> {
        vec![&self.0]
    }
}
