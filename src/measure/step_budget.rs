//! What one decode step of the megakernel is made of: its phases, the bytes each reads from memory,
//! the barrier after it, and the waits on its critical path.
//!
//! This is the phase list of `cuda/megakernel.cu`, variant `redundant_norm`, for one sequence. How
//! long a step takes on some GPU is not said here: that needs the GPU's bandwidth and latencies.

use crate::model::ModelConfig;

/// Elements of a row that a warp reads at once (`OG_CHUNK` of `cuda/abi.h`).
const CHUNK: usize = 256;
/// Rows that a warp multiplies together (`OG_GROUP_ROWS`).
const GROUP_ROWS: usize = 2;
/// The most stretches that the past of a head is divided into (`OG_MAX_SPLITS`).
const MAX_SPLITS: usize = 64;
/// Threads of a block (`OG_MAX_THREADS`).
const THREADS: usize = 256;
/// Chunks of each row that a warp has on their way at once (`batch_chunks` of `core/product.h`).
const BATCH_CHUNKS: usize = 4;
/// Elements that a thread has on their way at once where activations come into shared memory: four
/// loads of four (`fill_tile` of `core/product.h`, one column).
const FILL: usize = 4 * FILL_LOADS;
/// Of these, the loads (`ITEMS` there).
const FILL_LOADS: usize = 4;
/// Splits of attention that are merged at once (`TOGETHER` of `phase/output.h`).
const MERGED_SPLITS: usize = 4;
/// Past positions whose keys and values a lane has on their way at once (`PAST_UNROLL` of
/// `phase/attention.h`).
const PAST_UNROLL: usize = 4;
/// Past positions below which attention is not divided further (the host's default).
const SPLIT_LENGTH: usize = 64;
/// Threads of a warp.
const WARP: usize = 32;
/// Bytes of a weight, a key or a value.
const BF16: usize = 2;

/// The grid of a launch: one block on each multiprocessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Blocks.
    pub blocks: usize,
}

impl Grid {
    /// Warps of a block.
    pub const WARPS: usize = THREADS / WARP;

    /// Bytes of weights that a block has on their way at once.
    pub const IN_FLIGHT: usize = Self::WARPS * BATCH_CHUNKS * GROUP_ROWS * CHUNK * BF16;

    /// Stretches that attention divides the past of a head into.
    pub fn splits(self, config: &ModelConfig, position: usize) -> usize {
        let tasks = config.kv_heads * config.group_size().div_ceil(2);
        let most = (self.blocks / tasks).clamp(1, MAX_SPLITS);
        position.div_ceil(SPLIT_LENGTH).clamp(1, most)
    }

    /// Bytes of a matrix that are asked for before the barrier in front of it: the first batch of
    /// every warp that has rows to multiply.
    fn preload(self, rows: usize, length: usize) -> usize {
        let groups = rows.div_ceil(GROUP_ROWS);
        let block_groups = groups.div_ceil(self.blocks);
        let chunks = length.div_ceil(CHUNK);
        // Warps share a row where a block has fewer groups than warps.
        let segments = (Self::WARPS / block_groups).clamp(1, chunks);
        let units = (block_groups * segments).min(Self::WARPS);
        let batch = chunks.div_ceil(segments).min(BATCH_CHUNKS) * GROUP_ROWS * CHUNK * BF16;
        (self.blocks * units * batch).min(rows * length * BF16)
    }
}

/// What a block's slowest thread waits for, one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// Loads that hit L2: what other blocks wrote before the barrier, or what was brought there.
    pub l2: usize,
    /// Loads from memory that nothing was asked for ahead of.
    pub memory: usize,
    /// Sums or maxima over the lanes of a warp.
    pub reductions: usize,
    /// Barriers of the block.
    pub block_barriers: usize,
    /// Batches of weights multiplied after the last byte has arrived.
    pub batches: usize,
}

impl Waits {
    /// These waits, `times` over.
    pub fn times(self, times: usize) -> Self {
        Self {
            l2: self.l2 * times,
            memory: self.memory * times,
            reductions: self.reductions * times,
            block_barriers: self.block_barriers * times,
            batches: self.batches * times,
        }
    }

    /// Both, one after the other.
    pub fn and(self, other: Self) -> Self {
        Self {
            l2: self.l2 + other.l2,
            memory: self.memory + other.memory,
            reductions: self.reductions + other.reductions,
            block_barriers: self.block_barriers + other.block_barriers,
            batches: self.batches + other.batches,
        }
    }
}

/// A phase of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phase {
    /// As `cuda/phase/` calls it.
    pub name: &'static str,
    /// Read from memory.
    pub bytes: usize,
    /// Of these, asked for before the wait at the barrier in front of the phase.
    pub preload: usize,
    /// Of these again, asked for a phase earlier, by blocks that have nothing to do in it.
    pub early: usize,
    /// Waited for between that barrier and the end of the phase, bytes that stream not counted.
    pub waits: Waits,
    /// Trips of a loop that waits in each for what it loads, beyond the first.
    pub trips: usize,
    /// What it waits for in each.
    pub trip: Waits,
    /// Whether a grid barrier follows.
    pub barrier: bool,
}

/// The phases of a step, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Before the layers.
    pub first: Vec<Phase>,
    /// Of each layer.
    pub layer: Vec<Phase>,
    /// How many layers there are.
    pub layers: usize,
    /// After the layers.
    pub last: Vec<Phase>,
}

impl Step {
    /// All of them, one after the other.
    pub fn phases(&self) -> impl Iterator<Item = &Phase> {
        let layers = (0..self.layers).flat_map(|_| &self.layer);
        self.first.iter().chain(layers).chain(&self.last)
    }

    /// Bytes read from memory.
    pub fn bytes(&self) -> usize {
        self.phases().map(|phase| phase.bytes).sum()
    }

    /// Grid barriers.
    pub fn barriers(&self) -> usize {
        self.phases().filter(|phase| phase.barrier).count()
    }

    /// What is waited for in all.
    pub fn waits(&self) -> Waits {
        let of = |phase: &Phase| phase.waits.and(phase.trip.times(phase.trips));
        self.phases()
            .map(of)
            .fold(Waits::default(), |sum, waits| sum.and(waits))
    }
}

/// The kernels of one grid for one model, at one length of the past.
#[derive(Clone, Copy, Debug)]
struct Counter<'a> {
    config: &'a ModelConfig,
    grid: Grid,
    position: usize,
}

/// The step that decodes one token of one sequence, with `position` positions cached, on a grid of
/// `grid`. `samples`: whether the kernel also takes the token (stage V1); otherwise the host does
/// (V0), and the step ends with the logits.
pub fn step(config: &ModelConfig, grid: Grid, position: usize, samples: bool) -> Step {
    let counter = Counter {
        config,
        grid,
        position,
    };
    let embed = Phase {
        name: "embed",
        bytes: config.hidden_size * BF16,
        waits: Waits {
            memory: 1,
            ..Waits::default()
        },
        barrier: true,
        ..Phase::default()
    };
    let mut last = vec![counter.head()];
    if samples {
        last.extend([counter.score(), counter.sample()]);
    }
    Step {
        first: vec![embed],
        layer: vec![
            counter.qkv(),
            counter.attention(),
            counter.output(),
            counter.gate_up(),
            counter.down(),
        ],
        layers: config.layers,
        last,
    }
}

impl Counter<'_> {
    /// A product of `rows` rows whose x takes `fill` to be there.
    fn product(&self, name: &'static str, rows: usize, length: usize, fill: Waits) -> Phase {
        let tail = Waits {
            block_barriers: 1,
            batches: 1,
            reductions: 1,
            ..Waits::default()
        };
        Phase {
            name,
            bytes: rows * length * BF16,
            preload: self.grid.preload(rows, length),
            waits: fill.and(tail),
            barrier: true,
            ..Phase::default()
        }
    }

    /// The residual, the norm's weights beside it, which were brought into L2 before the barrier,
    /// and the norm's scale.
    fn norm(&self) -> Waits {
        Waits {
            reductions: 2,
            ..self.vector(self.config.hidden_size)
        }
    }

    /// A vector that the phase before wrote, brought into shared memory.
    fn vector(&self, length: usize) -> Waits {
        Waits {
            l2: length.div_ceil(THREADS * FILL),
            ..Waits::default()
        }
    }

    /// Sums of the warps that share rows, added to the residual.
    fn add_to_residual(&self) -> Waits {
        Waits {
            // Two rows, one after the other, as the compiler can't know that they don't overlap.
            l2: GROUP_ROWS,
            block_barriers: 1,
            ..Waits::default()
        }
    }

    fn qkv(&self) -> Phase {
        let rows = self.config.q_size() + 2 * self.config.kv_size();
        self.product("qkv", rows, self.config.hidden_size, self.norm())
    }

    fn attention(&self) -> Phase {
        let splits = self.grid.splits(self.config, self.position);
        // A warp reads a position with head_dim / 8 lanes.
        let positions = Grid::WARPS * (WARP * 8 / self.config.head_dim) * PAST_UNROLL;
        let trips = self.position.div_ceil(splits).div_ceil(positions);
        let trip = Waits {
            memory: 1,
            reductions: 1,
            batches: 1,
            ..Waits::default()
        };
        // The query or key, its norm's weights (in L2 since `qkv`), and two rows of the rotary table, the
        // second after what the first gave is stored; then the lanes' and the warps' results merged.
        let around = Waits {
            l2: 3 + usize::from(self.config.qk_norm()),
            reductions: 5,
            block_barriers: 2,
            ..Waits::default()
        };
        Phase {
            name: "attention",
            bytes: self.position * 2 * self.config.kv_size() * BF16,
            waits: match trips {
                0 => around,
                _ => around.and(trip),
            },
            trips: trips.saturating_sub(1),
            trip,
            barrier: true,
            ..Phase::default()
        }
    }

    fn output(&self) -> Phase {
        let config = self.config;
        let splits = self.grid.splits(config, self.position);
        // One load after the other goes through the splits, a few of them at a time.
        let merge = Waits {
            l2: config.q_size().div_ceil(THREADS * 4) * splits.div_ceil(MERGED_SPLITS),
            ..Waits::default()
        };
        let fill = merge.and(self.add_to_residual());
        let product = self.product("output", config.hidden_size, config.q_size(), fill);
        // Blocks without a task of attention ask for these weights while the others attend.
        let tasks = config.kv_heads * config.group_size().div_ceil(2) * splits;
        let idle = self.grid.blocks.saturating_sub(tasks);
        Phase {
            early: product.preload * idle / self.grid.blocks,
            ..product
        }
    }

    fn gate_up(&self) -> Phase {
        let rows = 2 * self.config.intermediate_size;
        self.product("gate_up", rows, self.config.hidden_size, self.norm())
    }

    fn down(&self) -> Phase {
        let config = self.config;
        let length = config.intermediate_size;
        let fill = self.vector(length).and(self.add_to_residual());
        self.product("down", config.hidden_size, length, fill)
    }

    fn head(&self) -> Phase {
        let config = self.config;
        let head = self.product("head", config.vocab_size, config.hidden_size, self.norm());
        Phase {
            barrier: false,
            ..head
        }
    }

    /// Each block looks through the logits that it made.
    fn score(&self) -> Phase {
        let tokens = self.config.vocab_size.div_ceil(self.grid.blocks);
        Phase {
            name: "score",
            waits: Waits {
                // One at a time.
                l2: tokens.div_ceil(THREADS),
                reductions: 2,
                block_barriers: 3,
                ..Waits::default()
            },
            barrier: true,
            ..Phase::default()
        }
    }

    /// Every block takes the best of all blocks' tokens.
    fn sample(&self) -> Phase {
        Phase {
            name: "sample",
            waits: Waits {
                l2: self.grid.blocks.div_ceil(WARP),
                reductions: 4,
                block_barriers: 2,
                ..Waits::default()
            },
            ..Phase::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::shapes;

    const H200: Grid = Grid { blocks: 132 };

    fn qwen3() -> ModelConfig {
        shapes::config("qwen3-0.6b").unwrap()
    }

    #[test]
    fn a_step_reads_the_weights_once_and_the_past() {
        let config = qwen3();
        for position in [0, 1, 128, 8192] {
            let step = step(&config, H200, position, true);
            let embedding = config.hidden_size * BF16;
            assert_eq!(step.bytes(), config.bytes_per_token(position) + embedding);
        }
    }

    #[test]
    fn a_layer_has_five_barriers_and_a_token_two_more() {
        let config = qwen3();
        let barriers = |samples| step(&config, H200, 1, samples).barriers();
        assert_eq!(barriers(false), 1 + 5 * 28);
        assert_eq!(barriers(true), 2 + 5 * 28);
    }

    #[test]
    fn splits_grow_with_the_past_until_every_block_has_a_task() {
        let splits = |position| H200.splits(&qwen3(), position);
        assert_eq!([0, 1, 64, 65, 128].map(splits), [1, 1, 1, 2, 2]);
        assert_eq!([1024, 8192].map(splits), [16, 16]);
    }

    #[test]
    fn no_more_is_preloaded_than_there_is_or_than_registers_hold() {
        let config = qwen3();
        for blocks in [8, 82, 128, 132, 170] {
            let grid = Grid { blocks };
            for phase in step(&config, grid, 128, true).phases() {
                assert!(phase.preload <= phase.bytes, "{phase:?}");
                assert!(phase.preload <= blocks * Grid::IN_FLIGHT, "{phase:?}");
                assert!(phase.early <= phase.preload, "{phase:?}");
            }
        }
        // All of O: a block has four groups of its rows, and two warps for each.
        let output = step(&config, H200, 128, true).layer[2];
        assert_eq!(output.preload, output.bytes);
    }

    #[test]
    fn loads_under_way_together_are_waited_for_once() {
        let config = qwen3();
        let l2 =
            |position, phase: usize| step(&config, H200, position, false).layer[phase].waits.l2;
        // The residual: one load of a thread. The activations of `down`: three.
        assert_eq!([0, 3].map(|phase| l2(128, phase)), [1, 1]);
        assert_eq!(l2(128, 4), 1 + GROUP_ROWS);
        // The heads' outputs: two loads of a thread, each merged from 2 and from 16 splits.
        assert_eq!(
            [128, 1024].map(|position| l2(position, 2)),
            [2 + GROUP_ROWS, 8 + GROUP_ROWS]
        );
    }

    #[test]
    fn constants_are_those_of_the_kernels() {
        let abi = include_str!("../../cuda/abi.h");
        for (name, value) in [
            ("OG_CHUNK", CHUNK),
            ("OG_GROUP_ROWS", GROUP_ROWS),
            ("OG_MAX_SPLITS", MAX_SPLITS),
            ("OG_MAX_THREADS", THREADS),
        ] {
            let line = format!("#define {name} {value}");
            assert!(abi.lines().any(|found| found == line), "{line}");
        }
        let product = include_str!("../../cuda/core/product.h");
        assert!(product.contains("return columns == 8 ? 2 : 4;"));
        assert!(product.contains(&format!("ITEMS = COLUMNS == 1 ? {FILL_LOADS} :")));
        assert!(product.contains("step = block.threads * 4;"));
        let output = include_str!("../../cuda/phase/output.h");
        assert!(output.contains(&format!("TOGETHER = {MERGED_SPLITS};")));
        let attention = include_str!("../../cuda/phase/attention.h");
        assert!(attention.contains("PAST_UNROLL = QUERIES == 2 ? 4 : 2;"));
    }
}
