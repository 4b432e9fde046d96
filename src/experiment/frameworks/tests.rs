use super::*;
use crate::engine::choice::EngineChoice;
use crate::experiment::result::{CellOutcome, CellRecord};

const PLAN: &str = r#"
rounds = 2
prompt_tokens = 3
new_tokens = 4
checked_tokens = 2
limit_seconds = 20.0
bandwidth_seconds = 0.001
baseline = "other"

[[models]]
model = "random:tiny"

[[frameworks]]
name = "other"
folder = "other"
command = ["python3", "adapter.py"]
setup = "true"
devices = ["cpu"]

[[frameworks]]
name = "absent"
folder = "absent"
command = ["./nothing"]
setup = "make it"
devices = ["cpu"]

[[frameworks]]
name = "on a GPU"
folder = "gpu"
command = ["./nothing"]
setup = "make it"
devices = ["cuda"]
"#;

/// An adapter that says what it is told: its answers to requests for tokens, from `TOKENS`, which is JSON,
/// and no logits.
const ADAPTER: &str = r#"
import json, sys, time
print(json.dumps({"framework": "other 1", "setup": "a script", "device": "cpu", "threads": 1,
                  "load_seconds": 0.1, "has_logits": False}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    time.sleep(0.002)
    BEHAVE
    print(json.dumps({"tokens": TOKENS, "first_token_seconds": 1e-4, "decode_seconds": 3e-4}), flush=True)
"#;

fn setting(folder: &Path) -> Setting {
    let engine: EngineChoice = toml::from_str("device = \"cpu\"").unwrap();
    Setting {
        engine,
        folder: folder.to_owned(),
        ..Setting::default()
    }
}

/// What onegrid decodes.
fn tokens() -> Vec<TokenId> {
    let setting = setting(Path::new("."));
    let plan: Plan = plan::parse(PLAN).unwrap();
    let load = setting.engine.load_options();
    let model = Models::default().load(&plan.models[0], &setting, load, 16);
    let model = model.unwrap();
    let engine = setting
        .engine
        .engine(model.weights.clone(), 16, 1, &mut |_, _| ());
    let vocab_size = model.weights.config.vocab_size;
    let prompt: Vec<_> = (0..3)
        .map(|i| below(vocab_size, hash(i)) as TokenId)
        .collect();
    let reply = check::decode(&mut *engine.unwrap(), &prompt, 4);
    reply.unwrap().tokens
}

/// The only cell's record, with an adapter that answers with `tokens` and does `behave` before it.
fn measured(tokens: &[TokenId], behave: &str) -> Result<CellRecord, ExperimentError> {
    let folder = tempfile::tempdir().unwrap();
    let adapter = ADAPTER
        .replace("TOKENS", &serde_json::to_string(tokens).unwrap())
        .replace("BEHAVE", behave);
    std::fs::create_dir(folder.path().join("other")).unwrap();
    std::fs::write(folder.path().join("other/adapter.py"), adapter).unwrap();
    let plan = PLAN.replace(
        "limit_seconds = 20.0",
        match behave.contains("60") {
            true => "limit_seconds = 0.5",
            false => "limit_seconds = 20.0",
        },
    );
    let mut experiment = open(&plan, &setting(folder.path()))?;
    let watch = Watch {
        interrupted: &|| false,
        doing: &|_| (),
    };
    let cell = experiment.cells().remove(0);
    let result = experiment.measure(&cell, &watch)?;
    Ok(CellRecord {
        id: cell.id,
        outcome: CellOutcome::Measured,
        reason: None,
        seconds: 1.0,
        unix_time: 1,
        result,
    })
}

#[test]
fn a_program_that_decodes_the_same_is_timed_in_turns() {
    let expected = tokens();
    let record = measured(&expected, "pass").unwrap();
    let found: Found = record.measured().unwrap().unwrap();
    let names: Vec<_> = found.programs.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["onegrid", "other"]);
    let [own, other] = &found.programs[..] else {
        unreachable!()
    };
    assert_eq!(
        (own.checked.tokens_equal, other.checked.tokens_equal),
        (4, 4)
    );
    assert!(own.checked.kl_max.unwrap() < 1e-4 && own.checked.top1 == Some(1.0));
    assert_eq!(other.checked.kl_mean, None);
    // Three tokens behind the first.
    assert_eq!(other.tokens_per_second.samples, [1e4, 1e4]);
    assert!((other.first_token_ms.median - 0.1).abs() < 1e-12);
    let over = other.onegrid_over.as_ref().unwrap();
    let own_speed = own.tokens_per_second.samples[0];
    assert!((over.ratio.samples[0] - own_speed / 1e4).abs() < 1e-9);
    assert_eq!(own.over_baseline.as_ref().unwrap().ratio, over.ratio);
    assert!(other.over_baseline.is_none() && own.onegrid_over.is_none());
    let missing: Vec<_> = found.missing.iter().map(|one| one.what.as_str()).collect();
    assert_eq!(missing, ["absent", "on a GPU"]);
    assert!(found.missing[0].reason.contains("`make it`"));
    let sections = sections::sections(&[record]).unwrap();
    assert_eq!(sections[0].charts.len(), 3);
    let text = sections[0].text.join(" ");
    assert!(
        text.contains("absent: not installed") && text.contains("it is for cuda"),
        "{text}"
    );
    assert!(
        sections[0].tables[0]
            .table
            .to_csv()
            .contains("other 1: a script")
    );
}

#[test]
fn what_decodes_something_else_or_claims_too_much_has_no_speed() {
    let expected = tokens();
    let mut other = expected.clone();
    other[0] = (other[0] + 1) % 64;
    let message = |tokens: &[TokenId], behave: &str, parts: &[&str]| {
        let error = measured(tokens, behave).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{part}: {error}");
        }
    };
    message(&other, "pass", &["token 1 is", "onegrid's is"]);
    message(&expected[..3], "pass", &["3 tokens, expected 4"]);
    let claims = "request = print(json.dumps({'tokens': [1] * 4, 'first_token_seconds': 9, \
                  'decode_seconds': 9}), flush=True); continue";
    message(
        &expected,
        claims,
        &["18.000 seconds in all", "though the answer came"],
    );
}

#[test]
fn a_program_that_fails_is_told_with_its_last_words() {
    let expected = tokens();
    for (behave, parts) in [
        (
            "sys.exit('no memory for it')",
            ["other: ended (exit status: 1)", "no memory for it"],
        ),
        (
            "time.sleep(60)",
            [
                "did not answer within 0.5 seconds",
                "nothing to standard error",
            ],
        ),
        (
            "print('Loading...', flush=True)",
            ["said what is no answer", "Loading..."],
        ),
    ] {
        let error = measured(&expected, behave).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}

#[test]
fn what_can_not_be_followed_is_refused_by_name() {
    for (from, to, part) in [
        ("rounds = 2", "rounds = 0", "`rounds`"),
        (
            "checked_tokens = 2",
            "checked_tokens = 4",
            "`checked_tokens`",
        ),
        (
            "baseline = \"other\"",
            "baseline = \"none\"",
            "baseline `none`",
        ),
        ("name = \"absent\"", "name = \"other\"", "two frameworks"),
        (
            "name = \"absent\"",
            "name = \"onegrid\"",
            "`onegrid` is this program",
        ),
        (
            "command = [\"./nothing\"]",
            "command = []",
            "`command` is empty",
        ),
    ] {
        let plan = PLAN.replace(from, to);
        let error = open(&plan, &setting(Path::new("."))).err().unwrap();
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!(
        open(KIND.plan, &setting(Path::new(".")))
            .unwrap()
            .cells()
            .len(),
        1
    );
}
