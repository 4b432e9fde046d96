//! Attention of the CPU engine: norm and rotate, append, attend, merge.
//!
//! Work is divided by key/value head and, where a sequence has one column, by stretches of
//! [`SPLIT`] past positions; their number grows with the context and does not depend on the team,
//! so that every team computes the same sums in the same order (FlashDecoding; the merge is the
//! online softmax of arXiv 1805.02867).

use std::ops::Range;

use super::crew::{Crew, Then};
use super::forward::Token;
use super::kernels::Kernels;
use super::kernels::product::Product;
use super::kernels::row_sum::RowSum;
use super::kv_cache::{Half, KvCache};
use super::team::Member;
use super::workspace::{Scratch, Workspace};
use crate::model::{LayerWeights, ModelConfig};

/// Past positions that one task takes at once.
pub const SPLIT: usize = 256;
/// Queries that share one pass over a stretch of keys and values, where there are that many.
pub const QUERY_COLUMNS: usize = 16;

/// Steps ahead after each task or appended key: 20 KB, about what memory gives meanwhile (with 8 KB
/// a decode step read at 95.2% instead of 95.6% of the bandwidth).
const STEPS_A_TASK: usize = 20;

/// A piece of attention: some columns of one sequence, one key/value head, some splits.
#[derive(Clone, Debug)]
struct Task {
    columns: Range<usize>,
    kv_head: usize,
    splits: Range<usize>,
}

/// Which tasks a pass has. Kept from pass to pass, so that its memory is.
#[derive(Debug, Default)]
pub struct AttentionPlan {
    tasks: Vec<Task>,
    /// Whether every task covers one column and all that it attends to: then the member that
    /// appends a head's key also attends to it, and no barrier is needed between.
    whole: bool,
    /// Whether some attention is split, so that parts must be merged.
    split: bool,
    /// Whether some task has many columns: these differ in length.
    uneven: bool,
}

impl AttentionPlan {
    /// Room for all the tasks that `columns` columns or `sequences` split columns can have.
    pub fn new(config: &ModelConfig, columns: usize, sequences: usize, context: usize) -> Self {
        let split_tasks = sequences * context.div_ceil(SPLIT);
        Self {
            tasks: Vec::with_capacity(config.kv_heads * columns.max(split_tasks)),
            ..Self::default()
        }
    }

    /// Plans a pass. Columns of one sequence stand together, in order.
    pub fn make(&mut self, config: &ModelConfig, tokens: &[Token]) {
        self.tasks.clear();
        (self.whole, self.split, self.uneven) = (true, false, false);
        let block = (QUERY_COLUMNS / config.group_size()).max(1);
        let mut first = 0;
        for run in tokens.chunk_by(|a, b| a.sequence == b.sequence) {
            let end = first + run.len();
            let splits = |last: usize| 0..(tokens[last].position + 1).div_ceil(SPLIT);
            if run.len() == 1 {
                for kv_head in 0..config.kv_heads {
                    for split in splits(first) {
                        self.tasks.push(Task {
                            columns: first..end,
                            kv_head,
                            splits: split..split + 1,
                        });
                    }
                }
                self.split |= splits(first).len() > 1;
            } else {
                self.whole = false;
                self.uneven = true;
                for kv_head in 0..config.kv_heads {
                    for column in (first..end).step_by(block) {
                        let columns = column..(column + block).min(end);
                        self.tasks.push(Task {
                            splits: splits(columns.end - 1),
                            columns,
                            kv_head,
                        });
                    }
                }
            }
            first = end;
        }
        self.whole &= !self.split;
    }
}

/// Attention of one pass; the same for every member.
pub struct Attention<'a> {
    /// The model's dimensions.
    pub config: &'a ModelConfig,
    /// The arithmetic.
    pub kernels: &'a Kernels,
    /// Activations and scratch memory.
    pub workspace: &'a Workspace,
    /// Past keys and values.
    pub cache: &'a KvCache,
    /// The columns of the pass.
    pub tokens: &'a [Token],
    /// Their tasks.
    pub plan: &'a AttentionPlan,
}

impl Attention<'_> {
    /// From Q, K and V of every column to what its heads attended to. `ahead` is called now and then with
    /// steps 0.., 20.., 40.., for memory not to lie idle.
    pub fn run(
        &self,
        crew: &impl Crew,
        layer: usize,
        weights: &LayerWeights,
        ahead: impl Fn(&Member, Range<usize>) + Sync,
        then: Then,
    ) {
        let heads = self.tokens.len() * self.config.kv_heads;
        let ahead = |member: &Member, done: usize| {
            ahead(member, done * STEPS_A_TASK..(done + 1) * STEPS_A_TASK);
        };
        let append = |member: &Member| self.append_share(member, layer, weights, &ahead);
        let attend = |member: &Member| self.attend_share(member, layer, &ahead);
        let merge = |member: &Member| {
            for index in member.share(heads) {
                self.merge(index / self.config.kv_heads, index % self.config.kv_heads);
            }
        };
        let then_attended = if self.plan.split { Then::Part } else { then };
        if self.plan.whole {
            let both = |member: &Member| {
                append(member);
                attend(member);
            };
            crew.run(both, then_attended);
        } else {
            crew.run(append, Then::Part);
            crew.run(attend, then_attended);
        }
        if self.plan.split {
            crew.run(merge, then);
        }
    }

    /// Appends this member's share of keys and values; `ahead` is told how many there were.
    fn append_share(
        &self,
        member: &Member,
        layer: usize,
        weights: &LayerWeights,
        ahead: &impl Fn(&Member, usize),
    ) {
        let kv_heads = self.config.kv_heads;
        let share = member.share(self.tokens.len() * kv_heads);
        for (done, index) in share.enumerate() {
            self.append(layer, weights, index / kv_heads, index % kv_heads);
            ahead(member, done);
        }
    }

    /// Attends to this member's share of the tasks; `ahead` is told how many there were, appended keys
    /// among them.
    fn attend_share(&self, member: &Member, layer: usize, ahead: &impl Fn(&Member, usize)) {
        let scratch = self.workspace.scratch(member.index);
        let tasks = &self.plan.tasks;
        if self.plan.uneven {
            // Later columns attend to more: deal the tasks out in turn.
            for task in tasks.iter().skip(member.index).step_by(member.count()) {
                self.attend(scratch, layer, task);
            }
            return;
        }
        let heads = self.tokens.len() * self.config.kv_heads;
        let appended = member.share(heads).len();
        for (done, task) in (appended..).zip(&tasks[member.share(tasks.len())]) {
            self.attend(scratch, layer, task);
            ahead(member, done);
        }
    }

    /// Norms and rotates the queries and the key of one key/value head, and appends key and value.
    fn append(&self, layer: usize, weights: &LayerWeights, column: usize, kv_head: usize) {
        let config = self.config;
        let head_dim = config.head_dim;
        let base = column * self.workspace.qkv_stride();
        let group = config.group_size();
        let rows = |head: usize| base + head * head_dim..base + (head + 1) * head_dim;
        // SAFETY: these heads of this column are this member's until the next barrier.
        let head = |head: usize| unsafe { self.workspace.qkv.get_mut(rows(head)) };
        let norm = weights.qk_norm.as_ref();
        for index in kv_head * group..(kv_head + 1) * group {
            self.norm_and_rotate(column, head(index), norm.map(|norm| &norm.q[..]));
        }
        let key = head(config.heads + kv_head);
        self.norm_and_rotate(column, key, norm.map(|norm| &norm.k[..]));
        let value = head(config.heads + config.kv_heads + kv_head);
        for (half, values) in [(Half::Keys, key), (Half::Values, value)] {
            let Token {
                sequence, position, ..
            } = self.tokens[column];
            let cached = self
                .cache
                .pointer(sequence, layer, half, kv_head, position..position + 1);
            // SAFETY: one position of head_dim numbers, and this member's alone: the column is the
            // only one with this sequence and position.
            unsafe { (self.kernels.narrow)(values.as_ptr(), cached, head_dim) };
        }
    }

    fn norm_and_rotate(&self, column: usize, head: &mut [f32], norm: Option<&[f32]>) {
        if let Some(norm) = norm {
            let at = head.as_mut_ptr();
            // SAFETY: head and norm have head_dim numbers each.
            unsafe {
                let squares = (self.kernels.sum_of_squares)(at, head.len());
                let mean = f64::from(squares) / head.len() as f64;
                let scale = 1.0 / (mean + self.config.rms_norm_eps).sqrt();
                (self.kernels.scale_by)(at, scale as f32, norm.as_ptr(), at, head.len());
            }
        }
        // SAFETY: the embedding ended long ago; a head has two halves.
        unsafe {
            let (cosines, sines) = self.workspace.rotation.of(column);
            let half = cosines.len();
            (self.kernels.rotate)(head.as_mut_ptr(), cosines.as_ptr(), sines.as_ptr(), half);
        }
    }

    /// Attends with all queries of a task to the positions of its splits.
    fn attend(&self, scratch: &Scratch, layer: usize, task: &Task) {
        let group = self.config.group_size();
        let head_dim = self.config.head_dim;
        let queries = task.columns.len() * group;
        self.gather_queries(scratch, task);
        // SAFETY: scratch memory is this member's own.
        let (sums, softmax) = unsafe {
            (
                scratch.sums.get_mut(0..queries * head_dim),
                scratch.softmax.get_mut(0..2 * queries),
            )
        };
        sums.fill(0.0);
        for state in softmax.chunks_mut(2) {
            state.copy_from_slice(&[f32::NEG_INFINITY, 0.0]);
        }
        for split in task.splits.clone() {
            self.attend_split(scratch, layer, task, split, sums, softmax);
        }
        let states = sums.chunks(head_dim).zip(softmax.chunks(2)).enumerate();
        for (query, (sums, state)) in states {
            let column = task.columns.start + query / group;
            let head = task.kv_head * group + query % group;
            if self.plan.split {
                let partial = self.partial(column, head, task.splits.start);
                // SAFETY: this part of this head is this member's until the barrier.
                let partial = unsafe { self.workspace.partials.get_mut(partial) };
                partial[..head_dim].copy_from_slice(sums);
                partial[head_dim..].copy_from_slice(state);
            } else {
                self.write_attended(column, head, sums, state[1]);
            }
        }
    }

    /// Copies the queries of a task next to each other: `[queries, head_dim]`.
    fn gather_queries(&self, scratch: &Scratch, task: &Task) {
        let len = self.config.group_size() * self.config.head_dim;
        for (index, column) in task.columns.clone().enumerate() {
            let base = column * self.workspace.qkv_stride() + task.kv_head * len;
            // SAFETY: queries are only read in this phase; scratch memory is this member's own.
            unsafe {
                let queries = self.workspace.qkv.get(base..base + len);
                let to = scratch.queries.get_mut(index * len..(index + 1) * len);
                to.copy_from_slice(queries);
            }
        }
    }

    /// One split: adds to `sums: [queries, head_dim]` and to the `(maximum, sum)` of each softmax.
    fn attend_split(
        &self,
        scratch: &Scratch,
        layer: usize,
        task: &Task,
        split: usize,
        sums: &mut [f32],
        softmax: &mut [f32],
    ) {
        let head_dim = self.config.head_dim;
        let group = self.config.group_size();
        let Token {
            sequence, position, ..
        } = self.tokens[task.columns.end - 1];
        let positions = split * SPLIT..((split + 1) * SPLIT).min(position + 1);
        let rows = positions.len();
        let queries = task.columns.len() * group;
        let half = |half| {
            let at = self
                .cache
                .pointer(sequence, layer, half, task.kv_head, positions.clone());
            at.cast_const()
        };
        let scores = scratch.scores.pointer(0..queries * SPLIT);
        let product = Product {
            matrix: half(Half::Keys),
            rows,
            k: head_dim,
            x: scratch.queries.pointer(0..queries * head_dim),
            x_stride: head_dim,
            columns: queries,
            out: scores,
            out_stride: SPLIT,
            accumulate: false,
            next: half(Half::Values),
        };
        // SAFETY: these positions were appended before the last barrier (or, in a whole plan, by
        // this member); scratch memory is this member's own.
        unsafe { (self.kernels.cached)(&product) };

        let scale = 1.0 / (head_dim as f32).sqrt();
        for query in 0..queries {
            // SAFETY: as above.
            let weights = unsafe { scratch.scores.get_mut(query * SPLIT..query * SPLIT + rows) };
            let column = task.columns.start + query / group;
            let seen = (self.tokens[column].position + 1).saturating_sub(positions.start);
            let (weights, unseen) = weights.split_at_mut(seen.min(rows));
            unseen.fill(0.0);
            if weights.is_empty() {
                continue;
            }
            // SAFETY: at least one score.
            let part =
                unsafe { (self.kernels.exp_and_sum)(weights.as_mut_ptr(), weights.len(), scale) };
            let state = &mut softmax[2 * query..2 * query + 2];
            let (old, new) = merge_softmax(state, part);
            scale_all(&mut sums[query * head_dim..(query + 1) * head_dim], old);
            scale_all(weights, new);
        }
        // SAFETY: as above; sums has queries * head_dim numbers.
        unsafe {
            (self.kernels.row_sum)(&RowSum {
                matrix: half(Half::Values),
                rows,
                width: head_dim,
                weights: scores,
                weights_stride: SPLIT,
                columns: queries,
                out: sums.as_mut_ptr(),
            });
        }
    }

    /// Merges the parts of the heads of one column and key/value head, in order.
    fn merge(&self, column: usize, kv_head: usize) {
        let head_dim = self.config.head_dim;
        let group = self.config.group_size();
        let splits = (self.tokens[column].position + 1).div_ceil(SPLIT);
        for head in kv_head * group..(kv_head + 1) * group {
            // SAFETY: the parts were written before the barrier; the first becomes the result,
            // and this head is this member's.
            let first = unsafe {
                self.workspace
                    .partials
                    .get_mut(self.partial(column, head, 0))
            };
            let (sums, state) = first.split_at_mut(head_dim);
            for split in 1..splits {
                // SAFETY: as above.
                let part = unsafe {
                    self.workspace
                        .partials
                        .get(self.partial(column, head, split))
                };
                let (part_sums, part_state) = part.split_at(head_dim);
                let (old, new) = merge_softmax(state, (part_state[0], part_state[1]));
                for (sum, part) in sums.iter_mut().zip(part_sums) {
                    *sum = *sum * old + part * new;
                }
            }
            let total = state[1];
            self.write_attended(column, head, sums, total);
        }
    }

    /// Where one part of a head's attention is kept: its sums, then maximum and sum.
    fn partial(&self, column: usize, head: usize, split: usize) -> Range<usize> {
        let len = self.config.head_dim + 2;
        let splits = self.cache.blocks();
        let index = (column * self.config.heads + head) * splits + split;
        index * len..(index + 1) * len
    }

    fn write_attended(&self, column: usize, head: usize, sums: &[f32], total: f32) {
        let head_dim = self.config.head_dim;
        let at = column * self.config.q_size() + head * head_dim;
        // SAFETY: this head of this column is this member's until the barrier.
        let attended = unsafe { self.workspace.attended.get_mut(at..at + head_dim) };
        for (attended, sum) in attended.iter_mut().zip(sums) {
            *attended = sum / total;
        }
    }
}

/// Takes `part` into the `(maximum, sum)` of a softmax; returns the factors for what was summed so
/// far and for the part.
fn merge_softmax(state: &mut [f32], part: (f32, f32)) -> (f32, f32) {
    let max = state[0].max(part.0);
    let old = (state[0] - max).exp();
    let new = (part.0 - max).exp();
    state[1] = state[1] * old + part.1 * new;
    state[0] = max;
    (old, new)
}

fn scale_all(values: &mut [f32], factor: f32) {
    if factor != 1.0 {
        for value in values {
            *value *= factor;
        }
    }
}
