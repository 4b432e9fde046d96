//! What the results say: all comparisons at all positions in one table, and each with its speeds.

use super::{Found, SideFound};
use crate::experiment::result::{CellRecord, Missing, list_missing, measured};
use crate::report::chart::Chart;
use crate::report::grouping::distinct;
use crate::report::section::{Captioned, Section};
use crate::report::table::{Cell, Column, Table};

/// The sections of a result.
///
/// # Errors
/// Cells of another form.
pub fn sections(cells: &[CellRecord]) -> Result<Vec<Section>, serde_json::Error> {
    let found: Vec<Found> = measured(cells)?
        .into_iter()
        .map(|(_, found)| found)
        .collect();
    let missing = missing(cells);
    let comparisons = distinct(found.iter().map(|one| one.comparison.as_str()));
    let mut text = vec![
        "Tokens per second with an optimisation over those without it, pair by pair, in turns, behind \
         made-up keys and values. Positions are those in the cache before the first step."
            .into(),
    ];
    if !missing.is_empty() {
        text.push(format!("Not measured: {}", list_missing(&missing)));
    }
    let mut sections = vec![Section {
        heading: "All comparisons".into(),
        text,
        charts: Vec::new(),
        tables: vec![Captioned {
            caption: "Speed with it over speed without it, and the verdict".into(),
            table: compare_all(&found, &comparisons),
        }],
    }];
    for comparison in comparisons {
        let of_one: Vec<&Found> = found
            .iter()
            .filter(|one| one.comparison == comparison)
            .collect();
        sections.push(section(comparison, &of_one));
    }
    Ok(sections)
}

/// What was not measured, by comparison: the positions of one have the same reason.
fn missing(cells: &[CellRecord]) -> Vec<Missing> {
    let mut missing: Vec<Missing> = Vec::new();
    for cell in cells {
        let Some(reason) = cell.missing() else {
            continue;
        };
        let what = cell.id.rsplit_once("/position-");
        let what = what.map_or(cell.id.as_str(), |(comparison, _)| comparison);
        let one = Missing {
            what: what.to_owned(),
            reason,
        };
        if !missing.contains(&one) {
            missing.push(one);
        }
    }
    missing
}

/// A row for each comparison, a column for each position.
fn compare_all(found: &[Found], comparisons: &[&str]) -> Table {
    let positions = distinct(found.iter().map(|one| one.position));
    let mut columns = vec![Column::text("comparison")];
    columns.extend(
        positions
            .iter()
            .map(|position| Column::text(format!("at {position}"))),
    );
    let mut table = Table::new(columns);
    for comparison in comparisons {
        let mut cells = vec![Cell::text(*comparison)];
        cells.extend(positions.iter().map(|position| {
            let mut all = found.iter();
            let one = all.find(|one| one.comparison == *comparison && one.position == *position);
            one.map_or(Cell::Missing, |one| {
                let ratio = &one.speedup;
                Cell::text(format!("{:.3} {}", ratio.ratio.median, ratio.verdict))
            })
        }));
        table.push(cells);
    }
    table
}

fn section(comparison: &str, found: &[&Found]) -> Section {
    let first = found.first().expect("a comparison of what was measured");
    let rows = found
        .iter()
        .map(|one| one.speedup.charted(format!("position {}", one.position)));
    let bits = found.iter().filter(|one| one.agreement.same_bits).count();
    Section {
        heading: comparison.to_owned(),
        text: vec![format!(
            "{}: {} over {}; {} threads, {} steps a turn. Both gave the same logits bit for bit at {bits} \
             of {} positions, and else within KL {}.",
            first.model,
            described(&first.variant),
            described(&first.base),
            first.variant.threads,
            first.steps,
            found.len(),
            first.agreement.kl_limit
        )],
        charts: vec![
            Chart::ratios(format!("Speedup: {comparison}"), rows.collect())
                .described("Ratios pair by pair: median with its bootstrapped 95% interval."),
        ],
        tables: vec![Captioned {
            caption: "Medians of the turns, and of the ratios with 95% intervals".into(),
            table: table(found),
        }],
    }
}

/// A side in words.
fn described(side: &SideFound) -> String {
    match side.columns {
        1 => side.engine.clone(),
        columns => format!("{columns} sequences by {}", side.engine),
    }
}

fn table(found: &[&Found]) -> Table {
    let mut table = Table::new([
        Column::number("position", ""),
        Column::number("step without", "ms"),
        Column::number("step with", "ms"),
        Column::number("without", "tok/s"),
        Column::number("with", "tok/s"),
        Column::number("ratio", ""),
        Column::text("95% interval"),
        Column::text("verdict"),
    ]);
    for one in found {
        let ratio = &one.speedup.ratio;
        table.push([
            Cell::number(one.position as f64, 0),
            Cell::number(one.base.step_ms.median, 3),
            Cell::number(one.variant.step_ms.median, 3),
            Cell::number(one.base.tokens_per_second.median, 1),
            Cell::number(one.variant.tokens_per_second.median, 1),
            Cell::number(ratio.median, 3),
            Cell::text(format!("{:.3} to {:.3}", ratio.low, ratio.high)),
            Cell::text(one.speedup.verdict.to_string()),
        ]);
    }
    table
}
