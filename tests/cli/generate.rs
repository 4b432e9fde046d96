//! `onegrid generate`.

use super::*;

#[test]
fn json_has_the_contracted_fields() {
    let args = [
        "--prompt",
        "Hello",
        "--max-tokens",
        "6",
        "--ignore-eos",
        "--format",
        "json",
    ];
    let result = json_of(on_tiny("generate", &args));
    let keys = |value: &Value| {
        value
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(&result), ["text", "tokens", "stop", "stats"]);
    let stats = [
        "prompt_tokens",
        "new_tokens",
        "first_token_ms",
        "tokens_per_second",
    ];
    assert_eq!(keys(&result["stats"]), stats);
    assert_eq!(result["tokens"].as_array().unwrap().len(), 6);
    assert_eq!(result["stop"], "length");
    assert_eq!(result["stats"]["prompt_tokens"], 1);
    assert_eq!(result["stats"]["new_tokens"], 6);
    assert!(result["stats"]["first_token_ms"].as_f64().unwrap() > 0.0);
    assert!(result["stats"]["tokens_per_second"].as_f64().unwrap() > 0.0);
}

/// Random weights make text in many scripts, most of it in several tokens a character.
#[test]
fn streamed_text_is_the_text_in_json() {
    let text = |more: &[&str]| {
        let args = [
            "--prompt",
            "Hello",
            "--max-tokens",
            "80",
            "--temperature",
            "1.5",
        ];
        on_tiny("generate", &[&args[..], more].concat())
    };
    let result = json_of(text(&["--seed", "3", "--format", "json"]));
    let streamed = stdout(text(&["--seed", "3"]));
    assert_eq!(streamed, format!("{}\n", result["text"].as_str().unwrap()));
    assert!(!streamed.trim().is_empty());
    assert_ne!(stdout(text(&["--seed", "4"])), streamed);
}

#[test]
fn the_prompt_may_come_from_standard_input() {
    let args = ["--max-tokens", "4", "--format", "json"];
    let given = json_of(on_tiny(
        "generate",
        &[&args[..], &["--prompt", "a\nb"]].concat(),
    ));
    for piped in ["a\nb", "a\nb\n", "a\nb\r\n"] {
        let mut command = on_tiny("generate", &args);
        command.write_stdin(piped);
        let result = json_of(command);
        assert_eq!(result["tokens"], given["tokens"], "{piped:?}");
        assert_eq!(result["stats"]["prompt_tokens"], 3);
    }
}

#[test]
fn a_model_without_a_tokenizer_takes_and_gives_ids() {
    let args = [
        "generate",
        "--model",
        "random:tiny@7",
        "--prompt-tokens",
        "1, 2,3",
    ];
    let args = [&args[..], &["--max-tokens", "4"]].concat();
    let mut text = onegrid(&args);
    let text = text.assert().success().get_output().clone();
    assert_says(
        &String::from_utf8(text.stderr).unwrap(),
        &["note: ", "token ids"],
    );
    let result = json_of(onegrid(&[&args[..], &["--format", "json"]].concat()));
    assert_eq!(result["text"], Value::Null);
    let ids: Vec<_> = result["tokens"].as_array().unwrap().iter().collect();
    let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
    assert_eq!(
        String::from_utf8(text.stdout).unwrap(),
        ids.join(",") + "\n"
    );
    let refused = error(
        onegrid(&["generate", "--model", "random:tiny", "--prompt", "a"]),
        1,
    );
    assert_says(
        &refused,
        &[
            "random:tiny has no tokenizer",
            "--tokenizer",
            "--prompt-tokens",
        ],
    );
}

#[test]
fn a_stop_token_ends_the_text_and_is_its_last() {
    let folder = copy_of("qwen2-tied-bf16");
    let generate = |more: &[&str]| {
        let model = folder.path().to_str().unwrap();
        let args = ["generate", "--model", model, "--prompt-tokens", "5,6,7"];
        let args = [&args[..], &["--max-tokens", "12", "--format", "json"], more].concat();
        json_of(onegrid(&args))
    };
    let all = generate(&["--ignore-eos"]);
    let tokens = all["tokens"].as_array().unwrap();
    let stop = &tokens[5];
    let first = tokens.iter().position(|token| token == stop).unwrap();
    let config = std::fs::read(folder.path().join("generation_config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    config["eos_token_id"] = stop.clone();
    let config = config.to_string();
    std::fs::write(folder.path().join("generation_config.json"), config).unwrap();
    let ended = generate(&[]);
    assert_eq!(ended["stop"], "eos");
    assert_eq!(ended["tokens"].as_array().unwrap(), &tokens[..=first]);
    assert_eq!(generate(&["--ignore-eos"])["tokens"], all["tokens"]);
}

#[test]
fn the_reference_engine_can_be_chosen() {
    let args = [
        "--prompt",
        "Hi",
        "--max-tokens",
        "2",
        "--device",
        "reference",
    ];
    assert!(!stdout(on_tiny("generate", &args)).is_empty());
}

#[test]
fn every_variant_of_the_cpu_engine_writes_the_same() {
    let mut written = Vec::new();
    for variant in [
        "redundant_norm",
        "block0_norm",
        "parking",
        "no_prefetch",
        "claimed_rows",
        "pool",
    ] {
        let model = [
            "generate",
            "--model",
            "random:tiny",
            "--prompt-tokens",
            "1,2,3",
        ];
        let mut command = onegrid(&model);
        command.args(["--device", "cpu", "--threads", "3", "--variant", variant]);
        command.args([
            "--temperature",
            "1",
            "--max-tokens",
            "20",
            "--format",
            "json",
        ]);
        written.push(json_of(command)["tokens"].clone());
    }
    assert_eq!(written[0].as_array().unwrap().len(), 20);
    assert!(
        written.iter().all(|tokens| *tokens == written[0]),
        "{written:?}"
    );
}

#[test]
fn parameters_out_of_range_are_wrong_use() {
    for (flag, value, allowed) in [
        ("--temperature", "-1", "from 0 (greedy) up"),
        ("--temperature", "NaN", "from 0 (greedy) up"),
        ("--temperature", "inf", "from 0 (greedy) up"),
        ("--temperature", "hot", "expected a number"),
        ("--top-p", "0", "above 0 and at most 1"),
        ("--top-p", "1.5", "above 0 and at most 1"),
        ("--min-p", "-0.1", "from 0 to 1"),
        ("--repetition-penalty", "0", "above 0"),
        ("--top-k", "-3", "invalid digit"),
        ("--max-tokens", "0", "zero"),
        ("--threads", "0", "zero"),
        ("--context", "0", "zero"),
        ("--device", "tpu", "reference"),
        ("--variant", "fastest", "redundant_norm"),
        ("--variant", "head_blocks", "--device cuda"),
        ("--stage", "v9", "graph"),
        ("--barrier", "none", "epoch"),
        ("--kernels", "sse", "portable"),
        ("--format", "yaml", "json"),
        ("--prompt-tokens", "1,x", "separated by commas"),
    ] {
        let args = ["generate", "--model", "random:tiny", flag, value];
        assert_says(&error(onegrid(&args), 2), &[flag, allowed]);
    }
    for args in [
        &["generate", "--no-such-flag"][..],
        &["no-such-command"],
        &[],
    ] {
        error(onegrid(args), 2);
    }
    let both = ["generate", "--prompt", "a", "--prompt-tokens", "1"];
    assert_says(
        &error(onegrid(&both), 2),
        &["--prompt", "cannot be used with"],
    );
}

#[test]
fn an_empty_prompt_is_wrong_use() {
    let given = error(on_tiny("generate", &["--prompt", ""]), 2);
    assert_says(&given, &["the prompt is empty", "--prompt"]);
    error(on_tiny("generate", &[]), 2);
}

#[test]
fn what_does_not_fit_is_refused_with_both_numbers() {
    let args = ["--prompt", "a b c d e", "--max-tokens"];
    let beyond = |more: &[&str]| error(on_tiny("generate", &[&args[..], more].concat()), 1);
    assert_says(
        &beyond(&["60", "--context", "64"]),
        &["5 tokens", "60", "64", "raise it", "40960"],
    );
    assert_says(
        &beyond(&["40956"]),
        &["5 tokens", "40956", "40960 positions", "--context"],
    );
    assert_says(&beyond(&["1", "--context", "50000"]), &["50000", "40960"]);
    // Just enough.
    let fits = [
        "--prompt",
        "a b c d e",
        "--max-tokens",
        "3",
        "--context",
        "8",
    ];
    stdout(on_tiny("generate", &fits));
}

#[test]
fn a_full_context_ends_a_text_that_has_no_other_limit() {
    let args = ["--prompt", "a b c d e", "--context", "20", "--ignore-eos"];
    let result = json_of(on_tiny(
        "generate",
        &[&args[..], &["--format", "json"]].concat(),
    ));
    assert_eq!(result["stop"], "context");
    // The last one is sampled after the cache is full, and needs no place in it.
    assert_eq!(result["stats"]["new_tokens"], 16);
}

#[test]
fn models_that_are_not_there_are_named() {
    let on = |model: &str| error(onegrid(&["generate", "--model", model, "--prompt", "a"]), 1);
    assert_says(
        &on("/no/such/folder"),
        &["/no/such/folder", "no such folder"],
    );
    assert_says(&on("random:huge"), &["huge", "tiny", "qwen3-0.6b"]);
    let folder = copy_of("qwen2-tied-bf16");
    let path = folder.path().to_str().unwrap();
    assert_says(&on(path), &[path, "no tokenizer.json", "--tokenizer"]);
    std::fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    assert_says(&on(path), &["tokenizer.json: not a tokenizer"]);
    std::fs::remove_file(folder.path().join("config.json")).unwrap();
    assert_says(&on(path), &["config.json"]);
    let lent = [
        "generate",
        "--model",
        "random:tiny",
        "--prompt",
        "a",
        "--tokenizer",
        "/no",
    ];
    assert_says(&error(onegrid(&lent), 1), &["/no: no such file or folder"]);
    let outside = [
        "generate",
        "--model",
        "random:tiny",
        "--prompt-tokens",
        "1,512",
    ];
    assert_says(&error(onegrid(&outside), 1), &["token 512", "512"]);
}

#[test]
fn a_file_appears_only_when_it_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("text.json");
    let output = file.to_str().unwrap();
    let args = [
        "--prompt",
        "a",
        "--max-tokens",
        "2",
        "--format",
        "json",
        "--output",
        output,
    ];
    assert_eq!(stdout(on_tiny("generate", &args)), "");
    let result: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(result["stats"]["new_tokens"], 2);
    std::fs::remove_file(&file).unwrap();
    let bad = ["--prompt", "a", "--max-tokens", "99999", "--output", output];
    error(on_tiny("generate", &bad), 1);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let nowhere = [
        "--prompt",
        "a",
        "--max-tokens",
        "1",
        "--output",
        "/no/such/folder/x",
    ];
    assert_says(
        &error(on_tiny("generate", &nowhere), 1),
        &["--output", "/no/such/folder/x"],
    );
}

#[test]
fn flags_without_effect_are_pointed_out() {
    let args = ["--prompt", "a", "--max-tokens", "1", "--top-k", "5"];
    let mut command = on_tiny("generate", &args);
    let output = command.assert().success().get_output().clone();
    assert_says(
        &String::from_utf8(output.stderr).unwrap(),
        &["--top-k has no effect"],
    );
}
