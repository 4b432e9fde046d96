//! What was measured in a result file, row by row, whatever its kind.
//!
//! Result files have two conventions, which serve here:
//! - a record begins with what it is (strings, integers and truth values: an engine, a model, a
//!   position), and what was found follows;
//! - a measurement is an object with `median`, `low`, `high` and `samples`, and its field's name ends
//!   with its unit, which says whether more is better.
//!
//! Comparisons, which have a `verdict`, are no measurements.

use serde_json::{Map, Value};

/// Names and values of a record.
pub type Fields = Vec<(String, String)>;

/// A measurement with all its samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What was measured, from the outermost record inwards.
    pub identity: Fields,
    /// How: what another machine would have otherwise, and what is the same for all of a result.
    pub how: Fields,
    /// The quantity: the name of its field, and those of the fields that it stands in.
    pub quantity: String,
    /// The samples: one at least.
    pub samples: Vec<f64>,
}

/// Fields that say how something was measured, and not what.
const HOW: [&str; 4] = ["kernels", "engine_variant", "threads", "device"];

/// What a difference of two measurements is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// A speed: more is faster.
    Speed,
    /// A time: less is faster.
    Time,
    /// Something else of which more is better.
    More,
    /// Something else of which less is better.
    Less,
    /// Nothing is known of it, or it is the machine's and not the program's.
    Neither,
}

/// Units at the end of a quantity's name: as they are written, how many of the named ones make one,
/// and what a difference means.
const UNITS: [(&str, &str, f64, Direction); 13] = [
    ("tokens_per_second", "tok/s", 1.0, Direction::Speed),
    ("bytes_per_second", "GB/s", 1e-9, Direction::Speed),
    ("per_second", "1/s", 1.0, Direction::Speed),
    ("tokens_per_joule", "tok/J", 1.0, Direction::More),
    ("microseconds", "us", 1.0, Direction::Time),
    ("nanoseconds", "ns", 1.0, Direction::Time),
    ("seconds", "s", 1.0, Direction::Time),
    ("ns", "ns", 1.0, Direction::Time),
    ("us", "us", 1.0, Direction::Time),
    ("ms", "ms", 1.0, Direction::Time),
    ("joules", "J", 1.0, Direction::Less),
    ("bytes", "MB", 1e-6, Direction::Less),
    ("watts", "W", 1.0, Direction::Neither),
];

/// Quantities without a unit of which more is better.
const SHARES: [&str; 2] = ["fraction", "agreement"];

/// How a quantity is shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantity {
    /// Its name and unit.
    pub label: String,
    /// What its numbers are to be multiplied with.
    pub factor: f64,
    /// What a difference means.
    pub direction: Direction,
}

impl Quantity {
    /// The quantity with the name of a field.
    pub fn named(name: &str) -> Self {
        let words = |name: &str| name.replace('.', ": ").replace('_', " ");
        let has_unit = |unit: &&(&str, &str, f64, Direction)| {
            let rest = name.strip_suffix(unit.0);
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with(['_', '.']))
        };
        let Some((suffix, unit, factor, direction)) = UNITS.iter().find(has_unit) else {
            let is_share = SHARES.iter().any(|share| name.ends_with(share));
            return Self {
                label: words(name),
                factor: 1.0,
                direction: if is_share {
                    Direction::More
                } else {
                    Direction::Neither
                },
            };
        };
        let rest = name
            .strip_suffix(suffix)
            .unwrap_or(name)
            .trim_end_matches(['_', '.']);
        let rest = if rest.is_empty() { suffix } else { rest };
        Self {
            label: format!("{} ({unit})", words(rest)),
            factor: *factor,
            // A bandwidth beside a run is the machine's.
            direction: match name.contains("bandwidth") {
                true => Direction::Neither,
                false => *direction,
            },
        }
    }
}

/// All measurements in `json`, in order. `identity` is what all of it is; what the outermost record
/// begins with is how it was measured.
pub fn rows(json: &Value, identity: Fields) -> Vec<Row> {
    let mut walk = Walk {
        identity,
        ..Walk::default()
    };
    if let Value::Object(fields) = json {
        walk.how.extend(beginning(fields));
        walk.fields_of(fields);
    }
    walk.rows
}

/// What a record begins with.
fn beginning(fields: &Map<String, Value>) -> impl Iterator<Item = (String, String)> {
    let plain = |(name, value): (&String, &Value)| Some((name.clone(), plain(value)?));
    fields.iter().map_while(plain)
}

/// Goes through a file.
#[derive(Debug, Default)]
struct Walk {
    identity: Fields,
    how: Fields,
    /// Names of the fields that lead from the innermost record to a value.
    path: Vec<String>,
    rows: Vec<Row>,
}

impl Walk {
    fn fields_of(&mut self, fields: &Map<String, Value>) {
        for (name, value) in fields {
            self.path.push(name.clone());
            self.value(value);
            self.path.pop();
        }
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Array(values) => values.iter().for_each(|value| self.element(value)),
            Value::Object(fields) if fields.contains_key("verdict") => {}
            Value::Object(fields) => match samples(fields) {
                None => self.fields_of(fields),
                Some(samples) => self.rows.push(Row {
                    identity: self.identity.clone(),
                    how: self.how.clone(),
                    quantity: self.path.join("."),
                    samples,
                }),
            },
            _ => {}
        }
    }

    /// An element of a list is told apart by what it begins with.
    fn element(&mut self, value: &Value) {
        let Value::Object(fields) = value else {
            return self.value(value);
        };
        let (identity, how) = (self.identity.len(), self.how.len());
        for (name, value) in beginning(fields) {
            match HOW.contains(&name.as_str()) {
                true => self.how.push((name, value)),
                false => self.identity.push((name, value)),
            }
        }
        let path = std::mem::take(&mut self.path);
        self.fields_of(fields);
        self.path = path;
        self.identity.truncate(identity);
        self.how.truncate(how);
    }
}

/// A value that can say what a record is.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(number) if !number.is_f64() => Some(number.to_string()),
        _ => None,
    }
}

/// The samples of a measurement, of which there is one at least.
fn samples(fields: &Map<String, Value>) -> Option<Vec<f64>> {
    let is_summary = ["median", "low", "high"]
        .iter()
        .all(|name| fields.contains_key(*name));
    let samples = fields.get("samples")?.as_array()?;
    let samples: Vec<f64> = samples.iter().filter_map(Value::as_f64).collect();
    (is_summary && !samples.is_empty()).then_some(samples)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn summary(samples: &[f64]) -> Value {
        json!({"median": samples[0], "low": 1.0, "high": 2.0, "samples": samples})
    }

    fn fields(of: &[(&str, &str)]) -> Fields {
        let fields = of
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()));
        fields.collect()
    }

    #[test]
    fn a_record_is_what_it_begins_with_and_holds_what_follows() {
        let file = json!({
            "plan": "short",
            "runs": [
                {"engine": "cpu", "threads": 2, "batch": 1, "decode_tokens_per_second": summary(&[3.0]),
                 "load_seconds": 0.25, "placement": "mapped",
                 "floor": {"kernel": "x", "read_bandwidth_bytes_per_second": summary(&[9.0])}},
                {"engine": "reference", "threads": 1, "batch": 1, "decode_tokens_per_second": null},
            ],
            "comparisons": [{"engine": "cpu",
                "decode": {"median": 1.0, "low": 1.0, "high": 1.0, "samples": [1.0], "verdict": "same"}}],
        });
        let rows = rows(&file, fields(&[("cell", "a/b")]));
        assert_eq!(
            rows[0],
            Row {
                identity: fields(&[("cell", "a/b"), ("engine", "cpu"), ("batch", "1")]),
                how: fields(&[("plan", "short"), ("threads", "2")]),
                quantity: "decode_tokens_per_second".into(),
                samples: vec![3.0],
            }
        );
        assert_eq!(rows[1].quantity, "floor.read_bandwidth_bytes_per_second");
        assert_eq!((&rows[1].identity, rows.len()), (&rows[0].identity, 2));
    }

    #[test]
    fn records_within_records_are_told_apart_by_all_of_them() {
        let file = json!({"positions": [
            {"position": 1, "runs": [{"name": "v0", "step_us": summary(&[1.0])}]},
            {"position": 9, "runs": [{"name": "v0", "step_us": summary(&[2.0])}]},
        ]});
        let found = rows(&file, Vec::new());
        let identities: Vec<_> = found.into_iter().map(|row| row.identity).collect();
        let at = |position| fields(&[("position", position), ("name", "v0")]);
        assert_eq!(identities, [at("1"), at("9")]);
    }

    #[test]
    fn a_quantity_is_shown_with_its_unit_which_says_what_is_better() {
        for (name, label, direction) in [
            (
                "decode_tokens_per_second",
                "decode (tok/s)",
                Direction::Speed,
            ),
            (
                "bytes_per_second",
                "bytes per second (GB/s)",
                Direction::Speed,
            ),
            ("step_microseconds", "step (us)", Direction::Time),
            ("first_token_ms", "first token (ms)", Direction::Time),
            ("token.seconds", "token (s)", Direction::Time),
            ("floor.fraction", "floor: fraction", Direction::More),
            (
                "tokens_per_joule",
                "tokens per joule (tok/J)",
                Direction::More,
            ),
            ("peak_rss_bytes", "peak rss (MB)", Direction::Less),
            (
                "floor.read_bandwidth_bytes_per_second",
                "floor: read bandwidth (GB/s)",
                Direction::Neither,
            ),
            ("columns", "columns", Direction::Neither),
        ] {
            let quantity = Quantity::named(name);
            assert_eq!(
                (quantity.label.as_str(), quantity.direction),
                (label, direction)
            );
        }
    }
}
