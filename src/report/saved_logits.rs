//! Logits that a program saved: a safetensors file, read row by row.
//!
//! What [`LogitsFile`](super::logits_file::LogitsFile) writes, and what others write of their own logits:
//!
//! | tensor | type | shape | |
//! |---|---|---|---|
//! | `logits` | F32, BF16 or F16 | `[tokens, vocabulary]` | row i is what follows token i |
//! | `tokens` | I64, I32 or U32 | `[tokens]` | the texts, one after the other |
//! | `lengths` | as `tokens` | `[texts]` | the tokens of each text; without it there is one text |
//!
//! A long text at a vocabulary of 151,936 is gigabytes, so that no more than a row is in memory.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;

use crate::model::TokenId;
use crate::model::safetensors_header::{Header, HeaderError};
use crate::model::storage::{Element, ElementType, elements};

/// Why a file's logits can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SavedLogitsError {
    /// No such file, or none that can be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// No safetensors file.
    #[error("{}: no safetensors file: {source}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: HeaderError,
    },
    /// A tensor that is not there.
    #[error("{}: no tensor `{tensor}`; expected {expected}, found {found}", path.display())]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// Its name.
        tensor: &'static str,
        /// What it should hold.
        expected: &'static str,
        /// The names of the tensors there are.
        found: String,
    },
    /// A tensor of another type.
    #[error("{}: `{tensor}` is {found:?}; expected {expected}", path.display())]
    ElementType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: &'static str,
        /// Its type.
        found: Dtype,
        /// The types it may have.
        expected: &'static str,
    },
    /// A tensor of another shape.
    #[error("{}: `{tensor}` has the shape {found:?}; expected {expected}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// The shape it should have.
        expected: String,
    },
    /// Lengths of texts that are not the tokens' division.
    #[error(
        "{}: the `lengths` {found:?} are not those of {tokens} tokens; expected numbers above 0 with \
         that sum",
        path.display()
    )]
    Lengths {
        /// The file.
        path: PathBuf,
        /// The lengths.
        found: Vec<i64>,
        /// How many tokens there are.
        tokens: usize,
    },
    /// A token without a logit.
    #[error(
        "{}: token {index} is {found}, outside the vocabulary of {vocab_size} logits",
        path.display()
    )]
    Token {
        /// The file.
        path: PathBuf,
        /// Which of `tokens`.
        index: usize,
        /// Its id.
        found: i64,
        /// How many logits a row has.
        vocab_size: usize,
    },
}

/// Texts, and the logits after each of their tokens.
#[derive(Debug)]
pub struct SavedLogits {
    path: PathBuf,
    file: File,
    /// Where the first row begins in the file.
    start: u64,
    element_type: ElementType,
    vocab_size: usize,
    texts: Vec<Vec<TokenId>>,
    /// What the file says of itself, sorted.
    description: Vec<(String, String)>,
    /// One row's bytes.
    buffer: Vec<u8>,
}

impl SavedLogits {
    /// Opens the file at `path`. Its logits are read later.
    ///
    /// # Errors
    /// If there is no such file, or it is not as described above.
    pub fn open(path: &Path) -> Result<Self, SavedLogitsError> {
        let mut opened = Opened::new(path)?;
        let (logits, shape, start) = opened.find("logits", "[tokens, vocabulary]")?;
        let element_type =
            ElementType::of(logits).ok_or_else(|| SavedLogitsError::ElementType {
                path: path.to_owned(),
                tensor: "logits",
                found: logits,
                expected: "F32, BF16 or F16",
            })?;
        let &[rows, vocab_size] = &shape[..] else {
            return Err(opened.shape("logits", shape, "[tokens, vocabulary]".into()));
        };
        if rows == 0 || vocab_size == 0 {
            return Err(opened.shape("logits", shape, "one row and one logit at least".into()));
        }
        let tokens = opened.integers("tokens", "[tokens]")?;
        if tokens.len() != rows {
            let expected = format!("[{rows}], a token for each row of `logits`");
            return Err(opened.shape("tokens", vec![tokens.len()], expected));
        }
        let ids = tokens.iter().enumerate().map(|(index, &found)| {
            let is_known = |id: &TokenId| (*id as usize) < vocab_size;
            let id = TokenId::try_from(found).ok().filter(is_known);
            id.ok_or_else(|| SavedLogitsError::Token {
                path: path.to_owned(),
                index,
                found,
                vocab_size,
            })
        });
        let ids = ids.collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            texts: opened.divide(&ids)?,
            start,
            element_type,
            vocab_size,
            description: opened.description(),
            buffer: vec![0; vocab_size * element_type.size()],
            path: opened.path,
            file: opened.file,
        })
    }

    /// The tokens of each text.
    pub fn texts(&self) -> &[Vec<TokenId>] {
        &self.texts
    }

    /// Logits of a row.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The type that they were saved in.
    pub fn element_type(&self) -> ElementType {
        self.element_type
    }

    /// What the file says of itself: pairs of names and words, sorted by name.
    pub fn description(&self) -> &[(String, String)] {
        &self.description
    }

    /// Reads row `index`, counted through all texts, into `row`: `[vocabulary]`.
    ///
    /// # Errors
    /// If it can't be read.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn read_row(&mut self, index: usize, row: &mut Vec<f32>) -> Result<(), SavedLogitsError> {
        let rows: usize = self.texts.iter().map(Vec::len).sum();
        assert!(index < rows, "row {index} of {rows}");
        let offset = self.start + (index * self.buffer.len()) as u64;
        let read = read_at(&mut self.file, offset, &mut self.buffer);
        read.map_err(|source| SavedLogitsError::Read {
            path: self.path.clone(),
            source,
        })?;
        fn widen<T: Element>(bytes: &[u8], row: &mut Vec<f32>) {
            row.clear();
            row.extend(elements::<T>(bytes).map(Element::widen));
        }
        match self.element_type {
            ElementType::Bf16 => widen::<bf16>(&self.buffer, row),
            ElementType::F16 => widen::<f16>(&self.buffer, row),
            ElementType::F32 => widen::<f32>(&self.buffer, row),
        }
        Ok(())
    }
}

fn read_at(file: &mut File, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(buffer)
}

/// A file whose header was read.
struct Opened {
    path: PathBuf,
    file: File,
    header: Header,
}

impl Opened {
    fn new(path: &Path) -> Result<Self, SavedLogitsError> {
        let unread = |source| SavedLogitsError::Read {
            path: path.to_owned(),
            source,
        };
        let mut file = File::open(path).map_err(unread)?;
        let len = file.metadata().map_err(unread)?.len();
        let header = Header::read(len, |offset, buffer| read_at(&mut file, offset, buffer));
        let header = header.map_err(|source| match source {
            HeaderError::Read(source) => unread(source),
            source => SavedLogitsError::Header {
                path: path.to_owned(),
                source,
            },
        })?;
        Ok(Self {
            path: path.to_owned(),
            file,
            header,
        })
    }

    fn shape(&self, tensor: &'static str, found: Vec<usize>, expected: String) -> SavedLogitsError {
        SavedLogitsError::Shape {
            path: self.path.clone(),
            tensor,
            found,
            expected,
        }
    }

    /// Type, shape and place of a tensor.
    fn find(
        &self,
        tensor: &'static str,
        expected: &'static str,
    ) -> Result<(Dtype, Vec<usize>, u64), SavedLogitsError> {
        let Some(info) = self.header.metadata.info(tensor) else {
            let mut names = self.header.metadata.offset_keys();
            names.sort();
            return Err(SavedLogitsError::MissingTensor {
                path: self.path.clone(),
                tensor,
                expected,
                found: match names.is_empty() {
                    true => "none".into(),
                    false => names.join(", "),
                },
            });
        };
        let start = self.header.data_start + info.data_offsets.0 as u64;
        Ok((info.dtype, info.shape.clone(), start))
    }

    /// A tensor of one dimension as whole numbers.
    fn integers(
        &mut self,
        tensor: &'static str,
        expected: &'static str,
    ) -> Result<Vec<i64>, SavedLogitsError> {
        let (dtype, shape, start) = self.find(tensor, expected)?;
        let size = match dtype {
            Dtype::I64 => size_of::<i64>(),
            Dtype::I32 | Dtype::U32 => size_of::<u32>(),
            found => {
                return Err(SavedLogitsError::ElementType {
                    path: self.path.clone(),
                    tensor,
                    found,
                    expected: "I64, I32 or U32",
                });
            }
        };
        let &[count] = &shape[..] else {
            return Err(self.shape(tensor, shape, expected.into()));
        };
        // As long as the header's check found the file to be.
        let mut bytes = vec![0; count * size];
        let read = read_at(&mut self.file, start, &mut bytes);
        read.map_err(|source| SavedLogitsError::Read {
            path: self.path.clone(),
            source,
        })?;
        let numbers = bytes.chunks_exact(size).map(|number| match dtype {
            Dtype::I64 => i64::from_le_bytes(number.try_into().expect("8 bytes")),
            Dtype::I32 => i32::from_le_bytes(number.try_into().expect("4 bytes")).into(),
            _ => u32::from_le_bytes(number.try_into().expect("4 bytes")).into(),
        });
        Ok(numbers.collect())
    }

    /// Divides all tokens into texts.
    fn divide(&mut self, tokens: &[TokenId]) -> Result<Vec<Vec<TokenId>>, SavedLogitsError> {
        if self.header.metadata.info("lengths").is_none() {
            return Ok(vec![tokens.to_vec()]);
        }
        let found = self.integers("lengths", "[texts]")?;
        let mut left = tokens;
        let next = |&length: &i64| {
            let length = usize::try_from(length).ok().filter(|&length| length > 0)?;
            let (text, rest) = left.split_at_checked(length)?;
            left = rest;
            Some(text.to_vec())
        };
        let texts: Option<Vec<_>> = found.iter().map(next).collect();
        match texts {
            Some(texts) if left.is_empty() => Ok(texts),
            _ => Err(SavedLogitsError::Lengths {
                path: self.path.clone(),
                found,
                tokens: tokens.len(),
            }),
        }
    }

    fn description(&self) -> Vec<(String, String)> {
        let metadata = self.header.metadata.metadata().as_ref();
        let mut pairs: Vec<_> = metadata
            .into_iter()
            .flatten()
            .map(|(name, word)| (name.clone(), word.clone()))
            .collect();
        pairs.sort();
        pairs
    }
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::TensorView;

    use super::*;
    use crate::report::logits_file::LogitsFile;

    /// A safetensors file of these tensors.
    fn file(tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("saved.safetensors");
        let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
            let view = TensorView::new(*dtype, shape.to_vec(), bytes).unwrap();
            (*name, view)
        });
        safetensors::serialize_to_file(views, None, &path).unwrap();
        (folder, path)
    }

    fn refused(tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) -> String {
        let (_folder, path) = file(tensors);
        let message = SavedLogits::open(&path).unwrap_err().to_string();
        assert!(message.contains("saved.safetensors"), "{message}");
        message
    }

    fn f32_bytes(values: &[f32]) -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    }

    fn i64_bytes(values: &[i64]) -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    }

    fn row(saved: &mut SavedLogits, index: usize) -> Vec<f32> {
        let mut row = vec![7.0];
        saved.read_row(index, &mut row).unwrap();
        row
    }

    #[test]
    fn what_was_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logits.safetensors");
        let metadata = [("model", "m".to_owned()), ("engine", "e".to_owned())];
        let mut file = LogitsFile::create(&path, &[&[2, 0], &[1]], 3, &metadata).unwrap();
        let rows = [
            [1.0, -2.5, f32::MIN_POSITIVE],
            [4.0, 5.0, 6.0],
            [7.0, f32::NEG_INFINITY, 9.0],
        ];
        rows.iter().for_each(|row| file.push(row).unwrap());
        file.commit().unwrap();
        let mut saved = SavedLogits::open(&path).unwrap();
        assert_eq!(saved.texts(), [vec![2, 0], vec![1]]);
        assert_eq!(
            (saved.vocab_size(), saved.element_type()),
            (3, ElementType::F32)
        );
        let expected = [("engine", "e"), ("model", "m")];
        assert_eq!(
            saved.description(),
            expected.map(|(a, b)| (a.into(), b.into()))
        );
        // In any order.
        for index in [2, 0, 1] {
            assert_eq!(row(&mut saved, index), rows[index]);
        }
    }

    #[test]
    fn every_type_that_programs_save_is_read() {
        let values = [1.0_f32, -2.5, 0.0, f32::NEG_INFINITY];
        let halves = |to_bytes: fn(f32) -> [u8; 2]| values.into_iter().flat_map(to_bytes).collect();
        let types: [(Dtype, Vec<u8>); 3] = [
            (Dtype::F32, f32_bytes(&values)),
            (Dtype::BF16, halves(|x| bf16::from_f32(x).to_le_bytes())),
            (Dtype::F16, halves(|x| f16::from_f32(x).to_le_bytes())),
        ];
        let words = |ids: [u32; 2]| {
            ids.iter()
                .flat_map(|id| id.to_le_bytes())
                .collect::<Vec<_>>()
        };
        let tokens = [
            (Dtype::I64, i64_bytes(&[1, 0])),
            (Dtype::I32, words([1, 0])),
            (Dtype::U32, words([1, 0])),
        ];
        for ((kind, logits), (token_kind, tokens)) in types.into_iter().zip(tokens) {
            let (_folder, path) = file(&[
                ("logits", kind, &[2, 2], logits),
                ("tokens", token_kind, &[2], tokens),
                ("other", Dtype::U8, &[1], vec![0]),
            ]);
            let mut saved = SavedLogits::open(&path).unwrap();
            assert_eq!(saved.texts(), [vec![1, 0]], "{token_kind:?}");
            assert_eq!(row(&mut saved, 1), values[2..], "{kind:?}");
            assert_eq!(row(&mut saved, 0), values[..2], "{kind:?}");
        }
    }

    #[test]
    fn what_is_missing_or_misshapen_is_named_with_what_was_expected() {
        let logits = || ("logits", Dtype::F32, &[2, 2][..], f32_bytes(&[0.0; 4]));
        let tokens = |ids: &[i64]| ("tokens", Dtype::I64, &[2][..], i64_bytes(ids));
        let contains = |message: String, parts: &[&str]| {
            for part in parts {
                assert!(message.contains(part), "'{part}' is missing in: {message}");
            }
        };
        contains(
            refused(&[tokens(&[0, 1])]),
            &["`logits`", "[tokens, vocabulary]", "tokens"],
        );
        contains(refused(&[logits()]), &["`tokens`", "found logits"]);
        let batched = ("logits", Dtype::F32, &[1, 2, 2][..], f32_bytes(&[0.0; 4]));
        contains(
            refused(&[batched, tokens(&[0, 1])]),
            &["[1, 2, 2]", "[tokens, vocabulary]"],
        );
        let short = ("tokens", Dtype::I64, &[3][..], i64_bytes(&[0; 3]));
        contains(refused(&[logits(), short]), &["`tokens`", "[3]", "[2]"]);
        let square = ("tokens", Dtype::I64, &[1, 2][..], i64_bytes(&[0; 2]));
        contains(
            refused(&[logits(), square]),
            &["`tokens`", "[1, 2]", "[tokens]"],
        );
        let whole = ("logits", Dtype::I64, &[2, 2][..], i64_bytes(&[0; 4]));
        contains(
            refused(&[whole, tokens(&[0, 1])]),
            &["I64", "F32, BF16 or F16"],
        );
        let float = ("tokens", Dtype::F32, &[2][..], f32_bytes(&[0.0; 2]));
        contains(refused(&[logits(), float]), &["F32", "I64, I32 or U32"]);
        contains(
            refused(&[logits(), tokens(&[0, 2])]),
            &["token 1 is 2", "2 logits"],
        );
        contains(refused(&[logits(), tokens(&[-1, 0])]), &["token 0 is -1"]);
        for lengths in [[1, 2], [2, 0], [3, -1], [1, 0]] {
            let lengths = ("lengths", Dtype::I64, &[2][..], i64_bytes(&lengths));
            contains(
                refused(&[logits(), tokens(&[0, 1]), lengths]),
                &["`lengths`", "2 tokens"],
            );
        }
        let none = ("logits", Dtype::F32, &[0, 2][..], vec![]);
        contains(refused(&[none, tokens(&[0, 1])]), &["[0, 2]"]);
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let (_folder, path) = file(&[("logits", Dtype::F32, &[1, 2], f32_bytes(&[0.0; 2]))]);
        let bytes = std::fs::read(&path).unwrap();
        let refused = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            SavedLogits::open(&path).unwrap_err().to_string()
        };
        let cut = refused(&bytes[..bytes.len() - 1]);
        assert!(
            cut.contains(&format!("it has {}", bytes.len() - 1)),
            "{cut}"
        );
        assert!(refused(&[0; 4]).contains("only 4 bytes"));
        assert!(refused(&[255; 64]).contains("in a file of 64"));
        std::fs::remove_file(&path).unwrap();
        assert!(
            SavedLogits::open(&path)
                .unwrap_err()
                .to_string()
                .contains("saved.safetensors")
        );
    }
}
