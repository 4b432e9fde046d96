//! The same checkpoint, decoded by other programs in turns with onegrid.
//!
//! - [`adapter`]: another program as a child process
//! - [`check`]: whether what it decodes is what onegrid decodes, and how far its logits are from f32
//! - [`sections`]: what the results say
//! - here: the plan, and its cells: a model
//!
//! All programs are loaded before the clock runs, and idle while another has its turn.

pub mod adapter;
pub mod check;
pub mod sections;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::energy::meters::Meters;
use super::models::{Model, ModelPlan, Models};
use super::plan;
use super::result::{Missing, list_missing};
use super::{Cell, Experiment, ExperimentError, Kind, Setting, Watch};
use crate::engine::Engine;
use crate::measure::bandwidth::Bandwidth;
use crate::measure::bandwidth::team::ReadTeam;
use crate::measure::energy;
use crate::measure::statistics::{Ratio, Summary, below, hash};
use crate::model::{TokenId, checkpoint};
use adapter::{Adapter, Hello, Reply, Start};
use check::{Checked, Judge};

/// The experiment.
pub const KIND: Kind = Kind {
    name: "frameworks",
    question: "How fast do others decode the same checkpoint on this machine?",
    plan: include_str!("../../../experiments/frameworks/plan.toml"),
    has_traces: true,
    open,
    sections: sections::sections,
};

/// Where adapters are, from the plan's folder on, unless they are in that folder itself.
const ADAPTERS: &str = "experiments/frameworks";

/// Time before each turn: threads of the program before it may go on spinning for a while.
const PAUSE: Duration = Duration::from_millis(500);

/// What onegrid is called among the others.
const OWN: &str = "onegrid";

/// What varies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Rounds, in each of which every program has a turn.
    pub rounds: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens decoded behind it.
    pub new_tokens: usize,
    /// Tokens behind the prompt up to which logits are held against f32's.
    pub checked_tokens: usize,
    /// Seconds that a program may take to be ready, and for each answer.
    pub limit_seconds: f64,
    /// Seconds of a measurement of the read bandwidth, one each round; CPU engines alone.
    pub bandwidth_seconds: f64,
    /// The program that speeds are put over, beside onegrid.
    pub baseline: String,
    /// Zones of the CPU's energy counters.
    #[serde(default = "default_powercap")]
    pub powercap: PathBuf,
    /// A cell each.
    pub models: Vec<ModelPlan>,
    /// The programs.
    pub frameworks: Vec<Framework>,
}

fn default_powercap() -> PathBuf {
    "/sys/class/powercap".into()
}

/// A program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Framework {
    /// Its name in tables.
    pub name: String,
    /// The adapter's folder, from the plan's own or from `experiments/frameworks` on.
    pub folder: PathBuf,
    /// Program and arguments, within that folder; the checkpoint and flags come behind them.
    pub command: Vec<String>,
    /// The command that installs it, from that folder.
    pub setup: String,
    /// The devices that it runs on.
    pub devices: Vec<String>,
}

/// What a cell found. The names of the JSON fields are a contract.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// The model.
    pub model: String,
    /// Tokens of the prompt, and behind it.
    pub prompt_tokens: usize,
    /// Tokens decoded behind it.
    pub new_tokens: usize,
    /// Bytes that a step reads at least: bf16 weights, and the mean of the cached keys and values.
    pub bytes_per_step: f64,
    /// Read bandwidth of the host's memory by as many threads, a measurement a round.
    pub bandwidth: Option<Summary>,
    /// The program that speeds are put over.
    pub baseline: String,
    /// onegrid first, then the others in the plan's order.
    pub programs: Vec<Program>,
    /// Programs that are not here.
    pub missing: Vec<Missing>,
    /// Why energy was not measured; empty where it was.
    pub no_energy: String,
}

/// What one program did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// Its name in the plan.
    pub name: String,
    /// What it said of itself.
    pub hello: Hello,
    /// Tokens per second behind the first token, a turn each.
    pub tokens_per_second: Summary,
    /// Milliseconds from the prompt to the first token.
    pub first_token_ms: Summary,
    /// Tokens for each joule, of all that the turn took; `None` without a counter.
    pub tokens_per_joule: Option<Summary>,
    /// How its output compares.
    pub checked: Checked,
    /// Its speed over the baseline's, round by round.
    pub over_baseline: Option<Ratio>,
    /// onegrid's speed over its own, round by round; `None` for onegrid.
    pub onegrid_over: Option<Ratio>,
}

struct Frameworks {
    plan: Plan,
    setting: Setting,
    models: Models,
}

fn open(text: &str, setting: &Setting) -> Result<Box<dyn Experiment>, ExperimentError> {
    let plan: Plan = plan::parse(text)?;
    plan::demand(&plan.models, "models")?;
    plan::demand(&plan.frameworks, "frameworks")?;
    plan::refuse_twice(plan.frameworks.iter().map(|one| &one.name), "frameworks")?;
    let wrong = |reason: String| Err(ExperimentError::Plan { reason });
    if plan.rounds == 0 || plan.prompt_tokens == 0 || plan.new_tokens < 2 {
        return wrong(
            "`rounds` and `prompt_tokens` must be 1 or more, `new_tokens` 2 or more".into(),
        );
    }
    if plan.checked_tokens >= plan.new_tokens {
        return wrong("`checked_tokens` must be less than `new_tokens`".into());
    }
    for one in &plan.frameworks {
        plan::demand(&one.command, "command")?;
        if one.name == OWN {
            return wrong(format!(
                "`{OWN}` is this program: name the framework otherwise"
            ));
        }
    }
    let mut names = plan.frameworks.iter().map(|one| one.name.as_str());
    if plan.baseline != OWN && !names.any(|name| name == plan.baseline) {
        return wrong(format!("the baseline `{}` is no framework", plan.baseline));
    }
    Ok(Box::new(Frameworks {
        plan,
        setting: setting.clone(),
        models: Models::default(),
    }))
}

/// One that has turns.
enum Runner {
    Own(Box<dyn Engine>, Hello),
    Other(Box<Adapter>),
}

/// A program under way.
struct Contender {
    name: String,
    runner: Runner,
    replies: Vec<Reply>,
    /// Joules of each turn, where all could be read.
    joules: Vec<Option<f64>>,
    checked: Option<Checked>,
}

impl Runner {
    fn hello(&self) -> &Hello {
        match self {
            Runner::Own(_, hello) => hello,
            Runner::Other(adapter) => adapter.hello(),
        }
    }

    fn decode(
        &mut self,
        prompt: &[TokenId],
        count: usize,
        watch: &Watch,
    ) -> Result<Reply, ExperimentError> {
        match self {
            Runner::Own(engine, _) => check::decode(&mut **engine, prompt, count),
            Runner::Other(adapter) => adapter.decode(prompt, count, watch),
        }
    }
}

impl Frameworks {
    /// Where the adapter of `framework` is.
    fn folder(&self, framework: &Framework) -> PathBuf {
        let beside = self.setting.folder.join(&framework.folder);
        match beside.is_dir() {
            true => beside,
            false => (self.setting.folder.join(ADAPTERS)).join(&framework.folder),
        }
    }

    /// Why a framework is not here; `None` if it is.
    fn missing(&self, framework: &Framework, device: &str) -> Option<String> {
        if !framework.devices.iter().any(|known| known == device) {
            return Some(format!(
                "it is for {}; this is {device}",
                framework.devices.join(", ")
            ));
        }
        let folder = self.folder(framework);
        let program = &framework.command[0];
        let is_there = !program.contains('/') || folder.join(program).exists();
        (!is_there).then(|| {
            format!(
                "not installed: there is no {}; `{}` in {} installs it",
                folder.join(program).display(),
                framework.setup,
                folder.display()
            )
        })
    }

    fn own(&self, model: &Model) -> Result<Runner, ExperimentError> {
        let choice = &self.setting.engine;
        choice.check().map_err(ExperimentError::unless_missing)?;
        let started = Instant::now();
        let context = self.plan.prompt_tokens + self.plan.new_tokens;
        let engine = choice.engine(model.weights.clone(), context, 1, &mut |_, _| ());
        let engine = engine.map_err(ExperimentError::unless_missing)?;
        let capabilities = engine.capabilities();
        let hello = Hello {
            framework: format!("onegrid {}", env!("CARGO_PKG_VERSION")),
            setup: format!(
                "{}, {}, bf16 weights",
                capabilities.name, capabilities.kernels
            ),
            device: choice.device.resolved().name().to_owned(),
            threads: Some(capabilities.threads),
            load_seconds: started.elapsed().as_secs_f64(),
            versions: serde_json::Map::new(),
            has_logits: true,
        };
        Ok(Runner::Own(engine, hello))
    }

    /// Starts all that are here.
    fn contenders(
        &self,
        model: &Model,
        folder: &Path,
        watch: &Watch,
    ) -> Result<(Vec<Contender>, Vec<Missing>), ExperimentError> {
        let contender = |name: &str, runner| Contender {
            name: name.to_owned(),
            runner,
            replies: Vec::new(),
            joules: Vec::new(),
            checked: None,
        };
        let own = self.own(model)?;
        let threads = own.hello().threads.unwrap_or(1);
        let device = match own.hello().device.as_str() {
            "cuda" => "cuda",
            _ => "cpu",
        };
        let mut contenders = vec![contender(OWN, own)];
        let mut missing = Vec::new();
        for framework in &self.plan.frameworks {
            if let Some(reason) = self.missing(framework, device) {
                missing.push(Missing {
                    what: framework.name.clone(),
                    reason,
                });
                continue;
            }
            (watch.doing)(&format!("{}: loading", framework.name));
            let start = Start {
                name: &framework.name,
                folder: &self.folder(framework),
                command: &framework.command,
                checkpoint: folder,
                threads,
                device,
                context: self.plan.prompt_tokens + self.plan.new_tokens,
                limit: Duration::from_secs_f64(self.plan.limit_seconds),
            };
            let adapter = Adapter::start(&start, watch)?;
            contenders.push(contender(&framework.name, Runner::Other(Box::new(adapter))));
        }
        match contenders.len() {
            1 => Err(ExperimentError::NotMeasured {
                reason: list_missing(&missing),
            }),
            _ => Ok((contenders, missing)),
        }
    }

    fn bandwidth(&self, own: &Runner, model: &Model) -> Result<Option<Bandwidth>, ExperimentError> {
        let Runner::Own(engine, _) = own else {
            return Ok(None);
        };
        let capabilities = engine.capabilities();
        if !capabilities.host_bound {
            return Ok(None);
        }
        let threads = capabilities.threads;
        let team = ReadTeam::new(threads).map_err(|source| ExperimentError::System {
            what: format!("cannot start {threads} threads to measure the read bandwidth"),
            source,
        })?;
        let source = Arc::new(model.weights.clone());
        let seconds = self.plan.bandwidth_seconds;
        Ok(Some(Bandwidth::calibrate(team, source, seconds)?))
    }

    fn find(&mut self, planned: &ModelPlan, watch: &Watch) -> Result<Found, ExperimentError> {
        (watch.doing)("loading");
        let load = self.setting.engine.load_options();
        let plan = self.plan.clone();
        let positions = plan.prompt_tokens + plan.new_tokens;
        let model = self.models.load(planned, &self.setting, load, positions)?;
        let folder = tempfile::tempdir().map_err(|source| ExperimentError::System {
            what: "cannot make a temporary folder for the checkpoint (TMPDIR names another)".into(),
            source,
        })?;
        let checkpoint = folder.path().join("checkpoint");
        checkpoint::write(&checkpoint, &model.weights).map_err(|error| {
            ExperimentError::System {
                what: format!("cannot write the checkpoint to {}", checkpoint.display()),
                source: std::io::Error::other(error),
            }
        })?;
        let (mut contenders, missing) = self.contenders(&model, &checkpoint, watch)?;
        let config = &model.weights.config;
        let token = |index| below(config.vocab_size, hash(index)) as TokenId;
        let prompt: Vec<TokenId> = (0..plan.prompt_tokens as u64).map(token).collect();
        let mut warm = Vec::new();
        for contender in &mut contenders {
            (watch.doing)(&format!("{}: warming up", contender.name));
            watch.check()?;
            warm.push(contender.runner.decode(&prompt, plan.new_tokens, watch)?);
        }
        let mut judge = Judge::new(&model, &prompt, &warm[0].tokens, plan.checked_tokens, watch)?;
        for (contender, reply) in contenders.iter_mut().zip(&warm) {
            (watch.doing)(&format!("{}: checking", contender.name));
            let checked = match &mut contender.runner {
                Runner::Own(engine, _) => judge.own(&mut **engine, watch)?,
                Runner::Other(adapter) => {
                    judge.other(adapter, &reply.tokens, folder.path(), watch)?
                }
            };
            contender.checked = Some(checked);
        }
        let mut bandwidth = self.bandwidth(&contenders[0].runner, &model)?;
        let mut meters = Meters::of(&self.setting.engine, &plan.powercap);
        let mut read = Vec::new();
        for round in 0..plan.rounds {
            (watch.doing)(&format!("round {} of {}", round + 1, plan.rounds));
            if let Some(bandwidth) = &mut bandwidth {
                read.push(bandwidth.measure()?);
            }
            let count = contenders.len();
            for turn in 0..count {
                let contender = &mut contenders[if round % 2 == 0 {
                    turn
                } else {
                    count - 1 - turn
                }];
                let runner = &mut contender.runner;
                std::thread::sleep(PAUSE);
                watch.check()?;
                let (reply, taken) = energy::measure(meters.counters(), || {
                    runner.decode(&prompt, plan.new_tokens, watch)
                });
                let reply = reply?;
                if reply.tokens
                    != warm[if round % 2 == 0 {
                        turn
                    } else {
                        count - 1 - turn
                    }]
                    .tokens
                {
                    return Err(ExperimentError::WrongOutput {
                        reason: format!("{} made other tokens than before", contender.name),
                    });
                }
                contender.replies.push(reply);
                let joules: Option<f64> = taken
                    .into_iter()
                    .map(|one| one.ok().map(|consumed| consumed.joules))
                    .sum();
                contender.joules.push(joules.filter(|_| !meters.is_empty()));
            }
        }
        if let (Some(traces), Runner::Own(engine, _)) =
            (&self.setting.traces, &mut contenders[0].runner)
        {
            let what = format!("{}/{OWN}", planned.model);
            if traces.start(&mut **engine, &what)? {
                check::decode(&mut **engine, &prompt, plan.new_tokens)?;
                traces.finish(&mut **engine, &model.name, &what)?;
            }
        }
        let first = plan.prompt_tokens;
        let mean = |position| config.bytes_per_token(position) as f64;
        Ok(Found {
            model: model.name,
            prompt_tokens: plan.prompt_tokens,
            new_tokens: plan.new_tokens,
            bytes_per_step: (mean(first) + mean(first + plan.new_tokens - 2)) / 2.0,
            bandwidth: Summary::new(read),
            baseline: plan.baseline.clone(),
            programs: conclude(contenders, &plan.baseline)?,
            missing,
            no_energy: match meters.is_empty() {
                true => meters.reasons(),
                false => String::new(),
            },
        })
    }
}

/// The results of all; ratios round by round.
fn conclude(contenders: Vec<Contender>, baseline: &str) -> Result<Vec<Program>, ExperimentError> {
    let speeds = |one: &Contender| -> Vec<f64> {
        let speed = |reply: &Reply| (reply.tokens.len() - 1) as f64 / reply.decode_seconds;
        one.replies.iter().map(speed).collect()
    };
    let own = speeds(&contenders[0]);
    let of_baseline = contenders
        .iter()
        .find(|one| one.name == baseline)
        .map(speeds);
    let no_time = |name: &str| ExperimentError::WrongOutput {
        reason: format!("{name} takes no time"),
    };
    let mut programs = Vec::new();
    for one in contenders {
        let speeds = speeds(&one);
        let first = one
            .replies
            .iter()
            .map(|reply| reply.first_token_seconds * 1e3);
        let joules: Option<Vec<f64>> = one.joules.iter().copied().collect();
        let tokens = one.replies.first().map_or(0, |reply| reply.tokens.len()) as f64;
        programs.push(Program {
            hello: one.runner.hello().clone(),
            tokens_per_second: Summary::new(speeds.clone()).ok_or_else(|| no_time(&one.name))?,
            first_token_ms: Summary::new(first.collect()).ok_or_else(|| no_time(&one.name))?,
            tokens_per_joule: joules
                .and_then(|joules| Summary::new(joules.iter().map(|j| tokens / j).collect())),
            checked: one.checked.expect("all are checked"),
            over_baseline: of_baseline
                .as_ref()
                .filter(|_| one.name != baseline)
                .and_then(|base| Ratio::of_pairs(&speeds, base)),
            onegrid_over: match programs.is_empty() {
                true => None,
                false => Ratio::of_pairs(&own, &speeds),
            },
            name: one.name,
        });
    }
    Ok(programs)
}

impl Experiment for Frameworks {
    fn plan(&self) -> Value {
        serde_json::to_value(&self.plan).expect("a plan is JSON")
    }

    fn cells(&self) -> Vec<Cell> {
        let cell = |model: &ModelPlan| Cell {
            id: model.model.clone(),
            weight: model
                .config(&self.setting)
                .map_or(1.0, |config| config.weight_bytes_per_token() as f64),
        };
        self.plan.models.iter().map(cell).collect()
    }

    fn measure(&mut self, cell: &Cell, watch: &Watch) -> Result<Value, ExperimentError> {
        let mut models = self.plan.models.iter();
        let model = models.find(|model| model.model == cell.id);
        let model = model.expect("one of its own cells").clone();
        Ok(serde_json::to_value(self.find(&model, watch)?)?)
    }
}
