//! What a checkpoint is: its configuration, its weights, its tokenizer.
//!
//! - [`checkpoint`]: a Hugging Face folder, read and written
//! - [`config`]: the dimensions and switches of `config.json`
//! - [`config_json`]: reading and writing `config.json`
//! - [`files`]: the files of a checkpoint, in a folder or embedded
//! - [`layout`]: the names, shapes and order of the tensors
//! - [`weights`]: the tensors an engine reads, by name
//! - [`storage`]: where the numbers of a tensor lie: a mapped file or huge pages
//! - [`random`]: deterministic random weights of a given shape
//! - [`shapes`]: the shapes that have a name
//! - [`tokenizer`]: text to tokens and back
//! - [`tokenizer_config`]: special tokens by role, and the chat templates
//! - [`chat_template`]: a conversation as the text that a model was trained on
//! - [`python_json`]: JSON and numbers as Python writes them
//! - [`generation`]: how a checkpoint wants to be sampled

pub mod chat_template;
pub mod checkpoint;
pub mod config;
pub mod config_json;
pub mod files;
pub mod generation;
pub mod layout;
pub mod python_json;
pub mod random;
pub mod shapes;
pub mod storage;
pub mod tokenizer;
pub mod tokenizer_config;
pub mod weights;

pub use config::{Architecture, ModelConfig};
pub use files::Files;
pub use weights::{LayerWeights, Matrix, Weights};

/// A token's row in the embedding.
pub type TokenId = u32;
