//! What the CPU engine records.

use std::ops::ControlFlow;

use onegrid::engine::trace::{Phase, StepKind};
use onegrid::engine::{Engine, EngineError};
use onegrid::measure::ladder;
use onegrid::sampling::SamplingParams;

use super::events::{expect_nesting, once_a_layer, outermost, phases, steps};
use super::{cpu, record, run};

#[test]
fn every_phase_of_every_layer_is_there_once_a_step_on_every_thread() {
    let greedy = SamplingParams::default();
    for config in ladder::shapes() {
        for threads in [1, 3] {
            let mut engine = cpu(&config, threads, 1);
            let (tokens, recording) = record(&mut engine, 64, 5, 9, &greedy);
            assert_eq!((recording.engine, recording.layers), ("cpu", config.layers));
            assert_eq!((recording.lost(), recording.steps_not_recorded), (0, 0));
            assert_eq!(recording.tracks.len(), threads);
            let prefill = steps(&recording, StepKind::Prefill);
            let decode = steps(&recording, StepKind::Decode);
            assert_eq!((prefill.len(), decode.len()), (1, tokens.len() - 1));
            for (index, track) in recording.tracks.iter().enumerate() {
                // One thread samples for all.
                let sampled = usize::from(index == 0);
                let beside = [
                    (Phase::Embed, 1),
                    (Phase::Head, 1),
                    (Phase::Sample, sampled),
                ];
                let beside = &beside[..2 + sampled];
                let expected = once_a_layer(config.layers, beside);
                for &step in prefill.iter().chain(&decode) {
                    assert_eq!(phases(track, step), expected, "{} step {step}", track.name);
                }
            }
        }
    }
}

#[test]
fn steps_say_what_ran() {
    let config = &ladder::shapes()[0];
    let (tokens, recording) = record(&mut cpu(config, 2, 1), 64, 5, 6, &SamplingParams::default());
    let prompt = &recording.steps[0];
    let first = ladder::tokens(config, 5)[0];
    assert_eq!(
        (prompt.columns, prompt.position, prompt.token),
        (5, 0, first)
    );
    for (index, &step) in steps(&recording, StepKind::Decode).iter().enumerate() {
        let step = &recording.steps[step];
        let expected = (1, 5 + index as u32, tokens[index]);
        assert_eq!((step.columns, step.position, step.token), expected);
    }
}

#[test]
fn events_nest_or_follow_and_fill_each_step_without_gaps() {
    let config = &ladder::shapes()[0];
    // A prompt long enough to be packed, which has barriers within phases.
    let (_, recording) = record(
        &mut cpu(config, 3, 1),
        64,
        150,
        12,
        &SamplingParams::default(),
    );
    let mut within = 0;
    for track in &recording.tracks {
        expect_nesting(track);
        let outermost = outermost(track);
        within += track.events.len() - outermost.len();
        for step in outermost.chunk_by(|a, b| a.step == b.step) {
            let parts = step.iter().filter(|event| event.phase != Phase::Sample);
            let parts: Vec<_> = parts.collect();
            for pair in parts.windows(2) {
                assert_eq!(pair[0].end, pair[1].begin, "{}: {pair:?}", track.name);
            }
        }
    }
    assert!(within > 0, "waits within phases");
}

#[test]
fn a_batch_and_a_cut_are_recorded_too() {
    let config = &ladder::shapes()[0];
    let mut engine = cpu(config, 2, 3);
    let go_on = &mut |_| ControlFlow::Continue(());
    let requests = [0, 1, 2].map(|sequence| {
        let prompt = ladder::tokens(config, 3 + sequence);
        engine.prefill(sequence, &prompt, go_on).unwrap();
        ladder::request(sequence, 20, &SamplingParams::default())
    });
    engine.start_trace(100).unwrap();
    let mut left = 10;
    let finished = engine.decode(&requests, &mut |_| {
        left -= 1;
        match left > 0 {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    });
    let tokens: usize = finished.unwrap().iter().map(|done| done.tokens.len()).sum();
    let recording = engine.take_trace().unwrap().unwrap();
    let columns: u32 = recording.steps.iter().map(|step| step.columns).sum();
    // Three tokens were the last of their sequences, and went nowhere.
    assert_eq!(columns as usize, tokens - 3);
    for (index, _) in recording.steps.iter().enumerate() {
        let beside = [(Phase::Embed, 1), (Phase::Head, 1)];
        let mut counts = phases(&recording.tracks[1], index);
        counts.remove(&(Phase::Sample, None));
        assert_eq!(counts, once_a_layer(config.layers, &beside));
    }
}

#[test]
fn what_is_recorded_changes_no_token_and_what_comes_after_is_counted() {
    let config = &ladder::shapes()[0];
    let drawn = SamplingParams {
        temperature: 1.0,
        ..SamplingParams::default()
    };
    let mut engine = cpu(config, 2, 1);
    let expected = run(&mut engine, 5, 12, &drawn);
    assert!(engine.take_trace().unwrap().is_none(), "nothing was begun");
    let (tokens, recording) = record(&mut engine, 4, 5, 12, &drawn);
    assert_eq!(tokens, expected);
    // The prompt, and eleven tokens.
    assert_eq!(
        (recording.steps.len(), recording.steps_not_recorded),
        (4, 8)
    );
    for track in &recording.tracks {
        assert!(
            track.events.iter().all(|event| event.step < 4),
            "{}",
            track.name
        );
    }
    assert_eq!(recording.lost(), 0);
    // Whole steps were recorded, the last one's token too.
    let last = phases(&recording.tracks[0], 3);
    assert_eq!(last[&(Phase::Sample, None)], 1);
}

#[test]
fn an_engine_that_records_nothing_says_so() {
    let weights = ladder::weights(&ladder::shapes()[0]).unwrap();
    let mut engine = ladder::reference(&weights).unwrap();
    let error = engine.start_trace(1).unwrap_err();
    assert!(
        matches!(
            error,
            EngineError::NoTrace {
                engine: "reference",
                ..
            }
        ),
        "{error}"
    );
    assert!(engine.take_trace().unwrap().is_none());
}
