//! Charts drawn as SVG, with nothing from elsewhere: text as text, looks by CSS classes for light and
//! dark, no script.
//!
//! Crates that draw charts write colours and sizes into every element, or need a script in the page;
//! none of them can be looked at by day and by night, or read aloud, from one file.
//!
//! - here: a drawing with its title and description, for a file or within a page
//! - `lines`, `ratios`, `bars`, `waterfall`, `histogram`: the kinds of charts
//! - `frame`: axes, grids, legends; `rows`: charts that are rows; `marks`: lines and marks
//! - `text`: how wide text is

mod bars;
mod frame;
mod histogram;
mod lines;
mod marks;
mod ratios;
mod rows;
mod text;
mod waterfall;

use maud::{Markup, PreEscaped, html};

use super::chart::{Chart, Plot};
use frame::{Anchor, FONT, GAP, LINE, Px, label};

/// The looks of charts, for the page that they stand in.
pub const STYLE: &str = include_str!("style.css");

/// Width of a chart in a file, and in a page that has room for it, in pixels.
pub const WIDE: f64 = 720.0;
/// Width of a chart on a phone.
pub const NARROW: f64 = 352.0;

/// Font size of titles. Set in `style.css` too.
const TITLE: f64 = 15.0;
/// Distance of two lines of a title.
const TITLE_LINE: f64 = 20.0;
/// Free space around a chart in a file.
const BORDER: f64 = 12.0;

/// What was drawn, from the left edge at 0 on.
struct Drawing {
    body: Vec<Markup>,
    /// Its lower end.
    bottom: f64,
    /// Values that the axes can't show.
    omitted: usize,
}

/// The chart as a file of its own, with its title.
pub fn file(chart: &Chart) -> String {
    let title = text::wrap(&chart.title, TITLE, (WIDE - 2.0 * BORDER) / text::BOLD);
    let top = title.len() as f64 * TITLE_LINE + GAP;
    let (body, height) = draw(chart, WIDE - 2.0 * BORDER, top);
    let whole = height + 2.0 * BORDER;
    let svg = html! {
        svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img"
            aria-labelledby="title description" width=(Px(WIDE)) height=(Px(whole))
            viewBox={ "0 0 " (Px(WIDE)) " " (Px(whole)) } {
            title id="title" { (chart.title) }
            desc id="description" { (chart.description) }
            style { (PreEscaped(STYLE)) }
            rect class="paper" width=(Px(WIDE)) height=(Px(whole)) {}
            g transform={ "translate(" (Px(BORDER)) "," (Px(BORDER)) ")" } {
                @for (index, line) in title.iter().enumerate() {
                    @let y = (index + 1) as f64 * TITLE_LINE - frame::MIDDLE;
                    (label("title", Anchor::Start, 0.0, y, line))
                }
                (body)
            }
        }
    };
    printable(&svg.into_string())
}

/// The chart within a page that has [`STYLE`], without its title. `id` is unlike those of all other
/// charts of the page.
pub fn inline(chart: &Chart, width: f64, id: &str) -> Markup {
    let (body, height) = draw(chart, width, 0.0);
    let (title, description) = (format!("{id}-title"), format!("{id}-description"));
    html! {
        svg class="chart" role="img" aria-labelledby={ (title) " " (description) }
            width=(Px(width)) height=(Px(height)) viewBox={ "0 0 " (Px(width)) " " (Px(height)) } {
            title id=(title) { (chart.title) }
            desc id=(description) { (chart.description) }
            (body)
        }
    }
}

/// What is drawn below `top`, and its height from 0 on.
fn draw(chart: &Chart, width: f64, top: f64) -> (Markup, f64) {
    let drawing = match &chart.plot {
        Plot::Lines(lines) => lines::draw(lines, width, top),
        Plot::Ratios(rows) => ratios::draw(rows, width, top),
        Plot::Bars(bars) => bars::draw(bars, width, top),
        Plot::Waterfall(waterfall) => waterfall::draw(waterfall, width, top),
        Plot::Histogram(histogram) => histogram::draw(histogram, width, top),
    };
    let Some(mut drawing) = drawing else {
        let missing = label("missing", Anchor::Start, 0.0, top + LINE, "not measured");
        return (missing, top + 2.0 * LINE);
    };
    if drawing.omitted > 0 {
        let note = match drawing.omitted {
            1 => "1 value that is not finite, or has no place on a logarithmic axis, is left out"
                .into(),
            count => format!(
                "{count} values that are not finite, or have no place on a logarithmic axis, are left out"
            ),
        };
        for line in text::wrap(&note, FONT, width) {
            drawing.bottom += LINE;
            let y = drawing.bottom;
            drawing
                .body
                .push(label("note", Anchor::Start, 0.0, y, &line));
        }
        drawing.bottom += GAP;
    }
    let body = html! { @for part in &drawing.body { (part) } };
    (body, drawing.bottom + frame::MIDDLE)
}

/// `text` without characters that neither XML nor HTML may hold.
pub(super) fn printable(text: &str) -> String {
    let is_allowed = |letter: char| match letter {
        '\t' | '\n' | '\r' => true,
        '\u{fffe}' | '\u{ffff}' => false,
        letter => !letter.is_control(),
    };
    let kept = |letter| match is_allowed(letter) {
        true => letter,
        false => '\u{fffd}',
    };
    text.chars().map(kept).collect()
}

#[cfg(test)]
pub(super) mod gallery;
#[cfg(test)]
mod tests;
