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
use super::kernels::product::Product;
use super::kernels::simd::LINE;
use super::team::Member;
use super::workspace::Workspace;
use crate::engine::trace::{Phase, Recorder};
use crate::model::{LayerWeights, Matrix, ModelConfig, TokenId, Weights};

/// Up to this many columns a matrix is streamed from memory once for all of them, and every
/// member computes the norms for itself; above it the pass is bound by arithmetic.
pub const STREAMED_COLUMNS: usize = 8;

/// What a member that waits or attends fetches meanwhile of the weights it will stream next: a few
/// lines a step, which is about as fast as memory gives them, up to half a megabyte.
const LINES_A_STEP: usize = 16;
const STEPS_AHEAD: usize = 512;

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
    /// Told when phases begin and end, where that is recorded.
    pub(crate) trace: Option<&'a Recorder>,
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

    /// Runs `columns` through all layers; `workspace.x` then holds the residual stream. `has_head` says
    /// whether the whole head comes next, so that its rows are on their way by then.
    pub fn layers(&self, member: &Member, has_head: bool) {
        let layers = &self.weights.layers;
        self.phase(member, Phase::Embed, None, || self.embed(member));
        self.barrier(
            member,
            layers.first().map(|layer| self.start_of_qkv(member, layer)),
        );
        for (index, layer) in layers.iter().enumerate() {
            let next_layer = layers.get(index + 1);
            let o = self.start_of(member, &layer.o);
            let gate = self.start_of(member, &layer.gate);
            let down = self.start_of(member, &layer.down);
            let next = match next_layer.or(layers.first().filter(|_| !has_head)) {
                Some(layer) => self.start_of_qkv(member, layer),
                None => self.start_of(member, self.weights.head()),
            };

            let at = Some(index);

            self.phase(member, Phase::Qkv, at, || {
                self.qkv(member, index, layer, o);
            });
            self.barrier(member, Some(o));

            let ahead = |step: usize| self.fetch(o, step);
            let barrier = || self.barrier(member, None);
            self.phase(member, Phase::Attention, at, || {
                (self.attention).run(member, index, layer, barrier, ahead);
            });
            self.barrier(member, Some(o));

            self.phase(member, Phase::Output, at, || {
                self.output(member, layer, gate);
            });
            self.barrier(member, Some(gate));

            self.phase(member, Phase::GateUp, at, || {
                self.gate_up(member, index, layer, down);
            });
            self.barrier(member, Some(down));

            self.phase(member, Phase::Down, at, || {
                self.down(member, layer, next);
            });
            self.barrier(member, Some(next));
        }
    }

    /// Does the `work` of a phase, and records it where that is wanted.
    fn phase(&self, member: &Member, phase: Phase, layer: Option<usize>, work: impl FnOnce()) {
        let begin = (self.trace).map(|trace| trace.enter(member.index, phase, layer));
        work();
        if let (Some(trace), Some(begin)) = (self.trace, begin) {
            trace.leave(member.index, begin);
        }
    }

    /// The first row of this member's share of `matrix`.
    fn start_of(&self, member: &Member, matrix: &Matrix) -> *const bf16 {
        let row = member.share(matrix.rows()).start;
        bf16_values(matrix)
            .as_ptr()
            .wrapping_add(row * matrix.columns())
    }

    /// The first row of this member's share of Q, K and V together.
    fn start_of_qkv(&self, member: &Member, layer: &LayerWeights) -> *const bf16 {
        let mut row = member.share(self.workspace.qkv_stride()).start;
        for matrix in [&layer.q, &layer.k] {
            if row < matrix.rows() {
                return bf16_values(matrix)
                    .as_ptr()
                    .wrapping_add(row * matrix.columns());
            }
            row -= matrix.rows();
        }
        bf16_values(&layer.v)
            .as_ptr()
            .wrapping_add(row * layer.v.columns())
    }

    /// Fetches the `step`th stretch of the weights at `start`, which will be streamed soon.
    fn fetch(&self, start: *const bf16, step: usize) {
        if step < STEPS_AHEAD && self.columns.len() <= STREAMED_COLUMNS {
            let at = start.cast::<u8>().wrapping_add(step * LINES_A_STEP * LINE);
            // SAFETY: a prefetch may go to any address.
            unsafe { (self.kernels.prefetch)(at, LINES_A_STEP) };
        }
    }

    /// Waits for the team, and meanwhile fetches weights that this member will stream next.
    fn barrier(&self, member: &Member, next: Option<*const bf16>) {
        let begin = (self.trace).map(|trace| trace.wait_begins(member.index));
        match next {
            None => member.barrier_while(|_| ()),
            Some(start) => member.barrier_while(|spin| self.fetch(start, spin as usize)),
        }
        if let (Some(trace), Some(begin)) = (self.trace, begin) {
            trace.waited(member.index, begin);
        }
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
    fn qkv(&self, member: &Member, index: usize, layer: &LayerWeights, next: *const bf16) {
        let normed = self.norm(member, 2 * index, &layer.input_norm);
        let normed = self.prepared(member, normed, self.config().hidden_size);
        let stride = self.workspace.qkv_stride();
        let share = member.share(stride);
        let bias = layer.qkv_bias.as_ref();
        let mut offset = 0;
        for (matrix, bias, following) in [
            (&layer.q, bias.map(|bias| &bias.q), Some(&layer.k)),
            (&layer.k, bias.map(|bias| &bias.k), Some(&layer.v)),
            (&layer.v, bias.map(|bias| &bias.v), None),
        ] {
            let rows = part(&share, offset, matrix.rows());
            let out = offset + rows.start..offset + rows.end;
            offset += matrix.rows();
            if rows.is_empty() {
                continue;
            }
            let following = following.filter(|_| share.end > offset);
            let next = following.map_or(next, |matrix| bf16_values(matrix).as_ptr());
            let out_at = self.rows_of(&self.workspace.qkv, stride, out.clone());
            let product = self.product(matrix, rows.clone(), normed, (out_at, stride), next);
            self.multiply(&product, normed);
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
    fn output(&self, member: &Member, layer: &LayerWeights, next: *const bf16) {
        let attended = Input {
            at: self.workspace.attended.pointer(0..0),
            stride: self.config().q_size(),
        };
        self.add_to_residual(member, &layer.o, attended, next);
    }

    /// RMSNorm, gate and up rows, SiLU of the gate times up.
    fn gate_up(&self, member: &Member, index: usize, layer: &LayerWeights, next: *const bf16) {
        let normed = self.norm(member, 2 * index + 1, &layer.post_attention_norm);
        let normed = self.prepared(member, normed, self.config().hidden_size);
        let stride = self.config().intermediate_size;
        let rows = member.share(stride);
        if rows.is_empty() {
            return;
        }
        let gate = self.rows_of(&self.workspace.gate, stride, rows.clone());
        let up = self.rows_of(&self.workspace.up, stride, rows.clone());
        let up_weights = self.start_of(member, &layer.up);
        for (matrix, out, next) in [(&layer.gate, gate, up_weights), (&layer.up, up, next)] {
            let product = self.product(matrix, rows.clone(), normed, (out, stride), next);
            self.multiply(&product, normed);
        }
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
    fn down(&self, member: &Member, layer: &LayerWeights, next: *const bf16) {
        let gated = Input {
            at: self.workspace.gate.pointer(0..0),
            stride: self.config().intermediate_size,
        };
        self.add_to_residual(member, &layer.down, gated, next);
    }

    /// Final RMSNorm and LM head of `columns` (at most [`STREAMED_COLUMNS`]) of this pass, into
    /// `workspace.logits[sequence]`.
    pub fn head(&self, member: &Member, columns: &[usize]) {
        assert!(columns.len() <= STREAMED_COLUMNS);
        if !columns.is_empty() {
            self.phase(member, Phase::Head, None, || {
                self.all_logits(member, columns)
            });
        }
    }

    fn all_logits(&self, member: &Member, columns: &[usize]) {
        let hidden = self.config().hidden_size;
        let normed = self
            .workspace
            .scratch(member.index)
            .normed
            .pointer(0..columns.len() * hidden);
        for (slot, &column) in columns.iter().enumerate() {
            self.final_norm(column, normed.wrapping_add(slot * hidden));
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
        let end = bf16_values(head).as_ptr_range().end;
        let product = Product {
            columns: columns.len(),
            ..self.product(
                head,
                rows.clone(),
                input,
                (slots.pointer(range), stride),
                end,
            )
        };
        // SAFETY: normed is this member's own, these rows of the slots are too, and both were
        // checked to hold that many columns.
        unsafe { (self.kernels.stream)(&product) };
        for (slot, &column) in columns.iter().enumerate() {
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

    /// Final RMSNorm of `column`, and the rows of the head that belong to `tokens`, into
    /// `workspace.logits[sequence]`.
    pub fn head_rows(&self, member: &Member, column: usize, tokens: &[TokenId]) {
        self.phase(member, Phase::Head, None, || {
            self.some_logits(member, column, tokens);
        });
    }

    fn some_logits(&self, member: &Member, column: usize, tokens: &[TokenId]) {
        let share = member.share(tokens.len());
        if share.is_empty() {
            return;
        }
        let hidden = self.config().hidden_size;
        let normed = self
            .workspace
            .scratch(member.index)
            .normed
            .pointer(0..hidden);
        self.final_norm(column, normed);
        let input = Input {
            at: normed,
            stride: hidden,
        };
        let input = self.paired(member, input, hidden, 1);
        let head = self.weights.head();
        let base = self.columns[column].sequence * head.rows();
        for &token in &tokens[share] {
            let row = token as usize;
            let out = self.workspace.logits.pointer(base + row..base + row + 1);
            let product = Product {
                columns: 1,
                ..self.product(head, row..row + 1, input, (out, 1), input.at.cast())
            };
            // SAFETY: the input is this member's own, and so is this logit.
            unsafe { (self.kernels.stream)(&product) };
        }
    }

    fn final_norm(&self, column: usize, out: *mut f32) {
        let norm = 2 * self.config().layers;
        self.norm_column(column, norm, &self.weights.final_norm, out);
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
    fn add_to_residual(&self, member: &Member, matrix: &Matrix, input: Input, next: *const bf16) {
        let hidden = self.config().hidden_size;
        let rows = member.share(hidden);
        let input = self.prepared(member, input, matrix.columns());
        if !rows.is_empty() {
            let x = self.rows_of(&self.workspace.x, hidden, rows.clone());
            let product = Product {
                accumulate: true,
                ..self.product(matrix, rows, input, (x, hidden), next)
            };
            self.multiply(&product, input);
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

    /// `rows` of `matrix` times every column of `input`, to `out` and its stride; `next` is what
    /// this member streams after it.
    fn product(
        &self,
        matrix: &Matrix,
        rows: Range<usize>,
        input: Input,
        (out, out_stride): (*mut f32, usize),
        next: *const bf16,
    ) -> Product {
        let k = matrix.columns();
        Product {
            matrix: bf16_values(matrix)[rows.start * k..rows.end * k].as_ptr(),
            rows: rows.len(),
            k,
            x: input.at,
            x_stride: input.stride,
            columns: self.columns.len(),
            out,
            out_stride,
            accumulate: false,
            next,
        }
    }

    /// Computes a product whose `input` went through [`prepared`](Self::prepared).
    fn multiply(&self, whole: &Product, input: Input) {
        let columns = whole.columns;
        if columns <= STREAMED_COLUMNS {
            // SAFETY: the input is this member's own, and these rows of the output are too.
            unsafe { (self.kernels.stream)(whole) };
            return;
        }
        // A few dozen rows stay in the second-level cache while the panels pass over them.
        let blocks = (0..whole.rows).step_by(Workspace::PANEL_BLOCK_ROWS);
        for row in blocks {
            for (panel, first) in (0..columns).step_by(PANEL_COLUMNS).enumerate() {
                // SAFETY: `prepared` packed every panel of the input, before a barrier; these rows
                // of the output are this member's.
                unsafe {
                    (self.kernels.panel_product)(&PanelProduct {
                        matrix: whole.matrix.add(row * whole.k),
                        rows: (whole.rows - row).min(Workspace::PANEL_BLOCK_ROWS),
                        k: whole.k,
                        x: input.at.add(panel * input.stride),
                        columns: (columns - first).min(PANEL_COLUMNS),
                        out: whole.out.add(first * whole.out_stride + row),
                        out_stride: whole.out_stride,
                        accumulate: whole.accumulate,
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
