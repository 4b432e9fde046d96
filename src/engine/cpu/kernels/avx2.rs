//! AVX2 with FMA: eight lanes, sixteen registers.

use std::arch::x86_64::*;

use half::bf16;

use super::simd::Simd;

/// AVX2 and FMA. Without `PREFETCH` nothing is fetched ahead.
#[derive(Clone, Copy, Debug)]
pub struct Avx2<const PREFETCH: bool>;

// SAFETY: whoever calls checked for AVX2 and FMA, and passes pointers valid for eight lanes.
#[allow(
    clippy::undocumented_unsafe_blocks,
    reason = "each is the trait's contract"
)]
unsafe impl<const PREFETCH: bool> Simd for Avx2<PREFETCH> {
    const LANES: usize = 8;
    const TILE_COLUMNS: usize = 4;
    const PANEL_ROWS: usize = 6;
    type F32 = __m256;
    type Pairs = __m256i;

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m256 {
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> __m256 {
        unsafe {
            let halves = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32(halves, 16))
        }
    }

    #[inline(always)]
    unsafe fn load_pairs(from: *const bf16) -> __m256i {
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    unsafe fn even(pairs: __m256i) -> __m256 {
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)) }
    }

    #[inline(always)]
    unsafe fn odd(pairs: __m256i) -> __m256 {
        unsafe { _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(-0x1_0000))) }
    }

    #[inline(always)]
    unsafe fn split(a: __m256, b: __m256) -> (__m256, __m256) {
        unsafe {
            // Within halves of a register first, then the halves put in order.
            let even = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0b10_00_10_00));
            let odd = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0b11_01_11_01));
            (
                _mm256_castpd_ps(_mm256_permute4x64_pd(even, 0b11_01_10_00)),
                _mm256_castpd_ps(_mm256_permute4x64_pd(odd, 0b11_01_10_00)),
            )
        }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, value: __m256) {
        unsafe { _mm256_storeu_ps(to, value) }
    }

    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_sub_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn div(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_div_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn min(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_min_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn round(a: __m256) -> __m256 {
        unsafe { _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC) }
    }

    #[inline(always)]
    unsafe fn scale_by_power_of_two(a: __m256, n: __m256) -> __m256 {
        unsafe {
            let exponents = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), exponents))
        }
    }

    #[inline(always)]
    unsafe fn reduce_add(a: __m256) -> f32 {
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    unsafe fn reduce_max(a: __m256) -> f32 {
        unsafe {
            let four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
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
