//! Qwen3's tokenizer, unpacked from the fixtures.

use std::io::Read;
use std::path::{Path, PathBuf};

use onegrid::model::files::Files;
use onegrid::model::tokenizer::Tokenizer;

/// The folder with the compressed `tokenizer.json` and the files beside it.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/qwen3")
}

/// `tokenizer_config.json` and `chat_template.jinja`.
#[allow(dead_code, reason = "not every test file uses it")]
pub fn files() -> Files {
    Files::folder(folder()).unwrap()
}

/// The bytes of `tokenizer.json`.
pub fn tokenizer_json() -> Vec<u8> {
    let packed = std::fs::File::open(folder().join("tokenizer.json.gz")).unwrap();
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(packed)
        .read_to_end(&mut bytes)
        .unwrap();
    bytes
}

/// The tokenizer itself.
#[allow(dead_code, reason = "not every test file uses it")]
pub fn tokenizer() -> Tokenizer {
    Tokenizer::from_json(&tokenizer_json(), "tokenizer.json").unwrap()
}
