//! The model that is used where none is named.

use super::*;

#[test]
fn generate_completes_a_molecule() {
    let args = [
        "generate",
        "--prompt",
        "[SMILES]CCO[/SMILES]",
        "--format",
        "json",
    ];
    let result = json_of(onegrid(&args));
    assert_eq!(result["stop"], "eos");
    let text = result["text"].as_str().unwrap();
    assert!(
        text.starts_with("[CONFORMER]") && text.ends_with("[/CONFORMER]"),
        "{text}"
    );
}

#[test]
fn it_is_part_of_the_program_and_needs_no_folder() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = onegrid(&["generate", "--prompt", "[SMILES]CCO[/SMILES]"]);
    command.current_dir(folder.path());
    assert_says(&stdout(command), &["[CONFORMER]", "[/CONFORMER]\n"]);
}

/// The molecule that an answer spells: the text without its points and brackets.
fn molecule(answer: &Value) -> String {
    let text = answer["text"].as_str().unwrap();
    let text = text.strip_prefix("[CONFORMER]").unwrap();
    let text = text.strip_suffix("[/CONFORMER]").unwrap();
    let mut inside = false;
    let kept = text.chars().filter(|&c| {
        inside |= c == '<';
        let kept = !inside && c != '[' && c != ']';
        inside &= c != '>';
        kept
    });
    kept.collect()
}

#[test]
fn chat_answers_each_molecule_as_if_it_were_the_first() {
    let answers = |lines: &str| -> Vec<Value> {
        let mut command = onegrid(&["chat", "--format", "json"]);
        command.write_stdin(lines);
        let answers = stdout(command);
        let answers = answers.lines();
        answers
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let talk = answers("CCO\nCC(=O)N\n");
    let molecules: Vec<_> = talk.iter().map(molecule).collect();
    assert_eq!(molecules, ["CCO", "CC(=O)N"]);
    let alone = answers("CC(=O)N\n");
    let prompt_tokens = |answer: &Value| answer["stats"]["prompt_tokens"].clone();
    assert_eq!(prompt_tokens(&talk[1]), prompt_tokens(&alone[0]));
}

#[test]
fn tokenize_knows_its_tokens() {
    let args = [
        "tokenize",
        "--text",
        "[SMILES]CO[/SMILES]",
        "--format",
        "json",
    ];
    let result = json_of(onegrid(&args));
    assert_eq!(result["pieces"], json!(["[SMILES]", "C", "O", "[/SMILES]"]));
}
