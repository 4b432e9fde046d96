//! The LM head: the last norm, and all rows or some of them.

use std::ops::Range;

use half::bf16;

use super::input::{Input, Norm};
use super::{Forward, STREAMED_COLUMNS, Upcoming, bf16_values, row_of};
use crate::engine::cpu::crew::{Crew, Then};
use crate::engine::cpu::kernels::product::Product;
use crate::engine::cpu::rows::Divided;
use crate::engine::cpu::team::Member;
use crate::engine::trace::Phase;
use crate::model::TokenId;

impl Forward<'_> {
    /// Final RMSNorm and LM head of `columns` (at most [`STREAMED_COLUMNS`]) of this pass, into
    /// `workspace.logits[sequence]`.
    pub(super) fn head(&self, crew: &impl Crew, columns: &[usize]) {
        assert!(columns.len() <= STREAMED_COLUMNS);
        if columns.is_empty() {
            return;
        }
        let head = self.weights.head();
        let (rows, k) = (head.rows(), head.columns());
        self.begin_head(crew, columns);
        let part = |member: &Member| {
            let input = self.final_input(member, columns);
            let end = bf16_values(head).as_ptr_range().end;
            self.each_stretch(member, Divided::Head, (rows, k), |stretch, next| {
                let next = next.map_or(end, |row| row_of(head, row));
                self.all_logits(columns, stretch, input, next);
            });
        };
        crew.run(part, Then::Nothing);
    }

    fn all_logits(&self, columns: &[usize], rows: Range<usize>, input: Input, next: *const bf16) {
        let head = self.weights.head();
        let slots = &self.workspace.head_slots;
        let stride = head.rows();
        let range = rows.start..(columns.len() - 1) * stride + rows.end;
        let out = (slots.pointer(range), stride);
        let product = Product {
            columns: columns.len(),
            ..self.product(head, rows.clone(), input, out, next)
        };
        // SAFETY: the input is this member's own, these rows of the slots are too, and both were
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
    /// `workspace.logits[sequence]`. These are few: no variant claims them.
    pub(super) fn head_rows(&self, crew: &impl Crew, column: usize, tokens: &[TokenId]) {
        self.begin_head(crew, &[column]);
        let part = |member: &Member| {
            let share = member.share(tokens.len());
            if !share.is_empty() {
                let input = self.final_input(member, &[column]);
                self.some_logits(column, &tokens[share], input);
            }
        };
        crew.run(part, Then::Nothing);
    }

    fn some_logits(&self, column: usize, tokens: &[TokenId], input: Input) {
        let head = self.weights.head();
        let base = self.columns[column].sequence * head.rows();
        for &token in tokens {
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

    fn final_norm(&self) -> Norm<'_> {
        Norm {
            number: 2 * self.config().layers,
            weight: &self.weights.final_norm,
        }
    }

    /// Begins the head of `columns`. Where norms are shared, member 0 norms each in its own place first,
    /// so that nothing which is still read is overwritten.
    fn begin_head(&self, crew: &impl Crew, columns: &[usize]) {
        if self.has_shared_norms {
            let head = Upcoming::Matrix(self.weights.head());
            crew.begin(Phase::Norm, None);
            self.share_norm(crew, self.final_norm(), columns.iter().copied(), head);
        }
        crew.begin(Phase::Head, None);
    }

    /// `columns` after the final RMSNorm, as the head reads them: this member's own copy.
    fn final_input(&self, member: &Member, columns: &[usize]) -> Input {
        let hidden = self.config().hidden_size;
        let scratch = self.workspace.scratch(member.index);
        let input = Input {
            at: scratch.paired.pointer(0..columns.len() * hidden),
            stride: hidden,
        };
        for (slot, &column) in columns.iter().enumerate() {
            let at = slot * hidden;
            let normed = if self.has_shared_norms {
                let at = column * hidden;
                self.workspace.normed.pointer(at..at + hidden)
            } else {
                let own = scratch.normed.pointer(at..at + hidden);
                self.norm_column(column, self.final_norm(), own);
                own
            };
            let to = scratch.paired.pointer(at..at + hidden);
            // SAFETY: what was normed is complete, or this member's own; the copy is its own.
            unsafe { (self.kernels.pair)(normed, to, hidden) };
        }
        input
    }
}
