//! The file of what was written, for the scoring script: too long for the result itself.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::method::Method;
use crate::experiment::ExperimentError;
use crate::model::TokenId;
use crate::report::pending_file::PendingFile;

/// All texts of a cell. The names of the JSON fields are a contract.
#[derive(Clone, Debug, Serialize)]
pub struct TextsFile<'a> {
    /// The cell.
    pub cell: &'a str,
    /// The model's name.
    pub model: &'a str,
    /// Divides the logits; 0 is greedy.
    pub temperature: f32,
    /// The molecules, in order.
    pub molecules: Vec<&'a str>,
    /// What each method made of them.
    pub methods: Vec<MethodTexts<'a>>,
}

/// The texts of a method, one for each molecule.
#[derive(Clone, Debug, Serialize)]
pub struct MethodTexts<'a> {
    /// Its name.
    pub method: Method,
    /// Its texts.
    pub texts: &'a [Text],
}

/// A text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Text {
    /// Without the token that ends it.
    pub text: String,
    /// All tokens.
    pub tokens: Vec<TokenId>,
    /// Why it ended.
    pub stop: &'static str,
    /// Whether it is valid as this program sees it: the script must come to the same.
    pub valid: bool,
}

impl TextsFile<'_> {
    /// Writes the file into `results`, and returns its path from there on.
    ///
    /// # Errors
    /// A folder that can't be written.
    pub fn write(&self, results: &Path) -> Result<PathBuf, ExperimentError> {
        let name = format!("molecules-texts/{}.json", self.cell.replace('/', "-"));
        let path = results.join(&name);
        let system = |source| ExperimentError::System {
            what: format!("cannot write {}", path.display()),
            source,
        };
        std::fs::create_dir_all(path.parent().expect("it has one")).map_err(system)?;
        let mut file = PendingFile::create(&path).map_err(system)?;
        serde_json::to_writer(&mut file, self)?;
        file.write_all(b"\n").map_err(system)?;
        file.commit().map_err(system)?;
        Ok(name.into())
    }
}
