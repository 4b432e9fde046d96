//! Charts as data: what is drawn, and nothing of how it looks. [`svg`](super::svg) draws them.
//!
//! - here: the kinds of charts
//! - [`scale`]: where a value lies on an axis, and its ticks
//! - [`number`]: numbers as charts write them
//!
//! What can't be drawn is left out and said so by whoever draws: a value that is not finite, or not
//! above 0 on a logarithmic axis. A chart in which nothing can be drawn says `not measured`.

pub mod number;
pub mod scale;

use scale::Scale;

/// A chart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chart {
    /// What it shows, in a few words. Its file is named after it.
    pub title: String,
    /// How to read it, in a sentence or two: conditions, what bars and intervals are. Also read
    /// aloud to those who can't see the chart.
    pub description: String,
    /// What is drawn.
    pub plot: Plot,
}

/// The kinds of charts.
#[derive(Clone, Debug, PartialEq)]
pub enum Plot {
    /// Lines through points, in panels below one another.
    Lines(Lines),
    /// Ratios with their intervals around 1: a forest plot.
    Ratios(Vec<RatioRow>),
    /// Bars in groups.
    Bars(Bars),
    /// What a whole is made of, part after part.
    Waterfall(Waterfall),
    /// How samples are distributed, a panel for each set.
    Histogram(Histogram),
}

impl Default for Plot {
    fn default() -> Self {
        Self::Ratios(Vec::new())
    }
}

/// A value with the interval that it lies in; all three are equal where none is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The value.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl From<f64> for Interval {
    fn from(value: f64) -> Self {
        Self {
            value,
            low: value,
            high: value,
        }
    }
}

/// What an axis measures.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// The quantity.
    pub label: String,
    /// Its unit; may be empty.
    pub unit: String,
    /// Where values lie on it.
    pub scale: Scale,
    /// Whether it is only as long as the values need. Otherwise a linear axis begins at 0, and a
    /// logarithmic one is as long as a fourfold.
    pub tight: bool,
}

impl Axis {
    /// An axis from 0 on.
    pub fn linear(label: impl Into<String>, unit: impl Into<String>) -> Self {
        Self::new(label, unit, Scale::Linear)
    }

    /// An axis on which a doubling is always equally long.
    pub fn log2(label: impl Into<String>, unit: impl Into<String>) -> Self {
        Self::new(label, unit, Scale::Log2)
    }

    /// An axis on which a tenfold is always equally long.
    pub fn log10(label: impl Into<String>, unit: impl Into<String>) -> Self {
        Self::new(label, unit, Scale::Log10)
    }

    fn new(label: impl Into<String>, unit: impl Into<String>, scale: Scale) -> Self {
        Self {
            label: label.into(),
            unit: unit.into(),
            scale,
            tight: false,
        }
    }

    /// Only as long as the values need, for those whose distance from 0 means nothing.
    pub fn tight(self) -> Self {
        Self {
            tight: true,
            ..self
        }
    }
}

/// Lines in panels that share their horizontal axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Lines {
    /// The axis that all panels share.
    pub x: Axis,
    /// From top to bottom.
    pub panels: Vec<Panel>,
}

/// Lines over one vertical axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    /// The vertical axis.
    pub y: Axis,
    /// The lines. One of the same name looks the same in every panel.
    pub series: Vec<Series>,
}

/// A line.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// What it stands for.
    pub role: Role,
    /// In the order in which they are joined.
    pub points: Vec<Point>,
}

/// What a line stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Something measured: each point is marked.
    #[default]
    Measured,
    /// What the measured is held against: a floor, a limit, the value 1.
    Bound,
    /// A line with so many points that marks would hide it.
    Curve,
}

/// A point of a line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// On the horizontal axis.
    pub x: f64,
    /// On the vertical one; drawn with an error bar if the interval has a width.
    pub y: Interval,
}

impl Series {
    /// Something measured.
    pub fn measured(
        name: impl Into<String>,
        points: impl IntoIterator<Item = (f64, Interval)>,
    ) -> Self {
        Self::new(name, Role::Measured, points)
    }

    /// What the measured is held against.
    pub fn bound(name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let points = points.into_iter().map(|(x, y)| (x, y.into()));
        Self::new(name, Role::Bound, points)
    }

    fn new(
        name: impl Into<String>,
        role: Role,
        points: impl IntoIterator<Item = (f64, Interval)>,
    ) -> Self {
        Self {
            name: name.into(),
            role,
            points: points.into_iter().map(|(x, y)| Point { x, y }).collect(),
        }
    }
}

/// A ratio of a forest plot.
#[derive(Clone, Debug, PartialEq)]
pub struct RatioRow {
    /// What was compared with what.
    pub label: String,
    /// The ratio; `None` if it was not measured.
    pub ratio: Option<Interval>,
    /// The verdict in a word, or why nothing was measured.
    pub verdict: String,
    /// What the verdict says of the side above the line.
    pub side: Side,
}

/// On which side of 1 a ratio is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Side {
    /// More, where more is better.
    Better,
    /// Less.
    Worse,
    /// Neither, or not known.
    #[default]
    Neither,
}

/// Bars in groups, which lie below one another.
#[derive(Clone, Debug, PartialEq)]
pub struct Bars {
    /// What their length says. On a logarithmic axis they are marks, since no length begins there.
    pub axis: Axis,
    /// What the bars of a group stand for, in order.
    pub series: Vec<String>,
    /// The groups.
    pub groups: Vec<Group>,
}

/// A group of bars.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Its name.
    pub label: String,
    /// A bar for each series; `None` if it was not measured.
    pub bars: Vec<Option<Interval>>,
}

/// What a whole is made of: each part begins where the one before it ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Waterfall {
    /// What lengths say.
    pub axis: Axis,
    /// In order.
    pub parts: Vec<Part>,
    /// The whole as it was measured; where it was not, it is the sum.
    pub whole: Option<Interval>,
}

/// A part of a whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Its name.
    pub label: String,
    /// How long it is.
    pub value: f64,
    /// How long it must be at least; the whole's floor is the sum of them.
    pub floor: Option<f64>,
}

/// Samples by value.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// What the samples are.
    pub axis: Axis,
    /// A panel each, with the same bins.
    pub sets: Vec<Samples>,
}

/// A set of samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Samples {
    /// Its name.
    pub name: String,
    /// All of them.
    pub values: Vec<f64>,
}

impl Chart {
    fn new(title: impl Into<String>, plot: Plot) -> Self {
        Self {
            title: title.into(),
            description: String::new(),
            plot,
        }
    }

    /// Lines in panels that share their horizontal axis.
    pub fn lines(title: impl Into<String>, x: Axis, panels: Vec<Panel>) -> Self {
        Self::new(title, Plot::Lines(Lines { x, panels }))
    }

    /// Ratios around 1.
    pub fn ratios(title: impl Into<String>, rows: Vec<RatioRow>) -> Self {
        Self::new(title, Plot::Ratios(rows))
    }

    /// Bars in groups.
    pub fn bars(title: impl Into<String>, bars: Bars) -> Self {
        Self::new(title, Plot::Bars(bars))
    }

    /// Parts of a whole.
    pub fn waterfall(title: impl Into<String>, waterfall: Waterfall) -> Self {
        Self::new(title, Plot::Waterfall(waterfall))
    }

    /// Samples by value.
    pub fn histogram(title: impl Into<String>, axis: Axis, sets: Vec<Samples>) -> Self {
        Self::new(title, Plot::Histogram(Histogram { axis, sets }))
    }

    /// Values against the share of samples that lie below them, in percent. `points` of a curve are
    /// (percent, value); 100 is the largest sample.
    pub fn quantiles(
        title: impl Into<String>,
        value: Axis,
        curves: impl IntoIterator<Item = (String, Vec<(f64, f64)>)>,
    ) -> Self {
        let series = curves.into_iter().map(|(name, points)| {
            let points = points.into_iter().map(|(x, y)| (x, y.into()));
            Series::measured(name, points)
        });
        let x = Axis::new("share of samples below", "%", Scale::Percentile);
        let panel = Panel {
            y: value,
            series: series.collect(),
        };
        Self::lines(title, x, vec![panel])
    }

    /// With a description.
    pub fn described(self, description: impl Into<String>) -> Self {
        Self {
            description: description.into(),
            ..self
        }
    }
}
