//! Products with one or a few columns: the weights are read once, as they come from memory.

#![allow(
    clippy::needless_range_loop,
    reason = "a tile is read by its rows and columns"
)]

use std::ops::Range;

use half::bf16;

use super::simd::{LINE, Simd, widen};

/// A product to compute: `out[c][r] = sum over k of matrix[r][k] * x[c][k]`, or added to what
/// `out` holds.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// `[rows, k]`, row-major without gaps.
    pub matrix: *const bf16,
    /// Rows of the matrix.
    pub rows: usize,
    /// Columns of the matrix.
    pub k: usize,
    /// `[columns, k]`, a column every `x_stride` numbers; for a product that streams its matrix in
    /// the order that [`pair`] makes.
    pub x: *const f32,
    /// Numbers from one column of `x` to the next.
    pub x_stride: usize,
    /// Columns of `x` and of `out`.
    pub columns: usize,
    /// `[columns, rows]`, a column every `out_stride` numbers.
    pub out: *mut f32,
    /// Numbers from one column of `out` to the next.
    pub out_stride: usize,
    /// Whether `out` is added to rather than set.
    pub accumulate: bool,
    /// What will be streamed after this matrix, or where it ends if nothing is: fetches that would
    /// run past its end go there.
    pub next: *const bf16,
}

/// How far ahead of the loads a stream of weights is fetched into the second-level cache, and how
/// far into the first, in bytes. A fetch into the first level holds one of its few fill buffers
/// until memory answers; those into the second level don't, so they may run far ahead. See
/// `benches/matvec.rs`.
const FAR_BYTES: usize = 16 << 10;
const NEAR_BYTES: usize = 4 << 10;

/// Where a stream of weights that is now at `at` will be in [`FAR_BYTES`]: past `end` it goes on
/// at `next`.
#[inline(always)]
fn far_ahead(at: *const bf16, end: *const bf16, next: *const bf16) -> *const u8 {
    let far = at.cast::<u8>().wrapping_add(FAR_BYTES);
    if far < end.cast() {
        far
    } else {
        next.cast::<u8>().wrapping_add(far.addr() - end.addr())
    }
}

/// Puts `x` in the order in which a streamed product reads it: of every `2 * LANES` numbers first
/// the even ones, then the odd ones; what is left over stays as it is. Weights are then split into
/// even and odd ones with one operation each, where widening them in order takes two.
///
/// # Safety
/// Both pointers must be valid for `len` numbers.
#[inline(always)]
pub unsafe fn pair<S: Simd>(x: *const f32, out: *mut f32, len: usize) {
    let mut i = 0;
    // SAFETY: i + 2 * LANES <= len, then i < len.
    unsafe {
        while i + 2 * S::LANES <= len {
            let (even, odd) = S::split(S::load(x.add(i)), S::load(x.add(i + S::LANES)));
            S::store(out.add(i), even);
            S::store(out.add(i + S::LANES), odd);
            i += 2 * S::LANES;
        }
        std::ptr::copy_nonoverlapping(x.add(i), out.add(i), len - i);
    }
}

/// The product for one column: a row at a time, so that a thread reads one sequential stream.
///
/// # Safety
/// The processor must have the instruction set, `p` must describe memory that is there, and its
/// `x` must have gone through [`pair`].
#[inline(always)]
unsafe fn matvec<S: Simd>(p: &Product) {
    /// Registers of pairs a turn, with two accumulators each.
    const PAIRS: usize = 4;
    let step = 2 * PAIRS * S::LANES;
    let end = p.matrix.wrapping_add(p.rows * p.k);
    for row in 0..p.rows {
        // SAFETY: row < rows; the bounds on k are below.
        unsafe {
            let weights = p.matrix.add(row * p.k);
            let mut sums = [S::splat(0.0); 2 * PAIRS];
            let mut k = 0;
            while k + step <= p.k {
                let far = far_ahead(weights.add(k), end, p.next);
                for pair in 0..PAIRS {
                    let at = k + pair * 2 * S::LANES;
                    let bytes = pair * 2 * S::LANES * size_of::<bf16>();
                    if bytes.is_multiple_of(LINE) {
                        S::prefetch_far(far.wrapping_add(bytes));
                        S::prefetch(weights.add(at).cast::<u8>().wrapping_add(NEAR_BYTES));
                    }
                    let pairs = S::load_pairs(weights.add(at));
                    let (even, odd) = (S::load(p.x.add(at)), S::load(p.x.add(at + S::LANES)));
                    sums[2 * pair] = S::mul_add(S::even(pairs), even, sums[2 * pair]);
                    sums[2 * pair + 1] = S::mul_add(S::odd(pairs), odd, sums[2 * pair + 1]);
                }
                k += step;
            }
            while k + 2 * S::LANES <= p.k {
                let pairs = S::load_pairs(weights.add(k));
                sums[0] = S::mul_add(S::even(pairs), S::load(p.x.add(k)), sums[0]);
                sums[1] = S::mul_add(S::odd(pairs), S::load(p.x.add(k + S::LANES)), sums[1]);
                k += 2 * S::LANES;
            }
            for width in [4, 2, 1] {
                for index in 0..width {
                    sums[index] = S::add(sums[index], sums[index + width]);
                }
            }
            let mut sum = S::reduce_add(sums[0]);
            while k < p.k {
                sum += widen(*weights.add(k)) * *p.x.add(k);
                k += 1;
            }
            put(p, row, 0, sum);
        }
    }
}

/// A product whose matrix comes from memory, for up to `TILE_COLUMNS` columns at a time: each
/// row is read from memory once for all of them.
///
/// # Safety
/// As `matvec`.
#[inline(always)]
pub unsafe fn stream<S: Simd>(p: &Product) {
    // SAFETY: passed on to the caller.
    unsafe {
        if p.columns == 1 {
            matvec::<S>(p);
        } else {
            matmul::<S, true>(p);
        }
    }
}

/// # Safety
/// `row` and `column` must be inside `p`.
#[inline(always)]
unsafe fn put(p: &Product, row: usize, column: usize, value: f32) {
    // SAFETY: passed on to the caller.
    unsafe {
        let out = p.out.add(column * p.out_stride + row);
        *out = if p.accumulate { *out + value } else { value };
    }
}

/// `R` rows times `C` columns from `row` and `column` on.
///
/// # Safety
/// As [`matvec`] if `PAIRED`, else `x` must be in order; and the tile must lie inside `p`.
#[inline(always)]
unsafe fn tile<S: Simd, const PAIRED: bool, const R: usize, const C: usize>(
    p: &Product,
    row: usize,
    column: usize,
) {
    // SAFETY: the caller keeps the tile inside the product; the bounds on k are below.
    unsafe {
        let mut rows = [p.matrix; R];
        for r in 0..R {
            rows[r] = p.matrix.add((row + r) * p.k);
        }
        let mut x = [p.x; C];
        for c in 0..C {
            x[c] = p.x.add((column + c) * p.x_stride);
        }
        let mut sums = [[S::splat(0.0); C]; R];
        let mut k = 0;
        let end = p.matrix.wrapping_add(p.rows * p.k);
        if PAIRED {
            while k + 2 * S::LANES <= p.k {
                let mut even = [S::splat(0.0); R];
                let mut odd = [S::splat(0.0); R];
                for r in 0..R {
                    let at = rows[r].add(k);
                    S::prefetch_far(far_ahead(at, end, p.next));
                    S::prefetch(at.cast::<u8>().wrapping_add(NEAR_BYTES));
                    let pairs = S::load_pairs(at);
                    even[r] = S::even(pairs);
                    odd[r] = S::odd(pairs);
                }
                multiply_tile::<S, R, C>(even, x, k, &mut sums);
                multiply_tile::<S, R, C>(odd, x, k + S::LANES, &mut sums);
                k += 2 * S::LANES;
            }
        } else {
            while k + S::LANES <= p.k {
                let mut weights = [S::splat(0.0); R];
                for r in 0..R {
                    weights[r] = S::load_bf16(rows[r].add(k));
                }
                multiply_tile::<S, R, C>(weights, x, k, &mut sums);
                k += S::LANES;
            }
        }
        for r in 0..R {
            for c in 0..C {
                let mut sum = S::reduce_add(sums[r][c]);
                for k in k..p.k {
                    sum += widen(*rows[r].add(k)) * *x[c].add(k);
                }
                put(p, row + r, column + c, sum);
            }
        }
    }
}

/// Adds the products of `R` registers of weights and those at `k` of `C` columns.
///
/// # Safety
/// As [`Simd::load`].
#[inline(always)]
unsafe fn multiply_tile<S: Simd, const R: usize, const C: usize>(
    weights: [S::F32; R],
    x: [*const f32; C],
    k: usize,
    sums: &mut [[S::F32; C]; R],
) {
    for c in 0..C {
        // SAFETY: passed on to the caller.
        let x = unsafe { S::load(x[c].add(k)) };
        for r in 0..R {
            // SAFETY: arithmetic.
            sums[r][c] = unsafe { S::mul_add(weights[r], x, sums[r][c]) };
        }
    }
}

/// Tiles of more columns than this take one row: two spill their sums (45% of a plain read instead
/// of 67% with eight columns of 1,024 on AVX-512).
const WIDE_TILE: usize = 4;

/// Rows of a tile.
const TILE_ROWS: usize = 2;

/// `rows` times `C` columns from `column` on.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn strip<S: Simd, const PAIRED: bool, const C: usize>(
    p: &Product,
    rows: Range<usize>,
    column: usize,
) {
    let mut row = rows.start;
    // SAFETY: rows are counted here; the caller keeps the columns inside.
    unsafe {
        while C <= WIDE_TILE && row + TILE_ROWS <= rows.end {
            tile::<S, PAIRED, TILE_ROWS, C>(p, row, column);
            row += TILE_ROWS;
        }
        while row < rows.end {
            tile::<S, PAIRED, 1, C>(p, row, column);
            row += 1;
        }
    }
}

/// The product for any number of columns, `TILE_COLUMNS` at a time; `PAIRED` where `x` went
/// through [`pair`] and the matrix comes from memory.
///
/// # Safety
/// As `tile`.
#[inline(always)]
pub unsafe fn matmul<S: Simd, const PAIRED: bool>(p: &Product) {
    /// Rows that stay in the second-level cache while the columns pass over them.
    const BLOCK_ROWS: usize = 16 * TILE_ROWS;
    let mut row = 0;
    while row < p.rows {
        let rows = row..(row + BLOCK_ROWS).min(p.rows);
        row = rows.end;
        let mut column = 0;
        while column < p.columns {
            let columns = (p.columns - column).min(S::TILE_COLUMNS);
            let rows = rows.clone();
            // SAFETY: column + columns <= p.columns.
            unsafe {
                match columns {
                    1 => strip::<S, PAIRED, 1>(p, rows, column),
                    2 => strip::<S, PAIRED, 2>(p, rows, column),
                    3 => strip::<S, PAIRED, 3>(p, rows, column),
                    4 => strip::<S, PAIRED, 4>(p, rows, column),
                    5 => strip::<S, PAIRED, 5>(p, rows, column),
                    6 => strip::<S, PAIRED, 6>(p, rows, column),
                    7 => strip::<S, PAIRED, 7>(p, rows, column),
                    _ => strip::<S, PAIRED, 8>(p, rows, column),
                }
            }
            column += columns;
        }
    }
}
