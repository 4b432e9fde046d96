//! The messages of Perfetto's trace format that are written and read here, with the field numbers of
//! `protos/perfetto/trace/` in Perfetto's sources. Readers skip fields that they don't know, and so does
//! this: a handful of messages is all it takes.

use prost::Message;

/// The field number and wire type that stand before each packet of a `Trace`, as one byte.
pub const PACKET_TAG: u8 = 1 << 3 | 2;

/// `TracePacket.sequence_flags`: what was interned before is forgotten.
pub const INCREMENTAL_STATE_CLEARED: u32 = 1;
/// `TracePacket.sequence_flags`: what was interned before is needed.
pub const NEEDS_INCREMENTAL_STATE: u32 = 2;

/// `TrackEvent.type`
pub const SLICE_BEGIN: i32 = 1;
/// `TrackEvent.type`
pub const SLICE_END: i32 = 2;
/// `TrackEvent.type`
pub const INSTANT: i32 = 3;

/// `TracePacket`
#[derive(Clone, PartialEq, Message)]
pub struct TracePacket {
    /// Nanoseconds.
    #[prost(uint64, optional, tag = "8")]
    pub timestamp: Option<u64>,
    /// Which writer this is of.
    #[prost(uint32, tag = "10")]
    pub trusted_packet_sequence_id: u32,
    /// [`INCREMENTAL_STATE_CLEARED`], [`NEEDS_INCREMENTAL_STATE`].
    #[prost(uint32, tag = "13")]
    pub sequence_flags: u32,
    /// An event.
    #[prost(message, optional, tag = "11")]
    pub track_event: Option<TrackEvent>,
    /// A track.
    #[prost(message, optional, tag = "60")]
    pub track_descriptor: Option<TrackDescriptor>,
    /// Names for which numbers stand.
    #[prost(message, optional, tag = "12")]
    pub interned_data: Option<InternedData>,
}

/// `TrackDescriptor`
#[derive(Clone, PartialEq, Message)]
pub struct TrackDescriptor {
    /// Its number.
    #[prost(uint64, tag = "1")]
    pub uuid: u64,
    /// The process that it is the track of.
    #[prost(message, optional, tag = "3")]
    pub process: Option<ProcessDescriptor>,
    /// The thread that it is the track of.
    #[prost(message, optional, tag = "4")]
    pub thread: Option<ThreadDescriptor>,
}

/// `ProcessDescriptor`
#[derive(Clone, PartialEq, Message)]
pub struct ProcessDescriptor {
    /// Its number.
    #[prost(int32, tag = "1")]
    pub pid: i32,
    /// Its name.
    #[prost(string, tag = "6")]
    pub process_name: String,
}

/// `ThreadDescriptor`
#[derive(Clone, PartialEq, Message)]
pub struct ThreadDescriptor {
    /// The number of its process.
    #[prost(int32, tag = "1")]
    pub pid: i32,
    /// Its number: threads are shown in that order.
    #[prost(int64, tag = "2")]
    pub tid: i64,
    /// Its name.
    #[prost(string, tag = "5")]
    pub thread_name: String,
}

/// `TrackEvent`
#[derive(Clone, PartialEq, Message)]
pub struct TrackEvent {
    /// [`SLICE_BEGIN`], [`SLICE_END`], [`INSTANT`].
    #[prost(int32, tag = "9")]
    pub r#type: i32,
    /// The track.
    #[prost(uint64, tag = "11")]
    pub track_uuid: u64,
    /// The name, as an interned one.
    #[prost(uint64, optional, tag = "10")]
    pub name_iid: Option<u64>,
    /// The categories, as interned ones.
    #[prost(uint64, repeated, packed = "false", tag = "3")]
    pub category_iids: Vec<u64>,
    /// What else is to be said.
    #[prost(message, repeated, tag = "4")]
    pub debug_annotations: Vec<DebugAnnotation>,
}

/// `DebugAnnotation`: a name, and one of the values.
#[derive(Clone, PartialEq, Message)]
pub struct DebugAnnotation {
    /// The name, as an interned one.
    #[prost(uint64, tag = "1")]
    pub name_iid: u64,
    /// A number.
    #[prost(uint64, optional, tag = "3")]
    pub uint_value: Option<u64>,
    /// Words.
    #[prost(string, optional, tag = "6")]
    pub string_value: Option<String>,
}

/// `InternedData`
#[derive(Clone, PartialEq, Message)]
pub struct InternedData {
    /// Categories.
    #[prost(message, repeated, tag = "1")]
    pub event_categories: Vec<InternedName>,
    /// Names of events.
    #[prost(message, repeated, tag = "2")]
    pub event_names: Vec<InternedName>,
    /// Names of annotations.
    #[prost(message, repeated, tag = "3")]
    pub debug_annotation_names: Vec<InternedName>,
}

/// `EventCategory`, `EventName` and `DebugAnnotationName`, which are alike.
#[derive(Clone, PartialEq, Message)]
pub struct InternedName {
    /// The number that stands for it.
    #[prost(uint64, tag = "1")]
    pub iid: u64,
    /// The name.
    #[prost(string, tag = "2")]
    pub name: String,
}
