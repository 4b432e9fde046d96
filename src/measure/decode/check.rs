//! Whether what was decoded can be trusted: no speed is reported without it.
//!
//! 1. Every repetition must give the same tokens, bit for bit.
//! 2. A stretch of decoding, as long as the reference engine can follow in the time it is given,
//!    must agree with it: its distribution at every position, and its tokens.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{DecodePlan, greedy};
use crate::engine::reference::ReferenceEngine;
use crate::engine::{Engine, EngineError};
use crate::measure::divergence::{kl, max_difference};
use crate::model::{TokenId, Weights};

/// The most KL(reference || engine), in nats, at any position: bf16 arithmetic stays a hundred
/// times below it, and a kernel that is wrong somewhere (a row, a norm, a rotation left out) comes
/// out a hundred times above.
pub const KL_LIMIT: f64 = 0.01;

/// What was checked, and how it came out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checked {
    /// Whether all that was checked held.
    pub passed: bool,
    /// Whether all repetitions gave the same tokens.
    pub repetitions_agree: bool,
    /// The comparison with the reference engine; `None` for the reference engine itself, and where
    /// no time was given for it.
    pub reference: Option<ReferenceCheck>,
}

/// How a stretch of decoding compares with the reference engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReferenceCheck {
    /// Whether the distance is below the limit and the tokens agree.
    pub passed: bool,
    /// The type of the weights that it computed with: the engine's own. What a checkpoint in another
    /// type lost when it was rounded to this one is not measured.
    pub weights: String,
    /// Tokens of the prompt that was used: the benchmark's, or its beginning.
    pub prompt_tokens: usize,
    /// Tokens decoded after it.
    pub new_tokens: usize,
    /// Positions whose distributions were compared.
    pub positions: usize,
    /// The largest KL(reference || engine) of a position, in nats.
    pub kl_max: f64,
    /// What it must not exceed.
    pub kl_limit: f64,
    /// Whether every token decoded is the reference's most likely one, or so close to it that the
    /// difference of the logits explains the choice.
    pub tokens_agree: bool,
    /// Tokens that are the reference's most likely one.
    pub tokens_equal: usize,
    /// Seconds the reference engine took.
    pub seconds: f64,
}

/// Checks `engine`, whose repetitions gave `tokens: [repetition][sequence][token]`.
///
/// # Errors
/// If an engine fails.
pub fn check(
    engine: &mut dyn Engine,
    weights: &Arc<Weights>,
    plan: &DecodePlan,
    tokens: &[&Vec<Vec<TokenId>>],
) -> Result<Checked, EngineError> {
    let repetitions_agree = tokens.windows(2).all(|pair| pair[0] == pair[1]);
    let is_reference = engine.capabilities().name == "reference";
    let reference = if is_reference || plan.check_seconds <= 0.0 {
        None
    } else {
        Some(against_reference(engine, weights, plan)?)
    };
    let reference_passed = reference.as_ref().is_none_or(|check| check.passed);
    Ok(Checked {
        passed: repetitions_agree && reference_passed,
        repetitions_agree,
        reference,
    })
}

fn against_reference(
    engine: &mut dyn Engine,
    weights: &Arc<Weights>,
    plan: &DecodePlan,
) -> Result<ReferenceCheck, EngineError> {
    let mut reference = ReferenceEngine::new(Arc::clone(weights), plan.context(), 1)?;
    let vocab_size = weights.config.vocab_size;
    let prompt = plan.prompt(0, vocab_size);

    // The first token's time says how many can be had.
    let started = Instant::now();
    let mut expected = Vec::new();
    let mut keep = |_: usize, logits: &[f32]| expected.push(logits.to_vec());
    reference.logits(0, &prompt[..1], &mut keep)?;
    let affordable = plan.check_seconds / started.elapsed().as_secs_f64();
    let affordable = (affordable as usize).clamp(2, plan.context());
    // Half of a short stretch is decoded, so that what is checked is decoding.
    let prompt_tokens = if affordable > plan.prompt_tokens {
        plan.prompt_tokens
    } else {
        affordable / 2
    };
    let new_tokens = affordable + 1 - prompt_tokens;

    engine.truncate(0, 0)?;
    engine.prefill(0, &prompt[..prompt_tokens], &mut |_| {
        ControlFlow::Continue(())
    })?;
    let mut finished =
        engine.decode(&[greedy(0, new_tokens)], &mut |_| ControlFlow::Continue(()))?;
    let decoded = std::mem::take(&mut finished[0].tokens);

    // The last token is not run: nothing was decoded after it.
    let mut sequence = prompt[..prompt_tokens].to_vec();
    sequence.extend(&decoded[..decoded.len() - 1]);
    let started_again = Instant::now();
    reference.logits(0, &sequence[1..], &mut keep)?;
    let seconds = (started_again.elapsed() + (started_again - started)).as_secs_f64();

    engine.truncate(0, 0)?;
    let mut kl_max = 0.0_f64;
    let (mut tokens_equal, mut tokens_close) = (0, 0);
    for (position, token) in sequence.iter().enumerate() {
        let expected = &expected[position];
        let mut difference = 0.0;
        // A step each, as in decoding.
        engine.logits(0, &[*token], &mut |_, found| {
            // NaN is no distance at all.
            let distance = kl(expected, found);
            kl_max = if distance.is_nan() {
                f64::INFINITY
            } else {
                kl_max.max(distance)
            };
            difference = max_difference(expected, found);
        })?;
        let Some(decoded) = (position + 1)
            .checked_sub(prompt_tokens)
            .map(|index| decoded[index])
        else {
            continue;
        };
        let best = expected.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let gap = best - expected[decoded as usize];
        tokens_equal += usize::from(gap == 0.0);
        // One logit may have risen and the other fallen by the largest difference.
        tokens_close += usize::from(gap <= 2.0 * difference);
    }
    let tokens_agree = tokens_close == decoded.len();
    Ok(ReferenceCheck {
        passed: tokens_agree && kl_max <= KL_LIMIT,
        weights: weights.embedding.values().element_type().as_str().into(),
        prompt_tokens,
        new_tokens,
        positions: sequence.len(),
        kl_max,
        kl_limit: KL_LIMIT,
        tokens_agree,
        tokens_equal,
        seconds,
    })
}
