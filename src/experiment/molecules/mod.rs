//! What forcing its form does to a model that writes molecules with coordinates: no constraint, masks
//! by position as 3DMolGen had them, and automata, on models that know the form and models that don't.
//!
//! - here: the plan, and its cells: a model and a temperature each
//! - [`prompts`]: held-out molecules
//! - [`method`]: how a text is kept in form
//! - [`measure`]: a cell
//! - [`points`]: how many tokens points and coordinates take
//! - [`forced`]: how likely the model itself finds what it is forced to write
//! - [`texts`]: the file of what was written, for the scoring script
//! - [`sections`]: what the results say

pub mod forced;
pub mod measure;
pub mod method;
pub mod points;
pub mod prompts;
pub mod sections;
#[cfg(test)]
mod tests;
pub mod texts;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::models::{ModelPlan, Models};
use super::plan;
use super::{Cell, Experiment, ExperimentError, Kind, Setting, Watch};
use method::Method;

/// The experiment.
pub const KIND: Kind = Kind {
    name: "molecules",
    question: "What does a template mask do to a model that writes molecules, and what an automaton?",
    plan: include_str!("../../../experiments/molecules/plan.toml"),
    has_traces: true,
    open,
    sections: sections::sections,
};

/// What varies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// A file of held-out texts, one a line, from the plan's own folder on.
    pub heldout: PathBuf,
    /// The first so many of them are prompts; from the others the fitted placeholder is made.
    pub molecules: usize,
    /// Sequences that decode together.
    pub batch: usize,
    /// Timed rounds over all molecules; the texts of the first are judged, and made again in the others.
    pub rounds: usize,
    /// The most tokens of a text.
    pub max_tokens: usize,
    /// Of the first batch; the others count up from it.
    pub seed: u64,
    /// Seconds that the reference engine may take to check each cell.
    pub check_seconds: f64,
    /// Texts of each method of which the model is asked how likely it finds what was forced.
    pub forced_texts: usize,
    /// The regex of a coordinate.
    pub coordinate: String,
    /// What stands for a point in the masks by position.
    pub placeholder: String,
    /// Characters that no token of a free position holds.
    pub blocked: String,
    /// How texts are kept in form; the first is what the others are compared with.
    pub methods: Vec<Method>,
    /// Each divides the logits; 0 is greedy.
    pub temperatures: Vec<f32>,
    /// What decodes.
    pub models: Vec<NamedModel>,
}

/// A model with a name for results.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedModel {
    /// Its name.
    pub name: String,
    /// The model.
    #[serde(flatten)]
    pub model: ModelPlan,
}

struct Molecules {
    plan: Plan,
    setting: Setting,
    models: Models,
}

/// A cell's parts of the plan.
#[derive(Clone, Copy)]
struct Place<'a> {
    model: &'a NamedModel,
    temperature: f32,
}

impl Place<'_> {
    fn id(&self) -> String {
        let name = &self.model.name;
        match self.temperature {
            0.0 => format!("{name}/greedy"),
            temperature => format!("{name}/temperature-{temperature}"),
        }
    }
}

fn open(text: &str, setting: &Setting) -> Result<Box<dyn Experiment>, ExperimentError> {
    let plan: Plan = plan::parse(text)?;
    plan.check()?;
    Ok(Box::new(Molecules {
        plan,
        setting: setting.clone(),
        models: Models::default(),
    }))
}

impl Plan {
    fn check(&self) -> Result<(), ExperimentError> {
        plan::demand(&self.methods, "methods")?;
        plan::demand(&self.temperatures, "temperatures")?;
        plan::demand(&self.models, "models")?;
        plan::refuse_twice(self.models.iter().map(|model| &model.name), "models")?;
        if [self.molecules, self.batch, self.rounds, self.max_tokens].contains(&0) {
            let reason =
                "`molecules`, `batch`, `rounds` and `max_tokens` must be 1 or more".to_owned();
            return Err(ExperimentError::Plan { reason });
        }
        Ok(())
    }

    fn places(&self) -> impl Iterator<Item = Place<'_>> {
        let of_model = |model| {
            let temperatures = self.temperatures.iter();
            temperatures.map(move |&temperature| Place { model, temperature })
        };
        self.models.iter().flat_map(of_model)
    }
}

impl Experiment for Molecules {
    fn plan(&self) -> Value {
        serde_json::to_value(&self.plan).expect("names and numbers")
    }

    fn cells(&self) -> Vec<Cell> {
        let cell = |place: Place| Cell {
            id: place.id(),
            weight: 1.0,
        };
        self.plan.places().map(cell).collect()
    }

    fn measure(&mut self, cell: &Cell, watch: &Watch) -> Result<Value, ExperimentError> {
        let place = self.plan.places().find(|place| place.id() == cell.id);
        let place = place.expect("one of its own cells");
        let run = measure::Run {
            id: &cell.id,
            plan: &self.plan,
            setting: &self.setting,
            model: place.model,
            temperature: place.temperature,
        };
        Ok(serde_json::to_value(run.measure(&mut self.models, watch)?)?)
    }
}
