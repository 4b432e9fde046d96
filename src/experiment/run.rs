//! Goes through the cells of an experiment, and writes the result after each of them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::result::{CellOutcome, CellRecord, ResultFile, Status};
use super::shard::{FOLDER, Shard};
use super::{Cell, Experiment, ExperimentError, Watch};
use crate::measure::environment::Environment;

/// Where a run's result goes, and which part of the plan it measures.
#[derive(Clone, Debug)]
pub struct Place {
    /// The experiment's name.
    pub name: &'static str,
    /// The device, as `auto` turned out.
    pub device: &'static str,
    /// The folder, which is made if it is not there.
    pub folder: PathBuf,
    /// The part of the plan to measure; all of it where none is named.
    pub shard: Option<Shard>,
}

impl Place {
    /// The result's file.
    pub fn path(&self) -> PathBuf {
        match self.shard {
            None => self.folder.join(format!("{}.json", self.name)),
            Some(shard) => self.folder.join(FOLDER).join(shard.file_name(self.name)),
        }
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The cell that begins.
    pub cell: &'a str,
    /// Cells that are done, those of earlier runs included.
    pub done: usize,
    /// Cells there are.
    pub all: usize,
    /// Time that the rest will take, where that can be told.
    pub left: Option<Duration>,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Ran {
    /// All that is known, also from earlier runs.
    pub file: ResultFile,
    /// Whether the user ended it.
    pub interrupted: bool,
    /// Cells that an earlier run had measured.
    pub kept: usize,
}

/// Measures all cells that an earlier run has not measured, and writes the result after each. A cell
/// that fails does not keep the others from being measured.
///
/// # Errors
/// A result of something else in the same place; a folder that can't be written.
pub fn run(
    experiment: &mut dyn Experiment,
    place: &Place,
    interrupted: &dyn Fn() -> bool,
    progress: &mut dyn FnMut(Progress),
    doing: &dyn Fn(&str),
) -> Result<Ran, ExperimentError> {
    let path = place.path();
    let is_held = |index: usize| place.shard.is_none_or(|shard| shard.holds(index));
    let cells = experiment.cells().into_iter().enumerate();
    let cells: Vec<Cell> = cells
        .filter_map(|(index, cell)| is_held(index).then_some(cell))
        .collect();
    let mut file = begin(experiment, place, &path)?;
    let kept = file.cells.len();
    let mut clock = Clock::default();
    let watch = Watch { interrupted, doing };
    let mut was_interrupted = false;
    for (index, cell) in cells.iter().enumerate() {
        if file.cell(&cell.id).is_some() {
            continue;
        }
        let todo = |cell: &&Cell| file.cell(&cell.id).is_none();
        let weight_left = cells.iter().filter(todo).map(|cell| cell.weight).sum();
        progress(Progress {
            cell: &cell.id,
            done: file.cells.len(),
            all: cells.len(),
            left: clock.left(weight_left),
        });
        let started = Instant::now();
        let record = match experiment.measure(cell, &watch) {
            Err(ExperimentError::Interrupted) => {
                was_interrupted = true;
                break;
            }
            outcome => record(cell, outcome, started.elapsed()),
        };
        clock.add(cell.weight, started.elapsed());
        file.seconds += record.seconds;
        // In the plan's order, whatever an earlier run had.
        let before = |id: &str| cells.iter().take(index).any(|cell| cell.id == id);
        let at = file.cells.iter().filter(|cell| before(&cell.id)).count();
        file.cells.insert(at, record);
        file.status = status(&file, cells.len());
        file.write(&path)?;
    }
    file.status = status(&file, cells.len());
    Ok(Ran {
        file,
        interrupted: was_interrupted,
        kept,
    })
}

/// The result to go on with: what an earlier run measured, or nothing.
fn begin(
    experiment: &dyn Experiment,
    place: &Place,
    path: &Path,
) -> Result<ResultFile, ExperimentError> {
    let folder = path.parent().expect("a file in a folder");
    std::fs::create_dir_all(folder).map_err(|source| ExperimentError::System {
        what: format!("cannot make {}", folder.display()),
        source,
    })?;
    let fresh = ResultFile {
        experiment: place.name.to_owned(),
        status: Status::Partial,
        environment: Environment::current(),
        device: place.device.to_owned(),
        plan: experiment.plan(),
        seconds: 0.0,
        cells: Vec::new(),
    };
    let Some(mut earlier) = ResultFile::read(path)? else {
        return Ok(fresh);
    };
    let other = |found: String, expected: String| ExperimentError::OtherResult {
        path: path.to_owned(),
        found,
        expected,
    };
    if earlier.experiment != fresh.experiment {
        let name = |file: &ResultFile| format!("the experiment {}", file.experiment);
        return Err(other(name(&earlier), name(&fresh)));
    }
    if earlier.origin() != fresh.origin() {
        return Err(other(earlier.origin(), fresh.origin()));
    }
    if earlier.plan != fresh.plan {
        return Err(other("another plan".into(), "this one".into()));
    }
    // What could not be measured may be possible now.
    earlier
        .cells
        .retain(|cell| cell.outcome == CellOutcome::Measured);
    earlier.seconds = earlier.cells.iter().map(|cell| cell.seconds).sum();
    Ok(earlier)
}

fn record(cell: &Cell, outcome: Result<Value, ExperimentError>, elapsed: Duration) -> CellRecord {
    let (outcome, reason, result) = match outcome {
        Ok(result) => (CellOutcome::Measured, None, result),
        Err(ExperimentError::NotMeasured { reason }) => {
            (CellOutcome::NotMeasured, Some(reason), Value::Null)
        }
        Err(error) => (CellOutcome::Failed, Some(error.to_string()), Value::Null),
    };
    CellRecord {
        id: cell.id.clone(),
        outcome,
        reason,
        seconds: elapsed.as_secs_f64(),
        unix_time: Environment::now(),
        result,
    }
}

/// How far `file` is, of so many cells.
pub(super) fn status(file: &ResultFile, cells: usize) -> Status {
    let has_failed = |cell: &CellRecord| cell.outcome == CellOutcome::Failed;
    match file.cells.len() < cells {
        _ if file.cells.iter().any(has_failed) => Status::Failed,
        true => Status::Partial,
        false => Status::Done,
    }
}

/// How long cells take by weight.
#[derive(Default)]
struct Clock {
    weight: f64,
    elapsed: Duration,
}

impl Clock {
    fn add(&mut self, weight: f64, elapsed: Duration) {
        self.weight += weight;
        self.elapsed += elapsed;
    }

    fn left(&self, weight: f64) -> Option<Duration> {
        let known = self.weight > 0.0;
        known.then(|| self.elapsed.mul_f64(weight / self.weight))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell as Shared;

    use serde_json::json;

    use super::*;

    /// Counts from 0 in each cell; what `fails` names fails, what `absent` names can't be measured.
    struct Counting {
        plan: Value,
        ids: Vec<&'static str>,
        fails: &'static str,
        absent: &'static str,
        measured: Vec<String>,
    }

    fn counting(ids: &[&'static str]) -> Counting {
        Counting {
            plan: json!({"ids": ids}),
            ids: ids.to_vec(),
            fails: "",
            absent: "",
            measured: Vec::new(),
        }
    }

    impl Experiment for Counting {
        fn plan(&self) -> Value {
            self.plan.clone()
        }

        fn cells(&self) -> Vec<Cell> {
            let cell = |id: &&str| Cell {
                id: (*id).to_owned(),
                weight: 1.0,
            };
            self.ids.iter().map(cell).collect()
        }

        fn measure(&mut self, cell: &Cell, watch: &Watch) -> Result<Value, ExperimentError> {
            watch.check()?;
            let reason = "as the test wants it".to_owned();
            if cell.id == self.fails {
                return Err(ExperimentError::WrongOutput { reason });
            }
            if cell.id == self.absent {
                return Err(ExperimentError::NotMeasured { reason });
            }
            self.measured.push(cell.id.clone());
            Ok(json!({"count": self.measured.len()}))
        }
    }

    fn place(folder: &Path) -> Place {
        Place {
            name: "counting",
            device: "cpu",
            folder: folder.to_owned(),
            shard: None,
        }
    }

    fn run_in(folder: &Path, experiment: &mut Counting) -> Result<Ran, ExperimentError> {
        run(experiment, &place(folder), &|| false, &mut |_| (), &|_| ())
    }

    fn ids(file: &ResultFile) -> Vec<&str> {
        file.cells.iter().map(|cell| cell.id.as_str()).collect()
    }

    #[test]
    fn a_run_that_was_stopped_goes_on_where_it_ended() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = counting(&["a", "b", "c"]);
        let asked = Shared::new(0);
        // Asked once by each cell: the second is interrupted.
        let interrupted = || asked.replace(asked.get() + 1) == 1;
        let place = place(folder.path());
        let ran = run(&mut first, &place, &interrupted, &mut |_| (), &|_| ()).unwrap();
        assert!(ran.interrupted);
        let kept = ResultFile::read(&place.path()).unwrap().unwrap();
        assert_eq!((ids(&kept), kept.status), (vec!["a"], Status::Partial));

        let mut second = counting(&["a", "b", "c"]);
        let ran = run_in(folder.path(), &mut second).unwrap();
        assert_eq!(second.measured, ["b", "c"]);
        assert_eq!((ran.kept, ran.file.status), (1, Status::Done));
        assert_eq!(ids(&ran.file), ["a", "b", "c"]);
        assert_eq!(ResultFile::read(&place.path()).unwrap().unwrap(), ran.file);
    }

    #[test]
    fn a_shard_measures_its_own_cells_into_a_file_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let mut experiment = counting(&["a", "b", "c", "d", "e"]);
        let place = Place {
            shard: Some("2/2".parse().unwrap()),
            ..place(folder.path())
        };
        let ran = run(&mut experiment, &place, &|| false, &mut |_| (), &|_| ()).unwrap();
        assert_eq!(
            (ids(&ran.file), ran.file.status),
            (vec!["b", "d"], Status::Done)
        );
        let path = folder.path().join("shards/counting.2-of-2.json");
        assert_eq!(ResultFile::read(&path).unwrap().unwrap(), ran.file);
        assert!(!folder.path().join("counting.json").exists());
    }

    #[test]
    fn what_fails_or_is_absent_is_named_and_tried_again_in_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = counting(&["a", "b", "c"]);
        (first.fails, first.absent) = ("a", "b");
        let ran = run_in(folder.path(), &mut first).unwrap();
        assert_eq!(ran.file.status, Status::Failed);
        let outcomes: Vec<_> = ran.file.cells.iter().map(|cell| cell.outcome).collect();
        let expected = [
            CellOutcome::Failed,
            CellOutcome::NotMeasured,
            CellOutcome::Measured,
        ];
        assert_eq!(outcomes, expected);
        let reason = ran.file.cells[0].reason.as_deref().unwrap();
        assert!(reason.contains("wrong output: as the test wants it"));

        let mut second = counting(&["a", "b", "c"]);
        let ran = run_in(folder.path(), &mut second).unwrap();
        assert_eq!(second.measured, ["a", "b"]);
        assert_eq!(ids(&ran.file), ["a", "b", "c"]);
        assert_eq!(ran.file.status, Status::Done);
    }

    #[test]
    fn results_of_something_else_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        run_in(folder.path(), &mut counting(&["a"])).unwrap();
        let path = place(folder.path()).path();
        let before = std::fs::read(&path).unwrap();
        let refused = |experiment: &mut Counting| {
            let message = run_in(folder.path(), experiment).unwrap_err().to_string();
            assert_eq!(std::fs::read(&path).unwrap(), before);
            message
        };
        let message = refused(&mut counting(&["a", "b"]));
        assert!(message.contains("another plan") && message.contains("--output"));

        let mut other = ResultFile::read(&path).unwrap().unwrap();
        other.environment.git_revision = "0123456".into();
        other.write(&path).unwrap();
        let message = run_in(folder.path(), &mut counting(&["a"])).unwrap_err();
        assert!(message.to_string().contains("revision 0123456"));

        std::fs::write(&path, "{}").unwrap();
        let message = run_in(folder.path(), &mut counting(&["a"])).unwrap_err();
        assert!(message.to_string().contains("missing field"), "{message}");
    }
}
