//! Two results of the same kind, row by row.
//!
//! The files were not measured in turns, so what is compared are medians of independent samples
//! ([`ratio_of_medians`]). Rows belong together if they are of the same thing, measured in the same
//! way; then if they are of the same thing; then, where each file has one model, whatever the model.

use serde::Serialize;
use serde_json::{Map, Value};

use super::page::{file_name, machine};
use super::rows::{Direction, Fields, Quantity, Row, rows};
use super::{Content, Document, ResultsError};
use crate::experiment::result::Status;
use crate::gpu_check;
use crate::measure::statistics::{Verdict, median, ratio_of_medians};
use crate::report::chart::Interval;
use crate::report::grouping::distinct;
use crate::report::table::{Cell, Column, Table};

/// The field that names a model.
const MODEL: &str = "model";

/// What two results say about each other.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// What both are.
    pub kind: String,
    /// The first file.
    pub a: Side,
    /// The second file, whose advantage is told.
    pub b: Side,
    /// Differences below this share count as none.
    pub same_within: f64,
    /// What a reader must know before the numbers: other machines, models, plans.
    pub notes: Vec<String>,
    /// What both have, in the order of the first.
    pub rows: Vec<Compared>,
    /// What only the first has.
    pub only_a: Vec<Named>,
    /// What only the second has.
    pub only_b: Vec<Named>,
}

/// Where one side comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Side {
    /// The file's name.
    pub file: String,
    /// The machine.
    pub machine: String,
    /// The program's revision.
    pub revision: String,
    /// When it was measured, in seconds since 1970.
    pub unix_time: u64,
    /// Whether something that it checked does not hold.
    pub has_failed: bool,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Named {
    /// Of what.
    #[serde(serialize_with = "as_object")]
    pub identity: Fields,
    /// The quantity, with its unit.
    pub quantity: String,
}

/// A row of both sides.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// What was measured.
    #[serde(flatten)]
    pub named: Named,
    /// The first side's median.
    pub a: f64,
    /// The second side's median.
    pub b: f64,
    /// How many samples each side has.
    pub samples: [usize; 2],
    /// The second side's advantage: above 1 it is better, or larger where neither is. `None` where a
    /// sample is not above 0.
    pub advantage: Option<f64>,
    /// Lower end of its 95% interval.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
    /// What that says of the second side; `None` where more is neither better nor worse.
    pub verdict: Option<Verdict>,
    /// The verdict in the words of the quantity.
    pub word: &'static str,
}

fn as_object<S: serde::Serializer>(fields: &Fields, serializer: S) -> Result<S::Ok, S::Error> {
    let fields = fields
        .iter()
        .map(|(name, value)| (name.clone(), value.as_str().into()));
    fields.collect::<Map<String, Value>>().serialize(serializer)
}

/// Compares two results. Differences below `same_within` count as none.
///
/// # Errors
/// Results of different kinds.
pub fn compare(a: &Document, b: &Document, same_within: f64) -> Result<Comparison, ResultsError> {
    if a.kind() != b.kind() {
        return Err(ResultsError::DifferentKinds {
            a: a.path.clone(),
            found_a: a.kind(),
            b: b.path.clone(),
            found_b: b.kind(),
        });
    }
    let mut notes = differences(a, b);
    let (rows_a, rows_b) = (measured(a), measured(b));
    let pairs = pair(&rows_a, &rows_b);
    notes.extend(other_ways(&rows_a, &rows_b, &pairs));
    let rows = pairs
        .iter()
        .map(|&(a, b)| compared(&rows_a[a], &rows_b[b], same_within))
        .collect();
    let left = |rows: &[Row], taken: &dyn Fn(usize) -> bool| -> Vec<Named> {
        let left = rows.iter().enumerate().filter(|(index, _)| !taken(*index));
        left.map(|(_, row)| named(row)).collect()
    };
    Ok(Comparison {
        kind: a.kind(),
        a: side(a),
        b: side(b),
        same_within,
        notes,
        rows,
        only_a: left(&rows_a, &|index| pairs.iter().any(|pair| pair.0 == index)),
        only_b: left(&rows_b, &|index| pairs.iter().any(|pair| pair.1 == index)),
    })
}

/// Every measurement of a file.
fn measured(document: &Document) -> Vec<Row> {
    match &document.content {
        Content::Bench(_) => rows(&document.json, Vec::new()),
        Content::GpuCheck(file) => rows(&file.findings, Vec::new()),
        Content::Experiment(file) => {
            let of_cell = |cell: &crate::experiment::result::CellRecord| {
                rows(&cell.result, vec![("cell".into(), cell.id.clone())])
            };
            file.cells.iter().flat_map(of_cell).collect()
        }
    }
}

fn side(document: &Document) -> Side {
    let environment = document.environment();
    Side {
        file: file_name(document),
        machine: machine(environment),
        revision: environment.git_revision.clone(),
        unix_time: environment.unix_time,
        has_failed: match &document.content {
            Content::Bench(report) => !report.passed(),
            Content::GpuCheck(file) => file.status == gpu_check::results::Status::Failed,
            Content::Experiment(file) => file.status == Status::Failed,
        },
    }
}

/// What makes a comparison another one than of two programs on one machine: loud words.
fn differences(a: &Document, b: &Document) -> Vec<String> {
    let mut notes = Vec::new();
    let mut differ = |what: &str, a: String, b: String| {
        if a != b {
            notes.push(format!("DIFFERENT {what}: {a} against {b}"));
        }
    };
    let [ours, theirs] = [a, b].map(Document::environment);
    differ("MACHINES", machine(ours), machine(theirs));
    match (&a.content, &b.content) {
        (Content::GpuCheck(a), Content::GpuCheck(b)) => {
            let name = |gpu: &Value| gpu["name"].as_str().unwrap_or("unnamed").to_owned();
            differ("GPUS", name(&a.gpu), name(&b.gpu));
        }
        (Content::Experiment(a), Content::Experiment(b)) => {
            differ("DEVICES", a.device.clone(), b.device.clone());
            if a.plan != b.plan {
                notes.push(
                    "DIFFERENT PLANS: rows with the same name may be of different things".into(),
                );
            }
        }
        _ => {}
    }
    notes
}

/// The models of some rows.
fn models(rows: &[Row]) -> Vec<&str> {
    let fields = rows
        .iter()
        .flat_map(|row| row.identity.iter().chain(&row.how));
    let models = fields.filter(|(name, _)| name == MODEL);
    distinct(models.map(|(_, model)| model.as_str()))
}

/// Which rows belong together, in the order of the first side.
fn pair(a: &[Row], b: &[Row]) -> Vec<(usize, usize)> {
    let without_model = |row: &Row| -> Fields {
        let fields = row.identity.iter().filter(|(name, _)| name != MODEL);
        fields.cloned().collect()
    };
    let mut partners: Vec<Option<usize>> = vec![None; a.len()];
    let mut is_free = vec![true; b.len()];
    let mut take = |belong: &dyn Fn(&Row, &Row) -> bool| {
        for (row, partner) in a.iter().zip(&mut partners) {
            let fits = |at: &usize| {
                is_free[*at] && row.quantity == b[*at].quantity && belong(row, &b[*at])
            };
            // In order, should a file not tell its rows apart.
            if partner.is_none()
                && let Some(at) = (0..b.len()).find(fits)
            {
                *partner = Some(at);
                is_free[at] = false;
            }
        }
    };
    take(&|a, b| a.identity == b.identity && a.how == b.how);
    take(&|a, b| a.identity == b.identity);
    if models(a).len() <= 1 && models(b).len() <= 1 {
        take(&|a, b| without_model(a) == without_model(b));
    }
    let pairs = partners.into_iter().enumerate();
    pairs
        .filter_map(|(index, partner)| Some((index, partner?)))
        .collect()
}

/// Notes on rows that were paired though they are of different models, or were measured in different
/// ways.
fn other_ways(a: &[Row], b: &[Row], pairs: &[(usize, usize)]) -> Vec<String> {
    let fields = |row: &Row| -> Fields {
        let model = row.identity.iter().filter(|(name, _)| name == MODEL);
        model.chain(&row.how).cloned().collect()
    };
    let mut notes = Vec::new();
    for &(a_at, b_at) in pairs {
        let theirs = fields(&b[b_at]);
        for (name, ours) in fields(&a[a_at]) {
            let Some((_, theirs)) = theirs.iter().find(|(other, _)| *other == name) else {
                continue;
            };
            let note = match name.as_str() {
                MODEL => format!("DIFFERENT MODELS: {ours} against {theirs}"),
                name => format!(
                    "different {}: {ours} against {theirs}",
                    name.replace('_', " ")
                ),
            };
            if ours != *theirs {
                notes.push(note);
            }
        }
    }
    distinct(notes)
}

fn named(row: &Row) -> Named {
    Named {
        identity: row.identity.clone(),
        quantity: row.quantity.clone(),
    }
}

fn compared(a: &Row, b: &Row, same_within: f64) -> Compared {
    let direction = Quantity::named(&a.quantity).direction;
    let found = match direction {
        Direction::Time | Direction::Less => ratio_of_medians(&a.samples, &b.samples, same_within),
        _ => ratio_of_medians(&b.samples, &a.samples, same_within),
    };
    let (advantage, verdict) = found.unzip();
    let verdict = verdict.filter(|_| direction != Direction::Neither);
    Compared {
        named: named(a),
        a: median(&a.samples),
        b: median(&b.samples),
        samples: [a.samples.len(), b.samples.len()],
        advantage: advantage.map(|advantage: Interval| advantage.value),
        low: advantage.map(|advantage| advantage.low),
        high: advantage.map(|advantage| advantage.high),
        verdict,
        word: word(direction, verdict),
    }
}

/// The verdict as it is said of a speed or a time, or of something else.
fn word(direction: Direction, verdict: Option<Verdict>) -> &'static str {
    let is_speed = matches!(direction, Direction::Speed | Direction::Time);
    match verdict {
        None => "",
        Some(Verdict::Same) => "same",
        Some(Verdict::Unclear) => "unclear",
        Some(Verdict::Faster) if is_speed => "faster",
        Some(Verdict::Faster) => "better",
        Some(Verdict::Slower) if is_speed => "slower",
        Some(Verdict::Slower) => "worse",
    }
}

impl Comparison {
    /// Speeds and times whose verdict is `slower`.
    pub fn slower(&self) -> impl Iterator<Item = &Compared> {
        self.rows.iter().filter(|row| row.word == "slower")
    }

    /// The rows of both sides, and then those of one.
    pub fn table(&self) -> Table {
        let mut table = Table::new([
            Column::text("what"),
            Column::text("quantity"),
            Column::number("A", ""),
            Column::number("B", ""),
            Column::number("advantage of B", ""),
            Column::number("low", ""),
            Column::number("high", ""),
            Column::text("verdict"),
        ]);
        let distinguishing = self.distinguishing();
        let what = |named: &Named| Cell::text(in_words(&named.identity, &distinguishing));
        for row in &self.rows {
            let ratio = |value: Option<f64>| Cell::number(value, 3);
            let quantity = Quantity::named(&row.named.quantity);
            let number = |value: f64| {
                let value = value * quantity.factor;
                Cell::Number(value, decimals(value))
            };
            table.push([
                what(&row.named),
                Cell::text(&quantity.label),
                number(row.a),
                number(row.b),
                ratio(row.advantage),
                ratio(row.low),
                ratio(row.high),
                Cell::text(row.word),
            ]);
        }
        for (side, rows) in [("only in A", &self.only_a), ("only in B", &self.only_b)] {
            for named in rows {
                let label = Quantity::named(&named.quantity).label;
                let mut cells = vec![what(named), Cell::text(label)];
                cells.extend([const { Cell::Missing }; 5]);
                cells.push(Cell::text(side));
                table.push(cells);
            }
        }
        table
    }

    /// Names of fields that tell rows apart: those that are not the same everywhere.
    fn distinguishing(&self) -> Vec<&str> {
        let both = self.rows.iter().map(|row| &row.named);
        let all = || both.clone().chain(&self.only_a).chain(&self.only_b);
        let fields = all().flat_map(|named| &named.identity);
        let mut names = distinct(fields.map(|(name, _)| name.as_str()));
        let value = |named: &Named, name: &str| {
            let field = named.identity.iter().find(|field| field.0 == name);
            field.map(|field| field.1.clone())
        };
        let first = all().next();
        names.retain(|name| {
            let same = first.map(|first| value(first, name));
            all().any(|named| Some(value(named, name)) != same)
        });
        names
    }

    /// What a reader must know before the table: a line each.
    pub fn remarks(&self) -> Vec<String> {
        let side = |name: &str, side: &Side| {
            let failed = if side.has_failed {
                ", FAILED its checks"
            } else {
                ""
            };
            format!(
                "{name}: {}, revision {}, on {}{failed}",
                side.file, side.revision, side.machine
            )
        };
        let mut remarks = vec![side("A", &self.a), side("B", &self.b)];
        remarks.extend(self.notes.iter().cloned());
        remarks
    }
}

/// The fields with these names, in words; all of them if no name is given.
fn in_words(identity: &Fields, names: &[&str]) -> String {
    let chosen = identity
        .iter()
        .filter(|(name, _)| names.is_empty() || names.contains(&name.as_str()));
    let words = chosen.map(|(name, value)| match value.parse::<f64>() {
        // A number says nothing by itself.
        Ok(_) => format!("{} {value}", name.replace('_', " ")),
        Err(_) => value.clone(),
    });
    words.collect::<Vec<_>>().join(", ")
}

/// As many as make four significant digits.
fn decimals(value: f64) -> usize {
    if value == 0.0 || !value.is_finite() {
        return 0;
    }
    (3 - value.abs().log10().floor() as i32).clamp(0, 12) as usize
}
