//! The CUDA kernels in the emulator against the reference and the CPU engine, on random weights of
//! odd shapes: every variant, stage, barrier and number of columns.

use std::ops::ControlFlow;
use std::time::Duration;

use half::bf16;
use onegrid::engine::cpu::CpuEngine;
use onegrid::engine::emulated::{BLOCKS, EmulatedDevice, EmulatedEngine, THREADS};
use onegrid::engine::guide::{Guide, Guided};
use onegrid::engine::megakernel::{
    Barrier, DeviceError, MAX_COLUMNS, MegakernelEngine, MegakernelOptions, Stage, Variant,
};
use onegrid::engine::reference::ReferenceEngine;
use onegrid::engine::{DecodeRequest, Decoded, Engine, EngineError, Finished, StopReason};
use onegrid::measure::ladder::{
    self, CONTEXT, TOLERANCE, options, request, samplings, shapes, tokens,
};
use onegrid::model::storage::Slice;
use onegrid::model::weights::Values;
use onegrid::model::{Matrix, ModelConfig, TokenId, Weights};
use onegrid::sampling::SamplingParams;

fn weights(config: &ModelConfig) -> Weights {
    ladder::weights(config).expect("memory")
}

fn emulated_on(
    weights: &Weights,
    options: MegakernelOptions,
    blocks: u32,
    threads: u32,
) -> EmulatedEngine {
    let device = EmulatedDevice::new(blocks, threads).expect("an emulator");
    let engine = MegakernelEngine::new(device, weights, options, &mut |_, _| ());
    let mut engine = engine.expect("an engine");
    engine.poison_uncached().expect("memory");
    engine
}

/// On the default grid.
fn emulated(config: &ModelConfig, options: MegakernelOptions) -> EmulatedEngine {
    emulated_on(&weights(config), options, BLOCKS, THREADS)
}

/// On as many blocks of one warp, which is twice as fast here.
fn on_warps(weights: &Weights, options: MegakernelOptions) -> EmulatedEngine {
    emulated_on(weights, options, BLOCKS, 32)
}

fn cpu(config: &ModelConfig, sequences: usize) -> CpuEngine {
    ladder::cpu(weights(config), sequences).expect("an engine")
}

fn reference(weights: &Weights) -> ReferenceEngine {
    ladder::reference(weights).expect("an engine")
}

fn all_logits(engine: &mut dyn Engine, tokens: &[TokenId]) -> Vec<Vec<f32>> {
    ladder::all_logits(engine, tokens).expect("finite logits")
}

fn check_logits(config: &ModelConfig, engine: &mut EmulatedEngine, len: usize, what: &str) {
    let tokens = tokens(config, len);
    let logits = ladder::logits_and_distance(engine, &weights(config), &tokens);
    let (_, distance) = logits.expect("finite logits");
    let architecture = config.architecture;
    assert!(
        distance < TOLERANCE,
        "{architecture:?} {what}: {distance:.1e}"
    );
    engine.truncate(0, 0).expect("a sequence");
    engine.poison_uncached().expect("memory");
}

#[test]
fn logits_equal_the_references_for_every_variant() {
    for config in shapes() {
        for variant in Variant::ALL {
            let options = MegakernelOptions {
                variant,
                ..options(1)
            };
            check_logits(&config, &mut emulated(&config, options), 27, variant.name());
        }
    }
}

#[test]
fn logits_equal_the_references_for_every_number_of_columns() {
    for config in shapes() {
        for columns in [1, 2, 3, 4, 7] {
            let options = MegakernelOptions {
                columns,
                ..options(1)
            };
            let what = format!("{columns} columns");
            check_logits(&config, &mut emulated(&config, options), 9, &what);
        }
    }
}

#[test]
fn logits_equal_the_references_for_every_grid() {
    let config = &shapes()[0];
    for (blocks, threads) in [(1, 32), (1, 256), (2, 96), (5, 64), (13, 32)] {
        for barrier in Barrier::ALL {
            let options = MegakernelOptions {
                barrier,
                ..options(1)
            };
            let mut engine = emulated_on(&weights(config), options, blocks, threads);
            let what = format!("{blocks} x {threads} {}", barrier.name());
            check_logits(config, &mut engine, 11, &what);
        }
    }
}

fn go_on(_: Decoded) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn all_of_it(_: usize) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn decode(
    engine: &mut dyn Engine,
    prompts: &[Vec<TokenId>],
    max_tokens: usize,
    sampling: &SamplingParams,
) -> Vec<Finished> {
    ladder::decode(engine, prompts, max_tokens, sampling).expect("tokens")
}

#[test]
fn every_stage_samples_the_tokens_of_the_cpu() {
    let shapes = shapes();
    for (number, sampling) in samplings().iter().enumerate() {
        // Over all samplings each stage meets each shape twice.
        for (stage, config) in Stage::ALL
            .into_iter()
            .zip(shapes.iter().cycle().skip(number))
        {
            let prompts = [tokens(config, 8)];
            let expected = decode(&mut cpu(config, 1), &prompts, 7, sampling);
            let mut engine = on_warps(
                &weights(config),
                MegakernelOptions {
                    stage,
                    ..options(1)
                },
            );
            let found = decode(&mut engine, &prompts, 7, sampling);
            let architecture = config.architecture;
            assert_eq!(
                found,
                expected,
                "{architecture:?} {} {sampling:?}",
                stage.name()
            );
            assert_eq!(engine.cached(0).len(), 8 + 6);
        }
    }
}

#[test]
fn every_variant_and_barrier_decodes_the_tokens_of_the_cpu() {
    let shapes = shapes();
    let greedy = SamplingParams::default();
    let mut shape = shapes.iter().cycle();
    for variant in Variant::ALL {
        for barrier in Barrier::ALL {
            let config = shape.next().expect("a cycle");
            let prompts = [tokens(config, 16)];
            let expected = decode(&mut cpu(config, 1), &prompts, 8, &greedy);
            let options = MegakernelOptions {
                variant,
                barrier,
                ..options(1)
            };
            let found = decode(&mut emulated(config, options), &prompts, 8, &greedy);
            let (variant, barrier) = (variant.name(), barrier.name());
            assert_eq!(
                found, expected,
                "{:?} {variant} {barrier}",
                config.architecture
            );
        }
    }
}

#[test]
fn a_batch_of_any_size_decodes_what_each_sequence_would_alone() {
    let config = &shapes()[0];
    let sampling = &samplings()[2];
    let prompts: Vec<Vec<TokenId>> = (0..MAX_COLUMNS)
        .map(|i| tokens(config, 1 + 3 * i)[i..].to_vec())
        .collect();
    let expected = decode(&mut cpu(config, MAX_COLUMNS), &prompts, 5, sampling);
    for (stage, counts) in [
        (Stage::V1, &[1, 2, 3, 4, 5, 8][..]),
        (Stage::V0, &[3]),
        (Stage::Graph, &[2, 7]),
    ] {
        let options = MegakernelOptions {
            stage,
            ..options(MAX_COLUMNS)
        };
        let mut engine = on_warps(&weights(config), options);
        for &count in counts {
            let found = decode(&mut engine, &prompts[..count], 5, sampling);
            assert_eq!(found, expected[..count], "{} {count}", stage.name());
        }
    }
}

/// Requests that end at different times and for every reason, on one engine.
fn mixed(engine: &mut dyn Engine) -> (Vec<Finished>, Vec<Decoded>, Vec<usize>) {
    let config = engine.config().clone();
    let lengths = [7, CONTEXT - 4, 16, 8, 5];
    let mut requests = Vec::new();
    for (sequence, length) in lengths.into_iter().enumerate() {
        engine.truncate(sequence, 0).unwrap();
        let prompt = &tokens(&config, CONTEXT)[..length];
        engine.prefill(sequence, prompt, &mut all_of_it).unwrap();
        let max_tokens = [14, 50, 3, 50, 0][sequence];
        requests.push(request(sequence, max_tokens, &samplings()[sequence % 4]));
    }
    // The third token that request 0 takes is one that stops it.
    let trial = [DecodeRequest {
        max_tokens: 3,
        ..requests[0].clone()
    }];
    let trial = engine.decode(&trial, &mut go_on).unwrap().remove(0);
    requests[0].stop_tokens = vec![9999, trial.tokens[2]];
    engine.truncate(0, 0).unwrap();
    engine
        .prefill(0, &tokens(&config, lengths[0]), &mut all_of_it)
        .unwrap();
    let mut seen = Vec::new();
    let finished = engine.decode(&requests, &mut |decoded| {
        seen.push(decoded);
        let of_third = seen.iter().filter(|decoded| decoded.request == 3).count();
        match decoded.request == 3 && of_third == 5 {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    let cached = (0..lengths.len()).map(|sequence| engine.cached(sequence).len());
    (finished.unwrap(), seen, cached.collect())
}

#[test]
fn requests_end_for_the_reasons_and_at_the_tokens_of_the_cpu() {
    let config = &shapes()[0];
    let expected = mixed(&mut cpu(config, 5));
    let stops: Vec<_> = expected.0.iter().map(|finished| finished.stop).collect();
    use StopReason::{Callback, Context, Eos, Length};
    assert_eq!(stops, [Eos, Context, Length, Callback, Length]);
    // With and without several launches for one decode.
    for (stage, ring_capacity) in [
        (Stage::V0, 4096),
        (Stage::V1, 4096),
        (Stage::V1, 16),
        (Stage::Launches, 16),
        (Stage::Graph, 4096),
    ] {
        let options = MegakernelOptions {
            stage,
            ring_capacity,
            ..options(5)
        };
        let found = mixed(&mut on_warps(&weights(config), options));
        assert_eq!(found, expected, "{} {ring_capacity}", stage.name());
    }
}

/// Requests for as many sequences as there are `guides`, and what comes of them: tokens and what is cached.
fn decode_guided(
    engine: &mut dyn Engine,
    guides: &[Option<Guide>],
    max_tokens: usize,
    sampling: &SamplingParams,
) -> (Vec<Finished>, Vec<usize>) {
    let config = engine.config().clone();
    let mut requests = Vec::new();
    for (sequence, guide) in guides.iter().enumerate() {
        engine.truncate(sequence, 0).unwrap();
        let prompt = &tokens(&config, 3 + 2 * sequence);
        engine.prefill(sequence, prompt, &mut all_of_it).unwrap();
        requests.push(DecodeRequest {
            guide: guide.clone(),
            stop_tokens: vec![ladder::end_token()],
            ..request(sequence, max_tokens, sampling)
        });
    }
    let finished = engine.decode(&requests, &mut go_on).expect("tokens");
    let cached = (0..guides.len()).map(|sequence| engine.cached(sequence).len());
    (finished, cached.collect())
}

#[test]
fn every_stage_follows_guides_to_the_tokens_of_the_cpu() {
    let shapes = shapes();
    let guides = ladder::guides();
    let samplings = samplings();
    let mut steps = Guided::default();
    for (number, tables) in guides.iter().enumerate() {
        let guide = [Some(Guide::Tables(tables.clone()))];
        // Each of the other stages meets one of them.
        let stages = [
            Stage::V1,
            [Stage::V0, Stage::Launches, Stage::Graph][number],
        ];
        let configs = shapes.iter().cycle().skip(number);
        for ((index, stage), config) in stages.into_iter().enumerate().zip(configs) {
            // Greedy, sampled from all that is allowed, and with all filters.
            let sampling = &samplings[[0, 2, 5][(index + number) % 3]];
            let expected = decode_guided(&mut cpu(config, 1), &guide, 44, sampling);
            let guided = expected.0[0].guided.unwrap();
            assert!(guided.complete, "{expected:?}");
            steps.forced_tokens += guided.forced_tokens;
            steps.gathered_steps += guided.gathered_steps;
            steps.full_steps += guided.full_steps;
            let weights = weights(config);
            let mut engine = on_warps(
                &weights,
                MegakernelOptions {
                    stage,
                    ..options(1)
                },
            );
            let plain = &mut reference(&weights);
            let architecture = config.architecture;
            let what = format!("{architecture:?} {} guide {number}", stage.name());
            assert_eq!(
                decode_guided(plain, &guide, 44, sampling),
                expected,
                "{what}"
            );
            assert_eq!(
                decode_guided(&mut engine, &guide, 44, sampling),
                expected,
                "{what}"
            );
        }
    }
    let Guided {
        forced_tokens,
        gathered_steps,
        full_steps,
        ..
    } = steps;
    assert!(
        forced_tokens > 60 && gathered_steps > 30 && full_steps > 15,
        "{steps:?}"
    );
}

#[test]
fn a_batch_follows_a_guide_for_each_sequence() {
    let config = &shapes()[0];
    let mut guides: Vec<_> = ladder::guides()
        .into_iter()
        .map(|t| Some(Guide::Tables(t)))
        .collect();
    guides.insert(1, None);
    guides.push(guides[0].clone());
    let sampling = &samplings()[5];
    let expected = decode_guided(&mut cpu(config, guides.len()), &guides, 25, sampling);
    let stops: Vec<_> = expected.0.iter().map(|finished| finished.stop).collect();
    assert!(
        stops.contains(&StopReason::Length) && stops.contains(&StopReason::Eos),
        "{stops:?}"
    );
    // A ring that is emptied on the way, and one that is not.
    for (stage, ring_capacity) in [(Stage::V1, 32), (Stage::Graph, 4096)] {
        let options = MegakernelOptions {
            stage,
            ring_capacity,
            ..options(guides.len())
        };
        let mut engine = on_warps(&weights(config), options);
        let found = decode_guided(&mut engine, &guides, 25, sampling);
        assert_eq!(found, expected, "{}", stage.name());
        // The tables are there by now.
        if stage == Stage::V1 {
            let found = decode_guided(&mut engine, &guides, 25, sampling);
            assert_eq!(found, expected, "again");
        }
    }
}

#[test]
fn every_variant_gathers_rows_of_the_head() {
    let config = &shapes()[2];
    let guide = [Some(Guide::Tables(ladder::guides()[1].clone()))];
    let sampling = &samplings()[2];
    let expected = decode_guided(&mut cpu(config, 1), &guide, 20, sampling);
    for variant in Variant::ALL {
        let options = MegakernelOptions {
            variant,
            ..options(1)
        };
        let found = decode_guided(&mut emulated(config, options), &guide, 20, sampling);
        assert_eq!(found, expected, "{}", variant.name());
    }
}

#[test]
fn tables_that_do_not_fit_are_refused_with_both_numbers() {
    let config = &shapes()[0];
    let options = MegakernelOptions {
        guide_bytes: Some(100),
        ..options(1)
    };
    let mut engine = on_warps(&weights(config), options);
    engine.prefill(0, &[1, 2], &mut all_of_it).unwrap();
    let requests = [DecodeRequest {
        guide: Some(Guide::Tables(ladder::guides()[0].clone())),
        ..request(0, 5, &samplings()[0])
    }];
    let error = engine
        .decode(&requests, &mut go_on)
        .unwrap_err()
        .to_string();
    assert!(error.contains("100 were set aside"), "{error}");
}

#[test]
fn logits_after_decoding_are_used_once() {
    let config = &shapes()[0];
    for stage in Stage::ALL {
        let mut engine = emulated(
            config,
            MegakernelOptions {
                stage,
                ..options(1)
            },
        );
        engine
            .prefill(0, &tokens(config, 9), &mut all_of_it)
            .unwrap();
        let requests = [request(0, 3, &samplings()[0])];
        engine.decode(&requests, &mut go_on).unwrap();
        let again = engine
            .decode(&requests, &mut go_on)
            .unwrap_err()
            .to_string();
        assert!(again.contains("no prompt"), "{again}");
        // Teacher-forced logits leave those of the last token to decode from.
        let rows = all_logits(&mut engine, &[5, 6, 7]);
        let finished = engine.decode(&requests, &mut go_on).unwrap();
        let last = rows.last().unwrap();
        let largest = last.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert_eq!(last[finished[0].tokens[0] as usize], largest);
    }
}

#[test]
fn logits_are_the_same_bits_in_every_run() {
    let config = &shapes()[1];
    for variant in Variant::ALL {
        let options = MegakernelOptions {
            variant,
            ..options(1)
        };
        let mut engine = emulated(config, options);
        let prompt = tokens(config, 13);
        let first = all_logits(&mut engine, &prompt);
        engine.truncate(0, 0).unwrap();
        assert_eq!(
            all_logits(&mut engine, &prompt),
            first,
            "{}",
            variant.name()
        );
    }
}

#[test]
fn what_is_truncated_leaves_no_trace() {
    let config = &shapes()[0];
    let prompt = tokens(config, 40);
    let mut fresh = on_warps(&weights(config), options(1));
    let mut used = on_warps(&weights(config), options(1));
    used.prefill(0, &prompt, &mut all_of_it).unwrap();
    used.prefill(0, &[1, 2, 3], &mut all_of_it).unwrap();
    used.truncate(0, 20).unwrap();
    fresh.prefill(0, &prompt[..20], &mut all_of_it).unwrap();
    assert_eq!(
        all_logits(&mut used, &prompt[20..]),
        all_logits(&mut fresh, &prompt[20..])
    );
    assert_eq!(used.cached(0), fresh.cached(0));
}

#[test]
fn misuse_is_an_error_and_changes_nothing() {
    let config = &shapes()[0];
    let mut engine = emulated(config, options(9));
    let error = |result: Result<(), EngineError>| result.unwrap_err().to_string();
    assert!(error(engine.prefill(0, &[83], &mut all_of_it)).contains("token 83 is outside"));
    assert!(error(engine.prefill(0, &[1; CONTEXT + 1], &mut all_of_it)).contains("48"));
    assert!(error(engine.prefill(9, &[1], &mut all_of_it)).contains("holds 9"));
    assert!(engine.cached(0).is_empty());
    for sequence in 0..9 {
        engine.prefill(sequence, &[1], &mut all_of_it).unwrap();
    }
    let greedy = SamplingParams::default();
    let nine: Vec<_> = (0..9)
        .map(|sequence| request(sequence, 1, &greedy))
        .collect();
    let mut decode = |requests: &[DecodeRequest]| engine.decode(requests, &mut go_on).map(|_| ());
    assert!(error(decode(&nine)).contains("up to 8"));
    let stops = DecodeRequest {
        stop_tokens: (0..17).collect(),
        ..request(0, 1, &greedy)
    };
    assert!(error(decode(&[stops])).contains("up to 16"));
    let twice = [request(1, 1, &greedy), request(1, 1, &greedy)];
    assert!(error(decode(&twice)).contains("twice"));
    let sampling = SamplingParams {
        temperature: f32::NAN,
        ..greedy.clone()
    };
    assert!(error(decode(&[request(1, 1, &sampling)])).contains("temperature"));
    decode(&nine[..8]).unwrap();
    assert!(error(decode(&nine[..1])).contains("no prompt"));

    let odd = ModelConfig {
        head_dim: 96,
        ..config.clone()
    };
    let device = EmulatedDevice::new(1, 32).unwrap();
    let refused = MegakernelEngine::new(device, &weights(&odd), options(1), &mut |_, _| ());
    let message = refused.err().expect("no kernel for it").to_string();
    assert!(
        message.contains("64 or 128") && message.contains("96"),
        "{message}"
    );
}

/// A NaN in some row of some matrix reaches the residual stream behind it.
#[test]
fn values_that_are_not_finite_are_named_by_layer_and_position() {
    let config = &shapes()[0];
    let with_nan = |matrix: &Matrix| {
        let mut values = matrix.as_bf16().unwrap().to_vec();
        let middle = values.len() / 2;
        values[middle] = bf16::NAN;
        let values: Vec<f32> = values.iter().map(|v| v.to_f32()).collect();
        Matrix::new(
            matrix.rows(),
            matrix.columns(),
            Values::Bf16(Slice::converted(&values)),
        )
    };
    type Change = fn(&mut Weights, &dyn Fn(&Matrix) -> Matrix);
    let cases: [(&str, Change); 5] = [
        ("the embedding", |w, nan| {
            w.head = Some(w.embedding.clone());
            w.config.tied_embeddings = false;
            w.embedding = nan(&w.embedding);
        }),
        ("layer 0 (attention)", |w, nan| {
            w.layers[0].v = nan(&w.layers[0].v)
        }),
        ("layer 1 (MLP)", |w, nan| {
            w.layers[1].up = nan(&w.layers[1].up)
        }),
        ("layer 0 (MLP)", |w, nan| {
            w.layers[0].down = nan(&w.layers[0].down)
        }),
        ("the logits", |w, nan| {
            w.head = Some(nan(&w.embedding));
            w.config.tied_embeddings = false;
        }),
    ];
    // The embedding's middle row is that of this token.
    let prompt = [4, 5, 6, (config.vocab_size / 2) as TokenId];
    for (place, change) in cases {
        let mut weights = weights(config);
        change(&mut weights, &with_nan);
        let expected = reference(&weights)
            .logits(0, &prompt, &mut |_, _| ())
            .unwrap_err();
        assert!(expected.to_string().contains(place), "{place}: {expected}");
        for (stage, variant) in Stage::ALL.into_iter().zip(Variant::ALL) {
            let options = MegakernelOptions {
                stage,
                variant,
                ..options(1)
            };
            let mut engine = on_warps(&weights, options);
            let forced = engine.logits(0, &prompt, &mut |_, _| ()).unwrap_err();
            assert_eq!(
                forced.to_string(),
                expected.to_string(),
                "{}",
                variant.name()
            );
            engine.truncate(0, 0).unwrap();
            let requests = [request(0, 2, &SamplingParams::default())];
            let prefilled = engine.prefill(0, &prompt, &mut all_of_it);
            let outcome = prefilled.and_then(|()| engine.decode(&requests, &mut go_on));
            let message = outcome.unwrap_err().to_string();
            assert!(message.contains(place), "{place}: {message}");
            // It is not the end of the engine.
            engine.truncate(0, 0).unwrap();
            if place == "the embedding" {
                engine.prefill(0, &prompt[..3], &mut all_of_it).unwrap();
                engine.decode(&requests[..1], &mut go_on).unwrap();
            }
        }
    }
}

/// A NaN that decoding meets after some tokens, in the row of the one sampled last.
#[test]
fn what_decoding_meets_after_some_tokens_is_told_after_them() {
    let config = &shapes()[0];
    let prompt = tokens(config, 10);
    let all = decode(
        &mut cpu(config, 1),
        std::slice::from_ref(&prompt),
        8,
        &SamplingParams::default(),
    );
    let all = &all[0].tokens;
    let first = |token| all.iter().position(|other| *other == token);
    let index = (1..7)
        .rev()
        .find(|&i| first(all[i]) == Some(i) && !prompt.contains(&all[i]));
    let index = index.expect("a token that is sampled for the first time");
    let mut weights = weights(config);
    let mut embedding = weights.embedding.as_bf16().unwrap().to_vec();
    weights.head = Some(weights.embedding.clone());
    weights.config.tied_embeddings = false;
    embedding[all[index] as usize * config.hidden_size] = bf16::NAN;
    let values: Vec<f32> = embedding.iter().map(|v| v.to_f32()).collect();
    let values = Values::Bf16(Slice::converted(&values));
    weights.embedding = Matrix::new(config.vocab_size, config.hidden_size, values);
    for stage in Stage::ALL {
        let mut engine = on_warps(
            &weights,
            MegakernelOptions {
                stage,
                ..options(1)
            },
        );
        engine.prefill(0, &prompt, &mut all_of_it).unwrap();
        let mut seen = Vec::new();
        let outcome = engine.decode(
            &[request(0, 8, &SamplingParams::default())],
            &mut |decoded| {
                seen.push(decoded.token);
                ControlFlow::Continue(())
            },
        );
        let message = outcome.unwrap_err().to_string();
        let position = prompt.len() + index;
        let expected = format!("the embedding at position {position}");
        assert!(message.contains(&expected), "{}: {message}", stage.name());
        assert_eq!(seen, all[..=index], "{}", stage.name());
        assert_eq!(engine.cached(0).len(), position);
    }
}

#[test]
fn a_block_that_never_arrives_is_reported_and_the_engine_goes_on() {
    let config = &shapes()[0];
    let options = MegakernelOptions {
        barrier: Barrier::Epoch,
        watchdog: Duration::from_millis(1500),
        stall: Some((1, 4)),
        ..options(1)
    };
    let mut engine = emulated(config, options);
    for _ in 0..2 {
        let error = engine.prefill(0, &[1, 2], &mut all_of_it).unwrap_err();
        let EngineError::Device(DeviceError::Stalled { block, .. }) = error else {
            panic!("{error}");
        };
        assert_eq!(block, 1);
    }
}

#[test]
fn the_callback_stops_a_long_decode() {
    let config = &shapes()[0];
    for stage in Stage::ALL {
        let mut engine = emulated(
            config,
            MegakernelOptions {
                stage,
                ..options(1)
            },
        );
        engine
            .prefill(0, &tokens(config, 5), &mut all_of_it)
            .unwrap();
        let mut count = 0;
        let finished = engine.decode(&[request(0, 40, &SamplingParams::default())], &mut |_| {
            count += 1;
            match count {
                2 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
        let finished = finished.unwrap().remove(0);
        assert_eq!(
            (finished.stop, finished.tokens.len()),
            (StopReason::Callback, 2)
        );
        assert_eq!(engine.cached(0).len(), 6);
    }
}
