//! Which tokens each sequence of an engine has cached, and whether its logits are fresh.

use super::EngineError;
use crate::model::{ModelConfig, TokenId};

/// The book-keeping of an engine's sequences. All its memory is taken when it is made.
#[derive(Debug)]
pub struct Sequences {
    sequences: Vec<Sequence>,
    context: usize,
    max_positions: usize,
    vocab_size: usize,
}

#[derive(Debug)]
struct Sequence {
    cached: Vec<TokenId>,
    has_logits: bool,
}

impl Sequences {
    /// `count` empty sequences of up to `context` tokens each.
    ///
    /// # Errors
    /// A context longer than the model's positions.
    pub fn new(config: &ModelConfig, context: usize, count: usize) -> Result<Self, EngineError> {
        if context > config.max_positions {
            return Err(EngineError::ContextTooLong {
                context,
                max_positions: config.max_positions,
            });
        }
        let empty = || Sequence {
            cached: Vec::with_capacity(context),
            has_logits: false,
        };
        Ok(Self {
            sequences: std::iter::repeat_with(empty).take(count).collect(),
            context,
            max_positions: config.max_positions,
            vocab_size: config.vocab_size,
        })
    }

    /// How many sequences there are.
    pub fn count(&self) -> usize {
        self.sequences.len()
    }

    /// Positions of each sequence's KV cache.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Tokens there are in the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The tokens cached for `sequence`.
    pub fn cached(&self, sequence: usize) -> &[TokenId] {
        &self.sequences[sequence].cached
    }

    /// Whether no further token fits behind those cached and `pending` more.
    pub fn is_full(&self, sequence: usize, pending: usize) -> bool {
        self.cached(sequence).len() + pending >= self.context
    }

    /// Whether the logits after the last cached token are there, and unchanged.
    pub fn has_logits(&self, sequence: usize) -> bool {
        self.sequences[sequence].has_logits
    }

    /// Notes whether they are.
    pub fn set_has_logits(&mut self, sequence: usize, has_logits: bool) {
        self.sequences[sequence].has_logits = has_logits;
    }

    /// Notes that the keys and values of `token` are cached, and that the logits are stale.
    pub fn push(&mut self, sequence: usize, token: TokenId) {
        let sequence = &mut self.sequences[sequence];
        sequence.cached.push(token);
        sequence.has_logits = false;
    }

    /// Forgets all but the first `length` tokens.
    ///
    /// # Errors
    /// If there is no such sequence.
    pub fn truncate(&mut self, sequence: usize, length: usize) -> Result<(), EngineError> {
        self.check_exists(sequence)?;
        let sequence = &mut self.sequences[sequence];
        if length < sequence.cached.len() {
            sequence.cached.truncate(length);
            sequence.has_logits = false;
        }
        Ok(())
    }

    /// # Errors
    /// If there is no such sequence.
    pub fn check_exists(&self, sequence: usize) -> Result<(), EngineError> {
        let sequences = self.sequences.len();
        if sequence < sequences {
            return Ok(());
        }
        Err(EngineError::NoSuchSequence {
            sequence,
            sequences,
        })
    }

    /// Checks that `tokens` can be appended to `sequence`.
    ///
    /// # Errors
    /// No such sequence, no room, or a token outside the vocabulary.
    pub fn check_fits(&self, sequence: usize, tokens: &[TokenId]) -> Result<(), EngineError> {
        self.check_exists(sequence)?;
        let cached = self.cached(sequence).len();
        if cached + tokens.len() > self.context {
            return Err(EngineError::ContextFull {
                cached,
                new: tokens.len(),
                context: self.context,
                max_positions: self.max_positions,
            });
        }
        match tokens.iter().find(|&&t| t as usize >= self.vocab_size) {
            None => Ok(()),
            Some(&token) => Err(EngineError::TokenOutOfRange {
                token,
                vocab_size: self.vocab_size,
            }),
        }
    }
}
