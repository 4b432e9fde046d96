//! What a result says, for people: text, tables and charts under a heading.

use super::table::Table;

/// A part of a report.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Section {
    /// What it is about.
    pub heading: String,
    /// Paragraphs.
    pub text: Vec<String>,
    /// Tables, in order.
    pub tables: Vec<Captioned>,
}

/// A table and what it shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Captioned {
    /// What it shows.
    pub caption: String,
    /// The table.
    pub table: Table,
}
