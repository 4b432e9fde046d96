//! What the flags for constraints make of a text.

use std::path::PathBuf;

use regex::Regex;
use tempfile::TempDir;

use super::*;

/// A point of a molecule's text.
const POINT: &str = r"<-?\d+\.\d{4},-?\d+\.\d{4},-?\d+\.\d{4}>";

/// The command with tables kept in a folder that goes when it has ended.
fn alone(mut command: Command, run: impl FnOnce(Command) -> String) -> String {
    let cache = tempfile::tempdir().unwrap();
    command.env("ONEGRID_CACHE", cache.path());
    run(command)
}

fn result_of(command: Command) -> Value {
    serde_json::from_str(&alone(command, stdout)).unwrap()
}

/// A small random model that writes a short text at random.
fn tiny(args: &[&str]) -> Value {
    let all = [
        "--prompt",
        "Hello",
        "--temperature",
        "1",
        "--format",
        "json",
    ];
    result_of(on_tiny("generate", &[&all[..], args].concat()))
}

fn refused(args: &[&str]) -> String {
    let all = [&["--prompt", "Hello"], args].concat();
    alone(on_tiny("generate", &all), |command| error(command, 1))
}

/// The demo model on a prompt.
fn demo(args: &[&str]) -> Value {
    let all = ["generate", "--threads", "1", "--format", "json"];
    result_of(onegrid(&[&all[..], args].concat()))
}

struct File {
    folder: TempDir,
}

impl File {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), text).unwrap();
        Self { folder }
    }

    fn path(&self) -> String {
        self.path_buf().to_str().unwrap().to_owned()
    }

    fn path_buf(&self) -> PathBuf {
        self.folder.path().join("file")
    }
}

fn text(result: &Value) -> &str {
    result["text"].as_str().unwrap()
}

#[track_caller]
fn assert_matches(pattern: &str, text: &str) {
    let whole = Regex::new(&format!(r"\A(?:{pattern})\z")).unwrap();
    assert!(whole.is_match(text), "{pattern} on {text:?}");
}

#[test]
fn the_whole_text_matches_the_regex() {
    let pattern = r"-?(?:ab|[0-9]{2,4}-[a-zé]{1,9})!";
    for seed in ["1", "2"] {
        let result = tiny(&["--regex", pattern, "--seed", seed]);
        assert_matches(pattern, text(&result));
        assert_eq!(result["stop"], "eos");
        assert_eq!(result["constraint"]["complete"], true);
        // Without an end token the text ends where nothing can follow.
        let endless = tiny(&["--regex", pattern, "--seed", seed, "--ignore-eos"]);
        assert_matches(pattern, text(&endless));
        assert_eq!(endless["stop"], "constraint");
        assert_eq!(endless["constraint"]["complete"], true);
    }
}

#[test]
fn json_says_what_the_constraint_did() {
    let result = tiny(&["--regex", "[ab]{3}ccc[a-z]{40}", "--ignore-eos"]);
    let constraint = &result["constraint"];
    let fields: Vec<&String> = constraint.as_object().unwrap().keys().collect();
    assert_eq!(
        fields,
        [
            "kind",
            "path",
            "states",
            "classes",
            "table_bytes",
            "compile_ms",
            "forced_tokens",
            "gathered_steps",
            "full_steps",
            "complete"
        ]
    );
    assert_eq!(constraint["kind"], "regex");
    assert_eq!(constraint["path"], "device");
    for count in ["states", "classes", "table_bytes"] {
        assert!(constraint[count].as_u64().unwrap() > 1, "{constraint}");
    }
    let steps = ["forced_tokens", "gathered_steps", "full_steps"];
    let steps = steps.map(|step| constraint[step].as_u64().unwrap());
    assert!(steps[1] > 0 && steps[2] > 0, "{constraint}");
    let tokens = result["tokens"].as_array().unwrap().len() as u64;
    assert_eq!(steps.iter().sum::<u64>(), tokens);
}

#[test]
fn a_text_that_the_limit_cuts_is_not_complete() {
    let result = tiny(&["--regex", "[a-z]+!", "--max-tokens", "5"]);
    assert_matches("[a-z]+", text(&result));
    assert_eq!(result["stop"], "length");
    assert_eq!(result["constraint"]["complete"], false);
}

#[test]
fn a_template_fills_its_slots() {
    let template = File::new(
        r#"[{"literal": "name: "}, {"slot": "name", "regex": "[A-Z][a-z]{1,8}"},
            {"literal": "; age: "}, {"slot": "age", "regex": "\\d{1,3}"}, {"literal": "."}]"#,
    );
    for seed in ["1", "2"] {
        let result = tiny(&["--template", &template.path(), "--seed", seed]);
        assert_matches(r"name: [A-Z][a-z]{1,8}; age: \d{1,3}\.", text(&result));
        assert_eq!(result["constraint"]["kind"], "template");
        let forced = result["constraint"]["forced_tokens"].as_u64().unwrap();
        assert!(forced >= 6, "{result}");
    }
}

#[test]
fn a_molecule_keeps_its_atoms_and_bonds() {
    let points = Regex::new(POINT).unwrap();
    for smiles in ["CCO", "CC(=O)Nc1ccc(O)cc1", "C[C@H](N)C(=O)O"] {
        let prompt = format!("[SMILES]{smiles}[/SMILES]");
        let result = demo(&["--prompt", &prompt, "--molecule", smiles]);
        let written = text(&result);
        assert_eq!(result["stop"], "eos");
        let atoms = smiles.matches(|c: char| "CNOcno".contains(c)).count();
        assert_eq!(points.find_iter(written).count(), atoms, "{written}");
        let rest = points.replace_all(written, "");
        let bare = |text: &str| text.replace(['[', ']'], "");
        assert_eq!(bare(&rest), format!("CONFORMER{}/CONFORMER", bare(smiles)));
        let constraint = &result["constraint"];
        assert_eq!(
            (&constraint["kind"], &constraint["complete"]),
            (&json!("molecule"), &json!(true))
        );
        assert!(constraint["forced_tokens"].as_u64().unwrap() as usize > 2 * atoms);
    }
}

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

#[test]
fn a_position_mask_has_as_many_tokens_as_it_says() {
    let mask = File::new(
        r#"{"positions": [{"copy": [58, 34]}, {"free": 4, "until": "\\d"}, {"copy": [93]}]}"#,
    );
    let path = mask.path();
    let full = tiny(&["--position-mask", &path]);
    assert_eq!(full["tokens"].as_array().unwrap().len(), 8);
    let tokens = full["tokens"].as_array().unwrap();
    assert_eq!(
        (&tokens[0], &tokens[1], &tokens[6]),
        (&json!(58), &json!(34), &json!(93))
    );
    assert_eq!(full["constraint"]["kind"], "position");
    // Truncated where the first token of the run is a digit already.
    let template = File::new(
        r#"[{"literal": "x = "}, {"slot": "x", "regex": "[a-zA-Z0-9 ]+", "placeholder": "0.0000"},
            {"literal": ";"}]"#,
    );
    let path = template.path();
    let tokens = |args: &[&str]| {
        let result = tiny(&[&["--position-mask", &path][..], args].concat());
        assert_eq!(result["constraint"]["complete"], true);
        result["tokens"].as_array().unwrap().len()
    };
    let full = tokens(&[]);
    let shortest = (1..8)
        .map(|seed| tokens(&["--truncate", "--seed", &seed.to_string()]))
        .min();
    assert!(shortest.unwrap() < full, "{shortest:?} of {full}");
}

#[test]
fn a_position_mask_of_ids_needs_no_tokenizer() {
    let mask = File::new(r#"{"positions": [{"copy": [7]}, {"free": 3, "allowed": [1, 2]}]}"#);
    let path = mask.path();
    let all = [
        "generate",
        "--model",
        "random:tiny",
        "--prompt-tokens",
        "1",
        "--format",
        "json",
    ];
    let result = result_of(onegrid(&[&all[..], &["--position-mask", &path]].concat()));
    let tokens: Vec<u64> = (result["tokens"].as_array().unwrap().iter())
        .map(|token| token.as_u64().unwrap())
        .collect();
    assert_eq!(
        (tokens.len(), tokens[0], result["stop"].as_str()),
        (4, 7, Some("constraint"))
    );
    assert!(tokens[1..].iter().all(|token| [1, 2].contains(token)));
    let until = File::new(r#"{"truncate": true, "positions": [{"free": 3, "until": "a"}]}"#);
    let until = until.path();
    for (args, what) in [
        (["--regex", "a"], "the regex needs a tokenizer"),
        (["--molecule", "CCO"], "the molecule needs a tokenizer"),
        (
            ["--position-mask", &until],
            "regex of run 1 needs a tokenizer",
        ),
    ] {
        let command = onegrid(&[&all[..], &args].concat());
        let message = alone(command, |command| error(command, 1));
        assert_says(&message, &[what, "--tokenizer", "position mask"]);
    }
}

/// Engines differ in the last bits of their logits, which a long text from random weights, with its
/// many tokens that are nearly as likely as each other, would show.
#[test]
fn every_engine_writes_the_same_and_every_time() {
    let lark = File::new("start: \"[\" (start | /[0-9]{2,4}/) \"]\"\n");
    let lark = lark.path();
    let schema = File::new(
        r#"{"type": "object", "properties": {"a": {"type": "string", "maxLength": 5},
            "b": {"type": "integer"}}, "required": ["a", "b"]}"#,
    );
    let schema = schema.path();
    let same_on_both = |tokens: &dyn Fn(&str) -> Value| {
        let first = tokens("cpu");
        assert!(first.as_array().unwrap().len() > 3, "{first}");
        assert_eq!(tokens("cpu"), first);
        assert_eq!(tokens("reference"), first);
    };
    for constraint in [
        ["--regex", "[a-z]{3,6} [0-9]{3,6}x"],
        ["--json-schema", &schema],
        ["--lark", &lark],
    ] {
        same_on_both(&|device| {
            let args = ["--max-tokens", "20", "--seed", "5", "--device", device];
            tiny(&[&args[..], &constraint].concat())["tokens"].clone()
        });
    }
    same_on_both(&|device| {
        let args = ["--prompt", "[SMILES]CCO[/SMILES]", "--molecule", "CCO"];
        demo(&[&args[..], &["--device", device]].concat())["tokens"].clone()
    });
}

#[test]
fn chat_answers_what_the_constraint_allows() {
    let args = [
        "chat",
        "--threads",
        "1",
        "--format",
        "json",
        "--molecule",
        "CCO",
    ];
    let mut command = onegrid(&args);
    command.write_stdin("CCO\nCCO\n");
    let answers = alone(command, stdout);
    let answers: Vec<Value> = answers
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(answers.len(), 2);
    for answer in answers {
        assert_eq!(answer["constraint"]["complete"], true);
        assert_matches(
            &format!(r"\[CONFORMER\]\[C\]{POINT}\[C\]{POINT}\[O\]{POINT}\[/CONFORMER\]"),
            text(&answer),
        );
    }
    let args = ["chat", "--molecule", "CCO", "--max-tokens", "5"];
    let message = alone(onegrid(&args), |command| error(command, 1));
    assert_says(&message, &["shortest text", "--max-tokens is 5"]);
}

#[test]
fn tables_are_kept_for_the_next_time() {
    let cache = tempfile::tempdir().unwrap();
    let run = |folder: &Path| {
        let args = [
            "generate", "--prompt", "a", "--regex", "[ab]{4}", "--format", "json",
        ];
        let mut command = onegrid(&args);
        command.env("ONEGRID_CACHE", folder);
        command.assert().success().get_output().clone()
    };
    let first = run(cache.path());
    let kept: Vec<_> = std::fs::read_dir(cache.path().join("constraints"))
        .unwrap()
        .collect();
    assert_eq!(kept.len(), 1);
    let again = run(cache.path());
    let tokens = |output: &std::process::Output| -> Value {
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["tokens"].clone()
    };
    assert_eq!(tokens(&first), tokens(&again));
    // Where they can't be kept the text is written all the same.
    let file = File::new("");
    let output = run(&file.path_buf());
    assert_eq!(tokens(&output), tokens(&first));
    assert_says(
        &String::from_utf8(output.stderr).unwrap(),
        &["note: ", "not kept"],
    );
}

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
