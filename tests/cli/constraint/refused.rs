//! Constraints that are refused, with the reason.

use super::*;

#[test]
fn a_regex_that_no_automaton_follows_is_refused_by_name() {
    for (pattern, expected) in [
        ("a(?=b)", "look-around"),
        ("(?<!a)b", "look-around"),
        (r"(a)\1", "a back-reference"),
        (r"\bword", "Unicode word boundary"),
        ("a(b", "unclosed group"),
        ("[z-a]", "range"),
        ("", "the regex is empty"),
        ("[a&&b]", "matches nothing"),
        (r"a\zb", "matches nothing"),
    ] {
        assert_says(
            &refused(&["--regex", pattern]),
            &["error: --regex", expected],
        );
    }
}

#[test]
fn a_constraint_beyond_the_limit_is_refused_with_both_numbers() {
    let message = refused(&["--regex", r"(?:\w{1,200}\s){200}"]);
    assert_says(&message, &["--regex", "needs more than", "the limit is"]);
    let message = refused(&["--regex", "[ab]{70000}"]);
    assert_says(&message, &["--regex", "65534"]);
}

#[test]
fn a_budget_below_the_shortest_match_is_refused_with_both_numbers() {
    let message = refused(&["--regex", "[0-9]{30}", "--max-tokens", "29"]);
    assert_says(&message, &["30 tokens", "--max-tokens is 29"]);
    let result = tiny(&["--regex", "[0-9]{30}", "--max-tokens", "30"]);
    assert_eq!(
        (&result["stop"], &result["constraint"]["complete"]),
        (&json!("length"), &json!(true))
    );
    let message = refused(&["--regex", "[0-9]{30}", "--context", "20"]);
    assert_says(&message, &["30 tokens", "20 positions", "40960"]);
    // Without --max-tokens there are as many as it takes.
    let result = tiny(&["--regex", "[0-9]{300}"]);
    assert_eq!(text(&result).len(), 300);
}

#[test]
fn a_literal_that_the_tokenizer_changes_is_refused() {
    let file = File::new("[{\"literal\": \"e\u{301}\"}, {\"slot\": \"x\", \"regex\": \"a\"}]");
    let message = refused(&["--template", &file.path()]);
    assert_says(
        &message,
        &[
            "--template",
            &file.path(),
            "can't be spelled",
            "lost or changed",
        ],
    );
}

#[test]
fn a_file_that_is_not_what_its_flag_expects_is_named() {
    let flags = ["--template", "--position-mask", "--json-schema", "--lark"];
    for flag in flags {
        assert_says(
            &refused(&[flag, "/no/such/file"]),
            &[flag, "/no/such/file", "cannot read", "No such file"],
        );
    }
    for (flag, content, expected) in [
        (
            "--template",
            "not JSON",
            ["expected ident", "a list of {\"literal\""],
        ),
        (
            "--template",
            r#"[{"literal": "a", "text": "b"}]"#,
            ["unknown field `text`", "a list of"],
        ),
        (
            "--template",
            r#"[{"slot": "a"}]"#,
            ["segment 1 is neither", "\"regex\""],
        ),
        ("--template", "[]", ["the template is empty", ""]),
        (
            "--template",
            r#"[{"slot": "a", "regex": "(?=b)"}]"#,
            ["regex of slot 'a'", "look-around"],
        ),
        ("--position-mask", "{", ["EOF", "expected is {\"truncate\""]),
        (
            "--position-mask",
            r#"{"positions": [], "more": 1}"#,
            ["unknown field `more`", "\"positions\""],
        ),
        (
            "--position-mask",
            r#"{"positions": []}"#,
            ["list of positions is empty", ""],
        ),
        (
            "--position-mask",
            r#"{"positions": [{"copy": [999999]}]}"#,
            ["token 999999", "outside"],
        ),
        (
            "--position-mask",
            r#"[{"slot": "a", "regex": "b"}]"#,
            ["slot 'a' has no placeholder", ""],
        ),
        ("--json-schema", "{", ["it is not JSON", "EOF"]),
        ("--json-schema", "[]", ["expected is an object", ""]),
        ("--lark", " \n", ["the Lark grammar is empty", ""]),
        (
            "--lark",
            "start: nothing",
            ["Lark grammar is not valid", "nothing"],
        ),
        ("--lark", "start: \"a", ["Lark grammar is not valid", ""]),
    ] {
        let file = File::new(content);
        let message = refused(&[flag, &file.path()]);
        assert_says(
            &message,
            &[&["error: ", flag, &file.path()], &expected[..]].concat(),
        );
    }
}

#[test]
fn schemas_that_nothing_can_follow_are_refused_by_name() {
    for (schema, expected) in [
        (
            r#"{"type": "object", "properties": {"a": {"not": {"type": "null"}}}}"#,
            "\"not\"",
        ),
        (
            r#"{"type": "array", "items": {"type": "null"}, "uniqueItems": true}"#,
            "\"uniqueItems\"",
        ),
        (r#"{"if": {}, "then": {}}"#, "\"if\""),
        (r#"{"type": "word"}"#, "word"),
        (
            r#"{"type": "string", "minLength": 3, "maxLength": 2}"#,
            "minLength",
        ),
        (
            r#"{"type": "integer", "minimum": 3, "maximum": 2}"#,
            "minimum",
        ),
        (r#"{"enum": []}"#, "empty"),
        ("false", "false"),
        (r##"{"$ref": "#/$defs/none"}"##, "none"),
        (
            r#"{"$ref": "https://example.com/schema.json"}"#,
            "https://example.com/schema.json",
        ),
        (
            r#"{"oneOf": [{"type": "integer"}, {"type": "number"}]}"#,
            "oneOf",
        ),
    ] {
        let file = File::new(schema);
        let message = refused(&["--json-schema", &file.path()]);
        assert_says(
            &message,
            &["--json-schema", &file.path(), "can't be followed", expected],
        );
    }
}

#[test]
fn a_smiles_that_is_none_is_refused_with_the_place() {
    assert_says(
        &refused(&["--molecule", "CC(C"]),
        &["--molecule", "character 3", "not closed"],
    );
}

#[test]
fn constraints_exclude_each_other() {
    let both = ["generate", "--regex", "a", "--molecule", "C"];
    assert_says(
        &error(onegrid(&both), 2),
        &["--regex", "cannot be used with", "--molecule"],
    );
    let alone = ["generate", "--regex", "a", "--truncate"];
    assert_says(
        &error(onegrid(&alone), 2),
        &["--truncate", "--position-mask"],
    );
}
