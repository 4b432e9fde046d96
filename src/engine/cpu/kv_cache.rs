//! Keys and values of past positions, in bf16.

use std::ops::Range;

use half::bf16;

use super::attention::SPLIT;
use super::buffer::SharedBuffer;
use crate::engine::EngineError;
use crate::model::ModelConfig;

/// `[sequence][block][layer][key or value][kv_head][SPLIT][head_dim]`, where a block is [`SPLIT`]
/// positions: what one attention task reads is one contiguous stretch, and what a sequence has not
/// reached takes no memory.
pub struct KvCache {
    buffer: SharedBuffer<bf16>,
    layers: usize,
    kv_heads: usize,
    blocks: usize,
    head_dim: usize,
}

/// Which half of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// Keys, after their norm and RoPE.
    Keys,
    /// Values.
    Values,
}

impl KvCache {
    /// A cache of `context` positions for each of `sequences`. Takes memory as it is filled.
    ///
    /// # Errors
    /// If the system has no memory of that size.
    pub fn new(
        config: &ModelConfig,
        context: usize,
        sequences: usize,
    ) -> Result<Self, EngineError> {
        let blocks = context.div_ceil(SPLIT);
        let len = sequences * blocks * SPLIT * config.kv_bytes_per_position() / size_of::<bf16>();
        let cache = Self {
            buffer: SharedBuffer::new(len, "the KV cache")?,
            layers: config.layers,
            kv_heads: config.kv_heads,
            blocks,
            head_dim: config.head_dim,
        };
        // The first prompt should not wait for its memory.
        let block = SPLIT * config.kv_bytes_per_position() / size_of::<bf16>();
        for sequence in 0..sequences.min(Self::PREPARED_SEQUENCES) {
            let first = sequence * blocks * block;
            cache.buffer.populate(first..first + block);
        }
        Ok(cache)
    }

    /// Sequences whose first block gets its memory at once.
    const PREPARED_SEQUENCES: usize = 8;

    /// Blocks of a sequence.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Where `positions` of one head begin, all of them in one block: `[positions, head_dim]`.
    ///
    /// # Panics
    /// If they lie outside the cache or in different blocks.
    pub fn pointer(
        &self,
        sequence: usize,
        layer: usize,
        half: Half,
        kv_head: usize,
        positions: Range<usize>,
    ) -> *mut bf16 {
        let block = positions.start / SPLIT;
        let within = positions.start - block * SPLIT..positions.end - block * SPLIT;
        assert!(layer < self.layers && kv_head < self.kv_heads);
        assert!(block < self.blocks && within.end <= SPLIT);
        let half = usize::from(half == Half::Values);
        let index = (sequence * self.blocks + block) * self.layers + layer;
        let head = (index * 2 + half) * self.kv_heads + kv_head;
        let at = |position: usize| (head * SPLIT + position) * self.head_dim;
        self.buffer.pointer(at(within.start)..at(within.end))
    }

    /// Fills the whole cache with NaN, so that a read beyond what was written shows.
    #[cfg(test)]
    pub fn poison(&mut self) {
        self.buffer.as_mut_slice().fill(bf16::NAN);
    }
}
