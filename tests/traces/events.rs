//! What must hold of the events of any recording.

use std::collections::BTreeMap;

use onegrid::engine::trace::{Event, Phase, Recording, StepKind, Track};

/// Phases of a layer.
pub const OF_LAYER: [Phase; 5] = [
    Phase::Qkv,
    Phase::Attention,
    Phase::Output,
    Phase::GateUp,
    Phase::Down,
];

/// How often each phase of each layer is there, in one step of one track.
pub fn phases(track: &Track, step: usize) -> BTreeMap<(Phase, Option<u16>), usize> {
    let mut counts = BTreeMap::new();
    for event in track
        .events
        .iter()
        .filter(|event| event.step as usize == step)
    {
        if !event.is_wait {
            *counts.entry((event.phase, event.layer)).or_default() += 1;
        }
    }
    counts
}

/// Every layer's phases once, and `beside` as often as said.
pub fn once_a_layer(
    layers: usize,
    beside: &[(Phase, usize)],
) -> BTreeMap<(Phase, Option<u16>), usize> {
    let layers = 0..layers as u16;
    let of_layers = layers.flat_map(|layer| OF_LAYER.map(|phase| ((phase, Some(layer)), 1)));
    let beside = beside.iter().map(|&(phase, count)| ((phase, None), count));
    of_layers.chain(beside).collect()
}

/// The indices of the steps of a kind.
pub fn steps(recording: &Recording, kind: StepKind) -> Vec<usize> {
    let steps = recording.steps.iter().enumerate();
    let steps = steps.filter(|(_, step)| step.kind == kind);
    steps.map(|(index, _)| index).collect()
}

/// Whether `inner` is within `outer`.
fn is_within(inner: &Event, outer: &Event) -> bool {
    outer.begin <= inner.begin && inner.end <= outer.end
}

/// The events that are within no other, in order.
pub fn outermost(track: &Track) -> Vec<Event> {
    let mut outermost: Vec<Event> = Vec::new();
    // Events stand in the order of their ends: what is within another stands before it.
    for event in &track.events {
        while let Some(last) = outermost.last()
            && is_within(last, event)
            && last.begin < last.end
        {
            outermost.pop();
        }
        outermost.push(*event);
    }
    outermost
}

/// Events nest or follow each other, and none is longer than nothing backwards.
pub fn expect_nesting(track: &Track) {
    for event in &track.events {
        assert!(event.begin <= event.end, "{event:?}");
    }
    for pair in track.events.windows(2) {
        assert!(pair[0].end <= pair[1].end, "{}: {pair:?}", track.name);
        // The later one encloses the earlier, or begins when that has ended.
        let apart = pair[0].end <= pair[1].begin;
        assert!(
            apart || is_within(&pair[0], &pair[1]),
            "{}: {pair:?}",
            track.name
        );
    }
    let outermost = outermost(track);
    for pair in outermost.windows(2) {
        assert!(pair[0].end <= pair[1].begin, "{}: {pair:?}", track.name);
    }
}
