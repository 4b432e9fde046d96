//! What products read: the residual stream after a norm, or the phase before, in the order that the kernels
//! want.

use super::{Forward, Upcoming};
use crate::engine::cpu::crew::{Crew, Then};
use crate::engine::cpu::kernels::panel::{PANEL_COLUMNS, Packing};
use crate::engine::cpu::team::Member;
use crate::engine::trace::Phase;

/// Activations that a product reads: `[columns, k]`.
#[derive(Clone, Copy)]
pub(super) struct Input {
    pub at: *const f32,
    /// Numbers from one column, or panel, to the next.
    pub stride: usize,
}

impl Input {
    /// Where a column begins.
    fn column(self, column: usize) -> *const f32 {
        self.at.wrapping_add(column * self.stride)
    }
}

// SAFETY: who reads and writes what lies there is decided part by part, where it is used.
unsafe impl Send for Input {}
// SAFETY: as above.
unsafe impl Sync for Input {}

/// An RMSNorm.
#[derive(Clone, Copy)]
pub(super) struct Norm<'a> {
    /// Its number, counted from the first of layer 0.
    pub number: usize,
    /// `[hidden]`
    pub weight: &'a [f32],
}

/// Where the input of a product comes from.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// The residual stream: each member norms it for itself.
    Residual(Norm<'a>),
    /// Complete numbers: `[columns, k]`.
    Complete(Input),
    /// Panels that the members packed together, one every `stride` numbers.
    Panels(Input),
}

impl Forward<'_> {
    /// Begins a phase that reads the residual stream through a norm, and the first rows of `weights`.
    /// While there are few columns each member norms them for itself, or member 0 does in a phase before;
    /// more are shared out.
    pub(super) fn begin_with_norm<'n>(
        &self,
        crew: &impl Crew,
        phase: Phase,
        layer: usize,
        norm: Norm<'n>,
        weights: Upcoming,
    ) -> Source<'n> {
        let hidden = self.config().hidden_size;
        let columns = self.columns.len();
        let normed = &self.workspace.normed;
        let shared = Input {
            at: normed.pointer(0..columns * hidden),
            stride: hidden,
        };
        if !self.is_wide() && !self.has_shared_norms {
            crew.begin(phase, Some(layer));
            return Source::Residual(norm);
        }
        if !self.is_wide() {
            crew.begin(Phase::Norm, Some(layer));
            self.share_norm(crew, norm, 0..columns, weights);
            crew.begin(phase, Some(layer));
            return Source::Complete(shared);
        }
        crew.begin(phase, Some(layer));
        let part = |member: &Member| {
            for column in member.share(columns) {
                let out = normed.pointer(column * hidden..(column + 1) * hidden);
                self.norm_column(column, norm, out);
            }
        };
        crew.run(part, Then::Part);
        self.pack(crew, shared, hidden)
    }

    /// Norms `columns` on member 0, each to its place in `workspace.normed`.
    pub(super) fn share_norm(
        &self,
        crew: &impl Crew,
        norm: Norm,
        columns: impl Iterator<Item = usize> + Clone + Sync,
        next: Upcoming,
    ) {
        let hidden = self.config().hidden_size;
        let part = |member: &Member| {
            for column in columns.clone().filter(|_| member.index == 0) {
                let at = column * hidden..(column + 1) * hidden;
                self.norm_column(column, norm, self.workspace.normed.pointer(at));
            }
        };
        crew.run(part, Then::Phase(next));
    }

    pub(super) fn norm_column(&self, column: usize, norm: Norm, out: *mut f32) {
        let hidden = self.config().hidden_size;
        let x = self
            .workspace
            .x
            .pointer(column * hidden..(column + 1) * hidden);
        // SAFETY: x is only read in this phase; out is this member's.
        unsafe {
            let squares = (self.kernels.sum_of_squares)(x, hidden);
            if !squares.is_finite() {
                self.not_finite.report(norm.number, column);
            }
            let mean = f64::from(squares) / hidden as f64;
            let scale = 1.0 / (mean + self.config().rms_norm_eps).sqrt();
            (self.kernels.scale_by)(x, scale as f32, norm.weight.as_ptr(), out, hidden);
        }
    }

    /// Packs `input` of a wide pass into panels, all members together.
    pub(super) fn pack(&self, crew: &impl Crew, input: Input, len: usize) -> Source<'static> {
        let columns = self.columns.len();
        let stride = len * PANEL_COLUMNS;
        let panels = columns.div_ceil(PANEL_COLUMNS);
        let packed = Input {
            at: self.workspace.packed.pointer(0..panels * stride),
            stride,
        };
        let part = |member: &Member| {
            // Shares of pairs, since some paths pack two numbers into one.
            let pairs = member.share(len.div_ceil(2));
            for (panel, first) in (0..columns).step_by(PANEL_COLUMNS).enumerate() {
                let to = panel * packed.stride..(panel + 1) * packed.stride;
                // SAFETY: the input was complete before this phase or part; this part of the panels is
                // this member's.
                unsafe {
                    (self.kernels.pack)(&Packing {
                        x: input.column(first),
                        x_stride: input.stride,
                        columns: (columns - first).min(PANEL_COLUMNS),
                        first: 2 * pairs.start,
                        end: (2 * pairs.end).min(len),
                        panel: self.workspace.packed.pointer(to),
                    });
                }
            }
        };
        crew.run(part, Then::Part);
        Source::Panels(packed)
    }

    /// The input of a product with `k` numbers a column, as [`multiply`](Self::multiply) reads it: panels
    /// in a wide pass, else a copy of this member's own in the order of [`Kernels::pair`].
    pub(super) fn input(&self, member: &Member, source: Source, k: usize) -> Input {
        let columns = self.columns.len();
        match source {
            Source::Panels(panels) => panels,
            Source::Complete(input) => self.paired(member, input, k),
            Source::Residual(norm) => {
                let normed = &self.workspace.scratch(member.index).normed;
                let at = normed.pointer(0..columns * k);
                for column in 0..columns {
                    self.norm_column(column, norm, at.wrapping_add(column * k));
                }
                self.paired(member, Input { at, stride: k }, k)
            }
        }
    }

    fn paired(&self, member: &Member, input: Input, len: usize) -> Input {
        let columns = self.columns.len();
        let at = self
            .workspace
            .scratch(member.index)
            .paired
            .pointer(0..columns * len);
        for column in 0..columns {
            let from = input.column(column);
            // SAFETY: the input is complete, or this member's own; the copy is its own.
            unsafe { (self.kernels.pair)(from, at.wrapping_add(column * len), len) };
        }
        Input { at, stride: len }
    }
}
