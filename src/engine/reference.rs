//! The oracle: the plain forward pass, one token at a time, with nothing clever in it.
//!
//! Values are f32 and sums are f64, so that its own rounding is far below that of the engines it
//! judges. It reads from `ReferenceEngine::forward` down like the algorithm.

use std::ops::ControlFlow;
use std::sync::Arc;

use half::bf16;

use super::decode_loop::{self, Column, Head, Step};
use super::past::{CachedLayer, CachedPast};
use super::sequences::Sequences;
use super::work::Work;
use super::{Capabilities, DecodeRequest, Decoded, Engine, EngineError, Finished};
use crate::model::{LayerWeights, Matrix, ModelConfig, TokenId, Weights};

/// In which precision keys and values are cached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvPrecision {
    /// As computed.
    #[default]
    F32,
    /// Rounded to bf16, as the fast engines do: what remains of their distance is arithmetic.
    Bf16,
}

/// To which numbers the forward pass rounds what it computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arithmetic {
    /// f32: the oracle.
    #[default]
    F32,
    /// bf16, wherever a model that runs in bf16 writes a tensor to memory: after every product, norm,
    /// rotation, softmax and sum, and the logits. Sums inside of these are exact, as with an f32
    /// accumulator. It is the yardstick that engines are held against: how far bf16 itself is from f32.
    Bf16,
}

/// What the forward pass of one position computes on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// The embedding: `[hidden]`.
    Embedded,
    /// Q, K and V with their biases, before norms and rotation:
    /// `[(heads + 2 * kv_heads) * head_dim]`.
    Qkv,
    /// The keys that are cached: `[kv_heads * head_dim]`.
    Keys,
    /// The values that are cached: `[kv_heads * head_dim]`.
    Values,
    /// What the heads attended to, before the output projection: `[heads * head_dim]`.
    Attended,
    /// The residual stream behind the attention: `[hidden]`.
    AfterAttention,
    /// `SiLU(gate) * up`: `[intermediate]`.
    Gated,
    /// The residual stream behind the layer: `[hidden]`.
    AfterMlp,
}

/// Sees every [`Activation`] with its layer; the embedding comes before layer 0.
pub type Observer<'a> = dyn FnMut(usize, Activation, &[f32]) + 'a;

/// How much farther than the nearest bf16 number another may be and still pass for a rounding of the
/// same key or value, which two engines computed in f32: a part of the position's largest.
pub const EDGE: f32 = 1e-5;

/// The plain engine.
pub struct ReferenceEngine {
    weights: Arc<Weights>,
    sequences: Sequences,
    work: Work,
    arithmetic: Arithmetic,
    kv_precision: KvPrecision,
    rounded_as: Option<CachedPast>,
    /// `caches[sequence][layer]`
    caches: Vec<Vec<LayerCache>>,
    /// `logits[sequence]`: `[vocabulary]`
    logits: Vec<Vec<f32>>,
}

/// The keys and values of one layer: `[position][kv_heads * head_dim]`.
#[derive(Clone, Debug, Default)]
struct LayerCache {
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

impl ReferenceEngine {
    /// An engine for `sequences` sequences of up to `context` positions, caching in f32.
    ///
    /// # Errors
    /// A context longer than the model's positions.
    pub fn new(
        weights: Arc<Weights>,
        context: usize,
        sequences: usize,
    ) -> Result<Self, EngineError> {
        let layers = weights.config.layers;
        Ok(Self {
            sequences: Sequences::new(&weights.config, context, sequences)?,
            work: Work::default(),
            arithmetic: Arithmetic::F32,
            kv_precision: KvPrecision::F32,
            rounded_as: None,
            caches: vec![vec![LayerCache::default(); layers]; sequences],
            logits: vec![vec![0.0; weights.config.vocab_size]; sequences],
            weights,
        })
    }

    /// The same engine, rounding what it computes to other numbers. Weights are taken as they are: for
    /// bf16 they should be loaded as such.
    pub fn with_arithmetic(self, arithmetic: Arithmetic) -> Self {
        Self { arithmetic, ..self }
    }

    /// The same engine, caching in another precision.
    pub fn with_kv_precision(self, kv_precision: KvPrecision) -> Self {
        Self {
            kv_precision,
            ..self
        }
    }

    /// The same engine, caching in bf16 and rounding as another engine did where a key or value lies on
    /// the edge between two bf16 numbers, so that both are right: `past` is what that one cached of the
    /// same tokens. Where it holds anything but the bf16 numbers nearest to those computed here, to within
    /// [`EDGE`], that is not taken over.
    pub fn rounding_as(self, past: CachedPast) -> Self {
        Self {
            kv_precision: KvPrecision::Bf16,
            rounded_as: Some(past),
            ..self
        }
    }

    /// Appends `token` to `sequence` as [`prefill`](Engine::prefill) does, and shows what is computed.
    ///
    /// # Errors
    /// As [`prefill`](Engine::prefill).
    pub fn observe(
        &mut self,
        sequence: usize,
        token: TokenId,
        observer: &mut Observer,
    ) -> Result<(), EngineError> {
        self.sequences.check_fits(sequence, &[token])?;
        let x = self.forward(sequence, token, observer)?;
        self.head(sequence, &x);
        Ok(())
    }

    /// Runs `token` as the next of `sequence`; returns the residual stream after the last layer,
    /// `[hidden]`.
    fn forward(
        &mut self,
        sequence: usize,
        token: TokenId,
        observer: &mut Observer,
    ) -> Result<Vec<f32>, EngineError> {
        let weights = Arc::clone(&self.weights);
        let pass = ForwardPass::new(&weights.config, self.arithmetic);
        let position = self.sequences.cached(sequence).len();

        let mut x = vec![0.0; weights.config.hidden_size];
        weights.embedding.copy_row(token as usize, &mut x);
        check_finite(&x, position, || "the embedding".into())?;
        observer(0, Activation::Embedded, &x);

        for (index, layer) in weights.layers.iter().enumerate() {
            let cache = &mut self.caches[sequence][index];
            cache.truncate(position);
            let others = self.rounded_as.as_ref().map(|past| &past.layers[index]);
            let round = |new: &mut LayerCache| match self.kv_precision {
                KvPrecision::F32 => {}
                KvPrecision::Bf16 => new.round_last(others),
            };
            let mut observe = |what, values: &[f32]| observer(index, what, values);
            let attended = pass.attention(layer, &x, position, cache, round, &mut observe);
            pass.add(&mut x, &attended);
            observe(Activation::AfterAttention, &x);
            check_finite(&x, position, || format!("layer {index} (attention)"))?;

            let fed = pass.mlp(layer, &x, &mut observe);
            pass.add(&mut x, &fed);
            observe(Activation::AfterMlp, &x);
            check_finite(&x, position, || format!("layer {index} (MLP)"))?;
        }
        self.sequences.push(sequence, token);
        Ok(x)
    }

    /// The logits of `x: [hidden]`, kept as those of `sequence`.
    fn head(&mut self, sequence: usize, x: &[f32]) {
        let pass = ForwardPass::new(&self.weights.config, self.arithmetic);
        let normed = pass.rms_norm(x, &self.weights.final_norm);
        self.logits[sequence] = pass.matvec(self.weights.head(), &normed);
        self.sequences.set_has_logits(sequence, true);
    }

    /// The same of `tokens` alone; the other logits stay as they are.
    fn head_rows(&mut self, sequence: usize, x: &[f32], tokens: &[TokenId]) {
        let pass = ForwardPass::new(&self.weights.config, self.arithmetic);
        let normed = pass.rms_norm(x, &self.weights.final_norm);
        let head = self.weights.head();
        let mut row = vec![0.0; head.columns()];
        for &token in tokens {
            head.copy_row(token as usize, &mut row);
            self.logits[sequence][token as usize] = pass.round(dot(&row, &normed));
        }
        self.sequences.set_has_logits(sequence, true);
    }
}

/// The steps of the algorithm, for one model and one arithmetic.
struct ForwardPass<'a> {
    config: &'a ModelConfig,
    arithmetic: Arithmetic,
}

impl<'a> ForwardPass<'a> {
    fn new(config: &'a ModelConfig, arithmetic: Arithmetic) -> Self {
        Self { config, arithmetic }
    }

    /// Self-attention of one token: `x` and the result are `[hidden]`.
    fn attention(
        &self,
        layer: &LayerWeights,
        x: &[f32],
        position: usize,
        cache: &mut LayerCache,
        round: impl Fn(&mut LayerCache),
        observe: &mut impl FnMut(Activation, &[f32]),
    ) -> Vec<f32> {
        let head_dim = self.config.head_dim;
        let normed = self.rms_norm(x, &layer.input_norm);

        let mut q = self.matvec(&layer.q, &normed); // [heads * head_dim]
        let mut k = self.matvec(&layer.k, &normed); // [kv_heads * head_dim]
        let mut v = self.matvec(&layer.v, &normed); // [kv_heads * head_dim]
        if let Some(bias) = &layer.qkv_bias {
            self.add(&mut q, &bias.q);
            self.add(&mut k, &bias.k);
            self.add(&mut v, &bias.v);
        }
        observe(Activation::Qkv, &[&q[..], &k, &v].concat());
        if let Some(norm) = &layer.qk_norm {
            for head in q.chunks_mut(head_dim) {
                head.copy_from_slice(&self.rms_norm(head, &norm.q));
            }
            for head in k.chunks_mut(head_dim) {
                head.copy_from_slice(&self.rms_norm(head, &norm.k));
            }
        }
        for head in q.chunks_mut(head_dim).chain(k.chunks_mut(head_dim)) {
            self.rope(head, position);
        }
        cache.keys.push(k);
        cache.values.push(v);
        round(cache);
        observe(Activation::Keys, &cache.keys[position]);
        observe(Activation::Values, &cache.values[position]);

        let mut attended = vec![0.0; self.config.q_size()];
        for (head, out) in attended.chunks_mut(head_dim).enumerate() {
            let q = &q[head * head_dim..][..head_dim];
            let kv_head = head / self.config.group_size() * head_dim;
            let scale = 1.0 / (head_dim as f64).sqrt();
            let scores: Vec<f64> = cache
                .keys
                .iter()
                .map(|k| self.between(scale * self.between(dot(q, &k[kv_head..][..head_dim]))))
                .collect();
            let weights = self.softmax(&scores);
            for (i, out) in out.iter_mut().enumerate() {
                let values = cache.values.iter().map(|v| f64::from(v[kv_head + i]));
                *out = self.round(weights.iter().zip(values).map(|(w, v)| w * v).sum());
            }
        }
        observe(Activation::Attended, &attended);
        self.matvec(&layer.o, &attended)
    }

    /// The gated MLP of one token: `x` and the result are `[hidden]`.
    fn mlp(
        &self,
        layer: &LayerWeights,
        x: &[f32],
        observe: &mut impl FnMut(Activation, &[f32]),
    ) -> Vec<f32> {
        let normed = self.rms_norm(x, &layer.post_attention_norm);
        let gate = self.matvec(&layer.gate, &normed); // [intermediate]
        let up = self.matvec(&layer.up, &normed); // [intermediate]
        let gated = gate.iter().zip(&up);
        let gated: Vec<f32> = gated
            .map(|(g, u)| self.round(f64::from(self.silu(*g)) * f64::from(*u)))
            .collect();
        observe(Activation::Gated, &gated);
        self.matvec(&layer.down, &gated)
    }

    /// `matrix * x`: `[rows]`.
    fn matvec(&self, matrix: &Matrix, x: &[f32]) -> Vec<f32> {
        let mut row = vec![0.0; matrix.columns()];
        let product = (0..matrix.rows()).map(|index| {
            matrix.copy_row(index, &mut row);
            self.round(dot(&row, x))
        });
        product.collect()
    }

    fn add(&self, x: &mut [f32], y: &[f32]) {
        for (x, y) in x.iter_mut().zip(y) {
            *x = self.round(f64::from(*x) + f64::from(*y));
        }
    }

    /// RMSNorm (arXiv 1910.07467): `x / sqrt(mean(x^2) + eps) * weight`.
    fn rms_norm(&self, x: &[f32], weight: &[f32]) -> Vec<f32> {
        let mean_square = dot(x, x) / x.len() as f64;
        let scale = 1.0 / (mean_square + self.config.rms_norm_eps).sqrt();
        x.iter()
            .zip(weight)
            .map(|(x, w)| {
                self.round(self.between(f64::from(*x) * scale) * self.between(f64::from(*w)))
            })
            .collect()
    }

    /// Rotary embedding (arXiv 2104.09864) of one head, `[head_dim]`, in the half layout.
    fn rope(&self, head: &mut [f32], position: usize) {
        let half = head.len() / 2;
        let frequencies = self.config.rope.frequencies(head.len());
        for (pair, frequency) in frequencies.iter().enumerate() {
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            let (sin, cos) = (self.between(sin), self.between(cos));
            let (a, b) = (f64::from(head[pair]), f64::from(head[pair + half]));
            head[pair] = self.round(self.between(a * cos) - self.between(b * sin));
            head[pair + half] = self.round(self.between(b * cos) + self.between(a * sin));
        }
    }

    fn softmax(&self, scores: &[f64]) -> Vec<f64> {
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
        let total: f64 = weights.iter().sum();
        weights
            .iter()
            .map(|weight| self.between(weight / total))
            .collect()
    }

    fn silu(&self, x: f32) -> f32 {
        let x = f64::from(x);
        self.round(x / (1.0 + (-x).exp()))
    }

    /// `x` as it is kept.
    fn round(&self, x: f64) -> f32 {
        self.between(x) as f32
    }

    /// `x` as it is kept between two steps that are one step here: in f64, but for bf16.
    fn between(&self, x: f64) -> f64 {
        match self.arithmetic {
            Arithmetic::F32 => x,
            Arithmetic::Bf16 => bf16::from_f32(x as f32).to_f64(),
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(a, b)| f64::from(*a) * f64::from(*b))
        .sum()
}

fn check_finite(
    x: &[f32],
    position: usize,
    place: impl FnOnce() -> String,
) -> Result<(), EngineError> {
    if x.iter().all(|value| value.is_finite()) {
        return Ok(());
    }
    Err(EngineError::NotFinite {
        place: place(),
        position,
    })
}

/// Rounds a position's keys or values to bf16, where two numbers are as near as in `other`.
fn round_row(row: &mut [f32], other: Option<&Vec<bf16>>) {
    let largest = row.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
    for (index, x) in row.iter_mut().enumerate() {
        let nearest = bf16::from_f32(*x).to_f32();
        let other = other.map_or(nearest, |other| other[index].to_f32());
        let is_as_near = (other - *x).abs() <= (nearest - *x).abs() + EDGE * largest;
        *x = if is_as_near { other } else { nearest };
    }
}

impl LayerCache {
    /// Rounds the keys and values of the last position to bf16.
    fn round_last(&mut self, others: Option<&CachedLayer>) {
        let position = self.keys.len() - 1;
        let [keys, values] = [&mut self.keys[position], &mut self.values[position]];
        round_row(keys, others.and_then(|layer| layer.keys.get(position)));
        round_row(values, others.and_then(|layer| layer.values.get(position)));
    }

    fn truncate(&mut self, positions: usize) {
        self.keys.truncate(positions);
        self.values.truncate(positions);
    }
}

impl Step for ReferenceEngine {
    fn step(&mut self, columns: &[Column]) -> Result<(), EngineError> {
        for column in columns {
            let sequence = column.sequence;
            let x = self.forward(sequence, column.token, &mut |_, _, _| ())?;
            match column.head {
                Head::None => {}
                Head::Rows(tokens) => self.head_rows(sequence, &x, tokens),
                Head::All => self.head(sequence, &x),
            }
        }
        Ok(())
    }

    fn sequences(&self) -> &Sequences {
        &self.sequences
    }

    fn count(&mut self, work: Work) {
        self.work += work;
    }

    fn take_logits(&mut self, sequence: usize) -> Option<&mut [f32]> {
        let has_logits = self.sequences.has_logits(sequence);
        self.sequences.set_has_logits(sequence, false);
        has_logits.then_some(&mut self.logits[sequence])
    }
}

impl Engine for ReferenceEngine {
    fn config(&self) -> &ModelConfig {
        &self.weights.config
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "reference",
            sequences: self.sequences.count(),
            context: self.sequences.context(),
            threads: 1,
            host_bound: true,
            kernels: "plain",
            variant: None,
        }
    }

    fn cached(&self, sequence: usize) -> &[TokenId] {
        self.sequences.cached(sequence)
    }

    fn truncate(&mut self, sequence: usize, length: usize) -> Result<(), EngineError> {
        self.sequences.truncate(sequence, length)
    }

    fn prefill(
        &mut self,
        sequence: usize,
        tokens: &[TokenId],
        progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        self.sequences.check_fits(sequence, tokens)?;
        for (index, &token) in tokens.iter().enumerate() {
            let x = self.forward(sequence, token, &mut |_, _, _| ())?;
            let done = index + 1;
            if done == tokens.len() {
                self.head(sequence, &x);
            }
            if progress(done).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn decode(
        &mut self,
        requests: &[DecodeRequest],
        on_token: &mut dyn FnMut(Decoded) -> ControlFlow<()>,
    ) -> Result<Vec<Finished>, EngineError> {
        decode_loop::decode(self, requests, on_token)
    }

    fn work(&self) -> Option<Work> {
        Some(self.work)
    }

    fn logits(
        &mut self,
        sequence: usize,
        tokens: &[TokenId],
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), EngineError> {
        self.sequences.check_fits(sequence, tokens)?;
        for (index, &token) in tokens.iter().enumerate() {
            let position = self.sequences.cached(sequence).len();
            let x = self.forward(sequence, token, &mut |_, _, _| ())?;
            self.head(sequence, &x);
            check_finite(&self.logits[sequence], position, || "the logits".into())?;
            each(index, &self.logits[sequence]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_rounding_is_taken_over_on_the_edge_only() {
        // bf16 numbers from 1 on are 2^-7 apart.
        let [below, above] = [1.0, 1.0 + 1.0 / 128.0];
        let edge = (below + above) / 2.0;
        let rounded = |x: f32, other: Option<f32>| {
            let mut row = [x];
            let other = other.map(|other| vec![bf16::from_f32(other)]);
            round_row(&mut row, other.as_ref());
            row[0]
        };
        assert_eq!(rounded(edge, None), below, "ties to even");
        assert_eq!(rounded(edge, Some(above)), above);
        assert_eq!(rounded(edge - 1e-6, Some(above)), above);
        assert_eq!(rounded(edge + 1e-6, Some(below)), below);
        assert_eq!(rounded(edge - 1e-4, Some(above)), below);
        assert_eq!(rounded(edge + 1e-4, Some(below)), above);
        assert_eq!(rounded(edge, Some(f32::NAN)), below);
    }
}
