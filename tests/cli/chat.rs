//! `onegrid chat`.

use super::*;

fn chat(lines: &str, args: &[&str]) -> Command {
    let mut command = on_tiny("chat", args);
    command.write_stdin(lines);
    command
}

fn answers(lines: &str, args: &[&str]) -> Vec<Value> {
    let answers = stdout(chat(lines, &[&["--format", "json"], args].concat()));
    let answers = answers.lines();
    answers
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn each_line_is_answered_through_the_template() {
    let answers = answers("Hello!\nWhy?\n", &["--max-tokens", "3"]);
    assert_eq!(answers.len(), 2);
    // What transformers renders of the first message.
    let rendered = std::fs::read(fixture("chat/single_user.json")).unwrap();
    let rendered: Value = serde_json::from_slice(&rendered).unwrap();
    let tokens = rendered["tokens"].as_array().unwrap();
    assert_eq!(answers[0]["stats"]["prompt_tokens"], tokens.len());
    let ids: Vec<_> = tokens.iter().map(ToString::to_string).collect();
    let args = [
        "--prompt-tokens",
        &ids.join(","),
        "--max-tokens",
        "3",
        "--format",
        "json",
    ];
    assert_eq!(
        json_of(on_tiny("generate", &args))["tokens"],
        answers[0]["tokens"]
    );
    let second = answers[1]["stats"]["prompt_tokens"].as_u64().unwrap();
    assert!(second > tokens.len() as u64 + 3);
}

#[test]
fn flags_reach_the_template() {
    let prompt_tokens = |args: &[&str]| {
        let answers = answers("Hello!\n", &[&["--max-tokens", "1"], args].concat());
        answers[0]["stats"]["prompt_tokens"].as_u64().unwrap()
    };
    let tools = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(tools.path(), r#"[{"name": "f"}]"#).unwrap();
    let plain = prompt_tokens(&[]);
    assert_eq!(prompt_tokens(&["--think"]), plain);
    assert_eq!(prompt_tokens(&["--no-think"]), plain + 4);
    assert!(prompt_tokens(&["--system", "Be brief."]) > plain);
    assert!(prompt_tokens(&["--tools", tools.path().to_str().unwrap()]) > plain + 50);
    error(onegrid(&["chat", "--think", "--no-think"]), 2);
    std::fs::write(tools.path(), "{}").unwrap();
    let bad = onegrid(&["chat", "--tools", tools.path().to_str().unwrap()]);
    assert_says(&error(bad, 1), &["--tools", "a JSON list"]);
}

#[test]
fn a_conversation_can_be_cleared_and_ended() {
    let lines = "Hello!\n\n/clear\nHello!\n/exit\nHello!\n";
    let answers = answers(lines, &["--max-tokens", "2"]);
    assert_eq!(answers.len(), 2);
    assert_eq!(answers[0]["tokens"], answers[1]["tokens"]);
}

#[test]
fn a_full_context_is_said_and_the_program_goes_on() {
    let lines = "Hello!\nHello again!\n/clear\nHello!\n";
    let mut command = chat(lines, &["--context", "16", "--format", "json"]);
    let output = command.assert().success().get_output().clone();
    let answers = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        answers.matches(r#""stop":"context""#).count(),
        2,
        "{answers}"
    );
    assert_eq!(answers.lines().count(), 2);
    let notes = String::from_utf8(output.stderr).unwrap();
    assert_says(&notes, &["16 positions", "/clear", "--context", "40960"]);
    assert_eq!(notes.matches("/clear").count(), 3, "{notes}");
}

#[test]
fn a_model_without_a_template_is_referred_to_generate() {
    let folder = copy_of("qwen2-tied-bf16");
    let tokenizer = qwen3::unpacked().join("tokenizer.json");
    let mut command = onegrid(&["chat", "--model", folder.path().to_str().unwrap()]);
    command.arg("--tokenizer").arg(tokenizer);
    assert_says(
        &error(command, 1),
        &["no chat_template.jinja", "`generate`"],
    );
}
