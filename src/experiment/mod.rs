//! Experiments: a question each, answered cell by cell, and kept in one JSON file.
//!
//! - here: what an experiment is, and the list of all of them
//! - [`plan`]: `experiments/<name>/plan.toml`, which says what varies
//! - [`run`]: goes through the cells, writes after each, goes on where an earlier run ended
//! - [`result`]: the file
//! - [`shard`]: parts of a plan that processes measure apart, and the whole of them
//! - [`jobs`]: shards as jobs of a cluster, or as processes
//! - [`models`]: models as plans name them
//! - [`traces`]: what `--trace` records of them
//! - [`behind_past`]: engines that decode behind a past, in turns
//! - [`reference_check`]: texts held against the reference engine
//! - [`sync_overhead`], [`optimizations`], [`positions`], [`constraints`], [`molecules`], [`quality`],
//!   [`energy`], [`frameworks`]: the experiments themselves
//!
//! Tables and charts are made from result files alone, by an experiment's `sections`.

pub mod behind_past;
pub mod constraints;
pub mod energy;
pub mod frameworks;
pub mod jobs;
pub mod models;
pub mod molecules;
pub mod optimizations;
pub mod plan;
pub mod positions;
pub mod quality;
pub mod reference_check;
pub mod result;
pub mod run;
pub mod shard;
pub mod sync_overhead;
pub mod traces;

use std::path::PathBuf;

use serde_json::Value;

use crate::constraint::ConstraintError;
use crate::engine::EngineError;
use crate::engine::choice::{ChoiceError, DeviceName, EngineChoice};
use crate::engine::megakernel::DeviceError;
use crate::measure::bandwidth::BandwidthError;
use crate::measure::divergence::LogitsError;
use crate::measure::synchronisation::SynchronisationError;
use crate::model::files::FilesError;
use crate::model::generation::GenerationError;
use crate::model::source::ModelError;
use crate::model::tokenizer::TokenizerError;
use crate::report::saved_logits::SavedLogitsError;
use crate::report::section::Section;
use result::CellRecord;
use traces::Traces;

/// A kind of experiment.
pub struct Kind {
    /// As in `onegrid experiment NAME`.
    pub name: &'static str,
    /// What it answers, in a line.
    pub question: &'static str,
    /// The plan that is followed where no other is given.
    pub plan: &'static str,
    /// Whether it runs engines, of which a trace can be recorded.
    pub has_traces: bool,
    /// Reads a plan.
    open: fn(&str, &Setting) -> Opened,
    /// What the cells of a result say.
    sections: fn(&[CellRecord]) -> Result<Vec<Section>, serde_json::Error>,
}

/// What becomes of a plan that is read.
type Opened = Result<Box<dyn Experiment>, ExperimentError>;

/// All experiments.
pub static ALL: &[Kind] = &[
    sync_overhead::KIND,
    optimizations::KIND,
    positions::KIND,
    constraints::KIND,
    molecules::KIND,
    quality::KIND,
    energy::KIND,
    frameworks::KIND,
];

/// The experiment called `name`.
pub fn find(name: &str) -> Option<&'static Kind> {
    ALL.iter().find(|kind| kind.name == name)
}

impl Kind {
    /// The experiment that `plan` describes.
    ///
    /// # Errors
    /// A plan that is malformed.
    pub fn open(&self, plan: &str, setting: &Setting) -> Opened {
        (self.open)(plan, setting)
    }

    /// What the cells of a result say, as tables and charts.
    ///
    /// # Errors
    /// Cells that this program did not write.
    pub fn sections(&self, cells: &[CellRecord]) -> Result<Vec<Section>, serde_json::Error> {
        (self.sections)(cells)
    }
}

/// What is the same for all experiments of a run.
#[derive(Clone, Debug, Default)]
pub struct Setting {
    /// The engine, where a plan names none of its own.
    pub engine: EngineChoice,
    /// What relative paths in a plan start from.
    pub folder: PathBuf,
    /// Whether to use downloaded models alone.
    pub offline: bool,
    /// The folder that the result goes to, for what is too long for the result itself.
    pub results: PathBuf,
    /// Traces to record, one of each engine of each cell, in runs that are not timed.
    pub traces: Option<Traces>,
}

impl Setting {
    /// The engine that a plan names; where it names none, or no device, as the command line asks.
    pub fn choice(&self, planned: Option<&EngineChoice>) -> EngineChoice {
        let mut choice = planned.unwrap_or(&self.engine).clone();
        if choice.device == DeviceName::Auto {
            choice.device = self.engine.device;
        }
        choice
    }
}

/// One plan of an experiment.
pub trait Experiment {
    /// The plan as it is carried out, for the result.
    fn plan(&self) -> Value;

    /// What is to be measured, in order. What is compared with each other is one cell, so that it is
    /// measured in turns.
    fn cells(&self) -> Vec<Cell>;

    /// Measures one of the cells.
    ///
    /// # Errors
    /// [`ExperimentError::NotMeasured`] where that is not possible here; what failed;
    /// [`ExperimentError::Interrupted`] if `watch` says so, as soon as possible.
    fn measure(&mut self, cell: &Cell, watch: &Watch) -> Result<Value, ExperimentError>;
}

/// A part of an experiment that is measured as a whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// Unlike those of all others of the plan: `demo/molecule-5/batch-8`.
    pub id: String,
    /// How long it takes, in units of the experiment's own: the time that is left is reckoned from it.
    pub weight: f64,
}

/// How a cell hears that it is to stop, and says what it is doing.
pub struct Watch<'a> {
    /// Whether the user wants an end.
    pub interrupted: &'a dyn Fn() -> bool,
    /// Told what is being done.
    pub doing: &'a dyn Fn(&str),
}

impl Watch<'_> {
    /// # Errors
    /// [`ExperimentError::Interrupted`] if the user wants an end.
    pub fn check(&self) -> Result<(), ExperimentError> {
        match (self.interrupted)() {
            true => Err(ExperimentError::Interrupted),
            false => Ok(()),
        }
    }
}

/// What keeps an experiment, or a cell of one, from being done.
#[derive(Debug, thiserror::Error)]
pub enum ExperimentError {
    /// A plan that can't be followed.
    #[error("the plan: {reason}")]
    Plan {
        /// What is wrong, and what was expected.
        reason: String,
    },
    /// A folder with the results of something else.
    #[error(
        "{} was begun by {found}, and this is {expected}: results of both would be mixed; \
         name another folder with --output",
        path.display()
    )]
    OtherResult {
        /// The file.
        path: PathBuf,
        /// What wrote it.
        found: String,
        /// What would go on with it.
        expected: String,
    },
    /// A file that holds something else.
    #[error("{}: {reason}; expected a result of `onegrid experiment`", path.display())]
    NoResult {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// What this machine can't measure.
    #[error("not measured: {reason}")]
    NotMeasured {
        /// Why.
        reason: String,
    },
    /// The user ended it.
    #[error("interrupted")]
    Interrupted,
    /// Output that is not what it must be: no speed is reported for it.
    #[error("wrong output: {reason}")]
    WrongOutput {
        /// What differs from what.
        reason: String,
    },
    /// A read bandwidth that can't be measured.
    #[error(transparent)]
    Bandwidth(#[from] BandwidthError),
    /// An engine that this machine has not.
    #[error(transparent)]
    Choice(#[from] ChoiceError),
    /// An engine that failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A device that failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Threads that can't be kept in step.
    #[error(transparent)]
    Synchronisation(#[from] SynchronisationError),
    /// A model that can't be loaded.
    #[error(transparent)]
    Model(Box<ModelError>),
    /// A tokenizer that can't be loaded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Logits that are no distribution, or of another vocabulary than the reference's.
    #[error("the logits after token {row}: {source}")]
    Logits {
        /// Which row, counted through all texts.
        row: usize,
        /// What is wrong with them.
        source: LogitsError,
    },
    /// A file of logits that can't be read.
    #[error(transparent)]
    SavedLogits(#[from] SavedLogitsError),
    /// A folder that can't be read.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// Sampling defaults that can't be read.
    #[error(transparent)]
    Generation(#[from] GenerationError),
    /// A constraint that can't be compiled.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
    /// Another program that does not do what was asked of it.
    #[error("{name}: {reason}")]
    Adapter {
        /// Its name in the plan.
        name: String,
        /// What it did, and its last words.
        reason: String,
    },
    /// A file, or a process.
    #[error("{what}: {source}")]
    System {
        /// The file, or what was done.
        what: String,
        /// The system's word.
        source: std::io::Error,
    },
    /// Results that JSON can't hold.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// Boxed, since it is larger than all others.
impl From<ModelError> for ExperimentError {
    fn from(error: ModelError) -> Self {
        Self::Model(Box::new(error))
    }
}

impl ExperimentError {
    /// An engine that can't be had: not measured, if it is this machine that lacks something.
    pub fn unless_missing(error: ChoiceError) -> Self {
        match error.is_missing_here() {
            true => Self::NotMeasured {
                reason: error.to_string(),
            },
            false => error.into(),
        }
    }

    /// As [`unless_missing`](Self::unless_missing), where a plan names engines for several devices: what
    /// is chosen of another device's engine is not measured on this one.
    pub fn unless_elsewhere(error: ChoiceError) -> Self {
        match error {
            ChoiceError::NotMegakernel { .. } => Self::NotMeasured {
                reason: error.to_string(),
            },
            error => Self::unless_missing(error),
        }
    }
}
