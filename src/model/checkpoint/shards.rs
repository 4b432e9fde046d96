//! The safetensors files of a checkpoint: which there are, and what lies where in them.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use memmap2::Mmap;
use safetensors::tensor::Metadata;
use serde::Deserialize;

use super::error::CheckpointError;
use crate::model::files::{Files, FilesError, Opened, is_plain_name};
use crate::model::layout::TensorSpec;
use crate::model::safetensors_header::{Header, HeaderError};
use crate::model::storage::{ElementType, Storage};

/// The only file of a checkpoint that is not sharded.
pub const SINGLE: &str = "model.safetensors";
/// The index of a checkpoint that is.
pub const INDEX: &str = "model.safetensors.index.json";

/// One safetensors file, its header checked against its length.
#[derive(Debug)]
pub(super) struct Shard<'f> {
    /// Folder and name, for messages.
    pub(super) file: String,
    content: Content<'f>,
    metadata: Metadata,
    data_start: u64,
    map: OnceLock<Arc<Storage>>,
}

#[derive(Debug)]
enum Content<'f> {
    File(File),
    Memory(&'f [u8]),
}

impl<'f> Shard<'f> {
    fn open(files: &'f Files, name: &str) -> Result<Option<Self>, CheckpointError> {
        let file = format!("{}/{name}", files.describe());
        let (content, len) = match files.open(name)? {
            None => return Ok(None),
            Some(Opened::File(file, len)) => (Content::File(file), len),
            Some(Opened::Memory(bytes)) => (Content::Memory(bytes), bytes.len() as u64),
        };
        let header = Header::read(len, |offset, buffer| {
            read_exact_at(&content, offset, buffer)
        });
        let Header {
            metadata,
            data_start,
        } = header.map_err(|error| match error {
            HeaderError::Read(source) => files.io(name, source).into(),
            HeaderError::Malformed(reason) => CheckpointError::Header {
                file: file.clone(),
                reason,
            },
            HeaderError::Length { expected, found } => CheckpointError::Length {
                file: file.clone(),
                expected,
                found,
            },
        })?;
        Ok(Some(Shard {
            file,
            content,
            metadata,
            data_start,
            map: OnceLock::new(),
        }))
    }

    /// Where the tensor `spec` lies, if its shape and its type are as they must be.
    fn locate(&self, spec: &TensorSpec) -> Result<(ElementType, Range<u64>), CheckpointError> {
        let info = self.metadata.info(&spec.name);
        let info = info.ok_or_else(|| CheckpointError::MissingTensor {
            place: self.file.clone(),
            tensor: spec.name.clone(),
            expected: spec.shape.dimensions(),
        })?;
        if info.shape != spec.shape.dimensions() {
            return Err(CheckpointError::Shape {
                file: self.file.clone(),
                tensor: spec.name.clone(),
                found: info.shape.clone(),
                expected: spec.shape.dimensions(),
            });
        }
        let kind = ElementType::of(info.dtype).ok_or_else(|| CheckpointError::ElementType {
            file: self.file.clone(),
            tensor: spec.name.clone(),
            found: format!("{:?}", info.dtype),
        })?;
        let (start, end) = info.data_offsets;
        Ok((
            kind,
            self.data_start + start as u64..self.data_start + end as u64,
        ))
    }

    /// Fills `buffer` with what lies at `offset`.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), CheckpointError> {
        let bytes = buffer.len();
        let read = read_exact_at(&self.content, offset, buffer);
        read.map_err(|source| CheckpointError::Read {
            file: self.file.clone(),
            offset,
            bytes,
            source,
        })
    }

    /// The whole file, mapped; `None` for a file in memory.
    pub(super) fn map(&self) -> Result<Option<Arc<Storage>>, CheckpointError> {
        let Content::File(file) = &self.content else {
            return Ok(None);
        };
        if let Some(map) = self.map.get() {
            return Ok(Some(Arc::clone(map)));
        }
        // SAFETY: the mapping is only read. A program that overwrites or truncates a checkpoint in
        // place while it is in use can change what is read, or end this process with SIGBUS: that
        // is the price of using weights as they lie in the file. `HugePages` doesn't pay it, and
        // `Auto` only until all are moved.
        let map = unsafe { Mmap::map(file) }.map_err(|source| CheckpointError::Map {
            file: self.file.clone(),
            source,
        })?;
        let map = self.map.get_or_init(|| Arc::new(Storage::mapped(map)));
        Ok(Some(Arc::clone(map)))
    }
}

fn read_exact_at(content: &Content<'_>, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
    match content {
        Content::Memory(bytes) => {
            let end = (offset as usize).checked_add(buffer.len());
            let from = end.and_then(|end| bytes.get(offset as usize..end));
            buffer.copy_from_slice(from.ok_or(std::io::ErrorKind::UnexpectedEof)?);
            Ok(())
        }
        #[cfg(unix)]
        Content::File(file) => std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset),
        #[cfg(windows)]
        Content::File(file) => {
            let mut done = 0;
            while done < buffer.len() {
                let at = offset + done as u64;
                match std::os::windows::fs::FileExt::seek_read(file, &mut buffer[done..], at)? {
                    0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                    read => done += read,
                }
            }
            Ok(())
        }
    }
}

/// The safetensors files of a checkpoint.
#[derive(Debug)]
pub(super) struct Shards<'f> {
    place: String,
    shards: Vec<Shard<'f>>,
    /// Which shard a tensor is in; `None` where there is only one.
    index: Option<HashMap<String, usize>>,
}

/// A tensor that was found.
#[derive(Clone, Debug)]
pub(super) struct Located {
    pub(super) shard: usize,
    pub(super) kind: ElementType,
    /// Bytes of the file.
    pub(super) bytes: Range<u64>,
}

impl<'f> Shards<'f> {
    /// Opens what there is: `model.safetensors`, or the shards that hold `specs`.
    pub(super) fn open(files: &'f Files, specs: &[TensorSpec]) -> Result<Self, CheckpointError> {
        let place = files.describe();
        if let Some(shard) = Shard::open(files, SINGLE)? {
            return Ok(Shards {
                place,
                shards: vec![shard],
                index: None,
            });
        }
        let Some(json) = files.read(INDEX)? else {
            return Err(CheckpointError::MissingFile {
                place,
                name: SINGLE.into(),
                hint: format!("nor is there {INDEX}: weights are read from safetensors files only"),
            });
        };
        let names = read_index(files, &json)?;
        let mut opened: HashMap<&str, usize> = HashMap::new();
        let mut shards = Vec::new();
        let mut index = HashMap::new();
        for spec in specs {
            let Some(name) = names.get(&spec.name) else {
                return Err(CheckpointError::MissingTensor {
                    place: format!("{place}/{INDEX}"),
                    tensor: spec.name.clone(),
                    expected: spec.shape.dimensions(),
                });
            };
            let shard = match opened.get(name.as_str()) {
                Some(shard) => *shard,
                None => {
                    let shard = Shard::open(files, name)?;
                    shards.push(shard.ok_or_else(|| CheckpointError::MissingFile {
                        place: place.clone(),
                        name: name.clone(),
                        hint: format!("{INDEX} says that {} lies in it", spec.name),
                    })?);
                    opened.insert(name, shards.len() - 1);
                    shards.len() - 1
                }
            };
            index.insert(spec.name.clone(), shard);
        }
        Ok(Shards {
            place,
            shards,
            index: Some(index),
        })
    }

    pub(super) fn locate(&self, spec: &TensorSpec) -> Result<Located, CheckpointError> {
        let shard = match &self.index {
            None => 0,
            Some(index) => {
                *index
                    .get(&spec.name)
                    .ok_or_else(|| CheckpointError::MissingTensor {
                        place: self.place.clone(),
                        tensor: spec.name.clone(),
                        expected: spec.shape.dimensions(),
                    })?
            }
        };
        let (kind, bytes) = self.shards[shard].locate(spec)?;
        Ok(Located { shard, kind, bytes })
    }

    pub(super) fn shard(&self, located: &Located) -> &Shard<'f> {
        &self.shards[located.shard]
    }
}

/// The names of the shards, from the index among `files`; `None` if there is no index.
///
/// # Errors
/// If it is no index, or names a file outside the folder.
pub(in crate::model) fn shard_names(
    files: &Files,
) -> Result<Option<BTreeSet<String>>, CheckpointError> {
    let Some(json) = files.read(INDEX)? else {
        return Ok(None);
    };
    Ok(Some(read_index(files, &json)?.into_values().collect()))
}

/// The file of each tensor, from the bytes of an index; each a plain name inside the folder.
///
/// # Errors
/// If it is no index, or names a file outside the folder.
fn read_index(files: &Files, json: &[u8]) -> Result<HashMap<String, String>, CheckpointError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    let index: Index = serde_json::from_slice(json).map_err(|error| CheckpointError::Index {
        file: format!("{}/{INDEX}", files.describe()),
        reason: error.to_string(),
    })?;
    if let Some(name) = index.weight_map.values().find(|name| !is_plain_name(name)) {
        return Err(CheckpointError::Files(FilesError::NotAPlainName {
            place: format!("{}/{INDEX}", files.describe()),
            name: name.clone(),
        }));
    }
    Ok(index.weight_map)
}
