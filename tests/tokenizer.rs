//! The tokenizer against transformers (`tests/fixtures/make_tokenize.py`), and streamed text.

mod qwen3;

use std::path::Path;
use std::sync::LazyLock;

use onegrid::model::tokenizer::{SpecialTokens, Tokenizer, TokenizerError};
use proptest::prelude::*;
use serde::Deserialize;

/// Rows of Qwen3's embedding; its tokenizer has 151,669 tokens.
const PADDED: usize = 151_936;

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| qwen3::tokenizer().padded_to(PADDED));

#[derive(Deserialize)]
struct Case {
    text: String,
    tokens: Vec<u32>,
    decoded: String,
}

fn cases() -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenize.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The text of `tokens`, streamed; every part but the last must be whole.
fn streamed(tokens: &[u32], special_tokens: SpecialTokens) -> String {
    let mut stream = TOKENIZER.stream(special_tokens);
    let mut text = String::new();
    for &token in tokens {
        text += &stream.push(token).unwrap();
    }
    text + &stream.finish().unwrap()
}

#[test]
fn texts_have_the_tokens_of_transformers() {
    for case in cases() {
        let tokens = TOKENIZER.encode(&case.text, true).unwrap();
        assert_eq!(tokens, case.tokens, "{:?}", case.text);
    }
}

#[test]
fn tokens_have_the_text_of_transformers() {
    for case in cases() {
        let decoded = TOKENIZER.decode(&case.tokens, SpecialTokens::Keep).unwrap();
        assert_eq!(decoded, case.decoded);
        assert_eq!(streamed(&case.tokens, SpecialTokens::Keep), case.decoded);
        assert_eq!(
            TOKENIZER.pieces(&case.tokens).unwrap().concat(),
            case.decoded
        );
    }
}

#[test]
fn special_tokens_are_found_by_name_and_left_out_of_answers() {
    let end = TOKENIZER.token_id("<|im_end|>").unwrap();
    assert_eq!(end, 151_645);
    assert_eq!(TOKENIZER.token_id("no such token"), None);
    let tokens = TOKENIZER
        .encode("<think>a</think>b<|im_end|>", false)
        .unwrap();
    assert_eq!(tokens.last(), Some(&end));
    let text = TOKENIZER.decode(&tokens, SpecialTokens::Skip).unwrap();
    assert_eq!(text, "<think>a</think>b");
    assert_eq!(streamed(&tokens, SpecialTokens::Skip), text);
}

#[test]
fn a_character_of_several_tokens_arrives_whole() {
    let tokens = TOKENIZER.encode("a🪿b", false).unwrap();
    assert!(
        tokens.len() > 3,
        "the goose takes several tokens: {tokens:?}"
    );
    let mut stream = TOKENIZER.stream(SpecialTokens::Keep);
    let parts: Vec<_> = tokens.iter().map(|&t| stream.push(t).unwrap()).collect();
    let spoken: Vec<_> = parts.iter().filter(|part| !part.is_empty()).collect();
    assert_eq!(spoken, ["a", "🪿", "b"]);
}

#[test]
fn half_a_character_at_the_end_shows_as_a_replacement() {
    let mut tokens = TOKENIZER.encode("a🪿", false).unwrap();
    tokens.pop();
    assert_eq!(streamed(&tokens, SpecialTokens::Keep), "a\u{fffd}");
}

#[test]
fn padding_decodes_to_nothing_and_beyond_is_an_error() {
    assert_eq!(TOKENIZER.own_size(), 151_669);
    assert_eq!(TOKENIZER.vocab_size(), PADDED);
    let tokens = [64, 151_669, 151_935, 65];
    assert_eq!(
        TOKENIZER.decode(&tokens, SpecialTokens::Keep).unwrap(),
        "ab"
    );
    assert_eq!(TOKENIZER.pieces(&tokens).unwrap(), ["a", "", "", "b"]);
    for token in [151_936, u32::MAX] {
        let error = TOKENIZER
            .decode(&[64, token], SpecialTokens::Keep)
            .unwrap_err();
        assert!(matches!(
            error,
            TokenizerError::OutOfRange {
                vocab_size: PADDED,
                ..
            }
        ));
        let error = error.to_string();
        assert!(error.contains("ids go from 0 to 151935"), "{error}");
    }
}

#[test]
fn errors_name_the_file_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let error = |path: &Path| Tokenizer::from_path(path).unwrap_err().to_string();
    let missing = error(folder.path());
    assert!(
        missing.contains("no tokenizer.json; get the checkpoint's own"),
        "{missing}"
    );
    let nothing = error(&folder.path().join("nothing.json"));
    assert!(
        nothing.contains("nothing.json: no such file or folder"),
        "{nothing}"
    );
    let file = folder.path().join("tokenizer.json");
    let whole = qwen3::tokenizer_json();
    for corrupt in [&b""[..], b"{}", b"[1, 2", &whole[..whole.len() / 2]] {
        std::fs::write(&file, corrupt).unwrap();
        for path in [folder.path(), &file] {
            let corrupt = error(path);
            assert!(
                corrupt.contains("tokenizer.json: not a tokenizer"),
                "{corrupt}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn streamed_text_is_the_text_whatever_the_tokens(
        // Half of them from the first 256, the single bytes.
        tokens in prop::collection::vec(prop_oneof![0..256u32, 0..PADDED as u32], 0..80)
    ) {
        for special_tokens in [SpecialTokens::Keep, SpecialTokens::Skip] {
            let whole = TOKENIZER.decode(&tokens, special_tokens).unwrap();
            prop_assert_eq!(streamed(&tokens, special_tokens), whole);
        }
    }

    #[test]
    fn text_survives_the_round_trip(text in any::<String>()) {
        // Qwen's normalizer composes characters (NFC), so the text is taken as it comes back once.
        let tokens = TOKENIZER.encode(&text, false).unwrap();
        let normal = TOKENIZER.decode(&tokens, SpecialTokens::Keep).unwrap();
        let again = TOKENIZER.encode(&normal, false).unwrap();
        prop_assert_eq!(TOKENIZER.decode(&again, SpecialTokens::Keep).unwrap(), normal);
    }
}
