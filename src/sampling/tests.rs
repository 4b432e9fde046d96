use super::*;
use proptest::prelude::*;

fn sample(logits: &[f32], params: &SamplingParams, position: u32) -> TokenId {
    let mut sampler = Sampler::new(params, logits.len(), &[], 1).expect("valid parameters");
    let token = sampler.sample(&mut logits.to_vec(), 0, position);
    token.expect("finite logits")
}

fn softmax(logits: &[f32], temperature: f32) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = logits
        .iter()
        .map(|&l| f64::from((l - max) / temperature).exp())
        .collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|w| w / total).collect()
}

/// The tokens that can be sampled, found by taking the definitions literally.
fn survivors(logits: &[f32], params: &SamplingParams) -> Vec<bool> {
    let scaled: Vec<f32> = logits.iter().map(|l| l / params.temperature).collect();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| scaled[b].total_cmp(&scaled[a]));
    let mut cut = f32::NEG_INFINITY;
    if params.top_k > 0 && params.top_k < order.len() {
        cut = scaled[order[params.top_k - 1]];
    }
    let kept: Vec<usize> = order.into_iter().filter(|&i| scaled[i] >= cut).collect();
    let values: Vec<f32> = kept.iter().map(|&i| scaled[i]).collect();
    let mut mass = 0.0;
    for (value, probability) in values.iter().zip(softmax(&values, 1.0)) {
        if mass >= f64::from(params.top_p) {
            break;
        }
        cut = cut.max(f32::NEG_INFINITY);
        mass += probability;
        if params.top_p < 1.0 {
            cut = *value;
        }
    }
    cut = cut.max(values[0] + params.min_p.ln());
    scaled.iter().map(|&value| value >= cut).collect()
}

#[test]
fn argmax_ties_go_to_the_lowest_id() {
    for len in [1, 2, 63, 64, 65, 1000] {
        assert_eq!(sample(&vec![0.5; len], &SamplingParams::default(), 0), 0);
    }
    let mut logits = vec![-1.0; 300];
    logits[70] = 2.0;
    logits[71] = 2.0;
    logits[299] = 2.0;
    assert_eq!(sample(&logits, &SamplingParams::default(), 0), 70);
}

#[test]
fn argmax_finds_the_largest_wherever_it_is() {
    for len in [1, 5, 64, 100, 257] {
        for index in 0..len {
            let mut logits: Vec<f32> = (0..len).map(|i| -((i % 7) as f32)).collect();
            logits[index] = 0.25;
            let expected = if index == 0 { 0 } else { index };
            logits[0] = if index == 0 { 0.25 } else { 0.0 };
            assert_eq!(
                sample(&logits, &SamplingParams::default(), 0),
                expected as TokenId
            );
        }
    }
}

#[test]
fn values_that_are_not_finite_are_refused() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for index in [0, 15, 16, 64, 99] {
            let mut logits = vec![1.0; 100];
            logits[index] = bad;
            let mut sampler = Sampler::new(&SamplingParams::default(), 100, &[], 1).unwrap();
            assert_eq!(sampler.sample(&mut logits, 0, 0), None, "{bad} at {index}");
        }
    }
}

/// Pearson's chi-squared over 20,000 positions; the bound is the 99.99% quantile for 7 degrees of
/// freedom, and the seed is fixed.
#[test]
fn draws_follow_the_softmax() {
    let logits = [0.3, -1.2, 2.0, 0.0, 1.1, -0.4, 0.9, -2.5];
    for temperature in [1.0, 0.7, 2.5] {
        let params = SamplingParams {
            temperature,
            seed: 99,
            ..SamplingParams::default()
        };
        const DRAWS: u32 = 20_000;
        let mut counts = [0_u32; 8];
        for position in 0..DRAWS {
            counts[sample(&logits, &params, position) as usize] += 1;
        }
        let expected = softmax(&logits, temperature);
        let chi_squared: f64 = counts
            .iter()
            .zip(&expected)
            .map(|(&count, p)| {
                let mean = p * f64::from(DRAWS);
                (f64::from(count) - mean).powi(2) / mean
            })
            .sum();
        assert!(chi_squared < 29.88, "{chi_squared} at {temperature}");
    }
}

#[test]
fn repetition_penalty_divides_positive_and_multiplies_negative_logits_once() {
    let params = SamplingParams {
        repetition_penalty: 2.0,
        ..SamplingParams::default()
    };
    let mut sampler = Sampler::new(&params, 4, &[0, 0, 1], 3).unwrap();
    let mut logits = [3.0, -1.0, 1.4, 1.0];
    assert_eq!(sampler.sample(&mut logits, 0, 0), Some(0), "1.5 still wins");
    assert_eq!(logits, [1.5, -2.0, 1.4, 1.0]);
    let mut logits = [2.0, -1.0, 1.4, 1.3];
    assert_eq!(sampler.sample(&mut logits, 0, 1), Some(2));
    let mut logits = [2.0, -1.0, 1.4, 1.3];
    assert_eq!(sampler.sample(&mut logits, 0, 2), Some(3), "2 was seen now");
}

#[test]
fn parameters_out_of_range_are_named() {
    let with = |change: fn(&mut SamplingParams)| {
        let mut params = SamplingParams::default();
        change(&mut params);
        params.check().map_err(|error| error.to_string())
    };
    assert_eq!(with(|_| ()), Ok(()));
    assert_eq!(
        with(|p| p.temperature = -1.0),
        Err("temperature is -1, but must be a number from 0 (greedy) up".into())
    );
    assert!(with(|p| p.temperature = f32::NAN).is_err());
    assert!(with(|p| p.temperature = f32::INFINITY).is_err());
    assert!(with(|p| p.top_p = 0.0).is_err());
    assert!(with(|p| p.top_p = 1.1).is_err());
    assert!(with(|p| p.min_p = -0.1).is_err());
    assert!(with(|p| p.repetition_penalty = 0.0).is_err());
}

proptest! {
    /// Gumbel-max over the survivors, taken literally: one key for every token.
    #[test]
    fn pruning_never_changes_the_winner(
        logits in prop::collection::vec(-8.0_f32..8.0, 1..400),
        temperature in 0.2_f32..3.0,
        top_k in 0_usize..50,
        top_p in prop_oneof![Just(1.0_f32), 0.05_f32..1.0],
        min_p in prop_oneof![Just(0.0_f32), 0.0_f32..0.5],
        seed: u64,
        position in 0_u32..10_000,
    ) {
        let params = SamplingParams {
            temperature, top_k, top_p, min_p, seed, ..SamplingParams::default()
        };
        let kept = survivors(&logits, &params);
        let draw = philox::Stream::new(seed, 0, position);
        let key = |token: usize| {
            f64::from(logits[token] / temperature) + philox::gumbel(draw.bits(token as u32))
        };
        let winner = (0..logits.len())
            .filter(|&token| kept[token])
            .reduce(|a, b| if key(b) > key(a) { b } else { a });
        prop_assert_eq!(Some(sample(&logits, &params, position) as usize), winner);
    }
}
