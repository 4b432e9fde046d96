//! Text in, text out: what the tokenizer, the chat template and an engine do together.
//!
//! - [`budget`]: how long a prompt and its continuation may be
//! - [`sampling_choice`]: a checkpoint's sampling defaults and what the user wants instead
//! - [`completion`]: one continuation of one prompt, streamed and timed
//! - [`conversation`]: a conversation as the prompt of its next answer

pub mod budget;
pub mod completion;
pub mod conversation;
pub mod sampling_choice;
