//! The megakernel on a GPU.
//!
//! - [`device_code`]: the kernels that this program holds

pub mod device_code;
