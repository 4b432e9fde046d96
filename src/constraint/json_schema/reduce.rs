//! From a schema to a template, where there is one.
//!
//! `None` everywhere means: not a regular language, not one known here, or no schema at all. What
//! it is, whoever takes over has to say.

use serde_json::{Map, Value};

use super::pieces::{Pieces, Start, one_of};
use super::{ITEM_SEPARATOR, KEY_SEPARATOR, integers, spell, strings};
use crate::constraint::template::Template;

/// Keywords that say nothing of what a value is.
const ANNOTATIONS: [&str; 12] = [
    "$comment",
    "$defs",
    "$id",
    "$schema",
    "default",
    "definitions",
    "deprecated",
    "description",
    "examples",
    "readOnly",
    "title",
    "writeOnly",
];
/// An array of so many elements at most is written out, so that what stands between them is
/// literal.
const MOST_ELEMENTS_WRITTEN_OUT: u64 = 16;
/// Bytes of a regex above which the schema is better followed on the host.
const MOST_PATTERN_BYTES: usize = 1 << 18;
/// Schemas that are looked at, those behind references each time they are named.
const MOST_SCHEMAS: usize = 10_000;
/// Nesting above which the regex parser gives up.
const MOST_DEPTH: usize = 48;
/// 16 digits before the point and behind it are more than an f64 holds.
const NUMBER: &str = r"-?(?:0|[1-9][0-9]{0,15})(?:\.[0-9]{1,16})?(?:[eE][+-]?[0-9]{1,2})?";

type Schema = Map<String, Value>;

/// The template of `schema`.
pub fn template(schema: &Value) -> Option<Template> {
    let mut reduction = Reduction {
        root: schema,
        references: Vec::new(),
        schemas: 0,
        depth: 0,
    };
    let pieces = reduction.schema(schema, "")?;
    pieces.into_template().ok()
}

struct Reduction<'s> {
    root: &'s Value,
    /// The references that are being followed.
    references: Vec<&'s str>,
    schemas: usize,
    depth: usize,
}

impl<'s> Reduction<'s> {
    /// `at`: the JSON pointer of the value.
    fn schema(&mut self, schema: &'s Value, at: &str) -> Option<Pieces> {
        self.schemas += 1;
        self.depth += 1;
        if self.schemas > MOST_SCHEMAS || self.depth > MOST_DEPTH {
            return None;
        }
        let pieces = self.keywords(schema.as_object()?, at)?;
        self.depth -= 1;
        Some(pieces)
    }

    fn keywords(&mut self, schema: &'s Schema, at: &str) -> Option<Pieces> {
        let only = |allowed: &[&str]| {
            let mut others = schema.keys().filter(|key| !allowed.contains(&key.as_str()));
            others.all(|key| ANNOTATIONS.contains(&key.as_str()))
        };
        if let Some(reference) = schema.get("$ref") {
            let pieces = only(&["$ref"]).then(|| self.reference(reference.as_str()?, at));
            return pieces.flatten();
        }
        if let Some(value) = schema.get("const") {
            let is_typed = only(&["const", "type"]) && is_of_type(value, schema);
            return is_typed.then(|| Pieces::of_literal(&spell(value)));
        }
        if let Some(values) = schema.get("enum") {
            let values = values.as_array().filter(|_| only(&["enum", "type"]))?;
            let values = values.iter().filter(|value| is_of_type(value, schema));
            return alternatives(values.map(|value| Pieces::of_literal(&spell(value))), at);
        }
        for keyword in ["anyOf", "oneOf"] {
            if let Some(schemas) = schema.get(keyword) {
                let schemas = schemas.as_array().filter(|_| only(&[keyword]))?;
                if keyword == "oneOf" && !exclude_each_other(schemas) {
                    return None;
                }
                let all = schemas.iter().map(|schema| self.schema(schema, at));
                return alternatives(all.collect::<Option<Vec<_>>>()?, at);
            }
        }
        let mut known = vec!["type"];
        let mut all = Vec::new();
        for kind in types(schema)? {
            let (keywords, pieces) = self.typed(kind, schema, at)?;
            known.extend(keywords);
            all.push(pieces);
        }
        only(&known).then(|| alternatives(all, at)).flatten()
    }

    /// A value of one type, and the keywords that were heeded.
    fn typed(
        &mut self,
        kind: &str,
        schema: &'s Schema,
        at: &str,
    ) -> Option<(&'static [&'static str], Pieces)> {
        let name = if at.is_empty() { "(root)" } else { at };
        let free = |pattern: String| Pieces::of_pattern(name, pattern, Start::Joined);
        Some(match kind {
            "null" => (&[], Pieces::of_literal("null")),
            "boolean" => (&[], free("true|false".into())),
            "number" => (&[], free(NUMBER.into())),
            "integer" => {
                let (low, high) = integers::bounds(schema)?;
                let keywords = &["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];
                (keywords, free(integers::range(low, high)))
            }
            "string" => (
                &["minLength", "maxLength", "pattern"],
                string(schema, name)?,
            ),
            "array" => (
                &["items", "minItems", "maxItems"],
                self.array(schema, at, name)?,
            ),
            "object" => (
                &["properties", "required", "additionalProperties"],
                self.object(schema, at, name)?,
            ),
            _ => return None,
        })
    }

    /// A reference within the schema, which is written out where it is named.
    fn reference(&mut self, reference: &'s str, at: &str) -> Option<Pieces> {
        // A schema within itself is what no finite automaton follows.
        if self.references.contains(&reference) {
            return None;
        }
        let schema = self.root.pointer(reference.strip_prefix('#')?)?;
        self.references.push(reference);
        let pieces = self.schema(schema, at)?;
        self.references.pop();
        Some(pieces)
    }

    fn array(&mut self, schema: &'s Schema, at: &str, name: &str) -> Option<Pieces> {
        let least = count(schema, "minItems")?.unwrap_or(0);
        let most = count(schema, "maxItems")?;
        if most.is_some_and(|most| most < least) {
            return None;
        }
        let mut pieces = Pieces::of_literal("[");
        let items = schema.get("items");
        if most == Some(least) && least <= MOST_ELEMENTS_WRITTEN_OUT {
            for element in 0..least {
                pieces.literal(if element == 0 { "" } else { ITEM_SEPARATOR });
                pieces.append(self.schema(items?, &format!("{at}/{element}"))?);
            }
        } else if most != Some(0) {
            let item = self.schema(items?, &format!("{at}/0"))?.pattern();
            let more = match (least.saturating_sub(1), most) {
                (fewest, None) => format!("{{{fewest},}}"),
                (fewest, Some(most)) => format!("{{{fewest},{}}}", most - 1),
            };
            let or_none = if least == 0 { "?" } else { "" };
            let separated = format!("(?:{item}(?:{ITEM_SEPARATOR}{item}){more}){or_none}");
            pieces.free(name, &bounded(separated)?, Start::Joined);
        }
        pieces.literal("]");
        Some(pieces)
    }

    /// The properties that are named, in their order; those that are not required may lack.
    fn object(&mut self, schema: &'s Schema, at: &str, name: &str) -> Option<Pieces> {
        let open = schema.get("additionalProperties");
        if open.is_some_and(|open| open != &Value::Bool(false)) {
            return None;
        }
        let named = match schema.get("properties") {
            Some(properties) => Some(properties.as_object()?),
            // An object of which nothing is said is any object.
            None if open.is_none() => return None,
            None => None,
        };
        let required = match schema.get("required") {
            Some(required) => required.as_array()?.iter().map(Value::as_str).collect(),
            None => Some(Vec::new()),
        }?;
        let is_named = |name: &&str| named.is_some_and(|named| named.contains_key(*name));
        if !required.iter().all(is_named) {
            return None;
        }
        let mut properties = Vec::new();
        for (key, schema) in named.into_iter().flatten() {
            let escaped = key.replace('~', "~0").replace('/', "~1");
            let mut pieces = Pieces::of_literal(&spell(&Value::from(key.as_str())));
            pieces.literal(KEY_SEPARATOR);
            let at = format!("{at}/{escaped}");
            pieces.append(self.schema(schema, &at)?);
            properties.push(Property {
                at,
                pieces,
                required: required.contains(&key.as_str()),
            });
        }
        let mut pieces = Pieces::of_literal("{");
        pieces.append(joined(&properties, name)?);
        pieces.literal("}");
        Some(pieces)
    }
}

struct Property {
    /// Its JSON pointer, by which a slot of it is named.
    at: String,
    /// Its name and its value.
    pieces: Pieces,
    required: bool,
}

/// `properties` and what stands between them.
fn joined(properties: &[Property], name: &str) -> Option<Pieces> {
    let mut pieces = Pieces::default();
    let Some(certain) = properties.iter().position(|property| property.required) else {
        if !properties.is_empty() {
            pieces.free(name, &any_of(properties)?, Start::Joined);
        }
        return Some(pieces);
    };
    for optional in &properties[..certain] {
        let pattern = optional.pieces.pattern();
        let before = format!("(?:{pattern}{ITEM_SEPARATOR})?");
        pieces.free(&optional.at, &bounded(before)?, Start::Joined);
    }
    pieces.append(properties[certain].pieces.clone());
    for property in &properties[certain + 1..] {
        if property.required {
            pieces.literal(ITEM_SEPARATOR);
            pieces.append(property.pieces.clone());
        } else {
            let pattern = property.pieces.pattern();
            let behind = format!("(?:{ITEM_SEPARATOR}{pattern})?");
            pieces.free(&property.at, &bounded(behind)?, Start::Apart);
        }
    }
    Some(pieces)
}

/// Any of `properties`, of which none is required, in their order.
fn any_of(properties: &[Property]) -> Option<String> {
    let patterns: Vec<String> = (properties.iter())
        .map(|property| property.pieces.pattern())
        .collect();
    // Every one of them may come first, and all behind it are written again.
    let bytes: usize = patterns.iter().map(String::len).sum();
    if bytes * properties.len() > MOST_PATTERN_BYTES {
        return None;
    }
    let beginning_with = |first: usize| {
        let mut pattern = patterns[first].clone();
        for other in &patterns[first + 1..] {
            pattern += &format!("(?:{ITEM_SEPARATOR}{other})?");
        }
        pattern
    };
    let mut ways: Vec<String> = (0..patterns.len()).map(beginning_with).collect();
    ways.push(String::new());
    Some(one_of(&ways))
}

fn string(schema: &Schema, name: &str) -> Option<Pieces> {
    let least = count(schema, "minLength")?.unwrap_or(0);
    let most = count(schema, "maxLength")?;
    let pattern = match schema.get("pattern") {
        None if most.is_some_and(|most| most < least) => return None,
        None if most == Some(0) => String::new(),
        None => strings::of_length(least, most),
        // Both at once would be the intersection of two regexes.
        Some(_) if least > 0 || most.is_some() => return None,
        Some(pattern) => strings::containing(pattern.as_str()?)?,
    };
    let mut pieces = Pieces::of_literal("\"");
    if !pattern.is_empty() {
        pieces.free(name, &bounded(pattern)?, Start::Apart);
    }
    pieces.literal("\"");
    Some(pieces)
}

/// One of `all`.
fn alternatives(all: impl IntoIterator<Item = Pieces>, at: &str) -> Option<Pieces> {
    let mut all: Vec<Pieces> = all.into_iter().collect();
    match all.len() {
        0 => None,
        1 => all.pop(),
        _ => {
            let name = if at.is_empty() { "(root)" } else { at };
            let patterns: Vec<String> = all.iter().map(Pieces::pattern).collect();
            let pattern = bounded(one_of(&patterns))?;
            Some(Pieces::of_pattern(name, pattern, Start::Joined))
        }
    }
}

fn bounded(pattern: String) -> Option<String> {
    (pattern.len() <= MOST_PATTERN_BYTES).then_some(pattern)
}

/// The types that a schema names, or the one that its keywords are about.
fn types(schema: &Schema) -> Option<Vec<&str>> {
    match schema.get("type") {
        Some(Value::String(kind)) => Some(vec![kind]),
        Some(Value::Array(kinds)) => kinds.iter().map(Value::as_str).collect(),
        Some(_) => None,
        None if schema.contains_key("properties") => Some(vec!["object"]),
        None if schema.contains_key("items") => Some(vec!["array"]),
        None => None,
    }
}

/// Whether `value` is of the type that the schema names, if it names one.
fn is_of_type(value: &Value, schema: &Schema) -> bool {
    let is_one_of = |kinds: Vec<&str>| {
        let kind = kind(value);
        kinds.contains(&kind) || kind == "integer" && kinds.contains(&"number")
    };
    !schema.contains_key("type") || types(schema).is_some_and(is_one_of)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Whether a value can satisfy only one of `schemas`, as far as their types tell.
fn exclude_each_other(schemas: &[Value]) -> bool {
    let mut seen: Vec<&str> = Vec::new();
    schemas.iter().all(|schema| {
        let values = match (schema.get("const"), schema.get("enum")) {
            (Some(value), _) => vec![value],
            (None, Some(values)) => values.as_array().into_iter().flatten().collect(),
            (None, None) => Vec::new(),
        };
        let kinds: Vec<&str> = match schema.as_object() {
            Some(_) if !values.is_empty() => values.into_iter().map(kind).collect(),
            Some(schema) if schema.contains_key("type") => types(schema).unwrap_or_default(),
            _ => Vec::new(),
        };
        // Every integer is a number.
        let mut kinds: Vec<&str> = (kinds.into_iter())
            .map(|kind| if kind == "integer" { "number" } else { kind })
            .collect();
        kinds.sort_unstable();
        kinds.dedup();
        let is_new = !kinds.is_empty() && kinds.iter().all(|kind| !seen.contains(kind));
        seen.extend(kinds);
        is_new
    })
}

/// A keyword that is a count: `Some(None)` if it is absent, `None` if it is no count.
fn count(schema: &Schema, keyword: &str) -> Option<Option<u64>> {
    match schema.get(keyword) {
        None => Some(None),
        Some(value) => value.as_u64().map(Some),
    }
}
