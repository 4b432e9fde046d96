//! How a checkpoint wants to be sampled: `generation_config.json`.

use serde::Deserialize;

use super::TokenId;
use super::files::{Files, FilesError};
use super::tokenizer::Tokenizer;
use super::tokenizer_config::{TokenizerConfig, TokenizerConfigError};

/// Where a checkpoint's defaults are.
pub const GENERATION_FILE: &str = "generation_config.json";
const CONFIG_FILE: &str = "config.json";

/// transformers' `top_k` where sampling is on and nothing says otherwise
/// (`GenerationConfig._get_default_generation_params`).
const TRANSFORMERS_TOP_K: usize = 50;

/// What can go wrong with a checkpoint's generation defaults.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    /// A file that can't be read.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// A file that does not hold what it should.
    #[error("{file}: {reason}; correct the file, or remove it to do without its defaults")]
    Corrupt {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A `tokenizer_config.json` that can't be read.
    #[error(transparent)]
    TokenizerConfig(#[from] TokenizerConfigError),
}

/// A checkpoint's defaults for sampling, with transformers' meaning.
///
/// `do_sample` false or absent means greedy decoding: the other parameters then wait for a
/// temperature from the command line. With `do_sample` the temperature is 1 and top-k is 50 where
/// the file does not name them, as in transformers.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationDefaults {
    /// Tokens that end a text: `eos_token_id`, one or several.
    pub stop_tokens: Vec<TokenId>,
    /// Whether to draw at random; otherwise the likeliest token is taken.
    pub sample: bool,
    /// Divides the logits where tokens are drawn; above 0.
    pub temperature: f32,
    /// Keep only the k most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the most likely tokens until their probabilities reach p; 1 keeps all.
    pub top_p: f32,
    /// Keep the tokens at least this share as likely as the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen so far; greedy or not.
    pub repetition_penalty: f32,
}

impl Default for GenerationDefaults {
    /// Greedy decoding that no token ends.
    fn default() -> Self {
        Self {
            stop_tokens: Vec::new(),
            sample: false,
            temperature: 1.0,
            top_k: TRANSFORMERS_TOP_K,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
        }
    }
}

/// One id or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Ids {
    One(TokenId),
    Several(Vec<TokenId>),
}

impl Ids {
    fn into_vec(self) -> Vec<TokenId> {
        match self {
            Ids::One(id) => vec![id],
            Ids::Several(ids) => ids,
        }
    }
}

/// The fields of `generation_config.json` that are used; those of `config.json` with the same
/// names are a subset.
#[derive(Debug, Default, Deserialize)]
struct GenerationFile {
    eos_token_id: Option<Ids>,
    do_sample: Option<bool>,
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
}

#[derive(Debug, Default, Deserialize)]
struct ConfigFile {
    eos_token_id: Option<Ids>,
}

impl GenerationDefaults {
    /// The defaults of a checkpoint. Stop tokens come from `generation_config.json`, else from
    /// `config.json`, else the `eos_token` of `tokenizer_config.json` is looked up in `tokenizer`.
    ///
    /// # Errors
    /// Files that can't be read. Whether the numbers are in range is the sampler's to say.
    pub fn from_files(
        files: &Files,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<Self, GenerationError> {
        let file: GenerationFile = read(files, GENERATION_FILE)?.unwrap_or_default();
        let fallback = Self::default();
        let mut defaults = Self {
            stop_tokens: Vec::new(),
            sample: file.do_sample.unwrap_or(false),
            temperature: file.temperature.unwrap_or(fallback.temperature),
            top_k: file.top_k.unwrap_or(fallback.top_k),
            top_p: file.top_p.unwrap_or(fallback.top_p),
            min_p: file.min_p.unwrap_or(fallback.min_p),
            repetition_penalty: file
                .repetition_penalty
                .unwrap_or(fallback.repetition_penalty),
        };
        if defaults.temperature == 0.0 {
            // transformers refuses it; people write it for "greedy".
            defaults.sample = false;
            defaults.temperature = fallback.temperature;
        }
        defaults.stop_tokens = match file.eos_token_id {
            Some(ids) => ids.into_vec(),
            None => stop_tokens_elsewhere(files, tokenizer)?,
        };
        Ok(defaults)
    }
}

fn stop_tokens_elsewhere(
    files: &Files,
    tokenizer: Option<&Tokenizer>,
) -> Result<Vec<TokenId>, GenerationError> {
    let config: ConfigFile = read(files, CONFIG_FILE)?.unwrap_or_default();
    if let Some(ids) = config.eos_token_id {
        return Ok(ids.into_vec());
    }
    let config = TokenizerConfig::from_files(files)?;
    let id = config
        .special_token("eos_token")
        .zip(tokenizer)
        .and_then(|(content, tokenizer)| tokenizer.token_id(content));
    Ok(id.into_iter().collect())
}

fn read<T: serde::de::DeserializeOwned>(
    files: &Files,
    name: &str,
) -> Result<Option<T>, GenerationError> {
    let Some(bytes) = files.read(name)? else {
        return Ok(None);
    };
    match serde_json::from_slice(&bytes) {
        Ok(parsed) => Ok(Some(parsed)),
        Err(error) => Err(GenerationError::Corrupt {
            file: format!("{}/{name}", files.describe()),
            reason: error.to_string(),
        }),
    }
}
