//! What a result says, for people: text, charts and tables under a heading.

use super::chart::Chart;
use super::table::Table;

/// A part of a report.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Section {
    /// What it is about.
    pub heading: String,
    /// Paragraphs.
    pub text: Vec<String>,
    /// Charts, in order; they come before the tables that they show.
    pub charts: Vec<Chart>,
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
