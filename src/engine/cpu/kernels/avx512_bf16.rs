//! AVX-512 with BF16: as `avx512`, but products with many columns round their input to bf16 and
//! multiply pairs of bf16 numbers, summed in f32.
//!
//! Zen 4 and Zen 5 are documented to do that faster than f32 products (not measured here). Emerald
//! Rapids was slower at it by a factor of 1.7 (`cargo bench --bench matvec`, `panel_product`; measured when
//! this kernel's sums could end up in memory): Intel's processors take it only where it is asked for.
//!
//! What the rounding costs, as KL from f32 over that of transformers' own bf16 run, on the fixtures
//! of `tests/transformers.rs` (which prints it): 0.19 to 0.41, against 0.06 to 0.24 for `avx512`.

#![allow(
    clippy::needless_range_loop,
    reason = "a block is read by its rows and columns"
)]

use std::arch::x86_64::*;

use half::bf16;

use super::avx512::Avx512;
use super::panel::{PANEL_COLUMNS, Packing, PanelProduct, write};

/// A pair of neighbouring k of one column, in one word of the packed panel: `[k / 2, columns]`.
const PAIR: usize = 2;
const LANES: usize = 16;

/// Packs a part of a panel as pairs of bf16, in half the memory of one of f32.
///
/// # Safety
/// `p` must describe memory that is there.
pub unsafe fn pack(p: &Packing) {
    for pair in p.first / PAIR..p.end.div_ceil(PAIR) {
        for column in 0..PANEL_COLUMNS {
            let number = |k: usize| {
                if column < p.columns && k < p.end {
                    // SAFETY: k and the column are inside.
                    bf16::from_f32(unsafe { *p.x.add(column * p.x_stride + k) })
                } else {
                    bf16::ZERO
                }
            };
            let (low, high) = (number(pair * PAIR), number(pair * PAIR + 1));
            let word = u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16;
            // SAFETY: a panel has k * PANEL_COLUMNS words; this needs half of them.
            unsafe {
                p.panel
                    .add(pair * PANEL_COLUMNS + column)
                    .write(f32::from_bits(word));
            }
        }
    }
}

/// The product with one panel that [`pack`] made; without `PREFETCH` no row is fetched ahead.
///
/// # Safety
/// The processor must have AVX-512 with BF16, and `p` must describe memory that is there.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
pub unsafe fn product<const PREFETCH: bool>(p: &PanelProduct) {
    const ROWS: usize = 12;
    let mut done = 0;
    // SAFETY: rows are counted here.
    unsafe {
        while done + ROWS <= p.rows {
            rows::<PREFETCH, ROWS>(p, done);
            done += ROWS;
        }
        while done < p.rows {
            rows::<PREFETCH, 1>(p, done);
            done += 1;
        }
    }
}

/// # Safety
/// As [`product`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
unsafe fn rows<const PREFETCH: bool, const R: usize>(p: &PanelProduct, row: usize) {
    // SAFETY: passed on to the caller.
    unsafe {
        if p.columns > LANES {
            block::<PREFETCH, R, 2>(p, row);
        } else {
            block::<PREFETCH, R, 1>(p, row);
        }
    }
}

/// # Safety
/// As [`product`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
unsafe fn block<const PREFETCH: bool, const R: usize, const V: usize>(
    p: &PanelProduct,
    row: usize,
) {
    /// Pairs in a cache line of weights.
    const LINE_PAIRS: usize = 16;
    // SAFETY: pairs stay inside the rows, registers inside the panel; a last weight without a
    // partner is read alone.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); V]; R];
        let rows = p.matrix.add(row * p.k);
        // No closure: what one captures may stay in memory, and the sums did. (A prompt of 32 tokens, in
        // Qwen3-0.6B's shape on two cores of a Zen 5: 220 ms, and 75 with the sums in registers.)
        macro_rules! add_pair {
            ($pair:expr, $read:expr) => {
                let from = p.x.add($pair * PANEL_COLUMNS);
                let mut x = [_mm512_setzero_ps(); V];
                for v in 0..V {
                    x[v] = _mm512_loadu_ps(from.add(v * LANES));
                }
                for r in 0..R {
                    let weights = $read(rows.add(r * p.k + $pair * PAIR));
                    let weights: __m512bh = std::mem::transmute(_mm512_set1_epi32(weights));
                    for v in 0..V {
                        let x: __m512bh = std::mem::transmute(x[v]);
                        sums[r][v] = _mm512_dpbf16_ps(sums[r][v], weights, x);
                    }
                }
            };
        }
        for pair in 0..p.k / PAIR {
            if PREFETCH && pair % LINE_PAIRS == 0 {
                for r in 0..R {
                    let next = rows.wrapping_add((r + R) * p.k + pair * PAIR);
                    _mm_prefetch(next.cast(), _MM_HINT_T1);
                }
            }
            add_pair!(pair, two_weights);
        }
        if p.k % PAIR == 1 {
            add_pair!(p.k / PAIR, one_weight);
        }
        write::<Avx512<PREFETCH>, R, V>(p, row, 0, &sums);
    }
}

/// Two neighbours in one word.
///
/// # Safety
/// Both must be there.
#[inline(always)]
unsafe fn two_weights(at: *const bf16) -> i32 {
    // SAFETY: passed on to the caller.
    unsafe { at.cast::<i32>().read_unaligned() }
}

/// One weight, beside a zero.
///
/// # Safety
/// It must be there.
#[inline(always)]
unsafe fn one_weight(at: *const bf16) -> i32 {
    // SAFETY: passed on to the caller.
    i32::from(unsafe { *at }.to_bits())
}
