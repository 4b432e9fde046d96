//! Keys and values of past positions, in bf16.

use half::bf16;

use super::buffer::SharedBuffer;
use crate::engine::EngineError;
use crate::model::ModelConfig;

/// `[sequence][layer][key or value][kv_head][position][head_dim]`: what one attention task reads
/// is one contiguous stretch.
pub struct KvCache {
    buffer: SharedBuffer<bf16>,
    layers: usize,
    kv_heads: usize,
    context: usize,
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
        let len = sequences * context * config.kv_bytes_per_position() / size_of::<bf16>();
        Ok(Self {
            buffer: SharedBuffer::new(len, "the KV cache")?,
            layers: config.layers,
            kv_heads: config.kv_heads,
            context,
            head_dim: config.head_dim,
        })
    }

    /// Positions of each sequence.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Where `positions` of one head begin: `[positions, head_dim]`.
    ///
    /// # Panics
    /// If they lie outside the context.
    pub fn pointer(
        &self,
        sequence: usize,
        layer: usize,
        half: Half,
        kv_head: usize,
        positions: std::ops::Range<usize>,
    ) -> *mut bf16 {
        assert!(layer < self.layers && kv_head < self.kv_heads && positions.end <= self.context);
        let half = usize::from(half == Half::Values);
        let head = ((sequence * self.layers + layer) * 2 + half) * self.kv_heads + kv_head;
        let at = |position: usize| (head * self.context + position) * self.head_dim;
        self.buffer.pointer(at(positions.start)..at(positions.end))
    }

    /// Fills the whole cache with NaN, so that a read beyond what was written shows.
    #[cfg(test)]
    pub fn poison(&mut self) {
        self.buffer.as_mut_slice().fill(bf16::NAN);
    }
}
