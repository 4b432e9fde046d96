//! Where values lie on an axis, and the ticks that say so.

use super::{Axis, number};

/// Numbers beyond this are no measurements, and their differences may not be numbers at all.
const LARGEST: f64 = 1e300;

/// How lengths on an axis grow with values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scale {
    /// By as much.
    #[default]
    Linear,
    /// By as much for each doubling; ticks are powers of two.
    Log2,
    /// By as much for each tenfold.
    Log10,
    /// Percent of samples: by as much each time that ten times fewer samples lie above. 100 is the
    /// largest sample, at the end.
    Percentile,
}

impl Scale {
    /// Where `value` lies, in units of equal length; `None` if it has no place.
    pub fn place(self, value: f64) -> Option<f64> {
        let place = match self {
            _ if value.abs() > LARGEST => return None,
            Self::Linear => value,
            Self::Log2 => value.log2(),
            Self::Log10 => value.log10(),
            // 100 has a place of its own: see `Ruler`.
            Self::Percentile if !(0.0..=100.0).contains(&value) => return None,
            Self::Percentile => -(1.0 - value / 100.0).log10(),
        };
        place.is_finite().then_some(place)
    }

    /// Whether an axis of this kind can show `value`.
    pub fn shows(self, value: f64) -> bool {
        self.place(value).is_some() || self == Self::Percentile && value == 100.0
    }
}

/// How far the largest sample is from those before it, in tenfolds.
const LARGEST_APART: f64 = 0.4;

/// Share of an axis that does not begin at 0 that is left free at each end.
const MARGIN: f64 = 0.03;

/// How long a logarithmic axis is at least: a few thousandths where it is tight, and a fourfold
/// elsewhere.
const LEAST_RATIO: (f64, f64) = (1.005, 4.0);

/// A mark with its number.
#[derive(Clone, Debug, PartialEq)]
pub struct Tick {
    /// Where it is, as a share of the axis from its beginning.
    pub share: f64,
    /// The number.
    pub label: String,
}

/// An axis with a beginning, an end, and ticks.
#[derive(Clone, Debug, PartialEq)]
pub struct Ruler {
    scale: Scale,
    low: f64,
    high: f64,
    /// Ascending; two at least, but for numbers so long that no two of them have room.
    pub ticks: Vec<Tick>,
}

impl Ruler {
    /// An axis on which all `values` are that it can show; `None` if that is none. It has as many
    /// ticks as `fit` beside each other.
    pub fn new(
        axis: &Axis,
        values: impl IntoIterator<Item = f64>,
        fit: impl Fn(&[Tick]) -> bool,
    ) -> Option<Self> {
        let scale = axis.scale;
        let (mut low, mut high, mut largest) = (f64::INFINITY, f64::NEG_INFINITY, false);
        for value in values {
            if let Some(place) = scale.place(value) {
                low = low.min(place);
                high = high.max(place);
            } else {
                largest |= scale.shows(value);
            }
        }
        if low > high {
            if !largest {
                return None;
            }
            (low, high) = (0.0, 0.0);
        }
        let candidates = match scale {
            Scale::Linear => {
                if !axis.tight {
                    (low, high) = (low.min(0.0), high.max(0.0));
                }
                let mut margin = MARGIN * (high - low);
                if low == high {
                    margin = if low == 0.0 { 1.0 } else { 0.1 * low.abs() };
                }
                // What ends at 0 ends there.
                if axis.tight || low == high {
                    high += margin;
                    low -= if low == 0.0 { 0.0 } else { margin };
                }
                Self::linear(low, high)
            }
            Scale::Log2 | Scale::Log10 => {
                let least = if axis.tight {
                    LEAST_RATIO.0
                } else {
                    LEAST_RATIO.1
                };
                let missing = (scale.place(least).unwrap_or(0.0) - (high - low)).max(0.0);
                let margin = MARGIN * (high - low) + missing / 2.0;
                Self::logarithmic(scale, low - margin, high + margin)
            }
            Scale::Percentile => {
                let end = high + if largest { LARGEST_APART } else { 0.0 };
                Self::percentile(low, end.max(low + LARGEST_APART), largest)
            }
        };
        let mut sparsest = None;
        for candidate in candidates {
            if candidate.ticks.len() >= 2 && fit(&candidate.ticks) {
                return Some(candidate);
            }
            if !candidate.ticks.is_empty() {
                sparsest = Some(candidate);
            }
        }
        // Numbers so long that no two of them have room.
        let mut sparsest = sparsest?;
        sparsest.ticks.truncate(1);
        Some(sparsest)
    }

    /// Where `value` lies, as a share of the axis; values beyond its ends are at the ends. `None`
    /// if the axis can't show it.
    pub fn share(&self, value: f64) -> Option<f64> {
        if !self.scale.shows(value) {
            return None;
        }
        let place = self.scale.place(value).unwrap_or(self.high);
        Some(((place - self.low) / (self.high - self.low)).clamp(0.0, 1.0))
    }

    /// From dense to sparse.
    fn linear(low: f64, high: f64) -> Vec<Self> {
        let with_step = |step: f64| {
            // What ends on a tick, but for rounding, ends there.
            let first = (low / step + 1e-9).floor();
            let last = (high / step - 1e-9).ceil();
            let values: Vec<f64> = counted(first, last).map(|index| index * step).collect();
            let labels = number::ticks(&values, step);
            Self::with(Scale::Linear, first * step, last * step, values, labels)
        };
        steps(high - low).map(with_step).collect()
    }

    fn logarithmic(scale: Scale, low: f64, high: f64) -> Vec<Self> {
        let base: f64 = if scale == Scale::Log2 { 2.0 } else { 10.0 };
        let (least, most) = (base.powf(low), base.powf(high));
        let rounded = |values: Vec<f64>| {
            let labels = values.iter().map(|&value| number::round(value)).collect();
            Self::with(scale, low, high, values, labels)
        };
        let between = |value: &f64| value.is_normal() && (least..=most).contains(value);
        let powers = (high - low).ceil() as usize + 1;
        let powers = (1..=powers).map(|apart| {
            let apart = apart as f64;
            let powers = counted((low / apart).floor(), (high / apart).ceil());
            let values = powers.map(|index| base.powf(index * apart));
            rounded(values.filter(between).collect())
        });
        // Within a short stretch, a logarithmic axis is nearly a linear one.
        let linear = |step: f64| {
            let (first, last) = ((least / step).ceil(), (most / step).floor());
            let values: Vec<f64> = counted(first, last).map(|index| index * step).collect();
            let labels = number::ticks(&values, step);
            Self::with(scale, low, high, values, labels)
        };
        let is_short = most < 5.0 * least;
        let linear = steps(most - least).filter(|_| is_short).map(linear);
        if scale == Scale::Log2 {
            // What doubles is counted in doublings.
            return powers.chain(linear).collect();
        }
        let decades = counted(low.floor(), high.ceil());
        let ones = decades.flat_map(|power| [1.0, 2.0, 5.0].map(|m| m * 10_f64.powf(power)));
        let ones = rounded(ones.filter(between).collect());
        linear.chain([ones]).chain(powers).collect()
    }

    fn percentile(low: f64, high: f64, largest: bool) -> Vec<Self> {
        const DENSE: [f64; 11] = [
            0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99, 99.999, 99.9999,
        ];
        const SPARSE: [f64; 5] = [0.0, 50.0, 90.0, 99.0, 99.9];
        let place = |percent: &f64| Scale::Percentile.place(*percent);
        let end = if largest { high - LARGEST_APART } else { high };
        // From the tick before to the tick behind.
        let before = DENSE.iter().filter_map(place).rfind(|tick| *tick <= low);
        let behind = DENSE.iter().filter_map(place).find(|tick| *tick >= end);
        let low = before.unwrap_or(low);
        let (end, high) = match behind {
            Some(behind) if !largest => (behind, behind.max(low + LARGEST_APART)),
            _ => (end, high),
        };
        let of = |percents: &[f64]| {
            let is_on = |percent: &f64| {
                let place = place(percent);
                place.is_some_and(|place| (low - 1e-9..=end + 1e-9).contains(&place))
            };
            let mut values: Vec<f64> = percents.iter().copied().filter(is_on).collect();
            let mut labels: Vec<String> = values.iter().map(f64::to_string).collect();
            if largest {
                values.push(100.0);
                labels.push("max".into());
            }
            Self::with(Scale::Percentile, low, high, values, labels)
        };
        vec![of(&DENSE), of(&SPARSE), of(&[50.0, 99.0]), of(&[50.0])]
    }

    fn with(scale: Scale, low: f64, high: f64, values: Vec<f64>, labels: Vec<String>) -> Self {
        let mut ruler = Self {
            scale,
            low,
            high,
            ticks: Vec::new(),
        };
        let shares = values.iter().filter_map(|&value| ruler.share(value));
        ruler.ticks = shares
            .zip(labels)
            .map(|(share, label)| Tick { share, label })
            .collect();
        ruler
    }
}

/// 1, 2 and 5 times powers of ten, from a twentieth of `span` to all of it.
fn steps(span: f64) -> impl Iterator<Item = f64> {
    let power = (span / 20.0).log10().floor() as i32;
    let all = (power..power + 4).flat_map(|power| [1.0, 2.0, 5.0].map(|m| (m, power)));
    // Divided where that is exact: 0.1 is nearer to 1 / 10 than to 10^-1 as it is computed.
    let step = |(m, power): (f64, i32)| match power < 0 {
        true => m / 10_f64.powi(-power),
        false => m * 10_f64.powi(power),
    };
    all.map(step).filter(move |step| *step >= span / 20.0)
}

/// Whole numbers from `first` to `last`.
fn counted(first: f64, last: f64) -> impl Iterator<Item = f64> {
    let count = (last - first).max(-1.0) as usize + usize::from(last >= first);
    (0..count).map(move |index| first + index as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ruler(axis: &Axis, values: &[f64], most: usize) -> Ruler {
        let fit = |ticks: &[Tick]| ticks.len() <= most;
        Ruler::new(axis, values.iter().copied(), fit).unwrap()
    }

    fn labels(ruler: &Ruler) -> Vec<&str> {
        ruler.ticks.iter().map(|tick| tick.label.as_str()).collect()
    }

    #[test]
    fn ticks_are_nice_numbers_around_the_values() {
        let linear = Axis::linear("", "");
        assert_eq!(
            labels(&ruler(&linear, &[3.0, 27.7], 7)),
            ["0", "5", "10", "15", "20", "25", "30"]
        );
        assert_eq!(
            labels(&ruler(&linear.clone().tight(), &[0.97, 1.04], 6)),
            ["0.96", "0.98", "1.00", "1.02", "1.04", "1.06"]
        );
        let positions = [1.0, 8.0, 4096.0, 32_640.0];
        assert_eq!(
            labels(&ruler(&Axis::log2("", ""), &positions, 6)),
            ["1", "8", "64", "512", "4,096", "32,768"]
        );
        let divergence = Axis::log10("", "");
        assert_eq!(
            labels(&ruler(&divergence, &[2e-6, 4e-3], 5)),
            ["10\u{207b}\u{2075}", "10\u{207b}\u{2074}", "0.001"]
        );
        assert_eq!(
            labels(&ruler(&divergence.tight(), &[0.8, 2.1], 5)),
            ["1.0", "1.5", "2.0"]
        );
    }

    #[test]
    fn doublings_are_powers_of_two_however_few() {
        let threads = Axis::log2("", "");
        assert_eq!(labels(&ruler(&threads, &[1.0, 2.0], 6)), ["1", "2"]);
        let close = threads.tight();
        assert_eq!(
            labels(&ruler(&close, &[100.0, 104.0], 6)),
            ["100", "101", "102", "103", "104"]
        );
    }

    #[test]
    fn the_share_of_a_value_follows_its_scale() {
        let linear = ruler(&Axis::linear("", ""), &[10.0], 11);
        assert_eq!(linear.share(2.5), Some(0.25));
        assert_eq!(linear.share(99.0), Some(1.0));
        assert_eq!(linear.share(f64::NAN), None);
        let log = ruler(&Axis::log2("", ""), &[1.0, 16.0], 9);
        assert!((log.share(4.0).unwrap() - 0.5).abs() < 1e-12);
        assert_eq!(log.share(0.0), None);
    }

    #[test]
    fn percentiles_are_as_far_apart_as_samples_are_rare() {
        let axis = Axis::new("", "", Scale::Percentile);
        let ruler = ruler(&axis, &[50.0, 90.0, 99.0, 99.9, 100.0], 5);
        assert_eq!(labels(&ruler), ["50", "90", "99", "99.9", "max"]);
        let share = |percent| ruler.share(percent).unwrap();
        assert!(((share(99.9) - share(99.0)) - (share(99.0) - share(90.0))).abs() < 1e-9);
        assert_eq!(share(100.0), 1.0);
        assert_eq!(ruler.share(101.0), None);
    }

    #[test]
    fn one_value_and_none_have_an_axis_or_not() {
        let linear = Axis::linear("", "");
        let always = |_: &[Tick]| true;
        for axis in [
            &linear,
            &linear.clone().tight(),
            &Axis::log10("", ""),
            &Axis::log2("", ""),
        ] {
            for value in [1e-12, 0.3, 7.0, 123_456.0, 1e13] {
                let ruler = Ruler::new(axis, [value], always).unwrap();
                let shares: Vec<f64> = ruler.ticks.iter().map(|tick| tick.share).collect();
                assert!(shares.len() >= 2, "{axis:?} {value}");
                assert!(
                    shares.windows(2).all(|pair| pair[0] < pair[1]),
                    "{axis:?} {value}"
                );
                let share = ruler.share(value).unwrap();
                assert!((0.0..=1.0).contains(&share));
            }
            assert_eq!(Ruler::new(axis, [], always), None);
            assert_eq!(Ruler::new(axis, [f64::NAN, f64::INFINITY], always), None);
        }
        assert_eq!(Ruler::new(&Axis::log10("", ""), [0.0, -1.0], always), None);
        assert!(Ruler::new(&linear, [0.0], always).is_some());
    }
}
