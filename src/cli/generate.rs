//! `onegrid generate`: continues a prompt.

use std::num::NonZeroUsize;

use anyhow::anyhow;
use clap::Args;

use super::constraint::ConstraintArgs;
use super::load::LoadedModel;
use super::options::{EngineArgs, ModelArgs, SamplingArgs, token_id};
use super::output::TextOutputArgs;
use super::streaming::{read_stdin, write_completion};
use super::trace::TraceArgs;
use super::{Outcome, WrongUse};
use crate::constraint::Constraint;
use crate::engine::StopReason;
use crate::model::TokenId;
use crate::model::tokenizer::{Tokenizer, TokenizerError};
use crate::text::budget::Budget;
use crate::text::completion::CompletionRequest;

/// Continue a text, streamed to standard output
///
/// The prompt is taken as it is, without a chat template. With --format json the result is one
/// object with `text`, `tokens`, `stop` (eos, length, context, or stopped after Ctrl-C) and `stats`
/// (prompt_tokens, new_tokens, first_token_ms, tokens_per_second). With a constraint `stop` may be
/// constraint, where it allows nothing more, and there is a `constraint` (kind, path, states,
/// classes, table_bytes, compile_ms, forced_tokens, gathered_steps, full_steps, complete).
#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// The text to continue; without it standard input is read, up to its last line end
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,

    /// The prompt as token ids, for models that have no tokenizer
    #[arg(long, value_name = "IDS", value_delimiter = ',', value_parser = token_id)]
    #[arg(conflicts_with = "prompt")]
    prompt_tokens: Option<Vec<TokenId>>,

    /// The most tokens to make [default: 256, or what the model's positions leave]
    #[arg(long, value_name = "N")]
    max_tokens: Option<NonZeroUsize>,

    /// Go on after the tokens that end a text
    #[arg(long)]
    ignore_eos: bool,

    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    constraint: ConstraintArgs,
    #[command(flatten)]
    trace: TraceArgs,
    #[command(flatten)]
    output: TextOutputArgs,
}

/// Runs the command.
///
/// # Errors
/// Whatever keeps the text from being made.
pub fn run(args: &GenerateArgs) -> anyhow::Result<Outcome> {
    let wanted = args.constraint.read()?;
    let given = match (&args.prompt, &args.prompt_tokens) {
        (Some(text), _) => Prompt::Text(text.clone()),
        (None, Some(tokens)) => Prompt::Tokens(tokens.clone()),
        (None, None) => Prompt::Text(read_stdin("prompt")?),
    };
    let LoadedModel {
        name,
        weights,
        text,
        ..
    } = args.model.load(&args.engine)?;
    let tokenizer = match text.tokenizer(Some(weights.config.vocab_size)) {
        // A folder without a tokenizer continues ids as random weights do.
        Err(TokenizerError::Missing { .. }) if given.is_tokens() => None,
        tokenizer => tokenizer?,
    };
    let prompt = given.tokens(tokenizer.as_ref(), &name)?;
    let defaults = text.generation_defaults(tokenizer.as_ref())?;
    let choice = args.sampling.choice();
    let sampling = choice.resolve(&defaults)?;
    for flag in choice.without_effect(&sampling) {
        eprintln!("note: {flag} has no effect on greedy decoding; give a --temperature above 0");
    }
    if tokenizer.is_none() {
        eprintln!("note: {name} has no tokenizer, so these are token ids; see --tokenizer");
    }
    let stop_tokens = if args.ignore_eos {
        Vec::new()
    } else {
        defaults.stop_tokens
    };
    let constraint = wanted.map(|wanted| {
        let rows = weights.config.vocab_size;
        (args.constraint).compile(&wanted, tokenizer.as_ref(), rows, &stop_tokens)
    });
    let constraint = constraint.transpose()?;
    let budget = Budget::of(
        prompt.len(),
        args.max_tokens.map(NonZeroUsize::get),
        args.engine.context.map(NonZeroUsize::get),
        weights.config.max_positions,
        constraint.as_ref().map_or(0, Constraint::shortest),
    )?;
    let mut engine = args.engine.engine(weights, budget.context, 1)?;
    args.trace.start(&mut *engine)?;
    let request = CompletionRequest {
        prompt: &prompt,
        max_tokens: budget.max_tokens,
        sampling: &sampling,
        stop_tokens: &stop_tokens,
        constraint: constraint.as_ref(),
    };
    let mut output = args.output.open()?;
    let (completion, _) = write_completion(
        &mut *engine,
        &request,
        tokenizer.as_ref(),
        args.output.format,
        &mut output,
    )?;
    output.finish()?;
    args.trace.finish(&mut *engine, &name)?;
    Ok(if completion.stop == StopReason::Callback.as_str() {
        Outcome::Interrupted
    } else {
        Outcome::Done
    })
}

/// The prompt as the user gives it.
enum Prompt {
    Text(String),
    Tokens(Vec<TokenId>),
}

impl Prompt {
    fn is_tokens(&self) -> bool {
        matches!(self, Prompt::Tokens(_))
    }

    fn tokens(self, tokenizer: Option<&Tokenizer>, model: &str) -> anyhow::Result<Vec<TokenId>> {
        let tokens = match (self, tokenizer) {
            (Prompt::Tokens(tokens), _) => tokens,
            (Prompt::Text(text), Some(tokenizer)) => tokenizer.encode(&text, true)?,
            (Prompt::Text(_), None) => {
                return Err(anyhow!(
                    "{model} has no tokenizer, so it takes no text; lend it one with --tokenizer \
                     PATH, or give token ids with --prompt-tokens 1,2,3"
                ));
            }
        };
        if tokens.is_empty() {
            let message = "the prompt is empty; give a text to continue with --prompt or on \
                           standard input";
            return Err(WrongUse(message.into()).into());
        }
        Ok(tokens)
    }
}
