//! What the traced kernel records on the device, and how it comes back as a [`Recording`].

use bytemuck::{Pod, Zeroable, cast_slice_mut};

use super::MegakernelEngine;
use super::abi::{
    OG_PHASE_ATTENTION, OG_PHASE_DOWN, OG_PHASE_EMBED, OG_PHASE_GATE_UP, OG_PHASE_HEAD,
    OG_PHASE_NORM, OG_PHASE_OUTPUT, OG_PHASE_QKV, OG_PHASE_SAMPLE, OG_PHASE_SELECT,
    OG_SELECT_PASSES, OG_TRACE_NO_LAYER, OG_TRACE_SCORE, OG_TRACE_WAIT_BIT, OgArguments, OgColumn,
    OgTraceEvent, OgTraceHead, OgTraceStep,
};
use super::device::Device;
use super::error::DeviceError;
use super::plan::{Pass, Plan};
use crate::engine::EngineError;
use crate::engine::trace::{Event, Phase, Recording, Step, StepKind, Track};

/// What is told to who asks for a trace that no kernel records.
const INSTEAD: &str = "the kernel that records takes one sequence, as variant redundant_norm \
                                  and stage v0 or v1, and on a GPU heads of 128";

/// A recording under way.
pub(super) struct DeviceTrace {
    /// The kernel that records.
    pub(super) pass: Pass,
    address: u64,
    /// Passes that are recorded, and events of each block that there is room for.
    steps: u32,
    events: u32,
    /// The number of the next pass.
    next_step: u32,
    /// Passes that other kernels ran.
    unrecorded: Vec<(u32, Step)>,
}

/// Events of one block in one pass at most: a phase and a wait of each of a layer's five, embed with its
/// wait, head, score with its wait, sample; and for each filter the passes of its selection with their
/// waits, and the draw with its own.
fn most_events(layers: usize) -> u64 {
    10 * layers as u64 + 6 + 2 * (2 * u64::from(OG_SELECT_PASSES) + 1)
}

impl DeviceTrace {
    /// Takes memory for `steps` passes of a model of `layers` layers.
    fn new<D: Device>(
        device: &mut D,
        pass: Pass,
        layers: usize,
        steps: usize,
    ) -> Result<Self, DeviceError> {
        const WHAT: &str = "the trace";
        let too_large = || DeviceError::TooLarge { what: WHAT };
        let word = |count: u64| u32::try_from(count).map_err(|_| too_large());
        let steps = word(steps as u64)?;
        let events = word(most_events(layers).saturating_mul(steps.into()))?;
        let mut trace = Self {
            pass,
            address: 0,
            steps,
            events,
            next_step: 0,
            unrecorded: Vec::new(),
        };
        let blocks = trace.pass.blocks;
        trace.address = device.allocate_trace(trace.events_at(blocks))?;
        Ok(trace)
    }

    /// What a launch is told of it.
    pub(super) fn tell(&self, arguments: &mut OgArguments) {
        arguments.trace = self.address;
        arguments.trace_steps = self.steps;
        arguments.trace_events = self.events;
        arguments.trace_step = self.next_step;
    }

    /// Notes a pass that `kernel` is to run, unless it is the one that does so itself.
    fn note_pass(&mut self, kernel: &str, kind: StepKind, columns: &[OgColumn]) {
        if let (Some(first), true) = (columns.first(), kernel != self.pass.kernel) {
            let step = Step {
                kind,
                columns: columns.len() as u32,
                token: first.token,
                position: first.position,
            };
            self.unrecorded.push((self.next_step, step));
            self.next_step += 1;
        }
    }

    /// Asks how many passes the launch of `kernel` made, which has ended.
    fn count_passes<D: Device>(&mut self, device: &mut D, kernel: &str) -> Result<(), DeviceError> {
        if kernel == self.pass.kernel {
            let head: OgTraceHead = read(device, 0, 1)?[0];
            self.next_step = self.next_step.max(head.next_step);
        }
        Ok(())
    }

    /// Where the events of `block` begin; those of one that does not exist are where all end.
    fn events_at(&self, block: u32) -> u64 {
        let heads = u64::from(self.pass.blocks) * size_of::<OgTraceHead>() as u64;
        let steps = u64::from(self.steps) * size_of::<OgTraceStep>() as u64;
        let events = u64::from(self.events) * size_of::<OgTraceEvent>() as u64;
        heads + steps + u64::from(block) * events
    }

    /// All that was recorded.
    fn finish<D: Device>(self, device: &mut D, layers: usize) -> Result<Recording, DeviceError> {
        let blocks = self.pass.blocks as usize;
        let heads: Vec<OgTraceHead> = read(device, 0, blocks)?;
        let steps_at = (blocks * size_of::<OgTraceHead>()) as u64;
        let of_device: Vec<OgTraceStep> = read(device, steps_at, self.steps as usize)?;
        let mut found = Vec::new();
        for (block, head) in (0..).zip(&heads) {
            let count = head.count.min(self.events) as usize;
            let events: Vec<OgTraceEvent> = read(device, self.events_at(block), count)?;
            found.push((head.lost, events));
        }
        let times = || found.iter().flat_map(|(_, events)| events);
        let origin = times().map(|event| event.begin).min().unwrap_or(0);
        let since = |time: u64| time.saturating_sub(origin);
        let pace = times().fold(0, |pace, event| {
            greatest_common_divisor(pace, since(event.end))
        });
        let tracks = (0..).zip(found).map(|(block, (lost, events))| Track {
            name: format!("block {block}"),
            events: events
                .iter()
                .filter_map(|event| host_event(event, origin))
                .collect(),
            lost: lost.into(),
        });
        let mut steps: Vec<Step> = of_device.iter().map(host_step).collect();
        steps.truncate(self.next_step as usize);
        for &(index, step) in &self.unrecorded {
            if let Some(place) = steps.get_mut(index as usize) {
                *place = step;
            }
        }
        Ok(Recording {
            engine: D::NAME,
            layers,
            clock: format!("globaltimer, which moved in steps of {pace} ns"),
            steps_not_recorded: u64::from(self.next_step.saturating_sub(self.steps)),
            steps,
            tracks: tracks.collect(),
        })
    }
}

impl<D: Device> MegakernelEngine<D> {
    /// As [`Engine::start_trace`](crate::engine::Engine::start_trace).
    pub(super) fn begin_trace(&mut self, steps: usize) -> Result<(), EngineError> {
        let options = &self.options;
        if options.stage.is_separate() {
            return Err(no_trace::<D>(format!("of stage {}", options.stage.name())));
        }
        // Before the old one's memory goes.
        self.device.wait()?;
        self.trace = None;
        let pass = Plan::traced(&mut self.device, &self.config, &self.options)?;
        let pass = pass.ok_or_else(|| {
            let head_dim = self.config.head_dim;
            let variant = self.options.variant.name();
            no_trace::<D>(format!("of variant {variant} with heads of {head_dim}"))
        })?;
        let layers = self.config.layers;
        self.trace = Some(DeviceTrace::new(&mut self.device, pass, layers, steps)?);
        Ok(())
    }

    /// As [`Engine::take_trace`](crate::engine::Engine::take_trace).
    pub(super) fn end_trace(&mut self) -> Result<Option<Recording>, EngineError> {
        let Some(trace) = self.trace.take() else {
            return Ok(None);
        };
        self.device.wait()?;
        Ok(Some(trace.finish(&mut self.device, self.config.layers)?))
    }

    /// Whether so many sequences can be decoded while a trace is recorded, if one is.
    pub(super) fn check_traceable(&self, sequences: usize) -> Result<(), EngineError> {
        match self.trace.is_some() && sequences > 1 {
            true => Err(no_trace::<D>(format!("of {sequences} sequences"))),
            false => Ok(()),
        }
    }

    /// Before a pass of `columns`, where a trace is recorded.
    pub(super) fn note_pass(&mut self, pass: &Pass, kind: StepKind, columns: &[OgColumn]) {
        if let Some(trace) = &mut self.trace {
            trace.note_pass(&pass.kernel, kind, columns);
        }
    }

    /// After a launch of `pass`, where a trace is recorded.
    pub(super) fn count_traced_passes(&mut self, pass: &Pass) -> Result<(), DeviceError> {
        match &mut self.trace {
            Some(trace) => trace.count_passes(&mut self.device, &pass.kernel),
            None => Ok(()),
        }
    }
}

fn no_trace<D: Device>(of: String) -> EngineError {
    EngineError::NoTrace {
        engine: D::NAME,
        of,
        instead: INSTEAD,
    }
}

/// `count` structs from `offset` of the trace.
fn read<T: Pod + Zeroable, D: Device>(
    device: &mut D,
    offset: u64,
    count: usize,
) -> Result<Vec<T>, DeviceError> {
    let mut items = vec![T::zeroed(); count];
    device.read_trace(offset, cast_slice_mut(&mut items))?;
    Ok(items)
}

fn host_step(step: &OgTraceStep) -> Step {
    Step {
        kind: StepKind::Decode,
        columns: step.columns,
        token: step.token,
        position: step.position,
    }
}

/// `None` if a kernel wrote what it should not have.
fn host_event(event: &OgTraceEvent, origin: u64) -> Option<Event> {
    let is_wait = event.kind >> OG_TRACE_WAIT_BIT != 0;
    let layer = u32::from(event.layer) != OG_TRACE_NO_LAYER;
    Some(Event {
        begin: event.begin.checked_sub(origin)?,
        end: event.end.checked_sub(origin)?,
        step: event.step,
        layer: layer.then_some(event.layer),
        phase: phase(u32::from(event.kind) % (1 << OG_TRACE_WAIT_BIT))?,
        is_wait,
    })
}

fn phase(kind: u32) -> Option<Phase> {
    Some(match kind {
        OG_PHASE_EMBED => Phase::Embed,
        OG_PHASE_NORM => Phase::Norm,
        OG_PHASE_QKV => Phase::Qkv,
        OG_PHASE_ATTENTION => Phase::Attention,
        OG_PHASE_OUTPUT => Phase::Output,
        OG_PHASE_GATE_UP => Phase::GateUp,
        OG_PHASE_DOWN => Phase::Down,
        OG_PHASE_HEAD => Phase::Head,
        OG_TRACE_SCORE => Phase::Score,
        OG_PHASE_SELECT => Phase::Select,
        OG_PHASE_SAMPLE => Phase::Sample,
        _ => return None,
    })
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_of_a_clock_is_found_in_its_readings() {
        let pace = |times: &[u64]| times.iter().fold(0, |a, &b| greatest_common_divisor(a, b));
        assert_eq!(pace(&[1024, 3072, 10_240]), 1024);
        assert_eq!(pace(&[64, 96, 0]), 32);
        assert_eq!(pace(&[7, 96]), 1);
        assert_eq!(pace(&[]), 0);
    }

    #[test]
    fn an_event_of_the_device_is_told_apart_from_nonsense() {
        let event = OgTraceEvent {
            begin: 100,
            end: 150,
            step: 3,
            epoch: 0,
            kind: (OG_PHASE_DOWN | 1 << OG_TRACE_WAIT_BIT) as u16,
            layer: 2,
            block: 0,
        };
        let expected = Event {
            begin: 40,
            end: 90,
            step: 3,
            layer: Some(2),
            phase: Phase::Down,
            is_wait: true,
        };
        assert_eq!(host_event(&event, 60), Some(expected));
        assert_eq!(host_event(&OgTraceEvent { kind: 13, ..event }, 60), None);
    }
}
