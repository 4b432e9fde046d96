//! What memory gives, and what launches and barriers cost.

use crate::gpu_check::ceilings::Findings;
use crate::measure::device_costs::{BarrierCost, Read};
use crate::report::chart::{Axis, Bars, Chart, Group, Interval, Panel, Series};
use crate::report::grouping::distinct;
use crate::report::section::{Captioned, Section};
use crate::report::table::{Cell, Column, Table};

pub(super) fn sections(found: &Findings) -> Vec<Section> {
    vec![
        Section {
            heading: "Read bandwidth".into(),
            charts: vec![reads(found)],
            ..Section::default()
        },
        Section {
            heading: "Launches and barriers".into(),
            text: vec![
                "A barrier's cost is the time of a step with it less that of the same step without, \
                 measured in turns."
                    .into(),
            ],
            charts: vec![launches(found), barriers(found)],
            tables: vec![table(found)],
        },
    ]
}

fn reads(found: &Findings) -> Chart {
    let scaled = |read: &Read| {
        let Interval { value, low, high } = Interval::from(&read.bytes_per_second);
        Interval {
            value: value * 1e-9,
            low: low * 1e-9,
            high: high * 1e-9,
        }
    };
    let grids = distinct(found.reads.iter().map(|read| (read.blocks, read.threads)));
    let mut series: Vec<Series> = grids
        .into_iter()
        .map(|grid| {
            let of_grid = found
                .reads
                .iter()
                .filter(|read| (read.blocks, read.threads) == grid);
            let points = of_grid.map(|read| (read.bytes as f64 * 1e-6, scaled(read)));
            Series::measured(format!("{} blocks of {} threads", grid.0, grid.1), points)
        })
        .collect();
    if let Some(specified) = found.specified_bandwidth_bytes_per_second {
        let sizes = distinct(found.reads.iter().map(|read| read.bytes));
        let points = sizes
            .into_iter()
            .map(|bytes| (bytes as f64 * 1e-6, specified * 1e-9));
        series.push(Series::bound("specified", points));
    }
    let panel = Panel {
        y: Axis::linear("read", "GB/s"),
        series,
    };
    Chart::lines(
        "Read bandwidth",
        Axis::log2("bytes read once", "MB"),
        vec![panel],
    )
    .described("Median with its 95% interval.")
}

fn launches(found: &Findings) -> Chart {
    let group = |label: &str, bar: Interval| Group {
        label: label.into(),
        bars: vec![Some(bar)],
    };
    let groups = found
        .launches
        .iter()
        .map(|launch| group(&launch.kind, Interval::from(&launch.microseconds)));
    Chart::bars(
        "An empty kernel",
        Bars {
            axis: Axis::linear("time of a launch", "us"),
            series: vec!["launch".into()],
            groups: groups.collect(),
        },
    )
    .described("Each of many, one behind the other; median with its 95% interval.")
}

/// What is read between two barriers.
fn load(bytes: u32) -> String {
    match bytes {
        0 => "idle".into(),
        bytes if bytes < 1 << 20 => format!("{} KiB read between", bytes >> 10),
        bytes => format!("{} MiB read between", bytes >> 20),
    }
}

fn barriers(found: &Findings) -> Chart {
    let kind = |cost: &BarrierCost| (cost.kind.clone(), cost.blocks, cost.threads);
    let loads = distinct(found.barriers.iter().map(|cost| cost.bytes_between));
    let groups = distinct(found.barriers.iter().map(kind))
        .into_iter()
        .map(|key| {
            let bar = |bytes: &u32| {
                let mut costs = found.barriers.iter();
                let cost = costs.find(|cost| kind(cost) == key && cost.bytes_between == *bytes)?;
                Some(Interval::from(&cost.microseconds))
            };
            Group {
                label: format!("{}, {} blocks of {}", key.0, key.1, key.2),
                bars: loads.iter().map(bar).collect(),
            }
        });
    Chart::bars(
        "A barrier of the grid",
        Bars {
            axis: Axis::linear("cost of a barrier", "us"),
            series: loads.iter().map(|bytes| load(*bytes)).collect(),
            groups: groups.collect(),
        },
    )
    .described("Median of the differences with its 95% interval.")
}

fn table(found: &Findings) -> Captioned {
    let mut table = Table::new([
        Column::text("barrier"),
        Column::number("blocks", ""),
        Column::number("threads", ""),
        Column::text("memory"),
        Column::number("cost", "us"),
        Column::number("low", "us"),
        Column::number("high", "us"),
        Column::number("step with it", "us"),
        Column::number("step without", "us"),
    ]);
    for cost in &found.barriers {
        table.push([
            Cell::text(&cost.kind),
            Cell::number(f64::from(cost.blocks), 0),
            Cell::number(f64::from(cost.threads), 0),
            Cell::text(load(cost.bytes_between)),
            Cell::number(cost.microseconds.median, 3),
            Cell::number(cost.microseconds.low, 3),
            Cell::number(cost.microseconds.high, 3),
            Cell::number(cost.with_microseconds.median, 3),
            Cell::number(cost.without_microseconds.median, 3),
        ]);
    }
    Captioned {
        caption: "Barriers".into(),
        table,
    }
}
