//! What must hold of every constraint.
//!
//! - `properties`: random regexes and templates against the regex crate
//! - `segments`: where literals and slots meet
//! - `positions`: masks by position

mod positions;
mod properties;
mod segments;

use std::sync::{Arc, LazyLock};

use super::template::Template;
use super::*;
use crate::model::TokenId;
use crate::model::tokenizer::Tokenizer;

/// Texts that a token holds more than one byte of: whole characters, halves of some, and both.
const LONGER: [&str; 11] = [
    "ab", "abc", "ba", "0.", "12", "1a", "é", "a原", "<a", "\n\n", "ééb",
];

static BYTE_LEVEL: LazyLock<Tokenizer> = LazyLock::new(|| {
    let tokenizer = test_vocabulary::byte_level(&LONGER);
    let rows = tokenizer.own_size() + 5;
    tokenizer.padded_to(rows)
});

static SENTENCE_PIECE: LazyLock<Tokenizer> = LazyLock::new(|| {
    test_vocabulary::sentence_piece(&[
        "\u{2581}",
        "a",
        "b",
        "ab",
        "abc",
        "ba",
        "1",
        "2",
        "0",
        "12",
        "\u{2581}a",
        "é",
        "原",
        ".",
        "<",
        "a原",
    ])
});

fn compiled(tokenizer: &Tokenizer, source: &Source) -> Result<Tables, ConstraintError> {
    let compiler = Compiler::new(tokenizer, &[end(tokenizer)]).unwrap();
    let constraint = compiler.compile(source)?;
    assert_eq!(constraint.kind, source.kind());
    let tables = constraint.tables().unwrap();
    check(tables, tokenizer);
    Ok(Tables::clone(tables))
}

fn end(tokenizer: &Tokenizer) -> TokenId {
    (tokenizer.token_id("<end>").or(tokenizer.token_id("</s>")))
        .or(tokenizer.token_id("<|endoftext|>"))
        .unwrap()
}

fn regex(pattern: &str) -> Source {
    Source::Regex(pattern.to_owned())
}

fn template(json: &str) -> Source {
    Source::Template(Template::from_json(json.as_bytes()).unwrap())
}

/// What must hold of all tables.
fn check(tables: &Tables, tokenizer: &Tokenizer) {
    let states = tables.states();
    assert_eq!(tables.vocab_size(), tokenizer.vocab_size());
    let mut distance = vec![usize::MAX; states];
    for state in 0..states as StateId {
        let allowed: Vec<TokenId> = (0..tables.vocab_size() as TokenId + 2)
            .filter(|&token| tables.allows(state, token))
            .collect();
        assert_eq!(tables.count(state), allowed.len());
        match tables.allowed(state) {
            Allowed::Nothing => assert!(allowed.is_empty()),
            Allowed::Forced(token) => assert_eq!(allowed, [token]),
            Allowed::Few(listed) => {
                assert!((2..=64).contains(&listed.len()));
                assert_eq!(allowed, listed);
            }
            Allowed::Many => assert!(allowed.len() > 64),
        }
        assert!(
            (allowed.iter()).all(|&token| (token as usize) < tokenizer.own_size()),
            "padding is allowed"
        );
        let ends = tables.allows(state, end(tokenizer));
        let after_end = tables.allowed(state) == Allowed::Nothing;
        assert_eq!(ends, tables.is_accepting(state) && !after_end);
        if tables.is_accepting(state) {
            distance[usize::from(state)] = 0;
        }
    }
    // From every state a match can be reached.
    for _ in 0..states {
        for state in 0..states {
            let base = tables.state_rows()[state].base;
            let steps = tables.steps_of(state as StateId).iter();
            let next = steps.filter(|&&step| step != 0).map(|&step| base + step);
            if let Some(nearest) = next.map(|next| distance[usize::from(next)]).min() {
                distance[state] = distance[state].min(nearest.saturating_add(1));
            }
        }
    }
    assert!(distance[1..].iter().all(|&distance| distance != usize::MAX));
    assert_eq!(distance[usize::from(tables.start())], tables.shortest());
}

/// Whether the tables take `tokens` as a whole text.
fn accepts(tables: &Tables, tokens: &[TokenId]) -> bool {
    let state = (tokens.iter()).fold(tables.start(), |state, &token| tables.next(state, token));
    tables.is_accepting(state)
}

#[test]
fn what_an_automaton_can_not_match_is_refused_by_name() {
    for (pattern, expected) in [
        ("", "the regex is empty"),
        ("a(?=b)", "uses look-around, which a finite automaton"),
        ("(?<!a)b", "uses look-around"),
        (r"(a)\1", "uses a back-reference"),
        (r"\bword\b", r"uses a Unicode word boundary (\b"),
        ("a(", "the regex is not valid: regex parse error"),
        ("[b-a]", "invalid character class range"),
        ("[a&&b]", "matches nothing"),
        ("a^b", "matches nothing"),
        ("()", "allows nothing but an empty answer"),
        ("a{0}", "allows nothing but an empty answer"),
    ] {
        let message = compiled(&BYTE_LEVEL, &regex(pattern))
            .unwrap_err()
            .to_string();
        assert!(message.contains(expected), "{pattern}: {message}");
    }
    let slot = r#"[{"literal": "a"}, {"slot": "x", "regex": "(a)\\1"}]"#;
    let message = compiled(&BYTE_LEVEL, &template(slot))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("regex of slot 'x' uses a back-reference"),
        "{message}"
    );
}

#[test]
fn limits_are_refused_with_both_numbers() {
    let compile = |pattern: &str, limits: Limits| {
        let compiler = Compiler::new(&BYTE_LEVEL, &[]).unwrap().with_limits(limits);
        compiler.compile(&regex(pattern)).unwrap_err().to_string()
    };
    let all = Limits::default();
    let message = compile("[ab]{100}", Limits { states: 50, ..all });
    assert!(
        message.ends_with("needs more than 48 states; the limit is 48"),
        "{message}"
    );
    let table_bytes = 2000;
    let message = compile("[ab]{100}", Limits { table_bytes, ..all });
    assert!(
        message.contains("bytes of tables; the limit is 2000"),
        "{message}"
    );
    let found: usize = message.split(' ').nth(3).unwrap().parse().unwrap();
    assert!(found > table_bytes, "{message}");
    let automaton_bytes = 100_000;
    let message = compile(
        r"\w{100}",
        Limits {
            automaton_bytes,
            ..all
        },
    );
    assert!(
        message.contains("more than 100000 bytes for the automaton"),
        "{message}"
    );
    // Larger than any number of states: refused too, and soon.
    let message = compile(r"(a|b)*a(a|b){18}", all);
    assert!(message.contains("the limit is"), "{message}");
    let message = compile(r"\w{100000}", all);
    assert!(message.contains("regex"), "{message}");
}

#[test]
fn decoding_never_ends_in_a_corner() {
    // After "a" only "b" and "bc" can follow, and with no token of "c" alone, "ab" is no way to "abc".
    let tokenizer = test_vocabulary::only(&["a", "b", "bc", "d"]);
    let tables = compiled(&tokenizer, &regex("abc|ad")).unwrap();
    let after_a = tables.next(tables.start(), 0);
    assert_eq!(tables.allowed(after_a), Allowed::Few(&[2, 3]));
    assert_eq!(tables.shortest(), 2);
    let message = compiled(&tokenizer, &regex("ax")).unwrap_err().to_string();
    assert!(
        message.contains("nothing that this tokenizer can spell"),
        "{message}"
    );
    // What only some tokens can spell is left out.
    let tables = compiled(&tokenizer, &regex("ax|d")).unwrap();
    assert_eq!(tables.allowed(tables.start()), Allowed::Forced(3));
}

#[test]
fn end_tokens_follow_exactly_what_matches() {
    let tokenizer = test_vocabulary::demo();
    let ends = [263, 267, 263];
    let compile = |pattern: &str, ends: &[TokenId]| {
        let compiler = Compiler::new(&tokenizer, ends).unwrap();
        Arc::clone(compiler.compile(&regex(pattern)).unwrap().tables().unwrap())
    };
    let digit = tokenizer.token_id("1").unwrap();

    // Nothing else can follow: the first end token is forced.
    let tables = compile("1", &ends);
    let matched = tables.next(tables.start(), digit);
    assert!(tables.is_accepting(matched) && !tables.is_accepting(tables.start()));
    assert_eq!(tables.allowed(matched), Allowed::Forced(263));
    let ended = tables.next(matched, 263);
    assert_eq!(tables.allowed(ended), Allowed::Nothing);
    assert!(tables.is_accepting(ended) && ended != Tables::DEAD);

    // Something else can: all of them are allowed.
    let tables = compile("11?", &ends);
    let matched = tables.next(tables.start(), digit);
    assert_eq!(tables.allowed(matched), Allowed::Few(&[digit, 263, 267]));
    assert_eq!(tables.next(matched, 267), tables.next(matched, 263));

    // Without end tokens the text is over when nothing can follow.
    let tables = compile("11?", &[]);
    let matched = tables.next(tables.start(), digit);
    assert_eq!(tables.allowed(matched), Allowed::Forced(digit));
    assert_eq!(
        tables.allowed(tables.next(matched, digit)),
        Allowed::Nothing
    );

    let error = Compiler::new(&tokenizer, &[268]).unwrap_err().to_string();
    assert!(
        error.contains("268") && error.contains("has 268 tokens"),
        "{error}"
    );
}

#[test]
fn added_tokens_are_no_text() {
    let tokenizer = test_vocabulary::demo();
    let tables = compiled(&tokenizer, &regex(r"\[SMILES\]|.+")).unwrap();
    let added = tokenizer.token_id("[SMILES]").unwrap();
    assert!(!tables.allows(tables.start(), added));
    // A literal may hold them.
    let tables = compiled(&tokenizer, &template(r#"[{"literal": "[SMILES]C"}]"#)).unwrap();
    assert_eq!(tables.allowed(tables.start()), Allowed::Forced(added));
}
