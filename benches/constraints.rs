//! What it costs to compile constraints for Qwen3's vocabulary, and to step their tables.
//!
//! `cargo bench --bench constraints [-- FILTER]`. The sizes of the tables are printed first.
//! `vocabulary` is the trie that all constraints of a tokenizer share; the table's milliseconds are those
//! of a first constraint without it, and `compile/...` is one more of the same form, whose literals and
//! small automata are known; `step/...` is one [`Tables::next`] of a token that is allowed.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use onegrid::constraint::molecule::{COORDINATE, Molecule};
use onegrid::constraint::template::Template;
use onegrid::constraint::vocabulary::Vocabulary;
use onegrid::constraint::{Allowed, Compiler, Source, StateId, Tables};
use onegrid::model::TokenId;

#[path = "../tests/qwen3/mod.rs"]
mod qwen3;

/// Rows of Qwen3's embedding.
const ROWS: usize = 151_936;

/// 25 heavy atoms.
const MOLECULE: &str = "CC(C)Cc1ccc(cc1)C(C)C(=O)NCc1ccc(F)c(OC)c1";

fn constraints() -> Vec<(&'static str, Source)> {
    let point = serde_json::json!([
        {"literal": "<"}, {"slot": "x", "regex": COORDINATE},
        {"literal": ","}, {"slot": "y", "regex": COORDINATE},
        {"literal": ","}, {"slot": "z", "regex": COORDINATE},
        {"literal": ">"}
    ]);
    let point = Template::from_json(point.to_string().as_bytes()).unwrap();
    let molecule = Molecule::new(MOLECULE).unwrap();
    let regex = |pattern: &str| Source::Regex(pattern.to_owned());
    const STRING: &str = r#""([^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*""#;
    vec![
        ("coordinate", Source::Template(point)),
        ("molecule", Source::Molecule(molecule.clone())),
        (
            "molecule, marks apart",
            Source::Molecule(molecule.with_marks_apart()),
        ),
        (
            "object",
            regex(&format!(
                r#"\{{"name": {STRING}, "age": (0|[1-9][0-9]*)\}}"#
            )),
        ),
        (
            "string of 100, escapes",
            regex(&STRING.replace("*\"", "{0,100}\"")),
        ),
        ("string of 100, ASCII", regex(r#""[ -!#-\[\]-~]{0,100}""#)),
        ("string of 100, plain", regex(r#""[^"\\\x00-\x1f]{0,100}""#)),
        (
            "e-mail",
            regex(
                r"[A-Za-z0-9._%+-]{1,32}@[A-Za-z0-9-]{1,32}(\.[A-Za-z0-9-]{1,16}){0,3}\.[A-Za-z]{2,8}",
            ),
        ),
    ]
}

/// A way through the tables from the start, by the lowest token each time where that goes on.
fn path(tables: &Tables) -> Vec<(StateId, TokenId)> {
    let mut path = Vec::new();
    let mut state = tables.start();
    while path.len() < 64 {
        let token = match tables.allowed(state) {
            Allowed::Forced(token) => token,
            Allowed::Few(tokens) => tokens[path.len() % tokens.len()],
            Allowed::Many => (0..ROWS as TokenId)
                .find(|&token| tables.allows(state, token))
                .unwrap(),
            Allowed::Nothing => break,
        };
        path.push((state, token));
        state = tables.next(state, token);
    }
    path
}

fn compile(criterion: &mut Criterion) {
    let tokenizer = qwen3::tokenizer().padded_to(ROWS);
    let end = tokenizer.token_id("<|im_end|>").unwrap();
    let compiler = Compiler::new(&tokenizer, &[end]).unwrap();
    compiler.vocabulary().unwrap();
    println!(
        "constraint                  states  classes   forced      few     many     bytes        ms"
    );
    for (name, source) in constraints() {
        let constraint = compiler.compile(&source).unwrap();
        let tables = constraint.tables().unwrap();
        let kinds = |kind: u16| (tables.state_rows().iter().filter(|row| row.kind == kind)).count();
        println!(
            "{name:<24} {:>9} {:>8} {:>8} {:>8} {:>8} {:>9} {:>9.2}",
            tables.states(),
            tables.classes(),
            kinds(1),
            kinds(2),
            kinds(3),
            tables.bytes(),
            constraint.compile_ms,
        );
    }

    let mut group = criterion.benchmark_group("compile");
    group.sample_size(10);
    for (name, source) in constraints() {
        group.bench_function(name, |bencher| {
            bencher.iter(|| compiler.compile(&source).unwrap());
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("step");
    for (name, source) in constraints() {
        let constraint = compiler.compile(&source).unwrap();
        let tables = constraint.tables().unwrap();
        let path = path(tables);
        let mut steps = path.iter().cycle();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let &(state, token) = steps.next().unwrap();
                tables.next(black_box(state), black_box(token))
            });
        });
    }
    group.finish();

    criterion.bench_function("vocabulary", |bencher| {
        bencher.iter(|| Vocabulary::of(&tokenizer).unwrap());
    });
}

criterion_group!(benches, compile);
criterion_main!(benches);
