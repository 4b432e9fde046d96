//! JSON and numbers as Python writes them, for templates that were tried in Python only.
//!
//! serde_json writes `{"a":1e-7}` where Python's `json.dumps` writes `{"a": 1e-07}`, and a model's
//! training data had the latter.

use std::io;

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{CharEscape, Formatter, Serializer};

/// The arguments of Python's `json.dumps`, with the defaults that transformers gives its `tojson`.
#[derive(Clone, Debug, Default)]
pub struct JsonStyle {
    /// Spaces for each level; `None` writes everything on one line.
    pub indent: Option<usize>,
    /// What separates items, and a key from its value; `None` is Python's choice.
    pub separators: Option<(String, String)>,
    /// Write everything beyond ASCII as `\uXXXX`.
    pub ensure_ascii: bool,
    /// Sort the keys of objects.
    pub sort_keys: bool,
}

impl JsonStyle {
    /// `value` as `json.dumps` writes it.
    pub fn write(&self, value: &Value) -> String {
        let sorted;
        let value = if self.sort_keys {
            let mut copy = value.clone();
            copy.sort_all_objects();
            sorted = copy;
            &sorted
        } else {
            value
        };
        let (between, after_key) = match &self.separators {
            Some((between, after_key)) => (between.as_str(), after_key.as_str()),
            None if self.indent.is_some() => (",", ": "),
            None => (", ", ": "),
        };
        let formatter = PythonFormatter {
            between,
            after_key,
            indent: self.indent,
            ensure_ascii: self.ensure_ascii,
            depth: 0,
            has_items: false,
        };
        let mut bytes = Vec::new();
        let mut serializer = Serializer::with_formatter(&mut bytes, formatter);
        value
            .serialize(&mut serializer)
            .expect("a JSON value writes to memory");
        String::from_utf8(bytes).expect("JSON is UTF-8")
    }
}

/// `value` as Python's `repr` writes it: the shortest digits that read back the same, with an
/// exponent below 1e-4 and from 1e16 on.
pub fn python_float(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.into();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').expect("`{:e}` has an exponent");
    let exponent: i32 = exponent.parse().expect("`{:e}` has a whole exponent");
    if (-4..16).contains(&exponent) || value == 0.0 {
        let plain = value.to_string();
        return if plain.contains('.') {
            plain
        } else {
            plain + ".0"
        };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}

struct PythonFormatter<'s> {
    between: &'s str,
    after_key: &'s str,
    indent: Option<usize>,
    ensure_ascii: bool,
    depth: usize,
    has_items: bool,
}

impl PythonFormatter<'_> {
    fn new_line<W: ?Sized + io::Write>(&self, writer: &mut W) -> io::Result<()> {
        let Some(indent) = self.indent else {
            return Ok(());
        };
        writer.write_all(b"\n")?;
        (0..indent * self.depth).try_for_each(|_| writer.write_all(b" "))
    }

    fn begin<W: ?Sized + io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.has_items = false;
        writer.write_all(bracket)
    }

    fn item<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(self.between.as_bytes())?;
        }
        self.new_line(writer)
    }

    fn end<W: ?Sized + io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if self.has_items {
            self.new_line(writer)?;
        }
        // What has just ended is an item of what it lies in.
        self.has_items = true;
        writer.write_all(bracket)
    }
}

impl Formatter for PythonFormatter<'_> {
    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(python_float(value).as_bytes())
    }

    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.begin(writer, b"[")
    }

    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.item(writer, first)
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, _writer: &mut W) -> io::Result<()> {
        self.has_items = true;
        Ok(())
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.end(writer, b"]")
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.begin(writer, b"{")
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.item(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.after_key.as_bytes())
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, _writer: &mut W) -> io::Result<()> {
        self.has_items = true;
        Ok(())
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.end(writer, b"}")
    }

    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if !self.ensure_ascii {
            return writer.write_all(fragment.as_bytes());
        }
        for char in fragment.chars() {
            if char.is_ascii() && char != '\x7f' {
                write!(writer, "{char}")?;
                continue;
            }
            for unit in char.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }

    fn write_char_escape<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        let short = match escape {
            CharEscape::Quote => "\\\"",
            CharEscape::ReverseSolidus => "\\\\",
            CharEscape::Solidus => "/",
            CharEscape::Backspace => "\\b",
            CharEscape::FormFeed => "\\f",
            CharEscape::LineFeed => "\\n",
            CharEscape::CarriageReturn => "\\r",
            CharEscape::Tab => "\\t",
            CharEscape::AsciiControl(byte) => return write!(writer, "\\u{byte:04x}"),
        };
        writer.write_all(short.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn floats_are_written_as_python_does() {
        // What Python 3 prints for each.
        let cases = [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (-0.0, "-0.0"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (123456789012345.0, "123456789012345.0"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (-1.25e22, "-1.25e+22"),
            (5e-324, "5e-324"),
            (1.7976931348623157e308, "1.7976931348623157e+308"),
        ];
        for (value, expected) in cases {
            assert_eq!(python_float(value), expected);
        }
    }

    #[test]
    fn json_is_written_as_python_does() {
        let value = json!({"b": [1, 2.0, {"é": "\u{7f}\n"}], "a": {}, "c": [], "d": [[]]});
        let one_line = r#"{"b": [1, 2.0, {"é": ""#.to_owned()
            + "\u{7f}\\n"
            + r#""}], "a": {}, "c": [], "d": [[]]}"#;
        assert_eq!(JsonStyle::default().write(&value), one_line);
        let indented = JsonStyle {
            indent: Some(1),
            sort_keys: true,
            ..JsonStyle::default()
        };
        let value = json!({"b": [1, {}], "a": [[]]});
        let expected = "{\n \"a\": [\n  []\n ],\n \"b\": [\n  1,\n  {}\n ]\n}";
        assert_eq!(indented.write(&value), expected);
        let ascii = JsonStyle {
            ensure_ascii: true,
            separators: Some((",".into(), ":".into())),
            ..JsonStyle::default()
        };
        assert_eq!(
            ascii.write(&json!(["é🦀", 1])),
            r#"["\u00e9\ud83e\udd80",1]"#
        );
    }
}
