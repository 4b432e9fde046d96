//! Where literals and slots meet.

use super::*;
use crate::constraint::molecule::Molecule;
use crate::constraint::template::Segment;
use crate::model::tokenizer::SpecialTokens;

/// All token sequences that the tables allow, as texts.
fn language(tables: &Tables, tokenizer: &Tokenizer) -> Vec<Vec<String>> {
    let mut open = vec![(tables.start(), Vec::new())];
    let mut found = Vec::new();
    while let Some((state, texts)) = open.pop() {
        for token in 0..tables.vocab_size() as TokenId {
            let next = tables.next(state, token);
            let mut texts = texts.clone();
            if token == end(tokenizer) && next != Tables::DEAD {
                found.push(texts);
            } else if next != Tables::DEAD {
                texts.push(tokenizer.decode(&[token], SpecialTokens::Keep).unwrap());
                open.push((next, texts));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn segments_meet_between_tokens_and_a_slot_may_end_or_go_on() {
    let tokenizer = test_vocabulary::only(&["a", "b", "aa", "ab", "aab"]);
    let json = r#"[{"slot": "x", "regex": "a{1,2}"}, {"literal": "ab"}]"#;
    let tables = compiled(&tokenizer, &template(json)).unwrap();
    // "ab" has no merge here, so the literal's own tokens are "a" and "b".
    let expected = [
        vec!["a", "a", "a", "b"],
        vec!["a", "a", "b"],
        vec!["aa", "a", "b"],
    ];
    assert_eq!(language(&tables, &tokenizer), expected);
    // Slots beside each other.
    let json = r#"[{"slot": "x", "regex": "a?"}, {"slot": "y", "regex": "a|b"}]"#;
    let tables = compiled(&tokenizer, &template(json)).unwrap();
    let expected = [vec!["a"], vec!["a", "a"], vec!["a", "b"], vec!["b"]];
    assert_eq!(language(&tables, &tokenizer), expected);
}

#[test]
fn a_joined_slot_may_share_a_token_with_the_literal_before_it() {
    let tokenizer = test_vocabulary::demo();
    let slot = |joined: bool| {
        template(&format!(
            r#"[{{"literal": "1,"}}, {{"slot": "x", "regex": "-?2", "joined": {joined}}}]"#
        ))
    };
    let tables = compiled(&tokenizer, &slot(false)).unwrap();
    let apart = [vec!["1", ",", "-", "2"], vec!["1", ",", "2"]];
    assert_eq!(language(&tables, &tokenizer), apart);
    let tables = compiled(&tokenizer, &slot(true)).unwrap();
    let joined = [&apart[..], &[vec!["1", ",-", "2"]]].concat();
    assert_eq!(language(&tables, &tokenizer), joined);
}

#[test]
fn a_molecule_takes_four_decimals_after_every_atom_and_nothing_else() {
    let tokenizer = test_vocabulary::demo();
    let molecule = Molecule::new("CO").unwrap().with_marks_apart();
    let template = molecule.template();
    let tables = compiled(&tokenizer, &Source::Molecule(molecule)).unwrap();
    for (number, fits) in [
        ("-12.3456", true),
        ("0.0000", true),
        ("0.000", false),
        ("0.00000", false),
        ("+1.0000", false),
        ("\u{663}.0000", false),
    ] {
        let mut tokens = Vec::new();
        for segment in template.segments() {
            let text = match segment {
                Segment::Literal(text) => text,
                Segment::Slot(_) => number,
            };
            tokens.extend(tokenizer.encode(text, false).unwrap());
        }
        assert_eq!(accepts(&tables, &tokens), fits, "{number}");
    }
    let many = |row: &StateRow| row.kind == StateRow::MANY;
    assert!(!tables.state_rows().iter().any(many));
}
