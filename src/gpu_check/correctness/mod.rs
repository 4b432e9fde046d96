//! Part (a): the [`ladder`] on a device, for everything that can be chosen of the kernel.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::machine::Machine;
use super::results::{Line, Recorder, Status};
use super::{Deadline, GpuCheckError};
use crate::engine::megakernel::{
    Barrier, Device, MAX_COLUMNS, MegakernelEngine, MegakernelOptions, Stage, Variant,
};
use crate::engine::{Engine, EngineError, Finished};
use crate::measure::ladder;
use crate::model::{ModelConfig, TokenId, Weights};

/// Positions of the texts whose logits are compared.
const LOGITS: usize = 27;
/// Tokens of a prompt, and tokens decoded after it.
const PROMPT: usize = 8;
const NEW_TOKENS: usize = 7;

/// One engine, and what is checked of it.
#[derive(Clone, Debug, PartialEq)]
struct Setup {
    shape: usize,
    options: MegakernelOptions,
    logits: bool,
    /// Indices of [`ladder::samplings`].
    samplings: Vec<usize>,
    /// Numbers of sequences that decode together.
    batches: Vec<usize>,
}

/// How one engine did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// The model's architecture, and its width of heads.
    pub model: String,
    /// Names of what was chosen.
    pub variant: String,
    /// See [`Stage`].
    pub stage: String,
    /// See [`Barrier`].
    pub barrier: String,
    /// Columns of a piece of prefill.
    pub columns: usize,
    /// Blocks and threads, where they were not the default.
    pub grid: Option<[u32; 2]>,
    /// What was checked.
    pub checks: Vec<Check>,
}

/// One thing that must hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What.
    pub what: String,
    /// Whether it does.
    pub passed: bool,
    /// For logits: the largest distance from the reference's, relative to the largest logit.
    pub distance: Option<f32>,
    /// What was found instead.
    pub found: Option<String>,
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

/// Everything, on a GPU.
fn all_setups() -> Vec<Setup> {
    let mut setups = Vec::new();
    let shapes = 0..ladder::shapes().len();
    let samplings: Vec<usize> = (0..ladder::samplings().len()).collect();
    let setup = |shape: usize, options: MegakernelOptions| Setup {
        shape,
        options,
        logits: false,
        samplings: Vec::new(),
        batches: Vec::new(),
    };
    for variant in Variant::ALL {
        for barrier in Barrier::ALL {
            for stage in [Stage::V1, Stage::V0] {
                setups.extend(shapes.clone().map(|shape| Setup {
                    logits: true,
                    samplings: samplings.clone(),
                    ..setup(
                        shape,
                        MegakernelOptions {
                            variant,
                            barrier,
                            stage,
                            ..ladder::options(1)
                        },
                    )
                }));
            }
        }
    }
    for stage in [Stage::Launches, Stage::Graph] {
        setups.extend(shapes.clone().map(|shape| Setup {
            samplings: samplings.clone(),
            ..setup(
                shape,
                MegakernelOptions {
                    stage,
                    ..ladder::options(1)
                },
            )
        }));
    }
    for stage in Stage::ALL {
        setups.extend(shapes.clone().map(|shape| Setup {
            batches: vec![1, 2, 3, 4, 5, 8],
            ..setup(
                shape,
                MegakernelOptions {
                    stage,
                    ..ladder::options(MAX_COLUMNS)
                },
            )
        }));
    }
    for columns in [1, 2, 3, 4, 7] {
        setups.extend(shapes.clone().map(|shape| Setup {
            logits: true,
            ..setup(
                shape,
                MegakernelOptions {
                    columns,
                    ..ladder::options(1)
                },
            )
        }));
    }
    for (blocks, threads) in [(1, 32), (1, 256), (2, 96), (5, 64), (13, 32)] {
        setups.extend(Barrier::ALL.map(|barrier| Setup {
            logits: true,
            samplings: vec![0, 5],
            ..setup(
                0,
                MegakernelOptions {
                    barrier,
                    blocks: Some(blocks),
                    threads: Some(threads),
                    ..ladder::options(1)
                },
            )
        }));
    }
    setups
}

/// A few, on the emulator: `tests/emulated.rs` has the rest.
fn few_setups() -> Vec<Setup> {
    let pairs = Variant::ALL.into_iter().zip(Stage::ALL);
    let barriers = Barrier::ALL.into_iter().cycle();
    let setup =
        |(index, ((variant, stage), barrier)): (usize, ((Variant, Stage), Barrier))| Setup {
            shape: index % ladder::shapes().len(),
            options: MegakernelOptions {
                variant,
                stage,
                barrier,
                columns: 2,
                ..ladder::options(1)
            },
            logits: true,
            samplings: vec![index],
            batches: vec![1],
        };
    pairs.zip(barriers).enumerate().map(setup).collect()
}

/// What the engines on the host say of one shape.
struct Expected {
    config: ModelConfig,
    weights: Weights,
    /// For how many the logits are checked.
    positions: usize,
    /// By sampling and number of sequences.
    tokens: HashMap<(usize, usize), Vec<Finished>>,
}

impl Expected {
    fn new(config: ModelConfig, positions: usize) -> Result<Self, GpuCheckError> {
        Ok(Self {
            weights: ladder::weights(&config)?,
            config,
            positions,
            tokens: HashMap::new(),
        })
    }

    fn prompts(&self, count: usize) -> Vec<Vec<TokenId>> {
        let prompt = |i: usize| ladder::tokens(&self.config, PROMPT + 3 * i)[i..].to_vec();
        (0..count).map(prompt).collect()
    }

    fn tokens(&mut self, sampling: usize, count: usize) -> Result<&Vec<Finished>, EngineError> {
        let prompts = self.prompts(count);
        if !self.tokens.contains_key(&(sampling, count)) {
            let mut cpu = ladder::cpu(self.weights.clone(), count)?;
            let params = &ladder::samplings()[sampling];
            let tokens = ladder::decode(&mut cpu, &prompts, NEW_TOKENS, params)?;
            self.tokens.insert((sampling, count), tokens);
        }
        Ok(&self.tokens[&(sampling, count)])
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
        true => (all_setups(), LOGITS),
        false => (few_setups(), 5),
    };
    let expected = ladder::shapes().map(|config| Expected::new(config, positions));
    let mut expected: Vec<Expected> = expected.into_iter().collect::<Result<_, _>>()?;
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
                recorder.skip(name(setup), format!("the device failed before it: {why}"));
                continue;
            }
            (None, true) => {
                recorder.skip(name(setup), "the time limit came before it");
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

fn name(setup: &Setup) -> String {
    let options = &setup.options;
    format!(
        "{:?} {} {} {}, {} columns, {} sequences",
        ladder::shapes()[setup.shape].architecture,
        options.variant.name(),
        options.stage.name(),
        options.barrier.name(),
        options.columns,
        options.sequences,
    )
}

/// Checks one engine. The second result says what the device did to make the rest pointless.
fn check<M: Machine>(
    machine: &M,
    setup: &Setup,
    expected: &mut Expected,
) -> Result<(Case, Option<String>), GpuCheckError> {
    let options = &setup.options;
    let config = &expected.config;
    let mut case = Case {
        model: format!("{:?}, heads of {}", config.architecture, config.head_dim),
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
        for &sampling in &setup.samplings {
            check_tokens(&mut engine, expected, (sampling, 1), &mut case.checks)?;
        }
        for &count in &setup.batches {
            check_tokens(&mut engine, expected, (2, count), &mut case.checks)?;
        }
        Ok(())
    });
    let Err(error) = outcome else {
        return Ok((case, None));
    };
    case.checks.push(Check {
        what: "running at all".into(),
        passed: false,
        distance: None,
        found: Some(error.to_string()),
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
    });
    engine.truncate(0, 0)?;
    engine.poison_uncached()?;
    let is_same = ladder::all_logits(engine, &tokens)? == found;
    checks.push(Check {
        what: "logits are the same bits again".into(),
        passed: is_same,
        distance: None,
        found: None,
    });
    Ok(())
}

fn check_tokens<D: Device>(
    engine: &mut MegakernelEngine<D>,
    expected: &mut Expected,
    (sampling, count): (usize, usize),
    checks: &mut Vec<Check>,
) -> Result<(), EngineError> {
    let prompts = expected.prompts(count);
    let params = &ladder::samplings()[sampling];
    let wanted = expected.tokens(sampling, count)?;
    for again in ["", " again"] {
        let found = ladder::decode(engine, &prompts, NEW_TOKENS, params)?;
        let passed = found == *wanted;
        checks.push(Check {
            what: format!("tokens of {count} sequences, sampling {sampling}{again}"),
            passed,
            distance: None,
            found: (!passed).then(|| {
                let tokens = |all: &[Finished]| {
                    let tokens: Vec<_> = all.iter().map(|one| one.tokens.clone()).collect();
                    format!("{tokens:?}")
                };
                format!("{} instead of {}", tokens(&found), tokens(wanted))
            }),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_can_be_chosen_is_checked() {
        let setups = all_setups();
        for variant in Variant::ALL {
            for barrier in Barrier::ALL {
                for stage in [Stage::V0, Stage::V1] {
                    for shape in 0..ladder::shapes().len() {
                        assert!(setups.iter().any(|setup| setup.logits
                            && setup.shape == shape
                            && setup.options.variant == variant
                            && setup.options.barrier == barrier
                            && setup.options.stage == stage));
                    }
                }
            }
        }
    }

    #[test]
    fn what_failed_is_not_to_be_timed() {
        let options = ladder::options(1);
        let check = |passed| Check {
            what: "logits".into(),
            passed,
            distance: None,
            found: None,
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
