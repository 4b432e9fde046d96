//! Step time and speed of each contender against the position, and contenders against the first.

use crate::gpu_check::decode::{AtPosition, Findings, Run};
use crate::measure::statistics::Summary;
use crate::report::chart::{Axis, Chart, Interval, Panel, Series};
use crate::report::grouping::distinct;
use crate::report::section::{Captioned, Section};
use crate::report::table::{Cell, Column, Table};

pub(super) fn sections(found: &Findings) -> Vec<Section> {
    let text = vec![format!(
        "{}, one sequence, greedy. Bandwidth of the floors: {}.",
        found.model, found.floor_from
    )];
    let mut charts = vec![against_position(found)];
    if found.positions.iter().any(|at| !at.ratios.is_empty()) {
        let rows = found.positions.iter().flat_map(|at| {
            at.ratios.iter().map(|named| {
                let label = format!("{} at {}", named.of, at.position);
                named.ratio.charted(label)
            })
        });
        let chart = Chart::ratios(
            "Speed of the first contender over the others",
            rows.collect(),
        );
        charts.push(chart.described(
            "Ratios of rounds beside each other, by position: median with its 95% interval.",
        ));
    }
    vec![Section {
        heading: "Decode by position".into(),
        text,
        charts,
        tables: vec![table(found)],
    }]
}

/// A step's time as a speed, and its interval.
fn speed(step: &Summary) -> Interval {
    Interval {
        value: 1e6 / step.median,
        low: 1e6 / step.high,
        high: 1e6 / step.low,
    }
}

fn against_position(found: &Findings) -> Chart {
    let runs = found.positions.iter().flat_map(|at| &at.runs);
    let names = distinct(runs.map(|run| run.name.as_str()));
    let lines = |of: &dyn Fn(&Summary) -> Interval| -> Vec<Series> {
        let points = |name: &str| {
            let run = |at: &AtPosition| {
                let run = at.runs.iter().find(|run| run.name == name)?;
                let step = run.step_microseconds.as_ref()?;
                Some((at.position as f64, of(step)))
            };
            found.positions.iter().filter_map(run).collect::<Vec<_>>()
        };
        names
            .iter()
            .map(|name| Series::measured(*name, points(name)))
            .collect()
    };
    type Floor = fn(&AtPosition) -> Option<f64>;
    let floors: [(&str, Floor); 2] = [
        ("floor at the measured bandwidth", |at| {
            at.floor_microseconds
        }),
        ("floor at the specified bandwidth", |at| {
            at.floor_of_specification_microseconds
        }),
    ];
    let bounds = |of: &dyn Fn(f64) -> f64| -> Vec<Series> {
        let bound = |(name, floor): (&str, Floor)| {
            let point = |at: &AtPosition| Some((at.position as f64, of(floor(at)?)));
            Series::bound(name, found.positions.iter().filter_map(point))
        };
        floors.into_iter().map(bound).collect()
    };
    let panel = |y: Axis, series: Vec<Series>, bounds: Vec<Series>| Panel {
        y,
        series: series.into_iter().chain(bounds).collect(),
    };
    Chart::lines(
        "Step time and speed against position",
        Axis::log2("positions cached before the first step", ""),
        vec![
            panel(
                Axis::linear("step", "us"),
                lines(&|step| Interval::from(step)),
                bounds(&|floor| floor),
            ),
            panel(
                Axis::linear("decode", "tok/s"),
                lines(&speed),
                bounds(&|floor| 1e6 / floor),
            ),
        ],
    )
    .described("Median by the device's events, with its 95% interval.")
}

fn table(found: &Findings) -> Captioned {
    let mut table = Table::new([
        Column::number("position", ""),
        Column::text("contender"),
        Column::number("step", "us"),
        Column::number("low", "us"),
        Column::number("high", "us"),
        Column::number("decode", "tok/s"),
        Column::number("of the floor", "%"),
        Column::number("between tokens", "us"),
        Column::text("output"),
    ]);
    for (at, run) in found
        .positions
        .iter()
        .flat_map(|at| at.runs.iter().map(move |run| (at, run)))
    {
        let step = run.step_microseconds.as_ref();
        let number = |value: fn(&Summary) -> f64| Cell::number(step.map(value), 1);
        let share = at.floor_microseconds.zip(step);
        let token = run.token_microseconds.as_ref();
        table.push([
            Cell::number(at.position as f64, 0),
            Cell::text(&run.name),
            number(|step| step.median),
            number(|step| step.low),
            number(|step| step.high),
            number(|step| 1e6 / step.median),
            Cell::number(share.map(|(floor, step)| 100.0 * floor / step.median), 1),
            Cell::number(token.map(|token| token.median), 1),
            Cell::text(output(run)),
        ]);
    }
    Captioned {
        caption: "Every contender at every position".into(),
        table,
    }
}

/// What became of the check, or why there is none.
fn output(run: &Run) -> String {
    match (&run.checked, &run.not_measured) {
        (_, Some(why)) => format!("not measured: {why}"),
        (Some(checked), None) => format!(
            "{} of {} tokens equal, logits within {:.1e}",
            checked.tokens_equal, checked.tokens, checked.logits_distance
        ),
        (None, None) => "not checked".into(),
    }
}
