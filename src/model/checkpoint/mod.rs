//! Checkpoints as Hugging Face writes them: `config.json` and safetensors files.
//!
//! Nothing is allocated or read because a header says so: a header is parsed only if the file is as
//! long as it claims, a tensor is read only if its shape is the one that `config.json` asks for, and
//! it then lies inside the file. Tensors that the model doesn't use are passed over (a tied LM head
//! that is stored all the same, rotary frequencies of older checkpoints).

mod error;
mod place;
mod shards;
mod write;

use std::borrow::Cow;

use super::config::ModelConfig;
use super::config_json;
use super::files::Files;
use super::layout::{TensorSource, TensorSpec, assemble, specs};
use super::storage::{Element, ElementType, elements};
use super::weights::{Matrix, Values, Weights};

pub use error::CheckpointError;
pub(super) use shards::shard_names;
pub use shards::{INDEX, SINGLE};
pub use write::write;

use shards::{Located, Shards};

/// The file with a model's dimensions.
pub const CONFIG: &str = "config.json";

/// Where the matrices lie once they are loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// In the mapped file until the engine that decodes has moved them into huge pages
    /// ([`crate::model::promotion`]): there at once, and soon read faster. They stay in the file
    /// where there are no huge pages, or less memory than they take; they are read into memory at
    /// once where the system can't move pages.
    #[default]
    Auto,
    /// In the mapped file: memory is shared with every process that maps it. A tensor that is not
    /// aligned for its type is copied.
    Mapped,
    /// In anonymous huge pages from the start.
    HugePages,
}

/// The type of the matrices once they are loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// As stored.
    #[default]
    Stored,
    /// bf16; f16 and f32 are rounded to nearest even as they are read, so that they never lie in
    /// memory beside what is made of them.
    Bf16,
}

/// How to load a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Where the matrices are to lie.
    pub placement: Placement,
    /// Their type.
    pub precision: Precision,
}

/// Reads `config.json`.
///
/// # Errors
/// If it is missing, malformed, or asks for what no engine computes.
pub fn read_config(files: &Files) -> Result<ModelConfig, CheckpointError> {
    let json = files.read(CONFIG)?;
    let json = json.ok_or_else(|| CheckpointError::MissingFile {
        place: files.describe(),
        name: CONFIG.into(),
        hint: "it holds the model's dimensions; give the folder of a Hugging Face checkpoint"
            .into(),
    })?;
    config_json::parse(&json).map_err(|source| CheckpointError::Config {
        place: files.describe(),
        source,
    })
}

/// Loads a checkpoint. `progress` is told how many bytes of how many are loaded.
///
/// # Errors
/// If a file or a tensor is missing, malformed, or not what `config.json` says; if there is no
/// memory.
pub fn load(
    files: &Files,
    options: LoadOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Weights, CheckpointError> {
    let config = read_config(files)?;
    let specs = specs(&config);
    let shards = Shards::open(files, &specs)?;
    let located: Result<Vec<_>, _> = specs.iter().map(|spec| shards.locate(spec)).collect();
    let located = located?;
    let matrices = place::matrices(&shards, &specs, &located, options, progress)?;
    let mut found = Found {
        shards: &shards,
        located: located.iter(),
        matrices: matrices.into_iter(),
    };
    assemble(&config, &mut found)
}

/// Loads a checkpoint of one safetensors file from memory.
///
/// # Errors
/// As [`load`].
pub fn from_bytes(
    config_json: impl Into<Cow<'static, [u8]>>,
    safetensors: impl Into<Cow<'static, [u8]>>,
    options: LoadOptions,
) -> Result<Weights, CheckpointError> {
    let bytes = vec![(CONFIG, config_json.into()), (SINGLE, safetensors.into())];
    load(&Files::memory("memory", bytes), options, &mut |_, _| ())
}

/// The tensors that were found, in the order of [`specs`].
struct Found<'a, 'f> {
    shards: &'a Shards<'f>,
    located: std::slice::Iter<'a, Located>,
    matrices: std::vec::IntoIter<Option<Matrix>>,
}

impl TensorSource for Found<'_, '_> {
    type Error = CheckpointError;

    fn matrix(&mut self, _: &TensorSpec) -> Result<Matrix, CheckpointError> {
        self.located.next();
        let matrix = self.matrices.next().flatten();
        Ok(matrix.expect("every matrix was placed"))
    }

    fn vector(&mut self, spec: &TensorSpec) -> Result<Vec<f32>, CheckpointError> {
        fn widen<T: Element>(bytes: &[u8]) -> Vec<f32> {
            elements::<T>(bytes).map(Element::widen).collect()
        }
        self.matrices.next();
        let located = self.located.next().expect("every tensor was located");
        let mut bytes = vec![0; spec.shape.elements() * located.kind.size()];
        self.shards
            .shard(located)
            .read(located.bytes.start, &mut bytes)?;
        Ok(match located.kind {
            ElementType::Bf16 => widen::<half::bf16>(&bytes),
            ElementType::F16 => widen::<half::f16>(&bytes),
            ElementType::F32 => widen::<f32>(&bytes),
        })
    }
}

/// A matrix of `spec`'s shape over `values`.
fn matrix(spec: &TensorSpec, values: Values) -> Matrix {
    let [rows, columns] = spec.shape.dimensions()[..] else {
        unreachable!("a vector is no matrix");
    };
    Matrix::new(rows, columns, values)
}

#[cfg(test)]
mod tests;
