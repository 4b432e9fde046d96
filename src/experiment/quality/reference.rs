//! The logits that all others are held against: in a file, whoever made it.

use std::path::Path;

use tempfile::TempDir;

use super::Made;
use super::teacher_forced::teacher_force;
use crate::engine::Engine;
use crate::experiment::{ExperimentError, Watch};
use crate::model::TokenId;
use crate::report::logits_file::LogitsFile;
use crate::report::saved_logits::{SavedLogits, SavedLogitsError};

/// The reference's logits of a set.
#[derive(Debug)]
pub struct Reference {
    logits: SavedLogits,
    made: Made,
    /// What the file lies in if it was made here, so that it goes with this.
    _folder: Option<TempDir>,
}

impl Reference {
    /// Computes the logits of `texts` into a temporary file.
    ///
    /// # Errors
    /// If the engine fails, or the file can't be written.
    pub fn compute(
        engine: &mut dyn Engine,
        texts: Vec<Vec<TokenId>>,
        made: Made,
        watch: &Watch,
    ) -> Result<Self, ExperimentError> {
        let failed = |source| ExperimentError::System {
            what: format!(
                "the reference's logits in {} (TMPDIR names another folder)",
                std::env::temp_dir().display()
            ),
            source,
        };
        let folder = tempfile::tempdir().map_err(failed)?;
        let path = folder.path().join("reference.safetensors");
        let slices: Vec<_> = texts.iter().map(Vec::as_slice).collect();
        let vocab_size = engine.config().vocab_size;
        let mut file = LogitsFile::create(&path, &slices, vocab_size, &[]).map_err(failed)?;
        teacher_force(engine, &texts, 1, watch, "the reference", &mut |_, row| {
            file.push(row).map_err(failed)
        })?;
        file.commit().map_err(failed)?;
        Ok(Self {
            logits: SavedLogits::open(&path)?,
            made,
            _folder: Some(folder),
        })
    }

    /// The logits of a file.
    pub fn of_file(logits: SavedLogits, path: &Path) -> Self {
        Self {
            made: made_by_file(&logits, path),
            logits,
            _folder: None,
        }
    }

    /// What made them.
    pub fn made(&self) -> &Made {
        &self.made
    }

    /// The tokens of each text.
    pub fn texts(&self) -> &[Vec<TokenId>] {
        self.logits.texts()
    }

    /// Logits of a row.
    pub fn vocab_size(&self) -> usize {
        self.logits.vocab_size()
    }

    /// Reads row `index`, counted through all texts, into `row`: `[vocabulary]`.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn read_row(&mut self, index: usize, row: &mut Vec<f32>) -> Result<(), SavedLogitsError> {
        self.logits.read_row(index, row)
    }
}

/// What a file says of who made it.
pub fn made_by_file(logits: &SavedLogits, path: &Path) -> Made {
    let engine = logits
        .description()
        .iter()
        .find(|(name, _)| name == "engine");
    Made {
        by: engine.map_or_else(|| path.display().to_string(), |(_, engine)| engine.clone()),
        numbers: format!("{} logits", logits.element_type().as_str()),
        description: logits.description().to_vec(),
    }
}
