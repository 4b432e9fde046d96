//! `config.json`: from a file to a [`ModelConfig`], and back.
//!
//! Both spellings are read: the older one (`rope_theta`, `rope_scaling`) and that of transformers 5
//! (`rope_parameters`). Absent fields get the values that transformers 5.23 gives them
//! (`Qwen3Config`, `Qwen2Config`, `LlamaConfig`), save the five dimensions that every published
//! config states: those are demanded. A feature that the engines don't compute is refused by name;
//! fields that only matter to training or to Python are passed over.

use serde_json::{Map, Value, json};

use super::config::{Architecture, DimensionError, Llama3Scaling, ModelConfig, Rope};

/// What is wrong with a `config.json`.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// No JSON object at all.
    #[error("config.json: not a JSON object: {reason}")]
    NotJson {
        /// What the parser says.
        reason: String,
    },
    /// A field without which there is no model.
    #[error("config.json: '{field}' is missing; expected {expected}")]
    Missing {
        /// The field.
        field: String,
        /// What it must hold.
        expected: &'static str,
    },
    /// A field of another type or outside its range.
    #[error("config.json: '{field}' is {found}; expected {expected}")]
    Invalid {
        /// The field.
        field: String,
        /// Its value.
        found: String,
        /// What it must hold.
        expected: String,
    },
    /// Something that exists in models, but not in these engines.
    #[error("config.json: {field} = {found} is not supported; supported: {supported}")]
    Unsupported {
        /// The field.
        field: String,
        /// Its value.
        found: String,
        /// What could stand there instead.
        supported: String,
    },
    /// Dimensions that don't fit together.
    #[error("config.json: {0}")]
    Dimensions(#[from] DimensionError),
}

/// The names of the supported architectures, in `architectures` and in `model_type`.
const ARCHITECTURES: [(Architecture, &str, &str); 3] = [
    (Architecture::Qwen3, "Qwen3ForCausalLM", "qwen3"),
    (Architecture::Qwen2, "Qwen2ForCausalLM", "qwen2"),
    (Architecture::Llama, "LlamaForCausalLM", "llama"),
];

/// What transformers takes for an architecture where `config.json` says nothing.
struct Defaults {
    head_dim: Option<usize>,
    kv_heads: Option<usize>,
    max_positions: usize,
}

impl Defaults {
    fn of(architecture: Architecture) -> Self {
        match architecture {
            Architecture::Qwen3 => Defaults {
                head_dim: Some(128),
                kv_heads: Some(32),
                max_positions: 32768,
            },
            Architecture::Qwen2 => Defaults {
                head_dim: None,
                kv_heads: Some(32),
                max_positions: 32768,
            },
            Architecture::Llama => Defaults {
                head_dim: None,
                kv_heads: None,
                max_positions: 2048,
            },
        }
    }
}

/// `rms_norm_eps` of all three families, unless `config.json` says otherwise.
const DEFAULT_RMS_NORM_EPS: f64 = 1e-6;
/// `rope_theta` of all three families, unless `config.json` says otherwise.
const DEFAULT_ROPE_THETA: f64 = 10_000.0;

/// Reads the bytes of a `config.json`.
///
/// # Errors
/// If it is no JSON object, lacks a field, or names a feature that no engine computes.
pub fn parse(json: &[u8]) -> Result<ModelConfig, ConfigError> {
    let fields: Map<String, Value> =
        serde_json::from_slice(json).map_err(|error| ConfigError::NotJson {
            reason: error.to_string(),
        })?;
    let fields = Fields {
        prefix: "",
        fields: &fields,
    };
    let architecture = architecture(fields)?;
    refuse_unsupported(fields, architecture)?;

    let defaults = Defaults::of(architecture);
    let hidden_size = fields.demanded_size("hidden_size")?;
    let heads = fields.demanded_size("num_attention_heads")?;
    let kv_heads = match (fields.present("num_key_value_heads"), defaults.kv_heads) {
        (true, _) | (false, None) => fields.size("num_key_value_heads")?.unwrap_or(heads),
        (false, Some(default)) => default,
    };
    let head_dim = match (fields.size("head_dim")?, defaults.head_dim) {
        (Some(stated), _) => stated,
        (None, Some(default)) => default,
        (None, None) if hidden_size % heads == 0 => hidden_size / heads,
        (None, None) => {
            return Err(ConfigError::Missing {
                field: "head_dim".into(),
                expected: "the width of a head, since hidden_size is no multiple of \
                           num_attention_heads",
            });
        }
    };
    let max_positions = fields.size("max_position_embeddings")?;
    let max_positions = max_positions.unwrap_or(defaults.max_positions);
    let eps = fields.number("rms_norm_eps", "a number of at least 0", |eps| eps >= 0.0)?;
    let config = ModelConfig {
        architecture,
        hidden_size,
        intermediate_size: fields.demanded_size("intermediate_size")?,
        layers: fields.demanded_size("num_hidden_layers")?,
        heads,
        kv_heads,
        head_dim,
        vocab_size: fields.demanded_size("vocab_size")?,
        max_positions,
        rms_norm_eps: eps.unwrap_or(DEFAULT_RMS_NORM_EPS),
        rope: rope(fields, max_positions)?,
        tied_embeddings: fields.flag("tie_word_embeddings")?,
    };
    config.check()?;
    Ok(config)
}

fn architecture(fields: Fields<'_>) -> Result<Architecture, ConfigError> {
    let supported = || {
        let names: Vec<&str> = ARCHITECTURES.iter().map(|(_, class, _)| *class).collect();
        names.join(", ")
    };
    let unsupported = |field: &str, value: &Value| ConfigError::Unsupported {
        field: field.into(),
        found: brief(value),
        supported: supported(),
    };
    let by_type = |value: &Value| {
        let found = ARCHITECTURES.iter().find(|(.., kind)| value == kind);
        found.ok_or_else(|| unsupported("model_type", value))
    };
    let model_type = fields.get("model_type");
    let Some(classes) = fields.get("architectures") else {
        let Some(model_type) = model_type else {
            return Err(ConfigError::Missing {
                field: "architectures".into(),
                expected: "[\"Qwen3ForCausalLM\"], [\"Qwen2ForCausalLM\"] or [\"LlamaForCausalLM\"]",
            });
        };
        return by_type(model_type).map(|(architecture, ..)| *architecture);
    };
    let named = classes.as_array().and_then(|classes| {
        let is_named = |class: &str| classes.iter().any(|value| value == class);
        ARCHITECTURES.iter().find(|(_, class, _)| is_named(class))
    });
    let (architecture, _, kind) = named.ok_or_else(|| unsupported("architectures", classes))?;
    match model_type {
        Some(model_type) if model_type != kind => Err(ConfigError::Unsupported {
            field: "model_type".into(),
            found: brief(model_type),
            supported: format!("\"{kind}\" with these architectures"),
        }),
        _ => Ok(*architecture),
    }
}

/// Refuses what would change the numbers and is not computed.
fn refuse_unsupported(fields: Fields<'_>, architecture: Architecture) -> Result<(), ConfigError> {
    let unsupported = |field: &str, value: &Value, supported: &str| {
        Err(ConfigError::Unsupported {
            field: field.into(),
            found: brief(value),
            supported: supported.into(),
        })
    };
    if let Some(activation) = fields.get("hidden_act")
        && activation != "silu"
    {
        return unsupported("hidden_act", activation, "\"silu\"");
    }
    for field in ["quantization_config", "compression_config"] {
        if let Some(quantization) = fields.get(field) {
            let supported = "weights in bf16, f16 or f32, without this field";
            return unsupported(field, quantization, supported);
        }
    }
    for field in ["num_experts", "num_local_experts"] {
        if let Some(experts) = fields.get(field)
            && experts != 0
        {
            return unsupported(field, experts, "dense models only");
        }
    }
    if architecture != Architecture::Qwen2 && fields.flag("attention_bias")? {
        let supported = "false (biases on q, k and v come with Qwen2ForCausalLM)";
        return unsupported("attention_bias", &Value::Bool(true), supported);
    }
    if architecture == Architecture::Llama {
        if fields.flag("mlp_bias")? {
            return unsupported("mlp_bias", &Value::Bool(true), "false");
        }
        if let Some(parts) = fields.get("pretraining_tp")
            && parts != 1
        {
            return unsupported("pretraining_tp", parts, "1");
        }
    } else if fields.flag("use_sliding_window")? {
        let supported = "false (every layer attends to all positions)";
        return unsupported("use_sliding_window", &Value::Bool(true), supported);
    }
    if let Some(types) = fields.get("layer_types") {
        let others =
            |types: &Vec<Value>| types.iter().find(|kind| *kind != "full_attention").cloned();
        match types.as_array().map(others) {
            Some(None) => {}
            Some(Some(other)) => {
                return unsupported("layer_types", &other, "\"full_attention\" for every layer");
            }
            None => return unsupported("layer_types", types, "a list of \"full_attention\""),
        }
    }
    Ok(())
}

/// The position embedding. transformers prefers `rope_scaling` to `rope_parameters`, and
/// `rope_theta` inside them to the one beside them.
fn rope(fields: Fields<'_>, max_positions: usize) -> Result<Rope, ConfigError> {
    let (name, parameters) = match fields.object("rope_scaling", "rope_scaling.")? {
        Some(scaling) if !scaling.fields.is_empty() => ("rope_scaling", Some(scaling)),
        _ => (
            "rope_parameters",
            fields.object("rope_parameters", "rope_parameters.")?,
        ),
    };
    let at_least_one = |fields: Fields<'_>| {
        fields.number("rope_theta", "a number of at least 1", |theta| theta >= 1.0)
    };
    let outer_theta = at_least_one(fields)?;
    let outer_partial = fields.get("partial_rotary_factor");
    let empty = Map::new();
    let parameters = parameters.unwrap_or(Fields {
        prefix: "rope_parameters.",
        fields: &empty,
    });
    if let Some((key, value)) = parameters
        .fields
        .iter()
        .find(|(_, value)| value.is_object())
    {
        return Err(ConfigError::Unsupported {
            field: format!("{name}.{key}"),
            found: brief(value),
            supported: "one set of parameters for all layers".into(),
        });
    }
    let partial = parameters.get("partial_rotary_factor").or(outer_partial);
    if let Some(partial) = partial
        && partial.as_f64() != Some(1.0)
    {
        return Err(ConfigError::Unsupported {
            field: "partial_rotary_factor".into(),
            found: brief(partial),
            supported: "1.0 (all of a head is rotated)".into(),
        });
    }
    let theta = at_least_one(parameters)?.or(outer_theta);
    let kind = parameters.get("rope_type").or(parameters.get("type"));
    let scaling = match kind.map(|kind| kind.as_str()) {
        None | Some(Some("default")) => None,
        Some(Some("llama3")) => Some(llama3(fields, parameters, max_positions)?),
        Some(_) => {
            return Err(ConfigError::Unsupported {
                field: format!("{name}.rope_type"),
                found: brief(kind.expect("matched above")),
                supported: "\"default\", \"llama3\"".into(),
            });
        }
    };
    Ok(Rope {
        theta: theta.unwrap_or(DEFAULT_ROPE_THETA),
        scaling,
    })
}

fn llama3(
    outer: Fields<'_>,
    fields: Fields<'_>,
    max_positions: usize,
) -> Result<Llama3Scaling, ConfigError> {
    let demanded = |field: &'static str, number: Option<f64>| {
        number.ok_or_else(|| ConfigError::Missing {
            field: format!("{}{field}", fields.prefix),
            expected: "a number, since the rope type is llama3",
        })
    };
    let factor = |field| {
        let number = fields.number(field, "a number above 0", |number| number > 0.0)?;
        demanded(field, number)
    };
    let (low, high) = (factor("low_freq_factor")?, factor("high_freq_factor")?);
    if high <= low {
        return Err(ConfigError::Invalid {
            field: format!("{}high_freq_factor", fields.prefix),
            found: high.to_string(),
            expected: format!("more than low_freq_factor, which is {low}"),
        });
    }
    const ORIGINAL: &str = "original_max_position_embeddings";
    let original = match outer.size(ORIGINAL)? {
        Some(original) => Some(original),
        None => fields.size(ORIGINAL)?,
    };
    let divisor = fields.number("factor", "a number of at least 1", |factor| factor >= 1.0)?;
    Ok(Llama3Scaling {
        factor: demanded("factor", divisor)?,
        low_freq_factor: low,
        high_freq_factor: high,
        original_max_positions: original.unwrap_or(max_positions),
    })
}

/// An object of the file; `null` counts as absent, as in Python.
#[derive(Clone, Copy)]
struct Fields<'a> {
    /// Where the object is: "" or "rope_scaling.".
    prefix: &'static str,
    fields: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    fn get(&self, field: &str) -> Option<&'a Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    /// Whether the field is there at all, if only as `null`.
    fn present(&self, field: &str) -> bool {
        self.fields.contains_key(field)
    }

    fn invalid(&self, field: &str, value: &Value, expected: &str) -> ConfigError {
        ConfigError::Invalid {
            field: format!("{}{field}", self.prefix),
            found: brief(value),
            expected: expected.into(),
        }
    }

    fn size(&self, field: &str) -> Result<Option<usize>, ConfigError> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        let size = value
            .as_u64()
            .filter(|size| (1..=ModelConfig::MAX_DIMENSION as u64).contains(size));
        let size = size.ok_or_else(|| {
            let expected = format!("a whole number from 1 to {}", ModelConfig::MAX_DIMENSION);
            self.invalid(field, value, &expected)
        })?;
        Ok(Some(size as usize))
    }

    fn demanded_size(&self, field: &str) -> Result<usize, ConfigError> {
        self.size(field)?.ok_or_else(|| ConfigError::Missing {
            field: field.into(),
            expected: "a whole number",
        })
    }

    fn number(
        &self,
        field: &str,
        expected: &str,
        valid: impl Fn(f64) -> bool,
    ) -> Result<Option<f64>, ConfigError> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        let number = value
            .as_f64()
            .filter(|number| number.is_finite() && valid(*number));
        let number = number.ok_or_else(|| self.invalid(field, value, expected))?;
        Ok(Some(number))
    }

    fn flag(&self, field: &str) -> Result<bool, ConfigError> {
        let Some(value) = self.get(field) else {
            return Ok(false);
        };
        value
            .as_bool()
            .ok_or_else(|| self.invalid(field, value, "true or false"))
    }

    fn object(&self, field: &str, prefix: &'static str) -> Result<Option<Fields<'a>>, ConfigError> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        let fields = value.as_object();
        let fields = fields.ok_or_else(|| self.invalid(field, value, "an object or null"))?;
        Ok(Some(Fields { prefix, fields }))
    }
}

/// A value for a message: as JSON, cut where it gets long.
fn brief(value: &Value) -> String {
    const LONGEST: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// The `config.json` of `config`, spelled as transformers 5 does. `dtype` is the weights': `bfloat16`.
pub fn to_json(config: &ModelConfig, dtype: &str) -> Value {
    let found = ARCHITECTURES
        .iter()
        .find(|(known, ..)| *known == config.architecture);
    let (_, class, model_type) = found.expect("the table lists every architecture");
    let mut rope = json!({"rope_type": "default", "rope_theta": config.rope.theta});
    if let Some(scaling) = config.rope.scaling {
        rope = json!({
            "rope_type": "llama3",
            "rope_theta": config.rope.theta,
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_positions,
        });
    }
    json!({
        "architectures": [class],
        "model_type": model_type,
        "dtype": dtype,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_parameters": rope,
        "tie_word_embeddings": config.tied_embeddings,
    })
}

#[cfg(test)]
#[path = "config_json_tests.rs"]
mod tests;
