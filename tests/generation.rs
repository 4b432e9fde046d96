//! Sampling defaults and stop tokens of checkpoints.

mod qwen3;

use std::path::Path;
use std::sync::LazyLock;

use onegrid::model::files::Files;
use onegrid::model::generation::GenerationDefaults;
use onegrid::model::tokenizer::Tokenizer;
use serde_json::{Value, json};

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(qwen3::tokenizer);

/// The defaults of a folder with these files.
fn defaults(files: &[(&str, Value)]) -> Result<GenerationDefaults, String> {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content.to_string()).unwrap();
    }
    let files = Files::folder(folder.path()).unwrap();
    GenerationDefaults::from_files(&files, Some(&TOKENIZER)).map_err(|error| error.to_string())
}

#[test]
fn a_checkpoints_file_is_read() {
    let checkpoint = "tests/fixtures/checkpoints/qwen2-tied-bf16";
    let files = Files::folder(Path::new(env!("CARGO_MANIFEST_DIR")).join(checkpoint)).unwrap();
    let expected = GenerationDefaults {
        stop_tokens: vec![2, 1],
        sample: true,
        temperature: 0.7,
        top_k: 20,
        top_p: 0.8,
        min_p: 0.0,
        repetition_penalty: 1.1,
    };
    assert_eq!(
        GenerationDefaults::from_files(&files, None).unwrap(),
        expected
    );
}

#[test]
fn without_a_file_it_is_greedy() {
    assert_eq!(defaults(&[]).unwrap(), GenerationDefaults::default());
    assert!(!GenerationDefaults::default().sample);
}

#[test]
fn what_the_file_leaves_out_is_as_in_transformers() {
    let defaults = defaults(&[("generation_config.json", json!({"do_sample": true}))]).unwrap();
    let expected = GenerationDefaults {
        sample: true,
        temperature: 1.0,
        top_k: 50,
        ..GenerationDefaults::default()
    };
    assert_eq!(defaults, expected);
}

#[test]
fn a_temperature_of_zero_is_greedy() {
    let config = json!({"do_sample": true, "temperature": 0.0});
    assert!(
        !defaults(&[("generation_config.json", config)])
            .unwrap()
            .sample
    );
}

#[test]
fn stop_tokens_come_from_the_first_file_that_names_them() {
    let one = ("generation_config.json", json!({"eos_token_id": 7}));
    let null = ("generation_config.json", json!({"eos_token_id": null}));
    let config = (
        "config.json",
        json!({"eos_token_id": [8, 9], "vocab_size": 100}),
    );
    let name = (
        "tokenizer_config.json",
        json!({"eos_token": {"content": "<|im_end|>"}}),
    );
    let stop_tokens = |files: &[_]| defaults(files).unwrap().stop_tokens;
    assert_eq!(stop_tokens(&[one, config.clone(), name.clone()]), [7]);
    assert_eq!(stop_tokens(&[null, config.clone(), name.clone()]), [8, 9]);
    assert_eq!(stop_tokens(&[config, name.clone()]), [8, 9]);
    assert_eq!(stop_tokens(&[name]), [151_645]);
    let unknown = (
        "tokenizer_config.json",
        json!({"eos_token": "no such token"}),
    );
    assert!(stop_tokens(&[unknown]).is_empty());
}

#[test]
fn a_malformed_file_is_named() {
    for config in [
        json!([]),
        json!({"top_k": "many"}),
        json!({"eos_token_id": -1}),
    ] {
        let error = defaults(&[("generation_config.json", config)]).unwrap_err();
        assert!(error.contains("generation_config.json: "), "{error}");
    }
}
