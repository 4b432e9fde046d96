//! The counters of a device, and why there are none.

use std::path::Path;

use crate::engine::choice::{DeviceName, EngineChoice};
use crate::engine::cuda;
use crate::experiment::result::{Missing, list_missing};
use crate::measure::energy::nvml::NvmlCounter;
use crate::measure::energy::powercap::Powercap;
use crate::measure::energy::{Counter, EnergyError};

/// The counters of one engine.
#[derive(Default)]
pub struct Meters {
    counters: Vec<Box<dyn Counter>>,
    /// Those that can't be had, or failed.
    pub missing: Vec<Missing>,
}

impl Meters {
    /// The counters of what `choice` computes with: of a GPU its board, and the CPU that feeds it; else the
    /// CPU, by the zones in `powercap`.
    pub fn of(choice: &EngineChoice, powercap: &Path) -> Self {
        let mut meters = Self::default();
        if choice.device.resolved() == DeviceName::Cuda {
            match cuda::check_usable() {
                Ok(card) => meters.add("GPU", NvmlCounter::open(&card.uuid)),
                Err(error) => meters.miss("GPU", error.to_string()),
            }
        }
        meters.add("CPU", Powercap::open(powercap));
        meters
    }

    /// These counters.
    pub fn new(counters: Vec<Box<dyn Counter>>) -> Self {
        Self {
            counters,
            missing: Vec::new(),
        }
    }

    fn add<C: Counter + 'static>(&mut self, what: &str, opened: Result<C, EnergyError>) {
        match opened {
            Ok(counter) => self.counters.push(Box::new(counter)),
            Err(error) => self.miss(what, error.to_string()),
        }
    }

    fn miss(&mut self, what: &str, reason: String) {
        self.missing.push(Missing {
            what: what.to_owned(),
            reason,
        });
    }

    /// Says that counter `index` failed.
    pub fn fail(&mut self, index: usize, error: &EnergyError) {
        let what = self.counters[index].name();
        if self.missing.iter().all(|missing| missing.what != what) {
            self.miss(&what, error.to_string());
        }
    }

    /// Whether there is no counter.
    pub fn is_empty(&self) -> bool {
        self.counters.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.counters.len()
    }

    /// The counters, to be read.
    pub fn counters(&mut self) -> &mut [Box<dyn Counter>] {
        &mut self.counters
    }

    /// What each of them counts.
    pub fn names(&self) -> Vec<String> {
        self.counters.iter().map(|counter| counter.name()).collect()
    }

    /// Why there is nothing, in one line.
    pub fn reasons(&self) -> String {
        list_missing(&self.missing)
    }
}
