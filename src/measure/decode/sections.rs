//! What a benchmark says, for people.

use super::phases::PhaseTime;
use super::report::{Report, Run};
use crate::report::chart::scale::Scale;
use crate::report::chart::{Axis, Bars, Chart, Group, Interval, Part, Waterfall};
use crate::report::section::{Captioned, Section};
use crate::report::table::{Cell, Column, Table};

/// Speeds that are farther apart than this would leave the slower ones without a visible bar.
const FAR_APART: f64 = 20.0;

impl Report {
    /// Speeds beside their floors, engines beside each other, and all figures.
    pub fn sections(&self) -> Vec<Section> {
        let mut text = vec![format!(
            "Each engine decodes greedily from a prompt of random tokens, between two measurements of \
             the read bandwidth; engines take turns. {}.",
            self.heading()
        )];
        text.extend(self.remarks());
        let mut charts = vec![
            self.bars(
                "Decode speed",
                "tok/s",
                |run| run.decode_tokens_per_second.as_ref().map(Interval::from),
                Some(floor),
            )
            .described(
                "Median with its 95% interval. The floor's speed is what reading the weights and the \
                 KV cache at the bandwidth measured beside the run would allow.",
            ),
            self.bars(
                "First token",
                "ms",
                |run| run.first_token_ms.as_ref().map(Interval::from),
                None,
            )
            .described("From the start of the prompt; median with its 95% interval."),
        ];
        if !self.comparisons.is_empty() {
            let rows = self.comparisons.iter().map(|comparison| {
                let label = format!(
                    "{}: {} over {}",
                    comparison.model, comparison.engine, comparison.against
                );
                comparison.decode.charted(label)
            });
            let chart = Chart::ratios("Decode speed, engine over engine", rows.collect());
            charts.push(chart.described(
                "Ratios of repetitions beside each other: median with its 95% interval.",
            ));
        }
        let decode = Section {
            heading: "Decode".into(),
            text,
            charts,
            tables: vec![Captioned {
                caption: "All figures; low and high are the ends of the median's 95% interval"
                    .into(),
                table: self.table(),
            }],
        };
        let recorded = |run: &Run| Some(phases(run, run.phases.as_ref()?));
        let phases = self.runs.iter().filter_map(recorded);
        [decode].into_iter().chain(phases).collect()
    }

    fn bars(
        &self,
        title: &str,
        unit: &str,
        measured: impl Fn(&Run) -> Option<Interval>,
        bound: Option<fn(&Run) -> Option<f64>>,
    ) -> Chart {
        let label = |run: &Run| {
            // Only where it tells runs apart.
            let engine = run.engine_name();
            let same = |other: &&Run| other.model == run.model && other.engine_name() == engine;
            match self.runs.iter().filter(same).count() {
                1 => format!("{}, {engine}", run.model),
                _ => format!(
                    "{}, {engine} ({}, {} threads)",
                    run.model, run.kernels, run.threads
                ),
            }
        };
        let groups: Vec<Group> = self
            .runs
            .iter()
            .map(|run| {
                let bound = bound.map(|bound| bound(run).map(Interval::from));
                Group {
                    label: label(run),
                    bars: [measured(run)].into_iter().chain(bound).collect(),
                }
            })
            .collect();
        let values = || groups.iter().flat_map(|group| &group.bars).flatten();
        let least = values().map(|bar| bar.value).fold(f64::INFINITY, f64::min);
        let most = values().map(|bar| bar.value).fold(0.0, f64::max);
        let scale = match most > FAR_APART * least {
            true => Scale::Log10,
            false => Scale::Linear,
        };
        let mut series = vec!["measured".to_owned()];
        if bound.is_some() {
            series.push("the floor's".into());
        }
        let axis = Axis {
            scale,
            ..Axis::linear(title.to_lowercase(), unit)
        };
        Chart::bars(
            title,
            Bars {
                axis,
                series,
                groups,
            },
        )
    }
}

/// A decode step by phase, each beside the time that reading its bytes takes.
fn phases(run: &Run, phases: &[PhaseTime]) -> Section {
    let floor = |phase: &PhaseTime| {
        let bandwidth = run.read_bandwidth_bytes_per_second?;
        Some(phase.bytes / bandwidth * 1e6)
    };
    let time = |phase: &PhaseTime| phase.work_microseconds + phase.wait_microseconds;
    let speed = run.decode_tokens_per_second.as_ref();
    // A step makes a token for each sequence.
    let step = |speed: f64| run.batch as f64 / speed * 1e6;
    let whole = speed.map(|speed| Interval {
        value: step(speed.median),
        low: step(speed.high),
        high: step(speed.low),
    });
    let part = |phase: &PhaseTime| Part {
        label: phase.phase.clone(),
        value: time(phase),
        floor: floor(phase),
    };
    let waterfall = Waterfall {
        axis: Axis::linear("time", "us"),
        parts: phases.iter().map(part).collect(),
        whole,
    };
    let mut table = Table::new([
        Column::text("phase"),
        Column::number("work", "us"),
        Column::number("waiting", "us"),
        Column::number("must read", "MB"),
        Column::number("floor", "us"),
        Column::number("read at", "GB/s"),
    ]);
    for phase in phases {
        table.push([
            Cell::text(&phase.phase),
            Cell::number(phase.work_microseconds, 2),
            Cell::number(phase.wait_microseconds, 2),
            Cell::number(phase.bytes * 1e-6, 3),
            Cell::number(floor(phase), 2),
            // Bytes in a microsecond are megabytes in a second.
            Cell::number(phase.bytes * 1e-3 / time(phase), 1),
        ]);
    }
    let name = format!("{}, {}", run.model, run.engine_name());
    Section {
        heading: format!("A step by phase: {name}"),
        text: vec![
            "Mean over the recorded decode steps and over threads or blocks, all layers together; the \
             waits for the others that follow a phase are part of it. Recording costs time, which the \
             phases contain and the whole, which is of the timed runs, does not."
                .into(),
        ],
        charts: vec![
            Chart::waterfall(format!("A decode step by phase: {name}"), waterfall).described(
                "Each phase begins where the one before it ends; its floor is the time that reading its \
                 bytes at the bandwidth measured beside the run would take.",
            ),
        ],
        tables: vec![Captioned {
            caption: "Phases of a decode step".into(),
            table,
        }],
    }
}

/// Tokens a second, of all sequences together, at the read bandwidth.
fn floor(run: &Run) -> Option<f64> {
    Some(run.read_bandwidth_bytes_per_second? / run.bytes_per_token)
}
