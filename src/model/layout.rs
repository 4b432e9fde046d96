//! Which tensors a model has: their names in a checkpoint, their shapes, and their order.
//!
//! The one list of names. Whoever makes [`Weights`] (from a file, from a random stream) walks it
//! through [`assemble`]; whoever writes them walks it through [`tensors`].

use std::ops::Range;

use super::config::ModelConfig;
use super::weights::{LayerWeights, Matrix, QkNorm, QkvBias, Weights};

/// A tensor that a model has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// As a checkpoint calls it: `model.layers.0.mlp.up_proj.weight`.
    pub name: String,
    /// Its shape.
    pub shape: Shape,
}

/// The shape of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `[rows, columns]`
    Matrix(usize, usize),
    /// `[len]`
    Vector(usize),
}

impl Shape {
    /// Number of elements.
    pub fn elements(self) -> usize {
        match self {
            Shape::Matrix(rows, columns) => rows * columns,
            Shape::Vector(len) => len,
        }
    }

    /// The dimensions, as a checkpoint lists them.
    pub fn dimensions(self) -> Vec<usize> {
        match self {
            Shape::Matrix(rows, columns) => vec![rows, columns],
            Shape::Vector(len) => vec![len],
        }
    }
}

/// Every tensor of a model, in the order in which a decode step reads them.
pub fn specs(config: &ModelConfig) -> Vec<TensorSpec> {
    use Shape::{Matrix, Vector};
    let (hidden, vocabulary) = (config.hidden_size, config.vocab_size);
    let (q, kv, intermediate) = (config.q_size(), config.kv_size(), config.intermediate_size);
    let mut specs = Vec::new();
    let mut push = |name: String, shape| specs.push(TensorSpec { name, shape });
    push(
        "model.embed_tokens.weight".into(),
        Matrix(vocabulary, hidden),
    );
    for layer in 0..config.layers {
        let mut push = |name: &str, shape| push(format!("model.layers.{layer}.{name}"), shape);
        push("input_layernorm.weight", Vector(hidden));
        push("self_attn.q_proj.weight", Matrix(q, hidden));
        push("self_attn.k_proj.weight", Matrix(kv, hidden));
        push("self_attn.v_proj.weight", Matrix(kv, hidden));
        if config.qkv_bias() {
            push("self_attn.q_proj.bias", Vector(q));
            push("self_attn.k_proj.bias", Vector(kv));
            push("self_attn.v_proj.bias", Vector(kv));
        }
        if config.qk_norm() {
            push("self_attn.q_norm.weight", Vector(config.head_dim));
            push("self_attn.k_norm.weight", Vector(config.head_dim));
        }
        push("self_attn.o_proj.weight", Matrix(hidden, q));
        push("post_attention_layernorm.weight", Vector(hidden));
        push("mlp.gate_proj.weight", Matrix(intermediate, hidden));
        push("mlp.up_proj.weight", Matrix(intermediate, hidden));
        push("mlp.down_proj.weight", Matrix(hidden, intermediate));
    }
    push("model.norm.weight".into(), Vector(hidden));
    if !config.tied_embeddings {
        push("lm_head.weight".into(), Matrix(vocabulary, hidden));
    }
    specs
}

/// Where [`assemble`] gets the tensors from.
pub trait TensorSource {
    /// Why a tensor can't be had.
    type Error;

    /// The tensor `spec`, whose shape is a matrix.
    ///
    /// # Errors
    /// If it can't be had.
    fn matrix(&mut self, spec: &TensorSpec) -> Result<Matrix, Self::Error>;

    /// The tensor `spec`, whose shape is a vector, widened to f32.
    ///
    /// # Errors
    /// If it can't be had.
    fn vector(&mut self, spec: &TensorSpec) -> Result<Vec<f32>, Self::Error>;
}

/// Puts a model together, asking `source` for each of [`specs`] in order.
///
/// # Errors
/// The first error of `source`.
pub fn assemble<S: TensorSource>(
    config: &ModelConfig,
    source: &mut S,
) -> Result<Weights, S::Error> {
    let specs = specs(config);
    let mut next = Next {
        specs: specs.iter(),
        source,
    };
    let embedding = next.matrix()?;
    let mut layers = Vec::with_capacity(config.layers);
    for _ in 0..config.layers {
        // The fields of a literal are evaluated in the order written: that of `specs`.
        layers.push(LayerWeights {
            input_norm: next.vector()?,
            q: next.matrix()?,
            k: next.matrix()?,
            v: next.matrix()?,
            qkv_bias: match config.qkv_bias() {
                true => Some(QkvBias {
                    q: next.vector()?,
                    k: next.vector()?,
                    v: next.vector()?,
                }),
                false => None,
            },
            qk_norm: match config.qk_norm() {
                true => Some(QkNorm {
                    q: next.vector()?,
                    k: next.vector()?,
                }),
                false => None,
            },
            o: next.matrix()?,
            post_attention_norm: next.vector()?,
            gate: next.matrix()?,
            up: next.matrix()?,
            down: next.matrix()?,
        });
    }
    Ok(Weights {
        config: config.clone(),
        embedding,
        layers,
        final_norm: next.vector()?,
        head: match config.tied_embeddings {
            true => None,
            false => Some(next.matrix()?),
        },
    })
}

struct Next<'a, S> {
    specs: std::slice::Iter<'a, TensorSpec>,
    source: &'a mut S,
}

impl<S: TensorSource> Next<'_, S> {
    fn matrix(&mut self) -> Result<Matrix, S::Error> {
        self.source
            .matrix(self.specs.next().expect("the list has every tensor"))
    }

    fn vector(&mut self) -> Result<Vec<f32>, S::Error> {
        self.source
            .vector(self.specs.next().expect("the list has every tensor"))
    }
}

/// A tensor of a model in memory.
#[derive(Clone, Copy, Debug)]
pub enum Tensor<'a> {
    /// A matrix in the precision it is stored in.
    Matrix(&'a Matrix),
    /// A vector, widened.
    Vector(&'a [f32]),
}

/// Every tensor of `weights` with its name, in the order of [`specs`].
pub fn tensors(weights: &Weights) -> Vec<(TensorSpec, Tensor<'_>)> {
    use Tensor::{Matrix, Vector};
    let mut tensors = vec![Matrix(&weights.embedding)];
    for layer in &weights.layers {
        tensors.push(Vector(&layer.input_norm));
        tensors.extend([&layer.q, &layer.k, &layer.v].map(Matrix));
        if let Some(bias) = &layer.qkv_bias {
            tensors.extend([&bias.q, &bias.k, &bias.v].map(|bias| Vector(bias)));
        }
        if let Some(norm) = &layer.qk_norm {
            tensors.extend([&norm.q, &norm.k].map(|norm| Vector(norm)));
        }
        tensors.push(Matrix(&layer.o));
        tensors.push(Vector(&layer.post_attention_norm));
        tensors.extend([&layer.gate, &layer.up, &layer.down].map(Matrix));
    }
    tensors.push(Vector(&weights.final_norm));
    tensors.extend(weights.head.as_ref().map(Matrix));
    let specs = specs(&weights.config);
    assert_eq!(specs.len(), tensors.len(), "weights that fit their config");
    specs.into_iter().zip(tensors).collect()
}

/// Lays runs of `sizes` bytes one after the other, each beginning on a cache line.
///
/// Returns where each lies and how many bytes there are in all.
pub fn pack(sizes: impl IntoIterator<Item = usize>) -> (Vec<Range<usize>>, usize) {
    const CACHE_LINE: usize = 64;
    let mut end = 0;
    let place = |size: usize| {
        let start = end;
        end = (start + size).next_multiple_of(CACHE_LINE);
        start..start + size
    };
    let ranges = sizes.into_iter().map(place).collect();
    (ranges, end)
}
