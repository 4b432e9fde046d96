//! The dimensions and switches of a model, from `config.json`.

/// The model families that onegrid runs. They differ in biases and in per-head norms only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// `Qwen3ForCausalLM`: RMSNorm on every head of q and k.
    Qwen3,
    /// `Qwen2ForCausalLM`: biases on q, k and v.
    Qwen2,
    /// `LlamaForCausalLM`: neither; RoPE scaling of type `llama3` allowed.
    Llama,
}

/// Frequency scaling of Llama 3.1 and later (`rope_type: llama3`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Llama3Scaling {
    /// Divisor of the frequencies whose wavelength exceeds the original context.
    pub factor: f64,
    /// Wavelengths above `original_max_positions / low_freq_factor` are divided by `factor`.
    pub low_freq_factor: f64,
    /// Wavelengths below `original_max_positions / high_freq_factor` stay as they are.
    pub high_freq_factor: f64,
    /// The context length of pre-training, in positions.
    pub original_max_positions: usize,
}

/// Rotary position embedding: base and scaling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Base of the geometric series of wavelengths.
    pub theta: f64,
    /// Scaling of the frequencies, if the model has one.
    pub scaling: Option<Llama3Scaling>,
}

impl Rope {
    /// Angular frequency of each pair of a head's dimensions, in radians a position.
    ///
    /// Returns `head_dim / 2` values: pair `i` rotates dimensions `i` and `i + head_dim / 2`
    /// ("half" layout, as in every Hugging Face checkpoint of these families).
    /// Source: RoFormer (arXiv 2104.09864) and, for the scaling, the Llama 3.1 model card's
    /// formula as implemented by transformers' `_compute_llama3_parameters`.
    pub fn frequencies(&self, head_dim: usize) -> Vec<f64> {
        (0..head_dim / 2)
            .map(|pair| {
                let frequency = self.theta.powf(-((2 * pair) as f64) / head_dim as f64);
                match self.scaling {
                    Some(scaling) => scaling.scale(frequency),
                    None => frequency,
                }
            })
            .collect()
    }
}

impl Llama3Scaling {
    fn scale(&self, frequency: f64) -> f64 {
        let original = self.original_max_positions as f64;
        let wavelength = 2.0 * std::f64::consts::PI / frequency;
        if wavelength < original / self.high_freq_factor {
            return frequency;
        }
        if wavelength > original / self.low_freq_factor {
            return frequency / self.factor;
        }
        let smooth = (original / wavelength - self.low_freq_factor)
            / (self.high_freq_factor - self.low_freq_factor);
        (1.0 - smooth) * frequency / self.factor + smooth * frequency
    }
}

/// Everything an engine must know of a model besides its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The family, which decides biases and per-head norms.
    pub architecture: Architecture,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub layers: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// Rows of the embedding and of the LM head.
    pub vocab_size: usize,
    /// The longest sequence the model was made for, in positions.
    pub max_positions: usize,
    /// Added to the mean square before the root in every RMSNorm.
    pub rms_norm_eps: f64,
    /// Position embedding.
    pub rope: Rope,
    /// Whether the LM head is the embedding.
    pub tied_embeddings: bool,
}

/// Dimensions that no model can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DimensionError {
    /// A dimension that is zero or absurd.
    #[error("'{name}' is {found}; expected 1 to {most}")]
    OutOfRange {
        /// As `config.json` calls it.
        name: &'static str,
        /// Its value.
        found: usize,
        /// The largest that is accepted.
        most: usize,
    },
    /// Query heads that can't share the key/value heads evenly.
    #[error("'num_attention_heads' ({heads}) is no multiple of 'num_key_value_heads' ({kv_heads})")]
    UnevenGroups {
        /// Query heads.
        heads: usize,
        /// Key/value heads.
        kv_heads: usize,
    },
    /// A head that can't be split into pairs to rotate.
    #[error("'head_dim' is {head_dim}; expected an even number, since RoPE rotates pairs")]
    OddHead {
        /// Width of a head.
        head_dim: usize,
    },
    /// More parameters than any machine holds.
    #[error("the dimensions make {parameters} parameters; expected at most {most}")]
    TooManyParameters {
        /// How many there would be.
        parameters: u128,
        /// The most that are accepted.
        most: u128,
    },
}

impl ModelConfig {
    /// The largest dimension that [`check`](Self::check) lets pass: far above any model's, and
    /// small enough that products of the dimensions can't overflow.
    pub const MAX_DIMENSION: usize = 1 << 24;
    /// The most layers that [`check`](Self::check) lets pass.
    pub const MAX_LAYERS: usize = 4096;
    /// The most parameters that [`check`](Self::check) lets pass: 17 trillion.
    pub const MAX_PARAMETERS: u128 = 1 << 44;

    /// Whether the dimensions can be a model's. The other methods rely on it: after it none of
    /// them divides by zero or overflows.
    ///
    /// # Errors
    /// The first dimension that can't be.
    pub fn check(&self) -> Result<(), DimensionError> {
        let most = Self::MAX_DIMENSION;
        let dimensions = [
            ("hidden_size", self.hidden_size, most),
            ("intermediate_size", self.intermediate_size, most),
            ("num_hidden_layers", self.layers, Self::MAX_LAYERS),
            ("num_attention_heads", self.heads, most),
            ("num_key_value_heads", self.kv_heads, most),
            ("head_dim", self.head_dim, most),
            ("vocab_size", self.vocab_size, most),
            ("max_position_embeddings", self.max_positions, most),
        ];
        for (name, found, most) in dimensions {
            if !(1..=most).contains(&found) {
                return Err(DimensionError::OutOfRange { name, found, most });
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let (heads, kv_heads) = (self.heads, self.kv_heads);
            return Err(DimensionError::UnevenGroups { heads, kv_heads });
        }
        if !self.head_dim.is_multiple_of(2) {
            let head_dim = self.head_dim;
            return Err(DimensionError::OddHead { head_dim });
        }
        let wide = |size: usize| size as u128;
        let q_size = wide(self.heads) * wide(self.head_dim);
        let rows = 4 * q_size + 3 * wide(self.intermediate_size);
        let parameters =
            wide(self.hidden_size) * (wide(self.layers) * rows + 2 * wide(self.vocab_size));
        if parameters > Self::MAX_PARAMETERS {
            let most = Self::MAX_PARAMETERS;
            return Err(DimensionError::TooManyParameters { parameters, most });
        }
        Ok(())
    }

    /// Whether q, k and v have biases.
    pub fn qkv_bias(&self) -> bool {
        self.architecture == Architecture::Qwen2
    }

    /// Whether each head of q and k goes through an RMSNorm of its own.
    pub fn qk_norm(&self) -> bool {
        self.architecture == Architecture::Qwen3
    }

    /// Rows of the Q projection: `heads * head_dim`.
    pub fn q_size(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Rows of the K and of the V projection: `kv_heads * head_dim`.
    pub fn kv_size(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Query heads that share one key/value head.
    pub fn group_size(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Elements of the matrices of one decoder layer, norms and biases left out.
    pub fn layer_matrix_elements(&self) -> usize {
        let attention = (2 * self.q_size() + 2 * self.kv_size()) * self.hidden_size;
        attention + 3 * self.intermediate_size * self.hidden_size
    }

    /// Number of parameters, as the checkpoint stores them (a tied head counts once).
    pub fn parameters(&self) -> usize {
        let embeddings = if self.tied_embeddings { 1 } else { 2 };
        let mut layer = self.layer_matrix_elements() + 2 * self.hidden_size;
        if self.qkv_bias() {
            layer += self.q_size() + 2 * self.kv_size();
        }
        if self.qk_norm() {
            layer += 2 * self.head_dim;
        }
        embeddings * self.vocab_size * self.hidden_size + self.layers * layer + self.hidden_size
    }

    /// Bytes of bf16 weights one decode step must read: every layer's matrices and the LM head.
    pub fn weight_bytes_per_token(&self) -> usize {
        2 * (self.layers * self.layer_matrix_elements() + self.vocab_size * self.hidden_size)
    }

    /// Bytes of the bf16 KV cache of one position, all layers together.
    pub fn kv_bytes_per_position(&self) -> usize {
        2 * 2 * self.kv_size() * self.layers
    }

    /// Bytes that one decode step at `position` must read: weights and the past keys and values.
    pub fn bytes_per_token(&self, position: usize) -> usize {
        self.weight_bytes_per_token() + position * self.kv_bytes_per_position()
    }
}
