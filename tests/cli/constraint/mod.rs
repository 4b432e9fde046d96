//! What the flags for constraints make of a text.
//!
//! - `grammars`: JSON schemas and Lark grammars
//! - `positions`: masks by position
//! - `refused`: what is wrong with a constraint

mod grammars;
mod positions;
mod refused;

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
