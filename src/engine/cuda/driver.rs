//! The driver: whether it is there, its GPUs, and what it says when a call fails. The only file
//! besides `memory` and `stream` that calls it.

use std::ffi::CStr;

use cudarc::driver::result;
use cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute, CUresult};

use crate::engine::megakernel::DeviceError;

/// The oldest CUDA whose drivers have all functions used here: it brought 12.0's names of them.
const OLDEST: i32 = 12_000;

/// CUDA's word for a failed call: its name, and what it means.
pub(super) fn word(error: result::DriverError) -> String {
    let text = |found: Result<&CStr, _>| found.ok().map(|text| text.to_string_lossy().into_owned());
    match (text(error.error_name()), text(error.error_string())) {
        (Some(name), Some(meaning)) => format!("{name}: {meaning}"),
        _ => format!("CUDA error {}", error.0 as u32),
    }
}

/// A GPU that is there.
#[derive(Clone, Debug, PartialEq)]
pub struct Card {
    pub(super) device: sys::CUdevice,
    /// Its name.
    pub name: String,
    /// What it is told apart by: `GPU-` and 32 hexadecimal digits in groups, as NVIDIA's tools have it.
    pub uuid: String,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Shared memory that a block may have, where a kernel asks for it.
    pub shared_bytes: u32,
    /// Size of the second-level cache.
    pub l2_bytes: u64,
    /// Its memory, in bytes.
    pub memory_bytes: u64,
    /// What its memory clock and bus allow, in bytes a second; `None` where the driver does not say.
    pub specified_bandwidth: Option<f64>,
    /// The newest CUDA that the driver supports, as in `13.0`.
    pub driver: String,
    /// Whether all blocks of a grid can wait for each other.
    pub cooperative: bool,
}

fn version(number: i32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

fn uuid(uuid: sys::CUuuid) -> String {
    let mut text = "GPU".to_owned();
    for (index, byte) in uuid.bytes.into_iter().enumerate() {
        if matches!(index, 0 | 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text += &format!("{:02x}", byte as u8);
    }
    text
}

/// A call that failed before there was a card to name.
fn failed(call: &'static str) -> impl Fn(result::DriverError) -> DeviceError {
    move |error| DeviceError::Call {
        call,
        device: "the NVIDIA driver".into(),
        word: word(error),
    }
}

/// The first GPU that the driver shows (`CUDA_VISIBLE_DEVICES` chooses).
///
/// # Errors
/// No driver, one that is too old, or no GPU.
pub fn first_card() -> Result<Card, DeviceError> {
    // SAFETY: loads the driver's library, whose initialisers are the driver's own.
    if !unsafe { sys::is_culib_present() } {
        return Err(DeviceError::NoDriver);
    }
    let mut driver = 0;
    // SAFETY: writes a number to the pointer it is given; needs no initialisation.
    let result = unsafe { sys::cuDriverGetVersion(&raw mut driver) }.result();
    result.map_err(failed("cuDriverGetVersion"))?;
    if driver < OLDEST {
        return Err(DeviceError::DriverTooOld {
            found: version(driver),
            needed: "12.0",
        });
    }
    let no_device = |error| DeviceError::NoDevice { word: word(error) };
    result::init().map_err(no_device)?;
    let count = result::device::get_count().map_err(no_device)?;
    if count == 0 {
        let word = "it shows none".into();
        return Err(DeviceError::NoDevice { word });
    }
    let device = result::device::get(0).map_err(no_device)?;
    card(device, version(driver))
}

fn card(device: sys::CUdevice, driver: String) -> Result<Card, DeviceError> {
    let attribute = |attribute: Attribute| {
        // SAFETY: the device is one that the driver named.
        let value = unsafe { result::device::get_attribute(device, attribute) };
        let value = value.map_err(failed("cuDeviceGetAttribute"))?;
        Ok::<_, DeviceError>(u32::try_from(value).unwrap_or(0))
    };
    // SAFETY: the device is one that the driver named.
    let memory_bytes = unsafe { result::device::total_mem(device) };
    // In kHz, and in bits; both edges of the clock carry data.
    let clock = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?;
    let bus = attribute(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?;
    let bandwidth = 2.0 * f64::from(clock) * 1e3 * f64::from(bus) / 8.0;
    Ok(Card {
        device,
        name: result::device::get_name(device).map_err(failed("cuDeviceGetName"))?,
        uuid: uuid(result::device::get_uuid(device).map_err(failed("cuDeviceGetUuid"))?),
        capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        l2_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?.into(),
        memory_bytes: memory_bytes.map_err(failed("cuDeviceTotalMem"))? as u64,
        specified_bandwidth: (bandwidth > 0.0).then_some(bandwidth),
        driver,
        cooperative: attribute(Attribute::CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH)? != 0,
    })
}

/// The primary context of a card, current on this thread while it is used.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) card: Card,
    context: sys::CUcontext,
}

impl Context {
    /// Takes the primary context of `card`.
    pub(super) fn new(card: Card) -> Result<Self, DeviceError> {
        // SAFETY: the device is one that the driver named.
        let context = unsafe { result::primary_ctx::retain(card.device) };
        let context = context.map_err(failed("cuDevicePrimaryCtxRetain"))?;
        let context = Self { card, context };
        context.make_current()?;
        Ok(context)
    }

    /// Makes it this thread's: an engine may move from one thread to another.
    pub(super) fn make_current(&self) -> Result<(), DeviceError> {
        // SAFETY: the context is retained until `self` is dropped.
        let result = unsafe { result::ctx::set_current(self.context) };
        result.map_err(|error| self.error("cuCtxSetCurrent", error))
    }

    /// The error of a call on this card.
    pub(super) fn error(&self, call: &'static str, error: result::DriverError) -> DeviceError {
        DeviceError::Call {
            call,
            device: self.card.name.clone(),
            word: word(error),
        }
    }

    /// The error of asking for `needed` bytes.
    pub(super) fn memory_error(
        &self,
        what: &'static str,
        needed: u64,
        error: result::DriverError,
    ) -> DeviceError {
        if error.0 != CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            return self.error("cuMemAlloc", error);
        }
        let free = result::mem_get_info().map_or(0, |(free, _)| free as u64);
        DeviceError::OutOfMemory {
            what,
            device: self.card.name.clone(),
            needed,
            free,
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once in `new`. A failure has nowhere to go.
        let _ = unsafe { result::primary_ctx::release(self.card.device) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_written_as_people_write_them() {
        assert_eq!(version(12_080), "12.8");
        assert_eq!(version(13_000), "13.0");
    }

    #[test]
    fn a_uuid_is_written_as_nvidias_tools_write_it() {
        let bytes = std::array::from_fn(|index| (index * 16 + 15) as i8 as _);
        assert_eq!(
            uuid(sys::CUuuid { bytes }),
            "GPU-0f1f2f3f-4f5f-6f7f-8f9f-afbfcfdfefff"
        );
    }

    #[test]
    fn a_machine_without_a_gpu_is_told_what_it_lacks() {
        // On a machine with a GPU there is nothing to see here.
        if let Err(error) = first_card() {
            let message = error.to_string();
            assert!(message.contains("NVIDIA driver"), "{message}");
            assert!(
                message.contains("--device cpu") || message.contains("update"),
                "{message}"
            );
        }
    }
}
