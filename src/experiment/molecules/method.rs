//! How a text is kept in form.

use serde::{Deserialize, Serialize};

use super::Plan;
use crate::constraint::molecule::Molecule;
use crate::constraint::position::{Positions, Run};
use crate::constraint::{Compiler, Constraint, ConstraintError, Source};
use crate::experiment::ExperimentError;
use crate::model::TokenId;

/// How a text is kept in form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Not at all.
    None,
    /// By a mask for each position: the molecule's own text is copied, and a point is as many free
    /// positions as the plan's placeholder has tokens.
    Position,
    /// The same, but a point ends when it is complete.
    PositionTruncate,
    /// As `Position`, with as many free positions as most points of the data take with this tokenizer.
    PositionFitted,
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
            Self::PositionFitted => "position-fitted",
            Self::Automaton => "automaton",
        }
    }
}

/// Makes the constraints of a cell.
#[derive(Debug)]
pub struct Constraints<'a> {
    /// What varies.
    pub plan: &'a Plan,
    /// Of the model's tokenizer.
    pub compiler: &'a Compiler<'a>,
    /// Tokens that no free position may have.
    pub blocked: Vec<TokenId>,
    /// Free positions of a fitted point.
    pub fitted: usize,
}

impl Constraints<'_> {
    /// The constraint of `method` for a molecule; `None` for none.
    ///
    /// # Errors
    /// What is no SMILES; what can't be compiled.
    pub fn of(&self, method: Method, smiles: &str) -> Result<Option<Constraint>, ExperimentError> {
        let molecule = Molecule::new(smiles)?.with_coordinate(&self.plan.coordinate);
        let source = match method {
            Method::None => return Ok(None),
            Method::Position => self.positions(&molecule, None, false)?,
            Method::PositionTruncate => self.positions(&molecule, None, true)?,
            Method::PositionFitted => self.positions(&molecule, Some(self.fitted), false)?,
            Method::Automaton => Source::Molecule(molecule),
        };
        Ok(Some(self.compiler.compile(&source)?))
    }

    /// A mask by position whose points have `count` free positions, or those of the placeholder.
    fn positions(
        &self,
        molecule: &Molecule,
        count: Option<usize>,
        truncate: bool,
    ) -> Result<Source, ConstraintError> {
        let template = molecule.template_of_points(&self.plan.placeholder);
        let positions = self.compiler.positions(&template, truncate)?;
        let mut runs = positions.runs().to_vec();
        for run in &mut runs {
            if let Run::Free(free) = run {
                free.count = count.unwrap_or(free.count);
                free.blocked = Some(self.blocked.clone());
            }
        }
        Ok(Source::Position(Positions::new(runs, truncate)?))
    }
}
