//! What it costs to keep threads or blocks in step: the same phases, with each way to wait between them.
//!
//! - here: the plan, and its cells: a number of threads or blocks, and a load
//! - [`sections`]: what the results say

pub mod sections;

use std::num::NonZeroUsize;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::plan;
use super::{Cell, Experiment, ExperimentError, Kind, Setting, Watch};
use crate::engine::choice::DeviceName;
use crate::engine::cuda::CudaDevice;
use crate::engine::emulated::{BLOCKS, EmulatedDevice};
use crate::engine::megakernel::Device;
use crate::measure::device_costs::{Bench, resident_blocks};
use crate::measure::statistics::{Summary, hash};
use crate::measure::synchronisation::{Phases, Runner, Way};

/// The experiment.
pub const KIND: Kind = Kind {
    name: "sync-overhead",
    question: "What does it cost to keep threads, or the blocks of a grid, in step?",
    plan: include_str!("../../../experiments/sync-overhead/plan.toml"),
    has_traces: false,
    open,
    sections: sections::sections,
};

/// Phases of the check that every phase sees all of the one before it.
const CHECKED_PHASES: usize = 400;

/// What varies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Phases of a run.
    pub phases: usize,
    /// Runs of each way that count, in turns; one more comes before them.
    pub repeats: usize,
    /// Bytes that all read together in each phase; 0 is an empty phase.
    pub loads: Vec<u32>,
    /// On a CPU: how many threads.
    pub threads: Vec<NonZeroUsize>,
    /// On a CPU: which ways.
    pub ways: Vec<Way>,
    /// On a CPU: bytes of the memory of which each phase reads another stretch: more than the caches hold.
    pub memory_bytes: usize,
    /// On a GPU: blocks for each multiprocessor.
    pub blocks: Vec<f64>,
}

/// What a cell found. The names of the JSON fields are a contract.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// `cpu`, `cuda` or `emulated`.
    pub device: String,
    /// Threads of a CPU, or blocks of a grid.
    pub parties: usize,
    /// Threads of a block; `None` on a CPU.
    pub threads_of_a_block: Option<u32>,
    /// Bytes read in each phase, by all together.
    pub load_bytes: u32,
    /// Phases of a run.
    pub phases: usize,
    /// Each way, in turns.
    pub ways: Vec<WayFound>,
}

/// What one way takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WayFound {
    /// Its name.
    pub way: String,
    /// Microseconds of a run.
    pub run_microseconds: Summary,
    /// Microseconds of a phase, what is done in it included.
    pub phase_microseconds: Summary,
}

struct SyncOverhead {
    plan: Plan,
    device: DeviceName,
    /// What phases read; made when it is first needed.
    memory: Option<Arc<[u64]>>,
}

fn open(text: &str, setting: &Setting) -> Result<Box<dyn Experiment>, ExperimentError> {
    let plan: Plan = plan::parse(text)?;
    plan::demand(&plan.loads, "loads")?;
    plan::demand(&plan.threads, "threads")?;
    plan::demand(&plan.ways, "ways")?;
    plan::demand(&plan.blocks, "blocks")?;
    if plan.phases == 0 || plan.repeats == 0 {
        let reason = "`phases` and `repeats` must be 1 or more".into();
        return Err(ExperimentError::Plan { reason });
    }
    if let Some(load) = plan.loads.iter().find(|&&l| l as usize > plan.memory_bytes) {
        let reason = format!("a load of {load} bytes exceeds `memory_bytes`");
        return Err(ExperimentError::Plan { reason });
    }
    setting.engine.check()?;
    Ok(Box::new(SyncOverhead {
        plan,
        device: match setting.engine.device.resolved() {
            // What decodes on the host waits on the host.
            DeviceName::Reference => DeviceName::Cpu,
            device => device,
        },
        memory: None,
    }))
}

impl SyncOverhead {
    /// The index of the parties and of the load, for each cell in order.
    fn places(&self) -> impl Iterator<Item = (usize, u32)> {
        let parties = match self.device.is_megakernel() {
            true => self.plan.blocks.len(),
            false => self.plan.threads.len(),
        };
        let loads = &self.plan.loads;
        loads
            .iter()
            .flat_map(move |&load| (0..parties).map(move |index| (index, load)))
    }

    fn id(&self, (index, load): (usize, u32)) -> String {
        match self.device.is_megakernel() {
            true => format!(
                "{} blocks-a-multiprocessor/load-{load}",
                self.plan.blocks[index]
            ),
            false => format!("{} threads/load-{load}", self.plan.threads[index]),
        }
    }

    fn on_cpu(
        &mut self,
        threads: NonZeroUsize,
        load: u32,
        watch: &Watch,
    ) -> Result<Found, ExperimentError> {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        if threads.get() > cores {
            return Err(ExperimentError::NotMeasured {
                reason: format!("this machine has {cores} cores"),
            });
        }
        let words = self.plan.memory_bytes / size_of::<u64>();
        let memory = self
            .memory
            .get_or_insert_with(|| (0..words as u64).map(hash).collect());
        let phases = Phases {
            count: self.plan.phases,
            memory: Arc::clone(memory),
            words: load as usize / size_of::<u64>(),
        };
        let mut runners = Vec::new();
        for &way in &self.plan.ways {
            let mut runner = Runner::new(way, threads)?;
            runner.check(CHECKED_PHASES)?;
            runners.push((way.name(), runner, Vec::new()));
        }
        for round in 0..=self.plan.repeats {
            watch.check()?;
            let mut turns: Vec<_> = runners.iter_mut().collect();
            if round % 2 == 1 {
                turns.reverse();
            }
            for (_, runner, samples) in turns {
                let seconds = runner.time(&phases);
                // The first round wakes everything up.
                if round > 0 {
                    samples.push(seconds);
                }
            }
        }
        Ok(Found {
            device: "cpu".into(),
            parties: threads.get(),
            threads_of_a_block: None,
            load_bytes: load,
            phases: phases.count,
            ways: runners
                .into_iter()
                .filter_map(|(way, _, samples)| self.way(way, &samples))
                .collect(),
        })
    }

    fn on_device<D: Device>(
        &self,
        mut device: D,
        blocks: f64,
        load: u32,
    ) -> Result<Found, ExperimentError> {
        let limits = device.limits();
        let (threads, multiprocessors) = (limits.threads, limits.multiprocessors);
        let resident = resident_blocks(&mut device, threads)?;
        let wanted = ((f64::from(multiprocessors) * blocks).round() as u32).max(1);
        if wanted > resident {
            return Err(ExperimentError::NotMeasured {
                reason: format!("{wanted} blocks are not resident at once, {resident} are"),
            });
        }
        let bytes = self.plan.memory_bytes as u64;
        let mut bench = Bench::new(device, bytes, wanted)?;
        let count = self.plan.phases as u32;
        let samples = bench.phases((wanted, threads), load, count)?;
        Ok(Found {
            device: self.device.name().into(),
            parties: wanted as usize,
            threads_of_a_block: Some(threads),
            load_bytes: load,
            phases: self.plan.phases,
            ways: samples
                .into_iter()
                .filter_map(|(way, samples)| self.way(way, &samples))
                .collect(),
        })
    }

    fn way(&self, name: &str, seconds: &[f64]) -> Option<WayFound> {
        let of = |unit: f64| Summary::new(seconds.iter().map(|s| s * 1e6 / unit).collect());
        Some(WayFound {
            way: name.to_owned(),
            run_microseconds: of(1.0)?,
            phase_microseconds: of(self.plan.phases as f64)?,
        })
    }
}

impl Experiment for SyncOverhead {
    fn plan(&self) -> Value {
        serde_json::to_value(&self.plan).expect("names and numbers")
    }

    fn cells(&self) -> Vec<Cell> {
        let cell = |place| Cell {
            id: self.id(place),
            weight: 1.0,
        };
        self.places().map(cell).collect()
    }

    fn measure(&mut self, cell: &Cell, watch: &Watch) -> Result<Value, ExperimentError> {
        let place = self.places().find(|&place| self.id(place) == cell.id);
        let (index, load) = place.expect("one of its own cells");
        let found = match self.device {
            DeviceName::Cuda => {
                let device = CudaDevice::new()?;
                self.on_device(device, self.plan.blocks[index], load)?
            }
            DeviceName::Emulated => {
                // A warp a block: more would only be slower.
                let device = EmulatedDevice::new(BLOCKS, 32)?;
                self.on_device(device, self.plan.blocks[index], load)?
            }
            _ => self.on_cpu(self.plan.threads[index], load, watch)?,
        };
        Ok(serde_json::to_value(found)?)
    }
}
