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
/// Past positions whose keys and values a lane has on their way at once (`PAST_UNROLL` of
/// `phase/attention.h`).
const PAST_UNROLL: usize = 4;
/// Past positions below which attention is not divided further (the host's default).
const SPLIT_LENGTH: usize = 64;
/// Threads of a warp.
const WARP: usize = 32;
/// Bytes of a weight, a key or a value.
const BF16: usize = 2;

/// How the loops that bring activations into shared memory wait for their loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loads {
    /// As nvcc 13.0 compiles them for sm_90: one element at a time, each stored to shared memory
    /// before the next is loaded, and the norm's weights loaded after the barrier.
    OneByOne,
    /// As they could be: all of a thread's loads under way before the first is stored, and what
    /// doesn't depend on the barrier (weights of norms, the rotary table) loaded before it.
    Together,
}

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
    /// Loads that hit L1.
    pub l1: usize,
    /// Loads that hit L2: what other blocks wrote before the barrier.
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
            l1: self.l1 * times,
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
            l1: self.l1 + other.l1,
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
    loads: Loads,
}

/// The step that decodes one token of one sequence, with `position` positions cached, on a grid of
/// `grid`. `samples`: whether the kernel also takes the token (stage V1); otherwise the host does
/// (V0), and the step ends with the logits.
pub fn step(
    config: &ModelConfig,
    grid: Grid,
    position: usize,
    loads: Loads,
    samples: bool,
) -> Step {
    let counter = Counter {
        config,
        grid,
        position,
        loads,
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
    /// Elements of a vector that each thread brings into shared memory.
    fn elements(&self, length: usize) -> usize {
        length.div_ceil(THREADS)
    }

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

    /// The residual and the norm's weights, and the norm's scale.
    fn norm(&self) -> Waits {
        let fill = match self.loads {
            // Nobody has read these weights since the last token: they come from memory, and the
            // residual meanwhile.
            Loads::OneByOne => Waits {
                memory: self.elements(self.config.hidden_size),
                ..Waits::default()
            },
            Loads::Together => Waits {
                l2: 1,
                ..Waits::default()
            },
        };
        fill.and(Waits {
            reductions: 2,
            ..Waits::default()
        })
    }

    /// A vector that the phase before wrote.
    fn vector(&self, length: usize) -> Waits {
        let l2 = match self.loads {
            Loads::OneByOne => self.elements(length),
            Loads::Together => 1,
        };
        Waits {
            l2,
            ..Waits::default()
        }
    }

    /// Sums of the warps that share rows, added to the residual.
    fn add_to_residual(&self) -> Waits {
        // Two rows, one after the other, as the compiler can't know that they don't overlap.
        let l2 = match self.loads {
            Loads::OneByOne => GROUP_ROWS,
            Loads::Together => 0,
        };
        Waits {
            l2,
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
        // The query, its norm, the rotary table; then the lanes' and the warps' results merged.
        let (l2, memory) = match self.loads {
            Loads::OneByOne => (3, usize::from(self.config.qk_norm())),
            Loads::Together => (1, 0),
        };
        let around = Waits {
            l2,
            memory,
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
        let elements = self.elements(config.q_size());
        // Of every element: the maximum over the splits, then the sums, two splits at a time.
        let merge = match self.loads {
            Loads::OneByOne => Waits {
                l1: elements * (splits - 1),
                l2: elements * (1 + splits.div_ceil(2)),
                ..Waits::default()
            },
            // Sixteen loads at a time.
            Loads::Together => Waits {
                l2: 1 + (elements * splits).div_ceil(16),
                ..Waits::default()
            },
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
                reductions: 2,
                block_barriers: 3,
                ..self.vector(tokens)
            },
            barrier: true,
            ..Phase::default()
        }
    }

    /// Every block takes the best of all blocks' tokens.
    fn sample(&self) -> Phase {
        let l2 = match self.loads {
            Loads::OneByOne => self.grid.blocks.div_ceil(WARP),
            Loads::Together => 1,
        };
        Phase {
            name: "sample",
            waits: Waits {
                l2,
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
            let step = step(&config, H200, position, Loads::OneByOne, true);
            let embedding = config.hidden_size * BF16;
            assert_eq!(step.bytes(), config.bytes_per_token(position) + embedding);
        }
    }

    #[test]
    fn a_layer_has_five_barriers_and_a_token_two_more() {
        let config = qwen3();
        let barriers = |samples| step(&config, H200, 1, Loads::OneByOne, samples).barriers();
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
            for phase in step(&config, grid, 128, Loads::OneByOne, true).phases() {
                assert!(phase.preload <= phase.bytes, "{phase:?}");
                assert!(phase.preload <= blocks * Grid::IN_FLIGHT, "{phase:?}");
                assert!(phase.early <= phase.preload, "{phase:?}");
            }
        }
        // All of O: a block has four groups of its rows, and two warps for each.
        let output = step(&config, H200, 128, Loads::OneByOne, true).layer[2];
        assert_eq!(output.preload, output.bytes);
    }

    #[test]
    fn loads_under_way_together_are_waited_for_once() {
        let config = qwen3();
        let waits = |loads| step(&config, H200, 128, loads, false).layer[4].waits.l2;
        assert_eq!(waits(Loads::OneByOne), 3072 / THREADS + GROUP_ROWS);
        assert_eq!(waits(Loads::Together), 1);
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
        let attention = include_str!("../../cuda/phase/attention.h");
        assert!(attention.contains("PAST_UNROLL = QUERIES == 2 ? 4 : 2;"));
    }
}
