//! How far the shards of a folder are, by their result files.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::experiment::ExperimentError;
use crate::experiment::result::{CellOutcome, ResultFile, Status};
use crate::experiment::shard::{FOLDER, Shard};

/// All shards of an experiment in one folder, as they were when last looked at.
#[derive(Clone, Debug)]
pub struct Shards(Vec<Seen>);

#[derive(Clone, Debug)]
struct Seen {
    shard: Shard,
    path: PathBuf,
    /// What tells a file from a later one in its place.
    stamp: Option<(SystemTime, u64)>,
    state: State,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    cells: usize,
    failed: usize,
    is_done: bool,
}

/// How far all of them are together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Cells with an outcome.
    pub cells: usize,
    /// Those of them that failed.
    pub failed: usize,
    /// Shards with all their cells, none of which failed.
    pub shards: usize,
}

impl Shards {
    /// Those of `experiment` in the folder of results, not looked at yet.
    pub fn new(experiment: &str, folder: &Path, count: usize) -> Self {
        let seen = |shard: Shard| Seen {
            shard,
            path: folder.join(FOLDER).join(shard.file_name(experiment)),
            stamp: None,
            state: State::default(),
        };
        Self(Shard::all(count).map(seen).collect())
    }

    /// Reads what was written since.
    ///
    /// # Errors
    /// A file that can't be read, or is no result.
    pub fn look(&mut self) -> Result<(), ExperimentError> {
        for seen in &mut self.0 {
            let stamp = std::fs::metadata(&seen.path)
                .and_then(|file| Ok((file.modified()?, file.len())))
                .ok();
            if stamp.is_some() && stamp == seen.stamp {
                continue;
            }
            seen.stamp = stamp;
            seen.state = State::default();
            if let Some(file) = ResultFile::read(&seen.path)? {
                let failed = |outcome| outcome == CellOutcome::Failed;
                seen.state = State {
                    cells: file.cells.len(),
                    failed: file
                        .cells
                        .iter()
                        .filter(|cell| failed(cell.outcome))
                        .count(),
                    is_done: file.status == Status::Done,
                };
            }
        }
        Ok(())
    }

    /// Those without a whole result, from 1 on.
    pub fn missing(&self) -> Vec<usize> {
        let missing = self.0.iter().filter(|seen| !seen.state.is_done);
        missing.map(|seen| seen.shard.index()).collect()
    }

    /// How far they are.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for Seen { state, .. } in &self.0 {
            counts.cells += state.cells;
            counts.failed += state.failed;
            counts.shards += usize::from(state.is_done);
        }
        counts
    }
}
