//! Part (c): how fast engines decode behind a past of some length, in turns, each beside its floor;
//! and, with other contenders, what an option is worth.
//!
//! The past is made up ([`RandomPast`]), and the same for the CPU engine, whose greedy tokens and
//! logits an engine must have before it is timed.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::ceilings::interval;
use super::machine::{self, Machine};
use super::results::{self, Line, Recorder, Status};
use super::{Deadline, GpuCheckError, Part, ceilings, correctness};
use crate::engine::cpu::{CpuEngine, CpuOptions, kernels};
use crate::engine::megakernel::{
    Barrier, Device, MegakernelEngine, MegakernelOptions, Stage, Variant,
};
use crate::engine::past::{FillPast, RandomPast};
use crate::engine::{Decoded, Engine, EngineError};
use crate::measure::ladder::{distance, request};
use crate::measure::statistics::{Ratio, Summary};
use crate::model::{ModelConfig, TokenId, Weights, random, shapes};
use crate::sampling::SamplingParams;

/// Rounds of all contenders at a position, at most, and at least for a result.
const ROUNDS: usize = 12;
const LEAST_ROUNDS: usize = 4;

/// Tokens that are compared with the CPU engine's.
const CHECKED_TOKENS: usize = 12;

/// The largest distance of logits from the CPU engine's, relative to the largest logit. Both round
/// new keys and values to bf16, and over 28 layers some fall to different sides of an edge; what a
/// stretch of positions left out changes is far above it.
const LOGITS_TOLERANCE: f32 = 1e-2;

/// Bytes of the next phase's weights that a block fetches while it waits.
const PREFETCH: u32 = 32 << 10;

/// An engine to time.
#[derive(Clone, Debug, PartialEq)]
pub struct Contender {
    /// Its name in tables.
    pub name: String,
    /// Context and sequences are filled in.
    pub options: MegakernelOptions,
}

/// Which contenders, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct Contest {
    /// The first is what the others are compared with.
    pub contenders: Vec<Contender>,
    /// Positions on a GPU.
    pub positions: Vec<usize>,
}

/// V1 against V0, separate launches and a graph.
pub fn stages() -> Contest {
    let contender = |stage: Stage| Contender {
        name: stage.name().into(),
        options: MegakernelOptions {
            stage,
            ..MegakernelOptions::new(1, 1)
        },
    };
    let stages = [Stage::V1, Stage::Graph, Stage::V0, Stage::Launches];
    Contest {
        contenders: stages.map(contender).into(),
        positions: vec![1, 128, 1024, 8192],
    }
}

/// V1 with one thing changed, against V1.
pub fn options() -> Contest {
    let plain = MegakernelOptions::new(1, 1);
    let contender = |name: String, options| Contender { name, options };
    let mut contenders = vec![contender("v1".into(), plain.clone())];
    let barrier = Barrier::Epoch;
    let name = format!("v1, {} barrier", barrier.name());
    let with_barrier = MegakernelOptions {
        barrier,
        ..plain.clone()
    };
    contenders.push(contender(name, with_barrier));
    let prefetch = PREFETCH;
    let name = format!("v1, prefetch of {} KiB", prefetch >> 10);
    let with_prefetch = MegakernelOptions {
        prefetch,
        ..plain.clone()
    };
    contenders.push(contender(name, with_prefetch));
    let others = Variant::ALL
        .into_iter()
        .filter(|variant| *variant != plain.variant);
    contenders.extend(others.map(|variant| {
        let name = format!("v1, {}", variant.name());
        let options = MegakernelOptions {
            variant,
            ..plain.clone()
        };
        contender(name, options)
    }));
    Contest {
        contenders,
        positions: vec![128, 1024],
    }
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    /// The model.
    pub model: String,
    /// Where the bandwidth of the floors comes from.
    pub floor_from: String,
    /// By position.
    pub positions: Vec<AtPosition>,
}

/// All contenders at one position.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AtPosition {
    /// Positions cached before the first step.
    pub position: usize,
    /// Steps that are timed together; they run at `position` and those behind it.
    pub steps: usize,
    /// Bytes that a step reads: the mean over the steps.
    pub bytes_per_step: f64,
    /// The floor of a step's time at the measured bandwidth.
    pub floor_microseconds: Option<f64>,
    /// The floor at the specified bandwidth.
    pub floor_of_specification_microseconds: Option<f64>,
    /// By contender.
    pub runs: Vec<Run>,
    /// The first contender's speed over that of each other one.
    pub ratios: Vec<NamedRatio>,
}

/// One contender at one position.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The contender.
    pub name: String,
    /// See [`Variant`].
    pub variant: String,
    /// See [`Stage`].
    pub stage: String,
    /// See [`Barrier`].
    pub barrier: String,
    /// Bytes fetched ahead by each block.
    pub prefetch: u32,
    /// Blocks of the grid, and their threads.
    pub grid: Option<[u32; 2]>,
    /// How its output compares with the CPU engine's.
    pub checked: Option<Checked>,
    /// Microseconds of a step by the device's events, what the host does in between included;
    /// `None` where the output does not hold, or was not checked.
    pub step_microseconds: Option<Summary>,
    /// Microseconds between two tokens as the host sees them.
    pub token_microseconds: Option<Summary>,
    /// Why it was not measured.
    pub not_measured: Option<String>,
}

/// A check of one contender's output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checked {
    /// Whether tokens and logits are the CPU engine's, and every repetition's tokens the first's.
    pub passed: bool,
    /// Tokens that were compared.
    pub tokens: usize,
    /// Tokens that are equal, from the first on.
    pub tokens_equal: usize,
    /// Whether the first difference lies between two logits that are closer than the engines are.
    pub near_tie: bool,
    /// The largest distance of logits, relative to the largest logit.
    pub logits_distance: f32,
    /// What that must not exceed.
    pub logits_tolerance: f32,
    /// Whether repetitions gave the same tokens; they have no speed otherwise.
    pub repetitions_agree: bool,
}

/// A ratio of speeds, and whose.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NamedRatio {
    /// `a / b`.
    pub of: String,
    /// The ratio.
    #[serde(flatten)]
    pub ratio: Ratio,
}

impl Findings {
    fn lines(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        for at in &self.positions {
            for run in &at.runs {
                let result = match (&run.step_microseconds, &run.not_measured) {
                    (Some(step), _) => {
                        let share = at.floor_microseconds.map(|floor| {
                            format!(", {:.1}% of the floor's speed", 100.0 * floor / step.median)
                        });
                        format!(
                            "{} a step, {:.1} tok/s{}",
                            interval(step, "us"),
                            1e6 / step.median,
                            share.unwrap_or_default()
                        )
                    }
                    (None, Some(why)) => format!("not measured: {why}"),
                    (None, None) => "not measured".into(),
                };
                lines.push(Line {
                    what: format!("{} at {}", run.name, at.position),
                    result,
                });
            }
            lines.extend(at.ratios.iter().map(|named| Line {
                what: format!("{} at {}", named.of, at.position),
                result: format!(
                    "{} ({})",
                    interval(&named.ratio.ratio, "x"),
                    named.ratio.verdict
                ),
            }));
        }
        lines
    }

    fn has_failed(&self) -> bool {
        let mut runs = self.positions.iter().flat_map(|at| &at.runs);
        runs.any(|run| run.checked.as_ref().is_some_and(|checked| !checked.passed))
    }
}

/// The model, the positions, and how much is timed together.
struct Size {
    model: &'static str,
    config: ModelConfig,
    positions: Vec<usize>,
    /// Tokens decoded in one sample: one more than steps.
    new_tokens: usize,
    rounds: usize,
}

impl Size {
    fn new<M: Machine>(contest: &Contest) -> Self {
        let (model, positions, new_tokens, rounds) = match M::IS_GPU {
            true => ("qwen3-0.6b", contest.positions.clone(), 65, ROUNDS),
            false => (shapes::TINY, vec![1, 9], 3, 2),
        };
        Self {
            model,
            config: shapes::config(model).expect("a known shape"),
            positions,
            new_tokens,
            rounds,
        }
    }

    fn context(&self) -> usize {
        let longest = self.positions.iter().max().expect("positions");
        longest + self.new_tokens.max(CHECKED_TOKENS)
    }
}

/// A contender's engine, or why there is none.
type Made<D> = Result<MegakernelEngine<D>, String>;

/// Runs the part.
///
/// # Errors
/// If the CPU engine or the file fails. What fails on the device is in the findings.
pub fn run<M: Machine>(
    machine: &M,
    contest: &Contest,
    deadline: &Deadline,
    recorder: &mut Recorder,
) -> Result<(), GpuCheckError> {
    let size = Size::new::<M>(contest);
    let weights = random::weights(&size.config, 0, &mut |_, _| ())?;
    let measured = bandwidth(recorder);
    let mut findings = Findings {
        model: format!("random:{}", size.model),
        floor_from: match measured {
            Some(_) => "the read bandwidth of ceilings.json beside this file".into(),
            None => "not measured: ceilings.json has no read bandwidth".into(),
        },
        positions: Vec::new(),
    };
    let mut cpu = cpu_engine(&weights, size.context())?;
    let mut engines: Vec<_> = contest
        .contenders
        .iter()
        .map(|contender| make(machine, contender, &weights, &size, recorder))
        .collect();
    drop(weights);
    recorder.note("clocks_before", machine::clocks());
    let mut is_whole = true;
    for (index, &position) in size.positions.iter().enumerate() {
        let share = 1.0 / (size.positions.len() - index) as f64;
        if deadline.has_come() {
            recorder.skip(
                format!("position {position}"),
                "the time limit came before it",
            );
            is_whole = false;
            continue;
        }
        let deadline = deadline.share(share);
        let mut at = AtPosition {
            position,
            steps: size.new_tokens - 1,
            bytes_per_step: mean_bytes(&size, position),
            floor_microseconds: None,
            floor_of_specification_microseconds: None,
            runs: Vec::new(),
            ratios: Vec::new(),
        };
        let floor = |bandwidth: f64| at.bytes_per_step / bandwidth * 1e6;
        at.floor_microseconds = measured.map(floor);
        at.floor_of_specification_microseconds = machine.specified_bandwidth().map(floor);
        measure(&size, contest, &mut cpu, &mut engines, &deadline, &mut at)?;
        is_whole &= at.runs.iter().all(|run| run.step_microseconds.is_some());
        findings.positions.push(at);
        recorder.write(Status::Partial, &findings, findings.lines())?;
    }
    recorder.note("clocks_after", machine::clocks());
    let status = if findings.has_failed() {
        Status::Failed
    } else if findings.positions.is_empty() {
        Status::NotMeasured
    } else if is_whole {
        Status::Done
    } else {
        Status::Partial
    };
    recorder.write(status, &findings, findings.lines())
}

/// The read bandwidth that was measured before, in bytes a second.
fn bandwidth(recorder: &Recorder) -> Option<f64> {
    let file = results::read(recorder.folder(), Part::Ceilings)?;
    let found: ceilings::Findings = serde_json::from_value(file.findings).ok()?;
    found.read_bandwidth_bytes_per_second
}

/// The mean over the steps of the bytes that they read.
fn mean_bytes(size: &Size, position: usize) -> f64 {
    let last = position + size.new_tokens - 2;
    let bytes = |position| size.config.bytes_per_token(position) as f64;
    (bytes(position) + bytes(last)) / 2.0
}

fn cpu_engine(weights: &Weights, context: usize) -> Result<CpuEngine, EngineError> {
    let mut paths = kernels::available().into_iter();
    let exact = paths.find(|path| !path.rounds_panels);
    let options = CpuOptions {
        threads: None::<NonZeroUsize>,
        kernels: exact.map(|path| path.name.to_owned()),
        ..CpuOptions::new(context, 1)
    };
    CpuEngine::new(weights.clone(), &options)
}

fn make<M: Machine>(
    machine: &M,
    contender: &Contender,
    weights: &Weights,
    size: &Size,
    recorder: &Recorder,
) -> Made<M::Device> {
    let failed = results::read(recorder.folder(), Part::Correctness)
        .and_then(|file| serde_json::from_value::<correctness::Findings>(file.findings).ok())
        .and_then(|findings| findings.failure(&contender.options));
    if let Some(why) = failed {
        return Err(format!("part correctness: {why}"));
    }
    let options = MegakernelOptions {
        context: size.context(),
        watchdog: match M::IS_GPU {
            true => contender.options.watchdog,
            false => crate::engine::emulated::WATCHDOG,
        },
        ..contender.options.clone()
    };
    let device = machine.open().map_err(|error| error.to_string())?;
    let engine = MegakernelEngine::new(device, weights, options, &mut |_, _| ());
    engine.map_err(|error| error.to_string())
}

fn go_on(_: Decoded) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Has sequence 0 end before `position`, with the logits of what comes there.
fn begin(engine: &mut dyn Engine, past: &RandomPast) -> Result<(), EngineError> {
    engine.truncate(0, past.tokens().len() - 1)?;
    let last = &past.tokens()[past.tokens().len() - 1..];
    engine.prefill(0, last, &mut |_| ControlFlow::Continue(()))
}

fn greedy(engine: &mut dyn Engine, count: usize) -> Result<Vec<TokenId>, EngineError> {
    let requests = [request(0, count, &SamplingParams::default())];
    let mut finished = engine.decode(&requests, &mut go_on)?;
    Ok(std::mem::take(&mut finished[0].tokens))
}

/// What the CPU engine says behind a past: tokens, and the logits after each token before the last.
struct Expected {
    tokens: Vec<TokenId>,
    logits: Vec<Vec<f32>>,
}

impl Expected {
    fn new(cpu: &mut CpuEngine, past: &RandomPast) -> Result<Self, EngineError> {
        cpu.fill_past(0, past)?;
        begin(cpu, past)?;
        let tokens = greedy(cpu, CHECKED_TOKENS)?;
        let logits = forced(cpu, past, &tokens)?;
        Ok(Self { tokens, logits })
    }

    fn check<D: Device>(
        &self,
        engine: &mut MegakernelEngine<D>,
        past: &RandomPast,
    ) -> Result<Checked, EngineError> {
        engine.fill_past(0, past)?;
        begin(engine, past)?;
        let found = greedy(engine, CHECKED_TOKENS)?;
        let pairs = found.iter().zip(&self.tokens);
        let tokens_equal = pairs.take_while(|(a, b)| a == b).count();
        let logits = forced(engine, past, &self.tokens)?;
        let distances = logits.iter().zip(&self.logits).map(|(a, b)| distance(a, b));
        let logits_distance = distances.fold(0.0, |max, d| if d <= max { max } else { d });
        // One logit may have risen and the other fallen by the largest difference.
        let near_tie = tokens_equal < self.tokens.len() && {
            let [ours, theirs] = [&logits[tokens_equal], &self.logits[tokens_equal]];
            let pairs = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs());
            let difference = pairs.fold(0.0, f32::max);
            let logit = |token: TokenId| theirs[token as usize];
            let gap = logit(self.tokens[tokens_equal]) - logit(found[tokens_equal]);
            gap <= 2.0 * difference
        };
        let tokens_hold = tokens_equal == self.tokens.len() || near_tie;
        Ok(Checked {
            passed: tokens_hold && logits_distance <= LOGITS_TOLERANCE,
            tokens: self.tokens.len(),
            tokens_equal,
            near_tie,
            logits_distance,
            logits_tolerance: LOGITS_TOLERANCE,
            repetitions_agree: true,
        })
    }
}

/// Logits from which each of `tokens` is chosen, when those before it are given.
fn forced(
    engine: &mut dyn Engine,
    past: &RandomPast,
    tokens: &[TokenId],
) -> Result<Vec<Vec<f32>>, EngineError> {
    let before = past.tokens().len() - 1;
    engine.truncate(0, before)?;
    let mut given = vec![past.tokens()[before]];
    given.extend(&tokens[..tokens.len() - 1]);
    let mut rows = Vec::new();
    // A step each, as in decoding.
    for token in given {
        engine.logits(0, &[token], &mut |_, row| rows.push(row.to_vec()))?;
    }
    Ok(rows)
}

/// One sample.
struct Timed {
    tokens: Vec<TokenId>,
    step_microseconds: f64,
    token_microseconds: f64,
}

fn time<D: Device>(
    engine: &mut MegakernelEngine<D>,
    past: &RandomPast,
    new_tokens: usize,
) -> Result<Timed, EngineError> {
    begin(engine, past)?;
    let requests = [request(0, new_tokens, &SamplingParams::default())];
    let (mut first, mut last) = (None, None);
    let start = engine.device_mut().mark()?;
    let mut finished = engine.decode(&requests, &mut |_| {
        last = Some(Instant::now());
        first = first.or(last);
        ControlFlow::Continue(())
    })?;
    let end = engine.device_mut().mark()?;
    let seconds = engine.device_mut().seconds_between(&start, &end)?;
    let between = first.zip(last).map(|(first, last)| last - first);
    let steps = (new_tokens - 1) as f64;
    Ok(Timed {
        tokens: std::mem::take(&mut finished[0].tokens),
        step_microseconds: seconds * 1e6 / steps,
        token_microseconds: between.unwrap_or_default().as_secs_f64() * 1e6 / steps,
    })
}

/// A contender's samples at one position, and what ended them.
#[derive(Default)]
struct Samples {
    steps: Vec<f64>,
    tokens: Vec<f64>,
    first: Option<Vec<TokenId>>,
    checked: Option<Checked>,
    why_not: Option<String>,
}

fn measure<D: Device>(
    size: &Size,
    contest: &Contest,
    cpu: &mut CpuEngine,
    engines: &mut [Made<D>],
    deadline: &Deadline,
    at: &mut AtPosition,
) -> Result<(), EngineError> {
    let past = RandomPast::new(&size.config, at.position);
    let expected = Expected::new(cpu, &past)?;
    let mut all: Vec<Samples> = engines.iter().map(|_| Samples::default()).collect();
    for (engine, samples) in engines.iter_mut().zip(&mut all) {
        match engine {
            Err(why) => samples.why_not = Some(why.clone()),
            // The second is a warm-up, and has the tokens that all others must have.
            Ok(engine) => match expected.check(engine, &past).and_then(|checked| {
                let warm_up = time(engine, &past, size.new_tokens)?;
                Ok((checked, warm_up.tokens))
            }) {
                Err(error) => samples.why_not = Some(error.to_string()),
                Ok((checked, tokens)) => {
                    if !checked.passed {
                        samples.why_not = Some("its output is not the CPU engine's".into());
                    }
                    samples.checked = Some(checked);
                    samples.first = Some(tokens);
                }
            },
        }
    }
    let count = engines.len();
    for round in 0..size.rounds {
        if deadline.has_come() && round >= LEAST_ROUNDS {
            break;
        }
        for turn in 0..count {
            let index = if round % 2 == 0 {
                turn
            } else {
                count - 1 - turn
            };
            let samples = &mut all[index];
            let (Ok(engine), None) = (&mut engines[index], &samples.why_not) else {
                continue;
            };
            match time(engine, &past, size.new_tokens) {
                Err(error) => samples.why_not = Some(error.to_string()),
                Ok(timed) => {
                    if samples.first.as_ref() != Some(&timed.tokens) {
                        samples.why_not = Some("its repetitions differ".into());
                        if let Some(checked) = &mut samples.checked {
                            checked.repetitions_agree = false;
                            checked.passed = false;
                        }
                    }
                    samples.steps.push(timed.step_microseconds);
                    samples.tokens.push(timed.token_microseconds);
                }
            }
        }
    }
    let holds = |samples: &Samples| samples.why_not.is_none();
    at.runs = (contest.contenders.iter().zip(engines).zip(&all))
        .map(|((contender, engine), samples)| {
            let options = &contender.options;
            let pass = engine.as_ref().ok().and_then(|engine| engine.pass().ok());
            let summary = |of: &[f64]| match holds(samples) {
                true => Summary::new(of.to_vec()),
                false => None,
            };
            Run {
                name: contender.name.clone(),
                variant: options.variant.name().into(),
                stage: options.stage.name().into(),
                barrier: options.barrier.name().into(),
                prefetch: options.prefetch,
                grid: pass.map(|pass| [pass.blocks, pass.threads]),
                checked: samples.checked.clone(),
                step_microseconds: summary(&samples.steps),
                token_microseconds: summary(&samples.tokens),
                not_measured: samples.why_not.clone(),
            }
        })
        .collect();
    let Some((first, others)) = all.split_first() else {
        return Ok(());
    };
    let names = contest.contenders.iter().map(|contender| &contender.name);
    for (name, other) in names.skip(1).zip(others) {
        if !(holds(first) && holds(other)) {
            continue;
        }
        // Speeds: the inverse of times.
        let [a, b] = [first, other].map(|s| s.steps.iter().map(|t| 1.0 / t).collect::<Vec<_>>());
        let ratio = Ratio::of_pairs(&a, &b);
        at.ratios.extend(ratio.map(|ratio| NamedRatio {
            of: format!("{} over {name}", contest.contenders[0].name),
            ratio,
        }));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contenders_differ_from_the_first_in_one_thing() {
        let contest = options();
        let plain = &contest.contenders[0].options;
        for other in &contest.contenders[1..] {
            let one = &other.options;
            let differences = [
                one.variant != plain.variant,
                one.barrier != plain.barrier,
                one.prefetch != plain.prefetch,
                one.stage != plain.stage,
            ];
            let count = differences.iter().filter(|differs| **differs).count();
            assert_eq!(count, 1, "{}", other.name);
        }
        assert_eq!(stages().contenders.len(), Stage::ALL.len());
    }

    #[test]
    fn the_bytes_of_a_step_are_those_of_its_position() {
        let size = Size {
            model: "qwen3-0.6b",
            config: shapes::config("qwen3-0.6b").unwrap(),
            positions: vec![128],
            new_tokens: 65,
            rounds: 1,
        };
        let middle = 128.0 + 31.5;
        assert_eq!(mean_bytes(&size, 128), 1_191_968_768.0 + middle * 114_688.0);
    }
}
