//! Divergences against closed forms, and against `tests/fixtures/divergence.json`, which NumPy, SciPy and
//! sums of 300 digits made.

use serde::Deserialize;
use serde_json::Value;

use super::by_sequence::LEAST_SEQUENCES;
use super::summary::kl_ratio;
use super::*;

const MASKED: f32 = f32::NEG_INFINITY;

#[derive(Deserialize)]
struct Fixture {
    top_k: Vec<usize>,
    clear_margin: f64,
    positions: Vec<PositionCase>,
    text: TextCase,
}

/// `null` is minus infinity in logits, and infinity in what is expected.
#[derive(Deserialize)]
struct PositionCase {
    name: String,
    reference: Vec<Option<f32>>,
    other: Vec<Option<f32>>,
    next: u32,
    kl: Option<f64>,
    kl_reverse: Option<f64>,
    jensen_shannon: f64,
    margin: f64,
    top1_agrees: bool,
    top_k: Vec<f64>,
    next_nll: [Option<f64>; 2],
}

#[derive(Deserialize)]
struct TextCase {
    texts: Vec<Text>,
    summary: Value,
}

#[derive(Deserialize)]
struct Text {
    tokens: Vec<u32>,
    reference: Vec<Vec<Option<f32>>>,
    other: Vec<Vec<Option<f32>>>,
}

fn fixture() -> Fixture {
    let json = include_str!("../../../tests/fixtures/divergence.json");
    serde_json::from_str(json).unwrap()
}

fn logits(values: &[Option<f32>]) -> Vec<f32> {
    values.iter().map(|x| x.unwrap_or(MASKED)).collect()
}

fn between(reference: &[f32], other: &[f32]) -> PositionDivergence {
    PositionDivergence::between(reference, other, None, &[2]).unwrap()
}

/// To 1e-13 of the value, and 1e-30 where it is zero: logits of this size are rounded at the 16th
/// digit when the sum is taken off, and a divergence is of second order in that.
fn assert_is(found: f64, expected: f64, what: &str) {
    let close = (found - expected).abs() <= 1e-13 * expected.abs() + 1e-30;
    assert!(close || found == expected, "{what}: {found} for {expected}");
}

#[test]
fn divergences_are_those_of_exact_sums() {
    let Fixture {
        top_k, positions, ..
    } = fixture();
    assert!(positions.len() > 10);
    for case in positions {
        let (reference, other) = (logits(&case.reference), logits(&case.other));
        let found = PositionDivergence::between(&reference, &other, Some(case.next), &top_k);
        let found = found.unwrap();
        let name = &case.name;
        // A divergence d of logits with errors of 1e-16 |logit| moves by about sqrt(d) times that.
        let scale = reference.iter().chain(&other).filter(|x| x.is_finite());
        let scale = scale.fold(1.0_f32, |max, x| max.max(x.abs()));
        let assert_close = |found: f64, expected: Option<f64>, what: &str| {
            let expected = expected.unwrap_or(f64::INFINITY);
            let error = 1e-15 * f64::from(scale) * (expected.sqrt() + expected);
            let close = (found - expected).abs() <= error || found == expected;
            assert!(close, "{name}, {what}: {found:e} for {expected:e}");
        };
        assert_close(found.kl, case.kl, "kl");
        assert_close(found.kl_reverse, case.kl_reverse, "kl_reverse");
        assert_close(
            found.jensen_shannon,
            Some(case.jensen_shannon),
            "jensen_shannon",
        );
        assert_eq!(found.margin, case.margin, "{name}");
        assert_eq!(found.top1_agrees, case.top1_agrees, "{name}");
        assert_eq!(found.top_k, case.top_k, "{name}");
        for (found, expected) in found.next.unwrap().into_iter().zip(case.next_nll) {
            let expected = expected.unwrap_or(f64::INFINITY);
            let close = (found - expected).abs() <= 1e-15 * f64::from(scale);
            assert!(
                close || found == expected,
                "{name}: {found:e} for {expected:e}"
            );
        }
        // The other way round the two directions change places.
        let back = PositionDivergence::between(&other, &reference, None, &top_k).unwrap();
        assert_eq!(
            (back.kl, back.kl_reverse),
            (found.kl_reverse, found.kl),
            "{name}"
        );
        assert_is(back.jensen_shannon, found.jensen_shannon, name);
    }
}

#[test]
fn divergences_are_those_of_the_formula() {
    // p = (1/4, 3/4), q = (1/2, 1/2); logits may be shifted as a whole.
    let p = [0.25_f32.ln() + 5.0, 0.75_f32.ln() + 5.0];
    let found = between(&p, &[7.0, 7.0]);
    let expected = 0.25 * 0.5_f64.ln() + 0.75 * 1.5_f64.ln();
    // 1e-7 is what f32 rounds of these logits.
    assert!((found.kl - expected).abs() < 1e-6);
    let expected = 0.5 * 2.0_f64.ln() + 0.5 * (2.0 / 3.0_f64).ln();
    assert!((found.kl_reverse - expected).abs() < 1e-6);
    let half_sums = 0.25 * (0.25 / 0.375_f64).ln() + 0.75 * (0.75 / 0.625_f64).ln();
    let other_half = 0.5 * (0.5 / 0.375_f64).ln() + 0.5 * (0.5 / 0.625_f64).ln();
    assert!((found.jensen_shannon - (half_sums + other_half) / 2.0).abs() < 1e-6);
    assert!((found.margin - 3.0_f64.ln()).abs() < 1e-6);
    assert!((kl(&p, &[7.0, 7.0]) - found.kl).abs() < 1e-15);
}

#[test]
fn logits_diverge_from_themselves_by_nothing_at_all() {
    let rows = fixture().positions;
    for case in &rows {
        let row = logits(&case.reference);
        let found = between(&row, &row);
        assert_eq!((found.kl, found.kl_reverse), (0.0, 0.0), "{}", case.name);
        assert_eq!((found.jensen_shannon, found.max_difference), (0.0, 0.0));
        assert!(found.top1_agrees);
        assert_eq!(found.top_k, [1.0]);
    }
}

/// One logit moved by e changes KL by p (1 - p) e^2 / 2, to first order in e: far below what a plain sum
/// of `p ln(p / q)` in f64 resolves, which is 1e-16.
#[test]
fn the_smallest_divergences_are_not_lost_in_rounding() {
    let reference = vec![0.0_f32; 1000];
    let mut other = reference.clone();
    let e = 1e-7_f32;
    other[3] = e;
    let found = between(&reference, &other);
    let p = 1e-3;
    let expected = p * (1.0 - p) * f64::from(e).powi(2) / 2.0;
    assert!((found.kl / expected - 1.0).abs() < 1e-6, "{:e}", found.kl);
    assert!((found.jensen_shannon / (expected / 4.0) - 1.0).abs() < 1e-6);
}

#[test]
fn masked_logits_have_no_probability() {
    // Masked on both sides: as if they were not there.
    let masked = between(&[1.0, MASKED, 2.0], &[1.5, MASKED, 2.0]);
    let without = between(&[1.0, 2.0], &[1.5, 2.0]);
    assert_eq!(masked, without);
    // What the reference allows and the other rules out can't be made good.
    let found = between(&[0.0, 0.0], &[0.0, MASKED]);
    assert_eq!(found.kl, f64::INFINITY);
    assert!((found.kl_reverse - 2.0_f64.ln()).abs() < 1e-15);
    // m = (3/4, 1/4): KL(p || m) = ln(2/3) / 2 + ln(2) / 2, KL(q || m) = ln(4/3).
    let expected = ((4.0 / 3.0_f64).ln() / 2.0 + (4.0 / 3.0_f64).ln()) / 2.0;
    assert!((found.jensen_shannon - expected).abs() < 1e-15);
    assert_eq!(found.max_difference, f32::INFINITY);
    // One allowed token leads by any margin.
    assert_eq!(
        between(&[0.0, MASKED], &[0.0, MASKED]).margin,
        f64::INFINITY
    );
    assert_eq!(kl(&[0.0, MASKED], &[0.0, 0.0]), 2.0_f64.ln());
}

#[test]
fn disjoint_masks_are_as_far_apart_as_can_be() {
    let found = between(&[0.0, MASKED], &[MASKED, 0.0]);
    assert_eq!((found.kl, found.kl_reverse), (f64::INFINITY, f64::INFINITY));
    assert!((found.jensen_shannon - 2.0_f64.ln()).abs() < 1e-15);
    assert_eq!(found.top_k, [0.0]);
}

/// Probabilities below f64's range, which a quotient of theirs would lose.
#[test]
fn logits_thousands_apart_are_compared_all_the_same() {
    let found = between(&[0.0, -3000.0], &[-3000.0, 0.0]);
    assert_eq!((found.kl, found.kl_reverse), (3000.0, 3000.0));
    assert!((found.jensen_shannon - 2.0_f64.ln()).abs() < 1e-15);
    let most = f32::MAX;
    let found = between(&[most, -most], &[-most, most]);
    assert_eq!(found.kl, 2.0 * f64::from(most));
}

#[test]
fn ties_go_to_the_lowest_token_id() {
    let tied = [1.0, 3.0, 3.0, 2.0];
    assert!(between(&tied, &[0.0, 2.0, 1.0, 0.0]).top1_agrees);
    assert!(!between(&tied, &[0.0, 1.0, 2.0, 0.0]).top1_agrees);
    assert_eq!(between(&tied, &tied).margin, 0.0);
    // {1, 2} of the reference beside {0, 1} of four equal ones.
    assert_eq!(between(&tied, &[5.0; 4]).top_k, [0.5]);
}

#[test]
fn what_is_no_distribution_is_refused() {
    let refused = |reference: &[f32], other: &[f32], next| {
        PositionDivergence::between(reference, other, next, &[]).unwrap_err()
    };
    let error = refused(&[0.0, 1.0], &[0.0, f32::NAN], None);
    assert_eq!(error, LogitsError::NotANumber { token: 1 });
    let error = refused(&[f32::INFINITY, 1.0], &[0.0, 1.0], None);
    assert_eq!(error, LogitsError::NotANumber { token: 0 });
    let error = refused(&[0.0, 1.0], &[MASKED, MASKED], None);
    assert_eq!(error, LogitsError::AllMasked { vocab_size: 2 });
    assert!(
        refused(&[0.0], &[0.0, 1.0], None)
            .to_string()
            .contains("1 of the reference")
    );
    assert!(
        refused(&[0.0], &[0.0], Some(1))
            .to_string()
            .contains("next token is 1")
    );
    assert!(kl(&[0.0, 1.0], &[0.0, f32::NAN]).is_nan());
}

#[test]
fn the_difference_is_the_largest() {
    assert_eq!(max_difference(&[1.0, -2.0, 3.0], &[1.5, 0.0, 3.0]), 2.0);
    assert_eq!(
        between(&[1.0, -2.0, 3.0], &[1.5, 0.0, 3.0]).max_difference,
        2.0
    );
}

// --- Many positions ---------------------------------------------------------------------------

/// The texts of the fixture, their summary, and what it is expected to be.
fn summary_of_texts() -> (Divergence, Value) {
    let Fixture {
        top_k,
        clear_margin,
        text,
        ..
    } = fixture();
    let mut collector = Collector::new(Criteria {
        clear_margin,
        top_k,
    });
    for text in &text.texts {
        collector.begin_sequence();
        let rows = text.reference.iter().zip(&text.other);
        for (index, (reference, other)) in rows.enumerate() {
            let next = text.tokens.get(index + 1).copied();
            collector
                .push(&logits(reference), &logits(other), next)
                .unwrap();
        }
    }
    (collector.summary().unwrap(), text.summary)
}

/// Holds every number in `expected` against the one of the same name in `found`.
fn assert_holds(found: &Value, expected: &Value, path: &str) {
    match expected {
        Value::Object(fields) => {
            for (name, expected) in fields {
                assert_holds(&found[name], expected, &format!("{path}.{name}"));
            }
        }
        Value::Array(items) => {
            for (index, expected) in items.iter().enumerate() {
                assert_holds(&found[index], expected, &format!("{path}[{index}]"));
            }
        }
        number => {
            let (found, expected) = (found.as_f64().unwrap(), number.as_f64().unwrap());
            // Sums of up to 36 numbers in another order.
            let close = (found - expected).abs() <= 1e-12 * expected.abs();
            assert!(close, "{path}: {found} for {expected}");
        }
    }
}

#[test]
fn means_percentiles_and_intervals_are_those_of_numpy() {
    let (found, expected) = summary_of_texts();
    assert!(expected["kl"]["p90"]["low"].as_f64() < expected["kl"]["p90"]["high"].as_f64());
    assert_holds(&serde_json::to_value(&found).unwrap(), &expected, "summary");
}

#[test]
fn samples_of_sequences_add_up_to_the_whole() {
    let (found, _) = summary_of_texts();
    let samples = &found.samples;
    assert_eq!(
        samples.iter().map(|s| s.positions).sum::<usize>(),
        found.positions
    );
    let kl: f64 = samples
        .iter()
        .map(|s| s.kl_mean.unwrap() * s.positions as f64)
        .sum();
    assert_is(
        kl / found.positions as f64,
        found.kl.mean.value.unwrap(),
        "kl",
    );
    let top1: usize = samples.iter().map(|s| s.top1).sum();
    assert_is(
        top1 as f64 / found.positions as f64,
        found.top1.value.unwrap(),
        "top1",
    );
    assert_eq!(
        samples.iter().map(|s| s.clear).sum::<usize>(),
        found.clear_positions
    );
    let positions = samples.iter().flat_map(|s| s.kl.iter().copied());
    let max = found.kl.max.unwrap();
    assert!((positions.fold(0.0, f64::max) / max - 1.0).abs() < 5e-3);
    let perplexity = found.perplexity.unwrap();
    let nll: f64 = samples.iter().map(|s| s.nll[1].unwrap()).sum();
    assert_is(
        (nll / perplexity.tokens as f64).exp(),
        perplexity.other.unwrap(),
        "perplexity",
    );
}

#[test]
fn a_summary_survives_json() {
    let (found, _) = summary_of_texts();
    let json = serde_json::to_string(&found).unwrap();
    assert_eq!(serde_json::from_str::<Divergence>(&json).unwrap(), found);
}

/// The same pairs of rows at every position, in so many sequences.
fn summary_of(sequences: usize, reference: &[f32], other: &[f32]) -> Divergence {
    let mut collector = Collector::new(Criteria::default());
    for _ in 0..sequences {
        collector.begin_sequence();
        for _ in 0..3 {
            collector.push(reference, other, Some(0)).unwrap();
        }
    }
    collector.summary().unwrap()
}

#[test]
fn few_sequences_have_no_interval() {
    let rows = ([0.0, 1.0], [0.0, 2.0]);
    let few = summary_of(LEAST_SEQUENCES - 1, &rows.0, &rows.1);
    assert!(few.kl.mean.value.is_some());
    assert_eq!((few.kl.mean.low, few.top1.high), (None, None));
    let enough = summary_of(LEAST_SEQUENCES, &rows.0, &rows.1);
    assert_eq!(enough.kl.mean.low, enough.kl.mean.value);
    assert_eq!(Collector::new(Criteria::default()).summary(), None);
}

#[test]
fn what_is_infinite_is_counted_and_has_no_mean() {
    let found = summary_of(6, &[0.0, 1.0], &[MASKED, 2.0]);
    assert_eq!((found.kl.infinite, found.kl.mean), (18, Figure::default()));
    assert_eq!((found.kl.p50.value, found.kl.max), (None, None));
    assert_eq!(found.kl_reverse.infinite, 0);
    assert!(found.kl_reverse.mean.value.unwrap() > 0.0);
    assert_eq!(found.max_difference, None);
    // The token that comes is one that the other rules out.
    let perplexity = found.perplexity.unwrap();
    assert!(perplexity.reference.is_some());
    assert_eq!(
        (perplexity.other, perplexity.ratio),
        (None, Figure::default())
    );
    let json = serde_json::to_string(&found).unwrap();
    assert_eq!(serde_json::from_str::<Divergence>(&json).unwrap(), found);
}

#[test]
fn agreement_where_nothing_is_clear_is_not_known() {
    let found = summary_of(6, &[0.0, 0.125], &[0.0, 0.125]);
    assert_eq!(
        (found.clear_positions, found.top1_where_clear),
        (0, Figure::default())
    );
    assert_eq!(found.top1.value, Some(1.0));
}

#[test]
fn distances_are_compared_over_the_same_draws() {
    let reference = [0.0, 1.0];
    let (near, far) = (
        summary_of(6, &reference, &[0.0, 1.01]),
        summary_of(6, &reference, &[0.0, 1.1]),
    );
    let ratio = kl_ratio(&near, &far).unwrap();
    let expected = near.kl.mean.value.unwrap() / far.kl.mean.value.unwrap();
    assert_is(ratio.value.unwrap(), expected, "ratio");
    // Equal sequences: every draw gives the same.
    assert!((ratio.high.unwrap() - ratio.low.unwrap()).abs() < 1e-12);
    let itself = summary_of(6, &reference, &reference);
    assert_eq!(
        kl_ratio(&near, &itself),
        None,
        "the reference is no yardstick"
    );
    assert_eq!(kl_ratio(&itself, &near).unwrap().value, Some(0.0));
    assert_eq!(
        kl_ratio(&near, &summary_of(7, &reference, &[0.0, 1.1])),
        None
    );
}
