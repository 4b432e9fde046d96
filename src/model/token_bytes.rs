//! The bytes that each token stands for, out of the two styles of vocabulary in use.
//!
//! - *Byte-level* (GPT-2, Qwen, Llama 3): a token is spelled in 256 characters that stand for
//!   the 256 bytes.
//! - *SentencePiece with byte fallback* (Llama 2): a token is spelled as text with U+2581 for a
//!   space, and `<0x0A>` is a byte.
//!
//! Which it is, the decoder in `tokenizer.json` says.

use serde_json::Value;

use super::TokenId;
use super::tokenizer::{Tokenizer, TokenizerError};

/// What each token of a tokenizer adds in the middle of a text.
#[derive(Clone, Debug)]
pub struct TokenBytes {
    bytes: Vec<u8>,
    /// Token i has `bytes[starts[i]..starts[i + 1]]`.
    starts: Vec<u32>,
    added: Vec<bool>,
}

impl TokenBytes {
    /// Reads the vocabulary of `tokenizer`.
    ///
    /// # Errors
    /// A decoder of neither style.
    pub fn of(tokenizer: &Tokenizer) -> Result<Self, TokenizerError> {
        let inner = tokenizer.inner();
        let style = Style::of(inner)?;
        let mut contents = vec![None; tokenizer.own_size()];
        for (content, id) in inner.get_vocab(false) {
            contents[id as usize] = Some((content, false));
        }
        // An added token may have a row in the ordinary vocabulary too; it is never made of text.
        for (id, token) in inner.get_added_tokens_decoder() {
            contents[id as usize] = Some((token.content, true));
        }
        let mut all = Self {
            bytes: Vec::new(),
            starts: vec![0],
            added: Vec::with_capacity(contents.len()),
        };
        for content in contents {
            let (content, added) = content.unwrap_or_default();
            if added {
                all.bytes.extend_from_slice(content.as_bytes());
            } else {
                style.spell(&content, &mut all.bytes);
            }
            all.starts.push(all.bytes.len() as u32);
            all.added.push(added);
        }
        Ok(all)
    }

    /// `count` tokens without text, each with its number in place of it, the highest byte first.
    pub fn of_numbers(count: usize) -> Self {
        let numbers = 0..count as TokenId;
        Self {
            bytes: numbers.flat_map(TokenId::to_be_bytes).collect(),
            starts: (0..=count as u32)
                .map(|token| token * size_of::<TokenId>() as u32)
                .collect(),
            added: vec![false; count],
        }
    }

    /// How many tokens there are: one more than the largest id.
    pub fn len(&self) -> usize {
        self.added.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty()
    }

    /// The bytes of a token; an added token's are its name, `<|im_end|>`. Empty for an id that
    /// stands for nothing.
    pub fn get(&self, token: TokenId) -> &[u8] {
        let token = token as usize;
        if token >= self.len() {
            return &[];
        }
        &self.bytes[self.starts[token] as usize..self.starts[token + 1] as usize]
    }

    /// The bytes of an ordinary token: `None` for added tokens and for ids that stand for nothing.
    pub fn text(&self, token: TokenId) -> Option<&[u8]> {
        let added = *self.added.get(token as usize)?;
        Some(self.get(token)).filter(|bytes| !added && !bytes.is_empty())
    }

    /// The bytes of `tokens`, one after the other.
    pub fn concat(&self, tokens: &[TokenId]) -> Vec<u8> {
        tokens
            .iter()
            .flat_map(|&token| self.get(token))
            .copied()
            .collect()
    }
}

/// How a vocabulary spells bytes.
enum Style {
    /// By character below U+0180.
    ByteLevel(Vec<Option<u8>>),
    /// As text, after replacements.
    Text {
        replacements: Vec<(String, String)>,
        byte_fallback: bool,
    },
}

impl Style {
    fn of(inner: &tokenizers::Tokenizer) -> Result<Self, TokenizerError> {
        let decoder = serde_json::to_value(inner.get_decoder()).unwrap_or(Value::Null);
        let parts = match decoder["decoders"].as_array() {
            Some(parts) => parts.clone(),
            None => vec![decoder],
        };
        let mut replacements = Vec::new();
        let mut byte_fallback = false;
        for part in &parts {
            match part["type"].as_str() {
                Some("ByteLevel") => return Ok(Style::ByteLevel(byte_level())),
                Some("Replace") if part["pattern"]["String"].is_string() => {
                    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                    replacements.push((text(&part["pattern"]["String"]), text(&part["content"])));
                }
                Some("Metaspace") => {
                    let mark = part["replacement"].as_str().unwrap_or("\u{2581}");
                    replacements.push((mark.to_owned(), " ".to_owned()));
                }
                Some("ByteFallback") => byte_fallback = true,
                // These concern where a text begins, or nothing.
                Some("Fuse" | "Strip") => {}
                other => {
                    return Err(TokenizerError::UnknownSpelling {
                        decoder: other.unwrap_or("none").to_owned(),
                    });
                }
            }
        }
        if replacements.is_empty() && !byte_fallback {
            let decoder = "Fuse or Strip alone".to_owned();
            return Err(TokenizerError::UnknownSpelling { decoder });
        }
        Ok(Style::Text {
            replacements,
            byte_fallback,
        })
    }

    fn spell(&self, content: &str, bytes: &mut Vec<u8>) {
        match self {
            Style::ByteLevel(byte_of) => {
                let before = bytes.len();
                for character in content.chars() {
                    match byte_of.get(character as usize).copied().flatten() {
                        Some(byte) => bytes.push(byte),
                        // As the decoder does: what is not in the alphabet stands for itself.
                        None => {
                            bytes.truncate(before);
                            bytes.extend_from_slice(content.as_bytes());
                            return;
                        }
                    }
                }
            }
            Style::Text {
                byte_fallback: true,
                ..
            } if fallback_byte(content).is_some() => bytes.extend(fallback_byte(content)),
            Style::Text { replacements, .. } => {
                let text = replacements
                    .iter()
                    .fold(content.to_owned(), |text, (from, to)| {
                        text.replace(from, to)
                    });
                bytes.extend_from_slice(text.as_bytes());
            }
        }
    }
}

/// `<0x0A>` is the byte 10.
fn fallback_byte(content: &str) -> Option<u8> {
    let digits = content.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2)
        .then(|| u8::from_str_radix(digits, 16).ok())
        .flatten()
}

/// The byte of a character in the byte-level alphabet: printable Latin-1 stands for itself, and
/// the other bytes, in order, for U+0100 and what follows (GPT-2's `bytes_to_unicode`).
fn byte_level() -> Vec<Option<u8>> {
    let mut byte_of = vec![None; 0x180];
    let mut next = 0x100;
    for byte in 0..=u8::MAX {
        let printable = matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let character = if printable {
            usize::from(byte)
        } else {
            next += 1;
            next - 1
        };
        byte_of[character] = Some(byte);
    }
    byte_of
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Files;

    #[test]
    fn every_byte_has_one_character() {
        let byte_of = byte_level();
        let mut seen: Vec<u8> = byte_of.iter().flatten().copied().collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..=u8::MAX).collect::<Vec<_>>());
        assert_eq!(byte_of['Ġ' as usize], Some(b' '));
        assert_eq!(byte_of['Ċ' as usize], Some(b'\n'));
    }

    #[test]
    fn the_bytes_of_a_byte_level_text_are_the_text() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo");
        let tokenizer = Tokenizer::from_files(&Files::folder(folder).unwrap()).unwrap();
        let bytes = TokenBytes::of(&tokenizer).unwrap();
        for text in [
            "[C]<0.0000,-1.5",
            "a b\n\tß 原子 🧪",
            "[SMILES]CCO[/SMILES]",
        ] {
            let tokens = tokenizer.encode(text, false).unwrap();
            assert_eq!(bytes.concat(&tokens), text.as_bytes());
        }
        let added = tokenizer.token_id("[SMILES]").unwrap();
        assert_eq!(bytes.text(added), None);
        assert_eq!(bytes.get(added), b"[SMILES]");
        assert_eq!(bytes.text(100_000), None);
    }

    #[test]
    fn a_decoder_of_another_style_is_named() {
        let json = r###"{"version":"1.0","added_tokens":[],"normalizer":null,"pre_tokenizer":null,
            "post_processor":null,"decoder":{"type":"WordPiece","prefix":"##","cleanup":true},
            "model":{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##",
            "max_input_chars_per_word":100,"vocab":{"[UNK]":0,"a":1}}}"###;
        let tokenizer = Tokenizer::from_json(json.as_bytes(), "t.json").unwrap();
        let error = TokenBytes::of(&tokenizer).unwrap_err().to_string();
        assert!(error.contains("WordPiece"), "{error}");
    }
}
