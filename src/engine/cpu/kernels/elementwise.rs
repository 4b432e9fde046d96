//! What is done number by number: norms, exponentials, gates, rotations, rounding.

#![allow(
    clippy::needless_range_loop,
    reason = "a tile is read by its rows and columns"
)]

use half::bf16;

use super::simd::Simd;

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
