//! What a benchmark says, for people.

use super::report::{Report, Run};
use crate::report::chart::scale::Scale;
use crate::report::chart::{Axis, Bars, Chart, Group, Interval};
use crate::report::section::{Captioned, Section};

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
        vec![Section {
            heading: "Decode".into(),
            text,
            charts,
            tables: vec![Captioned {
                caption: "All figures; low and high are the ends of the median's 95% interval"
                    .into(),
                table: self.table(),
            }],
        }]
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
            let same = |other: &&Run| other.model == run.model && other.engine == run.engine;
            match self.runs.iter().filter(same).count() {
                1 => format!("{}, {}", run.model, run.engine),
                _ => format!(
                    "{}, {} ({}, {} threads)",
                    run.model, run.engine, run.kernels, run.threads
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

/// Tokens a second, of all sequences together, at the read bandwidth.
fn floor(run: &Run) -> Option<f64> {
    Some(run.read_bandwidth_bytes_per_second? / run.bytes_per_token)
}
