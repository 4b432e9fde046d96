//! `onegrid chat`: a conversation, through the checkpoint's own template.

use std::io::{BufRead, IsTerminal};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use rustyline::error::ReadlineError;
use serde_json::Value;

use super::Outcome;
use super::constraint::ConstraintArgs;
use super::load::LoadedModel;
use super::options::{EngineArgs, ModelArgs, SamplingArgs};
use super::output::{Output, TextFormat, TextOutputArgs};
use super::streaming::write_completion;
use crate::constraint::Constraint;
use crate::engine::{Engine, StopReason};
use crate::model::TokenId;
use crate::model::tokenizer::Tokenizer;
use crate::sampling::SamplingParams;
use crate::text::budget;
use crate::text::completion::CompletionRequest;
use crate::text::conversation::Conversation;

/// Positions of the KV cache where nobody says how many: enough for a talk, and not a burden.
const DEFAULT_CONTEXT: usize = 4096;

/// Talk with a model, through the chat template of its checkpoint
///
/// At a terminal lines can be edited and recalled; otherwise each line of standard input is a
/// message, and each answer ends with a line end. Ctrl-C stops an answer; Ctrl-C at the prompt,
/// Ctrl-D or /exit end the program, and /clear starts anew. With --format json each answer is an
/// object on a line of its own, as of `generate`.
#[derive(Debug, Args)]
pub struct ChatArgs {
    /// The message that tells the model how to answer
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,

    /// Tell the template that the model is to think before it answers (`enable_thinking`)
    #[arg(long, conflicts_with = "no_think")]
    think: bool,

    /// Tell the template that the model is to answer at once
    #[arg(long)]
    no_think: bool,

    /// A JSON file with a list of functions that the model may call; its calls are only shown
    #[arg(long, value_name = "FILE")]
    tools: Option<PathBuf>,

    /// The most tokens of an answer [default: what the context leaves]
    #[arg(long, value_name = "N")]
    max_tokens: Option<NonZeroUsize>,

    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    constraint: ConstraintArgs,
    #[command(flatten)]
    output: TextOutputArgs,
}

/// Runs the command.
///
/// # Errors
/// Whatever keeps the conversation from beginning or going on.
pub fn run(args: &ChatArgs) -> anyhow::Result<Outcome> {
    let wanted = args.constraint.read()?;
    let tools = args.tools.as_deref().map(read_tools).transpose()?;
    let LoadedModel {
        name,
        weights,
        text,
        ..
    } = args.model.load(&args.engine)?;
    let tokenizer = text.demand_tokenizer(Some(weights.config.vocab_size))?;
    let template = text.chat_template()?;
    let defaults = text.generation_defaults(Some(&tokenizer))?;
    let max_positions = weights.config.max_positions;
    let context = args.engine.context.map(NonZeroUsize::get);
    let context = context.unwrap_or(DEFAULT_CONTEXT.min(max_positions));
    let mut conversation = Conversation::new(&template, &tokenizer);
    if let Some(tools) = tools {
        conversation.set_tools(tools);
    }
    if args.think || args.no_think {
        conversation.set_variable("enable_thinking", args.think.into());
    }
    if let Some(system) = &args.system {
        conversation.push("system", system);
    }
    let constraint = wanted.map(|wanted| {
        let (rows, stop_tokens) = (weights.config.vocab_size, &defaults.stop_tokens);
        (args.constraint).compile(&wanted, Some(&tokenizer), rows, stop_tokens)
    });
    let constraint = constraint.transpose()?;
    let max_tokens = args.max_tokens.map_or(context, NonZeroUsize::get);
    let shortest = constraint.as_ref().map_or(0, Constraint::shortest);
    budget::check_shortest(shortest, max_tokens)?;
    let mut chat = Chat {
        constraint,
        sampling: args.sampling.choice().resolve(&defaults)?,
        stop_tokens: defaults.stop_tokens,
        max_tokens,
        format: args.output.format,
        output: args.output.open()?,
        engine: args.engine.engine(weights, context, 1)?,
        tokenizer: &tokenizer,
        conversation,
        max_positions,
    };
    let mut lines = Lines::new(&name)?;
    let outcome = loop {
        let line = match lines.next()? {
            Line::Text(line) => line,
            Line::End => break Outcome::Done,
            Line::Interrupt => break Outcome::Interrupted,
        };
        match line.trim() {
            "" => {}
            "/exit" => break Outcome::Done,
            "/clear" => chat.conversation.clear(),
            _ => chat.answer(&line)?,
        }
    };
    chat.output.finish()?;
    Ok(outcome)
}

fn read_tools(path: &Path) -> anyhow::Result<Vec<Value>> {
    let text = std::fs::read(path);
    let text = text.with_context(|| format!("--tools: cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| {
        let path = path.display();
        format!("--tools: {path} must hold a JSON list of function schemas")
    })
}

struct Chat<'m> {
    conversation: Conversation<'m>,
    tokenizer: &'m Tokenizer,
    engine: Box<dyn Engine>,
    sampling: SamplingParams,
    stop_tokens: Vec<TokenId>,
    constraint: Option<Constraint>,
    max_tokens: usize,
    max_positions: usize,
    format: TextFormat,
    output: Output,
}

impl Chat<'_> {
    fn answer(&mut self, message: &str) -> anyhow::Result<()> {
        self.conversation.push("user", message);
        let prompt = self.conversation.prompt()?;
        let context = self.engine.capabilities().context;
        if prompt.len() > context {
            self.conversation.pop();
            self.say_full(prompt.len(), context);
            return Ok(());
        }
        let request = CompletionRequest {
            prompt: &prompt,
            max_tokens: self.max_tokens,
            sampling: &self.sampling,
            stop_tokens: &self.stop_tokens,
            constraint: self.constraint.as_ref(),
        };
        let (completion, text) = write_completion(
            &mut *self.engine,
            &request,
            Some(self.tokenizer),
            self.format,
            &mut self.output,
        )?;
        self.conversation.push("assistant", &text);
        if completion.stop == StopReason::Callback.as_str() {
            eprintln!("note: stopped; what was said so far stays in the conversation");
        } else if completion.stop == StopReason::Context.as_str() {
            self.say_full(context, context);
        }
        Ok(())
    }

    fn say_full(&self, tokens: usize, context: usize) {
        eprintln!(
            "note: the conversation's {tokens} tokens fill the context of {context} positions; \
             start anew with /clear, or run with a larger --context (the model was made for {})",
            self.max_positions
        );
    }
}

/// What the user does at the prompt.
enum Line {
    Text(String),
    Interrupt,
    End,
}

/// Where the user's messages come from.
enum Lines {
    Terminal(Box<rustyline::DefaultEditor>),
    Stdin(std::io::StdinLock<'static>),
}

impl Lines {
    fn new(model: &str) -> anyhow::Result<Self> {
        if !std::io::stdin().is_terminal() {
            return Ok(Lines::Stdin(std::io::stdin().lock()));
        }
        eprintln!("{model}: Ctrl-C stops an answer, /clear starts anew, /exit ends");
        // The prompt belongs on the terminal, wherever the answers go.
        let config = rustyline::Config::builder()
            .behavior(rustyline::Behavior::PreferTerm)
            .build();
        let editor = rustyline::DefaultEditor::with_config(config);
        let editor = editor.context("cannot edit lines here")?;
        Ok(Lines::Terminal(Box::new(editor)))
    }

    fn next(&mut self) -> anyhow::Result<Line> {
        match self {
            Lines::Terminal(editor) => match editor.readline("> ") {
                Ok(line) => {
                    editor.add_history_entry(&line)?;
                    Ok(Line::Text(line))
                }
                Err(ReadlineError::Interrupted) => Ok(Line::Interrupt),
                Err(ReadlineError::Eof) => Ok(Line::End),
                Err(error) => Err(error).context("cannot read a line"),
            },
            Lines::Stdin(stdin) => {
                let mut line = String::new();
                let read = stdin.read_line(&mut line);
                if read.context("cannot read a line from standard input")? == 0 {
                    return Ok(Line::End);
                }
                let text = line.strip_suffix('\n').unwrap_or(&line);
                let text = text.strip_suffix('\r').unwrap_or(text);
                Ok(Line::Text(text.to_owned()))
            }
        }
    }
}
