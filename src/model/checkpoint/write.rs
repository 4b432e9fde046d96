//! Writes weights as a checkpoint that transformers, and everything that reads its files, loads.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use half::bf16;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::error::CheckpointError;
use super::{CONFIG, SINGLE};
use crate::model::config_json;
use crate::model::layout::{Tensor, tensors};
use crate::model::storage::ElementType;
use crate::model::weights::Weights;

/// Writes `weights` to `folder` as `config.json` and `model.safetensors`.
///
/// Matrices keep their type. Vectors are written in the embedding's type where that loses nothing,
/// in f32 otherwise. The files appear whole or not at all.
///
/// # Errors
/// If the folder can't be made or a file can't be written.
pub fn write(folder: &Path, weights: &Weights) -> Result<(), CheckpointError> {
    let failed = |name: &str, source| CheckpointError::Write {
        file: folder.join(name).display().to_string(),
        source,
    };
    std::fs::create_dir_all(folder).map_err(|source| failed("", source))?;
    write_beside(folder, SINGLE, |out| write_tensors(out, weights))
        .map_err(|source| failed(SINGLE, source))?;
    let kind = weights.embedding.values().element_type();
    let mut config = config_json::to_json(&weights.config, kind.as_str()).to_string();
    config.push('\n');
    write_beside(folder, CONFIG, |out| out.write_all(config.as_bytes()))
        .map_err(|source| failed(CONFIG, source))
}

/// Writes a file under another name and renames it once it is whole.
fn write_beside(
    folder: &Path,
    name: &str,
    fill: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let partial = folder.join(format!(".{name}.{}.partial", std::process::id()));
    let written = File::create(&partial).and_then(|file| {
        let mut out = BufWriter::with_capacity(1 << 20, file);
        fill(&mut out)?;
        out.into_inner()
            .map_err(|error| error.into_error())?
            .sync_all()
    });
    let renamed = written.and_then(|()| std::fs::rename(&partial, folder.join(name)));
    if renamed.is_err() {
        // What is left of it is of no use, and the first error says more than a second would.
        let _ = std::fs::remove_file(&partial);
    }
    renamed
}

fn write_tensors(out: &mut impl Write, weights: &Weights) -> std::io::Result<()> {
    /// The tensors begin on a cache line of the mapped file.
    const ALIGNMENT: usize = 64;
    let kind = weights.embedding.values().element_type();
    let mut tensors = tensors(weights);
    // Matrices first: behind an odd number of bf16 values an f32 matrix would not be aligned.
    tensors.sort_by_key(|(_, tensor)| matches!(tensor, Tensor::Vector(_)));
    let mut infos = Vec::with_capacity(tensors.len());
    let mut contents = Vec::with_capacity(tensors.len());
    let mut end = 0;
    for (spec, tensor) in tensors {
        let (dtype, bytes) = match tensor {
            Tensor::Matrix(matrix) => {
                let values = matrix.values();
                (
                    dtype(values.element_type()),
                    Cow::Borrowed(values.as_bytes()),
                )
            }
            Tensor::Vector(values) => vector_bytes(values, kind),
        };
        let start = end;
        end += bytes.len();
        let (shape, data_offsets) = (spec.shape.dimensions(), (start, end));
        infos.push((
            spec.name,
            TensorInfo {
                dtype,
                shape,
                data_offsets,
            },
        ));
        contents.push(bytes);
    }
    // transformers wants to know that the tensors are in PyTorch's layout.
    let format = [("format".to_owned(), "pt".to_owned())].into();
    let metadata = Metadata::new(Some(format), infos).map_err(std::io::Error::other)?;
    let mut header = serde_json::to_vec(&metadata)?;
    header.resize((8 + header.len()).next_multiple_of(ALIGNMENT) - 8, b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    contents.iter().try_for_each(|bytes| out.write_all(bytes))
}

fn dtype(kind: ElementType) -> Dtype {
    match kind {
        ElementType::Bf16 => Dtype::BF16,
        ElementType::F16 => Dtype::F16,
        ElementType::F32 => Dtype::F32,
    }
}

/// `values` in type `kind` if each of them survives it, in f32 otherwise.
fn vector_bytes(values: &[f32], kind: ElementType) -> (Dtype, Cow<'static, [u8]>) {
    let narrow: Option<Vec<[u8; 2]>> = match kind {
        ElementType::Bf16 => {
            let narrow = |v: &f32| Some(bf16::from_f32(*v)).filter(|n| n.to_f32() == *v);
            values
                .iter()
                .map(|v| narrow(v).map(bf16::to_le_bytes))
                .collect()
        }
        ElementType::F16 => {
            let narrow = |v: &f32| Some(half::f16::from_f32(*v)).filter(|n| n.to_f32() == *v);
            values
                .iter()
                .map(|v| narrow(v).map(half::f16::to_le_bytes))
                .collect()
        }
        ElementType::F32 => None,
    };
    match narrow {
        Some(narrow) => (dtype(kind), Cow::Owned(narrow.into_flattened())),
        None => {
            let bytes = values.iter().flat_map(|value| value.to_le_bytes());
            (Dtype::F32, Cow::Owned(bytes.collect()))
        }
    }
}
