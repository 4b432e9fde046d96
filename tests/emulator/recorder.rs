//! Records what an engine does with a device, as a case that `check` can replay.

use std::mem::offset_of;
use std::sync::{Arc, Mutex};

use bytemuck::{bytes_of, cast_slice, pod_read_unaligned};
use onegrid::engine::emulated::EmulatedDevice;
use onegrid::engine::megakernel::abi::{
    OgArguments, OgControl, OgMailbox, OgNews, OgReport, OgState,
};
use onegrid::engine::megakernel::device::{Addresses, Launch, Limits, WeightSink};
use onegrid::engine::megakernel::mailbox::{Mailbox, RingEntry};
use onegrid::engine::megakernel::{Device, DeviceError};

/// `OG_CASE_MAGIC` of `cuda/emulator/case_file.h`, and what else is defined there.
const MAGIC: u64 = u64::from_le_bytes(*b"OGCASE2\0");
const KERNEL_NAME: usize = 64;

/// Something that happened to the device, in order.
#[derive(Clone)]
enum Step {
    Launch(Box<Launch>),
    WriteState { offset: u64, bytes: Vec<u8> },
    ClearMailbox,
}

impl Step {
    /// `OgCaseStepKind`.
    fn kind(&self) -> u32 {
        match self {
            Self::Launch(_) => 0,
            Self::WriteState { .. } => 1,
            Self::ClearMailbox => 2,
        }
    }
}

/// When a launch is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    Before,
    After,
}

/// What a device was told to do, and the memory that it left behind.
#[derive(Clone, Default)]
pub struct Recording {
    weights: Vec<u8>,
    /// Room for a trace, in bytes.
    trace: u64,
    steps: Vec<Step>,
    /// The state at the end.
    state: Vec<u8>,
    /// The ring and the report at the end.
    ring: Vec<Option<RingEntry>>,
    report: OgReport,
}

impl Recording {
    /// The arguments of every launch, in order.
    pub fn launches(&self) -> impl Iterator<Item = &Launch> {
        self.steps.iter().filter_map(|step| match step {
            Step::Launch(launch) => Some(&**launch),
            _ => None,
        })
    }

    /// The same up to launch `last`, whose arguments `change` changes.
    pub fn up_to(&self, last: usize, change: impl FnOnce(&mut OgArguments)) -> Self {
        let mut launches = 0;
        let mut steps = Vec::new();
        for step in &self.steps {
            steps.push(step.clone());
            if let Step::Launch(_) = step {
                launches += 1;
            }
            if launches == last + 1 {
                break;
            }
        }
        let Some(Step::Launch(launch)) = steps.last_mut() else {
            panic!("{launches} launches");
        };
        change(&mut launch.arguments);
        Self {
            steps,
            ..self.clone()
        }
    }

    /// Does it all again on `device`, a fresh one; `around` may look at the state, and change it, before
    /// and after each launch.
    pub fn replay(
        &self,
        device: &mut EmulatedDevice,
        around: &mut dyn FnMut(Moment, &Launch, &mut EmulatedDevice),
    ) {
        let [weights, state] = [&self.weights, &self.state].map(|memory| memory.len() as u64);
        let at = device.allocate(weights, state, self.ring.len()).unwrap();
        assert_eq!(self.trace, 0, "a trace is for programs with sanitizers");
        let piece_bytes = device.piece_bytes();
        for (index, piece) in self.weights.chunks(piece_bytes).enumerate() {
            let mut fill = |to: &mut [u8]| to.copy_from_slice(piece);
            let offset = (index * piece_bytes) as u64;
            device
                .write_weights(offset, piece.len(), &mut fill)
                .unwrap();
        }
        for step in &self.steps {
            match step {
                Step::ClearMailbox => device.mailbox().clear(),
                Step::WriteState { offset, bytes } => device.write_state(*offset, bytes).unwrap(),
                Step::Launch(launch) => {
                    let mut launch = launch.clone();
                    launch.arguments.weights = at.weights;
                    launch.arguments.state = at.state;
                    launch.arguments.mailbox = at.mailbox;
                    around(Moment::Before, &launch, device);
                    device.launch(&launch).unwrap();
                    device.wait().unwrap();
                    around(Moment::After, &launch, device);
                }
            }
        }
    }

    /// As a case file.
    pub fn case_file(&self) -> Vec<u8> {
        let mailbox_bytes = Mailbox::bytes(self.ring.len());
        let header = [
            MAGIC,
            self.weights.len() as u64,
            self.state.len() as u64,
            mailbox_bytes as u64,
            self.trace,
            self.steps.len() as u64,
            size_of::<OgArguments>() as u64,
        ];
        let mut file: Vec<u8> = cast_slice(&header).to_vec();
        file.extend(&self.weights);
        // All of it is zero at first.
        file.resize(file.len() + self.state.len() + mailbox_bytes, 0);
        let empty = vec![0; mailbox_bytes];
        for step in &self.steps {
            let (grid, kernel, offset, payload) = match step {
                Step::Launch(launch) => (
                    [launch.blocks, launch.threads, launch.shared_bytes],
                    &launch.kernel[..],
                    0,
                    bytes_of(&launch.arguments),
                ),
                Step::WriteState { offset, bytes } => ([0; 3], "", *offset, &bytes[..]),
                Step::ClearMailbox => ([0; 3], "", 0, &empty[..]),
            };
            let mut name = [0; KERNEL_NAME];
            name[..kernel.len()].copy_from_slice(kernel.as_bytes());
            file.extend(step.kind().to_ne_bytes());
            file.extend(cast_slice::<u32, u8>(&grid));
            file.extend(name);
            file.extend(offset.to_ne_bytes());
            file.extend((payload.len() as u64).to_ne_bytes());
            file.extend(payload);
        }
        file
    }

    /// Checks that a replay left behind, in state and mailbox, what the device did.
    #[track_caller]
    pub fn expect_result(&self, result: &[u8], what: &str) {
        let (state, mailbox) = result.split_at(self.state.len());
        let at = self.launches().next().expect("a launch").arguments.at;
        let differs = |(found, expected): (&u8, &u8)| found != expected;
        let bytes = self.without_stop_mask(&at, &self.state);
        let found = self.without_stop_mask(&at, state);
        if let Some(offset) = found.iter().zip(&bytes).position(differs) {
            panic!("{what}: byte {offset} of the state differs: {at:?}");
        }
        assert_eq!(report(mailbox), self.report, "{what}");
        assert_eq!(ring(mailbox, self.ring.len()), self.ring, "{what}");
    }

    /// The host raises the stop mask of requests that have ended, and may be late.
    fn without_stop_mask(&self, at: &OgState, state: &[u8]) -> Vec<u8> {
        let in_news = offset_of!(OgControl, news) + offset_of!(OgNews, stop_mask);
        let mut state = state.to_vec();
        for offset in [offset_of!(OgControl, stop_mask), in_news] {
            state[at.control as usize + offset..][..4].fill(0);
        }
        state
    }

    /// The tokens in the ring that a replay left behind.
    pub fn tokens_of(&self, result: &[u8]) -> Vec<RingEntry> {
        ring(&result[self.state.len()..], self.ring.len())
            .into_iter()
            .map_while(|entry| entry)
            .collect()
    }

    /// The tokens in the ring at the end.
    pub fn tokens(&self) -> Vec<RingEntry> {
        self.ring.iter().copied().map_while(|entry| entry).collect()
    }

    /// The report that a replay left behind.
    pub fn report_of(&self, result: &[u8]) -> OgReport {
        report(&result[self.state.len()..])
    }
}

fn ring(mailbox: &[u8], capacity: usize) -> Vec<Option<RingEntry>> {
    let entry = |index| {
        let at = offset_of!(OgMailbox, ring) + index * size_of::<u64>();
        RingEntry::decode(pod_read_unaligned(&mailbox[at..][..8]), index)
    };
    (0..capacity).map(entry).collect()
}

fn report(mailbox: &[u8]) -> OgReport {
    let at = offset_of!(OgMailbox, report);
    pod_read_unaligned(&mailbox[at..][..size_of::<OgReport>()])
}

/// The emulated device, with an ear to the door. What it heard is whole once it is dropped.
pub struct Recorder {
    device: EmulatedDevice,
    /// Changes what every launch is told.
    adjust: fn(&mut OgArguments),
    /// Which of the emulator's kernels it has, by name.
    keeps: fn(&str) -> bool,
    /// Whether the mailbox was emptied since the last launch.
    is_mailbox_empty: bool,
    recording: Arc<Mutex<Recording>>,
}

impl Recorder {
    pub fn new(
        device: EmulatedDevice,
        adjust: fn(&mut OgArguments),
    ) -> (Self, Arc<Mutex<Recording>>) {
        let recording = Arc::default();
        let recorder = Self {
            device,
            adjust,
            keeps: |_| true,
            is_mailbox_empty: false,
            recording: Arc::clone(&recording),
        };
        (recorder, recording)
    }

    /// The same device, with the kernels of these names alone.
    pub fn keeping(mut self, keeps: fn(&str) -> bool) -> Self {
        self.keeps = keeps;
        self
    }

    fn note(&self, step: Step) {
        self.recording.lock().unwrap().steps.push(step);
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let mut recording = self.recording.lock().unwrap();
        if recording.state.is_empty() {
            return; // refused before it took memory
        }
        self.device.read_state(0, &mut recording.state).unwrap();
        let mailbox = self.device.mailbox();
        recording.report = mailbox.report();
        let ring = (0..mailbox.ring_capacity()).map(|index| mailbox.entry(index));
        recording.ring = ring.collect();
    }
}

impl WeightSink for Recorder {
    fn piece_bytes(&self) -> usize {
        self.device.piece_bytes()
    }

    fn write_weights(
        &mut self,
        offset: u64,
        len: usize,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), DeviceError> {
        let weights = &mut self.recording.lock().unwrap().weights;
        self.device.write_weights(offset, len, &mut |piece| {
            fill(piece);
            weights[offset as usize..][..len].copy_from_slice(piece);
        })
    }
}

impl Device for Recorder {
    type Recorded = Vec<Launch>;
    type Event = <EmulatedDevice as Device>::Event;

    const NAME: &'static str = "recorded";

    fn limits(&self) -> &Limits {
        self.device.limits()
    }

    fn has_kernel(&mut self, name: &str) -> bool {
        (self.keeps)(name) && self.device.has_kernel(name)
    }

    fn resident_blocks(
        &mut self,
        kernel: &str,
        threads: u32,
        shared_bytes: u32,
    ) -> Result<u32, DeviceError> {
        self.device.resident_blocks(kernel, threads, shared_bytes)
    }

    fn allocate(
        &mut self,
        weights: u64,
        state: u64,
        ring_capacity: usize,
    ) -> Result<Addresses, DeviceError> {
        let mut recording = self.recording.lock().unwrap();
        recording.weights = vec![0; weights as usize];
        recording.state = vec![0; state as usize];
        self.device.allocate(weights, state, ring_capacity)
    }

    fn write_state(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        // Before it writes what a launch is to do, the host empties the mailbox.
        self.is_mailbox_empty = true;
        let bytes_written = bytes.to_vec();
        self.note(Step::WriteState {
            offset,
            bytes: bytes_written,
        });
        self.device.write_state(offset, bytes)
    }

    fn read_state(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.device.read_state(offset, bytes)
    }

    fn allocate_trace(&mut self, bytes: u64) -> Result<u64, DeviceError> {
        self.recording.lock().unwrap().trace = bytes;
        self.device.allocate_trace(bytes)
    }

    fn read_trace(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.device.read_trace(offset, bytes)
    }

    fn mailbox(&self) -> &Mailbox {
        self.device.mailbox()
    }

    fn launch(&mut self, launch: &Launch) -> Result<(), DeviceError> {
        let mut launch = launch.clone();
        (self.adjust)(&mut launch.arguments);
        if std::mem::take(&mut self.is_mailbox_empty) {
            self.note(Step::ClearMailbox);
        }
        self.note(Step::Launch(Box::new(launch.clone())));
        self.device.launch(&launch)
    }

    fn record(&mut self, launches: &[Launch]) -> Result<Vec<Launch>, DeviceError> {
        Ok(launches.to_vec())
    }

    fn replay(&mut self, recorded: &Vec<Launch>) -> Result<(), DeviceError> {
        recorded.iter().try_for_each(|launch| self.launch(launch))
    }

    fn mark(&mut self) -> Result<Self::Event, DeviceError> {
        self.device.mark()
    }

    fn seconds_between(
        &mut self,
        earlier: &Self::Event,
        later: &Self::Event,
    ) -> Result<f64, DeviceError> {
        self.device.seconds_between(earlier, later)
    }

    fn is_idle(&mut self) -> Result<bool, DeviceError> {
        self.device.is_idle()
    }

    fn wait(&mut self) -> Result<(), DeviceError> {
        self.device.wait()
    }

    fn relax(&self) {
        self.device.relax();
    }
}
