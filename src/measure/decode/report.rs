//! The benchmark's results. The names of the fields are a contract that other programs read.

use serde::{Deserialize, Serialize};

use super::check::Checked;
use super::phases::PhaseTime;
use crate::measure::environment::Environment;
use crate::measure::statistics::{Ratio, Summary};
use crate::model::TokenId;
use crate::report::table::{Cell, Column, Table};

/// All that a benchmark found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The machine and the program.
    pub environment: Environment,
    /// One for each model and engine.
    pub runs: Vec<Run>,
    /// One for each model and engine but the first.
    pub comparisons: Vec<Comparison>,
    /// What a reader should know: a model left out, for one.
    pub notes: Vec<String>,
}

/// What was measured of one engine with one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The engine.
    pub engine: String,
    /// The model, as it was asked for.
    pub model: String,
    /// The instruction set of the engine's kernels.
    pub kernels: String,
    /// The engine's variant, where it is not the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_variant: Option<String>,
    /// Threads that computed.
    pub threads: usize,
    /// Sequences that decoded together.
    pub batch: usize,
    /// Tokens of each sequence's prompt.
    pub prompt_tokens: usize,
    /// Tokens decoded after it.
    pub new_tokens: usize,
    /// Tokens after the first, of all sequences together, by the time from the first to the last;
    /// `None` if the check failed.
    pub decode_tokens_per_second: Option<Summary>,
    /// From the start of the prompt to the first sampled token; `None` if the check failed.
    pub first_token_ms: Option<Summary>,
    /// Loading the weights and setting the engine up, until it can decode. What it moves of the
    /// weights afterwards is `promotion`'s.
    pub load_seconds: f64,
    /// The first run after loading, before anything was warm; `None` if the check failed. The
    /// engines of a model share its weights: where there are several, only the first one's run
    /// finds them as they were loaded.
    pub first_run: Option<FirstRun>,
    /// Where the weights lay while the speeds were measured: `huge-pages`, `mapped`, or `both`.
    pub placement: String,
    /// What was moved into huge pages after loading and before the speeds were measured.
    pub promotion: Option<Promotion>,
    /// Most memory the process held between the start of loading this model and the last
    /// repetition, all engines of the model together; without the reference engine of the check.
    /// Since the process began, where the system can't reset it.
    pub peak_rss_bytes: Option<u64>,
    /// Bytes that must be read for one token, weights and past keys and values: the mean over the
    /// positions decoded.
    pub bytes_per_token: f64,
    /// How fast the same weights can be read by as many threads: the median of what was measured
    /// before and after the repetitions; `None` for an engine that the host's memory does not bound.
    pub read_bandwidth_bytes_per_second: Option<f64>,
    /// Share of the possible speed: tokens a second times bytes a token over the bandwidth just
    /// before and after, the median over the repetitions; `None` if the check failed, or nothing was
    /// measured.
    pub fraction_of_floor: Option<f64>,
    /// The samples behind the two.
    pub floor: Option<Floor>,
    /// The phases of a decode step, from one more run that was recorded: recording takes time, which
    /// is in them. `None` if none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phases: Option<Vec<PhaseTime>>,
    /// What was checked, and how it came out.
    pub checked: Checked,
    /// The prompts: `[sequence][token]`.
    pub prompt: Vec<Vec<TokenId>>,
    /// What was decoded: `[sequence][token]`.
    pub tokens: Vec<Vec<TokenId>>,
}

impl Run {
    /// The engine, with its variant where that is not the default.
    pub fn engine_name(&self) -> String {
        match &self.engine_variant {
            None => self.engine.clone(),
            Some(variant) => format!("{}, {variant}", self.engine),
        }
    }
}

/// The run that a user meets who has just started the program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FirstRun {
    /// Where the weights lay when it began: `huge-pages`, `mapped` or `both`.
    pub placement: String,
    /// Tokens of each sequence.
    pub new_tokens: usize,
    /// From the start of the prompt to the first sampled token.
    pub first_token_ms: f64,
    /// The tokens after it, while weights were moved if there were any to move.
    pub decode_tokens_per_second: f64,
}

/// Weights that were moved from the mapped file into huge pages, between decode steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Promotion {
    /// How many bytes, in whole huge pages.
    pub bytes: u64,
    /// The time it took, the steps in between left out.
    pub seconds: f64,
}

/// How fast memory could be read beside a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Floor {
    /// The fastest way to read that was found.
    pub read_kernel: String,
    /// The bandwidth: every measurement beside this engine's repetitions, once.
    pub read_bandwidth_bytes_per_second: Summary,
    /// The measurements before and after each repetition. What came after one repetition is what
    /// came before the next, if that was of as many threads.
    pub neighbours: Vec<[f64; 2]>,
    /// The share of the possible speed: of each repetition, by the mean of its neighbours.
    pub fraction: Option<Summary>,
}

/// One engine's decode speed over another's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The model.
    pub model: String,
    /// The engine.
    pub engine: String,
    /// What it is compared with.
    pub against: String,
    /// Its speed over the other's, repetition by repetition.
    pub decode: Ratio,
}

impl Report {
    /// Whether every check held.
    pub fn passed(&self) -> bool {
        self.runs.iter().all(|run| run.checked.passed)
    }

    /// The runs, with all that can be said in a cell.
    pub fn table(&self) -> Table {
        self.table_of(fields())
    }

    /// The runs, with what fits a terminal.
    pub fn summary(&self) -> Table {
        self.table_of(fields().filter(|field| field.in_summary))
    }

    fn table_of(&self, fields: impl Iterator<Item = Field>) -> Table {
        let (columns, cells): (Vec<_>, Vec<_>) =
            fields.map(|field| (field.column, field.cell)).unzip();
        let mut table = Table::new(columns);
        for run in &self.runs {
            table.push(cells.iter().map(|cell| cell(run)));
        }
        table
    }

    /// What all runs have in common, for people: a line.
    pub fn heading(&self) -> String {
        let environment = &self.environment;
        let cpu = environment.cpu.as_deref().unwrap_or("unknown processor");
        let Some(run) = self.runs.first() else {
            return cpu.to_owned();
        };
        let batch = match run.batch {
            1 => String::new(),
            batch => format!(", {batch} sequences"),
        };
        format!(
            "{cpu}, {} threads; prompt {}, {} new tokens{batch}; onegrid {} ({})",
            run.threads,
            run.prompt_tokens,
            run.new_tokens,
            environment.versions.onegrid,
            environment.git_revision
        )
    }

    /// The comparisons and notes, for people: a line each.
    pub fn remarks(&self) -> Vec<String> {
        let compare = |comparison: &Comparison| {
            let Ratio { ratio, verdict } = &comparison.decode;
            format!(
                "{}: {} decodes at {:.3}x [{:.3}, {:.3}] the speed of {}: {verdict}",
                comparison.model,
                comparison.engine,
                ratio.median,
                ratio.low,
                ratio.high,
                comparison.against,
            )
        };
        let failures = self.runs.iter().filter(|run| !run.checked.passed);
        let failure = |run: &Run| {
            let what = match &run.checked.reference {
                _ if !run.checked.repetitions_agree => "its repetitions differ".to_owned(),
                Some(check) if !check.tokens_agree => {
                    "its tokens differ from the reference's".to_owned()
                }
                Some(check) => format!(
                    "KL from the reference is {:.2e}, above {:.0e}",
                    check.kl_max, check.kl_limit
                ),
                None => "it failed its check".to_owned(),
            };
            format!("{}: {} has no speed, because {what}", run.model, run.engine)
        };
        let beginning = |run: &Run| {
            let (first, moved) = (run.first_run.as_ref()?, run.promotion.as_ref()?);
            Some(format!(
                "{}: {} was loaded in {:.2} s and began {}: first token after {:.0} ms, then {:.1} tok/s; \
                 moving {:.0} MB into huge pages took {:.2} s in all, and the table is from there",
                run.model,
                run.engine,
                run.load_seconds,
                first.placement,
                first.first_token_ms,
                first.decode_tokens_per_second,
                moved.bytes as f64 * 1e-6,
                moved.seconds,
            ))
        };
        let comparisons = self.comparisons.iter().map(compare);
        let beginnings = self.runs.iter().filter_map(beginning);
        beginnings
            .chain(comparisons)
            .chain(failures.map(failure))
            .chain(self.notes.iter().cloned())
            .collect()
    }
}

/// What a table says of a run.
struct Field {
    column: Column,
    in_summary: bool,
    cell: fn(&Run) -> Cell,
}

fn fields() -> impl Iterator<Item = Field> {
    fn decode(run: &Run, value: fn(&Summary) -> f64) -> Cell {
        let decode = run.decode_tokens_per_second.as_ref();
        // As many digits as the figure is good for.
        let decimals = match decode {
            Some(decode) if decode.median >= 1000.0 => 0,
            _ => 2,
        };
        Cell::number(decode.map(value), decimals)
    }
    let field = |in_summary, column, cell| Field {
        column,
        in_summary,
        cell,
    };
    let number = |name: &str, unit, in_summary, cell: fn(&Run) -> Cell| {
        field(in_summary, Column::number(name, unit), cell)
    };
    let text = |name: &str, in_summary, cell: fn(&Run) -> Cell| {
        field(in_summary, Column::text(name), cell)
    };
    [
        text("model", true, |run| Cell::text(&run.model)),
        text("engine", true, |run| Cell::text(run.engine_name())),
        text("kernels", false, |run| Cell::text(&run.kernels)),
        number("threads", "", false, |run| {
            Cell::number(run.threads as f64, 0)
        }),
        number("batch", "", false, |run| Cell::number(run.batch as f64, 0)),
        number("prompt", "tokens", false, |run| {
            Cell::number(run.prompt_tokens as f64, 0)
        }),
        number("new", "tokens", false, |run| {
            Cell::number(run.new_tokens as f64, 0)
        }),
        number("decode", "tok/s", true, |run| {
            decode(run, |decode| decode.median)
        }),
        number("low", "tok/s", true, |run| decode(run, |decode| decode.low)),
        number("high", "tok/s", true, |run| {
            decode(run, |decode| decode.high)
        }),
        number("first token", "ms", true, |run| {
            Cell::number(run.first_token_ms.as_ref().map(|first| first.median), 1)
        }),
        number("per token", "MB", false, |run| {
            Cell::number(run.bytes_per_token * 1e-6, 1)
        }),
        number("read", "GB/s", true, |run| {
            let read = run.read_bandwidth_bytes_per_second;
            Cell::number(read.map(|read| read * 1e-9), 2)
        }),
        number("of floor", "%", true, |run| {
            Cell::number(run.fraction_of_floor.map(|fraction| fraction * 100.0), 1)
        }),
        number("load", "s", false, |run| Cell::number(run.load_seconds, 2)),
        number("move", "s", false, |run| {
            let promotion = run.promotion.as_ref();
            Cell::number(promotion.map(|promotion| promotion.seconds), 2)
        }),
        text("placement", false, |run| Cell::text(&run.placement)),
        number("first run's first token", "ms", false, |run| {
            let first = run.first_run.as_ref();
            Cell::number(first.map(|first| first.first_token_ms), 1)
        }),
        text("first run's placement", false, |run| {
            let first = run.first_run.as_ref();
            first.map_or(Cell::Missing, |first| Cell::text(&first.placement))
        }),
        number("peak", "MB", true, |run| {
            Cell::number(run.peak_rss_bytes.map(|bytes| bytes as f64 * 1e-6), 0)
        }),
        text("checked", false, |run| {
            Cell::text(match (run.checked.passed, &run.checked.reference) {
                (true, Some(reference)) => format!("{} positions", reference.positions),
                (true, None) => "repetitions".to_owned(),
                (false, _) => "FAILED".to_owned(),
            })
        }),
    ]
    .into_iter()
}
