//! What no finite automaton follows: context-free grammars, stepped by llguidance on the host.
//!
//! llguidance walks a trie of the vocabulary with an Earley parser, a mask for each token. It has
//! adapters for tokenizers of its own versions; here it gets this vocabulary's bytes instead, so
//! that both paths agree on what a token spells.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{self, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory};

use super::error::ConstraintError;
use super::guide::{HostGrammar, HostWalk};
use super::json_schema::{ITEM_SEPARATOR, JsonSchema, KEY_SEPARATOR};
use super::vocabulary::Vocabulary;
use crate::model::TokenId;

/// A parser of a grammar, before the first token.
pub struct Grammar {
    kind: &'static str,
    /// A parser keeps caches that change when it is copied.
    start: Mutex<Matcher>,
    end_tokens: Arc<[TokenId]>,
}

impl Grammar {
    /// The grammar of a JSON schema, in the spelling of the tables: one space after `,` and `:`,
    /// no other white space.
    ///
    /// # Errors
    /// Keywords that llguidance does not have, by name; a schema that nothing satisfies.
    pub fn of_json_schema(
        schema: &JsonSchema,
        vocabulary: &Vocabulary,
        end_tokens: &[TokenId],
    ) -> Result<Self, ConstraintError> {
        let mut value = schema.value().clone();
        // `true` and `false` are schemas too, and have no place for options.
        if value.is_object() {
            let options = JsonCompileOptions {
                item_separator: ITEM_SEPARATOR.to_owned(),
                key_separator: KEY_SEPARATOR.to_owned(),
                whitespace_flexible: false,
                ..JsonCompileOptions::default()
            };
            options.apply_to(&mut value);
        }
        let grammar = TopLevelGrammar::from_json_schema(value);
        Self::new("JSON schema", grammar, vocabulary, end_tokens)
            .map_err(|reason| ConstraintError::JsonSchema { reason })
    }

    /// A grammar in llguidance's dialect of Lark.
    ///
    /// # Errors
    /// A text that is none, with the place.
    pub fn of_lark(
        text: &str,
        vocabulary: &Vocabulary,
        end_tokens: &[TokenId],
    ) -> Result<Self, ConstraintError> {
        if text.trim().is_empty() {
            let what = "Lark grammar".to_owned();
            return Err(ConstraintError::Empty { what });
        }
        let grammar = TopLevelGrammar::from_lark(text.to_owned());
        Self::new("Lark grammar", grammar, vocabulary, end_tokens)
            .map_err(|reason| ConstraintError::Lark { reason })
    }

    fn new(
        kind: &'static str,
        grammar: TopLevelGrammar,
        vocabulary: &Vocabulary,
        end_tokens: &[TokenId],
    ) -> Result<Self, String> {
        let environment = environment(vocabulary, end_tokens);
        // Forced tokens are found in the masks; backtracking would take back what was decoded.
        let abilities = InferenceCapabilities::default();
        let made = ParserFactory::new(&environment, abilities, &[]).and_then(|mut factory| {
            factory.quiet().limits_mut().verbose_errors = false;
            factory.create_parser(grammar)
        });
        let mut start = Matcher::new(made);
        // The first mask finds what shows only when the grammar is used.
        let first = start.compute_mask().map_err(|error| reason(&error))?;
        if first.is_zero() {
            return Err("no token of this vocabulary can begin a text that satisfies it".into());
        }
        Ok(Self {
            kind,
            start: Mutex::new(start),
            end_tokens: end_tokens.into(),
        })
    }
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammar").field("kind", &self.kind).finish()
    }
}

impl HostGrammar for Grammar {
    fn walk(&self) -> Box<dyn HostWalk> {
        // A walk that panicked left only caches half done.
        let start = self.start.lock().unwrap_or_else(PoisonError::into_inner);
        Box::new(Walk {
            matcher: start.deep_clone(),
            end_tokens: Arc::clone(&self.end_tokens),
            ended: false,
        })
    }
}

/// A parser on its way.
struct Walk {
    matcher: Matcher,
    end_tokens: Arc<[TokenId]>,
    /// Whether an end token was taken.
    ended: bool,
}

impl fmt::Debug for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Walk").field("ended", &self.ended).finish()
    }
}

impl HostWalk for Walk {
    fn allowed(&mut self, mask: &mut [u32]) -> Result<usize, String> {
        mask.fill(0);
        if self.ended {
            return Ok(0);
        }
        if self.matcher.is_stopped() {
            if let Some(error) = self.matcher.get_error() {
                return Err(first_line(&error));
            }
            // The parser stops by itself where nothing but an end can follow.
            for &token in &*self.end_tokens {
                mask[token as usize / 32] |= 1 << (token % 32);
            }
            return Ok(self.end_tokens.len());
        }
        let allowed = self
            .matcher
            .compute_mask()
            .map_err(|error| reason(&error))?;
        for (word, &allowed) in mask.iter_mut().zip(allowed.as_slice()) {
            *word = allowed;
        }
        Ok(mask.iter().map(|word| word.count_ones() as usize).sum())
    }

    fn advance(&mut self, token: TokenId) -> Result<(), String> {
        if self.end_tokens.contains(&token) {
            self.ended = true;
            return Ok(());
        }
        let taken = self.matcher.consume_token(token);
        taken.map_err(|error| reason(&error))
    }

    fn is_accepting(&mut self) -> bool {
        // A parser that stopped by itself is done and no longer asked.
        self.ended
            || self.matcher.is_stopped() && !self.matcher.is_error()
            || self.matcher.is_accepting().unwrap_or(false)
    }
}

/// The vocabulary as llguidance reads it. Added tokens are marked, so that a grammar can name
/// them (`<|im_start|>`) and no text is made of them.
fn environment(vocabulary: &Vocabulary, end_tokens: &[TokenId]) -> TokEnv {
    let bytes = vocabulary.bytes();
    let words: Vec<Vec<u8>> = (0..vocabulary.rows() as TokenId)
        .map(|token| match bytes.text(token) {
            Some(text) => text.to_vec(),
            None if bytes.get(token).is_empty() => Vec::new(),
            None => [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes.get(token)].concat(),
        })
        .collect();
    let first = end_tokens.first().copied();
    let info = TokRxInfo::new(words.len() as u32, first.unwrap_or(toktrie::INVALID_TOKEN));
    let mut trie = TokTrie::from(&info, &words);
    if !end_tokens.is_empty() {
        trie = trie.with_eos_tokens(end_tokens);
    }
    Arc::new(toktrie::ApproximateTokEnv::new(trie))
}

/// An error's message and its causes, without what it says of the parser's insides.
fn reason(error: &impl fmt::Display) -> String {
    first_line(&format!("{error:#}"))
}

fn first_line(error: &str) -> String {
    let error = error.split("\n<non-verbose/>").next().unwrap_or(error);
    error.trim().to_owned()
}
