//! `onegrid logits`: teacher-forced logits of given tokens.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::interrupt::Watch;
use super::load::{Bar, LoadedModel};
use super::options::{EngineArgs, ModelArgs, token_id};
use super::{Outcome, WrongUse};
use crate::model::TokenId;
use crate::report::logits_file::LogitsFile;

/// Tokens run between two looks at Ctrl-C.
const CHUNK: usize = 64;

/// Write the logits after each of the given tokens to a safetensors file
///
/// The file holds the logits ([tokens, vocabulary], f32; row i is what follows token i) and the tokens
/// themselves, so that it can be compared with what another program saves. Its metadata names the model,
/// the engine and the version. It appears when it is whole.
#[derive(Debug, Args)]
pub struct LogitsArgs {
    /// The tokens
    #[arg(long, value_name = "IDS", value_delimiter = ',', value_parser = token_id)]
    #[arg(required_unless_present = "text")]
    tokens: Option<Vec<TokenId>>,

    /// A text whose tokens to take
    #[arg(long, value_name = "TEXT", conflicts_with = "tokens")]
    text: Option<String>,

    /// The file to write
    #[arg(long, value_name = "FILE")]
    output: PathBuf,

    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

/// Runs the command.
///
/// # Errors
/// Whatever keeps the logits from being computed or written; there is no file then.
pub fn run(args: &LogitsArgs) -> anyhow::Result<Outcome> {
    let LoadedModel {
        name,
        weights,
        text,
        ..
    } = args.model.load(&args.engine)?;
    let vocab_size = weights.config.vocab_size;
    let tokens = match (&args.tokens, &args.text) {
        (Some(tokens), _) => tokens.clone(),
        (None, given) => text
            .demand_tokenizer(Some(vocab_size))?
            .encode(given.as_deref().unwrap_or_default(), true)?,
    };
    if tokens.is_empty() {
        return Err(WrongUse("there are no tokens; --text is empty".into()).into());
    }
    let context = args.engine.context.map_or(tokens.len(), NonZeroUsize::get);
    let mut engine = args.engine.engine(weights, context, 1)?;
    let capabilities = engine.capabilities();
    let metadata = [
        ("model", name),
        (
            "engine",
            format!("{} ({})", capabilities.name, capabilities.kernels),
        ),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    let cannot_write = || format!("--output: cannot write {}", args.output.display());
    let mut file = LogitsFile::create(&args.output, &[&tokens], vocab_size, &metadata)
        .with_context(cannot_write)?;
    let bytes = (tokens.len() * vocab_size * size_of::<f32>()) as u64;
    let mut bar = Bar::default();
    let mut done = 0;
    let watch = Watch::begin();
    for chunk in tokens.chunks(CHUNK) {
        if watch.pressed() {
            return Ok(Outcome::Interrupted);
        }
        let mut written = Ok(());
        engine.logits(0, chunk, &mut |_, logits| {
            if written.is_ok() {
                written = file.push(logits);
            }
            done += size_of_val(logits) as u64;
            bar.bytes("logits", done, bytes);
        })?;
        written.with_context(cannot_write)?;
    }
    file.commit().with_context(cannot_write)?;
    Ok(Outcome::Done)
}
