//! Part (b): what the machine gives at best: read bandwidth, the cost of a launch, and the cost of
//! each barrier, idle and while memory is read. The kernels are in `cuda/sync_overhead.cu`.

use serde::{Deserialize, Serialize};

use super::machine::Machine;
use super::results::{Line, Recorder, Status};
use super::{Deadline, GpuCheckError};
use crate::engine::megakernel::{Barrier, Device};
use crate::measure::device_costs::{self, BarrierCost, Bench, LaunchCost, Read};
use crate::measure::statistics::Summary;

/// How much is measured.
struct Sizes {
    /// Bytes that are read once; the last is the largest.
    reads: Vec<u64>,
    /// Launches that are timed together.
    launches: usize,
    /// Barriers of one launch.
    barriers: u32,
    /// Bytes that all blocks read together between two barriers.
    loads: Vec<u32>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    /// By size, blocks and threads.
    pub reads: Vec<Read>,
    /// The median of the fastest of those over 1 GB and more, in bytes a second.
    pub read_bandwidth_bytes_per_second: Option<f64>,
    /// What the memory's clock and bus allow, in bytes a second.
    pub specified_bandwidth_bytes_per_second: Option<f64>,
    /// By kind.
    pub launches: Vec<LaunchCost>,
    /// By kind, grid and load.
    pub barriers: Vec<BarrierCost>,
}

impl Findings {
    fn lines(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        if let Some(bandwidth) = self.read_bandwidth_bytes_per_second {
            let of = self.specified_bandwidth_bytes_per_second;
            let share = of.map(|of| format!(", {:.1}% of the specified", 100.0 * bandwidth / of));
            lines.push(Line {
                what: "read bandwidth".into(),
                result: format!("{:.1} GB/s{}", bandwidth * 1e-9, share.unwrap_or_default()),
            });
        }
        lines.extend(self.launches.iter().map(|launch| Line {
            what: format!("launch, {}", launch.kind),
            result: interval(&launch.microseconds, "us"),
        }));
        lines.extend(self.barriers.iter().map(|barrier| Line {
            what: match barrier.bytes_between {
                0 => format!("{} barrier, {} blocks, idle", barrier.kind, barrier.blocks),
                bytes => format!(
                    "{} barrier, {} blocks, {:.1} MB read between",
                    barrier.kind,
                    barrier.blocks,
                    f64::from(bytes) * 1e-6
                ),
            },
            result: interval(&barrier.microseconds, "us"),
        }));
        lines
    }
}

/// A median with its interval.
pub(super) fn interval(summary: &Summary, unit: &str) -> String {
    let Summary {
        median, low, high, ..
    } = summary;
    format!("{median:.2} [{low:.2}, {high:.2}] {unit}")
}

/// Runs the part.
///
/// # Errors
/// If the device or the file fails.
pub fn run<M: Machine>(
    machine: &M,
    deadline: &Deadline,
    recorder: &mut Recorder,
) -> Result<(), GpuCheckError> {
    const GB: u64 = 1 << 30;
    let sizes = match M::IS_GPU {
        true => {
            // At most a quarter of the memory.
            let most = machine.memory_bytes().unwrap_or(4 * GB) / 4;
            let reads = [GB / 16, GB / 4, GB, 2 * GB, 4 * GB];
            Sizes {
                reads: reads
                    .into_iter()
                    .filter(|bytes| *bytes <= most.max(GB))
                    .collect(),
                launches: 1000,
                barriers: 1000,
                loads: vec![0, 1 << 20, 8 << 20],
            }
        }
        false => Sizes {
            reads: vec![1 << 16],
            launches: 4,
            barriers: 4,
            loads: vec![0, 1 << 12],
        },
    };
    let mut device = machine.open()?;
    let threads = device.limits().threads;
    let multiprocessors = device.limits().multiprocessors;
    let resident = device_costs::resident_blocks(&mut device, threads)?;
    let largest = *sizes.reads.last().expect("sizes");
    let mut bench = Bench::new(device, largest, resident.max(multiprocessors))?;
    recorder.note("clocks_before_ceilings", super::machine::clocks());
    let mut findings = Findings {
        specified_bandwidth_bytes_per_second: machine.specified_bandwidth(),
        ..Findings::default()
    };

    let mut whole = true;
    let mut is_time = |recorder: &mut Recorder, what: &str| {
        if deadline.has_come() {
            recorder.skip(what, "the time limit came before it");
            whole = false;
        }
        !deadline.has_come()
    };
    let mut grids = vec![multiprocessors, resident.max(multiprocessors)];
    grids.dedup();
    for &bytes in &sizes.reads {
        for &blocks in &grids {
            if is_time(
                recorder,
                &format!("reading {bytes} bytes by {blocks} blocks"),
            ) {
                let read = bench.read(bytes, blocks, threads)?;
                findings.reads.extend(read);
            }
        }
    }
    let large = findings.reads.iter().filter(|read| read.bytes >= GB);
    let speeds = large.map(|read| read.bytes_per_second.median);
    findings.read_bandwidth_bytes_per_second = speeds.reduce(f64::max);
    recorder.write(Status::Partial, &findings, findings.lines())?;

    if is_time(recorder, "launches") {
        findings.launches = bench.launches(multiprocessors, threads, sizes.launches)?;
        recorder.write(Status::Partial, &findings, findings.lines())?;
    }

    let mut grids = vec![multiprocessors / 2, multiprocessors, 2 * multiprocessors];
    grids.retain(|&blocks| blocks > 0 && blocks <= resident);
    for &bytes in &sizes.loads {
        for &blocks in &grids {
            for barrier in Barrier::ALL {
                let name = barrier.name();
                let what = format!("{name} barrier, {blocks} blocks, {bytes} bytes between");
                if !is_time(recorder, &what) {
                    continue;
                }
                let grid = (blocks, threads);
                let count = sizes.barriers;
                let cost = bench.barrier(barrier, grid, bytes, count)?;
                findings.barriers.extend(cost);
            }
        }
        recorder.write(Status::Partial, &findings, findings.lines())?;
    }
    recorder.note("clocks_after_ceilings", super::machine::clocks());
    let status = if whole { Status::Done } else { Status::Partial };
    recorder.write(status, &findings, findings.lines())
}
