//! What a constraint costs or gains: no constraint, masks by position and automata, on the same
//! prompts and seeds, in turns.
//!
//! - here: the plan, and its cells: a model, a workload and a batch each
//! - [`workload`]: what is to be written
//! - [`judge`]: whether it was, and how it went wrong
//! - [`measure`]: a cell
//! - [`sections`]: what the results say

pub mod judge;
pub mod measure;
pub mod sections;
pub mod workload;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::models::{ModelPlan, Models};
use super::plan;
use super::{Cell, Experiment, ExperimentError, Kind, Setting, Watch};
use workload::Workload;

/// The experiment.
pub const KIND: Kind = Kind {
    name: "constraints",
    question: "Does a constraint make decoding slower or faster, and is what it writes valid?",
    plan: include_str!("../../../experiments/constraints/plan.toml"),
    has_traces: true,
    open,
    sections: sections::sections,
};

/// How a text is kept in form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Not at all.
    None,
    /// By a mask for each position of a placeholder.
    Position,
    /// The same, but a free run ends when it is complete.
    PositionTruncate,
    /// By an automaton.
    Automaton,
}

impl Method {
    /// Its name in plans and results.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Position => "position",
            Self::PositionTruncate => "position-truncate",
            Self::Automaton => "automaton",
        }
    }
}

/// What varies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Timed rounds, each with seeds of its own.
    pub rounds: usize,
    /// Divides the logits; 0 is greedy.
    pub temperature: f32,
    /// Of the first text; the others count up from it.
    pub seed: u64,
    /// Seconds that the reference engine may take to check each cell.
    pub check_seconds: f64,
    /// How texts are kept in form; the first is what the others are compared with.
    pub methods: Vec<Method>,
    /// Sequences that decode together.
    pub batches: Vec<usize>,
    /// What decodes.
    pub models: Vec<PlannedModel>,
    /// What is to be written.
    pub workloads: Vec<Workload>,
}

/// A model, and what it is to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedModel {
    /// The model.
    #[serde(flatten)]
    pub model: ModelPlan,
    /// Texts of each method to judge, at least; those of the timed rounds count.
    #[serde(default)]
    pub texts: usize,
    /// The most tokens of a text, where a workload allows more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<usize>,
    /// The names of the workloads it gets; all of them where nothing is said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub workloads: Vec<String>,
}

struct Constraints {
    plan: Plan,
    setting: Setting,
    models: Models,
}

/// A cell's parts of the plan.
struct Place<'a> {
    model: &'a PlannedModel,
    workload: &'a Workload,
    batch: usize,
}

impl Place<'_> {
    fn max_tokens(&self) -> usize {
        let workload = self.workload.max_tokens;
        self.model
            .max_tokens
            .map_or(workload, |most| most.min(workload))
    }

    fn id(&self) -> String {
        let model = &self.model.model.model;
        format!("{model}/{}/batch-{}", self.workload.name, self.batch)
    }
}

fn open(text: &str, setting: &Setting) -> Result<Box<dyn Experiment>, ExperimentError> {
    let plan: Plan = plan::parse(text)?;
    plan.check()?;
    Ok(Box::new(Constraints {
        plan,
        setting: setting.clone(),
        models: Models::default(),
    }))
}

impl Plan {
    fn check(&self) -> Result<(), ExperimentError> {
        plan::demand(&self.methods, "methods")?;
        plan::demand(&self.batches, "batches")?;
        plan::demand(&self.models, "models")?;
        plan::demand(&self.workloads, "workloads")?;
        let wrong = |reason: String| Err(ExperimentError::Plan { reason });
        if self.rounds == 0 || self.batches.contains(&0) {
            return wrong("`rounds` and `batches` must be 1 or more".into());
        }
        for model in &self.models {
            let known = |name: &&String| !self.workloads.iter().any(|w| w.name == **name);
            if let Some(name) = model.workloads.iter().find(known) {
                return wrong(format!("there is no workload '{name}'"));
            }
        }
        for (index, workload) in self.workloads.iter().enumerate() {
            if self.workloads[..index]
                .iter()
                .any(|w| w.name == workload.name)
            {
                return wrong(format!("there are two workloads '{}'", workload.name));
            }
            workload.template()?;
        }
        Ok(())
    }

    fn places(&self) -> impl Iterator<Item = Place<'_>> {
        let of_model = move |model| {
            let wanted = move |workload: &&Workload| gets(model, workload);
            let workloads = self.workloads.iter().filter(wanted);
            workloads.flat_map(move |workload| {
                self.batches.iter().map(move |&batch| Place {
                    model,
                    workload,
                    batch,
                })
            })
        };
        self.models.iter().flat_map(of_model)
    }
}

fn gets(model: &PlannedModel, workload: &Workload) -> bool {
    model.workloads.is_empty() || model.workloads.contains(&workload.name)
}

impl Experiment for Constraints {
    fn plan(&self) -> Value {
        serde_json::to_value(&self.plan).expect("names and numbers")
    }

    fn cells(&self) -> Vec<Cell> {
        let weight = |place: &Place| {
            let config = place.model.model.config(&self.setting);
            let bytes = config.map_or(1, |config| config.weight_bytes_per_token());
            (bytes * place.max_tokens()) as f64
        };
        let places = self.plan.places();
        places
            .map(|place| Cell {
                id: place.id(),
                weight: weight(&place),
            })
            .collect()
    }

    fn measure(&mut self, cell: &Cell, watch: &Watch) -> Result<Value, ExperimentError> {
        let place = self.plan.places().find(|place| place.id() == cell.id);
        let place = place.expect("one of its own cells");
        let run = measure::Run {
            id: &cell.id,
            plan: &self.plan,
            setting: &self.setting,
            model: place.model,
            workload: place.workload,
            batch: place.batch,
            max_tokens: place.max_tokens(),
        };
        Ok(serde_json::to_value(run.measure(&mut self.models, watch)?)?)
    }
}
