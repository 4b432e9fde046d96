//! The host of the megakernel: what it is told, and what it says. Which machine runs the kernels
//! is a [`Device`]'s matter; everything else is here.
//!
//! - [`abi`]: the structs that host and kernels share
//! - [`device`]: what is needed of a machine
//! - [`layout`]: where weights and state lie in its memory
//! - [`upload`]: the weights, written as the kernels read them
//! - [`options`]: variants, stages, barriers
//! - [`plan`]: which kernel runs a pass, and how it is launched
//! - [`mailbox`]: the memory that both sides see while a kernel runs
//! - `trace`: what the kernel records of itself
//! - `decode`: requests handed to the device, tokens taken from the ring

pub mod abi;
mod decode;
pub mod device;
mod error;
mod guides;
pub mod layout;
pub mod mailbox;
pub mod options;
pub mod plan;
mod trace;
pub mod upload;

use std::ops::ControlFlow;

use half::bf16;

pub use device::Device;
pub use error::{DeviceError, phase_name};
pub use options::{Barrier, MAX_COLUMNS, MegakernelOptions, Stage, Variant};

use super::decode_loop::{self, Column, Head, Step};
use super::guide::Guide;
use super::past::{CachedLayer, CachedPast, FillPast, RandomPast, ReadPast};
use super::sequences::Sequences;
use super::trace::{Recording, StepKind};
use super::{Capabilities, DecodeRequest, Decoded, Engine, EngineError, Finished};
use crate::model::{ModelConfig, TokenId, Weights};
use abi::{
    OG_ALL_FINITE, OG_MODE_COLUMNS, OG_NO_LOGITS, OG_STATUS_DONE, OG_STATUS_NOT_FINITE,
    OG_STATUS_STALLED, OgArguments, OgBarrier, OgColumn, OgControl, OgMode, OgNews,
};
use bytemuck::{bytes_of, bytes_of_mut, cast_slice, cast_slice_mut};
use decode::Graph;
use device::{Addresses, Launch};
use guides::PlacedGuide;
use layout::{StateLayout, WeightLayout};
use plan::{Pass, Plan};
use trace::DeviceTrace;

/// The engine that decodes with the megakernel on a device.
pub struct MegakernelEngine<D: Device> {
    config: ModelConfig,
    options: MegakernelOptions,
    /// The step that was recorded last. Before the device, so that it is dropped first.
    graph: Option<Graph<D::Recorded>>,
    device: D,
    plan: Plan,
    weights: WeightLayout,
    state: StateLayout,
    addresses: Addresses,
    sequences: Sequences,
    /// The tables that are on the device.
    guides: Vec<PlacedGuide>,
    /// What the host samples from, where it does: `[sequences][vocabulary]`.
    logits: Vec<f32>,
    /// What is recorded, where something is.
    trace: Option<DeviceTrace>,
}

impl<D: Device> MegakernelEngine<D> {
    /// An engine on `device` for `weights`, which are not needed any more afterwards. `progress` is
    /// told how many bytes of how many are on the device.
    ///
    /// # Errors
    /// A model that the kernels don't run; a context longer than its positions; no memory; a
    /// device that can't hold the grid.
    pub fn new(
        mut device: D,
        weights: &Weights,
        options: MegakernelOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, EngineError> {
        options.assert_sensible();
        let config = weights.config.clone();
        let &MegakernelOptions {
            context, sequences, ..
        } = &options;
        let book = Sequences::new(&config, context, sequences)?;
        let plan = Plan::new(&mut device, &config, &options)?;
        let weight_layout = WeightLayout::new(&config, context)?;
        let guide_bytes = options.guide_bytes(config.vocab_size);
        let blocks = plan.most_blocks();
        let state = StateLayout::new(&config, context, sequences, blocks, guide_bytes)?;
        let addresses = device.allocate(weight_layout.bytes, state.bytes, options.ring_capacity)?;
        upload::upload(&mut device, weights, &weight_layout, context, progress)?;
        device.wait()?;
        Ok(Self {
            logits: match options.stage {
                Stage::V0 => vec![0.0; sequences * config.vocab_size],
                _ => Vec::new(),
            },
            config,
            options,
            device,
            plan,
            weights: weight_layout,
            state,
            addresses,
            sequences: book,
            guides: Vec::new(),
            graph: None,
            trace: None,
        })
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The device, to time what the engine does.
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// How a step of one sequence is launched.
    ///
    /// # Errors
    /// If the variant has no kernel for it.
    pub fn pass(&self) -> Result<&Pass, DeviceError> {
        match self.options.stage.is_separate() {
            true => self.plan.separate(1),
            false => self.plan.decode(1),
        }
    }

    /// Overwrites the keys and values of all positions that are not cached with NaN, so that a
    /// test sees if a kernel reads them.
    ///
    /// # Errors
    /// If the device fails.
    pub fn poison_uncached(&mut self) -> Result<(), EngineError> {
        let at = &self.state.at;
        let heads = self.config.kv_heads;
        let [context, count] = [at.context, at.sequences].map(|n| n as usize);
        let position_bytes = self.config.head_dim * size_of::<bf16>();
        let nan = bf16::NAN
            .to_le_bytes()
            .repeat(context * self.config.head_dim);
        for cache in [at.keys, at.values] {
            for head in 0..self.config.layers * count * heads {
                let sequence = head / heads % count;
                let cached = self.sequences.cached(sequence).len();
                let offset = cache + ((head * context + cached) * position_bytes) as u64;
                let poison = &nan[cached * position_bytes..];
                self.device.write_state(offset, poison)?;
            }
        }
        Ok(())
    }

    /// What a launch of `pass` is told.
    fn arguments(&self, pass: &Pass, mode: OgMode) -> OgArguments {
        let options = &self.options;
        let (stall_block, stall_epoch) = options.stall.unwrap_or_default();
        OgArguments {
            weights: self.addresses.weights,
            state: self.addresses.state,
            mailbox: self.addresses.mailbox,
            model: self.weights.model,
            at: self.state.at,
            mode,
            barrier: options.barrier.kind(),
            max_steps: 1,
            ring_capacity: options.ring_capacity as u32,
            tile: pass.shared.tile,
            attention_blocks: pass.blocks,
            score_blocks: pass.blocks,
            attended_at: pass.shared.attended_at,
            qkv_segments: pass.segments.qkv,
            output_segments: pass.segments.output,
            gate_up_segments: pass.segments.gate_up,
            down_segments: pass.segments.down,
            split_length: options.split_length,
            select: 0,
            prefetch: options.prefetch,
            watchdog_ms: options.watchdog.as_millis().try_into().unwrap_or(u32::MAX),
            layer: 0,
            stall_block,
            stall_epoch,
            step_columns: pass.columns as u32,
            ..OgArguments::default()
        }
    }

    fn launch(&mut self, pass: &Pass, mut arguments: OgArguments) -> Result<(), DeviceError> {
        if let Some(trace) = &self.trace {
            trace.tell(&mut arguments);
        }
        self.device.launch(&Launch {
            kernel: pass.kernel.clone(),
            blocks: pass.blocks,
            threads: pass.threads,
            shared_bytes: pass.shared.bytes,
            cooperative: true,
            arguments,
        })
    }

    /// Where a head's positions begin in the arrays of keys and of values, in bytes:
    /// `[layers][sequences][kv_heads][context][head_dim]`.
    fn cache_offset(&self, layer: usize, sequence: usize, head: usize) -> u64 {
        let [context, count] = [self.state.at.context, self.state.at.sequences].map(|n| n as usize);
        let before = ((layer * count + sequence) * self.config.kv_heads + head) * context;
        (before * self.config.head_dim * size_of::<bf16>()) as u64
    }

    /// Runs `columns` through the layers together. Logits that are not finite are no error here:
    /// who reads them finds them.
    fn run(&mut self, pass: &Pass, columns: &[OgColumn]) -> Result<(), EngineError> {
        let mut control = OgControl {
            columns: columns.len() as u32,
            ..fresh_control()
        };
        control.column[..columns.len()].copy_from_slice(columns);
        self.device.wait()?;
        self.device.mailbox().clear();
        let at = self.state.at.control;
        self.device.write_state(at, bytes_of(&control))?;
        let arguments = self.arguments(pass, OG_MODE_COLUMNS);
        self.launch(pass, arguments)?;
        self.device.wait()?;
        self.count_traced_passes(pass)?;
        self.check_report()
    }

    /// What became of the last launch.
    fn check_report(&mut self) -> Result<(), EngineError> {
        let report = self.device.mailbox().report();
        match report.status {
            OG_STATUS_DONE => Ok(()),
            OG_STATUS_NOT_FINITE => match self.read_control()?.1 {
                Some(found) => Err(found.error(self.config.layers)),
                None => Err(self.inconsistent("nothing is not finite".into())),
            },
            OG_STATUS_STALLED => {
                self.reset_barrier()?;
                Err(EngineError::Device(DeviceError::Stalled {
                    block: report.block,
                    phase: report.phase,
                    layer: report.layer,
                }))
            }
            status => Err(self.inconsistent(format!("its report has status {status}"))),
        }
    }

    /// The control block as the last launch left it, and what it says is not finite.
    fn read_control(&mut self) -> Result<(OgControl, Option<NotFinite>), DeviceError> {
        let mut control = OgControl::default();
        let at = self.state.at.control;
        self.device.read_state(at, bytes_of_mut(&mut control))?;
        let not_finite = NotFinite::from_control(&control, self.config.layers);
        Ok((control, not_finite))
    }

    /// After a stall: blocks have left between two epochs.
    fn reset_barrier(&mut self) -> Result<(), DeviceError> {
        let at = self.state.at;
        let barrier = OgBarrier::default();
        self.device.write_state(at.barrier, bytes_of(&barrier))?;
        let arrivals = vec![0; self.plan.most_blocks() as usize * size_of::<u32>()];
        self.device.write_state(at.arrivals, &arrivals)
    }

    fn inconsistent(&self, what: String) -> EngineError {
        EngineError::Device(DeviceError::Inconsistent {
            device: self.device.limits().name.clone(),
            what,
        })
    }

    /// Row `row` of the device's logits: `[vocabulary]`.
    fn read_logits(&mut self, row: usize, logits: &mut [f32]) -> Result<(), DeviceError> {
        let bytes = cast_slice_mut(logits);
        let offset = self.state.at.logits + (row * bytes.len()) as u64;
        self.device.read_state(offset, bytes)
    }

    /// Brings the logits of `sequence` to the host, for its sampler.
    fn fetch_logits(&mut self, sequence: usize) -> Result<(), DeviceError> {
        let size = self.config.vocab_size;
        let mut all = std::mem::take(&mut self.logits);
        let result = self.read_logits(sequence, &mut all[sequence * size..][..size]);
        self.logits = all;
        result
    }

    /// Runs a piece of a prompt of `sequence`; `logits_row` says where the logits of its column go.
    fn run_piece(
        &mut self,
        sequence: usize,
        piece: &[TokenId],
        logits_row: impl Fn(usize) -> u32,
    ) -> Result<(), EngineError> {
        let first = self.sequences.cached(sequence).len();
        let column = |(index, &token): (usize, &TokenId)| OgColumn {
            sequence: sequence as u32,
            position: (first + index) as u32,
            token,
            logits_row: logits_row(index),
            few_of: 0,
        };
        let columns: Vec<_> = piece.iter().enumerate().map(column).collect();
        let pass = self.plan.prefill(piece.len())?.clone();
        self.note_pass(&pass, StepKind::Prefill, &columns);
        self.run(&pass, &columns)?;
        for &token in piece {
            self.sequences.push(sequence, token);
        }
        Ok(())
    }

    /// Tokens of a prompt that run together.
    fn piece_length(&self) -> usize {
        self.plan.widest_prefill(self.options.columns)
    }
}

/// The control block of a launch that has met nothing yet.
fn fresh_control() -> OgControl {
    OgControl {
        not_finite: OG_ALL_FINITE,
        news: OgNews {
            not_finite: OG_ALL_FINITE,
            ..OgNews::default()
        },
        ..OgControl::default()
    }
}

/// Where a launch met NaN or infinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NotFinite {
    norm: usize,
    position: usize,
}

impl NotFinite {
    fn from_control(control: &OgControl, layers: usize) -> Option<Self> {
        if control.not_finite == OG_ALL_FINITE {
            return None;
        }
        let norm = control.not_finite as usize;
        let index = control.not_finite_column as usize % MAX_COLUMNS;
        // Logits are those after a request's last cached token; a norm is a column's.
        let position = match norm > 2 * layers {
            true => control.request[index].position.saturating_sub(1),
            false => control.column[index].position,
        };
        Some(Self {
            norm,
            position: position as usize,
        })
    }

    fn is_logits(self, layers: usize) -> bool {
        self.norm > 2 * layers
    }

    fn error(self, layers: usize) -> EngineError {
        EngineError::not_finite_before(self.norm, layers, self.position)
    }
}

impl<D: Device> Step for MegakernelEngine<D> {
    fn step(&mut self, columns: &[Column]) -> Result<(), EngineError> {
        let mut device_columns: Vec<OgColumn> = Vec::with_capacity(columns.len());
        for column in columns {
            let sequence = column.sequence as u32;
            let position = match device_columns.last() {
                Some(before) if before.sequence == sequence => before.position + 1,
                _ => self.sequences.cached(column.sequence).len() as u32,
            };
            device_columns.push(OgColumn {
                sequence,
                position,
                token: column.token,
                logits_row: match column.head {
                    Head::None => OG_NO_LOGITS,
                    Head::Rows(_) | Head::All => sequence,
                },
                few_of: 0,
            });
        }
        // Forced runs take more columns than there are requests, for which the variant may have no kernel.
        let pass = match (&self.trace, columns) {
            (Some(trace), [_]) => &trace.pass,
            _ => (self.plan.decode(columns.len())).or_else(|_| self.plan.prefill(columns.len()))?,
        };
        let pass = pass.clone();
        self.note_pass(&pass, StepKind::Decode, &device_columns);
        self.run(&pass, &device_columns)?;
        for column in columns {
            self.sequences.push(column.sequence, column.token);
            if column.head != Head::None {
                self.sequences.set_has_logits(column.sequence, true);
                self.fetch_logits(column.sequence)?;
            }
        }
        Ok(())
    }

    fn sequences(&self) -> &Sequences {
        &self.sequences
    }

    fn take_logits(&mut self, sequence: usize) -> Option<&mut [f32]> {
        let has_logits = self.sequences.has_logits(sequence);
        self.sequences.set_has_logits(sequence, false);
        let size = self.config.vocab_size;
        has_logits.then(|| &mut self.logits[sequence * size..][..size])
    }
}

impl<D: Device> FillPast for MegakernelEngine<D> {
    fn fill_past(&mut self, sequence: usize, past: &RandomPast) -> Result<(), EngineError> {
        self.sequences.truncate(sequence, 0)?;
        self.sequences.check_fits(sequence, past.tokens())?;
        let at = self.state.at;
        for layer in 0..self.config.layers {
            for head in 0..self.config.kv_heads {
                let offset = self.cache_offset(layer, sequence, head);
                let [keys, values] = [past.keys(layer, head), past.values(layer, head)];
                self.device
                    .write_state(at.keys + offset, cast_slice(keys))?;
                self.device
                    .write_state(at.values + offset, cast_slice(values))?;
            }
        }
        for &token in past.tokens() {
            self.sequences.push(sequence, token);
        }
        Ok(())
    }
}

impl<D: Device> ReadPast for MegakernelEngine<D> {
    fn read_past(&mut self, sequence: usize) -> Result<CachedPast, EngineError> {
        self.sequences.check_exists(sequence)?;
        self.device.wait()?;
        let at = self.state.at;
        let positions = self.sequences.cached(sequence).len();
        let head_dim = self.config.head_dim;
        let mut layers = vec![CachedLayer::default(); self.config.layers];
        let mut of_head = vec![bf16::ZERO; positions * head_dim];
        for (index, layer) in layers.iter_mut().enumerate() {
            let arrays = [(at.keys, &mut layer.keys), (at.values, &mut layer.values)];
            for (array, rows) in arrays {
                *rows = vec![Vec::new(); positions];
                for head in 0..self.config.kv_heads {
                    let offset = array + self.cache_offset(index, sequence, head);
                    self.device
                        .read_state(offset, cast_slice_mut(&mut of_head))?;
                    for (row, own) in rows.iter_mut().zip(of_head.chunks(head_dim)) {
                        row.extend_from_slice(own);
                    }
                }
            }
        }
        Ok(CachedPast { layers })
    }
}

impl<D: Device> Engine for MegakernelEngine<D> {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn capabilities(&self) -> Capabilities {
        let pass = self.pass().expect("made with a kernel for one column");
        Capabilities {
            name: D::NAME,
            sequences: self.sequences.count(),
            context: self.sequences.context(),
            threads: (pass.blocks * pass.threads) as usize,
            host_bound: false,
            kernels: self.options.variant.name(),
            variant: (self.options.variant != Variant::default())
                .then(|| self.options.variant.name()),
        }
    }

    fn cached(&self, sequence: usize) -> &[TokenId] {
        self.sequences.cached(sequence)
    }

    fn truncate(&mut self, sequence: usize, length: usize) -> Result<(), EngineError> {
        self.sequences.truncate(sequence, length)
    }

    fn prefill(
        &mut self,
        sequence: usize,
        tokens: &[TokenId],
        progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        self.sequences.check_fits(sequence, tokens)?;
        let mut done = 0;
        for piece in tokens.chunks(self.piece_length()) {
            done += piece.len();
            let is_end = done == tokens.len();
            self.run_piece(sequence, piece, |index| {
                match is_end && index + 1 == piece.len() {
                    true => sequence as u32,
                    false => OG_NO_LOGITS,
                }
            })?;
            self.sequences.set_has_logits(sequence, is_end);
            if progress(done).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn decode(
        &mut self,
        requests: &[DecodeRequest],
        on_token: &mut dyn FnMut(Decoded) -> ControlFlow<()>,
    ) -> Result<Vec<Finished>, EngineError> {
        if requests.len() > MAX_COLUMNS {
            return Err(EngineError::TooManyRequests {
                found: requests.len(),
                most: MAX_COLUMNS,
            });
        }
        decode_loop::check(&self.sequences, requests)?;
        self.check_traceable(requests.len())?;
        // A grammar that the host steps needs the logits there.
        let is_for_host = |request: &DecodeRequest| matches!(request.guide, Some(Guide::Host(_)));
        if self.options.stage != Stage::V0 && !requests.iter().any(is_for_host) {
            return self.decode_on_device(requests, on_token);
        }
        if !requests.is_empty() {
            self.plan.decode(requests.len())?;
        }
        let all_logits = self.sequences.count() * self.config.vocab_size;
        self.logits.resize(all_logits, 0.0);
        for request in requests {
            self.fetch_logits(request.sequence)?;
        }
        decode_loop::decode(self, requests, on_token)
    }

    fn logits(
        &mut self,
        sequence: usize,
        tokens: &[TokenId],
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), EngineError> {
        self.sequences.check_fits(sequence, tokens)?;
        let mut logits = vec![0.0; self.config.vocab_size];
        let scratch = self.sequences.count();
        let mut done = 0;
        for piece in tokens.chunks(self.piece_length()) {
            let is_end = done + piece.len() == tokens.len();
            // The last token's stay with the sequence, to decode from.
            let row = |index: usize| match is_end && index + 1 == piece.len() {
                true => sequence,
                false => scratch + index,
            };
            let first = self.sequences.cached(sequence).len();
            self.run_piece(sequence, piece, |index| row(index) as u32)?;
            for index in 0..piece.len() {
                self.read_logits(row(index), &mut logits)?;
                if !logits.iter().all(|logit| logit.is_finite()) {
                    return Err(EngineError::NotFinite {
                        place: "the logits".into(),
                        position: first + index,
                    });
                }
                each(done + index, &logits);
            }
            done += piece.len();
        }
        self.sequences.set_has_logits(sequence, done > 0);
        Ok(())
    }

    fn as_fill_past(&mut self) -> Option<&mut dyn FillPast> {
        Some(self)
    }

    fn start_trace(&mut self, steps: usize) -> Result<(), EngineError> {
        self.begin_trace(steps)
    }

    fn take_trace(&mut self) -> Result<Option<Recording>, EngineError> {
        self.end_trace()
    }
}
