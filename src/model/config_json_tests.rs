use serde_json::{Value, json};

use super::*;

/// A config of each architecture as published, small.
fn qwen3() -> Value {
    json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": false,
        "head_dim": 64, "hidden_act": "silu", "hidden_size": 96, "intermediate_size": 128,
        "max_position_embeddings": 2048, "max_window_layers": 2, "num_attention_heads": 4,
        "num_hidden_layers": 2, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
        "rope_scaling": null, "rope_theta": 1000000, "sliding_window": null,
        "tie_word_embeddings": true, "torch_dtype": "bfloat16", "use_sliding_window": false,
        "vocab_size": 300
    })
}

fn llama() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
        "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 2,
        "vocab_size": 300, "pretraining_tp": 1, "mlp_bias": false
    })
}

fn llama3_scaling() -> Value {
    json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 256
    })
}

/// `base` with `changes` merged in; `null` stays a `null`.
fn with(mut base: Value, changes: Value) -> Value {
    for (key, value) in changes.as_object().unwrap() {
        base[key] = value.clone();
    }
    base
}

fn without(mut base: Value, field: &str) -> Value {
    base.as_object_mut().unwrap().remove(field);
    base
}

fn read(config: &Value) -> Result<ModelConfig, ConfigError> {
    parse(config.to_string().as_bytes())
}

fn refusal(config: &Value) -> String {
    read(config).expect_err(&config.to_string()).to_string()
}

#[test]
fn a_published_config_is_read() {
    let config = read(&qwen3()).unwrap();
    let expected = ModelConfig {
        architecture: Architecture::Qwen3,
        hidden_size: 96,
        intermediate_size: 128,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 64,
        vocab_size: 300,
        max_positions: 2048,
        rms_norm_eps: 1e-6,
        rope: Rope {
            theta: 1e6,
            scaling: None,
        },
        tied_embeddings: true,
    };
    assert_eq!(config, expected);
}

#[test]
fn both_spellings_of_rope_mean_the_same() {
    let expected = Rope {
        theta: 5e5,
        scaling: Some(Llama3Scaling {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_positions: 256,
        }),
    };
    let older = with(
        llama(),
        json!({"rope_theta": 5e5, "rope_scaling": llama3_scaling()}),
    );
    let mut typed = llama3_scaling();
    typed["type"] = typed.as_object_mut().unwrap().remove("rope_type").unwrap();
    let oldest = with(llama(), json!({"rope_theta": 5e5, "rope_scaling": typed}));
    let parameters = with(llama3_scaling(), json!({"rope_theta": 5e5}));
    let newer = with(llama(), json!({"rope_parameters": parameters}));
    for config in [older, oldest, newer] {
        assert_eq!(read(&config).unwrap().rope, expected, "{config}");
    }
    let plain = json!({"rope_type": "default", "rope_theta": 7e5});
    let plain = read(&with(llama(), json!({"rope_parameters": plain})))
        .unwrap()
        .rope;
    assert_eq!((plain.theta, plain.scaling), (7e5, None));
}

/// The values are those of the transformers 5.23 classes of the same fields.
#[test]
fn absent_fields_get_the_defaults_of_transformers() {
    let llama = read(&llama()).unwrap();
    assert_eq!(
        (llama.kv_heads, llama.head_dim, llama.max_positions),
        (4, 16, 2048)
    );
    assert_eq!((llama.rope.theta, llama.rms_norm_eps), (10_000.0, 1e-6));
    assert!(!llama.tied_embeddings);

    let qwen = with(qwen3(), json!({"num_attention_heads": 64}));
    let qwen = without(
        without(without(qwen, "head_dim"), "num_key_value_heads"),
        "max_position_embeddings",
    );
    let config = read(&qwen).unwrap();
    assert_eq!(
        (config.kv_heads, config.head_dim, config.max_positions),
        (32, 128, 32768)
    );
    let config = read(&with(qwen, json!({"num_key_value_heads": null}))).unwrap();
    assert_eq!(config.kv_heads, 64, "null means as many as query heads");

    let qwen2 = json!({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "sliding_window": 1024});
    let qwen2 = read(&without(with(qwen3(), qwen2), "head_dim")).unwrap();
    assert_eq!(qwen2.head_dim, 24);

    let scaling = with(
        llama3_scaling(),
        json!({"original_max_position_embeddings": null}),
    );
    let scaled = with(
        self::llama(),
        json!({"rope_scaling": scaling, "max_position_embeddings": 4096}),
    );
    assert_eq!(
        read(&scaled)
            .unwrap()
            .rope
            .scaling
            .unwrap()
            .original_max_positions,
        4096
    );
}

#[test]
fn the_architecture_may_be_named_by_model_type_alone() {
    assert_eq!(
        read(&without(qwen3(), "architectures"))
            .unwrap()
            .architecture,
        Architecture::Qwen3
    );
    let neither = without(without(qwen3(), "architectures"), "model_type");
    assert!(refusal(&neither).contains("'architectures' is missing"));
}

#[test]
fn what_is_not_computed_is_refused_by_name() {
    let refused = [
        (
            qwen3(),
            json!({"architectures": ["MistralForCausalLM"]}),
            "MistralForCausalLM",
        ),
        (
            qwen3(),
            json!({"architectures": ["Qwen3MoeForCausalLM"]}),
            "Qwen3MoeForCausalLM",
        ),
        (
            qwen3(),
            json!({"model_type": "mistral"}),
            "model_type = \"mistral\"",
        ),
        (qwen3(), json!({"num_experts": 8}), "num_experts = 8"),
        (
            qwen3(),
            json!({"use_sliding_window": true}),
            "use_sliding_window = true",
        ),
        (
            qwen3(),
            json!({"layer_types": ["full_attention", "sliding_attention"]}),
            "layer_types = \"sliding_attention\"",
        ),
        (qwen3(), json!({"layer_types": "full"}), "layer_types"),
        (
            qwen3(),
            json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}),
            "\"yarn\"",
        ),
        (
            qwen3(),
            json!({"rope_scaling": {"type": "linear", "factor": 4.0}}),
            "\"linear\"",
        ),
        (
            qwen3(),
            json!({"rope_scaling": {"type": "dynamic", "factor": 4.0}}),
            "\"dynamic\"",
        ),
        (
            qwen3(),
            json!({"rope_parameters": {"rope_type": "longrope"}}),
            "\"longrope\"",
        ),
        (
            qwen3(),
            json!({"rope_parameters": {"rope_type": 7}}),
            "rope_type = 7",
        ),
        (
            qwen3(),
            json!({"rope_parameters": {"full_attention": {"rope_type": "default"}}}),
            "rope_parameters.full_attention",
        ),
        (
            qwen3(),
            json!({"partial_rotary_factor": 0.5}),
            "partial_rotary_factor = 0.5",
        ),
        (
            qwen3(),
            json!({"hidden_act": "gelu"}),
            "hidden_act = \"gelu\"",
        ),
        (
            qwen3(),
            json!({"attention_bias": true}),
            "attention_bias = true",
        ),
        (
            llama(),
            json!({"attention_bias": true}),
            "attention_bias = true",
        ),
        (llama(), json!({"mlp_bias": true}), "mlp_bias = true"),
        (llama(), json!({"pretraining_tp": 2}), "pretraining_tp = 2"),
        (
            qwen3(),
            json!({"quantization_config": {"quant_method": "fp8"}}),
            "quantization_config",
        ),
    ];
    for (base, change, named) in refused {
        let message = refusal(&with(base, change));
        assert!(message.contains(named), "{named}: {message}");
        assert!(message.contains("supported:"), "{message}");
    }
}

#[test]
fn dimensions_that_can_be_no_models_are_refused() {
    let refused = [
        (json!({"hidden_size": 0}), "'hidden_size' is 0"),
        (json!({"hidden_size": -4}), "'hidden_size' is -4"),
        (json!({"hidden_size": 1.5}), "'hidden_size' is 1.5"),
        (json!({"hidden_size": "64"}), "'hidden_size' is \"64\""),
        (
            json!({"hidden_size": 18_446_744_073_709_551_615_u64}),
            "'hidden_size'",
        ),
        (json!({"hidden_size": null}), "'hidden_size' is missing"),
        (
            json!({"vocab_size": 16_777_217}),
            "'vocab_size' is 16777217",
        ),
        (
            json!({"num_hidden_layers": 4097}),
            "'num_hidden_layers' is 4097",
        ),
        (
            json!({"num_attention_heads": 3}),
            "3) is no multiple of 'num_key_value_heads' (2)",
        ),
        (json!({"head_dim": 63}), "'head_dim' is 63"),
        (
            json!({"hidden_size": 16_777_216, "vocab_size": 16_777_216}),
            "parameters",
        ),
        (
            json!({"num_attention_heads": 16_777_216, "head_dim": 16_777_216}),
            "parameters",
        ),
        (json!({"rms_norm_eps": -1e-6}), "'rms_norm_eps' is -"),
        (json!({"rms_norm_eps": "nan"}), "'rms_norm_eps'"),
        (json!({"rope_theta": 0}), "'rope_theta' is 0"),
        (json!({"rope_theta": -1e6}), "'rope_theta' is -"),
        (
            json!({"rope_scaling": "llama3"}),
            "'rope_scaling' is \"llama3\"",
        ),
        (
            json!({"rope_scaling": {"type": "llama3"}}),
            "'rope_scaling.low_freq_factor' is missing",
        ),
        (
            json!({"rope_scaling": with(llama3_scaling(), json!({"factor": 0}))}),
            "'rope_scaling.factor' is 0",
        ),
        (
            json!({"rope_scaling": with(llama3_scaling(), json!({"high_freq_factor": 1.0}))}),
            "expected more than low_freq_factor",
        ),
        (
            json!({"tie_word_embeddings": 1}),
            "'tie_word_embeddings' is 1",
        ),
    ];
    for (change, named) in refused {
        let message = refusal(&with(qwen3(), change));
        assert!(message.contains(named), "{named}: {message}");
        assert!(message.starts_with("config.json: "), "{message}");
    }
}

#[test]
fn what_is_no_json_object_is_refused() {
    for text in [
        "",
        "{",
        "[]",
        "null",
        "\"a\"",
        "{\"rms_norm_eps\": NaN}",
        "{\"a\": 1e999}",
        "\u{1}",
    ] {
        let error = parse(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("not a JSON object"), "{text:?}: {error}");
    }
    assert!(parse(&[0xff, 0xfe]).is_err());
    assert!(parse("[".repeat(100_000).as_bytes()).is_err());
}

#[test]
fn what_is_written_is_read_back() {
    let scaled = with(
        llama(),
        json!({"rope_theta": 5e5, "rope_scaling": llama3_scaling()}),
    );
    for config in [qwen3(), llama(), scaled] {
        let config = read(&config).unwrap();
        assert_eq!(read(&to_json(&config, "bfloat16")).unwrap(), config);
    }
}

/// The files of `tests/fixtures/config_spellings` say the same as the checkpoint they are named
/// after.
#[test]
fn every_spelling_of_a_checkpoints_config_means_the_same() {
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let parsed = |path: &std::path::Path| parse(&std::fs::read(path).unwrap()).unwrap();
    let mut seen = 0;
    for spelling in std::fs::read_dir(fixtures.join("config_spellings")).unwrap() {
        let path = spelling.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let (checkpoint, _) = name.split_once('.').unwrap();
        let original = fixtures
            .join("checkpoints")
            .join(checkpoint)
            .join("config.json");
        assert_eq!(parsed(&path), parsed(&original), "{name}");
        seen += 1;
    }
    assert!(seen >= 3, "{seen} spellings");
}
