//! How samples are distributed: a panel for each set, with the same bins.

use maud::html;

use super::Drawing;
use super::frame::{self, Area, GAP, Px, horizontal_axis, horizontal_grid, line, vertical_axis};
use super::marks::Look;
use crate::report::chart::number::significant;
use crate::report::chart::scale::{Ruler, Scale};
use crate::report::chart::{Axis, Histogram};

/// Height of a panel.
const HEIGHT: f64 = 90.0;
const RIGHT: f64 = 14.0;
/// Bins, whatever the rule says.
const BINS: (usize, usize) = (5, 60);

pub(super) fn draw(histogram: &Histogram, width: f64, top: f64) -> Option<Drawing> {
    let scale = histogram.axis.scale;
    let sets: Vec<Vec<f64>> = histogram
        .sets
        .iter()
        .map(|set| {
            let shown = set
                .values
                .iter()
                .copied()
                .filter(|value| scale.shows(*value));
            let mut sorted: Vec<f64> = shown.collect();
            sorted.sort_by(f64::total_cmp);
            sorted
        })
        .collect();
    let bins = Bins::new(scale, &sets)?;
    let shares: Vec<Vec<f64>> = sets.iter().map(|set| bins.shares(set)).collect();
    let percent = Axis::linear("share of the samples", "%");
    let rulers: Vec<Option<Ruler>> = shares
        .iter()
        .map(|shares| frame::vertical(&percent, shares.iter().copied(), HEIGHT))
        .collect();
    let widths = rulers.iter().flatten().map(frame::label_width);
    let (left, right) = (widths.fold(0.0, f64::max) + GAP, width - RIGHT);
    let axis = histogram.axis.clone().tight();
    let ends = [bins.edge(0), bins.edge(bins.count)];
    let x = frame::horizontal(&axis, ends, (left, right), width)?;

    let mut y = top;
    let mut body = Vec::new();
    let panels = histogram
        .sets
        .iter()
        .zip(&sets)
        .zip(shares.iter().zip(&rulers));
    for (index, ((set, sorted), (shares, ruler))) in panels.enumerate() {
        let middle = median(sorted);
        let words = match middle {
            Some(middle) => format!(
                "{}: share of {} samples (%), median {}",
                set.name,
                sorted.len(),
                significant(middle, 4)
            ),
            None => format!("{}: not measured", set.name),
        };
        let (heading, below) = frame::heading(&words, y, width);
        body.push(heading);
        y = below;
        let (Some(middle), Some(ruler)) = (middle, ruler) else {
            continue;
        };
        let area = Area {
            left,
            right,
            top: y,
            bottom: y + HEIGHT,
        };
        body.push(horizontal_grid(&area, &x));
        body.push(vertical_axis(&area, ruler));
        let place = |value| area.x(&x, value).unwrap_or(area.left);
        body.push(html! {
            g class=(Look(index).class()) {
                @for (bin, share) in shares.iter().enumerate().filter(|(_, share)| **share > 0.0) {
                    @let (begin, end) = (place(bins.edge(bin)), place(bins.edge(bin + 1)));
                    @let height = area.bottom - area.y(ruler, *share).unwrap_or(area.bottom);
                    rect class="bar" x=(Px(begin)) y=(Px(area.bottom - height))
                        width=(Px((end - begin).max(1.0))) height=(Px(height)) {}
                }
            }
            (line("one", (place(middle), area.top), (place(middle), area.bottom)))
        });
        y = area.bottom + GAP;
    }
    let area = Area {
        left,
        right,
        top,
        bottom: y - GAP,
    };
    let (numbers, height) = horizontal_axis(&area, &x, &axis, width);
    body.push(numbers);
    let all: usize = histogram.sets.iter().map(|set| set.values.len()).sum();
    Some(Drawing {
        body,
        bottom: area.bottom + height,
        omitted: all - sets.iter().map(Vec::len).sum::<usize>(),
    })
}

fn median(sorted: &[f64]) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    Some((sorted[last / 2] + sorted[last.div_ceil(2)]) / 2.0)
}

/// Bins of equal length on an axis.
struct Bins {
    scale: Scale,
    begin: f64,
    width: f64,
    count: usize,
}

impl Bins {
    /// As wide as Freedman and Diaconis (1981) have it: twice the distance of the quartiles over the
    /// cube root of the number of samples, of all sets together. `None` if there is no sample.
    fn new(scale: Scale, sets: &[Vec<f64>]) -> Option<Self> {
        let mut places: Vec<f64> = sets
            .iter()
            .flatten()
            .filter_map(|value| scale.place(*value))
            .collect();
        places.sort_by(f64::total_cmp);
        let last = places.len().checked_sub(1)?;
        let (begin, end) = (places[0], places[last]);
        let quartiles = places[3 * last / 4] - places[last / 4];
        let rule = 2.0 * quartiles / (places.len() as f64).cbrt();
        // What rounding alone tells apart is one value.
        let span = (end - begin).max(begin.abs() * 1e-9);
        let span = if span > 0.0 { span } else { 1.0 };
        let count = match rule > 0.0 {
            true => (span / rule).ceil().min(BINS.1 as f64) as usize,
            false => BINS.0,
        };
        let count = count.clamp(BINS.0, BINS.1);
        Some(Self {
            scale,
            begin,
            width: span / count as f64,
            count,
        })
    }

    /// The value at which a bin begins.
    fn edge(&self, bin: usize) -> f64 {
        let place = self.begin + bin as f64 * self.width;
        match self.scale {
            Scale::Linear => place,
            Scale::Log2 => place.exp2(),
            Scale::Log10 => 10_f64.powf(place),
            Scale::Percentile => 100.0 * (1.0 - 10_f64.powf(-place)),
        }
    }

    /// Percent of the samples in each bin.
    fn shares(&self, values: &[f64]) -> Vec<f64> {
        let mut counts = vec![0_usize; self.count];
        for place in values.iter().filter_map(|value| self.scale.place(*value)) {
            let bin = ((place - self.begin) / self.width).floor().max(0.0) as usize;
            counts[bin.min(self.count - 1)] += 1;
        }
        let share = |count| 100.0 * count as f64 / values.len() as f64;
        counts.into_iter().map(share).collect()
    }
}
