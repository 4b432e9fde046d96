//! The decode loop of the engines that sample on the host: sample, report, stop or step.
//!
//! All its memory is taken before the first token: a step allocates nothing.

use std::ops::ControlFlow;

use super::sequences::Sequences;
use super::{DecodeRequest, Decoded, EngineError, Finished, StopReason};
use crate::model::TokenId;
use crate::sampling::Sampler;

/// One token to run through the model: the next of `sequence`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Which sequence.
    pub sequence: usize,
    /// The token, whose position is the length of what the sequence has cached.
    pub token: TokenId,
}

/// What the loop needs of an engine.
pub trait Step {
    /// Runs one token of each of several different sequences, caches it, and computes its logits.
    ///
    /// # Errors
    /// Values that are not finite.
    fn step(&mut self, columns: &[Column]) -> Result<(), EngineError>;

    /// What is cached of each sequence.
    fn sequences(&self) -> &Sequences;

    /// The logits after the last token of `sequence`, `[vocabulary]`, to be changed by sampling:
    /// from then on the sequence has none until its next token ran.
    fn take_logits(&mut self, sequence: usize) -> Option<&mut [f32]>;
}

/// A request under way.
struct Running<'a> {
    request: &'a DecodeRequest,
    sampler: Sampler,
    tokens: Vec<TokenId>,
    stop: Option<StopReason>,
}

/// Decodes `requests` together, as [`Engine::decode`](super::Engine::decode) says.
///
/// # Errors
/// As [`Engine::decode`](super::Engine::decode).
pub fn decode(
    engine: &mut impl Step,
    requests: &[DecodeRequest],
    on_token: &mut dyn FnMut(Decoded) -> ControlFlow<()>,
) -> Result<Vec<Finished>, EngineError> {
    let mut running = start(engine, requests)?;
    let mut columns = Vec::with_capacity(requests.len());
    loop {
        columns.clear();
        for (index, run) in running.iter_mut().enumerate() {
            if run.stop.is_some() {
                continue;
            }
            let token = run.sample(engine)?;
            let flow = on_token(Decoded {
                request: index,
                token,
            });
            let sampled = run.tokens.len();
            run.stop = stop_after(run.request, token, sampled, flow, engine.sequences());
            if run.stop.is_none() {
                columns.push(Column {
                    sequence: run.request.sequence,
                    token,
                });
            }
        }
        if columns.is_empty() {
            break;
        }
        engine.step(&columns)?;
    }
    let finish = |run: Running| Finished {
        tokens: run.tokens,
        stop: run.stop.expect("the loop ends when every request has"),
    };
    Ok(running.into_iter().map(finish).collect())
}

/// Whether `requests` can be decoded together, each from the logits of its sequence.
///
/// # Errors
/// No such sequence; one named twice, or without logits; sampling parameters out of range.
pub fn check(sequences: &Sequences, requests: &[DecodeRequest]) -> Result<(), EngineError> {
    for (index, request) in requests.iter().enumerate() {
        let sequence = request.sequence;
        sequences.check_exists(sequence)?;
        if requests[..index].iter().any(|r| r.sequence == sequence) {
            return Err(EngineError::DuplicateSequence { sequence });
        }
        if !sequences.has_logits(sequence) {
            return Err(EngineError::NothingToDecode { sequence });
        }
        request.sampling.check()?;
    }
    Ok(())
}

/// The most tokens that `request` can still get: one more than there is room for, since the last
/// token is sampled but not cached.
pub fn most_tokens(sequences: &Sequences, request: &DecodeRequest) -> usize {
    let cached = sequences.cached(request.sequence).len();
    let room = sequences.context() - cached + 1;
    request.max_tokens.min(room)
}

/// Whether `request` ends with `token`, the last of the `sampled` tokens it has so far, and why.
pub fn stop_after(
    request: &DecodeRequest,
    token: TokenId,
    sampled: usize,
    flow: ControlFlow<()>,
    sequences: &Sequences,
) -> Option<StopReason> {
    if request.stop_tokens.contains(&token) {
        Some(StopReason::Eos)
    } else if flow.is_break() {
        Some(StopReason::Callback)
    } else if sampled >= request.max_tokens {
        Some(StopReason::Length)
    } else if sequences.is_full(request.sequence) {
        Some(StopReason::Context)
    } else {
        None
    }
}

fn start<'a>(
    engine: &impl Step,
    requests: &'a [DecodeRequest],
) -> Result<Vec<Running<'a>>, EngineError> {
    let mut running: Vec<Running> = Vec::with_capacity(requests.len());
    let sequences = engine.sequences();
    check(sequences, requests)?;
    for request in requests {
        let max_tokens = most_tokens(sequences, request);
        running.push(Running {
            request,
            sampler: Sampler::new(
                &request.sampling,
                sequences.vocab_size(),
                sequences.cached(request.sequence),
                max_tokens,
            )?,
            tokens: Vec::with_capacity(max_tokens),
            stop: (request.max_tokens == 0).then_some(StopReason::Length),
        });
    }
    Ok(running)
}

impl Running<'_> {
    fn sample(&mut self, engine: &mut impl Step) -> Result<TokenId, EngineError> {
        let sequence = self.request.sequence;
        let position = engine.sequences().cached(sequence).len();
        let logits = engine.take_logits(sequence);
        let logits = logits.ok_or(EngineError::NothingToDecode { sequence })?;
        let token = self
            .sampler
            .sample(logits, sequence as u32, position as u32)
            .ok_or_else(|| EngineError::NotFinite {
                place: "the logits".into(),
                position: position.saturating_sub(1),
            })?;
        self.tokens.push(token);
        Ok(token)
    }
}
