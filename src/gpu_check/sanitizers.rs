//! Part (d): compute-sanitizer's tools on a small model, where the tool is installed. Its words are
//! kept in files beside the results.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::machine::Machine;
use super::results::{Line, Recorder, Status};
use super::{Deadline, GpuCheckError};
use crate::engine::megakernel::{Barrier, Stage, Variant};
use crate::model::shapes;

const PROGRAM: &str = "compute-sanitizer";

/// Where a toolkit is that is not on the `PATH`.
const TOOLKIT: &str = "/usr/local/cuda/bin";

/// The exit status that the tool is asked for where it found something.
const FOUND: i32 = 99;

/// How often it is looked whether the tool has ended.
const LOOK: Duration = Duration::from_millis(100);

/// What the tools said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    /// Where the program is.
    pub program: String,
    /// By tool and way of decoding.
    pub runs: Vec<Run>,
}

/// One tool on one command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// `memcheck`, ...
    pub tool: String,
    /// What decoded.
    pub arguments: Vec<String>,
    /// Whether it found nothing.
    pub passed: bool,
    /// Its exit status; `None` after a signal.
    pub status: Option<i32>,
    /// The last line it wrote.
    pub word: String,
    /// The file with all its words.
    pub log: String,
}

impl Findings {
    fn lines(&self) -> Vec<Line> {
        let line = |run: &Run| Line {
            what: format!("{} {}", run.tool, run.arguments.join(" ")),
            result: match run.passed {
                true => "nothing found".into(),
                false => format!("FAILED: {} (see {})", run.word, run.log),
            },
        };
        self.runs.iter().map(line).collect()
    }
}

fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.push(TOOLKIT.into());
    let mut programs = folders.into_iter().map(|folder| folder.join(PROGRAM));
    programs.find(|program| program.is_file())
}

/// What is run, the most telling first: each tool, and the flags that say what decodes.
fn runs() -> Vec<(&'static str, Vec<String>)> {
    let way = |model: &str, flag: &str, name: &str| {
        let model = format!("random:{model}");
        ["--model", &model, flag, name].map(str::to_owned).to_vec()
    };
    let mut ways = vec![
        way(shapes::TINY, "--stage", Stage::V1.name()),
        way(shapes::TINY, "--barrier", Barrier::Epoch.name()),
    ];
    let stages = [Stage::V0, Stage::Graph];
    ways.extend(stages.map(|stage| way(shapes::TINY, "--stage", stage.name())));
    // Which have no kernels for other heads.
    let others = Variant::ALL.into_iter().skip(1);
    ways.extend(others.map(|variant| way(shapes::TINY_H128, "--variant", variant.name())));
    let tools = ["memcheck", "racecheck", "synccheck"];
    ways.into_iter()
        .flat_map(|way| tools.map(|tool| (tool, way.clone())))
        .collect()
}

/// Runs the part.
///
/// # Errors
/// If the file can't be written.
pub fn run<M: Machine>(
    _: &M,
    deadline: &Deadline,
    recorder: &mut Recorder,
) -> Result<(), GpuCheckError> {
    if !M::IS_GPU {
        return recorder.give_up("the tools look at a GPU, and this is the emulator");
    }
    let Some(program) = find() else {
        return recorder.give_up(format!("{PROGRAM} is neither on the PATH nor in {TOOLKIT}"));
    };
    let mut findings = Findings {
        program: program.display().to_string(),
        runs: Vec::new(),
    };
    let all = runs();
    for (tool, arguments) in &all {
        let what = format!("{tool} {}", arguments.join(" "));
        if deadline.has_come() {
            recorder.skip(what, "the time limit came before it");
            continue;
        }
        match check(&program, tool, arguments, recorder.folder(), deadline)? {
            Some(run) => findings.runs.push(run),
            None => recorder.skip(what, "the time limit came before it had ended"),
        }
        recorder.write(Status::Partial, &findings, findings.lines())?;
    }
    let status = if !findings.runs.iter().all(|run| run.passed) {
        Status::Failed
    } else if findings.runs.is_empty() {
        Status::NotMeasured
    } else if findings.runs.len() < all.len() {
        Status::Partial
    } else {
        Status::Done
    };
    recorder.write(status, &findings, findings.lines())
}

/// `None` if the deadline came first.
fn check(
    program: &Path,
    tool: &str,
    arguments: &[String],
    folder: &Path,
    deadline: &Deadline,
) -> Result<Option<Run>, GpuCheckError> {
    let name = arguments.concat().replace("--", "-").replace(':', "-");
    let name = format!("{tool}{name}.log");
    let log = std::fs::File::create(folder.join(&name))?;
    let mut command = Command::new(program);
    command
        .args(["--tool", tool, "--error-exitcode", &FOUND.to_string()])
        .arg(std::env::current_exe()?)
        .args(["generate", "--device", "cuda"])
        .args(["--prompt-tokens", "1,2,3,4,5,6,7,8,9", "--max-tokens", "6"])
        .args(arguments);
    command.stdin(Stdio::null());
    command.stdout(log.try_clone()?).stderr(log);
    let mut child = command.spawn()?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if deadline.has_come() {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(LOOK);
    };
    let words = std::fs::read_to_string(folder.join(&name)).unwrap_or_default();
    let last = words.lines().rev().find(|line| !line.trim().is_empty());
    Ok(Some(Run {
        tool: tool.into(),
        arguments: arguments.to_vec(),
        passed: status.success(),
        status: status.code(),
        word: last
            .unwrap_or_default()
            .trim_start_matches('=')
            .trim()
            .into(),
        log: name,
    }))
}
