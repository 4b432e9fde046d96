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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::constraint::template::Template;
    use crate::constraint::{Compiler, Source};
    use crate::engine::reference::ReferenceEngine;
    use crate::model;
    use crate::model::tokenizer::Tokenizer;

    #[test]
    fn forced_tokens_have_the_softmax_of_the_logits_before_them() {
        let source = model::Source::parse("demo").unwrap();
        let weights = source
            .load(&Default::default(), &mut |_| ())
            .unwrap()
            .weights;
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo");
        let tokenizer = Tokenizer::from_path(folder.as_ref()).unwrap();
        let tokenizer = tokenizer.padded_to(weights.config.vocab_size);
        let template =
            br#"[{"literal": ">9<"}, {"slot": "x", "regex": "[0-9]"}, {"literal": "<"}]"#;
        let template = Template::from_json(template).unwrap();
        let compiler = Compiler::new(&tokenizer, &[]).unwrap();
        let constraint = compiler.compile(&Source::Template(template)).unwrap();
        let encode = |text: &str| tokenizer.encode(text, false).unwrap();
        let prompt = encode("[SMILES]CO[/SMILES][CONFORMER][C]<1.0");
        let (before, digit, after) = (encode(">9<"), encode("7"), encode("<"));
        assert_eq!((digit.len(), after.len()), (1, 1));
        let tokens = [&before[..], &digit, &after].concat();

        let engine = || ReferenceEngine::new(Arc::new(weights.clone()), 64, 1).unwrap();
        let mut forced = Forced::default();
        for _ in 0..2 {
            forced
                .add(&mut engine(), &prompt, &tokens, &constraint.guide)
                .unwrap();
        }

        let mut probabilities = Vec::new();
        for place in (0..tokens.len()).filter(|&place| place != before.len()) {
            let given = [&prompt[..], &tokens[..place]].concat();
            let mut last = Vec::new();
            engine()
                .logits(0, &given, &mut |_, logits| last = logits.to_vec())
                .unwrap();
            let terms: Vec<f64> = last.iter().map(|&logit| f64::from(logit).exp()).collect();
            probabilities.push(terms[tokens[place] as usize] / terms.iter().sum::<f64>());
        }
        let count = |most: f64| 2 * probabilities.iter().filter(|&&one| one < most).count();
        let mean = |of: fn(f64) -> f64| {
            let sum: f64 = probabilities.iter().map(|&one| of(one)).sum();
            sum / probabilities.len() as f64
        };
        assert_eq!((forced.texts, forced.tokens), (2, 2 * probabilities.len()));
        assert_eq!(
            (forced.below_half, forced.below_thousandth),
            (count(0.5), count(1e-3))
        );
        // The same sums in another order, of logits up to 30.
        assert!(
            (forced.mean - mean(|one| one)).abs() < 1e-6,
            "{forced:?} {probabilities:?}"
        );
        assert!(
            (forced.mean_surprise - mean(|one| -one.ln())).abs() < 1e-5,
            "{forced:?}"
        );
        // The model writes no such thing: forced tokens are among the unlikely ones, and a digit is not.
        assert!(forced.below_half > 0, "{probabilities:?}");
    }
}
