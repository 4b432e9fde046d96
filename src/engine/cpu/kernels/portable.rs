//! Plain arrays: runs anywhere, and is what the other paths are tested against.

use half::bf16;

use super::simd::{Simd, widen};

/// Eight lanes of plain Rust, which has no prefetch: the two are the same.
#[derive(Clone, Copy, Debug)]
pub struct Portable<const PREFETCH: bool>;

const LANES: usize = 8;
type Lanes = [f32; LANES];

#[inline(always)]
fn zip(a: Lanes, b: Lanes, each: impl Fn(f32, f32) -> f32) -> Lanes {
    std::array::from_fn(|lane| each(a[lane], b[lane]))
}

// SAFETY: no instruction beyond the baseline is used; pointers are read unaligned.
unsafe impl<const PREFETCH: bool> Simd for Portable<PREFETCH> {
    const LANES: usize = LANES;
    const TILE_COLUMNS: usize = 4;
    const PANEL_ROWS: usize = 4;
    type F32 = Lanes;
    type Pairs = [bf16; 2 * LANES];

    #[inline(always)]
    unsafe fn splat(value: f32) -> Lanes {
        [value; LANES]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Lanes {
        // SAFETY: the caller's pointer is valid for all lanes.
        unsafe { from.cast::<Lanes>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Lanes {
        // SAFETY: the caller's pointer is valid for all lanes.
        let values = unsafe { from.cast::<[bf16; LANES]>().read_unaligned() };
        values.map(widen)
    }

    #[inline(always)]
    unsafe fn load_pairs(from: *const bf16) -> [bf16; 2 * LANES] {
        // SAFETY: the caller's pointer is valid for twice the lanes.
        unsafe { from.cast::<[bf16; 2 * LANES]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn even(pairs: [bf16; 2 * LANES]) -> Lanes {
        std::array::from_fn(|lane| widen(pairs[2 * lane]))
    }

    #[inline(always)]
    unsafe fn odd(pairs: [bf16; 2 * LANES]) -> Lanes {
        std::array::from_fn(|lane| widen(pairs[2 * lane + 1]))
    }

    #[inline(always)]
    unsafe fn split(a: Lanes, b: Lanes) -> (Lanes, Lanes) {
        let both = [a, b];
        let number = |index: usize| both[index / LANES][index % LANES];
        (
            std::array::from_fn(|lane| number(2 * lane)),
            std::array::from_fn(|lane| number(2 * lane + 1)),
        )
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, value: Lanes) {
        // SAFETY: the caller's pointer is valid for all lanes.
        unsafe { to.cast::<Lanes>().write_unaligned(value) }
    }

    #[inline(always)]
    unsafe fn add(a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn sub(a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    unsafe fn mul(a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    unsafe fn div(a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| a / b)
    }

    #[inline(always)]
    unsafe fn max(a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    unsafe fn min(a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    unsafe fn mul_add(a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        // Not f32::mul_add: without the instruction that is a library call.
        std::array::from_fn(|lane| a[lane] * b[lane] + c[lane])
    }

    #[inline(always)]
    unsafe fn round(a: Lanes) -> Lanes {
        // Adding and taking away 1.5 * 2^23 rounds to nearest even; |a| stays far below 2^22.
        const MAGIC: f32 = 12_582_912.0;
        a.map(|a| (a + MAGIC) - MAGIC)
    }

    #[inline(always)]
    unsafe fn scale_by_power_of_two(a: Lanes, n: Lanes) -> Lanes {
        zip(a, n, |a, n| {
            f32::from_bits(a.to_bits().wrapping_add(((n as i32) << 23) as u32))
        })
    }

    #[inline(always)]
    unsafe fn reduce_add(a: Lanes) -> f32 {
        ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))
    }

    #[inline(always)]
    unsafe fn reduce_max(a: Lanes) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    unsafe fn prefetch(_at: *const u8) {}

    #[inline(always)]
    unsafe fn prefetch_far(_at: *const u8) {}
}
