//! Deterministic random weights: a stand-in for a checkpoint wherever the text does not matter.
//!
//! Matrices are uniform with variance `1 / columns`, so that activations keep their scale through
//! any number of layers; norms are uniform in [0.75, 1.25] and biases in [-0.5, 0.5], so that a
//! norm or a bias left out shows in the logits. A number depends on the seed, the tensor's name
//! and its index alone: not on threads, not on the machine.

use std::ops::Range;
use std::sync::Arc;

use half::bf16;

use super::config::ModelConfig;
use super::storage::{Slice, Storage, elements_mut, huge_pages};
use super::weights::{LayerWeights, Matrix, QkNorm, QkvBias, Values, Weights};

/// Random bf16 weights for `config`, in huge pages.
///
/// `progress` is told how many bytes of how many are made.
///
/// # Errors
/// If the system has no memory for them.
pub fn weights(
    config: &ModelConfig,
    seed: u64,
    progress: &mut dyn FnMut(u64, u64),
) -> std::io::Result<Weights> {
    let plan = Plan::of(config);
    let mut map = huge_pages(plan.bytes)?;
    let mut done = 0;
    for tensor in &plan.tensors {
        let stream = stream(seed, &tensor.name);
        let bound = (3.0 / tensor.columns as f64).sqrt() as f32;
        fill(elements_mut(&mut map[tensor.bytes()]), stream, bound);
        done += tensor.bytes().len();
        progress(done as u64, plan.bytes as u64);
    }
    let storage = Arc::new(Storage::Anonymous(map));
    let mut tensors = plan.tensors.iter();
    let mut next = || {
        let tensor = tensors.next().expect("the plan lists every matrix");
        let values = Slice::new(Arc::clone(&storage), tensor.bytes());
        let values = Values::Bf16(values.expect("the plan aligns its tensors"));
        Matrix::new(tensor.rows, tensor.columns, values)
    };
    let embedding = next();
    let layers = (0..config.layers).map(|layer| {
        let vector = |name: &str, len: usize, centre: f32, bound: f32| {
            let mut values = vec![bf16::ZERO; len];
            let name = format!("model.layers.{layer}.{name}");
            fill(&mut values, stream(seed, &name), bound);
            values.iter().map(|v| centre + v.to_f32()).collect()
        };
        let norm = |name: &str, len: usize| vector(name, len, 1.0, 0.25);
        let bias = |name: &str, len: usize| vector(name, len, 0.0, 0.5);
        LayerWeights {
            input_norm: norm("input_layernorm", config.hidden_size),
            q: next(),
            k: next(),
            v: next(),
            qkv_bias: config.qkv_bias().then(|| QkvBias {
                q: bias("self_attn.q_proj.bias", config.q_size()),
                k: bias("self_attn.k_proj.bias", config.kv_size()),
                v: bias("self_attn.v_proj.bias", config.kv_size()),
            }),
            qk_norm: config.qk_norm().then(|| QkNorm {
                q: norm("self_attn.q_norm", config.head_dim),
                k: norm("self_attn.k_norm", config.head_dim),
            }),
            o: next(),
            post_attention_norm: norm("post_attention_layernorm", config.hidden_size),
            gate: next(),
            up: next(),
            down: next(),
        }
    });
    let layers = layers.collect();
    let mut final_norm = vec![bf16::ZERO; config.hidden_size];
    fill(&mut final_norm, stream(seed, "model.norm"), 0.25);
    Ok(Weights {
        config: config.clone(),
        embedding,
        layers,
        final_norm: final_norm.iter().map(|v| 1.0 + v.to_f32()).collect(),
        head: (!config.tied_embeddings).then(&mut next),
    })
}

struct PlannedTensor {
    name: String,
    rows: usize,
    columns: usize,
    offset: usize,
}

impl PlannedTensor {
    fn bytes(&self) -> Range<usize> {
        self.offset..self.offset + self.rows * self.columns * size_of::<bf16>()
    }
}

/// Every matrix of a model, in the order in which a decode step reads them.
struct Plan {
    tensors: Vec<PlannedTensor>,
    bytes: usize,
}

impl Plan {
    /// Each tensor begins on a cache line.
    const ALIGNMENT: usize = 64;

    fn of(config: &ModelConfig) -> Self {
        let mut plan = Plan {
            tensors: Vec::new(),
            bytes: 0,
        };
        let (hidden, vocabulary) = (config.hidden_size, config.vocab_size);
        plan.push("model.embed_tokens".into(), vocabulary, hidden);
        for layer in 0..config.layers {
            let mut push = |name: &str, rows, columns| {
                plan.push(format!("model.layers.{layer}.{name}"), rows, columns);
            };
            push("self_attn.q_proj", config.q_size(), hidden);
            push("self_attn.k_proj", config.kv_size(), hidden);
            push("self_attn.v_proj", config.kv_size(), hidden);
            push("self_attn.o_proj", hidden, config.q_size());
            push("mlp.gate_proj", config.intermediate_size, hidden);
            push("mlp.up_proj", config.intermediate_size, hidden);
            push("mlp.down_proj", hidden, config.intermediate_size);
        }
        if !config.tied_embeddings {
            plan.push("lm_head".into(), vocabulary, hidden);
        }
        plan
    }

    fn push(&mut self, name: String, rows: usize, columns: usize) {
        let tensor = PlannedTensor {
            name,
            rows,
            columns,
            offset: self.bytes,
        };
        self.bytes = tensor.bytes().end.next_multiple_of(Self::ALIGNMENT);
        self.tensors.push(tensor);
    }
}

/// The key of a tensor's numbers: FNV-1a over its name, mixed with the seed.
fn stream(seed: u64, name: &str) -> u64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    split_mix(hash ^ split_mix(seed))
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): a bijection with good avalanche.
fn split_mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Fills `out` with numbers uniform in `[-bound, bound]`, four from each 64-bit hash.
fn fill(out: &mut [bf16], stream: u64, bound: f32) {
    /// Elements a thread takes at once; a multiple of four, so that hashes don't straddle pieces.
    const PIECE: usize = 1 << 20;
    let scale = bound / 32767.5;
    let fill_piece = |piece: usize, out: &mut [bf16]| {
        let first = (piece * PIECE / 4) as u64;
        for (index, four) in (first..).zip(out.chunks_mut(4)) {
            let mut bits = split_mix(stream.wrapping_add(index));
            for value in four {
                *value = bf16::from_f32((f32::from(bits as u16) - 32767.5) * scale);
                bits >>= 16;
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    if out.len() <= PIECE || threads == 1 {
        for (piece, out) in out.chunks_mut(PIECE).enumerate() {
            fill_piece(piece, out);
        }
        return;
    }
    let pieces = std::sync::Mutex::new(out.chunks_mut(PIECE).enumerate());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let next = pieces.lock().expect("no thread panics here").next();
                    let Some((piece, out)) = next else { break };
                    fill_piece(piece, out);
                }
            });
        }
    });
}
