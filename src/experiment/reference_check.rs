//! A text held against the reference engine, token for token.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::ExperimentError;
use crate::engine::guide::Cursor;
use crate::engine::reference::{KvPrecision, ReferenceEngine};
use crate::engine::{DecodeRequest, Engine, EngineError};
use crate::measure::decode::check::KL_LIMIT;
use crate::measure::divergence::{kl, max_difference};
use crate::model::{TokenId, Weights};
use crate::sampling::Sampler;

/// How far the reference engine was asked, and agreed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// Tokens of the text that it made too.
    pub tokens: usize,
    /// Whether it parted there, at two tokens as likely as each other but for rounding.
    pub near_tie: bool,
    /// Whether that was all of the text.
    pub whole: bool,
}

/// A text that an engine made.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    /// What stands before it.
    pub prompt: &'a [TokenId],
    /// How it was asked for, of sequence 0.
    pub request: &'a DecodeRequest,
    /// What was made.
    pub tokens: &'a [TokenId],
}

impl Text<'_> {
    /// Has the reference engine make the text, as far as it comes in `seconds`. Tokens may part where two
    /// are as good as equally likely; no further than there is then looked. `engine`, which made the
    /// text, may be asked again: its sequence 0 is overwritten. `name` says in an error what made it.
    ///
    /// # Errors
    /// [`ExperimentError::WrongOutput`] if the reference engine's text is another one; an engine that fails.
    pub fn check(
        &self,
        engine: &mut dyn Engine,
        weights: &Weights,
        seconds: f64,
        name: &str,
    ) -> Result<Checked, ExperimentError> {
        let context = self.prompt.len() + self.tokens.len();
        // As the other engines hold keys and values.
        let mut reference = ReferenceEngine::new(Arc::new(weights.clone()), context, 1)?
            .with_kv_precision(KvPrecision::Bf16);
        let started = Instant::now();
        reference.prefill(0, self.prompt, &mut |_| ControlFlow::Continue(()))?;
        let request = DecodeRequest {
            max_tokens: self.tokens.len(),
            ..self.request.clone()
        };
        let is_late = || started.elapsed().as_secs_f64() > seconds;
        let finished =
            reference.decode(std::slice::from_ref(&request), &mut |_| match is_late() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            })?;
        let found = &finished[0].tokens;
        let pairs = found.iter().zip(self.tokens);
        let equal = pairs.take_while(|(a, b)| a == b).count();
        let parted = equal < found.len();
        if parted && !self.is_near_tie(engine, &mut reference, equal)? {
            return Err(ExperimentError::WrongOutput {
                reason: format!(
                    "{name}: token {} is {}, and the reference engine's is {}",
                    equal + 1,
                    self.tokens[equal],
                    found[equal]
                ),
            });
        }
        Ok(Checked {
            tokens: equal,
            near_tie: parted,
            whole: equal == self.tokens.len(),
        })
    }

    /// Whether token `index` is the reference engine's choice too, if its logits may differ by as much as
    /// those of the two engines do: it rises, and the others fall, by the largest difference.
    fn is_near_tie(
        &self,
        engine: &mut dyn Engine,
        reference: &mut ReferenceEngine,
        index: usize,
    ) -> Result<bool, ExperimentError> {
        let (before, chosen) = (&self.tokens[..index], self.tokens[index]);
        let mut given = self.prompt.to_vec();
        given.extend(before);
        let rest = given.split_off(self.prompt.len() - 1);
        let mut theirs = last_logits(reference, &given, &rest, 1)?;
        // Tokens that run together are rounded by how many they are: a batch's as a prompt's are.
        let mut difference = 0.0_f32;
        for together in [1, rest.len()] {
            let ours = last_logits(engine, &given, &rest, together)?;
            if kl(&theirs, &ours) > KL_LIMIT {
                return Ok(false);
            }
            difference = difference.max(max_difference(&theirs, &ours));
        }
        theirs[chosen as usize] += 2.0 * difference;
        let refused = |reason| EngineError::Guide { reason };
        let guide = self.request.guide.as_ref();
        let mut cursor = Cursor::new(guide, theirs.len()).map_err(refused)?;
        for &token in before {
            cursor.advance(token).map_err(refused)?;
        }
        let cached = self.prompt.len() + before.len();
        let mut sampler = Sampler::new(&self.request.sampling, theirs.len(), &[], 1)
            .map_err(EngineError::from)?;
        let mask = |logits: &mut [f32]| cursor.mask(logits);
        let again = sampler.sample_masked(&mut theirs, mask, 0, cached as u32);
        Ok(again == Some(chosen))
    }
}

/// The logits after `rest`, run `together` tokens at once behind `given`.
fn last_logits(
    engine: &mut dyn Engine,
    given: &[TokenId],
    rest: &[TokenId],
    together: usize,
) -> Result<Vec<f32>, EngineError> {
    let known = engine.cached(0).iter().zip(given);
    let known = known.take_while(|(a, b)| a == b).count();
    engine.truncate(0, known)?;
    if known < given.len() {
        engine.prefill(0, &given[known..], &mut |_| ControlFlow::Continue(()))?;
    }
    let mut last = Vec::new();
    for tokens in rest.chunks(together) {
        engine.logits(0, tokens, &mut |index, row| {
            if index + 1 == tokens.len() {
                last = row.to_vec();
            }
        })?;
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::altered::Altered;
    use crate::model::Source;
    use crate::sampling::SamplingParams;

    #[test]
    fn a_text_may_part_where_the_engines_own_differences_reach_and_nowhere_else() {
        let source = Source::parse("random:tiny@3").unwrap();
        let weights = source
            .load(&Default::default(), &mut |_| ())
            .unwrap()
            .weights;
        let new = || {
            ReferenceEngine::new(Arc::new(weights.clone()), 64, 1)
                .unwrap()
                .with_kv_precision(KvPrecision::Bf16)
        };
        let prompt = [5, 77, 11];
        let request = DecodeRequest {
            sequence: 0,
            max_tokens: 6,
            sampling: SamplingParams::default(),
            stop_tokens: Vec::new(),
            guide: None,
        };
        let mut engine = new();
        engine
            .prefill(0, &prompt, &mut |_| ControlFlow::Continue(()))
            .unwrap();
        let finished = engine.decode(std::slice::from_ref(&request), &mut |_| {
            ControlFlow::Continue(())
        });
        let right = finished.unwrap()[0].tokens.clone();
        assert_eq!(right.len(), 6);

        // The last token is the second best, by so much.
        let given = [&prompt[..], &right[..5]].concat();
        let logits = last_logits(&mut engine, &given[..2], &given[2..], 1).unwrap();
        let best = right[5] as usize;
        let others = (0..logits.len()).filter(|&token| token != best);
        let second = others
            .max_by(|&a, &b| logits[a].total_cmp(&logits[b]))
            .unwrap();
        let gap = logits[best] - logits[second];
        assert!(gap > 0.0);
        let mut parted = right.clone();
        parted[5] = second as TokenId;

        let check = |tokens: &[TokenId], added: f32| {
            let text = Text {
                prompt: &prompt,
                request: &request,
                tokens,
            };
            let mut engine = Altered::new(new());
            engine.logits = Box::new(move |together, logits| {
                if together > 1 {
                    logits[second] += added;
                }
            });
            text.check(&mut engine, &weights, 100.0, "the test")
        };
        let whole = Checked {
            tokens: 6,
            near_tie: false,
            whole: true,
        };
        assert_eq!(check(&right, 0.0).unwrap(), whole);
        let near = Checked {
            tokens: 5,
            near_tie: true,
            whole: false,
        };
        assert_eq!(check(&parted, 0.6 * gap).unwrap(), near);
        for added in [0.0, 0.4 * gap] {
            let refused = check(&parted, added).unwrap_err().to_string();
            assert!(refused.contains("the test: token 6"), "{refused}");
        }
        // Logits that are wrong excuse nothing.
        assert!(check(&parted, 100.0).is_err());
    }
}
