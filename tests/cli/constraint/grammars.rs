//! JSON schemas and Lark grammars: from tables where they are regular, else stepped on the host.

use super::*;

#[test]
fn regular_json_comes_from_tables() {
    let schema = File::new(
        r#"{"type": "object", "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"enum": ["a", "b", "c"]}, "maxItems": 3},
            "married": {"type": ["boolean", "null"]}},
            "required": ["name", "age", "tags", "married"], "additionalProperties": false}"#,
    );
    for seed in ["1", "2"] {
        let result = tiny(&["--json-schema", &schema.path(), "--seed", seed]);
        let json: Value = serde_json::from_str(text(&result)).unwrap();
        let keys: Vec<_> = json.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["name", "age", "tags", "married"]);
        assert!(json["name"].as_str().unwrap().chars().count() <= 12);
        assert!(json["age"].as_u64().unwrap() <= 150);
        let tags = json["tags"].as_array().unwrap();
        assert!(
            tags.len() <= 3
                && tags
                    .iter()
                    .all(|tag| ["a", "b", "c"].contains(&tag.as_str().unwrap()))
        );
        assert!(json["married"].is_boolean() || json["married"].is_null());
        let constraint = &result["constraint"];
        assert_eq!(
            (&constraint["kind"], &constraint["path"]),
            (&json!("json_schema"), &json!("device"))
        );
        assert!(
            constraint["forced_tokens"].as_u64().unwrap() > 8,
            "{constraint}"
        );
    }
}

/// A list in a list in a list: no finite automaton counts the brackets.
#[test]
fn recursive_json_comes_from_a_grammar_on_the_host() {
    let schema = File::new(
        r##"{"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "object", "properties": {
            "leaf": {"type": "boolean"},
            "more": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 1}},
            "required": ["leaf", "more"], "additionalProperties": false}}}"##,
    );
    fn is_tree(json: &Value) -> bool {
        json["leaf"].is_boolean() && json["more"].as_array().unwrap().iter().all(is_tree)
    }
    for seed in ["1", "2"] {
        let result = tiny(&["--json-schema", &schema.path(), "--seed", seed]);
        let constraint = &result["constraint"];
        assert_eq!(constraint["path"], "host");
        for count in ["states", "classes", "table_bytes"] {
            assert_eq!(constraint[count], Value::Null);
        }
        assert_eq!(constraint["complete"], true, "{result}");
        let json: Value = serde_json::from_str(text(&result)).unwrap();
        assert!(is_tree(&json), "{json}");
    }
}

#[test]
fn a_lark_grammar_is_followed() {
    let grammar = File::new("start: pair\npair: \"(\" (pair | /[0-9]/)? \")\"\n");
    for seed in ["1", "2"] {
        let result = tiny(&[
            "--lark",
            &grammar.path(),
            "--seed",
            seed,
            "--max-tokens",
            "200",
        ]);
        let written = text(&result);
        let half = written.find(|c| c != '(').unwrap();
        let inner = written[half..].trim_end_matches(')');
        assert!(
            inner.len() <= 1 && inner.bytes().all(|b| b.is_ascii_digit()),
            "{written}"
        );
        assert_eq!(
            written,
            format!("{}{inner}{}", "(".repeat(half), ")".repeat(half))
        );
        assert_eq!(result["constraint"]["kind"], "lark");
        assert_eq!(result["constraint"]["path"], "host");
        assert_eq!(result["stop"], "eos");
        let endless = tiny(&[
            "--lark",
            &grammar.path(),
            "--seed",
            seed,
            "--max-tokens",
            "200",
            "--ignore-eos",
        ]);
        assert_eq!(endless["stop"], "constraint");
        assert_eq!(endless["text"], result["text"]);
    }
}
