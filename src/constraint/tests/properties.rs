//! Random regexes and templates against the regex crate.

use proptest::prelude::*;

use super::*;
use crate::constraint::vocabulary::Vocabulary;
use crate::model::tokenizer::SpecialTokens;

/// The tokens of `bytes`, cut as `choices` say.
fn segmented(vocabulary: &Vocabulary, bytes: &[u8], choices: &[usize]) -> Vec<TokenId> {
    let mut tokens = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let fitting: Vec<TokenId> = (vocabulary.tokens().iter().copied())
            .filter(|&token| rest.starts_with(vocabulary.bytes().get(token)))
            .collect();
        let choice = choices[tokens.len() % choices.len()];
        let token = fitting[choice % fitting.len()];
        tokens.push(token);
        rest = &rest[vocabulary.bytes().get(token).len()..];
    }
    tokens
}

/// A text that the tables allow, as `choices` say, if it comes to an end.
fn written(tables: &Tables, end: TokenId, choices: &[usize]) -> Option<Vec<TokenId>> {
    const LONGEST: usize = 60;
    let mut tokens = Vec::new();
    let mut state = tables.start();
    while tokens.len() < LONGEST {
        let allowed: Vec<TokenId> = (0..tables.vocab_size() as TokenId)
            .filter(|&token| tables.allows(state, token))
            .collect();
        let choice = choices[tokens.len() % choices.len()];
        let token = allowed[choice % allowed.len()];
        if token == end {
            return Some(tokens);
        }
        tokens.push(token);
        state = tables.next(state, token);
    }
    None
}

fn whole_match(pattern: &str) -> ::regex::Regex {
    ::regex::Regex::new(&format!(r"\A(?:{pattern})\z")).unwrap()
}

/// What patterns are made of: characters that the vocabularies have tokens of, and classes.
const LEAVES: [&str; 20] = [
    "a", "b", "c", "ab", "1", "2", "0", r"\.", "é", "原", "<", r"\d", "[a-c]", "[^a]", ".", r"\n",
    "[é-原]", "(?i:aB)", r"\w", "[^<é]",
];
/// Assertions that an automaton can check, alone and beside something.
const ASSERTIONS: [&str; 6] = ["^a", "b$", r"\A", r"(?-u:\b)", "(?m:^)", "(?m:$)"];

fn patterns(leaves: &[&'static str]) -> impl Strategy<Value = String> + use<> {
    let leaf = prop::sample::select(leaves.to_vec()).prop_map(str::to_owned);
    let counts = ["*", "+", "?", "{2}", "{1,3}", "*?", "{0,2}"];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(|parts| parts.concat()),
            prop::collection::vec(inner.clone(), 2..4)
                .prop_map(|parts| format!("(?:{})", parts.join("|"))),
            (inner, prop::sample::select(counts.to_vec()))
                .prop_map(|(part, count)| format!("(?:{part}){count}")),
        ]
    })
}

fn texts() -> impl Strategy<Value = String> {
    let parts = prop::sample::select(vec![
        "a", "b", "c", "ab", "1", "2", "0", ".", "é", "原", "<", "\n", "B", "x", " ",
    ]);
    prop::collection::vec(parts, 0..6).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn tables_accept_what_the_regex_crate_matches_however_it_is_cut(
        pattern in patterns(&[&LEAVES[..], &ASSERTIONS[..]].concat()),
        texts in prop::collection::vec(texts(), 8),
        choices in prop::collection::vec(any::<usize>(), 1..8),
    ) {
        let matches = whole_match(&pattern);
        for tokenizer in [&*BYTE_LEVEL, &*SENTENCE_PIECE] {
            let tables = match compiled(tokenizer, &regex(&pattern)) {
                Ok(tables) => tables,
                Err(ConstraintError::MatchesNothing { .. } | ConstraintError::OnlyEmpty { .. }) => {
                    for text in texts.iter().filter(|text| !text.is_empty()) {
                        prop_assert!(!matches.is_match(text), "{pattern} matches {text:?}");
                    }
                    continue;
                }
                Err(error) => panic!("{pattern}: {error}"),
            };
            let vocabulary = Vocabulary::of(tokenizer).unwrap();
            for text in &texts {
                let tokens = segmented(&vocabulary, text.as_bytes(), &choices);
                prop_assert_eq!(
                    accepts(&tables, &tokens),
                    matches.is_match(text),
                    "{} on {:?}", pattern, text
                );
            }
            if let Some(tokens) = written(&tables, end(tokenizer), &choices) {
                let text = String::from_utf8(vocabulary.bytes().concat(&tokens)).unwrap();
                prop_assert!(matches.is_match(&text), "{} wrote {:?}", pattern, text);
            }
        }
    }

    #[test]
    fn a_template_accepts_its_parts_one_after_the_other(
        first in patterns(&LEAVES),
        second in patterns(&LEAVES),
        literal in prop::sample::select(vec!["a", "ab<", "1", "é", ""]),
        choices in prop::collection::vec(any::<usize>(), 1..8),
    ) {
        let slot = |name: &str, regex: &str| serde_json::json!({"slot": name, "regex": regex});
        let mut segments = vec![slot("first", &first), slot("second", &second)];
        if !literal.is_empty() {
            segments.insert(1, serde_json::json!({"literal": literal}));
        }
        let json = serde_json::Value::Array(segments).to_string();
        let tokenizer = &*BYTE_LEVEL;
        if let Ok(tables) = compiled(tokenizer, &template(&json)) {
            if let Some(tokens) = written(&tables, end(tokenizer), &choices) {
                let text = tokenizer.decode(&tokens, SpecialTokens::Keep).unwrap();
                let whole = format!("(?:{first}){}(?:{second})", ::regex::escape(literal));
                prop_assert!(whole_match(&whole).is_match(&text), "{} wrote {:?}", whole, text);
            }
            let part = |pattern: &str| {
                let tables = compiled(tokenizer, &regex(pattern)).ok()?;
                written(&tables, end(tokenizer), &choices)
            };
            if let (Some(mut tokens), Some(second)) = (part(&first), part(&second)) {
                tokens.extend(tokenizer.encode(literal, false).unwrap());
                tokens.extend(second);
                prop_assert!(accepts(&tables, &tokens), "{json} refuses {tokens:?}");
            }
        }
    }
}
