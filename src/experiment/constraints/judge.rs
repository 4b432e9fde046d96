//! Whether a text is what was asked for, and in which ways it is not.

use serde::{Deserialize, Serialize};

use super::{ExperimentError, Workload};
use crate::constraint::regex::Dfa;
use crate::constraint::template::Template;

/// Bytes that the automaton of a whole text may take while it is built: a molecule of 30 atoms needs a
/// few of them.
const AUTOMATON_BYTES: usize = 256 << 20;

/// Decimals of a coordinate.
const DECIMALS: usize = 4;

/// Judges texts of one workload, by a regex of the whole text and not by the tables that made it.
#[derive(Debug)]
pub struct Judge {
    dfa: Dfa,
    has_points: bool,
}

/// What became of some texts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdicts {
    /// Texts that were judged.
    pub texts: usize,
    /// Those that are valid.
    pub valid: usize,
    /// Those that the token limit cut.
    pub cut: usize,
    /// What is wrong in points.
    pub junk: Junk,
}

/// Coordinates that are not what they should be, by three definitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Junk {
    /// Points that were looked at.
    pub points: usize,
    /// Points with a letter between `<` and `>`.
    pub letters: usize,
    /// Coordinates that were looked at.
    pub coordinates: usize,
    /// Coordinates with more decimals than four.
    pub more_digits: usize,
    /// Coordinates with several numbers, so that a parser that takes the last reads another than the
    /// first.
    pub other_number: usize,
}

/// How a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The constraint held it to its form: it must match as a whole.
    Constrained,
    /// Nothing did: it is valid if it begins with a match, since nobody told the model where to end.
    Free,
    /// The token limit cut it.
    Cut,
    /// The token limit cut it, and the model is known to end what is whole.
    Unended,
}

impl Judge {
    /// For the texts of `workload`.
    ///
    /// # Errors
    /// A regex that is refused.
    pub fn new(workload: &Workload) -> Result<Self, ExperimentError> {
        Self::of(&workload.template()?, workload.points)
    }

    /// For the texts of `template`, in whose points junk is looked for if it `has_points`.
    ///
    /// # Errors
    /// A regex that is refused.
    pub fn of(template: &Template, has_points: bool) -> Result<Self, ExperimentError> {
        Ok(Self {
            dfa: Dfa::new(&template.pattern(), "text", AUTOMATON_BYTES)?,
            has_points,
        })
    }

    /// Judges one more text.
    pub fn add(&self, text: &str, end: End, verdicts: &mut Verdicts) {
        verdicts.texts += 1;
        verdicts.cut += usize::from(matches!(end, End::Cut | End::Unended));
        verdicts.valid += usize::from(self.is_valid(text, end));
        if self.has_points {
            verdicts.junk.look(text);
        }
    }

    fn is_valid(&self, text: &str, end: End) -> bool {
        let mut state = self.dfa.start();
        let mut has_matched = self.dfa.is_accepting(state);
        for &byte in text.as_bytes() {
            state = self.dfa.next(state, byte);
            has_matched |= self.dfa.is_accepting(state);
        }
        match end {
            End::Constrained => self.dfa.is_accepting(state),
            // What was cut may have matched before: an unconstrained text goes on and on.
            End::Free | End::Cut => has_matched,
            End::Unended => false,
        }
    }
}

impl Junk {
    /// Looks for junk in the points of `text`; where there are none, `text` up to the first mark is a
    /// coordinate, as behind a prompt that ends in a point.
    fn look(&mut self, text: &str) {
        if !text.contains('<') {
            let end = text.find([',', '>']).unwrap_or(text.len());
            self.look_at_point(&text[..end]);
            return;
        }
        let points = text.split('<').skip(1);
        // A point that does not end is cut, not wrong.
        let points = points.filter_map(|rest| rest.split_once('>'));
        points.for_each(|(point, _)| self.look_at_point(point));
    }

    fn look_at_point(&mut self, point: &str) {
        self.points += 1;
        self.letters += usize::from(point.chars().any(char::is_alphabetic));
        for coordinate in point.split(',') {
            self.coordinates += 1;
            let numbers = numbers(coordinate);
            self.other_number += usize::from(numbers.len() > 1);
            let decimals = |number: &&str| number.split_once('.').map_or(0, |(_, d)| d.len());
            let most = numbers.iter().map(decimals).max().unwrap_or(0);
            self.more_digits += usize::from(most > DECIMALS);
        }
    }
}

/// The numbers in `text`: digits, with at most one point among or before them.
fn numbers(text: &str) -> Vec<&str> {
    let mut numbers = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        rest = &rest[start..];
        let mut has_point = false;
        let end = rest.find(|c: char| {
            !c.is_ascii_digit() && (c != '.' || std::mem::replace(&mut has_point, true))
        });
        let (number, after) = rest.split_at(end.unwrap_or(rest.len()));
        numbers.push(number);
        rest = after;
    }
    numbers
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn judged(text: &str, end: End) -> Verdicts {
        let workload = Workload {
            name: "point".into(),
            prompt: String::new(),
            max_tokens: 1,
            segments: Some(json!([
                {"literal": "<"},
                {"slot": "x", "regex": r"-?[0-9]+\.[0-9]{4}"},
                {"literal": ">"},
            ])),
            molecule: None,
            coordinate: None,
            schema: None,
            points: true,
        };
        let mut verdicts = Verdicts::default();
        Judge::new(&workload).unwrap().add(text, end, &mut verdicts);
        verdicts
    }

    #[test]
    fn a_constrained_text_must_match_whole_and_a_free_one_must_begin_with_a_match() {
        for (text, constrained, free) in [
            ("<1.2345>", 1, 1),
            ("<-10.2345>", 1, 1),
            ("<1.2345>[C]", 0, 1),
            ("<1.234>", 0, 0),
            ("<1.23456>", 0, 0),
            ("<1.2345", 0, 0),
        ] {
            assert_eq!(judged(text, End::Constrained).valid, constrained, "{text}");
            assert_eq!(judged(text, End::Free).valid, free, "{text}");
            assert_eq!(judged(text, End::Cut).cut, 1);
            let unended = judged(text, End::Unended);
            assert_eq!((unended.cut, unended.valid), (1, 0));
        }
    }

    #[test]
    fn junk_is_counted_by_each_definition() {
        // What published runs wrote: `-0.9587abra>` and `0.5204"1`.
        for (text, letters, more_digits, other_number) in [
            ("<1.2345,-0.1000,12.0000>", 0, 0, 0),
            ("<1.2345,-0.9587abra,1.0000>", 1, 0, 0),
            ("<0.5204\"1,1.0000,1.0000>", 0, 0, 1),
            ("<1.23456,1.0000,1.00000>", 0, 2, 0),
            ("<1.2.3,1.0000,1.0000>", 0, 0, 1),
            ("<1.0000,1.0000,1.0000>[C]<1.0000x,2.0", 0, 0, 0),
        ] {
            let junk = judged(text, End::Constrained).junk;
            assert_eq!(
                (junk.letters, junk.more_digits, junk.other_number),
                (letters, more_digits, other_number),
                "{text}"
            );
            assert_eq!((junk.points, junk.coordinates), (1, 3), "{text}");
        }
        // A coordinate behind a prompt that ends in `<`.
        let junk = judged("1.23456,", End::Constrained).junk;
        assert_eq!((junk.points, junk.coordinates, junk.more_digits), (1, 1, 1));
    }
}
