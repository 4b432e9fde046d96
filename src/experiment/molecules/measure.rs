//! A cell: all methods on the same held-out molecules, batch by batch and in turns.
//!
//! Every text is made once and judged, and made again in the other rounds, where it must be the same token
//! for token. First texts of batches are held against the reference engine. Then the model is asked how
//! likely it finds what it was forced to write.

use std::ops::ControlFlow;
use std::time::Instant;

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use serde::{Deserialize, Serialize};

use super::forced::Forced;
use super::method::{Constraints, Method};
use super::points::{self, Lengths};
use super::prompts::{self, Heldout};
use super::texts::{MethodTexts, Text, TextsFile};
use super::{NamedModel, Plan};
use crate::constraint::molecule::Molecule;
use crate::constraint::{Compiler, Constraint};
use crate::engine::work::Work;
use crate::engine::{DecodeRequest, Engine, EngineError, Finished, StopReason};
use crate::experiment::constraints::judge::{End, Judge, Verdicts};
use crate::experiment::constraints::measure::Counts;
use crate::experiment::models::{Model, Models};
use crate::experiment::reference_check::{self, Checked};
use crate::experiment::{ExperimentError, Setting, Watch};
use crate::measure::statistics::{Ratio, Summary};
use crate::model::tokenizer::{SpecialTokens, Tokenizer};
use crate::model::{ModelConfig, TokenId};
use crate::sampling::SamplingParams;

/// What a cell found. The names of the JSON fields are a contract.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// The model.
    pub model: String,
    /// Divides the logits; 0 is greedy.
    pub temperature: f32,
    /// Sequences that decoded together.
    pub batch: usize,
    /// The engine that decoded.
    pub engine: String,
    /// Its kernels.
    pub kernels: String,
    /// Its threads.
    pub threads: usize,
    /// Molecules of each round.
    pub molecules: usize,
    /// What the data's own conformers take of this tokenizer.
    pub data: DataFound,
    /// Each method, in the plan's order.
    pub methods: Vec<MethodFound>,
    /// The file of all texts of the first round, from the result's folder on.
    pub texts: String,
}

/// Tokens of the data's own conformers, spelled between copied marks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFound {
    /// Conformers that were looked at: those that are no prompts.
    pub conformers: usize,
    /// Tokens of their points and coordinates.
    pub lengths: Lengths,
    /// Tokens of the plan's placeholder.
    pub placeholder: usize,
    /// Tokens of the fitted one.
    pub fitted: usize,
}

/// What a method did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MethodFound {
    /// Its name.
    pub method: Method,
    /// What its texts are worth.
    pub verdicts: Verdicts,
    /// The first text.
    pub example: String,
    /// How far the reference engine was asked, and agreed, for the first texts of batches.
    pub checked: Vec<Checked>,
    /// Tokens of all texts of a round.
    pub tokens: usize,
    /// Seconds of each batch, round by round.
    pub seconds: Vec<f64>,
    /// Milliseconds to compile the constraints of each batch, on the engine's threads.
    pub compile_ms: Vec<f64>,
    /// Milliseconds of decoding for each molecule: of a batch, over its molecules.
    pub molecule_ms: Summary,
    /// Milliseconds of decoding for each token.
    pub token_ms: Summary,
    /// What all rounds had to read; `None` where the device alone knows.
    pub work: Option<Work>,
    /// Bytes of that.
    pub bytes: Option<u64>,
    /// How the tokens of all rounds came about.
    pub guided: Counts,
    /// Tokens of points and coordinates as they were written.
    pub lengths: Lengths,
    /// Probability that the model gave to forced tokens.
    pub forced: Forced,
    /// Molecules per second over those of the plan's first method, batch by batch; `None` for that one.
    pub speedup: Option<Ratio>,
    /// The same with the compiling of constraints as part of the time.
    pub speedup_with_compile: Option<Ratio>,
}

/// What to measure.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    /// The cell's name.
    pub id: &'a str,
    /// What varies.
    pub plan: &'a Plan,
    /// The engine.
    pub setting: &'a Setting,
    /// What decodes.
    pub model: &'a NamedModel,
    /// Divides the logits.
    pub temperature: f32,
}

/// A method under way.
struct Contender {
    method: Method,
    /// For each molecule, once it was compiled; of a method that has none, nothing.
    constraints: Vec<Constraint>,
    verdicts: Verdicts,
    texts: Vec<Text>,
    checked: Vec<Checked>,
    seconds: Vec<f64>,
    compile_ms: Vec<f64>,
    work: Option<Work>,
    counts: Counts,
    lengths: Lengths,
    forced: Forced,
}

/// A molecule to write.
struct Prompt {
    smiles: String,
    tokens: Vec<TokenId>,
    judge: Judge,
}

impl Run<'_> {
    /// Measures it.
    ///
    /// # Errors
    /// Data, a model, an engine or a constraint that can't be had; output that the reference engine does
    /// not make, or that does not come again.
    pub fn measure(&self, models: &mut Models, watch: &Watch) -> Result<Found, ExperimentError> {
        let plan = self.plan;
        let (heldout, others) = self.heldout()?;
        let choice = &self.setting.engine;
        let load = choice.load_options();
        // What the longest prompt takes is only known with the tokenizer: a token each character at most.
        let longest = heldout.iter().map(|one| one.prompt().len()).max();
        let positions = plan.batch * (plan.max_tokens + longest.unwrap_or(0));
        let model = models.load(&self.model.model, self.setting, load, positions)?;
        let Some(tokenizer) = &model.tokenizer else {
            let reason = format!("{} has no tokenizer: give it one", model.name);
            return Err(ExperimentError::Plan { reason });
        };
        let pieces = points::pieces(tokenizer)?;
        let compiler = Compiler::new(tokenizer, &model.stop_tokens)?;
        // Once for all constraints of a tokenizer.
        compiler.vocabulary()?;
        let data = self.data(&others, tokenizer, &pieces)?;
        let mut blocked = points::holding(&pieces, &plan.blocked);
        blocked.retain(|token| !model.stop_tokens.contains(token));
        let constraints = Constraints {
            plan,
            compiler: &compiler,
            blocked,
            fitted: data.fitted,
        };
        let prompts = heldout.into_iter().map(|one| self.prompt(one, tokenizer));
        let prompts: Vec<Prompt> = prompts.collect::<Result<_, _>>()?;
        let longest = prompts.iter().map(|prompt| prompt.tokens.len()).max();
        let context = longest.unwrap_or(0) + plan.max_tokens;
        let weights = model.weights.clone();
        let mut engine = choice.engine(weights, context, plan.batch, &mut |_, _| ())?;
        let threads = engine.capabilities().threads;
        let pool = ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = pool.map_err(|source| EngineError::ThreadPool { threads, source })?;
        let new = |&method: &Method| Contender::new(method, engine.work().is_some());
        let mut contenders: Vec<Contender> = plan.methods.iter().map(new).collect();
        let mut stage = Stage {
            run: self,
            model: &model,
            tokenizer,
            pieces: &pieces,
            engine: &mut *engine,
        };
        for round in 0..plan.rounds {
            for (batch, prompts) in prompts.chunks(plan.batch).enumerate() {
                let mut order: Vec<usize> = (0..contenders.len()).collect();
                if (round + batch) % 2 == 1 {
                    order.reverse();
                }
                for index in order {
                    watch.check()?;
                    let contender = &mut contenders[index];
                    let name = contender.method.name();
                    (watch.doing)(&format!(
                        "{}: {name}, round {}, molecules from {} on",
                        self.id,
                        round + 1,
                        batch * plan.batch + 1
                    ));
                    if round == 0 {
                        contender.compile(prompts, &constraints, &pool)?;
                    }
                    stage.write(contender, round, batch, prompts)?;
                }
            }
        }
        for contender in &mut contenders {
            watch.check()?;
            let name = contender.method.name();
            (watch.doing)(&format!("{}: {name}: checking", self.id));
            stage.check(contender, &prompts)?;
            stage.ask_for_forced(contender, &prompts, watch)?;
        }
        if let Some(traces) = &self.setting.traces {
            let first = &prompts[..prompts.len().min(plan.batch)];
            for contender in &contenders {
                watch.check()?;
                let what = format!("{}/{}", self.id, contender.method.name());
                if traces.start(stage.engine, &what)? {
                    stage.decode(contender, 0, first)?;
                    traces.finish(stage.engine, &model.name, &what)?;
                }
            }
        }
        let texts = TextsFile {
            cell: self.id,
            model: &self.model.name,
            temperature: self.temperature,
            molecules: prompts.iter().map(|one| one.smiles.as_str()).collect(),
            methods: contenders.iter().map(Contender::texts).collect(),
        };
        let texts = texts.write(&self.setting.results)?;
        let capabilities = stage.engine.capabilities();
        let config = &model.weights.config;
        let mut methods: Vec<MethodFound> = Vec::new();
        for contender in contenders {
            let found = contender.found(plan, config, &prompts, methods.first())?;
            methods.push(found);
        }
        Ok(Found {
            model: self.model.name.clone(),
            temperature: self.temperature,
            batch: plan.batch,
            engine: capabilities.name.to_owned(),
            kernels: capabilities.kernels.to_owned(),
            threads: capabilities.threads,
            molecules: prompts.len(),
            data,
            methods,
            texts: texts.display().to_string(),
        })
    }

    /// The prompts, and the other held-out molecules.
    fn heldout(&self) -> Result<(Vec<Heldout>, Vec<Heldout>), ExperimentError> {
        let path = self.setting.folder.join(&self.plan.heldout);
        let mut heldout = prompts::read(&path)?;
        if heldout.len() <= self.plan.molecules {
            let reason = format!(
                "`heldout`: {} has {} molecules; expected are more than the {} of `molecules`, since \
                 the fitted placeholder is made from the others",
                path.display(),
                heldout.len(),
                self.plan.molecules
            );
            return Err(ExperimentError::Plan { reason });
        }
        let others = heldout.split_off(self.plan.molecules);
        Ok((heldout, others))
    }

    fn data(
        &self,
        others: &[Heldout],
        tokenizer: &Tokenizer,
        pieces: &[String],
    ) -> Result<DataFound, ExperimentError> {
        let conformers = others.iter().map(|one| one.conformer.as_str());
        let lengths = points::of_conformers(conformers, tokenizer, pieces)?;
        let fitted = lengths.most_common_point().filter(|&tokens| tokens > 0);
        let fitted = fitted.ok_or_else(|| ExperimentError::Plan {
            reason: "`heldout`: the conformers have no points".into(),
        })?;
        Ok(DataFound {
            conformers: others.len(),
            lengths,
            placeholder: tokenizer.encode(&self.plan.placeholder, false)?.len(),
            fitted,
        })
    }

    fn prompt(&self, heldout: Heldout, tokenizer: &Tokenizer) -> Result<Prompt, ExperimentError> {
        let molecule = Molecule::new(&heldout.smiles)?.with_coordinate(&self.plan.coordinate);
        Ok(Prompt {
            tokens: tokenizer.encode(&heldout.prompt(), true)?,
            judge: Judge::of(&molecule.template(), true)?,
            smiles: heldout.smiles,
        })
    }
}

impl Contender {
    fn new(method: Method, counts_work: bool) -> Self {
        Self {
            method,
            constraints: Vec::new(),
            verdicts: Verdicts::default(),
            texts: Vec::new(),
            checked: Vec::new(),
            seconds: Vec::new(),
            compile_ms: Vec::new(),
            work: counts_work.then(Work::default),
            counts: Counts::default(),
            lengths: Lengths::default(),
            forced: Forced::default(),
        }
    }

    /// Compiles the constraints of one more batch, on all threads of `pool`.
    fn compile(
        &mut self,
        prompts: &[Prompt],
        constraints: &Constraints,
        pool: &ThreadPool,
    ) -> Result<(), ExperimentError> {
        let started = Instant::now();
        let compile = |prompt: &Prompt| constraints.of(self.method, &prompt.smiles);
        let compiled: Result<Vec<Option<Constraint>>, ExperimentError> =
            pool.install(|| prompts.par_iter().map(compile).collect());
        self.constraints.extend(compiled?.into_iter().flatten());
        self.compile_ms.push(started.elapsed().as_secs_f64() * 1e3);
        Ok(())
    }

    fn texts(&self) -> MethodTexts<'_> {
        MethodTexts {
            method: self.method,
            texts: &self.texts,
        }
    }

    /// What came of it, beside the `first` of the methods.
    fn found(
        self,
        plan: &Plan,
        config: &ModelConfig,
        prompts: &[Prompt],
        first: Option<&MethodFound>,
    ) -> Result<MethodFound, ExperimentError> {
        let sizes: Vec<f64> = (prompts.chunks(plan.batch))
            .map(|batch| batch.len() as f64)
            .collect();
        let tokens: Vec<usize> = (self.texts.chunks(plan.batch))
            .map(|texts| texts.iter().map(|text| text.tokens.len()).sum())
            .collect();
        // A round's batches, and again those of the next.
        let each = |of_batch: &[f64]| {
            let pairs = self.seconds.iter().zip(of_batch.iter().cycle());
            let per = pairs.map(|(seconds, count)| 1e3 * seconds / count);
            Summary::new(per.collect())
        };
        let per_token: Vec<f64> = tokens.iter().map(|&tokens| tokens as f64).collect();
        let nothing = || ExperimentError::WrongOutput {
            reason: format!("{} made no token", self.method.name()),
        };
        let molecule_ms = each(&sizes).ok_or_else(nothing)?;
        let token_ms = each(&per_token).ok_or_else(nothing)?;
        let speeds = |seconds: &[f64]| -> Vec<f64> {
            let pairs = seconds.iter().zip(sizes.iter().cycle());
            pairs.map(|(seconds, size)| size / seconds).collect()
        };
        let with_compile = || -> Vec<f64> {
            let pairs = self.seconds.iter().zip(self.compile_ms.iter().cycle());
            pairs.map(|(seconds, ms)| seconds + ms / 1e3).collect()
        };
        let over_first = |seconds: &[f64]| {
            first.and_then(|first| Ratio::of_pairs(&speeds(seconds), &speeds(&first.seconds)))
        };
        Ok(MethodFound {
            speedup: over_first(&self.seconds),
            speedup_with_compile: over_first(&with_compile()),
            method: self.method,
            verdicts: self.verdicts,
            example: self.texts[0].text.clone(),
            checked: self.checked,
            tokens: tokens.iter().sum(),
            molecule_ms,
            token_ms,
            bytes: self.work.map(|work| work.bytes(config)),
            work: self.work,
            guided: self.counts,
            lengths: self.lengths,
            forced: self.forced,
            seconds: self.seconds,
            compile_ms: self.compile_ms,
        })
    }
}

/// An engine with the model that it decodes.
struct Stage<'a> {
    run: &'a Run<'a>,
    model: &'a Model,
    tokenizer: &'a Tokenizer,
    pieces: &'a [String],
    engine: &'a mut dyn Engine,
}

impl Stage<'_> {
    /// Writes the texts of a batch, timed: the first time they are judged, and then they must come again.
    fn write(
        &mut self,
        contender: &mut Contender,
        round: usize,
        batch: usize,
        prompts: &[Prompt],
    ) -> Result<(), ExperimentError> {
        let before = self.engine.work();
        let (finished, seconds) = self.decode(contender, batch, prompts)?;
        let after = self.engine.work();
        contender.seconds.push(seconds);
        if let (Some(work), Some(before), Some(after)) = (&mut contender.work, before, after) {
            *work += after - before;
        }
        let first = batch * self.run.plan.batch;
        for (index, (finished, prompt)) in finished.into_iter().zip(prompts).enumerate() {
            contender.counts.add(finished.guided, finished.tokens.len());
            if round == 0 {
                self.judge(contender, prompt, finished)?;
            } else if contender.texts[first + index].tokens != finished.tokens {
                return Err(ExperimentError::WrongOutput {
                    reason: format!(
                        "{}: {} came out otherwise in round {}",
                        contender.method.name(),
                        prompt.smiles,
                        round + 1
                    ),
                });
            }
        }
        Ok(())
    }

    fn judge(
        &self,
        contender: &mut Contender,
        prompt: &Prompt,
        finished: Finished,
    ) -> Result<(), ExperimentError> {
        let is_end = |token: &&TokenId| self.model.stop_tokens.contains(token);
        let ends = usize::from(finished.tokens.last().as_ref().is_some_and(is_end));
        let written = &finished.tokens[..finished.tokens.len() - ends];
        let text = self.tokenizer.decode(written, SpecialTokens::Keep)?;
        let end = match finished.stop {
            StopReason::Length | StopReason::Context => End::Unended,
            _ => End::Constrained,
        };
        let valid = contender.verdicts.valid;
        prompt.judge.add(&text, end, &mut contender.verdicts);
        let pieces = written.iter().map(|&token| self.piece(token));
        contender.lengths.add(&pieces.collect::<Vec<_>>());
        contender.texts.push(Text {
            text,
            tokens: finished.tokens,
            stop: finished.stop.as_str(),
            valid: contender.verdicts.valid > valid,
        });
        Ok(())
    }

    /// The text of a token; rows of the embedding that no token has are empty.
    fn piece(&self, token: TokenId) -> &str {
        self.pieces.get(token as usize).map_or("", String::as_str)
    }

    /// Decodes a batch behind its prompts; the clock runs from their end on.
    fn decode(
        &mut self,
        contender: &Contender,
        batch: usize,
        prompts: &[Prompt],
    ) -> Result<(Vec<Finished>, f64), ExperimentError> {
        for (sequence, prompt) in prompts.iter().enumerate() {
            self.engine.truncate(sequence, 0)?;
            let go_on = &mut |_| ControlFlow::Continue(());
            self.engine.prefill(sequence, &prompt.tokens, go_on)?;
        }
        let requests: Vec<DecodeRequest> = (0..prompts.len())
            .map(|sequence| self.request(contender, batch, sequence))
            .collect();
        let started = Instant::now();
        let go_on = &mut |_| ControlFlow::Continue(());
        let finished = self.engine.decode(&requests, go_on)?;
        Ok((finished, started.elapsed().as_secs_f64()))
    }

    fn request(&self, contender: &Contender, batch: usize, sequence: usize) -> DecodeRequest {
        let plan = self.run.plan;
        let constraint = contender.constraints.get(batch * plan.batch + sequence);
        DecodeRequest {
            sequence,
            max_tokens: plan.max_tokens,
            sampling: SamplingParams {
                temperature: self.run.temperature,
                seed: plan.seed + batch as u64,
                ..SamplingParams::default()
            },
            stop_tokens: self.model.stop_tokens.clone(),
            guide: constraint.map(|constraint| constraint.guide.clone()),
        }
    }

    /// Holds the first texts of batches against the reference engine, as many as its time allows.
    fn check(
        &mut self,
        contender: &mut Contender,
        prompts: &[Prompt],
    ) -> Result<(), ExperimentError> {
        let plan = self.run.plan;
        let seconds = plan.check_seconds / plan.methods.len() as f64;
        let started = Instant::now();
        for (batch, prompts) in prompts.chunks(plan.batch).enumerate() {
            let left = seconds - started.elapsed().as_secs_f64();
            if left <= 0.0 {
                break;
            }
            let prompt = &prompts[0];
            let text = reference_check::Text {
                prompt: &prompt.tokens,
                request: &self.request(contender, batch, 0),
                tokens: &contender.texts[batch * plan.batch].tokens,
            };
            let name = format!("{}, {}", contender.method.name(), prompt.smiles);
            let checked = text.check(self.engine, &self.model.weights, left, &name)?;
            contender.checked.push(checked);
        }
        Ok(())
    }

    /// Asks the model how likely it finds what it was forced to write.
    fn ask_for_forced(
        &mut self,
        contender: &mut Contender,
        prompts: &[Prompt],
        watch: &Watch,
    ) -> Result<(), ExperimentError> {
        let Contender {
            constraints,
            texts,
            forced,
            ..
        } = contender;
        let asked = constraints.iter().zip(texts).zip(prompts);
        for ((constraint, text), prompt) in asked.take(self.run.plan.forced_texts) {
            watch.check()?;
            forced.add(self.engine, &prompt.tokens, &text.tokens, &constraint.guide)?;
        }
        Ok(())
    }
}
