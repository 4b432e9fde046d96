//! What can go wrong between the host and a device.

use super::abi::{self, OgPhase};

/// A failure of the machine that runs the kernels, or a launch that it refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// libcuda can't be loaded.
    #[error(
        "this machine has no NVIDIA driver (libcuda can't be loaded): install one, or use \
         --device cpu"
    )]
    NoDriver,
    /// A driver that does not know the functions used here.
    #[error(
        "the NVIDIA driver supports CUDA {found}; expected {needed} or later: update the driver"
    )]
    DriverTooOld {
        /// The newest CUDA that it supports.
        found: String,
        /// What is needed.
        needed: &'static str,
    },
    /// A driver without a GPU.
    #[error("the NVIDIA driver finds no GPU ({word}): use --device cpu")]
    NoDevice {
        /// CUDA's word.
        word: String,
    },
    /// A program that was built where there was no nvcc.
    #[error("{why}")]
    NoKernels {
        /// What was missing, and what to do about it.
        why: String,
    },
    /// A GPU that the kernels were not compiled for.
    #[error(
        "{device} has compute capability {capability}, which the kernels in this program were not \
         compiled for ({word}): build onegrid again with ONEGRID_CUDA_ARCHS={arch}"
    )]
    ArchitectureMissing {
        /// The GPU.
        device: String,
        /// Such as `9.0`.
        capability: String,
        /// Such as `90`.
        arch: String,
        /// CUDA's word.
        word: String,
    },
    /// Memory that the device does not have.
    #[error(
        "no memory for {what} on {device}: {needed} bytes needed, {free} free; a shorter --context \
         needs less"
    )]
    OutOfMemory {
        /// "the weights", "the KV cache and activations", ...
        what: &'static str,
        /// Where.
        device: String,
        /// Bytes asked for.
        needed: u64,
        /// Bytes there are.
        free: u64,
    },
    /// Sizes that no address space holds.
    #[error("{what} would take more than 2^64 bytes")]
    TooLarge {
        /// What.
        what: &'static str,
    },
    /// A width of heads that no kernel was made for.
    #[error(
        "the kernels run heads of 64 or 128 dimensions, and this model's have {head_dim}: use \
         --device cpu"
    )]
    HeadDim {
        /// The model's.
        head_dim: usize,
    },
    /// A kernel that was not compiled.
    #[error(
        "variant {variant} has no kernel for heads of {head_dim} and a batch of {columns} on {device}; \
         it has kernels for {supported}: use --variant redundant_norm"
    )]
    NoSuchKernel {
        /// The variant, or the name of a separate kernel.
        variant: String,
        /// Columns of the pass.
        columns: usize,
        /// Width of a head.
        head_dim: usize,
        /// Where it was looked for.
        device: String,
        /// What the variant has kernels for there.
        supported: String,
    },
    /// Shared memory that a block does not have.
    #[error("{kernel} needs {needed} bytes of shared memory in a block; {device} has {most}")]
    SharedMemory {
        /// The kernel.
        kernel: String,
        /// The device.
        device: String,
        /// Bytes it needs at least.
        needed: u64,
        /// Bytes a block may have.
        most: u64,
    },
    /// A grid whose blocks would wait for blocks that can't run yet.
    #[error(
        "{kernel}: a grid of {blocks} blocks with {threads} threads and {shared_bytes} bytes of \
         shared memory each can't be resident together on {device}, which holds {resident}"
    )]
    GridNotResident {
        /// The kernel.
        kernel: String,
        /// The device.
        device: String,
        /// Blocks of the grid.
        blocks: u32,
        /// Threads of a block.
        threads: u32,
        /// Shared memory of a block.
        shared_bytes: u32,
        /// Blocks that can be resident.
        resident: u32,
    },
    /// Tables of guides that don't fit the memory set aside for them.
    #[error(
        "the tables of the constraints take {needed} bytes of device memory, and {room} were set aside; \
         decode fewer sequences together, or simplify the constraints"
    )]
    GuidesTooLarge {
        /// Bytes that they take.
        needed: u64,
        /// Bytes that there are.
        room: u64,
    },
    /// The watchdog ended a launch.
    #[error(
        "the launch stalled: block {block} did not reach the barrier after {} of layer {layer} \
         within the watchdog's time",
        phase_name(*.phase)
    )]
    Stalled {
        /// The first block that did not arrive.
        block: u32,
        /// `OgPhase`.
        phase: u32,
        /// The layer.
        layer: u32,
    },
    /// A kernel that could not be launched, or did not end well.
    #[error("{device}: {kernel} failed: {word}")]
    Launch {
        /// The kernel.
        kernel: String,
        /// The device.
        device: String,
        /// CUDA's word.
        word: String,
    },
    /// Any other call that failed.
    #[error("{device}: {call} failed: {word}")]
    Call {
        /// The function.
        call: &'static str,
        /// The device.
        device: String,
        /// CUDA's word.
        word: String,
    },
    /// A launch whose results contradict each other.
    #[error("{device}: the kernel's results contradict themselves: {what}")]
    Inconsistent {
        /// The device.
        device: String,
        /// What does not fit.
        what: String,
    },
}

/// The word for a phase in messages and tables.
pub fn phase_name(phase: OgPhase) -> &'static str {
    match phase {
        abi::OG_PHASE_EMBED => "embed",
        abi::OG_PHASE_NORM => "norm",
        abi::OG_PHASE_QKV => "qkv",
        abi::OG_PHASE_ATTENTION => "attention",
        abi::OG_PHASE_OUTPUT => "output",
        abi::OG_PHASE_GATE_UP => "gate_up",
        abi::OG_PHASE_DOWN => "down",
        abi::OG_PHASE_HEAD => "head",
        abi::OG_PHASE_SELECT => "select",
        abi::OG_PHASE_SAMPLE => "sample",
        _ => "an unknown phase",
    }
}

#[cfg(test)]
mod tests {
    use super::abi::{OG_PHASE_GATE_UP, OG_PHASES};
    use super::*;

    #[test]
    fn every_phase_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = (0..OG_PHASES).map(phase_name).collect();
        assert_eq!(names.len(), OG_PHASES as usize);
        assert!(!names.contains(phase_name(OG_PHASES)));
    }

    #[test]
    fn a_stall_names_block_phase_and_layer() {
        let error = DeviceError::Stalled {
            block: 7,
            phase: OG_PHASE_GATE_UP,
            layer: 3,
        };
        let message = error.to_string();
        for word in ["block 7", "gate_up", "layer 3"] {
            assert!(message.contains(word), "{message}");
        }
    }

    #[test]
    fn missing_memory_is_told_with_both_numbers() {
        let error = DeviceError::OutOfMemory {
            what: "the weights",
            device: "a GPU".into(),
            needed: 1_191_968_768,
            free: 1_000_000,
        };
        let message = error.to_string();
        assert!(
            message.contains("1191968768") && message.contains("1000000"),
            "{message}"
        );
    }
}
