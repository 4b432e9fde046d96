//! One decode step at positions up to the model's limit: one persistent kernel, or team, beside a launch,
//! or a dispatch, for each operation.
//!
//! - here: the plan, and its cells: a position, or a prompt that is really run
//! - [`sections`]: what the results say
//!
//! The cache is filled with made-up keys and values. For three positions a prompt of random tokens is
//! run as well, and the same engine is timed behind both in turns: whether that makes a difference.

pub mod sections;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::behind_past::{Agreement, Behind, Past, agree};
use super::models::{Model, ModelPlan, Models};
use super::plan;
use super::result::{Missing, list_missing};
use super::{Cell, Experiment, ExperimentError, Kind, Setting, Watch};
use crate::engine::choice::EngineChoice;
use crate::engine::past::RandomPast;
use crate::measure::bandwidth::Bandwidth;
use crate::measure::bandwidth::team::ReadTeam;
use crate::measure::decode::check::Checked;
use crate::measure::statistics::{Ratio, Summary, below, hash};
use crate::model::{ModelConfig, TokenId};

/// The experiment.
pub const KIND: Kind = Kind {
    name: "positions",
    question: "How does the time of a step grow with the context, and what does being persistent save?",
    plan: include_str!("../../../experiments/positions/plan.toml"),
    has_traces: true,
    open,
    sections: sections::sections,
};

/// Positions of the past behind which each subject is held against the reference engine.
const CHECKED_PAST: usize = 4;

/// What varies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// What decodes.
    pub model: ModelPlan,
    /// Positions in the cache before the first step.
    pub positions: Vec<usize>,
    /// Positions at which a prompt is run as well.
    #[serde(default)]
    pub real: Vec<usize>,
    /// Turns of each engine.
    pub rounds: usize,
    /// Steps of a turn.
    pub steps: usize,
    /// Seconds each engine decodes before the clock counts.
    pub warm_up_seconds: f64,
    /// Seconds the reference engine may take for each engine, once.
    pub check_seconds: f64,
    /// Seconds of a measurement of the read bandwidth, one each round; CPU engines alone.
    pub bandwidth_seconds: f64,
    /// The engines; the first one's speed is put over that of each other.
    pub subjects: Vec<SubjectPlan>,
}

/// An engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubjectPlan {
    /// Its name in tables.
    pub name: String,
    /// The engine; where no device is named, that of the command line, with its options.
    #[serde(default)]
    pub engine: Option<EngineChoice>,
}

/// What a cell found. The names of the JSON fields are a contract.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// The model.
    pub model: String,
    /// Positions in the cache before the first step.
    pub position: usize,
    /// Steps of a turn.
    pub steps: usize,
    /// Seconds to load the model, the first time.
    pub load_seconds: f64,
    /// Bytes that a step reads: the mean over the steps.
    pub bytes_per_step: f64,
    /// Read bandwidth of the host's memory, a measurement a round, in bytes a second; `None` where the
    /// engines don't read it.
    pub bandwidth: Option<Summary>,
    /// What a step takes at least, at that bandwidth.
    pub floor_ms: Option<f64>,
    /// By engine, or by past where a prompt was run as well.
    pub subjects: Vec<Subject>,
    /// Engines that are not here.
    pub missing: Vec<Missing>,
}

/// One engine behind one past.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    /// Its name: the plan's, or `prompt` and `made up`.
    pub name: String,
    /// The engine and its kernels.
    pub engine: String,
    /// Threads that compute.
    pub threads: usize,
    /// Seconds to set the engine up, weights on their device included.
    pub start_seconds: f64,
    /// Seconds to fill the cache, or to run the prompt.
    pub past_seconds: f64,
    /// Milliseconds from the last token of the past to the first new one.
    pub first_token_ms: Summary,
    /// Milliseconds of a step.
    pub step_ms: Summary,
    /// Tokens per second.
    pub tokens_per_second: Summary,
    /// How it compares with the reference engine, on a short prompt.
    pub checked: Checked,
    /// How its output compares with the first subject's; `None` for that one, and behind another past.
    pub agreement: Option<Agreement>,
    /// The first subject's speed over this one's, turn by turn; `None` for that one.
    pub speed_of_first: Option<Ratio>,
}

/// A cell's part of the plan.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    /// All engines behind a made-up past.
    MadeUp(usize),
    /// The first engine behind a prompt and behind a made-up past.
    Real(usize),
}

impl Place {
    fn position(self) -> usize {
        match self {
            Place::MadeUp(position) | Place::Real(position) => position,
        }
    }

    fn id(self) -> String {
        match self {
            Place::MadeUp(position) => format!("position-{position}"),
            Place::Real(position) => format!("prompt/position-{position}"),
        }
    }
}

struct Positions {
    plan: Plan,
    setting: Setting,
    models: Models,
    load_seconds: Option<f64>,
    /// The engines that were held against the reference engine.
    checked: Vec<(EngineChoice, Checked)>,
}

/// The plan's engines.
struct Choices {
    /// Those that this machine has, by name.
    here: Vec<(String, EngineChoice)>,
    missing: Vec<Missing>,
}

/// An engine under way.
struct Running {
    name: String,
    choice: EngineChoice,
    behind: Behind,
    start_seconds: f64,
    past_seconds: f64,
    first: Vec<f64>,
    steps: Vec<f64>,
}

fn open(text: &str, setting: &Setting) -> Result<Box<dyn Experiment>, ExperimentError> {
    let plan: Plan = plan::parse(text)?;
    plan::demand(&plan.positions, "positions")?;
    plan::demand(&plan.subjects, "subjects")?;
    plan::refuse_twice(plan.subjects.iter().map(|one| &one.name), "subjects")?;
    let positions = plan.positions.iter().chain(&plan.real);
    if plan.rounds == 0 || plan.steps == 0 || positions.clone().any(|&position| position == 0) {
        return Err(ExperimentError::Plan {
            reason: "`rounds`, `steps`, `positions` and `real` must be 1 or more".into(),
        });
    }
    Ok(Box::new(Positions {
        plan,
        setting: setting.clone(),
        models: Models::default(),
        load_seconds: None,
        checked: Vec::new(),
    }))
}

impl Plan {
    fn places(&self) -> impl Iterator<Item = Place> {
        let made_up = self
            .positions
            .iter()
            .map(|&position| Place::MadeUp(position));
        made_up.chain(self.real.iter().map(|&position| Place::Real(position)))
    }
}

/// Random tokens, always the same.
fn prompt(config: &ModelConfig, length: usize) -> Vec<TokenId> {
    let token = |index| below(config.vocab_size, hash(index)) as TokenId;
    (0..length as u64).map(token).collect()
}

impl Positions {
    fn load(&mut self, positions: usize) -> Result<Model, ExperimentError> {
        let started = Instant::now();
        let load = self.setting.engine.load_options();
        let plan = &self.plan.model;
        let model = self.models.load(plan, &self.setting, load, positions)?;
        let seconds = started.elapsed().as_secs_f64();
        self.load_seconds.get_or_insert(seconds);
        Ok(model)
    }

    fn running(
        &self,
        name: &str,
        choice: &EngineChoice,
        model: &Model,
        past: Past,
    ) -> Result<Running, ExperimentError> {
        let context = past.tokens().len() + self.plan.steps;
        let started = Instant::now();
        let engine = choice.engine(model.weights.clone(), context, 1, &mut |_, _| ());
        let engine = engine.map_err(ExperimentError::unless_elsewhere)?;
        let start_seconds = started.elapsed().as_secs_f64();
        let started = Instant::now();
        let behind = Behind::new(engine, past, 1, self.plan.steps)?;
        Ok(Running {
            name: name.to_owned(),
            choice: choice.clone(),
            behind,
            start_seconds,
            past_seconds: started.elapsed().as_secs_f64(),
            first: Vec::new(),
            steps: Vec::new(),
        })
    }

    /// How an engine compares with the reference engine; known from the first cell that asks on.
    fn checked(
        &mut self,
        choice: &EngineChoice,
        model: &Model,
    ) -> Result<Checked, ExperimentError> {
        if let Some((_, checked)) = self.checked.iter().find(|(known, _)| known == choice) {
            return Ok(checked.clone());
        }
        let past = RandomPast::new(&model.weights.config, CHECKED_PAST);
        let mut running = self.running("", choice, model, Past::Random(&past))?;
        running.behind.turn()?;
        let weights = Arc::new(model.weights.clone());
        let seconds = self.plan.check_seconds;
        let checked = running.behind.check_against_reference(&weights, seconds)?;
        self.checked.push((choice.clone(), checked.clone()));
        Ok(checked)
    }

    /// The engines that this machine has, and why it has not the others.
    fn choices(&self) -> Result<Choices, ExperimentError> {
        let (mut here, mut missing) = (Vec::new(), Vec::new());
        for subject in &self.plan.subjects {
            let choice = self.setting.choice(subject.engine.as_ref());
            match choice.check().map_err(ExperimentError::unless_elsewhere) {
                Ok(()) => here.push((subject.name.clone(), choice)),
                Err(ExperimentError::NotMeasured { reason }) => missing.push(Missing {
                    what: subject.name.clone(),
                    reason,
                }),
                Err(error) => return Err(error),
            }
        }
        match here.is_empty() {
            true => Err(ExperimentError::NotMeasured {
                reason: list_missing(&missing),
            }),
            false => Ok(Choices { here, missing }),
        }
    }

    fn find(&mut self, place: Place, watch: &Watch) -> Result<Found, ExperimentError> {
        let position = place.position();
        let config = self.plan.model.config(&self.setting)?;
        let context = position + self.plan.steps;
        if context > config.max_positions {
            return Err(ExperimentError::NotMeasured {
                reason: format!(
                    "{} was made for {} positions, and this takes {context}",
                    self.plan.model.model, config.max_positions
                ),
            });
        }
        let Choices {
            here: choices,
            missing,
        } = self.choices()?;
        (watch.doing)("loading");
        let model = self.load(context * choices.len().max(2))?;
        (watch.doing)("checking");
        let mut checked = Vec::new();
        for (_, choice) in &choices {
            watch.check()?;
            checked.push(self.checked(choice, &model)?);
        }
        (watch.doing)("filling the cache");
        let past = RandomPast::new(&config, position);
        let mut running = Vec::new();
        match place {
            Place::MadeUp(_) => {
                for (name, choice) in &choices {
                    watch.check()?;
                    running.push(self.running(name, choice, &model, Past::Random(&past))?);
                }
            }
            Place::Real(position) => {
                let tokens = prompt(&config, position);
                for (name, past) in [
                    ("prompt", Past::Prompt(&tokens)),
                    ("made up", Past::Random(&past)),
                ] {
                    watch.check()?;
                    running.push(self.running(name, &choices[0].1, &model, past)?);
                }
                checked = vec![checked[0].clone(); 2];
            }
        }
        drop(past);
        let bandwidth = self.take_turns(&mut running, &model, watch)?;
        if let Some(traces) = &self.setting.traces {
            for one in &mut running {
                let what = format!("{}/{}", place.id(), one.name);
                one.behind.record(traces, &model.name, &what)?;
            }
        }
        let mean = |position| config.bytes_per_token(position) as f64;
        let bytes_per_step = (mean(position) + mean(context - 1)) / 2.0;
        let floor_ms = bandwidth
            .as_ref()
            .map(|bandwidth| bytes_per_step / bandwidth.median * 1e3);
        let subjects = conclude(running, checked, place)?;
        Ok(Found {
            model: model.name,
            position,
            steps: self.plan.steps,
            load_seconds: self.load_seconds.expect("it was loaded"),
            bytes_per_step,
            bandwidth,
            floor_ms,
            subjects,
            missing: match place {
                Place::MadeUp(_) => missing,
                Place::Real(_) => Vec::new(),
            },
        })
    }

    /// Times all in turns, and the read bandwidth before each round where the host's memory bounds them.
    fn take_turns(
        &self,
        running: &mut [Running],
        model: &Model,
        watch: &Watch,
    ) -> Result<Option<Summary>, ExperimentError> {
        let capabilities = running[0].behind.engine().capabilities();
        let mut bandwidth = match capabilities.host_bound {
            true => Some(self.bandwidth(capabilities.threads, model)?),
            false => None,
        };
        for one in &mut *running {
            (watch.doing)(&format!("{}: warming up", one.name));
            watch.check()?;
            one.behind.warm_up(self.plan.warm_up_seconds)?;
        }
        let mut read = Vec::new();
        for round in 0..self.plan.rounds {
            (watch.doing)(&format!("round {} of {}", round + 1, self.plan.rounds));
            if let Some(bandwidth) = &mut bandwidth {
                read.push(bandwidth.measure()?);
            }
            let count = running.len();
            for turn in 0..count {
                watch.check()?;
                let one = &mut running[if round % 2 == 0 {
                    turn
                } else {
                    count - 1 - turn
                }];
                let turn = one.behind.turn()?;
                one.first.push(turn.first_token_seconds * 1e3);
                one.steps.push(turn.step_seconds);
            }
        }
        Ok(Summary::new(read))
    }

    fn bandwidth(&self, threads: usize, model: &Model) -> Result<Bandwidth, ExperimentError> {
        let team = ReadTeam::new(threads).map_err(|source| ExperimentError::System {
            what: format!("cannot start {threads} threads to measure the read bandwidth"),
            source,
        })?;
        let source = Arc::new(model.weights.clone());
        Ok(Bandwidth::calibrate(
            team,
            source,
            self.plan.bandwidth_seconds,
        )?)
    }
}

/// The results of all that ran; what differs from the first has none.
fn conclude(
    mut running: Vec<Running>,
    checked: Vec<Checked>,
    place: Place,
) -> Result<Vec<Subject>, ExperimentError> {
    let (first, others) = running.split_first_mut().expect("one subject at least");
    let mut agreements = vec![None];
    for other in others {
        agreements.push(match place {
            Place::MadeUp(_) => Some(agree(&mut first.behind, &mut other.behind)?),
            // Another past has other logits.
            Place::Real(_) => None,
        });
    }
    let speeds = |one: &Running| -> Vec<f64> { one.steps.iter().map(|s| 1.0 / s).collect() };
    let of_first = speeds(&running[0]);
    let no_time = || ExperimentError::WrongOutput {
        reason: "steps that take no time".into(),
    };
    let mut subjects = Vec::new();
    for ((one, checked), agreement) in running.into_iter().zip(checked).zip(agreements) {
        let own = speeds(&one);
        let speed_of_first = match subjects.is_empty() {
            true => None,
            false => Some(Ratio::of_pairs(&of_first, &own).ok_or_else(no_time)?),
        };
        let step_ms = one.steps.iter().map(|s| s * 1e3).collect();
        subjects.push(Subject {
            name: one.name,
            engine: one.behind.described(&one.choice),
            threads: one.behind.engine().capabilities().threads,
            start_seconds: one.start_seconds,
            past_seconds: one.past_seconds,
            first_token_ms: Summary::new(one.first).ok_or_else(no_time)?,
            step_ms: Summary::new(step_ms).ok_or_else(no_time)?,
            tokens_per_second: Summary::new(own).ok_or_else(no_time)?,
            checked,
            agreement,
            speed_of_first,
        });
    }
    Ok(subjects)
}

impl Experiment for Positions {
    fn plan(&self) -> Value {
        serde_json::to_value(&self.plan).expect("a plan is JSON")
    }

    fn cells(&self) -> Vec<Cell> {
        let config = self.plan.model.config(&self.setting).ok();
        let weight = |place: Place| {
            let position = place.position();
            let step = config
                .as_ref()
                .map_or(1.0, |config| config.bytes_per_token(position) as f64);
            // A prompt is as much work as many steps.
            match place {
                Place::MadeUp(_) => step,
                Place::Real(_) => step * (1.0 + position as f64 / 100.0),
            }
        };
        let cell = |place: Place| Cell {
            id: place.id(),
            weight: weight(place),
        };
        self.plan.places().map(cell).collect()
    }

    fn measure(&mut self, cell: &Cell, watch: &Watch) -> Result<Value, ExperimentError> {
        let place = self.plan.places().find(|place| place.id() == cell.id);
        let place = place.expect("one of its own cells");
        Ok(serde_json::to_value(self.find(place, watch)?)?)
    }
}
