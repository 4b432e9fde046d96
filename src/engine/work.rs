//! What the steps of a decode had to read: how much a constraint saves, apart from how fast it is read.

use std::ops::{AddAssign, Sub};

use serde::{Deserialize, Serialize};

use super::decode_loop::{Column, Head};
use super::sequences::Sequences;
use crate::model::ModelConfig;

/// Work of decode steps, all requests together. Counts grow for as long as an engine lives: what one
/// decode took is a difference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Passes through the layers: each reads their weights once.
    pub passes: u64,
    /// Columns of these passes, one for each token that was run.
    pub columns: u64,
    /// Times that the whole LM head was read.
    pub heads: u64,
    /// Rows of the LM head that were read alone.
    pub head_rows: u64,
    /// Past positions whose keys and values were read, of all sequences.
    pub past: u64,
}

impl Work {
    /// What one step of `columns` takes.
    pub(super) fn of_step(columns: &[Column], sequences: &Sequences) -> Self {
        let mut work = Self {
            passes: 1,
            columns: columns.len() as u64,
            ..Self::default()
        };
        // Columns of a sequence stand together, and what is cached of it serves all of them.
        for chunk in columns.chunk_by(|a, b| a.sequence == b.sequence) {
            work.past += sequences.cached(chunk[0].sequence).len() as u64;
        }
        for column in columns {
            match column.head {
                Head::None => {}
                Head::Rows(tokens) => work.head_rows += tokens.len() as u64,
                // One read serves all columns.
                Head::All => work.heads = 1,
            }
        }
        work
    }

    /// Bytes that this work reads at least: weights in bf16, keys and values.
    pub fn bytes(&self, config: &ModelConfig) -> u64 {
        let row = 2 * config.hidden_size as u64;
        let head = config.vocab_size as u64 * row;
        let layers = config.weight_bytes_per_token() as u64 - head;
        self.passes * layers
            + self.columns * row
            + self.heads * head
            + self.head_rows * row
            + self.past * config.kv_bytes_per_position() as u64
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.passes += other.passes;
        self.columns += other.columns;
        self.heads += other.heads;
        self.head_rows += other.head_rows;
        self.past += other.past;
    }
}

impl Sub for Work {
    type Output = Self;

    /// What was done since `earlier`.
    fn sub(self, earlier: Self) -> Self {
        Self {
            passes: self.passes - earlier.passes,
            columns: self.columns - earlier.columns,
            heads: self.heads - earlier.heads,
            head_rows: self.head_rows - earlier.head_rows,
            past: self.past - earlier.past,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::shapes;

    #[test]
    fn a_plain_step_reads_what_the_config_says() {
        let config = shapes::config("qwen3-0.6b").unwrap();
        let work = Work {
            passes: 1,
            columns: 1,
            heads: 1,
            head_rows: 0,
            past: 100,
        };
        let embedding_row = 2 * config.hidden_size as u64;
        let expected = config.bytes_per_token(100) as u64 + embedding_row;
        assert_eq!(work.bytes(&config), expected);
        let gathered = Work {
            heads: 0,
            head_rows: 11,
            ..work
        };
        // 311.2 MB of the head less eleven rows of 2 KB.
        assert_eq!(
            work.bytes(&config) - gathered.bytes(&config),
            (151_936 - 11) * 2048
        );
    }

    #[test]
    fn columns_of_a_sequence_read_its_past_once() {
        let config = shapes::config("tiny").unwrap();
        let mut sequences = Sequences::new(&config, 16, 2).unwrap();
        (0..5).for_each(|token| sequences.push(0, token));
        (0..3).for_each(|token| sequences.push(1, token));
        let column = |sequence, head| Column {
            sequence,
            token: 0,
            head,
        };
        let columns = [
            column(0, Head::None),
            column(0, Head::Rows(&[1, 2, 3])),
            column(1, Head::All),
        ];
        let work = Work::of_step(&columns, &sequences);
        let expected = Work {
            passes: 1,
            columns: 3,
            heads: 1,
            head_rows: 3,
            past: 8,
        };
        assert_eq!(work, expected);
    }
}
