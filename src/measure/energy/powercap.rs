//! RAPL's counters as Linux's powercap shows them: `/sys/class/powercap/intel-rapl:*/energy_uj`, on Intel's
//! processors and on AMD's.
//!
//! Counted are the packages and, where they are counted apart, their memory: decoding is reading memory.
//! Not counted: `core` and `uncore`, which are parts of a package; `psys`, which is the whole platform with
//! the package in it; and the control type `intel-rapl-mmio`, which is the same package by another way.
//! (Linux, Documentation/power/powercap/powercap.rst and drivers/powercap/intel_rapl_common.c.)

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{Counter, EnergyError, Reading};

/// Where Linux shows its zones.
pub const FOLDER: &str = "/sys/class/powercap";

/// Zones of this control type; `intel-rapl:0` is a package, `intel-rapl:0:2` a part of it.
const CONTROL_TYPE: &str = "intel-rapl:";

/// The packages of this machine and their memory.
#[derive(Debug)]
pub struct Powercap {
    zones: Vec<Zone>,
}

/// One counter.
#[derive(Debug)]
struct Zone {
    /// `package-0`, or `package-0 dram`.
    name: String,
    energy: PathBuf,
    /// Where it wraps around, if it says so.
    range: Option<u64>,
    /// Microjoules at the last reading.
    last: u64,
    /// Microjoules since it was opened.
    total: u64,
}

impl Powercap {
    /// Opens the zones in `folder`, which is [`FOLDER`] but in tests.
    ///
    /// # Errors
    /// No zones, or zones that can't be read.
    pub fn open(folder: &Path) -> Result<Self, EnergyError> {
        let names = zone_names(folder)?;
        let mut zones = Vec::new();
        for name in &names {
            let told = read(&folder.join(name).join("name"))?;
            let is_package = told.starts_with("package-") && parent(name).is_none();
            if is_package {
                zones.push(Zone::open(folder, name, told)?);
            } else if told == "dram"
                && let Some(package) = parent(name)
            {
                let package = read(&folder.join(package).join("name"))?;
                zones.push(Zone::open(folder, name, format!("{package} dram"))?);
            }
        }
        if !zones.iter().any(|zone| !zone.name.ends_with(" dram")) {
            let found = match names.is_empty() {
                true => "no zone of RAPL".into(),
                false => names.join(", "),
            };
            return Err(EnergyError::NoPackage {
                folder: folder.to_owned(),
                found,
            });
        }
        Ok(Self { zones })
    }
}

/// The folders of RAPL's zones, in order.
fn zone_names(folder: &Path) -> Result<Vec<String>, EnergyError> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(EnergyError::NoPowercap {
                folder: folder.to_owned(),
            });
        }
        entries => entries.map_err(|source| failed(folder, source))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(|source| failed(folder, source))?.file_name();
        let name = name.to_string_lossy().into_owned();
        if name.starts_with(CONTROL_TYPE) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The zone that `intel-rapl:0:2` is a part of; `None` for `intel-rapl:0`.
fn parent(name: &str) -> Option<&str> {
    let (package, _) = name.rsplit_once(':')?;
    package.contains(':').then_some(package)
}

fn failed(path: &Path, source: std::io::Error) -> EnergyError {
    let path = path.to_owned();
    match source.kind() {
        ErrorKind::PermissionDenied => EnergyError::Permission { path },
        _ => EnergyError::Read { path, source },
    }
}

fn read(path: &Path) -> Result<String, EnergyError> {
    let text = std::fs::read_to_string(path).map_err(|source| failed(path, source))?;
    Ok(text.trim().to_owned())
}

fn read_microjoules(path: &Path) -> Result<u64, EnergyError> {
    let found = read(path)?;
    found.parse().map_err(|_| EnergyError::NotANumber {
        path: path.to_owned(),
        found,
    })
}

impl Zone {
    fn open(folder: &Path, zone: &str, name: String) -> Result<Self, EnergyError> {
        let energy = folder.join(zone).join("energy_uj");
        Ok(Self {
            name,
            range: read_microjoules(&folder.join(zone).join("max_energy_range_uj")).ok(),
            last: read_microjoules(&energy)?,
            total: 0,
            energy,
        })
    }

    /// Joules since it was opened. It must be read again before it has wrapped around twice: the least
    /// range there is, 2^32 counts of 15 uJ, lasts for minutes at a kilowatt.
    fn joules(&mut self) -> Result<f64, EnergyError> {
        let now = read_microjoules(&self.energy)?;
        let passed = match (now.checked_sub(self.last), self.range) {
            (Some(passed), _) => passed,
            (None, Some(range)) if range >= self.last => range - self.last + now,
            (None, _) => {
                return Err(EnergyError::WentBack {
                    zone: self.name.clone(),
                    before: self.last,
                    after: now,
                });
            }
        };
        self.last = now;
        self.total += passed;
        Ok(self.total as f64 * 1e-6)
    }
}

impl Counter for Powercap {
    fn name(&self) -> String {
        format!("{} (RAPL)", self.parts().join(", "))
    }

    fn parts(&self) -> Vec<String> {
        self.zones.iter().map(|zone| zone.name.clone()).collect()
    }

    fn read(&mut self) -> Result<Reading, EnergyError> {
        let joules: Result<_, _> = self.zones.iter_mut().map(Zone::joules).collect();
        Ok(Reading {
            joules: joules?,
            watts: None,
        })
    }
}
