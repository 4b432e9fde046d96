//! A part of a plan that one process measures, and the whole put together again.
//!
//! Each shard is a result file of its own, so that it stops and goes on like any run. Cells are dealt out
//! in turn, since neighbours in a plan take about as long as each other.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde_json::Value;

use super::result::{CellOutcome, ResultFile};
use super::run::{Place, status};
use super::{ExperimentError, Kind, Setting};

/// The folder of shards in that of results.
pub const FOLDER: &str = "shards";

/// One of several parts of a plan's cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which one, from 1 on.
    index: usize,
    /// How many there are.
    count: usize,
}

impl Shard {
    /// Whether it measures the plan's cell number `cell`, from 0 on.
    pub fn holds(self, cell: usize) -> bool {
        cell % self.count == self.index - 1
    }

    /// All of `count`.
    pub fn all(count: usize) -> impl Iterator<Item = Self> {
        (1..=count).map(move |index| Self { index, count })
    }

    /// Which one it is, from 1 on.
    pub fn index(self) -> usize {
        self.index
    }

    /// The one that measures the plan's cell number `cell`, among `count`.
    fn of(cell: usize, count: usize) -> Self {
        Self {
            index: cell % count + 1,
            count,
        }
    }

    /// The name of its file for an experiment: `constraints.2-of-8.json`.
    pub fn file_name(self, experiment: &str) -> String {
        format!("{experiment}.{}-of-{}.json", self.index, self.count)
    }

    fn from_file_name(name: &str, experiment: &str) -> Option<Self> {
        let numbers = name.strip_prefix(experiment)?.strip_prefix('.')?;
        let (index, count) = numbers.strip_suffix(".json")?.split_once("-of-")?;
        format!("{index}/{count}").parse().ok()
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

/// What is no shard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{found}' is no shard; expected is I/N with I from 1 to N, like 2/8")]
pub struct NoShard {
    found: String,
}

impl FromStr for Shard {
    type Err = NoShard;

    fn from_str(text: &str) -> Result<Self, NoShard> {
        let numbers = text.split_once('/');
        let numbers = numbers.and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((index, count)) if (1..=count).contains(&index) => Ok(Self { index, count }),
            _ => Err(NoShard {
                found: text.to_owned(),
            }),
        }
    }
}

/// Shards put together.
#[derive(Clone, Debug)]
pub struct Merged {
    /// What is there, as a run in one piece would have written it.
    pub file: ResultFile,
    /// What is not.
    pub missing: Vec<MissingCell>,
    /// Where the result was written.
    pub path: PathBuf,
}

/// A cell that no shard has a result for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingCell {
    /// The cell.
    pub id: String,
    /// The shard that is to measure it.
    pub shard: Shard,
    /// Why it is not there.
    pub reason: &'static str,
}

/// Joins the shards of an experiment that lie in `folder`, and writes the result there.
///
/// # Errors
/// No shards; shards of different plans, programs, machines or numbers of shards; a result of something
/// else in the place of the whole; a folder that can't be written.
pub fn merge(kind: &Kind, folder: &Path, setting: &Setting) -> Result<Merged, ExperimentError> {
    let shards = read_all(kind.name, &folder.join(FOLDER))?;
    let (first_path, count, first) = &shards[0];
    let other = |path: &Path, found: String, expected: String| ExperimentError::OtherResult {
        path: path.to_owned(),
        found,
        expected,
    };
    for (path, of, shard) in &shards[1..] {
        if shard.origin() != first.origin() {
            return Err(other(path, shard.origin(), first.origin()));
        }
        let beside = |what: &str| format!("{what} beside {}", first_path.display());
        if of != count {
            return Err(other(
                path,
                format!("one of {of} shards"),
                beside(&format!("one of {count}")),
            ));
        }
        if shard.plan != first.plan {
            return Err(other(path, "another plan".into(), beside("the plan")));
        }
    }
    let plan = to_toml(&first.plan).map_err(|error| ExperimentError::Plan {
        reason: format!("{}: {error}", first_path.display()),
    })?;
    let cells = kind.open(&plan, setting)?.cells();
    let mut records: BTreeMap<&str, _> = BTreeMap::new();
    for (_, _, shard) in &shards {
        records.extend(shard.cells.iter().map(|cell| (cell.id.as_str(), cell)));
    }
    let mut file = ResultFile {
        cells: Vec::new(),
        ..first.clone()
    };
    let mut missing = Vec::new();
    for (index, cell) in cells.iter().enumerate() {
        if let Some(record) = records.get(cell.id.as_str()) {
            file.cells.push((*record).clone());
            continue;
        }
        let shard = Shard::of(index, *count);
        let name = shard.file_name(kind.name);
        let is_begun = shards.iter().any(|(path, _, _)| path.ends_with(&name));
        missing.push(MissingCell {
            id: cell.id.clone(),
            shard,
            reason: match is_begun {
                true => "the shard stopped before it",
                false => "the shard has no result yet",
            },
        });
    }
    file.seconds = file.cells.iter().map(|cell| cell.seconds).sum();
    file.status = status(&file, cells.len());
    let place = Place {
        name: kind.name,
        device: "",
        folder: folder.to_owned(),
        shard: None,
    };
    let path = place.path();
    if let Some(earlier) = ResultFile::read(&path)? {
        if earlier.origin() != file.origin() {
            return Err(other(&path, earlier.origin(), file.origin()));
        }
        if earlier.plan != file.plan {
            return Err(other(
                &path,
                "another plan".into(),
                "the plan of the shards".into(),
            ));
        }
        // What a run in one piece measured and no shard has would be lost.
        let is_measured = |id: &str| {
            let record = file.cell(id);
            record.is_some_and(|record| record.outcome == CellOutcome::Measured)
        };
        let lost = earlier
            .cells
            .iter()
            .find(|cell| cell.outcome == CellOutcome::Measured && !is_measured(&cell.id));
        if let Some(lost) = lost {
            let expected = "shards that have not".to_owned();
            return Err(other(
                &path,
                format!("a run that measured {}", lost.id),
                expected,
            ));
        }
    }
    file.write(&path)?;
    Ok(Merged {
        file,
        missing,
        path,
    })
}

/// A plan of a result as its file would have it: TOML has no null, and needs none.
fn to_toml(plan: &Value) -> Result<String, toml::ser::Error> {
    fn without_nulls(value: &Value) -> Value {
        match value {
            Value::Object(fields) => {
                let fields = fields.iter().filter(|(_, value)| !value.is_null());
                Value::Object(
                    fields
                        .map(|(name, value)| (name.clone(), without_nulls(value)))
                        .collect(),
                )
            }
            Value::Array(items) => items.iter().map(without_nulls).collect(),
            other => other.clone(),
        }
    }
    toml::to_string(&without_nulls(plan))
}

/// The paths of all shards in `folder`, in order.
fn paths(experiment: &str, folder: &Path) -> Result<Vec<(PathBuf, Shard)>, ExperimentError> {
    let none = |error: std::io::Error| ExperimentError::NoResult {
        path: folder.to_owned(),
        reason: error.to_string(),
    };
    let mut paths: Vec<(PathBuf, Shard)> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(none)? {
        let path = entry.map_err(none)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some(shard) = Shard::from_file_name(&name, experiment) {
            paths.push((path, shard));
        }
    }
    paths.sort_by_key(|(_, shard)| (shard.count, shard.index));
    Ok(paths)
}

/// Into how many parts the shards in `folder` divide their plan: one number, if they belong together.
///
/// # Errors
/// A folder that can't be read.
pub fn counts(experiment: &str, folder: &Path) -> Result<Vec<usize>, ExperimentError> {
    let paths = paths(experiment, folder)?;
    let mut counts: Vec<usize> = paths.iter().map(|(_, shard)| shard.count).collect();
    counts.dedup();
    Ok(counts)
}

/// All shards in `folder`, by name: path, number of shards, result.
fn read_all(
    experiment: &str,
    folder: &Path,
) -> Result<Vec<(PathBuf, usize, ResultFile)>, ExperimentError> {
    let mut shards = Vec::new();
    for (path, shard) in paths(experiment, folder)? {
        // A file that is gone again is as good as none.
        if let Some(file) = ResultFile::read(&path)? {
            shards.push((path, shard.count, file));
        }
    }
    match shards.is_empty() {
        true => Err(ExperimentError::NoResult {
            path: folder.to_owned(),
            reason: format!(
                "no shard of {experiment} is there, like {}",
                Shard { index: 1, count: 2 }.file_name(experiment)
            ),
        }),
        false => Ok(shards),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::ALL;

    #[test]
    fn a_shard_is_read_as_it_is_written_and_all_of_them_hold_every_cell_once() {
        for text in ["1/1", "2/8", "8/8"] {
            let shard: Shard = text.parse().unwrap();
            assert_eq!(shard.to_string(), text);
            let name = shard.file_name("quality");
            assert_eq!(Shard::from_file_name(&name, "quality"), Some(shard));
            assert_eq!(Shard::from_file_name(&name, "energy"), None);
        }
        for text in ["", "0/8", "9/8", "1/0", "2", "-1/2", "1/x", "1/2/3"] {
            let refused = text.parse::<Shard>().unwrap_err().to_string();
            assert!(refused.contains("I/N"), "{refused}");
        }
        for count in 1..6 {
            for cell in 0..20 {
                let holding: Vec<_> = Shard::all(count)
                    .filter(|shard| shard.holds(cell))
                    .collect();
                assert_eq!(holding, [Shard::of(cell, count)]);
            }
        }
    }

    #[test]
    fn a_plan_in_a_result_can_be_opened_again() {
        for kind in ALL {
            let setting = Setting::default();
            let Ok(experiment) = kind.open(kind.plan, &setting) else {
                panic!("{}: its own plan can't be opened", kind.name);
            };
            let plan = to_toml(&experiment.plan()).unwrap();
            let again = kind.open(&plan, &setting).unwrap();
            assert_eq!(again.plan(), experiment.plan(), "{}", kind.name);
            assert_eq!(again.cells(), experiment.cells(), "{}", kind.name);
        }
    }
}
