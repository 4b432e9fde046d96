//! The kernels, written once over a vector register of any width.
//!
//! Every function here is `inline(always)` and becomes machine code inside the
//! `#[target_feature]` functions that [`kernel_set!`](super::kernel_set) makes for each
//! instruction set; called elsewhere the intrinsics would not be inlined.

use std::ops::Range;

use half::bf16;

/// A register of f32 lanes of one instruction set.
///
/// # Safety
/// Every function may only run on a processor that has the instruction set, and only on pointers
/// that are valid for the lanes they touch.
pub unsafe trait Simd: Copy {
    /// Lanes of a register.
    const LANES: usize;
    /// Columns of a tile: as many as leave registers for three rows.
    const TILE_COLUMNS: usize;
    /// The register.
    type F32: Copy;

    /// The same number in every lane.
    unsafe fn splat(value: f32) -> Self::F32;
    /// `LANES` numbers.
    unsafe fn load(from: *const f32) -> Self::F32;
    /// `LANES` numbers, widened.
    unsafe fn load_bf16(from: *const bf16) -> Self::F32;
    /// Writes every lane.
    unsafe fn store(to: *mut f32, value: Self::F32);
    /// `a + b`.
    unsafe fn add(a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a - b`.
    unsafe fn sub(a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b`.
    unsafe fn mul(a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a / b`.
    unsafe fn div(a: Self::F32, b: Self::F32) -> Self::F32;
    /// The larger of each pair.
    unsafe fn max(a: Self::F32, b: Self::F32) -> Self::F32;
    /// The smaller of each pair.
    unsafe fn min(a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b + c`, in one rounding where the instruction set has that.
    unsafe fn mul_add(a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// To the nearest whole number.
    unsafe fn round(a: Self::F32) -> Self::F32;
    /// `a * 2^n` for a whole `n` in [-126, 127] and a result that is a normal number.
    unsafe fn scale_by_power_of_two(a: Self::F32, n: Self::F32) -> Self::F32;
    /// The sum of all lanes.
    unsafe fn reduce_add(a: Self::F32) -> f32;
    /// The largest lane.
    unsafe fn reduce_max(a: Self::F32) -> f32;
    /// Asks for the cache line at `at`; any address is allowed.
    unsafe fn prefetch(at: *const u8);
}

/// A number type of a matrix that the tiles read.
pub trait Operand: Copy {
    /// A register of numbers from memory, widened.
    ///
    /// # Safety
    /// As [`Simd::load`].
    unsafe fn load<S: Simd>(from: *const Self) -> S::F32;
    /// The same number in f32.
    fn widen(self) -> f32;
}

impl Operand for bf16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S::F32 {
        // SAFETY: passed on to the caller.
        unsafe { S::load_bf16(from) }
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

impl Operand for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S::F32 {
        // SAFETY: passed on to the caller.
        unsafe { S::load(from) }
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

/// A product to compute: `out[c][r] = sum over k of matrix[r][k] * x[c][k]`, or added to what
/// `out` holds.
#[derive(Clone, Copy, Debug)]
pub struct Product<W> {
    /// `[rows, k]`, row-major without gaps.
    pub matrix: *const W,
    /// Rows of the matrix.
    pub rows: usize,
    /// Columns of the matrix.
    pub k: usize,
    /// `[columns, k]`, a column every `x_stride` numbers.
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
}

/// How far ahead of the loads a row is prefetched, in bytes (2 KB was best on Zen 5 and on
/// Emerald Rapids; see `benches/matvec.rs`).
const PREFETCH_BYTES: usize = 2048;
/// Bytes of a cache line.
const LINE: usize = 64;

/// The product for one column: a row at a time, so that a thread reads one sequential stream.
///
/// # Safety
/// The processor must have the instruction set, and `p` must describe memory that is there.
#[inline(always)]
pub unsafe fn matvec<S: Simd>(p: &Product<bf16>) {
    const ACCUMULATORS: usize = 8;
    let step = ACCUMULATORS * S::LANES;
    for row in 0..p.rows {
        // SAFETY: row < rows; k + LANES bounds below; prefetches may go anywhere.
        unsafe {
            let weights = p.matrix.add(row * p.k);
            let mut sums = [S::splat(0.0); ACCUMULATORS];
            let mut k = 0;
            while k + step <= p.k {
                let mut ahead = 0;
                while ahead < step * size_of::<bf16>() {
                    let line = weights
                        .add(k)
                        .cast::<u8>()
                        .wrapping_add(PREFETCH_BYTES + ahead);
                    S::prefetch(line);
                    ahead += LINE;
                }
                for (index, sum) in sums.iter_mut().enumerate() {
                    let at = k + index * S::LANES;
                    *sum = S::mul_add(S::load_bf16(weights.add(at)), S::load(p.x.add(at)), *sum);
                }
                k += step;
            }
            while k + S::LANES <= p.k {
                sums[0] = S::mul_add(S::load_bf16(weights.add(k)), S::load(p.x.add(k)), sums[0]);
                k += S::LANES;
            }
            for width in [4, 2, 1] {
                for index in 0..width {
                    sums[index] = S::add(sums[index], sums[index + width]);
                }
            }
            let mut sum = S::reduce_add(sums[0]);
            while k < p.k {
                sum += (*weights.add(k)).widen() * *p.x.add(k);
                k += 1;
            }
            put(p, row, 0, sum);
        }
    }
}

/// # Safety
/// `row` and `column` must be inside `p`.
#[inline(always)]
unsafe fn put<W>(p: &Product<W>, row: usize, column: usize, value: f32) {
    // SAFETY: passed on to the caller.
    unsafe {
        let out = p.out.add(column * p.out_stride + row);
        *out = if p.accumulate { *out + value } else { value };
    }
}

/// `R` rows times `C` columns from `row` and `column` on.
///
/// # Safety
/// As [`matvec`], and the tile must lie inside `p`.
#[inline(always)]
unsafe fn tile<S: Simd, W: Operand, const R: usize, const C: usize>(
    p: &Product<W>,
    row: usize,
    column: usize,
    prefetch: bool,
) {
    // SAFETY: the caller keeps the tile inside the product; k + LANES <= p.k for vector loads.
    unsafe {
        let rows: [*const W; R] = std::array::from_fn(|r| p.matrix.add((row + r) * p.k));
        let x: [*const f32; C] = std::array::from_fn(|c| p.x.add((column + c) * p.x_stride));
        let mut sums = [[S::splat(0.0); C]; R];
        let mut k = 0;
        while k + S::LANES <= p.k {
            if prefetch {
                for row in rows {
                    // Half of these ask for a line twice; that costs less than a branch.
                    S::prefetch(row.add(k).cast::<u8>().wrapping_add(PREFETCH_BYTES));
                }
            }
            let weights: [S::F32; R] = std::array::from_fn(|r| W::load::<S>(rows[r].add(k)));
            for c in 0..C {
                let x = S::load(x[c].add(k));
                for r in 0..R {
                    sums[r][c] = S::mul_add(weights[r], x, sums[r][c]);
                }
            }
            k += S::LANES;
        }
        for r in 0..R {
            for c in 0..C {
                let mut sum = S::reduce_add(sums[r][c]);
                for k in k..p.k {
                    sum += (*rows[r].add(k)).widen() * *x[c].add(k);
                }
                put(p, row + r, column + c, sum);
            }
        }
    }
}

/// Rows of a tile.
const TILE_ROWS: usize = 3;

/// `rows` times `C` columns from `column` on.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn strip<S: Simd, W: Operand, const C: usize>(
    p: &Product<W>,
    rows: Range<usize>,
    column: usize,
    prefetch: bool,
) {
    let mut row = rows.start;
    // SAFETY: rows are counted here; the caller keeps the columns inside.
    unsafe {
        while row + TILE_ROWS <= rows.end {
            tile::<S, W, TILE_ROWS, C>(p, row, column, prefetch);
            row += TILE_ROWS;
        }
        while row < rows.end {
            tile::<S, W, 1, C>(p, row, column, prefetch);
            row += 1;
        }
    }
}

/// The product for any number of columns, `TILE_COLUMNS` at a time; with `prefetch` where the
/// matrix comes from memory rather than from a cache.
///
/// # Safety
/// As [`matvec`].
#[inline(always)]
pub unsafe fn matmul<S: Simd, W: Operand>(p: &Product<W>, prefetch: bool) {
    /// Rows that stay in the second-level cache while the columns pass over them.
    const BLOCK_ROWS: usize = 16 * TILE_ROWS;
    let mut row = 0;
    while row < p.rows {
        let rows = row..(row + BLOCK_ROWS).min(p.rows);
        row = rows.end;
        let mut column = 0;
        while column < p.columns {
            let columns = (p.columns - column).min(S::TILE_COLUMNS);
            let prefetch = prefetch && column == 0;
            let rows = rows.clone();
            // SAFETY: column + columns <= p.columns.
            unsafe {
                match columns {
                    1 => strip::<S, W, 1>(p, rows, column, prefetch),
                    2 => strip::<S, W, 2>(p, rows, column, prefetch),
                    3 => strip::<S, W, 3>(p, rows, column, prefetch),
                    4 => strip::<S, W, 4>(p, rows, column, prefetch),
                    5 => strip::<S, W, 5>(p, rows, column, prefetch),
                    6 => strip::<S, W, 6>(p, rows, column, prefetch),
                    7 => strip::<S, W, 7>(p, rows, column, prefetch),
                    _ => strip::<S, W, 8>(p, rows, column, prefetch),
                }
            }
            column += columns;
        }
    }
}

/// Widens `len` numbers.
///
/// # Safety
/// Both pointers must be valid for `len` numbers.
#[inline(always)]
pub unsafe fn widen<S: Simd>(from: *const bf16, to: *mut f32, len: usize) {
    let mut i = 0;
    // SAFETY: i stays below len.
    unsafe {
        while i + S::LANES <= len {
            S::prefetch(from.add(i).cast::<u8>().wrapping_add(PREFETCH_BYTES));
            S::store(to.add(i), S::load_bf16(from.add(i)));
            i += S::LANES;
        }
        while i < len {
            *to.add(i) = (*from.add(i)).widen();
            i += 1;
        }
    }
}

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
/// As [`matvec`].
#[inline(always)]
unsafe fn row_sum_tile<S: Simd, const D: usize, const C: usize>(
    p: &RowSum,
    d: usize,
    column: usize,
) {
    // SAFETY: the caller keeps d + D registers and column + C columns inside.
    unsafe {
        let mut sums = [[S::splat(0.0); C]; D];
        let out = |v: usize, c: usize| p.out.add((column + c) * p.width + d + v * S::LANES);
        for row in 0..p.rows {
            let values = p.matrix.add(row * p.width + d);
            let values: [S::F32; D] =
                std::array::from_fn(|v| S::load_bf16(values.add(v * S::LANES)));
            for c in 0..C {
                let weight = S::splat(*p.weights.add((column + c) * p.weights_stride + row));
                for v in 0..D {
                    sums[v][c] = S::mul_add(values[v], weight, sums[v][c]);
                }
            }
        }
        for v in 0..D {
            for c in 0..C {
                S::store(out(v, c), S::add(S::load(out(v, c)), sums[v][c]));
            }
        }
    }
}

/// The sum of rows for any number of columns and any width.
///
/// # Safety
/// As [`matvec`].
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
                        sum += weight * (*p.matrix.add(row * p.width + d)).widen();
                    }
                    *p.out.add(c * p.width + d) += sum;
                }
            }
        }
        column += columns;
    }
}

/// `sum(x^2)`.
///
/// # Safety
/// `x` must be valid for `len` numbers.
#[inline(always)]
pub unsafe fn sum_of_squares<S: Simd>(x: *const f32, len: usize) -> f32 {
    // SAFETY: i stays below len.
    unsafe {
        let mut sums = [S::splat(0.0); 4];
        let mut i = 0;
        while i + 4 * S::LANES <= len {
            for (index, sum) in sums.iter_mut().enumerate() {
                let value = S::load(x.add(i + index * S::LANES));
                *sum = S::mul_add(value, value, *sum);
            }
            i += 4 * S::LANES;
        }
        let sums = S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3]));
        let mut sum = S::reduce_add(sums);
        while i < len {
            sum += *x.add(i) * *x.add(i);
            i += 1;
        }
        sum
    }
}

/// `out = x * scale * weight`.
///
/// # Safety
/// All three must be valid for `len` numbers; `out` may be `x`.
#[inline(always)]
pub unsafe fn scale_by<S: Simd>(
    x: *const f32,
    scale: f32,
    weight: *const f32,
    out: *mut f32,
    len: usize,
) {
    // SAFETY: i stays below len.
    unsafe {
        let mut i = 0;
        while i + S::LANES <= len {
            let scaled = S::mul(S::load(x.add(i)), S::splat(scale));
            S::store(out.add(i), S::mul(scaled, S::load(weight.add(i))));
            i += S::LANES;
        }
        while i < len {
            *out.add(i) = *x.add(i) * scale * *weight.add(i);
            i += 1;
        }
    }
}

/// `exp(x)` to about 2 ulp for x in [-87, 88]; below that a number near the smallest normal one.
///
/// Cody-Waite reduction to [-ln 2 / 2, ln 2 / 2] and the Taylor polynomial of degree 7, whose
/// remainder there is below 1e-8 relative.
///
/// # Safety
/// The processor must have the instruction set.
#[inline(always)]
unsafe fn exp<S: Simd>(x: S::F32) -> S::F32 {
    /// ln 2 in two parts, the first exact in few bits, so that `n * LN2_HIGH` is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const COEFFICIENTS: [f32; 7] = [
        1.0 / 5040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
    ];
    // SAFETY: only arithmetic.
    unsafe {
        let x = S::min(S::max(x, S::splat(-87.0)), S::splat(88.0));
        let n = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
        let r = S::mul_add(n, S::splat(-LN2_HIGH), x);
        let r = S::mul_add(n, S::splat(-LN2_LOW), r);
        let mut p = S::splat(COEFFICIENTS[0]);
        for coefficient in &COEFFICIENTS[1..] {
            p = S::mul_add(p, r, S::splat(*coefficient));
        }
        S::scale_by_power_of_two(S::mul_add(p, r, S::splat(1.0)), n)
    }
}

/// Applies `each` to registers of `x`, the last one filled up with `filler`.
///
/// # Safety
/// `x` must be valid for `len` numbers.
#[inline(always)]
unsafe fn for_each_register<S: Simd>(
    x: *mut f32,
    len: usize,
    filler: f32,
    mut each: impl FnMut(S::F32) -> S::F32,
) {
    // SAFETY: whole registers stay inside; the rest goes through a buffer of 16 lanes, which is
    // the widest register there is.
    unsafe {
        let mut i = 0;
        while i + S::LANES <= len {
            S::store(x.add(i), each(S::load(x.add(i))));
            i += S::LANES;
        }
        if i < len {
            let mut buffer = [filler; 16];
            std::ptr::copy_nonoverlapping(x.add(i), buffer.as_mut_ptr(), len - i);
            let register = each(S::load(buffer.as_ptr()));
            S::store(buffer.as_mut_ptr(), register);
            std::ptr::copy_nonoverlapping(buffer.as_ptr(), x.add(i), len - i);
        }
    }
}

/// Replaces `x` by `exp(scale * x - m)` with `m = max(scale * x)`; returns `(m, sum)`.
///
/// # Safety
/// `x` must be valid for `len` numbers, and `len` at least 1.
#[inline(always)]
pub unsafe fn exp_and_sum<S: Simd>(x: *mut f32, len: usize, scale: f32) -> (f32, f32) {
    // SAFETY: passed on to the caller.
    unsafe {
        let scale = S::splat(scale);
        let mut max = S::splat(f32::NEG_INFINITY);
        for_each_register::<S>(x, len, f32::NEG_INFINITY, |value| {
            let value = S::mul(value, scale);
            max = S::max(max, value);
            value
        });
        let max = S::reduce_max(max);
        let mut sum = S::splat(0.0);
        // The filler's exponential is not 0 but 1e-38, lost in a sum of at least 1.
        for_each_register::<S>(x, len, f32::NEG_INFINITY, |value| {
            let value = exp::<S>(S::sub(value, S::splat(max)));
            sum = S::add(sum, value);
            value
        });
        (max, S::reduce_add(sum))
    }
}

/// `gate = silu(gate) * up`, with `silu(x) = x / (1 + exp(-x))`.
///
/// # Safety
/// Both must be valid for `len` numbers.
#[inline(always)]
pub unsafe fn silu_mul<S: Simd>(gate: *mut f32, up: *const f32, len: usize) {
    // SAFETY: passed on to the caller; `up` is read through the same buffer of 16 lanes.
    unsafe {
        let mut i = 0;
        for_each_register::<S>(gate, len, 0.0, |gate| {
            let up = if i + S::LANES <= len {
                S::load(up.add(i))
            } else {
                let mut buffer = [0.0; 16];
                std::ptr::copy_nonoverlapping(up.add(i), buffer.as_mut_ptr(), len - i);
                S::load(buffer.as_ptr())
            };
            i += S::LANES;
            let exp = exp::<S>(S::sub(S::splat(0.0), gate));
            S::mul(S::div(gate, S::add(S::splat(1.0), exp)), up)
        });
    }
}
