//! A recording as a file for Perfetto: threads or blocks as tracks; on each of them slices for steps, in
//! these for layers, and in these for phases and waits.
//!
//! Perfetto colours slices by their names: all waits have one name, and so one colour.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io::{self, Write};

use prost::Message;

use super::proto::{
    DebugAnnotation, INCREMENTAL_STATE_CLEARED, INSTANT, InternedData, InternedName,
    NEEDS_INCREMENTAL_STATE, PACKET_TAG, ProcessDescriptor, SLICE_BEGIN, SLICE_END,
    ThreadDescriptor, TracePacket, TrackDescriptor, TrackEvent,
};
use crate::engine::Engine;
use crate::engine::trace::{Event, Recording, Track};
use crate::measure::environment::Environment;

/// What a recording does not know of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// The model's name.
    pub model: String,
    /// What computed, beside the engine's name: `avx512-bf16`.
    pub kernels: String,
    /// The machine's processor or card.
    pub machine: String,
    /// Version and revision of the program.
    pub program: String,
}

impl About {
    /// What is known of `engine`, which holds `model`, and of this machine.
    pub fn of(engine: &dyn Engine, model: &str) -> Self {
        let environment = Environment::current();
        let version = environment.versions.onegrid;
        Self {
            model: model.to_owned(),
            kernels: engine.capabilities().kernels.to_owned(),
            machine: environment.cpu.unwrap_or_default(),
            program: format!("onegrid {version} ({})", environment.git_revision),
        }
    }
}

/// Categories of slices.
pub(super) const STEP: &str = "step";
pub(super) const LAYER: &str = "layer";
pub(super) const PHASE: &str = "phase";
pub(super) const WAIT: &str = "wait";
/// The name of the instant that says what a trace is of.
pub(super) const ABOUT: &str = "onegrid trace";

/// Its annotation with the number of all slices.
pub(super) const SLICES: &str = "slices";

/// All packets are of one sequence.
const SEQUENCE: u32 = 1;
/// Number of the process, and of its track; those of threads follow.
const PROCESS: u64 = 1;

/// Writes `recording`.
///
/// # Errors
/// If it can't be written.
pub fn write(recording: &Recording, about: &About, out: &mut dyn Write) -> io::Result<()> {
    let mut writer = Writer {
        out,
        names: Interned::default(),
        categories: Interned::default(),
        annotations: Interned::default(),
        is_first: true,
    };
    let process = ProcessDescriptor {
        pid: PROCESS as i32,
        process_name: format!("onegrid {} {}", recording.engine, about.model),
    };
    writer.descriptor(TrackDescriptor {
        uuid: PROCESS,
        process: Some(process),
        thread: None,
    })?;
    writer.about(recording, about)?;
    for (uuid, track) in (PROCESS + 1..).zip(&recording.tracks) {
        let thread = ThreadDescriptor {
            pid: PROCESS as i32,
            tid: uuid as i64,
            thread_name: track.name.clone(),
        };
        writer.descriptor(TrackDescriptor {
            uuid,
            process: None,
            thread: Some(thread),
        })?;
        writer.track(uuid, recording, track)?;
    }
    Ok(())
}

/// A slice to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slice {
    begin: u64,
    end: u64,
    level: Level,
    /// Itself, or the first of those that it encloses.
    event: Event,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Step,
    Layer,
    Event,
}

impl Slice {
    /// What encloses `events`, which follow each other.
    fn around(events: &[Event], level: Level) -> Self {
        Self {
            begin: events[0].begin,
            end: events.iter().map(|event| event.end).max().unwrap_or(0),
            level,
            event: events[0],
        }
    }
}

/// The slices of a track, each before those in it: its events, and the layers and steps around them.
fn slices(track: &Track) -> Vec<Slice> {
    let mut events = track.events.clone();
    // Two that begin together and last are one in the other. Where a clock is too coarse to tell times
    // apart, those that don't last keep the order in which they came.
    events.sort_by_key(|event| (event.begin, event.begin < event.end, Reverse(event.end)));
    let mut slices = Vec::with_capacity(2 * events.len());
    for step in events.chunk_by(|a, b| a.step == b.step) {
        slices.push(Slice::around(step, Level::Step));
        for layer in step.chunk_by(|a, b| a.layer == b.layer) {
            if layer[0].layer.is_some() {
                slices.push(Slice::around(layer, Level::Layer));
            }
            for event in layer.chunks(1) {
                slices.push(Slice::around(event, Level::Event));
            }
        }
    }
    slices
}

struct Writer<'a> {
    out: &'a mut dyn Write,
    names: Interned,
    categories: Interned,
    annotations: Interned,
    is_first: bool,
}

impl Writer<'_> {
    fn descriptor(&mut self, descriptor: TrackDescriptor) -> io::Result<()> {
        self.packet(TracePacket {
            track_descriptor: Some(descriptor),
            ..TracePacket::default()
        })
    }

    fn about(&mut self, recording: &Recording, about: &About) -> io::Result<()> {
        let slices: usize = recording
            .tracks
            .iter()
            .map(|track| slices(track).len())
            .sum();
        let words = [
            ("engine", recording.engine),
            ("model", &about.model),
            ("kernels", &about.kernels),
            ("machine", &about.machine),
            ("program", &about.program),
            ("clock", &recording.clock),
        ];
        let numbers = [
            ("layers", recording.layers as u64),
            ("tracks", recording.tracks.len() as u64),
            ("steps", recording.steps.len() as u64),
            ("steps_not_recorded", recording.steps_not_recorded),
            ("lost_events", recording.lost()),
            // So that a reader sees if some are missing.
            (SLICES, slices as u64),
        ];
        let words = words.map(|(name, word)| self.word(name, word));
        let numbers = numbers.map(|(name, number)| self.number(name, number));
        let event = TrackEvent {
            r#type: INSTANT,
            track_uuid: PROCESS,
            name_iid: Some(self.names.number(ABOUT)),
            category_iids: vec![self.categories.number(ABOUT)],
            debug_annotations: words.into_iter().chain(numbers).collect(),
        };
        self.event(0, event)
    }

    fn track(&mut self, uuid: u64, recording: &Recording, track: &Track) -> io::Result<()> {
        let mut open: Vec<u64> = Vec::new();
        for slice in slices(track) {
            while let Some(&end) = open.last().filter(|&&end| end <= slice.begin) {
                self.end(uuid, end)?;
                open.pop();
            }
            self.begin(uuid, recording, &slice)?;
            open.push(slice.end);
        }
        while let Some(end) = open.pop() {
            self.end(uuid, end)?;
        }
        Ok(())
    }

    fn begin(&mut self, uuid: u64, recording: &Recording, slice: &Slice) -> io::Result<()> {
        let event = &slice.event;
        let step = recording.steps.get(event.step as usize);
        let mut annotations = vec![self.number("step", event.step.into())];
        let (name, category) = match slice.level {
            Level::Step => (step.map_or("step", |step| step.kind.name()), STEP),
            Level::Layer => ("", LAYER),
            Level::Event if event.is_wait => ("wait", WAIT),
            Level::Event => (event.phase.name(), PHASE),
        };
        let name_iid = match (slice.level, event.layer) {
            (Level::Layer, Some(layer)) => self.names.number(&format!("layer {layer}")),
            _ => self.names.number(name),
        };
        if let (Level::Layer | Level::Event, Some(layer)) = (slice.level, event.layer) {
            annotations.push(self.number("layer", layer.into()));
        }
        if let Some(step) = step {
            annotations.push(self.number("token", step.token.into()));
            if slice.level == Level::Step {
                annotations.push(self.number("position", step.position.into()));
                annotations.push(self.number("tokens", step.columns.into()));
            }
        }
        if category == WAIT {
            annotations.push(self.word("after", event.phase.name()));
        }
        let event = TrackEvent {
            r#type: SLICE_BEGIN,
            track_uuid: uuid,
            name_iid: Some(name_iid),
            category_iids: vec![self.categories.number(category)],
            debug_annotations: annotations,
        };
        self.event(slice.begin, event)
    }

    fn end(&mut self, uuid: u64, time: u64) -> io::Result<()> {
        let event = TrackEvent {
            r#type: SLICE_END,
            track_uuid: uuid,
            ..TrackEvent::default()
        };
        self.event(time, event)
    }

    fn number(&mut self, name: &str, value: u64) -> DebugAnnotation {
        DebugAnnotation {
            name_iid: self.annotations.number(name),
            uint_value: Some(value),
            string_value: None,
        }
    }

    fn word(&mut self, name: &str, value: &str) -> DebugAnnotation {
        DebugAnnotation {
            name_iid: self.annotations.number(name),
            uint_value: None,
            string_value: Some(value.to_owned()),
        }
    }

    /// Writes an event, with the names that no packet before it has told.
    fn event(&mut self, time: u64, event: TrackEvent) -> io::Result<()> {
        let interned = InternedData {
            event_categories: self.categories.take_new(),
            event_names: self.names.take_new(),
            debug_annotation_names: self.annotations.take_new(),
        };
        self.packet(TracePacket {
            timestamp: Some(time),
            sequence_flags: NEEDS_INCREMENTAL_STATE,
            track_event: Some(event),
            interned_data: (interned != InternedData::default()).then_some(interned),
            ..TracePacket::default()
        })
    }

    fn packet(&mut self, mut packet: TracePacket) -> io::Result<()> {
        packet.trusted_packet_sequence_id = SEQUENCE;
        if std::mem::take(&mut self.is_first) {
            packet.sequence_flags |= INCREMENTAL_STATE_CLEARED;
        }
        self.out.write_all(&[PACKET_TAG])?;
        self.out.write_all(&packet.encode_length_delimited_to_vec())
    }
}

/// Names and the numbers that stand for them, from 1.
#[derive(Debug, Default)]
struct Interned {
    numbers: HashMap<String, u64>,
    new: Vec<InternedName>,
}

impl Interned {
    fn number(&mut self, name: &str) -> u64 {
        if let Some(&iid) = self.numbers.get(name) {
            return iid;
        }
        let iid = self.numbers.len() as u64 + 1;
        self.numbers.insert(name.to_owned(), iid);
        self.new.push(InternedName {
            iid,
            name: name.to_owned(),
        });
        iid
    }

    fn take_new(&mut self) -> Vec<InternedName> {
        std::mem::take(&mut self.new)
    }
}
