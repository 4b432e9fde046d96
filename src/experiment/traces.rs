//! Traces of what an experiment runs: one more run of each engine, when all that is timed is done.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::ExperimentError;
use crate::engine::{Engine, EngineError};
use crate::trace::file;
use crate::trace::perfetto::About;

/// Where traces go, and what became of them. Clones are of one and the same.
#[derive(Clone, Debug)]
pub struct Traces {
    path: PathBuf,
    steps: usize,
    notes: Arc<Mutex<Vec<String>>>,
}

impl Traces {
    /// Traces of up to `steps` steps each, in files beside `path` whose names begin as its does.
    pub fn new(path: &Path, steps: usize) -> Self {
        Self {
            path: path.to_owned(),
            steps,
            notes: Arc::default(),
        }
    }

    /// The file for a trace of `what`: for `demo/coordinate` and `out/run.pftrace.gz`, which is
    /// `out/run-demo-coordinate.pftrace.gz`.
    pub fn path(&self, what: &str) -> PathBuf {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        // A name that begins with a dot has no ending there.
        let dot = name.char_indices().skip(1).find(|(_, c)| *c == '.');
        let (stem, ending) = name.split_at(dot.map_or(name.len(), |(at, _)| at));
        let words = what.split(|c: char| !c.is_alphanumeric() && c != '.' && c != '_');
        let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
        let name = format!("{stem}-{}{ending}", words.join("-"));
        self.path.with_file_name(name)
    }

    /// Begins to record `engine`; `false`, with a note, if it is one that records nothing.
    ///
    /// # Errors
    /// No memory.
    pub fn start(&self, engine: &mut dyn Engine, what: &str) -> Result<bool, ExperimentError> {
        match engine.start_trace(self.steps) {
            Ok(()) => Ok(true),
            Err(error @ EngineError::NoTrace { .. }) => {
                self.note(format!("no trace of {what}: {error}"));
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Ends the recording and writes it.
    ///
    /// # Errors
    /// If it can't be read or written.
    pub fn finish(
        &self,
        engine: &mut dyn Engine,
        model: &str,
        what: &str,
    ) -> Result<(), ExperimentError> {
        let Some(recording) = engine.take_trace()? else {
            return Ok(());
        };
        let path = self.path(what);
        let about = About::of(engine, model);
        file::write(&path, &recording, &about).map_err(|source| ExperimentError::System {
            what: format!("cannot write the trace {}", path.display()),
            source,
        })?;
        self.note(format!("trace of {what}: {}", path.display()));
        for shortfall in recording.shortfalls() {
            self.note(format!("{}: {shortfall}", path.display()));
        }
        Ok(())
    }

    /// What was written, and what not, since this was last asked.
    pub fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut self.notes.lock().expect("nothing panics with it"))
    }

    fn note(&self, note: String) {
        let mut notes = self.notes.lock().expect("nothing panics with it");
        notes.push(note);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_has_its_cell_in_its_name_and_keeps_its_ending() {
        let path = |path: &str, what: &str| {
            let traces = Traces::new(Path::new(path), 1);
            traces.path(what).to_str().unwrap().to_owned()
        };
        let what = "random:qwen3-0.6b/molecule of 5 atoms, short/batch-1/none";
        assert_eq!(
            path("out/run.pftrace.gz", what),
            "out/run-random-qwen3-0.6b-molecule-of-5-atoms-short-batch-1-none.pftrace.gz"
        );
        assert_eq!(path("run", "demo/a"), "run-demo-a");
        assert_eq!(path(".run", "../../a"), ".run-..-..-a");
    }
}
