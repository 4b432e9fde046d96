//! Small tokenizers of both styles, for tests.

use serde_json::json;

use crate::model::Files;
use crate::model::tokenizer::Tokenizer;

/// The demo model's tokenizer.
pub fn demo() -> Tokenizer {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo");
    Tokenizer::from_files(&Files::folder(folder).unwrap()).unwrap()
}

/// Byte-level BPE: 256 bytes, the texts of `longer` by merging from the left, and the special
/// token `<end>` as the last one.
pub fn byte_level(longer: &[&str]) -> Tokenizer {
    let character = |byte: u8| -> char {
        let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        if printable(byte) {
            return char::from(byte);
        }
        let rank = (0..byte).filter(|&before| !printable(before)).count();
        char::from_u32(0x100 + rank as u32).unwrap()
    };
    let mut vocab = serde_json::Map::new();
    let mut merges = Vec::new();
    let add = |vocab: &mut serde_json::Map<_, _>, token: String| {
        let id = vocab.len();
        vocab.entry(token).or_insert(json!(id));
    };
    for byte in 0..=u8::MAX {
        add(&mut vocab, character(byte).to_string());
    }
    for text in longer {
        let spelled: Vec<char> = text.bytes().map(character).collect();
        for length in 2..=spelled.len() {
            let left: String = spelled[..length - 1].iter().collect();
            let right = spelled[length - 1].to_string();
            let whole = format!("{left}{right}");
            if !vocab.contains_key(&whole) {
                add(&mut vocab, whole);
                merges.push(json!([left, right]));
            }
        }
    }
    let split = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        "use_regex": false});
    tokenizer(json!({
        "version": "1.0", "normalizer": null, "pre_tokenizer": split, "post_processor": null,
        "decoder": split, "added_tokens": [special("<end>", vocab.len())],
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    }))
}

/// Byte-level BPE of these printable texts and nothing else.
pub fn only(texts: &[&str]) -> Tokenizer {
    let vocab: serde_json::Map<_, _> = (texts.iter().enumerate())
        .map(|(id, &text)| (text.to_owned(), json!(id)))
        .collect();
    let split = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        "use_regex": false});
    tokenizer(json!({
        "version": "1.0", "normalizer": null, "pre_tokenizer": split, "post_processor": null,
        "decoder": split, "added_tokens": [special("<end>", texts.len())],
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }))
}

/// Llama 2's style: `<unk>`, `<s>`, `</s>`, 256 byte tokens, then `pieces`, in which U+2581 is a
/// space. A text gets a space in front.
pub fn sentence_piece(pieces: &[&str]) -> Tokenizer {
    let specials = ["<unk>", "<s>", "</s>"];
    let mut vocab = serde_json::Map::new();
    let bytes = (0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>"));
    let all = (specials.iter().map(|&special| special.to_owned()))
        .chain(bytes)
        .chain(pieces.iter().map(|&piece| piece.to_owned()));
    for token in all {
        let id = vocab.len();
        vocab.entry(token).or_insert(json!(id));
    }
    let mut merges = Vec::new();
    for piece in pieces {
        for (cut, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(cut);
            if vocab.contains_key(left) && vocab.contains_key(right) {
                merges.push(json!([left, right]));
            }
        }
    }
    let added: Vec<_> = (specials.iter().enumerate())
        .map(|(id, name)| special(name, id))
        .collect();
    tokenizer(json!({
        "version": "1.0", "added_tokens": added, "pre_tokenizer": null, "post_processor": null,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u{2581}"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges, "unk_token": "<unk>",
            "fuse_unk": true, "byte_fallback": true},
    }))
}

fn special(content: &str, id: usize) -> serde_json::Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true})
}

fn tokenizer(json: serde_json::Value) -> Tokenizer {
    Tokenizer::from_json(json.to_string().as_bytes(), "tokenizer.json").unwrap()
}
