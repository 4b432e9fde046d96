//! Any bytes as `model.safetensors`: an error, or the tensors that the configuration asks for.

#![no_main]

use libfuzzer_sys::fuzz_target;
use onegrid::model::checkpoint::{LoadOptions, Placement, Precision, from_bytes};

/// A model of so few numbers that a fuzzer can come upon a file of it.
const CONFIG: &[u8] = br#"{
    "architectures": ["LlamaForCausalLM"], "hidden_size": 2, "intermediate_size": 1,
    "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 2,
    "vocab_size": 1, "tie_word_embeddings": true
}"#;

fuzz_target!(|file: &[u8]| {
    for placement in [Placement::Auto, Placement::Mapped, Placement::HugePages] {
        for precision in [Precision::Stored, Precision::Bf16] {
            let options = LoadOptions { placement, precision };
            if let Ok(weights) = from_bytes(CONFIG, file.to_vec(), options) {
                assert_eq!(weights.layers.len(), 1);
                assert_eq!(weights.layers[0].q.rows(), 2);
                assert_eq!(weights.final_norm.len(), 2);
            }
        }
    }
});
