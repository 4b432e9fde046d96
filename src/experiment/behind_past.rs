//! Engines that decode behind a past of some length, timed in turns, and held against each other.
//!
//! A past is made up ([`RandomPast`]), so that a step at position 32,000 needs no prompt of 32,000
//! tokens; or it is a prompt that was run, to see whether that makes a difference.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::ExperimentError;
use super::traces::Traces;
use crate::engine::choice::EngineChoice;
use crate::engine::megakernel::Barrier;
use crate::engine::past::RandomPast;
use crate::engine::{DecodeRequest, Engine, EngineError};
use crate::measure::decode::DecodePlan;
use crate::measure::decode::check::{self, KL_LIMIT};
use crate::measure::divergence::{kl, max_difference};
use crate::model::{TokenId, Weights};
use crate::sampling::SamplingParams;

/// What comes before the first step, in every sequence.
#[derive(Clone, Copy, Debug)]
pub enum Past<'a> {
    /// Made up.
    Random(&'a RandomPast),
    /// A prompt that is run.
    Prompt(&'a [TokenId]),
}

impl Past<'_> {
    /// Its tokens; of a made-up past, those that it passes for.
    pub fn tokens(&self) -> &[TokenId] {
        match self {
            Past::Random(past) => past.tokens(),
            Past::Prompt(tokens) => tokens,
        }
    }
}

/// An engine whose sequences all hold the same past.
pub struct Behind {
    engine: Box<dyn Engine>,
    /// The past's tokens.
    past: Vec<TokenId>,
    columns: usize,
    /// Steps of a turn, each of which makes a token of each sequence.
    steps: usize,
    /// What the first turn made: `[sequence][token]`, one token more than there were steps.
    tokens: Option<Vec<Vec<TokenId>>>,
}

/// What a turn took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Turn {
    /// Seconds from the last token of the past, which is run for it, to the first new token.
    pub first_token_seconds: f64,
    /// Seconds of a step: from the first new token to the last, over the steps between.
    pub step_seconds: f64,
}

impl Behind {
    /// `engine` behind `past`, with `columns` sequences that decode together, `steps` steps a turn. It
    /// needs a context of as many positions as both have.
    ///
    /// # Errors
    /// [`ExperimentError::NotMeasured`] for an engine whose cache can't be filled; one that fails.
    ///
    /// # Panics
    /// If the past is empty, or there are no steps.
    pub fn new(
        mut engine: Box<dyn Engine>,
        past: Past,
        columns: usize,
        steps: usize,
    ) -> Result<Self, ExperimentError> {
        assert!(!past.tokens().is_empty() && steps > 0);
        for sequence in 0..columns {
            match past {
                Past::Random(past) => {
                    let name = engine.capabilities().name;
                    let Some(fill) = engine.as_fill_past() else {
                        return Err(ExperimentError::NotMeasured {
                            reason: format!("the cache of the {name} engine can't be filled"),
                        });
                    };
                    fill.fill_past(sequence, past)?;
                }
                Past::Prompt(tokens) => {
                    engine.truncate(sequence, 0)?;
                    let but_last = &tokens[..tokens.len() - 1];
                    engine.prefill(sequence, but_last, &mut |_| ControlFlow::Continue(()))?;
                }
            }
        }
        Ok(Self {
            engine,
            past: past.tokens().to_vec(),
            columns,
            steps,
            tokens: None,
        })
    }

    /// The engine.
    pub fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    /// The engine in words, with what was chosen of it.
    pub fn described(&self, choice: &EngineChoice) -> String {
        let capabilities = self.engine.capabilities();
        let barrier = |barrier: Barrier| format!("{} barrier", barrier.name());
        let chosen = [
            choice.variant.clone(),
            choice.stage.map(|stage| stage.name().to_owned()),
            choice.barrier.map(barrier),
        ];
        let mut words = vec![format!("{} ({})", capabilities.name, capabilities.kernels)];
        words.extend(chosen.into_iter().flatten());
        words.join(", ")
    }

    /// Decodes a turn, greedily.
    ///
    /// # Errors
    /// An engine that fails, or that makes other tokens than in its first turn.
    pub fn turn(&mut self) -> Result<Turn, ExperimentError> {
        let last = self.past.len() - 1;
        let started = Instant::now();
        for sequence in 0..self.columns {
            self.engine.truncate(sequence, last)?;
            let go_on = &mut |_| ControlFlow::Continue(());
            self.engine.prefill(sequence, &self.past[last..], go_on)?;
        }
        let requests: Vec<_> = (0..self.columns)
            .map(|sequence| greedy(sequence, self.steps + 1))
            .collect();
        let mut count = 0;
        let [mut first, mut end] = [started; 2];
        let finished = self.engine.decode(&requests, &mut |_| {
            count += 1;
            end = Instant::now();
            if count == self.columns {
                first = end;
            }
            ControlFlow::Continue(())
        })?;
        let tokens: Vec<_> = finished.into_iter().map(|one| one.tokens).collect();
        match &self.tokens {
            Some(known) if *known != tokens => {
                return Err(ExperimentError::WrongOutput {
                    reason: format!(
                        "{} made other tokens than in its first turn",
                        self.engine.capabilities().name
                    ),
                });
            }
            _ => self.tokens = Some(tokens),
        }
        Ok(Turn {
            first_token_seconds: first.duration_since(started).as_secs_f64(),
            step_seconds: end.duration_since(first).as_secs_f64() / self.steps as f64,
        })
    }

    /// Takes turns until `seconds` are over, one at least; that lets caches and clocks settle.
    ///
    /// # Errors
    /// As [`turn`](Self::turn).
    pub fn warm_up(&mut self, seconds: f64) -> Result<(), ExperimentError> {
        let until = Instant::now() + Duration::from_secs_f64(seconds);
        loop {
            self.turn()?;
            if Instant::now() >= until {
                return Ok(());
            }
        }
    }

    /// Records a turn, which is `what`.
    ///
    /// # Errors
    /// As [`turn`](Self::turn); a trace that can't be written.
    pub fn record(
        &mut self,
        traces: &Traces,
        model: &str,
        what: &str,
    ) -> Result<(), ExperimentError> {
        if traces.start(&mut *self.engine, what)? {
            self.turn()?;
            traces.finish(&mut *self.engine, model, what)?;
        }
        Ok(())
    }

    /// Holds the engine against the reference engine, on a short prompt; its past is lost.
    ///
    /// # Errors
    /// An engine that fails; [`ExperimentError::WrongOutput`] where they differ.
    pub fn check_against_reference(
        mut self,
        weights: &Arc<Weights>,
        seconds: f64,
    ) -> Result<check::Checked, ExperimentError> {
        let positions = self.past.len() + self.steps;
        let plan = DecodePlan {
            prompt_tokens: positions.div_ceil(2),
            new_tokens: positions - positions.div_ceil(2) + 1,
            repetitions: 1,
            batch: 1,
            bandwidth_seconds: 0.0,
            check_seconds: seconds,
        };
        let tokens: Vec<_> = self.tokens.iter().collect();
        let checked = check::check(&mut *self.engine, weights, &plan, &tokens)?;
        match checked.passed {
            true => Ok(checked),
            false => Err(ExperimentError::WrongOutput {
                reason: format!(
                    "{} is not what the reference engine says: {}",
                    self.engine.capabilities().name,
                    serde_json::to_string(&checked)?
                ),
            }),
        }
    }

    /// Logits of sequence 0 after the last token of the past and after each of `tokens`.
    fn logits(&mut self, tokens: &[TokenId]) -> Result<Vec<Vec<f32>>, EngineError> {
        let last = self.past.len() - 1;
        self.engine.truncate(0, last)?;
        let mut rows = Vec::new();
        for token in self.past[last..].iter().chain(tokens) {
            // A step each, as in decoding.
            let keep = &mut |_: usize, row: &[f32]| rows.push(row.to_vec());
            self.engine.logits(0, &[*token], keep)?;
        }
        Ok(rows)
    }
}

fn greedy(sequence: usize, max_tokens: usize) -> DecodeRequest {
    DecodeRequest {
        sequence,
        max_tokens,
        sampling: SamplingParams::default(),
        stop_tokens: Vec::new(),
        guide: None,
    }
}

/// How the output of one engine compares with another's, behind the same past.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// Whether it is the same but for rounding.
    pub passed: bool,
    /// Whether all logits are the same, bit for bit.
    pub same_bits: bool,
    /// The largest KL of the logits after a token, in nats.
    pub kl_max: f64,
    /// What it must not exceed.
    pub kl_limit: f64,
    /// Tokens that were compared.
    pub tokens: usize,
    /// Tokens that are equal, from the first on.
    pub tokens_equal: usize,
    /// Whether the first difference lies between two logits that are closer than the engines are.
    pub near_tie: bool,
}

/// Holds `other` against `base`, which have made a turn each: their tokens, and their logits along the
/// tokens of `base`.
///
/// # Errors
/// An engine that fails; [`ExperimentError::WrongOutput`] where they differ by more than rounding.
///
/// # Panics
/// If one has made no turn.
pub fn agree(base: &mut Behind, other: &mut Behind) -> Result<Agreement, ExperimentError> {
    let made = |behind: &Behind| behind.tokens.as_ref().expect("a turn was made")[0].clone();
    let (ours, theirs) = (made(base), made(other));
    let steps = ours.len().min(theirs.len());
    let pairs = ours.iter().zip(&theirs);
    let tokens_equal = pairs.take_while(|(a, b)| a == b).count();
    // The last token is not run.
    let along = &ours[..steps - 1];
    let [of_base, of_other] = [base.logits(along)?, other.logits(along)?];
    let rows = || of_base.iter().zip(&of_other);
    let kl_max = rows().map(|(a, b)| kl(a, b)).fold(0.0, |most: f64, one| {
        // NaN is no distance at all.
        if one.is_nan() {
            f64::INFINITY
        } else {
            most.max(one)
        }
    });
    let near_tie = tokens_equal < steps && {
        let (a, b) = (&of_base[tokens_equal], &of_other[tokens_equal]);
        let lead = a[ours[tokens_equal] as usize] - a[theirs[tokens_equal] as usize];
        lead <= 2.0 * max_difference(a, b)
    };
    let agreement = Agreement {
        passed: kl_max <= KL_LIMIT && (tokens_equal == steps || near_tie),
        same_bits: of_base == of_other,
        kl_max,
        kl_limit: KL_LIMIT,
        tokens: steps,
        tokens_equal,
        near_tie,
    };
    match agreement.passed {
        true => Ok(agreement),
        false => Err(ExperimentError::WrongOutput {
            reason: format!(
                "{} and {} differ: {}",
                base.engine.capabilities().name,
                other.engine.capabilities().name,
                serde_json::to_string(&agreement)?
            ),
        }),
    }
}
