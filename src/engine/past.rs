//! Keys and values that are made up, so that an engine can decode behind thousands of positions that
//! no prompt was run for; and those that an engine has cached, to look at.

use half::bf16;

use super::EngineError;
use crate::model::random::{fill, stream};
use crate::model::{ModelConfig, TokenId};

/// Seed of all numbers here.
const SEED: u64 = 11;

/// Keys of this size give scores with a deviation of about two: attention then rests on some dozens
/// of thousands of positions, so that a stretch left out shows in the logits.
const KEY_BOUND: f32 = 4.0;
const VALUE_BOUND: f32 = 1.0;

/// Elements between the beginnings of neighbouring heads' numbers: no multiple of a head's width, so
/// that no two heads have rows in common.
const SHIFT: usize = 37;

/// Keys and values of a sequence's first positions, and the tokens they pass for.
#[derive(Clone, Debug)]
pub struct RandomPast {
    tokens: Vec<TokenId>,
    keys: Vec<bf16>,
    values: Vec<bf16>,
    kv_heads: usize,
    head_dim: usize,
}

impl RandomPast {
    /// `positions` positions for `config`: always the same ones.
    pub fn new(config: &ModelConfig, positions: usize) -> Self {
        let len = positions * config.head_dim + config.layers * config.kv_heads * SHIFT;
        let made = |name, bound| {
            let mut numbers = vec![bf16::ZERO; len];
            fill(&mut numbers, stream(SEED, name), bound);
            numbers
        };
        let token = |position: usize| (position * 7919 + 13) % config.vocab_size;
        Self {
            tokens: (0..positions).map(|p| token(p) as TokenId).collect(),
            keys: made("keys", KEY_BOUND),
            values: made("values", VALUE_BOUND),
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
        }
    }

    /// The tokens that it passes for.
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// A head's keys: `[positions, head_dim]`.
    pub fn keys(&self, layer: usize, kv_head: usize) -> &[bf16] {
        self.of_head(&self.keys, layer, kv_head)
    }

    /// A head's values: `[positions, head_dim]`.
    pub fn values(&self, layer: usize, kv_head: usize) -> &[bf16] {
        self.of_head(&self.values, layer, kv_head)
    }

    fn of_head<'a>(&self, all: &'a [bf16], layer: usize, kv_head: usize) -> &'a [bf16] {
        let first = (layer * self.kv_heads + kv_head) * SHIFT;
        &all[first..first + self.tokens.len() * self.head_dim]
    }
}

/// An engine whose cache can be filled with what no prompt made.
pub trait FillPast {
    /// Makes `sequence` consist of `past`, without running it; logits come with the next prompt.
    ///
    /// # Errors
    /// No such sequence; more positions than its cache has; a device that fails.
    ///
    /// # Panics
    /// If `past` was made for other dimensions.
    fn fill_past(&mut self, sequence: usize, past: &RandomPast) -> Result<(), EngineError>;
}

/// The keys and values that an engine has cached of one sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct CachedPast {
    /// `[layers]`
    pub layers: Vec<CachedLayer>,
}

/// Keys and values of one layer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CachedLayer {
    /// `[positions][kv_heads * head_dim]`
    pub keys: Vec<Vec<bf16>>,
    /// `[positions][kv_heads * head_dim]`
    pub values: Vec<Vec<bf16>>,
}

/// An engine whose cache can be looked at.
pub trait ReadPast {
    /// What is cached of `sequence`.
    ///
    /// # Errors
    /// No such sequence; a device that fails.
    fn read_past(&mut self, sequence: usize) -> Result<CachedPast, EngineError>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::shapes;

    #[test]
    fn heads_have_rows_of_their_own() {
        let config = shapes::config("tiny").unwrap();
        let past = RandomPast::new(&config, 5);
        let mut rows: Vec<_> = (0..config.layers)
            .flat_map(|layer| (0..config.kv_heads).map(move |head| (layer, head)))
            .flat_map(|(layer, head)| [past.keys(layer, head), past.values(layer, head)])
            .flat_map(|all| all.chunks(config.head_dim))
            .map(|row| row.iter().map(|x| x.to_bits()).collect::<Vec<_>>())
            .collect();
        let count = rows.len();
        rows.sort();
        rows.dedup();
        assert_eq!(rows.len(), count);
        assert_eq!(count, config.layers * config.kv_heads * 2 * 5);
    }
}
