//! What the results say: a table for each model and batch, and one of what was written.

use super::Method;
use super::judge::Verdicts;
use super::measure::{Found, MethodFound};
use crate::experiment::result::{CellRecord, measured};
use crate::report::chart::{Axis, Bars, Chart, Group, Interval};
use crate::report::grouping::{by_caption, distinct, tables};
use crate::report::section::Section;
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
    let groups = by_caption(&found, caption);
    let speed = Section {
        heading: "What constraints cost".into(),
        text: vec![
            "Tokens per second over those without a constraint, on the same seeds and in turns; \
             milliseconds, passes through the layers and bytes for each token made. Without a \
             constraint as many tokens are made as the automaton's texts have."
                .into(),
        ],
        charts: groups
            .iter()
            .flat_map(|(caption, group)| [times(caption, group), speedups(caption, group)])
            .collect(),
        tables: tables(&groups, speed_table),
    };
    let worth = Section {
        heading: "What was written".into(),
        text: vec![
            "Valid: the whole text matches; without a constraint, it begins with a match. Junk: points \
             with a letter in them, coordinates with more than four decimals, coordinates with more \
             than one number."
                .into(),
        ],
        tables: tables(&groups, worth_table),
        ..Section::default()
    };
    Ok(vec![speed, worth])
}

/// What the cells of one model and batch share.
fn caption(one: &Found) -> String {
    format!(
        "{}, batch {} ({}, {}, {} threads)",
        one.model, one.batch, one.engine, one.kernels, one.threads
    )
}

/// Milliseconds a token, by workload and method.
fn times(caption: &str, group: &[&Found]) -> Chart {
    let methods = distinct(rows(group).map(|(_, method)| method.method));
    let bars = |one: &&Found| {
        let bar = |name: &Method| {
            let mut of = one.methods.iter();
            let method = of.find(|method| method.method == *name)?;
            Some(Interval::from(&method.token_ms))
        };
        Group {
            label: one.workload.clone(),
            bars: methods.iter().map(bar).collect(),
        }
    };
    let bars = Bars {
        axis: Axis::linear("time per token", "ms"),
        series: methods.iter().map(|method| method.name().into()).collect(),
        groups: group.iter().map(bars).collect(),
    };
    Chart::bars(format!("Time per token: {caption}"), bars)
        .described("Median of the rounds with its 95% interval; a batch's tokens count together.")
}

/// Each method's speed over that of the first.
fn speedups(caption: &str, group: &[&Found]) -> Chart {
    let row = |(one, method): (&Found, &MethodFound)| {
        let label = format!("{}, {}", one.workload, method.method.name());
        method
            .speedup
            .as_ref()
            .map(|speedup| speedup.charted(label))
    };
    Chart::ratios(
        format!("Speed over none: {caption}"),
        rows(group).filter_map(row).collect(),
    )
    .described("Ratios round by round, on the same seeds: median with its 95% interval.")
}

fn rows<'f>(group: &[&'f Found]) -> impl Iterator<Item = (&'f Found, &'f MethodFound)> {
    let pairs = group
        .iter()
        .map(|&one| one.methods.iter().map(move |method| (one, method)));
    pairs.flatten().collect::<Vec<_>>().into_iter()
}

fn speed_table(group: &[&Found]) -> Table {
    let mut table = Table::new(vec![
        Column::text("workload"),
        Column::text("method"),
        Column::number("speed over none", ""),
        Column::text("95% interval"),
        Column::number("time per token", "ms"),
        Column::number("passes per token", ""),
        Column::number("read per token", "MB"),
        Column::number("forced", "%"),
        Column::number("gathered", "%"),
        Column::number("compile", "ms"),
        Column::number("tables", "KB"),
    ]);
    for (one, method) in rows(group) {
        let tokens: usize = method.tokens.iter().sum();
        let per_token =
            |count: Option<u64>, unit: f64| count.map(|c| c as f64 / unit / tokens as f64);
        let share = |count: usize| {
            (method.method != Method::None).then(|| 100.0 * count as f64 / tokens as f64)
        };
        let compiled = method.compiled.as_ref();
        let ratio = method.speedup.as_ref().map(|speedup| &speedup.ratio);
        table.push(vec![
            Cell::text(&one.workload),
            Cell::text(method.method.name()),
            Cell::number(ratio.map(|ratio| ratio.median), 2),
            ratio.map_or(Cell::Missing, |ratio| {
                Cell::text(format!("{:.2} to {:.2}", ratio.low, ratio.high))
            }),
            Cell::number(method.token_ms.median, 2),
            Cell::number(per_token(method.work.map(|work| work.passes), 1.0), 3),
            Cell::number(per_token(method.bytes, 1e6), 1),
            Cell::number(share(method.guided.forced), 0),
            Cell::number(share(method.guided.gathered), 0),
            Cell::number(compiled.map(|compiled| compiled.compile_ms), 1),
            Cell::number(
                compiled
                    .and_then(|c| c.table_bytes)
                    .map(|bytes| bytes as f64 / 1e3),
                0,
            ),
        ]);
    }
    table
}

fn worth_table(group: &[&Found]) -> Table {
    let mut table = Table::new(vec![
        Column::text("workload"),
        Column::text("method"),
        Column::number("texts", ""),
        Column::number("valid", "%"),
        Column::number("cut", "%"),
        Column::number("letters", "%"),
        Column::number("more digits", "%"),
        Column::number("other number", "%"),
        Column::text("first text"),
    ]);
    for (one, method) in rows(group) {
        let Verdicts {
            texts,
            valid,
            cut,
            junk,
        } = method.verdicts;
        let share = |count: usize, of: usize| (of > 0).then(|| 100.0 * count as f64 / of as f64);
        table.push(vec![
            Cell::text(&one.workload),
            Cell::text(method.method.name()),
            Cell::number(texts as f64, 0),
            Cell::number(share(valid, texts), 1),
            Cell::number(share(cut, texts), 1),
            Cell::number(share(junk.letters, junk.points), 1),
            Cell::number(share(junk.more_digits, junk.coordinates), 1),
            Cell::number(share(junk.other_number, junk.coordinates), 1),
            Cell::text(beginning(&method.example)),
        ]);
    }
    table
}

/// The first characters of a text, on one line.
fn beginning(text: &str) -> String {
    const SHOWN: usize = 32;
    let shown: String = text.chars().take(SHOWN).collect();
    let more = if text.chars().count() > SHOWN {
        "…"
    } else {
        ""
    };
    format!("{}{more}", shown.escape_debug())
}
