//! What a plan of this experiment says.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::engine::choice::EngineChoice;
use crate::experiment::ExperimentError;
use crate::experiment::models::ModelPlan;
use crate::experiment::plan::{self, demand, refuse_twice};
use crate::measure::decode::DecodePlan;
use crate::measure::energy::powercap;

/// The least time that is measured: a GPU's counter moves every 20 to 100 ms, which is then 1%.
pub const LEAST_SECONDS: f64 = 10.0;

/// The plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Seconds that each engine decodes in a round at least, and is idle before it.
    pub seconds: f64,
    /// How often each engine is measured.
    pub rounds: usize,
    /// Tokens of each sequence's prompt.
    pub prompt_tokens: usize,
    /// Tokens decoded behind it, again and again.
    pub new_tokens: usize,
    /// Seconds that the reference engine may take to check what an engine decodes; 0 leaves that out.
    pub check_seconds: f64,
    /// Where Linux shows the counters of the CPU: elsewhere in a container that they are lent to.
    #[serde(default = "powercap_folder")]
    pub powercap: PathBuf,
    /// What is measured in turns.
    pub sets: Vec<SetPlan>,
}

/// A model and its engines, which take turns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetPlan {
    /// Its name in tables.
    pub name: String,
    /// The model.
    pub model: ModelPlan,
    /// Sequences that decode together.
    #[serde(default = "one")]
    pub batch: usize,
    /// The engines.
    pub subjects: Vec<SubjectPlan>,
}

/// An engine; without `engine` the one that the command line asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubjectPlan {
    /// Its name in tables.
    pub name: String,
    /// The engine; where it names no device, the one that the command line asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineChoice>,
}

fn powercap_folder() -> PathBuf {
    powercap::FOLDER.into()
}

fn one() -> usize {
    1
}

impl Plan {
    /// Reads a plan.
    ///
    /// # Errors
    /// What is malformed, or too short to be measured.
    pub fn parse(text: &str) -> Result<Self, ExperimentError> {
        let plan: Self = plan::parse(text)?;
        demand(&plan.sets, "sets")?;
        refuse_twice(plan.sets.iter().map(|set| &set.name), "sets")?;
        let wrong = |reason: String| Err(ExperimentError::Plan { reason });
        if plan.seconds.is_nan() || plan.seconds < LEAST_SECONDS {
            return wrong(format!(
                "`seconds` is {}; expected {LEAST_SECONDS} or more: energy counters are slow",
                plan.seconds
            ));
        }
        if plan.rounds == 0 || plan.prompt_tokens == 0 {
            return wrong("`rounds` and `prompt_tokens` must be 1 or more".into());
        }
        if plan.new_tokens < 2 {
            return wrong(format!(
                "`new_tokens` is {}; expected 2 or more",
                plan.new_tokens
            ));
        }
        for set in &plan.sets {
            demand(&set.subjects, "subjects")?;
            refuse_twice(set.subjects.iter().map(|subject| &subject.name), "subjects")?;
            if set.batch == 0 {
                return wrong(format!(
                    "set `{}`: `batch` is 0; expected 1 or more",
                    set.name
                ));
            }
        }
        Ok(plan)
    }

    /// What is decoded again and again.
    pub fn decode(&self, set: &SetPlan) -> DecodePlan {
        DecodePlan {
            prompt_tokens: self.prompt_tokens,
            new_tokens: self.new_tokens,
            repetitions: 1,
            batch: set.batch,
            bandwidth_seconds: 0.0,
            check_seconds: self.check_seconds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: (&str, &str)) -> String {
        let plan = include_str!("../../../experiments/energy/plan.toml");
        assert!(plan.contains(change.0));
        Plan::parse(&plan.replace(change.0, change.1))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_plan_too_short_to_be_measured_is_refused() {
        assert!(
            refused(("seconds = 10", "seconds = 9.5")).contains("`seconds` is 9.5; expected 10")
        );
        assert!(refused(("seconds = 10", "seconds = nan")).contains("`seconds`"));
        assert!(refused(("rounds = 5", "rounds = 0")).contains("`rounds`"));
        assert!(refused(("new_tokens = 256", "new_tokens = 1")).contains("`new_tokens` is 1"));
        assert!(refused(("batch = 8", "batch = 0")).contains("`batch` is 0"));
        assert!(refused(("threads = 1", "thread = 1")).contains("thread"));
    }
}
