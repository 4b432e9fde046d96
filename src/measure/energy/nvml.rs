//! The energy counter of an NVIDIA GPU, by NVML, which comes with the driver and is loaded when it is
//! asked for: the same program runs with and without one.
//!
//! The counter is that of the whole board, in millijoules, and there since Volta. The power is what the
//! board tells: on most cards from Ampere on the mean of the last second, so that a peak is that of a
//! second.

use std::ffi::OsStr;
use std::sync::OnceLock;

use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use super::{Counter, EnergyError, Reading};

/// What the library is called on a machine that has the driver alone, without what is needed to
/// compile against it.
const LIBRARY: &str = "libnvidia-ml.so.1";

/// The energy counter of one GPU.
pub struct NvmlCounter {
    device: Device<'static>,
    name: String,
    /// Millijoules when it was opened.
    start: u64,
}

fn failed(what: &'static str) -> impl Fn(NvmlError) -> EnergyError {
    move |error| EnergyError::Nvml {
        what,
        word: error.to_string(),
    }
}

/// NVML, loaded once.
fn nvml() -> Result<&'static Nvml, EnergyError> {
    static NVML: OnceLock<Result<Nvml, String>> = OnceLock::new();
    let nvml = NVML.get_or_init(|| {
        let by_name = Nvml::builder().lib_path(OsStr::new(LIBRARY)).init();
        // Where it has another name the crate may know it.
        by_name.or_else(|error| Nvml::init().map_err(|_| error.to_string()))
    });
    nvml.as_ref().map_err(|word| EnergyError::Nvml {
        what: "cannot load it (it comes with the NVIDIA driver)",
        word: word.clone(),
    })
}

impl NvmlCounter {
    /// The counter of the GPU with this UUID, as in `GPU-8f6d...`: NVML counts GPUs in another order than
    /// CUDA, and knows those that `CUDA_VISIBLE_DEVICES` hides.
    ///
    /// # Errors
    /// No NVML, no such GPU, or one without the counter.
    pub fn open(uuid: &str) -> Result<Self, EnergyError> {
        let device = nvml()?.device_by_uuid(uuid);
        let device = device.map_err(failed("cannot find the GPU by its UUID"))?;
        let start = device.total_energy_consumption();
        let start = start.map_err(failed("no energy counter (there is one since Volta)"))?;
        let name = device
            .name()
            .map_err(failed("cannot read the GPU's name"))?;
        Ok(Self {
            device,
            name,
            start,
        })
    }
}

impl Counter for NvmlCounter {
    fn name(&self) -> String {
        format!("{} (NVML)", self.name)
    }

    fn parts(&self) -> Vec<String> {
        vec!["board".into()]
    }

    fn read(&mut self) -> Result<Reading, EnergyError> {
        let now = self.device.total_energy_consumption();
        let now = now.map_err(failed("cannot read the energy counter"))?;
        Ok(Reading {
            // Below zero where the driver was loaded anew, which a measurement then shows.
            joules: vec![(now as f64 - self.start as f64) * 1e-3],
            watts: self
                .device
                .power_usage()
                .ok()
                .map(|milliwatts| f64::from(milliwatts) * 1e-3),
        })
    }
}
