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

/// What compiled the kernels, or why there are none and what to do about it.
pub fn compiler() -> Result<&'static str, String> {
    Err("this onegrid holds no kernels for GPUs: no nvcc was found when it was built".into())
}

/// The images of `source` to try on a card of compute capability `major.minor`, best first.
pub fn images_for(_source: &str, _major: u32, _minor: u32) -> Vec<&'static Image> {
    Vec::new()
}
