//! What the parts run on: the first GPU, or the emulator, which tests the parts themselves.

use std::process::Command;

use serde_json::{Value, json};

use crate::engine::cuda::{self, CudaDevice, device_code};
use crate::engine::emulated::{BLOCKS, EmulatedDevice};
use crate::engine::megakernel::{Device, DeviceError};

/// Something that kernels run on.
pub trait Machine {
    /// A device for one engine.
    type Device: Device;

    /// Whether it is a GPU: only then do times mean anything.
    const IS_GPU: bool;

    /// A device with no memory of its own yet.
    ///
    /// # Errors
    /// No driver, no GPU, no kernels for it.
    fn open(&self) -> Result<Self::Device, DeviceError>;

    /// What it is.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    fn describe(&self) -> Result<Value, DeviceError>;

    /// What its memory could give at best, in bytes a second, where that is known.
    fn specified_bandwidth(&self) -> Option<f64>;

    /// Its memory, in bytes, where that is known.
    fn memory_bytes(&self) -> Option<u64>;
}

/// The first GPU.
#[derive(Clone, Copy, Debug)]
pub struct Gpu;

impl Machine for Gpu {
    type Device = CudaDevice;

    const IS_GPU: bool = true;

    fn open(&self) -> Result<CudaDevice, DeviceError> {
        CudaDevice::new()
    }

    fn describe(&self) -> Result<Value, DeviceError> {
        let card = cuda::check_usable()?;
        let (major, minor) = card.capability;
        let architectures: Vec<_> = device_code::images()
            .iter()
            .map(|image| image.arch)
            .collect();
        Ok(json!({
            "name": card.name,
            "compute_capability": format!("{major}.{minor}"),
            "cuda_of_driver": card.driver,
            "memory_bytes": card.memory_bytes,
            "multiprocessors": card.multiprocessors,
            "l2_bytes": card.l2_bytes,
            "shared_bytes": card.shared_bytes,
            "specified_bandwidth_bytes_per_second": card.specified_bandwidth,
            "kernels_compiled_by": device_code::compiled_by().ok(),
            "kernels_compiled_for": architectures,
        }))
    }

    fn specified_bandwidth(&self) -> Option<f64> {
        cuda::check_usable().ok()?.specified_bandwidth
    }

    fn memory_bytes(&self) -> Option<u64> {
        Some(cuda::check_usable().ok()?.memory_bytes)
    }
}

/// CPU threads. Two warps a block would be slower and show nothing more of the parts.
#[derive(Clone, Copy, Debug)]
pub struct Emulator;

impl Machine for Emulator {
    type Device = EmulatedDevice;

    const IS_GPU: bool = false;

    fn open(&self) -> Result<EmulatedDevice, DeviceError> {
        EmulatedDevice::new(BLOCKS, 32)
    }

    fn describe(&self) -> Result<Value, DeviceError> {
        Ok(json!({ "name": "the emulator: its times say nothing of a GPU" }))
    }

    fn specified_bandwidth(&self) -> Option<f64> {
        None
    }

    fn memory_bytes(&self) -> Option<u64> {
        None
    }
}

/// What is asked of nvidia-smi.
const CLOCKS: &str = "driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.draw,\
                      power.limit,temperature.gpu,persistence_mode,ecc.mode.current,\
                      clocks_throttle_reasons.active";

/// The driver's version, and the clocks now, as nvidia-smi tells them; else why there are none.
pub fn clocks() -> Value {
    let query = format!("--query-gpu={CLOCKS}");
    let mut command = Command::new("nvidia-smi");
    command.args(["--id=0", &query, "--format=csv,noheader"]);
    match command.output() {
        Err(error) => json!({ "not_measured": format!("nvidia-smi: {error}") }),
        Ok(output) if !output.status.success() => {
            let words = String::from_utf8_lossy(&output.stdout);
            json!({ "not_measured": format!("nvidia-smi: {}", words.trim()) })
        }
        Ok(output) => {
            let words = String::from_utf8_lossy(&output.stdout).into_owned();
            let values = words.trim().split(", ").map(Value::from);
            Value::Object(CLOCKS.split(',').map(str::to_owned).zip(values).collect())
        }
    }
}
