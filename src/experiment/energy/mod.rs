//! How many tokens a joule gives, and how much of the power is there when nothing is decoded.
//!
//! - [`plan`]: which engines, for how long
//! - [`meters`]: the counters of a device
//! - [`decode`]: an engine that decodes the same tokens again and again
//! - [`sections`]: the tables
//! - here: a cell for each set, whose engines take turns: in each round every one of them is idle, then
//!   decodes, forwards and backwards (ABBA)
//!
//! The counters are asked before anything is loaded: where there are none the cell is not measured, with
//! the reason of each.

pub mod decode;
pub mod meters;
pub mod plan;
pub mod sections;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::models::Models;
use super::result::{Missing, list_missing};
use super::{Cell, Experiment, ExperimentError, Kind, Setting, Watch};
use crate::measure::decode::check::Checked;
use crate::measure::energy::{Consumed, measure};
use crate::measure::statistics::Summary;
use decode::Decoder;
use meters::Meters;
use plan::{Plan, SetPlan};

/// The experiment.
pub const KIND: Kind = Kind {
    name: "energy",
    question: "How many tokens does a joule give, and how much of the power is drawn when idle?",
    plan: include_str!("../../../experiments/energy/plan.toml"),
    has_traces: true,
    open: |plan, setting| Ok(Box::new(Energy::open(plan, setting)?)),
    sections: sections::sections,
};

/// Time between two looks at Ctrl-C while nothing is decoded.
const NAP: Duration = Duration::from_millis(100);

/// One plan of it.
struct Energy {
    plan: Plan,
    setting: Setting,
    models: Models,
}

/// The result of a cell. The names of the JSON fields are a contract.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The model.
    pub model: String,
    /// Sequences that decode together.
    pub batch: usize,
    /// Tokens of each sequence's prompt.
    pub prompt_tokens: usize,
    /// Tokens of each sequence behind it.
    pub new_tokens: usize,
    /// The engines, in the plan's order.
    pub subjects: Vec<Subject>,
    /// Engines that can't be had here.
    pub missing: Vec<Missing>,
}

/// One engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    /// Its name in the plan.
    pub name: String,
    /// The engine and its kernels.
    pub engine: String,
    /// Threads that compute.
    pub threads: usize,
    /// What was checked of its tokens; nothing is reported where that failed.
    pub checked: Checked,
    /// Tokens a second while energy was measured.
    pub tokens_per_second: Summary,
    /// What each meter measured; that of the engine's own device first.
    pub metered: Vec<Metered>,
    /// Meters that measured nothing.
    pub missing: Vec<Missing>,
}

/// What one meter measured of one engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metered {
    /// What it counts.
    pub meter: String,
    /// Tokens for each joule, idle power included.
    pub tokens_per_joule: Summary,
    /// Tokens for each joule above what the round's idle power takes in the same time; `None` where the
    /// meter does not tell the two apart.
    pub tokens_per_joule_above_idle: Option<Summary>,
    /// Watts while decoding.
    pub average_watts: Summary,
    /// The most watts of a sample while decoding.
    pub peak_watts: f64,
    /// Watts while idle, the engine being loaded.
    pub idle_watts: Summary,
    /// The rounds, in order.
    pub rounds: Vec<Round>,
}

/// One round of one engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Tokens that were decoded.
    pub tokens: usize,
    /// Before it decoded.
    pub idle: Consumed,
    /// While it did.
    pub decode: Consumed,
}

impl Energy {
    fn open(plan: &str, setting: &Setting) -> Result<Self, ExperimentError> {
        Ok(Self {
            plan: Plan::parse(plan)?,
            setting: setting.clone(),
            models: Models::default(),
        })
    }

    /// The engines of `set` with their meters, and those that are missing.
    fn subjects(
        &mut self,
        set: &SetPlan,
    ) -> Result<(Vec<Running>, Vec<Missing>, String), ExperimentError> {
        let mut metered = Vec::new();
        let mut missing = Vec::new();
        for subject in &set.subjects {
            let choice = self.setting.choice(subject.engine.as_ref());
            let meters = Meters::of(&choice, &self.plan.powercap);
            match meters.is_empty() {
                true => missing.push(Missing {
                    what: subject.name.clone(),
                    reason: meters.reasons(),
                }),
                false => metered.push((subject, choice, meters)),
            }
        }
        let decode = self.plan.decode(set);
        let positions = decode.context() * set.batch * metered.len();
        let mut running = Vec::new();
        let mut model_name = String::new();
        for (subject, choice, meters) in metered {
            let checked = choice.check().map_err(ExperimentError::unless_missing);
            let model = checked.and_then(|()| {
                let load = choice.load_options();
                self.models.load(&set.model, &self.setting, load, positions)
            });
            let made = model.and_then(|model| {
                let engine = choice.engine(
                    model.weights.clone(),
                    decode.context(),
                    set.batch,
                    &mut |_, _| (),
                );
                let engine = engine.map_err(ExperimentError::unless_missing)?;
                model_name.clone_from(&model.name);
                let weights = Arc::new(model.weights);
                let decoder = Decoder::new(engine, weights, decode.clone())?;
                Ok(Running::new(&subject.name, decoder, meters))
            });
            match made {
                Err(ExperimentError::NotMeasured { reason }) => missing.push(Missing {
                    what: subject.name.clone(),
                    reason,
                }),
                made => running.push(made?),
            }
        }
        Ok((running, missing, model_name))
    }
}

impl Experiment for Energy {
    fn plan(&self) -> Value {
        serde_json::to_value(&self.plan).expect("a plan is JSON")
    }

    fn cells(&self) -> Vec<Cell> {
        let cell = |set: &SetPlan| Cell {
            id: set.name.clone(),
            weight: (set.subjects.len() * self.plan.rounds) as f64,
        };
        self.plan.sets.iter().map(cell).collect()
    }

    fn measure(&mut self, cell: &Cell, watch: &Watch) -> Result<Value, ExperimentError> {
        let mut sets = self.plan.sets.iter();
        let set = sets
            .find(|set| set.name == cell.id)
            .expect("a cell of this plan");
        let set = set.clone();
        (watch.doing)("loading");
        let (mut running, mut missing, model) = self.subjects(&set)?;
        take_turns(&mut running, self.plan.rounds, self.plan.seconds, watch)?;
        let mut subjects = Vec::new();
        for mut running in running {
            watch.check()?;
            if let Some(traces) = &self.setting.traces {
                let what = format!("{}/{}", set.name, running.name);
                running.decoder.record(traces, &model, &what, watch)?;
            }
            match running.finish()? {
                Ok(subject) => subjects.push(subject),
                Err(unmeasured) => missing.push(unmeasured),
            }
        }
        if subjects.is_empty() {
            return Err(ExperimentError::NotMeasured {
                reason: list_missing(&missing),
            });
        }
        let measured = Measured {
            model,
            batch: set.batch,
            prompt_tokens: self.plan.prompt_tokens,
            new_tokens: self.plan.new_tokens,
            subjects,
            missing,
        };
        Ok(serde_json::to_value(measured)?)
    }
}

/// Measures all of `running` in turns.
fn take_turns(
    running: &mut [Running],
    rounds: usize,
    seconds: f64,
    watch: &Watch,
) -> Result<(), ExperimentError> {
    for each in &mut *running {
        (watch.doing)(&format!("{}: warming up", each.name));
        each.decoder.stretch(watch)?;
    }
    for round in 0..rounds {
        let count = running.len();
        for turn in 0..count {
            let index = match round % 2 {
                0 => turn,
                _ => count - 1 - turn,
            };
            let each = &mut running[index];
            (watch.doing)(&format!("{}: round {} of {rounds}", each.name, round + 1));
            each.round(seconds, watch)?;
        }
    }
    Ok(())
}

/// An engine that is measured.
struct Running {
    name: String,
    decoder: Decoder,
    meters: Meters,
    /// `[round]`
    tokens_per_second: Vec<f64>,
    /// `[meter][round]`
    rounds: Vec<Vec<Round>>,
}

impl Running {
    fn new(name: &str, decoder: Decoder, meters: Meters) -> Self {
        Self {
            name: name.to_owned(),
            decoder,
            rounds: vec![Vec::new(); meters.len()],
            meters,
            tokens_per_second: Vec::new(),
        }
    }

    /// Is idle, then decodes, both for `seconds` at least.
    fn round(&mut self, seconds: f64, watch: &Watch) -> Result<(), ExperimentError> {
        let until = Duration::from_secs_f64(seconds);
        let (idle, idle_taken) = measure(self.meters.counters(), || rest(until, watch));
        idle?;
        let start = Instant::now();
        let decoder = &mut self.decoder;
        let (tokens, taken) = measure(self.meters.counters(), || {
            let mut tokens = decoder.stretch(watch)?;
            while start.elapsed() < until {
                tokens += decoder.stretch(watch)?;
            }
            let speed = tokens as f64 / start.elapsed().as_secs_f64();
            Ok::<_, ExperimentError>((tokens, speed))
        });
        let (tokens, speed) = tokens?;
        self.tokens_per_second.push(speed);
        let pairs = idle_taken.into_iter().zip(taken);
        for (meter, pair) in pairs.enumerate() {
            match pair {
                (Ok(idle), Ok(decode)) => self.rounds[meter].push(Round {
                    tokens,
                    idle,
                    decode,
                }),
                (Err(error), _) | (_, Err(error)) => self.meters.fail(meter, &error),
            }
        }
        Ok(())
    }

    /// The result; an engine without a meter that measured all rounds has none.
    fn finish(mut self) -> Result<Result<Subject, Missing>, ExperimentError> {
        let rounds = self.tokens_per_second.len();
        let named = self.meters.names().into_iter().zip(self.rounds);
        let whole = named.filter(|(_, measured)| measured.len() == rounds);
        let metered: Vec<_> = whole
            .filter_map(|(name, measured)| Metered::new(name, measured))
            .collect();
        if metered.is_empty() {
            return Ok(Err(Missing {
                what: self.name,
                reason: self.meters.reasons(),
            }));
        }
        let checked = self.decoder.check()?;
        if !checked.passed {
            return Err(ExperimentError::WrongOutput {
                reason: format!("{}: {}", self.name, serde_json::to_string(&checked)?),
            });
        }
        let capabilities = self.decoder.capabilities();
        Ok(Ok(Subject {
            name: self.name,
            engine: format!("{} ({})", capabilities.name, capabilities.kernels),
            threads: capabilities.threads,
            checked,
            tokens_per_second: Summary::new(self.tokens_per_second).expect("there is a round"),
            metered,
            missing: self.meters.missing,
        }))
    }
}

impl Metered {
    /// `None` if there are no rounds.
    fn new(meter: String, rounds: Vec<Round>) -> Option<Self> {
        let summary = |of: &dyn Fn(&Round) -> f64| Summary::new(rounds.iter().map(of).collect());
        let above_idle = |round: &Round| {
            let idle = round.idle.average_watts * round.decode.seconds;
            let joules = round.decode.joules - idle;
            match joules > 0.0 {
                true => round.tokens as f64 / joules,
                false => f64::NAN,
            }
        };
        let peaks = rounds.iter().map(|round| round.decode.peak_watts);
        Some(Self {
            meter,
            tokens_per_joule: summary(&|round| round.tokens as f64 / round.decode.joules)?,
            tokens_per_joule_above_idle: summary(&above_idle),
            average_watts: summary(&|round| round.decode.average_watts)?,
            peak_watts: peaks.fold(0.0, f64::max),
            idle_watts: summary(&|round| round.idle.average_watts)?,
            rounds,
        })
    }
}

/// Does nothing for so long.
fn rest(duration: Duration, watch: &Watch) -> Result<(), ExperimentError> {
    let start = Instant::now();
    while let Some(left) = duration.checked_sub(start.elapsed()) {
        watch.check()?;
        std::thread::sleep(left.min(NAP));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
