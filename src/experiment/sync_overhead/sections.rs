//! What the results say: a table of all ways.

use super::Found;
use crate::experiment::result::{CellRecord, measured};
use crate::report::chart::{Axis, Chart, Interval, Panel, Series};
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
    let (mut charts, mut tables) = (Vec::new(), Vec::new());
    for load in loads(&found) {
        let here: Vec<&Found> = found.iter().filter(|one| one.load_bytes == load).collect();
        charts.push(chart(load, &here));
        tables.push(Captioned {
            caption: match load {
                0 => "Empty phases: all of the time is waiting".into(),
                load => format!(
                    "{:.2} MB read in each phase, by all together; the waiting is what a phase takes beyond the read",
                    f64::from(load) * 1e-6
                ),
            },
            table: table(&here),
        });
    }
    Ok(vec![Section {
        heading: "What it costs to keep in step".into(),
        text: vec![
            "Each way was first seen to keep order: what every thread wrote in one phase, all read in the \
             next. Runs took turns; in brackets bootstrapped 95% intervals."
                .into(),
        ],
        charts,
        tables,
    }])
}

fn loads(found: &[Found]) -> Vec<u32> {
    let mut loads: Vec<u32> = found.iter().map(|one| one.load_bytes).collect();
    loads.sort_unstable();
    loads.dedup();
    loads
}

/// The time of a phase against how many keep in step, a line for each way.
fn chart(load: u32, found: &[&Found]) -> Chart {
    let ways = found.iter().flat_map(|one| &one.ways);
    let ways = distinct(ways.map(|way| way.way.as_str()));
    let line = |name: &&str| {
        let points = found.iter().filter_map(|one| {
            let way = one.ways.iter().find(|way| way.way == *name)?;
            Some((one.parties as f64, Interval::from(&way.phase_microseconds)))
        });
        Series::measured(*name, points)
    };
    let panel = Panel {
        y: Axis::log10("time of a phase", "us"),
        series: ways.iter().map(line).collect(),
    };
    let title = match load {
        0 => "Empty phases".into(),
        load => format!("Phases that read {:.2} MB", f64::from(load) * 1e-6),
    };
    let parties = match found.iter().any(|one| one.threads_of_a_block.is_some()) {
        true => "blocks",
        false => "threads",
    };
    Chart::lines(title, Axis::log2(parties, ""), vec![panel])
        .described("Median with its 95% interval; less is better.")
}

fn table(found: &[&Found]) -> Table {
    let mut table = Table::new(vec![
        Column::text("device"),
        Column::number("threads or blocks", ""),
        Column::text("way"),
        Column::number("a phase", "us"),
        Column::text("95% interval"),
        Column::number("a run", "ms"),
        Column::number("over the first", ""),
    ]);
    for one in found {
        let first = one.ways.first().map(|way| way.phase_microseconds.median);
        for way in &one.ways {
            let phase = &way.phase_microseconds;
            table.push(vec![
                Cell::text(&one.device),
                Cell::number(one.parties as f64, 0),
                Cell::text(&way.way),
                Cell::number(phase.median, 2),
                Cell::text(format!("{:.2} to {:.2}", phase.low, phase.high)),
                Cell::number(way.run_microseconds.median * 1e-3, 3),
                Cell::number(first.map(|first| phase.median / first), 2),
            ]);
        }
    }
    table
}
