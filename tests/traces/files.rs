//! Recordings as files for Perfetto, and back.

use std::collections::BTreeMap;

use onegrid::engine::trace::{Event, Phase, Recording, Step, StepKind, Track};
use onegrid::measure::ladder;
use onegrid::sampling::SamplingParams;
use onegrid::trace::file::{self, Kind, TraceError};
use onegrid::trace::perfetto::{self, About};
use onegrid::trace::profile::{Given, Group, Profile};
use onegrid::trace::reading::{self, ReadTrace, SliceKind};
use onegrid::trace::steps::Steps;
use proptest::prelude::*;

use super::{cpu, record};

fn about() -> About {
    About {
        model: "a model".into(),
        kernels: "portable".into(),
        machine: "a machine".into(),
        program: "a program".into(),
    }
}

fn recording() -> Recording {
    let config = &ladder::shapes()[0];
    record(
        &mut cpu(config, 2, 1),
        64,
        150,
        7,
        &SamplingParams::default(),
    )
    .1
}

fn written(recording: &Recording) -> Vec<u8> {
    let mut bytes = Vec::new();
    perfetto::write(recording, &about(), &mut bytes).unwrap();
    bytes
}

fn read(bytes: &[u8]) -> Result<ReadTrace, TraceError> {
    reading::read(&mut &bytes[..])
}

#[test]
fn what_is_read_is_what_was_written() {
    let recording = recording();
    let trace = read(&written(&recording)).unwrap();
    assert_eq!(trace.words["model"], "a model");
    assert_eq!(trace.words["engine"], "cpu");
    assert_eq!(trace.numbers["layers"], recording.layers as u64);
    assert_eq!(trace.numbers["lost_events"], 0);
    let names: Vec<_> = recording.tracks.iter().map(|track| &track.name).collect();
    assert_eq!(trace.tracks.iter().collect::<Vec<_>>(), names);
    for (index, track) in recording.tracks.iter().enumerate() {
        let key = |event: &Event| {
            let layer = event.layer.map(u64::from);
            (
                event.begin,
                event.end,
                event.is_wait,
                event.phase.name(),
                event.step,
                layer,
            )
        };
        let mut expected: Vec<_> = track.events.iter().map(key).collect();
        let slices = trace.slices.iter().filter(|slice| slice.track == index);
        let mut found: Vec<_> = slices
            .filter(|slice| matches!(slice.kind, SliceKind::Phase | SliceKind::Wait))
            .map(|slice| {
                let name = trace.names[slice.name].as_str();
                let is_wait = slice.kind == SliceKind::Wait;
                (
                    slice.begin,
                    slice.end,
                    is_wait,
                    name,
                    slice.step as u32,
                    slice.layer,
                )
            })
            .collect();
        expected.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, expected, "{}", track.name);
    }
}

#[test]
fn steps_enclose_their_layers_and_those_their_phases() {
    let recording = recording();
    let trace = read(&written(&recording)).unwrap();
    let mut counts: BTreeMap<_, usize> = BTreeMap::new();
    for slice in &trace.slices {
        *counts.entry((slice.track, slice.kind as u8)).or_default() += 1;
        if slice.kind == SliceKind::Step {
            let step = &recording.steps[slice.step as usize];
            assert_eq!(trace.names[slice.name], step.kind.name());
            assert_eq!(slice.tokens, u64::from(step.columns));
        }
    }
    let steps = recording.steps.len();
    for track in 0..recording.tracks.len() {
        assert_eq!(counts[&(track, SliceKind::Step as u8)], steps);
        assert_eq!(
            counts[&(track, SliceKind::Layer as u8)],
            steps * recording.layers
        );
    }
    // Nothing takes longer than what encloses it, so no time is counted twice.
    for track in 0..recording.tracks.len() {
        let of = |kind| {
            let of_track = trace
                .slices
                .iter()
                .filter(move |slice| slice.track == track);
            of_track.filter(move |slice| slice.kind == kind)
        };
        let steps: u64 = of(SliceKind::Step)
            .map(|slice| slice.end - slice.begin)
            .sum();
        let own: u64 = [
            SliceKind::Step,
            SliceKind::Layer,
            SliceKind::Phase,
            SliceKind::Wait,
        ]
        .into_iter()
        .flat_map(of)
        .map(|slice| slice.own)
        .sum();
        assert_eq!(own, steps, "track {track}");
    }
}

#[test]
fn a_profile_counts_by_steps_and_layers() {
    let recording = recording();
    let trace = read(&written(&recording)).unwrap();
    let profile = Profile::of_engine(&trace, Steps::Decode, Given::default()).unwrap();
    let layers = recording.layers as u64;
    assert_eq!(
        (profile.steps, profile.layers, profile.tokens),
        (Some(6), Some(layers), Some(6))
    );
    assert!(profile.doubts().is_empty(), "{:?}", profile.doubts());
    for (group, count) in [
        (Group::Embedding, 6),
        (Group::Attention, 6 * layers),
        (Group::MatrixProducts, 6 * (4 * layers + 1)),
        (Group::Sampling, 6),
    ] {
        assert_eq!(profile.count(group), count, "{}", group.name());
    }
    let prefill = Profile::of_engine(&trace, Steps::Prefill, Given::default()).unwrap();
    assert_eq!((prefill.steps, prefill.tokens), (Some(2), Some(150)));
    // Not what the trace is of.
    let given = Given {
        layers: Some(layers + 1),
        ..Given::default()
    };
    let doubts = Profile::of_engine(&trace, Steps::Decode, given)
        .unwrap()
        .doubts();
    let of_layers = ["qkv", "attention", "output", "gate_up", "down"];
    assert_eq!(doubts.len(), of_layers.len(), "{doubts:?}");
    for phase in of_layers {
        assert!(
            doubts.iter().any(|doubt| doubt.starts_with(phase)),
            "{doubts:?}"
        );
    }
}

#[test]
fn a_trace_that_breaks_off_within_a_step_is_readable_and_pointed_out() {
    let mut recording = recording();
    // As a launch leaves it that was aborted.
    for track in &mut recording.tracks {
        let of_last = track.events.iter().rposition(|event| {
            event.phase == Phase::Attention && event.layer == Some(1) && !event.is_wait
        });
        track.events.truncate(of_last.unwrap());
    }
    let trace = read(&written(&recording)).unwrap();
    let profile = Profile::of_engine(&trace, Steps::Decode, Given::default()).unwrap();
    let doubts = profile.doubts();
    let missing = |phase: &str| doubts.iter().any(|doubt| doubt.starts_with(phase));
    for phase in ["attention", "output", "gate_up", "down"] {
        assert!(missing(phase), "{phase}: {doubts:?}");
    }
    assert!(!missing("qkv"), "{doubts:?}");
}

#[test]
fn a_clock_too_coarse_to_tell_phases_apart_keeps_their_order() {
    let event = |begin, end, phase, layer, is_wait| Event {
        begin,
        end,
        step: 0,
        layer,
        phase,
        is_wait,
    };
    let events = vec![
        event(0, 0, Phase::Embed, None, false),
        event(0, 1000, Phase::Embed, None, true),
        event(1000, 1000, Phase::Qkv, Some(0), false),
        event(1000, 1000, Phase::Qkv, Some(0), true),
        event(1000, 3000, Phase::Attention, Some(0), false),
        event(3000, 3000, Phase::Attention, Some(0), true),
        event(3000, 3000, Phase::Qkv, Some(1), false),
        event(3000, 4000, Phase::Qkv, Some(1), true),
    ];
    let recording = Recording {
        engine: "cuda",
        layers: 2,
        clock: "globaltimer, which moved in steps of 1000 ns".into(),
        steps: vec![Step {
            kind: StepKind::Decode,
            columns: 1,
            token: 3,
            position: 9,
        }],
        steps_not_recorded: 2,
        tracks: vec![Track {
            name: "block 0".into(),
            events: events.clone(),
            lost: 5,
        }],
    };
    let trace = read(&written(&recording)).unwrap();
    let count = |kind| {
        trace
            .slices
            .iter()
            .filter(|slice| slice.kind == kind)
            .count()
    };
    assert_eq!((count(SliceKind::Step), count(SliceKind::Layer)), (1, 2));
    assert_eq!((count(SliceKind::Phase), count(SliceKind::Wait)), (4, 4));
    let own: u64 = trace.slices.iter().map(|slice| slice.own).sum();
    assert_eq!(own, 4000);
    let profile = Profile::of_engine(&trace, Steps::All, Given::default()).unwrap();
    let notes = profile.notes.join("; ");
    assert!(notes.contains("2 steps came after"), "{notes}");
    assert!(notes.contains("5 events were lost"), "{notes}");
}

#[test]
fn a_file_is_known_by_its_content_compressed_or_not() {
    let folder = tempfile::tempdir().unwrap();
    let recording = recording();
    for name in ["trace.pftrace", "trace.pftrace.gz"] {
        let path = folder.path().join(name);
        file::write(&path, &recording, &about()).unwrap();
        assert_eq!(file::kind(&path).unwrap(), Some(Kind::Perfetto), "{name}");
        let trace = reading::read(&mut file::open(&path).unwrap()).unwrap();
        assert_eq!(trace, read(&written(&recording)).unwrap());
    }
    let size = |name: &str| folder.path().join(name).metadata().unwrap().len();
    assert!(size("trace.pftrace.gz") < size("trace.pftrace"));
    let kind = |content: &[u8]| {
        let path = folder.path().join("other");
        std::fs::write(&path, content).unwrap();
        file::kind(&path).unwrap()
    };
    assert_eq!(
        kind(b"{\"schemaVersion\": 1, \"traceEvents\": []}"),
        Some(Kind::PyTorch)
    );
    // Results of the benchmark, text, nothing.
    for other in [
        &b"{\"environment\": {}, \"runs\": []}"[..],
        b"# A page\n",
        b"",
        b"\n{\"runs\": []}",
    ] {
        assert_eq!(kind(other), None);
    }
}

#[test]
fn a_trace_of_another_program_is_refused() {
    let bytes = written(&recording());
    // Without the event that says what it is.
    let name = b"onegrid trace";
    let mut other = bytes.clone();
    let places: Vec<_> = (0..bytes.len() - name.len())
        .filter(|&at| bytes[at..].starts_with(name))
        .collect();
    for at in places {
        other[at] = b'O';
    }
    assert!(matches!(read(&other), Err(TraceError::NotOfOnegrid)));
}

#[test]
fn a_file_cut_short_anywhere_is_an_error() {
    let bytes = written(&recording());
    for length in (0..bytes.len()).step_by(61) {
        let error = read(&bytes[..length]).unwrap_err();
        // Within a packet, while a slice is open, between steps, or before it is said what it is.
        let is_told = matches!(error, TraceError::Damaged { .. } | TraceError::NotOfOnegrid);
        assert!(is_told, "{length} of {}: {error}", bytes.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_file_is_an_error_or_a_trace(at in any::<prop::sample::Index>(), byte: u8) {
        static WRITTEN: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| written(&recording()));
        let mut bytes = WRITTEN.clone();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(trace) = read(&bytes) {
            drop(Profile::of_engine(&trace, Steps::All, Given::default()));
        }
    }
}
