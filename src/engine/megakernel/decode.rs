//! Decoding on the device: requests go into its state, kernels sample, stop and step, and tokens
//! come out of the ring while they do.
//!
//! The device runs ahead of the host, which follows with the same rules as
//! [`decode_loop`](crate::engine::decode_loop): what a kernel samples for a request after its
//! callback asked to stop is dropped.

use std::ops::ControlFlow;

use bytemuck::bytes_of;

use super::abi::{
    OG_BARRIER_NONE, OG_GUIDE_FREE, OG_MAX_STOP_TOKENS, OG_MODE_DECODE, OG_SELECT_MIN_P,
    OG_SELECT_TOP_K, OG_SELECT_TOP_P, OG_STATUS_NOT_FINITE, OG_STOP_NONE, OgArguments, OgControl,
    OgRequest, OgSelect,
};
use super::device::{Device, Launch};
use super::error::DeviceError;
use super::mailbox::{Mailbox, RingEntry};
use super::plan::{self, Pass};
use super::{MegakernelEngine, Stage, fresh_control};
use crate::engine::decode_loop::{most_tokens, stop_after};
use crate::engine::guide::{Cursor, Next};
use crate::engine::sequences::Sequences;
use crate::engine::{DecodeRequest, Decoded, EngineError, Finished, StopReason};
use crate::model::TokenId;
use crate::sampling::SamplingParams;

/// Steps of separate kernels that are launched before the tokens of the first of them are read:
/// the device always has the next one waiting.
const STEPS_AHEAD: usize = 2;

/// Looks at the ring between two questions whether the launch has ended.
const LOOKS: usize = 64;

/// A recorded step of separate kernels.
pub(super) struct Graph<R> {
    /// What it was made from.
    step: Vec<Launch>,
    recorded: R,
}

/// A request under way.
struct Running<'a> {
    request: &'a DecodeRequest,
    /// Where the host is in its guide: where the device is once it has made the tokens that were read.
    cursor: Cursor<'a>,
    tokens: Vec<TokenId>,
    stop: Option<StopReason>,
    /// Tokens since the ring was last emptied.
    in_ring: usize,
}

/// What the host knows of a decode, and does with its tokens.
struct Session<'a, 'c> {
    running: Vec<Running<'a>>,
    /// The device's requests: indices of `running`.
    live: Vec<usize>,
    on_token: &'c mut dyn FnMut(Decoded) -> ControlFlow<()>,
    /// Requests of the device that the host has ended.
    stop_mask: u32,
    /// Entries of the ring that were read.
    read: usize,
}

impl Session<'_, '_> {
    fn is_finished(&self) -> bool {
        self.running.iter().all(|run| run.stop.is_some())
    }

    /// The device's requests that go on, as far as the host knows.
    fn going(&self) -> impl Iterator<Item = (usize, &Running<'_>)> {
        let live = self.live.iter().map(|&index| &self.running[index]);
        live.enumerate().filter(|(_, run)| run.stop.is_none())
    }

    /// Samples whose tokens have all been read since the ring was emptied.
    fn samples(&self) -> usize {
        let samples = self.going().map(|(_, run)| run.in_ring).min();
        samples.unwrap_or(0)
    }

    fn empty_ring(&mut self, mailbox: &Mailbox) {
        mailbox.clear();
        mailbox.stop(self.stop_mask);
        self.read = 0;
        for run in &mut self.running {
            run.in_ring = 0;
        }
    }

    /// Takes all tokens that are there; returns whether there were any.
    fn drain(&mut self, mailbox: &Mailbox, sequences: &mut Sequences) -> Result<bool, String> {
        let before = self.read;
        while let Some(entry) = mailbox.entry(self.read) {
            self.read += 1;
            self.accept(entry, mailbox, sequences)?;
        }
        Ok(self.read > before)
    }

    fn accept(
        &mut self,
        entry: RingEntry,
        mailbox: &Mailbox,
        sequences: &mut Sequences,
    ) -> Result<(), String> {
        let RingEntry { request, token } = entry;
        let Some(&index) = self.live.get(request) else {
            return Err(format!(
                "a token of request {request}, of {}",
                self.live.len()
            ));
        };
        if token as usize >= sequences.vocab_size() {
            return Err(format!("token {token}, of {}", sequences.vocab_size()));
        }
        let run = &mut self.running[index];
        match run.stop {
            None => {}
            // The kernel ran ahead of the callback.
            Some(StopReason::Callback) => return Ok(()),
            Some(stop) => {
                return Err(format!(
                    "a token of request {request} after {stop:?} ended it"
                ));
            }
        }
        if !run.cursor.allows(token) {
            return Err(format!("token {token}, which the guide does not allow"));
        }
        run.cache_last(sequences);
        run.tokens.push(token);
        run.in_ring += 1;
        if !run.cursor.is_free() {
            run.cursor.advance(token)?;
        }
        let flow = (self.on_token)(Decoded {
            request: index,
            token,
        });
        let sampled = run.tokens.len();
        run.stop =
            stop_after(run.request, token, sampled, flow, sequences, 0).or_else(|| run.complete());
        if run.stop.is_some() {
            self.stop_mask |= 1 << request;
            mailbox.stop(self.stop_mask);
        }
        Ok(())
    }
}

impl Running<'_> {
    /// Whether its guide allows nothing more.
    fn complete(&self) -> Option<StopReason> {
        matches!(self.cursor.next(), Next::Nothing).then_some(StopReason::Constraint)
    }

    /// Notes that the token sampled last went through the layers.
    fn cache_last(&self, sequences: &mut Sequences) {
        if let Some(&token) = self.tokens.last() {
            sequences.push(self.request.sequence, token);
        }
    }
}

impl<D: Device> MegakernelEngine<D> {
    /// As [`Engine::decode`](crate::engine::Engine::decode), for requests that were checked.
    pub(super) fn decode_on_device(
        &mut self,
        requests: &[DecodeRequest],
        on_token: &mut dyn FnMut(Decoded) -> ControlFlow<()>,
    ) -> Result<Vec<Finished>, EngineError> {
        let most = OG_MAX_STOP_TOKENS as usize;
        let mut stop_tokens = requests.iter().map(|request| request.stop_tokens.len());
        if let Some(found) = stop_tokens.find(|&found| found > most) {
            return Err(EngineError::TooManyStopTokens { found, most });
        }
        let mut running = Vec::with_capacity(requests.len());
        for request in requests {
            let cursor = Cursor::new(request.guide.as_ref(), self.config.vocab_size);
            let mut run = Running {
                request,
                cursor: cursor.map_err(|reason| EngineError::Guide { reason })?,
                tokens: Vec::with_capacity(most_tokens(&self.sequences, request)),
                stop: (request.max_tokens == 0).then_some(StopReason::Length),
                in_ring: 0,
            };
            run.stop = run.stop.or_else(|| run.complete());
            running.push(run);
        }
        let mut session = Session {
            running,
            live: Vec::new(),
            on_token,
            stop_mask: 0,
            read: 0,
        };
        let going = |index: &usize| session.running[*index].stop.is_none();
        session.live = (0..requests.len()).filter(going).collect();
        if !session.live.is_empty() {
            self.run_session(&mut session)?;
        }
        let finish = |run: Running| Finished {
            tokens: run.tokens,
            stop: run.stop.expect("the session ends when every request has"),
            guided: run.request.guide.is_some().then_some(run.cursor.guided),
        };
        Ok(session.running.into_iter().map(finish).collect())
    }

    fn run_session(&mut self, session: &mut Session) -> Result<(), EngineError> {
        let columns = session.live.len();
        let is_separate = self.options.stage.is_separate();
        let pass = |columns| match is_separate {
            true => self.plan.separate(columns),
            false => self.plan.decode(columns),
        };
        let mut guides = session.live.iter().map(|&index| &session.running[index]);
        let is_guided = guides.any(|run| !run.cursor.is_free());
        let pass = match (&self.trace, is_guided) {
            // It takes one column.
            (Some(trace), _) => &trace.pass,
            // Forced tokens fill columns, where the variant has a kernel for them.
            (None, true) => pass(self.options.columns.max(columns)).or_else(|_| pass(columns))?,
            (None, false) => pass(columns)?,
        };
        let pass = pass.clone();
        self.device.wait()?;
        let mut control = OgControl {
            requests: columns as u32,
            ..fresh_control()
        };
        for (slot, &index) in session.live.iter().enumerate() {
            let request = session.running[index].request;
            control.request[slot] = device_request(request, &self.sequences);
            if request.sampling.repetition_penalty != 1.0 {
                self.write_seen(slot, request.sequence)?;
            }
        }
        let guide = |&index: &usize| session.running[index].request.guide.as_ref();
        let guides: Vec<_> = session.live.iter().map(guide).collect();
        self.place_guides(&guides, &mut control.request)?;
        for &index in &session.live {
            let sequence = session.running[index].request.sequence;
            self.sequences.set_has_logits(sequence, false);
        }
        let arguments = OgArguments {
            // Each pass is followed by a sample, and one sample comes before the first pass.
            max_steps: (self.options.ring_capacity / columns.max(pass.columns) - 1) as u32,
            select: control.request[..columns]
                .iter()
                .fold(0, |bits, r| bits | filters(r)),
            barrier: match is_separate {
                true => OG_BARRIER_NONE,
                false => self.options.barrier.kind(),
            },
            ..self.arguments(&pass, OG_MODE_DECODE)
        };
        let mut is_first = true;
        loop {
            session.empty_ring(self.device.mailbox());
            let at = self.state.at.control;
            self.device.write_state(at, bytes_of(&control))?;
            let result = match is_separate {
                true => self.run_steps(session, &pass, &arguments, is_first),
                false => self.run_launch(session, &pass, &arguments),
            };
            result?;
            // What a kernel finds after the callback ended all requests is nobody's concern.
            if session.is_finished() {
                return self.forget_uncached(session);
            }
            // Separate kernels have no end to report, and of what is not finite the control says more.
            let status = self.device.mailbox().report().status;
            if !is_separate && status != OG_STATUS_NOT_FINITE {
                self.check_report()?;
            }
            control = self.control_after(session)?;
            is_first = false;
        }
    }

    /// Of requests with guides, the forced tokens at the end that no kernel ran through the layers.
    fn forget_uncached(&mut self, session: &Session) -> Result<(), EngineError> {
        if session.running.iter().all(|run| run.cursor.is_free()) {
            return Ok(());
        }
        let (control, _) = self.read_control()?;
        for (request, &index) in control.request.iter().zip(&session.live) {
            let sequence = session.running[index].request.sequence;
            self.sequences
                .truncate(sequence, request.position as usize)?;
        }
        Ok(())
    }

    /// The control as a launch left it, ready for the next.
    fn control_after(&mut self, session: &Session) -> Result<OgControl, EngineError> {
        let layers = self.config.layers;
        let (mut control, not_finite) = self.read_control()?;
        if let Some(found) = not_finite {
            if found.is_logits(layers) {
                // The pass that made them was whole.
                for (_, run) in session.going() {
                    run.cache_last(&mut self.sequences);
                }
            }
            return Err(found.error(layers));
        }
        if session.read == 0 {
            return Err(self.inconsistent("it sampled nothing".into()));
        }
        for (slot, run) in session.going() {
            let request = &control.request[slot];
            if request.stop != OG_STOP_NONE {
                let sampled = run.tokens.len();
                let what = format!(
                    "it ended request {slot} ({}) after {sampled} tokens, and the host did not",
                    request.stop
                );
                return Err(self.inconsistent(what));
            }
        }
        control.tokens = 0;
        control.steps = 0;
        Ok(control)
    }

    /// One launch for many tokens.
    fn run_launch(
        &mut self,
        session: &mut Session,
        pass: &Pass,
        arguments: &OgArguments,
    ) -> Result<(), EngineError> {
        self.launch(pass, *arguments)?;
        loop {
            // Asked before the ring is read, so that nothing is left in it at the end.
            let is_idle = self.device.is_idle()?;
            self.drain(session)?;
            if is_idle {
                break;
            }
            self.await_token(session);
        }
        Ok(self.count_traced_passes(pass)?)
    }

    /// Separate kernels: a step launched for each token, a little ahead of what was read.
    fn run_steps(
        &mut self,
        session: &mut Session,
        pass: &Pass,
        arguments: &OgArguments,
        is_first: bool,
    ) -> Result<(), EngineError> {
        let most_samples = arguments.max_steps as usize;
        let step = plan::step(pass, &self.config, arguments);
        if self.options.stage == Stage::Graph {
            self.record(&step)?;
        }
        let mut launched = 0;
        if is_first {
            for launch in plan::sample(pass, arguments) {
                self.device.launch(&launch)?;
            }
            launched = 1;
        }
        loop {
            let is_idle = self.device.is_idle()?;
            self.drain(session)?;
            if session.is_finished() {
                break;
            }
            let mut is_stuck = is_idle;
            while launched < most_samples && launched < session.samples() + STEPS_AHEAD {
                match (self.options.stage, &self.graph) {
                    (Stage::Graph, Some(graph)) => self.device.replay(&graph.recorded)?,
                    _ => step
                        .iter()
                        .try_for_each(|launch| self.device.launch(launch))?,
                }
                launched += 1;
                is_stuck = false;
            }
            if is_stuck {
                break;
            }
            self.await_token(session);
        }
        self.device.wait()?;
        self.drain(session)
    }

    /// Records `step`, unless that is what was recorded last.
    fn record(&mut self, step: &[Launch]) -> Result<(), DeviceError> {
        if !self.graph.as_ref().is_some_and(|graph| graph.step == step) {
            self.graph = Some(Graph {
                step: step.to_vec(),
                recorded: self.device.record(step)?,
            });
        }
        Ok(())
    }

    fn drain(&mut self, session: &mut Session) -> Result<(), EngineError> {
        let drained = session.drain(self.device.mailbox(), &mut self.sequences);
        drained.map(|_| ()).map_err(|what| self.inconsistent(what))
    }

    /// Until there is a token, or it is time to see whether the launch has ended.
    fn await_token(&self, session: &Session) {
        for _ in 0..LOOKS {
            if self.device.mailbox().entry(session.read).is_some() {
                break;
            }
            self.device.relax();
        }
    }

    /// Marks the tokens that are cached for `sequence` as seen by request `slot`.
    fn write_seen(&mut self, slot: usize, sequence: usize) -> Result<(), DeviceError> {
        let mut seen = vec![0_u8; self.config.vocab_size.div_ceil(32) * size_of::<u32>()];
        for &token in self.sequences.cached(sequence) {
            // Words are little-endian, so bit t of the words is bit t of the bytes.
            seen[token as usize / 8] |= 1 << (token % 8);
        }
        let offset = self.state.at.seen + (slot * seen.len()) as u64;
        self.device.write_state(offset, &seen)
    }
}

/// A request as the kernels know it.
fn device_request(request: &DecodeRequest, sequences: &Sequences) -> OgRequest {
    let sampling = &request.sampling;
    let greedy = SamplingParams {
        repetition_penalty: sampling.repetition_penalty,
        ..SamplingParams::default()
    };
    // Greedy decoding takes the largest logit, which every filter keeps.
    let sampling = match sampling.temperature == 0.0 {
        true => &greedy,
        false => sampling,
    };
    let mut stop_token = [0; OG_MAX_STOP_TOKENS as usize];
    stop_token[..request.stop_tokens.len()].copy_from_slice(&request.stop_tokens);
    OgRequest {
        sequence: request.sequence as u32,
        position: sequences.cached(request.sequence).len() as u32,
        token: 0,
        remaining: u32::try_from(request.max_tokens).unwrap_or(u32::MAX),
        stop: OG_STOP_NONE,
        logits_row: request.sequence as u32,
        temperature: sampling.temperature,
        repetition_penalty: sampling.repetition_penalty,
        top_p: sampling.top_p,
        min_p_depth: sampling.min_p.ln(),
        top_k: match sampling.top_k < sequences.vocab_size() {
            true => sampling.top_k as u32,
            false => 0,
        },
        seed_low: sampling.seed as u32,
        seed_high: (sampling.seed >> 32) as u32,
        stop_tokens: request.stop_tokens.len() as u32,
        stop_token,
        guide: OG_GUIDE_FREE,
        ..OgRequest::default()
    }
}

/// The filters that a request has.
fn filters(request: &OgRequest) -> OgSelect {
    if request.temperature == 0.0 {
        return 0;
    }
    let bit = |has: bool, bit: OgSelect| if has { bit } else { 0 };
    bit(request.top_k > 0, OG_SELECT_TOP_K)
        | bit(request.top_p < 1.0, OG_SELECT_TOP_P)
        | bit(request.min_p_depth > f32::NEG_INFINITY, OG_SELECT_MIN_P)
}
