//! Figures over several sequences of positions, with intervals from draws of whole sequences.
//!
//! Each position of a text sees the ones before it, so that positions are not independent, and an
//! interval that took them for it would be too narrow. The statistic of a draw is that of all positions
//! of the drawn sequences together.

use std::cell::Cell;

use serde::{Deserialize, Serialize};

use super::position::PositionDivergence;
use crate::measure::statistics::bootstrap;

/// Sequences below which no interval is given. Of five, 3,125 draws are possible; an interval from them
/// is still about a tenth too narrow, as the spread of five samples is.
pub const LEAST_SEQUENCES: usize = 5;

/// A figure with its bootstrapped 95% interval. `null` in JSON where it is not finite or not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Over all positions.
    pub value: Option<f64>,
    /// Lower end of the interval.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
}

/// The sum of something over each sequence.
#[derive(Clone, Debug)]
pub(super) struct Sums(pub(super) Vec<f64>);

impl Sums {
    pub(super) fn new(
        sequences: &[Vec<PositionDivergence>],
        of: &dyn Fn(&PositionDivergence) -> f64,
    ) -> Self {
        let sum = |sequence: &Vec<PositionDivergence>| sequence.iter().map(of).sum();
        Self(sequences.iter().map(sum).collect())
    }

    pub(super) fn total(&self) -> f64 {
        self.0.iter().sum()
    }

    /// The ratio of the totals: a mean, where `of` counts positions.
    pub(super) fn over(&self, of: &Self) -> Figure {
        let drawn = |sums: &[f64], draw: &[usize]| draw.iter().map(|&i| sums[i]).sum::<f64>();
        Figure::new(self.0.len(), self.total() / of.total(), |draw| {
            drawn(&self.0, draw) / drawn(&of.0, draw)
        })
    }
}

impl Figure {
    /// A figure over `sequences` and its interval, from its value and that of any draw of sequences.
    pub(super) fn new(sequences: usize, value: f64, of_draw: impl Fn(&[usize]) -> f64) -> Self {
        let value = finite(value);
        if value.is_none() || sequences < LEAST_SEQUENCES {
            let (low, high) = (None, None);
            return Self { value, low, high };
        }
        // A draw may hold nothing of what is counted.
        let all_finite = Cell::new(true);
        let all: Vec<usize> = (0..sequences).collect();
        let (low, high) = bootstrap([&all], |[draw]| {
            let of_draw = of_draw(draw);
            all_finite.set(all_finite.get() && of_draw.is_finite());
            of_draw
        });
        let (low, high) = match all_finite.get() {
            true => (Some(low), Some(high)),
            false => (None, None),
        };
        Self { value, low, high }
    }
}

/// How often each of `sequences` is in a draw.
pub(super) fn times_drawn(sequences: usize, draw: &[usize]) -> Vec<usize> {
    let mut times = vec![0; sequences];
    draw.iter().for_each(|&index| times[index] += 1);
    times
}

/// The values of all positions in ascending order, each with its sequence: the quantiles of any draw can
/// be read off without sorting again.
#[derive(Clone, Debug)]
pub(super) struct Sorted {
    pub(super) values: Vec<(f64, usize)>,
    /// Positions of each sequence.
    lengths: Vec<usize>,
}

impl Sorted {
    pub(super) fn new(
        sequences: &[Vec<PositionDivergence>],
        of: &dyn Fn(&PositionDivergence) -> f64,
    ) -> Self {
        let mut values: Vec<_> = sequences
            .iter()
            .enumerate()
            .flat_map(|(index, sequence)| {
                sequence.iter().map(move |position| (of(position), index))
            })
            .collect();
        values.sort_by(|a, b| a.0.total_cmp(&b.0));
        Self {
            values,
            lengths: sequences.iter().map(Vec::len).collect(),
        }
    }

    pub(super) fn quantile_of_all(&self, share: f64) -> f64 {
        self.quantile(&vec![1; self.lengths.len()], share)
    }

    /// As [`quantile`](crate::measure::statistics::quantile), of sequences that occur `times` each.
    pub(super) fn quantile(&self, times: &[usize], share: f64) -> f64 {
        let count: usize = self
            .lengths
            .iter()
            .zip(times)
            .map(|(length, times)| length * times)
            .sum();
        let place = share * (count - 1) as f64;
        let (below, above) = (place.floor() as usize, place.ceil() as usize);
        let mut ends = self.values.iter().scan(0, |end, &(value, sequence)| {
            *end += times[sequence];
            Some((*end, value))
        });
        let mut value_at = |place: usize| ends.find(|&(end, _)| end > place);
        let Some((end, low)) = value_at(below) else {
            unreachable!("a place below the count")
        };
        // The search goes on behind what it found, which may stretch over the next place too.
        let high = match end > above {
            true => low,
            false => value_at(above).map_or(low, |(_, value)| value),
        };
        match low == high {
            // Also where both are infinite.
            true => low,
            false => low + (high - low) * (place - below as f64),
        }
    }
}

/// JSON has no other numbers.
pub(super) fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}
