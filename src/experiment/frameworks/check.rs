//! Whether another program decodes what onegrid decodes, and how far its logits are from f32's.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::adapter::{Adapter, Reply};
use crate::engine::reference::ReferenceEngine;
use crate::engine::{DecodeRequest, Engine};
use crate::experiment::models::Model;
use crate::experiment::quality::Made;
use crate::experiment::quality::comparison::{Comparison, compare_file};
use crate::experiment::quality::reference::Reference;
use crate::experiment::quality::teacher_forced::teacher_force;
use crate::experiment::{ExperimentError, Watch};
use crate::measure::decode::check::KL_LIMIT;
use crate::measure::divergence::summary::Criteria;
use crate::measure::divergence::{Collector, max_difference};
use crate::model::TokenId;
use crate::report::saved_logits::SavedLogits;
use crate::sampling::SamplingParams;

/// How a program's output compares. The names of the JSON fields are a contract.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checked {
    /// Tokens that are onegrid's, from the first on.
    pub tokens_equal: usize,
    /// Tokens that were compared.
    pub tokens: usize,
    /// Whether the first difference lies between two logits that are closer than rounding moves them.
    pub near_tie: bool,
    /// Mean KL(f32 || program) over the prompt and the first tokens behind it, in nats; `None` where its
    /// logits can't be had.
    pub kl_mean: Option<f64>,
    /// The largest of them.
    pub kl_max: Option<f64>,
    /// Share of positions at which f32's likeliest token is the program's.
    pub top1: Option<f64>,
}

/// The f32 logits that all programs are held against, and onegrid's own.
pub struct Judge {
    reference: Reference,
    /// The prompt, and the tokens behind it along which logits are compared.
    text: Vec<TokenId>,
    prompt_tokens: usize,
    /// What onegrid decoded.
    tokens: Vec<TokenId>,
    /// onegrid's logits along `text`, then as far as its tokens go.
    own: Vec<Vec<f32>>,
}

/// How much two logits may move against each other by rounding to bf16, where a program's own are not
/// known: twice the spacing of bf16 at 16, the magnitude of logits that decide.
const ROUNDING: f32 = 0.25;

impl Judge {
    /// Computes the reference's logits along `prompt` and the first `checked` of `tokens`, which onegrid
    /// decoded behind it.
    ///
    /// # Errors
    /// If the reference engine fails, or the user wants an end.
    pub fn new(
        model: &Model,
        prompt: &[TokenId],
        tokens: &[TokenId],
        checked: usize,
        watch: &Watch,
    ) -> Result<Self, ExperimentError> {
        let text = [prompt, &tokens[..checked]].concat();
        let weights = Arc::new(model.weights.clone());
        let mut engine = ReferenceEngine::new(weights, text.len(), 1)?;
        let made = Made {
            by: "reference".into(),
            numbers: "f32".into(),
            description: Vec::new(),
        };
        Ok(Self {
            reference: Reference::compute(&mut engine, vec![text.clone()], made, watch)?,
            text,
            prompt_tokens: prompt.len(),
            tokens: tokens.to_vec(),
            own: Vec::new(),
        })
    }

    /// How onegrid's own logits compare with f32's; those behind the prompt are kept, to judge ties by.
    ///
    /// # Errors
    /// If the engine fails; [`ExperimentError::WrongOutput`] if they are too far away.
    pub fn own(
        &mut self,
        engine: &mut dyn Engine,
        watch: &Watch,
    ) -> Result<Checked, ExperimentError> {
        let mut collector = Collector::new(Criteria::default());
        let text = self.text.clone();
        let mut comparison = Comparison::new(&mut self.reference, &mut collector);
        teacher_force(engine, &[text], 1, watch, "onegrid", &mut |index, row| {
            comparison.push(index, row)
        })?;
        let rest = self.prompt_tokens - 1;
        engine.truncate(0, rest)?;
        let along: Vec<TokenId> = (self.text[rest..self.prompt_tokens].iter())
            .chain(&self.tokens[..self.tokens.len() - 1])
            .copied()
            .collect();
        let own = &mut self.own;
        own.clear();
        for token in along {
            watch.check()?;
            // A step each, as in decoding.
            engine.logits(0, &[token], &mut |_, row| own.push(row.to_vec()))?;
        }
        let checked = Checked {
            tokens_equal: self.tokens.len(),
            tokens: self.tokens.len(),
            near_tie: false,
            ..Self::distances("onegrid", collector)?
        };
        Ok(checked)
    }

    /// How `found` compares with what onegrid decoded, and the logits of `adapter` with f32's.
    ///
    /// # Errors
    /// If the adapter fails; [`ExperimentError::WrongOutput`] where they differ by more than rounding.
    pub fn other(
        &mut self,
        adapter: &mut Adapter,
        found: &[TokenId],
        folder: &Path,
        watch: &Watch,
    ) -> Result<Checked, ExperimentError> {
        let name = adapter.hello().framework.clone();
        let mut checked = Checked {
            tokens_equal: 0,
            tokens: 0,
            near_tie: false,
            kl_mean: None,
            kl_max: None,
            top1: None,
        };
        let mut moved = ROUNDING;
        if adapter.hello().has_logits {
            let path = folder.join("logits.safetensors");
            adapter.logits(&self.text, &path, watch)?;
            let mut saved = SavedLogits::open(&path)?;
            let mut collector = Collector::new(Criteria::default());
            compare_file(
                &mut saved,
                &path,
                &mut self.reference,
                &mut collector,
                watch,
            )?;
            checked = Self::distances(&name, collector)?;
            let mut row = Vec::new();
            moved = 0.0;
            let behind = self.prompt_tokens - 1..self.text.len();
            for (own, index) in self.own.iter().zip(behind) {
                saved.read_row(index, &mut row)?;
                moved = moved.max(2.0 * max_difference(own, &row));
            }
        }
        let pairs = self.tokens.iter().zip(found);
        let equal = pairs.take_while(|(a, b)| a == b).count();
        checked.tokens_equal = equal;
        checked.tokens = found.len();
        if equal < found.len() {
            let own = &self.own[equal];
            let lead = own[self.tokens[equal] as usize]
                - own
                    .get(found[equal] as usize)
                    .copied()
                    .unwrap_or(f32::NEG_INFINITY);
            checked.near_tie = lead <= moved;
            if !checked.near_tie {
                return Err(ExperimentError::WrongOutput {
                    reason: format!(
                        "{name}: token {} is {}, and onegrid's is {}, whose logit is {lead:.3} above it \
                         (rounding explains {moved:.3})",
                        equal + 1,
                        found[equal],
                        self.tokens[equal]
                    ),
                });
            }
        }
        Ok(checked)
    }

    fn distances(name: &str, collector: Collector) -> Result<Checked, ExperimentError> {
        let divergence = collector.summary().expect("a text has tokens");
        let kl_max = divergence.kl.max.unwrap_or(f64::INFINITY);
        if kl_max > KL_LIMIT {
            return Err(ExperimentError::WrongOutput {
                reason: format!(
                    "{name}: the logits are up to {kl_max:.2e} nats from f32's, expected {KL_LIMIT} at most"
                ),
            });
        }
        Ok(Checked {
            tokens_equal: 0,
            tokens: 0,
            near_tie: false,
            kl_mean: divergence.kl.mean.value,
            kl_max: Some(kl_max),
            top1: divergence.top1.value,
        })
    }
}

/// Decodes with onegrid as an adapter would: from an empty cache.
///
/// # Errors
/// If the engine fails.
pub fn decode(
    engine: &mut dyn Engine,
    prompt: &[TokenId],
    count: usize,
) -> Result<Reply, ExperimentError> {
    engine.truncate(0, 0)?;
    let started = Instant::now();
    engine.prefill(0, prompt, &mut |_| ControlFlow::Continue(()))?;
    let request = DecodeRequest {
        sequence: 0,
        max_tokens: count,
        sampling: SamplingParams::default(),
        stop_tokens: Vec::new(),
        guide: None,
    };
    let mut first = None;
    let mut finished = engine.decode(&[request], &mut |_| {
        first.get_or_insert_with(Instant::now);
        ControlFlow::Continue(())
    })?;
    let end = Instant::now();
    let first = first.unwrap_or(end);
    Ok(Reply {
        tokens: std::mem::take(&mut finished[0].tokens),
        first_token_seconds: first.duration_since(started).as_secs_f64(),
        decode_seconds: end.duration_since(first).as_secs_f64(),
    })
}
