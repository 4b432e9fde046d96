//! AVX-512: sixteen lanes, thirty-two registers.

use std::arch::x86_64::*;

use half::bf16;

use super::simd::Simd;

/// AVX-512 F, BW, DQ and VL. Without `PREFETCH` nothing is fetched ahead.
#[derive(Clone, Copy, Debug)]
pub struct Avx512<const PREFETCH: bool>;

// SAFETY: whoever calls checked for AVX-512, and passes pointers valid for sixteen lanes.
#[allow(
    clippy::undocumented_unsafe_blocks,
    reason = "each is the trait's contract"
)]
unsafe impl<const PREFETCH: bool> Simd for Avx512<PREFETCH> {
    const LANES: usize = 16;
    const TILE_COLUMNS: usize = 8;
    const PANEL_ROWS: usize = 12;
    type F32 = __m512;
    type Pairs = __m512i;

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m512 {
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> __m512 {
        unsafe {
            let halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32(halves, 16))
        }
    }

    #[inline(always)]
    unsafe fn load_pairs(from: *const bf16) -> __m512i {
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn even(pairs: __m512i) -> __m512 {
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)) }
    }

    #[inline(always)]
    unsafe fn odd(pairs: __m512i) -> __m512 {
        unsafe { _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(-0x1_0000))) }
    }

    #[inline(always)]
    unsafe fn split(a: __m512, b: __m512) -> (__m512, __m512) {
        unsafe {
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
            (
                _mm512_permutex2var_ps(a, even, b),
                _mm512_permutex2var_ps(a, odd, b),
            )
        }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, value: __m512) {
        unsafe { _mm512_storeu_ps(to, value) }
    }

    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn round(a: __m512) -> __m512 {
        unsafe { _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC) }
    }

    #[inline(always)]
    unsafe fn scale_by_power_of_two(a: __m512, n: __m512) -> __m512 {
        unsafe { _mm512_scalef_ps(a, n) }
    }

    #[inline(always)]
    unsafe fn reduce_add(a: __m512) -> f32 {
        unsafe { _mm512_reduce_add_ps(a) }
    }

    #[inline(always)]
    unsafe fn reduce_max(a: __m512) -> f32 {
        unsafe { _mm512_reduce_max_ps(a) }
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        if PREFETCH {
            unsafe { _mm_prefetch(at.cast(), _MM_HINT_T0) }
        }
    }

    #[inline(always)]
    unsafe fn prefetch_far(at: *const u8) {
        if PREFETCH {
            unsafe { _mm_prefetch(at.cast(), _MM_HINT_T1) }
        }
    }
}
