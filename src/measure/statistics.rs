//! Medians, their intervals, and what two sets of samples say about each other.
//!
//! Intervals are percentile bootstraps (Efron, 1979): the samples are drawn anew with replacement
//! many times, and the middle 95% of the medians so found is the interval. The draws come from a
//! counter hash with a fixed seed, so that the same samples always give the same interval.

use serde::{Deserialize, Serialize};

/// How often a bootstrap draws; its 2.5% and 97.5% points then rest on 50 draws beyond each.
const RESAMPLES: u64 = 2000;

/// Share of the draws that lie inside an interval.
const CONFIDENCE: f64 = 0.95;

/// Differences below this share count as none: 2% is what a quiet machine repeats to.
pub const SAME_WITHIN: f64 = 0.02;

/// Samples with their median and its 95% interval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The middle sample, or the mean of the two middle ones.
    pub median: f64,
    /// Lower end of the median's bootstrapped 95% interval.
    pub low: f64,
    /// Upper end of it.
    pub high: f64,
    /// Every sample, in the order in which it was taken.
    pub samples: Vec<f64>,
}

impl Summary {
    /// Summarises `samples`; `None` if there are none, or one is not a finite number.
    pub fn new(samples: Vec<f64>) -> Option<Self> {
        if samples.is_empty() || !samples.iter().all(|sample| sample.is_finite()) {
            return None;
        }
        let (low, high) = bootstrap(samples.len(), |draw| {
            median(&draw.iter().map(|&index| samples[index]).collect::<Vec<_>>())
        });
        Some(Self {
            median: median(&samples),
            low,
            high,
            samples,
        })
    }
}

/// The middle of `samples`, or the mean of the two middle ones.
///
/// # Panics
/// If there are no samples.
pub fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

/// The value that a share `q` of `samples` lies below, interpolated linearly between neighbours
/// (type 7 of Hyndman and Fan, 1996; what R and NumPy do unless told otherwise).
///
/// # Panics
/// If there are no samples, or `q` lies outside [0, 1].
pub fn quantile(samples: &[f64], q: f64) -> f64 {
    assert!((0.0..=1.0).contains(&q), "quantile {q}");
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = q * (sorted.len() - 1) as f64;
    let below = place.floor() as usize;
    let above = place.ceil() as usize;
    sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
}

/// What two interleaved sets of samples say about each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The whole interval of the ratio lies above 1, and its median by more than [`SAME_WITHIN`].
    Faster,
    /// The whole interval lies below 1, and its median by more than [`SAME_WITHIN`].
    Slower,
    /// The whole interval lies within [`SAME_WITHIN`] of 1.
    Same,
    /// None of these: more repetitions are needed.
    Unclear,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Verdict::Faster => "faster",
            Verdict::Slower => "slower",
            Verdict::Same => "same",
            Verdict::Unclear => "unclear",
        })
    }
}

/// The ratio of two speeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// Median, interval and samples of `a / b`, pair by pair.
    #[serde(flatten)]
    pub ratio: Summary,
    /// What that says of `a`.
    pub verdict: Verdict,
}

impl Ratio {
    /// Compares speeds (more is better) that were measured in turns: `a[i]` beside `b[i]`.
    ///
    /// Ratios are taken pair by pair, so that a machine which changes its speed from one minute to
    /// the next changes both sides of each. `None` if there are no pairs, the counts differ, or a
    /// sample is not finite and positive.
    pub fn of_pairs(a: &[f64], b: &[f64]) -> Option<Self> {
        let positive = |samples: &[f64]| samples.iter().all(|&s| s > 0.0 && s.is_finite());
        if a.len() != b.len() || !positive(a) || !positive(b) {
            return None;
        }
        let ratio = Summary::new(a.iter().zip(b).map(|(a, b)| a / b).collect())?;
        let verdict = verdict(&ratio);
        Some(Self { ratio, verdict })
    }
}

fn verdict(ratio: &Summary) -> Verdict {
    let far = (ratio.median - 1.0).abs() > SAME_WITHIN;
    if (1.0 - SAME_WITHIN..=1.0 + SAME_WITHIN).contains(&ratio.low)
        && (1.0 - SAME_WITHIN..=1.0 + SAME_WITHIN).contains(&ratio.high)
    {
        Verdict::Same
    } else if far && ratio.low > 1.0 {
        Verdict::Faster
    } else if far && ratio.high < 1.0 {
        Verdict::Slower
    } else {
        Verdict::Unclear
    }
}

/// The middle 95% of `statistic` over draws of `count` indices below `count`.
pub(crate) fn bootstrap(count: usize, statistic: impl Fn(&[usize]) -> f64) -> (f64, f64) {
    let mut draw = vec![0; count];
    let drawn: Vec<f64> = (0..RESAMPLES)
        .map(|resample| {
            for (place, index) in (0..).zip(&mut draw) {
                *index = below(count, hash(resample * count as u64 + place));
            }
            statistic(&draw)
        })
        .collect();
    let tail = (1.0 - CONFIDENCE) / 2.0;
    (quantile(&drawn, tail), quantile(&drawn, 1.0 - tail))
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014) over a counter: random bits that
/// depend on the counter alone.
pub(crate) fn hash(counter: u64) -> u64 {
    let x = counter.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// `bits` as a number below `bound`, by multiplication (Lemire, 2019); its bias is `bound / 2^64`.
pub(crate) fn below(bound: usize, bits: u64) -> usize {
    ((u128::from(bits) * bound as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_quantiles_are_those_of_numpy() {
        let samples = [7.0, 1.0, 3.0, 10.0];
        assert_eq!(median(&samples), 5.0);
        assert_eq!(median(&samples[..3]), 3.0);
        // numpy.quantile([7, 1, 3, 10], [0, 0.1, 0.25, 0.9, 1])
        for (q, expected) in [(0.0, 1.0), (0.1, 1.6), (0.25, 2.5), (0.9, 9.1), (1.0, 10.0)] {
            assert!((quantile(&samples, q) - expected).abs() < 1e-12, "{q}");
        }
    }

    #[test]
    fn the_interval_of_the_median_is_that_of_the_exact_bootstrap() {
        // The median of a draw of five from 1..=5 is 1 with probability 0.05792 (at least three of
        // five draws are the lowest value), and likewise 5: more than 2.5% on each side.
        let summary = Summary::new(vec![3.0, 1.0, 2.0, 5.0, 4.0]).unwrap();
        assert_eq!((summary.low, summary.high), (1.0, 5.0));
        // With eleven samples the median of a draw is at most the second lowest with probability
        // P(Binomial(11, 2/11) >= 6) = 0.0072, and at most the third with 0.0512: the 2.5% point
        // is the third.
        let summary = Summary::new((1..=11).map(f64::from).collect()).unwrap();
        assert_eq!((summary.low, summary.high), (3.0, 9.0));
    }

    #[test]
    fn equal_samples_have_an_interval_of_no_width() {
        let summary = Summary::new(vec![4.0; 7]).unwrap();
        assert_eq!((summary.low, summary.median, summary.high), (4.0, 4.0, 4.0));
    }

    #[test]
    fn the_same_samples_give_the_same_interval() {
        let samples: Vec<f64> = (0..20).map(|i| (hash(i) % 1000) as f64).collect();
        assert_eq!(Summary::new(samples.clone()), Summary::new(samples));
    }

    #[test]
    fn what_is_no_number_has_no_summary() {
        assert_eq!(Summary::new(vec![]), None);
        assert_eq!(Summary::new(vec![1.0, f64::NAN]), None);
        assert_eq!(Ratio::of_pairs(&[1.0], &[0.0]), None);
        assert_eq!(Ratio::of_pairs(&[1.0], &[1.0, 2.0]), None);
    }

    #[test]
    fn verdicts_follow_the_interval_of_the_ratio() {
        let verdict = |a: &[f64], b: &[f64]| Ratio::of_pairs(a, b).unwrap().verdict;
        let b = [10.0, 20.0, 30.0, 40.0, 50.0, 60.0];
        let times =
            |factors: [f64; 6]| -> Vec<f64> { b.iter().zip(factors).map(|(b, f)| b * f).collect() };
        let faster = times([1.2, 1.25, 1.22, 1.21, 1.3, 1.2]);
        assert_eq!(verdict(&faster, &b), Verdict::Faster);
        assert_eq!(verdict(&b, &faster), Verdict::Slower);
        let same = times([1.0, 1.01, 0.99, 1.005, 1.0, 0.995]);
        assert_eq!(verdict(&same, &b), Verdict::Same);
        let unclear = times([0.8, 1.3, 0.9, 1.2, 1.1, 1.0]);
        assert_eq!(verdict(&unclear, &b), Verdict::Unclear);
    }

    #[test]
    fn a_summary_is_serialised_by_the_names_of_the_contract() {
        let json = serde_json::to_value(Summary::new(vec![2.0]).unwrap()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"median": 2.0, "low": 2.0, "high": 2.0, "samples": [2.0]})
        );
    }
}
