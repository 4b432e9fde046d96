//! A conversation as the text that a model was trained on: the checkpoint's Jinja template,
//! rendered to the byte as transformers' `apply_chat_template` does.
//!
//! The template language is minijinja's, whose version 3 prints values as Python does. This file
//! adds what transformers adds to Jinja2 (`chat_template_utils.py`): `tojson` like `json.dumps`,
//! `raise_exception`, `strftime_now`, `{% generation %}`, trimmed blocks, and Python's methods.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value as JinjaValue};
use minijinja::{AutoEscape, Environment, ErrorKind};
use serde_json::{Map, Value};

use super::files::Files;
use super::python_json::{JsonStyle, python_float};
use super::tokenizer_config::{TokenizerConfig, TokenizerConfigError};

/// What can go wrong with a chat template.
#[derive(Debug, thiserror::Error)]
pub enum ChatTemplateError {
    /// A checkpoint that has none.
    #[error(
        "{place}: no chat_template.jinja, and no chat_template in tokenizer_config.json; the model \
         was not made for conversations, so use `generate`"
    )]
    Missing {
        /// The checkpoint.
        place: String,
    },
    /// Several templates, none of which is the default.
    #[error("{file}: chat templates {names}, but none is named 'default'")]
    NoDefault {
        /// The file they lie in.
        file: String,
        /// Their names.
        names: String,
    },
    /// A template that does not compile.
    #[error("{file}: the chat template does not compile: {reason}")]
    Compile {
        /// The file it lies in.
        file: String,
        /// The line and what is wrong there.
        reason: String,
    },
    /// A conversation that the template itself refuses, by `raise_exception`.
    #[error("the model's chat template refuses this conversation: {message}")]
    Refused {
        /// The template's message.
        message: String,
    },
    /// A template that fails on a conversation.
    #[error("{file}: the chat template fails: {reason}")]
    Render {
        /// The file it lies in.
        file: String,
        /// The line and what is wrong there.
        reason: String,
    },
    /// A `tokenizer_config.json` that can't be read.
    #[error(transparent)]
    Config(#[from] TokenizerConfigError),
}

/// What a template renders.
#[derive(Clone, Debug, Default)]
pub struct ChatInput<'a> {
    /// The messages: objects with `role`, `content` and whatever else the template knows.
    pub messages: &'a [Map<String, Value>],
    /// Schemas of the functions that the model may call; `None` is not the same as none.
    pub tools: Option<&'a [Value]>,
    /// Whether to end with the beginning of the model's answer.
    pub add_generation_prompt: bool,
    /// Further variables, such as `enable_thinking`.
    pub variables: &'a [(String, Value)],
}

/// The chat template of a checkpoint.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    file: String,
    /// Names of the templates in `environment`.
    names: Vec<String>,
    special_tokens: Vec<(&'static str, String)>,
}

/// The template that is meant where several are there and none is named.
const DEFAULT: &str = "default";
/// The template that transformers prefers where tools are given.
const TOOL_USE: &str = "tool_use";
/// Marks the message of `raise_exception` among other failures.
const REFUSAL: &str = "\u{0}refused\u{0}";

impl ChatTemplate {
    /// The template of a checkpoint.
    ///
    /// # Errors
    /// If it has none, or one that does not compile.
    pub fn from_files(files: &Files) -> Result<Self, ChatTemplateError> {
        let config = TokenizerConfig::from_files(files)?;
        if config.templates().is_empty() {
            let place = files.describe();
            return Err(ChatTemplateError::Missing { place });
        }
        Self::from_config(&config)
    }

    /// The templates that `config` holds, which must be one at least.
    ///
    /// # Errors
    /// If one does not compile.
    ///
    /// # Panics
    /// If there is none.
    pub fn from_config(config: &TokenizerConfig) -> Result<Self, ChatTemplateError> {
        let mut environment = environment();
        for template in config.templates() {
            let source = without_generation_tags(&template.source);
            environment
                .add_template_owned(template.name.clone(), source)
                .map_err(|error| ChatTemplateError::Compile {
                    file: template.file.clone(),
                    reason: describe(&error),
                })?;
        }
        let names = config.templates().iter().map(|t| t.name.clone()).collect();
        Ok(Self {
            environment,
            file: config.templates()[0].file.clone(),
            names,
            special_tokens: config.special_tokens().to_vec(),
        })
    }

    /// The text of a conversation. It holds the special tokens that the model needs, so it is to
    /// be tokenized without adding any.
    ///
    /// # Errors
    /// If the template refuses the conversation or fails on it.
    pub fn render(&self, input: &ChatInput) -> Result<String, ChatTemplateError> {
        let mut context: Map<String, Value> = self
            .special_tokens
            .iter()
            .map(|(role, content)| ((*role).to_owned(), Value::from(content.as_str())))
            .collect();
        context.extend(input.variables.iter().cloned());
        let messages: Vec<Value> = input.messages.iter().map(with_reasoning).collect();
        let tools = input.tools.map_or(Value::Null, Value::from);
        context.insert("messages".into(), messages.into());
        context.insert("tools".into(), tools);
        context.insert("documents".into(), Value::Null);
        let add_generation_prompt = input.add_generation_prompt;
        context.insert("add_generation_prompt".into(), add_generation_prompt.into());
        self.environment
            .get_template(self.choose(input.tools.is_some())?)
            .and_then(|template| template.render(JinjaValue::from(Serde(context))))
            .map_err(|error| self.failure(&error))
    }

    /// transformers' choice among named templates.
    fn choose(&self, has_tools: bool) -> Result<&str, ChatTemplateError> {
        let has = |name: &str| self.names.iter().any(|known| known == name);
        if has_tools && has(TOOL_USE) {
            Ok(TOOL_USE)
        } else if has(DEFAULT) {
            Ok(DEFAULT)
        } else {
            Err(ChatTemplateError::NoDefault {
                file: self.file.clone(),
                names: self.names.join(", "),
            })
        }
    }

    fn failure(&self, error: &minijinja::Error) -> ChatTemplateError {
        let detail = error.detail().unwrap_or_default();
        match detail.strip_prefix(REFUSAL) {
            Some(message) => ChatTemplateError::Refused {
                message: message.to_owned(),
            },
            None => ChatTemplateError::Render {
                file: self.file.clone(),
                reason: describe(error),
            },
        }
    }
}

fn describe(error: &minijinja::Error) -> String {
    let what = match error.detail() {
        Some(detail) => format!("{} ({detail})", error.kind()),
        None => error.kind().to_string(),
    };
    match error.line() {
        Some(line) => format!("line {line}: {what}"),
        None => what,
    }
}

/// The environment of `_cached_compile_jinja_template`.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
        .expect("Jinja's own delimiters are valid");
    environment.set_syntax(syntax);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_formatter(|out, state, value| {
        let is_float = value.is_number() && !value.is_integer();
        match f64::try_from(value.clone()) {
            Ok(number) if is_float => Ok(out.write_str(&python_float(number))?),
            _ => minijinja::escape_formatter(out, state, value),
        }
    });
    environment.add_filter("tojson", to_json);
    environment.add_function("raise_exception", |message: String| {
        let detail = format!("{REFUSAL}{message}");
        Err::<(), _>(minijinja::Error::new(ErrorKind::InvalidOperation, detail))
    });
    environment.add_function("strftime_now", |format: String| {
        // In local time, as Python's `datetime.now()`.
        jiff::fmt::strtime::format(&format, &jiff::Zoned::now())
            .map_err(|error| minijinja::Error::new(ErrorKind::InvalidOperation, error.to_string()))
    });
    environment
}

/// transformers' `tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
fn to_json(
    value: &JinjaValue,
    ensure_ascii: Option<bool>,
    indent: Option<usize>,
    named: Kwargs,
) -> Result<JinjaValue, minijinja::Error> {
    let invalid = |detail: String| minijinja::Error::new(ErrorKind::InvalidOperation, detail);
    if value.is_undefined() {
        return Err(invalid("tojson of an undefined value".into()));
    }
    let ensure_ascii = match ensure_ascii {
        Some(ensure_ascii) => ensure_ascii,
        None => named.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
    };
    let indent = match indent {
        Some(indent) => Some(indent),
        None => named.get("indent")?,
    };
    let sort_keys = named.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let separators: Option<Vec<String>> = named.get("separators")?;
    let separators = match separators.as_deref() {
        None => None,
        Some([between, after_key]) => Some((between.clone(), after_key.clone())),
        Some(_) => return Err(invalid("tojson takes two separators".into())),
    };
    named.assert_all_used()?;
    let style = JsonStyle {
        indent,
        separators,
        ensure_ascii,
        sort_keys,
    };
    let json = serde_json::to_value(value).map_err(|error| invalid(error.to_string()))?;
    Ok(JinjaValue::from_safe_string(style.write(&json)))
}

/// A message with its reasoning under each name that templates read, as transformers'
/// `_alias_reasoning_fields`.
fn with_reasoning(message: &Map<String, Value>) -> Value {
    let reasoning = ["reasoning_content", "thinking", "reasoning"]
        .iter()
        .find_map(|name| message.get(*name).filter(|value| !value.is_null()));
    let Some(reasoning) = reasoning else {
        return message.clone().into();
    };
    let mut aliased = Map::new();
    aliased.insert("thinking".into(), reasoning.clone());
    aliased.extend(message.clone());
    aliased.insert("reasoning_content".into(), reasoning.clone());
    aliased.into()
}

/// `source` with `{% generation %}` blocks, with which transformers marks what the assistant said,
/// made plain: they change nothing in the text, and minijinja does not know them.
fn without_generation_tags(source: &str) -> String {
    let mut plain = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        let Some(end) = tag.find("%}") else { break };
        let (tag, after) = tag.split_at(end + "%}".len());
        let keyword = tag.trim_matches(['{', '%', '-', '+', '}', ' ', '\t', '\n', '\r']);
        plain += before;
        plain += &match keyword {
            "generation" => tag.replace(keyword, "if true"),
            "endgeneration" => tag.replace(keyword, "endif"),
            _ => tag.to_owned(),
        };
        rest = after;
    }
    plain + rest
}
