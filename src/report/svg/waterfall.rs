//! What a whole is made of: each part begins where the one before it ends.

use maud::html;

use super::Drawing;
use super::frame::{self, LegendEntry, Px, line};
use super::marks::level_interval;
use super::rows::{self, Row};
use crate::report::chart::number::significant;
use crate::report::chart::scale::Scale;
use crate::report::chart::{Axis, Interval, Waterfall};

/// Half a sample in a legend.
const HALF_SAMPLE: (f64, f64) = (9.0, 5.0);

/// A bar to be drawn.
struct Bar {
    begin: f64,
    value: f64,
    floor: Option<f64>,
    /// The whole's.
    interval: Option<Interval>,
}

/// Beyond this nothing is a length of time, and sums may not be numbers.
const LONGEST: f64 = 1e100;

pub(super) fn draw(waterfall: &Waterfall, width: f64, top: f64) -> Option<Drawing> {
    let is_length = |value: f64| (0.0..LONGEST).contains(&value);
    let mut begin = 0.0;
    let mut whole_floor = None;
    let mut rows = Vec::new();
    let mut bars = Vec::new();
    for part in waterfall.parts.iter().filter(|part| is_length(part.value)) {
        let floor = part.floor.filter(|floor| is_length(*floor));
        whole_floor = match (whole_floor, floor) {
            (Some(sum), Some(floor)) => Some(sum + floor),
            (sum, floor) => sum.or(floor),
        };
        rows.push(row(&part.label, part.value, floor));
        bars.push(Bar {
            begin,
            value: part.value,
            floor,
            interval: None,
        });
        begin += part.value;
    }
    if bars.is_empty() {
        return None;
    }
    let omitted = waterfall.parts.len() - bars.len();
    let whole = waterfall.whole.filter(|whole| is_length(whole.value));
    let (name, value) = match whole {
        Some(whole) => ("as a whole", whole.value),
        None => ("together", begin),
    };
    rows.push(row(name, value, whole_floor));
    bars.push(Bar {
        begin: 0.0,
        value,
        floor: whole_floor,
        interval: whole,
    });
    let ends = bars.iter().flat_map(|bar| {
        let floor = bar.begin + bar.floor.unwrap_or(0.0);
        let high = bar.interval.map_or(0.0, |interval| interval.high);
        [bar.begin + bar.value, floor, high]
    });
    let values: Vec<f64> = ends.filter(|end| end.is_finite()).collect();

    let entry = |name: &str, class: &'static str| LegendEntry {
        name: name.into(),
        sample: Box::new(move |x, y| {
            let (w, h) = HALF_SAMPLE;
            html! { (rect(class, (x - w, x + w), y, h)) }
        }),
    };
    let entries = match whole_floor {
        Some(_) => vec![
            entry("the floor", "floor"),
            entry("above the floor", "above"),
        ],
        None => Vec::new(),
    };
    let (legend, height) = frame::legend(&entries, top, width);
    // Lengths begin at 0.
    let axis = Axis {
        scale: Scale::Linear,
        tight: false,
        ..waterfall.axis.clone()
    };
    let placed = rows::place(&rows, &axis, &values, width, top + height)?;
    let x = |value: f64| {
        placed
            .area
            .x(&placed.ruler, value)
            .unwrap_or(placed.area.left)
    };
    let marks = html! {
        @for (index, (bar, centres)) in bars.iter().zip(&placed.centres).enumerate() {
            @let y = centres[0];
            @let floor = bar.floor.unwrap_or(0.0);
            @let end = bar.begin + bar.value;
            @let (begin, floor, end) = (x(bar.begin), x(bar.begin + floor), x(end));
            @if let Some(above) = placed.centres.get(index.wrapping_sub(1)) {
                @if index + 1 < bars.len() {
                    (line("joint", (begin, above[0] + placed.half), (begin, y - placed.half)))
                }
            }
            (rect("above", (begin, end), y, placed.half))
            @if bar.floor.is_some() {
                // Thinner, so that one below its floor is seen as such.
                (rect("floor", (begin, floor), y, placed.half * 0.6))
            }
            @if let Some(interval) = bar.interval {
                @if interval.low < interval.high {
                    (level_interval(y, x(interval.low), x(interval.high)))
                }
            }
        }
    };
    Some(Drawing {
        body: vec![legend, placed.grid, marks, placed.words],
        bottom: placed.bottom,
        omitted,
    })
}

fn row(label: &str, value: f64, floor: Option<f64>) -> Row {
    let value = significant(value, 3);
    Row {
        label: label.to_owned(),
        notes: vec![match floor {
            Some(floor) => format!("{value}, floor {}", significant(floor, 3)),
            None => value,
        }],
    }
}

fn rect(class: &str, (left, right): (f64, f64), y: f64, half: f64) -> maud::Markup {
    html! {
        rect class=(class) x=(Px(left)) y=(Px(y - half)) width=(Px(right - left))
            height=(Px(2.0 * half)) {}
    }
}
