//! What a device gives at best: how fast it reads memory, and what launches and barriers cost it. The
//! kernels are in `cuda/sync_overhead.cu`.

use serde::{Deserialize, Serialize};

use super::statistics::{Summary, hash};
use crate::engine::megakernel::abi::{
    OG_BARRIER_NONE, OG_BUCKETS, OG_SHARED_FIXED, OgArguments, OgBarrierKind, OgModel,
};
use crate::engine::megakernel::device::{Addresses, Launch, WeightSink};
use crate::engine::megakernel::layout::StateLayout;
use crate::engine::megakernel::{Barrier, Device, DeviceError};
use crate::model::shapes;

/// How often each thing is measured, in turns with what it is compared with.
const REPEATS: usize = 12;

/// Shared memory of these kernels' blocks: the fixed part, and the least behind it
/// (`OG_SHARED_WORK_MIN`).
const SHARED_BYTES: u32 = OG_SHARED_FIXED + 8 * OG_BUCKETS;

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

/// A device with the memory that these kernels read.
pub struct Bench<D: Device> {
    device: D,
    arguments: OgArguments,
}

/// One measurement: seconds of its kernels.
type Sample<'a, D> = &'a mut dyn FnMut(&mut Bench<D>) -> Result<f64, DeviceError>;

impl<D: Device> Bench<D> {
    /// `device` with `bytes` to read, for grids of up to `blocks`.
    ///
    /// # Errors
    /// If it has no memory for them.
    pub fn new(mut device: D, bytes: u64, blocks: u32) -> Result<Self, DeviceError> {
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

    /// A launch of `count` phases that read `bytes` together, with a barrier of `kind` after each.
    fn launch_barriers(
        &self,
        kind: OgBarrierKind,
        (blocks, threads): (u32, u32),
        bytes: u32,
        count: u32,
    ) -> Launch {
        let mut launch = self.launch("measure_barriers", blocks, threads, true);
        launch.arguments.barrier = kind;
        launch.arguments.prefetch = bytes;
        launch.arguments.max_steps = count;
        launch
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

    /// How fast `bytes` of memory are read, by a grid of `blocks` of `threads`.
    ///
    /// # Errors
    /// If the device fails.
    pub fn read(
        &mut self,
        bytes: u64,
        blocks: u32,
        threads: u32,
    ) -> Result<Option<Read>, DeviceError> {
        let mut launch = self.launch("measure_read", blocks, threads, false);
        launch.arguments.model.layer_bytes = bytes;
        // Small ones are repeated, so that the launch is a small part of the time.
        let count = (1_u64 << 30).div_ceil(bytes).min(16) as usize;
        let [samples] = self.in_turns([&mut |bench: &mut Bench<D>| {
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

    /// What a launch of an empty kernel costs, in each way, `count` of them together.
    ///
    /// # Errors
    /// If the device fails.
    pub fn launches(
        &mut self,
        blocks: u32,
        threads: u32,
        count: usize,
    ) -> Result<Vec<LaunchCost>, DeviceError> {
        let plain = self.launch("measure_launch", blocks, threads, false);
        let cooperative = self.launch("measure_launch", blocks, threads, true);
        let nodes = self.device.record(&vec![plain.clone(); count])?;
        let single = self.device.record(std::slice::from_ref(&plain))?;
        let again =
            |launch: &Launch, device: &mut D| (0..count).try_for_each(|_| device.launch(launch));
        let samples = self.in_turns([
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

    /// Seconds of `count` phases that read `bytes` together (or nothing), kept in step in each way, and not
    /// at all: the name of the way, and a sample for each repeat.
    ///
    /// # Errors
    /// If the device fails.
    pub fn phases(
        &mut self,
        (blocks, threads): (u32, u32),
        bytes: u32,
        count: u32,
    ) -> Result<Vec<(&'static str, Vec<f64>)>, DeviceError> {
        let in_one = |kind| self.launch_barriers(kind, (blocks, threads), bytes, count);
        let [grid_sync, epoch] = Barrier::ALL.map(|barrier| in_one(barrier.kind()));
        let alone = in_one(OG_BARRIER_NONE);
        let stretches = u64::from(count).min(
            (self.arguments.model.layer_bytes)
                .checked_div(u64::from(bytes))
                .unwrap_or(1),
        );
        let kernel = if bytes == 0 {
            "measure_launch"
        } else {
            "measure_read"
        };
        let separate = (0..u64::from(count)).map(|phase| {
            let mut launch = self.launch(kernel, blocks, threads, false);
            launch.arguments.model.layer_bytes = u64::from(bytes);
            launch.arguments.model.layers_begin = phase % stretches.max(1) * u64::from(bytes);
            launch
        });
        let separate: Vec<Launch> = separate.collect();
        let graph = self.device.record(&separate)?;
        let samples = self.in_turns([
            &mut |bench: &mut Bench<D>| bench.time(|device| device.launch(&grid_sync)),
            &mut |bench: &mut Bench<D>| bench.time(|device| device.launch(&epoch)),
            &mut |bench: &mut Bench<D>| bench.time(|device| device.replay(&graph)),
            &mut |bench: &mut Bench<D>| {
                bench.time(|device| separate.iter().try_for_each(|launch| device.launch(launch)))
            },
            &mut |bench: &mut Bench<D>| bench.time(|device| device.launch(&alone)),
        ])?;
        let names = ["grid-sync", "epoch-barrier", "graph", "launches", "nothing"];
        Ok(names.into_iter().zip(samples).collect())
    }

    /// What `barrier` costs a grid that reads `bytes` together before each of `count`.
    ///
    /// # Errors
    /// If the device fails.
    pub fn barrier(
        &mut self,
        barrier: Barrier,
        (blocks, threads): (u32, u32),
        bytes: u32,
        count: u32,
    ) -> Result<Option<BarrierCost>, DeviceError> {
        let of_kind = |kind| self.launch_barriers(kind, (blocks, threads), bytes, count);
        let [with, without] = [of_kind(barrier.kind()), of_kind(OG_BARRIER_NONE)];
        let [with, without] = self.in_turns([
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
            kind: barrier.name().into(),
            blocks,
            threads,
            bytes_between: bytes,
            count,
            with_microseconds: with,
            without_microseconds: without,
            microseconds: each,
        }))
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

/// Blocks of `threads` threads that are resident at once of a kernel that waits at barriers.
///
/// # Errors
/// If the device has no such kernel.
pub fn resident_blocks<D: Device>(device: &mut D, threads: u32) -> Result<u32, DeviceError> {
    device.resident_blocks("measure_barriers", threads, SHARED_BYTES)
}

/// A summary of samples that are seconds, of `count` things together, in microseconds of one.
fn microseconds(samples: &[f64], count: usize) -> Option<Summary> {
    let each = samples.iter().map(|seconds| seconds * 1e6 / count as f64);
    Summary::new(each.collect())
}
