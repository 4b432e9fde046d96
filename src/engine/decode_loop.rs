//! The decode loop of the engines that sample on the host: sample, report, stop or step.
//!
//! Where a request's guide leaves one token, the loop takes it without asking the model, and goes on: a
//! run of forced tokens goes through the layers in one step, as columns.
//!
//! All its memory is taken before the first token: a step allocates nothing.

use std::ops::ControlFlow;

use super::guide::{Cursor, Guide, Next};
use super::sequences::Sequences;
use super::work::Work;
use super::{DecodeRequest, Decoded, EngineError, Finished, StopReason};
use crate::model::TokenId;
use crate::sampling::Sampler;

/// Tokens that go through the layers in one step, as long as there are no more requests than that.
pub const STEP_COLUMNS: usize = 8;

/// One token to run through the model: the next of `sequence`. Columns of a sequence stand together, in
/// order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column<'a> {
    /// Which sequence.
    pub sequence: usize,
    /// The token, whose position is the length of what the sequence has cached, and of the columns
    /// before it.
    pub token: TokenId,
    /// Which logits after it are wanted.
    pub head: Head<'a>,
}

/// Rows of the LM head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head<'a> {
    /// None: what follows is known.
    None,
    /// Those of these tokens, ascending. The other logits are left as they are.
    Rows(&'a [TokenId]),
    /// All of them.
    All,
}

/// What the loop needs of an engine.
pub trait Step {
    /// Runs tokens of several sequences, caches them, and computes the logits that are wanted: at most
    /// [`STEP_COLUMNS`] columns, or one of each sequence.
    ///
    /// # Errors
    /// Values that are not finite.
    fn step(&mut self, columns: &[Column]) -> Result<(), EngineError>;

    /// What is cached of each sequence.
    fn sequences(&self) -> &Sequences;

    /// Told what a step has read. Ignored by engines that decode on a device too, where nobody counts.
    fn count(&mut self, _work: Work) {}

    /// The logits after the last token of `sequence`, `[vocabulary]`, to be changed by sampling:
    /// from then on the sequence has none until its next token ran.
    fn take_logits(&mut self, sequence: usize) -> Option<&mut [f32]>;

    /// Choosing a token begins. What this returns goes to [`sampled`](Self::sampled): when it was, where
    /// a trace is recorded.
    fn before_sample(&self) -> Option<u64> {
        None
    }

    /// A token was chosen, which began at `begin`.
    fn sampled(&mut self, _begin: u64) {}
}

/// A request under way.
struct Running<'a> {
    request: &'a DecodeRequest,
    sampler: Sampler,
    cursor: Cursor<'a>,
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
    let mut columns = Vec::with_capacity(requests.len().max(STEP_COLUMNS));
    loop {
        columns.clear();
        let mut going = running.iter().filter(|run| run.stop.is_none()).count();
        for (index, run) in running.iter_mut().enumerate() {
            if run.stop.is_some() {
                continue;
            }
            going -= 1;
            // Every request that goes on gets one column.
            let most = STEP_COLUMNS.saturating_sub(columns.len() + going).max(1);
            let mut report = |token| {
                on_token(Decoded {
                    request: index,
                    token,
                })
            };
            run.advance(engine, most, &mut columns, &mut report)?;
        }
        if columns.is_empty() {
            break;
        }
        let work = Work::of_step(&columns, engine.sequences());
        engine.step(&columns)?;
        engine.count(work);
    }
    let finish = |run: Running| Finished {
        tokens: run.tokens,
        stop: run.stop.expect("the loop ends when every request has"),
        guided: run.request.guide.is_some().then_some(run.cursor.guided),
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
        if let Some(Guide::Tables(tables)) = &request.guide {
            let [found, expected] = [tables.vocab_size(), sequences.vocab_size()];
            if found != expected {
                return Err(EngineError::GuideVocabulary { found, expected });
            }
        }
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
/// `pending` of those before it are still to be cached.
pub fn stop_after(
    request: &DecodeRequest,
    token: TokenId,
    sampled: usize,
    flow: ControlFlow<()>,
    sequences: &Sequences,
    pending: usize,
) -> Option<StopReason> {
    if request.stop_tokens.contains(&token) {
        Some(StopReason::Eos)
    } else if flow.is_break() {
        Some(StopReason::Callback)
    } else if sampled >= request.max_tokens {
        Some(StopReason::Length)
    } else if sequences.is_full(request.sequence, pending) {
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
            cursor: Cursor::new(request.guide.as_ref(), sequences.vocab_size())
                .map_err(|reason| EngineError::Guide { reason })?,
            tokens: Vec::with_capacity(max_tokens),
            stop: (request.max_tokens == 0).then_some(StopReason::Length),
        });
    }
    Ok(running)
}

impl<'a> Running<'a> {
    /// Takes the next token, and those that are forced behind it, up to `most`; appends their columns
    /// unless the request ends with one of them.
    fn advance(
        &mut self,
        engine: &mut impl Step,
        most: usize,
        columns: &mut Vec<Column<'a>>,
        report: &mut dyn FnMut(TokenId) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        let sequence = self.request.sequence;
        let before = columns.len();
        let mut next = self.cursor.next();
        while columns.len() < before + most {
            let token = match next {
                Next::Nothing => break,
                Next::Forced(token) => {
                    self.sampler.see(token);
                    token
                }
                _ if columns.len() > before => break,
                _ => self.sample(engine, next)?,
            };
            self.tokens.push(token);
            if !self.cursor.is_free() {
                let advanced = self.cursor.advance(token);
                advanced.map_err(|reason| EngineError::Guide { reason })?;
            }
            let (pending, sampled) = (columns.len() - before, self.tokens.len());
            let flow = report(token);
            let sequences = engine.sequences();
            self.stop = stop_after(self.request, token, sampled, flow, sequences, pending);
            if self.stop.is_some() {
                break;
            }
            columns.push(Column {
                sequence,
                token,
                head: Head::None,
            });
            next = self.cursor.next();
        }
        if let (None, Next::Nothing) = (self.stop, next) {
            self.stop = Some(StopReason::Constraint);
        }
        if self.stop.is_some() {
            columns.truncate(before);
        } else if let Some(last) = columns.last_mut() {
            last.head = match next {
                Next::Forced(_) | Next::Nothing => Head::None,
                Next::Few(tokens) => Head::Rows(tokens),
                Next::Any | Next::Masked => Head::All,
            };
        }
        Ok(())
    }

    fn sample(&mut self, engine: &mut impl Step, next: Next) -> Result<TokenId, EngineError> {
        let sequence = self.request.sequence;
        let position = engine.sequences().cached(sequence).len();
        let begin = engine.before_sample();
        let logits = engine.take_logits(sequence);
        let logits = logits.ok_or(EngineError::NothingToDecode { sequence })?;
        let [number, at] = [sequence, position].map(|n| n as u32);
        let token = match next {
            Next::Few(tokens) => self.sampler.sample_among(logits, tokens, number, at),
            Next::Masked => {
                let mask = |logits: &mut [f32]| self.cursor.mask(logits);
                self.sampler.sample_masked(logits, mask, number, at)
            }
            _ => self.sampler.sample(logits, number, at),
        };
        if let Some(begin) = begin {
            engine.sampled(begin);
        }
        token.ok_or_else(|| EngineError::NotFinite {
            place: "the logits".into(),
            position: position.saturating_sub(1),
        })
    }
}
