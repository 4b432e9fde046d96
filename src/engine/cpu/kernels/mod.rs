//! The arithmetic of the CPU engine, one path for each instruction set.
//!
//! - [`simd`]: a vector register of any width, over which the kernels are written once
//! - [`product`], [`panel`]: products with one or a few columns, and with many
//! - [`row_sum`], `elementwise`: weighted sums of rows, and what is done number by number
//! - `portable`: plain Rust, what the other paths are tested against
//! - `avx2`, `avx512`, `avx512_bf16`, `neon`: the registers of each instruction set
//!
//! A path is chosen once, at start, and called through a table of functions.

mod elementwise;
pub mod panel;
pub mod product;
pub mod row_sum;
pub mod simd;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_bf16;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(test)]
mod tests;

use half::bf16;

use crate::engine::EngineError;
use panel::{Packing, PanelProduct};
use product::Product;
use row_sum::RowSum;

/// The functions of one path.
///
/// Each is unsafe to call: the pointers in its arguments must describe memory that is there, and
/// that no other thread writes (or, for outputs, touches) meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Kernels {
    /// The path's name, as `--kernels` takes it.
    pub name: &'static str,
    /// Whether products with many columns (prefill) round their input to bf16.
    pub rounds_panels: bool,
    /// A product with a matrix that comes from memory; its `x` must have gone through `pair`.
    pub stream: unsafe fn(&Product),
    /// Puts `x` in the order in which `stream` reads it.
    pub pair: unsafe fn(*const f32, *mut f32, usize),
    /// A product with a matrix that lies in a cache.
    pub cached: unsafe fn(&Product),
    /// Packs a part of the input of `panel_product`.
    pub pack: unsafe fn(&Packing),
    /// A product with many columns.
    pub panel_product: unsafe fn(&PanelProduct),
    /// A weighted sum of rows.
    pub row_sum: unsafe fn(&RowSum),
    /// The sum of squares.
    pub sum_of_squares: unsafe fn(*const f32, usize) -> f32,
    /// `out = x * scale * weight`.
    pub scale_by: unsafe fn(*const f32, f32, *const f32, *mut f32, usize),
    /// Exponentials for a softmax; returns the maximum and the sum.
    pub exp_and_sum: unsafe fn(*mut f32, usize, f32) -> (f32, f32),
    /// `gate = silu(gate) * up`.
    pub silu_mul: unsafe fn(*mut f32, *const f32, usize),
    /// Rotates one head by the angles whose cosines and sines are given.
    pub rotate: unsafe fn(*mut f32, *const f32, *const f32, usize),
    /// Rounds numbers to bf16.
    pub narrow: unsafe fn(*const f32, *mut bf16, usize),
    /// Asks for some cache lines, into the second-level cache.
    pub prefetch: unsafe fn(*const u8, usize),
    /// The functions that fetch ahead, as they are without that.
    unfetched: Unfetched,
}

/// Products that fetch nothing ahead.
#[derive(Clone, Copy, Debug)]
struct Unfetched {
    stream: unsafe fn(&Product),
    panel_product: unsafe fn(&PanelProduct),
}

impl Kernels {
    /// The same arithmetic with nothing fetched ahead, for comparison.
    pub fn without_prefetch(self) -> Self {
        /// # Safety
        /// None is needed: it does nothing.
        unsafe fn nothing(_at: *const u8, _lines: usize) {}
        Self {
            stream: self.unfetched.stream,
            panel_product: self.unfetched.panel_product,
            prefetch: nothing,
            ..self
        }
    }
}

/// Makes the table of a path: every kernel of [`simd`] compiled for its instruction set, and those that
/// fetch ahead also without that.
macro_rules! kernel_set {
    ($table:ident, $name:literal, $path:ident::$set:ident $(, $features:literal)?) => {
        pub(super) const $table: Kernels = {
            type Set = $path::$set<true>;
            type UnfetchedSet = $path::$set<false>;
            // SAFETY: all of these pass their caller's promises on, and are only reached through
            // a table that is handed out where the processor has the features.
            $(#[target_feature(enable = $features)])?
            unsafe fn stream(p: &Product) {
                unsafe { product::stream::<Set>(p) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn pair(x: *const f32, out: *mut f32, len: usize) {
                unsafe { product::pair::<Set>(x, out, len) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn cached(p: &Product) {
                unsafe { product::matmul::<Set, false>(p) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn pack(p: &Packing) {
                unsafe { panel::pack(p) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn panel_product(p: &PanelProduct) {
                unsafe { panel::product::<Set, { <Set as simd::Simd>::PANEL_ROWS }>(p) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn stream_unfetched(p: &Product) {
                unsafe { product::stream::<UnfetchedSet>(p) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn panel_product_unfetched(p: &PanelProduct) {
                unsafe {
                    panel::product::<UnfetchedSet, { <Set as simd::Simd>::PANEL_ROWS }>(p)
                }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn row_sum(p: &RowSum) {
                unsafe { row_sum::row_sum::<Set>(p) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn sum_of_squares(x: *const f32, len: usize) -> f32 {
                unsafe { elementwise::sum_of_squares::<Set>(x, len) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn scale_by(x: *const f32, s: f32, w: *const f32, out: *mut f32, len: usize) {
                unsafe { elementwise::scale_by::<Set>(x, s, w, out, len) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn exp_and_sum(x: *mut f32, len: usize, scale: f32) -> (f32, f32) {
                unsafe { elementwise::exp_and_sum::<Set>(x, len, scale) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn silu_mul(gate: *mut f32, up: *const f32, len: usize) {
                unsafe { elementwise::silu_mul::<Set>(gate, up, len) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn rotate(head: *mut f32, cos: *const f32, sin: *const f32, half: usize) {
                unsafe { elementwise::rotate::<Set>(head, cos, sin, half) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn narrow(from: *const f32, to: *mut bf16, len: usize) {
                unsafe { elementwise::narrow(from, to, len) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn prefetch(at: *const u8, lines: usize) {
                for line in 0..lines {
                    unsafe { <Set as simd::Simd>::prefetch_far(at.wrapping_add(line * simd::LINE)) }
                }
            }
            Kernels {
                name: $name,
                rounds_panels: false,
                stream,
                pair,
                cached,
                pack,
                panel_product,
                row_sum,
                sum_of_squares,
                scale_by,
                exp_and_sum,
                silu_mul,
                rotate,
                narrow,
                prefetch,
                unfetched: Unfetched {
                    stream: stream_unfetched,
                    panel_product: panel_product_unfetched,
                },
            }
        };
    };
}

#[allow(clippy::undocumented_unsafe_blocks, reason = "documented in the macro")]
mod tables {
    use super::*;

    kernel_set!(PORTABLE, "portable", portable::Portable);
    #[cfg(target_arch = "x86_64")]
    kernel_set!(AVX2, "avx2", avx2::Avx2, "avx2,fma");
    #[cfg(target_arch = "x86_64")]
    kernel_set!(
        AVX512,
        "avx512",
        avx512::Avx512,
        "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"
    );
    #[cfg(target_arch = "x86_64")]
    pub(super) const AVX512_BF16: Kernels = Kernels {
        name: "avx512-bf16",
        rounds_panels: true,
        pack: avx512_bf16::pack,
        panel_product: avx512_bf16::product::<true>,
        unfetched: Unfetched {
            panel_product: avx512_bf16::product::<false>,
            ..AVX512.unfetched
        },
        ..AVX512
    };
    #[cfg(target_arch = "aarch64")]
    kernel_set!(NEON, "neon", neon::Neon, "neon");
}

/// The paths this processor can run, best first.
pub fn available() -> Vec<Kernels> {
    let mut paths = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        if avx2
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
        {
            paths.push(tables::AVX512);
            if is_x86_feature_detected!("avx512bf16") {
                // See `avx512_bf16` for why the vendor decides.
                let place = if is_amd() { 0 } else { 1 };
                paths.insert(place, tables::AVX512_BF16);
            }
        }
        if avx2 {
            paths.push(tables::AVX2);
        }
    }
    #[cfg(target_arch = "aarch64")]
    paths.push(tables::NEON);
    paths.push(tables::PORTABLE);
    paths
}

/// Whether the processor is AMD's.
#[cfg(target_arch = "x86_64")]
fn is_amd() -> bool {
    let vendor = std::arch::x86_64::__cpuid(0);
    let name = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes);
    name.as_flattened() == b"AuthenticAMD"
}

/// The path called `name`, or the best one for `None`.
///
/// # Errors
/// If there is no such path on this processor.
pub fn choose(name: Option<&str>) -> Result<Kernels, EngineError> {
    let paths = available();
    let found = match name {
        None => paths.first(),
        Some(name) => paths.iter().find(|path| path.name == name),
    };
    found
        .copied()
        .ok_or_else(|| EngineError::KernelsUnavailable {
            asked: name.unwrap_or("auto").into(),
            available: paths
                .iter()
                .map(|path| path.name)
                .collect::<Vec<_>>()
                .join(", "),
        })
}
