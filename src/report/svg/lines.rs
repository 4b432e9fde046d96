//! Lines in panels below one another.

use maud::{Markup, html};

use super::Drawing;
use super::frame::{
    self, Anchor, Area, GAP, LegendEntry, axis_label, horizontal_axis, horizontal_grid, label,
    vertical_axis,
};
use super::marks::{Look, path, upright_interval};
use crate::report::chart::scale::{Ruler, Scale};
use crate::report::chart::{Lines, Panel, Point, Role, Series};

/// Half a sample of a line in a legend.
const HALF_SAMPLE: f64 = 13.0;
/// Free space right of the last tick.
const RIGHT: f64 = 14.0;
/// Points closer than this are joined without marks between.
const MARKS_APART: f64 = 5.0;

/// How high panels are, by their number.
fn panel_height(panels: usize) -> f64 {
    match panels {
        1 => 250.0,
        2 => 165.0,
        _ => 135.0,
    }
}

/// Whether both axes can show the point.
fn is_shown(x: Scale, y: Scale, point: &Point) -> bool {
    x.shows(point.x) && y.shows(point.y.value)
}

/// A series by its name: what it looks like in all panels.
struct Known<'a> {
    name: &'a str,
    role: Role,
    look: Look,
    is_shown: bool,
}

fn known(lines: &Lines) -> Vec<Known<'_>> {
    let mut all: Vec<Known> = Vec::new();
    for (panel, series) in lines
        .panels
        .iter()
        .flat_map(|p| p.series.iter().map(move |s| (p, s)))
    {
        let mut points = series.points.iter();
        let is_shown = points.any(|point| is_shown(lines.x.scale, panel.y.scale, point));
        let bound = series.role == Role::Bound;
        let same =
            |known: &&mut Known| known.name == series.name && (known.role == Role::Bound) == bound;
        if let Some(known) = all.iter_mut().find(same) {
            known.is_shown |= is_shown;
            continue;
        }
        // Bounds and measured series are numbered apart: they never look alike.
        let before = all
            .iter()
            .filter(|known| (known.role == Role::Bound) == bound);
        all.push(Known {
            name: &series.name,
            role: series.role,
            look: Look(before.count()),
            is_shown,
        });
    }
    all
}

pub(super) fn draw(lines: &Lines, width: f64, top: f64) -> Option<Drawing> {
    let known = known(lines);
    let look = |series: &Series| {
        let bound = series.role == Role::Bound;
        let mut same = known
            .iter()
            .filter(|known| known.name == series.name && (known.role == Role::Bound) == bound);
        same.next().map_or(Look(0), |known| known.look)
    };
    let shown = |panel: &Panel| -> Vec<Point> {
        let all = panel.series.iter().flat_map(|series| &series.points);
        let shown = all.filter(|point| is_shown(lines.x.scale, panel.y.scale, point));
        shown.copied().collect()
    };
    let height = panel_height(lines.panels.len());
    let rulers: Vec<Option<Ruler>> = lines
        .panels
        .iter()
        .map(|panel| {
            let points = shown(panel);
            let values = points.iter().flat_map(|p| [p.y.value, p.y.low, p.y.high]);
            frame::vertical(&panel.y, values, height)
        })
        .collect();
    let widths = rulers.iter().flatten().map(frame::label_width);
    let (left, right) = (widths.fold(0.0, f64::max) + GAP, width - RIGHT);
    let positions: Vec<f64> = lines.panels.iter().flat_map(shown).map(|p| p.x).collect();
    let x = frame::horizontal(&lines.x, positions, (left, right), width)?;

    let entries: Vec<LegendEntry> = known.iter().map(entry).collect();
    let (legend, legend_height) = match entries.len() {
        1 if known[0].is_shown && known[0].name.is_empty() => (html! {}, 0.0),
        _ => frame::legend(&entries, top, width),
    };
    let mut y = top + legend_height;
    let mut omitted = 0;
    let mut body = vec![legend];
    let count = lines.panels.len();
    for (index, (panel, ruler)) in lines.panels.iter().zip(&rulers).enumerate() {
        let (heading, below) = frame::heading(&axis_label(&panel.y), y, width);
        body.push(heading);
        y = below;
        let area = Area {
            left,
            right,
            top: y,
            bottom: y + height,
        };
        body.push(horizontal_grid(&area, &x));
        match ruler {
            None => body.push(label(
                "missing",
                Anchor::Middle,
                (left + right) / 2.0,
                (area.top + area.bottom) / 2.0,
                "not measured",
            )),
            Some(ruler) => {
                body.push(vertical_axis(&area, ruler));
                let marked = Marked {
                    area,
                    x: &x,
                    y: ruler,
                };
                // Bounds lie below what is held against them.
                let (bounds, measured): (Vec<_>, Vec<_>) = panel
                    .series
                    .iter()
                    .partition(|series| series.role == Role::Bound);
                for series in bounds.into_iter().chain(measured) {
                    body.push(marked.series(series, look(series)));
                }
            }
        }
        let points = panel.series.iter().map(|series| series.points.len());
        omitted += points.sum::<usize>() - shown(panel).len();
        y = area.bottom;
        if index + 1 == count {
            let (axis, height) = horizontal_axis(&area, &x, &lines.x, width);
            body.push(axis);
            y += height;
        } else {
            y += GAP;
        }
    }
    Some(Drawing {
        body,
        bottom: y,
        omitted,
    })
}

fn entry<'a>(known: &'a Known<'a>) -> LegendEntry<'a> {
    let name = match known.is_shown {
        true => known.name.to_owned(),
        false => format!("{}: not measured", known.name),
    };
    let sample = |x: f64, y: f64| {
        let ends = [(x - HALF_SAMPLE, y), (x + HALF_SAMPLE, y)];
        stroke(known.role, known.look, ends.into_iter(), &[(x, y)])
    };
    LegendEntry {
        name,
        sample: Box::new(sample),
    }
}

/// A line with marks, in the look of its role.
fn stroke(
    role: Role,
    look: Look,
    points: impl Iterator<Item = (f64, f64)>,
    marks: &[(f64, f64)],
) -> Markup {
    let line = path(points, false);
    match role {
        Role::Bound => html! {
            path class="bound" stroke-dasharray=(look.bound_dashes()) d=(line) {}
        },
        Role::Curve => html! {
            g class=(look.class()) { path class="line" stroke-dasharray=(look.dashes()) d=(line) {} }
        },
        Role::Measured => html! {
            g class=(look.class()) {
                path class="line" stroke-dasharray=(look.dashes()) d=(line) {}
                g class="mark" { @for (x, y) in marks { (look.mark(*x, *y)) } }
            }
        },
    }
}

/// A panel whose axes are known.
struct Marked<'a> {
    area: Area,
    x: &'a Ruler,
    y: &'a Ruler,
}

impl Marked<'_> {
    fn series(&self, series: &Series, look: Look) -> Markup {
        let place = |point: Point| {
            let x = self.area.x(self.x, point.x)?;
            Some((point, (x, self.area.y(self.y, point.y.value)?)))
        };
        let placed: Vec<_> = series.points.iter().copied().filter_map(place).collect();
        let mut places: Vec<(f64, f64)> = placed.iter().map(|(_, place)| *place).collect();
        // A single value is a line all the way.
        if let (Role::Bound, [(_, y)]) = (series.role, places.as_slice()) {
            places = vec![(self.area.left, *y), (self.area.right, *y)];
        }
        let mut marks: Vec<(f64, f64)> = Vec::new();
        for place in &places {
            let apart =
                |last: &(f64, f64)| (place.0 - last.0).hypot(place.1 - last.1) >= MARKS_APART;
            if marks.last().is_none_or(apart) {
                marks.push(*place);
            }
        }
        html! {
            @if series.role == Role::Measured {
                g class=(look.class()) {
                    @for (point, (x, _)) in &placed {
                        @if point.y.low < point.y.high {
                            // An end that the axis can't show is beyond its beginning.
                            @let low = self.area.y(self.y, point.y.low).unwrap_or(self.area.bottom);
                            @let high = self.area.y(self.y, point.y.high).unwrap_or(self.area.top);
                            (upright_interval(*x, low, high))
                        }
                    }
                }
            }
            (stroke(series.role, look, places.iter().copied(), &marks))
        }
    }
}
