//! Where everything lies in a device's memory, as byte offsets: the weights as the kernels read
//! them, and the state that launches write.

use super::abi::{
    OG_BUCKETS, OG_GROUP_ROWS, OG_MAX_SPLITS, OG_ROW_ALIGNMENT, OG_SELECT_PASSES,
    OG_TENSOR_ALIGNMENT, OgBarrier, OgCandidate, OgControl, OgModel, OgState,
};
use super::error::DeviceError;
use super::options::MAX_COLUMNS;
use crate::model::ModelConfig;

const BF16: u64 = 2;
const F32: u64 = 4;
const WORD: u64 = 4;

/// Lays tensors one after the other, each on a multiple of [`OG_TENSOR_ALIGNMENT`].
struct Cursor {
    end: u64,
    what: &'static str,
}

impl Cursor {
    fn new(what: &'static str) -> Self {
        Self { end: 0, what }
    }

    /// Room for an array of `shape` with elements of `size` bytes; returns where it begins.
    fn take(&mut self, shape: &[u64], size: u64) -> Result<u64, DeviceError> {
        let what = self.what;
        let too_large = || DeviceError::TooLarge { what };
        let begin = self.end;
        let bytes = shape.iter().try_fold(size, |all, &n| all.checked_mul(n));
        let end = bytes.and_then(|bytes| begin.checked_add(bytes));
        let aligned = end.and_then(|end| end.checked_next_multiple_of(OG_TENSOR_ALIGNMENT.into()));
        self.end = aligned.ok_or_else(too_large)?;
        Ok(begin)
    }
}

/// The number in 32 bits, as the kernels count.
fn word(value: usize, what: &'static str) -> Result<u32, DeviceError> {
    u32::try_from(value).map_err(|_| DeviceError::TooLarge { what })
}

/// Where the weights lie.
#[derive(Clone, Copy, Debug)]
pub struct WeightLayout {
    /// Dimensions, strides and offsets.
    pub model: OgModel,
    /// Bytes in all.
    pub bytes: u64,
}

impl WeightLayout {
    /// The layout of `config`'s weights, with a RoPE table of `context` positions.
    ///
    /// # Errors
    /// More bytes than can be counted.
    pub fn new(config: &ModelConfig, context: usize) -> Result<Self, DeviceError> {
        const WHAT: &str = "the weights";
        let stride = |columns: usize| {
            let stride = columns.checked_next_multiple_of(OG_ROW_ALIGNMENT as usize);
            word(stride.unwrap_or(usize::MAX), WHAT)
        };
        let mut model = OgModel {
            hidden: word(config.hidden_size, WHAT)?,
            intermediate: word(config.intermediate_size, WHAT)?,
            layers: word(config.layers, WHAT)?,
            heads: word(config.heads, WHAT)?,
            kv_heads: word(config.kv_heads, WHAT)?,
            head_dim: word(config.head_dim, WHAT)?,
            vocab: word(config.vocab_size, WHAT)?,
            hidden_stride: stride(config.hidden_size)?,
            q_stride: stride(config.q_size())?,
            intermediate_stride: stride(config.intermediate_size)?,
            norm_eps: config.rms_norm_eps as f32,
            has_qkv_bias: config.qkv_bias().into(),
            has_qk_norm: config.qk_norm().into(),
            ..OgModel::default()
        };
        let [hidden, vocab, head_dim] =
            [config.hidden_size, config.vocab_size, config.head_dim].map(|n| n as u64);
        let hidden_stride = u64::from(model.hidden_stride);
        let qkv_rows = (config.q_size() + 2 * config.kv_size()) as u64;

        // One layer, from 0.
        let mut layer = Cursor::new(WHAT);
        model.input_norm = layer.take(&[hidden_stride], F32)?;
        model.qkv = layer.take(&[qkv_rows, hidden_stride], BF16)?;
        let biases = if config.qkv_bias() { qkv_rows } else { 0 };
        model.qkv_bias = layer.take(&[biases], F32)?;
        let qk_norm = if config.qk_norm() { head_dim } else { 0 };
        model.q_norm = layer.take(&[qk_norm], F32)?;
        model.k_norm = layer.take(&[qk_norm], F32)?;
        model.output = layer.take(&[hidden, model.q_stride.into()], BF16)?;
        model.post_attention_norm = layer.take(&[hidden_stride], F32)?;
        let gate_up_rows = 2 * config.intermediate_size as u64;
        model.gate_up = layer.take(&[gate_up_rows, hidden_stride], BF16)?;
        model.down = layer.take(&[hidden, model.intermediate_stride.into()], BF16)?;
        model.layer_bytes = layer.end;

        let mut all = Cursor::new(WHAT);
        model.embedding = all.take(&[vocab, hidden_stride], BF16)?;
        model.layers_begin = all.take(&[model.layers.into(), model.layer_bytes], 1)?;
        model.final_norm = all.take(&[hidden_stride], F32)?;
        model.head = match config.tied_embeddings {
            true => model.embedding,
            false => all.take(&[vocab, hidden_stride], BF16)?,
        };
        model.rope = all.take(&[context as u64, head_dim / 2, 2], F32)?;
        Ok(Self {
            model,
            bytes: all.end,
        })
    }
}

/// Where the state lies.
#[derive(Clone, Copy, Debug)]
pub struct StateLayout {
    /// Offsets and counts.
    pub at: OgState,
    /// Bytes in all.
    pub bytes: u64,
}

/// Rows of logits beyond the sequences' own: those of a whole pass, for teacher-forced logits.
pub const SCRATCH_ROWS: usize = MAX_COLUMNS;

impl StateLayout {
    /// The layout for `sequences` sequences of up to `context` positions, grids of up to `blocks`
    /// blocks, and `guide_bytes` of tables.
    ///
    /// # Errors
    /// More bytes than can be counted.
    pub fn new(
        config: &ModelConfig,
        context: usize,
        sequences: usize,
        blocks: u32,
        guide_bytes: u64,
    ) -> Result<Self, DeviceError> {
        const WHAT: &str = "the KV cache and activations";
        let columns = MAX_COLUMNS as u64;
        let [
            hidden,
            intermediate,
            vocab,
            heads,
            kv_heads,
            head_dim,
            layers,
        ] = [
            config.hidden_size,
            config.intermediate_size,
            config.vocab_size,
            config.heads,
            config.kv_heads,
            config.head_dim,
            config.layers,
        ]
        .map(|n| n as u64);
        let logits_rows = sequences.saturating_add(SCRATCH_ROWS);
        let qkv_rows = (config.q_size() + 2 * config.kv_size()) as u64;
        let stride = |columns: u64| columns.next_multiple_of(OG_ROW_ALIGNMENT.into());
        let [hidden_stride, intermediate_stride] = [stride(hidden), stride(intermediate)];
        let widest = qkv_rows.max(hidden).max(2 * intermediate).max(vocab);
        // Of an odd last row the row that is missing beside it has a sum, too.
        let widest = widest.next_multiple_of(OG_GROUP_ROWS.into());
        let splits = u64::from(OG_MAX_SPLITS);
        let [positions, sequences_held] = [context, sequences].map(|n| n as u64);
        let mut cursor = Cursor::new(WHAT);
        let mut take = |shape: &[u64], size: u64| cursor.take(shape, size);
        let at = OgState {
            control: take(&[1], size_of::<OgControl>() as u64)?,
            barrier: take(&[1], size_of::<OgBarrier>() as u64)?,
            arrivals: take(&[blocks.into()], WORD)?,
            residual: take(&[columns, hidden_stride], F32)?,
            normed: take(&[columns, hidden_stride], F32)?,
            qkv: take(&[columns, qkv_rows], F32)?,
            split_sums: take(&[columns, heads, splits, head_dim], F32)?,
            split_softmax: take(&[columns, heads, splits, 2], F32)?,
            head_outputs: take(&[kv_heads, columns, hidden_stride], F32)?,
            activated: take(&[columns, intermediate_stride], F32)?,
            partial_rows: take(&[widest, columns], F32)?,
            logits: take(&[logits_rows as u64, vocab], F32)?,
            seen: take(&[columns, vocab.div_ceil(32)], WORD)?,
            candidates: take(
                &[2, blocks.into(), columns],
                size_of::<OgCandidate>() as u64,
            )?,
            histograms: take(
                &[2, OG_SELECT_PASSES.into(), columns, OG_BUCKETS.into()],
                size_of::<u64>() as u64,
            )?,
            keys: take(
                &[layers, sequences_held, kv_heads, positions, head_dim],
                BF16,
            )?,
            values: take(
                &[layers, sequences_held, kv_heads, positions, head_dim],
                BF16,
            )?,
            guides: take(&[guide_bytes], 1)?,
            guide_bytes,
            sequences: word(sequences, WHAT)?,
            context: word(context, WHAT)?,
            logits_rows: word(logits_rows, WHAT)?,
            columns: MAX_COLUMNS as u32,
        };
        Ok(Self {
            at,
            bytes: cursor.end,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use proptest::prelude::*;

    use super::*;
    use crate::model::config::Rope;
    use crate::model::{Architecture, shapes};

    /// `(name, begin, bytes)` of all tensors, in terms of the header alone.
    fn tensors(layout: &WeightLayout, context: u64) -> Vec<(String, Range<u64>)> {
        let model = &layout.model;
        let wide = u64::from;
        let qkv_rows = (wide(model.heads) + 2 * wide(model.kv_heads)) * wide(model.head_dim);
        let mut tensors = Vec::new();
        let mut push = |name: &str, begin: u64, bytes: u64| {
            tensors.push((name.to_owned(), begin..begin + bytes));
        };
        let embedding = wide(model.vocab) * wide(model.hidden_stride) * 2;
        push("embedding", model.embedding, embedding);
        if model.head != model.embedding {
            push("head", model.head, embedding);
        }
        push(
            "final_norm",
            model.final_norm,
            4 * wide(model.hidden_stride),
        );
        push("rope", model.rope, context * wide(model.head_dim) / 2 * 8);
        for layer in 0..wide(model.layers) {
            let mut push = |name: &str, begin: u64, bytes: u64| {
                let begin = model.layers_begin + layer * model.layer_bytes + begin;
                push(&format!("{layer}.{name}"), begin, bytes);
            };
            push("qkv", model.qkv, qkv_rows * wide(model.hidden_stride) * 2);
            push(
                "output",
                model.output,
                wide(model.hidden) * wide(model.q_stride) * 2,
            );
            let gate_up = 2 * wide(model.intermediate) * wide(model.hidden_stride) * 2;
            push("gate_up", model.gate_up, gate_up);
            let down = wide(model.hidden) * wide(model.intermediate_stride) * 2;
            push("down", model.down, down);
            push(
                "input_norm",
                model.input_norm,
                4 * wide(model.hidden_stride),
            );
            push(
                "post_attention_norm",
                model.post_attention_norm,
                4 * wide(model.hidden_stride),
            );
            if model.has_qk_norm == 1 {
                push("q_norm", model.q_norm, 4 * wide(model.head_dim));
                push("k_norm", model.k_norm, 4 * wide(model.head_dim));
            }
            if model.has_qkv_bias == 1 {
                push("qkv_bias", model.qkv_bias, 4 * qkv_rows);
            }
        }
        tensors
    }

    fn check_apart(mut tensors: Vec<(String, Range<u64>)>, bytes: u64) {
        tensors.sort_by_key(|(_, range)| (range.start, range.end));
        for (name, range) in &tensors {
            assert_eq!(range.start % u64::from(OG_TENSOR_ALIGNMENT), 0, "{name}");
            assert!(
                range.end <= bytes,
                "{name} ends at {} of {bytes}",
                range.end
            );
        }
        for pair in tensors.windows(2) {
            let [(name, range), (next, begin)] = pair else {
                unreachable!()
            };
            assert!(range.end <= begin.start, "{name} overlaps {next}");
        }
    }

    fn config() -> impl Strategy<Value = ModelConfig> {
        let dimensions = (
            1..300_usize,
            1..300_usize,
            1..4_usize,
            1..4_usize,
            1..4_usize,
        );
        let switches = (0..3_usize, 1..600_usize, any::<bool>(), any::<bool>());
        (dimensions, switches).prop_map(|(dimensions, switches)| {
            let (hidden_size, intermediate_size, layers, kv_heads, group) = dimensions;
            let (architecture, vocab_size, wide_heads, tied_embeddings) = switches;
            use Architecture::{Llama, Qwen2, Qwen3};
            ModelConfig {
                architecture: [Qwen3, Qwen2, Llama][architecture],
                hidden_size,
                intermediate_size,
                layers,
                heads: kv_heads * group,
                kv_heads,
                head_dim: if wide_heads { 128 } else { 64 },
                vocab_size,
                max_positions: 1024,
                rms_norm_eps: 1e-6,
                rope: Rope {
                    theta: 1e6,
                    scaling: None,
                },
                tied_embeddings,
            }
        })
    }

    proptest! {
        #[test]
        fn weights_are_aligned_and_apart(config in config(), context in 1..200_u64) {
            let layout = WeightLayout::new(&config, context as usize).unwrap();
            let model = &layout.model;
            prop_assert_eq!(model.layer_bytes % 256, 0);
            for (stride, columns) in [
                (model.hidden_stride, config.hidden_size),
                (model.q_stride, config.q_size()),
                (model.intermediate_stride, config.intermediate_size),
            ] {
                prop_assert_eq!(stride % OG_ROW_ALIGNMENT, 0);
                prop_assert!((columns..columns + 8).contains(&(stride as usize)));
            }
            prop_assert_eq!(model.head == model.embedding, config.tied_embeddings);
            check_apart(tensors(&layout, context), layout.bytes);
        }

        #[test]
        fn state_is_aligned_and_apart(
            config in config(),
            context in 1..200_u64,
            sequences in 1..9_u64,
            blocks in 1..300_u32,
        ) {
            let layout =
                StateLayout::new(&config, context as usize, sequences as usize, blocks, 999).unwrap();
            let at = &layout.at;
            let [hidden, intermediate, vocab, heads, kv_heads, head_dim, layers] = [
                config.hidden_size,
                config.intermediate_size,
                config.vocab_size,
                config.heads,
                config.kv_heads,
                config.head_dim,
                config.layers,
            ]
            .map(|n| n as u64);
            let stride = |columns: u64| columns.next_multiple_of(OG_ROW_ALIGNMENT.into());
            let blocks = u64::from(blocks);
            let columns = u64::from(at.columns);
            let qkv = (heads + 2 * kv_heads) * head_dim;
            let cache = layers * sequences * kv_heads * context * head_dim * 2;
            let widest = qkv.max(hidden).max(2 * intermediate).max(vocab).next_multiple_of(2);
            let arrays = [
                ("control", at.control, size_of::<OgControl>() as u64),
                ("barrier", at.barrier, size_of::<OgBarrier>() as u64),
                ("arrivals", at.arrivals, 4 * blocks),
                ("residual", at.residual, 4 * columns * stride(hidden)),
                ("normed", at.normed, 4 * columns * stride(hidden)),
                ("qkv", at.qkv, 4 * columns * qkv),
                ("split_sums", at.split_sums, 4 * columns * heads * 64 * head_dim),
                ("split_softmax", at.split_softmax, 4 * columns * heads * 64 * 2),
                (
                    "head_outputs",
                    at.head_outputs,
                    4 * kv_heads * columns * stride(hidden),
                ),
                ("activated", at.activated, 4 * columns * stride(intermediate)),
                ("partial_rows", at.partial_rows, 4 * widest * columns),
                ("logits", at.logits, 4 * (sequences + 8) * vocab),
                ("seen", at.seen, 4 * columns * vocab.div_ceil(32)),
                ("candidates", at.candidates, 2 * 24 * blocks * columns),
                ("histograms", at.histograms, 8 * 2 * 3 * columns * 2048),
                ("keys", at.keys, cache),
                ("values", at.values, cache),
                ("guides", at.guides, 999),
            ];
            let ranges = arrays.map(|(name, begin, bytes)| (name.to_owned(), begin..begin + bytes));
            check_apart(ranges.to_vec(), layout.bytes);
        }
    }

    #[test]
    fn a_published_shape_takes_what_its_parameters_take() {
        let config = shapes::config("qwen3-0.6b").unwrap();
        let layout = WeightLayout::new(&config, 4096).unwrap();
        let rope = 4096 * 64 * 8;
        let parameters = 2 * config.parameters() as u64;
        let vectors = layout.bytes - rope - parameters;
        // Vectors are f32, which doubles them, and tensors are aligned.
        assert!(vectors < 300_000, "{vectors}");
        let state = StateLayout::new(&config, 4096, 1, 132, 0).unwrap();
        let cache = 4096 * config.kv_bytes_per_position() as u64;
        assert!(
            (cache..cache + 32_000_000).contains(&state.bytes),
            "{}",
            state.bytes
        );
    }

    #[test]
    fn sizes_beyond_64_bits_are_refused() {
        let config = shapes::config("qwen3-32b").unwrap();
        let error = StateLayout::new(&config, usize::MAX / 8, 8, 1, 0).unwrap_err();
        assert!(error.to_string().contains("the KV cache"), "{error}");
        let error = WeightLayout::new(&config, usize::MAX).unwrap_err();
        assert!(error.to_string().contains("the weights"), "{error}");
    }
}
