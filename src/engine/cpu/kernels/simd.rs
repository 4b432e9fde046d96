//! The kernels, written once over a vector register of any width.
//!
//! Every function here is `inline(always)` and becomes machine code inside the
//! `#[target_feature]` functions that `kernel_set!` makes for each instruction set; called elsewhere
//! the intrinsics would not be inlined. For the same reason there are no closures here: a closure is
//! a function of its own, without the features (the SiLU was ten times slower with one).

#![allow(
    clippy::needless_range_loop,
    reason = "a tile is read by its rows and columns"
)]

use std::ops::Range;

use half::bf16;

/// A register of f32 lanes of one instruction set.
///
/// # Safety
/// Every function may only run on a processor that has the instruction set, and only on pointers
/// that are valid for the lanes they touch.
#[allow(
    clippy::missing_safety_doc,
    reason = "the trait's is that of all its functions"
)]
pub unsafe trait Simd: Copy {
    /// Lanes of a register.
    const LANES: usize;
    /// Columns of a tile: as many as leave registers for three rows.
    const TILE_COLUMNS: usize;
    /// Rows of a panel product: as many as leave registers for two of columns.
    const PANEL_ROWS: usize;
    /// The register.
    type F32: Copy;
    /// A register of `2 * LANES` bf16 numbers.
    type Pairs: Copy;

    /// The same number in every lane.
    unsafe fn splat(value: f32) -> Self::F32;
    /// `LANES` numbers.
    unsafe fn load(from: *const f32) -> Self::F32;
    /// `LANES` numbers, widened.
    unsafe fn load_bf16(from: *const bf16) -> Self::F32;
    /// `2 * LANES` numbers, as they are.
    unsafe fn load_pairs(from: *const bf16) -> Self::Pairs;
    /// Numbers 0, 2, 4, ..., widened: on little-endian machines the lower half of each word.
    unsafe fn even(pairs: Self::Pairs) -> Self::F32;
    /// Numbers 1, 3, 5, ..., widened.
    unsafe fn odd(pairs: Self::Pairs) -> Self::F32;
    /// The even and the odd ones of the numbers in `a` and then `b`.
    unsafe fn split(a: Self::F32, b: Self::F32) -> (Self::F32, Self::F32);
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
    /// Asks for the cache line at `at`, soon; any address is allowed.
    unsafe fn prefetch(at: *const u8);
    /// Asks for the cache line at `at` into the second-level cache; any address is allowed.
    unsafe fn prefetch_far(at: *const u8);
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
/// Bytes of a cache line.
pub const LINE: usize = 64;

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
unsafe fn matvec<S: Simd>(p: &Product<bf16>) {
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
                sum += (*weights.add(k)).widen() * *p.x.add(k);
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
pub unsafe fn stream<S: Simd>(p: &Product<bf16>) {
    // SAFETY: passed on to the caller.
    unsafe {
        if p.columns == 1 {
            matvec::<S>(p);
        } else {
            matmul::<S, bf16, true>(p);
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
/// As [`matvec`] if `PAIRED`, else `x` must be in order; and the tile must lie inside `p`.
#[inline(always)]
unsafe fn tile<S: Simd, W: Operand, const PAIRED: bool, const R: usize, const C: usize>(
    p: &Product<W>,
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
                    let at = rows[r].add(k).cast();
                    S::prefetch_far(far_ahead(at, end.cast(), p.next));
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
                    weights[r] = W::load::<S>(rows[r].add(k));
                }
                multiply_tile::<S, R, C>(weights, x, k, &mut sums);
                k += S::LANES;
            }
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
unsafe fn strip<S: Simd, W: Operand, const PAIRED: bool, const C: usize>(
    p: &Product<W>,
    rows: Range<usize>,
    column: usize,
) {
    let mut row = rows.start;
    // SAFETY: rows are counted here; the caller keeps the columns inside.
    unsafe {
        while C <= WIDE_TILE && row + TILE_ROWS <= rows.end {
            tile::<S, W, PAIRED, TILE_ROWS, C>(p, row, column);
            row += TILE_ROWS;
        }
        while row < rows.end {
            tile::<S, W, PAIRED, 1, C>(p, row, column);
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
pub unsafe fn matmul<S: Simd, W: Operand, const PAIRED: bool>(p: &Product<W>) {
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
                    1 => strip::<S, W, PAIRED, 1>(p, rows, column),
                    2 => strip::<S, W, PAIRED, 2>(p, rows, column),
                    3 => strip::<S, W, PAIRED, 3>(p, rows, column),
                    4 => strip::<S, W, PAIRED, 4>(p, rows, column),
                    5 => strip::<S, W, PAIRED, 5>(p, rows, column),
                    6 => strip::<S, W, PAIRED, 6>(p, rows, column),
                    7 => strip::<S, W, PAIRED, 7>(p, rows, column),
                    _ => strip::<S, W, PAIRED, 8>(p, rows, column),
                }
            }
            column += columns;
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
            for index in 0..4 {
                let value = S::load(x.add(i + index * S::LANES));
                sums[index] = S::mul_add(value, value, sums[index]);
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

/// Up to a register of numbers, the missing ones replaced by `filler`.
///
/// # Safety
/// `from` must be valid for `len` numbers.
#[inline(always)]
unsafe fn load_some<S: Simd>(from: *const f32, len: usize, filler: f32) -> S::F32 {
    // SAFETY: no more than `len` numbers are read; 16 lanes are the widest register there is.
    unsafe {
        if len >= S::LANES {
            return S::load(from);
        }
        let mut buffer = [filler; 16];
        std::ptr::copy_nonoverlapping(from, buffer.as_mut_ptr(), len);
        S::load(buffer.as_ptr())
    }
}

/// Writes up to `len` lanes.
///
/// # Safety
/// `to` must be valid for `len` numbers.
#[inline(always)]
unsafe fn store_some<S: Simd>(to: *mut f32, len: usize, value: S::F32) {
    // SAFETY: as in `load_some`.
    unsafe {
        if len >= S::LANES {
            return S::store(to, value);
        }
        let mut buffer = [0.0; 16];
        S::store(buffer.as_mut_ptr(), value);
        std::ptr::copy_nonoverlapping(buffer.as_ptr(), to, len);
    }
}

/// Replaces `x` by `exp(scale * x - m)` with `m = max(scale * x)`; returns `(m, sum)`.
///
/// # Safety
/// `x` must be valid for `len` numbers, and `len` at least 1.
#[inline(always)]
pub unsafe fn exp_and_sum<S: Simd>(x: *mut f32, len: usize, scale: f32) -> (f32, f32) {
    // SAFETY: i stays below len.
    unsafe {
        let scale = S::splat(scale);
        let mut max = S::splat(f32::NEG_INFINITY);
        let mut i = 0;
        while i < len {
            let value = S::mul(load_some::<S>(x.add(i), len - i, f32::NEG_INFINITY), scale);
            max = S::max(max, value);
            i += S::LANES;
        }
        let max = S::splat(S::reduce_max(max));
        let mut sum = S::splat(0.0);
        let mut i = 0;
        while i < len {
            // The filler's exponential is not 0 but 1e-38, lost in a sum of at least 1.
            let value = S::mul(load_some::<S>(x.add(i), len - i, f32::NEG_INFINITY), scale);
            let value = exp::<S>(S::sub(value, max));
            sum = S::add(sum, value);
            store_some::<S>(x.add(i), len - i, value);
            i += S::LANES;
        }
        (S::reduce_max(max), S::reduce_add(sum))
    }
}

/// `gate = silu(gate) * up`, with `silu(x) = x / (1 + exp(-x))`.
///
/// # Safety
/// Both must be valid for `len` numbers.
#[inline(always)]
pub unsafe fn silu_mul<S: Simd>(gate: *mut f32, up: *const f32, len: usize) {
    let mut i = 0;
    while i < len {
        // SAFETY: i stays below len.
        unsafe {
            let x = load_some::<S>(gate.add(i), len - i, 0.0);
            let up = load_some::<S>(up.add(i), len - i, 0.0);
            let exp = exp::<S>(S::sub(S::splat(0.0), x));
            let silu = S::div(x, S::add(S::splat(1.0), exp));
            store_some::<S>(gate.add(i), len - i, S::mul(silu, up));
        }
        i += S::LANES;
    }
}

/// Rotates one head, `[2 * half]` in the half layout, by the angles whose cosines and sines are
/// given, `[half]` each.
///
/// # Safety
/// `head` must be valid for `2 * half` numbers and the others for `half`.
#[inline(always)]
pub unsafe fn rotate<S: Simd>(head: *mut f32, cosines: *const f32, sines: *const f32, half: usize) {
    let mut i = 0;
    while i < half {
        let len = half - i;
        // SAFETY: i stays below half.
        unsafe {
            let a = load_some::<S>(head.add(i), len, 0.0);
            let b = load_some::<S>(head.add(half + i), len, 0.0);
            let cos = load_some::<S>(cosines.add(i), len, 0.0);
            let sin = load_some::<S>(sines.add(i), len, 0.0);
            let first = S::sub(S::mul(a, cos), S::mul(b, sin));
            let second = S::add(S::mul(b, cos), S::mul(a, sin));
            store_some::<S>(head.add(i), len, first);
            store_some::<S>(head.add(half + i), len, second);
        }
        i += S::LANES;
    }
}

/// Rounds `len` numbers to bf16, to nearest even.
///
/// # Safety
/// Both pointers must be valid for `len` numbers.
#[inline(always)]
pub unsafe fn narrow(from: *const f32, to: *mut bf16, len: usize) {
    // Written so that it compiles to vector instructions.
    // SAFETY: passed on to the caller; the two don't overlap, since they differ in type.
    let (from, to) = unsafe {
        (
            std::slice::from_raw_parts(from, len),
            std::slice::from_raw_parts_mut(to.cast::<u16>(), len),
        )
    };
    for (to, from) in to.iter_mut().zip(from) {
        let bits = from.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        // A NaN must stay one: its upper half with the quiet bit set.
        let nan = bits >> 16 | 0x40;
        *to = if from.is_nan() { nan } else { rounded } as u16;
    }
}
