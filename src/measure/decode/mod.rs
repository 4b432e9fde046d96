//! The decode benchmark: how fast engines decode a model, beside how fast memory can be read.
//!
//! Every repetition of every engine has a measurement of the read bandwidth before and after it,
//! by as many threads as the engine computes with; engines take turns, forwards and backwards
//! (ABBA), so that a machine that changes its speed changes it for all. What was decoded is
//! checked ([`check`]), and what fails its check has no speed.
//!
//! - here: the plan, and the measurement
//! - [`check`]: whether the tokens can be trusted
//! - [`phases`]: what the phases of a step take, from a recorded run
//! - [`report`]: the results, as JSON and as a table; [`sections`] and charts of them

pub mod check;
pub mod phases;
pub mod report;
pub mod sections;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use check::Checked;
use report::{Comparison, FirstRun, Floor, Promotion, Run};

use super::bandwidth::team::ReadTeam;
use super::bandwidth::{Bandwidth, BandwidthError};
use super::statistics::{Ratio, Summary, below, hash};
use crate::engine::trace::Recording;
use crate::engine::{DecodeRequest, Engine, EngineError};
use crate::memory;
use crate::model::{ModelConfig, TokenId, Weights, promotion};
use crate::sampling::SamplingParams;

/// Tokens of the runs before anything is measured.
const WARM_UP_TOKENS: usize = 8;

/// What to measure.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodePlan {
    /// Tokens of each sequence's prompt; at least 1.
    pub prompt_tokens: usize,
    /// Tokens decoded after it; at least 2, since the first one's time is that of the prompt.
    pub new_tokens: usize,
    /// How often each engine runs; at least 1.
    pub repetitions: usize,
    /// Sequences that decode together; at least 1.
    pub batch: usize,
    /// Seconds each measurement of the read bandwidth should take.
    pub bandwidth_seconds: f64,
    /// Seconds the reference engine may take to check what was decoded.
    pub check_seconds: f64,
}

impl DecodePlan {
    /// Positions of the KV cache that each sequence needs: the last token is never cached.
    pub fn context(&self) -> usize {
        self.prompt_tokens + self.new_tokens - 1
    }

    /// The prompt of `sequence`: the same pseudo-random tokens each time.
    pub fn prompt(&self, sequence: usize, vocab_size: usize) -> Vec<TokenId> {
        let token = |index| {
            let counter = (sequence * self.prompt_tokens + index) as u64;
            below(vocab_size, hash(counter)) as TokenId
        };
        (0..self.prompt_tokens).map(token).collect()
    }

    /// Bytes that must be read for one token: the mean over the positions decoded. A batch reads
    /// the weights once for all its sequences.
    pub fn bytes_per_token(&self, config: &ModelConfig) -> f64 {
        // The step that makes token n (from 2 on) runs at position prompt + n - 2.
        let first = self.prompt_tokens;
        let last = self.prompt_tokens + self.new_tokens - 2;
        let past = (first + last) as f64 / 2.0;
        config.weight_bytes_per_token() as f64 / self.batch as f64
            + past * config.kv_bytes_per_position() as f64
    }
}

/// Memory that a benchmark takes beside weights and KV cache: activations, logits, the program.
const OTHER_MEMORY: u64 = 150_000_000;

/// Bytes of memory that `plan` needs for a model: bf16 weights, `engines` KV caches, and a rest.
pub fn memory_needed(config: &ModelConfig, plan: &DecodePlan, engines: usize) -> u64 {
    let positions = plan.context() * plan.batch * engines;
    (2 * config.parameters() + positions * config.kv_bytes_per_position()) as u64 + OTHER_MEMORY
}

/// An engine to measure.
pub struct Subject {
    /// The engine, with at least the plan's batch of sequences of the plan's context.
    pub engine: Box<dyn Engine>,
    /// Seconds it took to load its weights and to set it up.
    pub load_seconds: f64,
}

/// What the benchmark is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress<'a> {
    /// Trying the ways to read memory with this many threads.
    Bandwidth(usize),
    /// Decoding before the clock counts.
    WarmUp(&'a str),
    /// Repetition of an engine: (done, of all engines' together).
    Repetition(&'a str, usize, usize),
    /// Comparing with the reference engine.
    Check(&'a str),
}

/// A benchmark that could not be done.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The engine failed.
    #[error("engine {engine}: {source}")]
    Engine {
        /// Its name.
        engine: &'static str,
        /// What it said.
        source: EngineError,
    },
    /// The read bandwidth could not be measured.
    #[error(transparent)]
    Bandwidth(#[from] BandwidthError),
    /// No threads to measure it with.
    #[error("cannot start {threads} threads to measure the read bandwidth: {source}")]
    Threads {
        /// How many.
        threads: usize,
        /// The system's word.
        source: std::io::Error,
    },
}

/// What one model's benchmark found.
#[derive(Debug)]
pub struct Measured {
    /// A run of each engine, in the order given.
    pub runs: Vec<Run>,
    /// The first engine against each other one.
    pub comparisons: Vec<Comparison>,
}

/// Measures `subjects`, which all hold `weights` (those the first engine reads: the bandwidth is
/// that of reading them).
///
/// # Errors
/// If an engine fails, or the bandwidth can't be measured. A check that fails is no error: it is
/// in the run, which then has no speed.
pub fn bench(
    model: &str,
    weights: &Arc<Weights>,
    subjects: &mut [Subject],
    plan: &DecodePlan,
    progress: &mut dyn FnMut(Progress),
) -> Result<Measured, BenchError> {
    let mut first_runs = Vec::new();
    for subject in subjects.iter_mut() {
        progress(Progress::WarmUp(subject.name()));
        first_runs.push(subject.settle(weights, plan)?);
    }
    let mut bandwidths = Bandwidths::new(weights, subjects, plan.bandwidth_seconds, progress)?;
    let mut samples: Vec<Vec<Sample>> = subjects.iter().map(|_| Vec::new()).collect();
    let all = plan.repetitions * subjects.len();
    for done in 0..all {
        let (repetition, turn) = (done / subjects.len(), done % subjects.len());
        let index = match repetition % 2 {
            0 => turn,
            _ => subjects.len() - 1 - turn,
        };
        let subject = &mut subjects[index];
        progress(Progress::Repetition(subject.name(), done, all));
        let (timed, bandwidth) = match subject.reading_threads() {
            Some(threads) => {
                let before = bandwidths.before(threads)?;
                let timed = subject.run(plan, plan.new_tokens)?;
                (timed, Some([before, bandwidths.measure(threads)?]))
            }
            None => (subject.run(plan, plan.new_tokens)?, None),
        };
        samples[index].push(Sample { timed, bandwidth });
    }
    let memory = Memory {
        placement: weights.placement(),
        promotion: promotion::progress(weights).filter(|progress| progress.moved > 0),
        // Before the reference engine takes memory of its own.
        peak_rss_bytes: memory::peak_rss(),
    };
    let mut runs = Vec::new();
    let measured = samples.iter().zip(first_runs);
    for (subject, (samples, first_run)) in subjects.iter_mut().zip(measured) {
        progress(Progress::Check(subject.name()));
        let tokens: Vec<_> = samples.iter().map(|sample| &sample.timed.tokens).collect();
        let checked = check::check(&mut *subject.engine, weights, plan, &tokens)
            .map_err(|source| subject.error(source))?;
        let threads = subject.reading_threads();
        let kernel = threads.map(|threads| bandwidths.kernel(threads));
        runs.push(subject.report(model, plan, samples, first_run, checked, kernel, &memory));
    }
    let comparisons = comparisons(&runs);
    Ok(Measured { runs, comparisons })
}

/// Records one more run of `subject`, up to `steps` steps of it. Its time is not that of the others: it is
/// what recording costs slower.
///
/// # Errors
/// If the engine fails, or records nothing.
pub fn record(
    subject: &mut Subject,
    plan: &DecodePlan,
    steps: usize,
) -> Result<Option<Recording>, BenchError> {
    let started = subject.engine.start_trace(steps);
    started.map_err(|source| subject.error(source))?;
    subject.run(plan, plan.new_tokens)?;
    let recording = subject.engine.take_trace();
    recording.map_err(|source| subject.error(source))
}

/// One timed run and the bandwidths beside it, where they bound it.
struct Sample {
    timed: Timed,
    bandwidth: Option<[f64; 2]>,
}

/// What the weights of all subjects took, and where they lay while the speeds were measured.
struct Memory {
    placement: &'static str,
    promotion: Option<promotion::Progress>,
    peak_rss_bytes: Option<u64>,
}

/// What a run of a subject gave.
struct Timed {
    first_token_seconds: f64,
    decode_tokens_per_second: f64,
    /// `[sequence][token]`
    tokens: Vec<Vec<TokenId>>,
}

impl Subject {
    fn name(&self) -> &'static str {
        self.engine.capabilities().name
    }

    /// Threads whose reading of the host's memory bounds the engine, if it does.
    fn reading_threads(&self) -> Option<usize> {
        let capabilities = self.engine.capabilities();
        capabilities.host_bound.then_some(capabilities.threads)
    }

    fn error(&self, source: EngineError) -> BenchError {
        let engine = self.name();
        BenchError::Engine { engine, source }
    }

    /// Runs until all is as it will stay: caches warm, and weights moved that are to be moved.
    /// Returns what the first run after loading was like.
    fn settle(&mut self, weights: &Weights, plan: &DecodePlan) -> Result<FirstRun, BenchError> {
        let new_tokens = plan.new_tokens.min(WARM_UP_TOKENS);
        let placement = weights.placement().to_owned();
        let first = self.run(plan, new_tokens)?;
        // Only the engine knows whether it moves them: so until a run moves none.
        let pending = || promotion::progress(weights).filter(|p| p.moved < p.bytes);
        while let Some(before) = pending() {
            self.run(plan, new_tokens)?;
            if pending().is_some_and(|now| now.moved == before.moved) {
                break;
            }
        }
        Ok(FirstRun {
            placement,
            new_tokens,
            first_token_ms: first.first_token_seconds * 1e3,
            decode_tokens_per_second: first.decode_tokens_per_second,
        })
    }

    /// Decodes `new_tokens` greedily from empty caches.
    fn run(&mut self, plan: &DecodePlan, new_tokens: usize) -> Result<Timed, BenchError> {
        self.try_run(plan, new_tokens)
            .map_err(|source| self.error(source))
    }

    fn try_run(&mut self, plan: &DecodePlan, new_tokens: usize) -> Result<Timed, EngineError> {
        let vocab_size = self.engine.config().vocab_size;
        let prompts: Vec<_> = (0..plan.batch)
            .map(|s| plan.prompt(s, vocab_size))
            .collect();
        let requests: Vec<_> = (0..plan.batch).map(|s| greedy(s, new_tokens)).collect();
        for sequence in 0..plan.batch {
            self.engine.truncate(sequence, 0)?;
        }
        let mut times = Vec::with_capacity(plan.batch * new_tokens);
        let started = Instant::now();
        for (sequence, prompt) in prompts.iter().enumerate() {
            self.engine
                .prefill(sequence, prompt, &mut |_| ControlFlow::Continue(()))?;
        }
        let finished = self.engine.decode(&requests, &mut |_| {
            times.push(Instant::now());
            ControlFlow::Continue(())
        })?;
        // The steps after the first one's tokens made all the others.
        let first_step = times[plan.batch - 1];
        let last_step = times[times.len() - 1];
        let decoded = times.len() - plan.batch;
        Ok(Timed {
            first_token_seconds: (times[0] - started).as_secs_f64(),
            decode_tokens_per_second: decoded as f64 / (last_step - first_step).as_secs_f64(),
            tokens: finished
                .into_iter()
                .map(|finished| finished.tokens)
                .collect(),
        })
    }

    #[expect(clippy::too_many_arguments, reason = "what a report is made of")]
    fn report(
        &self,
        model: &str,
        plan: &DecodePlan,
        samples: &[Sample],
        first_run: FirstRun,
        checked: Checked,
        kernel: Option<String>,
        memory: &Memory,
    ) -> Run {
        let capabilities = self.engine.capabilities();
        let bytes_per_token = plan.bytes_per_token(self.engine.config());
        let summary = |value: &dyn Fn(&Sample) -> f64| {
            checked
                .passed
                .then(|| Summary::new(samples.iter().map(value).collect()))?
        };
        let floor = kernel.map(|read_kernel| {
            let neighbours: Vec<_> = samples.iter().filter_map(|s| s.bandwidth).collect();
            let speeds = samples.iter().map(|s| s.timed.decode_tokens_per_second);
            let fractions = speeds.zip(&neighbours).map(|(speed, bandwidth)| {
                speed * bytes_per_token / (bandwidth.iter().sum::<f64>() / 2.0)
            });
            let fraction = checked.passed.then(|| Summary::new(fractions.collect()));
            let mut read_bandwidth = neighbours.concat();
            // One that stands between two repetitions is beside both.
            read_bandwidth.dedup();
            Floor {
                read_kernel,
                read_bandwidth_bytes_per_second: Summary::new(read_bandwidth)
                    .expect("there is a repetition"),
                neighbours,
                fraction: fraction.flatten(),
            }
        });
        let read_bandwidth = floor
            .as_ref()
            .map(|floor| &floor.read_bandwidth_bytes_per_second);
        let fraction = floor.as_ref().and_then(|floor| floor.fraction.as_ref());
        let vocab_size = self.engine.config().vocab_size;
        Run {
            engine: capabilities.name.to_owned(),
            model: model.to_owned(),
            kernels: capabilities.kernels.to_owned(),
            engine_variant: capabilities.variant.map(str::to_owned),
            threads: capabilities.threads,
            batch: plan.batch,
            prompt_tokens: plan.prompt_tokens,
            new_tokens: plan.new_tokens,
            decode_tokens_per_second: summary(&|sample| sample.timed.decode_tokens_per_second),
            first_token_ms: summary(&|sample| sample.timed.first_token_seconds * 1e3),
            load_seconds: self.load_seconds,
            first_run: checked.passed.then_some(first_run),
            placement: memory.placement.to_owned(),
            promotion: memory.promotion.map(|progress| Promotion {
                bytes: progress.moved,
                seconds: progress.spent.as_secs_f64(),
            }),
            peak_rss_bytes: memory.peak_rss_bytes,
            bytes_per_token,
            read_bandwidth_bytes_per_second: read_bandwidth.map(|read| read.median),
            fraction_of_floor: fraction.map(|fraction| fraction.median),
            floor,
            phases: None,
            checked,
            prompt: (0..plan.batch)
                .map(|s| plan.prompt(s, vocab_size))
                .collect(),
            tokens: samples
                .first()
                .map_or(Vec::new(), |sample| sample.timed.tokens.clone()),
        }
    }
}

/// A greedy request of `max_tokens` that nothing stops before.
fn greedy(sequence: usize, max_tokens: usize) -> DecodeRequest {
    DecodeRequest {
        sequence,
        max_tokens,
        sampling: SamplingParams::default(),
        stop_tokens: Vec::new(),
        guide: None,
    }
}

/// The first run's speed against each other's.
fn comparisons(runs: &[Run]) -> Vec<Comparison> {
    let Some((first, others)) = runs.split_first() else {
        return Vec::new();
    };
    let compare = |other: &Run| {
        let (a, b) = (
            first.decode_tokens_per_second.as_ref()?,
            other.decode_tokens_per_second.as_ref()?,
        );
        Some(Comparison {
            model: first.model.clone(),
            engine: first.engine.clone(),
            against: other.engine.clone(),
            decode: Ratio::of_pairs(&a.samples, &b.samples)?,
        })
    };
    others.iter().filter_map(compare).collect()
}

/// A calibrated team for each number of threads that some subject computes with.
struct Bandwidths {
    teams: Vec<Bandwidth>,
    /// The last measurement, which is also the one before the next run of as many threads.
    last: Option<(usize, f64)>,
}

impl Bandwidths {
    fn new(
        weights: &Arc<Weights>,
        subjects: &[Subject],
        sample_seconds: f64,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, BenchError> {
        let mut teams: Vec<Bandwidth> = Vec::new();
        for threads in subjects.iter().filter_map(Subject::reading_threads) {
            if teams.iter().any(|team| team.threads() == threads) {
                continue;
            }
            progress(Progress::Bandwidth(threads));
            let team =
                ReadTeam::new(threads).map_err(|source| BenchError::Threads { threads, source })?;
            teams.push(Bandwidth::calibrate(
                team,
                Arc::clone(weights) as _,
                sample_seconds,
            )?);
        }
        Ok(Self { teams, last: None })
    }

    fn team(&mut self, threads: usize) -> &mut Bandwidth {
        let team = self.teams.iter_mut().find(|team| team.threads() == threads);
        team.expect("there is a team for each subject")
    }

    fn before(&mut self, threads: usize) -> Result<f64, BandwidthError> {
        match self.last {
            Some((last_threads, bandwidth)) if last_threads == threads => Ok(bandwidth),
            _ => self.measure(threads),
        }
    }

    fn measure(&mut self, threads: usize) -> Result<f64, BandwidthError> {
        let bandwidth = self.team(threads).measure()?;
        self.last = Some((threads, bandwidth));
        Ok(bandwidth)
    }

    fn kernel(&mut self, threads: usize) -> String {
        self.team(threads).kernel().to_string()
    }
}

#[cfg(test)]
mod tests;
