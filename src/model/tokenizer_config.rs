//! What `tokenizer_config.json` says beside the tokenizer: special tokens by role, chat templates.

use serde_json::{Map, Value};

use super::files::{Files, FilesError};

const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";
const TEMPLATE_FILE: &str = "chat_template.jinja";

/// The roles of special tokens that transformers tells a chat template
/// (`PreTrainedTokenizerBase.SPECIAL_TOKENS_ATTRIBUTES`).
const ROLES: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// What can go wrong with a `tokenizer_config.json`.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerConfigError {
    /// A file that can't be read.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// A file that does not hold what it should.
    #[error("{file}: {reason}; get the file anew")]
    Corrupt {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A template as a checkpoint carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedTemplate {
    /// `default`, `tool_use`, ...
    pub name: String,
    /// The Jinja source.
    pub source: String,
    /// The file it lies in, for messages.
    pub file: String,
}

/// The parts of `tokenizer_config.json` that are used; empty where there is no such file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenizerConfig {
    /// Special tokens by role.
    special_tokens: Vec<(&'static str, String)>,
    templates: Vec<NamedTemplate>,
}

impl TokenizerConfig {
    /// The configuration of a checkpoint. A `chat_template.jinja` takes the place of the
    /// templates inside `tokenizer_config.json`, as in transformers.
    ///
    /// # Errors
    /// Files that can't be read or don't hold what they should.
    pub fn from_files(files: &Files) -> Result<Self, TokenizerConfigError> {
        let file = format!("{}/{TOKENIZER_CONFIG_FILE}", files.describe());
        let corrupt = |reason: String| TokenizerConfigError::Corrupt {
            file: file.clone(),
            reason,
        };
        let mut config = Self::default();
        if let Some(bytes) = files.read(TOKENIZER_CONFIG_FILE)? {
            let json: Map<String, Value> =
                serde_json::from_slice(&bytes).map_err(|error| corrupt(error.to_string()))?;
            for role in ROLES {
                if let Some(content) = json.get(role).and_then(token_content) {
                    config.special_tokens.push((role, content.to_owned()));
                }
            }
            if let Some(templates) = json.get("chat_template").filter(|value| !value.is_null()) {
                config.templates = inline_templates(templates, &file).ok_or_else(|| {
                    corrupt(
                        "chat_template is neither a string nor a list of objects with the strings \
                         'name' and 'template'"
                            .into(),
                    )
                })?;
            }
        }
        if let Some(bytes) = files.read(TEMPLATE_FILE)? {
            let file = format!("{}/{TEMPLATE_FILE}", files.describe());
            let source = String::from_utf8(bytes.into_owned()).map_err(|error| {
                let (file, reason) = (file.clone(), error.to_string());
                TokenizerConfigError::Corrupt { file, reason }
            })?;
            config.templates = vec![NamedTemplate {
                name: "default".into(),
                source,
                file,
            }];
        }
        Ok(config)
    }

    /// The content of the special token with this role (`eos_token`).
    pub fn special_token(&self, role: &str) -> Option<&str> {
        let found = self.special_tokens.iter().find(|(known, _)| *known == role);
        found.map(|(_, content)| content.as_str())
    }

    /// All special tokens that have a role: role and content.
    pub fn special_tokens(&self) -> &[(&'static str, String)] {
        &self.special_tokens
    }

    /// The chat templates, by name.
    pub fn templates(&self) -> &[NamedTemplate] {
        &self.templates
    }
}

/// A token is a string, or an object whose `content` is one.
fn token_content(value: &Value) -> Option<&str> {
    value
        .as_str()
        .or_else(|| value.get("content").and_then(Value::as_str))
}

fn inline_templates(value: &Value, file: &str) -> Option<Vec<NamedTemplate>> {
    let template = |name: &str, source: &str| NamedTemplate {
        name: name.to_owned(),
        source: source.to_owned(),
        file: file.to_owned(),
    };
    match value {
        Value::String(source) => Some(vec![template("default", source)]),
        Value::Array(list) => list
            .iter()
            .map(|entry| {
                let text = |key: &str| entry.get(key).and_then(Value::as_str);
                Some(template(text("name")?, text("template")?))
            })
            .collect(),
        _ => None,
    }
}
