//! What it costs CPU threads to keep in step: the same phases, with different ways to wait between them.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::engine::EngineError;
use crate::engine::cpu::team::{Team, Waiting};

/// A way to keep threads in step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// The CPU engine's team: threads that stay, and spin at a barrier.
    SpinningBarrier,
    /// Threads that stay, and sleep at a barrier ([`std::sync::Barrier`]).
    ParkingBarrier,
    /// A task for each thread of a pool, for every phase (rayon's `broadcast`).
    ThreadPool,
    /// A thread spawned for each share of every phase ([`std::thread::scope`]).
    Spawned,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::SpinningBarrier,
        Self::ParkingBarrier,
        Self::ThreadPool,
        Self::Spawned,
    ];

    /// Its name in plans and results.
    pub fn name(self) -> &'static str {
        match self {
            Self::SpinningBarrier => "spinning-barrier",
            Self::ParkingBarrier => "parking-barrier",
            Self::ThreadPool => "thread-pool",
            Self::Spawned => "spawned",
        }
    }
}

/// What keeps threads from being measured.
#[derive(Debug, thiserror::Error)]
pub enum SynchronisationError {
    /// A team that can't be made.
    #[error(transparent)]
    Team(#[from] EngineError),
    /// A pool that can't be made.
    #[error("cannot make a pool of {threads} threads: {reason}")]
    Pool {
        /// How many.
        threads: usize,
        /// rayon's word.
        reason: String,
    },
    /// A phase that began before the one before it had ended everywhere.
    #[error("{way}: phase {phase} of {threads} threads did not see all of the phase before it")]
    OutOfStep {
        /// How they were kept in step.
        way: &'static str,
        /// Which phase, from 0.
        phase: usize,
        /// How many threads.
        threads: usize,
    },
}

/// What the threads do between two waits.
#[derive(Clone, Debug)]
pub struct Phases {
    /// How many.
    pub count: usize,
    /// What they read together in each, a different stretch each time; empty for nothing.
    pub memory: Arc<[u64]>,
    /// 64-bit words of it that they read in each phase, all threads together.
    pub words: usize,
}

/// Threads that are ready.
enum Threads {
    Team(Team),
    Parking(usize),
    Pool(rayon::ThreadPool),
    Spawned(usize),
}

/// Some threads, kept in step in one way.
pub struct Runner {
    way: Way,
    count: usize,
    threads: Threads,
}

/// A line of the cache that only one thread writes.
#[repr(align(128))]
#[derive(Default)]
struct Line(AtomicU64);

impl Runner {
    /// `threads` threads, kept in step by `way`.
    ///
    /// # Errors
    /// If the system starts no more threads.
    pub fn new(way: Way, threads: NonZeroUsize) -> Result<Self, SynchronisationError> {
        let count = threads.get();
        let pool = || {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(count).build();
            pool.map_err(|error| SynchronisationError::Pool {
                threads: count,
                reason: error.to_string(),
            })
        };
        let threads = match way {
            Way::SpinningBarrier => Threads::Team(Team::new(threads, Waiting::Spinning)?),
            Way::ParkingBarrier => Threads::Parking(count),
            Way::ThreadPool => Threads::Pool(pool()?),
            Way::Spawned => Threads::Spawned(count),
        };
        Ok(Self {
            way,
            count,
            threads,
        })
    }

    /// Whether every phase sees what every thread did in the one before.
    ///
    /// # Errors
    /// If one did not.
    pub fn check(&mut self, phases: usize) -> Result<(), SynchronisationError> {
        let lines: Vec<Line> = (0..self.count).map(|_| Line::default()).collect();
        let first_wrong = AtomicUsize::new(usize::MAX);
        self.run(phases, &|phase, thread| {
            // Even phases write, odd ones look.
            if phase % 2 == 0 {
                lines[thread].0.store(phase as u64 + 1, Ordering::Relaxed);
            } else if lines
                .iter()
                .any(|line| line.0.load(Ordering::Relaxed) != phase as u64)
            {
                first_wrong.fetch_min(phase, Ordering::Relaxed);
            }
        });
        match first_wrong.into_inner() {
            usize::MAX => Ok(()),
            phase => Err(SynchronisationError::OutOfStep {
                way: self.way.name(),
                phase,
                threads: self.count,
            }),
        }
    }

    /// Seconds that `phases` take, the start of threads that stay not counted.
    pub fn time(&mut self, phases: &Phases) -> f64 {
        let threads = self.count;
        let stretches = phases.memory.len().checked_div(phases.words).unwrap_or(0);
        let read = |phase: usize, thread: usize| {
            if stretches == 0 {
                return;
            }
            let stretch = &phases.memory[phase % stretches * phases.words..][..phases.words];
            let share = |thread: usize| stretch.len() * thread / threads;
            let sum = stretch[share(thread)..share(thread + 1)]
                .iter()
                .fold(0_u64, |sum, word| sum.wrapping_add(*word));
            std::hint::black_box(sum);
        };
        self.run(phases.count, &read)
    }

    /// Runs `phase(number, thread)` on every thread, phase by phase; returns how long it took.
    fn run(&mut self, phases: usize, phase: &(dyn Fn(usize, usize) + Sync)) -> f64 {
        match &mut self.threads {
            Threads::Team(team) => {
                // They are awake once they have run something.
                team.run(&|_| ());
                let started = Instant::now();
                team.run(&|member| {
                    for number in 0..phases {
                        phase(number, member.index);
                        member.barrier_while(|_| ());
                    }
                });
                started.elapsed().as_secs_f64()
            }
            Threads::Parking(threads) => parked(*threads, phases, phase),
            Threads::Pool(pool) => {
                pool.broadcast(|_| ());
                let started = Instant::now();
                for number in 0..phases {
                    pool.broadcast(|context| phase(number, context.index()));
                }
                started.elapsed().as_secs_f64()
            }
            Threads::Spawned(threads) => {
                let threads = *threads;
                let started = Instant::now();
                for number in 0..phases {
                    std::thread::scope(|scope| {
                        for thread in 1..threads {
                            scope.spawn(move || phase(number, thread));
                        }
                        phase(number, 0);
                    });
                }
                started.elapsed().as_secs_f64()
            }
        }
    }
}

/// Threads that wait for each other at a barrier of the system; the caller is one of them.
fn parked(threads: usize, phases: usize, phase: &(dyn Fn(usize, usize) + Sync)) -> f64 {
    let barrier = Barrier::new(threads);
    let all = |thread: usize| {
        for number in 0..phases {
            phase(number, thread);
            barrier.wait();
        }
    };
    std::thread::scope(|scope| {
        for thread in 1..threads {
            let (all, barrier) = (&all, &barrier);
            scope.spawn(move || {
                barrier.wait();
                all(thread);
            });
        }
        // All are there: from here on the clock runs.
        barrier.wait();
        let started = Instant::now();
        all(0);
        started.elapsed().as_secs_f64()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_keeps_threads_in_step() {
        for way in Way::ALL {
            for threads in [1, 2, 3] {
                let threads = NonZeroUsize::new(threads).unwrap();
                Runner::new(way, threads).unwrap().check(40).unwrap();
            }
        }
    }

    #[test]
    fn every_thread_runs_every_phase_once() {
        for way in Way::ALL {
            let mut runner = Runner::new(way, NonZeroUsize::new(3).unwrap()).unwrap();
            let counts: Vec<AtomicUsize> = (0..30).map(|_| AtomicUsize::new(0)).collect();
            runner.run(10, &|phase, thread| {
                counts[3 * phase + thread].fetch_add(1, Ordering::Relaxed);
            });
            let counts: Vec<usize> = counts.into_iter().map(AtomicUsize::into_inner).collect();
            assert_eq!(counts, vec![1; 30], "{way:?}");
        }
    }
}
