//! Engines: things that hold one model and decode with it.
//!
//! - [`mod@reference`]: the plain forward pass, f32 with f64 sums; the oracle
//! - [`cpu`]: a persistent team of threads that reads the weights at the speed of memory
//! - [`mod@megakernel`]: the host's side of the CUDA kernel, for both machines that run it:
//!   [`cuda`], a GPU, and [`emulated`], CPU threads
//! - [`choice`]: an engine by its name
//! - [`decode_loop`]: sampling, stopping and streaming, the same for every engine on the host
//! - [`guide`]: what the output of a request must follow
//! - [`sequences`]: which tokens are cached for each sequence
//! - [`work`]: what decoding had to read
//! - [`trace`]: when each phase began and ended, where that is recorded
//! - [`past`]: made-up keys and values, for measuring at positions that no prompt came to
//!
//! A caller can't tell the engines apart but by their speed.

#[cfg(test)]
pub mod altered;
pub mod choice;
pub mod cpu;
pub mod cuda;
pub mod decode_loop;
pub mod emulated;
pub mod guide;
pub mod megakernel;
pub mod past;
pub mod reference;
pub mod sequences;
pub mod trace;
pub mod work;

use std::ops::ControlFlow;

use crate::model::{ModelConfig, TokenId};
use crate::sampling::SamplingParams;
use guide::{Guide, Guided};
use past::FillPast;
use trace::Recording;
use work::Work;

/// What an engine can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The name for tables and `--device`: `cpu`, `reference`, ...
    pub name: &'static str,
    /// How many sequences it holds at once.
    pub sequences: usize,
    /// Positions of the KV cache of each sequence.
    pub context: usize,
    /// Threads that compute.
    pub threads: usize,
    /// Whether the speed at which its threads read the host's memory bounds its own.
    pub host_bound: bool,
    /// The instruction set its kernels use, or another word for how it computes.
    pub kernels: &'static str,
    /// Its variant, by name, where that is not the default.
    pub variant: Option<&'static str>,
}

/// What to decode on one sequence, after its prompt went through [`Engine::prefill`].
#[derive(Clone, Debug)]
pub struct DecodeRequest {
    /// Which of the engine's sequences.
    pub sequence: usize,
    /// The most tokens to sample; at least 1.
    pub max_tokens: usize,
    /// How to choose a token from the logits.
    pub sampling: SamplingParams,
    /// Tokens that end the sequence (and are reported as its last token).
    pub stop_tokens: Vec<TokenId>,
    /// What the output must follow.
    pub guide: Option<Guide>,
}

/// One sampled token, as the callback of [`Engine::decode`] sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Index of the request in the call.
    pub request: usize,
    /// The token.
    pub token: TokenId,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// One of the stop tokens was sampled.
    Eos,
    /// `max_tokens` were sampled.
    Length,
    /// The KV cache is full.
    Context,
    /// The callback asked to stop.
    Callback,
    /// The output is complete: its guide allows nothing more, not even a stop token.
    Constraint,
}

impl StopReason {
    /// The word for it in JSON output.
    pub fn as_str(self) -> &'static str {
        match self {
            StopReason::Eos => "eos",
            StopReason::Length => "length",
            StopReason::Context => "context",
            StopReason::Callback => "stopped",
            StopReason::Constraint => "constraint",
        }
    }
}

/// How one request of a [`Engine::decode`] call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// All its tokens, a stop token included.
    pub tokens: Vec<TokenId>,
    /// Why there are no more.
    pub stop: StopReason,
    /// What its guide had to do with them, where it has one.
    pub guided: Option<Guided>,
}

/// What can go wrong in an engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A prompt or a token that does not fit behind what is cached.
    #[error(
        "{cached} cached and {new} new tokens exceed the KV cache of {context} positions; \
         raise it with --context (the model was made for {max_positions})"
    )]
    ContextFull {
        /// Positions in use.
        cached: usize,
        /// Tokens that were to be added.
        new: usize,
        /// Positions there are.
        context: usize,
        /// Positions the model was made for.
        max_positions: usize,
    },
    /// A KV cache longer than the positions the model knows.
    #[error("a context of {context} positions exceeds the {max_positions} the model was made for")]
    ContextTooLong {
        /// Positions asked for.
        context: usize,
        /// Positions the model was made for.
        max_positions: usize,
    },
    /// A token id that the embedding has no row for.
    #[error("token {token} is outside the model's vocabulary of {vocab_size}")]
    TokenOutOfRange {
        /// The token.
        token: TokenId,
        /// Rows of the embedding.
        vocab_size: usize,
    },
    /// NaN or infinity where numbers should be.
    #[error(
        "NaN or infinity in {place} at position {position}: the weights hold values that are \
         not finite, or overflow f32"
    )]
    NotFinite {
        /// "layer 3 (attention)", "layer 3 (MLP)", "the embedding" or "the logits".
        place: String,
        /// The position of the token that met it.
        position: usize,
    },
    /// `decode` on a sequence with no prompt.
    #[error("sequence {sequence} has no prompt to decode from: call prefill first")]
    NothingToDecode {
        /// The sequence.
        sequence: usize,
    },
    /// A sequence number that the engine was not made for.
    #[error("sequence {sequence} does not exist: the engine holds {sequences}")]
    NoSuchSequence {
        /// The sequence asked for.
        sequence: usize,
        /// How many there are.
        sequences: usize,
    },
    /// The same sequence twice in one call.
    #[error("sequence {sequence} appears twice in one call")]
    DuplicateSequence {
        /// The sequence.
        sequence: usize,
    },
    /// Memory that the system refused.
    #[error("no memory for {what} ({bytes} bytes): {source}")]
    OutOfMemory {
        /// "the KV cache", "the weights in bf16", ...
        what: &'static str,
        /// Bytes asked for.
        bytes: usize,
        /// The system's word.
        source: std::io::Error,
    },
    /// A thread that could not be started.
    #[error("cannot start thread {index} of {threads}: {source}")]
    Thread {
        /// Which one.
        index: usize,
        /// How many were asked for.
        threads: usize,
        /// The system's word.
        source: std::io::Error,
    },
    /// A thread pool that could not be started.
    #[error("cannot start a pool of {threads} threads: {source}")]
    ThreadPool {
        /// How many were asked for.
        threads: usize,
        /// The pool's word.
        source: rayon::ThreadPoolBuildError,
    },
    /// More sequences in one call than the engine decodes together.
    #[error("{found} sequences were to be decoded together; this engine decodes up to {most}")]
    TooManyRequests {
        /// How many there were.
        found: usize,
        /// How many there may be.
        most: usize,
    },
    /// More stop tokens than a kernel compares with.
    #[error("a request has {found} stop tokens; this engine takes up to {most}")]
    TooManyStopTokens {
        /// How many there were.
        found: usize,
        /// How many there may be.
        most: usize,
    },
    /// The device, or a launch.
    #[error(transparent)]
    Device(#[from] megakernel::DeviceError),
    /// A guide made for another vocabulary.
    #[error("the constraint was compiled for {found} tokens; the model has {expected}")]
    GuideVocabulary {
        /// Tokens that it was made for.
        found: usize,
        /// Tokens of the model.
        expected: usize,
    },
    /// A grammar that failed while it was followed.
    #[error("the constraint can't be followed any further: {reason}")]
    Guide {
        /// The grammar's word.
        reason: String,
    },
    /// An engine, or a way of running it, that records no traces.
    #[error("the {engine} engine records no trace {of}; {instead}")]
    NoTrace {
        /// The engine.
        engine: &'static str,
        /// Of what: "of variant head_blocks".
        of: String,
        /// What is recorded.
        instead: &'static str,
    },
    /// Sampling parameters outside their range.
    #[error(transparent)]
    Sampling(#[from] crate::sampling::SamplingError),
    /// A kernel path that this processor can't run.
    #[error("the kernels '{asked}' can't run on this processor; it runs {available}")]
    KernelsUnavailable {
        /// What was forced.
        asked: String,
        /// The paths that it does run, best first.
        available: String,
    },
}

impl EngineError {
    /// What wrote the residual stream that norm `norm` of a model of `layers` layers read at
    /// `position`: layer l has norms 2 l and 2 l + 1, the last norm is 2 `layers`, and the logits
    /// count as the one after it.
    fn not_finite_before(norm: usize, layers: usize, position: usize) -> Self {
        let place = match norm {
            0 => "the embedding".into(),
            logits if logits > 2 * layers => "the logits".into(),
            odd if odd % 2 == 1 => format!("layer {} (attention)", odd / 2),
            even => format!("layer {} (MLP)", even / 2 - 1),
        };
        Self::NotFinite { place, position }
    }
}

/// A sequence is a list of cached tokens plus, after [`prefill`](Engine::prefill), the logits of
/// what comes next. Sequences are numbered from 0.
pub trait Engine {
    /// The model's dimensions.
    fn config(&self) -> &ModelConfig;

    /// What this engine is and holds.
    fn capabilities(&self) -> Capabilities;

    /// The tokens of `sequence` whose keys and values are cached, in order.
    ///
    /// # Panics
    /// If there is no such sequence.
    fn cached(&self, sequence: usize) -> &[TokenId];

    /// Forgets all but the first `length` tokens of `sequence`.
    ///
    /// # Errors
    /// If there is no such sequence. Nothing happens if it is no longer than `length`.
    fn truncate(&mut self, sequence: usize, length: usize) -> Result<(), EngineError>;

    /// Appends `tokens` to `sequence` and computes the logits of what follows the last of them.
    ///
    /// `progress` is told after each chunk how many tokens are done, and may break off: the
    /// sequence then holds what was done so far.
    ///
    /// # Errors
    /// Tokens outside the vocabulary, more tokens than the context holds (nothing is appended
    /// then), values that are not finite.
    fn prefill(
        &mut self,
        sequence: usize,
        tokens: &[TokenId],
        progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<(), EngineError>;

    /// Decodes all `requests` together, one token of each a step, and calls `on_token` as each is
    /// sampled; a callback that breaks ends that request.
    ///
    /// The last token is not cached, nor are those before it that a [`Guide`] forced and no other token
    /// needed: to go on, prefill what is not [`cached`](Engine::cached).
    ///
    /// # Errors
    /// As [`prefill`](Engine::prefill); a request without a prompt; a sequence named twice.
    fn decode(
        &mut self,
        requests: &[DecodeRequest],
        on_token: &mut dyn FnMut(Decoded) -> ControlFlow<()>,
    ) -> Result<Vec<Finished>, EngineError>;

    /// What all decodes so far had to read; `None` where the device alone knows.
    fn work(&self) -> Option<Work> {
        None
    }

    /// Teacher-forced logits: appends `tokens` to `sequence` and calls `each` with the index and
    /// the logits (`[vocabulary]`, f32) after every one of them.
    ///
    /// # Errors
    /// As [`prefill`](Engine::prefill).
    fn logits(
        &mut self,
        sequence: usize,
        tokens: &[TokenId],
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), EngineError>;

    /// The engine as one whose cache can be filled with what no prompt made; `None` if it can't be.
    fn as_fill_past(&mut self) -> Option<&mut dyn FillPast> {
        None
    }

    /// Begins to record the next `steps` passes: takes memory for them all. What was recorded before is
    /// forgotten.
    ///
    /// # Errors
    /// An engine that records nothing; no memory.
    fn start_trace(&mut self, _steps: usize) -> Result<(), EngineError> {
        Err(EngineError::NoTrace {
            engine: self.capabilities().name,
            of: "at all".into(),
            instead: "the cpu, cuda and emulated engines do",
        })
    }

    /// Ends a recording and returns it; `None` if none was begun.
    ///
    /// # Errors
    /// If a device fails.
    fn take_trace(&mut self) -> Result<Option<Recording>, EngineError> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finite_is_named_by_what_wrote_it() {
        let place = |norm| EngineError::not_finite_before(norm, 2, 7).to_string();
        for (norm, expected) in [
            (0, "in the embedding at"),
            (1, "in layer 0 (attention) at"),
            (2, "in layer 0 (MLP) at"),
            (3, "in layer 1 (attention) at"),
            (4, "in layer 1 (MLP) at"),
            (5, "in the logits at"),
        ] {
            assert!(place(norm).contains(expected), "{norm}: {}", place(norm));
            assert!(place(norm).contains("position 7"), "{}", place(norm));
        }
    }
}
