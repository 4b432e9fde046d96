//! Masks by position.

use super::*;
use crate::constraint::position::{Copied, Free, Positions, Run};

#[test]
fn position_masks_count_tokens_and_truncation_ends_a_run_that_is_complete() {
    let tokenizer = test_vocabulary::demo();
    let token = |text: &str| tokenizer.token_id(text).unwrap();
    let tokens = |texts: &[&str]| texts.iter().map(|text| token(text)).collect::<Vec<_>>();
    let compiler = Compiler::new(&tokenizer, &[263]).unwrap();
    let json = r#"[{"literal": "<"}, {"slot": "x", "regex": "-?[0-9]+\\.[0-9]{2}",
        "placeholder": "0.00"}, {"literal": ">"}]"#;
    let slots = Template::from_json(json.as_bytes()).unwrap();

    let fixed = compiler.positions(&slots, false).unwrap();
    let tables = compiled(&tokenizer, &Source::Position(fixed)).unwrap();
    assert_eq!(tables.shortest(), 6);
    assert!(accepts(&tables, &tokens(&["<", "1", ".", "2", "3", ">"])));
    assert!(accepts(&tables, &tokens(&["<", "C", "-", "@@", "C", ">"])));
    assert!(!accepts(&tables, &tokens(&["<", "1", ".", "2", ">"])));
    // An answer that is a token shorter than the placeholder gets junk at its end, ...
    assert!(!accepts(
        &tables,
        &tokens(&["<", "-", "1", ".", "2", "3", ">"])
    ));

    // ... and with truncation a complete one ends early.
    let truncated = compiler.positions(&slots, true).unwrap();
    let Run::Free(Free { until, .. }) = &truncated.runs()[1] else {
        panic!("the slot is a free run");
    };
    assert!(until.is_some());
    let runs = vec![
        Run::Copy(Copied {
            tokens: vec![token("<")],
        }),
        Run::Free(Free {
            count: 6,
            allowed: None,
            blocked: Some(vec![token("a")]),
            until: until.clone(),
        }),
        Run::Copy(Copied {
            tokens: vec![token(">")],
        }),
    ];
    let long = Positions::new(runs, true).unwrap();
    let tables = compiled(&tokenizer, &Source::Position(long)).unwrap();
    assert_eq!(tables.shortest(), 6);
    assert!(accepts(&tables, &tokens(&["<", "1", ".", "2", "3", ">"])));
    assert!(accepts(
        &tables,
        &tokens(&["<", "-", "1", ".", "2", "3", ">"])
    ));
    assert!(accepts(
        &tables,
        &tokens(&["<", "C", "C", "C", "C", "C", "C", ">"])
    ));
    assert!(!accepts(
        &tables,
        &tokens(&["<", "1", ".", "2", "3", "4", ">"])
    ));
    assert!(!accepts(
        &tables,
        &tokens(&["<", "a", "C", "C", "C", "C", "C", ">"])
    ));
}

#[test]
fn a_file_of_positions_is_read_or_refused_by_name() {
    let json = r#"{"truncate": true, "positions": [{"copy": [1, 2]},
        {"free": 3, "allowed": [16, 264], "until": "1"}]}"#;
    let positions = Positions::from_json(json.as_bytes()).unwrap();
    assert!(positions.truncates() && positions.runs().len() == 2);
    let tokenizer = test_vocabulary::demo();
    let tables = compiled(&tokenizer, &Source::Position(positions)).unwrap();
    let free = tables.next(tables.next(tables.start(), 1), 2);
    assert_eq!(tables.allowed(free), Allowed::Few(&[16, 264]));
    assert!(accepts(&tables, &[1, 2, 16]) && accepts(&tables, &[1, 2, 264, 16, 264]));

    for (json, expected) in [
        (r#"{"positions": []}"#, "list of positions is empty"),
        (r#"{"positions": [{"copy": []}]}"#, "run 1 copies no token"),
        (r#"{"positions": [{"free": 0}]}"#, "run 1 has no position"),
        (
            r#"{"positions": [{"free": 1, "allowed": [1], "blocked": [2]}]}"#,
            "run 1 has both",
        ),
        (
            r#"{"positions": [{"free": 1, "other": 1}]}"#,
            "did not match any variant",
        ),
        (
            r#"{"positions": [{"copy": [1]}], "other": 1}"#,
            "unknown field `other`",
        ),
        (
            r#"{"positions": [{"copy": [268]}]}"#,
            "outside the tokenizer's 268 tokens",
        ),
        (
            r#"{"positions": [{"copy": [263]}]}"#,
            "token 263 ends a text",
        ),
        (
            r#"{"positions": [{"free": 1, "allowed": []}]}"#,
            "nothing that this tokenizer",
        ),
        (
            r#"{"truncate": true, "positions": [{"free": 1, "until": "("}]}"#,
            "regex of run 1 is not valid",
        ),
    ] {
        let refused = Positions::from_json(json.as_bytes())
            .and_then(|positions| compiled(&tokenizer, &Source::Position(positions)))
            .unwrap_err()
            .to_string();
        assert!(refused.contains(expected), "{json}: {refused}");
    }
}
