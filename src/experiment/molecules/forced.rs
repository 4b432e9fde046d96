//! How likely the model itself finds what a constraint makes it write.

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use crate::engine::guide::{Cursor, Guide, Next};
use crate::engine::{Engine, EngineError};
use crate::model::TokenId;

/// Probabilities of forced tokens, without a mask and at temperature 1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Forced {
    /// Texts that were looked at.
    pub texts: usize,
    /// Forced tokens in them.
    pub tokens: usize,
    /// Their mean probability; 0 without tokens.
    pub mean: f64,
    /// The mean of their negative logarithms, in nats.
    pub mean_surprise: f64,
    /// Those below one half: what greedy decoding would not have written.
    pub below_half: usize,
    /// Those below one in a thousand.
    pub below_thousandth: usize,
}

impl Forced {
    /// Looks at one more text: `tokens` behind `prompt`, which followed `guide`. Sequence 0 of `engine` is
    /// overwritten.
    ///
    /// # Errors
    /// An engine that fails.
    pub fn add(
        &mut self,
        engine: &mut dyn Engine,
        prompt: &[TokenId],
        tokens: &[TokenId],
        guide: &Guide,
    ) -> Result<(), EngineError> {
        let refused = |reason| EngineError::Guide { reason };
        let vocab_size = engine.config().vocab_size;
        let mut cursor = Cursor::new(Some(guide), vocab_size).map_err(refused)?;
        let mut is_forced = Vec::with_capacity(tokens.len());
        for &token in tokens {
            is_forced.push(matches!(cursor.next(), Next::Forced(_)));
            cursor.advance(token).map_err(refused)?;
        }
        self.texts += 1;
        engine.truncate(0, 0)?;
        let (before, last) = prompt.split_at(prompt.len() - 1);
        engine.prefill(0, before, &mut |_| ControlFlow::Continue(()))?;
        let mut given = last.to_vec();
        given.extend(&tokens[..tokens.len().saturating_sub(1)]);
        engine.logits(0, &given, &mut |index, logits| {
            if is_forced.get(index) == Some(&true) {
                self.count(log_probability(logits, tokens[index]));
            }
        })
    }

    fn count(&mut self, log_probability: f64) {
        let probability = log_probability.exp();
        self.tokens += 1;
        // Means as they go along.
        self.mean += (probability - self.mean) / self.tokens as f64;
        self.mean_surprise += (-log_probability - self.mean_surprise) / self.tokens as f64;
        self.below_half += usize::from(probability < 0.5);
        self.below_thousandth += usize::from(probability < 1e-3);
    }
}

fn log_probability(logits: &[f32], token: TokenId) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let terms = logits.iter().map(|&logit| f64::from(logit - most).exp());
    f64::from(logits[token as usize] - most) - terms.sum::<f64>().ln()
}
