//! Held-out molecules: a SMILES to prompt with, and the conformer that the data has for it.

use std::path::Path;

use crate::experiment::ExperimentError;

/// A line of a corpus (`models/demo/train/conformer_text.py`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heldout {
    /// The molecule.
    pub smiles: String,
    /// What stands between its `[CONFORMER]` tags.
    pub conformer: String,
}

impl Heldout {
    /// What the model is given.
    pub fn prompt(&self) -> String {
        format!("[SMILES]{}[/SMILES]", self.smiles)
    }

    fn parse(line: &str) -> Option<Self> {
        let (smiles, rest) = line.strip_prefix("[SMILES]")?.split_once("[/SMILES]")?;
        let conformer = rest.strip_prefix("[CONFORMER]")?;
        Some(Self {
            smiles: smiles.to_owned(),
            conformer: conformer.strip_suffix("[/CONFORMER]")?.to_owned(),
        })
    }
}

/// The molecules of the file at `path`, in order.
///
/// # Errors
/// A file that can't be read, with how it is made; a line of another form.
pub fn read(path: &Path) -> Result<Vec<Heldout>, ExperimentError> {
    let refuse = |reason| ExperimentError::Plan { reason };
    let text = std::fs::read_to_string(path).map_err(|error| {
        refuse(format!(
            "`heldout`: cannot read {}: {error}; experiments/molecules/README.md has the commands \
             that make the data and the models",
            path.display()
        ))
    })?;
    let lines = text.lines().enumerate().map(|(index, line)| {
        Heldout::parse(line).ok_or_else(|| {
            refuse(format!(
                "`heldout`: line {} of {} is no molecule; expected is \
                 [SMILES]...[/SMILES][CONFORMER]...[/CONFORMER]",
                index + 1,
                path.display()
            ))
        })
    });
    lines.collect()
}
