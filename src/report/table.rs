//! One kind of table for everything that is printed, and its formats.

use comfy_table::{CellAlignment, TableStyle, presets};
use maud::{Markup, html};

/// Text in a page that is longer than this is broken into lines.
const LONG: usize = 36;

/// Rows of cells under named columns.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

/// A column's name, and the unit of its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    name: String,
    unit: &'static str,
    numeric: bool,
}

impl Column {
    /// A column of words, aligned to the left.
    pub fn text(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            unit: "",
            numeric: false,
        }
    }

    /// A column of numbers in `unit` (may be empty), aligned to the right.
    pub fn number(name: impl Into<String>, unit: &'static str) -> Self {
        Self {
            name: name.into(),
            unit,
            numeric: true,
        }
    }

    /// The name, with the unit in brackets.
    fn header(&self) -> String {
        self.header_with(" ")
    }

    fn header_with(&self, gap: &str) -> String {
        match self.unit {
            "" => self.name.clone(),
            unit => format!("{}{gap}({unit})", self.name),
        }
    }
}

/// What a column says of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// A word.
    Text(String),
    /// A number, printed with so many decimals.
    Number(f64, usize),
    /// Nothing is known.
    Missing,
}

impl Cell {
    /// A word.
    pub fn text(text: impl Into<String>) -> Self {
        Cell::Text(text.into())
    }

    /// A number that may be missing, printed with `decimals`.
    pub fn number(value: impl Into<Option<f64>>, decimals: usize) -> Self {
        match value.into() {
            Some(value) => Cell::Number(value, decimals),
            None => Cell::Missing,
        }
    }

    /// The cell as it is printed.
    fn printed(&self, missing: &str) -> String {
        match self {
            Cell::Text(text) => text.clone(),
            Cell::Number(value, decimals) => format!("{value:.decimals$}"),
            Cell::Missing => missing.to_owned(),
        }
    }
}

impl Table {
    /// A table without rows.
    pub fn new(columns: impl IntoIterator<Item = Column>) -> Self {
        Self {
            columns: columns.into_iter().collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    ///
    /// # Panics
    /// If it has not one cell for each column.
    pub fn push(&mut self, row: impl IntoIterator<Item = Cell>) {
        let row: Vec<_> = row.into_iter().collect();
        assert_eq!(row.len(), self.columns.len(), "cells of a row");
        self.rows.push(row);
    }

    /// With lines, for a terminal.
    pub fn to_text(&self) -> String {
        // Units on a line of their own keep columns narrow.
        self.drawn(presets::UTF8_FULL_CONDENSED, "\n", |text| text)
    }

    /// In Markdown.
    pub fn to_markdown(&self) -> String {
        let escape = |text: String| text.replace('|', "\\|").replace('\n', " ");
        let table = self.drawn(presets::ASCII_MARKDOWN, " ", escape);
        let mut lines: Vec<String> = table.lines().map(str::to_owned).collect();
        // comfy-table does not say in Markdown how columns are aligned.
        if let Some(rule) = lines.get_mut(1) {
            let marked = rule
                .split('|')
                .skip(1)
                .zip(&self.columns)
                .map(|(dashes, column)| match column.numeric {
                    true => format!("{}:", &dashes[..dashes.len() - 1]),
                    false => dashes.to_owned(),
                });
            *rule = format!("|{}|", marked.collect::<Vec<_>>().join("|"));
        }
        lines.join("\n")
    }

    /// As an element of an HTML page; `caption` is the id of the element that says what it shows.
    /// Cells have the class `number` or `long` where they are.
    pub fn to_html(&self, caption: &str) -> Markup {
        let class = |column: &Column| column.numeric.then_some("number");
        let cell_class = |column: &Column, text: &str| match text.chars().count() > LONG {
            true => Some("long"),
            false => class(column),
        };
        html! {
            table aria-labelledby=(caption) {
                thead {
                    tr {
                        @for column in &self.columns {
                            th scope="col" class=[class(column)] { (column.header()) }
                        }
                    }
                }
                tbody {
                    @for row in &self.rows {
                        tr {
                            @for (column, cell) in self.columns.iter().zip(row) {
                                @let text = cell.printed("\u{2013}");
                                td class=[cell_class(column, &text)] { (text) }
                            }
                        }
                    }
                }
            }
        }
    }

    /// Comma-separated, with a header line (RFC 4180, lines ended by `\n`). What is missing is
    /// empty.
    pub fn to_csv(&self) -> String {
        let quoted = |text: String| match text.contains([',', '"', '\n', '\r']) {
            true => format!("\"{}\"", text.replace('"', "\"\"")),
            false => text,
        };
        let header: Vec<_> = self.columns.iter().map(|c| quoted(c.header())).collect();
        let rows = self.rows.iter().map(|row| {
            let cells = row.iter().map(|cell| quoted(cell.printed("")));
            cells.collect::<Vec<_>>()
        });
        let lines = [header].into_iter().chain(rows);
        lines.map(|cells| cells.join(",") + "\n").collect()
    }

    /// An object for each row, by the columns' headers; numbers are not rounded.
    pub fn to_json(&self) -> serde_json::Value {
        let object = |row: &Vec<Cell>| -> serde_json::Value {
            let fields = self.columns.iter().zip(row).map(|(column, cell)| {
                let value = match cell {
                    Cell::Text(text) => text.as_str().into(),
                    Cell::Number(value, 0) if value.fract() == 0.0 && value.abs() < 9e15 => {
                        (*value as i64).into()
                    }
                    Cell::Number(value, _) => (*value).into(),
                    Cell::Missing => serde_json::Value::Null,
                };
                (column.header(), value)
            });
            serde_json::Value::Object(fields.collect())
        };
        self.rows.iter().map(object).collect()
    }

    fn drawn(&self, style: TableStyle, gap: &str, escape: impl Fn(String) -> String) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(style);
        table.set_header(
            self.columns
                .iter()
                .map(|column| escape(column.header_with(gap))),
        );
        for row in &self.rows {
            table.add_row(row.iter().map(|cell| escape(cell.printed("-"))));
        }
        for (drawn, column) in table.column_iter_mut().zip(&self.columns) {
            if column.numeric {
                drawn.set_cell_alignment(CellAlignment::Right);
            }
        }
        // Lines end where their last cell does.
        let lines: Vec<_> = table
            .lines()
            .map(|line| line.trim_end().to_owned())
            .collect();
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new([Column::text("name"), Column::number("speed", "tok/s")]);
        table.push([Cell::text("a|b, \"c\""), Cell::number(12.345, 2)]);
        table.push([Cell::text("d"), Cell::number(None, 2)]);
        table.push([Cell::text("e"), Cell::number(7.0, 0)]);
        table
    }

    #[test]
    fn csv_quotes_what_must_be_quoted() {
        assert_eq!(
            table().to_csv(),
            "name,speed (tok/s)\n\"a|b, \"\"c\"\"\",12.35\nd,\ne,7\n"
        );
    }

    #[test]
    fn markdown_escapes_bars_and_aligns_numbers() {
        let markdown = table().to_markdown();
        let lines: Vec<_> = markdown.lines().collect();
        assert_eq!(lines[0], "| name      | speed (tok/s) |");
        assert_eq!(lines[1], "|-----------|--------------:|");
        assert_eq!(lines[3], "| d         |             - |");
        assert!(lines[2].starts_with("| a\\|b, \"c\" |"), "{}", lines[2]);
    }

    #[test]
    fn html_escapes_and_marks_numbers() {
        let mut table = table();
        let long = "a < b ".repeat(10);
        table.push([Cell::text(long.trim_end()), Cell::number(0.0, 0)]);
        let html = table.to_html("caption-1").into_string();
        for part in [
            "<table aria-labelledby=\"caption-1\">",
            "<td class=\"long\">a &lt; b a &lt; b",
            "<th scope=\"col\" class=\"number\">speed (tok/s)</th>",
            "<td>a|b, &quot;c&quot;</td><td class=\"number\">12.35</td>",
            "<td>d</td><td class=\"number\">\u{2013}</td>",
        ] {
            assert!(html.contains(part), "{part} is missing in {html}");
        }
    }

    #[test]
    fn text_has_its_numbers_to_the_right() {
        let text = table().to_text();
        assert!(
            text.lines().any(|line| line.ends_with("┆ (tok/s) │")),
            "{text}"
        );
        assert!(
            text.lines().any(|line| line.contains("┆       7 │")),
            "{text}"
        );
    }

    #[test]
    fn json_keeps_numbers_whole() {
        assert_eq!(
            table().to_json(),
            serde_json::json!([
                {"name": "a|b, \"c\"", "speed (tok/s)": 12.345},
                {"name": "d", "speed (tok/s)": null},
                {"name": "e", "speed (tok/s)": 7},
            ])
        );
    }

    #[test]
    #[should_panic(expected = "cells of a row")]
    fn a_short_row_is_a_mistake() {
        table().push([Cell::Missing]);
    }
}
