//! Activations and scratch memory of the CPU engine: all of it is taken once, at start.

use super::attention::{QUERY_COLUMNS, SPLIT};
use super::buffer::SharedBuffer;
use super::forward::STREAMED_COLUMNS;
use super::kernels::panel::PANEL_COLUMNS;
use crate::engine::EngineError;
use crate::model::ModelConfig;

/// Shapes are row-major; `columns` is the most that one pass takes.
pub struct Workspace {
    /// The residual stream: `[columns, hidden]`.
    pub x: SharedBuffer<f32>,
    /// Normed residuals, where they are shared: `[columns, hidden]`.
    pub normed: SharedBuffer<f32>,
    /// Q, K and V: `[columns, q_size + 2 * kv_size]`.
    pub qkv: SharedBuffer<f32>,
    /// What the heads attended to: `[columns, q_size]`.
    pub attended: SharedBuffer<f32>,
    /// Gate rows, then SiLU(gate) times up: `[columns, intermediate]`.
    pub gate: SharedBuffer<f32>,
    /// Up rows: `[columns, intermediate]`.
    pub up: SharedBuffer<f32>,
    /// The input of a product with many columns: `[panels, k, PANEL_COLUMNS]`.
    pub packed: SharedBuffer<f32>,
    /// Logits as the head makes them: `[STREAMED_COLUMNS, vocabulary]`.
    pub head_slots: SharedBuffer<f32>,
    /// The last logits of each sequence: `[sequences, vocabulary]`.
    pub logits: SharedBuffer<f32>,
    /// Parts of an attention that was split; see [`Attention`](super::attention::Attention).
    pub partials: SharedBuffer<f32>,
    /// Each column's rotation.
    pub rotation: Rotation,
    scratch: Vec<Scratch>,
    qkv_stride: usize,
}

/// What one member has for itself.
pub struct Scratch {
    /// Normed residuals: `[STREAMED_COLUMNS, hidden]`.
    pub normed: SharedBuffer<f32>,
    /// What a streamed product reads: `[STREAMED_COLUMNS, k]`.
    pub paired: SharedBuffer<f32>,
    /// Queries of a task: `[queries, head_dim]`.
    pub queries: SharedBuffer<f32>,
    /// Their scores: `[queries, SPLIT]`.
    pub scores: SharedBuffer<f32>,
    /// What they attended to so far: `[queries, head_dim]`.
    pub sums: SharedBuffer<f32>,
    /// Maximum and sum of their softmax so far: `[queries, 2]`.
    pub softmax: SharedBuffer<f32>,
}

impl Workspace {
    /// Rows of a matrix that pass over all panels before the next ones: with 3,072 columns 369 KB,
    /// well inside a second-level cache of 1 MB.
    pub const PANEL_BLOCK_ROWS: usize = 60;

    /// Memory for passes of up to `columns` columns and `threads` members.
    ///
    /// # Errors
    /// If the system has none.
    pub fn new(
        config: &ModelConfig,
        columns: usize,
        sequences: usize,
        context: usize,
        threads: usize,
    ) -> Result<Self, EngineError> {
        let buffer = |len: usize| -> Result<SharedBuffer<f32>, EngineError> {
            let buffer = SharedBuffer::new(len, "the activations")?;
            buffer.populate(0..len);
            Ok(buffer)
        };
        let hidden = config.hidden_size;
        let widest = hidden.max(config.intermediate_size).max(config.q_size());
        let queries = QUERY_COLUMNS.max(config.group_size());
        let qkv_stride = config.q_size() + 2 * config.kv_size();
        let scratch = std::iter::repeat_with(|| {
            Ok(Scratch {
                normed: buffer(STREAMED_COLUMNS * hidden)?,
                paired: buffer(STREAMED_COLUMNS * widest)?,
                queries: buffer(queries * config.head_dim)?,
                scores: buffer(queries * SPLIT)?,
                sums: buffer(queries * config.head_dim)?,
                softmax: buffer(queries * 2)?,
            })
        });
        let splits = context.div_ceil(SPLIT);
        Ok(Self {
            x: buffer(columns * hidden)?,
            normed: buffer(columns * hidden)?,
            qkv: buffer(columns * qkv_stride)?,
            attended: buffer(columns * config.q_size())?,
            gate: buffer(columns * config.intermediate_size)?,
            up: buffer(columns * config.intermediate_size)?,
            packed: buffer(columns.next_multiple_of(PANEL_COLUMNS) * widest)?,
            head_slots: buffer(STREAMED_COLUMNS * config.vocab_size)?,
            logits: buffer(sequences * config.vocab_size)?,
            partials: SharedBuffer::new(
                sequences * splits * config.heads * (config.head_dim + 2),
                "the parts of split attention",
            )?,
            rotation: Rotation::new(config, columns)?,
            scratch: scratch.take(threads).collect::<Result<_, EngineError>>()?,
            qkv_stride,
        })
    }

    /// The scratch memory of one member.
    pub fn scratch(&self, member: usize) -> &Scratch {
        &self.scratch[member]
    }

    /// Numbers from one column of `qkv` to the next.
    pub fn qkv_stride(&self) -> usize {
        self.qkv_stride
    }
}

/// Cosines and sines of RoPE for the position of each column.
pub struct Rotation {
    frequencies: Vec<f64>,
    /// `[columns, head_dim]`: a column's cosines, then its sines.
    values: SharedBuffer<f32>,
}

impl Rotation {
    fn new(config: &ModelConfig, columns: usize) -> Result<Self, EngineError> {
        Ok(Self {
            frequencies: config.rope.frequencies(config.head_dim),
            values: SharedBuffer::new(columns * config.head_dim, "the rotations")?,
        })
    }

    /// Sets the rotation of `column`, which is the calling member's until the next barrier.
    pub fn set(&self, column: usize, position: usize) {
        let half = self.frequencies.len();
        let range = 2 * half * column..2 * half * (column + 1);
        // SAFETY: no other member has this column before the barrier.
        let (cosines, sines) = unsafe { self.values.get_mut(range) }.split_at_mut(half);
        for ((frequency, cosine), sine) in self.frequencies.iter().zip(cosines).zip(sines) {
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            (*sine, *cosine) = (sin as f32, cos as f32);
        }
    }

    /// The cosines and the sines of `column`: `[head_dim / 2]` each.
    ///
    /// # Safety
    /// The barrier that ended the embedding must have passed.
    pub unsafe fn of(&self, column: usize) -> (&[f32], &[f32]) {
        let half = self.frequencies.len();
        // SAFETY: passed on to the caller.
        unsafe { self.values.get(2 * half * column..2 * half * (column + 1)) }.split_at(half)
    }
}
