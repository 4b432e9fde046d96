//! What the megakernel's host needs of a machine that runs kernels.

use bytemuck::bytes_of;

use super::abi::OgArguments;
use super::error::DeviceError;
use super::mailbox::Mailbox;

/// What a device is and holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Its name, for messages: `NVIDIA H200`.
    pub name: String,
    /// Multiprocessors; the default grid has a block on each.
    pub multiprocessors: u32,
    /// Threads of a block, unless asked otherwise.
    pub threads: u32,
    /// The most shared memory that a block may have, in bytes.
    pub shared_bytes: u32,
    /// Size of the second-level cache, in bytes.
    pub l2_bytes: u64,
}

/// Where the three pieces of memory are, as kernels see them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// The weights.
    pub weights: u64,
    /// The state.
    pub state: u64,
    /// The mailbox.
    pub mailbox: u64,
}

/// One launch of one kernel.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Its name.
    pub kernel: String,
    /// Blocks of the grid.
    pub blocks: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// Whether all blocks must be resident together, since they wait for each other.
    pub cooperative: bool,
    /// What the kernel is told.
    pub arguments: OgArguments,
}

impl PartialEq for Launch {
    fn eq(&self, other: &Self) -> bool {
        let grid = |launch: &Self| (launch.blocks, launch.threads, launch.shared_bytes);
        (&self.kernel, self.cooperative) == (&other.kernel, other.cooperative)
            && grid(self) == grid(other)
            && bytes_of(&self.arguments) == bytes_of(&other.arguments)
    }
}

/// Where weights are written to, piece by piece.
pub trait WeightSink {
    /// The most bytes of one [`write_weights`](Self::write_weights).
    fn piece_bytes(&self) -> usize;

    /// Has `fill` write `len` bytes that become those of the weights at `offset`. The slice holds
    /// anything before.
    ///
    /// # Errors
    /// If the copy fails.
    ///
    /// # Panics
    /// If they lie outside the weights, or are more than [`piece_bytes`](Self::piece_bytes).
    fn write_weights(
        &mut self,
        offset: u64,
        len: usize,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), DeviceError>;
}

/// A machine that runs kernels: one model's weights and state, and launches one after the other.
///
/// What is launched runs in order, and while the host goes on. The state may be read and written
/// only when nothing runs: every function that touches it waits first.
pub trait Device: WeightSink {
    /// Launches recorded for repetition.
    type Recorded;

    /// A moment among launches.
    type Event;

    /// The engine's name: `cuda` or `emulated`.
    const NAME: &'static str;

    /// What it is.
    fn limits(&self) -> &Limits;

    /// Whether there is a kernel called `name`.
    fn has_kernel(&mut self, name: &str) -> bool;

    /// Blocks of this size that can be resident together on the whole device.
    ///
    /// # Errors
    /// No such kernel; more threads or shared memory than a block may have.
    fn resident_blocks(
        &mut self,
        kernel: &str,
        threads: u32,
        shared_bytes: u32,
    ) -> Result<u32, DeviceError>;

    /// Takes memory, all of it zero: `weights` and `state` bytes, and a mailbox with a ring of
    /// `ring_capacity` tokens. Called once.
    ///
    /// # Errors
    /// If there is not enough.
    fn allocate(
        &mut self,
        weights: u64,
        state: u64,
        ring_capacity: usize,
    ) -> Result<Addresses, DeviceError>;

    /// Writes `bytes` at `offset` of the state.
    ///
    /// # Errors
    /// If the copy, or what ran before, fails.
    ///
    /// # Panics
    /// If they lie outside the state.
    fn write_state(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Reads `bytes` from `offset` of the state.
    ///
    /// # Errors
    /// If the copy, or what ran before, fails.
    ///
    /// # Panics
    /// If they lie outside the state.
    fn read_state(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), DeviceError>;

    /// Takes memory for a trace, all of it zero, in place of what was taken before. Returns its address
    /// as kernels see it.
    ///
    /// # Errors
    /// If there is not enough.
    fn allocate_trace(&mut self, bytes: u64) -> Result<u64, DeviceError>;

    /// Reads `bytes` from `offset` of the trace.
    ///
    /// # Errors
    /// If the copy, or what ran before, fails.
    ///
    /// # Panics
    /// If they lie outside the trace.
    fn read_trace(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), DeviceError>;

    /// The memory that host and kernels share.
    ///
    /// # Panics
    /// Before [`allocate`](Self::allocate).
    fn mailbox(&self) -> &Mailbox;

    /// Runs a kernel behind those launched before.
    ///
    /// # Errors
    /// If it can't be launched.
    fn launch(&mut self, launch: &Launch) -> Result<(), DeviceError>;

    /// Prepares `launches` to be launched together.
    ///
    /// # Errors
    /// If one can't be launched.
    fn record(&mut self, launches: &[Launch]) -> Result<Self::Recorded, DeviceError>;

    /// Launches what was recorded.
    ///
    /// # Errors
    /// If it can't be launched.
    fn replay(&mut self, recorded: &Self::Recorded) -> Result<(), DeviceError>;

    /// The moment when all that was launched before has ended.
    ///
    /// # Errors
    /// If the device fails.
    fn mark(&mut self) -> Result<Self::Event, DeviceError>;

    /// Seconds from one moment to a later one; waits until both have come.
    ///
    /// # Errors
    /// If what was launched between them fails.
    fn seconds_between(
        &mut self,
        earlier: &Self::Event,
        later: &Self::Event,
    ) -> Result<f64, DeviceError>;

    /// Whether all that was launched has ended.
    ///
    /// # Errors
    /// If something of it failed.
    fn is_idle(&mut self) -> Result<bool, DeviceError>;

    /// Waits until all that was launched has ended.
    ///
    /// # Errors
    /// If something of it failed.
    fn wait(&mut self) -> Result<(), DeviceError>;

    /// Called between two looks at the mailbox.
    fn relax(&self);
}
