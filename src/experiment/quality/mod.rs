//! How far logits are from f32's: of engines and their variants, of other programs, beside bf16's own
//! distance.
//!
//! - [`plan`]: what is compared with what, on which texts
//! - [`texts`]: the tokens of these
//! - [`teacher_forced`]: an engine's logits of given tokens
//! - [`reference`](mod@reference): the logits that all others are held against
//! - [`comparison`]: their rows beside another's
//! - [`sections`]: the tables
//! - here: the cells, one for each subject
//!
//! The reference's logits are computed once for all subjects of a set, and lie in a temporary file
//! meanwhile (`TMPDIR`): four bytes times the vocabulary for each token. In memory is a row of each side.

pub mod comparison;
pub mod plan;
pub mod reference;
pub mod sections;
pub mod teacher_forced;
pub mod texts;

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::models::{Model, Models};
use super::{Cell, Experiment, ExperimentError, Kind, Setting, Watch};
use crate::engine::Engine;
use crate::engine::choice::{DeviceName, EngineChoice};
use crate::engine::reference::{Arithmetic, ReferenceEngine};
use crate::measure::divergence::{Collector, Divergence};
use crate::model::TokenId;
use crate::model::checkpoint::{LoadOptions, Precision};
use crate::report::saved_logits::SavedLogits;
use comparison::{Comparison, compare_file};
use plan::{Plan, REFERENCE, Rounding, SetPlan, SubjectPlan, TextsPlan};
use reference::Reference;
use teacher_forced::{Bits, Repeated, teacher_force};

/// The experiment.
pub const KIND: Kind = Kind {
    name: "quality",
    question: "How far are an engine's logits from f32's, beside bf16's own distance?",
    plan: include_str!("../../../experiments/quality/plan.toml"),
    has_traces: true,
    open: |plan, setting| Ok(Box::new(Quality::open(plan, setting)?)),
    sections: sections::sections,
};

/// One plan of it.
struct Quality {
    plan: Plan,
    setting: Setting,
    models: Models,
    /// The reference of the set that was measured last.
    reference: Option<(String, Reference)>,
}

/// What made some logits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// The engine and its kernels; of a file what it names as `engine`, or the file itself.
    pub by: String,
    /// The type of the weights, or of the numbers in the file.
    pub numbers: String,
    /// What the file says of itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub description: Vec<(String, String)>,
}

/// The result of a subject's cell. The names of the JSON fields are a contract.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// The set.
    pub set: String,
    /// The subject in its plan.
    pub subject: String,
    /// The set's yardstick.
    pub yardstick: Option<String>,
    /// What made the reference's logits.
    pub reference: Made,
    /// What made the subject's.
    pub made: Made,
    /// The distance.
    pub divergence: Divergence,
    /// An engine's second run beside its first; `None` for a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeated: Option<Repeated>,
}

/// The result of the reference's own cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Referred {
    /// The set.
    pub set: String,
    /// What made the logits.
    pub reference: Made,
    /// Logits of a row.
    pub vocab_size: usize,
    /// The tokens of each text.
    pub texts: Vec<Vec<TokenId>>,
    /// The reference engine's second run of the first text; `None` for a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeated: Option<Repeated>,
}

/// The engine that computes the reference.
fn reference_choice() -> EngineChoice {
    EngineChoice {
        device: DeviceName::Reference,
        ..EngineChoice::default()
    }
}

impl Quality {
    fn open(plan: &str, setting: &Setting) -> Result<Self, ExperimentError> {
        Ok(Self {
            plan: Plan::parse(plan)?,
            setting: setting.clone(),
            models: Models::default(),
            reference: None,
        })
    }

    /// The set and the subject of a cell; no subject in the reference's own.
    fn find(&self, cell: &Cell) -> (SetPlan, Option<SubjectPlan>) {
        let mut pairs = self.plan.sets.iter().flat_map(|set| {
            let subjects = set.subjects.iter().map(Some);
            [None]
                .into_iter()
                .chain(subjects)
                .map(move |subject| (set, subject))
        });
        let found = pairs.find(|(set, subject)| cell_id(set, *subject) == cell.id);
        let (set, subject) = found.expect("a cell of this plan");
        (set.clone(), subject.cloned())
    }

    /// The reference of `set`, made anew unless the last cell was of the same.
    fn take_reference(
        &mut self,
        set: &SetPlan,
        watch: &Watch,
    ) -> Result<Reference, ExperimentError> {
        if let Some((name, reference)) = self.reference.take()
            && name == set.name
        {
            return Ok(reference);
        }
        let Some(path) = &set.reference else {
            let model = self.load(set, reference_choice().load_options())?;
            let texts = set.texts.as_ref().expect("checked with the plan");
            let texts = texts::tokens(texts, &model, &self.setting)?;
            let mut engine =
                ReferenceEngine::new(Arc::new(model.weights.clone()), longest(&texts), 1)?;
            let made = made_by(&engine, &model);
            return Reference::compute(&mut engine, texts, made, watch);
        };
        let saved = open_logits(&self.setting.folder.join(path))?;
        Ok(Reference::of_file(saved, path))
    }

    fn load(&mut self, set: &SetPlan, load: LoadOptions) -> Result<Model, ExperimentError> {
        let model = set.model.as_ref().expect("checked with the plan");
        // KV caches are small beside the weights here.
        self.models.load(model, &self.setting, load, 0)
    }

    /// The engine of a subject, and what it is.
    fn engine(
        &mut self,
        set: &SetPlan,
        subject: &SubjectPlan,
        context: usize,
    ) -> Result<(Box<dyn Engine>, Made), ExperimentError> {
        if let Some(Rounding::Bf16) = subject.rounded_to {
            let load = LoadOptions {
                precision: Precision::Bf16,
                ..LoadOptions::default()
            };
            let model = self.load(set, load)?;
            let engine = ReferenceEngine::new(Arc::new(model.weights.clone()), context, 1)?;
            let engine = engine.with_arithmetic(Arithmetic::Bf16);
            let mut made = made_by(&engine, &model);
            made.by += ", rounding to bf16";
            return Ok((Box::new(engine), made));
        }
        let choice = self.setting.choice(subject.engine.as_ref());
        choice.check().map_err(ExperimentError::unless_missing)?;
        let model = self.load(set, choice.load_options())?;
        let engine = choice.engine(model.weights.clone(), context, 1, &mut |_, _| ());
        let engine = engine.map_err(ExperimentError::unless_missing)?;
        let made = made_by(&*engine, &model);
        Ok((engine, made))
    }

    fn refer(
        &mut self,
        set: &SetPlan,
        reference: &mut Reference,
        watch: &Watch,
    ) -> Result<Value, ExperimentError> {
        let repeated = match set.reference {
            Some(_) => None,
            None => {
                let model = self.load(set, reference_choice().load_options())?;
                let first = &reference.texts()[..1];
                let mut engine = ReferenceEngine::new(Arc::new(model.weights), longest(first), 1)?;
                let mut again = Bits::default();
                let texts = first.to_vec();
                teacher_force(&mut engine, &texts, 1, watch, "again", &mut |_, row| {
                    again.push(row);
                    Ok(())
                })?;
                let mut first = Bits::default();
                let mut row = Vec::new();
                for index in 0..again.len() {
                    reference.read_row(index, &mut row)?;
                    first.push(&row);
                }
                Some(first.repeated(&again)?)
            }
        };
        let referred = Referred {
            set: set.name.clone(),
            reference: reference.made().clone(),
            vocab_size: reference.vocab_size(),
            texts: reference.texts().to_vec(),
            repeated,
        };
        Ok(serde_json::to_value(referred)?)
    }

    fn compare(
        &mut self,
        set: &SetPlan,
        subject: &SubjectPlan,
        reference: &mut Reference,
        watch: &Watch,
    ) -> Result<Value, ExperimentError> {
        let mut collector = Collector::new(self.plan.criteria.clone());
        let (made, repeated) = match &subject.logits {
            Some(path) => {
                let mut saved = open_logits(&self.setting.folder.join(path))?;
                compare_file(&mut saved, path, reference, &mut collector, watch)?;
                (reference::made_by_file(&saved, path), None)
            }
            None => {
                let texts = reference.texts().to_vec();
                let (mut engine, made) = self.engine(set, subject, longest(&texts))?;
                let at_once = subject.tokens_at_once;
                let mut comparison = Comparison::new(reference, &mut collector);
                let mut first = Bits::default();
                let mut compare = |index: usize, logits: &[f32]| {
                    first.push(logits);
                    comparison.push(index, logits)
                };
                teacher_force(&mut *engine, &texts, at_once, watch, &made.by, &mut compare)?;
                let mut again = Bits::default();
                let mut keep = |_: usize, logits: &[f32]| {
                    again.push(logits);
                    Ok(())
                };
                teacher_force(&mut *engine, &texts, at_once, watch, "again", &mut keep)?;
                if let Some(traces) = &self.setting.traces {
                    let what = cell_id(set, Some(subject));
                    if traces.start(&mut *engine, &what)? {
                        let first = &texts[..1];
                        let mut ignore = |_: usize, _: &[f32]| Ok(());
                        let doing = "recording";
                        teacher_force(&mut *engine, first, at_once, watch, doing, &mut ignore)?;
                        let model = set.model.as_ref().expect("an engine has one");
                        traces.finish(&mut *engine, &model.model, &what)?;
                    }
                }
                (made, Some(first.repeated(&again)?))
            }
        };
        let compared = Compared {
            set: set.name.clone(),
            subject: subject.name.clone(),
            yardstick: set.yardstick.clone(),
            reference: reference.made().clone(),
            made,
            divergence: collector.summary().expect("texts have tokens"),
            repeated,
        };
        Ok(serde_json::to_value(compared)?)
    }
}

impl Experiment for Quality {
    fn plan(&self) -> Value {
        serde_json::to_value(&self.plan).expect("a plan is JSON")
    }

    fn cells(&self) -> Vec<Cell> {
        let cells = self.plan.sets.iter().flat_map(|set| {
            let tokens = match &set.texts {
                Some(TextsPlan::Given { texts, length }) => texts.len() * length,
                Some(
                    TextsPlan::File { count, length, .. } | TextsPlan::Random { count, length, .. },
                ) => count * length,
                None => 1,
            };
            let cell = move |subject: Option<&SubjectPlan>| {
                // The reference engine reckons in f64, on one thread.
                let is_slow = subject.is_none_or(|subject| subject.rounded_to.is_some());
                Cell {
                    id: cell_id(set, subject),
                    weight: tokens as f64 * if is_slow { 10.0 } else { 1.0 },
                }
            };
            let subjects = set.subjects.iter().map(Some);
            [None].into_iter().chain(subjects).map(cell)
        });
        cells.collect()
    }

    fn measure(&mut self, cell: &Cell, watch: &Watch) -> Result<Value, ExperimentError> {
        let (set, subject) = self.find(cell);
        let mut reference = self.take_reference(&set, watch)?;
        let result = match &subject {
            None => self.refer(&set, &mut reference, watch),
            Some(subject) => self.compare(&set, subject, &mut reference, watch),
        };
        self.reference = Some((set.name, reference));
        result
    }
}

fn cell_id(set: &SetPlan, subject: Option<&SubjectPlan>) -> String {
    let subject = subject.map_or(REFERENCE, |subject| &subject.name);
    format!("{}/{subject}", set.name)
}

fn longest(texts: &[Vec<TokenId>]) -> usize {
    texts.iter().map(Vec::len).max().unwrap_or(0)
}

fn made_by(engine: &dyn Engine, model: &Model) -> Made {
    let capabilities = engine.capabilities();
    let weights = model.weights.embedding.values().element_type();
    Made {
        by: format!("{} ({})", capabilities.name, capabilities.kernels),
        numbers: format!("{} weights", weights.as_str()),
        description: Vec::new(),
    }
}

/// Logits that another program was to save.
fn open_logits(path: &Path) -> Result<SavedLogits, ExperimentError> {
    match path.exists() {
        true => Ok(SavedLogits::open(path)?),
        false => Err(ExperimentError::NotMeasured {
            reason: format!("there is no {}", path.display()),
        }),
    }
}

#[cfg(test)]
mod tests;
