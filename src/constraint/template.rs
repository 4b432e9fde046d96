//! A template: literal text with slots in it.

use serde::{Deserialize, Serialize};

use super::error::ConstraintError;

/// A text of literal runs and named slots, in order.
///
/// As a file it is a JSON list:
///
/// ```json
/// [
///   {"literal": "{\"age\": "},
///   {"slot": "age", "regex": "\\d{1,3}", "placeholder": "000"},
///   {"literal": "}"}
/// ]
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Template {
    segments: Vec<Segment>,
}

/// A part of a template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Segment {
    /// Text that stands as it is. It is forced as the tokens that the tokenizer makes of it
    /// alone; neighbouring literals are one.
    Literal(String),
    /// Text that is free within a regex.
    Slot(Slot),
}

/// A free part of a template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Slot {
    /// Its name, which no other slot has.
    pub name: String,
    /// What it matches, whole and as if nothing stood around it. Where it could both end and go
    /// on, both are allowed.
    pub regex: String,
    /// A text of typical length that stands for it in a mask by position.
    pub placeholder: Option<String>,
    /// Whether tokens are allowed that spell the end of the literal before together with the
    /// beginning of the slot. A tokenizer that has `,-` as one token never writes `,` before `-`,
    /// so a model that was forced to `,` would take the number for positive. The price is that
    /// the literal's last token is chosen among those instead of being forced.
    pub joined: bool,
}

/// A segment as it stands in a file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SegmentJson {
    literal: Option<String>,
    slot: Option<String>,
    regex: Option<String>,
    placeholder: Option<String>,
    joined: Option<bool>,
}

impl Template {
    /// A template of these segments.
    ///
    /// # Errors
    /// No segment, an empty literal, slots of the same name or of none.
    pub fn new(segments: Vec<Segment>) -> Result<Self, ConstraintError> {
        if segments.is_empty() {
            let what = "template".to_owned();
            return Err(ConstraintError::Empty { what });
        }
        let invalid = |reason: String| Err(ConstraintError::Template { reason });
        let mut merged: Vec<Segment> = Vec::with_capacity(segments.len());
        let mut names = std::collections::HashSet::new();
        for (index, segment) in segments.into_iter().enumerate() {
            match (segment, merged.last_mut()) {
                (Segment::Literal(text), _) if text.is_empty() => {
                    return invalid(format!("segment {} is an empty literal", index + 1));
                }
                (Segment::Literal(text), Some(Segment::Literal(before))) => before.push_str(&text),
                (Segment::Slot(slot), _) if slot.name.is_empty() => {
                    return invalid(format!("segment {} is a slot without a name", index + 1));
                }
                (Segment::Slot(slot), _) if !names.insert(slot.name.clone()) => {
                    return invalid(format!("there are two slots named '{}'", slot.name));
                }
                (segment, _) => merged.push(segment),
            }
        }
        Ok(Self { segments: merged })
    }

    /// Reads a template file.
    ///
    /// # Errors
    /// No such JSON, unknown fields, and all that [`new`](Self::new) refuses.
    pub fn from_json(json: &[u8]) -> Result<Self, ConstraintError> {
        let segments: Vec<SegmentJson> =
            serde_json::from_slice(json).map_err(|error| ConstraintError::Template {
                reason: format!("{error}; {FORM}"),
            })?;
        let segments = (segments.into_iter().enumerate())
            .map(|(index, segment)| segment.read(index + 1))
            .collect::<Result<_, _>>()?;
        Self::new(segments)
    }

    /// One slot and nothing else. It has no name, which a template's slots must have.
    pub(super) fn of_regex(pattern: &str) -> Self {
        let slot = Slot {
            name: String::new(),
            regex: pattern.to_owned(),
            placeholder: None,
            joined: false,
        };
        Self {
            segments: vec![Segment::Slot(slot)],
        }
    }

    /// The regex of a whole text: what tables made from the segments can be judged by.
    pub fn pattern(&self) -> String {
        let patterns = self.segments.iter().map(|segment| match segment {
            Segment::Literal(text) => regex_syntax::escape(text),
            Segment::Slot(slot) => format!("(?:{})", slot.regex),
        });
        patterns.collect()
    }

    /// Its parts; no two neighbours are literals.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

/// What a template file holds, for messages.
const FORM: &str = r#"expected is a list of {"literal": TEXT} and {"slot": NAME, "regex": REGEX}, the latter with "placeholder": TEXT and "joined": true or false where wanted"#;

impl SegmentJson {
    fn read(self, number: usize) -> Result<Segment, ConstraintError> {
        match self {
            Self {
                literal: Some(text),
                slot: None,
                regex: None,
                placeholder: None,
                joined: None,
            } => Ok(Segment::Literal(text)),
            Self {
                literal: None,
                slot: Some(name),
                regex: Some(regex),
                placeholder,
                joined,
            } => Ok(Segment::Slot(Slot {
                name,
                regex,
                placeholder,
                joined: joined.unwrap_or(false),
            })),
            _ => Err(ConstraintError::Template {
                reason: format!("segment {number} is neither a literal nor a slot; {FORM}"),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(json: &str) -> String {
        Template::from_json(json.as_bytes())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_file_is_read_and_neighbouring_literals_are_one() {
        let json = r#"[{"literal": "<"}, {"slot": "x", "regex": "\\d+"},
            {"literal": ","}, {"literal": ">"}]"#;
        let template = Template::from_json(json.as_bytes()).unwrap();
        let slot = Slot {
            name: "x".into(),
            regex: r"\d+".into(),
            placeholder: None,
            joined: false,
        };
        assert_eq!(
            template.segments(),
            [
                Segment::Literal("<".into()),
                Segment::Slot(slot),
                Segment::Literal(",>".into())
            ]
        );
    }

    #[test]
    fn what_is_no_template_is_refused_by_name() {
        for (json, expected) in [
            ("[]", "the template is empty"),
            ("{", "expected a sequence"),
            (r#"[{"literal": "a", "extra": 1}]"#, "unknown field `extra`"),
            (
                r#"[{"literal": "a", "regex": "b"}]"#,
                "segment 1 is neither",
            ),
            (
                r#"[{"literal": "a"}, {"slot": "b"}]"#,
                "segment 2 is neither",
            ),
            (r#"[{"literal": ""}]"#, "segment 1 is an empty literal"),
            (
                r#"[{"slot": "", "regex": "b"}]"#,
                "segment 1 is a slot without a name",
            ),
            (
                r#"[{"slot": "b", "regex": "b"}, {"slot": "b", "regex": "c"}]"#,
                "two slots named 'b'",
            ),
        ] {
            let message = refused(json);
            assert!(message.contains(expected), "{json}: {message}");
        }
    }
}
