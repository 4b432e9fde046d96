//! What each phase of a decode step takes, from a recorded run, and what it must read.

use serde::{Deserialize, Serialize};

use crate::engine::trace::{Phase, Recording, StepKind};
use crate::measure::step_budget::{self, Grid};
use crate::model::ModelConfig;

/// What one phase of a decode step takes, of all layers together: the mean over steps and over threads
/// or blocks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PhaseTime {
    /// Its name.
    pub phase: String,
    /// Microseconds of its work.
    pub work_microseconds: f64,
    /// Microseconds in it and behind it in which it waited for the others.
    pub wait_microseconds: f64,
    /// Bytes of weights, or of past keys and values, that it must read.
    pub bytes: f64,
}

/// The phases of the decode steps of a run of `batch` sequences, in their order. Those that never ran are
/// left out; none if no decode step was recorded.
pub fn of(recording: &Recording, config: &ModelConfig, batch: usize) -> Vec<PhaseTime> {
    let decodes = |step: u32| {
        let step = recording.steps.get(step as usize);
        step.is_some_and(|step| step.kind == StepKind::Decode)
    };
    let mut times = [(0_u64, 0_u64); Phase::ALL.len()];
    let mut tracks = 0_u64;
    for track in &recording.tracks {
        let mut has_worked = false;
        // Waits since the last phase ended: those within the next one are not its work.
        let mut waits: Vec<(u64, u64)> = Vec::new();
        for event in track.events.iter().filter(|event| decodes(event.step)) {
            let time = event.end - event.begin;
            let (work, wait) = &mut times[event.phase as usize];
            if event.is_wait {
                *wait += time;
                waits.push((event.begin, time));
            } else {
                let within = waits.iter().filter(|(begin, _)| *begin >= event.begin);
                *work += time - within.map(|(_, time)| time).sum::<u64>();
                waits.clear();
                has_worked = true;
            }
        }
        tracks += u64::from(has_worked);
    }
    let steps = recording.steps.iter();
    let positions: Vec<usize> = steps
        .filter(|step| step.kind == StepKind::Decode)
        .map(|step| step.position as usize)
        .collect();
    if tracks == 0 || positions.is_empty() {
        return Vec::new();
    }
    let mean =
        |nanoseconds: u64| nanoseconds as f64 * 1e-3 / (tracks * positions.len() as u64) as f64;
    let position = positions.iter().sum::<usize>() / positions.len();
    // What is read does not depend on the grid.
    let step = step_budget::step(config, Grid { blocks: 1 }, position, true);
    let bytes = |phase: Phase| {
        let same = step.phases().filter(|one| one.name == phase.name());
        let bytes = same.map(|one| one.bytes as f64).sum::<f64>();
        match phase {
            // Each sequence has rows and a past of its own.
            Phase::Embed | Phase::Attention => bytes * batch as f64,
            _ => bytes,
        }
    };
    let ran = Phase::ALL
        .into_iter()
        .zip(times)
        .filter(|(_, time)| *time != (0, 0));
    ran.map(|(phase, (work, wait))| PhaseTime {
        phase: phase.name().to_owned(),
        work_microseconds: mean(work),
        wait_microseconds: mean(wait),
        bytes: bytes(phase),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::trace::{Event, Step, Track};
    use crate::model::shapes;

    fn step(kind: StepKind, position: u32) -> Step {
        Step {
            kind,
            columns: 1,
            token: 0,
            position,
        }
    }

    fn event(step: u32, phase: Phase, begin: u64, end: u64, is_wait: bool) -> Event {
        Event {
            begin,
            end,
            step,
            layer: None,
            phase,
            is_wait,
        }
    }

    fn recording(tracks: Vec<Vec<Event>>) -> Recording {
        let track = |events| Track {
            name: "thread".into(),
            events,
            lost: 0,
        };
        Recording {
            engine: "cpu",
            layers: 2,
            clock: "a test's".into(),
            steps: vec![
                step(StepKind::Prefill, 0),
                step(StepKind::Decode, 8),
                step(StepKind::Decode, 9),
            ],
            steps_not_recorded: 0,
            tracks: tracks.into_iter().map(track).collect(),
        }
    }

    #[test]
    fn work_and_waits_are_means_over_steps_and_threads_without_the_prompts() {
        let prompt = event(0, Phase::Qkv, 0, 1_000_000, false);
        let tracks = [[1000, 3000], [2000, 2000]].map(|[first, second]| {
            vec![
                prompt,
                event(1, Phase::Qkv, 0, first, false),
                event(1, Phase::Qkv, first, 4000, true),
                // A wait within the phase, which is not its work.
                event(2, Phase::Qkv, 5000, 5500, true),
                event(2, Phase::Qkv, 4500, 4500 + second, false),
                event(2, Phase::Qkv, 4500 + second, 8500, true),
            ]
        });
        let config = shapes::config(shapes::TINY).unwrap();
        let [qkv] = &of(&recording(tracks.into()), &config, 1)[..] else {
            panic!("one phase");
        };
        assert_eq!(qkv.phase, "qkv");
        // (1000 + 2500 + 2000 + 1500) / 4 and (3000 + 500 + 1000 + 2000 + 500 + 2000) / 4 nanoseconds.
        assert!((qkv.work_microseconds - 1.75).abs() < 1e-9, "{qkv:?}");
        assert!((qkv.wait_microseconds - 2.25).abs() < 1e-9, "{qkv:?}");
    }

    #[test]
    fn all_phases_together_read_what_a_step_must_read() {
        let config = shapes::config("qwen3-0.6b").unwrap();
        let all = (0..).zip(Phase::ALL);
        let events = all.map(|(at, phase)| event(1, phase, at, at + 1, false));
        let found = of(&recording(vec![events.collect()]), &config, 3);
        let bytes: f64 = found.iter().map(|phase| phase.bytes).sum();
        let past = 3 * 8 * config.kv_bytes_per_position();
        let embedding = 3 * 2 * config.hidden_size;
        let expected = config.weight_bytes_per_token() + past + embedding;
        assert_eq!(bytes, expected as f64);
    }

    #[test]
    fn without_a_decode_step_there_is_nothing() {
        let config = shapes::config(shapes::TINY).unwrap();
        let prompt = vec![event(0, Phase::Qkv, 0, 10, false)];
        assert_eq!(of(&recording(vec![prompt]), &config, 1), []);
    }
}
