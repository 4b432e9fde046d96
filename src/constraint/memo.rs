//! Parts that constraints of one compiler share: how literals are spelled, and small automata.
//!
//! Constraints of one form (a molecule each, a record each) differ in little, and spelling their literals
//! and building their slots' automata is a good part of what compiling a small one takes.

use std::sync::{Arc, Mutex, PoisonError};

use rustc_hash::FxHashMap;

use super::error::ConstraintError;
use super::literal;
use super::regex::Dfa;
use super::vocabulary::Vocabulary;
use crate::model::TokenId;
use crate::model::tokenizer::Tokenizer;

/// Entries of each kind, after which all are forgotten: a compiler that lives long must not grow.
const MOST_ENTRIES: usize = 1024;
/// Bytes of a literal or regex that is kept.
const LONGEST_TEXT: usize = 256;
/// States of an automaton that is kept: some kilobytes.
const MOST_STATES: usize = 64;

/// What was made before.
#[derive(Debug, Default)]
pub struct Memo {
    literals: Entries<Arc<[TokenId]>>,
    automata: Entries<Arc<Dfa>>,
}

type Entries<T> = Mutex<FxHashMap<String, T>>;

impl Memo {
    /// The tokens of `text`: [`literal::spell`].
    ///
    /// # Errors
    /// As there.
    pub fn spell(
        &self,
        tokenizer: &Tokenizer,
        vocabulary: &Vocabulary,
        text: &str,
    ) -> Result<Arc<[TokenId]>, ConstraintError> {
        let spell = || literal::spell(tokenizer, vocabulary.bytes(), text).map(Arc::from);
        get_or_make(&self.literals, text, |_| true, spell)
    }

    /// The automaton of a regex: [`Dfa::new`].
    ///
    /// # Errors
    /// As there.
    pub fn automaton(
        &self,
        pattern: &str,
        what: &str,
        limit: usize,
    ) -> Result<Arc<Dfa>, ConstraintError> {
        let is_small = |dfa: &Arc<Dfa>| dfa.states() <= MOST_STATES;
        get_or_make(&self.automata, pattern, is_small, || {
            Dfa::new(pattern, what, limit).map(Arc::new)
        })
    }
}

/// What was kept for `text`, or what `make` makes, which is kept if it is worth it. Nothing is locked
/// while it is made.
fn get_or_make<T: Clone>(
    entries: &Entries<T>,
    text: &str,
    is_kept: impl Fn(&T) -> bool,
    make: impl FnOnce() -> Result<T, ConstraintError>,
) -> Result<T, ConstraintError> {
    // An entry is whole, whoever panicked.
    let lock = || entries.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = lock().get(text) {
        return Ok(known.clone());
    }
    let made = make()?;
    if text.len() <= LONGEST_TEXT && is_kept(&made) {
        let mut entries = lock();
        if entries.len() >= MOST_ENTRIES {
            entries.clear();
        }
        entries.insert(text.to_owned(), made.clone());
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constraint::test_vocabulary;

    #[test]
    fn what_is_kept_is_what_would_be_made_and_does_not_grow_without_end() {
        let tokenizer = test_vocabulary::demo();
        let vocabulary = Vocabulary::of(&tokenizer).unwrap();
        let memo = Memo::default();
        for _ in 0..2 {
            for number in 0..MOST_ENTRIES + 9 {
                let text = format!(">{number}[C]<");
                let tokens = literal::spell(&tokenizer, vocabulary.bytes(), &text).unwrap();
                assert_eq!(*memo.spell(&tokenizer, &vocabulary, &text).unwrap(), tokens);
            }
        }
        assert!(memo.literals.lock().unwrap().len() <= MOST_ENTRIES);
        let made = || memo.automaton("[0-9]{2}", "regex", 1 << 20).unwrap();
        assert!(Arc::ptr_eq(&made(), &made()));
        assert_eq!(
            made().states(),
            Dfa::new("[0-9]{2}", "regex", 1 << 20).unwrap().states()
        );
        let large = format!("[0-9]{{{}}}", MOST_STATES + 1);
        memo.automaton(&large, "regex", 1 << 20).unwrap();
        memo.spell(&tokenizer, &vocabulary, &"C".repeat(LONGEST_TEXT + 1))
            .unwrap();
        assert_eq!(memo.automata.lock().unwrap().len(), 1);
        let refused = memo
            .automaton("(", "regex of slot 'x'", 1 << 20)
            .unwrap_err();
        assert!(refused.to_string().contains("slot 'x'"));
    }
}
