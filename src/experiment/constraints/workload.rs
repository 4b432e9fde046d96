//! What is to be written: a text with free parts, as a template, a molecule or a schema.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::constraint::json_schema::JsonSchema;
use crate::constraint::molecule::Molecule;
use crate::constraint::template::Template;
use crate::constraint::{Compiler, Constraint, ConstraintError, Source};

use super::{ExperimentError, Method};

/// A workload. It is given by `segments` or by a `molecule`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Its name in results.
    pub name: String,
    /// What stands before the text.
    pub prompt: String,
    /// The most tokens to make.
    pub max_tokens: usize,
    /// A template, as in a template file; slots have placeholders, for the masks by position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segments: Option<Value>,
    /// A SMILES whose atoms get points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub molecule: Option<String>,
    /// The regex of the molecule's coordinates, where it is to be another than usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coordinate: Option<String>,
    /// A schema whose texts are those of `segments`: what the automaton is made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Value>,
    /// Whether the text holds points `<x,y,z>` or their coordinates, in which junk is looked for.
    #[serde(default)]
    pub points: bool,
}

impl Workload {
    /// The text as literals and slots.
    ///
    /// # Errors
    /// Neither or both of `segments` and `molecule`; what is wrong with them.
    pub fn template(&self) -> Result<Template, ExperimentError> {
        match (&self.segments, &self.molecule) {
            (Some(segments), None) => {
                let json = serde_json::to_vec(segments)?;
                Ok(Template::from_json(&json)?)
            }
            (None, Some(smiles)) => Ok(self.as_molecule(smiles)?.template()),
            _ => Err(ExperimentError::Plan {
                reason: format!(
                    "workload '{}' has neither or both of `segments` and `molecule`; expected is one",
                    self.name
                ),
            }),
        }
    }

    /// The constraint of `method`; `None` for none.
    ///
    /// # Errors
    /// What can't be compiled.
    pub fn constraint(
        &self,
        method: Method,
        compiler: &Compiler,
    ) -> Result<Option<Constraint>, ExperimentError> {
        let positions = |truncate| {
            let positions = compiler.positions(&self.template()?, truncate)?;
            Ok::<_, ExperimentError>(Source::Position(positions))
        };
        let source = match method {
            Method::None => return Ok(None),
            Method::Position => positions(false)?,
            Method::PositionTruncate => positions(true)?,
            Method::Automaton => self.automaton()?,
        };
        Ok(Some(compiler.compile(&source)?))
    }

    fn automaton(&self) -> Result<Source, ExperimentError> {
        if let Some(schema) = &self.schema {
            let json = serde_json::to_vec(schema)?;
            return Ok(Source::JsonSchema(JsonSchema::from_json(&json)?));
        }
        Ok(match &self.molecule {
            Some(smiles) => Source::Molecule(self.as_molecule(smiles)?),
            None => Source::Template(self.template()?),
        })
    }

    fn as_molecule(&self, smiles: &str) -> Result<Molecule, ConstraintError> {
        let molecule = Molecule::new(smiles)?;
        Ok(match &self.coordinate {
            Some(regex) => molecule.with_coordinate(regex),
            None => molecule,
        })
    }
}
