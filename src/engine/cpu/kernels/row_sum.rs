//! Weighted sums of rows: what attention does with values.

#![allow(
    clippy::needless_range_loop,
    reason = "a tile is read by its rows and columns"
)]

use half::bf16;

use super::simd::{Simd, widen};

/// A sum of rows to compute: `out[c][d] += sum over r of weights[c][r] * matrix[r][d]`.
#[derive(Clone, Copy, Debug)]
pub struct RowSum {
    /// `[rows, width]`, row-major without gaps.
    pub matrix: *const bf16,
    /// Rows of the matrix.
    pub rows: usize,
    /// Columns of the matrix.
    pub width: usize,
    /// `[columns, rows]`, a column every `weights_stride` numbers.
    pub weights: *const f32,
    /// Numbers from one column of `weights` to the next.
    pub weights_stride: usize,
    /// Columns of `weights` and of `out`.
    pub columns: usize,
    /// `[columns, width]` without gaps.
    pub out: *mut f32,
}

/// # Safety
/// The processor must have the instruction set, and `p` must describe memory that is there.
#[inline(always)]
unsafe fn row_sum_tile<S: Simd, const D: usize, const C: usize>(
    p: &RowSum,
    d: usize,
    column: usize,
) {
    // SAFETY: the caller keeps d + D registers and column + C columns inside.
    unsafe {
        let mut sums = [[S::splat(0.0); C]; D];
        for row in 0..p.rows {
            let mut values = [S::splat(0.0); D];
            for v in 0..D {
                values[v] = S::load_bf16(p.matrix.add(row * p.width + d + v * S::LANES));
            }
            for c in 0..C {
                let weight = S::splat(*p.weights.add((column + c) * p.weights_stride + row));
                for v in 0..D {
                    sums[v][c] = S::mul_add(values[v], weight, sums[v][c]);
                }
            }
        }
        for v in 0..D {
            for c in 0..C {
                let out = p.out.add((column + c) * p.width + d + v * S::LANES);
                S::store(out, S::add(S::load(out), sums[v][c]));
            }
        }
    }
}

/// The sum of rows for any number of columns and any width.
///
/// # Safety
/// As `matvec`.
#[inline(always)]
pub unsafe fn row_sum<S: Simd>(p: &RowSum) {
    /// Registers of a row that a tile takes at once.
    const D: usize = 4;
    let mut column = 0;
    while column < p.columns {
        let columns = match p.columns - column {
            4.. if S::TILE_COLUMNS >= 8 => 4,
            2.. => 2,
            _ => 1,
        };
        let mut d = 0;
        // SAFETY: d and column stay inside.
        unsafe {
            while d + D * S::LANES <= p.width {
                match columns {
                    4 => row_sum_tile::<S, D, 4>(p, d, column),
                    2 => row_sum_tile::<S, D, 2>(p, d, column),
                    _ => row_sum_tile::<S, D, 1>(p, d, column),
                }
                d += D * S::LANES;
            }
            while d + S::LANES <= p.width {
                match columns {
                    4 => row_sum_tile::<S, 1, 4>(p, d, column),
                    2 => row_sum_tile::<S, 1, 2>(p, d, column),
                    _ => row_sum_tile::<S, 1, 1>(p, d, column),
                }
                d += S::LANES;
            }
            for d in d..p.width {
                for c in column..column + columns {
                    let mut sum = 0.0;
                    for row in 0..p.rows {
                        let weight = *p.weights.add(c * p.weights_stride + row);
                        sum += weight * widen(*p.matrix.add(row * p.width + d));
                    }
                    *p.out.add(c * p.width + d) += sum;
                }
            }
        }
        column += columns;
    }
}
