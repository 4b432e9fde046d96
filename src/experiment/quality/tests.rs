//! Small models, and files of logits that are known to be wrong in one way each.

use std::path::PathBuf;

use super::*;
use crate::experiment::result::{CellOutcome, CellRecord};
use crate::report::logits_file::LogitsFile;

const GO_ON: Watch = Watch {
    interrupted: &|| false,
    doing: &|_| (),
};

/// The texts that `random` texts of this plan are.
const RANDOM: &str = "[sets.texts.random]\ncount = 6\nlength = 4\n";

fn subject(name: &str, fields: &str) -> String {
    format!("[[sets.subjects]]\nname = \"{name}\"\n{fields}\n")
}

/// A plan with one set on random:tiny.
fn open(head: &str, subjects: &[String], folder: &Path) -> Quality {
    let plan = format!(
        "[[sets]]\nname = \"a\"\nmodel = {{ model = \"random:tiny\" }}\n{head}\n{}",
        subjects.concat()
    );
    let setting = Setting {
        folder: folder.to_owned(),
        ..Setting::default()
    };
    Quality::open(&plan, &setting).unwrap()
}

/// Measures the cell of a subject, or of the reference.
fn measure(quality: &mut Quality, subject: &str) -> Result<Value, ExperimentError> {
    let cells = quality.cells();
    let cell = cells.iter().find(|cell| cell.id == format!("a/{subject}"));
    quality.measure(cell.expect("a subject of the plan"), &GO_ON)
}

fn compared(quality: &mut Quality, subject: &str) -> Compared {
    serde_json::from_value(measure(quality, subject).unwrap()).unwrap()
}

fn nowhere() -> PathBuf {
    PathBuf::from("/nowhere")
}

#[test]
fn the_reference_is_no_distance_from_itself() {
    let subjects = [subject("itself", "engine = { device = \"reference\" }")];
    let mut quality = open(RANDOM, &subjects, &nowhere());
    let itself = compared(&mut quality, "itself");
    let divergence = &itself.divergence;
    assert_eq!((divergence.sequences, divergence.positions), (6, 24));
    assert_eq!(
        (divergence.kl.max, divergence.kl_reverse.max),
        (Some(0.0), Some(0.0))
    );
    assert_eq!(
        (divergence.jensen_shannon.max, divergence.max_difference),
        (Some(0.0), Some(0.0))
    );
    assert_eq!(divergence.top1.value, Some(1.0));
    let perplexity = divergence.perplexity.unwrap();
    assert_eq!((perplexity.tokens, perplexity.ratio.value), (18, Some(1.0)));
    assert_eq!(itself.repeated, Some(Repeated { positions: 24 }));
    assert_eq!(itself.reference, itself.made);
    // Its own cell says what it is, and that it repeats itself.
    let referred = measure(&mut quality, REFERENCE).unwrap();
    let referred: Referred = serde_json::from_value(referred).unwrap();
    assert_eq!(referred.reference.by, "reference (plain)");
    assert_eq!(referred.repeated, Some(Repeated { positions: 4 }));
    assert_eq!((referred.texts.len(), referred.vocab_size), (6, 512));
}

/// The CPU engine keeps keys and values in bf16 and reckons in f32: closer to f32 than bf16 is.
#[test]
fn engines_are_held_against_the_yardstick() {
    let subjects = [
        subject("bf16", "rounded_to = \"bf16\""),
        subject(
            "cpu",
            "engine = { device = \"cpu\", kernels = \"portable\", threads = 1 }",
        ),
        subject("asked", ""),
    ];
    let head = format!("yardstick = \"bf16\"\n{RANDOM}");
    let mut quality = open(&head, &subjects, &nowhere());
    quality.setting.engine.device = DeviceName::Cpu;
    quality.setting.engine.threads = std::num::NonZeroUsize::new(1);
    let cells: Vec<CellRecord> = quality
        .cells()
        .iter()
        .map(|cell| CellRecord {
            id: cell.id.clone(),
            outcome: CellOutcome::Measured,
            reason: None,
            seconds: 0.0,
            unix_time: 0,
            result: quality.measure(cell, &GO_ON).unwrap(),
        })
        .collect();
    let mean = |index: usize| {
        let compared: Compared = cells[index].measured().unwrap().unwrap();
        compared.divergence.kl.mean.value.unwrap()
    };
    let (bf16, cpu) = (mean(1), mean(2));
    assert!(0.0 < cpu && cpu < bf16, "{cpu} beside {bf16}");
    let asked: Compared = cells[3].measured().unwrap().unwrap();
    assert!(asked.made.by.starts_with("cpu ("), "{:?}", asked.made);

    let sections = sections::sections(&cells).unwrap();
    assert_eq!(sections.len(), 1);
    let csv = sections[0].tables[0].table.to_csv();
    let line = |name: &str| csv.lines().find(|line| line.starts_with(name)).unwrap();
    assert!(line("cpu").contains(",within,"), "{csv}");
    // The yardstick is not measured by itself.
    assert!(!line("bf16").contains(",within,"), "{csv}");
    let text = sections[0].text.join("\n");
    assert!(
        text.contains("24 tokens in 6 texts") && text.contains("rounding to bf16"),
        "{text}"
    );
    assert!(text.contains("bit for bit, for all 3 engines"), "{text}");
}

#[test]
fn what_is_not_there_is_listed_with_the_reason() {
    let cell = |id: &str, outcome, reason: Option<&str>| CellRecord {
        id: id.into(),
        outcome,
        reason: reason.map(str::to_owned),
        seconds: 0.0,
        unix_time: 0,
        result: Value::Null,
    };
    let cells = [
        cell("a/cuda", CellOutcome::NotMeasured, Some("no driver")),
        cell("a/cpu", CellOutcome::Failed, Some("broken")),
        cell("b/cuda", CellOutcome::NotMeasured, Some("no GPU")),
    ];
    let sections = sections::sections(&cells).unwrap();
    let text: Vec<_> = sections
        .iter()
        .map(|section| section.text.join(" "))
        .collect();
    let expected = [
        "cuda: not measured: no driver; cpu: failed: broken",
        "cuda: not measured: no GPU",
    ];
    assert_eq!(text, expected);
}

/// Writes the reference's logits of some texts, each row changed by `change`.
fn write(path: &Path, texts: &[&[TokenId]], change: impl Fn(usize, &mut Vec<f32>)) {
    let subjects = [subject("itself", "engine = { device = \"reference\" }")];
    let mut quality = open(RANDOM, &subjects, &nowhere());
    let set = quality.plan.sets[0].clone();
    let model = quality
        .load(&set, reference_choice().load_options())
        .unwrap();
    let texts: Vec<Vec<TokenId>> = texts.iter().map(|text| text.to_vec()).collect();
    let mut engine = ReferenceEngine::new(Arc::new(model.weights), longest(&texts), 1).unwrap();
    let slices: Vec<_> = texts.iter().map(Vec::as_slice).collect();
    let metadata = [("engine", "another program".to_owned())];
    let mut file = LogitsFile::create(path, &slices, 512, &metadata).unwrap();
    teacher_force(&mut engine, &texts, 4, &GO_ON, "", &mut |index, row| {
        let mut row = row.to_vec();
        change(index, &mut row);
        file.push(&row).unwrap();
        Ok(())
    })
    .unwrap();
    file.commit().unwrap();
}

const TEXTS: [&[TokenId]; 2] = [&[1, 2, 3, 4, 5], &[7, 8, 9]];

#[test]
fn files_of_logits_are_compared_with_each_other_and_with_engines() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    write(&path("right"), &TEXTS, |_, _| ());
    write(&path("wrong"), &TEXTS, |index, row| {
        if index == 6 {
            row[17] += 1.0;
        }
    });
    write(&path("other"), &[&[1, 2, 3, 4, 5], &[7, 8, 10]], |_, _| ());
    write(&path("nan"), &TEXTS, |index, row| {
        row[3] = if index == 2 { f32::NAN } else { row[3] }
    });
    let subjects = [
        subject("right", "logits = \"right\""),
        subject("wrong", "logits = \"wrong\""),
        subject("other", "logits = \"other\""),
        subject("nan", "logits = \"nan\""),
        subject("missing", "logits = \"missing\""),
        subject("engine", "engine = { device = \"reference\" }"),
        subject(
            "cuda-variant",
            "engine = { device = \"cpu\", variant = \"head_blocks\" }",
        ),
    ];
    let mut quality = open("reference = \"right\"\n", &subjects, folder.path());

    let right = compared(&mut quality, "right");
    assert_eq!(
        (right.made.by.as_str(), right.repeated),
        ("another program", None)
    );
    assert_eq!(right.divergence.kl.max, Some(0.0));
    assert_eq!(
        compared(&mut quality, "engine").divergence.kl.max,
        Some(0.0)
    );
    let wrong = compared(&mut quality, "wrong").divergence;
    let samples: Vec<_> = wrong
        .samples
        .iter()
        .map(|sample| sample.kl_mean.unwrap())
        .collect();
    // Row 6 is the second of the second text.
    assert_eq!(samples[0], 0.0);
    assert!(samples[1] > 0.0);
    let positions: Vec<_> = wrong.samples[1].kl.iter().map(|kl| *kl > 0.0).collect();
    assert_eq!(positions, [false, true, false]);

    let mut error = |subject| measure(&mut quality, subject).unwrap_err().to_string();
    assert!(
        error("other").contains("token 2 of text 1 is 10, expected 9"),
        "{}",
        error("other")
    );
    let nan = error("nan");
    assert!(
        nan.contains("after token 2") && nan.contains("token 3 is NaN"),
        "{nan}"
    );
    let missing = error("missing");
    assert!(
        missing.starts_with("not measured: there is no"),
        "{missing}"
    );
    assert!(error("cuda-variant").contains("--variant"));
}

#[test]
fn tokens_given_at_once_are_the_same_tokens() {
    let subjects = [subject(
        "eight",
        "engine = { device = \"reference\" }\ntokens_at_once = 3",
    )];
    let mut quality = open(RANDOM, &subjects, &nowhere());
    assert_eq!(compared(&mut quality, "eight").divergence.kl.max, Some(0.0));
}

#[test]
fn an_engine_that_does_not_repeat_itself_is_wrong() {
    let bits = |rows: &[[f32; 2]]| {
        let mut bits = Bits::default();
        rows.iter().for_each(|row| bits.push(row));
        bits
    };
    let first = bits(&[[1.0, 2.0], [0.0, 4.0]]);
    assert_eq!(first.repeated(&first).unwrap(), Repeated { positions: 2 });
    // Equal numbers with other bits are others.
    let error = first
        .repeated(&bits(&[[1.0, 2.0], [-0.0, 4.0]]))
        .unwrap_err();
    assert!(error.to_string().contains("at 1 of 2 positions"), "{error}");
}

#[test]
fn an_end_is_heard_between_two_tokens() {
    let subjects = [subject("itself", "engine = { device = \"reference\" }")];
    let mut quality = open(RANDOM, &subjects, &nowhere());
    let asked = std::cell::Cell::new(0);
    let watch = Watch {
        interrupted: &|| {
            asked.set(asked.get() + 1);
            asked.get() > 3
        },
        doing: &|_| (),
    };
    let cell = quality.cells()[1].clone();
    let error = quality.measure(&cell, &watch).unwrap_err();
    assert!(matches!(error, ExperimentError::Interrupted));
    // What was begun is begun anew.
    assert_eq!(compared(&mut quality, "itself").divergence.positions, 24);
}

#[test]
fn texts_come_from_a_file_in_whole_pieces() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("text"), "[SMILES]CCO[/SMILES]").unwrap();
    let plan = |length: usize| {
        format!(
            "[[sets]]\nname = \"a\"\nmodel = {{ model = \"demo\" }}\n[sets.texts.file]\n\
             path = \"text\"\ncount = 2\nlength = {length}\n{}",
            subject("itself", "engine = { device = \"reference\" }")
        )
    };
    let setting = Setting {
        folder: folder.path().to_owned(),
        ..Setting::default()
    };
    let mut quality = Quality::open(&plan(2), &setting).unwrap();
    let referred = measure(&mut quality, REFERENCE).unwrap();
    let referred: Referred = serde_json::from_value(referred).unwrap();
    let tokenizer = quality.models.load(
        quality.plan.sets[0].model.as_ref().unwrap(),
        &setting,
        LoadOptions::default(),
        0,
    );
    let tokens = tokenizer
        .unwrap()
        .tokenizer
        .unwrap()
        .encode("[SMILES]CCO[/SMILES]", true)
        .unwrap();
    assert!(tokens.len() > 4);
    assert_eq!(referred.texts, [&tokens[..2], &tokens[2..4]]);
    let mut quality = Quality::open(&plan(1000), &setting).unwrap();
    let error = measure(&mut quality, REFERENCE).unwrap_err().to_string();
    assert!(error.contains("fewer than one piece of 1000"), "{error}");
}

#[test]
fn the_plans_that_come_with_the_program_are_whole() {
    let transformers = include_str!("../../../experiments/quality/transformers.toml");
    for plan in [KIND.plan, transformers] {
        let quality = Quality::open(plan, &Setting::default()).unwrap();
        assert!(quality.plan.sets.iter().all(|set| set.yardstick.is_some()));
        let cells = quality.cells();
        let mut ids: Vec<_> = cells.iter().map(|cell| &cell.id).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), cells.len());
    }
}
