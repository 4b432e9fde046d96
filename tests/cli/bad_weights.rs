//! Weights that hold NaN.

use super::*;

/// The bf16 NaN that hardware makes, little-endian.
const NAN: [u8; 2] = [0xc0, 0x7f];

/// A copy of a small checkpoint with NaN in row `row` of `tensor`. Its head is not tied, or NaN in
/// the embedding would show in every token's logits.
fn with_nan(tensor: &str, row: usize) -> tempfile::TempDir {
    let folder = copy_of("llama3-scaled-untied-bf16");
    let path = folder.path().join("model.safetensors");
    let mut file = std::fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let view = tensors.tensor(tensor).unwrap();
    let row_bytes = view.shape()[1] * NAN.len();
    let start = view.data().as_ptr().addr() - file.as_ptr().addr() + row * row_bytes;
    file[start..start + NAN.len()].copy_from_slice(&NAN);
    std::fs::write(&path, file).unwrap();
    folder
}

#[test]
fn the_layer_and_the_position_are_named_and_no_text_is_written() {
    let cases = [
        (
            "model.embed_tokens.weight",
            7,
            "the embedding at position 2",
        ),
        (
            "model.layers.0.self_attn.v_proj.weight",
            3,
            "layer 0 (attention) at position 0",
        ),
        (
            "model.layers.0.mlp.down_proj.weight",
            11,
            "layer 0 (MLP) at position 0",
        ),
        // Behind the last layer an engine may look at the last position alone.
        (
            "model.layers.1.mlp.down_proj.weight",
            11,
            "layer 1 (MLP) at position",
        ),
    ];
    for (tensor, row, place) in cases {
        let folder = with_nan(tensor, row);
        let model = folder.path().to_str().unwrap();
        for device in ["cpu", "reference"] {
            let output = folder.path().join("result.json");
            let args = ["--model", model, "--device", device];
            let generate = ["generate", "--prompt-tokens", "5,6,7"];
            let refused = error(onegrid(&[&generate[..], &args].concat()), 1);
            assert_says(&refused, &["NaN or infinity in", place]);
            let output_args = ["logits", "--tokens", "5,6,7", "--output"];
            let output_args = [&output_args[..], &[output.to_str().unwrap()]].concat();
            let refused = error(onegrid(&[&output_args[..], &args].concat()), 1);
            assert_says(&refused, &[place]);
            assert!(!output.exists());
        }
    }
}
