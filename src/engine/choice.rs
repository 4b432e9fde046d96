//! An engine by its name: what commands and experiments ask for, and how it is made.

use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use super::cpu::{CpuEngine, CpuOptions};
use super::cuda::{self, CudaDevice};
use super::emulated::{self, EmulatedDevice};
use super::megakernel::plan::check_supported;
use super::megakernel::{
    Barrier, DeviceError, MegakernelEngine, MegakernelOptions, Stage, Variant,
};
use super::reference::ReferenceEngine;
use super::{Engine, EngineError};
use crate::model::Weights;
use crate::model::checkpoint::{LoadOptions, Placement, Precision};

/// What can compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceName {
    /// The fastest that this machine has.
    #[default]
    Auto,
    /// The CPU's cores, at the speed of memory.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
    /// The CUDA kernel on CPU threads: slow, for tests of the kernel.
    Emulated,
    /// The plain forward pass in f32: slow, for comparison.
    Reference,
}

impl DeviceName {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Auto,
        Self::Cpu,
        Self::Cuda,
        Self::Emulated,
        Self::Reference,
    ];

    /// Its name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Emulated => "emulated",
            Self::Reference => "reference",
        }
    }

    /// Whether it runs the CUDA kernel.
    pub fn is_megakernel(self) -> bool {
        matches!(self, Self::Cuda | Self::Emulated)
    }

    /// The device itself, once it is known what this machine has.
    pub fn resolved(self) -> Self {
        // Asked once: loading a driver takes a moment.
        static AUTO: OnceLock<DeviceName> = OnceLock::new();
        match self {
            Self::Auto => *AUTO.get_or_init(|| match cuda::check_usable() {
                Ok(_) => Self::Cuda,
                Err(_) => Self::Cpu,
            }),
            device => device,
        }
    }
}

/// An engine, and what can be chosen of it; where nothing is said, what measured best. As in a plan:
///
/// ```toml
/// device = "emulated"
/// variant = "block0_norm"
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineChoice {
    /// What computes.
    pub device: DeviceName,
    /// CPU engine: its team; one for each core where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<NonZeroUsize>,
    /// CPU engine: the instruction set of its kernels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernels: Option<String>,
    /// CPU engine: where a checkpoint's weights lie.
    #[serde(skip)]
    pub placement: Placement,
    /// Megakernel: how its phases are put together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<Variant>,
    /// Megakernel: how a decode is divided into launches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<Stage>,
    /// Megakernel: how blocks wait for each other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub barrier: Option<Barrier>,
}

/// An engine that can't be had as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ChoiceError {
    /// Something chosen of the megakernel, for an engine that is none.
    #[error("{option} is for --device cuda and --device emulated; this is --device {device}")]
    NotMegakernel {
        /// As its flag is called.
        option: &'static str,
        /// The device.
        device: &'static str,
    },
    /// A GPU that is not there.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The engine can't be made.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl ChoiceError {
    /// Whether another command line would do.
    pub fn is_wrong_use(&self) -> bool {
        matches!(self, Self::NotMegakernel { .. })
    }

    /// Whether there is no such engine here: this machine lacks a GPU, memory or an instruction set, or
    /// this program has no kernel for the model.
    pub fn is_missing_here(&self) -> bool {
        match self {
            Self::Device(error) | Self::Engine(EngineError::Device(error)) => matches!(
                error,
                DeviceError::NoDriver
                    | DeviceError::DriverTooOld { .. }
                    | DeviceError::NoDevice { .. }
                    | DeviceError::NoKernels { .. }
                    | DeviceError::ArchitectureMissing { .. }
                    | DeviceError::OutOfMemory { .. }
                    | DeviceError::HeadDim { .. }
                    | DeviceError::NoSuchKernel { .. }
            ),
            Self::Engine(error) => matches!(
                error,
                EngineError::KernelsUnavailable { .. } | EngineError::OutOfMemory { .. }
            ),
            Self::NotMegakernel { .. } => false,
        }
    }
}

impl EngineChoice {
    /// Whether this machine has the engine, which is worth knowing before a model is loaded.
    ///
    /// # Errors
    /// If it has not; an option of another engine.
    pub fn check(&self) -> Result<(), ChoiceError> {
        let device = self.device.resolved();
        if device == DeviceName::Cuda {
            cuda::check_usable()?;
        }
        let given = [
            self.variant.map(|_| "--variant"),
            self.stage.map(|_| "--stage"),
            self.barrier.map(|_| "--barrier"),
        ];
        match given.into_iter().flatten().next() {
            Some(option) if !device.is_megakernel() => Err(ChoiceError::NotMegakernel {
                option,
                device: device.name(),
            }),
            _ => Ok(()),
        }
    }

    /// The precision that the engine wants matrices in: the reference computes with what the
    /// checkpoint stores, the others with bf16.
    pub fn precision(&self) -> Precision {
        match self.device {
            DeviceName::Reference => Precision::Stored,
            _ => Precision::Bf16,
        }
    }

    /// How the engine wants a checkpoint loaded.
    pub fn load_options(&self) -> LoadOptions {
        LoadOptions {
            // What goes to a device is read once, on its way there.
            placement: match self.device.resolved().is_megakernel() {
                true => Placement::Mapped,
                false => self.placement,
            },
            precision: self.precision(),
        }
    }

    /// The engine, for `sequences` sequences of up to `context` positions. `progress` is told
    /// (done, of all) bytes that went to a GPU.
    ///
    /// # Errors
    /// An engine that this machine does not have; a context beyond the model's; no memory or
    /// threads.
    pub fn engine(
        &self,
        weights: Weights,
        context: usize,
        sequences: usize,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Box<dyn Engine>, ChoiceError> {
        self.check()?;
        let options = self.megakernel_options(context, sequences);
        // What no kernel was made for runs on the CPU, unless a GPU was asked for.
        let is_supported = check_supported(&weights.config).is_ok();
        Ok(match self.device.resolved() {
            DeviceName::Reference => {
                Box::new(ReferenceEngine::new(Arc::new(weights), context, sequences)?)
            }
            DeviceName::Cuda if is_supported || self.device == DeviceName::Cuda => {
                let device = CudaDevice::new()?;
                Box::new(MegakernelEngine::new(device, &weights, options, progress)?)
            }
            DeviceName::Emulated => {
                let device = EmulatedDevice::new(emulated::BLOCKS, emulated::THREADS)?;
                let options = MegakernelOptions {
                    watchdog: emulated::WATCHDOG,
                    ..options
                };
                Box::new(MegakernelEngine::new(device, &weights, options, progress)?)
            }
            DeviceName::Auto | DeviceName::Cpu | DeviceName::Cuda => {
                let options = CpuOptions {
                    threads: self.threads,
                    context,
                    sequences,
                    kernels: self.kernels.clone(),
                };
                Box::new(CpuEngine::new(weights, &options)?)
            }
        })
    }

    fn megakernel_options(&self, context: usize, sequences: usize) -> MegakernelOptions {
        let defaults = MegakernelOptions::new(context, sequences);
        MegakernelOptions {
            variant: self.variant.unwrap_or(defaults.variant),
            stage: self.stage.unwrap_or(defaults.stage),
            barrier: self.barrier.unwrap_or(defaults.barrier),
            ..defaults
        }
    }
}
