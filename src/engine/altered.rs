//! An engine that is wrong on purpose, for tests of what finds that out.

use std::ops::ControlFlow;

use super::reference::ReferenceEngine;
use super::{Capabilities, DecodeRequest, Decoded, Engine, EngineError, Finished};
use crate::model::{ModelConfig, TokenId};

/// The reference engine, but for what becomes of its results.
pub struct Altered {
    /// What computes.
    pub engine: ReferenceEngine,
    /// Given what each request of a decode came to.
    pub finished: Box<dyn FnMut(&mut Finished)>,
    /// Given the logits after each token.
    pub logits: Box<AlterLogits>,
}

/// Changes logits, of which it is told how many tokens ran together.
pub type AlterLogits = dyn FnMut(usize, &mut [f32]);

impl Altered {
    /// Nothing is wrong yet.
    pub fn new(engine: ReferenceEngine) -> Self {
        Self {
            engine,
            finished: Box::new(|_| ()),
            logits: Box::new(|_, _| ()),
        }
    }
}

impl Engine for Altered {
    fn config(&self) -> &ModelConfig {
        self.engine.config()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "altered",
            ..self.engine.capabilities()
        }
    }

    fn cached(&self, sequence: usize) -> &[TokenId] {
        self.engine.cached(sequence)
    }

    fn truncate(&mut self, sequence: usize, length: usize) -> Result<(), EngineError> {
        self.engine.truncate(sequence, length)
    }

    fn prefill(
        &mut self,
        sequence: usize,
        tokens: &[TokenId],
        progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        self.engine.prefill(sequence, tokens, progress)
    }

    fn decode(
        &mut self,
        requests: &[DecodeRequest],
        on_token: &mut dyn FnMut(Decoded) -> ControlFlow<()>,
    ) -> Result<Vec<Finished>, EngineError> {
        let mut finished = self.engine.decode(requests, on_token)?;
        finished.iter_mut().for_each(&mut self.finished);
        Ok(finished)
    }

    fn logits(
        &mut self,
        sequence: usize,
        tokens: &[TokenId],
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), EngineError> {
        let Self { engine, logits, .. } = self;
        engine.logits(sequence, tokens, &mut |index, row| {
            let mut row = row.to_vec();
            logits(tokens.len(), &mut row);
            each(index, &row);
        })
    }
}
