//! What the results say: a table of speeds for each temperature, what was written, and the drift.

use super::measure::{Found, MethodFound};
use super::method::Method;
use super::points::Histogram;
use crate::experiment::result::{CellRecord, measured};
use crate::measure::statistics::median;
use crate::report::chart::{Axis, Bars, Chart, Group};
use crate::report::grouping::{by_caption, distinct, tables};
use crate::report::section::Section;
use crate::report::table::{Cell, Column, Table};

/// The sections of a result.
///
/// # Errors
/// Cells of another form.
pub fn sections(cells: &[CellRecord]) -> Result<Vec<Section>, serde_json::Error> {
    let cells = measured(cells)?.into_iter();
    let found: Vec<Found> = cells.map(|(_, found)| found).collect();
    let groups = by_caption(&found, caption);
    let speed = Section {
        heading: "What forms cost".into(),
        text: vec![
            "Molecules per second over those of the first method, on the same molecules and seeds and in \
             turns, without and with the time that the constraints take to compile; and over the mask by \
             position. Every text ends where its model or its constraint ends it, or at the token limit."
                .into(),
        ],
        charts: groups.iter().map(|(caption, group)| speedups(caption, group)).collect(),
        tables: tables(&groups, speed_table),
    };
    let worth = Section {
        heading: "What was written".into(),
        text: vec![
            "Valid: the model or the constraint ended the text, and the whole of it matches. Junk: points \
             with a letter in them, coordinates with more than four decimals, coordinates with more than \
             one number. Forced: the probability that the model itself, without a mask, gives to tokens \
             that it had no choice about."
                .into(),
        ],
        charts: groups.iter().map(|(caption, group)| valid_shares(caption, group)).collect(),
        tables: tables(&groups, worth_table),
    };
    let drift = Section {
        heading: "How many tokens a point takes".into(),
        text: vec![
            "A mask by position has as many free positions as its placeholder has tokens, whatever the \
             point takes. Of the data: held-out conformers, each point spelled between copied marks."
                .into(),
        ],
        charts: distinct_data(&found).into_iter().map(data_lengths).collect(),
        tables: tables(&groups, drift_table),
    };
    Ok(vec![speed, worth, drift])
}

/// What the cells of one temperature share.
fn caption(one: &Found) -> String {
    let sampling = match one.temperature {
        0.0 => "greedy".to_owned(),
        temperature => format!("temperature {temperature}"),
    };
    format!(
        "{sampling}, batch {} ({}, {}, {} threads)",
        one.batch, one.engine, one.kernels, one.threads
    )
}

fn rows<'f>(group: &[&'f Found]) -> impl Iterator<Item = (&'f Found, &'f MethodFound)> {
    let of = |one: &'f Found| one.methods.iter().map(move |method| (one, method));
    let pairs: Vec<_> = group.iter().flat_map(|&one| of(one)).collect();
    pairs.into_iter()
}

fn share(count: usize, of: usize) -> Option<f64> {
    (of > 0).then(|| 100.0 * count as f64 / of as f64)
}

fn speedups(caption: &str, group: &[&Found]) -> Chart {
    let row = |(one, method): (&Found, &MethodFound)| {
        let label = format!("{}, {}", one.model, method.method.name());
        let speedup = method.speedup_with_compile.as_ref();
        speedup.map(|speedup| speedup.charted(label))
    };
    let rows = rows(group).filter_map(row).collect();
    Chart::ratios(
        format!("Molecules per second over no constraint: {caption}"),
        rows,
    )
    .described(
        "Ratios batch by batch, on the same molecules: median with its 95% interval. The time of a \
         constrained molecule includes the compiling of its constraint.",
    )
}

fn valid_shares(caption: &str, group: &[&Found]) -> Chart {
    let methods = distinct(rows(group).map(|(_, method)| method.method));
    let bars = |one: &&Found| {
        let bar = |name: &Method| {
            let mut of = one.methods.iter();
            let verdicts = of.find(|method| method.method == *name)?.verdicts;
            share(verdicts.valid, verdicts.texts).map(Into::into)
        };
        Group {
            label: one.model.clone(),
            bars: methods.iter().map(bar).collect(),
        }
    };
    let bars = Bars {
        axis: Axis::linear("valid texts", "%"),
        series: methods.iter().map(|method| method.name().into()).collect(),
        groups: group.iter().map(bars).collect(),
    };
    Chart::bars(format!("Valid texts: {caption}"), bars)
        .described("Share of texts that end by themselves and match as a whole.")
}

/// One cell of each tokenizer.
fn distinct_data(found: &[Found]) -> Vec<&Found> {
    let mut cells: Vec<&Found> = Vec::new();
    for one in found {
        if !cells.iter().any(|known| known.data == one.data) {
            cells.push(one);
        }
    }
    cells
}

fn data_lengths(one: &Found) -> Chart {
    let of = |histogram: &Histogram, tokens: usize| {
        let all = histogram.values().sum();
        let count = histogram.get(&tokens).copied().unwrap_or(0);
        share(count, all).map(Into::into)
    };
    let truths = &one.data.lengths.points;
    let automaton = one
        .methods
        .iter()
        .find(|m| m.method == Method::Automaton)
        .map(|m| &m.lengths.points);
    let all = truths
        .keys()
        .chain(automaton.into_iter().flat_map(|h| h.keys()));
    let (least, most) = all.fold((usize::MAX, 0), |(a, b), &n| (a.min(n), b.max(n)));
    let group = |tokens: usize| {
        let mark = match tokens == one.data.placeholder {
            true => " (placeholder)",
            false => "",
        };
        Group {
            label: format!("{tokens} tokens{mark}"),
            bars: vec![
                of(truths, tokens),
                automaton.and_then(|histogram| of(histogram, tokens)),
            ],
        }
    };
    let bars = Bars {
        axis: Axis::linear("points", "%"),
        series: vec!["of the data".into(), "written by the automaton".into()],
        groups: (least..=most).map(group).collect(),
    };
    Chart::bars(
        format!("Tokens of a point: the tokenizer of {}", one.model),
        bars,
    )
    .described(
        "Tokens between < and >. Of the data: spelled between copied marks, so that a sign in front is \
         a token of its own; the automaton may join it to the mark before it.",
    )
}

/// Molecules per second over those of the mask by position, batch by batch; `None` for it and for none.
fn over_position(one: &Found, method: &MethodFound) -> Option<f64> {
    let mut of = one.methods.iter();
    let position = of.find(|other| other.method == Method::Position)?;
    if [Method::None, Method::Position].contains(&method.method) {
        return None;
    }
    let pairs = position.seconds.iter().zip(&method.seconds);
    let ratios: Vec<f64> = pairs.map(|(position, own)| position / own).collect();
    (!ratios.is_empty()).then(|| median(&ratios))
}

fn speed_table(group: &[&Found]) -> Table {
    let mut table = Table::new([
        Column::text("model"),
        Column::text("method"),
        Column::number("valid", "%"),
        Column::number("speed over none", ""),
        Column::text("95% interval"),
        Column::number("with compiling", ""),
        Column::number("over position", ""),
        Column::number("time per molecule", "ms"),
        Column::number("compile", "ms"),
        Column::number("time per token", "ms"),
        Column::number("tokens per molecule", ""),
        Column::number("passes per molecule", ""),
        Column::number("read per molecule", "MB"),
        Column::number("forced", "%"),
        Column::number("gathered", "%"),
        Column::number("full", "%"),
    ]);
    for (one, method) in rows(group) {
        let molecules = one.molecules as f64;
        let batches = one.molecules.div_ceil(one.batch);
        let rounds = (method.seconds.len() / batches.max(1)) as f64;
        let counts = method.guided;
        let all = counts.forced + counts.gathered + counts.full;
        let ratio = method.speedup.as_ref().map(|speedup| &speedup.ratio);
        let with_compile = method.speedup_with_compile.as_ref();
        let per_molecule =
            |count: Option<u64>, unit: f64| count.map(|c| c as f64 / unit / rounds / molecules);
        table.push([
            Cell::text(&one.model),
            Cell::text(method.method.name()),
            Cell::number(share(method.verdicts.valid, method.verdicts.texts), 1),
            Cell::number(ratio.map(|ratio| ratio.median), 3),
            ratio.map_or(Cell::Missing, |ratio| {
                Cell::text(format!("{:.3} to {:.3}", ratio.low, ratio.high))
            }),
            Cell::number(with_compile.map(|speedup| speedup.ratio.median), 3),
            Cell::number(over_position(one, method), 3),
            Cell::number(method.molecule_ms.median, 3),
            Cell::number(method.compile_ms.iter().sum::<f64>() / molecules, 3),
            Cell::number(method.token_ms.median, 4),
            Cell::number(method.tokens as f64 / molecules, 1),
            Cell::number(per_molecule(method.work.map(|work| work.passes), 1.0), 2),
            Cell::number(per_molecule(method.bytes, 1e6), 1),
            Cell::number(share(counts.forced, all), 1),
            Cell::number(share(counts.gathered, all), 1),
            Cell::number(share(counts.full, all), 1),
        ]);
    }
    table
}

fn worth_table(group: &[&Found]) -> Table {
    let mut table = Table::new([
        Column::text("model"),
        Column::text("method"),
        Column::number("texts", ""),
        Column::number("valid", "%"),
        Column::number("cut", "%"),
        Column::number("letters", "%"),
        Column::number("more digits", "%"),
        Column::number("other number", "%"),
        Column::number("probability of forced", "%"),
        Column::number("below half", "%"),
        Column::number("below a thousandth", "%"),
        Column::number("checked texts", ""),
    ]);
    for (one, method) in rows(group) {
        let verdicts = method.verdicts;
        let junk = verdicts.junk;
        let forced = &method.forced;
        let mean = (forced.tokens > 0).then_some(100.0 * forced.mean);
        table.push([
            Cell::text(&one.model),
            Cell::text(method.method.name()),
            Cell::number(verdicts.texts as f64, 0),
            Cell::number(share(verdicts.valid, verdicts.texts), 1),
            Cell::number(share(verdicts.cut, verdicts.texts), 1),
            Cell::number(share(junk.letters, junk.points), 2),
            Cell::number(share(junk.more_digits, junk.coordinates), 2),
            Cell::number(share(junk.other_number, junk.coordinates), 2),
            Cell::number(mean, 1),
            Cell::number(share(forced.below_half, forced.tokens), 1),
            Cell::number(share(forced.below_thousandth, forced.tokens), 2),
            Cell::number(method.checked.len() as f64, 0),
        ]);
    }
    table
}

fn drift_table(group: &[&Found]) -> Table {
    let mut table = Table::new([
        Column::text("model"),
        Column::text("points of"),
        Column::number("points", ""),
        Column::number("free positions", ""),
        Column::number("as many tokens", "%"),
        Column::number("fewer", "%"),
        Column::number("more", "%"),
        Column::number("mean tokens of a point", ""),
        Column::number("mean tokens of a coordinate", ""),
    ]);
    let mut row = |model: &str, of: &str, free: usize, lengths: &super::points::Lengths| {
        let points: usize = lengths.points.values().sum();
        let with = |holds: &dyn Fn(usize) -> bool| {
            let held = lengths.points.iter().filter(|(tokens, _)| holds(**tokens));
            share(held.map(|(_, count)| count).sum(), points)
        };
        table.push([
            Cell::text(model),
            Cell::text(of),
            Cell::number(points as f64, 0),
            Cell::number(free as f64, 0),
            Cell::number(with(&|tokens| tokens == free), 1),
            Cell::number(with(&|tokens| tokens < free), 1),
            Cell::number(with(&|tokens| tokens > free), 1),
            Cell::number(mean(&lengths.points), 2),
            Cell::number(mean(&lengths.coordinates), 2),
        ]);
    };
    for one in group {
        let data = &one.data;
        row(&one.model, "the data", data.placeholder, &data.lengths);
        for method in &one.methods {
            let free = match method.method {
                Method::PositionFitted => data.fitted,
                _ => data.placeholder,
            };
            row(&one.model, method.method.name(), free, &method.lengths);
        }
    }
    table
}

fn mean(histogram: &Histogram) -> Option<f64> {
    let count: usize = histogram.values().sum();
    let sum: usize = histogram.iter().map(|(value, count)| value * count).sum();
    (count > 0).then(|| sum as f64 / count as f64)
}
