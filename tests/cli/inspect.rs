//! `onegrid inspect`.

use super::*;

#[test]
fn a_shape_is_told_with_its_bytes() {
    let args = [
        "inspect",
        "--model",
        "random:qwen3-0.6b",
        "--no-floor",
        "--format",
        "json",
    ];
    let inspection = json_of(onegrid(&args));
    assert_eq!(inspection["architecture"], "Qwen3");
    assert_eq!(inspection["bytes"]["weights_per_token"], 1_191_968_768);
    assert_eq!(inspection["bytes"]["kv_per_position"], 114_688);
    assert!(inspection["floor"].is_null());
    assert!(inspection["tokenizer_tokens"].is_null());
}

#[test]
fn a_lent_tokenizer_is_told() {
    let inspection = json_of(on_tiny("inspect", &["--no-floor", "--format", "json"]));
    assert_eq!(inspection["tokenizer_tokens"], inspection["vocab_size"]);
}

#[test]
fn a_checkpoint_without_a_tokenizer_has_none() {
    let folder = copy_of("qwen2-tied-bf16");
    let path = folder.path().to_str().unwrap();
    let args = ["inspect", "--model", path, "--no-floor", "--format", "json"];
    let inspection = json_of(onegrid(&args));
    assert_eq!(inspection["architecture"], "Qwen2");
    assert_eq!(inspection["dtype"], "bfloat16");
    assert!(inspection["tokenizer_tokens"].is_null());
}

#[test]
fn the_floor_is_measured() {
    let args = [
        "inspect",
        "--model",
        "random:tiny",
        "--threads",
        "2",
        "--format",
        "json",
    ];
    let floor = &json_of(onegrid(&args))["floor"];
    assert_eq!(floor["threads"], 2);
    let read = floor["read_bandwidth_bytes_per_second"]["median"]
        .as_f64()
        .unwrap();
    let first = &floor["positions"][0];
    let bytes = first["bytes_per_token"].as_f64().unwrap();
    let speed = first["tokens_per_second"].as_f64().unwrap();
    assert!((speed - read / bytes).abs() < 1e-6 * speed);
}

#[test]
fn a_missing_model_is_named() {
    let missing = onegrid(&["inspect", "--model", "/no/such/folder"]);
    assert_says(&error(missing, 1), &["/no/such/folder"]);
}
