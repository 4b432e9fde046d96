//! The cut of top-k, top-p and min-p: the lowest logit that survives all three.

use super::{CHUNK, SamplingParams};

#[derive(Debug)]
pub(super) struct Filter {
    top_k: usize,
    top_p: f32,
    /// `ln(min_p)`: how far below the largest logit a survivor may lie.
    min_p_depth: f32,
    /// Candidates and chunk maxima to select from.
    scratch: Vec<f32>,
}

impl Filter {
    pub(super) fn new(params: &SamplingParams, vocab_size: usize) -> Self {
        let active = params.temperature > 0.0 && (params.top_k > 0 || params.top_p < 1.0);
        Self {
            top_k: params.top_k,
            top_p: params.top_p,
            min_p_depth: params.min_p.ln(),
            scratch: Vec::with_capacity(if active { vocab_size } else { 0 }),
        }
    }

    /// The cut for `logits` (already divided by the temperature), whose largest is `max` and whose
    /// largest by chunk are `chunk_max`.
    pub(super) fn cut(&mut self, logits: &[f32], chunk_max: &[f32], max: f32) -> f32 {
        // The mass that top-p counts is what top-k left; min-p, which comes last, doesn't change it.
        let mut cut = f32::NEG_INFINITY;
        if self.top_k > 0 && self.top_k < logits.len() {
            cut = self.top_k_cut(logits, chunk_max);
        }
        if self.top_p < 1.0 {
            cut = self.top_p_cut(logits, max, cut);
        }
        cut.max(max + self.min_p_depth)
    }

    /// The k-th largest logit.
    fn top_k_cut(&mut self, logits: &[f32], chunk_max: &[f32]) -> f32 {
        // The k-th largest of the chunks' maxima bounds the k-th largest logit from below, and
        // leaves few candidates.
        let bound = if self.top_k <= chunk_max.len() {
            self.scratch.clear();
            self.scratch.extend_from_slice(chunk_max);
            kth_largest(&mut self.scratch, self.top_k)
        } else {
            f32::NEG_INFINITY
        };
        self.scratch.clear();
        for (chunk, &max) in logits.chunks(CHUNK).zip(chunk_max) {
            if max >= bound {
                self.scratch
                    .extend(chunk.iter().filter(|&&logit| logit >= bound));
            }
        }
        kth_largest(&mut self.scratch, self.top_k)
    }

    /// The logit at which the probabilities of the tokens from `floor` on, taken from the largest
    /// down, reach p.
    fn top_p_cut(&mut self, logits: &[f32], max: f32, floor: f32) -> f32 {
        let weight = |logit: f32| f64::from(logit - max).exp();
        let candidates = |&&logit: &&f32| logit >= floor;
        let total: f64 = logits.iter().filter(candidates).map(|&l| weight(l)).sum();
        let wanted = total * f64::from(self.top_p);
        // Take everything within a depth below the maximum, deeper until the mass suffices; most
        // distributions end at the first, and sorting what was taken is cheap.
        for depth in [4.0, 8.0, 16.0, f32::INFINITY] {
            let floor = floor.max(max - depth);
            self.scratch.clear();
            self.scratch
                .extend(logits.iter().filter(|&&logit| logit >= floor));
            let taken: f64 = self.scratch.iter().map(|&logit| weight(logit)).sum();
            if taken < wanted && depth.is_finite() {
                continue;
            }
            self.scratch.sort_unstable_by(|a, b| b.total_cmp(a));
            let mut mass_above = 0.0;
            let mut cut = max;
            for &logit in &self.scratch {
                if mass_above >= wanted {
                    break;
                }
                cut = logit;
                mass_above += weight(logit);
            }
            return cut;
        }
        unreachable!("the last depth takes every token")
    }
}

fn kth_largest(values: &mut [f32], k: usize) -> f32 {
    let (_, kth, _) = values.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    *kth
}
