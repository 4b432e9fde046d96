//! What the parts' files say, for people.
//!
//! - `decode`: the parts decode and options
//! - `ceilings`: the part ceilings
//! - `checks`: the parts correctness and sanitizers

mod ceilings;
mod checks;
mod decode;

use super::results::PartFile;
use super::{Part, correctness, sanitizers};
use crate::report::section::{Captioned, Section};
use crate::report::table::{Cell, Column, Table};

impl PartFile {
    /// What was found, as text, tables and charts.
    ///
    /// # Errors
    /// Findings that this program did not write.
    pub fn sections(&self) -> Result<Vec<Section>, serde_json::Error> {
        let part = Part::ALL.into_iter().find(|part| part.name() == self.part);
        let mut sections = vec![Section {
            heading: "In short".into(),
            text: part.map(describe).into_iter().collect(),
            tables: self.lines().into_iter().collect(),
            ..Section::default()
        }];
        if self.findings.is_null() {
            return Ok(sections);
        }
        let findings = || self.findings.clone();
        match part {
            None => {}
            Some(Part::Correctness) => {
                let found: correctness::Findings = serde_json::from_value(findings())?;
                sections.push(checks::correctness(&found));
            }
            Some(Part::Sanitizers) => {
                let found: sanitizers::Findings = serde_json::from_value(findings())?;
                sections.push(checks::sanitizers(&found));
            }
            Some(Part::Ceilings) => {
                sections.extend(ceilings::sections(&serde_json::from_value(findings())?));
            }
            Some(Part::Decode | Part::Options) => {
                sections.extend(decode::sections(&serde_json::from_value(findings())?));
            }
        }
        Ok(sections)
    }

    fn lines(&self) -> Option<Captioned> {
        if self.summary.is_empty() {
            return None;
        }
        let mut table = Table::new([Column::text("what"), Column::text("result")]);
        for line in &self.summary {
            table.push([&line.what, &line.result].map(Cell::text));
        }
        Some(Captioned {
            caption: "What was found".into(),
            table,
        })
    }
}

/// A sentence.
fn describe(part: Part) -> String {
    let words = part.describe();
    let first = words.chars().next().map(|first| first.to_uppercase());
    let first = first.into_iter().flatten();
    first.chain(words.chars().skip(1)).chain(['.']).collect()
}
