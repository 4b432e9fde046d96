//! `onegrid tokenize`: text to tokens and back.

use std::io::Write;

use clap::Args;
use serde_json::json;

use super::Outcome;
use super::options::{ModelArgs, token_id};
use super::output::{TextFormat, TextOutputArgs};
use super::streaming::read_stdin;
use crate::model::TokenId;
use crate::model::tokenizer::SpecialTokens;

/// Turn a text into a model's tokens, or tokens into text; loads no weights
///
/// With --format json the result is an object with `tokens` and `pieces` (the text of each token;
/// joined they are the whole text), and with --ids also `text`.
#[derive(Debug, Args)]
pub struct TokenizeArgs {
    /// The text; without it standard input is read, up to its last line end
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,

    /// Token ids to turn into text, special tokens spelled out
    #[arg(long, value_name = "IDS", value_delimiter = ',', value_parser = token_id)]
    #[arg(conflicts_with = "text")]
    ids: Option<Vec<TokenId>>,

    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    output: TextOutputArgs,
}

/// Runs the command.
///
/// # Errors
/// A model without a tokenizer; ids outside its vocabulary.
pub fn run(args: &TokenizeArgs) -> anyhow::Result<Outcome> {
    let files = args.model.text_files()?;
    let tokenizer = files.demand_tokenizer(files.vocab_size())?;
    let mut output = args.output.open()?;
    if let Some(ids) = &args.ids {
        let text = tokenizer.decode(ids, SpecialTokens::Keep)?;
        match args.output.format {
            TextFormat::Text => writeln!(output, "{text}")?,
            TextFormat::Json => {
                let pieces = tokenizer.pieces(ids)?;
                let result = json!({"text": text, "tokens": ids, "pieces": pieces});
                writeln!(output, "{result}")?;
            }
        }
    } else {
        let text = match &args.text {
            Some(text) => text.clone(),
            None => read_stdin("text")?,
        };
        let tokens = tokenizer.encode(&text, true)?;
        let pieces = tokenizer.pieces(&tokens)?;
        match args.output.format {
            TextFormat::Text => {
                for (token, piece) in tokens.iter().zip(&pieces) {
                    writeln!(output, "{token}\t{}", json!(piece))?;
                }
            }
            TextFormat::Json => {
                writeln!(output, "{}", json!({"tokens": tokens, "pieces": pieces}))?;
            }
        }
    }
    output.finish()?;
    Ok(Outcome::Done)
}
