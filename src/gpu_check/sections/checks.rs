//! What must hold of every engine, and what the sanitizers said.

use crate::gpu_check::correctness::{self, Case};
use crate::gpu_check::sanitizers;
use crate::report::section::{Captioned, Section};
use crate::report::table::{Cell, Column, Table};

pub(super) fn correctness(found: &correctness::Findings) -> Section {
    let mut table = Table::new([
        Column::text("model"),
        Column::text("variant"),
        Column::text("stage"),
        Column::text("barrier"),
        Column::number("columns", ""),
        Column::text("grid"),
        Column::number("checks that hold", ""),
        Column::number("of", ""),
        Column::text("distance of logits"),
        Column::text("what does not hold"),
    ]);
    for case in &found.cases {
        let holding = case.checks.iter().filter(|check| check.passed).count();
        let grid = match case.grid {
            None => "default".into(),
            Some([blocks, threads]) => format!("{blocks} blocks of {threads}"),
        };
        table.push([
            Cell::text(&case.model),
            Cell::text(&case.variant),
            Cell::text(&case.stage),
            Cell::text(&case.barrier),
            Cell::number(case.columns as f64, 0),
            Cell::text(grid),
            Cell::number(holding as f64, 0),
            Cell::number(case.checks.len() as f64, 0),
            distance(case),
            Cell::text(failures(case)),
        ]);
    }
    Section {
        heading: "Every engine".into(),
        text: vec![format!(
            "{} of {} engines were checked.",
            found.cases.len(),
            found.all
        )],
        tables: vec![Captioned {
            caption: "Engines against the reference and the CPU engine".into(),
            table,
        }],
        ..Section::default()
    }
}

/// The largest distance from the reference's logits, relative to the largest logit.
fn distance(case: &Case) -> Cell {
    let distances = case.checks.iter().filter_map(|check| check.distance);
    let largest = distances.reduce(f32::max);
    largest.map_or(Cell::Missing, |largest| {
        Cell::text(format!("{largest:.1e}"))
    })
}

fn failures(case: &Case) -> String {
    let failed = case.checks.iter().filter(|check| !check.passed);
    let words = failed.map(|check| match &check.found {
        None => check.what.clone(),
        Some(found) => format!("{}: {found}", check.what),
    });
    words.collect::<Vec<_>>().join("; ")
}

pub(super) fn sanitizers(found: &sanitizers::Findings) -> Section {
    let mut table = Table::new([
        Column::text("tool"),
        Column::text("arguments"),
        Column::text("result"),
    ]);
    for run in &found.runs {
        let result = match run.passed {
            true => "nothing found".into(),
            false => format!("FAILED: {}", run.word),
        };
        table.push([run.tool.clone(), run.arguments.join(" "), result].map(Cell::Text));
    }
    Section {
        heading: "Sanitizers".into(),
        text: vec![found.program.clone()],
        tables: vec![Captioned {
            caption: "What each tool said".into(),
            table,
        }],
        ..Section::default()
    }
}
