//! A forest plot: ratios with their intervals around 1.

use maud::html;

use super::Drawing;
use super::frame::{Px, line};
use super::marks::level_interval;
use super::rows::{self, Row};
use crate::report::chart::number::{fixed, significant};
use crate::report::chart::scale::Scale;
use crate::report::chart::{Axis, Interval, RatioRow, Side};

/// Half the height of the mark.
const DIAMOND: f64 = 5.0;

/// The ratio, if the axis can show it.
fn shown(row: &RatioRow) -> Option<Interval> {
    let is_shown = |ratio: &Interval| {
        let parts = [ratio.value, ratio.low, ratio.high];
        parts.into_iter().all(|part| Scale::Log10.shows(part))
    };
    row.ratio.filter(is_shown)
}

fn note(row: &RatioRow) -> String {
    let Some(Interval { value, low, high }) = shown(row) else {
        let nothing = "not measured";
        return match row.verdict.as_str() {
            "" => nothing.into(),
            why => format!("{nothing}: {why}"),
        };
    };
    // Of a ratio near 1, thousandths matter; of one far from it, they are noise.
    let number = |value| match value < 3.0 {
        true => fixed(value, 3),
        false => significant(value, 3),
    };
    match low < high {
        true => format!(
            "{} [{}, {}] {}",
            number(value),
            number(low),
            number(high),
            row.verdict
        ),
        false => format!("{} {}", number(value), row.verdict),
    }
}

pub(super) fn draw(all: &[RatioRow], width: f64, top: f64) -> Option<Drawing> {
    let shown: Vec<Option<Interval>> = all.iter().map(shown).collect();
    if shown.iter().all(Option::is_none) {
        return None;
    }
    let rows: Vec<Row> = all
        .iter()
        .map(|row| Row {
            label: row.label.clone(),
            notes: vec![note(row)],
        })
        .collect();
    let known = shown.iter().flatten();
    let mut values: Vec<f64> = known.flat_map(|r| [r.value, r.low, r.high]).collect();
    values.push(1.0);
    let axis = Axis::log10("ratio", "").tight();
    let placed = rows::place(&rows, &axis, &values, width, top)?;
    let x = |value: f64| placed.area.x(&placed.ruler, value).expect("it is shown");
    let one = x(1.0);
    let marks = html! {
        (line("one", (one, placed.area.top), (one, placed.area.bottom)))
        @for ((row, ratio), centres) in all.iter().zip(&shown).zip(&placed.centres) {
            @if let (Some(ratio), [y]) = (ratio, centres.as_slice()) {
                @let (y, r) = (*y, DIAMOND);
                @let middle = x(ratio.value);
                @let class = match row.side {
                    Side::Better => "better",
                    Side::Worse => "worse",
                    Side::Neither => "neither",
                };
                g class=(class) {
                    (level_interval(y, x(ratio.low), x(ratio.high)))
                    path class="mark" d=(format!(
                        "M{} {}L{} {}L{} {}L{} {}Z",
                        Px(middle - r), Px(y), Px(middle), Px(y - r),
                        Px(middle + r), Px(y), Px(middle), Px(y + r),
                    )) {}
                }
            }
        }
    };
    Some(Drawing {
        body: vec![placed.grid, marks, placed.words],
        bottom: placed.bottom,
        omitted: 0,
    })
}
