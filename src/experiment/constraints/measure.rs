//! A cell: all methods on one workload, in turns, on the same prompts and seeds.
//!
//! First every text is made once, judged, and where time allows held against the reference engine. Then
//! the clock runs: what was made must come again. Without a constraint a model does not know where to
//! end, so its timed rounds make as many tokens as the automaton's texts have, at the same positions;
//! they are made once so before, for sequences that decode together are rounded by how many they are.

use std::ops::ControlFlow;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::judge::{End, Judge, Verdicts};
use super::workload::Workload;
use super::{ExperimentError, Method, Plan, PlannedModel};
use crate::constraint::{Compiler, Constraint};
use crate::engine::guide::Guided;
use crate::engine::work::Work;
use crate::engine::{DecodeRequest, Engine, EngineError, Finished, StopReason};
use crate::experiment::models::{Model, Models};
use crate::experiment::reference_check::{Checked, Text};
use crate::experiment::traces::Traces;
use crate::experiment::{Setting, Watch};
use crate::measure::statistics::{Ratio, Summary};
use crate::model::TokenId;
use crate::model::tokenizer::SpecialTokens;
use crate::sampling::SamplingParams;

/// What a cell found. The names of the JSON fields are a contract.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// The model.
    pub model: String,
    /// The workload.
    pub workload: String,
    /// Sequences that decoded together.
    pub batch: usize,
    /// The engine that decoded.
    pub engine: String,
    /// Its kernels.
    pub kernels: String,
    /// Its threads.
    pub threads: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Each method, in the plan's order.
    pub methods: Vec<MethodFound>,
}

/// What a method did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MethodFound {
    /// Its name.
    pub method: Method,
    /// What the constraint was compiled to; `None` for none.
    pub compiled: Option<Compiled>,
    /// What its texts are worth.
    pub verdicts: Verdicts,
    /// The first text.
    pub example: String,
    /// How far the reference engine was asked, and agreed.
    pub checked: Checked,
    /// Tokens of each timed round, all sequences together.
    pub tokens: Vec<usize>,
    /// Seconds of each timed round.
    pub seconds: Vec<f64>,
    /// Milliseconds a token: `seconds` over `tokens`.
    pub token_ms: Summary,
    /// What the timed rounds had to read, together; `None` where the device alone knows.
    pub work: Option<Work>,
    /// Bytes of that.
    pub bytes: Option<u64>,
    /// How the tokens of the timed rounds came about, together.
    pub guided: Counts,
    /// Tokens per second over those of the plan's first method, round by round; `None` for that one.
    pub speedup: Option<Ratio>,
}

/// A compiled constraint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compiled {
    /// `device` for tables, `host` for a grammar.
    pub path: String,
    /// Milliseconds to compile.
    pub compile_ms: f64,
    /// States of its tables.
    pub states: Option<usize>,
    /// Classes of its tables.
    pub classes: Option<usize>,
    /// Bytes of its tables.
    pub table_bytes: Option<usize>,
}

/// How tokens came about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Left no choice.
    pub forced: usize,
    /// Chosen among a few.
    pub gathered: usize,
    /// Chosen with the whole head.
    pub full: usize,
}

/// What to measure.
pub struct Run<'a> {
    /// The cell's name.
    pub id: &'a str,
    /// What varies.
    pub plan: &'a Plan,
    /// The engine.
    pub setting: &'a Setting,
    /// What decodes.
    pub model: &'a PlannedModel,
    /// What is to be written.
    pub workload: &'a Workload,
    /// Sequences that decode together.
    pub batch: usize,
    /// The most tokens of a text.
    pub max_tokens: usize,
}

/// A method under way.
struct Contender {
    method: Method,
    constraint: Option<Constraint>,
    verdicts: Verdicts,
    example: String,
    checked: Checked,
    /// What each seed's sequences made, of the timed rounds: `[round][sequence]`.
    made: Vec<Vec<Vec<TokenId>>>,
    tokens: Vec<usize>,
    seconds: Vec<f64>,
    work: Option<Work>,
    counts: Counts,
}

/// The texts of one seed.
struct Texts<'a> {
    constraint: Option<&'a Constraint>,
    seed: u64,
    /// The most tokens of each sequence.
    limits: Vec<usize>,
    stop_tokens: &'a [TokenId],
}

impl Run<'_> {
    /// Measures it.
    ///
    /// # Errors
    /// A model, an engine or a constraint that can't be had; output that the reference engine does not
    /// make, or that does not come again.
    pub fn measure(&self, models: &mut Models, watch: &Watch) -> Result<Found, ExperimentError> {
        let choice = &self.setting.engine;
        choice.check()?;
        let positions = self.batch * (self.max_tokens + self.workload.prompt.len());
        let load = choice.load_options();
        let model = models.load(&self.model.model, self.setting, load, positions)?;
        let Some(tokenizer) = &model.tokenizer else {
            return Err(ExperimentError::Plan {
                reason: format!("{} has no tokenizer: give it one", model.name),
            });
        };
        let prompt = tokenizer.encode(&self.workload.prompt, true)?;
        let context = prompt.len() + self.max_tokens;
        let compiler = Compiler::new(tokenizer, &model.stop_tokens)?;
        // Once for all constraints of a tokenizer.
        compiler.vocabulary()?;
        let mut engine =
            choice.engine(model.weights.clone(), context, self.batch, &mut |_, _| ())?;
        let contenders = self.plan.methods.iter().map(|&method| {
            Ok(Contender {
                method,
                constraint: self.workload.constraint(method, &compiler)?,
                verdicts: Verdicts::default(),
                example: String::new(),
                checked: Checked::default(),
                made: Vec::new(),
                tokens: Vec::new(),
                seconds: Vec::new(),
                work: engine.work().map(|_| Work::default()),
                counts: Counts::default(),
            })
        });
        let mut contenders: Vec<Contender> = contenders.collect::<Result<_, ExperimentError>>()?;
        let mut stage = Stage {
            run: self,
            model: &model,
            prompt: &prompt,
            engine: &mut *engine,
        };
        for contender in &mut contenders {
            (watch.doing)(&format!("{}: checking", contender.method.name()));
            stage.make_texts(contender, watch)?;
        }
        let lengths = lengths(&contenders);
        for contender in &mut contenders {
            (watch.doing)(&format!("{}: checking", contender.method.name()));
            if contender.constraint.is_none() {
                stage.make_timed_texts(contender, lengths.as_deref(), watch)?;
            }
            stage.check_against_reference(contender)?;
        }
        for round in 0..self.plan.rounds {
            let mut order: Vec<usize> = (0..contenders.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for index in order {
                watch.check()?;
                let contender = &mut contenders[index];
                let name = contender.method.name();
                (watch.doing)(&format!("{name}: round {}", round + 1));
                stage.time(contender, round, lengths.as_deref())?;
            }
        }
        if let Some(traces) = &self.setting.traces {
            for contender in &contenders {
                watch.check()?;
                stage.record(contender, lengths.as_deref(), traces)?;
            }
        }
        let capabilities = stage.engine.capabilities();
        let config = &model.weights.config;
        let mut methods: Vec<MethodFound> = Vec::new();
        for contender in contenders {
            let speeds = |tokens: &[usize], seconds: &[f64]| -> Vec<f64> {
                let pairs = tokens.iter().zip(seconds);
                pairs
                    .map(|(&tokens, seconds)| tokens as f64 / seconds)
                    .collect()
            };
            let own = speeds(&contender.tokens, &contender.seconds);
            let speedup = methods
                .first()
                .and_then(|first| Ratio::of_pairs(&own, &speeds(&first.tokens, &first.seconds)));
            let token_ms = own.iter().map(|speed| 1e3 / speed).collect();
            let token_ms = Summary::new(token_ms).ok_or_else(|| ExperimentError::WrongOutput {
                reason: format!("{} made no token", contender.method.name()),
            })?;
            methods.push(MethodFound {
                method: contender.method,
                compiled: contender.constraint.as_ref().map(Compiled::of),
                verdicts: contender.verdicts,
                example: contender.example,
                checked: contender.checked,
                token_ms,
                bytes: contender.work.map(|work| work.bytes(config)),
                work: contender.work,
                guided: contender.counts,
                speedup,
                tokens: contender.tokens,
                seconds: contender.seconds,
            });
        }
        Ok(Found {
            model: model.name.clone(),
            workload: self.workload.name.clone(),
            batch: self.batch,
            engine: capabilities.name.to_owned(),
            kernels: capabilities.kernels.to_owned(),
            threads: capabilities.threads,
            prompt_tokens: prompt.len(),
            methods,
        })
    }
}

/// How many tokens the automaton made: `[round][sequence]`.
fn lengths(contenders: &[Contender]) -> Option<Vec<Vec<usize>>> {
    let automaton = contenders.iter().find(|c| c.method == Method::Automaton)?;
    let rounds = automaton.made.iter();
    Some(
        rounds
            .map(|sequences| sequences.iter().map(Vec::len).collect())
            .collect(),
    )
}

/// An engine with the prompt to continue.
struct Stage<'a> {
    run: &'a Run<'a>,
    model: &'a Model,
    prompt: &'a [TokenId],
    engine: &'a mut dyn Engine,
}

impl<'a> Stage<'a> {
    fn seed(&self, round: usize) -> u64 {
        self.run.plan.seed + round as u64
    }

    /// Makes the texts of all rounds, and as many more as are to be judged, and judges them.
    fn make_texts(
        &mut self,
        contender: &mut Contender,
        watch: &Watch,
    ) -> Result<(), ExperimentError> {
        let judge = Judge::new(self.run.workload)?;
        let rounds = self.run.plan.rounds;
        let batches = rounds.max(self.run.model.texts.div_ceil(self.run.batch));
        let constraint = contender.constraint.clone();
        for round in 0..batches {
            watch.check()?;
            let texts = Texts {
                constraint: constraint.as_ref(),
                seed: self.seed(round),
                limits: vec![self.run.max_tokens; self.run.batch],
                stop_tokens: &self.model.stop_tokens,
            };
            let (finished, _) = self.decode(&texts)?;
            for finished in &finished {
                let text = self.text(&finished.tokens)?;
                let end = match finished.stop {
                    StopReason::Length | StopReason::Context => End::Cut,
                    _ if constraint.is_some() => End::Constrained,
                    _ => End::Free,
                };
                judge.add(&text, end, &mut contender.verdicts);
                if contender.verdicts.texts == 1 {
                    contender.example = text;
                }
            }
            if round < rounds {
                let tokens = finished.into_iter().map(|finished| finished.tokens);
                contender.made.push(tokens.collect());
            }
        }
        Ok(())
    }

    /// Has the reference engine make the first text, as far as it comes in its time.
    fn check_against_reference(
        &mut self,
        contender: &mut Contender,
    ) -> Result<(), ExperimentError> {
        let expected = &contender.made[0][0];
        let texts = Texts {
            constraint: contender.constraint.as_ref(),
            seed: self.seed(0),
            limits: vec![expected.len()],
            stop_tokens: &self.model.stop_tokens,
        };
        let seconds = self.run.plan.check_seconds / self.run.plan.methods.len() as f64;
        let text = Text {
            prompt: self.prompt,
            request: &self.requests(&texts)[0],
            tokens: expected,
        };
        let name = contender.method.name();
        let weights = &self.model.weights;
        contender.checked = text.check(self.engine, weights, seconds, name)?;
        Ok(())
    }

    /// What a timed round is to make. What nothing holds to its form is as long as the automaton's texts,
    /// and goes on where it would have ended.
    fn timed_texts<'t>(
        &self,
        constraint: Option<&'t Constraint>,
        round: usize,
        lengths: Option<&[Vec<usize>]>,
    ) -> Texts<'t>
    where
        'a: 't,
    {
        let is_free = constraint.is_none();
        Texts {
            constraint,
            seed: self.seed(round),
            limits: match lengths {
                Some(lengths) if is_free => lengths[round].clone(),
                _ => vec![self.run.max_tokens; self.run.batch],
            },
            stop_tokens: if is_free {
                &[]
            } else {
                &self.model.stop_tokens
            },
        }
    }

    /// Makes the texts of a method without a constraint as the timed rounds will.
    fn make_timed_texts(
        &mut self,
        contender: &mut Contender,
        lengths: Option<&[Vec<usize>]>,
        watch: &Watch,
    ) -> Result<(), ExperimentError> {
        for round in 0..self.run.plan.rounds {
            watch.check()?;
            let texts = self.timed_texts(None, round, lengths);
            let (finished, _) = self.decode(&texts)?;
            let tokens = finished.into_iter().map(|finished| finished.tokens);
            contender.made[round] = tokens.collect();
        }
        Ok(())
    }

    /// Makes the texts of a round again, timed.
    fn time(
        &mut self,
        contender: &mut Contender,
        round: usize,
        lengths: Option<&[Vec<usize>]>,
    ) -> Result<(), ExperimentError> {
        let constraint = contender.constraint.clone();
        let texts = self.timed_texts(constraint.as_ref(), round, lengths);
        let before = self.engine.work();
        let (finished, seconds) = self.decode(&texts)?;
        let after = self.engine.work();
        for (sequence, finished) in finished.iter().enumerate() {
            if contender.made[round][sequence] != finished.tokens {
                return Err(ExperimentError::WrongOutput {
                    reason: format!(
                        "{}: it came out otherwise when it was timed",
                        contender.method.name()
                    ),
                });
            }
            contender.counts.add(finished.guided, finished.tokens.len());
        }
        let tokens = finished.iter().map(|finished| finished.tokens.len()).sum();
        contender.tokens.push(tokens);
        contender.seconds.push(seconds);
        if let (Some(work), Some(before), Some(after)) = (&mut contender.work, before, after) {
            *work += after - before;
        }
        Ok(())
    }

    /// Records the first round of a method.
    fn record(
        &mut self,
        contender: &Contender,
        lengths: Option<&[Vec<usize>]>,
        traces: &Traces,
    ) -> Result<(), ExperimentError> {
        let what = format!("{}/{}", self.run.id, contender.method.name());
        if traces.start(self.engine, &what)? {
            let texts = self.timed_texts(contender.constraint.as_ref(), 0, lengths);
            self.decode(&texts)?;
            traces.finish(self.engine, &self.model.name, &what)?;
        }
        Ok(())
    }

    /// Decodes behind the prompt; the clock runs from its end on.
    fn decode(&mut self, texts: &Texts) -> Result<(Vec<Finished>, f64), EngineError> {
        for sequence in 0..self.run.batch {
            self.engine.truncate(sequence, self.prompt.len() - 1)?;
            let cached = self.engine.cached(sequence).len();
            let rest = &self.prompt[cached..];
            self.engine
                .prefill(sequence, rest, &mut |_| ControlFlow::Continue(()))?;
        }
        let requests = self.requests(texts);
        let started = Instant::now();
        let finished = self
            .engine
            .decode(&requests, &mut |_| ControlFlow::Continue(()))?;
        Ok((finished, started.elapsed().as_secs_f64()))
    }

    fn requests(&self, texts: &Texts) -> Vec<DecodeRequest> {
        let request = |(sequence, &max_tokens)| DecodeRequest {
            sequence,
            max_tokens,
            sampling: SamplingParams {
                temperature: self.run.plan.temperature,
                seed: texts.seed,
                ..SamplingParams::default()
            },
            stop_tokens: texts.stop_tokens.to_vec(),
            guide: texts.constraint.map(|constraint| constraint.guide.clone()),
        };
        texts.limits.iter().enumerate().map(request).collect()
    }

    /// The text of `tokens`, without one that ends it.
    fn text(&self, tokens: &[TokenId]) -> Result<String, ExperimentError> {
        let is_end = |token: &&TokenId| self.model.stop_tokens.contains(token);
        let ends = usize::from(tokens.last().as_ref().is_some_and(is_end));
        let tokens = &tokens[..tokens.len() - ends];
        let tokenizer = self.model.tokenizer.as_ref().expect("checked before");
        Ok(tokenizer.decode(tokens, SpecialTokens::Keep)?)
    }
}

impl Counts {
    /// Counts `tokens` that a guide had to do with, or none.
    pub fn add(&mut self, guided: Option<Guided>, tokens: usize) {
        match guided {
            None => self.full += tokens,
            Some(guided) => {
                self.forced += guided.forced_tokens;
                self.gathered += guided.gathered_steps;
                self.full += guided.full_steps;
            }
        }
    }
}

impl Compiled {
    fn of(constraint: &Constraint) -> Self {
        let tables = constraint.tables();
        Self {
            path: constraint.path().to_owned(),
            compile_ms: constraint.compile_ms,
            states: tables.map(|tables| tables.states()),
            classes: tables.map(|tables| tables.classes()),
            table_bytes: tables.map(|tables| tables.bytes()),
        }
    }
}
