//! Qwen3's tokenizer, unpacked from the fixtures.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use onegrid::model::files::Files;
use onegrid::model::tokenizer::Tokenizer;
use onegrid::report::pending_file::PendingFile;

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

/// An ordinary folder with the tokenizer, its configuration and its chat template, for programs
/// that take a path.
#[allow(dead_code, reason = "not every test file uses it")]
pub fn unpacked() -> PathBuf {
    static UNPACKED: LazyLock<PathBuf> = LazyLock::new(|| {
        let unpacked = Path::new(env!("CARGO_TARGET_TMPDIR")).join("qwen3");
        std::fs::create_dir_all(&unpacked).unwrap();
        // Each file appears whole: other test programs may read it now.
        let write = |name: &str, bytes: &[u8]| {
            let mut file = PendingFile::create(&unpacked.join(name)).unwrap();
            file.write_all(bytes).unwrap();
            file.commit().unwrap();
        };
        write("tokenizer.json", &tokenizer_json());
        for name in ["tokenizer_config.json", "chat_template.jinja"] {
            write(name, &std::fs::read(folder().join(name)).unwrap());
        }
        unpacked
    });
    UNPACKED.clone()
}

/// The tokenizer itself.
#[allow(dead_code, reason = "not every test file uses it")]
pub fn tokenizer() -> Tokenizer {
    Tokenizer::from_json(&tokenizer_json(), "tokenizer.json").unwrap()
}
