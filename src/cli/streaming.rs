//! Text that comes in and goes out piece by piece.

use std::io::{IsTerminal, Read, Write};
use std::ops::ControlFlow;

use anyhow::Context;

use super::interrupt::Watch;
use super::output::{Output, TextFormat};
use crate::engine::Engine;
use crate::model::TokenId;
use crate::model::tokenizer::{SpecialTokens, TextStream, Tokenizer};
use crate::text::completion::{Completion, CompletionRequest, complete};

/// Standard input up to its last line end, which `echo` adds and nobody means.
///
/// # Errors
/// If it can't be read or is no UTF-8.
pub fn read_stdin(what: &str) -> anyhow::Result<String> {
    if std::io::stdin().is_terminal() {
        eprintln!("note: reading the {what} from standard input; Ctrl-D ends it");
    }
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read the {what} from standard input"))?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

/// Writes tokens as text while they are made, or as ids where there is no tokenizer.
#[derive(Debug)]
struct TextWriter<'t, 'o> {
    stream: Option<TextStream<'t>>,
    output: Option<&'o mut Output>,
    text: String,
    failed: Option<anyhow::Error>,
}

impl<'t, 'o> TextWriter<'t, 'o> {
    /// Writes to `output`, or only gathers the text.
    fn new(tokenizer: Option<&'t Tokenizer>, output: Option<&'o mut Output>) -> Self {
        Self {
            stream: tokenizer.map(|tokenizer| tokenizer.stream(SpecialTokens::Skip)),
            output,
            text: String::new(),
            failed: None,
        }
    }

    /// Takes a token; breaks off on `stop`, or if it can't be written.
    fn push(&mut self, token: TokenId, stop: bool) -> ControlFlow<()> {
        self.failed = self.try_push(token).err();
        if stop || self.failed.is_some() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    fn try_push(&mut self, token: TokenId) -> anyhow::Result<()> {
        let part = match &mut self.stream {
            Some(stream) => stream.push(token)?,
            None if self.text.is_empty() => token.to_string(),
            None => format!(",{token}"),
        };
        self.write(&part)
    }

    fn write(&mut self, part: &str) -> anyhow::Result<()> {
        self.text += part;
        if let Some(output) = self.output.as_mut().filter(|_| !part.is_empty()) {
            output.write_all(part.as_bytes())?;
            output.flush()?;
        }
        Ok(())
    }

    /// All the text.
    ///
    /// # Errors
    /// What made `push` break off.
    fn finish(mut self) -> anyhow::Result<String> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if let Some(stream) = self.stream.take() {
            self.write(&stream.finish()?)?;
        }
        Ok(self.text)
    }
}

/// Continues `request.prompt` and writes what comes of it: text while it is made, or one JSON object.
/// Ctrl-C ends it early. Returns the completion and its text, which is token ids where there is no
/// tokenizer.
///
/// # Errors
/// As [`complete`]; output that can't be written.
pub fn write_completion(
    engine: &mut dyn Engine,
    request: &CompletionRequest,
    tokenizer: Option<&Tokenizer>,
    format: TextFormat,
    output: &mut Output,
) -> anyhow::Result<(Completion, String)> {
    let streams = format == TextFormat::Text;
    let mut writer = TextWriter::new(tokenizer, streams.then_some(&mut *output));
    let watch = Watch::begin();
    let mut completion = complete(engine, request, &|| watch.pressed(), &mut |token| {
        writer.push(token, watch.pressed())
    })?;
    let text = writer.finish()?;
    if streams {
        writeln!(output)?;
        note_stats(&completion);
    } else {
        completion.text = tokenizer.is_some().then(|| text.clone());
        writeln!(output, "{}", serde_json::to_string(&completion)?)?;
    }
    output.flush()?;
    Ok((completion, text))
}

/// How long it took, for people who watch.
fn note_stats(completion: &Completion) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    let stats = &completion.stats;
    let speed = stats
        .tokens_per_second
        .map_or(String::new(), |speed| format!(", {speed:.1} tokens/s"));
    let first = stats
        .first_token_ms
        .map_or(String::new(), |ms| format!(", first after {ms:.0} ms"));
    let constraint = (completion.constraint.as_ref()).map_or(String::new(), |followed| {
        format!(
            "; {} on the {}: {} forced, {} gathered, {} full, {}",
            followed.kind,
            followed.path,
            followed.forced_tokens,
            followed.gathered_steps,
            followed.full_steps,
            if followed.complete {
                "complete"
            } else {
                "cut short"
            }
        )
    });
    eprintln!(
        "[{} + {} tokens{first}{speed}; {}{constraint}]",
        stats.prompt_tokens, stats.new_tokens, completion.stop
    );
}
