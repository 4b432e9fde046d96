//! What the traced kernel records, on CPU threads.

use onegrid::engine::emulated::{BLOCKS, EmulatedDevice, EmulatedEngine};
use onegrid::engine::megakernel::{Barrier, MegakernelEngine, MegakernelOptions, Stage, Variant};
use onegrid::engine::trace::{Phase, StepKind};
use onegrid::engine::{Engine, EngineError};
use onegrid::measure::ladder;
use onegrid::model::ModelConfig;
use onegrid::sampling::SamplingParams;

use super::events::{expect_nesting, once_a_layer, phases, steps};
use super::{record, run};

fn emulated(config: &ModelConfig, options: MegakernelOptions) -> EmulatedEngine {
    // Blocks of one warp are twice as fast here.
    let device = EmulatedDevice::new(BLOCKS, 32).unwrap();
    let weights = ladder::weights(config).unwrap();
    MegakernelEngine::new(device, &weights, options, &mut |_, _| ()).unwrap()
}

#[test]
fn every_phase_of_every_layer_is_there_once_a_step_on_every_block() {
    let greedy = SamplingParams::default();
    // Heads of 64 and of 128.
    for (config, barrier) in [
        (&ladder::shapes()[0], Barrier::Epoch),
        (&ladder::shapes()[2], Barrier::Cooperative),
    ] {
        let options = MegakernelOptions {
            barrier,
            ..ladder::options(1)
        };
        let mut engine = emulated(config, options);
        let expected = run(&mut engine, 4, 7, &greedy);
        let (tokens, recording) = record(&mut engine, 32, 4, 7, &greedy);
        assert_eq!(tokens, expected, "what is recorded changes no token");
        assert_eq!(
            (recording.engine, recording.layers),
            ("emulated", config.layers)
        );
        assert_eq!((recording.lost(), recording.steps_not_recorded), (0, 0));
        assert_eq!(recording.tracks.len(), BLOCKS as usize);
        let decode = steps(&recording, StepKind::Decode);
        assert_eq!(decode.len(), tokens.len() - 1);
        for (index, &step) in decode.iter().enumerate() {
            let of = &recording.steps[step];
            let expected = (1, 4 + index as u32, tokens[index]);
            assert_eq!((of.columns, of.position, of.token), expected);
        }
        let beside = [Phase::Embed, Phase::Head, Phase::Score, Phase::Sample];
        let all = once_a_layer(config.layers, &beside.map(|phase| (phase, 1)));
        let first = once_a_layer(0, &[(Phase::Score, 1), (Phase::Sample, 1)]);
        for track in &recording.tracks {
            for &step in &decode {
                assert_eq!(phases(track, step), all, "{} step {step}", track.name);
            }
            // Of the prompt, which another kernel ran, only its token is chosen here.
            let prompt = steps(&recording, StepKind::Prefill);
            assert_eq!(phases(track, *prompt.last().unwrap()), first);
        }
    }
}

#[test]
fn events_of_a_block_follow_each_other_without_gaps() {
    let config = &ladder::shapes()[0];
    let mut engine = emulated(config, ladder::options(1));
    let (_, recording) = record(&mut engine, 32, 4, 6, &SamplingParams::default());
    for track in &recording.tracks {
        expect_nesting(track);
        for pair in track.events.windows(2) {
            assert_eq!(pair[0].end, pair[1].begin, "{}: {pair:?}", track.name);
        }
    }
    // A block leaves a barrier only when the last has come to it.
    for step in steps(&recording, StepKind::Decode) {
        for layer in 0..config.layers as u16 {
            let at = |track: usize, is_wait: bool| {
                let mut events = recording.tracks[track].events.iter();
                let found = events.find(|event| {
                    let place = (event.step as usize, event.layer, event.phase, event.is_wait);
                    place == (step, Some(layer), Phase::Output, is_wait)
                });
                found.unwrap().end
            };
            let arrived = (0..recording.tracks.len())
                .map(|track| at(track, false))
                .max();
            for track in 0..recording.tracks.len() {
                assert!(at(track, true) >= arrived.unwrap());
            }
        }
    }
}

#[test]
fn launches_follow_each_other_in_one_trace() {
    let config = &ladder::shapes()[0];
    let greedy = SamplingParams::default();
    for (stage, ring_capacity, scored) in [(Stage::V1, 16, true), (Stage::V0, 4096, false)] {
        let options = MegakernelOptions {
            stage,
            ring_capacity,
            ..ladder::options(1)
        };
        let mut engine = emulated(config, options);
        // More tokens than a launch of V1 has room for.
        let (tokens, recording) = record(&mut engine, 64, 3, 24, &greedy);
        let decode = steps(&recording, StepKind::Decode);
        assert_eq!(decode.len(), tokens.len() - 1, "{}", stage.name());
        let sampling = [(Phase::Score, 1), (Phase::Sample, 1)];
        let passes = [(Phase::Embed, 1), (Phase::Head, 1)];
        let beside = [&passes[..], if scored { &sampling } else { &[] }].concat();
        let expected = once_a_layer(config.layers, &beside);
        for track in &recording.tracks {
            for &step in &decode {
                assert_eq!(
                    phases(track, step),
                    expected,
                    "{} step {step}",
                    stage.name()
                );
            }
        }
        // Another recording begins anew.
        let (_, again) = record(&mut engine, 64, 3, 5, &greedy);
        assert_eq!(steps(&again, StepKind::Decode).len(), 4);
    }
}

#[test]
fn filters_are_recorded_as_selection() {
    let config = &ladder::shapes()[0];
    let filtered = SamplingParams {
        temperature: 1.0,
        top_k: 20,
        top_p: 0.9,
        ..SamplingParams::default()
    };
    let mut engine = emulated(config, ladder::options(1));
    let (_, recording) = record(&mut engine, 16, 3, 4, &filtered);
    assert_eq!(recording.lost(), 0, "the host reckoned with it");
    for track in &recording.tracks {
        for step in steps(&recording, StepKind::Decode) {
            let phases = phases(track, step);
            // Three passes of top-k, three of top-p, and the draw.
            assert_eq!(phases[&(Phase::Select, None)], 7);
            assert_eq!(phases[&(Phase::Sample, None)], 1);
        }
    }
}

#[test]
fn steps_beyond_the_room_are_counted() {
    let config = &ladder::shapes()[0];
    let mut engine = emulated(config, ladder::options(1));
    let greedy = SamplingParams::default();
    let (tokens, recording) = record(&mut engine, 3, 4, 7, &greedy);
    assert_eq!(tokens, run(&mut engine, 4, 7, &greedy));
    let passes = recording.steps.len() as u64 + recording.steps_not_recorded;
    let prompt = steps(&recording, StepKind::Prefill).len() as u64;
    assert_eq!((recording.steps.len(), passes), (3, prompt + 6));
    for track in &recording.tracks {
        assert!(track.events.iter().all(|event| event.step < 3));
        assert_eq!(track.lost, 0);
    }
}

#[test]
fn what_no_kernel_records_is_refused_by_name() {
    let config = &ladder::shapes()[0];
    let start = |options: MegakernelOptions| emulated(config, options).start_trace(4);
    for stage in [Stage::Launches, Stage::Graph] {
        let error = start(MegakernelOptions {
            stage,
            ..ladder::options(1)
        });
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains(&format!("of stage {}", stage.name())),
            "{error}"
        );
    }
    for variant in [
        Variant::Block0Norm,
        Variant::HeadBlocks,
        Variant::FusedPhases,
    ] {
        let error = start(MegakernelOptions {
            variant,
            ..ladder::options(1)
        });
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains(variant.name()) && error.contains("heads of 64"),
            "{error}"
        );
    }
    let mut engine = emulated(config, ladder::options(2));
    engine.start_trace(4).unwrap();
    let prompt = ladder::tokens(config, 3);
    let requests = [0, 1].map(|sequence| {
        let go_on = &mut |_| std::ops::ControlFlow::Continue(());
        engine.prefill(sequence, &prompt, go_on).unwrap();
        ladder::request(sequence, 3, &SamplingParams::default())
    });
    let go_on = &mut |_| std::ops::ControlFlow::Continue(());
    let error = engine.decode(&requests, go_on).unwrap_err();
    assert!(matches!(error, EngineError::NoTrace { .. }), "{error}");
    assert!(error.to_string().contains("of 2 sequences"), "{error}");
}
