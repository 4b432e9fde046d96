//! What the engines that run `cuda/megakernel.cu` share, on a GPU or on CPU threads.
//!
//! - [`abi`]: what host and kernels agree on

pub mod abi;
