//! Medians, their intervals, and what two sets of samples say about each other.
//!
//! Intervals are percentile bootstraps (Efron, 1979): the samples are drawn anew with replacement
//! many times, and the middle 95% of the medians so found is the interval. The draws come from a
//! counter hash with a fixed seed, so that the same samples always give the same interval.

use serde::{Deserialize, Serialize};

use crate::report::chart::{Interval, RatioRow, Side};

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
        let (low, high) = bootstrap([&samples], |[draw]| median(draw));
        Some(Self {
            median: median(&samples),
            low,
            high,
            samples,
        })
    }
}

impl From<&Summary> for Interval {
    fn from(summary: &Summary) -> Self {
        Self {
            value: summary.median,
            low: summary.low,
            high: summary.high,
        }
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

/// What two sets of samples say about each other, where differences below some share, such as
/// [`SAME_WITHIN`], count as none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The whole interval of the ratio lies above 1, and the ratio by more than that share.
    Faster,
    /// The whole interval lies below 1, and the ratio by more than that share.
    Slower,
    /// The whole interval lies within that share of 1.
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
        if a.len() != b.len() || !are_speeds(a) || !are_speeds(b) {
            return None;
        }
        let ratio = Summary::new(a.iter().zip(b).map(|(a, b)| a / b).collect())?;
        let verdict = verdict(&Interval::from(&ratio), SAME_WITHIN);
        Some(Self { ratio, verdict })
    }

    /// As a row of a forest plot.
    pub fn charted(&self, label: impl Into<String>) -> RatioRow {
        RatioRow {
            label: label.into(),
            ratio: Some(Interval::from(&self.ratio)),
            verdict: self.verdict.to_string(),
            side: match self.verdict {
                Verdict::Faster => Side::Better,
                Verdict::Slower => Side::Worse,
                Verdict::Same | Verdict::Unclear => Side::Neither,
            },
        }
    }
}

/// Samples of each side without which a comparison of two runs is [`Verdict::Unclear`]: the interval
/// of fewer is no wider than their own range, which holds the median in three of four cases.
const LEAST_SAMPLES: usize = 4;

/// The ratio of the medians of two runs that were not measured in turns, and what it says of `a`.
///
/// Each side is drawn anew by itself (the two-sample bootstrap of Efron and Tibshirani, 1993, chapter
/// 8). The interval holds what varies within the runs. What differs between two runs of the same
/// program, such as where its memory lies, is in none of the samples: only further runs show it.
/// `None` if a side is empty, or a sample is not finite and positive.
pub fn ratio_of_medians(a: &[f64], b: &[f64], same_within: f64) -> Option<(Interval, Verdict)> {
    if a.is_empty() || b.is_empty() || !are_speeds(a) || !are_speeds(b) {
        return None;
    }
    let (low, high) = bootstrap([a, b], |[a, b]| median(a) / median(b));
    let value = median(a) / median(b);
    let ratio = Interval { value, low, high };
    let verdict = match a.len().min(b.len()) < LEAST_SAMPLES {
        true => Verdict::Unclear,
        false => verdict(&ratio, same_within),
    };
    Some((ratio, verdict))
}

fn are_speeds(samples: &[f64]) -> bool {
    samples
        .iter()
        .all(|&sample| sample > 0.0 && sample.is_finite())
}

fn verdict(ratio: &Interval, same_within: f64) -> Verdict {
    let far = (ratio.value - 1.0).abs() > same_within;
    let same = 1.0 - same_within..=1.0 + same_within;
    if same.contains(&ratio.low) && same.contains(&ratio.high) {
        Verdict::Same
    } else if far && ratio.low > 1.0 {
        Verdict::Faster
    } else if far && ratio.high < 1.0 {
        Verdict::Slower
    } else {
        Verdict::Unclear
    }
}

/// The middle 95% of `statistic` over draws of as many samples from each set as it has.
pub(crate) fn bootstrap<T: Copy, const SETS: usize>(
    sets: [&[T]; SETS],
    statistic: impl Fn(&[Vec<T>; SETS]) -> f64,
) -> (f64, f64) {
    let mut draws = sets.map(<[T]>::to_vec);
    let mut counter = 0..;
    let drawn: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            for (set, draw) in sets.iter().zip(&mut draws) {
                for (sample, count) in draw.iter_mut().zip(&mut counter) {
                    *sample = set[below(set.len(), hash(count))];
                }
            }
            statistic(&draws)
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
    fn the_interval_of_a_ratio_of_medians_is_that_of_the_exact_bootstrap() {
        // Of 1..=5 over 1..=5, all 25 ratios of two medians and their probabilities, each median's as
        // above: at most 1/4 with probability 0.0184 and at most 1/3 with 0.0395, so that the 2.5%
        // point is 1/3; at most 5/2 with 0.9605 and at most 3 with 0.9816, so that the 97.5% point
        // is 3.
        let samples = [3.0, 1.0, 2.0, 5.0, 4.0];
        let (ratio, verdict) = ratio_of_medians(&samples, &samples, 0.02).unwrap();
        assert_eq!((ratio.low, ratio.value, ratio.high), (1.0 / 3.0, 1.0, 3.0));
        assert_eq!(verdict, Verdict::Unclear);
        // Over a constant, it is the interval of the median itself.
        let samples: Vec<f64> = (1..=11).map(f64::from).collect();
        let (ratio, _) = ratio_of_medians(&samples, &[2.0; 7], 0.02).unwrap();
        assert_eq!((ratio.low, ratio.value, ratio.high), (1.5, 3.0, 4.5));
    }

    #[test]
    fn intervals_of_ratios_of_medians_hold_the_ratio_in_19_of_20_cases() {
        // Samples around 10 and 8, each with the sum of twelve uniform numbers as its noise, which
        // is nearly normal with a standard deviation of 1 (times 0.3).
        let noise = |seed: u64| {
            let uniform = |term| hash(seed * 12 + term) as f64 / u64::MAX as f64;
            (0..12).map(uniform).sum::<f64>() - 6.0
        };
        let samples = |centre: f64, seed: u64| -> Vec<f64> {
            (0..15)
                .map(|index| centre + 0.3 * noise(seed * 15 + index))
                .collect()
        };
        let trials = 400;
        let holds = |trial: &u64| {
            let (a, b) = (samples(10.0, 2 * trial), samples(8.0, 2 * trial + 1));
            let (ratio, _) = ratio_of_medians(&a, &b, 0.02).unwrap();
            (ratio.low..=ratio.high).contains(&1.25)
        };
        let share = (0..trials).filter(holds).count() as f64 / trials as f64;
        // The percentile bootstrap of a median is known to hold it a little more often than it says;
        // 0.92 is 2.75 standard deviations of 400 trials below 0.95.
        assert!((0.92..=0.995).contains(&share), "{share}");
    }

    #[test]
    fn verdicts_on_two_runs_follow_the_share_that_counts_as_none() {
        let verdict = |factor: f64, same_within| {
            let b: Vec<f64> = (0..9).map(|i| 100.0 + f64::from(i) * 0.1).collect();
            let a: Vec<f64> = b.iter().map(|b| b * factor).collect();
            ratio_of_medians(&a, &b, same_within).unwrap().1
        };
        assert_eq!(verdict(1.04, 0.02), Verdict::Faster);
        assert_eq!(verdict(0.96, 0.02), Verdict::Slower);
        assert_eq!(verdict(0.96, 0.05), Verdict::Same);
        assert_eq!(verdict(1.0, 0.02), Verdict::Same);
        // The interval of 0.98 lies on both sides of the limit.
        assert_eq!(verdict(0.98, 0.02), Verdict::Unclear);
    }

    #[test]
    fn few_samples_decide_nothing() {
        let (ratio, verdict) = ratio_of_medians(&[5.0; 3], &[1.0; 9], 0.02).unwrap();
        assert_eq!((ratio.value, verdict), (5.0, Verdict::Unclear));
        assert_eq!(ratio_of_medians(&[], &[1.0], 0.02), None);
        assert_eq!(ratio_of_medians(&[1.0], &[0.0], 0.02), None);
        assert_eq!(ratio_of_medians(&[f64::NAN], &[1.0], 0.02), None);
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
