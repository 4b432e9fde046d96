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
fn chat_answers_with_a_molecule() {
    let mut command = onegrid(&["chat"]);
    command.write_stdin("CCO\n");
    assert_says(&stdout(command), &["[CONFORMER]", "[/CONFORMER]\n"]);
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
