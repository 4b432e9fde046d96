//! What the host and the kernels share: `cuda/abi.h`.

mod bindings;

pub use bindings::*;
