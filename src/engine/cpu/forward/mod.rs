//! The forward pass, as parts that every member of a [`Crew`] runs.
//!
//! `Forward::layers` reads like the algorithm: in a phase each member computes its share of rows,
//! heads or columns, and the next phase begins when all have. Activations are f32, sums f32, keys and
//! values bf16. Nothing depends on the members but who does it, so any number of them, kept in step in
//! any way, gives the same bits.
//!
//! - here: the layers, and products
//! - `input`: what products read
//! - `head`: the LM head

mod head;
mod input;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use half::bf16;
use input::{Input, Norm, Source};

use super::attention::Attention;
use super::crew::{Crew, Then};
use super::kernels::Kernels;
use super::kernels::panel::{PANEL_COLUMNS, PanelProduct};
use super::kernels::product::Product;
use super::kernels::simd::LINE;
use super::rows::{Divided, RowDivision};
use super::team::Member;
use super::workspace::Workspace;
use crate::engine::decode_loop::{Column, Head};
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

/// What is run at once.
#[derive(Clone, Copy)]
pub enum Job<'a> {
    /// The columns through the layers; then some of them (at most [`STREAMED_COLUMNS`]) through the head,
    /// and others through the rows of it that `columns` name.
    Pass {
        /// Columns of which all logits are wanted.
        head: &'a [usize],
        /// All columns, or none.
        columns: &'a [Column<'a>],
    },
    /// Columns (at most [`STREAMED_COLUMNS`]) of the last pass through the head.
    Head(&'a [usize]),
}

/// Weights that are streamed soon.
#[derive(Clone, Copy)]
pub enum Upcoming<'a> {
    /// Q, K and V of a layer.
    Qkv(&'a LayerWeights),
    /// A matrix.
    Matrix(&'a Matrix),
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
    /// Who computes which rows.
    pub rows: &'a RowDivision,
    /// Whether member 0 computes norms for all, where each could for itself.
    pub has_shared_norms: bool,
    /// Told where values are not finite.
    pub not_finite: &'a NotFinite,
    /// Told when phases begin and end, where that is recorded.
    pub(crate) trace: Option<&'a Recorder>,
}

impl Forward<'_> {
    fn config(&self) -> &ModelConfig {
        &self.weights.config
    }

    /// Whether the pass has more columns than are streamed.
    fn is_wide(&self) -> bool {
        self.columns.len() > STREAMED_COLUMNS
    }

    /// Runs `job`.
    pub fn run(&self, crew: &impl Crew, job: Job) {
        match job {
            Job::Pass { head, columns } => {
                self.layers(crew, !head.is_empty());
                self.head(crew, head);
                for (index, column) in columns.iter().enumerate() {
                    if let Head::Rows(tokens) = column.head {
                        self.head_rows(crew, index, tokens);
                    }
                }
            }
            Job::Head(columns) => self.head(crew, columns),
        }
    }

    /// Runs the columns through all layers; `workspace.x` then holds the residual stream. `has_head` says
    /// whether the whole head comes next, so that its rows are on their way by then.
    fn layers(&self, crew: &impl Crew, has_head: bool) {
        let layers = &self.weights.layers;
        let head = Upcoming::Matrix(self.weights.head());
        let first = layers.first().map_or(head, Upcoming::Qkv);
        crew.begin(Phase::Embed, None);
        crew.run(|member| self.embed(member), Then::Phase(first));
        for (index, layer) in layers.iter().enumerate() {
            let next_layer = layers.get(index + 1).map(Upcoming::Qkv);
            let behind = if has_head { head } else { first };
            self.qkv(crew, index, layer);
            self.attention(crew, index, layer);
            self.output(crew, index, layer);
            self.gate_up(crew, index, layer);
            self.down(crew, index, layer, next_layer.unwrap_or(behind));
        }
    }

    /// The first row that `member` streams of `upcoming`.
    pub fn start_of(&self, member: &Member, upcoming: Upcoming) -> *const bf16 {
        match upcoming {
            Upcoming::Qkv(layer) => {
                let rows = self.workspace.qkv_stride();
                let row = self.first_row(member, rows, self.config().hidden_size);
                qkv_row(layer, row)
            }
            Upcoming::Matrix(matrix) => {
                let row = self.first_row(member, matrix.rows(), matrix.columns());
                row_of(matrix, row)
            }
        }
    }

    fn first_row(&self, member: &Member, rows: usize, k: usize) -> usize {
        self.rows.first(member, rows, self.claim_rows(k))
    }

    /// Rows of `k` weights that are claimed at once, where they are.
    fn claim_rows(&self, k: usize) -> usize {
        let least = if self.is_wide() {
            Workspace::PANEL_BLOCK_ROWS
        } else {
            1
        };
        RowDivision::claim_rows(k, least)
    }

    /// Calls `work` with the stretches of `rows` rows of `k` weights that `member` takes of `product`, and
    /// with the row behind each that the member streams next, if there is one.
    fn each_stretch(
        &self,
        member: &Member,
        product: Divided,
        (rows, k): (usize, usize),
        mut work: impl FnMut(Range<usize>, Option<usize>),
    ) {
        let claim = self.claim_rows(k);
        self.rows.each(member, product, rows, claim, |stretch| {
            work(stretch.rows, stretch.next);
        });
    }

    /// Fetches the `step`th stretch of the weights at `start`, which will be streamed soon.
    pub fn fetch(&self, start: *const bf16, step: usize) {
        if step < STEPS_AHEAD && !self.is_wide() {
            let at = start.cast::<u8>().wrapping_add(step * LINES_A_STEP * LINE);
            // SAFETY: a prefetch may go to any address.
            unsafe { (self.kernels.prefetch)(at, LINES_A_STEP) };
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
    fn qkv(&self, crew: &impl Crew, index: usize, layer: &LayerWeights) {
        let norm = Norm {
            number: 2 * index,
            weight: &layer.input_norm,
        };
        let (rows, k) = (self.workspace.qkv_stride(), self.config().hidden_size);
        let source = self.begin_with_norm(crew, Phase::Qkv, index, norm, Upcoming::Qkv(layer));
        let behind = Upcoming::Matrix(&layer.o);
        let part = |member: &Member| {
            let input = self.input(member, source, k);
            let behind = self.start_of(member, behind);
            self.each_stretch(member, Divided::Qkv(index), (rows, k), |stretch, next| {
                let next = next.map_or(behind, |row| qkv_row(layer, row));
                self.qkv_rows(layer, stretch, input, next);
            });
        };
        crew.run(part, Then::Phase(behind));
    }

    /// Rows of Q, K and V, counted through all three.
    fn qkv_rows(&self, layer: &LayerWeights, taken: Range<usize>, input: Input, next: *const bf16) {
        let stride = self.workspace.qkv_stride();
        let bias = layer.qkv_bias.as_ref();
        let mut offset = 0;
        for (matrix, bias, following) in [
            (&layer.q, bias.map(|bias| &bias.q), Some(&layer.k)),
            (&layer.k, bias.map(|bias| &bias.k), Some(&layer.v)),
            (&layer.v, bias.map(|bias| &bias.v), None),
        ] {
            let rows = part(&taken, offset, matrix.rows());
            let out = offset + rows.start..offset + rows.end;
            offset += matrix.rows();
            if rows.is_empty() {
                continue;
            }
            let following = following.filter(|_| taken.end > offset);
            let next = following.map_or(next, |matrix| row_of(matrix, 0));
            let out_at = self.rows_of(&self.workspace.qkv, stride, out.clone());
            let product = self.product(matrix, rows.clone(), input, (out_at, stride), next);
            self.multiply(&product, input);
            let Some(bias) = bias else { continue };
            for column in 0..self.columns.len() {
                let base = column * stride;
                // SAFETY: these rows are this member's in this phase.
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

    /// Norm and rotation of heads, keys and values appended, and attention.
    fn attention(&self, crew: &impl Crew, index: usize, layer: &LayerWeights) {
        let behind = Upcoming::Matrix(&layer.o);
        crew.begin(Phase::Attention, Some(index));
        let ahead = |member: &Member, steps: Range<usize>| {
            let start = self.start_of(member, behind);
            steps.for_each(|step| self.fetch(start, step));
        };
        let then = Then::Phase(behind);
        (self.attention).run(crew, index, layer, ahead, then);
    }

    /// O projection, added to the residual stream.
    fn output(&self, crew: &impl Crew, index: usize, layer: &LayerWeights) {
        let attended = Input {
            at: self.workspace.attended.pointer(0..0),
            stride: self.config().q_size(),
        };
        crew.begin(Phase::Output, Some(index));
        let next = Upcoming::Matrix(&layer.gate);
        self.add_to_residual(crew, Divided::Output(index), &layer.o, attended, next);
    }

    /// RMSNorm, gate and up rows, SiLU of the gate times up.
    fn gate_up(&self, crew: &impl Crew, index: usize, layer: &LayerWeights) {
        let norm = Norm {
            number: 2 * index + 1,
            weight: &layer.post_attention_norm,
        };
        let (rows, k) = (self.config().intermediate_size, self.config().hidden_size);
        let gate = Upcoming::Matrix(&layer.gate);
        let source = self.begin_with_norm(crew, Phase::GateUp, index, norm, gate);
        let behind = Upcoming::Matrix(&layer.down);
        let part = |member: &Member| {
            let input = self.input(member, source, k);
            let behind = self.start_of(member, behind);
            self.each_stretch(
                member,
                Divided::GateUp(index),
                (rows, k),
                |stretch, next| {
                    let next = next.map_or(behind, |row| row_of(&layer.gate, row));
                    self.gate_up_rows(layer, stretch, input, next);
                },
            );
        };
        crew.run(part, Then::Phase(behind));
    }

    fn gate_up_rows(
        &self,
        layer: &LayerWeights,
        rows: Range<usize>,
        input: Input,
        next: *const bf16,
    ) {
        let stride = self.config().intermediate_size;
        let gate = self.rows_of(&self.workspace.gate, stride, rows.clone());
        let up = self.rows_of(&self.workspace.up, stride, rows.clone());
        let up_weights = row_of(&layer.up, rows.start);
        for (matrix, out, next) in [(&layer.gate, gate, up_weights), (&layer.up, up, next)] {
            let product = self.product(matrix, rows.clone(), input, (out, stride), next);
            self.multiply(&product, input);
        }
        for column in 0..self.columns.len() {
            let (gate, up) = (
                gate.wrapping_add(column * stride),
                up.wrapping_add(column * stride),
            );
            // SAFETY: `rows_of` checked the buffers for every column, and these rows are this
            // member's in this phase.
            unsafe { (self.kernels.silu_mul)(gate, up, rows.len()) };
        }
    }

    /// Down projection, added to the residual stream.
    fn down(&self, crew: &impl Crew, index: usize, layer: &LayerWeights, next: Upcoming) {
        let gated = Input {
            at: self.workspace.gate.pointer(0..0),
            stride: self.config().intermediate_size,
        };
        crew.begin(Phase::Down, Some(index));
        self.add_to_residual(crew, Divided::Down(index), &layer.down, gated, next);
    }

    /// `x += matrix * input`.
    fn add_to_residual(
        &self,
        crew: &impl Crew,
        product: Divided,
        matrix: &Matrix,
        input: Input,
        behind: Upcoming,
    ) {
        let hidden = self.config().hidden_size;
        let k = matrix.columns();
        let source = if self.is_wide() {
            self.pack(crew, input, k)
        } else {
            Source::Complete(input)
        };
        let part = |member: &Member| {
            let input = self.input(member, source, k);
            let behind = self.start_of(member, behind);
            self.each_stretch(member, product, (hidden, k), |rows, next| {
                let next = next.map_or(behind, |row| row_of(matrix, row));
                let x = self.rows_of(&self.workspace.x, hidden, rows.clone());
                let product = Product {
                    accumulate: true,
                    ..self.product(matrix, rows, input, (x, hidden), next)
                };
                self.multiply(&product, input);
            });
        };
        crew.run(part, Then::Phase(behind));
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

    /// Computes a product whose `input` [`input`](Self::input) made.
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
                // SAFETY: every panel of the input was packed in a part before; these rows of the
                // output are this member's.
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

/// Row `row` of Q, K and V, counted through all three.
fn qkv_row(layer: &LayerWeights, mut row: usize) -> *const bf16 {
    for matrix in [&layer.q, &layer.k] {
        if row < matrix.rows() {
            return row_of(matrix, row);
        }
        row -= matrix.rows();
    }
    row_of(&layer.v, row)
}

/// Where a row of `matrix` begins.
fn row_of(matrix: &Matrix, row: usize) -> *const bf16 {
    let values = bf16_values(matrix).as_ptr();
    values.wrapping_add(row * matrix.columns())
}

fn bf16_values(matrix: &Matrix) -> &[bf16] {
    matrix
        .as_bf16()
        .expect("the engine holds every matrix in bf16")
}
