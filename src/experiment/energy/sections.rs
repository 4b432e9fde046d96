//! The tables and charts of a result.

use super::{Measured, Metered, Subject};
use crate::experiment::result::{CellRecord, list_missing};
use crate::measure::statistics::Summary;
use crate::report::chart::{Axis, Bars, Chart, Group, Interval};
use crate::report::grouping::distinct;
use crate::report::section::{Captioned, Section};
use crate::report::table::{Cell, Column, Table};

/// A section for each set.
///
/// # Errors
/// Cells of another form.
pub fn sections(cells: &[CellRecord]) -> Result<Vec<Section>, serde_json::Error> {
    cells.iter().map(section).collect()
}

fn section(cell: &CellRecord) -> Result<Section, serde_json::Error> {
    let heading = format!("Energy: {}", cell.id);
    let Some(measured) = cell.measured::<Measured>()? else {
        return Ok(Section {
            heading,
            text: cell.missing().into_iter().collect(),
            ..Section::default()
        });
    };
    let mut text = vec![format!(
        "{}, {} sequences together, {} tokens behind a prompt of {}. `Above idle` takes off what the \
         meter showed while the engine was loaded and idle.",
        measured.model, measured.batch, measured.new_tokens, measured.prompt_tokens
    )];
    let of_subjects = measured
        .subjects
        .iter()
        .flat_map(|subject| &subject.missing);
    let missing: Vec<_> = measured
        .missing
        .iter()
        .chain(of_subjects)
        .cloned()
        .collect();
    if !missing.is_empty() {
        text.push(format!("Not measured: {}", list_missing(&missing)));
    }
    Ok(Section {
        heading,
        text,
        charts: vec![chart(&cell.id, &measured)],
        tables: vec![Captioned {
            caption: "Tokens for each joule; medians of the rounds with 95% intervals".into(),
            table: table(&measured),
        }],
    })
}

/// Tokens for each joule, by subject and meter.
fn chart(set: &str, measured: &Measured) -> Chart {
    let metered = measured
        .subjects
        .iter()
        .flat_map(|subject| &subject.metered);
    let meters = distinct(metered.map(|metered| metered.meter.as_str()));
    let group = |subject: &Subject| {
        let bar = |meter: &&str| {
            let mut of = subject.metered.iter();
            let metered = of.find(|metered| metered.meter == *meter)?;
            Some(Interval::from(&metered.tokens_per_joule))
        };
        Group {
            label: subject.name.clone(),
            bars: meters.iter().map(bar).collect(),
        }
    };
    let bars = Bars {
        axis: Axis::linear("tokens for each joule", "tok/J"),
        series: meters.iter().map(|meter| (*meter).to_owned()).collect(),
        groups: measured.subjects.iter().map(group).collect(),
    };
    Chart::bars(format!("Tokens for each joule: {set}"), bars).described(
        "Median of the rounds with its 95% interval, idle power included; more is better.",
    )
}

fn table(measured: &Measured) -> Table {
    let mut table = Table::new([
        Column::text("subject"),
        Column::text("engine"),
        Column::text("meter"),
        Column::number("tokens for each joule", ""),
        Column::text("95% interval"),
        Column::number("above idle", ""),
        Column::number("power", "W"),
        Column::number("peak", "W"),
        Column::number("idle", "W"),
        Column::number("speed", "tok/s"),
    ]);
    for subject in &measured.subjects {
        for metered in &subject.metered {
            table.push(row(subject, metered));
        }
    }
    table
}

fn row(subject: &Subject, metered: &Metered) -> [Cell; 10] {
    let per_joule = &metered.tokens_per_joule;
    let above = metered.tokens_per_joule_above_idle.as_ref();
    let median = |summary: &Summary| Cell::number(summary.median, 1);
    [
        Cell::text(&subject.name),
        Cell::text(format!("{}, {} threads", subject.engine, subject.threads)),
        Cell::text(&metered.meter),
        Cell::number(per_joule.median, 3),
        Cell::text(format!("[{:.3}, {:.3}]", per_joule.low, per_joule.high)),
        Cell::number(above.map(|summary| summary.median), 3),
        median(&metered.average_watts),
        Cell::number(metered.peak_watts, 1),
        median(&metered.idle_watts),
        median(&subject.tokens_per_second),
    ]
}
