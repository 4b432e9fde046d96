//! The forward pass, as every member of the team runs it.
//!
//! [`Forward::layers`] reads like the algorithm: a phase computes this member's fixed share of
//! rows, heads or columns, and a barrier ends it. Activations are f32, sums f32, keys and values
//! bf16. Nothing depends on the number of members but who does it, so any team gives the same
//! bits.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use half::bf16;

use super::attention::Attention;
use super::kernels::Kernels;
use super::kernels::panel::{PANEL_COLUMNS, Packing, PanelProduct};
use super::kernels::simd::Product;
use super::team::Member;
use super::workspace::Workspace;
use crate::model::{LayerWeights, Matrix, ModelConfig, TokenId, Weights};

/// Up to this many columns a matrix is streamed from memory once for all of them, and every
/// member computes the norms for itself; above it the pass is bound by arithmetic.
pub const STREAMED_COLUMNS: usize = 8;

/// Lines of the next phase's weights that a member fetches while it waits at a barrier.
const LINES_AHEAD: u32 = 512;
const LINE: usize = 64;

/// One (sequence, position, token) to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Which KV cache.
    pub sequence: usize,
    /// Where in it.
    pub position: usize,
    /// What.
    pub token: TokenId,
}

/// Where values stopped being finite, as a number that orders by when it was met.
#[derive(Debug)]
pub struct NotFinite(AtomicU64);

impl Default for NotFinite {
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

impl NotFinite {
    fn report(&self, norm: usize, column: usize) {
        let code = (norm as u64) << 32 | column as u64;
        self.0.fetch_min(code, Ordering::Relaxed);
    }

    /// The first norm whose input was not finite, counted from the first of layer 0, and its
    /// column, if there was one.
    pub fn take(&self) -> Option<(usize, usize)> {
        let code = self.0.swap(u64::MAX, Ordering::Relaxed);
        (code != u64::MAX).then_some(((code >> 32) as usize, code as u32 as usize))
    }
}

/// What a pass works on; the same for every member.
pub struct Forward<'a> {
    /// The model, every matrix in bf16.
    pub weights: &'a Weights,
    /// The arithmetic.
    pub kernels: &'a Kernels,
    /// Activations and scratch memory.
    pub workspace: &'a Workspace,
    /// Attention of these columns.
    pub attention: &'a Attention<'a>,
    /// The columns to run.
    pub columns: &'a [Token],
    /// Told where values are not finite.
    pub not_finite: &'a NotFinite,
}

/// Activations that a product reads: `[columns, k]`.
#[derive(Clone, Copy)]
struct Input {
    at: *const f32,
    stride: usize,
}

impl Forward<'_> {
    fn config(&self) -> &ModelConfig {
        &self.weights.config
    }

    /// Runs `columns` through all layers; `workspace.x` then holds the residual stream.
    pub fn layers(&self, member: &Member) {
        self.embed(member);
        self.barrier(member, self.weights.layers.first().map(|layer| &layer.q));
        for (index, layer) in self.weights.layers.iter().enumerate() {
            self.qkv(member, index, layer);
            self.barrier(member, None);

            self.attention
                .run(member, index, layer, || self.barrier(member, None));
            self.barrier(member, Some(&layer.o));

            self.output(member, layer);
            self.barrier(member, Some(&layer.gate));

            self.gate_up(member, index, layer);
            self.barrier(member, Some(&layer.down));

            self.down(member, layer);
            let next = self.weights.layers.get(index + 1).map(|layer| &layer.q);
            self.barrier(member, Some(next.unwrap_or(self.weights.head())));
        }
    }

    /// Waits for the team, and meanwhile fetches the first rows of this member's share of `next`.
    fn barrier(&self, member: &Member, next: Option<&Matrix>) {
        let Some(next) = next else {
            member.barrier_while(|_| ());
            return;
        };
        let rows = member.share(next.rows());
        let first = bf16_values(next)
            .as_ptr()
            .wrapping_add(rows.start * next.columns());
        member.barrier_while(|spin| {
            if spin < LINES_AHEAD {
                let line = first.cast::<u8>().wrapping_add(spin as usize * LINE);
                // SAFETY: a prefetch may go to any address.
                unsafe { (self.kernels.prefetch)(line) };
            }
        });
    }

    /// Embedding rows into the residual stream, and each column's rotation.
    fn embed(&self, member: &Member) {
        let hidden = self.config().hidden_size;
        for column in member.share(self.columns.len()) {
            let Token {
                position, token, ..
            } = self.columns[column];
            // SAFETY: each column is one member's, and is read after the barrier.
            let x = unsafe {
                self.workspace
                    .x
                    .get_mut(column * hidden..(column + 1) * hidden)
            };
            self.weights.embedding.copy_row(token as usize, x);
            self.workspace.rotation.set(column, position);
        }
    }

    /// RMSNorm, Q, K and V of every column, biases added.
    fn qkv(&self, member: &Member, index: usize, layer: &LayerWeights) {
        let normed = self.norm(member, 2 * index, &layer.input_norm);
        let normed = self.prepared(member, normed, self.config().hidden_size);
        let stride = self.workspace.qkv_stride();
        let share = member.share(stride);
        let bias = layer.qkv_bias.as_ref();
        let mut offset = 0;
        for (matrix, bias) in [
            (&layer.q, bias.map(|bias| &bias.q)),
            (&layer.k, bias.map(|bias| &bias.k)),
            (&layer.v, bias.map(|bias| &bias.v)),
        ] {
            let rows = part(&share, offset, matrix.rows());
            let out = offset + rows.start..offset + rows.end;
            offset += matrix.rows();
            if rows.is_empty() {
                continue;
            }
            let at = self.rows_of(&self.workspace.qkv, stride, out.clone());
            self.multiply(matrix, rows.clone(), normed, (at, stride), false);
            let Some(bias) = bias else { continue };
            for column in 0..self.columns.len() {
                let base = column * stride;
                // SAFETY: these rows are this member's until the barrier.
                let values = unsafe {
                    let range = base + out.start..base + out.end;
                    self.workspace.qkv.get_mut(range)
                };
                for (value, bias) in values.iter_mut().zip(&bias[rows.clone()]) {
                    *value += bias;
                }
            }
        }
    }

    /// O projection, added to the residual stream.
    fn output(&self, member: &Member, layer: &LayerWeights) {
        let attended = Input {
            at: self.workspace.attended.pointer(0..0),
            stride: self.config().q_size(),
        };
        self.add_to_residual(member, &layer.o, attended);
    }

    /// RMSNorm, gate and up rows, SiLU of the gate times up.
    fn gate_up(&self, member: &Member, index: usize, layer: &LayerWeights) {
        let normed = self.norm(member, 2 * index + 1, &layer.post_attention_norm);
        let normed = self.prepared(member, normed, self.config().hidden_size);
        let stride = self.config().intermediate_size;
        let rows = member.share(stride);
        if rows.is_empty() {
            return;
        }
        let gate = self.rows_of(&self.workspace.gate, stride, rows.clone());
        let up = self.rows_of(&self.workspace.up, stride, rows.clone());
        self.multiply(&layer.gate, rows.clone(), normed, (gate, stride), false);
        self.multiply(&layer.up, rows.clone(), normed, (up, stride), false);
        for column in 0..self.columns.len() {
            let (gate, up) = (
                gate.wrapping_add(column * stride),
                up.wrapping_add(column * stride),
            );
            // SAFETY: `rows_of` checked the buffers for every column, and these rows are this
            // member's until the barrier.
            unsafe { (self.kernels.silu_mul)(gate, up, rows.len()) };
        }
    }

    /// Down projection, added to the residual stream.
    fn down(&self, member: &Member, layer: &LayerWeights) {
        let gated = Input {
            at: self.workspace.gate.pointer(0..0),
            stride: self.config().intermediate_size,
        };
        self.add_to_residual(member, &layer.down, gated);
    }

    /// Final RMSNorm and LM head of `columns` (at most [`STREAMED_COLUMNS`]) of this pass, into
    /// `workspace.logits[sequence]`.
    pub fn head(&self, member: &Member, columns: Range<usize>) {
        assert!(columns.len() <= STREAMED_COLUMNS);
        if columns.is_empty() {
            return;
        }
        let hidden = self.config().hidden_size;
        let normed = self
            .workspace
            .scratch(member.index)
            .normed
            .pointer(0..columns.len() * hidden);
        for (slot, column) in columns.clone().enumerate() {
            let norm = 2 * self.config().layers;
            self.norm_column(
                column,
                norm,
                &self.weights.final_norm,
                normed.wrapping_add(slot * hidden),
            );
        }
        let head = self.weights.head();
        let rows = member.share(head.rows());
        if rows.is_empty() {
            return;
        }
        let slots = &self.workspace.head_slots;
        let input = Input {
            at: normed,
            stride: hidden,
        };
        let input = self.paired(member, input, hidden, columns.len());
        let stride = head.rows();
        let range = rows.start..(columns.len() - 1) * stride + rows.end;
        let product = product(
            head,
            rows.clone(),
            input,
            (slots.pointer(range), stride),
            columns.len(),
        );
        // SAFETY: normed is this member's own, these rows of the slots are too, and both were
        // checked to hold that many columns.
        unsafe { (self.kernels.stream)(&product) };
        for (slot, column) in columns.clone().enumerate() {
            let base = self.columns[column].sequence * stride;
            // SAFETY: as above; the logits are read after the job.
            unsafe {
                let from = slots.get(slot * stride + rows.start..slot * stride + rows.end);
                let to = self
                    .workspace
                    .logits
                    .get_mut(base + rows.start..base + rows.end);
                to.copy_from_slice(from);
            }
        }
    }

    /// RMSNorm of every column: by each member for itself while there are few, else shared out.
    fn norm(&self, member: &Member, norm: usize, weight: &[f32]) -> Input {
        let hidden = self.config().hidden_size;
        let columns = self.columns.len();
        let redundant = columns <= STREAMED_COLUMNS;
        let (buffer, share) = if redundant {
            (&self.workspace.scratch(member.index).normed, 0..columns)
        } else {
            (&self.workspace.normed, member.share(columns))
        };
        let at = buffer.pointer(0..columns * hidden);
        for column in share {
            self.norm_column(column, norm, weight, at.wrapping_add(column * hidden));
        }
        if !redundant {
            self.barrier(member, None);
        }
        Input { at, stride: hidden }
    }

    fn norm_column(&self, column: usize, norm: usize, weight: &[f32], out: *mut f32) {
        let hidden = self.config().hidden_size;
        let x = self
            .workspace
            .x
            .pointer(column * hidden..(column + 1) * hidden);
        // SAFETY: x is only read between the barriers around this phase; out is this member's.
        unsafe {
            let squares = (self.kernels.sum_of_squares)(x, hidden);
            if !squares.is_finite() {
                self.not_finite.report(norm, column);
            }
            let mean = f64::from(squares) / hidden as f64;
            let scale = 1.0 / (mean + self.config().rms_norm_eps).sqrt();
            (self.kernels.scale_by)(x, scale as f32, weight.as_ptr(), out, hidden);
        }
    }

    /// `x += matrix * input` for this member's share of the rows.
    fn add_to_residual(&self, member: &Member, matrix: &Matrix, input: Input) {
        let hidden = self.config().hidden_size;
        let rows = member.share(hidden);
        let input = self.prepared(member, input, matrix.columns());
        if !rows.is_empty() {
            let x = self.rows_of(&self.workspace.x, hidden, rows.clone());
            self.multiply(matrix, rows, input, (x, hidden), true);
        }
    }

    /// `input` as [`multiply`](Self::multiply) reads it: a copy of this member's own in the order
    /// of [`Kernels::pair`] where the matrix is streamed; where there are more columns, panels that
    /// all members pack together, `stride` apart.
    fn prepared(&self, member: &Member, input: Input, len: usize) -> Input {
        let columns = self.columns.len();
        if columns <= STREAMED_COLUMNS {
            return self.paired(member, input, len, columns);
        }
        let stride = len * PANEL_COLUMNS;
        let panels = columns.div_ceil(PANEL_COLUMNS);
        let at = self.workspace.packed.pointer(0..panels * stride);
        // Shares of pairs, since some paths pack two numbers into one.
        let pairs = member.share(len.div_ceil(2));
        for (panel, first) in (0..columns).step_by(PANEL_COLUMNS).enumerate() {
            // SAFETY: the input was complete before the last barrier; this part of the panels is
            // this member's until the next.
            unsafe {
                (self.kernels.pack)(&Packing {
                    x: input.at.wrapping_add(first * input.stride),
                    x_stride: input.stride,
                    columns: (columns - first).min(PANEL_COLUMNS),
                    first: 2 * pairs.start,
                    end: (2 * pairs.end).min(len),
                    panel: at.wrapping_add(panel * stride),
                });
            }
        }
        self.barrier(member, None);
        Input { at, stride }
    }

    fn paired(&self, member: &Member, input: Input, len: usize, columns: usize) -> Input {
        let at = self
            .workspace
            .scratch(member.index)
            .paired
            .pointer(0..columns * len);
        for column in 0..columns {
            let from = input.at.wrapping_add(column * input.stride);
            // SAFETY: the input is complete, or this member's own; the copy is its own.
            unsafe { (self.kernels.pair)(from, at.wrapping_add(column * len), len) };
        }
        Input { at, stride: len }
    }

    /// Where `rows` of column 0 lie in `[columns, stride]`; every column is checked to be there.
    fn rows_of(
        &self,
        buffer: &super::buffer::SharedBuffer<f32>,
        stride: usize,
        rows: Range<usize>,
    ) -> *mut f32 {
        buffer.pointer(rows.start..(self.columns.len() - 1) * stride + rows.end)
    }

    /// `rows` of `matrix` times every column of `input`, to `out` and its stride.
    fn multiply(
        &self,
        matrix: &Matrix,
        rows: Range<usize>,
        input: Input,
        out: (*mut f32, usize),
        accumulate: bool,
    ) {
        let columns = self.columns.len();
        let whole = Product {
            accumulate,
            ..product(matrix, rows, input, out, columns)
        };
        if columns <= STREAMED_COLUMNS {
            // The input went through `prepared`.
            // SAFETY: the input was made complete by the last barrier (or is this member's own),
            // and these rows of the output are this member's.
            unsafe { (self.kernels.stream)(&whole) };
            return;
        }
        // A few dozen rows stay in the second-level cache while the panels pass over them.
        let blocks = (0..whole.rows).step_by(Workspace::PANEL_BLOCK_ROWS);
        for row in blocks {
            for (panel, first) in (0..columns).step_by(PANEL_COLUMNS).enumerate() {
                // SAFETY: as above; `prepared` packed every panel of the input.
                unsafe {
                    (self.kernels.panel_product)(&PanelProduct {
                        matrix: whole.matrix.add(row * whole.k),
                        rows: (whole.rows - row).min(Workspace::PANEL_BLOCK_ROWS),
                        k: whole.k,
                        x: input.at.add(panel * input.stride),
                        columns: (columns - first).min(PANEL_COLUMNS),
                        out: whole.out.add(first * whole.out_stride + row),
                        out_stride: whole.out_stride,
                        accumulate,
                    });
                }
            }
        }
    }
}

/// The part of `share` that falls on `len` rows from `offset` on, counted from `offset`.
fn part(share: &Range<usize>, offset: usize, len: usize) -> Range<usize> {
    let clamp = |row: usize| row.clamp(offset, offset + len) - offset;
    clamp(share.start)..clamp(share.end)
}

fn bf16_values(matrix: &Matrix) -> &[bf16] {
    matrix
        .as_bf16()
        .expect("the engine holds every matrix in bf16")
}

fn product(
    matrix: &Matrix,
    rows: Range<usize>,
    input: Input,
    (out, out_stride): (*mut f32, usize),
    columns: usize,
) -> Product<bf16> {
    let k = matrix.columns();
    Product {
        matrix: bf16_values(matrix)[rows.start * k..rows.end * k].as_ptr(),
        rows: rows.len(),
        k,
        x: input.at,
        x_stride: input.stride,
        columns,
        out,
        out_stride,
        accumulate: false,
    }
}
