//! The kernels compiled for GPUs, as the build found an nvcc for them.

/// The kernels of one source for one architecture.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    /// The source's name: `megakernel` for `cuda/megakernel.cu`.
    pub source: &'static str,
    /// Compute capability without its point: 90 for 9.0.
    pub arch: u32,
    /// Whether it also holds PTX, which the driver can compile for any later architecture.
    pub has_ptx: bool,
    /// A fatbin, for `cuModuleLoadData`.
    pub code: &'static [u8],
}

/// Fatbins begin with 64-bit fields.
#[allow(dead_code, reason = "a build without nvcc has nothing to align")]
#[repr(C, align(16))]
struct Aligned<T>(T);

include!(concat!(env!("OUT_DIR"), "/device_code.rs"));

/// What compiled the kernels ("nvcc 13.0.88"), or why there are none ("no nvcc was found when it was
/// built").
pub fn compiled_by() -> Result<&'static str, &'static str> {
    COMPILED_BY
}

/// What to do where there are no kernels.
pub const HOW_TO_GET_NVCC: &str = "Install the CUDA toolkit, or on Linux its compiler alone:\n  \
    pip install 'nvidia-cuda-nvcc==13.0.*' 'nvidia-cuda-crt==13.0.*' 'nvidia-nvvm==13.0.*' \
    'nvidia-cuda-runtime==13.0.*' nvidia-cuda-cccl\n\
    and build again, after `touch build/main.rs`, which has cargo look for it";

/// Every image, in the order of sources and architectures.
pub fn images() -> &'static [Image] {
    ALL
}

/// The images of `source` to try on a card of compute capability `major.minor`, best first. The driver
/// refuses those that it can't run with `CUDA_ERROR_NO_BINARY_FOR_GPU` (boards with a Tegra don't run
/// what was compiled for cards).
pub fn images_for(source: &str, major: u32, minor: u32) -> Vec<&'static Image> {
    candidates(ALL, source, major * 10 + minor)
}

fn candidates<'a>(images: &'a [Image], source: &str, card: u32) -> Vec<&'a Image> {
    let runs = |image: &Image| image.arch / 10 == card / 10 || image.has_ptx;
    let mut images: Vec<_> = images
        .iter()
        .filter(|image| image.source == source && image.arch <= card && runs(image))
        .collect();
    images.sort_by_key(|image| std::cmp::Reverse(image.arch));
    images
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Images that stand for those of all architectures, with PTX where it begins anew.
    fn all() -> Vec<Image> {
        let image = |arch| Image {
            source: "megakernel",
            arch,
            has_ptx: [80, 100].contains(&arch),
            code: &[],
        };
        [80, 86, 89, 90, 100, 120].map(image).to_vec()
    }

    fn for_card(card: u32) -> Vec<u32> {
        candidates(&all(), "megakernel", card)
            .iter()
            .map(|image| image.arch)
            .collect()
    }

    #[test]
    fn a_card_gets_its_own_code_first() {
        assert_eq!(for_card(80), [80]);
        assert_eq!(for_card(86), [86, 80]);
        assert_eq!(for_card(89), [89, 86, 80]);
        assert_eq!(for_card(90), [90, 80]);
        assert_eq!(for_card(120), [120, 100, 80]);
    }

    #[test]
    fn a_card_between_two_gets_code_of_its_major_or_ptx() {
        assert_eq!(for_card(87), [86, 80]);
        assert_eq!(for_card(103), [100, 80]);
        assert_eq!(for_card(110), [100, 80]);
        assert_eq!(for_card(121), [120, 100, 80]);
    }

    #[test]
    fn a_later_card_gets_the_newest_ptx_and_an_older_one_nothing() {
        assert_eq!(for_card(140), [100, 80]);
        assert!(for_card(75).is_empty());
    }

    #[test]
    fn another_source_has_its_own_images() {
        assert!(candidates(&all(), "step_kernels", 90).is_empty());
    }
}
