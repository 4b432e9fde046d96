//! The sampler that every engine agrees with, token for token.
//!
//! A token is chosen in this order, which is transformers': repetition penalty, temperature,
//! top-k, top-p, min-p, then a draw. Each filter is a *threshold on the logit*: a token survives
//! if its logit is at least the cut, so tokens with equal logits survive or fall together, and a
//! device needs one number to apply all filters.
//!
//! The draw is Gumbel-max: the survivor with the largest `logit / temperature + g` wins, where `g`
//! is Gumbel noise from a counter-based generator keyed by (seed, sequence, position, token). It
//! is a draw from the softmax, and no order of evaluation, thread count or engine changes it.
//! Ties go to the lowest token id.
//!
//! - [`philox`]: the random numbers
//! - `filter`: the cut of top-k, top-p and min-p

mod filter;
pub mod philox;

use crate::model::TokenId;
use filter::Filter;

/// How to choose a token from logits. The default is greedy.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 is greedy.
    pub temperature: f32,
    /// Keep only the k most likely tokens (and those as likely as the last of them); 0 keeps all.
    pub top_k: usize,
    /// Keep the most likely tokens until their probabilities reach p; 1 keeps all.
    pub top_p: f32,
    /// Keep the tokens at least this share as likely as the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen so far; 1 changes nothing.
    /// (Keskar et al., arXiv 1909.05858, as transformers applies it.)
    pub repetition_penalty: f32,
    /// Seed of the random numbers.
    pub seed: u64,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }
}

/// A sampling parameter outside its range.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{name} is {found}, but must be {expected}")]
pub struct SamplingError {
    /// The parameter.
    pub name: &'static str,
    /// Its value.
    pub found: f32,
    /// The values it may have.
    pub expected: &'static str,
}

impl SamplingParams {
    /// Checks every parameter's range.
    ///
    /// # Errors
    /// Names the first parameter that is out of range.
    pub fn check(&self) -> Result<(), SamplingError> {
        let finite = |value: f32| value.is_finite();
        let rules = [
            (
                "temperature",
                self.temperature,
                finite(self.temperature) && self.temperature >= 0.0,
                "a number from 0 (greedy) up",
            ),
            (
                "top-p",
                self.top_p,
                self.top_p > 0.0 && self.top_p <= 1.0,
                "above 0 and at most 1",
            ),
            (
                "min-p",
                self.min_p,
                (0.0..=1.0).contains(&self.min_p),
                "from 0 to 1",
            ),
            (
                "repetition penalty",
                self.repetition_penalty,
                finite(self.repetition_penalty) && self.repetition_penalty > 0.0,
                "a number above 0",
            ),
        ];
        match rules.into_iter().find(|(_, _, holds, _)| !holds) {
            None => Ok(()),
            Some((name, found, _, expected)) => Err(SamplingError {
                name,
                found,
                expected,
            }),
        }
    }
}

/// Tokens whose largest logit is kept together, so that a scan can pass over all of them at once.
const CHUNK: usize = 64;

/// Chooses the tokens of one sequence. Holds all the memory it needs.
#[derive(Debug)]
pub struct Sampler {
    params: SamplingParams,
    /// Largest logit of each chunk: `[ceil(vocabulary / CHUNK)]`.
    chunk_max: Vec<f32>,
    filter: Filter,
    /// Tokens the repetition penalty applies to, each once.
    seen: Vec<TokenId>,
    is_seen: Vec<bool>,
    /// Logits of the few tokens to choose among.
    few: Vec<f32>,
}

/// The most tokens that [`Sampler::sample_among`] chooses among.
pub const MOST_FEW: usize = CHUNK;

impl Sampler {
    /// A sampler for logits of `vocab_size` numbers, after the tokens of `prompt`, and up to
    /// `max_tokens` of its own.
    ///
    /// # Errors
    /// Parameters out of range.
    pub fn new(
        params: &SamplingParams,
        vocab_size: usize,
        prompt: &[TokenId],
        max_tokens: usize,
    ) -> Result<Self, SamplingError> {
        params.check()?;
        let mut sampler = Self {
            params: params.clone(),
            chunk_max: vec![0.0; vocab_size.div_ceil(CHUNK)],
            filter: Filter::new(params, vocab_size),
            seen: Vec::new(),
            is_seen: Vec::new(),
            few: Vec::with_capacity(MOST_FEW),
        };
        if params.repetition_penalty != 1.0 {
            sampler.is_seen = vec![false; vocab_size];
            sampler.seen = Vec::with_capacity(vocab_size.min(prompt.len() + max_tokens));
            for &token in prompt {
                sampler.see(token);
            }
        }
        Ok(sampler)
    }

    /// Notes a token that was chosen elsewhere: the repetition penalty applies to it from now on.
    pub fn see(&mut self, token: TokenId) {
        if let Some(seen) = self.is_seen.get_mut(token as usize)
            && !*seen
        {
            *seen = true;
            self.seen.push(token);
        }
    }

    /// Chooses the token at `position` of `sequence`, and changes `logits` (`[vocabulary]`) on the
    /// way. `None` if a logit is NaN or infinite.
    pub fn sample(&mut self, logits: &mut [f32], sequence: u32, position: u32) -> Option<TokenId> {
        self.penalise_repetition(logits);
        let (max, finite) = self.scan(logits);
        finite.then(|| self.choose(logits, max, sequence, position))
    }

    /// As [`sample`](Self::sample), among the tokens that `mask` leaves: it sets the logits of the others
    /// to minus infinity.
    pub fn sample_masked(
        &mut self,
        logits: &mut [f32],
        mask: impl FnOnce(&mut [f32]),
        sequence: u32,
        position: u32,
    ) -> Option<TokenId> {
        self.penalise_repetition(logits);
        let (_, finite) = self.scan(logits);
        if !finite {
            return None;
        }
        mask(logits);
        let (max, _) = self.scan(logits);
        Some(self.choose(logits, max, sequence, position))
    }

    /// As [`sample_masked`](Self::sample_masked), where `tokens` are left: up to [`MOST_FEW`], ascending.
    /// Looks at no other logit.
    ///
    /// # Panics
    /// If there are none, or too many.
    pub fn sample_among(
        &mut self,
        logits: &[f32],
        tokens: &[TokenId],
        sequence: u32,
        position: u32,
    ) -> Option<TokenId> {
        assert!((1..=MOST_FEW).contains(&tokens.len()));
        self.few.clear();
        for &token in tokens {
            let mut logit = logits[token as usize];
            if !logit.is_finite() {
                return None;
            }
            if self.is_seen.get(token as usize) == Some(&true) {
                logit = self.penalised(logit);
            }
            self.few.push(logit);
        }
        let max = self.few.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let token = if self.params.temperature == 0.0 {
            let first = self.few.iter().position(|&logit| logit >= max);
            tokens[first.expect("some logit is the largest")]
        } else {
            for logit in &mut self.few {
                *logit /= self.params.temperature;
            }
            let max = max / self.params.temperature;
            let cut = self.filter.cut(&self.few, &[max], max);
            let draw = philox::Stream::new(self.params.seed, sequence, position);
            let mut best = (f64::NEG_INFINITY, tokens[0]);
            for (&token, &logit) in tokens.iter().zip(&self.few) {
                let key = f64::from(logit) + philox::gumbel(draw.bits(token));
                if logit >= cut && key > best.0 {
                    best = (key, token);
                }
            }
            best.1
        };
        self.see(token);
        Some(token)
    }

    /// Chooses among finite logits, or those of them that are above minus infinity.
    fn choose(&mut self, logits: &mut [f32], max: f32, sequence: u32, position: u32) -> TokenId {
        let token = if self.params.temperature == 0.0 {
            self.lowest_at_least(max, logits)
        } else {
            for logit in logits.iter_mut() {
                *logit /= self.params.temperature;
            }
            // Division by a positive number keeps the order, so the maxima can be divided too.
            for max in &mut self.chunk_max {
                *max /= self.params.temperature;
            }
            let max = max / self.params.temperature;
            let cut = self.filter.cut(logits, &self.chunk_max, max);
            let draw = philox::Stream::new(self.params.seed, sequence, position);
            self.gumbel_max(logits, cut, max, draw)
        };
        self.see(token);
        token
    }

    fn penalise_repetition(&self, logits: &mut [f32]) {
        for &token in &self.seen {
            let logit = &mut logits[token as usize];
            *logit = self.penalised(*logit);
        }
    }

    fn penalised(&self, logit: f32) -> f32 {
        match logit < 0.0 {
            true => logit * self.params.repetition_penalty,
            false => logit / self.params.repetition_penalty,
        }
    }

    /// Fills `chunk_max`, and returns the largest logit and whether all are finite.
    fn scan(&mut self, logits: &[f32]) -> (f32, bool) {
        assert_eq!(
            logits.len().div_ceil(CHUNK),
            self.chunk_max.len(),
            "the sampler was made for another vocabulary"
        );
        let mut finite = true;
        let mut largest = f32::NEG_INFINITY;
        for (chunk, chunk_max) in logits.chunks(CHUNK).zip(&mut self.chunk_max) {
            // Both loops compile to vector instructions: no NaN rules, no early exit.
            let mut lanes = [f32::NEG_INFINITY; 16];
            let mut zeros = [0.0_f32; 16];
            let (whole, rest) = chunk.as_chunks::<16>();
            for values in whole {
                for (lane, &value) in values.iter().enumerate() {
                    lanes[lane] = if value > lanes[lane] {
                        value
                    } else {
                        lanes[lane]
                    };
                    zeros[lane] += value * 0.0;
                }
            }
            for (lane, &value) in rest.iter().enumerate() {
                lanes[lane] = if value > lanes[lane] {
                    value
                } else {
                    lanes[lane]
                };
                zeros[lane] += value * 0.0;
            }
            *chunk_max = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
            largest = largest.max(*chunk_max);
            finite &= zeros.iter().sum::<f32>() == 0.0;
        }
        (largest, finite)
    }

    /// The lowest token whose logit is at least `value`, which some logit must be.
    fn lowest_at_least(&self, value: f32, logits: &[f32]) -> TokenId {
        let chunk = self.chunk_max.iter().position(|&max| max >= value);
        let first = chunk.expect("some logit is that large") * CHUNK;
        let within = logits[first..].iter().position(|&logit| logit >= value);
        (first + within.expect("its chunk holds it")) as TokenId
    }

    /// The survivor of `cut` with the largest logit plus Gumbel noise.
    fn gumbel_max(&self, logits: &[f32], cut: f32, max: f32, draw: philox::Stream) -> TokenId {
        // The most likely token goes first, since it sets a high bar for the others.
        let mut winner = self.lowest_at_least(max, logits);
        let mut best = f64::from(max) + philox::gumbel(draw.bits(winner));
        let mut bar = philox::bits_that_exceed(best - f64::from(max));
        for (chunk, &chunk_max) in self.chunk_max.iter().enumerate() {
            if chunk_max < cut || f64::from(chunk_max) + philox::MAX_GUMBEL < best {
                continue;
            }
            let first = chunk * CHUNK;
            let bits: [u32; CHUNK] = draw.chunk(first as u32);
            for (offset, (&logit, &bits)) in logits[first..].iter().zip(&bits).enumerate() {
                // Few pass the second test, so that few logarithms are taken.
                if logit < cut || bits < bar {
                    continue;
                }
                let token = (first + offset) as TokenId;
                let key = f64::from(logit) + philox::gumbel(bits);
                if key > best || (key == best && token < winner) {
                    (best, winner) = (key, token);
                    bar = philox::bits_that_exceed(best - f64::from(max));
                }
            }
        }
        winner
    }
}

#[cfg(test)]
mod tests;
