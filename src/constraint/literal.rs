//! The tokens of a literal, which are forced one after the other.

use super::error::ConstraintError;
use crate::model::TokenId;
use crate::model::token_bytes::TokenBytes;
use crate::model::tokenizer::Tokenizer;

/// A character that no SentencePiece vocabulary merges with what follows it.
const ANCHOR: &str = "\n";

/// The tokenizer's own tokens for `literal`, standing alone. Added tokens that are spelled out in
/// it are those tokens.
///
/// # Errors
/// If the tokens don't read as the literal: a character that the vocabulary lacks, or one that
/// the tokenizer's normalization replaces.
pub fn spell(
    tokenizer: &Tokenizer,
    bytes: &TokenBytes,
    literal: &str,
) -> Result<Vec<TokenId>, ConstraintError> {
    let tokens = tokenizer.encode(literal, false)?;
    let spelled = bytes.concat(&tokens);
    if spelled == literal.as_bytes() {
        return Ok(tokens);
    }
    match behind_anchor(tokenizer, bytes, literal)? {
        Some(tokens) => Ok(tokens),
        None => Err(lost(literal, &String::from_utf8_lossy(&spelled))),
    }
}

/// The tokens of `literal` in the middle of a text. Llama's tokenizer puts a space in front of
/// every text; behind another character, the literal has none.
fn behind_anchor(
    tokenizer: &Tokenizer,
    bytes: &TokenBytes,
    literal: &str,
) -> Result<Option<Vec<TokenId>>, ConstraintError> {
    let tokens = tokenizer.encode(&format!("{ANCHOR}{literal}"), false)?;
    Ok((1..tokens.len())
        .find(|&cut| bytes.concat(&tokens[..cut]).ends_with(ANCHOR.as_bytes()))
        .map(|cut| tokens[cut..].to_vec())
        .filter(|rest| bytes.concat(rest) == literal.as_bytes()))
}

fn lost(literal: &str, spelled: &str) -> ConstraintError {
    let same = (literal.chars().zip(spelled.chars()))
        .take_while(|(wanted, found)| wanted == found)
        .count();
    ConstraintError::Literal {
        literal: literal.to_owned(),
        missing: literal.chars().skip(same).collect(),
        spelled: spelled.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constraint::test_vocabulary;

    fn spelled(tokenizer: &Tokenizer, literal: &str) -> Result<Vec<TokenId>, ConstraintError> {
        spell(tokenizer, &TokenBytes::of(tokenizer).unwrap(), literal)
    }

    #[test]
    fn a_literal_is_the_tokenizers_own_tokens() {
        let demo = test_vocabulary::demo();
        for literal in ["[CONFORMER][C]<", ",", ">1[Cl]<"] {
            assert_eq!(
                spelled(&demo, literal).unwrap(),
                demo.encode(literal, false).unwrap()
            );
        }
    }

    #[test]
    fn a_literal_has_no_space_that_the_tokenizer_adds() {
        let llama = test_vocabulary::sentence_piece(&["\u{2581}", "a", "b", "ab", "\u{2581}a"]);
        let bytes = TokenBytes::of(&llama).unwrap();
        for literal in ["ab", " ab", "\nab", "b a", "é"] {
            let tokens = spelled(&llama, literal).unwrap();
            assert_eq!(bytes.concat(&tokens), literal.as_bytes());
        }
        assert_eq!(spelled(&llama, "ab").unwrap().len(), 1);
    }

    #[test]
    fn what_can_not_be_spelled_is_named() {
        // The demo's tokenizer composes characters (NFC), as Qwen3's does.
        let error = spelled(&test_vocabulary::demo(), "na e\u{301}s").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the literal \"na e\\u{301}s\" can't be spelled with this tokenizer: \"e\\u{301}s\" is \
             lost or changed, its tokens read \"na \u{e9}s\""
        );
    }
}
