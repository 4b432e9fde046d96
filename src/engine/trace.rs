//! What an engine records while it runs: when each phase of each layer began and ended, on every
//! thread or block, and how long each waited for the others.
//!
//! An engine that records nothing pays for it with a branch or two a phase (CPU), or with nothing at
//! all (CUDA, where other kernels record). All memory is taken by
//! [`start_trace`](super::Engine::start_trace), for a number of steps; what comes after them runs
//! unrecorded, and is counted.

use std::io::ErrorKind;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::EngineError;
use crate::model::TokenId;

/// A part of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// Rows of the embedding.
    Embed,
    /// An RMSNorm that one block computes for all.
    Norm,
    /// RMSNorm, and the rows of Q, K and V.
    Qkv,
    /// Norm and rotation of heads, the KV cache, and attention.
    Attention,
    /// The O projection.
    Output,
    /// RMSNorm, the gate and up rows, and their product.
    GateUp,
    /// The down projection.
    Down,
    /// The last RMSNorm, and rows of the LM head.
    Head,
    /// Each block's look through its logits for the token that it would sample.
    Score,
    /// Top-k and top-p on the device.
    Select,
    /// Choosing the token.
    Sample,
}

impl Phase {
    /// All of them, in the order in which they run.
    pub const ALL: [Self; 11] = [
        Self::Embed,
        Self::Norm,
        Self::Qkv,
        Self::Attention,
        Self::Output,
        Self::GateUp,
        Self::Down,
        Self::Head,
        Self::Score,
        Self::Select,
        Self::Sample,
    ];

    /// Its name, in traces and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::Norm => "norm",
            Self::Qkv => "qkv",
            Self::Attention => "attention",
            Self::Output => "output",
            Self::GateUp => "gate_up",
            Self::Down => "down",
            Self::Head => "head",
            Self::Score => "score",
            Self::Select => "select",
            Self::Sample => "sample",
        }
    }
}

/// A stretch of time on one track: a phase, or a wait for the others. Stretches of one track nest or
/// follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Nanoseconds since the recording began.
    pub begin: u64,
    /// The same clock; not before `begin`.
    pub end: u64,
    /// The step, as an index of [`Recording::steps`].
    pub step: u32,
    /// The layer, where the phase is of one.
    pub layer: Option<u16>,
    /// What ran; of a wait, what ran before it.
    pub phase: Phase,
    /// Whether this is a wait at a barrier.
    pub is_wait: bool,
}

impl Event {
    const EMPTY: Self = Self {
        begin: 0,
        end: 0,
        step: 0,
        layer: None,
        phase: Phase::Embed,
        is_wait: false,
    };
}

/// What a step is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StepKind {
    /// Tokens that were given.
    Prefill,
    /// Tokens that were sampled, or forced.
    Decode,
}

impl StepKind {
    /// Its name, in traces and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prefill => "prefill",
            Self::Decode => "decode",
        }
    }
}

/// One pass of tokens through the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it was for.
    pub kind: StepKind,
    /// Tokens that went through the layers together.
    pub columns: u32,
    /// The first of them.
    pub token: TokenId,
    /// Its position.
    pub position: u32,
}

impl Step {
    const EMPTY: Self = Self {
        kind: StepKind::Decode,
        columns: 0,
        token: 0,
        position: 0,
    };
}

/// What one thread or block did, in the order in which it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Track {
    /// `thread 0`, `block 17`.
    pub name: String,
    /// What was recorded.
    pub events: Vec<Event>,
    /// Events for which there was no room.
    pub lost: u64,
}

/// A trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// The engine: `cpu`, `cuda`, ...
    pub engine: &'static str,
    /// Layers of the model.
    pub layers: usize,
    /// What read the clock, and how fine it is.
    pub clock: String,
    /// The steps for which there was room.
    pub steps: Vec<Step>,
    /// Steps that came after them.
    pub steps_not_recorded: u64,
    /// All threads, or blocks.
    pub tracks: Vec<Track>,
}

impl Recording {
    /// Events for which there was no room, on all tracks.
    pub fn lost(&self) -> u64 {
        self.tracks.iter().map(|track| track.lost).sum()
    }

    /// What a reader has to know that it lacks, a sentence each.
    pub fn shortfalls(&self) -> Vec<String> {
        let mut shortfalls = Vec::new();
        if self.steps_not_recorded > 0 {
            shortfalls.push(format!(
                "the trace has the first {} steps; {} more came after them (--trace-steps)",
                self.steps.len(),
                self.steps_not_recorded
            ));
        }
        if self.lost() > 0 {
            shortfalls.push(format!(
                "the trace lacks {} events, for which there was no room",
                self.lost()
            ));
        }
        shortfalls
    }
}

/// Records what the threads of a team do. Each has a lane of its own, which nobody else touches while
/// it works.
#[derive(Debug)]
pub(crate) struct Recorder {
    origin: Instant,
    /// Steps that are recorded.
    room: usize,
    steps: Vec<Step>,
    steps_not_recorded: u64,
    lanes: Vec<Lane>,
}

/// What a thread records; 128 bytes, so that threads don't share a line or a pair of them. The lock is
/// never waited for.
#[derive(Debug)]
#[repr(align(128))]
struct Lane(Mutex<LaneState>);

#[derive(Debug)]
struct LaneState {
    events: Vec<Event>,
    lost: u64,
    /// What runs, or ran last: waits are behind it or within it.
    phase: Phase,
    layer: Option<u16>,
    /// Whether it still runs.
    is_inside: bool,
    /// When the last event ended, or the job began: what comes next begins then.
    last: u64,
}

impl Recorder {
    /// Takes memory for `steps` steps of `threads` threads, with up to `events` events of each thread in
    /// each step.
    ///
    /// # Errors
    /// If there is not enough.
    pub(crate) fn new(threads: usize, steps: usize, events: usize) -> Result<Self, EngineError> {
        let lane = || {
            let state = LaneState {
                events: room(steps.saturating_mul(events), Event::EMPTY)?,
                lost: 0,
                phase: Phase::Embed,
                layer: None,
                is_inside: false,
                last: 0,
            };
            Ok(Lane(Mutex::new(state)))
        };
        let lanes = std::iter::repeat_with(lane).take(threads);
        Ok(Self {
            origin: Instant::now(),
            room: steps,
            steps: room(steps, Step::EMPTY)?,
            steps_not_recorded: 0,
            lanes: lanes.collect::<Result<_, EngineError>>()?,
        })
    }

    /// Begins a step; returns whether there is room for it.
    pub(crate) fn begin_step(&mut self, step: Step) -> bool {
        let has_room = self.steps.len() < self.room;
        if has_room {
            self.steps.push(step);
        } else {
            self.steps_not_recorded += 1;
        }
        has_room
    }

    /// Whether the last step that was begun is recorded.
    pub(crate) fn is_recording(&self) -> bool {
        self.steps_not_recorded == 0 && !self.steps.is_empty()
    }

    fn now(&self) -> u64 {
        // 584 years of nanoseconds fit 64 bits.
        self.origin.elapsed().as_nanos() as u64
    }

    /// Notes that `thread` has come from something that is not recorded.
    pub(crate) fn resume(&self, thread: usize) {
        let now = self.now();
        self.with(thread, |lane| {
            lane.last = now;
            lane.is_inside = false;
        });
    }

    /// Notes that `thread` begins a phase. Returns when: where its last event ended, so that there are no
    /// gaps.
    pub(crate) fn enter(&self, thread: usize, phase: Phase, layer: Option<usize>) -> u64 {
        self.with(thread, |lane| {
            lane.phase = phase;
            lane.layer = layer.map(|layer| layer as u16);
            lane.is_inside = true;
            lane.last
        })
    }

    /// Notes that the phase that `thread` began at `begin` has ended.
    pub(crate) fn leave(&self, thread: usize, begin: u64) {
        self.push(thread, begin, false);
    }

    /// When the wait that begins now does so: in a phase now, else where that phase ended.
    pub(crate) fn wait_begins(&self, thread: usize) -> u64 {
        let ended = self.with(thread, |lane| (!lane.is_inside).then_some(lane.last));
        ended.unwrap_or_else(|| self.now())
    }

    /// Notes that `thread` has waited since `begin`.
    pub(crate) fn waited(&self, thread: usize, begin: u64) {
        self.push(thread, begin, true);
    }

    fn push(&self, thread: usize, begin: u64, is_wait: bool) {
        let end = self.now();
        let step = self.steps.len().saturating_sub(1) as u32;
        self.with(thread, |lane| {
            lane.last = end;
            lane.is_inside &= is_wait;
            // Room for all was taken: no event allocates.
            if lane.events.len() == lane.events.capacity() {
                lane.lost += 1;
                return;
            }
            let (phase, layer) = (lane.phase, lane.layer);
            lane.events.push(Event {
                begin,
                end,
                step,
                layer,
                phase,
                is_wait,
            });
        });
    }

    fn with<T>(&self, thread: usize, work: impl FnOnce(&mut LaneState) -> T) -> T {
        let lane = self.lanes[thread].0.lock();
        work(&mut lane.unwrap_or_else(PoisonError::into_inner))
    }

    /// All that was recorded.
    pub(crate) fn finish(self, engine: &'static str, layers: usize) -> Recording {
        let track = |(index, lane): (usize, Lane)| {
            let lane = lane.0.into_inner().unwrap_or_else(PoisonError::into_inner);
            Track {
                name: format!("thread {index}"),
                events: lane.events,
                lost: lane.lost,
            }
        };
        Recording {
            engine,
            layers,
            clock: "the system's monotonic clock".into(),
            steps: self.steps,
            steps_not_recorded: self.steps_not_recorded,
            tracks: self.lanes.into_iter().enumerate().map(track).collect(),
        }
    }
}

/// An empty vector with memory for `len` items. The memory is there: no page is met for the first time
/// while events are recorded.
///
/// # Errors
/// If there is not enough.
fn room<T: Clone>(len: usize, empty: T) -> Result<Vec<T>, EngineError> {
    let mut items = Vec::new();
    let taken = items.try_reserve_exact(len);
    taken.map_err(|_| EngineError::OutOfMemory {
        what: "the trace",
        bytes: len.saturating_mul(size_of::<T>()),
        source: ErrorKind::OutOfMemory.into(),
    })?;
    items.resize(len, empty);
    items.clear();
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Step = Step {
        kind: StepKind::Decode,
        columns: 1,
        token: 5,
        position: 7,
    };

    #[test]
    fn what_there_is_no_room_for_is_counted() {
        let mut recorder = Recorder::new(2, 2, 1).unwrap();
        for index in 0..5 {
            let has_room = recorder.begin_step(STEP);
            assert_eq!(has_room, index < 2);
            assert_eq!(recorder.is_recording(), has_room);
            if has_room {
                recorder.resume(1);
                for _ in 0..3 {
                    let begin = recorder.enter(1, Phase::Qkv, Some(3));
                    recorder.leave(1, begin);
                }
            }
        }
        let recording = recorder.finish("cpu", 4);
        assert_eq!(
            (recording.steps.len(), recording.steps_not_recorded),
            (2, 3)
        );
        let [first, second] = &recording.tracks[..] else {
            panic!("{} tracks", recording.tracks.len());
        };
        assert_eq!((first.events.len(), first.lost), (0, 0));
        assert_eq!((second.events.len(), second.lost), (2, 4));
        assert_eq!(recording.lost(), 4);
    }

    #[test]
    fn more_than_memory_holds_is_an_error() {
        let error = Recorder::new(1, usize::MAX / 2, 3).unwrap_err();
        assert!(error.to_string().contains("the trace"), "{error}");
    }

    #[test]
    fn a_wait_knows_the_phase_that_it_is_in_or_behind() {
        let mut recorder = Recorder::new(1, 1, 9).unwrap();
        recorder.begin_step(STEP);
        recorder.resume(0);
        let begin = recorder.enter(0, Phase::Attention, Some(2));
        recorder.waited(0, recorder.wait_begins(0));
        recorder.leave(0, begin);
        recorder.waited(0, recorder.wait_begins(0));
        let recording = recorder.finish("cpu", 4);
        let events = &recording.tracks[0].events;
        let kinds: Vec<_> = events.iter().map(|event| event.is_wait).collect();
        assert_eq!(kinds, [true, false, true]);
        let [inner, phase, behind] = events[..] else {
            panic!("{events:?}");
        };
        assert!(phase.begin <= inner.begin && inner.end <= phase.end);
        assert_eq!(behind.begin, phase.end);
        for event in events {
            assert_eq!((event.phase, event.layer), (Phase::Attention, Some(2)));
        }
    }
}
