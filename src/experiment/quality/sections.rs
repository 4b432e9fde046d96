//! The tables and charts of a result.

use super::plan::REFERENCE;
use super::{Compared, Referred};
use crate::experiment::result::{CellRecord, Missing, list_missing};
use crate::measure::divergence::Figure;
use crate::measure::divergence::summary::kl_ratio;
use crate::report::chart::{Axis, Chart, Interval, RatioRow, Side};
use crate::report::section::{Captioned, Section};
use crate::report::table::{Cell, Column, Table};

/// A section for each set.
///
/// # Errors
/// Cells of another form.
pub fn sections(cells: &[CellRecord]) -> Result<Vec<Section>, serde_json::Error> {
    let mut sets: Vec<Set> = Vec::new();
    for cell in cells {
        let Some((name, subject)) = cell.id.rsplit_once('/') else {
            continue;
        };
        if sets.last().is_none_or(|set| set.name != name) {
            sets.push(Set {
                name: name.to_owned(),
                ..Set::default()
            });
        }
        let set = sets.last_mut().expect("one was pushed");
        match cell.missing() {
            Some(reason) => set.missing.push(Missing {
                what: subject.to_owned(),
                reason,
            }),
            None if subject == REFERENCE => set.reference = cell.measured()?,
            None => set.subjects.extend(cell.measured::<Compared>()?),
        }
    }
    Ok(sets.iter().map(Set::section).collect())
}

/// The measured cells of a set.
#[derive(Default)]
struct Set {
    name: String,
    reference: Option<Referred>,
    subjects: Vec<Compared>,
    /// What was not measured or failed, and why.
    missing: Vec<Missing>,
}

/// What the ratio to the yardstick's divergence says.
fn verdict(ratio: &Figure) -> &'static str {
    match (ratio.low, ratio.high) {
        (_, Some(high)) if high <= 1.0 => "within",
        (Some(low), _) if low > 1.0 => "beyond",
        (Some(_), Some(_)) => "unclear",
        _ => "no interval",
    }
}

/// A divergence: in nats, over many orders of magnitude.
fn nats(value: Option<f64>) -> Cell {
    value.map_or(Cell::Missing, |value| Cell::text(format!("{value:.2e}")))
}

fn interval(figure: &Figure, print: impl Fn(f64) -> String) -> Cell {
    match (figure.low, figure.high) {
        (Some(low), Some(high)) => Cell::text(format!("[{}, {}]", print(low), print(high))),
        _ => Cell::Missing,
    }
}

fn percent(figure: &Figure) -> Cell {
    Cell::number(figure.value.map(|share| share * 100.0), 2)
}

impl Set {
    fn yardstick(&self) -> Option<&Compared> {
        let name = self.subjects.first()?.yardstick.as_ref()?;
        self.subjects
            .iter()
            .find(|compared| compared.subject == *name)
    }

    fn section(&self) -> Section {
        Section {
            heading: format!("Quality: {}", self.name),
            text: self.text(),
            charts: self.charts(),
            tables: vec![
                Captioned {
                    caption: "Divergence from the reference, in nats".into(),
                    table: self.divergences(),
                },
                Captioned {
                    caption: "Agreement with the reference".into(),
                    table: self.agreement(),
                },
            ],
        }
    }

    fn charts(&self) -> Vec<Chart> {
        let mut charts = Vec::new();
        if !self.subjects.is_empty() {
            charts.push(self.percentiles());
        }
        if let Some(yardstick) = self.yardstick() {
            charts.push(self.ratios(yardstick));
        }
        charts
    }

    /// The divergence that each share of the positions stays below.
    fn percentiles(&self) -> Chart {
        let curve = |compared: &Compared| {
            let kl = &compared.divergence.kl;
            let points = [
                (50.0, kl.p50.value),
                (90.0, kl.p90.value),
                (99.0, kl.p99.value),
                (99.9, kl.p99_9),
                (100.0, kl.max),
            ];
            let known = points
                .into_iter()
                .filter_map(|(share, value)| Some((share, value?)));
            (compared.subject.clone(), known.collect())
        };
        Chart::quantiles(
            format!("Divergence by share of positions: {}", self.name),
            Axis::log10("KL(reference || subject)", "nats"),
            self.subjects.iter().map(curve),
        )
        .described("Half, 90%, 99% and 99.9% of the positions stay below; 100% is the worst. Less is better.")
    }

    /// Each mean divergence over the yardstick's.
    fn ratios(&self, yardstick: &Compared) -> Chart {
        let others = self
            .subjects
            .iter()
            .filter(|compared| compared.subject != yardstick.subject);
        let row = |compared: &Compared| {
            let ratio = kl_ratio(&compared.divergence, &yardstick.divergence);
            let interval = ratio.as_ref().and_then(|ratio| {
                let value = ratio.value?;
                Some(Interval {
                    value,
                    low: ratio.low.unwrap_or(value),
                    high: ratio.high.unwrap_or(value),
                })
            });
            let verdict = ratio.as_ref().map_or("no ratio", verdict);
            RatioRow {
                label: compared.subject.clone(),
                ratio: interval,
                verdict: verdict.to_owned(),
                side: match verdict {
                    "within" => Side::Better,
                    "beyond" => Side::Worse,
                    _ => Side::Neither,
                },
            }
        };
        Chart::ratios(
            format!("Mean KL over that of {}: {}", yardstick.subject, self.name),
            others.map(row).collect(),
        )
        .described(
            "Below 1 the subject is nearer to the reference; 95% intervals, bootstrapped by text.",
        )
    }

    fn text(&self) -> Vec<String> {
        let mut text = Vec::new();
        if let Some(Referred {
            reference, texts, ..
        }) = &self.reference
        {
            let tokens: usize = texts.iter().map(Vec::len).sum();
            text.push(format!(
                "Reference: {}, {}; {tokens} tokens in {} texts, teacher-forced. Intervals are \
                 bootstrapped by text.",
                reference.by,
                reference.numbers,
                texts.len()
            ));
        }
        if let Some(yardstick) = self.yardstick() {
            text.push(format!(
                "Yardstick: {} ({}). A subject is `within` it where the whole interval of its mean \
                 KL over the yardstick's is at most 1.",
                yardstick.subject, yardstick.made.by
            ));
        }
        let repeated = self
            .subjects
            .iter()
            .filter(|compared| compared.repeated.is_some());
        match repeated.count() {
            0 => {}
            count => text.push(format!(
                "A second run gave the same logits, bit for bit, for all {count} engines that were \
                 measured."
            )),
        }
        if !self.missing.is_empty() {
            text.push(list_missing(&self.missing));
        }
        text
    }

    fn divergences(&self) -> Table {
        let mut table = Table::new([
            Column::text("subject"),
            Column::text("computed by"),
            Column::number("mean KL", ""),
            Column::text("its 95% interval"),
            Column::number("over the yardstick's", ""),
            Column::text("95% interval of the ratio"),
            Column::text("verdict"),
            Column::number("reverse KL", ""),
            Column::number("Jensen-Shannon", ""),
            Column::number("KL, 50%", ""),
            Column::number("90%", ""),
            Column::number("99%", ""),
            Column::number("99.9%", ""),
            Column::number("max", ""),
        ]);
        let yardstick = self.yardstick();
        for compared in &self.subjects {
            let Compared {
                subject,
                made,
                divergence,
                ..
            } = compared;
            let others = yardstick.filter(|yardstick| yardstick.subject != *subject);
            let ratio = others.and_then(|yardstick| kl_ratio(divergence, &yardstick.divergence));
            let kl = &divergence.kl;
            table.push([
                Cell::text(subject),
                Cell::text(&made.by),
                nats(kl.mean.value),
                interval(&kl.mean, |value| format!("{value:.2e}")),
                Cell::number(ratio.and_then(|ratio| ratio.value), 3),
                ratio.map_or(Cell::Missing, |ratio| {
                    interval(&ratio, |value| format!("{value:.3}"))
                }),
                ratio.map_or(Cell::Missing, |ratio| Cell::text(verdict(&ratio))),
                nats(divergence.kl_reverse.mean.value),
                nats(divergence.jensen_shannon.mean.value),
                nats(kl.p50.value),
                nats(kl.p90.value),
                nats(kl.p99.value),
                nats(kl.p99_9),
                nats(kl.max),
            ]);
        }
        table
    }

    fn agreement(&self) -> Table {
        let first = self.subjects.first().map(|compared| &compared.divergence);
        let (margin, sets) = first.map_or((0.0, Vec::new()), |divergence| {
            let sets = divergence.overlap.iter().map(|overlap| overlap.k).collect();
            (divergence.criteria.clear_margin, sets)
        });
        let mut columns = vec![
            Column::text("subject"),
            Column::number("top-1", "%"),
            Column::text("its 95% interval"),
            Column::number(format!("top-1, lead above {margin} nats"), "%"),
            Column::number("positions with that lead", ""),
        ];
        columns.extend(
            sets.iter()
                .map(|k| Column::number(format!("top-{k} shared"), "%")),
        );
        columns.extend([
            Column::number("perplexity", ""),
            Column::number("over the reference's", ""),
            Column::text("95% interval of the ratio"),
        ]);
        let mut table = Table::new(columns);
        for compared in &self.subjects {
            let divergence = &compared.divergence;
            let mut cells = vec![
                Cell::text(&compared.subject),
                percent(&divergence.top1),
                interval(&divergence.top1, |share| format!("{:.2}", share * 100.0)),
                percent(&divergence.top1_where_clear),
                Cell::number(divergence.clear_positions as f64, 0),
            ];
            cells.extend(
                divergence
                    .overlap
                    .iter()
                    .map(|overlap| percent(&overlap.share)),
            );
            let perplexity = divergence.perplexity.as_ref();
            let ratio = perplexity.map(|perplexity| perplexity.ratio);
            cells.extend([
                Cell::number(perplexity.and_then(|perplexity| perplexity.other), 4),
                Cell::number(ratio.and_then(|ratio| ratio.value), 6),
                ratio.map_or(Cell::Missing, |ratio| {
                    interval(&ratio, |value| format!("{value:.6}"))
                }),
            ]);
            table.push(cells);
        }
        table
    }
}
