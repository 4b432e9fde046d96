//! Literals and free parts, put together.

use crate::constraint::error::ConstraintError;
use crate::constraint::template::{Segment, Slot, Template};

/// A text of literal and free parts, in order; no two neighbours are of a kind.
#[derive(Clone, Debug, Default)]
pub struct Pieces(Vec<Piece>);

#[derive(Clone, Debug)]
enum Piece {
    Literal(String),
    Free {
        name: String,
        pattern: String,
        joined: bool,
    },
}

/// Whether the tokens of a literal may reach into the free part behind it ([`Slot::joined`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// They end with the literal.
    Apart,
    /// A space is one token with the sign or word that follows it.
    Joined,
}

impl Pieces {
    /// A literal alone.
    pub fn of_literal(text: &str) -> Self {
        let mut pieces = Self::default();
        pieces.literal(text);
        pieces
    }

    /// A free part alone. `name` tells it from all others of a schema.
    pub fn of_pattern(name: &str, pattern: String, start: Start) -> Self {
        let mut pieces = Self::default();
        pieces.free(name, &pattern, start);
        pieces
    }

    /// Adds a literal.
    pub fn literal(&mut self, text: &str) {
        match self.0.last_mut() {
            _ if text.is_empty() => {}
            Some(Piece::Literal(before)) => before.push_str(text),
            _ => self.0.push(Piece::Literal(text.to_owned())),
        }
    }

    /// Adds a free part.
    pub fn free(&mut self, name: &str, pattern: &str, start: Start) {
        match self.0.last_mut() {
            Some(Piece::Free {
                pattern: before, ..
            }) => *before = format!("(?:{before})(?:{pattern})"),
            _ => self.0.push(Piece::Free {
                name: name.to_owned(),
                pattern: pattern.to_owned(),
                joined: start == Start::Joined,
            }),
        }
    }

    /// Adds all parts of `other`.
    pub fn append(&mut self, other: Self) {
        for piece in other.0 {
            match piece {
                Piece::Literal(text) => self.literal(&text),
                Piece::Free {
                    name,
                    pattern,
                    joined,
                } => {
                    let start = if joined { Start::Joined } else { Start::Apart };
                    self.free(&name, &pattern, start);
                }
            }
        }
    }

    /// All of it as one regex, to stand among others.
    pub fn pattern(&self) -> String {
        let patterns = self.0.iter().map(|piece| match piece {
            Piece::Literal(text) => regex_syntax::escape(text),
            Piece::Free { pattern, .. } => format!("(?:{pattern})"),
        });
        format!("(?:{})", patterns.collect::<String>())
    }

    /// As a template.
    ///
    /// # Errors
    /// No piece.
    pub fn into_template(self) -> Result<Template, ConstraintError> {
        let segments = self.0.into_iter().map(|piece| match piece {
            Piece::Literal(text) => Segment::Literal(text),
            Piece::Free {
                name,
                pattern,
                joined,
            } => Segment::Slot(Slot {
                name,
                regex: pattern,
                placeholder: None,
                joined,
            }),
        });
        Template::new(segments.collect())
    }
}

/// One of several regexes, of which one may be empty.
pub fn one_of(patterns: &[String]) -> String {
    format!("(?:{})", patterns.join("|"))
}
