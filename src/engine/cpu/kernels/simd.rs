//! A vector register of any width, over which the kernels are written once.
//!
//! Every function of a kernel is `inline(always)` and becomes machine code inside the
//! `#[target_feature]` functions that `kernel_set!` makes for each instruction set; called elsewhere
//! the intrinsics would not be inlined. For the same reason there are no closures in kernels: a closure is
//! a function of its own, without the features.

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

/// A weight in f32, exactly.
#[inline(always)]
pub fn widen(weight: bf16) -> f32 {
    f32::from_bits(u32::from(weight.to_bits()) << 16)
}

/// Bytes of a cache line.
pub const LINE: usize = 64;
