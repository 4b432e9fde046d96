//! Loops that read a stretch of memory and add it up, by instruction set.

use std::fmt;

/// A way to read memory. The sum it returns is the same for all of them: that of the stretch's
/// 64-bit little-endian words, wrapping, the last one filled up with zeros.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    instructions: Instructions,
    streams: usize,
    prefetch: usize,
    sum: fn(&[[u8; BLOCK]]) -> u64,
}

/// The loads a kernel uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Instructions {
    /// What the compiler makes of plain Rust.
    Portable,
    /// 32 bytes a load.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// 64 bytes a load.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// Bytes that a kernel reads of a stream before it turns to the next one: eight loads of AVX-512.
pub(super) const BLOCK: usize = 512;

/// Bytes of a word of the sum.
const WORD: usize = size_of::<u64>();

/// Bytes of a cache line.
const LINE: usize = 64;

impl Kernel {
    /// Plain Rust, which every processor runs.
    pub const PORTABLE: Kernel = Kernel::new(Instructions::Portable, 1, 0, portable::<1>);

    /// `sum` reads `streams` parts of its range in turns and fetches `prefetch` bytes ahead.
    pub(super) const fn new(
        instructions: Instructions,
        streams: usize,
        prefetch: usize,
        sum: fn(&[[u8; BLOCK]]) -> u64,
    ) -> Self {
        Self {
            instructions,
            streams,
            prefetch,
            sum,
        }
    }

    /// The kernels that this processor runs.
    pub fn available() -> Vec<Kernel> {
        #[allow(unused_mut)]
        let mut kernels = vec![
            Kernel::PORTABLE,
            Kernel::new(Instructions::Portable, 4, 0, portable::<4>),
        ];
        #[cfg(target_arch = "x86_64")]
        kernels.extend(super::x86_64::available());
        kernels
    }

    /// Reads all of `bytes`.
    pub fn sum(&self, bytes: &[u8]) -> u64 {
        // Whole cache lines where that keeps the words in place.
        let unaligned = bytes.as_ptr().align_offset(LINE);
        let start = if unaligned.is_multiple_of(WORD) {
            unaligned.min(bytes.len() / WORD * WORD)
        } else {
            0
        };
        let (before, rest) = bytes.split_at(start);
        let (blocks, after) = rest.as_chunks();
        words(before)
            .wrapping_add((self.sum)(blocks))
            .wrapping_add(words(after))
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instructions = match self.instructions {
            Instructions::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => "avx512",
        };
        write!(f, "{instructions}, streams {}", self.streams)?;
        write!(f, ", prefetch {}", self.prefetch)
    }
}

/// The sum of a few bytes.
fn words(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks();
    let mut last = [0; WORD];
    last[..rest.len()].copy_from_slice(rest);
    words
        .iter()
        .chain([&last])
        .fold(0, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)))
}

/// Calls `read` with the blocks of `STREAMS` equal parts in turns, then with what is left.
#[inline(always)]
pub(super) fn for_each_block<const STREAMS: usize>(
    blocks: &[[u8; BLOCK]],
    mut read: impl FnMut(&[u8; BLOCK]),
) {
    let part = blocks.len() / STREAMS;
    for index in 0..part {
        for stream in 0..STREAMS {
            read(&blocks[stream * part + index]);
        }
    }
    blocks[STREAMS * part..].iter().for_each(read);
}

/// Sixteen sums side by side: the compiler makes vectors of them.
fn portable<const STREAMS: usize>(blocks: &[[u8; BLOCK]]) -> u64 {
    const SUMS: usize = 16;
    let mut sums = [0_u64; SUMS];
    for_each_block::<STREAMS>(blocks, |block| {
        let (words, _) = block.as_chunks::<WORD>();
        let (rows, _) = words.as_chunks::<SUMS>();
        for row in rows {
            for (sum, word) in sums.iter_mut().zip(row) {
                *sum = sum.wrapping_add(u64::from_le_bytes(*word));
            }
        }
    });
    sums.into_iter().fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::statistics::hash;

    #[test]
    fn every_kernel_reads_every_byte_once() {
        let bytes: Vec<u8> = (0..70_000).map(|i| hash(i) as u8).collect();
        let lengths = [
            0, 1, 7, 8, 63, 64, 511, 512, 513, 2048, 5000, 65_536, 69_000,
        ];
        for kernel in Kernel::available() {
            for length in lengths {
                for start in [0, 8, 13, 64, 100] {
                    let bytes = &bytes[start..start + length];
                    assert_eq!(
                        kernel.sum(bytes),
                        words(bytes),
                        "{kernel}: {length} at {start}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_sum_is_that_of_the_words() {
        let mut bytes = 3_u64.to_le_bytes().to_vec();
        bytes.extend(u64::MAX.to_le_bytes());
        bytes.extend([1, 1]);
        assert_eq!(words(&bytes), 3_u64.wrapping_add(u64::MAX) + 257);
    }
}
