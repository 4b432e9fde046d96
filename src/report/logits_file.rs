//! Logits as a safetensors file, written row by row.

use std::io::{self, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::pending_file::PendingFile;
use crate::model::TokenId;

/// Alignment of the data in a safetensors file, which its header is padded to.
const ALIGNMENT: usize = 8;

/// A safetensors file with three tensors: `logits`, `[tokens, vocabulary]`, f32; `tokens`, `[tokens]`, i64,
/// of all texts one after the other; `lengths`, `[texts]`, i64.
/// [`SavedLogits`](super::saved_logits::SavedLogits) reads it.
///
/// Rows are written as they come: a long text at a vocabulary of 151,936 is gigabytes.
#[derive(Debug)]
pub struct LogitsFile {
    file: PendingFile,
    tokens: usize,
    vocab_size: usize,
    rows: usize,
}

impl LogitsFile {
    /// Begins the file that is to be at `path`, of the logits after each token of `texts`. `metadata` goes
    /// into the header as it is.
    ///
    /// # Errors
    /// If the file can't be written there.
    pub fn create(
        path: &Path,
        texts: &[&[TokenId]],
        vocab_size: usize,
        metadata: &[(&str, String)],
    ) -> io::Result<Self> {
        let tokens: Vec<i64> = texts.concat().into_iter().map(i64::from).collect();
        let lengths: Vec<i64> = texts.iter().map(|text| text.len() as i64).collect();
        let metadata: Map<String, Value> = metadata
            .iter()
            .map(|(key, value)| ((*key).to_owned(), Value::from(value.as_str())))
            .collect();
        let tokens_end = size_of_val(&tokens[..]);
        let lengths_end = tokens_end + size_of_val(&lengths[..]);
        let logits_end = lengths_end + tokens.len() * vocab_size * size_of::<f32>();
        let header = json!({
            "__metadata__": metadata,
            "tokens": {
                "dtype": "I64",
                "shape": [tokens.len()],
                "data_offsets": [0, tokens_end],
            },
            "lengths": {
                "dtype": "I64",
                "shape": [lengths.len()],
                "data_offsets": [tokens_end, lengths_end],
            },
            "logits": {
                "dtype": "F32",
                "shape": [tokens.len(), vocab_size],
                "data_offsets": [lengths_end, logits_end],
            },
        });
        let mut header = header.to_string();
        let padded = header.len().next_multiple_of(ALIGNMENT);
        header.extend(std::iter::repeat_n(' ', padded - header.len()));
        let mut file = PendingFile::create(path)?;
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        for number in tokens.iter().chain(&lengths) {
            file.write_all(&number.to_le_bytes())?;
        }
        Ok(Self {
            file,
            tokens: tokens.len(),
            vocab_size,
            rows: 0,
        })
    }

    /// Writes the next row: `[vocabulary]`.
    ///
    /// # Errors
    /// If it can't be written.
    ///
    /// # Panics
    /// If the row has another length, or is one too many.
    pub fn push(&mut self, logits: &[f32]) -> io::Result<()> {
        assert_eq!(logits.len(), self.vocab_size);
        assert!(self.rows < self.tokens, "a row for each token");
        self.rows += 1;
        logits
            .iter()
            .try_for_each(|logit| self.file.write_all(&logit.to_le_bytes()))
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// If it can't be written or renamed.
    ///
    /// # Panics
    /// If rows are missing.
    pub fn commit(self) -> io::Result<()> {
        assert_eq!(self.rows, self.tokens, "a row for each token");
        self.file.commit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    #[test]
    fn safetensors_reads_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logits.safetensors");
        let metadata = [("model", "a \"b\"".to_owned())];
        let mut file = LogitsFile::create(&path, &[&[2, 0]], 3, &metadata).unwrap();
        file.push(&[1.0, -2.5, f32::MIN_POSITIVE]).unwrap();
        assert!(!path.exists());
        file.push(&[4.0, 5.0, 6.0]).unwrap();
        file.commit().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(header.metadata().as_ref().unwrap()["model"], "a \"b\"");
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let integers = |name| {
            let data = tensors.tensor(name).unwrap().data().to_vec();
            let numbers = data.chunks_exact(8);
            let numbers = numbers.map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap()));
            numbers.collect::<Vec<_>>()
        };
        assert_eq!(
            (integers("tokens"), integers("lengths")),
            (vec![2, 0], vec![2])
        );
        let logits = tensors.tensor("logits").unwrap();
        assert_eq!(logits.shape(), [2, 3]);
        assert_eq!(logits.dtype(), safetensors::Dtype::F32);
        let values: Vec<f32> = logits
            .data()
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
            .collect();
        assert_eq!(values, [1.0, -2.5, f32::MIN_POSITIVE, 4.0, 5.0, 6.0]);
    }
}
