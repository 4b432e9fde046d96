//! `onegrid tokenize`.

use super::*;

fn tokenize(args: &[&str]) -> Command {
    on_tiny("tokenize", args)
}

#[test]
fn text_goes_to_tokens_and_back() {
    let text = "Zürich <0.0000,-1.5> 🪿<|im_end|>\n x";
    let result = json_of(tokenize(&["--text", text, "--format", "json"]));
    let pieces = result["pieces"].as_array().unwrap();
    let tokens = result["tokens"].as_array().unwrap();
    assert_eq!(pieces.len(), tokens.len());
    let joined: String = pieces.iter().map(|piece| piece.as_str().unwrap()).collect();
    assert_eq!(joined, text);
    assert!(pieces.contains(&json!("<|im_end|>")));
    let ids: Vec<_> = tokens.iter().map(ToString::to_string).collect();
    let back = json_of(tokenize(&["--ids", &ids.join(","), "--format", "json"]));
    assert_eq!(back["text"], text);
    let back = stdout(tokenize(&["--ids", &ids.join(", ")]));
    assert_eq!(back, format!("{text}\n"));
}

#[test]
fn a_line_for_each_token_without_json() {
    let mut piped = tokenize(&[]);
    piped.write_stdin("Hello, world!\n");
    let lines = "9707\t\"Hello\"\n11\t\",\"\n1879\t\" world\"\n0\t\"!\"\n";
    assert_eq!(stdout(piped), lines);
}

#[test]
fn ids_outside_the_vocabulary_are_an_error() {
    let message = error(tokenize(&["--ids", "64,151669"]), 1);
    assert_says(&message, &["token 151669", "151668"]);
    assert_says(&error(tokenize(&["--ids", "64,-1"]), 2), &["--ids"]);
    let none = error(
        onegrid(&["tokenize", "--model", "random:tiny", "--text", "a"]),
        1,
    );
    assert_says(&none, &["random:tiny has no tokenizer", "--tokenizer"]);
}
