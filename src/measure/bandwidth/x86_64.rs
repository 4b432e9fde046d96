//! The widest loads of x86-64, with and without prefetches and several streams.
//!
//! Which of them reads fastest differs by machine and by page size, so all are tried. Measured by
//! `examples/read_bandwidth.rs` on two cores of an Emerald Rapids server (1.2 GB, median of nine,
//! GB/s):
//!
//! | AVX-512: streams, prefetch | huge pages | small pages |
//! |---|---|---|
//! | 1, none | 34.0 | 30.0 |
//! | 1, 2048 | 34.3 | 30.4 |
//! | 1, 4096 | 35.4 | 32.1 |
//! | 1, 8192 | 34.9 | 32.1 |
//! | 2, none | 35.1 | 33.6 |
//! | 2, 4096 | 35.4 | 33.9 |
//! | 4, none | 34.6 | 34.1 |
//! | 4, 1024 | 35.2 | 35.0 |
//! | 4, 2048 | 35.5 | 34.9 |
//! | 8, 1024 | 35.2 | 34.5 |
//!
//! AVX2 came to 34.6 and 33.6 at best, plain Rust (SSE2) to 26.4 and 23.6, and non-temporal
//! prefetches to half of the others. In small pages one stream loses a tenth, because the hardware
//! prefetchers stop at a page's end; in huge pages all of the better ones meet at one ceiling,
//! which is memory's.

use std::arch::x86_64::*;

use super::kernel::{BLOCK, Instructions, Kernel, for_each_block};

/// The kernels that this processor runs.
pub(super) fn available() -> Vec<Kernel> {
    let mut kernels = Vec::new();
    macro_rules! offer {
        ($instructions:ident, $function:ident: $(($streams:literal, $prefetch:literal)),*) => {
            $(kernels.push(Kernel::new(
                Instructions::$instructions,
                $streams,
                $prefetch,
                // SAFETY: offered only where the processor has the instructions.
                |blocks| unsafe { $function::<$streams, $prefetch>(blocks) },
            ));)*
        };
    }
    if is_x86_feature_detected!("avx512f") {
        offer!(Avx512, sum_avx512: (1, 0), (1, 4096), (2, 4096), (4, 0), (4, 1024), (4, 2048));
    }
    if is_x86_feature_detected!("avx2") {
        offer!(Avx2, sum_avx2: (1, 4096), (4, 0), (4, 1024));
    }
    kernels
}

/// `PREFETCH` is a distance in bytes, 0 for none.
#[target_feature(enable = "avx512f")]
fn sum_avx512<const STREAMS: usize, const PREFETCH: usize>(blocks: &[[u8; BLOCK]]) -> u64 {
    const LOADS: usize = BLOCK / 64;
    let mut sums = [_mm512_setzero_si512(); LOADS];
    for_each_block::<STREAMS>(
        blocks,
        #[inline(always)]
        |block| {
            prefetch::<PREFETCH>(block);
            for (load, sum) in sums.iter_mut().enumerate() {
                // SAFETY: the eight loads of 64 bytes are the block; no alignment is asked for.
                let words = unsafe { _mm512_loadu_si512(block.as_ptr().add(64 * load).cast()) };
                *sum = _mm512_add_epi64(*sum, words);
            }
        },
    );
    let sum = sums.into_iter().reduce(|a, b| _mm512_add_epi64(a, b));
    _mm512_reduce_add_epi64(sum.expect("there are eight")) as u64
}

/// `PREFETCH` is a distance in bytes, 0 for none.
#[target_feature(enable = "avx2")]
fn sum_avx2<const STREAMS: usize, const PREFETCH: usize>(blocks: &[[u8; BLOCK]]) -> u64 {
    /// Half of the sixteen registers.
    const SUMS: usize = 8;
    let mut sums = [_mm256_setzero_si256(); SUMS];
    for_each_block::<STREAMS>(
        blocks,
        #[inline(always)]
        |block| {
            prefetch::<PREFETCH>(block);
            for load in 0..BLOCK / 32 {
                // SAFETY: the sixteen loads of 32 bytes are the block; no alignment is asked for.
                let words = unsafe { _mm256_loadu_si256(block.as_ptr().add(32 * load).cast()) };
                sums[load % SUMS] = _mm256_add_epi64(sums[load % SUMS], words);
            }
        },
    );
    let sum = sums.into_iter().reduce(|a, b| _mm256_add_epi64(a, b));
    let mut words = [0_u64; 4];
    // SAFETY: `words` is 32 bytes.
    unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), sum.expect("there are eight")) };
    words.into_iter().fold(0, u64::wrapping_add)
}

/// Asks for the cache lines of the block that lies `DISTANCE` bytes ahead.
#[inline(always)]
fn prefetch<const DISTANCE: usize>(block: &[u8; BLOCK]) {
    if DISTANCE > 0 {
        for line in (0..BLOCK).step_by(64) {
            let ahead = block.as_ptr().wrapping_add(DISTANCE + line);
            // SAFETY: a prefetch is a hint, and never faults, wherever it points.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(ahead.cast()) };
        }
    }
}
