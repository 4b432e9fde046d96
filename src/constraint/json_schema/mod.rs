//! JSON schemas, and the templates of those that are regular.
//!
//! What is written follows the schema and is spelled one way: properties in the schema's order, a
//! space after `,` and `:` and no other white space. So the keys of an object are literal runs,
//! forced as tokens, and its values are slots.
//!
//! - `reduce`: from a schema to a template, where there is one
//! - `pieces`: literals and free parts, put together
//! - `strings`, `integers`: the regexes of values

mod integers;
mod pieces;
mod reduce;
mod strings;
#[cfg(test)]
mod tests;

use std::io;

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{Formatter, Serializer};

use super::error::ConstraintError;
use super::template::Template;

/// What stands between two elements of an array and two properties of an object.
pub(super) const ITEM_SEPARATOR: &str = ", ";
/// What stands between a property's name and its value.
pub(super) const KEY_SEPARATOR: &str = ": ";

/// A JSON schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct JsonSchema {
    schema: Value,
}

/// What becomes of a schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reduced {
    /// A template, whose texts all satisfy the schema.
    Template(Template),
    /// No regular language, or one that is not known how to write.
    NotRegular,
}

impl JsonSchema {
    /// Reads a schema: an object, or one of the schemas `true` and `false`.
    ///
    /// # Errors
    /// No such JSON.
    pub fn from_json(json: &[u8]) -> Result<Self, ConstraintError> {
        let refuse = |reason| Err(ConstraintError::JsonSchema { reason });
        match serde_json::from_slice(json) {
            Ok(schema @ (Value::Object(_) | Value::Bool(_))) => Ok(Self { schema }),
            Ok(_) => refuse("expected is an object like {\"type\": \"object\", ...}".into()),
            Err(error) => refuse(format!("it is not JSON: {error}")),
        }
    }

    /// The schema.
    pub fn value(&self) -> &Value {
        &self.schema
    }

    /// The schema as a template. Where a schema leaves open what may follow, less is allowed
    /// than it says: no properties but those it names, integers of up to 18 digits.
    pub fn reduce(&self) -> Reduced {
        let template = reduce::template(&self.schema);
        template.map_or(Reduced::NotRegular, Reduced::Template)
    }
}

/// A value in the one spelling that is used here.
fn spell(value: &Value) -> String {
    let mut text = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut text, Spelling);
    let written = value.serialize(&mut serializer);
    written.expect("a value is written to memory");
    String::from_utf8(text).expect("JSON is UTF-8")
}

struct Spelling;

impl Formatter for Spelling {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        writer.write_all(if first {
            b""
        } else {
            ITEM_SEPARATOR.as_bytes()
        })
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.begin_array_value(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(KEY_SEPARATOR.as_bytes())
    }
}
