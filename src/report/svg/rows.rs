//! Charts that are rows below one another: a label, marks along a shared horizontal axis, and a
//! note to each mark.

use maud::{Markup, html};

use super::frame::{
    self, Anchor, Area, FONT, GAP, LINE, MIDDLE, Px, horizontal_axis, horizontal_grid, label,
};
use super::text::{self, width};
use crate::report::chart::Axis;
use crate::report::chart::scale::Ruler;

/// The most that labels and notes beside the marks may take of the drawing's width.
const LABELS: f64 = 0.36;
const NOTES: f64 = 0.32;
/// Height of a mark with the space around it, where a row has one or more.
const SINGLE: f64 = 24.0;
const SEVERAL: f64 = 17.0;
/// Free space between two rows.
const BETWEEN: f64 = 6.0;

/// A row to be placed.
pub(super) struct Row {
    pub label: String,
    /// One for each mark, to the right of it.
    pub notes: Vec<String>,
}

/// Where everything is.
pub(super) struct Placed {
    pub area: Area,
    pub ruler: Ruler,
    /// The middle of each mark: `[row][mark]`.
    pub centres: Vec<Vec<f64>>,
    /// Half of what a mark may take of the height.
    pub half: f64,
    /// What lies below the marks.
    pub grid: Markup,
    /// Labels, notes and axis, which lie above them.
    pub words: Markup,
    /// The lower end of it all.
    pub bottom: f64,
}

/// Places `rows` from `top` on; `None` if no value can be shown.
pub(super) fn place(
    rows: &[Row],
    axis: &Axis,
    values: &[f64],
    drawing: f64,
    top: f64,
) -> Option<Placed> {
    let widest = |texts: &mut dyn Iterator<Item = &String>| {
        texts.map(|text| width(text, FONT)).fold(0.0, f64::max)
    };
    let labels = widest(&mut rows.iter().map(|row| &row.label));
    let notes = widest(&mut rows.iter().flat_map(|row| &row.notes));
    // Notes above the marks take the labels with them.
    let notes_beside = notes <= NOTES * drawing;
    let labels_beside = notes_beside && labels <= LABELS * drawing;
    let left = if labels_beside { labels + GAP } else { GAP };
    let right = drawing - if notes_beside { notes + GAP } else { GAP };
    let ruler = frame::horizontal(axis, values.iter().copied(), (left, right), drawing)?;

    let marks = rows.iter().map(|row| row.notes.len()).max().unwrap_or(1);
    let each = if marks > 1 { SEVERAL } else { SINGLE };
    let mut y = top;
    let mut centres = Vec::new();
    let mut texts: Vec<(Anchor, f64, f64, String)> = Vec::new();
    for row in rows {
        y += BETWEEN / 2.0;
        if !labels_beside {
            for line in text::wrap(&row.label, FONT, drawing) {
                y += LINE;
                texts.push((Anchor::Start, 0.0, y - MIDDLE, line));
            }
        }
        let mut middles = Vec::new();
        let first = y;
        for note in &row.notes {
            if !notes_beside {
                for line in text::wrap(note, FONT, drawing - GAP) {
                    y += LINE;
                    texts.push((Anchor::Start, GAP, y - MIDDLE, line));
                }
            }
            let middle = y + each / 2.0;
            if notes_beside {
                texts.push((Anchor::Start, right + GAP, middle + MIDDLE, note.clone()));
            }
            middles.push(middle);
            y += each;
        }
        if labels_beside {
            let middle = (first + y) / 2.0 + MIDDLE;
            texts.push((Anchor::End, labels, middle, row.label.clone()));
        }
        centres.push(middles);
        y += BETWEEN / 2.0;
    }
    let area = Area {
        left,
        right,
        top,
        bottom: y,
    };
    let (numbers, height) = horizontal_axis(&area, &ruler, axis, drawing);
    let words = html! {
        (frame::line("axis", (area.left, area.bottom), (area.right, area.bottom)))
        @for (anchor, x, y, text) in &texts {
            // Lines that reach up to marks end at words above them.
            @if *anchor == Anchor::Start && *x < right {
                rect class="paper" x=(Px(*x)) y=(Px(y - LINE + MIDDLE))
                    width=(Px(width(text, FONT))) height=(Px(LINE)) {}
            }
            (label("name", *anchor, *x, *y, text))
        }
        (numbers)
    };
    Some(Placed {
        grid: horizontal_grid(&area, &ruler),
        words,
        area,
        ruler,
        centres,
        half: each / 2.0 - 2.0,
        bottom: area.bottom + height,
    })
}
