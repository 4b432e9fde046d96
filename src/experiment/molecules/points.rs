//! How many tokens points and coordinates take: what a mask by position must guess beforehand.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::experiment::ExperimentError;
use crate::model::TokenId;
use crate::model::tokenizer::{SpecialTokens, Tokenizer};

/// How often a number of tokens occurs.
pub type Histogram = BTreeMap<usize, usize>;

/// Tokens of points and of coordinates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lengths {
    /// Tokens between the one with `<` and the one with `>`.
    pub points: Histogram,
    /// Those of them without a comma, from one comma to the next.
    pub coordinates: Histogram,
}

impl Lengths {
    /// Counts the points of a text, of which `pieces` are the tokens.
    pub fn add(&mut self, pieces: &[&str]) {
        // Tokens of the point so far, and of each of its coordinates.
        let mut open: Option<(usize, Vec<usize>)> = None;
        for piece in pieces {
            if piece.contains('>')
                && let Some((point, coordinates)) = open.take()
            {
                *self.points.entry(point).or_default() += 1;
                for coordinate in coordinates {
                    *self.coordinates.entry(coordinate).or_default() += 1;
                }
            }
            if piece.contains('<') {
                open = Some((0, vec![0]));
            } else if let Some((point, coordinates)) = &mut open {
                *point += 1;
                match piece.contains(',') {
                    true => coordinates.push(0),
                    false => *coordinates.last_mut().expect("one at least") += 1,
                }
            }
        }
    }

    /// The number of tokens that most points have; the smaller of two; `None` without points.
    pub fn most_common_point(&self) -> Option<usize> {
        let by_count = |(tokens, count): (&usize, &usize)| (*count, std::cmp::Reverse(*tokens));
        let most = self.points.iter().max_by_key(|&pair| by_count(pair));
        most.map(|(tokens, _)| *tokens)
    }
}

/// The text of every token.
///
/// # Errors
/// A tokenizer that can't decode them.
pub fn pieces(tokenizer: &Tokenizer) -> Result<Vec<String>, ExperimentError> {
    let piece = |token| {
        let text = tokenizer.decode(&[token], SpecialTokens::Keep);
        Ok(text?)
    };
    (0..tokenizer.own_size() as TokenId).map(piece).collect()
}

/// The tokens whose text holds one of `characters`: the marks that are copied, never chosen.
pub fn holding(pieces: &[String], characters: &str) -> Vec<TokenId> {
    let holds = |piece: &String| piece.chars().any(|c| characters.contains(c));
    let tokens = pieces.iter().enumerate();
    let held = tokens.filter(|(_, piece)| holds(piece));
    held.map(|(token, _)| token as TokenId).collect()
}

/// The points of `conformers` as free positions: each spelled by itself between copied marks.
///
/// # Errors
/// Text that can't be spelled.
pub fn of_conformers<'c>(
    conformers: impl IntoIterator<Item = &'c str>,
    tokenizer: &Tokenizer,
    pieces: &[String],
) -> Result<Lengths, ExperimentError> {
    let mut lengths = Lengths::default();
    for conformer in conformers {
        let points = conformer.split('<').skip(1);
        for point in points.filter_map(|rest| rest.split_once('>')) {
            let tokens = tokenizer.encode(point.0, false)?;
            let inner = tokens.iter().map(|&token| pieces[token as usize].as_str());
            let spelled: Vec<&str> = std::iter::once("<").chain(inner).chain([">"]).collect();
            lengths.add(&spelled);
        }
    }
    Ok(lengths)
}
