//! Part (a): the [`ladder`] on a device, for everything that can be chosen of the kernel.
//!
//! - [`setups`]: which engines, and what they decode
//! - here: what they must come to, and what they came to

pub mod setups;

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::machine::Machine;
use super::results::{Line, Recorder, Status};
use super::{Deadline, GpuCheckError};
use crate::constraint::Tables;
use crate::engine::decode_loop::STEP_COLUMNS;
use crate::engine::guide::Guided;
use crate::engine::megakernel::{Device, MegakernelEngine, MegakernelOptions};
use crate::engine::{Engine, EngineError, Finished};
use crate::measure::ladder;
use crate::model::{ModelConfig, TokenId, Weights};
use setups::{Decoding, Setup};

/// Positions of the texts whose logits are compared.
const LOGITS: usize = 27;
/// Tokens of a prompt, and tokens decoded after it: without a guide, and with one, where some texts are
/// whole by then and others end with the context.
const PROMPT: usize = 8;
const NEW_TOKENS: usize = 7;
const GUIDED_PROMPT: usize = 3;
const GUIDED_NEW_TOKENS: usize = 44;

/// How one engine did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// The model's architecture, and its width of heads.
    pub model: String,
    /// Names of what was chosen.
    pub variant: String,
    /// See [`Stage`](crate::engine::megakernel::Stage).
    pub stage: String,
    /// See [`Barrier`](crate::engine::megakernel::Barrier).
    pub barrier: String,
    /// Columns of a piece of prefill.
    pub columns: usize,
    /// Blocks and threads, where they were not the default.
    pub grid: Option<[u32; 2]>,
    /// What was checked.
    pub checks: Vec<Check>,
}

/// One thing that must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What.
    pub what: String,
    /// Whether it does.
    pub passed: bool,
    /// For logits: the largest distance from the reference's, relative to the largest logit.
    pub distance: Option<f32>,
    /// Where something was guided: the steps of all sequences together.
    pub guided: Option<GuidedSteps>,
    /// What was found instead.
    pub found: Option<String>,
}

/// How tokens were chosen under guides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuidedSteps {
    /// Tokens that a guide left no choice for.
    pub forced: usize,
    /// Tokens chosen among a few, for which only those rows of the head were computed.
    pub gathered: usize,
    /// Tokens chosen with the whole head.
    pub full: usize,
}

impl GuidedSteps {
    /// Of all that followed a guide; `None` if nothing did.
    fn sum(all: &[Finished]) -> Option<Self> {
        let guided = all.iter().filter_map(|finished| finished.guided);
        let add = |sum: Option<Self>, guided: Guided| {
            let Self {
                forced,
                gathered,
                full,
            } = sum.unwrap_or_default();
            Some(Self {
                forced: forced + guided.forced_tokens,
                gathered: gathered + guided.gathered_steps,
                full: full + guided.full_steps,
            })
        };
        guided.fold(None, add)
    }
}

impl Case {
    fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.passed)
    }
}

/// All cases.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    /// In the order in which they ran.
    pub cases: Vec<Case>,
    /// Cases that there are in all.
    pub all: usize,
}

impl Findings {
    /// Why an engine with these options may not be timed: what failed.
    pub fn failure(&self, options: &MegakernelOptions) -> Option<String> {
        let same = |case: &&Case| {
            case.variant == options.variant.name()
                && case.stage == options.stage.name()
                && case.barrier == options.barrier.name()
        };
        let failed = self.cases.iter().filter(same).find(|case| !case.passed())?;
        let check = failed.checks.iter().find(|check| !check.passed)?;
        Some(format!(
            "{} of {} failed its check",
            check.what, failed.model
        ))
    }

    fn lines(&self) -> Vec<Line> {
        let checks = |passed: bool| {
            let checks = self.cases.iter().flat_map(|case| &case.checks);
            checks.filter(|check| check.passed == passed).count()
        };
        let distances = self.cases.iter().flat_map(|case| &case.checks);
        let distances = distances.filter_map(|check| check.distance);
        let mut lines = vec![
            Line {
                what: "engines checked".into(),
                result: format!("{} of {}", self.cases.len(), self.all),
            },
            Line {
                what: "checks that hold".into(),
                result: format!("{} of {}", checks(true), checks(true) + checks(false)),
            },
            Line {
                what: "largest distance of logits".into(),
                result: format!("{:.1e}", distances.fold(0.0, f32::max)),
            },
        ];
        let failed = self.cases.iter().filter(|case| !case.passed());
        lines.extend(failed.take(5).map(|case| {
            let check = case.checks.iter().find(|check| !check.passed);
            let check = check.expect("one that failed");
            Line {
                what: format!("FAILED: {} {} {}", case.variant, case.stage, case.barrier),
                result: format!(
                    "{} {}: {}",
                    case.model,
                    check.what,
                    check.found.as_deref().unwrap_or("differs")
                ),
            }
        }));
        lines
    }
}

/// What an engine came to: what became of each sequence, and how many of its positions are cached.
#[derive(Clone, Debug, PartialEq)]
struct Decoded {
    finished: Vec<Finished>,
    cached: Vec<usize>,
}

/// What the engines on the host say of one shape.
struct Expected {
    config: ModelConfig,
    weights: Weights,
    /// For how many the logits are checked.
    positions: usize,
    tokens: HashMap<Decoding, Decoded>,
    /// Those of [`ladder::guides`].
    guides: Vec<Arc<Tables>>,
}

impl Expected {
    fn new(
        config: ModelConfig,
        positions: usize,
        guides: &[Arc<Tables>],
    ) -> Result<Self, GpuCheckError> {
        Ok(Self {
            guides: guides.to_vec(),
            weights: ladder::weights(&config)?,
            config,
            positions,
            tokens: HashMap::new(),
        })
    }

    /// What `engine` decodes.
    fn decode(&self, engine: &mut dyn Engine, decoding: &Decoding) -> Result<Decoded, EngineError> {
        let (first, more, max_tokens) = match decoding.is_guided() {
            true => (GUIDED_PROMPT, 2, GUIDED_NEW_TOKENS),
            false => (PROMPT, 3, NEW_TOKENS),
        };
        let tokens = |i: usize| -> Vec<TokenId> {
            ladder::tokens(&self.config, first + more * i)[i..].into()
        };
        let count = decoding.guides.len();
        let prompts: Vec<_> = (0..count).map(tokens).collect();
        let guide = |index: &Option<usize>| index.map(|index| self.guides[index].clone());
        let guides: Vec<_> = decoding.guides.iter().map(guide).collect();
        let sampling = &ladder::samplings()[decoding.sampling];
        let finished = ladder::decode_guided(engine, &prompts, &guides, max_tokens, sampling)?;
        Ok(Decoded {
            finished,
            cached: (0..count)
                .map(|sequence| engine.cached(sequence).len())
                .collect(),
        })
    }

    /// What the CPU engine decodes.
    fn decoded(&mut self, decoding: &Decoding) -> Result<&Decoded, EngineError> {
        if !self.tokens.contains_key(decoding) {
            let mut cpu = ladder::cpu(self.weights.clone(), decoding.guides.len())?;
            let decoded = self.decode(&mut cpu, decoding)?;
            self.tokens.insert(decoding.clone(), decoded);
        }
        Ok(&self.tokens[decoding])
    }
}

/// Runs the part.
///
/// # Errors
/// If a host's engine fails, or the file can't be written. What fails on the device is a finding.
pub fn run<M: Machine>(
    machine: &M,
    deadline: &Deadline,
    recorder: &mut Recorder,
) -> Result<(), GpuCheckError> {
    let (setups, positions) = match M::IS_GPU {
        true => (setups::all(), LOGITS),
        false => (setups::few(), 5),
    };
    let shapes = ladder::shapes_and_wide_heads().into_iter();
    let guides = ladder::guides();
    let expected = shapes.map(|config| Expected::new(config, positions, &guides));
    let mut expected: Vec<Expected> = expected.collect::<Result<_, _>>()?;
    // Kept open, so that the driver's context outlives each engine's use of it.
    let _open = machine.open()?;
    let mut findings = Findings {
        cases: Vec::new(),
        all: setups.len(),
    };
    let mut lost = None;
    for setup in &setups {
        let case = match (&lost, deadline.has_come()) {
            (None, false) => check(machine, setup, &mut expected[setup.shape]),
            (Some(why), _) => {
                recorder.skip(
                    name(setup, &expected),
                    format!("the device failed before it: {why}"),
                );
                continue;
            }
            (None, true) => {
                recorder.skip(name(setup, &expected), "the time limit came before it");
                continue;
            }
        };
        let (case, failure) = case?;
        findings.cases.push(case);
        // A card that had an illegal access answers nothing else in this process.
        lost = failure;
        recorder.write(Status::Partial, &findings, findings.lines())?;
    }
    let status = if !findings.cases.iter().all(Case::passed) {
        Status::Failed
    } else if findings.cases.is_empty() {
        Status::NotMeasured
    } else if findings.cases.len() < findings.all {
        Status::Partial
    } else {
        Status::Done
    };
    recorder.write(status, &findings, findings.lines())
}

fn name(setup: &Setup, expected: &[Expected]) -> String {
    let options = &setup.options;
    format!(
        "{}, {} {} {}, {} columns, {} sequences",
        model(&expected[setup.shape].config),
        options.variant.name(),
        options.stage.name(),
        options.barrier.name(),
        options.columns,
        options.sequences,
    )
}

/// What a shape is called.
fn model(config: &ModelConfig) -> String {
    let (architecture, head_dim) = (config.architecture, config.head_dim);
    format!("{architecture:?}, heads of {head_dim}")
}

/// Checks one engine. The second result says what the device did to make the rest pointless.
fn check<M: Machine>(
    machine: &M,
    setup: &Setup,
    expected: &mut Expected,
) -> Result<(Case, Option<String>), GpuCheckError> {
    let options = &setup.options;
    let mut case = Case {
        model: model(&expected.config),
        variant: options.variant.name().into(),
        stage: options.stage.name().into(),
        barrier: options.barrier.name().into(),
        columns: options.columns,
        grid: options.blocks.zip(options.threads).map(|(b, t)| [b, t]),
        checks: Vec::new(),
    };
    let made = machine
        .open()
        .map_err(EngineError::from)
        .and_then(|device| {
            let options = options.clone();
            MegakernelEngine::new(device, &expected.weights, options, &mut |_, _| ())
        });
    let outcome = made.and_then(|mut engine| {
        engine.poison_uncached()?;
        if setup.logits {
            check_logits(&mut engine, expected, &mut case.checks)?;
        }
        for decoding in &setup.decodings {
            let columns = options.columns;
            check_tokens(&mut engine, expected, decoding, columns, &mut case.checks)?;
        }
        Ok(())
    });
    let Err(error) = outcome else {
        return Ok((case, None));
    };
    case.checks.push(Check {
        what: "running at all".into(),
        found: Some(error.to_string()),
        ..Check::default()
    });
    // Does the device still answer?
    let answers = machine.open().and_then(|mut device| {
        device.allocate(1, 1, 16)?;
        device.wait()
    });
    Ok((case, answers.err().map(|error| error.to_string())))
}

fn check_logits<D: Device>(
    engine: &mut MegakernelEngine<D>,
    expected: &Expected,
    checks: &mut Vec<Check>,
) -> Result<(), EngineError> {
    let tokens = ladder::tokens(&expected.config, expected.positions);
    let (found, distance) = ladder::logits_and_distance(engine, &expected.weights, &tokens)?;
    let is_close = distance < ladder::TOLERANCE;
    checks.push(Check {
        what: "logits equal the reference's".into(),
        passed: is_close,
        distance: Some(distance),
        found: (!is_close).then(|| format!("a distance of {distance:.1e}")),
        ..Check::default()
    });
    engine.truncate(0, 0)?;
    engine.poison_uncached()?;
    let is_same = ladder::all_logits(engine, &tokens)? == found;
    checks.push(Check {
        what: "logits are the same bits again".into(),
        passed: is_same,
        ..Check::default()
    });
    Ok(())
}

fn check_tokens<D: Device>(
    engine: &mut MegakernelEngine<D>,
    expected: &mut Expected,
    decoding: &Decoding,
    columns: usize,
    checks: &mut Vec<Check>,
) -> Result<(), EngineError> {
    let wanted = expected.decoded(decoding)?.clone();
    // A run of forced tokens goes through the layers in pieces of as many columns as a pass takes, and its
    // last piece is not cached: how much that is depends on the pieces.
    let same_pieces = columns == STEP_COLUMNS || !decoding.is_guided();
    for again in ["", " again"] {
        let found = expected.decode(engine, decoding)?;
        let passed =
            found.finished == wanted.finished && (found.cached == wanted.cached || !same_pieces);
        checks.push(Check {
            what: format!("{}{again}", decoding.name()),
            passed,
            guided: GuidedSteps::sum(&found.finished),
            found: (!passed).then(|| format!("{found:?} instead of {wanted:?}")),
            ..Check::default()
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::megakernel::Stage;

    #[test]
    fn what_failed_is_not_to_be_timed() {
        let options = ladder::options(1);
        let check = |passed| Check {
            what: "logits".into(),
            passed,
            ..Check::default()
        };
        let mut findings = Findings {
            cases: vec![Case {
                model: "a model".into(),
                variant: options.variant.name().into(),
                stage: options.stage.name().into(),
                barrier: options.barrier.name().into(),
                columns: 8,
                grid: None,
                checks: vec![check(true), check(false)],
            }],
            all: 1,
        };
        assert!(findings.failure(&options).unwrap().contains("a model"));
        let other = MegakernelOptions {
            stage: Stage::V0,
            ..options.clone()
        };
        assert_eq!(findings.failure(&other), None);
        findings.cases[0].checks.pop();
        assert_eq!(findings.failure(&options), None);
    }
}
