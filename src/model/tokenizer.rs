//! Text to tokens and back, as the checkpoint's `tokenizer.json` says.

use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;
use twox_hash::XxHash3_128;

use super::TokenId;
use super::files::{Files, FilesError};

/// The file that a tokenizer is read from.
const TOKENIZER_FILE: &str = "tokenizer.json";
/// The same, packed: a sixth of the size.
const PACKED_FILE: &str = "tokenizer.json.gz";
/// A packed tokenizer holds no more than this; the largest known ones have 35 MB.
const PACKED_LIMIT: u64 = 1 << 30;

/// What can go wrong with a tokenizer.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A folder without a `tokenizer.json`.
    #[error(
        "{place}: no {TOKENIZER_FILE}; get the checkpoint's own, or name one with --tokenizer PATH \
         (a file or a folder)"
    )]
    Missing {
        /// The folder.
        place: String,
    },
    /// A path given for a tokenizer where nothing is.
    #[error(
        "{path}: no such file or folder; a tokenizer.json, or a folder that holds one, is expected"
    )]
    NoSuchPath {
        /// The path.
        path: String,
    },
    /// A file that is not a tokenizer.
    #[error(
        "{file}: not a tokenizer that the `tokenizers` library reads ({reason}); get the file anew"
    )]
    Corrupt {
        /// The file.
        file: String,
        /// The library's word.
        reason: String,
    },
    /// A file that can't be read.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// A text that the tokenizer can't take.
    #[error("the tokenizer can't encode this text: {reason}")]
    Encode {
        /// The library's word.
        reason: String,
    },
    /// Tokens that the tokenizer can't turn into text.
    #[error("the tokenizer can't decode these tokens: {reason}")]
    Decode {
        /// The library's word.
        reason: String,
    },
    /// A token id that neither the tokenizer nor the model has.
    #[error("token {token} is outside the vocabulary of {vocab_size}; ids go from 0 to {}", vocab_size - 1)]
    OutOfRange {
        /// The token.
        token: TokenId,
        /// One more than the largest id.
        vocab_size: usize,
    },
    /// A vocabulary whose tokens can't be told to be which bytes.
    #[error(
        "the tokenizer's decoder is {decoder}; the bytes of a token are known for ByteLevel \
         (Qwen, Llama 3) and for SentencePiece with byte fallback (Llama 2)"
    )]
    UnknownSpelling {
        /// The type of the decoder.
        decoder: String,
    },
}

/// A tokenizer of the `tokenizers` library, whole or padded to a model's vocabulary.
///
/// A model's embedding often has more rows than the tokenizer has tokens (151,936 against 151,669
/// in Qwen3). Such an id can be sampled; it stands for no text.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// One more than the largest id that the tokenizer itself knows.
    own_size: usize,
    vocab_size: usize,
    /// Hash of the file it was read from.
    fingerprint: u128,
}

impl Tokenizer {
    /// The tokenizer of a checkpoint.
    ///
    /// # Errors
    /// A missing, unreadable or corrupt `tokenizer.json`.
    pub fn from_files(files: &Files) -> Result<Self, TokenizerError> {
        let place = files.describe();
        for name in [TOKENIZER_FILE, PACKED_FILE] {
            if let Some(bytes) = files.read(name)? {
                return Self::from_bytes(&bytes, &format!("{place}/{name}"));
            }
        }
        Err(TokenizerError::Missing { place })
    }

    /// The tokenizer in a file, or in the `tokenizer.json` of a folder. It may be packed with gzip, as
    /// `tokenizer.json.gz`.
    ///
    /// # Errors
    /// As [`from_files`](Self::from_files).
    pub fn from_path(path: &Path) -> Result<Self, TokenizerError> {
        if path.is_dir() {
            return Self::from_files(&Files::folder(path)?);
        }
        let (Some(name), true) = (
            path.file_name().and_then(|name| name.to_str()),
            path.exists(),
        ) else {
            let path = path.display().to_string();
            return Err(TokenizerError::NoSuchPath { path });
        };
        let folder = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let files = Files::folder(folder.unwrap_or(Path::new(".")))?;
        match files.read(name)? {
            None => Err(TokenizerError::NoSuchPath {
                path: path.display().to_string(),
            }),
            Some(bytes) => Self::from_bytes(&bytes, &path.display().to_string()),
        }
    }

    /// What is in `file`, unpacked if its name says that it is packed.
    fn from_bytes(bytes: &[u8], file: &str) -> Result<Self, TokenizerError> {
        if !file.ends_with(".gz") {
            return Self::from_json(bytes, file);
        }
        let corrupt = |reason: String| TokenizerError::Corrupt {
            file: file.to_owned(),
            reason,
        };
        let mut json = Vec::new();
        let unpacked = GzDecoder::new(bytes)
            .take(PACKED_LIMIT)
            .read_to_end(&mut json);
        match unpacked {
            Err(error) => Err(corrupt(error.to_string())),
            Ok(length) if length as u64 == PACKED_LIMIT => Err(corrupt(format!(
                "it unpacks to {PACKED_LIMIT} bytes or more"
            ))),
            Ok(_) => Self::from_json(&json, file),
        }
    }

    /// Parses a `tokenizer.json`; `file` is its name in errors.
    ///
    /// # Errors
    /// If it is corrupt.
    pub fn from_json(bytes: &[u8], file: &str) -> Result<Self, TokenizerError> {
        let corrupt = |reason: String| TokenizerError::Corrupt {
            file: file.to_owned(),
            reason,
        };
        let mut inner =
            tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| corrupt(error.to_string()))?;
        // Training settings that some files carry; transformers drops them too unless it is asked.
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|error| corrupt(error.to_string()))?;
        let added = inner.get_added_tokens_decoder();
        let after_added = added.keys().max().map_or(0, |&id| id as usize + 1);
        let own_size = after_added.max(inner.get_vocab_size(true));
        if own_size == 0 {
            return Err(corrupt("its vocabulary is empty".into()));
        }
        Ok(Self {
            inner,
            own_size,
            vocab_size: own_size,
            fingerprint: XxHash3_128::oneshot(bytes),
        })
    }

    /// The same tokenizer for a model whose embedding has `rows` rows: ids from the tokenizer's
    /// own size up to there decode to nothing.
    pub fn padded_to(mut self, rows: usize) -> Self {
        self.vocab_size = self.own_size.max(rows);
        self
    }

    /// One more than the largest id that may be decoded, padding included.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// One more than the largest id that the tokenizer itself knows.
    pub fn own_size(&self) -> usize {
        self.own_size
    }

    /// A hash (XXH3, 128 bits) of the `tokenizer.json` it was read from: what was made for one
    /// tokenizer is known again by it.
    pub fn fingerprint(&self) -> u128 {
        self.fingerprint
    }

    /// The id of a token by its exact content, special or not: `<|im_end|>`.
    pub fn token_id(&self, content: &str) -> Option<TokenId> {
        self.inner.token_to_id(content)
    }

    /// The tokens of `text`. Special tokens that are spelled out in it become those tokens, as in
    /// transformers; with `add_special_tokens` those are added that the tokenizer puts around a
    /// text (a beginning-of-sequence token in Llama's, none in Qwen's).
    ///
    /// # Errors
    /// If the tokenizer has no token for a part of the text.
    pub fn encode(
        &self,
        text: &str,
        add_special_tokens: bool,
    ) -> Result<Vec<TokenId>, TokenizerError> {
        match self.inner.encode_fast(text, add_special_tokens) {
            Ok(encoding) => Ok(encoding.get_ids().to_vec()),
            Err(error) => Err(TokenizerError::Encode {
                reason: error.to_string(),
            }),
        }
    }

    /// The text of `tokens`; bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// Ids outside the vocabulary.
    pub fn decode(
        &self,
        tokens: &[TokenId],
        special_tokens: SpecialTokens,
    ) -> Result<String, TokenizerError> {
        self.check(tokens)?;
        let skip = special_tokens == SpecialTokens::Skip;
        self.inner
            .decode(tokens, skip)
            .map_err(|error| TokenizerError::Decode {
                reason: error.to_string(),
            })
    }

    /// The piece of text that each token adds, special tokens included. The pieces joined are the
    /// text: where several tokens make up one character, the last of them has it.
    ///
    /// # Errors
    /// Ids outside the vocabulary.
    pub fn pieces(&self, tokens: &[TokenId]) -> Result<Vec<String>, TokenizerError> {
        let mut stream = self.stream(SpecialTokens::Keep);
        let mut pieces = tokens
            .iter()
            .map(|&token| stream.push(token))
            .collect::<Result<Vec<_>, _>>()?;
        let rest = stream.finish()?;
        if let Some(last) = pieces.last_mut() {
            last.push_str(&rest);
        }
        Ok(pieces)
    }

    /// Turns tokens into text one by one.
    pub fn stream(&self, special_tokens: SpecialTokens) -> TextStream<'_> {
        TextStream {
            tokenizer: self,
            special_tokens,
            window: Vec::new(),
            emitted: String::new(),
        }
    }

    pub(super) fn inner(&self) -> &tokenizers::Tokenizer {
        &self.inner
    }

    fn check(&self, tokens: &[TokenId]) -> Result<(), TokenizerError> {
        match tokens
            .iter()
            .find(|&&token| token as usize >= self.vocab_size)
        {
            None => Ok(()),
            Some(&token) => Err(TokenizerError::OutOfRange {
                token,
                vocab_size: self.vocab_size,
            }),
        }
    }
}

/// Whether special tokens (`<|im_end|>`) show in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialTokens {
    /// They are left out, as in a model's answer.
    Skip,
    /// They are spelled out.
    Keep,
}

/// Text from tokens, one by one, that never holds half a character.
///
/// Every token is decoded behind the few before it, because a character may be spread over
/// several tokens and some decoders treat the beginning of a text in a way of its own. Bytes that
/// are no UTF-8 yet show as U+FFFD at the end; those wait for the tokens that complete them.
#[derive(Clone, Debug)]
pub struct TextStream<'t> {
    tokenizer: &'t Tokenizer,
    special_tokens: SpecialTokens,
    /// The latest tokens that have text.
    window: Vec<TokenId>,
    /// The part of the window's text that went out.
    emitted: String,
}

/// Tokens kept for context. A character has at most 4 bytes and a token at least one, so this is
/// more than enough to hold what is incomplete and a few tokens before it.
const CONTEXT_TOKENS: usize = 8;
/// Where a window is cut even though its end is not stable, so that a step's cost stays bounded.
const LONGEST_WINDOW: usize = 64;
/// Bytes of a character that may be there without it being whole.
const INCOMPLETE_BYTES: usize = 3;

impl TextStream<'_> {
    /// The text that `token` completes; often empty, never half a character.
    ///
    /// # Errors
    /// Ids outside the vocabulary.
    pub fn push(&mut self, token: TokenId) -> Result<String, TokenizerError> {
        if self.decode(&[token])?.is_empty() {
            return Ok(String::new());
        }
        self.window.push(token);
        let text = self.decode(&self.window)?;
        let stable = stable(&text);
        // Decoders with a byte fallback take back text while a character is incomplete.
        let Some(new) = stable.strip_prefix(self.emitted.as_str()) else {
            if self.window.len() > LONGEST_WINDOW {
                self.cut()?;
            }
            return Ok(String::new());
        };
        let new = new.to_owned();
        stable.clone_into(&mut self.emitted);
        if self.window.len() > CONTEXT_TOKENS {
            self.cut()?;
        }
        Ok(new)
    }

    /// What is left when no token follows: bytes that never became a character, as U+FFFD.
    ///
    /// # Errors
    /// None that `push` has not reported before.
    pub fn finish(self) -> Result<String, TokenizerError> {
        let text = self.decode(&self.window)?;
        Ok(text
            .strip_prefix(self.emitted.as_str())
            .unwrap_or_default()
            .to_owned())
    }

    fn cut(&mut self) -> Result<(), TokenizerError> {
        self.window.drain(..self.window.len() - CONTEXT_TOKENS);
        self.emitted = stable(&self.decode(&self.window)?).to_owned();
        Ok(())
    }

    fn decode(&self, tokens: &[TokenId]) -> Result<String, TokenizerError> {
        self.tokenizer.decode(tokens, self.special_tokens)
    }
}

/// `text` without what later tokens may still change.
fn stable(text: &str) -> &str {
    let mut stable = text;
    for _ in 0..INCOMPLETE_BYTES {
        match stable.strip_suffix(char::REPLACEMENT_CHARACTER) {
            Some(shorter) => stable = shorter,
            None => break,
        }
    }
    stable
}
