//! An engine's logits of given tokens, and whether it gives them twice.

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_128;

use crate::engine::Engine;
use crate::experiment::{ExperimentError, Watch};
use crate::model::TokenId;

/// Sees each row, by its number counted through all texts: `[vocabulary]`.
pub type EachRow<'a> = dyn FnMut(usize, &[f32]) -> Result<(), ExperimentError> + 'a;

/// Calls `each` with the logits (`[vocabulary]`) after every token of `texts`, counted through all of
/// them. The engine is given `at_once` tokens at a time, from an empty cache for each text.
///
/// # Errors
/// If the engine fails, `each` does, or the user wants an end.
pub fn teacher_force(
    engine: &mut dyn Engine,
    texts: &[Vec<TokenId>],
    at_once: usize,
    watch: &Watch,
    doing: &str,
    each: &mut EachRow,
) -> Result<(), ExperimentError> {
    let all: usize = texts.iter().map(Vec::len).sum();
    let mut done = 0;
    for text in texts {
        engine.truncate(0, 0)?;
        for tokens in text.chunks(at_once) {
            watch.check()?;
            (watch.doing)(&format!("{doing}: token {done} of {all}"));
            let mut outcome = Ok(());
            engine.logits(0, tokens, &mut |_, logits| {
                if outcome.is_ok() {
                    outcome = each(done, logits);
                }
                done += 1;
            })?;
            outcome?;
        }
    }
    Ok(())
}

/// A hash of the bits of each row.
#[derive(Clone, Debug, Default)]
pub struct Bits(Vec<u128>);

impl Bits {
    /// Adds a row.
    pub fn push(&mut self, logits: &[f32]) {
        self.0
            .push(XxHash3_128::oneshot(bytemuck::cast_slice(logits)));
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Holds a second run's rows against these.
    ///
    /// # Errors
    /// If one differs: an engine's distance from itself must be 0.
    pub fn repeated(&self, again: &Self) -> Result<Repeated, ExperimentError> {
        let differing = self.0.iter().zip(&again.0).filter(|(a, b)| a != b).count();
        let positions = self.0.len();
        if differing > 0 || again.len() != positions {
            return Err(ExperimentError::WrongOutput {
                reason: format!(
                    "a second run gave other logits at {differing} of {positions} positions"
                ),
            });
        }
        Ok(Repeated { positions })
    }
}

/// A second run that gave the first one's logits, bit for bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repeated {
    /// At so many positions.
    pub positions: usize,
}
