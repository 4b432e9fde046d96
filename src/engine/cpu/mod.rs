//! The megakernel's design on CPU cores: one persistent team, fixed row ranges, a spinning
//! barrier, redundant RMSNorm, columns, and no allocation per token.
//!
//! - [`variant`]: what each of these is compared with
//! - [`team`], [`crew`]: the threads and their barrier, and how they run the parts of a pass
//! - [`rows`]: which rows a member computes
//! - [`forward`]: the forward pass as parts that every member runs
//! - [`attention`]: its attention
//! - [`kernels`]: the arithmetic, by instruction set
//! - [`workspace`], [`kv_cache`], [`buffer`]: memory

pub mod attention;
pub mod buffer;
pub mod crew;
pub mod forward;
pub mod kernels;
pub mod kv_cache;
pub mod rows;
pub mod team;
#[cfg(test)]
mod tests;
pub mod variant;
pub mod workspace;

use std::num::NonZeroUsize;
use std::ops::{ControlFlow, Range};
use std::time::{Duration, Instant};

use attention::{Attention, AttentionPlan, SPLIT};
use crew::Threads;
use forward::{Forward, Job, NotFinite, STREAMED_COLUMNS, Token};
use kernels::Kernels;
use kv_cache::{Half, KvCache};
use rows::RowDivision;
use team::Waiting;
pub use variant::CpuVariant;
use workspace::Workspace;

use super::decode_loop::{self, Column, Head, STEP_COLUMNS, Step};
use super::past::{FillPast, RandomPast};
use super::sequences::Sequences;
use super::trace::{Phase, Recorder, Recording, Step as TracedStep, StepKind};
use super::work::Work;
use super::{Capabilities, DecodeRequest, Decoded, Engine, EngineError, Finished};
use crate::model::promotion::Promoter;
use crate::model::{ModelConfig, TokenId, Weights};

/// Prompt tokens that go through the layers together. More would reuse each row of weights more
/// often, but arithmetic is the bound from a few dozen on, and the packed input of the widest
/// product (1.5 MB with 3,072 columns) should stay in a second-level cache.
pub const PREFILL_CHUNK: usize = 128;

/// How to set up a [`CpuEngine`].
#[derive(Clone, Debug)]
pub struct CpuOptions {
    /// Members of the team; `None` takes one for each core.
    pub threads: Option<NonZeroUsize>,
    /// Positions of each sequence's KV cache.
    pub context: usize,
    /// Sequences that can decode together.
    pub sequences: usize,
    /// The kernels by name; `None` takes the best that the processor runs.
    pub kernels: Option<String>,
    /// How a pass is run.
    pub variant: CpuVariant,
}

impl CpuOptions {
    /// The defaults, for `sequences` sequences of up to `context` positions.
    pub fn new(context: usize, sequences: usize) -> Self {
        Self {
            threads: None,
            context,
            sequences,
            kernels: None,
            variant: CpuVariant::default(),
        }
    }
}

/// The engine for CPU cores.
pub struct CpuEngine {
    weights: Weights,
    kernels: Kernels,
    variant: CpuVariant,
    threads: Threads,
    rows: RowDivision,
    workspace: Workspace,
    cache: KvCache,
    sequences: Sequences,
    /// Columns of the pass under way.
    tokens: Vec<Token>,
    /// Those of which all logits are wanted, ascending.
    wanted: Vec<usize>,
    plan: AttentionPlan,
    not_finite: NotFinite,
    /// Moves the weights into huge pages; `None` once they are there, or are to stay.
    promoter: Option<Promoter>,
    /// How long the last decode step took.
    step_time: Duration,
    work: Work,
    /// What is recorded, where something is.
    recorder: Option<Recorder>,
}

impl CpuEngine {
    /// An engine for `weights`; matrices that are not bf16 are converted.
    ///
    /// # Errors
    /// A context longer than the model's positions, kernels the processor can't run, no memory,
    /// no threads.
    pub fn new(weights: Weights, options: &CpuOptions) -> Result<Self, EngineError> {
        let weights = weights.into_bf16();
        let config = &weights.config;
        let &CpuOptions {
            context,
            sequences,
            variant,
            ..
        } = options;
        let book = Sequences::new(config, context, sequences)?;
        let kernels = kernels::choose(options.kernels.as_deref())?;
        let cores = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let count = options.threads.unwrap_or_else(cores);
        let threads = match variant {
            CpuVariant::Pool => Threads::pool(count)?,
            CpuVariant::Parking => Threads::team(count, Waiting::Parking)?,
            _ => Threads::team(count, Waiting::Spinning)?,
        };
        let columns = PREFILL_CHUNK.min(context);
        let columns = columns.max(sequences).max(STEP_COLUMNS);
        Ok(Self {
            kernels: match variant {
                CpuVariant::NoPrefetch => kernels.without_prefetch(),
                _ => kernels,
            },
            variant,
            rows: match variant {
                CpuVariant::ClaimedRows => RowDivision::claimed(config.layers),
                _ => RowDivision::fixed(),
            },
            workspace: Workspace::new(config, columns, sequences, context, threads.count())?,
            cache: KvCache::new(config, context, sequences)?,
            sequences: book,
            tokens: Vec::with_capacity(columns),
            wanted: Vec::with_capacity(columns),
            plan: AttentionPlan::new(config, columns, sequences, context),
            not_finite: NotFinite::default(),
            promoter: Promoter::new(&weights, threads.count()),
            step_time: Duration::ZERO,
            work: Work::default(),
            recorder: None,
            threads,
            weights,
        })
    }

    /// The weights, in bf16, as the engine reads them.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// How a pass is run.
    pub fn variant(&self) -> CpuVariant {
        self.variant
    }

    /// Runs `job` on every member.
    fn run(&mut self, job: Job) {
        let attention = Attention {
            config: &self.weights.config,
            kernels: &self.kernels,
            workspace: &self.workspace,
            cache: &self.cache,
            tokens: &self.tokens,
            plan: &self.plan,
        };
        let forward = Forward {
            weights: &self.weights,
            kernels: &self.kernels,
            workspace: &self.workspace,
            attention: &attention,
            columns: &self.tokens,
            rows: &self.rows,
            has_shared_norms: self.variant == CpuVariant::Block0Norm,
            not_finite: &self.not_finite,
            trace: self.recorder.as_ref().filter(|trace| trace.is_recording()),
        };
        self.rows.free_all(self.threads.count());
        self.threads.run(&forward, job);
    }

    /// Tells the recorder, where there is one, that the columns that were set are a step.
    fn record_step(&mut self, kind: StepKind) {
        if let (Some(recorder), Some(first)) = (&mut self.recorder, self.tokens.first()) {
            recorder.begin_step(TracedStep {
                kind,
                columns: self.tokens.len() as u32,
                token: first.token,
                position: first.position as u32,
            });
        }
    }

    /// Runs `self.tokens` through the layers, those at `self.wanted` through the head, and others
    /// through the rows of the head that `columns` (as many, or none) name: this leaves the logits of
    /// their sequences.
    fn pass(&mut self, columns: &[Column]) -> Result<(), EngineError> {
        self.plan.make(&self.weights.config, &self.tokens);
        let wanted = std::mem::take(&mut self.wanted);
        let mut batches = wanted.chunks(STREAMED_COLUMNS);
        let first = batches.next().unwrap_or(&[]);
        self.run(Job::Pass {
            head: first,
            columns,
        });
        for batch in batches {
            self.run(Job::Head(batch));
        }
        self.wanted = wanted;
        self.check_finite()?;
        for token in &self.tokens {
            self.sequences.push(token.sequence, token.token);
        }
        for &column in &self.wanted {
            let sequence = self.tokens[column].sequence;
            self.sequences.set_has_logits(sequence, true);
        }
        for column in columns {
            if let Head::Rows(_) = column.head {
                self.sequences.set_has_logits(column.sequence, true);
            }
        }
        Ok(())
    }

    /// Moves weights into huge pages for about as long as the last decode step took, where there are
    /// any to move.
    ///
    /// Moving takes the same time whenever it is done, and what is moved decodes faster at once: so
    /// as much as possible, but no token may take much more than twice as long as without. The
    /// first token doesn't wait at all: prefill is bound by arithmetic, and gains nothing.
    fn promote(&mut self) {
        let started = Instant::now();
        while let Some(promoter) = &mut self.promoter
            && started.elapsed() < self.step_time
        {
            let threads = &mut self.threads;
            if !promoter.advance(|copy| threads.on_each(copy)) {
                self.promoter = None;
            }
        }
    }

    /// Whether all norms since the last call read finite values.
    fn check_finite(&self) -> Result<(), EngineError> {
        match self.not_finite.take() {
            None => Ok(()),
            Some((norm, column)) => {
                let position = self.tokens[column].position;
                let layers = self.weights.config.layers;
                Err(EngineError::not_finite_before(norm, layers, position))
            }
        }
    }

    /// Makes `tokens` the columns of the next pass; of those at `wanted` the logits are.
    fn set_tokens(&mut self, sequence: usize, tokens: &[TokenId], wanted: Range<usize>) {
        self.wanted.clear();
        self.wanted.extend(wanted);
        let first = self.sequences.cached(sequence).len();
        self.tokens.clear();
        let tokens = (first..).zip(tokens).map(|(position, &token)| Token {
            sequence,
            position,
            token,
        });
        self.tokens.extend(tokens);
        self.record_step(StepKind::Prefill);
    }
}

impl Step for CpuEngine {
    fn step(&mut self, columns: &[Column]) -> Result<(), EngineError> {
        self.promote();
        let started = Instant::now();
        self.tokens.clear();
        self.wanted.clear();
        for (index, column) in columns.iter().enumerate() {
            let sequence = column.sequence;
            let position = match self.tokens.last() {
                Some(before) if before.sequence == sequence => before.position + 1,
                _ => self.sequences.cached(sequence).len(),
            };
            self.tokens.push(Token {
                sequence,
                position,
                token: column.token,
            });
            if column.head == Head::All {
                self.wanted.push(index);
            }
        }
        self.record_step(StepKind::Decode);
        self.pass(columns)?;
        self.step_time = started.elapsed();
        Ok(())
    }

    fn sequences(&self) -> &Sequences {
        &self.sequences
    }

    fn count(&mut self, work: Work) {
        self.work += work;
    }

    fn take_logits(&mut self, sequence: usize) -> Option<&mut [f32]> {
        let has_logits = self.sequences.has_logits(sequence);
        self.sequences.set_has_logits(sequence, false);
        let size = self.weights.config.vocab_size;
        let logits = self.workspace.logits.as_mut_slice();
        has_logits.then(|| &mut logits[sequence * size..(sequence + 1) * size])
    }

    fn before_sample(&self) -> Option<u64> {
        let recorder = self
            .recorder
            .as_ref()
            .filter(|trace| trace.is_recording())?;
        recorder.resume(0);
        Some(recorder.enter(0, Phase::Sample, None))
    }

    fn sampled(&mut self, begin: u64) {
        if let Some(recorder) = &self.recorder {
            recorder.leave(0, begin);
        }
    }
}

/// Events of one thread in one pass at most: of each layer 13 parts (five phases, two norms, four packed
/// inputs, and attention in three), each with a wait; the embedding, the head in pieces, each with a norm
/// before it, and a token of each sequence.
fn most_events(layers: usize, sequences: usize) -> usize {
    let of_layer = 13 * 2;
    let heads = PREFILL_CHUNK.max(sequences).div_ceil(STREAMED_COLUMNS) + STEP_COLUMNS;
    layers * of_layer + 2 + 4 * heads + sequences
}

impl FillPast for CpuEngine {
    fn fill_past(&mut self, sequence: usize, past: &RandomPast) -> Result<(), EngineError> {
        self.sequences.truncate(sequence, 0)?;
        self.sequences.check_fits(sequence, past.tokens())?;
        let config = &self.weights.config;
        for layer in 0..config.layers {
            for head in 0..config.kv_heads {
                let halves = [
                    (Half::Keys, past.keys(layer, head)),
                    (Half::Values, past.values(layer, head)),
                ];
                for (half, rows) in halves {
                    let blocks = rows.chunks(SPLIT * config.head_dim);
                    for (first, rows) in (0..).step_by(SPLIT).zip(blocks) {
                        let positions = first..first + rows.len() / config.head_dim;
                        let to = self.cache.pointer(sequence, layer, half, head, positions);
                        // SAFETY: room for these rows, which the cache checked; nobody else uses
                        // it while this engine is borrowed.
                        unsafe { std::ptr::copy_nonoverlapping(rows.as_ptr(), to, rows.len()) };
                    }
                }
            }
        }
        for &token in past.tokens() {
            self.sequences.push(sequence, token);
        }
        Ok(())
    }
}

impl Engine for CpuEngine {
    fn config(&self) -> &ModelConfig {
        &self.weights.config
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "cpu",
            sequences: self.sequences.count(),
            context: self.sequences.context(),
            threads: self.threads.count(),
            host_bound: true,
            kernels: self.kernels.name,
            variant: (self.variant != CpuVariant::default()).then(|| self.variant.name()),
        }
    }

    fn cached(&self, sequence: usize) -> &[TokenId] {
        self.sequences.cached(sequence)
    }

    fn truncate(&mut self, sequence: usize, length: usize) -> Result<(), EngineError> {
        self.sequences.truncate(sequence, length)
    }

    fn prefill(
        &mut self,
        sequence: usize,
        tokens: &[TokenId],
        progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        self.sequences.check_fits(sequence, tokens)?;
        let mut done = 0;
        for chunk in tokens.chunks(PREFILL_CHUNK) {
            done += chunk.len();
            let last = done == tokens.len();
            let wanted = chunk.len() - usize::from(last)..chunk.len();
            self.set_tokens(sequence, chunk, wanted);
            self.pass(&[])?;
            if progress(done).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn decode(
        &mut self,
        requests: &[DecodeRequest],
        on_token: &mut dyn FnMut(Decoded) -> ControlFlow<()>,
    ) -> Result<Vec<Finished>, EngineError> {
        decode_loop::decode(self, requests, on_token)
    }

    fn work(&self) -> Option<Work> {
        Some(self.work)
    }

    fn logits(
        &mut self,
        sequence: usize,
        tokens: &[TokenId],
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), EngineError> {
        self.sequences.check_fits(sequence, tokens)?;
        let size = self.weights.config.vocab_size;
        let mut done = 0;
        for chunk in tokens.chunks(PREFILL_CHUNK) {
            self.set_tokens(sequence, chunk, 0..0);
            self.pass(&[])?;
            let all: Vec<usize> = (0..chunk.len()).collect();
            for columns in all.chunks(STREAMED_COLUMNS) {
                self.run(Job::Head(columns));
                self.check_finite()?;
                let slots = self.workspace.head_slots.as_mut_slice();
                for (&column, logits) in columns.iter().zip(slots.chunks(size)) {
                    if !logits.iter().all(|logit| logit.is_finite()) {
                        return Err(EngineError::NotFinite {
                            place: "the logits".into(),
                            position: self.tokens[column].position,
                        });
                    }
                    each(done + column, logits);
                }
            }
            done += chunk.len();
        }
        self.sequences.set_has_logits(sequence, done > 0);
        Ok(())
    }

    fn as_fill_past(&mut self) -> Option<&mut dyn FillPast> {
        Some(self)
    }

    fn start_trace(&mut self, steps: usize) -> Result<(), EngineError> {
        let layers = self.weights.config.layers;
        let events = most_events(layers, self.sequences.count());
        self.recorder = Some(Recorder::new(self.threads.count(), steps, events)?);
        Ok(())
    }

    fn take_trace(&mut self) -> Result<Option<Recording>, EngineError> {
        let layers = self.weights.config.layers;
        let recorder = self.recorder.take();
        Ok(recorder.map(|recorder| recorder.finish("cpu", layers)))
    }
}
