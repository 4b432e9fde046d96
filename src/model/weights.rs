//! The tensors that an engine reads.

use std::sync::Arc;

use half::bf16;

use super::config::ModelConfig;
use super::promotion;
use super::storage::{Element, ElementType, Slice, Storage};

/// A matrix `[rows, columns]`, row-major, in the precision the checkpoint stores it in.
#[derive(Clone, Debug)]
pub struct Matrix {
    rows: usize,
    columns: usize,
    values: Values,
}

/// The numbers of a tensor by their type.
#[derive(Clone, Debug)]
pub enum Values {
    /// bfloat16, as they lie in the file.
    Bf16(Slice<bf16>),
    /// IEEE half precision.
    F16(Slice<half::f16>),
    /// IEEE single precision.
    F32(Slice<f32>),
}

impl Values {
    /// Their type.
    pub fn element_type(&self) -> ElementType {
        match self {
            Values::Bf16(_) => ElementType::Bf16,
            Values::F16(_) => ElementType::F16,
            Values::F32(_) => ElementType::F32,
        }
    }

    /// Where they lie.
    pub fn storage(&self) -> &Arc<Storage> {
        match self {
            Values::Bf16(values) => values.storage(),
            Values::F16(values) => values.storage(),
            Values::F32(values) => values.storage(),
        }
    }

    /// The bytes they are made of, little-endian.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Values::Bf16(values) => values.as_bytes(),
            Values::F16(values) => values.as_bytes(),
            Values::F32(values) => values.as_bytes(),
        }
    }
}

impl Matrix {
    /// Wraps `values`, which must hold `rows * columns` numbers.
    ///
    /// # Panics
    /// If the count does not fit; whoever reads a file checks shapes before.
    pub fn new(rows: usize, columns: usize, values: Values) -> Self {
        let len = match &values {
            Values::Bf16(v) => v.as_slice().len(),
            Values::F16(v) => v.as_slice().len(),
            Values::F32(v) => v.as_slice().len(),
        };
        assert_eq!(len, rows * columns, "a matrix of {rows} x {columns}");
        Self {
            rows,
            columns,
            values,
        }
    }

    /// Number of rows: the size of what the matrix produces.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns: the size of what the matrix is multiplied with.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The numbers: `[rows, columns]`.
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// The numbers, if they are bf16: `[rows, columns]`.
    pub fn as_bf16(&self) -> Option<&[bf16]> {
        match &self.values {
            Values::Bf16(values) => Some(values.as_slice()),
            _ => None,
        }
    }

    /// Writes row `row` to `out: [columns]` in f32, exactly.
    ///
    /// # Panics
    /// If `row` is out of range or `out` has another length.
    pub fn copy_row(&self, row: usize, out: &mut [f32]) {
        fn widen<T: Element>(from: &[T], to: &mut [f32]) {
            for (to, from) in to.iter_mut().zip(from) {
                *to = from.widen();
            }
        }
        assert_eq!(out.len(), self.columns);
        let range = row * self.columns..(row + 1) * self.columns;
        match &self.values {
            Values::Bf16(values) => widen(&values.as_slice()[range], out),
            Values::F16(values) => widen(&values.as_slice()[range], out),
            Values::F32(values) => widen(&values.as_slice()[range], out),
        }
    }

    /// The same matrix in bf16, rounded to nearest even; no copy if it is bf16 already.
    pub fn to_bf16(&self) -> Matrix {
        let values = match &self.values {
            Values::Bf16(values) => values.clone(),
            Values::F16(values) => Slice::converted(values.as_slice()),
            Values::F32(values) => Slice::converted(values.as_slice()),
        };
        Matrix::new(self.rows, self.columns, Values::Bf16(values))
    }
}

/// One decoder layer. Shapes are `[rows, columns]`; vectors are widened to f32.
#[derive(Clone, Debug)]
pub struct LayerWeights {
    /// `input_layernorm`: `[hidden]`.
    pub input_norm: Vec<f32>,
    /// `self_attn.q_proj`: `[heads * head_dim, hidden]`.
    pub q: Matrix,
    /// `self_attn.k_proj`: `[kv_heads * head_dim, hidden]`.
    pub k: Matrix,
    /// `self_attn.v_proj`: `[kv_heads * head_dim, hidden]`.
    pub v: Matrix,
    /// Biases of q, k and v, where the architecture has them.
    pub qkv_bias: Option<QkvBias>,
    /// Norms of each head of q and k, where the architecture has them.
    pub qk_norm: Option<QkNorm>,
    /// `self_attn.o_proj`: `[hidden, heads * head_dim]`.
    pub o: Matrix,
    /// `post_attention_layernorm`: `[hidden]`.
    pub post_attention_norm: Vec<f32>,
    /// `mlp.gate_proj`: `[intermediate, hidden]`.
    pub gate: Matrix,
    /// `mlp.up_proj`: `[intermediate, hidden]`.
    pub up: Matrix,
    /// `mlp.down_proj`: `[hidden, intermediate]`.
    pub down: Matrix,
}

/// Biases of the first projections (Qwen2).
#[derive(Clone, Debug)]
pub struct QkvBias {
    /// `[heads * head_dim]`
    pub q: Vec<f32>,
    /// `[kv_heads * head_dim]`
    pub k: Vec<f32>,
    /// `[kv_heads * head_dim]`
    pub v: Vec<f32>,
}

/// Weights of the per-head RMSNorms (Qwen3).
#[derive(Clone, Debug)]
pub struct QkNorm {
    /// `self_attn.q_norm`: `[head_dim]`
    pub q: Vec<f32>,
    /// `self_attn.k_norm`: `[head_dim]`
    pub k: Vec<f32>,
}

/// A whole model.
#[derive(Clone, Debug)]
pub struct Weights {
    /// The dimensions that the tensors below were checked against.
    pub config: ModelConfig,
    /// `model.embed_tokens`: `[vocabulary, hidden]`.
    pub embedding: Matrix,
    /// The decoder layers, first to last.
    pub layers: Vec<LayerWeights>,
    /// `model.norm`: `[hidden]`.
    pub final_norm: Vec<f32>,
    /// `lm_head`: `[vocabulary, hidden]`; `None` where the head is the embedding.
    pub head: Option<Matrix>,
}

impl Weights {
    /// The LM head, tied or not: `[vocabulary, hidden]`.
    pub fn head(&self) -> &Matrix {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// Where the matrices lie now, in the words of `--placement`: `mapped`, `huge-pages`, or `both`
    /// while they are moved from the one to the other.
    pub fn placement(&self) -> &'static str {
        let mapped = |storage: &Arc<Storage>| matches!(**storage, Storage::File { .. });
        match promotion::progress(self) {
            Some(progress) if progress.moved == progress.bytes => "huge-pages",
            Some(progress) if progress.moved > 0 => "both",
            Some(_) => "mapped",
            None if self.storages().iter().any(mapped) => "mapped",
            None => "huge-pages",
        }
    }

    /// What the matrices lie in, each once.
    pub fn storages(&self) -> Vec<Arc<Storage>> {
        let layers = self.layers.iter().flat_map(|layer| {
            let (attention, mlp) = (
                [&layer.q, &layer.k, &layer.v, &layer.o],
                [&layer.gate, &layer.up, &layer.down],
            );
            attention.into_iter().chain(mlp)
        });
        let matrices = layers.chain([&self.embedding]).chain(&self.head);
        let mut storages: Vec<Arc<Storage>> = matrices
            .map(|matrix| Arc::clone(matrix.values().storage()))
            .collect();
        storages.sort_by_key(Arc::as_ptr);
        storages.dedup_by(|a, b| Arc::ptr_eq(a, b));
        storages
    }

    /// The same weights with every matrix in bf16. Matrices that are bf16 already are shared, not
    /// copied.
    pub fn into_bf16(self) -> Weights {
        let layers = self.layers.into_iter().map(|layer| LayerWeights {
            q: layer.q.to_bf16(),
            k: layer.k.to_bf16(),
            v: layer.v.to_bf16(),
            o: layer.o.to_bf16(),
            gate: layer.gate.to_bf16(),
            up: layer.up.to_bf16(),
            down: layer.down.to_bf16(),
            ..layer
        });
        Weights {
            layers: layers.collect(),
            embedding: self.embedding.to_bf16(),
            head: self.head.map(|head| head.to_bf16()),
            ..self
        }
    }
}
