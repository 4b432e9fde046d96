//! Bars in groups, level and below one another, so that names of any length have room.

use maud::{Markup, html};

use super::Drawing;
use super::frame::{self, LegendEntry, Px};
use super::marks::{COLOURS, Look, level_interval};
use super::rows::{self, Row};
use crate::report::chart::number::significant;
use crate::report::chart::scale::Scale;
use crate::report::chart::{Axis, Bars, Interval};

/// Half a sample of a bar in a legend.
const HALF_SAMPLE: (f64, f64) = (9.0, 5.0);

pub(super) fn draw(bars: &Bars, width: f64, top: f64) -> Option<Drawing> {
    let scale = bars.axis.scale;
    let shown = |bar: &Option<Interval>| bar.filter(|bar| scale.shows(bar.value));
    let all = bars.groups.iter().flat_map(|group| &group.bars);
    let known: Vec<Interval> = all.filter_map(shown).collect();
    if known.is_empty() {
        return None;
    }
    let rows: Vec<Row> = bars
        .groups
        .iter()
        .map(|group| Row {
            label: group.label.clone(),
            notes: group
                .bars
                .iter()
                .map(|bar| match shown(bar) {
                    Some(bar) => significant(bar.value, 3),
                    None => "not measured".into(),
                })
                .collect(),
        })
        .collect();
    let values: Vec<f64> = known
        .iter()
        .flat_map(|b| [b.value, b.low, b.high])
        .collect();
    let sample = |series: usize| {
        let look = Look(series);
        move |x: f64, y: f64| {
            let (w, h) = HALF_SAMPLE;
            match scale {
                Scale::Linear => bar(look, (x - w, x + w), y, h),
                _ => mark(look, x, y),
            }
        }
    };
    let entries: Vec<LegendEntry> = (0..)
        .zip(&bars.series)
        .map(|(series, name)| LegendEntry {
            name: name.clone(),
            sample: Box::new(sample(series)),
        })
        .collect();
    let (legend, height) = match entries.len() {
        1 => (html! {}, 0.0),
        _ => frame::legend(&entries, top, width),
    };
    // Lengths begin at 0.
    let axis = Axis {
        tight: bars.axis.tight && scale != Scale::Linear,
        ..bars.axis.clone()
    };
    let placed = rows::place(&rows, &axis, &values, width, top + height)?;
    let x = |value: f64| placed.area.x(&placed.ruler, value);
    // Where no length begins, there are marks.
    let begin = match scale {
        Scale::Linear => x(0.0),
        _ => None,
    };
    let marks = html! {
        @for (group, centres) in bars.groups.iter().zip(&placed.centres) {
            @for (series, (value, &y)) in group.bars.iter().zip(centres).enumerate() {
                @if let Some(value) = shown(value) {
                    @let end = x(value.value).expect("it is shown");
                    @match begin {
                        Some(begin) => (bar(Look(series), (begin, end), y, placed.half)),
                        None => (mark(Look(series), end, y)),
                    }
                    @if value.low < value.high {
                        @let low = x(value.low).unwrap_or(placed.area.left);
                        @let high = x(value.high).unwrap_or(placed.area.right);
                        (level_interval(y, low, high))
                    }
                }
            }
        }
    };
    Some(Drawing {
        body: vec![legend, placed.grid, marks, placed.words],
        bottom: placed.bottom,
        omitted: 0,
    })
}

/// A mark in the colour of its series.
fn mark(look: Look, x: f64, y: f64) -> Markup {
    html! {
        g class=(look.class()) { g class="mark" { (look.mark(x, y)) } }
    }
}

/// A bar; those of one colour differ by their outline's dashes too.
fn bar(look: Look, (begin, end): (f64, f64), y: f64, half: f64) -> Markup {
    let (left, right) = (begin.min(end), begin.max(end));
    let dashes = match look.0 / COLOURS {
        0 => "none",
        _ => look.dashes(),
    };
    html! {
        g class=(look.class()) {
            rect class="bar" x=(Px(left)) y=(Px(y - half)) width=(Px(right - left))
                height=(Px(2.0 * half)) stroke-dasharray=(dashes) {}
        }
    }
}
