//! Two traces side by side: each operation's count and time, by step, layer and token.

use std::collections::BTreeMap;

use serde::Serialize;

use super::profile::{Group, Multiple, Profile, Total};
use crate::report::table::{Cell, Column, Table};

/// Operations below this share of both traces' time are left out of the summary.
const SUMMARY_SHARE: f64 = 0.02;
/// Letters of a name in the summary: kernels have names of hundreds.
const SUMMARY_NAME: usize = 48;

/// Two traces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// The first.
    pub a: Profile,
    /// The second.
    pub b: Profile,
}

/// What a row is of.
struct Row<'a> {
    group: &'a str,
    name: &'a str,
    is_group: bool,
    totals: [Option<Total>; 2],
}

impl Row<'_> {
    /// The larger of the two shares of a step's time.
    fn share(&self, profiles: [&Profile; 2]) -> f64 {
        let shares = self.totals.iter().zip(profiles);
        let shares = shares.filter_map(|(total, profile)| {
            Some(total.as_ref()?.nanoseconds as f64 / profile.nanoseconds as f64)
        });
        shares.fold(0.0, f64::max)
    }
}

impl Comparison {
    fn profiles(&self) -> [&Profile; 2] {
        [&self.a, &self.b]
    }

    /// The steps as a whole, then each group, then its operations, the longest first.
    fn rows(&self) -> Vec<Row<'_>> {
        let profiles = self.profiles();
        let steps = profiles.map(|profile| {
            Some(Total {
                count: profile.steps?,
                nanoseconds: profile.nanoseconds,
            })
        });
        let mut rows = vec![Row {
            group: "steps",
            name: "",
            is_group: true,
            totals: steps,
        }];
        for group in Group::ALL {
            let of_group = |profile: &Profile| {
                let found = profile.groups.iter().find(|(of, _)| *of == group);
                found.map(|(_, total)| *total)
            };
            let totals = profiles.map(of_group);
            if totals.iter().all(Option::is_none) {
                continue;
            }
            rows.push(Row {
                group: group.name(),
                name: "",
                is_group: true,
                totals,
            });
            let mut operations: BTreeMap<&str, [Option<Total>; 2]> = BTreeMap::new();
            for (side, profile) in profiles.into_iter().enumerate() {
                for operation in profile.operations.iter().filter(|of| of.group == group) {
                    operations.entry(&operation.name).or_default()[side] = Some(operation.total);
                }
            }
            let first = rows.len();
            rows.extend(operations.into_iter().map(|(name, totals)| Row {
                group: group.name(),
                name,
                is_group: false,
                totals,
            }));
            rows[first..].sort_by(|a, b| b.share(profiles).total_cmp(&a.share(profiles)));
        }
        rows
    }

    /// What fits a terminal: groups, and the operations that take some time.
    pub fn summary(&self) -> Table {
        let mut table = Table::new([
            Column::text("operation"),
            Column::number("A per step", ""),
            Column::number("B per step", ""),
            Column::number("A per token", "us"),
            Column::number("B per token", "us"),
            Column::number("A of step", "%"),
            Column::number("B of step", "%"),
            Column::number("B / A", ""),
        ]);
        let profiles = self.profiles();
        for row in self.rows() {
            if !row.is_group && row.share(profiles) < SUMMARY_SHARE {
                continue;
            }
            let name = match row.is_group {
                true => row.group.to_owned(),
                false => format!("  {}", shortened(row.name)),
            };
            let per_token = self.sides(&row, |profile, total| {
                Some(microseconds(total) / profile.tokens? as f64)
            });
            let share = self.sides(&row, |profile, total| {
                Some(100.0 * total.nanoseconds as f64 / profile.nanoseconds as f64)
            });
            let [a_count, b_count] = self.counts(&row);
            table.push([
                Cell::text(name),
                a_count,
                b_count,
                Cell::number(per_token[0], 2),
                Cell::number(per_token[1], 2),
                Cell::number(share[0], 1),
                Cell::number(share[1], 1),
                Cell::number(ratio(per_token), 3),
            ]);
        }
        table
    }

    /// All of it.
    pub fn table(&self) -> Table {
        type Figure = fn(&Profile, Total) -> Option<f64>;
        let figures: [(&str, &'static str, usize, Figure); 8] = [
            ("count", "", 0, |_, total| Some(total.count as f64)),
            ("total", "ms", 3, |_, total| Some(microseconds(total) / 1e3)),
            ("mean", "us", 3, |_, total| {
                Some(microseconds(total) / total.count as f64)
            }),
            ("share", "%", 2, |profile, total| {
                Some(100.0 * total.nanoseconds as f64 / profile.nanoseconds as f64)
            }),
            ("count per token", "", 3, |profile, total| {
                Some(total.count as f64 / profile.tokens? as f64)
            }),
            ("per step", "us", 3, |profile, total| {
                Some(microseconds(total) / profile.steps? as f64)
            }),
            ("per layer", "us", 3, |profile, total| {
                Some(microseconds(total) / (profile.steps? * profile.layers?) as f64)
            }),
            ("per token", "us", 3, |profile, total| {
                Some(microseconds(total) / profile.tokens? as f64)
            }),
        ];
        let mut columns = vec![Column::text("group"), Column::text("operation")];
        for side in ["A", "B"] {
            columns.push(Column::number(format!("{side} count per step"), ""));
            let figures = figures.iter();
            columns.extend(
                figures.map(|(name, unit, ..)| Column::number(format!("{side} {name}"), unit)),
            );
        }
        columns.extend([
            Column::number("B - A per token", "us"),
            Column::number("B / A per token", ""),
            Column::number("B / A count per token", ""),
        ]);
        let mut table = Table::new(columns);
        for row in self.rows() {
            let mut cells = vec![Cell::text(row.group), Cell::text(row.name)];
            let values =
                figures.map(|(_, _, decimals, figure)| (self.sides(&row, figure), decimals));
            for (side, by_step) in self.counts(&row).into_iter().enumerate() {
                cells.push(by_step);
                cells.extend(values.map(|(value, decimals)| Cell::number(value[side], decimals)));
            }
            let [.., (count_per_token, _), _, _, (per_token, _)] = values;
            let difference = per_token[0].zip(per_token[1]).map(|(a, b)| b - a);
            cells.extend([
                Cell::number(difference, 3),
                Cell::number(ratio(per_token), 3),
                Cell::number(ratio(count_per_token), 3),
            ]);
            table.push(cells);
        }
        table
    }

    /// A figure of both sides.
    fn sides(
        &self,
        row: &Row,
        figure: impl Fn(&Profile, Total) -> Option<f64>,
    ) -> [Option<f64>; 2] {
        let [a, b] = row.totals;
        let of = |profile: &Profile, total: Option<Total>| {
            // A trace of no time or no tokens has no shares.
            figure(profile, total?).filter(|value| value.is_finite())
        };
        [of(&self.a, a), of(&self.b, b)]
    }

    /// How often a step has a row, in terms of layers where they are known.
    fn counts(&self, row: &Row) -> [Cell; 2] {
        let of = |profile: &Profile, total: Option<Total>| {
            let Some(total) = total else {
                return Cell::Missing;
            };
            match (profile.multiple(total.count), profile.layers, profile.steps) {
                (
                    Some(Multiple::Whole {
                        by_layer: 0,
                        beside,
                    }),
                    ..,
                ) => Cell::text(beside.to_string()),
                (
                    Some(Multiple::Whole {
                        by_layer,
                        beside: 0,
                    }),
                    Some(layers),
                    _,
                ) => Cell::text(format!("{by_layer} x {layers}")),
                (Some(Multiple::Whole { by_layer, beside }), Some(layers), _) => {
                    Cell::text(format!("{by_layer} x {layers} + {beside}"))
                }
                (_, _, Some(steps)) if steps > 0 => {
                    Cell::text(format!("{:.2}", total.count as f64 / steps as f64))
                }
                _ => Cell::Missing,
            }
        };
        let [a, b] = row.totals;
        [of(&self.a, a), of(&self.b, b)]
    }

    /// What the traces are of, for people: a line each.
    pub fn heading(&self, names: [&str; 2]) -> String {
        let line = |letter, name: &str, profile: &Profile| {
            let number = |number: Option<u64>| number.map_or("?".to_owned(), |n| n.to_string());
            let milliseconds = profile.nanoseconds as f64 * 1e-6;
            let each = match profile.steps {
                Some(steps) if steps > 0 => format!("{:.3} ms a step", milliseconds / steps as f64),
                _ => format!("{milliseconds:.3} ms in all"),
            };
            format!(
                "{letter}: {name}: {}; {} steps of {} layers, {} tokens, {each}",
                profile.about,
                number(profile.steps),
                number(profile.layers),
                number(profile.tokens),
            )
        };
        format!(
            "{}\n{}",
            line('A', names[0], &self.a),
            line('B', names[1], &self.b)
        )
    }

    /// What a reader must know, a line each: counts that can't be right first.
    pub fn remarks(&self) -> Vec<String> {
        let of = |letter: &str, profile: &Profile| {
            let doubts = profile.doubts();
            let doubts = doubts
                .into_iter()
                .map(move |doubt| format!("warning: {doubt}"));
            let notes = profile.notes.clone();
            let notes = notes.into_iter().map(|note| format!("note: {note}"));
            let lines: Vec<_> = doubts.chain(notes).collect();
            lines
                .into_iter()
                .map(|line| format!("{letter}: {line}"))
                .collect::<Vec<_>>()
        };
        [of("A", &self.a), of("B", &self.b)].concat()
    }

    /// All of it as an object.
    pub fn to_json(&self, names: [&str; 2]) -> serde_json::Value {
        let profile = |name: &str, profile: &Profile| {
            serde_json::json!({
                "file": name,
                "about": profile.about,
                "steps": profile.steps,
                "layers": profile.layers,
                "tokens": profile.tokens,
                "step_nanoseconds": profile.nanoseconds,
                "doubts": profile.doubts(),
                "notes": profile.notes,
            })
        };
        serde_json::json!({
            "a": profile(names[0], &self.a),
            "b": profile(names[1], &self.b),
            "operations": self.table().to_json(),
        })
    }
}

fn microseconds(total: Total) -> f64 {
    total.nanoseconds as f64 * 1e-3
}

fn ratio([a, b]: [Option<f64>; 2]) -> Option<f64> {
    a.zip(b)
        .map(|(a, b)| b / a)
        .filter(|ratio| ratio.is_finite())
}

fn shortened(name: &str) -> String {
    match name.char_indices().nth(SUMMARY_NAME) {
        Some((end, _)) => format!("{}...", &name[..end]),
        None => name.to_owned(),
    }
}
