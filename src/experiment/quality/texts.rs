//! The tokens of a set's texts.

use super::plan::TextsPlan;
use crate::experiment::models::Model;
use crate::experiment::{ExperimentError, Setting};
use crate::measure::statistics::{below, hash};
use crate::model::TokenId;

/// The texts of `plan` as tokens of `model`.
///
/// # Errors
/// A file that can't be read, texts that hold no tokens, a model without a tokenizer.
pub fn tokens(
    plan: &TextsPlan,
    model: &Model,
    setting: &Setting,
) -> Result<Vec<Vec<TokenId>>, ExperimentError> {
    let wrong = |reason: String| ExperimentError::Plan { reason };
    let encode = |text: &str| {
        let tokenizer = model.tokenizer.as_ref().ok_or_else(|| {
            let name = &model.name;
            wrong(format!(
                "{name} has no tokenizer; lend it one, or take random texts"
            ))
        })?;
        Ok::<_, ExperimentError>(tokenizer.encode(text, true)?)
    };
    let texts = match plan {
        TextsPlan::Given { texts, length } => {
            let encoded = texts.iter().map(|text| {
                let mut tokens = encode(text)?;
                tokens.truncate(*length);
                Ok(tokens)
            });
            encoded.collect::<Result<Vec<_>, ExperimentError>>()?
        }
        TextsPlan::File {
            path,
            count,
            length,
        } => {
            let path = setting.folder.join(path);
            let text = std::fs::read_to_string(&path);
            let text = text.map_err(|source| ExperimentError::System {
                what: path.display().to_string(),
                source,
            })?;
            let tokens = encode(&text)?;
            let pieces = tokens.chunks_exact((*length).max(1)).take(*count);
            let pieces: Vec<_> = pieces.map(<[TokenId]>::to_vec).collect();
            if pieces.is_empty() {
                return Err(wrong(format!(
                    "{} has {} tokens, fewer than one piece of {length}",
                    path.display(),
                    tokens.len()
                )));
            }
            pieces
        }
        TextsPlan::Random {
            count,
            length,
            seed,
        } => {
            let vocab_size = model.weights.config.vocab_size;
            let text = |text: usize| {
                let token = |index: usize| {
                    let counter = (text * length + index) as u64;
                    below(vocab_size, hash(counter ^ hash(*seed))) as TokenId
                };
                (0..*length).map(token).collect()
            };
            (0..*count).map(text).collect()
        }
    };
    match texts.is_empty() || texts.iter().any(Vec::is_empty) {
        true => Err(wrong("a text without tokens; expected one at least".into())),
        false => Ok(texts),
    }
}
