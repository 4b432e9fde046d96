//! The model that the flags name: its weights, and the files of its text side.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use indicatif::{ProgressBar, ProgressStyle};

use super::options::{EngineArgs, ModelArgs};
use crate::model::chat_template::ChatTemplate;
use crate::model::checkpoint;
use crate::model::generation::GenerationDefaults;
use crate::model::hub::Parts;
use crate::model::shapes;
use crate::model::source::{Source, SourceOptions};
use crate::model::tokenizer::{Tokenizer, TokenizerError};
use crate::model::{Files, Progress, Weights};

/// Work that is done sooner gets no progress bar.
const PATIENCE: Duration = Duration::from_millis(500);

/// A model in memory.
#[derive(Debug)]
pub struct LoadedModel {
    /// A short name, for tables and messages.
    pub name: String,
    /// Its weights.
    pub weights: Weights,
    /// Where its tokenizer and its defaults are.
    pub text: TextFiles,
    /// Seconds that the weights took, a download included.
    pub load_seconds: f64,
}

impl ModelArgs {
    /// Loads the weights as `engine` wants them, with a progress bar if that takes a while.
    ///
    /// # Errors
    /// A model that does not exist or is malformed; an engine that this build does not have.
    pub fn load(&self, engine: &EngineArgs) -> anyhow::Result<LoadedModel> {
        engine.check()?;
        let source = Source::parse(&self.model)?;
        let options = SourceOptions {
            vocab_size: self.lent_vocab_size(&source)?,
            load: engine.load_options(),
            offline: self.offline,
        };
        let start = Instant::now();
        let mut bar = Bar::default();
        let loaded = source.load(&options, &mut |progress| bar.show(progress))?;
        drop(bar);
        Ok(LoadedModel {
            weights: loaded.weights,
            load_seconds: start.elapsed().as_secs_f64(),
            text: TextFiles {
                name: loaded.name.clone(),
                own: loaded.files,
                lent: self.tokenizer.clone(),
            },
            name: loaded.name,
        })
    }

    /// The files of the model's text side alone; neither loads nor downloads weights.
    ///
    /// # Errors
    /// A model that does not exist.
    pub fn text_files(&self) -> anyhow::Result<TextFiles> {
        let source = Source::parse(&self.model)?;
        let options = SourceOptions {
            offline: self.offline,
            ..SourceOptions::default()
        };
        let mut bar = Bar::default();
        Ok(TextFiles {
            name: source.name(),
            own: source.files(Parts::WithoutWeights, &options, &mut |p| bar.show(p))?,
            lent: self.tokenizer.clone(),
        })
    }

    /// The size of the vocabulary that `random:tiny` takes from a tokenizer it is lent.
    fn lent_vocab_size(&self, source: &Source) -> Result<Option<usize>, TokenizerError> {
        match (source, &self.tokenizer) {
            (Source::Random { shape, .. }, Some(path)) if *shape == shapes::TINY => {
                Ok(Some(Tokenizer::from_path(path)?.own_size()))
            }
            _ => Ok(None),
        }
    }
}

/// Where a model's tokenizer, chat template and sampling defaults are: in its own folder, or in
/// the one that `--tokenizer` lends it. Each is read when it is asked for.
#[derive(Clone, Debug)]
pub struct TextFiles {
    name: String,
    /// `None` for random weights.
    own: Option<Files>,
    lent: Option<PathBuf>,
}

impl TextFiles {
    /// The tokenizer, padded to `vocab_size`; `None` for random weights that are lent none.
    ///
    /// # Errors
    /// If it is missing or corrupt.
    pub fn tokenizer(
        &self,
        vocab_size: Option<usize>,
    ) -> Result<Option<Tokenizer>, TokenizerError> {
        let tokenizer = match (&self.lent, &self.own) {
            (Some(path), _) => Tokenizer::from_path(path)?,
            (None, Some(files)) => Tokenizer::from_files(files)?,
            (None, None) => return Ok(None),
        };
        Ok(Some(tokenizer.padded_to(vocab_size.unwrap_or(0))))
    }

    /// The tokenizer, padded to `vocab_size`.
    ///
    /// # Errors
    /// If there is none.
    pub fn demand_tokenizer(&self, vocab_size: Option<usize>) -> anyhow::Result<Tokenizer> {
        self.tokenizer(vocab_size)?.ok_or_else(|| {
            anyhow!(
                "{} has no tokenizer; lend it one with --tokenizer PATH",
                self.name
            )
        })
    }

    /// The model's vocabulary size, from its `config.json` if that can be read.
    pub fn vocab_size(&self) -> Option<usize> {
        let config = checkpoint::read_config(self.own.as_ref()?).ok()?;
        Some(config.vocab_size)
    }

    /// The sampling defaults: the checkpoint's, or those beside the tokenizer that random weights
    /// are lent; else greedy decoding without end.
    ///
    /// # Errors
    /// If a file is malformed.
    pub fn generation_defaults(
        &self,
        tokenizer: Option<&Tokenizer>,
    ) -> anyhow::Result<GenerationDefaults> {
        let files = match &self.own {
            Some(files) => Some(files.clone()),
            None => self.lent_folder()?,
        };
        Ok(match files {
            Some(files) => GenerationDefaults::from_files(&files, tokenizer)?,
            None => GenerationDefaults::default(),
        })
    }

    /// The chat template, from where the tokenizer is.
    ///
    /// # Errors
    /// If there is none.
    pub fn chat_template(&self) -> anyhow::Result<ChatTemplate> {
        let files = match self.lent_folder()? {
            Some(files) => Some(files),
            None => self.own.clone(),
        };
        let files = files.ok_or_else(|| {
            anyhow!(
                "{} has no chat template; lend it a folder that holds one with --tokenizer PATH",
                self.name
            )
        })?;
        Ok(ChatTemplate::from_files(&files)?)
    }

    fn lent_folder(&self) -> anyhow::Result<Option<Files>> {
        let folder = self.lent.as_ref().filter(|path| path.is_dir());
        Ok(folder.map(Files::folder).transpose()?)
    }
}

/// Progress on standard error: a bar for work that takes a while and people who watch, and notes
/// for everybody.
#[derive(Debug)]
pub struct Bar {
    start: Instant,
    bar: Option<ProgressBar>,
    /// What the bar measures.
    what: String,
}

impl Default for Bar {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            bar: None,
            what: String::new(),
        }
    }
}

impl Bar {
    /// Shows how far loading is.
    pub fn show(&mut self, progress: Progress) {
        match progress {
            Progress::Downloading { file, done, total } => self.bytes(file, done, total),
            Progress::Loading { done, total } => self.bytes("loading", done, total),
            Progress::Note(note) => match &self.bar {
                Some(bar) => bar.suspend(|| eprintln!("note: {note}")),
                None => eprintln!("note: {note}"),
            },
        }
    }

    /// Shows `done` of `total` bytes of `what`, where standard error is a terminal.
    pub fn bytes(&mut self, what: &str, done: u64, total: u64) {
        if self.start.elapsed() < PATIENCE {
            return;
        }
        if self.what != what {
            self.clear();
            what.clone_into(&mut self.what);
        }
        let bar = self.bar.get_or_insert_with(|| {
            // indicatif draws on standard error, and only if it is a terminal.
            let style = "{msg} {wide_bar} {bytes}/{total_bytes} {eta}";
            let style = ProgressStyle::with_template(style).expect("the template is valid");
            ProgressBar::new(total)
                .with_style(style)
                .with_message(self.what.clone())
        });
        bar.set_position(done);
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}
