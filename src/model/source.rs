//! Where a model comes from: the text behind `--model`.

use std::path::{Path, PathBuf};

use super::Progress;
use super::checkpoint::{self, CheckpointError, LoadOptions};
use super::config::{DimensionError, ModelConfig};
use super::files::{Files, FilesError};
use super::hub::{Hub, HubError, HubId, Parts};
use super::random;
use super::shapes::{self, UnknownShape};
use super::weights::Weights;

/// Why a model can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A text that is no source.
    #[error(
        "'{text}': there is no such folder, and it is no other model either; expected a folder \
         with config.json in it, a hub id like Qwen/Qwen3-0.6B, demo, or random:<shape>[@seed] \
         with one of the shapes {shapes}"
    )]
    NoSuchModel {
        /// What was asked for.
        text: String,
        /// The names of the shapes.
        shapes: String,
    },
    /// A seed that is no number.
    #[error("'{text}': the seed '{seed}' is not a whole number from 0 to 2^64 - 1")]
    Seed {
        /// What was asked for.
        text: String,
        /// What stands behind the `@`.
        seed: String,
    },
    /// A shape that has no name.
    #[error(transparent)]
    Shape(#[from] UnknownShape),
    /// A vocabulary that no model has.
    #[error("random weights: {0}")]
    Dimensions(#[from] DimensionError),
    /// Memory that the system refused.
    #[error("no memory for random weights of {parameters} parameters: {source}")]
    OutOfMemory {
        /// How many there were to be.
        parameters: usize,
        /// The system's word.
        source: std::io::Error,
    },
    /// A folder that can't be read.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// A checkpoint that can't be loaded.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A repository that can't be downloaded.
    #[error(transparent)]
    Hub(#[from] HubError),
}

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The model that is part of the program.
    Demo,
    /// Random weights.
    Random {
        /// One of [`shapes::names`].
        shape: &'static str,
        /// Which random weights.
        seed: u64,
    },
    /// A folder with a checkpoint.
    Folder(PathBuf),
    /// A repository on the hub.
    Hub(HubId),
}

/// How to load a model.
#[derive(Clone, Debug, Default)]
pub struct SourceOptions {
    /// Rows of the embedding of `random:tiny`, for a tokenizer that is lent to it. The other shapes
    /// have a vocabulary of their own.
    pub vocab_size: Option<usize>,
    /// Where the weights are to lie, and as what.
    pub load: LoadOptions,
    /// Whether to use the hub's cache alone; `HF_HUB_OFFLINE` says the same.
    pub offline: bool,
}

/// A model with its weights.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// A short name, for tables.
    pub name: String,
    /// The weights, and the configuration with them.
    pub weights: Weights,
    /// The checkpoint's files, for its tokenizer; random weights have none.
    pub files: Option<Files>,
}

impl Source {
    /// Reads what stands behind `--model`.
    ///
    /// # Errors
    /// If it is nothing that a model can come from.
    pub fn parse(text: &str) -> Result<Self, ModelError> {
        if text == "demo" {
            return Ok(Source::Demo);
        }
        if let Some(random) = text.strip_prefix("random:") {
            let (shape, seed) = random.split_once('@').unwrap_or((random, "0"));
            let seed = seed.parse().map_err(|_| ModelError::Seed {
                text: text.to_owned(),
                seed: seed.to_owned(),
            })?;
            let shape = shapes::find(shape)?;
            return Ok(Source::Random { shape, seed });
        }
        if !text.is_empty() && Path::new(text).exists() {
            return Ok(Source::Folder(text.into()));
        }
        HubId::parse(text)
            .map(Source::Hub)
            .ok_or_else(|| ModelError::NoSuchModel {
                text: text.to_owned(),
                shapes: shapes::names().join(", "),
            })
    }

    /// A short name, for tables: the last part of a folder's path, or what was asked for.
    pub fn name(&self) -> String {
        match self {
            Source::Demo => "demo".into(),
            Source::Random { shape, seed: 0 } => format!("random:{shape}"),
            Source::Random { shape, seed } => format!("random:{shape}@{seed}"),
            Source::Folder(path) => {
                let path = path.canonicalize().unwrap_or_else(|_| path.clone());
                let name = path.file_name().unwrap_or(path.as_os_str());
                name.to_string_lossy().into_owned()
            }
            Source::Hub(id) => id.to_string(),
        }
    }

    /// The files of the checkpoint, downloaded if need be; `None` for random weights.
    ///
    /// # Errors
    /// If there is no such folder or repository, or it can't be downloaded.
    pub fn files(
        &self,
        parts: Parts,
        options: &SourceOptions,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Option<Files>, ModelError> {
        Ok(match self {
            Source::Demo => Some(Files::demo()),
            Source::Random { .. } => None,
            Source::Folder(path) => Some(Files::folder(path)?),
            Source::Hub(id) => {
                let mut hub = Hub::from_env();
                hub.offline |= options.offline;
                Some(hub.fetch(id, parts, progress)?)
            }
        })
    }

    /// The model's dimensions, without its weights.
    ///
    /// # Errors
    /// As [`files`](Self::files), and as [`checkpoint::read_config`].
    pub fn config(
        &self,
        options: &SourceOptions,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<ModelConfig, ModelError> {
        if let Source::Random { shape, .. } = self {
            return random_config(shape, options);
        }
        let files = self.files(Parts::WithoutWeights, options, progress)?;
        let files = files.expect("only random weights have no files");
        Ok(checkpoint::read_config(&files)?)
    }

    /// Loads the model.
    ///
    /// # Errors
    /// As [`files`](Self::files), and as [`checkpoint::load`].
    pub fn load(
        &self,
        options: &SourceOptions,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Loaded, ModelError> {
        let files = self.files(Parts::All, options, progress)?;
        let mut loading = |done, total| progress(Progress::Loading { done, total });
        let weights = match (self, &files) {
            (Source::Random { shape, seed }, _) => {
                let config = random_config(shape, options)?;
                let made = random::weights(&config, *seed, &mut loading);
                made.map_err(|source| ModelError::OutOfMemory {
                    parameters: config.parameters(),
                    source,
                })?
            }
            (_, Some(files)) => checkpoint::load(files, options.load, &mut loading)?,
            (_, None) => unreachable!("only random weights have no files"),
        };
        Ok(Loaded {
            name: self.name(),
            weights,
            files,
        })
    }
}

fn random_config(shape: &str, options: &SourceOptions) -> Result<ModelConfig, ModelError> {
    let mut config = shapes::config(shape)?;
    if let Some(vocab_size) = options.vocab_size
        && shape == shapes::TINY
    {
        config.vocab_size = vocab_size;
        config.check()?;
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quiet() -> impl FnMut(Progress<'_>) {
        |_| ()
    }

    #[test]
    fn every_kind_of_source_is_recognised() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        let random = |shape, seed| Source::Random { shape, seed };
        let hub = |repository: &str, revision: Option<&str>| {
            Source::Hub(HubId {
                repository: repository.into(),
                revision: revision.map(str::to_owned),
            })
        };
        let sources = [
            ("demo", Source::Demo, "demo"),
            ("random:tiny", random("tiny", 0), "random:tiny"),
            (
                "random:Qwen3-0.6B@7",
                random("qwen3-0.6b", 7),
                "random:qwen3-0.6b@7",
            ),
            (
                "Qwen/Qwen3-0.6B",
                hub("Qwen/Qwen3-0.6B", None),
                "Qwen/Qwen3-0.6B",
            ),
            (
                "Qwen/Qwen3-0.6B@refs/pr/1",
                hub("Qwen/Qwen3-0.6B", Some("refs/pr/1")),
                "Qwen/Qwen3-0.6B@refs/pr/1",
            ),
        ];
        for (text, source, name) in sources {
            assert_eq!(Source::parse(text).unwrap(), source, "{text}");
            assert_eq!(source.name(), name);
        }
        let source = Source::parse(path).unwrap();
        assert_eq!(source, Source::Folder(path.into()));
        assert_eq!(
            source.name(),
            folder.path().file_name().unwrap().to_str().unwrap()
        );
    }

    #[test]
    fn what_is_no_source_is_told_what_would_be() {
        for text in [
            "",
            "qwen",
            "./no/such",
            "/no/such/folder",
            "a/b/c",
            "../up",
            "a/..",
            "a/b@../x",
            "a b/c",
        ] {
            let error = Source::parse(text).unwrap_err().to_string();
            assert!(error.contains(&format!("'{text}'")), "{error}");
            assert!(
                error.contains("hub id") && error.contains("qwen3-0.6b"),
                "{error}"
            );
        }
        let seed = Source::parse("random:tiny@x").unwrap_err().to_string();
        assert!(seed.contains("the seed 'x'"), "{seed}");
        let shape = Source::parse("random:tinny").unwrap_err().to_string();
        assert!(shape.contains("did you mean 'tiny'"), "{shape}");
    }

    #[test]
    fn random_weights_are_loaded_by_name_and_seed() {
        let load = |text: &str| {
            let source = Source::parse(text).unwrap();
            source
                .load(&SourceOptions::default(), &mut quiet())
                .unwrap()
        };
        let (first, again, other) = (
            load("random:tiny@1"),
            load("random:tiny@1"),
            load("random:tiny@2"),
        );
        assert!(first.files.is_none());
        assert_eq!(
            first.weights.embedding.as_bf16(),
            again.weights.embedding.as_bf16()
        );
        assert_ne!(
            first.weights.embedding.as_bf16(),
            other.weights.embedding.as_bf16()
        );
    }

    #[test]
    fn only_tiny_takes_the_vocabulary_of_a_tokenizer() {
        let options = SourceOptions {
            vocab_size: Some(1000),
            ..SourceOptions::default()
        };
        let config = |text: &str, options: &SourceOptions| {
            Source::parse(text).unwrap().config(options, &mut quiet())
        };
        assert_eq!(config("random:tiny", &options).unwrap().vocab_size, 1000);
        assert_eq!(
            config("random:qwen3-32b", &options).unwrap().vocab_size,
            151_936
        );
        let none = SourceOptions {
            vocab_size: Some(0),
            ..SourceOptions::default()
        };
        let error = config("random:tiny", &none).unwrap_err().to_string();
        assert!(error.contains("'vocab_size' is 0"), "{error}");
    }

    #[test]
    fn a_folder_is_loaded_with_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let tiny = random::weights(&shapes::config("tiny").unwrap(), 4, &mut |_, _| ()).unwrap();
        checkpoint::write(folder.path(), &tiny).unwrap();
        let source = Source::parse(folder.path().to_str().unwrap()).unwrap();
        let mut last = None;
        let mut progress = |progress: Progress<'_>| {
            if let Progress::Loading { done, total } = progress {
                last = Some((done, total));
            }
        };
        let loaded = source
            .load(&SourceOptions::default(), &mut progress)
            .unwrap();
        assert_eq!(loaded.weights.embedding.as_bf16(), tiny.embedding.as_bf16());
        assert_eq!(loaded.files.unwrap().path(), Some(folder.path()));
        assert!(last.is_some_and(|(done, total)| done == total && total > 0));
        assert_eq!(
            source
                .config(&SourceOptions::default(), &mut quiet())
                .unwrap(),
            tiny.config
        );
    }

    #[cfg(feature = "demo")]
    #[test]
    fn the_demo_is_loaded_from_the_program() {
        let loaded = Source::Demo
            .load(&SourceOptions::default(), &mut quiet())
            .unwrap();
        assert_eq!(
            (
                loaded.name.as_str(),
                loaded.weights.embedding.as_bf16().is_some()
            ),
            ("demo", true)
        );
        let files = loaded.files.unwrap();
        assert!(files.path().is_none() && files.has("tokenizer.json"));
    }

    #[test]
    fn a_file_is_no_folder() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let source = Source::parse(file.path().to_str().unwrap()).unwrap();
        let error = source
            .load(&SourceOptions::default(), &mut quiet())
            .unwrap_err()
            .to_string();
        assert!(error.contains("not a folder"), "{error}");
    }
}
