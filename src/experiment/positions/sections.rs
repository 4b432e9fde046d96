//! What the results say: the engines against the position, and prompts beside made-up pasts.

use super::{Found, Subject};
use crate::experiment::result::{CellRecord, Missing, list_missing, measured};
use crate::report::chart::{Axis, Chart, Interval, Panel, Series};
use crate::report::grouping::distinct;
use crate::report::section::{Captioned, Section};
use crate::report::table::{Cell, Column, Table};

/// The sections of a result.
///
/// # Errors
/// Cells of another form.
pub fn sections(cells: &[CellRecord]) -> Result<Vec<Section>, serde_json::Error> {
    let is_real = |id: &str| id.starts_with("prompt/");
    let (real, made_up): (Vec<_>, Vec<_>) = measured::<Found>(cells)?
        .into_iter()
        .partition(|(id, _)| is_real(id));
    let made_up: Vec<Found> = made_up.into_iter().map(|(_, found)| found).collect();
    let real: Vec<Found> = real.into_iter().map(|(_, found)| found).collect();
    let mut sections = vec![Section {
        heading: "A step against its position".into(),
        text: text(cells, &made_up),
        charts: charts(&made_up),
        tables: vec![Captioned {
            caption: "Medians of the turns with 95% intervals; the first engine's speed over each"
                .into(),
            table: table(&made_up),
        }],
    }];
    if !real.is_empty() {
        sections.push(Section {
            heading: "A prompt that is run, beside made-up keys and values".into(),
            text: vec![
                "The same engine behind both, in turns: whether made-up keys and values are as fast to \
                 attend to."
                    .into(),
            ],
            charts: Vec::new(),
            tables: vec![Captioned {
                caption: "Medians of the turns; the speed behind a prompt over that behind made-up keys \
                          and values"
                    .into(),
                table: real_table(&real),
            }],
        });
    }
    Ok(sections)
}

fn text(cells: &[CellRecord], found: &[Found]) -> Vec<String> {
    let mut text = Vec::new();
    if let Some(first) = found.first() {
        let started: Vec<String> = first
            .subjects
            .iter()
            .map(|one| format!("{} {:.2} s", one.name, one.start_seconds))
            .collect();
        text.push(format!(
            "{}, {} steps a turn, behind made-up keys and values. Loading took {:.2} s, setting up {}. The \
             first token's time is that of one step and the call, behind a past that is cached.",
            first.model,
            first.steps,
            first.load_seconds,
            started.join(", ")
        ));
    }
    let of_cells = cells.iter().filter_map(|cell| {
        Some(Missing {
            what: cell.id.clone(),
            reason: cell.missing()?,
        })
    });
    let of_subjects = found.iter().flat_map(|one| one.missing.clone());
    let missing = distinct(of_cells.chain(of_subjects));
    if !missing.is_empty() {
        text.push(format!("Not measured: {}", list_missing(&missing)));
    }
    text
}

/// Each engine's points, with what `value` says of it.
fn series(found: &[Found], value: impl Fn(&Subject) -> Option<Interval>) -> Vec<Series> {
    let names = distinct(
        found
            .iter()
            .flat_map(|one| one.subjects.iter().map(|subject| subject.name.as_str())),
    );
    let line = |name: &str| {
        let points: Vec<_> = found
            .iter()
            .filter_map(|one| {
                let subject = one.subjects.iter().find(|subject| subject.name == name)?;
                Some((one.position as f64, value(subject)?))
            })
            .collect();
        (!points.is_empty()).then(|| Series::measured(name, points))
    };
    names.into_iter().filter_map(line).collect()
}

/// A line of what the floor comes to.
fn floor(found: &[Found], value: impl Fn(f64) -> f64) -> Option<Series> {
    let points: Vec<_> = found
        .iter()
        .filter_map(|one| Some((one.position as f64, value(one.floor_ms?))))
        .collect();
    (!points.is_empty()).then(|| Series::bound("floor at the read bandwidth", points))
}

fn charts(found: &[Found]) -> Vec<Chart> {
    if found.is_empty() {
        return Vec::new();
    }
    let speed = Panel {
        y: Axis::linear("decode", "tok/s"),
        series: series(found, |one| Some(Interval::from(&one.tokens_per_second)))
            .into_iter()
            .chain(floor(found, |ms| 1e3 / ms))
            .collect(),
    };
    let step = Panel {
        y: Axis::log10("step", "ms"),
        series: series(found, |one| Some(Interval::from(&one.step_ms)))
            .into_iter()
            .chain(floor(found, |ms| ms))
            .collect(),
    };
    let mut of_first = series(found, |one| {
        one.speed_of_first
            .as_ref()
            .map(|ratio| Interval::from(&ratio.ratio))
    });
    let first = found[0].subjects[0].name.clone();
    let has_ratios = !of_first.is_empty();
    let ends = [found.first(), found.last()].map(|one| one.map_or(1.0, |one| one.position as f64));
    of_first.push(Series::bound("no difference", ends.map(|at| (at, 1.0))));
    let ratio = Panel {
        y: Axis::linear(format!("speed of {first} over"), "").tight(),
        series: of_first,
    };
    let token = Panel {
        y: Axis::log10("first token", "ms"),
        series: series(found, |one| Some(Interval::from(&one.first_token_ms))),
    };
    let position = || Axis::log2("positions in the cache", "");
    let mut panels = vec![speed, step];
    if has_ratios {
        panels.push(ratio);
    }
    vec![
        Chart::lines("Speed, step and ratio by position", position(), panels).described(
            "Medians with their 95% intervals; in the last panel of ratios turn by turn.",
        ),
        Chart::lines(
            "First token and step by position",
            position(),
            vec![
                token,
                Panel {
                    y: Axis::log10("step", "ms"),
                    series: series(found, |one| Some(Interval::from(&one.step_ms))),
                },
            ],
        )
        .described("Medians with their 95% intervals, behind a past that is cached."),
    ]
}

fn table(found: &[Found]) -> Table {
    let mut table = Table::new([
        Column::number("position", ""),
        Column::text("engine"),
        Column::number("step", "ms"),
        Column::text("95% interval"),
        Column::number("speed", "tok/s"),
        Column::number("floor", "ms"),
        Column::number("of the floor's speed", "%"),
        Column::number("first token", "ms"),
        Column::number("speed of the first", ""),
        Column::text("95% interval"),
        Column::text("verdict"),
    ]);
    for one in found {
        for subject in &one.subjects {
            let step = &subject.step_ms;
            let ratio = subject.speed_of_first.as_ref();
            table.push([
                Cell::number(one.position as f64, 0),
                Cell::text(&subject.name),
                Cell::number(step.median, 2),
                Cell::text(format!("{:.2} to {:.2}", step.low, step.high)),
                Cell::number(subject.tokens_per_second.median, 1),
                Cell::number(one.floor_ms, 2),
                Cell::number(one.floor_ms.map(|floor| 100.0 * floor / step.median), 1),
                Cell::number(subject.first_token_ms.median, 2),
                Cell::number(ratio.map(|ratio| ratio.ratio.median), 3),
                ratio.map_or(Cell::Missing, |ratio| {
                    let ratio = &ratio.ratio;
                    Cell::text(format!("{:.3} to {:.3}", ratio.low, ratio.high))
                }),
                ratio.map_or(Cell::Missing, |ratio| Cell::text(ratio.verdict.to_string())),
            ]);
        }
    }
    table
}

fn real_table(found: &[Found]) -> Table {
    let mut table = Table::new([
        Column::number("position", ""),
        Column::number("step behind a prompt", "ms"),
        Column::number("behind made-up ones", "ms"),
        Column::number("ratio of speeds", ""),
        Column::text("95% interval"),
        Column::text("verdict"),
        Column::number("to run the prompt", "s"),
    ]);
    for one in found {
        let [prompt, made_up] = &one.subjects[..] else {
            continue;
        };
        let ratio = made_up.speed_of_first.as_ref();
        table.push([
            Cell::number(one.position as f64, 0),
            Cell::number(prompt.step_ms.median, 2),
            Cell::number(made_up.step_ms.median, 2),
            Cell::number(ratio.map(|ratio| ratio.ratio.median), 3),
            ratio.map_or(Cell::Missing, |ratio| {
                let ratio = &ratio.ratio;
                Cell::text(format!("{:.3} to {:.3}", ratio.low, ratio.high))
            }),
            ratio.map_or(Cell::Missing, |ratio| Cell::text(ratio.verdict.to_string())),
            Cell::number(prompt.past_seconds, 2),
        ]);
    }
    table
}
