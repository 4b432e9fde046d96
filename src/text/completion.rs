//! One continuation of one prompt, streamed and timed.

use std::ops::ControlFlow;
use std::time::Instant;

use serde::Serialize;

use crate::constraint::Constraint;
use crate::engine::guide::Guided;
use crate::engine::{DecodeRequest, Engine, EngineError, StopReason};
use crate::model::TokenId;
use crate::sampling::SamplingParams;

/// The engine's sequence that completions are made on.
const SEQUENCE: usize = 0;

/// What to continue, and how.
#[derive(Clone, Debug)]
pub struct CompletionRequest<'a> {
    /// All tokens before the continuation; one at least.
    pub prompt: &'a [TokenId],
    /// The most tokens to make.
    pub max_tokens: usize,
    /// How to choose a token from the logits.
    pub sampling: &'a SamplingParams,
    /// Tokens that end the continuation.
    pub stop_tokens: &'a [TokenId],
    /// What the continuation must follow.
    pub constraint: Option<&'a Constraint>,
}

/// A continuation. The names of the JSON fields are a contract.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Completion {
    /// The text without special tokens; `None` without a tokenizer.
    pub text: Option<String>,
    /// The tokens, one that ended it included.
    pub tokens: Vec<TokenId>,
    /// `eos`, `length`, `context`, `constraint` where one allows nothing more, or `stopped`
    /// where the user interrupted it.
    pub stop: &'static str,
    /// Counts and times.
    pub stats: CompletionStats,
    /// What was followed, if anything was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub constraint: Option<Followed>,
}

/// A constraint and what it had to do with a continuation. The names of the JSON fields are a
/// contract.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Followed {
    /// `regex`, `template`, `molecule`, `position`, `json_schema` or `lark`.
    pub kind: &'static str,
    /// `device` for tables, which every device can step by itself; `host` for a grammar that is
    /// stepped on the host, with a mask for each token.
    pub path: &'static str,
    /// States of the tables.
    pub states: Option<usize>,
    /// Classes that the tokens fall into.
    pub classes: Option<usize>,
    /// Bytes of the tables.
    pub table_bytes: Option<usize>,
    /// Milliseconds to compile the constraint, or to read its tables from the cache.
    pub compile_ms: f64,
    /// Tokens that left no choice, so that the model was not asked.
    pub forced_tokens: usize,
    /// Tokens chosen among a few, whose rows of the head alone were computed.
    pub gathered_steps: usize,
    /// Tokens chosen with the whole head.
    pub full_steps: usize,
    /// Whether the text is a whole match, not cut short.
    pub complete: bool,
}

impl Followed {
    fn new(constraint: &Constraint, guided: Guided) -> Self {
        let tables = constraint.tables();
        Self {
            kind: constraint.kind.word(),
            path: constraint.path(),
            states: tables.map(|tables| tables.states()),
            classes: tables.map(|tables| tables.classes()),
            table_bytes: tables.map(|tables| tables.bytes()),
            compile_ms: constraint.compile_ms,
            forced_tokens: guided.forced_tokens,
            gathered_steps: guided.gathered_steps,
            full_steps: guided.full_steps,
            complete: guided.complete,
        }
    }
}

/// Counts and times of a continuation. The names of the JSON fields are a contract.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CompletionStats {
    /// Tokens of the prompt, those that were cached before included.
    pub prompt_tokens: usize,
    /// Tokens made.
    pub new_tokens: usize,
    /// Milliseconds from the start of the prompt to the first token; `None` if there is none.
    pub first_token_ms: Option<f64>,
    /// Tokens after the first over the time since the first; `None` if there are fewer than two.
    pub tokens_per_second: Option<f64>,
}

/// Continues `request.prompt` on the engine's first sequence.
///
/// What the engine has cached of the prompt is kept, so that a conversation's next turn costs only
/// what is new. `on_token` sees each token as it is made and may break off; `interrupted` is asked
/// while the prompt is read.
///
/// # Errors
/// As the engine's `prefill` and `decode`.
pub fn complete(
    engine: &mut dyn Engine,
    request: &CompletionRequest,
    interrupted: &dyn Fn() -> bool,
    on_token: &mut dyn FnMut(TokenId) -> ControlFlow<()>,
) -> Result<Completion, EngineError> {
    let start = Instant::now();
    let prompt = request.prompt;
    let kept = reusable(engine.cached(SEQUENCE), prompt);
    engine.truncate(SEQUENCE, kept)?;
    engine.prefill(SEQUENCE, &prompt[kept..], &mut |_| flow(interrupted()))?;
    let mut times = Times::default();
    let (tokens, stop, guided) = if engine.cached(SEQUENCE).len() < prompt.len() || interrupted() {
        (Vec::new(), StopReason::Callback, None)
    } else {
        let decode = DecodeRequest {
            sequence: SEQUENCE,
            max_tokens: request.max_tokens,
            sampling: request.sampling.clone(),
            stop_tokens: request.stop_tokens.to_vec(),
            guide: request.constraint.map(|followed| followed.guide.clone()),
        };
        let mut finished = engine.decode(&[decode], &mut |decoded| {
            times.tick();
            on_token(decoded.token)
        })?;
        let finished = finished.pop().expect("one request, one end");
        (finished.tokens, finished.stop, finished.guided)
    };
    Ok(Completion {
        text: None,
        stop: stop.as_str(),
        stats: CompletionStats {
            prompt_tokens: prompt.len(),
            new_tokens: tokens.len(),
            first_token_ms: times.first_token_ms(start),
            tokens_per_second: times.tokens_per_second(tokens.len()),
        },
        constraint: (request.constraint)
            .map(|constraint| Followed::new(constraint, guided.unwrap_or_default())),
        tokens,
    })
}

fn flow(stop: bool) -> ControlFlow<()> {
    if stop {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}

/// How many cached tokens a prompt begins with. Its last token is always run again, for the logits
/// of what follows it.
fn reusable(cached: &[TokenId], prompt: &[TokenId]) -> usize {
    let same = cached.iter().zip(prompt).take_while(|(a, b)| a == b);
    same.count().min(prompt.len().saturating_sub(1))
}

/// When the first and the last token came.
#[derive(Default)]
struct Times {
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Times {
    fn tick(&mut self) {
        let now = Instant::now();
        self.first.get_or_insert(now);
        self.last = Some(now);
    }

    fn first_token_ms(&self, start: Instant) -> Option<f64> {
        let first = self.first?.duration_since(start);
        Some(first.as_secs_f64() * 1e3)
    }

    fn tokens_per_second(&self, tokens: usize) -> Option<f64> {
        let elapsed = self.last?.duration_since(self.first?).as_secs_f64();
        let steps = tokens.checked_sub(1)?;
        (steps > 0 && elapsed > 0.0).then(|| steps as f64 / elapsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_beginning_is_kept_but_for_the_last_token() {
        assert_eq!(reusable(&[1, 2, 3], &[1, 2, 4, 5]), 2);
        assert_eq!(reusable(&[1, 2, 3], &[1, 2, 3]), 2);
        assert_eq!(reusable(&[1, 2, 3, 4], &[1, 2]), 1);
        assert_eq!(reusable(&[], &[1]), 0);
        assert_eq!(reusable(&[2], &[1]), 0);
    }
}
