//! What each optimisation is worth: engines with and without it, in turns, at positions early and late.
//!
//! - here: the plan, and its cells: a comparison at a position
//! - [`sections`]: what the results say
//!
//! In a cell both sides decode behind the same past. Their output is held against each other's there, and
//! each side's once against the reference engine; what differs has no speed.

pub mod sections;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::behind_past::{Agreement, Behind, Past, agree};
use super::models::{Model, ModelPlan, Models};
use super::plan;
use super::{Cell, Experiment, ExperimentError, Kind, Setting, Watch};
use crate::engine::choice::EngineChoice;
use crate::engine::past::RandomPast;
use crate::measure::decode::check::Checked;
use crate::measure::statistics::{Ratio, Summary};

/// The experiment.
pub const KIND: Kind = Kind {
    name: "optimizations",
    question: "What is each optimisation worth, and where?",
    plan: include_str!("../../../experiments/optimizations/plan.toml"),
    has_traces: true,
    open,
    sections: sections::sections,
};

/// Positions of the past behind which each side is held against the reference engine.
const CHECKED_PAST: usize = 4;

/// What varies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// What decodes.
    pub model: ModelPlan,
    /// Positions in the cache before the first step.
    pub positions: Vec<usize>,
    /// Pairs of turns: in every second one the variant is first.
    pub rounds: usize,
    /// Steps of a turn.
    pub steps: usize,
    /// Seconds each side decodes before the clock counts.
    pub warm_up_seconds: f64,
    /// Seconds the reference engine may take for each side, once.
    pub check_seconds: f64,
    /// What is compared with what.
    pub comparisons: Vec<Comparison>,
}

/// Two sides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// What is asked, in a few words.
    pub name: String,
    /// Without it.
    #[serde(default)]
    pub base: Side,
    /// With it. The ratio is its speed over the base's.
    #[serde(default)]
    pub variant: Side,
}

/// An engine, and how many sequences it decodes together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Side {
    /// The engine; where no device is named, that of the command line, with its options.
    pub engine: Option<EngineChoice>,
    /// Sequences that decode together; all of their tokens count.
    pub columns: usize,
}

impl Default for Side {
    fn default() -> Self {
        Self {
            engine: None,
            columns: 1,
        }
    }
}

/// What a cell found. The names of the JSON fields are a contract.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// The model.
    pub model: String,
    /// What was compared.
    pub comparison: String,
    /// Positions in the cache before the first step.
    pub position: usize,
    /// Steps of a turn.
    pub steps: usize,
    /// Without it.
    pub base: SideFound,
    /// With it.
    pub variant: SideFound,
    /// How their output compares.
    pub agreement: Agreement,
    /// Tokens per second of the variant over those of the base, pair by pair.
    pub speedup: Ratio,
}

/// What one side did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SideFound {
    /// The engine, its kernels, and its variant, stage and barrier where they were chosen.
    pub engine: String,
    /// Threads that compute.
    pub threads: usize,
    /// Sequences that decoded together.
    pub columns: usize,
    /// Milliseconds of a step.
    pub step_ms: Summary,
    /// Tokens per second, of all columns.
    pub tokens_per_second: Summary,
    /// How it compares with the reference engine, on a short prompt.
    pub checked: Checked,
}

struct Optimizations {
    plan: Plan,
    setting: Setting,
    models: Models,
    /// The sides that were held against the reference engine.
    checked: Vec<(EngineChoice, Checked)>,
}

fn open(text: &str, setting: &Setting) -> Result<Box<dyn Experiment>, ExperimentError> {
    let plan: Plan = plan::parse(text)?;
    plan::demand(&plan.positions, "positions")?;
    plan::demand(&plan.comparisons, "comparisons")?;
    let names = plan.comparisons.iter().map(|comparison| &comparison.name);
    plan::refuse_twice(names, "comparisons")?;
    let wrong = |reason: &str| {
        let reason = reason.to_owned();
        Err(ExperimentError::Plan { reason })
    };
    if plan.rounds == 0 || plan.steps == 0 || plan.positions.contains(&0) {
        return wrong("`rounds`, `steps` and `positions` must be 1 or more");
    }
    let has_columns = |one: &Comparison| one.base.columns > 0 && one.variant.columns > 0;
    if !plan.comparisons.iter().all(has_columns) {
        return wrong("`columns` must be 1 or more");
    }
    Ok(Box::new(Optimizations {
        plan,
        setting: setting.clone(),
        models: Models::default(),
        checked: Vec::new(),
    }))
}

impl Plan {
    /// A comparison and a position for each cell, in order.
    fn places(&self) -> impl Iterator<Item = (&Comparison, usize)> {
        let positions = &self.positions;
        let comparisons = self.comparisons.iter();
        comparisons.flat_map(move |one| positions.iter().map(move |&position| (one, position)))
    }
}

fn id((comparison, position): (&Comparison, usize)) -> String {
    format!("{}/position-{position}", comparison.name)
}

impl Side {
    fn choice(&self, setting: &Setting) -> EngineChoice {
        setting.choice(self.engine.as_ref())
    }
}

impl Optimizations {
    fn load(&mut self, position: usize) -> Result<Model, ExperimentError> {
        let comparisons = self.plan.comparisons.iter();
        let columns = comparisons.map(|one| one.base.columns + one.variant.columns);
        let most = columns.max().expect("checked with the plan");
        let positions = most * (position + self.plan.steps);
        let load = self.setting.engine.load_options();
        self.models
            .load(&self.plan.model, &self.setting, load, positions)
    }

    fn behind(
        &self,
        side: &Side,
        model: &Model,
        past: &RandomPast,
    ) -> Result<Behind, ExperimentError> {
        let choice = side.choice(&self.setting);
        let context = past.tokens().len() + self.plan.steps;
        let engine = choice.engine(model.weights.clone(), context, side.columns, &mut |_, _| ());
        let engine = engine.map_err(ExperimentError::unless_elsewhere)?;
        Behind::new(engine, Past::Random(past), side.columns, self.plan.steps)
    }

    /// How a side compares with the reference engine; known from the first cell that asks on.
    fn checked(&mut self, side: &Side, model: &Model) -> Result<Checked, ExperimentError> {
        let choice = side.choice(&self.setting);
        if let Some((_, checked)) = self.checked.iter().find(|(known, _)| *known == choice) {
            return Ok(checked.clone());
        }
        let past = RandomPast::new(&model.weights.config, CHECKED_PAST);
        let side = Side {
            columns: 1,
            ..side.clone()
        };
        let mut behind = self.behind(&side, model, &past)?;
        behind.turn()?;
        let weights = Arc::new(model.weights.clone());
        let checked = behind.check_against_reference(&weights, self.plan.check_seconds)?;
        self.checked.push((choice, checked.clone()));
        Ok(checked)
    }

    fn compare(
        &mut self,
        (comparison, position): (&Comparison, usize),
        id: &str,
        watch: &Watch,
    ) -> Result<Found, ExperimentError> {
        let sides = [&comparison.base, &comparison.variant];
        for side in sides {
            // Before anything is loaded.
            side.choice(&self.setting)
                .check()
                .map_err(ExperimentError::unless_elsewhere)?;
        }
        (watch.doing)("loading");
        let model = self.load(position)?;
        (watch.doing)("checking");
        let mut checked = Vec::new();
        for side in sides {
            watch.check()?;
            checked.push(self.checked(side, &model)?);
        }
        let past = RandomPast::new(&model.weights.config, position);
        let mut pair = [
            self.behind(sides[0], &model, &past)?,
            self.behind(sides[1], &model, &past)?,
        ];
        drop(past);
        for behind in &mut pair {
            (watch.doing)("warming up");
            watch.check()?;
            behind.warm_up(self.plan.warm_up_seconds)?;
        }
        let [base, variant] = &mut pair;
        let agreement = agree(base, variant)?;
        let mut seconds = [Vec::new(), Vec::new()];
        for round in 0..self.plan.rounds {
            (watch.doing)(&format!("round {} of {}", round + 1, self.plan.rounds));
            let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
            for index in order {
                watch.check()?;
                seconds[index].push(pair[index].turn()?.step_seconds);
            }
        }
        if let Some(traces) = &self.setting.traces {
            for (behind, name) in pair.iter_mut().zip(["base", "variant"]) {
                behind.record(traces, &model.name, &format!("{id}/{name}"))?;
            }
        }
        let speeds = |index: usize| -> Vec<f64> {
            let columns = sides[index].columns as f64;
            seconds[index].iter().map(|s| columns / s).collect()
        };
        let no_time = || ExperimentError::WrongOutput {
            reason: "steps that take no time".into(),
        };
        let speedup = Ratio::of_pairs(&speeds(1), &speeds(0)).ok_or_else(no_time)?;
        let mut found = Vec::new();
        for (index, checked) in checked.into_iter().enumerate() {
            let step_ms = seconds[index].iter().map(|s| s * 1e3).collect();
            found.push(SideFound {
                engine: pair[index].described(&sides[index].choice(&self.setting)),
                threads: pair[index].engine().capabilities().threads,
                columns: sides[index].columns,
                step_ms: Summary::new(step_ms).ok_or_else(no_time)?,
                tokens_per_second: Summary::new(speeds(index)).ok_or_else(no_time)?,
                checked,
            });
        }
        let variant = found.pop().expect("two sides");
        Ok(Found {
            model: model.name,
            comparison: comparison.name.clone(),
            position,
            steps: self.plan.steps,
            base: found.pop().expect("two sides"),
            variant,
            agreement,
            speedup,
        })
    }
}

impl Experiment for Optimizations {
    fn plan(&self) -> Value {
        serde_json::to_value(&self.plan).expect("a plan is JSON")
    }

    fn cells(&self) -> Vec<Cell> {
        let config = self.plan.model.config(&self.setting).ok();
        let weight = |(comparison, position): (&Comparison, usize)| {
            let (weights, kv) = config.as_ref().map_or((1, 0), |config| {
                let kv = position * config.kv_bytes_per_position();
                (config.weight_bytes_per_token(), kv)
            });
            let columns = comparison.base.columns + comparison.variant.columns;
            (2 * weights + columns * kv) as f64
        };
        let cell = |place| Cell {
            id: id(place),
            weight: weight(place),
        };
        self.plan.places().map(cell).collect()
    }

    fn measure(&mut self, cell: &Cell, watch: &Watch) -> Result<Value, ExperimentError> {
        let place = self.plan.places().find(|&place| id(place) == cell.id);
        let (comparison, position) = place.expect("one of its own cells");
        let comparison = comparison.clone();
        let found = self.compare((&comparison, position), &cell.id, watch)?;
        Ok(serde_json::to_value(found)?)
    }
}
