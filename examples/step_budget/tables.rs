//! The tables of `experiments/step-budget/README.md`.

use onegrid::measure::step_budget::{Grid, Loads, Phase, Step, Waits, step};
use onegrid::model::{ModelConfig, shapes};
use onegrid::report::table::{Cell, Column, Table};

use crate::cards::{CARDS, Card, H200};
use crate::model::{Constant, End, Host, Reckoning, Time};
use crate::published;

/// Lengths of the past that are predicted.
const POSITIONS: [usize; 4] = [1, 128, 1024, 8192];
/// The one that is looked at closely.
const POSITION: usize = 128;

/// A table and its name.
pub struct Named {
    pub name: &'static str,
    pub table: Table,
}

pub fn all() -> Vec<Named> {
    let tables = [
        ("phases", phases()),
        ("counts", counts()),
        ("constants", constants()),
        ("checks", checks()),
        ("predictions", predictions()),
        ("terms", terms()),
        ("remedies", remedies()),
        ("sensitivity", sensitivity()),
    ];
    tables.map(|(name, table)| Named { name, table }).into()
}

fn qwen3() -> ModelConfig {
    shapes::config("qwen3-0.6b").expect("a shape of that name")
}

fn grid(card: Card) -> Grid {
    Grid {
        blocks: card.multiprocessors,
    }
}

/// A stage of the kernel: what decides how a token is paid for.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// A launch for each token, sampled on the host, `grid.sync()`.
    V0,
    /// The loop in the kernel, the project's own barrier.
    V1,
}

fn v_step(card: Card, position: usize, stage: Stage, loads: Loads) -> Step {
    step(
        &qwen3(),
        grid(card),
        position,
        loads,
        matches!(stage, Stage::V1),
    )
}

fn time(reckoning: Reckoning, position: usize, stage: Stage) -> Time {
    let card = reckoning.card;
    let step = v_step(card, position, stage, Loads::OneByOne);
    let (fence_waits, host) = match stage {
        Stage::V0 => {
            let host = Host {
                // The control block written, the launch, the logits read.
                round_trips: 3,
                logits: qwen3().vocab_size * size_of::<f32>(),
                ..Host::default()
            };
            (true, host)
        }
        Stage::V1 => (false, Host::default()),
    };
    let reckoning = Reckoning {
        fence_waits,
        ..reckoning
    };
    reckoning.time(&step, Some(in_flight(card)), host)
}

fn in_flight(card: Card) -> usize {
    card.multiprocessors * Grid::IN_FLIGHT
}

/// Tokens a second, with both ends of the range.
fn speed(of: impl Fn(End) -> Time) -> Cell {
    let [worst, middle, best] =
        [End::Worst, End::Middle, End::Best].map(|end| of(end).tokens_per_second());
    Cell::text(format!("{middle:.0} [{worst:.0}, {best:.0}]"))
}

fn megabytes(bytes: usize) -> Cell {
    Cell::number(bytes as f64 * 1e-6, 2)
}

fn count(count: usize) -> Cell {
    Cell::number(count as f64, 0)
}

fn waits(waits: Waits) -> [Cell; 6] {
    [
        waits.l1,
        waits.l2,
        waits.memory,
        waits.reductions,
        waits.block_barriers,
        waits.batches,
    ]
    .map(count)
}

const WAITS: [&str; 6] = [
    "L1",
    "L2",
    "memory",
    "warp sums",
    "block barriers",
    "batches",
];

fn phases() -> Table {
    let mut columns = vec![
        Column::text("phase"),
        Column::number("times", ""),
        Column::number("read", "MB"),
        Column::number("asked for before the wait", "MB"),
        Column::text("barrier after"),
    ];
    columns.extend(WAITS.map(|name| Column::number(name, "")));
    columns.push(Column::number("L2, loads together", ""));
    columns.push(Column::number("memory, loads together", ""));
    let mut table = Table::new(columns);
    let [one_by_one, together] =
        [Loads::OneByOne, Loads::Together].map(|loads| v_step(H200, POSITION, Stage::V1, loads));
    let parts = |step: &Step| -> Vec<(usize, Phase)> {
        let once = |phases: &[Phase]| phases.iter().map(|p| (1, *p)).collect::<Vec<_>>();
        let layer = step.layer.iter().map(|p| (step.layers, *p)).collect();
        [once(&step.first), layer, once(&step.last)].concat()
    };
    for ((times, phase), (_, other)) in parts(&one_by_one).into_iter().zip(parts(&together)) {
        let mut row = vec![
            Cell::text(phase.name),
            count(times),
            megabytes(phase.bytes),
            megabytes(phase.preload),
            Cell::text(if phase.barrier { "yes" } else { "no" }),
        ];
        row.extend(waits(phase.waits));
        row.extend([count(other.waits.l2), count(other.waits.memory)]);
        table.push(row);
    }
    let preloads = one_by_one.phases().map(|phase| phase.preload).sum();
    let mut row = vec![
        Cell::text("a token"),
        Cell::Missing,
        megabytes(one_by_one.bytes()),
        megabytes(preloads),
        Cell::text(one_by_one.barriers().to_string()),
    ];
    row.extend(waits(one_by_one.waits()));
    row.extend([count(together.waits().l2), count(together.waits().memory)]);
    table.push(row);
    table
}

fn counts() -> Table {
    let mut columns = vec![
        Column::text("card"),
        Column::number("blocks", ""),
        Column::number("position", ""),
        Column::number("splits", ""),
        Column::number("read", "MB"),
        Column::number("grid barriers", ""),
    ];
    columns.extend(WAITS.map(|name| Column::number(name, "")));
    let mut table = Table::new(columns);
    for card in CARDS {
        for position in POSITIONS {
            let step = v_step(card, position, Stage::V1, Loads::OneByOne);
            let mut row = vec![
                Cell::text(card.name),
                count(card.multiprocessors),
                count(position),
                count(grid(card).splits(&qwen3(), position)),
                Cell::number(step.bytes() as f64 * 1e-6, 1),
                count(step.barriers()),
            ];
            row.extend(waits(step.waits()));
            table.push(row);
        }
    }
    table
}

fn constants() -> Table {
    let mut table = Table::new([
        Column::text("card"),
        Column::number("multiprocessors", ""),
        Column::number("clock", "GHz"),
        Column::number("specified", "GB/s"),
        Column::number("read bandwidth", "GB/s"),
        Column::number("L2 latency", "ns"),
        Column::number("memory latency", "ns"),
        Column::number("grid barrier", "ns"),
    ]);
    for card in CARDS {
        table.push([
            Cell::text(card.name),
            count(card.multiprocessors),
            Cell::number(card.clock, 2),
            Cell::number(card.specified, 0),
            Cell::text(card.bandwidth.printed(0)),
            Cell::text(card.l2.printed(0)),
            Cell::text(card.memory.printed(0)),
            Cell::text(card.barrier.printed(0)),
        ]);
    }
    table
}

fn checks() -> Table {
    let mut table = Table::new([
        Column::text("kernel"),
        Column::text("card"),
        Column::number("position", ""),
        Column::text("phases from"),
        Column::number("barriers", ""),
        Column::number("published", "tok/s"),
        Column::number("reckoned", "tok/s"),
        Column::number("error", "%"),
        Column::text("within 20%"),
    ]);
    for published in published::all() {
        let error = published.error();
        let holds = if error.abs() <= 0.2 { "yes" } else { "**no**" };
        table.push([
            Cell::text(published.kernel),
            Cell::text(published.card.name),
            count(published.position),
            Cell::text(published.structure),
            count(published.barriers()),
            Cell::number(published.measured, 0),
            speed(|end| published.time(end)),
            Cell::text(format!("{:+.0}", error * 100.0)),
            Cell::text(holds),
        ]);
    }
    table
}

fn predictions() -> Table {
    let mut table = Table::new([
        Column::text("card"),
        Column::number("position", ""),
        Column::number("bytes alone", "tok/s"),
        Column::number("V0, not measured", "tok/s"),
        Column::number("V1, not measured", "tok/s"),
        Column::number("V1 of the specified bandwidth", "%"),
    ]);
    for card in CARDS {
        for position in POSITIONS {
            let [v0, v1] = [Stage::V0, Stage::V1]
                .map(|stage| move |end| time(Reckoning::new(card, end), position, stage));
            let bytes = v_step(card, position, Stage::V1, Loads::OneByOne).bytes() as f64;
            let reached = bytes * v1(End::Middle).tokens_per_second() * 1e-9;
            table.push([
                Cell::text(card.name),
                count(position),
                Cell::number(card.bandwidth.middle * 1e9 / bytes, 0),
                speed(v0),
                speed(v1),
                Cell::number(reached / card.specified * 100.0, 0),
            ]);
        }
    }
    table
}

fn terms() -> Table {
    let mut table = Table::new([
        Column::text("card"),
        Column::text("stage"),
        Column::number("bytes", "us"),
        Column::number("barriers", "us"),
        Column::number("waits", "us"),
        Column::number("hidden", "us"),
        Column::number("host", "us"),
        Column::number("token", "us"),
        Column::text("largest"),
    ]);
    for card in CARDS {
        for (name, stage) in [("V0", Stage::V0), ("V1", Stage::V1)] {
            let time = time(Reckoning::new(card, End::Middle), POSITION, stage);
            table.push([
                Cell::text(card.name),
                Cell::text(name),
                Cell::number(time.bytes, 0),
                Cell::number(time.barriers, 0),
                Cell::number(time.waits, 0),
                Cell::number(-time.hidden, 0),
                Cell::number(time.host, 0),
                Cell::number(time.total(), 0),
                Cell::text(time.largest()),
            ]);
        }
    }
    table
}

fn remedies() -> Table {
    let mut table = Table::new([
        Column::text("card"),
        Column::number("position", ""),
        Column::number("V1 with grid.sync", "us"),
        Column::number("V1", "us"),
        Column::number("V1, loads together", "us"),
        Column::number("V2, at least", "us"),
        Column::number("V2, loads together, at least", "us"),
        Column::number("bytes alone", "us"),
        Column::number("chain, loads together", "us"),
    ]);
    for card in CARDS {
        for position in [POSITION, 1024] {
            let reckoning = Reckoning::new(card, End::Middle);
            let fenced = Reckoning {
                fence_waits: true,
                ..reckoning
            };
            let [one_by_one, together] = [Loads::OneByOne, Loads::Together]
                .map(|loads| v_step(card, position, Stage::V1, loads));
            let total = |reckoning: Reckoning, step: &Step| {
                let time = reckoning.time(step, Some(in_flight(card)), Host::default());
                Cell::number(time.total(), 0)
            };
            let (bytes, chain) = reckoning.streamed(&one_by_one);
            let (_, short_chain) = reckoning.streamed(&together);
            table.push([
                Cell::text(card.name),
                count(position),
                total(fenced, &one_by_one),
                total(reckoning, &one_by_one),
                total(reckoning, &together),
                Cell::number(bytes.max(chain), 0),
                Cell::number(bytes.max(short_chain), 0),
                Cell::number(bytes, 0),
                Cell::number(short_chain, 0),
            ]);
        }
    }
    table
}

fn sensitivity() -> Table {
    let published = published::all();
    let anchors: Vec<_> = published.iter().filter(|p| p.must_hold).collect();
    let mut columns = vec![Column::text("changed")];
    columns.extend(
        anchors.iter().map(|anchor| {
            Column::number(format!("{}, {}", anchor.kernel, anchor.card.name), "tok/s")
        }),
    );
    columns.push(Column::number("V0, H200", "tok/s"));
    columns.push(Column::number("V1, H200", "tok/s"));
    let mut table = Table::new(columns);
    let mut push = |name: String, changed| {
        let reckoning = |card| Reckoning {
            changed,
            ..Reckoning::new(card, End::Middle)
        };
        let mut row = vec![Cell::text(name)];
        for anchor in &anchors {
            let time = anchor.reckon(&reckoning(anchor.card));
            row.push(Cell::number(time.tokens_per_second(), 0));
        }
        for stage in [Stage::V0, Stage::V1] {
            let time = time(reckoning(H200), POSITION, stage);
            row.push(Cell::number(time.tokens_per_second(), 0));
        }
        table.push(row);
    };
    push("nothing".into(), None);
    for constant in Constant::ALL {
        for (sign, factor) in [("+", 1.3), ("-", 0.7)] {
            push(
                format!("{} {sign}30%", constant.name()),
                Some((constant, factor)),
            );
        }
    }
    table
}
