//! Every variant against the default: the same bits, whatever the team, the columns and the shapes.

use super::*;
use crate::engine::trace::Phase;

fn variant(config: &ModelConfig, variant: CpuVariant, threads: usize, kernels: &str) -> CpuEngine {
    let options = CpuOptions {
        threads: NonZeroUsize::new(threads),
        kernels: Some(kernels.into()),
        variant,
        ..CpuOptions::new(700, SEQUENCES)
    };
    let mut engine = CpuEngine::new(weights(config), &options).expect("an engine");
    engine.cache.poison();
    engine
}

/// The most that decode together here.
const SEQUENCES: usize = 8;
/// Rows of the head, where some are gathered.
const ROWS: [TokenId; 3] = [3, 50, 120];

/// What some sequences come to, as bits: logits after prompts that take one pass and several, after a step
/// with all logits, a step with some, and one whose last column alone has any.
fn bits(engine: &mut CpuEngine, sequences: usize) -> Vec<u32> {
    let config = engine.config().clone();
    let mut bits = Vec::new();
    let mut take = |engine: &mut CpuEngine, sequence: usize, rows: Option<&[TokenId]>| {
        let logits = engine.take_logits(sequence).expect("logits");
        match rows {
            None => bits.extend(logits.iter().map(|logit| logit.to_bits())),
            Some(rows) => bits.extend(rows.iter().map(|row| logits[*row as usize].to_bits())),
        }
    };
    for sequence in 0..sequences {
        engine.truncate(sequence, 0).unwrap();
        // From a streamed pass, over whole attention, to attention split in two.
        let prompt = tokens(&config, 5 + 43 * sequence);
        let go_on = &mut |_: usize| ControlFlow::Continue(());
        engine.prefill(sequence, &prompt, go_on).unwrap();
        take(engine, sequence, None);
    }
    let column = |sequence: usize, token: TokenId, head| Column {
        sequence,
        token,
        head,
    };
    let all: Vec<_> = (0..sequences)
        .map(|s| column(s, 9 + s as TokenId, Head::All))
        .collect();
    engine.step(&all).unwrap();
    (0..sequences).for_each(|sequence| take(engine, sequence, None));

    let head = |sequence: usize| [Head::Rows(&ROWS), Head::All][sequence % 2];
    let some: Vec<_> = (0..sequences).map(|s| column(s, 7, head(s))).collect();
    engine.step(&some).unwrap();
    for sequence in 0..sequences {
        let rows = (sequence % 2 == 0).then_some(&ROWS[..]);
        take(engine, sequence, rows);
    }

    let forced: Vec<_> = [(8, Head::None), (2, Head::None), (30, Head::All)]
        .map(|(token, head)| column(0, token, head))
        .into();
    engine.step(&forced).unwrap();
    take(engine, 0, None);
    bits
}

#[test]
fn every_variant_makes_the_bits_of_the_default() {
    for config in shapes() {
        for path in kernels::available() {
            for sequences in [1, 2, 4, 8] {
                let mut plain = variant(&config, CpuVariant::default(), 1, path.name);
                let expected = bits(&mut plain, sequences);
                // Every team on one path; the others differ in nothing that a team has to do with.
                let teams: &[usize] = match path.name == exact_path() {
                    true => &[1, 2, 3, 5],
                    false => &[2],
                };
                for (other, threads) in CpuVariant::ALL
                    .into_iter()
                    .flat_map(|other| teams.iter().map(move |threads| (other, *threads)))
                {
                    let mut engine = variant(&config, other, threads, path.name);
                    for _ in 0..2 {
                        assert!(
                            bits(&mut engine, sequences) == expected,
                            "{:?} {} {}, {threads} threads, {sequences} sequences",
                            config.architecture,
                            path.name,
                            other.name()
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn every_variant_decodes_the_tokens_of_the_default() {
    for config in shapes() {
        let prompts: Vec<Vec<TokenId>> = (0..3).map(|i| tokens(&config, 4 + 150 * i)).collect();
        for sampling in samplings() {
            let mut plain = variant(&config, CpuVariant::default(), 2, exact_path());
            let expected = decode(&mut plain, &prompts, &sampling);
            for other in CpuVariant::ALL {
                let mut engine = variant(&config, other, 2, exact_path());
                let found = decode(&mut engine, &prompts, &sampling);
                assert_eq!(
                    found,
                    expected,
                    "{:?} {}",
                    config.architecture,
                    other.name()
                );
            }
        }
    }
}

/// Rows enough that each matrix is claimed in several pieces, and some of them uneven.
#[test]
fn claimed_rows_of_large_matrices_make_the_bits_of_the_default() {
    let config = ModelConfig {
        hidden_size: 514,
        intermediate_size: 1030,
        vocab_size: 5003,
        ..shapes().remove(0)
    };
    let expected = bits(
        &mut variant(&config, CpuVariant::default(), 1, exact_path()),
        4,
    );
    for threads in [1, 2, 3, 5] {
        let mut engine = variant(&config, CpuVariant::ClaimedRows, threads, exact_path());
        for _ in 0..5 {
            assert!(bits(&mut engine, 4) == expected, "{threads} threads");
        }
    }
}

#[test]
fn every_variant_records_each_phase_of_each_layer_on_every_thread() {
    let config = &shapes()[0];
    let layers = config.layers;
    for other in CpuVariant::ALL {
        let mut engine = variant(config, other, 2, exact_path());
        engine.start_trace(40).unwrap();
        // A prompt in one wide pass, then steps of one column.
        decode(&mut engine, &[tokens(config, 100)], &samplings()[0]);
        let recording = engine.take_trace().unwrap().unwrap();
        assert_eq!(recording.lost(), 0, "{}", other.name());
        let steps = recording.steps.len();
        for track in &recording.tracks {
            let count = |phase: Phase| {
                let is_it =
                    |event: &&crate::engine::trace::Event| event.phase == phase && !event.is_wait;
                track.events.iter().filter(is_it).count()
            };
            let norms = if other == CpuVariant::Block0Norm {
                // The wide pass shares its norms out in every variant, but for the last.
                (2 * layers + 1) * (steps - 1) + 1
            } else {
                0
            };
            assert_eq!(count(Phase::Norm), norms, "{} {}", other.name(), track.name);
            let is_pool = other == CpuVariant::Pool;
            // Of a wide pass a pool is handed each part: norm, packing and product.
            let wide = if is_pool { 3 } else { 1 };
            assert_eq!(
                count(Phase::Qkv),
                layers * (steps - 1 + wide),
                "{}",
                other.name()
            );
            let wide = if is_pool { 2 } else { 1 };
            assert_eq!(
                count(Phase::Output),
                layers * (steps - 1 + wide),
                "{}",
                other.name()
            );
            for events in track.events.windows(2).filter(|_| is_pool) {
                assert!(events[0].end <= events[1].begin, "{events:?}");
            }
        }
    }
}

#[test]
fn a_variants_name_is_what_plans_call_it() {
    for variant in CpuVariant::ALL {
        let json = serde_json::to_value(variant).unwrap();
        assert_eq!(json, variant.name());
    }
    assert_eq!(CpuVariant::ALL[0], CpuVariant::default());
}
