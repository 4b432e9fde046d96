//! The megakernel on a GPU, by way of the CUDA driver, which is loaded when it is asked for: the
//! same program runs with and without one.
//!
//! - [`device_code`]: the kernels that this program holds
//! - [`driver`]: the driver, its cards, its errors
//! - `memory`: memory of the card, and of the host where the card reaches it
//! - `stream`: launches, copies, graphs, modules
//! - here: the [`Device`] made of these

pub mod device_code;
pub mod driver;
mod memory;
mod stream;

use std::rc::Rc;

use cudarc::driver::sys::CUdeviceptr;

use super::megakernel::abi::OG_MAX_THREADS;
use super::megakernel::device::{Addresses, Device, Launch, Limits, WeightSink};
use super::megakernel::mailbox::Mailbox;
use super::megakernel::{DeviceError, MegakernelEngine};
use driver::{Card, Context};
use memory::{DeviceMemory, PinnedMemory};
pub use stream::{Event, Graph, KernelResources};
use stream::{Kernels, Stream};

/// The engine that decodes on a GPU.
pub type CudaEngine = MegakernelEngine<CudaDevice>;

/// Threads of a block, unless asked otherwise: all that a block may have. One block has a
/// multiprocessor to itself.
const THREADS: u32 = OG_MAX_THREADS;

/// Bytes of weights written at once, in each of two buffers that take turns.
const PIECE_BYTES: usize = 1 << 25;

/// The sources whose kernels are loaded.
const SOURCES: [&str; 4] = [
    "megakernel",
    "step_kernels",
    "traced_megakernel",
    "sync_overhead",
];

/// Whether there is a GPU that this program has kernels for, without touching its memory.
///
/// # Errors
/// What is missing.
pub fn check_usable() -> Result<Card, DeviceError> {
    let card = driver::first_card()?;
    if let Err(why) = device_code::compiled_by() {
        let what_to_do = device_code::HOW_TO_GET_NVCC;
        return Err(DeviceError::NoKernels {
            why: format!("this onegrid holds no kernels for GPUs: {why}. {what_to_do}"),
        });
    }
    let (major, minor) = card.capability;
    if device_code::images_for(SOURCES[0], major, minor).is_empty() {
        return Err(DeviceError::ArchitectureMissing {
            device: card.name,
            capability: format!("{major}.{minor}"),
            arch: format!("{major}{minor}"),
            word: "no image for it".into(),
        });
    }
    if !card.cooperative {
        return Err(DeviceError::NoDevice {
            word: format!("{} can't launch cooperative kernels", card.name),
        });
    }
    Ok(card)
}

/// A GPU, with one model's memory on it.
pub struct CudaDevice {
    limits: Limits,
    /// What is running or ran last, for messages.
    running: String,
    weights: Option<DeviceMemory>,
    state: Option<DeviceMemory>,
    trace: Option<DeviceMemory>,
    mailbox: Option<Mailbox>,
    mailbox_memory: Option<PinnedMemory>,
    staging: [Staging; 2],
    next_staging: usize,
    kernels: Kernels,
    // Dropped last: what is above is in use until the stream is done.
    stream: Stream,
    context: Rc<Context>,
}

/// A buffer that weights go through, and when the card has read it.
struct Staging {
    memory: PinnedMemory,
    is_read: Event,
}

impl CudaDevice {
    /// The first GPU that the driver shows.
    ///
    /// # Errors
    /// No driver, no GPU, no kernels for it.
    pub fn new() -> Result<Self, DeviceError> {
        let card = check_usable()?;
        let context = Rc::new(Context::new(card)?);
        let card = &context.card;
        let limits = Limits {
            name: card.name.clone(),
            multiprocessors: card.multiprocessors,
            threads: THREADS,
            shared_bytes: card.shared_bytes,
            l2_bytes: card.l2_bytes,
        };
        let kernels = Kernels::load(&context, &SOURCES)?;
        let stream = Stream::new(&context)?;
        let staging = || {
            let is_read = Event::new(&context)?;
            is_read.record(&stream)?;
            Ok::<_, DeviceError>(Staging {
                memory: PinnedMemory::new(&context, PIECE_BYTES, false)?,
                is_read,
            })
        };
        Ok(Self {
            limits,
            running: "the driver".into(),
            weights: None,
            state: None,
            trace: None,
            mailbox: None,
            mailbox_memory: None,
            staging: [staging()?, staging()?],
            next_staging: 0,
            kernels,
            stream,
            context,
        })
    }

    /// The card.
    pub fn card(&self) -> &Card {
        &self.context.card
    }

    /// Reads memory of the card behind all that was launched.
    ///
    /// # Safety
    /// As many bytes as `bytes` has must lie at `from`.
    unsafe fn read(&mut self, from: CUdeviceptr, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.context.make_current()?;
        // SAFETY: the caller's promise; the copy is waited for.
        unsafe { self.stream.copy_from_device(bytes, from)? };
        self.stream.wait(&self.running)
    }

    /// What a kernel takes.
    ///
    /// # Errors
    /// No such kernel.
    pub fn kernel_resources(&mut self, name: &str) -> Result<KernelResources, DeviceError> {
        self.context.make_current()?;
        self.kernels.resources(name)
    }
}

impl Drop for CudaDevice {
    fn drop(&mut self) {
        // Whatever still runs ends soon, and before its memory goes.
        if let Some(mailbox) = &self.mailbox {
            mailbox.stop(u32::MAX);
        }
        // A failure has nowhere to go.
        let _ = self.wait();
    }
}

impl WeightSink for CudaDevice {
    fn piece_bytes(&self) -> usize {
        PIECE_BYTES
    }

    fn write_weights(
        &mut self,
        offset: u64,
        len: usize,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), DeviceError> {
        self.context.make_current()?;
        let to = self.weights.as_ref().expect("allocated").range(offset, len);
        let staging = &mut self.staging[self.next_staging];
        staging.is_read.wait()?;
        let bytes = &mut staging.memory.as_mut_slice()[..len];
        fill(bytes);
        // SAFETY: the range is inside the weights; the buffer is not touched before the event
        // that is recorded behind the copy.
        unsafe { self.stream.copy_to_device(to, bytes)? };
        staging.is_read.record(&self.stream)?;
        self.next_staging = 1 - self.next_staging;
        Ok(())
    }
}

impl Device for CudaDevice {
    type Recorded = Graph;
    type Event = Event;

    const NAME: &'static str = "cuda";

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn has_kernel(&mut self, name: &str) -> bool {
        self.context.make_current().is_ok() && self.kernels.has(name)
    }

    fn resident_blocks(
        &mut self,
        kernel: &str,
        threads: u32,
        shared_bytes: u32,
    ) -> Result<u32, DeviceError> {
        self.context.make_current()?;
        let each = self
            .kernels
            .resident_blocks(kernel, threads, shared_bytes)?;
        Ok(each * self.limits.multiprocessors)
    }

    fn allocate(
        &mut self,
        weights: u64,
        state: u64,
        ring_capacity: usize,
    ) -> Result<Addresses, DeviceError> {
        self.context.make_current()?;
        let weights = DeviceMemory::new(&self.context, weights, "the weights")?;
        let state = DeviceMemory::new(&self.context, state, "the KV cache and activations")?;
        let mailbox = PinnedMemory::new(&self.context, Mailbox::bytes(ring_capacity), true)?;
        let addresses = Addresses {
            weights: weights.address(),
            state: state.address(),
            mailbox: mailbox.device_address()?,
        };
        // SAFETY: zeroed, aligned to pages, long enough, and it lives as long as the device.
        self.mailbox = Some(unsafe { Mailbox::new(mailbox.start().cast(), ring_capacity) });
        self.weights = Some(weights);
        self.state = Some(state);
        self.mailbox_memory = Some(mailbox);
        Ok(addresses)
    }

    fn write_state(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.context.make_current()?;
        let to = self
            .state
            .as_ref()
            .expect("allocated")
            .range(offset, bytes.len());
        // SAFETY: the range is inside the state, and the copy is waited for.
        unsafe { self.stream.copy_to_device(to, bytes)? };
        self.stream.wait(&self.running)
    }

    fn read_state(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let from = self.state.as_ref().expect("allocated");
        let from = from.range(offset, bytes.len());
        // SAFETY: the range is inside the state.
        unsafe { self.read(from, bytes) }
    }

    fn allocate_trace(&mut self, bytes: u64) -> Result<u64, DeviceError> {
        self.wait()?;
        self.trace = None;
        let memory = DeviceMemory::new(&self.context, bytes, "the trace")?;
        Ok(self.trace.insert(memory).address())
    }

    fn read_trace(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let from = self.trace.as_ref().expect("allocated");
        let from = from.range(offset, bytes.len());
        // SAFETY: the range is inside the trace.
        unsafe { self.read(from, bytes) }
    }

    fn mailbox(&self) -> &Mailbox {
        self.mailbox.as_ref().expect("allocated")
    }

    fn launch(&mut self, launch: &Launch) -> Result<(), DeviceError> {
        self.context.make_current()?;
        let function = self
            .kernels
            .with_shared(&launch.kernel, launch.shared_bytes)?;
        self.running.clone_from(&launch.kernel);
        // SAFETY: the addresses are those of this device's memory, which waits before it goes.
        unsafe { self.stream.launch(function, launch) }
    }

    fn record(&mut self, launches: &[Launch]) -> Result<Graph, DeviceError> {
        self.context.make_current()?;
        let function = |launch: &Launch| {
            self.kernels
                .with_shared(&launch.kernel, launch.shared_bytes)
        };
        let functions: Vec<_> = launches.iter().map(function).collect::<Result<_, _>>()?;
        self.stream.record(|| {
            for (function, launch) in functions.into_iter().zip(launches) {
                // SAFETY: as for `launch`.
                unsafe { self.stream.launch(function, launch)? };
            }
            Ok(())
        })
    }

    fn replay(&mut self, recorded: &Graph) -> Result<(), DeviceError> {
        self.context.make_current()?;
        "the graph of a step".clone_into(&mut self.running);
        // SAFETY: as for `launch`.
        unsafe { self.stream.replay(recorded) }
    }

    fn mark(&mut self) -> Result<Event, DeviceError> {
        self.context.make_current()?;
        let event = Event::new(&self.context)?;
        event.record(&self.stream)?;
        Ok(event)
    }

    fn seconds_between(&mut self, earlier: &Event, later: &Event) -> Result<f64, DeviceError> {
        // First, since a failure of the stream names what was running.
        self.wait()?;
        later.seconds_since(earlier)
    }

    fn is_idle(&mut self) -> Result<bool, DeviceError> {
        self.context.make_current()?;
        self.stream.is_idle(&self.running)
    }

    fn wait(&mut self) -> Result<(), DeviceError> {
        self.context.make_current()?;
        self.stream.wait(&self.running)
    }

    fn relax(&self) {
        std::hint::spin_loop();
    }
}
