//! An engine's trace as a profile.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::file::TraceError;
use super::profile::{Given, Group, Operation, Profile, Total};
use super::reading::{ReadSlice, ReadTrace, SliceKind};
use crate::engine::trace::{Phase, StepKind};

/// Which steps of an engine's trace are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Steps {
    /// Those that decode.
    #[default]
    Decode,
    /// Those of prompts.
    Prefill,
    /// Both.
    All,
}

impl Steps {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Decode, Self::Prefill, Self::All];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Decode => StepKind::Decode.name(),
            Self::Prefill => StepKind::Prefill.name(),
            Self::All => "all",
        }
    }

    fn has(self, name: &str) -> bool {
        self == Self::All || self.name() == name
    }
}

/// What runs on one track.
type ByTrack = BTreeMap<usize, Total>;

impl Profile {
    /// The profile of a trace of onegrid's.
    ///
    /// # Errors
    /// If it has no such steps.
    pub fn of_engine(trace: &ReadTrace, which: Steps, given: Given) -> Result<Self, TraceError> {
        let of_kind = |kind| move |slice: &&ReadSlice| slice.kind == kind;
        let steps: HashSet<u64> = (trace.slices.iter().filter(of_kind(SliceKind::Step)))
            .filter(|slice| which.has(&trace.names[slice.name]))
            .map(|slice| slice.step)
            .collect();
        // A step's time is that of the thread or block that was longest at it.
        let mut tokens = HashMap::new();
        let mut longest: HashMap<u64, u64> = HashMap::new();
        let mut operations: BTreeMap<(bool, usize), ByTrack> = BTreeMap::new();
        for slice in trace
            .slices
            .iter()
            .filter(|slice| steps.contains(&slice.step))
        {
            let is_wait = match slice.kind {
                SliceKind::Step => {
                    tokens.insert(slice.step, slice.tokens);
                    let most = longest.entry(slice.step).or_default();
                    *most = (*most).max(slice.end - slice.begin);
                    continue;
                }
                SliceKind::Layer => continue,
                SliceKind::Phase => false,
                SliceKind::Wait => true,
            };
            let by_track = operations.entry((is_wait, slice.name)).or_default();
            by_track.entry(slice.track).or_default().add(slice.own);
        }
        if steps.is_empty() {
            let has = "it has no steps of the kind asked for; see --passes";
            return Err(TraceError::Empty(has.into()));
        }
        let mut profile = Self {
            about: about(trace),
            steps: Some(given.steps.unwrap_or(steps.len() as u64)),
            layers: given.layers.or(trace.numbers.get("layers").copied()),
            tokens: Some(given.tokens.unwrap_or(tokens.values().sum())),
            nanoseconds: longest.values().sum(),
            groups: Vec::new(),
            operations: Vec::new(),
            notes: notes(trace),
        };
        for ((is_wait, name), by_track) in operations {
            profile.push(is_wait, &trace.names[name], &by_track);
        }
        profile
            .operations
            .sort_by_key(|operation| std::cmp::Reverse(operation.total.nanoseconds));
        for group in Group::ALL {
            let mut total = Total::default();
            for operation in profile
                .operations
                .iter()
                .filter(|operation| operation.group == group)
            {
                total.count += operation.total.count;
                total.nanoseconds += operation.total.nanoseconds;
            }
            if total.count > 0 {
                profile.groups.push((group, total));
            }
        }
        Ok(profile)
    }

    fn push(&mut self, is_wait: bool, phase: &str, by_track: &ByTrack) {
        let tracks = by_track.len() as u64;
        let counts = || by_track.values().map(|total| total.count);
        let (least, most) = (counts().min().unwrap_or(0), counts().max().unwrap_or(0));
        let name = match is_wait {
            true => format!("wait after {phase}"),
            false => phase.to_owned(),
        };
        if least != most && !is_wait {
            self.notes.push(format!(
                "{name} ran {least} times on one thread or block, and {most} on another"
            ));
        }
        let all: u64 = by_track.values().map(|total| total.nanoseconds).sum();
        let (group, is_of_layer) = match is_wait {
            true => (Group::Waiting, false),
            false => group(phase),
        };
        self.operations.push(Operation {
            group,
            name,
            total: Total {
                count: most,
                nanoseconds: all / tracks.max(1),
            },
            is_of_layer,
        });
    }
}

/// What a phase is for, and whether it is a layer's.
fn group(name: &str) -> (Group, bool) {
    let phase = Phase::ALL.into_iter().find(|phase| phase.name() == name);
    match phase {
        Some(Phase::Embed) => (Group::Embedding, false),
        Some(Phase::Norm) => (Group::Norms, false),
        Some(Phase::Qkv | Phase::Output | Phase::GateUp | Phase::Down) => {
            (Group::MatrixProducts, true)
        }
        Some(Phase::Attention) => (Group::Attention, true),
        Some(Phase::Head) => (Group::MatrixProducts, false),
        Some(Phase::Score | Phase::Select | Phase::Sample) => (Group::Sampling, false),
        None => (Group::Other, false),
    }
}

fn about(trace: &ReadTrace) -> String {
    let word = |name: &str| trace.words.get(name).map_or("?", String::as_str);
    let tracks = trace.tracks.len();
    format!(
        "onegrid {} ({}) on {}, model {}, {tracks} threads or blocks",
        word("engine"),
        word("kernels"),
        word("machine"),
        word("model"),
    )
}

fn notes(trace: &ReadTrace) -> Vec<String> {
    let number = |name: &str| trace.numbers.get(name).copied().unwrap_or(0);
    let mut notes = Vec::new();
    if trace.tracks.len() > 1 {
        notes.push(
            "counts are those of one thread or block, times the mean over all on which a phase ran"
                .into(),
        );
    }
    match number("steps_not_recorded") {
        0 => {}
        more => notes.push(format!("{more} steps came after those that were recorded")),
    }
    match number("lost_events") {
        0 => {}
        lost => notes.push(format!(
            "{lost} events were lost: there was no room for them"
        )),
    }
    notes
}
