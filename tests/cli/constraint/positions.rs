//! Masks by position.

use super::*;

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
