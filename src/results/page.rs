//! Result files as parts of a report page.

use jiff::Timestamp;
use serde_json::Value;

use super::{Content, Document, ResultsError};
use crate::experiment::result::{CellOutcome, ResultFile, Status};
use crate::gpu_check::results::PartFile;
use crate::measure::decode::report::Report;
use crate::measure::environment::Environment;
use crate::report::grouping::distinct;
use crate::report::page::{Page, Part};
use crate::report::section::{Captioned, Section};
use crate::report::table::{Cell, Column, Table};

/// What a reader is told of the emulator.
const EMULATED: &str = "Measured on the emulator, which runs the CUDA source on CPU threads: its \
                        times say nothing of a GPU.";

/// A page of all these files, in order.
///
/// # Errors
/// A result that this version can't show.
pub fn page(title: &str, documents: &[Document]) -> Result<Page, ResultsError> {
    let before = [None].into_iter().chain(documents.iter().map(Some));
    let parts = documents.iter().zip(before);
    let parts = parts.map(|(document, before)| part(document, before));
    Ok(Page {
        title: title.to_owned(),
        overview: Some(overview(documents)),
        parts: parts.collect::<Result<_, _>>()?,
    })
}

fn overview(documents: &[Document]) -> Captioned {
    let mut table = Table::new([
        Column::text("result"),
        Column::text("machine"),
        Column::text("device"),
        Column::text("revision"),
        Column::text("date (UTC)"),
        Column::text("status"),
    ]);
    for document in documents {
        let environment = document.environment();
        let (device, status) = match &document.content {
            Content::Bench(report) => (engines(report), bench_status(report)),
            Content::GpuCheck(file) => (gpu_name(file), file.status.name().to_owned()),
            Content::Experiment(file) => (file.device.clone(), experiment_status(file)),
        };
        table.push(
            [
                heading(document),
                machine(environment),
                device,
                environment.git_revision.clone(),
                date(environment.unix_time),
                status,
            ]
            .map(Cell::Text),
        );
    }
    Captioned {
        caption: "What ran where".into(),
        table,
    }
}

fn heading(document: &Document) -> String {
    match &document.content {
        Content::Bench(_) => "bench".into(),
        Content::GpuCheck(file) => format!("gpu-check: {}", file.part),
        Content::Experiment(file) => format!("experiment: {}", file.experiment),
    }
}

/// The processor, as a machine is spoken of.
pub(super) fn machine(environment: &Environment) -> String {
    let cpu = environment.cpu.as_deref().unwrap_or("unnamed processor");
    format!("{cpu}, {} cores", environment.cores)
}

fn engines(report: &Report) -> String {
    distinct(report.runs.iter().map(|run| run.engine.as_str())).join(", ")
}

fn bench_status(report: &Report) -> String {
    match report.passed() {
        true => "done".into(),
        false => "FAILED: a check does not hold".into(),
    }
}

fn experiment_status(file: &ResultFile) -> String {
    let count = |outcome| {
        let cells = file.cells.iter().filter(|cell| cell.outcome == outcome);
        cells.count()
    };
    let status = match file.status {
        Status::Done => "done",
        Status::Partial => "not finished",
        Status::Failed => "FAILED",
    };
    let mut words = format!("{status}: {} measured", count(CellOutcome::Measured));
    for (outcome, name) in [
        (CellOutcome::NotMeasured, "not measured"),
        (CellOutcome::Failed, "failed"),
    ] {
        match count(outcome) {
            0 => {}
            count => words += &format!(", {count} {name}"),
        }
    }
    words
}

fn gpu_name(file: &PartFile) -> String {
    let name = file.gpu["name"].as_str().filter(|_| file.device == "cuda");
    name.map_or_else(|| file.device.clone(), str::to_owned)
}

/// `2026-11-25 01:55`.
fn date(unix_time: u64) -> String {
    let seconds = i64::try_from(unix_time).unwrap_or(i64::MAX);
    match Timestamp::from_second(seconds) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M").to_string(),
        Err(_) => "unknown".into(),
    }
}

/// What a result says, and of the machine and the program what the one before did not.
fn part(document: &Document, before: Option<&Document>) -> Result<Part, ResultsError> {
    let mut part = match &document.content {
        Content::Bench(report) => Part {
            question: "How fast do models decode, beside how fast memory can be read?".into(),
            warnings: match report.passed() {
                true => Vec::new(),
                false => vec!["A check failed: what failed it has no speed.".into()],
            },
            sections: report.sections(),
            ..Part::default()
        },
        Content::GpuCheck(file) => Part {
            facts: gpu_facts(file),
            not_measured: file
                .not_measured
                .iter()
                .map(|line| (line.what.clone(), line.result.clone()))
                .collect(),
            warnings: gpu_warnings(file),
            sections: of_kind(document, file.sections(), "a part of `onegrid gpu-check`")?,
            ..Part::default()
        },
        Content::Experiment(file) => {
            let kind = document.experiment(file)?;
            let sections = kind.sections(&file.cells);
            Part {
                question: kind.question.to_owned(),
                facts: vec![
                    ("device".into(), file.device.clone()),
                    ("measured for".into(), seconds(file.seconds)),
                ],
                not_measured: cells(file, CellOutcome::NotMeasured),
                warnings: experiment_warnings(file),
                sections: of_kind(document, sections, "a result of `onegrid experiment`")?,
                ..Part::default()
            }
        }
    };
    part.heading = heading(document);
    let machine = facts(document.environment());
    let mut all = match before.map(|before| facts(before.environment())) {
        Some(before) if before == machine => {
            vec![("machine and program".into(), "as above".into())]
        }
        _ => machine,
    };
    all.push(("date (UTC)".into(), date(document.environment().unix_time)));
    all.push(("file".into(), file_name(document)));
    all.append(&mut part.facts);
    part.facts = all;
    Ok(part)
}

fn of_kind(
    document: &Document,
    sections: Result<Vec<Section>, serde_json::Error>,
    kind: &'static str,
) -> Result<Vec<Section>, ResultsError> {
    sections.map_err(|source| ResultsError::Damaged {
        path: document.path.clone(),
        kind,
        source,
    })
}

/// Cells that came out like this, with the reason.
fn cells(file: &ResultFile, outcome: CellOutcome) -> Vec<(String, String)> {
    let cells = file.cells.iter().filter(|cell| cell.outcome == outcome);
    let reason =
        |reason: &Option<String>| reason.clone().unwrap_or_else(|| "no reason given".into());
    cells
        .map(|cell| (cell.id.clone(), reason(&cell.reason)))
        .collect()
}

fn experiment_warnings(file: &ResultFile) -> Vec<String> {
    let failed = cells(file, CellOutcome::Failed).into_iter();
    let mut warnings: Vec<String> = failed
        .map(|(id, reason)| format!("{id} failed: {reason}"))
        .collect();
    if file.status == Status::Partial {
        warnings.push("The run was not finished: cells of its plan are missing.".into());
    }
    if file.device == "emulated" {
        warnings.push(EMULATED.into());
    }
    warnings
}

fn gpu_warnings(file: &PartFile) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(reason) = &file.reason {
        warnings.push(format!("{}: {reason}", file.status.name()));
    }
    if file.device == "emulated" {
        warnings.push(EMULATED.into());
    }
    warnings
}

fn seconds(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 120.0 => format!("{seconds:.1} s"),
        seconds => format!("{:.1} min", seconds / 60.0),
    }
}

/// What is known of the machine and the program.
fn facts(environment: &Environment) -> Vec<(String, String)> {
    let unknown = || "unknown".to_owned();
    let gibibytes = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
    let system = match &environment.kernel {
        Some(kernel) => format!("{} {kernel}", environment.os),
        None => environment.os.clone(),
    };
    let mut facts = vec![
        ("processor", machine(environment)),
        ("architecture", environment.architecture.clone()),
        ("instruction sets", environment.instruction_sets.join(", ")),
        (
            "memory",
            environment.memory_bytes.map_or_else(unknown, gibibytes),
        ),
        ("system", system),
    ];
    if let Some(pages) = &environment.transparent_huge_pages {
        facts.push(("transparent huge pages", pages.clone()));
    }
    facts.extend([
        ("onegrid", environment.versions.onegrid.clone()),
        ("revision", environment.git_revision.clone()),
        ("compiler", environment.versions.rustc.clone()),
    ]);
    let facts = facts.into_iter().filter(|(_, value)| !value.is_empty());
    facts
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// Without its folders, which say nothing to others.
pub(super) fn file_name(document: &Document) -> String {
    let name = document
        .path
        .file_name()
        .unwrap_or(document.path.as_os_str());
    name.to_string_lossy().into_owned()
}

/// What is known of the GPU: plain values, and the clocks before and after.
fn gpu_facts(file: &PartFile) -> Vec<(String, String)> {
    let mut facts = vec![("measured for".to_owned(), seconds(file.seconds))];
    if let Value::Object(known) = &file.gpu {
        let known = known.iter().filter(|(_, value)| !value.is_null());
        facts.extend(known.map(|(name, value)| (name.replace('_', " "), words(value))));
    }
    facts
}

/// A value in words.
fn words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(words).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            let fields = fields.iter();
            let fields =
                fields.map(|(name, value)| format!("{}: {}", name.replace('_', " "), words(value)));
            fields.collect::<Vec<_>>().join(", ")
        }
        value => value.to_string(),
    }
}
