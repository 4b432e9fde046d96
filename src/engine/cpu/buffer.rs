//! Memory that all members of a team read and write, each its own part.

use std::marker::PhantomData;
use std::ops::Range;

use memmap2::MmapMut;

use crate::engine::EngineError;
use crate::model::storage::{Element, huge_pages};

/// A zeroed array whose parts are handed out to several threads at once.
///
/// Pages nobody touched take no memory.
pub struct SharedBuffer<T> {
    start: *mut T,
    len: usize,
    pages: MmapMut,
    element: PhantomData<T>,
}

// SAFETY: the memory is plain numbers; who touches which part when is the callers' promise in the
// unsafe functions below.
unsafe impl<T: Element> Sync for SharedBuffer<T> {}
// SAFETY: the pages belong to the buffer and move with it.
unsafe impl<T: Element> Send for SharedBuffer<T> {}

impl<T: Element> SharedBuffer<T> {
    /// `len` zeros.
    ///
    /// # Errors
    /// If the system has no memory of that size for `what`.
    pub fn new(len: usize, what: &'static str) -> Result<Self, EngineError> {
        let bytes = len.saturating_mul(size_of::<T>());
        let mut pages = huge_pages(bytes).map_err(|source| EngineError::OutOfMemory {
            what,
            bytes,
            source,
        })?;
        Ok(Self {
            start: pages.as_mut_ptr().cast(),
            len,
            pages,
            element: PhantomData,
        })
    }

    /// Takes the memory of `range` now rather than when it is first touched.
    pub fn populate(&self, range: Range<usize>) {
        let start = self.pointer(range.clone()).addr() - self.start.addr();
        let len = range.len() * size_of::<T>();
        #[cfg(target_os = "linux")]
        // Advice only (Linux 5.14): where it is refused the pages come one by one.
        let _ = self
            .pages
            .advise_range(memmap2::Advice::PopulateWrite, start, len);
        #[cfg(not(target_os = "linux"))]
        let _ = (start, len);
    }

    /// A pointer to `range`, checked to lie inside.
    ///
    /// # Panics
    /// If it doesn't.
    pub fn pointer(&self, range: Range<usize>) -> *mut T {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "{range:?} of {}",
            self.len
        );
        self.start.wrapping_add(range.start)
    }

    /// The numbers at `range`.
    ///
    /// # Safety
    /// No thread may write them while the slice lives.
    pub unsafe fn get(&self, range: Range<usize>) -> &[T] {
        let len = range.len();
        // SAFETY: inside the pages, and the caller keeps writers away.
        unsafe { std::slice::from_raw_parts(self.pointer(range), len) }
    }

    /// The numbers at `range`, to write.
    ///
    /// # Safety
    /// No other thread may touch them while the slice lives.
    #[allow(
        clippy::mut_from_ref,
        reason = "the caller promises that nobody else has it"
    )]
    pub unsafe fn get_mut(&self, range: Range<usize>) -> &mut [T] {
        let len = range.len();
        // SAFETY: inside the pages, and the caller keeps everyone else away.
        unsafe { std::slice::from_raw_parts_mut(self.pointer(range), len) }
    }

    /// All of it, to write: nobody else can have it.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: the exclusive borrow.
        unsafe { self.get_mut(0..self.len) }
    }
}
