//! An engine that decodes the same tokens again and again.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::engine::{Capabilities, DecodeRequest, Engine, EngineError};
use crate::experiment::traces::Traces;
use crate::experiment::{ExperimentError, Watch};
use crate::measure::decode::DecodePlan;
use crate::measure::decode::check::{self, Checked};
use crate::model::{TokenId, Weights};
use crate::sampling::SamplingParams;

/// An engine whose sequences hold their prompts.
pub struct Decoder {
    engine: Box<dyn Engine>,
    weights: Arc<Weights>,
    plan: DecodePlan,
    /// `[sequence][token]`
    prompts: Vec<Vec<TokenId>>,
    /// What the first stretch gave: `[sequence][token]`.
    tokens: Option<Vec<Vec<TokenId>>>,
}

impl Decoder {
    /// An engine with `weights`, and the prompts of `plan` but for their last token.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn new(
        mut engine: Box<dyn Engine>,
        weights: Arc<Weights>,
        plan: DecodePlan,
    ) -> Result<Self, EngineError> {
        let vocab_size = engine.config().vocab_size;
        let prompts: Vec<_> = (0..plan.batch)
            .map(|sequence| plan.prompt(sequence, vocab_size))
            .collect();
        for (sequence, prompt) in prompts.iter().enumerate() {
            engine.truncate(sequence, 0)?;
            engine.prefill(sequence, &prompt[..prompt.len() - 1], &mut |_| {
                ControlFlow::Continue(())
            })?;
        }
        Ok(Self {
            engine,
            weights,
            plan,
            prompts,
            tokens: None,
        })
    }

    /// What the engine is.
    pub fn capabilities(&self) -> Capabilities {
        self.engine.capabilities()
    }

    /// Records a stretch, which is `what`, for `traces`.
    ///
    /// # Errors
    /// If the engine fails, or the trace can't be written.
    pub fn record(
        &mut self,
        traces: &Traces,
        model: &str,
        what: &str,
        watch: &Watch,
    ) -> Result<(), ExperimentError> {
        if traces.start(&mut *self.engine, what)? {
            self.stretch(watch)?;
            traces.finish(&mut *self.engine, model, what)?;
        }
        Ok(())
    }

    /// Runs each prompt's last token and decodes the plan's tokens behind it; returns how many there are
    /// of all sequences.
    ///
    /// # Errors
    /// If the engine fails, gives other tokens than the first time, or the user wants an end.
    pub fn stretch(&mut self, watch: &Watch) -> Result<usize, ExperimentError> {
        let mut requests = Vec::with_capacity(self.prompts.len());
        for (sequence, prompt) in self.prompts.iter().enumerate() {
            let last = prompt.len() - 1;
            self.engine.truncate(sequence, last)?;
            let go_on = &mut |_| ControlFlow::Continue(());
            self.engine.prefill(sequence, &prompt[last..], go_on)?;
            requests.push(DecodeRequest {
                sequence,
                max_tokens: self.plan.new_tokens,
                sampling: SamplingParams::default(),
                stop_tokens: Vec::new(),
                guide: None,
            });
        }
        let finished = self
            .engine
            .decode(&requests, &mut |_| match watch.check() {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            })?;
        watch.check()?;
        let tokens: Vec<_> = finished
            .into_iter()
            .map(|finished| finished.tokens)
            .collect();
        let count = tokens.iter().map(Vec::len).sum();
        match &self.tokens {
            Some(first) if *first != tokens => Err(ExperimentError::WrongOutput {
                reason: format!(
                    "{} decodes other tokens than before",
                    self.capabilities().name
                ),
            }),
            _ => {
                self.tokens = Some(tokens);
                Ok(count)
            }
        }
    }

    /// Holds what was decoded against the reference engine.
    ///
    /// # Errors
    /// If an engine fails.
    pub fn check(&mut self) -> Result<Checked, EngineError> {
        let tokens: Vec<_> = self.tokens.iter().collect();
        check::check(&mut *self.engine, &self.weights, &self.plan, &tokens)
    }
}
