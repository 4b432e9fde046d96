//! A persistent team of threads, and the barrier at which they wait for each other.
//!
//! The caller's thread is member 0. A team spins at its barriers, or sleeps there ([`Waiting`]). One that
//! spins does so for a while after each job too, so that the next decode step finds its members awake.

use std::cell::Cell;
use std::num::NonZeroUsize;
use std::ops::{Deref, Range};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use crate::engine::EngineError;

/// How long an idle member spins before it sleeps: several decode steps' worth of sampling.
const SPIN_BEFORE_SLEEP: Duration = Duration::from_millis(5);
/// Spins after which a waiting member offers its core to others at every turn. Where there are
/// more threads than cores that is what lets the one that is waited for run.
const SPINS_BEFORE_YIELD: u32 = 4096;

/// What a member does while it waits for the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Waiting {
    /// Spins; it sleeps only when no new job has come for some milliseconds.
    #[default]
    Spinning,
    /// Sleeps at once, until the last one wakes it.
    Parking,
}

/// Keeps what a thread writes often on cache lines of its own. 128 bytes, since x86 processors
/// fetch lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Padded<T>(pub(super) T);

/// A job: what every member runs. The lifetime is erased; [`Team::run`] outlives every use.
type Job = *const (dyn Fn(&TeamMember) + Sync);

struct Shared {
    threads: usize,
    waiting: Waiting,
    /// Counts jobs; a change tells the members to run `job`.
    job_epoch: Padded<AtomicU64>,
    job: Padded<std::cell::UnsafeCell<Option<Job>>>,
    /// Members that finished the job of this epoch.
    finished: Padded<AtomicUsize>,
    /// Arrivals at the barrier, ever. Never reset: the barrier's epoch is its quotient.
    arrivals: Padded<AtomicU64>,
    /// A member panicked: whoever waits must not wait on.
    poisoned: AtomicBool,
    shutdown: AtomicBool,
    /// Where members of a parking team sleep in a job. The lock guards nothing: whoever changes what
    /// they wait for takes it before it wakes them, so that none falls asleep between look and sleep.
    sleep: Mutex<()>,
    woken: Condvar,
}

// SAFETY: `job` is written by the caller's thread only while no member runs, and published by the
// release store of `job_epoch`; everything else is atomic.
unsafe impl Sync for Shared {}
// SAFETY: the raw pointer in `job` points to a `Sync` closure.
unsafe impl Send for Shared {}

/// One of those who run a pass together: which, and of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number, from 0.
    pub index: usize,
    count: usize,
}

impl Member {
    /// Number `index` of `count`.
    pub fn new(index: usize, count: usize) -> Self {
        Self { index, count }
    }

    /// How many members there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The part of `0..len` that is this member's: contiguous, fixed, and equal to within one.
    pub fn share(&self, len: usize) -> Range<usize> {
        let part = |index: usize| len * index / self.count;
        part(self.index)..part(self.index + 1)
    }
}

/// A member of a team, in a job that runs.
pub struct TeamMember<'a> {
    member: Member,
    shared: &'a Shared,
    /// Arrivals after the last barrier that this member passed.
    passed_arrivals: Cell<u64>,
}

impl Deref for TeamMember<'_> {
    type Target = Member;

    fn deref(&self) -> &Member {
        &self.member
    }
}

impl TeamMember<'_> {
    /// Waits until every member arrived; what they wrote before is then visible to all. While it
    /// spins it calls `meanwhile` with 0, 1, 2, ...
    pub fn barrier_while(&self, mut meanwhile: impl FnMut(u32)) {
        let shared = self.shared;
        let all = self.passed_arrivals.get() + shared.threads as u64;
        self.passed_arrivals.set(all);
        // Release: what this member wrote happens before whoever sees the count. The additions of
        // the others are part of the same release sequence, so the last one carries all.
        let arrived = shared.arrivals.0.fetch_add(1, Ordering::AcqRel) + 1;
        if arrived >= all {
            return shared.wake_sleepers();
        }
        let is_passed = || shared.arrivals.0.load(Ordering::Acquire) >= all;
        match shared.waiting {
            Waiting::Spinning => {
                let mut spins = 0;
                while !is_passed() {
                    meanwhile(spins);
                    shared.wait_a_little(&mut spins);
                }
            }
            Waiting::Parking => shared.sleep_until(|| {
                let is_passed = is_passed();
                if !is_passed {
                    shared.assert_whole();
                }
                is_passed
            }),
        }
    }
}

impl Shared {
    fn wait_a_little(&self, spins: &mut u32) {
        *spins += 1;
        if *spins < SPINS_BEFORE_YIELD {
            std::hint::spin_loop();
            return;
        }
        *spins = SPINS_BEFORE_YIELD;
        self.assert_whole();
        std::thread::yield_now();
    }

    /// # Panics
    /// If a member did.
    fn assert_whole(&self) {
        assert!(
            !self.poisoned.load(Ordering::Acquire),
            "another member of the team panicked"
        );
    }

    /// Sleeps until `is_over`. Whoever makes it so must call [`wake_sleepers`](Self::wake_sleepers).
    fn sleep_until(&self, is_over: impl Fn() -> bool) {
        let mut sleep = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
        while !is_over() {
            sleep = (self.woken.wait(sleep)).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Wakes all who sleep in a job, in a team that does.
    fn wake_sleepers(&self) {
        if self.waiting == Waiting::Parking {
            drop(self.sleep.lock().unwrap_or_else(PoisonError::into_inner));
            self.woken.notify_all();
        }
    }

    fn member(&self, index: usize) -> TeamMember<'_> {
        // Others may have arrived at the job's first barrier already, but can't have passed it: the
        // last whole epoch is the same for everyone.
        let threads = self.threads as u64;
        let arrivals = self.arrivals.0.load(Ordering::Acquire) / threads * threads;
        TeamMember {
            member: Member::new(index, self.threads),
            shared: self,
            passed_arrivals: Cell::new(arrivals),
        }
    }

    /// Waits for the job after `epoch`; `None` at shutdown.
    fn next_job(&self, epoch: u64) -> Option<Job> {
        let mut spins = 0;
        let mut started = None;
        while self.job_epoch.0.load(Ordering::Acquire) == epoch {
            if self.waiting == Waiting::Parking {
                std::thread::park();
                continue;
            }
            spins += 1;
            if spins < SPINS_BEFORE_YIELD {
                std::hint::spin_loop();
                continue;
            }
            let started = started.get_or_insert_with(Instant::now);
            if started.elapsed() < SPIN_BEFORE_SLEEP {
                std::thread::yield_now();
            } else {
                // `run` unparks after it raised the epoch; a token left over costs one turn.
                std::thread::park();
            }
        }
        if self.shutdown.load(Ordering::Acquire) {
            return None;
        }
        // SAFETY: the acquire load above saw the epoch that published this job, and it is not
        // written again before this member reports that it finished.
        unsafe { *self.job.0.get() }
    }

    fn work(&self, index: usize) {
        let mut epoch = 0;
        while let Some(job) = self.next_job(epoch) {
            epoch += 1;
            let member = self.member(index);
            // SAFETY: `run` keeps the closure alive until every member has finished.
            let job = unsafe { &*job };
            if catch_unwind(AssertUnwindSafe(|| job(&member))).is_err() {
                self.poisoned.store(true, Ordering::Release);
            }
            self.finished.0.fetch_add(1, Ordering::Release);
            self.wake_sleepers();
        }
    }
}

/// The threads.
pub struct Team {
    shared: Arc<Shared>,
    handles: Vec<JoinHandle<()>>,
}

impl Team {
    /// A team of `threads`, the caller's among them, that wait for each other by `waiting`.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn new(threads: NonZeroUsize, waiting: Waiting) -> Result<Self, EngineError> {
        let threads = threads.get();
        let shared = Arc::new(Shared {
            threads,
            waiting,
            job_epoch: Padded::default(),
            job: Padded::default(),
            finished: Padded::default(),
            arrivals: Padded::default(),
            poisoned: AtomicBool::new(false),
            shutdown: AtomicBool::new(false),
            sleep: Mutex::new(()),
            woken: Condvar::new(),
        });
        let mut team = Self {
            shared,
            handles: Vec::with_capacity(threads - 1),
        };
        for index in 1..threads {
            let shared = Arc::clone(&team.shared);
            let handle = std::thread::Builder::new()
                .name(format!("onegrid-{index}"))
                .spawn(move || shared.work(index))
                .map_err(|source| EngineError::Thread {
                    index,
                    threads,
                    source,
                })?;
            team.handles.push(handle);
        }
        Ok(team)
    }

    /// How many members there are.
    pub fn threads(&self) -> usize {
        self.shared.threads
    }

    /// Runs `job` on every member and returns when all are done.
    ///
    /// # Panics
    /// If a member panics.
    pub fn run(&mut self, job: &(dyn Fn(&TeamMember) + Sync)) {
        let shared = &self.shared;
        let others = self.handles.len();
        let member = shared.member(0);
        if others == 0 {
            job(&member);
            return;
        }
        // SAFETY: this only erases the lifetime; the wait below keeps `job` borrowed until no
        // member uses it.
        let erased: Job = unsafe { std::mem::transmute(std::ptr::from_ref(job)) };
        // SAFETY: no member reads `job` now: each waits for the epoch to change.
        unsafe { *shared.job.0.get() = Some(erased) };
        shared.finished.0.store(0, Ordering::Relaxed);
        shared.job_epoch.0.fetch_add(1, Ordering::Release);
        self.wake();
        let own = catch_unwind(AssertUnwindSafe(|| job(&member)));
        if own.is_err() {
            shared.poisoned.store(true, Ordering::Release);
            shared.wake_sleepers();
        }
        let is_finished = || shared.finished.0.load(Ordering::Acquire) >= others;
        match shared.waiting {
            Waiting::Spinning => {
                let mut spins = 0;
                while !is_finished() {
                    spins += 1;
                    if spins < SPINS_BEFORE_YIELD {
                        std::hint::spin_loop();
                    } else {
                        std::thread::yield_now();
                    }
                }
            }
            Waiting::Parking => shared.sleep_until(is_finished),
        }
        if let Err(panic) = own {
            resume_unwind(panic);
        }
        assert!(
            !shared.poisoned.load(Ordering::Acquire),
            "a member of the team panicked"
        );
    }

    fn wake(&self) {
        self.handles
            .iter()
            .map(JoinHandle::thread)
            .for_each(Thread::unpark);
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.shutdown.store(true, Ordering::Release);
        self.shared.job_epoch.0.fetch_add(1, Ordering::Release);
        self.wake();
        for handle in self.handles.drain(..) {
            // A member that panicked was reported by `run`.
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAYS: [Waiting; 2] = [Waiting::Spinning, Waiting::Parking];

    fn team(threads: usize, waiting: Waiting) -> Team {
        Team::new(NonZeroUsize::new(threads).expect("not zero"), waiting).expect("threads")
    }

    #[test]
    fn shares_cover_everything_once() {
        for threads in [1, 2, 3, 7] {
            let covered = Mutex::new(vec![0; 100]);
            team(threads, Waiting::default()).run(&|member| {
                for index in member.share(100) {
                    covered.lock().expect("no panic")[index] += 1;
                }
            });
            assert_eq!(covered.into_inner().expect("no panic"), vec![1; 100]);
        }
    }

    #[test]
    fn a_barrier_shows_everyones_writes() {
        let threads = 4;
        for waiting in WAYS {
            let mut team = team(threads, waiting);
            for _ in 0..3 {
                let cells: Vec<AtomicU64> = (0..threads).map(|_| AtomicU64::new(0)).collect();
                team.run(&|member| {
                    for round in 1..200 {
                        cells[member.index].store(round, Ordering::Relaxed);
                        member.barrier_while(|_| ());
                        for cell in &cells {
                            assert_eq!(cell.load(Ordering::Relaxed), round);
                        }
                        member.barrier_while(|_| ());
                    }
                });
            }
        }
    }

    #[test]
    fn a_sleeping_team_wakes() {
        for waiting in WAYS {
            let mut team = team(3, waiting);
            for _ in 0..2 {
                std::thread::sleep(4 * SPIN_BEFORE_SLEEP);
                let count = AtomicUsize::new(0);
                team.run(&|_| {
                    count.fetch_add(1, Ordering::Relaxed);
                });
                assert_eq!(count.load(Ordering::Relaxed), 3);
            }
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_instead_of_hanging_the_others() {
        for waiting in WAYS {
            for panicking in [0, 2] {
                let mut team = team(3, waiting);
                let result = catch_unwind(AssertUnwindSafe(|| {
                    team.run(&|member| {
                        if member.index == panicking {
                            // By then the others wait, some of them asleep.
                            std::thread::sleep(Duration::from_millis(2));
                            panic!("as the test wants");
                        }
                        member.barrier_while(|_| ());
                    });
                }));
                assert!(result.is_err());
            }
        }
    }
}
