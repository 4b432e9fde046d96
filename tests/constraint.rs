//! Constraints with the vocabularies they are meant for: Qwen3's, and the demo model's with what
//! that model writes.

mod qwen3;

use std::ops::ControlFlow;
use std::sync::LazyLock;

use onegrid::constraint::json_schema::JsonSchema;
use onegrid::constraint::molecule::{COORDINATE, Molecule};
use onegrid::constraint::template::Template;
use onegrid::constraint::{Allowed, CacheUse, Compiler, Constraint, Source, Tables};
use onegrid::engine::cpu::{CpuEngine, CpuOptions};
use onegrid::engine::{DecodeRequest, Engine};
use onegrid::model::tokenizer::{SpecialTokens, Tokenizer};
use onegrid::model::{self, TokenId};
use onegrid::sampling::SamplingParams;

/// Rows of Qwen3's embedding; its tokenizer has 151,669 tokens.
const PADDED: usize = 151_936;
/// What the tables of everyday constraints may take.
const MOST_BYTES: usize = 500_000;
/// What they may take to compile. (It takes a hundredth of that; other tests run meanwhile.)
const MOST_MS: f64 = 1000.0;

static QWEN3: LazyLock<Tokenizer> = LazyLock::new(|| qwen3::tokenizer().padded_to(PADDED));
static COMPILER: LazyLock<Compiler<'static>> =
    LazyLock::new(|| Compiler::new(&QWEN3, &[end_of_turn()]).unwrap());

fn end_of_turn() -> TokenId {
    QWEN3.token_id("<|im_end|>").unwrap()
}

fn compiled(source: &Source) -> Constraint {
    COMPILER.compile(source).unwrap()
}

fn regex(pattern: &str) -> Source {
    Source::Regex(pattern.to_owned())
}

/// Whether the tables take the tokenizer's own tokens of `text`, and then the end.
fn takes(tables: &Tables, text: &str) -> bool {
    let tokens = QWEN3.encode(text, false).unwrap();
    let state = (tokens.iter()).fold(tables.start(), |state, &token| tables.next(state, token));
    tables.allows(state, end_of_turn())
}

/// A JSON string's contents, and an object that holds one.
const CHARACTERS: &str = r#"([^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*"#;

#[test]
fn everyday_constraints_are_small_and_soon_compiled() {
    let point = serde_json::json!([
        {"literal": "<"}, {"slot": "x", "regex": COORDINATE},
        {"literal": ","}, {"slot": "y", "regex": COORDINATE},
        {"literal": ","}, {"slot": "z", "regex": COORDINATE},
        {"literal": ">"}
    ]);
    let point = Template::from_json(point.to_string().as_bytes()).unwrap();
    let molecule = Molecule::new("CC(C)Cc1ccc(cc1)C(C)C(=O)NCc1ccc(F)c(OC)c1").unwrap();
    let object = format!(r#"\{{"name": "{CHARACTERS}", "age": (0|[1-9][0-9]*)\}}"#);
    // As a schema has them too, and any character with or without escapes.
    let string = format!("\"{}\"", CHARACTERS.replace(")*", "){0,100}"));
    let schema = |json: &str| Source::JsonSchema(JsonSchema::from_json(json.as_bytes()).unwrap());
    let person = r#"{"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"], "additionalProperties": false}"#;
    let email = r"[a-zA-Z0-9._%+-]+@([a-zA-Z0-9-]+\.)+[a-zA-Z]{2,8}";
    COMPILER.vocabulary().unwrap();
    for (source, fitting, other) in [
        (
            Source::Template(point),
            "<0.1234,12.0000,3.1415>",
            "<0.123,1.0000,1.0000>",
        ),
        (
            Source::Molecule(molecule),
            "",
            "[CONFORMER][C]<0.0000,0.0000,0.0000>[/CONFORMER]",
        ),
        (
            regex(&object),
            r#"{"name": "Zoë \"原\" 🧪", "age": 41}"#,
            r#"{"name": "Zoë", "age": 041}"#,
        ),
        (
            schema(person),
            r#"{"name": "Zoë", "age": 41}"#,
            r#"{"name": "Zoë", "age": 4.1}"#,
        ),
        (
            regex(&string),
            r#""Der schnelle \u00fcber-Fuchs 🦊.""#,
            r#""one"two""#,
        ),
        (
            schema(r#"{"type": "string", "maxLength": 100}"#),
            // Its quote is forced, and the tokenizer would join it to the letters.
            "",
            r#""one"two""#,
        ),
        (regex(email), "jane.doe+x@mail.example.org", "jane@example"),
    ] {
        let constraint = compiled(&source);
        let tables = constraint.tables().unwrap();
        assert!(
            tables.bytes() <= MOST_BYTES,
            "{source:?}: {}",
            tables.bytes()
        );
        assert!(
            constraint.compile_ms <= MOST_MS,
            "{source:?}: {}",
            constraint.compile_ms
        );
        assert!(fitting.is_empty() || takes(tables, fitting), "{fitting}");
        assert!(!takes(tables, other), "{other}");
    }
}

#[test]
fn neither_padding_nor_special_tokens_are_text() {
    let tables = compiled(&regex("(?s).+"));
    let tables = tables.tables().unwrap();
    let allowed: Vec<TokenId> = (0..PADDED as TokenId)
        .filter(|&token| tables.allows(tables.start(), token))
        .collect();
    // Below the added tokens; some ordinary ones are bytes that begin no character.
    assert!(allowed.len() > 150_000 && allowed.iter().all(|&token| token < 151_643));
    assert_eq!(tables.allowed(tables.start()), Allowed::Many);
}

#[test]
fn a_cache_gives_the_same_tables_to_another_compiler() {
    let folder = tempfile::tempdir().unwrap();
    let source = regex(r"-?[0-9]+\.[0-9]{4}");
    let compile = || {
        let compiler = Compiler::new(&QWEN3, &[end_of_turn()]).unwrap();
        compiler.with_cache(folder.path()).compile(&source).unwrap()
    };
    let (first, second) = (compile(), compile());
    assert_eq!(
        (&first.cache, &second.cache),
        (&CacheUse::Written, &CacheUse::Read)
    );
    assert_eq!(first.tables(), second.tables());
}

/// Greedy answers of the demo model, without a constraint.
fn answers(
    tokenizer: &Tokenizer,
    weights: model::Weights,
    molecules: &[&str],
) -> Vec<Vec<TokenId>> {
    let options = CpuOptions::new(500, 1);
    let mut engine = CpuEngine::new(weights, &options).unwrap();
    let stop = tokenizer.token_id("<|endoftext|>").unwrap();
    (molecules.iter())
        .map(|smiles| {
            let prompt = tokenizer
                .encode(&format!("[SMILES]{smiles}[/SMILES]"), false)
                .unwrap();
            engine.truncate(0, 0).unwrap();
            engine
                .prefill(0, &prompt, &mut |_| ControlFlow::Continue(()))
                .unwrap();
            let request = DecodeRequest {
                sequence: 0,
                max_tokens: 400,
                sampling: SamplingParams::default(),
                stop_tokens: vec![stop],
                guide: None,
            };
            let mut tokens = Vec::new();
            let mut keep = |decoded: onegrid::engine::Decoded| {
                tokens.push(decoded.token);
                ControlFlow::Continue(())
            };
            engine.decode(&[request], &mut keep).unwrap();
            tokens
        })
        .collect()
}

#[test]
fn the_demos_own_answers_are_within_their_molecules_tables() {
    const MOLECULES: [&str; 8] = [
        "CCO",
        "CC(=O)N",
        "C1CC1CO",
        "CC(C)Cl",
        "c1ccccc1",
        "c1cc[nH]c1",
        "C#CC(=O)O",
        "FC(F)Br",
    ];
    let loaded = model::Source::Demo
        .load(&Default::default(), &mut |_| ())
        .unwrap();
    let tokenizer = Tokenizer::from_files(&loaded.files.unwrap()).unwrap();
    let compiler = Compiler::new(&tokenizer, &[tokenizer.token_id("<|endoftext|>").unwrap()]);
    let compiler = compiler.unwrap();
    let mut signs_of_their_own = 0;
    for (smiles, tokens) in (MOLECULES.iter()).zip(answers(&tokenizer, loaded.weights, &MOLECULES))
    {
        let step = |molecule: Molecule| {
            let tables = compiler
                .compile(&Source::Molecule(molecule))
                .unwrap()
                .tables()
                .cloned()
                .unwrap();
            let state = (tokens.iter()).fold(tables.start(), |state, &t| tables.next(state, t));
            state != Tables::DEAD && tables.allowed(state) == Allowed::Nothing
        };
        let text = tokenizer.decode(&tokens, SpecialTokens::Keep).unwrap();
        let molecule = Molecule::new(smiles).unwrap();
        assert!(step(molecule.clone()), "{smiles}: {text}");
        signs_of_their_own += usize::from(step(molecule.with_marks_apart()));
    }
    // It writes `,-` and `]<-` as one token each, which marks that stand apart don't allow.
    assert!(
        signs_of_their_own < MOLECULES.len(),
        "no answer has a negative number"
    );
}
