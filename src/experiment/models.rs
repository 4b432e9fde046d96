//! Models as plans name them, loaded once for all cells in a row that need them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{ExperimentError, Setting};
use crate::memory;
use crate::model::checkpoint::LoadOptions;
use crate::model::generation::GenerationDefaults;
use crate::model::tokenizer::Tokenizer;
use crate::model::{Files, ModelConfig, Source, SourceOptions, TokenId, Weights, shapes};

/// A model in a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelPlan {
    /// As behind `--model`.
    pub model: String,
    /// A tokenizer to lend to random weights: a file or a folder, from the plan's own folder on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
}

/// A model in memory.
#[derive(Clone, Debug)]
pub struct Model {
    /// A short name, for tables.
    pub name: String,
    /// Its weights; a clone shares them.
    pub weights: Weights,
    /// Its tokenizer, padded to the embedding; random weights may have none.
    pub tokenizer: Option<Tokenizer>,
    /// The tokens that end a text.
    pub stop_tokens: Vec<TokenId>,
}

/// The model that was loaded last.
#[derive(Debug, Default)]
pub struct Models {
    last: Option<(ModelPlan, LoadOptions, Model)>,
}

/// Memory that decoding takes beside weights and KV cache: activations, logits, the program.
const OTHER_MEMORY: u64 = 200_000_000;

impl ModelPlan {
    fn source(&self) -> Result<Source, ExperimentError> {
        Ok(Source::parse(&self.model)?)
    }

    /// Its dimensions.
    ///
    /// # Errors
    /// A model that is not there.
    pub fn config(&self, setting: &Setting) -> Result<ModelConfig, ExperimentError> {
        let options = self.options(setting, LoadOptions::default())?;
        Ok(self.source()?.config(&options, &mut |_| ())?)
    }

    fn options(
        &self,
        setting: &Setting,
        load: LoadOptions,
    ) -> Result<SourceOptions, ExperimentError> {
        let is_tiny =
            matches!(self.source()?, Source::Random { shape, .. } if shape == shapes::TINY);
        let lent = match &self.tokenizer {
            Some(path) if is_tiny => Some(Tokenizer::from_path(&setting.folder.join(path))?),
            _ => None,
        };
        Ok(SourceOptions {
            vocab_size: lent.map(|tokenizer| tokenizer.own_size()),
            load,
            offline: setting.offline,
        })
    }
}

impl Models {
    /// The model that `plan` names, for engines that hold `positions` positions in all, as
    /// `load` says.
    ///
    /// # Errors
    /// A model or a tokenizer that is not there or is malformed;
    /// [`ExperimentError::NotMeasured`] if it does not fit into memory.
    pub fn load(
        &mut self,
        plan: &ModelPlan,
        setting: &Setting,
        load: LoadOptions,
        positions: usize,
    ) -> Result<Model, ExperimentError> {
        if let Some((known, loaded, model)) = &self.last
            && (known, *loaded) == (plan, load)
        {
            return Ok(model.clone());
        }
        // Two models need not fit.
        self.last = None;
        let source = plan.source()?;
        let options = plan.options(setting, load)?;
        let config = source.config(&options, &mut |_| ())?;
        let needed = 2 * config.parameters() + positions * config.kv_bytes_per_position();
        let needed = needed as u64 + OTHER_MEMORY;
        if let Some(free) = memory::available().filter(|&free| free < needed) {
            return Err(ExperimentError::NotMeasured {
                reason: format!(
                    "{} needs {} MB of memory, and {} MB are free",
                    plan.model,
                    needed / 1_000_000,
                    free / 1_000_000
                ),
            });
        }
        let loaded = source.load(&options, &mut |_| ())?;
        let lent = plan
            .tokenizer
            .as_ref()
            .map(|path| setting.folder.join(path));
        let tokenizer = match (&lent, &loaded.files) {
            (Some(path), _) => Some(Tokenizer::from_path(path)?),
            (None, Some(files)) => Some(Tokenizer::from_files(files)?),
            (None, None) => None,
        };
        let tokenizer = tokenizer.map(|tokenizer| tokenizer.padded_to(config.vocab_size));
        let files = match (loaded.files, lent) {
            (Some(files), _) => Some(files),
            (None, Some(path)) if path.is_dir() => Some(Files::folder(&path)?),
            (None, _) => None,
        };
        let defaults =
            files.map(|files| GenerationDefaults::from_files(&files, tokenizer.as_ref()));
        let model = Model {
            name: loaded.name,
            weights: loaded.weights,
            stop_tokens: (defaults.transpose()?)
                .map_or(Vec::new(), |defaults| defaults.stop_tokens),
            tokenizer,
        };
        self.last = Some((plan.clone(), load, model.clone()));
        Ok(model)
    }

    /// Forgets the model, so that its memory is free.
    pub fn clear(&mut self) {
        self.last = None;
    }
}
