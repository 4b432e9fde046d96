//! Threads that stand ready to read.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use super::{Kernel, Readable};

/// A persistent team of reading threads. The calling thread is one of them; the others sleep
/// between readings, so that they take nothing from the engine that is measured in turns.
pub struct ReadTeam {
    members: Vec<Member>,
}

struct Member {
    jobs: Option<Sender<Arc<Job>>>,
    thread: Option<JoinHandle<()>>,
}

/// What one reading did.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Bytes read, all passes together.
    pub bytes: u64,
    /// From when all threads stood ready until the last of them was done.
    pub seconds: f64,
    /// How often everything was read.
    pub passes: usize,
    /// The wrapping sum of the kernels' sums over all stretches and passes.
    pub checksum: u64,
}

impl Reading {
    /// The bandwidth.
    pub fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.seconds
    }
}

/// One reading, shared by the team.
struct Job {
    source: Arc<dyn Readable>,
    kernel: Kernel,
    passes: usize,
    threads: usize,
    ready: AtomicUsize,
    done: AtomicUsize,
    checksum: AtomicU64,
}

impl ReadTeam {
    /// A team of `threads`, the caller included.
    ///
    /// # Errors
    /// If the system starts no more threads.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let mut team = Self {
            members: Vec::new(),
        };
        for index in 1..threads {
            let (jobs, inbox): (_, Receiver<Arc<Job>>) = channel();
            let thread = std::thread::Builder::new()
                .name(format!("read-{index}"))
                .spawn(move || {
                    for job in inbox {
                        job.run(index);
                    }
                })?;
            team.members.push(Member {
                jobs: Some(jobs),
                thread: Some(thread),
            });
        }
        Ok(team)
    }

    /// Threads that read, the caller included.
    pub fn threads(&self) -> usize {
        self.members.len() + 1
    }

    /// Reads all of `source` `passes` times, each thread its own range of it.
    pub fn read(&mut self, source: &Arc<dyn Readable>, kernel: Kernel, passes: usize) -> Reading {
        let job = Arc::new(Job {
            source: Arc::clone(source),
            kernel,
            passes,
            threads: self.threads(),
            ready: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            checksum: AtomicU64::new(0),
        });
        for jobs in self
            .members
            .iter()
            .filter_map(|member| member.jobs.as_ref())
        {
            jobs.send(Arc::clone(&job))
                .expect("members live as long as the team");
        }
        let started = job.run(0);
        wait_until(|| job.done.load(Ordering::Acquire) == job.threads);
        let seconds = started.elapsed().as_secs_f64();
        let bytes: usize = source.stretches().iter().map(|bytes| bytes.len()).sum();
        Reading {
            bytes: (bytes * passes) as u64,
            seconds,
            passes,
            checksum: job.checksum.load(Ordering::Relaxed),
        }
    }
}

impl Drop for ReadTeam {
    fn drop(&mut self) {
        for member in &mut self.members {
            member.jobs = None;
            if let Some(thread) = member.thread.take() {
                // A panic there was reported where it happened.
                let _ = thread.join();
            }
        }
    }
}

impl Job {
    /// The part of thread `index`; returns when all stood ready.
    fn run(&self, index: usize) -> Instant {
        let stretches = self.source.stretches();
        let lengths: Vec<usize> = stretches.iter().map(|bytes| bytes.len()).collect();
        let part: Vec<&[u8]> = part(&lengths, index, self.threads)
            .into_iter()
            .map(|(stretch, range)| &stretches[stretch][range])
            .collect();
        self.ready.fetch_add(1, Ordering::AcqRel);
        wait_until(|| self.ready.load(Ordering::Acquire) == self.threads);
        let started = Instant::now();
        let mut sum = 0_u64;
        for _ in 0..self.passes {
            for bytes in &part {
                sum = sum.wrapping_add(self.kernel.sum(bytes));
            }
        }
        self.checksum.fetch_add(sum, Ordering::Relaxed);
        self.done.fetch_add(1, Ordering::AcqRel);
        started
    }
}

/// The share of thread `index` of `threads`: which range of which stretch, in order. Cuts lie at
/// multiples of a cache line within a stretch.
fn part(lengths: &[usize], index: usize, threads: usize) -> Vec<(usize, Range<usize>)> {
    const LINE: usize = 64;
    let total: usize = lengths.iter().sum();
    let cut = |index: usize| (total as u128 * index as u128 / threads as u128) as usize;
    let (from, to) = (cut(index), cut(index + 1));
    let mut start = 0;
    let mut part = Vec::new();
    for (stretch, &length) in lengths.iter().enumerate() {
        // The last cut is the end, which need not lie on a line.
        let within = |cut: usize| match cut.saturating_sub(start) {
            inside if inside >= length => length,
            inside => inside / LINE * LINE,
        };
        let range = within(from)..within(to);
        if !range.is_empty() {
            part.push((stretch, range));
        }
        start += length;
    }
    part
}

/// Spins, and lets others run when that takes long (there may be more threads than processors).
fn wait_until(condition: impl Fn() -> bool) {
    let mut spins = 0_u32;
    while !condition() {
        spins += 1;
        if spins.is_multiple_of(1 << 14) {
            std::thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::statistics::hash;

    struct Pieces(Vec<Vec<u8>>);

    impl Readable for Pieces {
        fn stretches(&self) -> Vec<&[u8]> {
            self.0.iter().map(Vec::as_slice).collect()
        }
    }

    #[test]
    fn parts_are_disjoint_and_cover_everything() {
        for lengths in [vec![0, 1, 63, 64, 65, 1000, 7], vec![4096], vec![3, 3, 3]] {
            for threads in 1..7 {
                let mut next = vec![0; lengths.len()];
                for (stretch, range) in (0..threads).flat_map(|i| part(&lengths, i, threads)) {
                    assert_eq!(range.start, next[stretch], "{lengths:?} by {threads}");
                    next[stretch] = range.end;
                }
                assert_eq!(next, lengths, "by {threads}");
            }
        }
    }

    #[test]
    fn any_number_of_threads_reads_the_same() {
        let sizes = [1, 700, 4096, 33, 10_000];
        let piece = |size: u64| (0..size).map(|i| hash(i * size) as u8).collect();
        let source: Arc<dyn Readable> = Arc::new(Pieces(sizes.into_iter().map(piece).collect()));
        let read = |threads, passes| {
            let mut team = ReadTeam::new(threads).unwrap();
            assert_eq!(team.threads(), threads);
            team.read(&source, Kernel::PORTABLE, passes)
        };
        let alone = read(1, 1);
        assert_eq!(alone.bytes, sizes.iter().sum::<u64>());
        for threads in 2..5 {
            assert_eq!(read(threads, 1).checksum, alone.checksum);
            assert_eq!(read(threads, 3).checksum, alone.checksum.wrapping_mul(3));
        }
    }

    #[test]
    fn a_team_reads_again_and_again() {
        let source: Arc<dyn Readable> = Arc::new(vec![1_u8; 1 << 16]);
        let mut team = ReadTeam::new(3).unwrap();
        let first = team.read(&source, Kernel::PORTABLE, 1).checksum;
        for kernel in Kernel::available() {
            assert_eq!(team.read(&source, kernel, 2).checksum, first * 2);
        }
    }
}
