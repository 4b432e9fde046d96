//! Products with many columns, where arithmetic is the bound rather than memory.
//!
//! Lanes hold columns: a register of the packed input times one broadcast weight, for a dozen rows
//! at once, so that nothing is summed across lanes. (The scheme of every BLAS since Goto and van de
//! Geijn, "Anatomy of high-performance matrix multiplication", 2008.)

#![allow(
    clippy::needless_range_loop,
    reason = "a block is read by its rows and columns"
)]

use half::bf16;

use super::simd::{Simd, widen};

/// Columns of a panel, at most: two registers of the widest path. Packed inputs are laid out for
/// this many on every path.
pub const PANEL_COLUMNS: usize = 32;

/// A product to compute: `out[c][r] = sum over k of matrix[r][k] * x[c][k]`, or added to what
/// `out` holds.
#[derive(Clone, Copy, Debug)]
pub struct PanelProduct {
    /// `[rows, k]`, row-major without gaps.
    pub matrix: *const bf16,
    /// Rows of the matrix.
    pub rows: usize,
    /// Columns of the matrix.
    pub k: usize,
    /// One packed panel: `[k, PANEL_COLUMNS]`, or what the path's own packing makes of it.
    pub x: *const f32,
    /// Columns of the panel that count, from 1 to [`PANEL_COLUMNS`].
    pub columns: usize,
    /// `[columns, rows]`, a column every `out_stride` numbers.
    pub out: *mut f32,
    /// Numbers from one column of `out` to the next.
    pub out_stride: usize,
    /// Whether `out` is added to rather than set.
    pub accumulate: bool,
}

/// A part of a panel to pack: `panel[k][c] = x[c][k]` for k in `first..end`, zero for columns that
/// are not there.
#[derive(Clone, Copy, Debug)]
pub struct Packing {
    /// `[columns, k]`, a column every `x_stride` numbers.
    pub x: *const f32,
    /// Numbers from one column of `x` to the next.
    pub x_stride: usize,
    /// Columns there are, at most [`PANEL_COLUMNS`].
    pub columns: usize,
    /// The first k, a multiple of two.
    pub first: usize,
    /// Behind the last k.
    pub end: usize,
    /// `[k, PANEL_COLUMNS]`.
    pub panel: *mut f32,
}

/// Packs a part of a panel.
///
/// # Safety
/// `p` must describe memory that is there.
#[inline(always)]
pub unsafe fn pack(p: &Packing) {
    for k in p.first..p.end {
        // SAFETY: k and the column are inside.
        unsafe {
            let row = p.panel.add(k * PANEL_COLUMNS);
            for column in 0..p.columns {
                *row.add(column) = *p.x.add(column * p.x_stride + k);
            }
            for column in p.columns..PANEL_COLUMNS {
                *row.add(column) = 0.0;
            }
        }
    }
}

/// Weights of a row that are widened at once: with a dozen rows and the panel's part for them
/// 45 KB, a first-level cache.
const DEPTH: usize = 256;
/// From one widened row to the next: not a multiple of 4 KB, which would put all rows on the same
/// lines of the cache.
const WIDENED_STRIDE: usize = DEPTH + 16;
/// The most rows any path takes at once.
const MAX_ROWS: usize = 12;

/// The product with one panel.
///
/// # Safety
/// The processor must have the instruction set, and `p` must describe memory that is there.
#[inline(always)]
pub unsafe fn product<S: Simd, const ROWS: usize>(p: &PanelProduct) {
    const { assert!(ROWS <= MAX_ROWS) };
    let mut done = 0;
    // SAFETY: rows are counted here.
    unsafe {
        while done + ROWS <= p.rows {
            rows::<S, ROWS>(p, done);
            done += ROWS;
        }
        while done < p.rows {
            rows::<S, 1>(p, done);
            done += 1;
        }
    }
}

/// `R` rows from `row` on, times every column of the panel.
///
/// # Safety
/// As [`product`].
#[inline(always)]
unsafe fn rows<S: Simd, const R: usize>(p: &PanelProduct, row: usize) {
    let mut column = 0;
    while column < p.columns {
        // SAFETY: column < columns, and the panel has PANEL_COLUMNS.
        unsafe {
            if p.columns - column > S::LANES {
                block::<S, R, 2>(p, row, column);
                column += 2 * S::LANES;
            } else {
                block::<S, R, 1>(p, row, column);
                column += S::LANES;
            }
        }
    }
}

/// `R` rows from `row` on, times `V` registers of columns from `column` on.
///
/// # Safety
/// As [`product`].
#[inline(always)]
unsafe fn block<S: Simd, const R: usize, const V: usize>(
    p: &PanelProduct,
    row: usize,
    column: usize,
) {
    let mut widened = [0.0_f32; WIDENED_STRIDE * MAX_ROWS];
    let widened = widened.as_mut_ptr();
    // SAFETY: the bounds on k and the registers of the panel are kept below.
    unsafe {
        let mut sums = [[S::splat(0.0); V]; R];
        let mut first = 0;
        while first < p.k {
            let depth = (p.k - first).min(DEPTH);
            for r in 0..R {
                let from = p.matrix.add((row + r) * p.k + first);
                widen_all::<S>(from, R * p.k, widened.add(r * WIDENED_STRIDE), depth);
            }
            let x = p.x.add(first * PANEL_COLUMNS + column);
            accumulate::<S, R, V>(widened, x, depth, &mut sums);
            first += depth;
        }
        write::<S, R, V>(p, row, column, &sums);
    }
}

/// Adds the products of `depth` widened weights of `R` rows with `V` registers of the panel at `x`.
///
/// The sums are copied, so that they stay in registers here and nowhere else.
///
/// # Safety
/// As [`product`].
#[inline(always)]
unsafe fn accumulate<S: Simd, const R: usize, const V: usize>(
    widened: *const f32,
    x: *const f32,
    depth: usize,
    sums: &mut [[S::F32; V]; R],
) {
    let mut inner = *sums;
    for k in 0..depth {
        // SAFETY: k < depth.
        unsafe {
            let x = x.add(k * PANEL_COLUMNS);
            let mut columns = [S::splat(0.0); V];
            for v in 0..V {
                columns[v] = S::load(x.add(v * S::LANES));
            }
            for r in 0..R {
                let weight = S::splat(*widened.add(r * WIDENED_STRIDE + k));
                for v in 0..V {
                    inner[r][v] = S::mul_add(weight, columns[v], inner[r][v]);
                }
            }
        }
    }
    *sums = inner;
}

/// Widens `len` weights, and fetches those `ahead` further, which come next.
///
/// # Safety
/// Both pointers must be valid for `len` numbers.
#[inline(always)]
unsafe fn widen_all<S: Simd>(from: *const bf16, ahead: usize, to: *mut f32, len: usize) {
    let mut i = 0;
    // SAFETY: i stays below len; any address may be asked for.
    unsafe {
        while i + 2 * S::LANES <= len {
            S::prefetch_far(from.wrapping_add(i + ahead).cast());
            S::store(to.add(i), S::load_bf16(from.add(i)));
            S::store(to.add(i + S::LANES), S::load_bf16(from.add(i + S::LANES)));
            i += 2 * S::LANES;
        }
        while i < len {
            *to.add(i) = widen(*from.add(i));
            i += 1;
        }
    }
}

/// Writes sums, whose lanes are columns, to `out`, whose columns are apart.
///
/// # Safety
/// As [`product`].
#[inline(always)]
pub unsafe fn write<S: Simd, const R: usize, const V: usize>(
    p: &PanelProduct,
    row: usize,
    column: usize,
    sums: &[[S::F32; V]; R],
) {
    let mut transposed = [[0.0_f32; PANEL_COLUMNS]; R];
    // SAFETY: V registers are at most a panel; columns that are not there are left out.
    unsafe {
        for (sums, row) in sums.iter().zip(&mut transposed) {
            for (v, sum) in sums.iter().enumerate() {
                S::store(row.as_mut_ptr().add(v * S::LANES), *sum);
            }
        }
        for c in 0..(p.columns - column).min(V * S::LANES) {
            let out = p.out.add((column + c) * p.out_stride + row);
            for (r, transposed) in transposed.iter().enumerate() {
                let before = if p.accumulate { *out.add(r) } else { 0.0 };
                *out.add(r) = before + transposed[c];
            }
        }
    }
}
