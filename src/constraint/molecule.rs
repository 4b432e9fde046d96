//! A molecule whose atoms and bonds are given and whose coordinates are free.
//!
//! The text is that of the demo model (`models/demo/README.md`) and of 3DMolGen: the SMILES, with
//! bare atoms in brackets and a point `<x,y,z>` in angstrom after every atom, between
//! `[CONFORMER]` and `[/CONFORMER]`.

use serde::Serialize;

use super::error::ConstraintError;
use super::template::{Segment, Slot, Template};

/// A coordinate: four decimals, in angstrom. (`\d` would be any script's digits.)
pub const COORDINATE: &str = r"-?[0-9]+\.[0-9]{4}";
/// What stands for a coordinate in a mask by position.
const PLACEHOLDER: &str = "0.0000";
const OPEN: &str = "[CONFORMER]";
const CLOSE: &str = "[/CONFORMER]";

/// A molecule by its SMILES.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Molecule {
    smiles: String,
    /// The regex of a coordinate.
    coordinate: String,
    /// Whether a coordinate's sign may share a token with the mark before it.
    joined: bool,
}

/// A piece of a SMILES.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece<'s> {
    /// An atom, in brackets or bare.
    Atom(&'s str),
    /// A bond, a branch, a ring number or a dot.
    Mark(&'s str),
}

impl Molecule {
    /// The molecule of `smiles`, which is checked for its form (brackets, branches, rings, known
    /// bare atoms), not for its chemistry.
    ///
    /// # Errors
    /// What is no SMILES, with the place.
    pub fn new(smiles: &str) -> Result<Self, ConstraintError> {
        pieces(smiles)?;
        Ok(Self {
            smiles: smiles.to_owned(),
            coordinate: COORDINATE.to_owned(),
            joined: true,
        })
    }

    /// Forces `<` and `,` as tokens of their own, although the vocabulary may have tokens that
    /// hold the sign as well (see [`Slot::joined`]). More tokens are forced then, and a model
    /// that was trained on the others takes every number for positive.
    pub fn with_marks_apart(mut self) -> Self {
        self.joined = false;
        self
    }

    /// With `regex` for its coordinates in the place of [`COORDINATE`].
    pub fn with_coordinate(mut self, regex: &str) -> Self {
        self.coordinate = regex.to_owned();
        self
    }

    /// The SMILES.
    pub fn smiles(&self) -> &str {
        &self.smiles
    }

    /// Its text as a template. Slots are named `x1`, `y1`, `z1`, `x2`, ... by atom.
    pub fn template(&self) -> Template {
        self.with_points(|atom, segments| {
            for (axis, mark) in [("x", ","), ("y", ","), ("z", ">")] {
                segments.push(Segment::Slot(Slot {
                    name: format!("{axis}{atom}"),
                    regex: self.coordinate.clone(),
                    placeholder: Some(PLACEHOLDER.to_owned()),
                    joined: self.joined,
                }));
                segments.push(Segment::Literal(mark.to_owned()));
            }
        })
    }

    /// Its text as a template with one slot for all that stands between `<` and `>`, as the mask by
    /// position of 3DMolGen has it. Slots are named `p1`, `p2`, ... by atom; `placeholder` stands for each.
    pub fn template_of_points(&self, placeholder: &str) -> Template {
        let coordinate = &self.coordinate;
        self.with_points(|atom, segments| {
            segments.push(Segment::Slot(Slot {
                name: format!("p{atom}"),
                regex: format!("{coordinate},{coordinate},{coordinate}"),
                placeholder: Some(placeholder.to_owned()),
                joined: self.joined,
            }));
            segments.push(Segment::Literal(">".to_owned()));
        })
    }

    /// Its text, where `point` appends what follows the `<` of an atom, which is counted from 1.
    fn with_points(&self, point: impl Fn(usize, &mut Vec<Segment>)) -> Template {
        let mut segments = vec![Segment::Literal(OPEN.to_owned())];
        let mut atoms = 0;
        for piece in pieces(&self.smiles).expect("checked when it was made") {
            match piece {
                Piece::Mark(mark) => segments.push(Segment::Literal(mark.to_owned())),
                Piece::Atom(atom) => {
                    atoms += 1;
                    let bracketed = match atom.starts_with('[') {
                        true => format!("{atom}<"),
                        false => format!("[{atom}]<"),
                    };
                    segments.push(Segment::Literal(bracketed));
                    point(atoms, &mut segments);
                }
            }
        }
        segments.push(Segment::Literal(CLOSE.to_owned()));
        Template::new(segments).expect("no literal is empty and no name comes twice")
    }
}

/// The pieces of `smiles`, in order.
fn pieces(smiles: &str) -> Result<Vec<Piece<'_>>, ConstraintError> {
    if smiles.is_empty() {
        let what = "SMILES".to_owned();
        return Err(ConstraintError::Empty { what });
    }
    let refuse = |at: usize, reason: String| {
        Err(ConstraintError::Smiles {
            smiles: smiles.to_owned(),
            at: smiles[..at].chars().count() + 1,
            reason,
        })
    };
    let mut pieces = Vec::new();
    let mut branches = Vec::new();
    let mut rings: Vec<(u32, usize)> = Vec::new();
    let mut at = 0;
    while let Some(first) = smiles[at..].chars().next() {
        let rest = &smiles[at..];
        let length = match first {
            '[' => match rest.find(']') {
                Some(end) if end > 1 && !rest[1..end].contains('[') => end + 1,
                Some(1) => return refuse(at, "a bracket with no atom in it".into()),
                _ => return refuse(at, "a bracket that is not closed".into()),
            },
            '%' => match rest
                .get(1..3)
                .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
            {
                Some(_) => 3,
                None => return refuse(at, "'%' without two digits".into()),
            },
            _ if rest.starts_with("Cl") || rest.starts_with("Br") => 2,
            _ => first.len_utf8(),
        };
        let piece = &rest[..length];
        pieces.push(match first {
            '[' | 'B' | 'C' | 'N' | 'O' | 'P' | 'S' | 'F' | 'I' | 'b' | 'c' | 'n' | 'o' | 'p'
            | 's' => Piece::Atom(piece),
            _ if pieces.is_empty() => return refuse(at, format!("'{first}' before any atom")),
            '-' | '=' | '#' | '$' | ':' | '/' | '\\' | '.' | '~' => Piece::Mark(piece),
            '(' => {
                branches.push(at);
                Piece::Mark(piece)
            }
            ')' if branches.pop().is_some() => Piece::Mark(piece),
            ')' => return refuse(at, "')' closes no branch".into()),
            '0'..='9' | '%' => {
                let number = piece.trim_start_matches('%').parse().unwrap_or_default();
                match rings.iter().position(|&(open, _)| open == number) {
                    Some(open) => drop(rings.swap_remove(open)),
                    None => rings.push((number, at)),
                }
                Piece::Mark(piece)
            }
            _ => return refuse(at, format!("'{first}' is no atom, bond, branch or ring")),
        });
        at += length;
    }
    if let Some(&branch) = branches.first() {
        return refuse(branch, "this branch is not closed".into());
    }
    if let Some(&(number, open)) = rings.first() {
        return refuse(open, format!("ring {number} is not closed"));
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The template's text with every slot's placeholder in it.
    fn text(smiles: &str) -> String {
        let template = Molecule::new(smiles).unwrap().template();
        (template.segments().iter())
            .map(|segment| match segment {
                Segment::Literal(text) => text.clone(),
                Segment::Slot(slot) => slot.placeholder.clone().unwrap(),
            })
            .collect()
    }

    #[test]
    fn every_atom_gets_brackets_and_a_point() {
        let point = "<0.0000,0.0000,0.0000>";
        for (smiles, expected) in [
            ("CCO", "[C]*[C]*[O]*"),
            ("c1cc[nH]c1", "[c]*1[c]*[c]*[nH]*[c]*1"),
            ("F/C=C/[C@@H](Br)N", "[F]*/[C]*=[C]*/[C@@H]*([Br]*)[N]*"),
            ("ClC%12CC%12.[Na+]", "[Cl]*[C]*%12[C]*[C]*%12.[Na+]*"),
        ] {
            let expected = format!("[CONFORMER]{expected}[/CONFORMER]").replace('*', point);
            assert_eq!(text(smiles), expected);
        }
    }

    #[test]
    fn a_point_can_be_one_slot() {
        let molecule = Molecule::new("CO").unwrap().with_coordinate("[0-9]");
        let template = molecule.template_of_points("0,0,0");
        let slot = |name: &str| {
            Segment::Slot(Slot {
                name: name.into(),
                regex: "[0-9],[0-9],[0-9]".into(),
                placeholder: Some("0,0,0".into()),
                joined: true,
            })
        };
        let literal = |text: &str| Segment::Literal(text.into());
        assert_eq!(
            template.segments(),
            [
                literal("[CONFORMER][C]<"),
                slot("p1"),
                literal(">[O]<"),
                slot("p2"),
                literal(">[/CONFORMER]"),
            ]
        );
    }

    #[test]
    fn what_is_no_smiles_is_refused_with_the_place() {
        for (smiles, expected) in [
            ("", "the SMILES is empty"),
            ("CX", "at character 2: 'X'"),
            ("=C", "at character 1: '=' before any atom"),
            ("C(C", "at character 2: this branch is not closed"),
            ("C)C", "at character 2: ')' closes no branch"),
            ("C1CC", "at character 2: ring 1 is not closed"),
            ("C[NH", "at character 2: a bracket that is not closed"),
            ("C[]", "at character 2: a bracket with no atom"),
            ("C%1", "at character 2: '%' without two digits"),
            ("C*", "at character 2: '*'"),
            ("Cé", "at character 2: 'é'"),
        ] {
            let message = Molecule::new(smiles).unwrap_err().to_string();
            assert!(message.contains(expected), "{smiles}: {message}");
        }
    }
}
