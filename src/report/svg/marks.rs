//! How series are told apart: by colour, and again by mark and dashes for those who can't see the
//! colours apart.

use maud::{Markup, html};

use super::frame::{Px, line};

/// Colours that `style.css` knows as `s0`, `s1`, ...
pub(super) const COLOURS: usize = 6;
const SHAPES: usize = 6;
const DASHES: [&str; 4] = ["none", "7 3", "2 3", "9 3 2 3"];
const BOUNDS: [&str; 3] = ["5 4", "1 4", "10 4"];
/// Half a mark's width.
const RADIUS: f64 = 3.6;

/// How the series with this number looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look(pub usize);

impl Look {
    /// The class with its colour.
    pub fn class(self) -> String {
        format!("s{}", self.0 % COLOURS)
    }

    pub fn dashes(self) -> &'static str {
        DASHES[self.0 % DASHES.len()]
    }

    /// Dashes of a line that the measured is held against.
    pub fn bound_dashes(self) -> &'static str {
        BOUNDS[self.0 % BOUNDS.len()]
    }

    /// A mark at a point.
    pub fn mark(self, x: f64, y: f64) -> Markup {
        let r = RADIUS;
        // Each time the colours begin again, the shapes are others.
        let polygon: &[(f64, f64)] = match (self.0 + self.0 / COLOURS) % SHAPES {
            0 => {
                return html! { circle cx=(Px(x)) cy=(Px(y)) r=(Px(r)) {} };
            }
            1 => &[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
            2 => &[(0.0, -1.2), (1.1, 0.9), (-1.1, 0.9)],
            3 => &[(0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)],
            4 => &[(0.0, 1.2), (1.1, -0.9), (-1.1, -0.9)],
            _ => &[
                (-0.4, -1.2),
                (0.4, -1.2),
                (0.4, -0.4),
                (1.2, -0.4),
                (1.2, 0.4),
                (0.4, 0.4),
                (0.4, 1.2),
                (-0.4, 1.2),
                (-0.4, 0.4),
                (-1.2, 0.4),
                (-1.2, -0.4),
                (-0.4, -0.4),
            ],
        };
        let corners = polygon.iter().map(|(dx, dy)| (x + dx * r, y + dy * r));
        html! { path d=(path(corners, true)) {} }
    }
}

/// A path through points.
pub(super) fn path(points: impl Iterator<Item = (f64, f64)>, closed: bool) -> String {
    let mut path = String::new();
    for (index, (x, y)) in points.enumerate() {
        let command = if index == 0 { 'M' } else { 'L' };
        path += &format!("{command}{} {}", Px(x), Px(y));
    }
    if closed {
        path.push('Z');
    }
    path
}

/// An upright interval with caps.
pub(super) fn upright_interval(x: f64, low: f64, high: f64) -> Markup {
    html! {
        (line("whisker", (x, low), (x, high)))
        (line("whisker", (x - 3.0, low), (x + 3.0, low)))
        (line("whisker", (x - 3.0, high), (x + 3.0, high)))
    }
}

/// A level interval with caps.
pub(super) fn level_interval(y: f64, low: f64, high: f64) -> Markup {
    html! {
        (line("whisker", (low, y), (high, y)))
        (line("whisker", (low, y - 3.0), (low, y + 3.0)))
        (line("whisker", (high, y - 3.0), (high, y + 3.0)))
    }
}
