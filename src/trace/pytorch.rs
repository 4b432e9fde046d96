//! The events of a trace of PyTorch's profiler (`prof.export_chrome_trace`), as they stream by.
//!
//! Such files have hundreds of megabytes: of each event only what is counted stays in memory, 48 bytes.

use std::collections::HashMap;
use std::fmt;
use std::io::Read;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::file::TraceError;

/// What an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Category {
    /// An operator's call on the host.
    Operator,
    /// A call of the CUDA or HIP runtime, or the driver.
    Runtime,
    /// A kernel on a device.
    Kernel,
    /// A copy or a fill on a device.
    Memory,
    /// `ProfilerStep#N` on the host.
    Step,
}

/// An event that lasted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What it is.
    pub category: Category,
    /// An index of [`Events::names`].
    pub name: u32,
    /// The thread or the stream; numbers from 0.
    pub thread: u32,
    /// Nanoseconds.
    pub begin: i64,
    /// Nanoseconds.
    pub end: i64,
    /// What a launch and what it launched have in common.
    pub correlation: Option<i64>,
}

/// All that is counted of a trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// Names of events.
    pub names: Vec<String>,
    /// The events, in the order of the file.
    pub events: Vec<Event>,
}

/// Reads a trace.
///
/// # Errors
/// What is no JSON, or not a profiler's.
pub fn read(file: &mut dyn Read) -> Result<Events, TraceError> {
    let mut gathered = Gathered::default();
    let mut deserializer = serde_json::Deserializer::from_reader(file);
    Whole(&mut gathered).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(gathered.events)
}

/// The object that the file is.
struct Whole<'a>(&'a mut Gathered);

impl<'de> DeserializeSeed<'de> for Whole<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Whole<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("an object with 'traceEvents'")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut has_events = false;
        while let Some(key) = map.next_key::<String>()? {
            if key == "traceEvents" {
                has_events = true;
                map.next_value_seed(List(self.0))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        match has_events {
            true => Ok(()),
            false => Err(serde::de::Error::missing_field("traceEvents")),
        }
    }
}

/// The list of its events.
struct List<'a>(&'a mut Gathered);

impl<'de> DeserializeSeed<'de> for List<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a list of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(event) = list.next_element::<RawEvent>()? {
            self.0.take(event);
        }
        Ok(())
    }
}

/// An event as it is written. Others than those that last lack some of this.
#[derive(Deserialize)]
struct RawEvent {
    #[serde(default)]
    ph: String,
    #[serde(default)]
    cat: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    pid: Id,
    #[serde(default)]
    tid: Id,
    /// Microseconds.
    ts: Option<f64>,
    dur: Option<f64>,
    #[serde(default)]
    args: Arguments,
}

/// Threads have numbers; what a profiler adds has words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(untagged)]
enum Id {
    Number(i64),
    Word(String),
    #[default]
    None,
}

#[derive(Default, Deserialize)]
struct Arguments {
    correlation: Option<i64>,
}

#[derive(Default)]
struct Gathered {
    events: Events,
    names: HashMap<String, u32>,
    threads: HashMap<(Id, Id), u32>,
}

impl Gathered {
    fn take(&mut self, event: RawEvent) {
        let (Some(begin), Some(length)) = (event.ts, event.dur) else {
            return;
        };
        let (true, Some(category)) = (event.ph == "X", category(&event.cat, &event.name)) else {
            return;
        };
        let next = self.names.len() as u32;
        let name = *self.names.entry(event.name).or_insert_with_key(|name| {
            self.events.names.push(name.clone());
            next
        });
        let next = self.threads.len() as u32;
        let thread = *self.threads.entry((event.pid, event.tid)).or_insert(next);
        // Rounded apart, an event and the one within it that ends with it may change places.
        let nanoseconds = |microseconds: f64| (microseconds * 1e3).round() as i64;
        let begin = nanoseconds(begin);
        self.events.events.push(Event {
            category,
            name,
            thread,
            begin,
            end: begin + nanoseconds(length.max(0.0)),
            correlation: event.args.correlation,
        });
    }
}

/// What the profiler calls an event: in lower case since PyTorch 1.12, before it in words of its own.
fn category(category: &str, name: &str) -> Option<Category> {
    match category {
        "cpu_op" | "Operator" if name.starts_with("ProfilerStep#") => Some(Category::Step),
        "user_annotation" if name.starts_with("ProfilerStep#") => Some(Category::Step),
        "cpu_op" | "Operator" => Some(Category::Operator),
        "cuda_runtime" | "cuda_driver" | "hip_runtime" | "hip_driver" | "Runtime" => {
            Some(Category::Runtime)
        }
        "kernel" | "Kernel" => Some(Category::Kernel),
        "gpu_memcpy" | "gpu_memset" | "Memcpy" | "Memset" => Some(Category::Memory),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Events, TraceError> {
        super::read(&mut json.as_bytes())
    }

    #[test]
    fn only_what_lasts_and_counts_is_kept() {
        let events = read(
            r#"{"schemaVersion": 1, "deviceProperties": [{"id": 0, "name": "x"}], "traceEvents": [
              {"ph": "M", "name": "process_name", "pid": "Spans", "ts": 1.0, "args": {"name": "python"}},
              {"ph": "X", "cat": "user_annotation", "name": "ProfilerStep#7", "pid": 5, "tid": 5, "ts": 10.5, "dur": 20.25},
              {"ph": "X", "cat": "python_function", "name": "f", "pid": 5, "tid": 5, "ts": 10.5, "dur": 20},
              {"ph": "X", "cat": "cpu_op", "name": "aten::mm", "pid": 5, "tid": 5, "ts": 11, "dur": 2, "args": {"Input Dims": [[1, 2]]}},
              {"ph": "X", "cat": "kernel", "name": "gemm", "pid": 0, "tid": 7, "ts": 12.001, "dur": 0.5, "args": {"correlation": 9}},
              {"ph": "i", "cat": "cpu_instant_event", "name": "[memory]", "pid": 5, "tid": 5, "ts": 11}
            ], "traceName": "a.json"}"#,
        )
        .unwrap();
        assert_eq!(events.names, ["ProfilerStep#7", "aten::mm", "gemm"]);
        let step = Event {
            category: Category::Step,
            name: 0,
            thread: 0,
            begin: 10_500,
            end: 30_750,
            correlation: None,
        };
        assert_eq!(events.events[0], step);
        let kernel = Event {
            category: Category::Kernel,
            name: 2,
            thread: 1,
            begin: 12_001,
            end: 12_501,
            correlation: Some(9),
        };
        assert_eq!(events.events[2], kernel);
        assert_eq!(events.events.len(), 3);
    }

    #[test]
    fn what_is_no_trace_of_a_profiler_is_refused() {
        for (json, word) in [
            (r#"{"runs": []}"#, "traceEvents"),
            (r#"[1, 2]"#, "traceEvents"),
            (r#"{"traceEvents": {}}"#, "a list of events"),
            (r#"{"traceEvents": [{"ph": "X", "#, "EOF"),
            (r#"{"traceEvents": [{"ts": "soon"}]}"#, "soon"),
            (r#"{"traceEvents": []} more"#, "trailing"),
        ] {
            let error = read(json).unwrap_err().to_string();
            assert!(error.contains(word), "{json}: {error}");
        }
    }
}
