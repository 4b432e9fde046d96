//! Chat templates against what transformers renders (`tests/fixtures/make_chat.py`).

mod qwen3;

use std::path::{Path, PathBuf};

use onegrid::model::chat_template::{ChatInput, ChatTemplate, ChatTemplateError};
use onegrid::model::files::Files;
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Deserialize)]
struct Case {
    messages: Vec<Map<String, Value>>,
    tools: Option<Vec<Value>>,
    add_generation_prompt: bool,
    enable_thinking: Option<bool>,
    rendered: String,
    tokens: Vec<u32>,
}

fn cases() -> Vec<(PathBuf, Case)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chat");
    let entries = std::fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let read = |path: PathBuf| {
        let case = serde_json::from_slice(&std::fs::read(&path).unwrap());
        let case = case.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (path, case)
    };
    paths.map(read).collect()
}

fn render(template: &ChatTemplate, case: &Case) -> String {
    let variables: Vec<_> = case
        .enable_thinking
        .map(|enable| ("enable_thinking".to_owned(), Value::from(enable)))
        .into_iter()
        .collect();
    let input = ChatInput {
        messages: &case.messages,
        tools: case.tools.as_deref(),
        add_generation_prompt: case.add_generation_prompt,
        variables: &variables,
    };
    template.render(&input).unwrap()
}

#[test]
fn qwen3s_template_renders_as_in_transformers() {
    let template = ChatTemplate::from_files(&qwen3::files()).unwrap();
    let cases = cases();
    assert!(cases.len() >= 50, "{} cases", cases.len());
    for (path, case) in &cases {
        assert_eq!(render(&template, case), case.rendered, "{}", path.display());
    }
}

#[test]
fn a_rendered_conversation_has_the_tokens_of_transformers() {
    let tokenizer = qwen3::tokenizer();
    for (path, case) in &cases() {
        let tokens = tokenizer.encode(&case.rendered, false).unwrap();
        assert_eq!(tokens, case.tokens, "{}", path.display());
    }
}

/// A folder with this `tokenizer_config.json` alone.
fn folder(config: &Value) -> (tempfile::TempDir, Files) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("tokenizer_config.json"),
        config.to_string(),
    )
    .unwrap();
    let files = Files::folder(folder.path()).unwrap();
    (folder, files)
}

fn render_inline(config: &Value, input: &ChatInput) -> Result<String, ChatTemplateError> {
    let (_folder, files) = folder(config);
    ChatTemplate::from_files(&files)?.render(input)
}

fn user(content: &str) -> Vec<Map<String, Value>> {
    let message = json!({"role": "user", "content": content});
    vec![message.as_object().unwrap().clone()]
}

/// What a template renders with a message "Hi" and the end token `</s>`.
fn rendered(template: &str) -> String {
    let config = json!({"chat_template": template, "eos_token": {"content": "</s>"}});
    let messages = user("Hi");
    let input = ChatInput {
        messages: &messages,
        ..ChatInput::default()
    };
    render_inline(&config, &input).unwrap()
}

#[test]
fn values_print_as_in_python() {
    // Each right side is what transformers 5.23 renders of the left one.
    let cases = [
        (
            "{{ true }} {{ none }} {{ 1.0 }} {{ 1e16 }}",
            "True None 1.0 1e+16",
        ),
        ("{{ [1, 'a', none, true] }}", "[1, 'a', None, True]"),
        ("{{ {'a': 1.5, 'b': [false]} }}", "{'a': 1.5, 'b': [False]}"),
        ("{{ 'x' ~ true ~ none ~ 2 }}", "xTrueNone2"),
        (
            "{{ 7 // 2 }} {{ 7 / 2 }} {{ 2 ** 3 }} {{ -7 % 3 }}",
            "3 3.5 8 2",
        ),
        ("{{ 'abc'[1:] }}{{ 'abc'[::-1] }}{{ 'abc'[-1] }}", "bccbac"),
        ("{{ ' a '.strip() }}|{{ 'a,b'.split(',') }}", "a|['a', 'b']"),
        ("{{ missing }}{{ missing is defined }}", "False"),
        ("{{ tools is none }}{{ tools is defined }}", "TrueTrue"),
        ("{{ eos_token }}{{ bos_token is defined }}", "</s>False"),
        (
            "{{ messages | length }}{{ messages[0]['role'] | upper }}",
            "1USER",
        ),
        (
            "{{ messages[0] | tojson }}",
            r#"{"role": "user", "content": "Hi"}"#,
        ),
        (
            "{{ messages[0] | tojson(indent=2, sort_keys=true) }}",
            "{\n  \"content\": \"Hi\",\n  \"role\": \"user\"\n}",
        ),
        (
            "{{ '<é>' | tojson }}{{ '<é>' | tojson(ensure_ascii=true) }}",
            r#""<é>""<\u00e9>""#,
        ),
        ("{{ [1, 2] | tojson(separators=(',', ':')) }}", "[1,2]"),
        ("a\n  {% if true %}\n  b\n  {% endif %}\nc\n", "a\n  b\nc"),
        ("a\n  {%- if true -%}\n  b\n  {%+ endif %}\nc\n", "ab\n  c"),
        (
            "{% generation %}a{% endgeneration %}{%- generation -%} b {%- endgeneration %}",
            "ab",
        ),
        (
            "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i > 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
            "013",
        ),
        (
            "{% set ns = namespace(n=1) %}{% for i in [1, 2] %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
            "4",
        ),
        (
            "{% macro m(a, b='c') %}{{ a }}{{ b }}{% endmacro %}{{ m('x') }}{{ m('x', b='y') }}",
            "xcxy",
        ),
        (
            "{{ {'a': 1}.items() | list }}{{ {'a': 1}.get('b', 2) }}",
            "[('a', 1)]2",
        ),
        (
            "{{ dict(a=1) }}{{ ['b', 'a'] | sort | join('-') }}",
            "{'a': 1}a-b",
        ),
        (
            "{{ 'a' is string }}{{ messages is iterable }}{{ messages[0] is mapping }}",
            "TrueTrueTrue",
        ),
        (
            "{{ '%s-%d' | format('a', 3) }}{{ '\\n' }}{{ \"\\u00e9\" }}",
            "a-3\né",
        ),
    ];
    for (template, expected) in cases {
        assert_eq!(rendered(template), expected, "{template}");
    }
}

#[test]
fn the_date_is_todays_in_local_time() {
    let before = jiff::Zoned::now().date().to_string();
    let date = rendered("{{ strftime_now('%Y-%m-%d') }}");
    let after = jiff::Zoned::now().date().to_string();
    assert!(date == before || date == after, "{date}");
    assert_eq!(rendered("{{ strftime_now('%d %b %Y') }}").len(), 11);
}

#[test]
fn tools_choose_the_template_for_tools() {
    let config = json!({"chat_template": [
        {"name": "default", "template": "plain"},
        {"name": "tool_use", "template": "{{ tools | length }} tools"},
    ]});
    let messages = user("Hi");
    let mut input = ChatInput {
        messages: &messages,
        ..ChatInput::default()
    };
    assert_eq!(render_inline(&config, &input).unwrap(), "plain");
    let tools = [json!({})];
    input.tools = Some(&tools);
    assert_eq!(render_inline(&config, &input).unwrap(), "1 tools");
}

#[test]
fn the_file_takes_the_place_of_the_inline_template() {
    let (folder, files) = folder(&json!({"chat_template": "inline", "eos_token": "</s>"}));
    std::fs::write(
        folder.path().join("chat_template.jinja"),
        "file{{ eos_token }}\n",
    )
    .unwrap();
    let template = ChatTemplate::from_files(&files).unwrap();
    assert_eq!(template.render(&ChatInput::default()).unwrap(), "file</s>");
}

#[test]
fn a_refusal_carries_the_templates_message() {
    let config = json!({"chat_template": "{{ raise_exception('No system role, please.') }}"});
    let error = render_inline(&config, &ChatInput::default()).unwrap_err();
    assert!(
        matches!(&error, ChatTemplateError::Refused { message } if message == "No system role, please.")
    );
}

#[test]
fn errors_name_the_file_and_the_line() {
    let error = |config: Value| {
        let error = render_inline(&config, &ChatInput::default()).unwrap_err();
        error.to_string()
    };
    let missing = error(json!({}));
    assert!(missing.contains("no chat_template.jinja"), "{missing}");
    let compile = error(json!({"chat_template": "a\n{% if %}"}));
    assert!(
        compile.contains("tokenizer_config.json: the chat template does not compile: line 2"),
        "{compile}"
    );
    let render = error(json!({"chat_template": "a\n\n{{ missing.attribute }}"}));
    assert!(
        render.contains("tokenizer_config.json: the chat template fails: line 3"),
        "{render}"
    );
    let shape = error(json!({"chat_template": [{"name": "default"}]}));
    assert!(
        shape.contains("chat_template is neither a string nor a list"),
        "{shape}"
    );
    let names = error(
        json!({"chat_template": [{"name": "a", "template": ""}, {"name": "b", "template": ""}]}),
    );
    assert!(
        names.contains("chat templates a, b, but none is named 'default'"),
        "{names}"
    );
}
