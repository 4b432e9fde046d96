//! Memory of the card, and memory of the host that the card reads and writes. Each owns what it
//! took, and frees it when dropped; each keeps the context alive.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::rc::Rc;

use cudarc::driver::{result, sys};

use super::driver::Context;
use crate::engine::megakernel::DeviceError;

/// Memory of the card.
#[derive(Debug)]
pub(super) struct DeviceMemory {
    context: Rc<Context>,
    address: sys::CUdeviceptr,
    bytes: u64,
}

impl DeviceMemory {
    /// `bytes` zeros.
    pub(super) fn new(
        context: &Rc<Context>,
        bytes: u64,
        what: &'static str,
    ) -> Result<Self, DeviceError> {
        // SAFETY: the context is current; the memory is zeroed below.
        let address = unsafe { result::malloc_sync(bytes as usize) };
        let address = address.map_err(|error| context.memory_error(what, bytes, error))?;
        let memory = Self {
            context: Rc::clone(context),
            address,
            bytes,
        };
        // SAFETY: just taken, and as long as that.
        let result = unsafe { result::memset_d8_sync(address, 0, bytes as usize) };
        result.map_err(|error| context.error("cuMemsetD8", error))?;
        Ok(memory)
    }

    pub(super) fn address(&self) -> u64 {
        self.address
    }

    /// The address of `len` bytes at `offset`, checked to lie inside.
    pub(super) fn range(&self, offset: u64, len: usize) -> sys::CUdeviceptr {
        let end = offset.checked_add(len as u64);
        let inside = end.is_some_and(|end| end <= self.bytes);
        assert!(inside, "{len} bytes at {offset} of {}", self.bytes);
        self.address + offset
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        // SAFETY: taken in `new` and freed nowhere else; the call waits for kernels that use it.
        // A failure has nowhere to go.
        let _ = self
            .context
            .make_current()
            .map(|()| unsafe { result::free_sync(self.address) });
    }
}

/// Memory of the host that never moves and that the card reaches.
#[derive(Debug)]
pub(super) struct PinnedMemory {
    context: Rc<Context>,
    start: NonNull<u8>,
    bytes: usize,
}

impl PinnedMemory {
    /// `bytes` zeros, mapped into the card's addresses where `mapped`.
    pub(super) fn new(
        context: &Rc<Context>,
        bytes: usize,
        mapped: bool,
    ) -> Result<Self, DeviceError> {
        let flags = if mapped {
            sys::CU_MEMHOSTALLOC_DEVICEMAP
        } else {
            0
        };
        // SAFETY: the context is current; the memory is zeroed below.
        let start = unsafe { result::malloc_host(bytes, flags) };
        let start = start.map_err(|error| context.error("cuMemHostAlloc", error))?;
        let start = NonNull::new(start.cast::<u8>()).expect("memory has an address");
        // SAFETY: just taken, and as long as that.
        unsafe { start.write_bytes(0, bytes) };
        Ok(Self {
            context: Rc::clone(context),
            start,
            bytes,
        })
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Its address as kernels see it.
    pub(super) fn device_address(&self) -> Result<u64, DeviceError> {
        let mut address = 0;
        let start = self.start.as_ptr().cast::<c_void>();
        // SAFETY: the memory was taken by `new`, and the result goes to a number.
        let result = unsafe { sys::cuMemHostGetDevicePointer_v2(&raw mut address, start, 0) };
        let result = result.result();
        result.map_err(|error| self.context.error("cuMemHostGetDevicePointer", error))?;
        Ok(address)
    }

    /// Its bytes, to write.
    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as long as that, initialised in `new`; who copies from it on the card's side
        // waits before the next borrow.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

impl Drop for PinnedMemory {
    fn drop(&mut self) {
        let start = self.start.as_ptr().cast();
        // SAFETY: taken in `new` and freed nowhere else. A failure has nowhere to go.
        let _ = self
            .context
            .make_current()
            .map(|()| unsafe { result::free_host(start) });
    }
}
