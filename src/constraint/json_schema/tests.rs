//! What schemas become.

use serde_json::{Value, json};

use super::*;
use crate::constraint::template::Segment;

fn reduced(schema: &Value) -> Option<Template> {
    let schema = JsonSchema::from_json(schema.to_string().as_bytes()).unwrap();
    match schema.reduce() {
        Reduced::Template(template) => Some(template),
        Reduced::NotRegular => None,
    }
}

/// The whole template as a regex.
fn regex(schema: &Value) -> regex::Regex {
    let template = reduced(schema).unwrap_or_else(|| panic!("not regular: {schema}"));
    let parts = template.segments().iter().map(|segment| match segment {
        Segment::Literal(text) => regex_syntax::escape(text),
        Segment::Slot(slot) => format!("(?:{})", slot.regex),
    });
    regex::Regex::new(&format!(r"\A(?:{})\z", parts.collect::<String>())).unwrap()
}

#[test]
fn the_keys_of_an_object_are_literal_runs() {
    let schema = json!({"type": "object", "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "place": {"type": "object", "properties": {"city": {"const": "Rome"}},
            "required": ["city"]},
    }, "required": ["name", "age", "place"], "additionalProperties": false});
    let template = reduced(&schema).unwrap();
    let literals: Vec<&str> = (template.segments().iter())
        .filter_map(|segment| match segment {
            Segment::Literal(text) => Some(text.as_str()),
            Segment::Slot(_) => None,
        })
        .collect();
    assert_eq!(
        literals,
        [
            r#"{"name": ""#,
            r#"", "age": "#,
            r#", "place": {"city": "Rome"}}"#
        ]
    );
    assert_eq!(template.segments().len(), 5);
}

/// Texts in the spelling that is used here: those that satisfy a schema match, others don't.
#[test]
fn templates_match_what_satisfies_their_schema() {
    for (schema, valid, invalid) in [
        (
            json!({"type": "string"}),
            vec![r#""""#, r#""é\n\u00e9\ud83d\ude00""#],
            vec![
                "\"\n\"",
                r#""\x""#,
                r#""\ud800""#,
                r#""""#.get(..1).unwrap(),
            ],
        ),
        (
            json!({"type": "string", "minLength": 2, "maxLength": 3}),
            vec![r#""ab""#, r#""\"\\\n""#, "\"\u{1F600}\u{1F600}\""],
            vec![r#""a""#, r#""abcd""#],
        ),
        (
            json!({"type": "string", "pattern": r#"^[\w"-]+\d$"#}),
            vec![r#""ab\"-1""#, r#""_9""#],
            vec![r#""ab"1""#, r#""é1""#, r#""a""#, r#""a١""#],
        ),
        (
            json!({"type": "string", "pattern": "b+"}),
            vec![r#""b""#, r#""\nabbc""#],
            vec![r#""ac""#],
        ),
        (
            json!({"type": ["number", "null"]}),
            vec!["null", "-1.5e-3", "0", "12"],
            vec!["01", "1.", ".5", "+1", "nul"],
        ),
        (
            json!({"enum": ["a\"", 1, null, [1, {"b": 2}]]}),
            vec![r#""a\"""#, "1", "null", r#"[1, {"b": 2}]"#],
            vec!["2", r#"[1,{"b":2}]"#],
        ),
        (
            json!({"enum": ["a", 1], "type": "integer"}),
            vec!["1"],
            vec![r#""a""#],
        ),
        (
            json!({"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3}),
            vec!["[true]", "[true, false, true]"],
            vec!["[]", "[true, true, true, true]", "[true,true]", "[true, ]"],
        ),
        (
            json!({"items": {"type": "integer"}}),
            vec!["[]", "[1]", "[1, -2, 3]"],
            vec!["[1 2]", "[,]"],
        ),
        (
            json!({"type": "array", "items": {"type": "null"}, "minItems": 2, "maxItems": 2}),
            vec!["[null, null]"],
            vec!["[null]", "[null, null, null]"],
        ),
        (
            json!({"type": "array", "items": {"type": "null"}, "maxItems": 0}),
            vec!["[]"],
            vec!["[null]"],
        ),
        (
            json!({"oneOf": [{"type": "integer"}, {"type": "string", "maxLength": 1}]}),
            vec!["5", r#""a""#],
            vec!["true"],
        ),
        (
            json!({"properties": {"a": {"type": "null"}, "b": {"type": "null"}, "c": {"const": 1}}}),
            vec![
                "{}",
                r#"{"a": null}"#,
                r#"{"b": null, "c": 1}"#,
                r#"{"a": null, "c": 1}"#,
                r#"{"a": null, "b": null, "c": 1}"#,
            ],
            vec![
                r#"{"b": null, "a": null}"#,
                r#"{"a": null, }"#,
                r#"{"d": 1}"#,
            ],
        ),
        (
            json!({"properties": {"a": {"type": "null"}, "b": {"type": "null"}, "c": {"const": 1}},
                "required": ["b"]}),
            vec![
                r#"{"b": null}"#,
                r#"{"a": null, "b": null}"#,
                r#"{"b": null, "c": 1}"#,
                r#"{"a": null, "b": null, "c": 1}"#,
            ],
            vec!["{}", r#"{"a": null}"#, r#"{, "b": null}"#],
        ),
        (
            json!({"$ref": "#/$defs/pair", "$defs": {"pair": {"type": "array", "minItems": 2,
                "maxItems": 2, "items": {"$ref": "#/$defs/bit"}}, "bit": {"enum": [0, 1]}}}),
            vec!["[0, 1]"],
            vec!["[2, 1]", "[0]"],
        ),
        (
            json!({"type": "object", "additionalProperties": false}),
            vec!["{}"],
            vec![r#"{"a": 1}"#],
        ),
    ] {
        let regex = regex(&schema);
        for text in valid {
            assert!(regex.is_match(text), "{schema} on {text}");
            serde_json::from_str::<Value>(text).unwrap();
        }
        for text in invalid {
            assert!(!regex.is_match(text), "{schema} on {text}");
        }
    }
}

#[test]
fn what_is_not_known_to_be_regular_is_left_to_a_grammar() {
    for schema in [
        json!(true),
        json!({}),
        json!({"type": "object"}),
        json!({"type": "object", "properties": {}, "additionalProperties": true}),
        json!({"type": "array"}),
        json!({"type": "number", "minimum": 0}),
        json!({"type": "string", "format": "date"}),
        json!({"type": "string", "pattern": "a", "maxLength": 3}),
        json!({"type": "string", "pattern": "(?=a)"}),
        json!({"type": "string", "minLength": 3, "maxLength": 2}),
        json!({"type": "integer", "minimum": 3, "maximum": 2}),
        json!({"type": "integer", "not": {"const": 3}}),
        json!({"enum": []}),
        json!({"oneOf": [{"type": "integer"}, {"type": "number"}]}),
        json!({"oneOf": [{"type": "object", "properties": {"a": {"const": 1}}},
            {"type": "object", "properties": {"b": {"const": 1}}}]}),
        json!({"$ref": "#"}),
        json!({"$ref": "#/$defs/none"}),
        json!({"$ref": "other.json"}),
        json!({"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"},
            {"type": "null"}]}}}),
        json!({"type": "object", "properties": {"a": {"const": 1}}, "required": ["b"]}),
    ] {
        assert_eq!(reduced(&schema), None, "{schema}");
    }
}

#[test]
fn a_schema_that_grows_beyond_measure_is_left_to_a_grammar() {
    let mut schema = json!({"type": "boolean"});
    for _ in 0..30 {
        schema = json!({"type": "object", "properties": {"a": schema.clone(), "b": schema}});
        if schema.to_string().len() > 1 << 16 {
            break;
        }
    }
    assert_eq!(reduced(&schema), None);
}
