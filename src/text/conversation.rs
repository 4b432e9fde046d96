//! A conversation as the prompt of its next answer.

use serde_json::{Map, Value};

use crate::model::TokenId;
use crate::model::chat_template::{ChatInput, ChatTemplate, ChatTemplateError};
use crate::model::tokenizer::{Tokenizer, TokenizerError};

/// What can go wrong between a conversation and its tokens.
#[derive(Debug, thiserror::Error)]
pub enum ConversationError {
    /// The template fails or refuses.
    #[error(transparent)]
    Template(#[from] ChatTemplateError),
    /// The text can't be tokenized.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// What was said so far, and how the checkpoint's template is to render it.
#[derive(Clone, Debug)]
pub struct Conversation<'m> {
    template: &'m ChatTemplate,
    tokenizer: &'m Tokenizer,
    messages: Vec<Map<String, Value>>,
    tools: Option<Vec<Value>>,
    variables: Vec<(String, Value)>,
}

impl<'m> Conversation<'m> {
    /// An empty conversation.
    pub fn new(template: &'m ChatTemplate, tokenizer: &'m Tokenizer) -> Self {
        Self {
            template,
            tokenizer,
            messages: Vec::new(),
            tools: None,
            variables: Vec::new(),
        }
    }

    /// Describes functions that the model may call, as JSON schemas.
    pub fn set_tools(&mut self, tools: Vec<Value>) {
        self.tools = Some(tools);
    }

    /// Gives the template a variable (`enable_thinking`).
    pub fn set_variable(&mut self, name: &str, value: Value) {
        self.variables.push((name.to_owned(), value));
    }

    /// Adds a message of `role`: `system`, `user`, `assistant`.
    pub fn push(&mut self, role: &str, content: &str) {
        let message = [("role", role), ("content", content)];
        let message = message.map(|(key, value)| (key.to_owned(), Value::from(value)));
        self.messages.push(message.into_iter().collect());
    }

    /// Takes back the last message.
    pub fn pop(&mut self) {
        self.messages.pop();
    }

    /// Forgets everything but the system's messages at the beginning.
    pub fn clear(&mut self) {
        let is_system = |message: &&Map<String, Value>| message["role"] == "system";
        let kept = self.messages.iter().take_while(is_system).count();
        self.messages.truncate(kept);
    }

    /// The tokens of the whole conversation and the beginning of the next answer.
    ///
    /// # Errors
    /// If the template refuses the conversation.
    pub fn prompt(&self) -> Result<Vec<TokenId>, ConversationError> {
        let text = self.template.render(&ChatInput {
            messages: &self.messages,
            tools: self.tools.as_deref(),
            add_generation_prompt: true,
            variables: &self.variables,
        })?;
        // The template writes the special tokens itself, a beginning-of-sequence token included.
        Ok(self.tokenizer.encode(&text, false)?)
    }
}
