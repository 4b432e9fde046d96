//! NEON: four lanes, thirty-two registers.

use std::arch::aarch64::*;

use half::bf16;

use super::simd::Simd;

/// NEON, which every 64-bit Arm processor has. Without `PREFETCH` nothing is fetched ahead.
#[derive(Clone, Copy, Debug)]
pub struct Neon<const PREFETCH: bool>;

// SAFETY: NEON is part of the base architecture; pointers are valid for four lanes.
#[allow(
    clippy::undocumented_unsafe_blocks,
    reason = "each is the trait's contract"
)]
#[allow(
    unused_unsafe,
    reason = "some of these intrinsics are safe, by compiler version"
)]
unsafe impl<const PREFETCH: bool> Simd for Neon<PREFETCH> {
    const LANES: usize = 4;
    const TILE_COLUMNS: usize = 8;
    const PANEL_ROWS: usize = 12;
    type F32 = float32x4_t;
    type Pairs = uint32x4_t;

    #[inline(always)]
    unsafe fn splat(value: f32) -> float32x4_t {
        unsafe { vdupq_n_f32(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> float32x4_t {
        unsafe { vld1q_f32(from) }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> float32x4_t {
        unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(from.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_pairs(from: *const bf16) -> uint32x4_t {
        unsafe { vreinterpretq_u32_u16(vld1q_u16(from.cast())) }
    }

    #[inline(always)]
    unsafe fn even(pairs: uint32x4_t) -> float32x4_t {
        unsafe { vreinterpretq_f32_u32(vshlq_n_u32::<16>(pairs)) }
    }

    #[inline(always)]
    unsafe fn odd(pairs: uint32x4_t) -> float32x4_t {
        unsafe { vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xffff_0000))) }
    }

    #[inline(always)]
    unsafe fn split(a: float32x4_t, b: float32x4_t) -> (float32x4_t, float32x4_t) {
        unsafe { (vuzp1q_f32(a, b), vuzp2q_f32(a, b)) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, value: float32x4_t) {
        unsafe { vst1q_f32(to, value) }
    }

    #[inline(always)]
    unsafe fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vaddq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vsubq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vmulq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn div(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vdivq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vmaxq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn min(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vminq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        unsafe { vfmaq_f32(c, a, b) }
    }

    #[inline(always)]
    unsafe fn round(a: float32x4_t) -> float32x4_t {
        unsafe { vrndnq_f32(a) }
    }

    #[inline(always)]
    unsafe fn scale_by_power_of_two(a: float32x4_t, n: float32x4_t) -> float32x4_t {
        unsafe {
            let exponents = vshlq_n_s32::<23>(vcvtq_s32_f32(n));
            vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(a), exponents))
        }
    }

    #[inline(always)]
    unsafe fn reduce_add(a: float32x4_t) -> f32 {
        unsafe { vaddvq_f32(a) }
    }

    #[inline(always)]
    unsafe fn reduce_max(a: float32x4_t) -> f32 {
        unsafe { vmaxvq_f32(a) }
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        if PREFETCH {
            unsafe {
                std::arch::asm!("prfm pldl1keep, [{at}]", at = in(reg) at,
                    options(nostack, readonly, preserves_flags));
            }
        }
    }

    #[inline(always)]
    unsafe fn prefetch_far(at: *const u8) {
        if PREFETCH {
            unsafe {
                std::arch::asm!("prfm pldl2keep, [{at}]", at = in(reg) at,
                    options(nostack, readonly, preserves_flags));
            }
        }
    }
}
