//! What a plan of this experiment says.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::engine::choice::EngineChoice;
use crate::experiment::ExperimentError;
use crate::experiment::models::ModelPlan;
use crate::experiment::plan::{self, demand, refuse_twice};
use crate::measure::divergence::Criteria;

/// The plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// What counts as a clear choice, and which sets of likeliest tokens are compared.
    #[serde(default)]
    pub criteria: Criteria,
    /// Texts and what is compared on them.
    pub sets: Vec<SetPlan>,
}

/// Texts, the reference's logits of them, and what is held against these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetPlan {
    /// Its name in tables.
    pub name: String,
    /// The model of its engines; may be left out where all logits come from files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelPlan>,
    /// The texts; left out where the reference is a file, which holds its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub texts: Option<TextsPlan>,
    /// The file of the reference's logits; without it the reference engine makes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<PathBuf>,
    /// The subject whose distance from the reference the others' are measured by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub yardstick: Option<String>,
    /// What is compared with the reference.
    pub subjects: Vec<SubjectPlan>,
}

/// Where texts come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TextsPlan {
    /// These, of each the first `length` tokens at most.
    Given {
        /// The texts.
        texts: Vec<String>,
        /// Tokens of each at most.
        length: usize,
    },
    /// A file, cut into pieces of `length` tokens; what is left at its end is left out.
    File {
        /// The file, from the plan's own folder on.
        path: PathBuf,
        /// Pieces at most.
        count: usize,
        /// Tokens of each.
        length: usize,
    },
    /// Token ids drawn from the whole vocabulary, which need no tokenizer.
    Random {
        /// How many texts.
        count: usize,
        /// Tokens of each.
        length: usize,
        /// Which ones.
        #[serde(default)]
        seed: u64,
    },
}

/// Something that makes logits. Without `engine`, `rounded_to` and `logits` it is the engine that the
/// command line asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubjectPlan {
    /// Its name in tables.
    pub name: String,
    /// An engine; where it names no device, the one that the command line asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineChoice>,
    /// The reference engine, rounding to these numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rounded_to: Option<Rounding>,
    /// A file of logits, from the plan's own folder on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logits: Option<PathBuf>,
    /// Tokens that an engine is given at once: 1 is decoding, more is prefill, whose arithmetic may be
    /// another.
    #[serde(default = "one")]
    pub tokens_at_once: usize,
}

/// Numbers that the reference engine can round to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    /// bf16, as a model that runs in bf16.
    Bf16,
}

fn one() -> usize {
    1
}

impl Plan {
    /// Reads a plan.
    ///
    /// # Errors
    /// What is malformed or contradicts itself.
    pub fn parse(text: &str) -> Result<Self, ExperimentError> {
        let plan: Self = plan::parse(text)?;
        demand(&plan.sets, "sets")?;
        if plan.criteria.top_k.contains(&0) {
            return Err(wrong("`top_k` holds a 0; expected 1 or more".into()));
        }
        refuse_twice(plan.sets.iter().map(|set| &set.name), "sets")?;
        plan.sets.iter().try_for_each(SetPlan::check)?;
        Ok(plan)
    }
}

impl SetPlan {
    fn check(&self) -> Result<(), ExperimentError> {
        let name = &self.name;
        let wrong = |reason: String| Err(wrong(format!("set `{name}`: {reason}")));
        demand(&self.subjects, "subjects")?;
        refuse_twice(
            self.subjects.iter().map(|subject| &subject.name),
            "subjects",
        )?;
        match (&self.texts, &self.reference) {
            (None, None) => {
                return wrong("expected `texts`, or a `reference` that holds some".into());
            }
            (Some(_), Some(_)) => {
                return wrong("`reference` holds its own texts; leave out `texts`".into());
            }
            _ => {}
        }
        let needs_model =
            self.reference.is_none() || self.subjects.iter().any(|s| s.logits.is_none());
        if needs_model && self.model.is_none() {
            return wrong("expected a `model` for its engines".into());
        }
        for subject in &self.subjects {
            let SubjectPlan { name, .. } = subject;
            if name.contains('/') {
                return wrong(format!("the name `{name}` holds a `/`"));
            }
            if name == REFERENCE {
                return wrong(format!("a subject can't be called `{REFERENCE}`"));
            }
            let kinds = [
                subject.engine.is_some(),
                subject.rounded_to.is_some(),
                subject.logits.is_some(),
            ];
            if kinds.into_iter().filter(|given| *given).count() > 1 {
                return wrong(format!(
                    "subject `{name}`: expected one of `engine`, `rounded_to` and `logits`"
                ));
            }
            if subject.tokens_at_once == 0 {
                return wrong(format!(
                    "subject `{name}`: `tokens_at_once` is 0; expected 1 or more"
                ));
            }
        }
        match &self.yardstick {
            Some(name) if self.subjects.iter().all(|subject| subject.name != *name) => {
                wrong(format!("there is no subject `{name}` for the yardstick"))
            }
            _ => Ok(()),
        }
    }
}

/// What the reference's own cell is called.
pub const REFERENCE: &str = "reference";

fn wrong(reason: String) -> ExperimentError {
    ExperimentError::Plan { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBJECT: &str = "[[sets.subjects]]\nname = \"asked\"\n";
    const RANDOM: &str = "[sets.texts.random]\ncount = 2\nlength = 3\n";

    fn refused(plan: &str) -> String {
        Plan::parse(plan).unwrap_err().to_string()
    }

    fn set(head: &str, rest: &str) -> String {
        format!("[[sets]]\nname = \"a\"\n{head}\n{rest}")
    }

    #[test]
    fn a_plan_is_read_with_its_defaults() {
        let plan = set(
            "model = { model = \"demo\" }",
            &format!("{RANDOM}{SUBJECT}"),
        );
        let plan = Plan::parse(&plan).unwrap();
        assert_eq!(plan.criteria, Criteria::default());
        let texts = TextsPlan::Random {
            count: 2,
            length: 3,
            seed: 0,
        };
        assert_eq!(plan.sets[0].texts, Some(texts));
        assert_eq!(plan.sets[0].subjects[0].tokens_at_once, 1);
    }

    #[test]
    fn a_plan_that_contradicts_itself_is_refused_by_name() {
        let demo = "model = { model = \"demo\" }";
        let with = |head: &str, rest: &str| refused(&set(head, rest));
        assert!(refused("").contains("set"));
        assert!(with(demo, SUBJECT).contains("set `a`: expected `texts`"));
        let both = format!("{demo}\nreference = \"f\"");
        assert!(with(&both, &format!("{RANDOM}{SUBJECT}")).contains("leave out `texts`"));
        assert!(with("", &format!("{RANDOM}{SUBJECT}")).contains("expected a `model`"));
        assert!(with("reference = \"f\"", SUBJECT).contains("expected a `model`"));
        let twice = format!("{RANDOM}{SUBJECT}{SUBJECT}");
        assert!(with(demo, &twice).contains("two subjects are called `asked`"));
        let yardstick = format!("{demo}\nyardstick = \"b\"");
        assert!(with(&yardstick, &format!("{RANDOM}{SUBJECT}")).contains("no subject `b`"));
        let subject = |fields: &str| with(demo, &format!("{RANDOM}{SUBJECT}{fields}\n"));
        let two = "rounded_to = \"bf16\"\nlogits = \"f\"";
        assert!(subject(two).contains("subject `asked`: expected one of"));
        assert!(subject("tokens_at_once = 0").contains("`tokens_at_once` is 0"));
        assert!(subject("rounded_to = \"f8\"").contains("bf16"));
        assert!(subject("kernels = \"avx2\"").contains("kernels"));
        let criteria = format!(
            "[criteria]\nclear_margin = 1\ntop_k = [0]\n{}",
            set(demo, SUBJECT)
        );
        assert!(refused(&criteria).contains("`top_k` holds a 0"));
        let slash = "[[sets.subjects]]\nname = \"a/b\"\n";
        assert!(with(demo, &format!("{RANDOM}{slash}")).contains("`a/b` holds a `/`"));
        let reference = "[[sets.subjects]]\nname = \"reference\"\n";
        assert!(with(demo, &format!("{RANDOM}{reference}")).contains("can't be called"));
    }
}
