//! Who runs a pass, and how its parts follow each other.
//!
//! The forward pass is written once, as parts that every member runs ([`Crew`]). A team's members each go
//! through the whole pass and meet at barriers; a thread pool is handed one part after the other by a
//! single thread, as a GPU is by a host that launches kernels.

use std::cell::Cell;
use std::num::NonZeroUsize;

use super::forward::{Forward, Job, Upcoming};
use super::team::{Member, Team, TeamMember, Waiting};
use crate::engine::EngineError;
use crate::engine::trace::{Phase, Recorder};

/// What comes behind a part of a phase.
#[derive(Clone, Copy)]
pub enum Then<'a> {
    /// Another part of the same phase, which needs this one of every member.
    Part,
    /// Another phase, which needs this one of every member, and reads these weights first.
    Phase(Upcoming<'a>),
    /// Nothing that needs more of it than a member did itself.
    Nothing,
}

/// Those who run a pass, as the pass sees them.
pub trait Crew {
    /// The parts from here on are of `phase`, in `layer` if it is of one.
    fn begin(&self, phase: Phase, layer: Option<usize>);

    /// Runs `part` on every member, and whatever comes `then` after all of them.
    fn run(&self, part: impl Fn(&Member) + Sync, then: Then);
}

/// A crew of which this thread is one member: the others go through the same pass beside it.
struct OnTeam<'a> {
    forward: &'a Forward<'a>,
    member: &'a TeamMember<'a>,
    /// When the phase that is recorded began.
    began: Cell<Option<u64>>,
}

impl OnTeam<'_> {
    /// Waits for the team, and meanwhile fetches weights that this member will stream next.
    fn barrier(&self, next: Option<Upcoming>) {
        let (forward, member) = (self.forward, self.member);
        let begin = (forward.trace).map(|trace| trace.wait_begins(member.index));
        match next.map(|next| forward.start_of(member, next)) {
            None => member.barrier_while(|_| ()),
            Some(start) => member.barrier_while(|spin| forward.fetch(start, spin as usize)),
        }
        if let (Some(trace), Some(begin)) = (forward.trace, begin) {
            trace.waited(member.index, begin);
        }
    }
}

impl Crew for OnTeam<'_> {
    fn begin(&self, phase: Phase, layer: Option<usize>) {
        if let Some(trace) = self.forward.trace {
            let began = trace.enter(self.member.index, phase, layer);
            self.began.set(Some(began));
        }
    }

    fn run(&self, part: impl Fn(&Member) + Sync, then: Then) {
        part(self.member);
        if matches!(then, Then::Part) {
            return self.barrier(None);
        }
        if let (Some(trace), Some(began)) = (self.forward.trace, self.began.take()) {
            trace.leave(self.member.index, began);
        }
        if let Then::Phase(next) = then {
            self.barrier(Some(next));
        }
    }
}

/// A thread pool, each thread of which is a member.
struct OnPool<'a> {
    forward: &'a Forward<'a>,
    pool: &'a rayon::ThreadPool,
    phase: Cell<(Phase, Option<usize>)>,
    /// Whether a part of this job was run.
    has_begun: Cell<bool>,
}

impl Crew for OnPool<'_> {
    fn begin(&self, phase: Phase, layer: Option<usize>) {
        self.phase.set((phase, layer));
    }

    fn run(&self, part: impl Fn(&Member) + Sync, _: Then) {
        let trace = self.forward.trace;
        let (phase, layer) = self.phase.get();
        let has_begun = self.has_begun.replace(true);
        self.pool.broadcast(|context| {
            let member = Member::new(context.index(), context.num_threads());
            let began = trace.map(|trace| {
                match has_begun {
                    true => trace.waited(member.index, trace.wait_begins(member.index)),
                    false => trace.resume(member.index),
                }
                trace.enter(member.index, phase, layer)
            });
            part(&member);
            if let (Some(trace), Some(began)) = (trace, began) {
                trace.leave(member.index, began);
            }
        });
    }
}

/// The threads of an engine.
pub enum Threads {
    /// They stay in a pass from its beginning to its end.
    Team(Team),
    /// They are given one part at a time.
    Pool(rayon::ThreadPool),
}

impl Threads {
    /// `count` threads, this one among them, that wait for each other by `waiting`.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn team(count: NonZeroUsize, waiting: Waiting) -> Result<Self, EngineError> {
        Ok(Self::Team(Team::new(count, waiting)?))
    }

    /// A pool of `count` threads. This one is not among them, and sleeps while they work.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn pool(count: NonZeroUsize) -> Result<Self, EngineError> {
        let threads = count.get();
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("onegrid-{index}"))
            .build();
        let pool = pool.map_err(|source| EngineError::ThreadPool { threads, source })?;
        Ok(Self::Pool(pool))
    }

    /// How many members a pass has.
    pub fn count(&self) -> usize {
        match self {
            Self::Team(team) => team.threads(),
            Self::Pool(pool) => pool.current_num_threads(),
        }
    }

    /// Runs `job` on all of them, and returns when it is done.
    ///
    /// # Panics
    /// If a member panics.
    pub fn run(&mut self, forward: &Forward, job: Job) {
        let trace = forward.trace;
        match self {
            Self::Team(team) => {
                team.run(&|member| {
                    if let Some(trace) = trace {
                        trace.resume(member.index);
                    }
                    let began = Cell::new(None);
                    let crew = OnTeam {
                        forward,
                        member,
                        began,
                    };
                    forward.run(&crew, job);
                });
                // This thread is member 0, and waited for the others.
                waited(trace, 0..1);
            }
            Self::Pool(pool) => {
                let crew = OnPool {
                    forward,
                    pool,
                    phase: Cell::new((Phase::Embed, None)),
                    has_begun: Cell::new(false),
                };
                forward.run(&crew, job);
                waited(trace, 0..pool.current_num_threads());
            }
        }
    }

    /// Calls `work` on every thread at once, and waits for all of them.
    pub fn on_each(&mut self, work: &(dyn Fn() + Sync)) {
        match self {
            Self::Team(team) => team.run(&|_| work()),
            Self::Pool(pool) => drop(pool.broadcast(|_| work())),
        }
    }
}

/// Records that `threads` have waited since their last part.
fn waited(trace: Option<&Recorder>, threads: std::ops::Range<usize>) {
    if let Some(trace) = trace {
        threads.for_each(|thread| trace.waited(thread, trace.wait_begins(thread)));
    }
}
