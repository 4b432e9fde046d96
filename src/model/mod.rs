//! What a checkpoint is: its configuration, its weights, its tokenizer.
//!
//! - [`checkpoint`]: a Hugging Face folder, read and written
//! - [`config`]: the dimensions and switches of `config.json`
//! - [`config_json`]: reading and writing `config.json`
//! - [`files`]: the files of a checkpoint, in a folder or embedded
//! - [`hub`]: repositories on the Hugging Face hub, by way of its cache
//! - [`safetensors_header`]: what lies where in a safetensors file
//! - [`layout`]: the names, shapes and order of the tensors
//! - [`weights`]: the tensors an engine reads, by name
//! - [`storage`]: where the numbers of a tensor lie: a mapped file or huge pages
//! - [`promotion`]: from the one to the other, while they are in use
//! - [`random`]: deterministic random weights of a given shape
//! - [`shapes`]: the shapes that have a name
//! - [`tokenizer`]: text to tokens and back
//! - [`token_bytes`]: the bytes that each token stands for
//! - [`tokenizer_config`]: special tokens by role, and the chat templates
//! - [`chat_template`]: a conversation as the text that a model was trained on
//! - [`python_json`]: JSON and numbers as Python writes them
//! - [`generation`]: how a checkpoint wants to be sampled
//! - [`source`]: what `--model` may name: any of these

pub mod chat_template;
pub mod checkpoint;
pub mod config;
pub mod config_json;
pub mod files;
pub mod generation;
pub mod hub;
pub mod layout;
pub mod promotion;
pub mod python_json;
pub mod random;
pub mod safetensors_header;
pub mod shapes;
pub mod source;
pub mod storage;
pub mod token_bytes;
pub mod tokenizer;
pub mod tokenizer_config;
pub mod weights;

pub use config::{Architecture, ModelConfig};
pub use files::Files;
pub use source::{Loaded, ModelError, Source, SourceOptions};
pub use weights::{LayerWeights, Matrix, Weights};

/// A token's row in the embedding.
pub type TokenId = u32;

/// What loading has to say while it takes its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress<'a> {
    /// Bytes of a file that came from the hub, of how many.
    Downloading {
        /// The file.
        file: &'a str,
        /// Bytes that are there.
        done: u64,
        /// Bytes there will be.
        total: u64,
    },
    /// Bytes of weights that are loaded or made, of how many.
    Loading {
        /// Bytes that are there.
        done: u64,
        /// Bytes there will be.
        total: u64,
    },
    /// Something that the user should know.
    Note(&'a str),
}
