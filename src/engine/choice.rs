//! An engine by its name: what commands and experiments ask for, and how it is made.

use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use super::cpu::{CpuEngine, CpuOptions, CpuVariant};
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

    /// The names of its variants, the default first.
    pub fn variants(self) -> Vec<&'static str> {
        match self.resolved() {
            Self::Cuda | Self::Emulated => Variant::ALL.map(Variant::name).to_vec(),
            Self::Cpu => CpuVariant::ALL.map(CpuVariant::name).to_vec(),
            Self::Auto | Self::Reference => Vec::new(),
        }
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
    /// CPU engine and megakernel: what is done in another way than measured best, for comparison. A
    /// [`CpuVariant`] or a [`Variant`] by its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
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
    /// A variant that no engine has.
    #[error("--variant {name}: there is none of that name; --device {device} has {known}")]
    UnknownVariant {
        /// What was asked for.
        name: String,
        /// The device.
        device: &'static str,
        /// The variants of the device.
        known: String,
    },
    /// A variant that other engines have.
    #[error(
        "--variant {name} is not for --device {device}: {reason}; --device {device} has {known}"
    )]
    OtherVariant {
        /// What was asked for.
        name: String,
        /// The device.
        device: &'static str,
        /// What it is for, or why the device has no such thing.
        reason: &'static str,
        /// The variants of the device.
        known: String,
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
        matches!(
            self,
            Self::NotMegakernel { .. } | Self::UnknownVariant { .. } | Self::OtherVariant { .. }
        )
    }

    /// Whether there is no such engine here: this machine lacks a GPU, memory or an instruction set, this
    /// program has no kernel for the model, or the engine has no counterpart of another one's variant.
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
            Self::OtherVariant { .. } => true,
            Self::NotMegakernel { .. } | Self::UnknownVariant { .. } => false,
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
        match device {
            DeviceName::Cuda | DeviceName::Emulated => drop(self.megakernel_variant(device)?),
            DeviceName::Auto | DeviceName::Cpu => drop(self.cpu_variant()?),
            DeviceName::Reference => self.no_variant(device)?,
        }
        let given = [
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
        // What no kernel was made for runs on the CPU, unless a GPU was asked for.
        let is_supported = check_supported(&weights.config).is_ok();
        Ok(match self.device.resolved() {
            DeviceName::Reference => {
                Box::new(ReferenceEngine::new(Arc::new(weights), context, sequences)?)
            }
            DeviceName::Cuda if is_supported || self.device == DeviceName::Cuda => {
                let options = self.megakernel_options(context, sequences)?;
                let device = CudaDevice::new()?;
                Box::new(MegakernelEngine::new(device, &weights, options, progress)?)
            }
            DeviceName::Emulated => {
                let device = EmulatedDevice::new(emulated::BLOCKS, emulated::THREADS)?;
                let options = MegakernelOptions {
                    watchdog: emulated::WATCHDOG,
                    ..self.megakernel_options(context, sequences)?
                };
                Box::new(MegakernelEngine::new(device, &weights, options, progress)?)
            }
            DeviceName::Auto | DeviceName::Cpu | DeviceName::Cuda => {
                let options = CpuOptions {
                    threads: self.threads,
                    kernels: self.kernels.clone(),
                    variant: self.cpu_variant()?,
                    ..CpuOptions::new(context, sequences)
                };
                Box::new(CpuEngine::new(weights, &options)?)
            }
        })
    }

    fn megakernel_options(
        &self,
        context: usize,
        sequences: usize,
    ) -> Result<MegakernelOptions, ChoiceError> {
        let defaults = MegakernelOptions::new(context, sequences);
        Ok(MegakernelOptions {
            variant: self.megakernel_variant(self.device.resolved())?,
            stage: self.stage.unwrap_or(defaults.stage),
            barrier: self.barrier.unwrap_or(defaults.barrier),
            ..defaults
        })
    }

    fn cpu_variant(&self) -> Result<CpuVariant, ChoiceError> {
        let Some(name) = self.variant.as_deref() else {
            return Ok(CpuVariant::default());
        };
        let mut all = CpuVariant::ALL.into_iter();
        let found = all.find(|variant| variant.name() == name);
        let elsewhere = Variant::ALL
            .into_iter()
            .find(|variant| variant.name() == name);
        found.ok_or_else(|| {
            let reason = match elsewhere {
                Some(Variant::HeadBlocks) => Some(
                    "it divides QKV by rows and attention by heads, so that any number of threads has equal \
                     work (--device cuda and emulated have the variant)",
                ),
                Some(Variant::FusedPhases) => Some(
                    "its threads would need a copy of the residual stream each, to add the output projection \
                     up head by head (--device cuda and emulated have the variant)",
                ),
                _ => None,
            };
            self.refused(name, DeviceName::Cpu, reason)
        })
    }

    fn megakernel_variant(&self, device: DeviceName) -> Result<Variant, ChoiceError> {
        let Some(name) = self.variant.as_deref() else {
            return Ok(Variant::default());
        };
        let mut all = Variant::ALL.into_iter();
        let found = all.find(|variant| variant.name() == name);
        let is_cpus = CpuVariant::ALL.iter().any(|variant| variant.name() == name);
        let reason = is_cpus.then_some("it is one of --device cpu");
        found.ok_or_else(|| self.refused(name, device, reason))
    }

    /// # Errors
    /// If a variant is asked for.
    fn no_variant(&self, device: DeviceName) -> Result<(), ChoiceError> {
        match self.variant.as_deref() {
            None => Ok(()),
            Some(name) => Err(self.refused(name, device, Some("it computes in one way alone"))),
        }
    }

    fn refused(&self, name: &str, device: DeviceName, reason: Option<&'static str>) -> ChoiceError {
        let known = match device.variants() {
            none if none.is_empty() => "no variants".to_owned(),
            variants => variants.join(", "),
        };
        let (name, device) = (name.to_owned(), device.name());
        match reason {
            None => ChoiceError::UnknownVariant {
                name,
                device,
                known,
            },
            Some(reason) => ChoiceError::OtherVariant {
                name,
                device,
                reason,
                known,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(device: DeviceName, variant: &str) -> Result<(), ChoiceError> {
        let choice = EngineChoice {
            device,
            variant: Some(variant.to_owned()),
            ..EngineChoice::default()
        };
        choice.check()
    }

    #[test]
    fn every_variant_is_its_devices_by_name() {
        for device in [DeviceName::Cpu, DeviceName::Emulated] {
            for variant in device.variants() {
                checked(device, variant).unwrap();
            }
        }
        assert_eq!(DeviceName::Cpu.variants()[0], CpuVariant::default().name());
        assert!(DeviceName::Reference.variants().is_empty());
    }

    #[test]
    fn a_variant_of_another_device_is_missing_here_and_one_of_none_is_a_mistake() {
        for (device, variant, says) in [
            (DeviceName::Cpu, "head_blocks", "any number of threads"),
            (DeviceName::Cpu, "fused_phases", "residual stream"),
            (DeviceName::Emulated, "pool", "of --device cpu"),
            (DeviceName::Reference, "block0_norm", "no variants"),
        ] {
            let error = checked(device, variant).unwrap_err();
            assert!(error.is_missing_here() && error.is_wrong_use(), "{error}");
            let message = error.to_string();
            assert!(
                message.contains(says) && message.contains(variant),
                "{message}"
            );
        }
        let error = checked(DeviceName::Cpu, "fastest").unwrap_err();
        assert!(!error.is_missing_here() && error.is_wrong_use(), "{error}");
        let message = error.to_string();
        for known in DeviceName::Cpu.variants() {
            assert!(message.contains(known), "{message}");
        }
    }
}
