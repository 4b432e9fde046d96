//! The CUDA kernels on CPU threads, by way of the emulator in `cuda/emulator`: slow, and meant for
//! small models. It is how a machine without a GPU tests the kernels.

use std::ffi::{CStr, CString, c_char};
use std::io::ErrorKind;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use memmap2::MmapMut;

use super::megakernel::abi::{OG_MAX_THREADS, OgArguments};
use super::megakernel::device::{Addresses, Device, Launch, Limits, WeightSink};
use super::megakernel::mailbox::Mailbox;
use super::megakernel::options::WARP;
use super::megakernel::{DeviceError, MegakernelEngine};
use crate::model::storage::huge_pages;

/// The engine that decodes with the emulated kernel.
pub type EmulatedEngine = MegakernelEngine<EmulatedDevice>;

/// Blocks of the default grid: more than one, and no divisor of anything.
pub const BLOCKS: u32 = 3;
/// Threads of its blocks: two warps, the least that can get in each other's way.
pub const THREADS: u32 = 64;

/// How long a block may wait for the others: threads share few processors here.
pub const WATCHDOG: Duration = Duration::from_secs(60);

/// The name in messages.
const NAME: &str = "the emulator";

/// Shared memory that a block may have: as on sm_90.
const SHARED_BYTES: u32 = 232_448;

/// Bytes of weights written at once.
const PIECE_BYTES: usize = 1 << 26;

/// What the emulator's C interface offers (`cuda/emulator/launch.h`).
mod ffi {
    use super::{OgArguments, c_char};

    unsafe extern "C" {
        pub fn onegrid_emulator_launch(
            kernel: *const c_char,
            blocks: u32,
            threads: u32,
            shared_bytes: u32,
            arguments: *const OgArguments,
        ) -> i32;
        pub fn onegrid_emulator_kernel(index: u32) -> *const c_char;
    }
}

/// The names of all emulated kernels.
pub fn kernels() -> Vec<String> {
    let name = |index| {
        // SAFETY: any index may be asked for; the result is null or a string that lives for ever.
        let name = unsafe { ffi::onegrid_emulator_kernel(index) };
        // SAFETY: not null, and a string that lives for ever.
        let name = (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) });
        name.map(|name| name.to_string_lossy().into_owned())
    };
    (0..).map_while(name).collect()
}

/// Memory that kernels write while the host keeps away from it.
struct Memory {
    /// Kept for its pages only, which are read and written by way of `start`.
    _pages: MmapMut,
    start: *mut u8,
    len: usize,
}

impl Memory {
    fn new(bytes: u64, what: &'static str) -> Result<Self, DeviceError> {
        let refused = |error: std::io::Error| DeviceError::Call {
            call: what,
            device: NAME.into(),
            word: format!("{bytes} bytes: {error}"),
        };
        let len = usize::try_from(bytes).map_err(|_| refused(ErrorKind::OutOfMemory.into()))?;
        let mut pages = huge_pages(len).map_err(refused)?;
        Ok(Self {
            start: pages.as_mut_ptr(),
            _pages: pages,
            len,
        })
    }

    fn address(&self) -> u64 {
        self.start.addr() as u64
    }

    /// A pointer to `len` bytes at `offset`, checked to lie inside.
    fn range(&self, offset: u64, len: usize) -> *mut u8 {
        let end = usize::try_from(offset)
            .ok()
            .and_then(|begin| begin.checked_add(len));
        let inside = end.is_some_and(|end| end <= self.len);
        assert!(inside, "{len} bytes at {offset} of {}", self.len);
        self.start.wrapping_add(offset as usize)
    }

    /// Reads `bytes` from `offset`. Nothing may run meanwhile.
    fn read(&self, offset: u64, bytes: &mut [u8]) {
        let from = self.range(offset, bytes.len());
        // SAFETY: inside the memory (checked), which nobody else touches since nothing runs.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) };
    }
}

/// A launch on its way to the thread that runs them.
struct Job {
    kernel: CString,
    launch: Launch,
}

/// What the thread that runs launches tells the others.
#[derive(Default)]
struct Done {
    /// Launches that have ended.
    count: AtomicUsize,
    /// The first that failed.
    failure: Mutex<Option<DeviceError>>,
}

/// CPU threads that run CUDA kernels.
pub struct EmulatedDevice {
    limits: Limits,
    kernels: Vec<String>,
    weights: Option<Memory>,
    state: Option<Memory>,
    trace: Option<Memory>,
    mailbox_memory: Option<Memory>,
    mailbox: Option<Mailbox>,
    jobs: Option<Sender<Job>>,
    runner: Option<JoinHandle<()>>,
    done: Arc<Done>,
    launched: usize,
}

impl EmulatedDevice {
    /// A device whose grids have `blocks` blocks of `threads` threads unless asked otherwise.
    ///
    /// # Errors
    /// If there is no thread.
    ///
    /// # Panics
    /// If `threads` are no whole warps.
    pub fn new(blocks: u32, threads: u32) -> Result<Self, DeviceError> {
        assert!(
            blocks > 0 && threads.is_multiple_of(WARP) && (1..=OG_MAX_THREADS).contains(&threads)
        );
        let done = Arc::new(Done::default());
        let (jobs, queue) = channel();
        let runner = std::thread::Builder::new().name("emulator".into()).spawn({
            let done = Arc::clone(&done);
            move || run_jobs(&queue, &done)
        });
        let runner = runner.map_err(|error| DeviceError::Call {
            call: "starting a thread",
            device: NAME.into(),
            word: error.to_string(),
        })?;
        Ok(Self {
            limits: Limits {
                name: NAME.into(),
                multiprocessors: blocks,
                threads,
                shared_bytes: SHARED_BYTES,
                l2_bytes: 0,
            },
            kernels: kernels(),
            weights: None,
            state: None,
            trace: None,
            mailbox_memory: None,
            mailbox: None,
            jobs: Some(jobs),
            runner: Some(runner),
            done,
            launched: 0,
        })
    }
}

/// Runs what comes out of `queue`, in order, until nothing can come any more.
fn run_jobs(queue: &Receiver<Job>, done: &Done) {
    while let Ok(Job { kernel, launch }) = queue.recv() {
        let mut failure = done.failure.lock().unwrap_or_else(PoisonError::into_inner);
        let is_sound = failure.is_none();
        drop(failure);
        if is_sound {
            // SAFETY: the name ends in zero, the arguments live until the call returns, and the
            // addresses in them are those of the device's memory, which it frees only after this
            // thread has ended, and touches only when nothing runs.
            let code = unsafe {
                ffi::onegrid_emulator_launch(
                    kernel.as_ptr(),
                    launch.blocks,
                    launch.threads,
                    launch.shared_bytes,
                    &raw const launch.arguments,
                )
            };
            if code != 0 {
                failure = done.failure.lock().unwrap_or_else(PoisonError::into_inner);
                *failure = Some(launch_error(&launch, word(code)));
            }
        }
        done.count.fetch_add(1, Ordering::Release);
    }
}

fn launch_error(launch: &Launch, word: &str) -> DeviceError {
    DeviceError::Launch {
        kernel: launch.kernel.clone(),
        device: NAME.into(),
        word: word.to_owned(),
    }
}

/// The word for an `OgEmulatorError`.
fn word(code: i32) -> &'static str {
    match code {
        1 => "there is no such kernel",
        2 => "the grid is not possible",
        3 => "a block has less shared memory",
        4 => "the system has no threads or no memory for it",
        _ => "an unknown error",
    }
}

impl Drop for EmulatedDevice {
    fn drop(&mut self) {
        // Whatever still runs ends soon, and before the memory goes.
        if let Some(mailbox) = &self.mailbox {
            mailbox.stop(u32::MAX);
        }
        self.jobs = None;
        if let Some(runner) = self.runner.take() {
            // A panic there was printed; there is no one to tell here.
            let _ = runner.join();
        }
    }
}

impl WeightSink for EmulatedDevice {
    fn piece_bytes(&self) -> usize {
        PIECE_BYTES
    }

    fn write_weights(
        &mut self,
        offset: u64,
        len: usize,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), DeviceError> {
        self.wait()?;
        let weights = self.weights.as_ref().expect("allocated");
        // SAFETY: inside the memory (checked), initialised (pages are zero), and nobody else has
        // it, since nothing runs.
        fill(unsafe { std::slice::from_raw_parts_mut(weights.range(offset, len), len) });
        Ok(())
    }
}

impl Device for EmulatedDevice {
    type Recorded = Vec<Launch>;
    type Event = Instant;

    const NAME: &'static str = "emulated";

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn has_kernel(&mut self, name: &str) -> bool {
        self.kernels.iter().any(|kernel| kernel == name)
    }

    /// Any grid can be resident here; as many as the default grid has, so that it is small.
    fn resident_blocks(&mut self, _: &str, _: u32, _: u32) -> Result<u32, DeviceError> {
        Ok(self.limits.multiprocessors)
    }

    fn allocate(
        &mut self,
        weights: u64,
        state: u64,
        ring_capacity: usize,
    ) -> Result<Addresses, DeviceError> {
        let weights = Memory::new(weights, "taking memory for the weights")?;
        let state = Memory::new(state, "taking memory for the KV cache")?;
        let bytes = Mailbox::bytes(ring_capacity) as u64;
        let mailbox = Memory::new(bytes, "taking memory for the mailbox")?;
        let addresses = Addresses {
            weights: weights.address(),
            state: state.address(),
            mailbox: mailbox.address(),
        };
        let start = NonNull::new(mailbox.start).expect("mapped memory").cast();
        // SAFETY: pages are zero and aligned, there are enough of them, and they live as long as
        // the device.
        self.mailbox = Some(unsafe { Mailbox::new(start, ring_capacity) });
        self.weights = Some(weights);
        self.state = Some(state);
        self.mailbox_memory = Some(mailbox);
        Ok(addresses)
    }

    fn write_state(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.wait()?;
        let state = self.state.as_ref().expect("allocated");
        let to = state.range(offset, bytes.len());
        // SAFETY: inside the memory (checked), which nobody else touches since nothing runs.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    fn read_state(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.wait()?;
        self.state.as_ref().expect("allocated").read(offset, bytes);
        Ok(())
    }

    fn allocate_trace(&mut self, bytes: u64) -> Result<u64, DeviceError> {
        self.wait()?;
        let memory = Memory::new(bytes, "taking memory for the trace")?;
        Ok(self.trace.insert(memory).address())
    }

    fn read_trace(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.wait()?;
        self.trace.as_ref().expect("allocated").read(offset, bytes);
        Ok(())
    }

    fn mailbox(&self) -> &Mailbox {
        self.mailbox.as_ref().expect("allocated")
    }

    fn launch(&mut self, launch: &Launch) -> Result<(), DeviceError> {
        if !self.has_kernel(&launch.kernel) {
            return Err(launch_error(launch, word(1)));
        }
        let job = Job {
            kernel: CString::new(launch.kernel.as_str()).expect("kernels' names have no zeros"),
            launch: launch.clone(),
        };
        let jobs = self.jobs.as_ref().expect("open until it is dropped");
        let sent = jobs.send(job);
        sent.map_err(|_| launch_error(launch, "the thread that runs kernels has ended"))?;
        self.launched += 1;
        Ok(())
    }

    fn record(&mut self, launches: &[Launch]) -> Result<Vec<Launch>, DeviceError> {
        Ok(launches.to_vec())
    }

    fn replay(&mut self, recorded: &Vec<Launch>) -> Result<(), DeviceError> {
        recorded.iter().try_for_each(|launch| self.launch(launch))
    }

    fn mark(&mut self) -> Result<Instant, DeviceError> {
        self.wait()?;
        Ok(Instant::now())
    }

    fn seconds_between(&mut self, earlier: &Instant, later: &Instant) -> Result<f64, DeviceError> {
        Ok(later.duration_since(*earlier).as_secs_f64())
    }

    fn is_idle(&mut self) -> Result<bool, DeviceError> {
        let has_ended = self.runner.as_ref().is_none_or(JoinHandle::is_finished);
        let is_idle = self.done.count.load(Ordering::Acquire) == self.launched;
        let failure = self
            .done
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match &*failure {
            Some(error) => Err(error.clone()),
            None if has_ended && !is_idle => Err(DeviceError::Call {
                call: "running a kernel",
                device: NAME.into(),
                word: "its thread has ended".into(),
            }),
            None => Ok(is_idle),
        }
    }

    fn wait(&mut self) -> Result<(), DeviceError> {
        while !self.is_idle()? {
            self.relax();
        }
        Ok(())
    }

    /// The processors belong to the kernel's threads.
    fn relax(&self) {
        std::thread::sleep(Duration::from_micros(50));
    }
}
