//! What charts are framed by: axes with ticks and grid lines, labels, legends.

use std::fmt;

use maud::{Markup, html};

use super::text::{self, width};
use crate::report::chart::Axis;
use crate::report::chart::scale::{Ruler, Tick};

/// Font size of everything but titles, in pixels. Set in `style.css` too.
pub(super) const FONT: f64 = 12.0;
/// Distance of two lines of text.
pub(super) const LINE: f64 = 16.0;
/// Free space between a label and what it stands beside.
pub(super) const GAP: f64 = 8.0;
/// From a line's baseline up to the middle of its small letters.
pub(super) const MIDDLE: f64 = 4.0;
/// The least distance of two labels of an axis.
const LABELS_APART: f64 = 10.0;
/// Ticks of a horizontal axis are at least as far apart as this.
const TICKS_APART: f64 = 45.0;
/// And those of a vertical axis.
const ROWS_APART: f64 = 24.0;
/// Height of a horizontal axis: ticks, and its label below.
const TICK_HEIGHT: f64 = 20.0;
/// Width of a line's sample in a legend.
const SAMPLE: f64 = 26.0;

/// A length or place in pixels, to a tenth.
#[derive(Clone, Copy, Debug)]
pub(super) struct Px(pub f64);

impl fmt::Display for Px {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug_assert!(self.0.is_finite(), "a place in a drawing");
        let rounded = (self.0 * 10.0).round() / 10.0;
        // No negative zero.
        write!(f, "{}", rounded + 0.0)
    }
}

/// The area that marks are drawn in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Area {
    pub left: f64,
    pub right: f64,
    pub top: f64,
    pub bottom: f64,
}

impl Area {
    pub fn x(&self, ruler: &Ruler, value: f64) -> Option<f64> {
        let share = ruler.share(value)?;
        Some(self.left + share * (self.right - self.left))
    }

    pub fn y(&self, ruler: &Ruler, value: f64) -> Option<f64> {
        let share = ruler.share(value)?;
        Some(self.bottom - share * (self.bottom - self.top))
    }
}

/// Text from its left end, centre or right end on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A line of text; `y` is its baseline.
pub(super) fn label(class: &str, anchor: Anchor, x: f64, y: f64, text: &str) -> Markup {
    let anchor = match anchor {
        Anchor::Start => "start",
        Anchor::Middle => "middle",
        Anchor::End => "end",
    };
    html! { text class=(class) text-anchor=(anchor) x=(Px(x)) y=(Px(y)) { (text) } }
}

/// A straight line.
pub(super) fn line(class: &str, from: (f64, f64), to: (f64, f64)) -> Markup {
    html! {
        line class=(class) x1=(Px(from.0)) y1=(Px(from.1)) x2=(Px(to.0)) y2=(Px(to.1)) {}
    }
}

/// `speed (tok/s)`.
pub(super) fn axis_label(axis: &Axis) -> String {
    match axis.unit.as_str() {
        "" => axis.label.clone(),
        unit => format!("{} ({unit})", axis.label),
    }
}

/// Centre of a tick's label: below the tick, but within the drawing.
fn tick_centre(area: (f64, f64), drawing: f64, tick: &Tick) -> f64 {
    let half = width(&tick.label, FONT) / 2.0;
    let x = area.0 + tick.share * (area.1 - area.0);
    x.clamp(half.min(drawing / 2.0), (drawing - half).max(drawing / 2.0))
}

/// The ruler of a horizontal axis from `left` to `right` in a drawing of some width.
pub(super) fn horizontal(
    axis: &Axis,
    values: impl IntoIterator<Item = f64>,
    (left, right): (f64, f64),
    drawing: f64,
) -> Option<Ruler> {
    let fit = |ticks: &[Tick]| {
        ticks.windows(2).all(|pair| {
            let [a, b] = [&pair[0], &pair[1]].map(|tick| tick_centre((left, right), drawing, tick));
            let widths = (width(&pair[0].label, FONT) + width(&pair[1].label, FONT)) / 2.0;
            b - a >= (widths + LABELS_APART).max(TICKS_APART)
        })
    };
    Ruler::new(axis, values, fit)
}

/// The ruler of a vertical axis of so many pixels.
pub(super) fn vertical(
    axis: &Axis,
    values: impl IntoIterator<Item = f64>,
    height: f64,
) -> Option<Ruler> {
    let fit = |ticks: &[Tick]| {
        let mut pairs = ticks.windows(2);
        pairs.all(|pair| (pair[1].share - pair[0].share) * height >= ROWS_APART)
    };
    Ruler::new(axis, values, fit)
}

/// Words above a panel, from `top` on, and where they end.
pub(super) fn heading(words: &str, top: f64, drawing: f64) -> (Markup, f64) {
    let lines = text::wrap(words, FONT, drawing);
    let markup = html! {
        @for (index, line) in lines.iter().enumerate() {
            @let baseline = top + (index + 1) as f64 * LINE - MIDDLE;
            (label("name", Anchor::Start, 0.0, baseline, line))
        }
    };
    (markup, top + lines.len() as f64 * LINE + GAP)
}

/// The width of the labels of a vertical axis.
pub(super) fn label_width(ruler: &Ruler) -> f64 {
    let widths = ruler.ticks.iter().map(|tick| width(&tick.label, FONT));
    widths.fold(0.0, f64::max)
}

/// Grid lines across the area, at the ticks of a vertical axis, with their numbers.
pub(super) fn vertical_axis(area: &Area, ruler: &Ruler) -> Markup {
    html! {
        @for tick in &ruler.ticks {
            @let y = area.bottom - tick.share * (area.bottom - area.top);
            (line("grid", (area.left, y), (area.right, y)))
            (label("tick", Anchor::End, area.left - GAP, y + MIDDLE, &tick.label))
        }
        (line("axis", (area.left, area.bottom), (area.right, area.bottom)))
    }
}

/// Grid lines up the area, at the ticks of a horizontal axis.
pub(super) fn horizontal_grid(area: &Area, ruler: &Ruler) -> Markup {
    html! {
        @for tick in &ruler.ticks {
            @let x = area.left + tick.share * (area.right - area.left);
            (line("grid", (x, area.top), (x, area.bottom)))
        }
    }
}

/// The numbers below a horizontal axis, and what they are, and how high both are.
pub(super) fn horizontal_axis(
    area: &Area,
    ruler: &Ruler,
    axis: &Axis,
    drawing: f64,
) -> (Markup, f64) {
    let numbers = area.bottom + TICK_HEIGHT - MIDDLE;
    let names = text::wrap(&axis_label(axis), FONT, drawing - 2.0 * GAP);
    let centre = |name: &str| {
        let half = width(name, FONT) / 2.0;
        let middle = (area.left + area.right) / 2.0;
        middle.clamp(half, (drawing - half).max(half))
    };
    let markup = html! {
        @for tick in &ruler.ticks {
            @let x = area.left + tick.share * (area.right - area.left);
            (line("axis", (x, area.bottom), (x, area.bottom + MIDDLE)))
            (label(
                "tick",
                Anchor::Middle,
                tick_centre((area.left, area.right), drawing, tick),
                numbers,
                &tick.label,
            ))
        }
        @for (index, name) in names.iter().enumerate() {
            (label("name", Anchor::Middle, centre(name), numbers + (index + 1) as f64 * LINE, name))
        }
    };
    (markup, TICK_HEIGHT + names.len() as f64 * LINE)
}

/// A name in a legend, and the sample before it, drawn around a centre.
pub(super) struct LegendEntry<'a> {
    pub name: String,
    pub sample: Box<dyn Fn(f64, f64) -> Markup + 'a>,
}

/// A legend from `top` on, in as many rows as it needs, and how high it is. A legend of nothing has
/// no height.
pub(super) fn legend(entries: &[LegendEntry], top: f64, drawing: f64) -> (Markup, f64) {
    let mut placed = Vec::new();
    let (mut x, mut y) = (0.0, top);
    for entry in entries {
        let lines = text::wrap(&entry.name, FONT, drawing - SAMPLE - GAP);
        let widest = lines.iter().map(|line| width(line, FONT));
        let whole = SAMPLE + GAP + widest.fold(0.0, f64::max);
        if x > 0.0 && x + whole > drawing {
            (x, y) = (0.0, y + LINE);
        }
        // One of several lines fills its row.
        let further = lines.len().saturating_sub(1) as f64 * LINE;
        placed.push((x, y, entry, lines));
        x += whole + 2.0 * GAP;
        if further > 0.0 {
            (x, y) = (drawing, y + further);
        }
    }
    let height = match placed.is_empty() {
        true => 0.0,
        false => y - top + LINE + GAP,
    };
    let markup = html! {
        @for (x, y, entry, lines) in &placed {
            g class="entry" {
                ((entry.sample)(x + SAMPLE / 2.0, y + LINE / 2.0))
                @for (index, line) in lines.iter().enumerate() {
                    @let baseline = y + LINE / 2.0 + MIDDLE + index as f64 * LINE;
                    (label("name", Anchor::Start, x + SAMPLE + GAP, baseline, line))
                }
            }
        }
    };
    (markup, height)
}
