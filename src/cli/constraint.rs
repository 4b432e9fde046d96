//! The flags that say what a text must follow.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use super::WrongUse;
use crate::constraint::cache::Cache;
use crate::constraint::json_schema::JsonSchema;
use crate::constraint::molecule::Molecule;
use crate::constraint::position::Positions;
use crate::constraint::template::Template;
use crate::constraint::{CacheUse, Compiler, Constraint, ConstraintError, Kind, Source};
use crate::model::TokenId;
use crate::model::tokenizer::Tokenizer;

/// Compiling that takes longer than this is worth a note.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the text must follow.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Constraint (one at a time)")]
pub struct ConstraintArgs {
    /// The whole text matches this regex (syntax of the regex crate)
    #[arg(
        long,
        value_name = "PATTERN",
        group = "followed",
        allow_hyphen_values = true
    )]
    regex: Option<String>,

    /// The text is JSON that satisfies the schema in this file
    #[arg(long, value_name = "FILE", group = "followed")]
    json_schema: Option<PathBuf>,

    /// The text follows the grammar in this file (llguidance's dialect of Lark)
    #[arg(long, value_name = "FILE", group = "followed")]
    lark: Option<PathBuf>,

    /// The text is the literals in this file, with a regex for each slot between them
    #[arg(long, value_name = "FILE", group = "followed")]
    template: Option<PathBuf>,

    /// The text is this molecule with a free point behind every atom, as the demo model writes it
    #[arg(long, value_name = "SMILES", group = "followed")]
    molecule: Option<String>,

    /// Each token is copied or free as the list in this file says; or the mask of a template whose
    /// slots have placeholders
    #[arg(long, value_name = "FILE", group = "followed")]
    position_mask: Option<PathBuf>,

    /// End a free run of the position mask when it is complete
    #[arg(long)]
    truncate: bool,
}

/// A constraint as it was read, before there is a vocabulary for it.
#[derive(Debug)]
pub struct Wanted {
    /// The flag and its file, for messages.
    from: String,
    said: Said,
}

#[derive(Debug)]
enum Said {
    Source(Source),
    /// The mask by position of a template, which depends on the tokenizer.
    MaskOf(Template),
}

impl ConstraintArgs {
    /// What the flags say, and the files that they name; `None` without a flag.
    ///
    /// # Errors
    /// A file that can't be read or is not what its flag expects.
    pub fn read(&self) -> anyhow::Result<Option<Wanted>> {
        // clap's `requires` is silent where another constraint excludes what is required.
        if self.truncate && self.position_mask.is_none() {
            let message = "--truncate ends the free runs of a --position-mask, and none is given";
            return Err(WrongUse(message.into()).into());
        }
        let given = |flag: &str, source| {
            let from = flag.to_owned();
            let said = Said::Source(source);
            Ok(Some(Wanted { from, said }))
        };
        if let Some(pattern) = &self.regex {
            return given("--regex", Source::Regex(pattern.clone()));
        }
        if let Some(smiles) = &self.molecule {
            let molecule = Molecule::new(smiles).context("--molecule")?;
            return given("--molecule", Source::Molecule(molecule));
        }
        let wanted = if let Some(path) = &self.json_schema {
            read("--json-schema", path, |json| {
                Ok(Said::Source(Source::JsonSchema(JsonSchema::from_json(
                    json,
                )?)))
            })
        } else if let Some(path) = &self.lark {
            read("--lark", path, |text| {
                let text = str::from_utf8(text).map_err(|error| ConstraintError::Lark {
                    reason: format!("it is no UTF-8: {error}"),
                })?;
                Ok(Said::Source(Source::Lark(text.to_owned())))
            })
        } else if let Some(path) = &self.template {
            read("--template", path, |json| {
                Ok(Said::Source(Source::Template(Template::from_json(json)?)))
            })
        } else if let Some(path) = &self.position_mask {
            read("--position-mask", path, |json| self.mask(json))
        } else {
            return Ok(None);
        };
        wanted.map(Some)
    }

    fn mask(&self, json: &[u8]) -> Result<Said, ConstraintError> {
        // A template is a list, a mask is an object.
        if json.trim_ascii_start().starts_with(b"[") {
            return Ok(Said::MaskOf(Template::from_json(json)?));
        }
        let mut positions = Positions::from_json(json)?;
        if self.truncate {
            positions = positions.with_truncation();
        }
        Ok(Said::Source(Source::Position(positions)))
    }

    /// Compiles `wanted` for a model of `vocab_size` rows, whose texts end with any of
    /// `end_tokens`.
    ///
    /// # Errors
    /// What is wrong with the constraint, or that it needs a tokenizer.
    pub fn compile(
        &self,
        wanted: &Wanted,
        tokenizer: Option<&Tokenizer>,
        vocab_size: usize,
        end_tokens: &[TokenId],
    ) -> anyhow::Result<Constraint> {
        let compiler = match tokenizer {
            Some(tokenizer) => Compiler::new(tokenizer, end_tokens)?,
            None => Compiler::without_tokenizer(vocab_size, end_tokens)?,
        };
        let compiler = match Cache::default_folder(|name| std::env::var(name).ok()) {
            Some(folder) => compiler.with_cache(folder),
            None => compiler,
        };
        let compiled = patiently(&wanted.said, || match &wanted.said {
            Said::Source(source) => compiler.compile(source),
            Said::MaskOf(template) => {
                let positions = compiler.positions(template, self.truncate)?;
                compiler.compile(&Source::Position(positions))
            }
        });
        let constraint = compiled.with_context(|| wanted.from.clone())?;
        if let CacheUse::NotWritten(reason) = &constraint.cache {
            eprintln!("note: the compiled constraint is not kept for the next time: {reason}");
        }
        Ok(constraint)
    }
}

fn read(
    flag: &str,
    path: &Path,
    parse: impl FnOnce(&[u8]) -> Result<Said, ConstraintError>,
) -> anyhow::Result<Wanted> {
    let from = format!("{flag} {}", path.display());
    let bytes = std::fs::read(path).with_context(|| format!("{from}: cannot read the file"))?;
    let said = parse(&bytes).with_context(|| from.clone())?;
    Ok(Wanted { from, said })
}

/// Does `work`, with a note if it takes long.
fn patiently<T>(said: &Said, work: impl FnOnce() -> T) -> T {
    let kind = match said {
        Said::Source(source) => source.kind(),
        Said::MaskOf(_) => Kind::Position,
    };
    let (done, waits) = channel::<()>();
    std::thread::scope(|threads| {
        threads.spawn(move || {
            if waits.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                eprintln!("note: still compiling the {}", kind.name());
            }
        });
        let result = work();
        drop(done);
        result
    })
}
