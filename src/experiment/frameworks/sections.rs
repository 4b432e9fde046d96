//! What the results say: a table and charts for each model.

use super::{Found, Program};
use crate::experiment::result::{CellRecord, Missing, list_missing};
use crate::measure::statistics::Ratio;
use crate::report::chart::{Axis, Bars, Chart, Group, Interval};
use crate::report::section::{Captioned, Section};
use crate::report::table::{Cell, Column, Table};

/// A section for each model.
///
/// # Errors
/// Cells of another form.
pub fn sections(cells: &[CellRecord]) -> Result<Vec<Section>, serde_json::Error> {
    cells.iter().map(section).collect()
}

fn section(cell: &CellRecord) -> Result<Section, serde_json::Error> {
    let heading = format!("The same checkpoint: {}", cell.id);
    let Some(found) = cell.measured::<Found>()? else {
        return Ok(Section {
            heading,
            text: cell.missing().into_iter().collect(),
            ..Section::default()
        });
    };
    let mut text = vec![format!(
        "{} greedy tokens behind a prompt of {}, in turns; speeds count the tokens after the first. Each \
         program's tokens are onegrid's, up to a near tie, and its logits stand beside those of the f32 \
         reference engine.",
        found.new_tokens, found.prompt_tokens
    )];
    if let Some(bandwidth) = &found.bandwidth {
        text.push(format!(
            "Read bandwidth by as many threads, a measurement a round: {:.1} GB/s [{:.1}, {:.1}]; a step \
             reads {:.0} MB at least.",
            bandwidth.median / 1e9,
            bandwidth.low / 1e9,
            bandwidth.high / 1e9,
            found.bytes_per_step / 1e6
        ));
    }
    let mut missing = found.missing.clone();
    if !found.no_energy.is_empty() {
        missing.push(Missing {
            what: "energy".into(),
            reason: found.no_energy.clone(),
        });
    }
    if !missing.is_empty() {
        text.push(format!("Not measured: {}", list_missing(&missing)));
    }
    Ok(Section {
        heading,
        text,
        charts: charts(&cell.id, &found),
        tables: vec![
            Captioned {
                caption: "Speed; medians of the rounds with 95% intervals".into(),
                table: speeds(&found),
            },
            Captioned {
                caption: "Output".into(),
                table: output(&found),
            },
        ],
    })
}

fn charts(model: &str, found: &Found) -> Vec<Chart> {
    let bars = |axis, of: &dyn Fn(&Program) -> Interval| Bars {
        axis,
        series: vec!["median".into()],
        groups: found
            .programs
            .iter()
            .map(|program| Group {
                label: program.name.clone(),
                bars: vec![Some(of(program))],
            })
            .collect(),
    };
    let speed = bars(Axis::linear("decode", "tok/s"), &|program| {
        Interval::from(&program.tokens_per_second)
    });
    let first = bars(Axis::linear("first token", "ms"), &|program| {
        Interval::from(&program.first_token_ms)
    });
    let ratios = found.programs.iter().filter_map(|program| {
        let ratio = program.onegrid_over.as_ref()?;
        Some(ratio.charted(format!("over {}", program.name)))
    });
    vec![
        Chart::bars(format!("Speed: {model}"), speed)
            .described("Median of the rounds with its 95% interval; more is better."),
        Chart::bars(format!("First token: {model}"), first)
            .described("From the prompt to the first token; less is better."),
        Chart::ratios(format!("Speed of onegrid: {model}"), ratios.collect())
            .described("Ratios round by round: median with its 95% interval."),
    ]
}

fn ratio_cells(ratio: Option<&Ratio>) -> [Cell; 2] {
    [
        Cell::number(ratio.map(|ratio| ratio.ratio.median), 2),
        ratio.map_or(Cell::Missing, |ratio| {
            let (low, high) = (ratio.ratio.low, ratio.ratio.high);
            Cell::text(format!("{low:.2} to {high:.2}, {}", ratio.verdict))
        }),
    ]
}

fn speeds(found: &Found) -> Table {
    let mut table = Table::new([
        Column::text("program"),
        Column::text("set up as"),
        Column::number("decode", "tok/s"),
        Column::text("95% interval"),
        Column::number("of the read bandwidth", "%"),
        Column::number("first token", "ms"),
        Column::number(format!("over {}", found.baseline), ""),
        Column::text("95% interval"),
        Column::number("onegrid over it", ""),
        Column::text("95% interval"),
        Column::number("tokens for each joule", ""),
        Column::number("load", "s"),
    ]);
    for program in &found.programs {
        let speed = &program.tokens_per_second;
        let share = found
            .bandwidth
            .as_ref()
            .map(|bandwidth| 100.0 * speed.median * found.bytes_per_step / bandwidth.median);
        let [over, over_interval] = ratio_cells(program.over_baseline.as_ref());
        let [own, own_interval] = ratio_cells(program.onegrid_over.as_ref());
        let joules = program.tokens_per_joule.as_ref();
        table.push([
            Cell::text(&program.name),
            Cell::text(format!(
                "{}: {}",
                program.hello.framework, program.hello.setup
            )),
            Cell::number(speed.median, 2),
            Cell::text(format!("{:.2} to {:.2}", speed.low, speed.high)),
            Cell::number(share, 1),
            Cell::number(program.first_token_ms.median, 1),
            over,
            over_interval,
            own,
            own_interval,
            Cell::number(joules.map(|joules| joules.median), 3),
            Cell::number(program.hello.load_seconds, 1),
        ]);
    }
    table
}

fn output(found: &Found) -> Table {
    let mut table = Table::new([
        Column::text("program"),
        Column::text("tokens as onegrid's"),
        Column::text("mean KL from f32"),
        Column::text("largest"),
        Column::number("top-1 as f32's", "%"),
    ]);
    let nats = |value: Option<f64>| {
        value.map_or(Cell::Missing, |value| Cell::text(format!("{value:.2e}")))
    };
    for program in &found.programs {
        let checked = &program.checked;
        let tie = if checked.near_tie {
            ", then a near tie"
        } else {
            ""
        };
        table.push([
            Cell::text(&program.name),
            Cell::text(format!(
                "{} of {}{tie}",
                checked.tokens_equal, checked.tokens
            )),
            nats(checked.kl_mean),
            nats(checked.kl_max),
            Cell::number(checked.top1.map(|share| 100.0 * share), 1),
        ]);
    }
    table
}
