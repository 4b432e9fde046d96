use super::method::Method;
use super::points::{Lengths, holding, of_conformers, pieces};
use super::prompts;
use super::*;
use crate::experiment::ExperimentError;
use crate::model::tokenizer::Tokenizer;

/// How often points and coordinates have how many tokens.
fn lengths(pieces: &[&str]) -> [Vec<(usize, usize)>; 2] {
    let mut lengths = Lengths::default();
    lengths.add(pieces);
    let pairs = |histogram: points::Histogram| histogram.into_iter().collect();
    [lengths.points, lengths.coordinates].map(pairs)
}

#[test]
fn tokens_are_counted_between_the_marks_of_a_point() {
    let text = [
        "[C", "]<", "1", ".", "25", ",-", "0", ",", "3", "ab", ">[", "O", "]<-", "1", ">",
    ];
    // 1 . 25 ,- 0 , 3 ab: eight tokens, of which two hold a comma; then a point of one.
    assert_eq!(
        lengths(&text),
        [vec![(1, 1), (8, 1)], vec![(1, 2), (2, 1), (3, 1)]]
    );
    // What does not end is no point.
    assert_eq!(lengths(&["<", "1", ",", "2"]), [vec![], vec![]]);
    // A token that ends one and begins the next.
    assert_eq!(
        lengths(&["<", "1", "><", "2", "3", ">"])[0],
        [(1, 1), (2, 1)]
    );
}

#[test]
fn the_fitted_length_is_the_most_common_one() {
    let mut lengths = Lengths::default();
    assert_eq!(lengths.most_common_point(), None);
    lengths.points.extend([(3, 2), (4, 5), (7, 5)]);
    assert_eq!(lengths.most_common_point(), Some(4));
}

#[test]
fn a_sign_in_front_is_a_token_of_its_own_between_copied_marks() {
    let tokenizer = demo();
    let pieces = pieces(&tokenizer).unwrap();
    let of = |conformer: &str| of_conformers([conformer], &tokenizer, &pieces).unwrap();
    let points = |conformer: &str| of(conformer).points.into_iter().collect::<Vec<_>>();
    assert_eq!(points("[C]<0.0000,-1.0000,2.0000>"), [(20, 1)]);
    assert_eq!(points("[C]<-0.0000,-1.0000,2.0000>"), [(21, 1)]);
    assert_eq!(points("[C]<0.0,0.0,0.0>[C]<1.5,0.0,0.0>"), [(11, 2)]);
}

#[test]
fn blocked_tokens_are_those_that_hold_a_mark() {
    let texts = ["1", "]<", "->", "C", ",-"].map(String::from);
    assert_eq!(holding(&texts, "<>"), [1, 2]);
}

#[test]
fn what_is_no_molecule_is_refused_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("heldout.txt");
    let line = "[SMILES]CO[/SMILES][CONFORMER][C]<0,0,0>[O]<1,0,0>[/CONFORMER]";
    std::fs::write(&path, format!("{line}\n{line}\n")).unwrap();
    let found = prompts::read(&path).unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].prompt(), "[SMILES]CO[/SMILES]");
    assert_eq!(found[0].conformer, "[C]<0,0,0>[O]<1,0,0>");
    std::fs::write(&path, format!("{line}\n[SMILES]CO[/SMILES]\n")).unwrap();
    let message = prompts::read(&path).unwrap_err().to_string();
    assert!(message.contains("line 2"), "{message}");
    let missing = prompts::read(&folder.path().join("none.txt")).unwrap_err();
    let message = missing.to_string();
    assert!(
        message.contains("experiments/molecules/README.md"),
        "{message}"
    );
}

#[test]
fn the_plan_names_its_cells_by_model_and_temperature() {
    let experiment = open(KIND.plan, &Setting::default()).unwrap();
    let ids: Vec<_> = experiment.cells().into_iter().map(|cell| cell.id).collect();
    assert_eq!(ids[..2], ["qwen3/greedy", "qwen3/temperature-1"]);
    assert_eq!(ids.len(), 8);
    for (from, to) in [("rounds = 2", "rounds = 0"), ("\"llama\"", "\"qwen3\"")] {
        let plan = KIND.plan.replace(from, to);
        let refused = open(&plan, &Setting::default()).err();
        assert!(
            matches!(refused, Some(ExperimentError::Plan { .. })),
            "{to}"
        );
    }
}

fn demo() -> Tokenizer {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo");
    Tokenizer::from_path(folder.as_ref()).unwrap()
}

#[test]
fn methods_have_their_names_in_plans() {
    for method in [
        Method::None,
        Method::Position,
        Method::PositionTruncate,
        Method::PositionFitted,
        Method::Automaton,
    ] {
        let json = serde_json::to_value(method).unwrap();
        assert_eq!(json, method.name());
    }
}
