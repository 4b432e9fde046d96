//! What can be wrong with a constraint.

use crate::model::TokenId;
use crate::model::tokenizer::TokenizerError;

/// Why a constraint can't be compiled.
#[derive(Debug, thiserror::Error)]
pub enum ConstraintError {
    /// A pattern of no characters.
    #[error("the {what} is empty; it would allow nothing but an empty answer")]
    Empty {
        /// "regex", "template", "regex of slot 'x'", ...
        what: String,
    },
    /// A pattern that is no regex.
    #[error("the {what} is not valid: {message}")]
    Regex {
        /// "regex" or "regex of slot 'x'".
        what: String,
        /// The parser's own message, with the place.
        message: String,
    },
    /// A pattern that no automaton can match.
    #[error("the {what} uses {feature}, which a finite automaton can't match{instead}")]
    Unsupported {
        /// "regex" or "regex of slot 'x'".
        what: String,
        /// "look-around", "a back-reference", ...
        feature: &'static str,
        /// What to write instead, as the end of the sentence.
        instead: &'static str,
    },
    /// A pattern with no match at all.
    #[error("the {what} matches nothing: no text satisfies it")]
    MatchesNothing {
        /// "regex" or "regex of slot 'x'".
        what: String,
    },
    /// A constraint that has matches, of which none can be written in this vocabulary.
    #[error(
        "nothing that this tokenizer can spell satisfies the {what}: its tokens lack characters \
         that every match needs"
    )]
    Unspellable {
        /// "regex", "template", ...
        what: String,
    },
    /// A constraint whose only match is the empty text.
    #[error("the {what} allows nothing but an empty answer")]
    OnlyEmpty {
        /// "regex", "template", ...
        what: String,
    },
    /// A literal that the tokenizer changes or drops a part of.
    #[error(
        "the literal {literal:?} can't be spelled with this tokenizer: {missing:?} is lost or \
         changed, its tokens read {spelled:?}"
    )]
    Literal {
        /// The literal.
        literal: String,
        /// The rest of it from the first character that is not spelled.
        missing: String,
        /// What the tokens spell.
        spelled: String,
    },
    /// A constraint that grew beyond a limit.
    #[error("the constraint needs {found} {what}; the limit is {limit}")]
    TooLarge {
        /// "states", "bytes of tables", ...
        what: &'static str,
        /// How many, or "more than so many" where counting stopped there.
        found: Found,
        /// How many there may be.
        limit: usize,
    },
    /// A file that is no template.
    #[error("the template is not valid: {reason}")]
    Template {
        /// What is wrong, and where.
        reason: String,
    },
    /// A text that is no SMILES of a molecule that can be written.
    #[error("the SMILES {smiles:?} is not valid at character {at}: {reason}")]
    Smiles {
        /// The text.
        smiles: String,
        /// Where, in characters from 1.
        at: usize,
        /// What is wrong there.
        reason: String,
    },
    /// A file that is no list of positions.
    #[error("the positions are not valid: {reason}")]
    Positions {
        /// What is wrong, and where.
        reason: String,
    },
    /// A text that is no JSON schema, or one with keywords that nothing here understands.
    #[error("the JSON schema can't be followed: {reason}")]
    JsonSchema {
        /// What is wrong with it, keywords by name.
        reason: String,
    },
    /// A text that is no Lark grammar.
    #[error("the Lark grammar is not valid: {reason}")]
    Lark {
        /// The parser's own message, with the place.
        reason: String,
    },
    /// A model that has token ids and no text.
    #[error(
        "the {what} needs a tokenizer, and the model has none; lend it one with --tokenizer PATH. \
         Only a position mask of token ids without \"until\" needs none"
    )]
    NoTokenizer {
        /// "regex", "regex of run 1", ...
        what: String,
    },
    /// A token that the tokenizer does not have, or that may not stand there.
    #[error("token {token} {reason}")]
    Token {
        /// The token.
        token: TokenId,
        /// What is wrong with it.
        reason: String,
    },
    /// The tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// A count that was found to be over a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The count.
    Exactly(usize),
    /// Counting ended here, before all was counted.
    MoreThan(usize),
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Found::Exactly(count) => write!(f, "{count}"),
            Found::MoreThan(count) => write!(f, "more than {count}"),
        }
    }
}
