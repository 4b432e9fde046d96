//! Part (b): what the machine gives at best: read bandwidth, the cost of a launch, and the cost of
//! each barrier, idle and while memory is read. The kernels are in `cuda/sync_overhead.cu`.

use serde::{Deserialize, Serialize};

use super::machine::Machine;
use super::results::{Line, Recorder, Status};
use super::{Deadline, GpuCheckError};
use crate::engine::megakernel::abi::{
    OG_BARRIER_COOPERATIVE, OG_BARRIER_EPOCH, OG_BARRIER_NONE, OG_BUCKETS, OG_SHARED_FIXED,
    OgArguments, OgBarrierKind, OgModel,
};
use crate::engine::megakernel::device::{Addresses, Launch, WeightSink};
use crate::engine::megakernel::layout::StateLayout;
use crate::engine::megakernel::{Device, DeviceError};
use crate::measure::statistics::{Summary, hash};
use crate::model::shapes;

/// How often each thing is measured, in turns with what it is compared with.
const REPEATS: usize = 12;

/// Shared memory of these kernels' blocks: the fixed part, and the least behind it
/// (`OG_SHARED_WORK_MIN`).
const SHARED_BYTES: u32 = OG_SHARED_FIXED + 8 * OG_BUCKETS;

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

/// How fast memory was read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Read {
    /// Bytes read, once.
    pub bytes: u64,
    /// Blocks of the grid.
    pub blocks: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Bytes a second.
    pub bytes_per_second: Summary,
}

/// What a launch costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LaunchCost {
    /// Which way of launching an empty kernel.
    pub kind: String,
    /// Launches timed together.
    pub count: usize,
    /// Microseconds of each, one behind the other.
    pub microseconds: Summary,
}

/// What a barrier costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BarrierCost {
    /// `cooperative` or `epoch`.
    pub kind: String,
    /// Blocks of the grid.
    pub blocks: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Bytes that all blocks read together before each barrier; 0: nothing.
    pub bytes_between: u32,
    /// Barriers of one launch.
    pub count: u32,
    /// Microseconds of a step with the barrier.
    pub with_microseconds: Summary,
    /// Microseconds of the same step without, measured in turns with it.
    pub without_microseconds: Summary,
    /// Their difference, pair by pair: the barrier.
    pub microseconds: Summary,
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

/// A device with the memory that these kernels read.
struct Bench<D: Device> {
    device: D,
    arguments: OgArguments,
}

/// One measurement: seconds of its kernels.
type Sample<'a, D> = &'a mut dyn FnMut(&mut Bench<D>) -> Result<f64, DeviceError>;

impl<D: Device> Bench<D> {
    fn new(mut device: D, bytes: u64, blocks: u32) -> Result<Self, DeviceError> {
        // Only the places of the control block, the barrier and a few words are used.
        let config = shapes::config("qwen3-0.6b").expect("a known shape");
        let state = StateLayout::new(&config, 1, 1, blocks, 0)?;
        let Addresses {
            weights,
            state: state_address,
            mailbox,
        } = device.allocate(bytes, state.bytes, 16)?;
        fill(&mut device, bytes)?;
        device.wait()?;
        Ok(Self {
            device,
            arguments: OgArguments {
                weights,
                state: state_address,
                mailbox,
                model: OgModel {
                    layer_bytes: bytes,
                    ..OgModel::default()
                },
                at: state.at,
                ring_capacity: 16,
                watchdog_ms: 10_000,
                ..OgArguments::default()
            },
        })
    }

    fn launch(&self, kernel: &str, blocks: u32, threads: u32, cooperative: bool) -> Launch {
        Launch {
            kernel: kernel.into(),
            blocks,
            threads,
            shared_bytes: SHARED_BYTES,
            cooperative,
            arguments: self.arguments,
        }
    }

    /// Seconds of what `work` launches.
    fn time(
        &mut self,
        work: impl FnOnce(&mut D) -> Result<(), DeviceError>,
    ) -> Result<f64, DeviceError> {
        let begin = self.device.mark()?;
        work(&mut self.device)?;
        let end = self.device.mark()?;
        self.device.seconds_between(&begin, &end)
    }

    /// Samples of each of `subjects`, which take turns, forwards and backwards, after one that does
    /// not count.
    fn in_turns<const N: usize>(
        &mut self,
        subjects: [Sample<D>; N],
    ) -> Result<[Vec<f64>; N], DeviceError> {
        let mut samples = [const { Vec::new() }; N];
        for round in 0..=REPEATS {
            for turn in 0..N {
                let index = if round % 2 == 0 { turn } else { N - 1 - turn };
                let seconds = subjects[index](self)?;
                if round > 0 {
                    samples[index].push(seconds);
                }
            }
        }
        Ok(samples)
    }
}

/// Random numbers everywhere: memory full of zeros takes less power, and may be read faster.
fn fill<S: WeightSink>(sink: &mut S, bytes: u64) -> Result<(), DeviceError> {
    let mut pattern = vec![0_u8; sink.piece_bytes()];
    for (index, eight) in (0..).zip(pattern.chunks_mut(8)) {
        let random = hash(index).to_le_bytes();
        eight.copy_from_slice(&random[..eight.len()]);
    }
    for offset in (0..bytes).step_by(pattern.len()) {
        let len = pattern.len().min((bytes - offset) as usize);
        sink.write_weights(offset, len, &mut |to| to.copy_from_slice(&pattern[..len]))?;
    }
    Ok(())
}

/// A summary of samples that are seconds, of `count` things together, in microseconds of one.
fn microseconds(samples: &[f64], count: usize) -> Option<Summary> {
    let each = samples.iter().map(|seconds| seconds * 1e6 / count as f64);
    Summary::new(each.collect())
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
    let resident = device.resident_blocks("measure_barriers", threads, SHARED_BYTES)?;
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
                let read = measure_read(&mut bench, bytes, blocks, threads)?;
                findings.reads.extend(read);
            }
        }
    }
    let large = findings.reads.iter().filter(|read| read.bytes >= GB);
    let speeds = large.map(|read| read.bytes_per_second.median);
    findings.read_bandwidth_bytes_per_second = speeds.reduce(f64::max);
    recorder.write(Status::Partial, &findings, findings.lines())?;

    if is_time(recorder, "launches") {
        findings.launches = measure_launches(&mut bench, multiprocessors, threads, sizes.launches)?;
        recorder.write(Status::Partial, &findings, findings.lines())?;
    }

    let mut grids = vec![multiprocessors / 2, multiprocessors, 2 * multiprocessors];
    grids.retain(|&blocks| blocks > 0 && blocks <= resident);
    for &bytes in &sizes.loads {
        for &blocks in &grids {
            for (kind, name) in [
                (OG_BARRIER_COOPERATIVE, "cooperative"),
                (OG_BARRIER_EPOCH, "epoch"),
            ] {
                let what = format!("{name} barrier, {blocks} blocks, {bytes} bytes between");
                if !is_time(recorder, &what) {
                    continue;
                }
                let grid = (blocks, threads);
                let count = sizes.barriers;
                let cost = measure_barrier(&mut bench, (kind, name), grid, bytes, count)?;
                findings.barriers.extend(cost);
            }
        }
        recorder.write(Status::Partial, &findings, findings.lines())?;
    }
    recorder.note("clocks_after_ceilings", super::machine::clocks());
    let status = if whole { Status::Done } else { Status::Partial };
    recorder.write(status, &findings, findings.lines())
}

fn measure_read<D: Device>(
    bench: &mut Bench<D>,
    bytes: u64,
    blocks: u32,
    threads: u32,
) -> Result<Option<Read>, DeviceError> {
    let mut launch = bench.launch("measure_read", blocks, threads, false);
    launch.arguments.model.layer_bytes = bytes;
    // Small ones are repeated, so that the launch is a small part of the time.
    let count = (1_u64 << 30).div_ceil(bytes).min(16) as usize;
    let [samples] = bench.in_turns([&mut |bench: &mut Bench<D>| {
        bench.time(|device| (0..count).try_for_each(|_| device.launch(&launch)))
    }])?;
    let speeds = samples
        .iter()
        .map(|seconds| (bytes * count as u64) as f64 / seconds);
    Ok(Summary::new(speeds.collect()).map(|bytes_per_second| Read {
        bytes,
        blocks,
        threads,
        bytes_per_second,
    }))
}

fn measure_launches<D: Device>(
    bench: &mut Bench<D>,
    blocks: u32,
    threads: u32,
    count: usize,
) -> Result<Vec<LaunchCost>, DeviceError> {
    let plain = bench.launch("measure_launch", blocks, threads, false);
    let cooperative = bench.launch("measure_launch", blocks, threads, true);
    let nodes = bench.device.record(&vec![plain.clone(); count])?;
    let single = bench.device.record(std::slice::from_ref(&plain))?;
    let again =
        |launch: &Launch, device: &mut D| (0..count).try_for_each(|_| device.launch(launch));
    let samples = bench.in_turns([
        &mut |bench: &mut Bench<D>| bench.time(|device| again(&plain, device)),
        &mut |bench: &mut Bench<D>| bench.time(|device| again(&cooperative, device)),
        &mut |bench: &mut Bench<D>| bench.time(|device| device.replay(&nodes)),
        &mut |bench: &mut Bench<D>| {
            bench.time(|device| (0..count).try_for_each(|_| device.replay(&single)))
        },
    ])?;
    let kinds = [
        "one by one",
        "cooperative, one by one",
        "a node of a graph",
        "a graph of one node",
    ];
    let costs = kinds
        .into_iter()
        .zip(&samples)
        .filter_map(|(kind, samples)| {
            Some(LaunchCost {
                kind: kind.into(),
                count,
                microseconds: microseconds(samples, count)?,
            })
        });
    Ok(costs.collect())
}

fn measure_barrier<D: Device>(
    bench: &mut Bench<D>,
    (kind, name): (OgBarrierKind, &str),
    (blocks, threads): (u32, u32),
    bytes: u32,
    count: u32,
) -> Result<Option<BarrierCost>, DeviceError> {
    let of_kind = |kind| {
        let mut launch = bench.launch("measure_barriers", blocks, threads, true);
        launch.arguments.barrier = kind;
        launch.arguments.prefetch = bytes;
        launch.arguments.max_steps = count;
        launch
    };
    let [with, without] = [of_kind(kind), of_kind(OG_BARRIER_NONE)];
    let [with, without] = bench.in_turns([
        &mut |bench: &mut Bench<D>| bench.time(|device| device.launch(&with)),
        &mut |bench: &mut Bench<D>| bench.time(|device| device.launch(&without)),
    ])?;
    let differences: Vec<f64> = with.iter().zip(&without).map(|(a, b)| a - b).collect();
    let of = |samples: &[f64]| microseconds(samples, count as usize);
    let (Some(with), Some(without), Some(each)) = (of(&with), of(&without), of(&differences))
    else {
        return Ok(None);
    };
    Ok(Some(BarrierCost {
        kind: name.into(),
        blocks,
        threads,
        bytes_between: bytes,
        count,
        with_microseconds: with,
        without_microseconds: without,
        microseconds: each,
    }))
}
