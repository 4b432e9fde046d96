//! Where the numbers of a tensor lie: in a mapped file, or in anonymous huge pages.
//!
//! This is the one place that turns bytes into numbers.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use half::{bf16, f16};
use memmap2::{Mmap, MmapMut, MmapOptions};

use super::promotion::Promotion;

// A checkpoint's numbers are little-endian and are used as they lie in the file.
const _: () = assert!(cfg!(target_endian = "little"));

/// The type of a tensor's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ElementType {
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
    /// IEEE single precision.
    F32,
}

impl ElementType {
    /// The type of a safetensors tensor, if it is one that is read here.
    pub fn of(dtype: safetensors::Dtype) -> Option<Self> {
        match dtype {
            safetensors::Dtype::BF16 => Some(ElementType::Bf16),
            safetensors::Dtype::F16 => Some(ElementType::F16),
            safetensors::Dtype::F32 => Some(ElementType::F32),
            _ => None,
        }
    }

    /// Bytes of one number.
    pub fn size(self) -> usize {
        match self {
            ElementType::Bf16 | ElementType::F16 => 2,
            ElementType::F32 => 4,
        }
    }

    /// The name in `config.json`: `bfloat16`, `float16`, `float32`.
    pub fn as_str(self) -> &'static str {
        match self {
            ElementType::Bf16 => "bfloat16",
            ElementType::F16 => "float16",
            ElementType::F32 => "float32",
        }
    }
}

/// A number type of a checkpoint: any bit pattern is valid, and it widens to f32 exactly.
///
/// # Safety
/// The type must have no padding and no invalid bit pattern.
pub unsafe trait Element: Copy + Send + Sync + 'static {
    /// The same number in f32.
    fn widen(self) -> f32;
}

// SAFETY: two bytes, every pattern a number.
unsafe impl Element for bf16 {
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

// SAFETY: two bytes, every pattern a number.
unsafe impl Element for f16 {
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

// SAFETY: four bytes, every pattern a number.
unsafe impl Element for f32 {
    fn widen(self) -> f32 {
        self
    }
}

/// Memory that holds tensors and is never written once it is shared.
#[derive(Debug)]
pub enum Storage {
    /// A file, mapped read-only.
    File {
        /// The whole file.
        map: Mmap,
        /// Its move into huge pages, which changes neither bytes nor addresses; none if it stays.
        promotion: OnceLock<Promotion>,
    },
    /// Anonymous memory.
    Anonymous(MmapMut),
}

impl Storage {
    /// A mapped file.
    pub fn mapped(map: Mmap) -> Self {
        Storage::File {
            map,
            promotion: OnceLock::new(),
        }
    }

    /// Marks the bytes at `used` of a mapped file to be moved into huge pages by whoever finds the
    /// time ([`Promoter`](super::promotion::Promoter)).
    pub fn promote_later(&self, used: impl IntoIterator<Item = Range<usize>>) {
        if let Storage::File { map, promotion } = self {
            promotion.get_or_init(|| Promotion::new(map, used));
        }
    }

    /// Reads `range` of a mapped file in now, so that nobody waits for it later.
    pub fn populate(&self, range: Range<usize>) {
        #[cfg(target_os = "linux")]
        if let Storage::File { map, .. } = self {
            // Advice only: where it is refused the pages come when they are used.
            let _ = map.advise_range(memmap2::Advice::PopulateRead, range.start, range.len());
        }
        #[cfg(not(target_os = "linux"))]
        let _ = range;
    }

    /// All its bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Storage::File { map, .. } => map,
            Storage::Anonymous(map) => map,
        }
    }
}

/// Zeroed anonymous memory of `len` bytes, in huge pages where the system grants them.
///
/// A page table of 4 KB pages costs a long sequential read several per cent: the processor's
/// prefetchers stop at page ends.
///
/// # Errors
/// If the system has no memory of that size.
pub fn huge_pages(len: usize) -> std::io::Result<MmapMut> {
    let map = MmapOptions::new().len(len.max(1)).map_anon()?;
    #[cfg(target_os = "linux")]
    // Advice only: where it is refused the memory works all the same.
    let _ = map.advise(memmap2::Advice::HugePage);
    Ok(map)
}

/// A run of numbers inside a shared [`Storage`].
pub struct Slice<T> {
    storage: Arc<Storage>,
    bytes: Range<usize>,
    element: PhantomData<T>,
}

impl<T> Clone for Slice<T> {
    fn clone(&self) -> Self {
        Self {
            storage: Arc::clone(&self.storage),
            bytes: self.bytes.clone(),
            element: PhantomData,
        }
    }
}

impl<T> std::fmt::Debug for Slice<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slice({:?})", self.bytes)
    }
}

impl<T: Element> Slice<T> {
    /// The numbers at `bytes` of `storage`; `None` if the range lies outside, is no whole number
    /// of elements, or is not aligned for `T`.
    pub fn new(storage: Arc<Storage>, bytes: Range<usize>) -> Option<Self> {
        let range = storage.bytes().get(bytes.clone())?;
        let aligned = range.as_ptr().cast::<T>().is_aligned();
        (aligned && range.len().is_multiple_of(size_of::<T>())).then_some(Self {
            storage,
            bytes,
            element: PhantomData,
        })
    }

    /// Where they lie.
    pub fn storage(&self) -> &Arc<Storage> {
        &self.storage
    }

    /// The numbers as the bytes they are.
    pub fn as_bytes(&self) -> &[u8] {
        &self.storage.bytes()[self.bytes.clone()]
    }

    /// The numbers.
    pub fn as_slice(&self) -> &[T] {
        let bytes = self.as_bytes();
        // SAFETY: `new` checked alignment and length; `Element` promises that every bit pattern is
        // valid; the storage outlives the borrow and is not written while shared.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<T>()) }
    }
}

impl Slice<bf16> {
    /// `values` rounded to bf16, in memory of their own.
    ///
    /// # Panics
    /// If there is no memory for them.
    pub fn converted<T: Element>(values: &[T]) -> Self {
        let len = values.len() * size_of::<bf16>();
        let mut map = huge_pages(len).expect("memory for converted weights");
        for (to, from) in elements_mut::<bf16>(&mut map[..len]).iter_mut().zip(values) {
            *to = bf16::from_f32(from.widen());
        }
        Slice::new(Arc::new(Storage::Anonymous(map)), 0..len).expect("maps are aligned to pages")
    }
}

/// `bytes` as numbers to write.
///
/// # Panics
/// If `bytes` is not aligned for `T` or no whole number of elements.
pub fn elements_mut<T: Element>(bytes: &mut [u8]) -> &mut [T] {
    assert!(bytes.as_ptr().cast::<T>().is_aligned() && bytes.len().is_multiple_of(size_of::<T>()));
    // SAFETY: checked above; `Element` promises that every bit pattern is valid.
    unsafe {
        std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len() / size_of::<T>())
    }
}

/// The numbers that `bytes` hold, wherever they lie in memory; a rest that is no whole number is
/// left out.
pub fn elements<T: Element>(bytes: &[u8]) -> impl Iterator<Item = T> {
    // SAFETY: the chunk is as long as the type, and `Element` promises that every bit pattern is
    // valid; alignment is not needed for an unaligned read.
    let read = |chunk: &[u8]| unsafe { chunk.as_ptr().cast::<T>().read_unaligned() };
    bytes.chunks_exact(size_of::<T>()).map(read)
}
