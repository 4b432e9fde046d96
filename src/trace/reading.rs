//! A trace that [`perfetto`](super::perfetto) wrote, packet by packet.

use std::collections::HashMap;
use std::io::{BufRead, ErrorKind};

use prost::Message;

use super::file::TraceError;
use super::perfetto::{ABOUT, LAYER, PHASE, SLICES, STEP, WAIT};
use super::proto::{
    DebugAnnotation, INCREMENTAL_STATE_CLEARED, INSTANT, InternedName, PACKET_TAG, SLICE_BEGIN,
    SLICE_END, TracePacket, TrackEvent,
};

/// No packet that is written here comes near; a longer one is damage.
const MOST_PACKET_BYTES: u64 = 1 << 20;

/// What a slice is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SliceKind {
    /// A step.
    Step,
    /// A layer of it.
    Layer,
    /// A phase.
    Phase,
    /// A wait.
    Wait,
}

/// A slice of a track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadSlice {
    /// An index of [`ReadTrace::tracks`].
    pub track: usize,
    /// What it is.
    pub kind: SliceKind,
    /// Its name, an index of [`ReadTrace::names`]; of a wait, that of what it was after.
    pub name: usize,
    /// Nanoseconds.
    pub begin: u64,
    /// Nanoseconds.
    pub end: u64,
    /// Of `end - begin`, what the slices in it did not take.
    pub own: u64,
    /// The step.
    pub step: u64,
    /// The layer, where it is of one.
    pub layer: Option<u64>,
    /// Tokens of the step, if it is one.
    pub tokens: u64,
}

/// A trace of onegrid's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadTrace {
    /// What it says of itself in words: `engine`, `model`, ...
    pub words: HashMap<String, String>,
    /// And in numbers: `layers`, `lost_events`, ...
    pub numbers: HashMap<String, u64>,
    /// Names of the tracks.
    pub tracks: Vec<String>,
    /// Names of slices.
    pub names: Vec<String>,
    /// All slices; those of a track in the order of their ends.
    pub slices: Vec<ReadSlice>,
}

/// Reads a trace.
///
/// # Errors
/// A file that can't be read, is damaged, or is no trace of onegrid's.
pub fn read(file: &mut dyn BufRead) -> Result<ReadTrace, TraceError> {
    let mut reader = Reader::default();
    let mut packets = Packets {
        file,
        at: 0,
        bytes: Vec::new(),
    };
    while let Some((at, packet)) = packets.next()? {
        reader
            .take(packet)
            .map_err(|what| TraceError::Damaged { at, what })?;
    }
    if let Some(open) = reader.tracks.values().find(|track| !track.open.is_empty()) {
        let name = &reader.trace.tracks[open.index];
        return Err(TraceError::Damaged {
            at: packets.at,
            what: format!("it ends while a slice of {name} is open"),
        });
    }
    if !reader.is_ours {
        return Err(TraceError::NotOfOnegrid);
    }
    let (found, expected) = (
        reader.trace.slices.len() as u64,
        reader.trace.numbers.get(SLICES),
    );
    if expected != Some(&found) {
        let expected = expected.copied().unwrap_or(0);
        return Err(TraceError::Damaged {
            at: packets.at,
            what: format!("it ends after {found} slices, and should have {expected}"),
        });
    }
    Ok(reader.trace)
}

/// The packets of a file.
struct Packets<'a> {
    file: &'a mut dyn BufRead,
    at: u64,
    bytes: Vec<u8>,
}

impl Packets<'_> {
    /// The next packet and where it begins.
    fn next(&mut self) -> Result<Option<(u64, TracePacket)>, TraceError> {
        let at = self.at;
        let damaged = |what: String| TraceError::Damaged { at, what };
        match self.byte() {
            Ok(PACKET_TAG) => {}
            Ok(other) => {
                return Err(damaged(format!("byte {other} where a packet should begin")));
            }
            Err(TraceError::Io(error)) if error.kind() == ErrorKind::UnexpectedEof => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        let cut_short = |error| match error {
            TraceError::Io(error) if error.kind() == ErrorKind::UnexpectedEof => {
                damaged("the file ends within a packet".into())
            }
            error => error,
        };
        let mut length = 0;
        for shift in (0..).step_by(7) {
            let byte = self.byte().map_err(cut_short)?;
            length |= u64::from(byte & 0x7f) << shift;
            if length > MOST_PACKET_BYTES || shift > 21 {
                return Err(damaged(format!(
                    "a packet of more than {MOST_PACKET_BYTES} bytes"
                )));
            }
            if byte & 0x80 == 0 {
                break;
            }
        }
        self.bytes.resize(length as usize, 0);
        let filled = self.file.read_exact(&mut self.bytes);
        filled.map_err(|error| cut_short(error.into()))?;
        self.at += length;
        let packet = TracePacket::decode(&self.bytes[..]);
        Ok(Some((
            at,
            packet.map_err(|error| damaged(error.to_string()))?,
        )))
    }

    fn byte(&mut self) -> Result<u8, TraceError> {
        let mut byte = [0];
        self.file.read_exact(&mut byte)?;
        self.at += 1;
        Ok(byte[0])
    }
}

#[derive(Default)]
struct Reader {
    trace: ReadTrace,
    is_ours: bool,
    tracks: HashMap<u64, TrackState>,
    categories: HashMap<u64, String>,
    names: HashMap<u64, String>,
    annotations: HashMap<u64, String>,
    /// Where a name is among the trace's.
    name_indices: HashMap<String, usize>,
}

#[derive(Default)]
struct TrackState {
    /// An index of the trace's tracks.
    index: usize,
    /// The last time.
    now: u64,
    /// Slices that have not ended, outermost first, and what the slices in each took.
    open: Vec<(ReadSlice, u64)>,
}

impl Reader {
    fn take(&mut self, packet: TracePacket) -> Result<(), String> {
        if packet.sequence_flags & INCREMENTAL_STATE_CLEARED != 0 {
            self.categories.clear();
            self.names.clear();
            self.annotations.clear();
        }
        if let Some(interned) = packet.interned_data {
            let learn = |names: &mut HashMap<u64, String>, new: Vec<InternedName>| {
                names.extend(new.into_iter().map(|name| (name.iid, name.name)));
            };
            learn(&mut self.categories, interned.event_categories);
            learn(&mut self.names, interned.event_names);
            learn(&mut self.annotations, interned.debug_annotation_names);
        }
        if let Some(track) = packet.track_descriptor
            && let Some(thread) = track.thread
        {
            let state = TrackState {
                index: self.trace.tracks.len(),
                ..TrackState::default()
            };
            self.tracks.insert(track.uuid, state);
            self.trace.tracks.push(thread.thread_name);
        }
        match (packet.track_event, packet.timestamp) {
            (Some(event), _) if event.r#type == INSTANT => self.about(&event),
            // Of a trace of another program nothing is understood, and nothing wrong.
            (Some(event), Some(time)) if self.is_ours => self.event(time, &event),
            (Some(_), None) if self.is_ours => Err("an event without a time".into()),
            _ => Ok(()),
        }
    }

    fn event(&mut self, time: u64, event: &TrackEvent) -> Result<(), String> {
        let begun = match event.r#type {
            SLICE_BEGIN => Some(self.slice(time, event)?),
            SLICE_END => None,
            other => return Err(format!("an event of type {other}")),
        };
        let uuid = event.track_uuid;
        let track = self.tracks.get_mut(&uuid);
        let track = track.ok_or_else(|| format!("track {uuid} is not known"))?;
        if time < track.now {
            return Err(format!("time {time} after {} on one track", track.now));
        }
        track.now = time;
        if let Some(slice) = begun {
            let track_index = track.index;
            track.open.push((
                ReadSlice {
                    track: track_index,
                    ..slice
                },
                0,
            ));
            return Ok(());
        }
        let (mut slice, inner) = track.open.pop().ok_or("an end where no slice is open")?;
        slice.end = time;
        slice.own = (time - slice.begin).saturating_sub(inner);
        if let Some((_, inner)) = track.open.last_mut() {
            *inner += time - slice.begin;
        }
        self.trace.slices.push(slice);
        Ok(())
    }

    /// What the trace says of itself, if the event is that.
    fn about(&mut self, event: &TrackEvent) -> Result<(), String> {
        let name = event.name_iid.and_then(|iid| self.names.get(&iid));
        if name.is_none_or(|name| name != ABOUT) {
            return Ok(());
        }
        self.is_ours = true;
        for annotation in &event.debug_annotations {
            let name = self.annotation(annotation)?.to_owned();
            if let Some(number) = annotation.uint_value {
                self.trace.numbers.insert(name, number);
            } else if let Some(word) = &annotation.string_value {
                self.trace.words.insert(name, word.clone());
            }
        }
        Ok(())
    }

    fn annotation(&self, annotation: &DebugAnnotation) -> Result<&str, String> {
        let name = self.annotations.get(&annotation.name_iid);
        let unknown = || format!("annotation name {} is not known", annotation.name_iid);
        name.map(String::as_str).ok_or_else(unknown)
    }

    /// A slice that begins.
    fn slice(&mut self, time: u64, event: &TrackEvent) -> Result<ReadSlice, String> {
        let category = event
            .category_iids
            .first()
            .and_then(|iid| self.categories.get(iid));
        let kind = match category.map(String::as_str) {
            Some(STEP) => SliceKind::Step,
            Some(LAYER) => SliceKind::Layer,
            Some(PHASE) => SliceKind::Phase,
            Some(WAIT) => SliceKind::Wait,
            _ => return Err("a slice of no known category".into()),
        };
        let iid = event.name_iid.ok_or("a slice without a name")?;
        let name = self.names.get(&iid);
        let mut name = name
            .ok_or_else(|| format!("name {iid} is not known"))?
            .clone();
        let (mut step, mut layer, mut tokens) = (None, None, 0);
        for annotation in &event.debug_annotations {
            match (self.annotation(annotation)?, annotation.uint_value) {
                ("step", value) => step = value,
                ("layer", value) => layer = value,
                ("tokens", Some(value)) => tokens = value,
                ("after", None) => {
                    name = annotation
                        .string_value
                        .clone()
                        .ok_or("a wait after nothing")?;
                }
                _ => {}
            }
        }
        let next = self.trace.names.len();
        let index = *self.name_indices.entry(name).or_insert_with_key(|name| {
            self.trace.names.push(name.clone());
            next
        });
        Ok(ReadSlice {
            track: 0,
            kind,
            name: index,
            begin: time,
            end: time,
            own: 0,
            step: step.ok_or("a slice of no step")?,
            layer,
            tokens,
        })
    }
}
