//! The constants of the prediction: what each card does, and where that is known from.
//!
//! Sources, as the README numbers them:
//!
//! 1. RRZE-HPC/gpu-benches at 1038c5d: `gpu-latency` (pointer chasing, cycles at a stated clock),
//!    `gpu-stream`, `gpu-small-kernels` with `-pt-gsync` and `-pt` (a persistent kernel that reads
//!    and writes a little and then waits at a grid barrier, one block of 256 threads on each
//!    multiprocessor), for A40 (the 3090's chip), L40 (the 4090's), GH200 and H200.
//! 2. Infatoshi/MegaQwen at 0bc1fde, `experiments/RESULTS.md`: empty grid.sync and launches, 3090.
//! 3. blog.alpindale.net/posts/5090_decode_optimization: read bandwidth of an RTX 5090.
//! 4. arXiv 2606.22588: L2 latency by multiprocessor, L40.
//! 5. pytorch/ao, pull request 4002: bus width and memory clock of a B200, from the driver.
//! 6. chipsandcheese.com/p/nvidias-b200-keeping-the-cuda-juggernaut: L2 latency of a B200.

/// A constant that is known only so well.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// The smallest that it may be.
    pub low: f64,
    /// What is reckoned with.
    pub middle: f64,
    /// The largest that it may be.
    pub high: f64,
}

pub const fn range(low: f64, middle: f64, high: f64) -> Range {
    Range { low, middle, high }
}

impl Range {
    /// The product of both.
    pub fn times(self, other: Self) -> Self {
        range(
            self.low * other.low,
            self.middle * other.middle,
            self.high * other.high,
        )
    }

    /// Printed with `decimals`: the middle, and the ends in brackets.
    pub fn printed(self, decimals: usize) -> String {
        let Self { low, middle, high } = self;
        format!("{middle:.decimals$} [{low:.decimals$}, {high:.decimals$}]")
    }
}

/// A GPU.
#[derive(Clone, Copy, Debug)]
pub struct Card {
    pub name: &'static str,
    /// Multiprocessors.
    pub multiprocessors: usize,
    /// Under load, GHz.
    pub clock: f64,
    /// Bandwidth by specification, GB/s.
    pub specified: f64,
    /// Bandwidth that reading reaches, GB/s.
    pub bandwidth: Range,
    /// Latency of a load that hits L2, ns.
    pub l2: Range,
    /// Latency of a load from memory that nothing else uses, ns.
    pub memory: Range,
    /// From the last block's arrival at a grid barrier to the others' leaving it, with a store
    /// before, ns.
    pub barrier: Range,
}

pub const RTX_3090: Card = Card {
    name: "RTX 3090",
    multiprocessors: 82,
    clock: 1.70,
    specified: 936.0,
    // Assumed: 94%. The A40 reads at 97.7% of its GDDR6 [1]; nothing found for GDDR6X.
    bandwidth: range(842.0, 880.0, 914.0),
    // 250 and 556 cycles [1], at 1.70 GHz.
    l2: range(144.0, 147.0, 160.0),
    memory: range(319.0, 327.0, 400.0),
    // A40, atomics: 0.93 us a round, of which a load from L2 is 0.14 [1]; empty grid.sync 0.73 [2].
    barrier: range(730.0, 790.0, 930.0),
};

pub const RTX_4090: Card = Card {
    name: "RTX 4090",
    multiprocessors: 128,
    clock: 2.52,
    specified: 1008.0,
    // Assumed: 94%. The L40 reads at 97.8% of its GDDR6 [1]; nothing found for GDDR6X.
    bandwidth: range(907.0, 948.0, 985.0),
    // 274 and 625 cycles at 2.49 GHz [1]; by multiprocessor 222 to 339 cycles [4].
    l2: range(89.0, 110.0, 136.0),
    memory: range(240.0, 250.0, 320.0),
    // L40: grid.sync 1.08 us a round, atomics 0.88, less a load from L2 [1].
    barrier: range(770.0, 970.0, 1080.0),
};

pub const RTX_5090: Card = Card {
    name: "RTX 5090",
    multiprocessors: 170,
    clock: 2.41,
    specified: 1792.0,
    bandwidth: range(1613.0, 1674.0, 1702.0), // measured: 1,674 [3]
    // Assumed: from the 4090's to half as much again; no microbenchmark found.
    l2: range(110.0, 135.0, 165.0),
    memory: range(250.0, 330.0, 420.0),
    // Assumed: the 4090's, scaled as the L2 latency; up to 1.6.
    barrier: range(770.0, 1190.0, 1600.0),
};

pub const H100: Card = Card {
    name: "H100 SXM",
    specified: 3350.0,
    // Assumed: 93%. The H100 PCIe reads at 95% of its HBM2e, GH200 streams at 95% of its HBM3 [1].
    bandwidth: range(3015.0, 3115.0, 3183.0),
    ..H200
};

pub const H200: Card = Card {
    name: "H200",
    multiprocessors: 132,
    clock: 1.98,
    specified: 4800.0,
    // Assumed: 92%, as above.
    bandwidth: range(4300.0, 4400.0, 4560.0),
    // GH200: 142 in the near half of L2, up to 260 in the far one; 348 from memory [1].
    l2: range(142.0, 200.0, 260.0),
    memory: range(345.0, 348.0, 420.0),
    // H200: grid.sync 1.27 us a round, atomics 1.22, less a load from L2 [1].
    barrier: range(1020.0, 1070.0, 1270.0),
};

pub const B200: Card = Card {
    name: "B200",
    multiprocessors: 148,
    clock: 1.85,
    specified: 7672.0, // by bus width and clock [5]; 8,000 in the data sheet
    // Assumed: 92%.
    bandwidth: range(6520.0, 7060.0, 7290.0),
    // About 150 in the near half [6]; the far half and memory are assumed.
    l2: range(150.0, 210.0, 300.0),
    memory: range(350.0, 400.0, 550.0),
    // Assumed: the H200's, scaled as the L2 latency; two dies may cost half as much again.
    barrier: range(1020.0, 1120.0, 1700.0),
};

/// Those that the predictions are for.
pub const CARDS: [Card; 6] = [RTX_3090, RTX_4090, RTX_5090, H100, H200, B200];

/// For a check only: the 3090's chip, with less memory bandwidth.
pub const A10: Card = Card {
    name: "A10",
    multiprocessors: 72,
    specified: 600.0,
    bandwidth: range(540.0, 575.0, 586.0), // up to the A40's 97.7% [1]
    ..RTX_3090
};

/// A load that hits L1: cycles [1].
pub const L1_CYCLES: Range = range(32.0, 33.0, 34.0);
/// A sum over the lanes of a warp: five shuffles and additions, cycles. Assumed.
pub const REDUCTION_CYCLES: Range = range(100.0, 135.0, 180.0);
/// A barrier of a block of 256 threads, cycles. Assumed.
pub const BLOCK_BARRIER_CYCLES: Range = range(20.0, 40.0, 80.0);
/// A batch of weights multiplied: some 150 instructions of each of a scheduler's two warps, cycles.
/// Assumed.
pub const BATCH_CYCLES: Range = range(150.0, 300.0, 400.0);
/// By how much latency grows while memory is busy. Assumed; GH200 at 70% of its bandwidth: about
/// 1.7 by Little's law [1].
pub const LOADED: Range = range(1.2, 1.6, 2.2);
/// A call of the driver that waits for the card (launch and wait, or a copy), us. Assumed.
pub const ROUND_TRIP_US: Range = range(5.0, 8.0, 12.0);
/// A kernel launched behind another, us [2].
pub const LAUNCH_US: Range = range(1.5, 1.54, 1.6);
/// A copy from the card to memory that is not pinned, ns a byte: 12, 9, 6 GB/s. Assumed.
pub const COPY_NS: Range = range(1.0 / 12.0, 1.0 / 9.0, 1.0 / 6.0);
/// The sampler on the host over Qwen3's vocabulary, greedy, us. Assumed.
pub const HOST_SAMPLE_US: Range = range(10.0, 25.0, 60.0);
/// Bytes that a multiprocessor reads from shared memory in a cycle.
pub const SHARED_BYTES: f64 = 128.0;
