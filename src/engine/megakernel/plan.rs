//! Which kernel runs a pass, with which grid and how much shared memory; and the separate kernels
//! that make a step.

use super::abi::{
    OG_BUCKETS, OG_CHUNK, OG_GROUP_ROWS, OG_MAX_THREADS, OG_QUERY_BLOCK, OG_SEGMENT_SUMS,
    OG_SELECT_PASSES, OG_SELECT_TOP_K, OG_SELECT_TOP_P, OG_SHARED_FIXED, OgArguments,
};
use super::device::{Device, Launch, Limits};
use super::error::DeviceError;
use super::options::{MAX_COLUMNS, MegakernelOptions, Variant, WARP};
use crate::model::ModelConfig;

/// Columns that kernels are made for.
pub const COLUMNS: [usize; 4] = [1, 2, 4, 8];
/// Widths of heads that kernels are made for.
pub const HEAD_DIMS: [usize; 2] = [64, 128];

/// Whether the kernels run `config`.
///
/// # Errors
/// Names what they don't run.
pub fn check_supported(config: &ModelConfig) -> Result<(), DeviceError> {
    let head_dim = config.head_dim;
    match HEAD_DIMS.contains(&head_dim) {
        true => Ok(()),
        false => Err(DeviceError::HeadDim { head_dim }),
    }
}

/// The name of the kernel that runs whole steps.
pub fn kernel_name(variant: Variant, head_dim: usize, columns: usize) -> String {
    format!("megakernel_h{head_dim}_c{columns}_{}", variant.name())
}

/// How a kernel is launched, whatever it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    /// The kernel.
    pub kernel: String,
    /// Columns it was made for.
    pub columns: usize,
    /// Blocks of the grid.
    pub blocks: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Shared memory of a block.
    pub shared: SharedMemory,
    /// How rows are shared by warps.
    pub segments: Segments,
}

/// How a block's shared memory is used, behind its fixed part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedMemory {
    /// Floats of x, a column: a multiple of [`OG_CHUNK`].
    pub tile: u32,
    /// Where fused phases keep what a KV head attended to: floats from the beginning.
    pub attended_at: u32,
    /// Bytes in all, the fixed part included.
    pub bytes: u32,
}

/// What decides how much shared memory a block needs.
#[derive(Clone, Copy, Debug)]
struct Shape<'a> {
    config: &'a ModelConfig,
    variant: Variant,
    columns: usize,
    threads: u32,
}

impl Shape<'_> {
    /// Floats of what takes x's place by turns: attention's (`OG_ATTENTION_FLOATS`), or a histogram
    /// of 64-bit counts (`OG_SHARED_WORK_MIN`).
    fn floats_instead(&self) -> u64 {
        let [warps, queries] = [self.threads / WARP, OG_QUERY_BLOCK].map(u64::from);
        let [columns, head_dim] = [self.columns, self.config.head_dim].map(|n| n as u64);
        let attention = warps * queries * (head_dim + 2) + queries * head_dim + columns * head_dim;
        attention.max(u64::from(OG_BUCKETS) * 2)
    }

    /// Floats of one column of what a KV head attended to, where that lies behind x.
    fn attended(&self) -> u64 {
        match self.variant {
            Variant::FusedPhases => (self.config.group_size() * self.config.head_dim) as u64,
            _ => 0,
        }
    }

    /// The shortest tile.
    fn least_tile(&self) -> u64 {
        let chunk = u64::from(OG_CHUNK);
        self.attended().next_multiple_of(chunk).max(chunk)
    }

    fn bytes(&self, tile: u64) -> u64 {
        let columns = self.columns as u64;
        let work = (tile * columns).max(self.floats_instead());
        u64::from(OG_SHARED_FIXED) + 4 * (work + columns * self.attended())
    }

    /// The longest tile that `most` bytes allow, or that some row needs.
    fn fit(&self, most: u32) -> Option<SharedMemory> {
        let config = self.config;
        let most = u64::from(most);
        if self.bytes(self.least_tile()) > most {
            return None;
        }
        let (columns, chunk) = (self.columns as u64, u64::from(OG_CHUNK));
        let room = (most - u64::from(OG_SHARED_FIXED)) / 4 - columns * self.attended();
        let widest = config.hidden_size.max(config.q_size());
        let widest = widest.max(config.intermediate_size) as u64;
        let tile = widest
            .next_multiple_of(chunk)
            .min(room / columns / chunk * chunk);
        Some(SharedMemory {
            tile: tile as u32,
            attended_at: (tile * columns).max(self.floats_instead()) as u32,
            bytes: self.bytes(tile) as u32,
        })
    }
}

/// Warps that share the columns of a row, where a block has fewer groups of rows than warps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    /// Of QKV's rows.
    pub qkv: u32,
    /// Of the output projection's.
    pub output: u32,
    /// Of gate's and up's.
    pub gate_up: u32,
    /// Of the down projection's.
    pub down: u32,
}

impl Segments {
    fn new(config: &ModelConfig, blocks: u32, threads: u32, columns: usize) -> Self {
        let of = |rows: usize, length: usize| {
            segments(rows as u64, length as u64, blocks, threads, columns)
        };
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        Self {
            qkv: of(config.q_size() + 2 * config.kv_size(), hidden),
            output: of(hidden, config.q_size()),
            gate_up: of(2 * intermediate, hidden),
            down: of(hidden, intermediate),
        }
    }
}

/// As many as give every warp of a block a part of its rows: at most one for each chunk of a row,
/// and no more than there is room for their sums.
fn segments(rows: u64, length: u64, blocks: u32, threads: u32, columns: usize) -> u32 {
    let group_rows = u64::from(OG_GROUP_ROWS);
    let groups = rows.div_ceil(group_rows).div_ceil(blocks.into()).max(1);
    let by_warps = u64::from(threads / WARP) / groups;
    let by_chunks = length.div_ceil(OG_CHUNK.into());
    let by_sums = u64::from(OG_SEGMENT_SUMS) / (groups * group_rows * columns as u64);
    by_warps.min(by_chunks).min(by_sums).max(1) as u32
}

/// The kernels of one engine.
#[derive(Clone, Debug)]
pub struct Plan {
    /// By number of columns, less one: what decodes. `None` where the variant has no kernel.
    decode: [Option<Pass>; MAX_COLUMNS],
    /// By number of columns, less one: what runs pieces of prompts.
    prefill: [Option<Pass>; MAX_COLUMNS],
    /// For separate kernels, by number of columns, less one; without a name.
    separate: [Option<Pass>; MAX_COLUMNS],
    variant: Variant,
    head_dim: usize,
    device: String,
    /// What the variant has kernels for, in words.
    supported: String,
}

impl Plan {
    /// Chooses kernels for `config` on `device`.
    ///
    /// # Errors
    /// A model that no kernel was made for; no kernel for one column; a grid that can't be
    /// resident; too little shared memory.
    pub fn new<D: Device>(
        device: &mut D,
        config: &ModelConfig,
        options: &MegakernelOptions,
    ) -> Result<Self, DeviceError> {
        check_supported(config)?;
        let (variant, head_dim) = (options.variant, config.head_dim);
        let mut own = [const { None }; COLUMNS.len()];
        let mut any = [const { None }; COLUMNS.len()];
        for (slot, columns) in COLUMNS.into_iter().enumerate() {
            let name = kernel_name(variant, head_dim, columns);
            if device.has_kernel(&name) {
                own[slot] = Some(cooperative(device, config, options, name, columns)?);
            }
            let plain = kernel_name(Variant::RedundantNorm, head_dim, columns);
            any[slot] = match &own[slot] {
                Some(pass) => Some(pass.clone()),
                None if device.has_kernel(&plain) => {
                    Some(cooperative(device, config, options, plain, columns)?)
                }
                None => None,
            };
        }
        let mut separate = [const { None }; COLUMNS.len()];
        if options.stage.is_separate() {
            for (slot, columns) in COLUMNS.into_iter().enumerate() {
                if device.has_kernel(&format!("step_head_c{columns}")) {
                    separate[slot] = Some(free(device, config, options, columns)?);
                }
            }
        }
        let plan = Self {
            decode: std::array::from_fn(|least| smallest(&own, least + 1)),
            prefill: std::array::from_fn(|least| smallest(&any, least + 1)),
            separate: std::array::from_fn(|least| smallest(&separate, least + 1)),
            variant,
            head_dim,
            device: device.limits().name.clone(),
            supported: supported(device, variant),
        };
        plan.prefill(1)?;
        match options.stage.is_separate() {
            true => plan.separate(1)?,
            false => plan.decode(1)?,
        };
        Ok(plan)
    }

    /// What decodes one sequence and records a trace of it, where `device` has a kernel for that.
    ///
    /// # Errors
    /// A grid that can't be resident; too little shared memory.
    pub fn traced<D: Device>(
        device: &mut D,
        config: &ModelConfig,
        options: &MegakernelOptions,
    ) -> Result<Option<Pass>, DeviceError> {
        let name = format!("traced_h{}_c1_{}", config.head_dim, options.variant.name());
        match device.has_kernel(&name) {
            true => cooperative(device, config, options, name, 1).map(Some),
            false => Ok(None),
        }
    }

    /// What decodes `columns` sequences together.
    ///
    /// # Errors
    /// If the variant has no such kernel.
    pub fn decode(&self, columns: usize) -> Result<&Pass, DeviceError> {
        let found = self.decode[columns - 1].as_ref();
        found.ok_or_else(|| self.missing(self.variant.name(), columns))
    }

    /// What runs `columns` tokens of a prompt: the variant's kernel, or where it has none for so
    /// many columns, the default variant's.
    ///
    /// # Errors
    /// If there is none at all.
    pub fn prefill(&self, columns: usize) -> Result<&Pass, DeviceError> {
        let found = self.prefill[columns - 1].as_ref();
        found.ok_or_else(|| self.missing(self.variant.name(), columns))
    }

    /// How separate kernels for `columns` sequences are launched.
    ///
    /// # Errors
    /// If there are none.
    pub fn separate(&self, columns: usize) -> Result<&Pass, DeviceError> {
        let found = self.separate[columns - 1].as_ref();
        found.ok_or_else(|| self.missing("step_*", columns))
    }

    fn missing(&self, variant: &str, columns: usize) -> DeviceError {
        DeviceError::NoSuchKernel {
            variant: variant.to_owned(),
            columns,
            head_dim: self.head_dim,
            device: self.device.clone(),
            supported: self.supported.clone(),
        }
    }

    /// The most columns of a piece of prefill, up to `most`.
    pub fn widest_prefill(&self, most: usize) -> usize {
        let has_kernel = |columns: &usize| self.prefill[columns - 1].is_some();
        (1..=most).rev().find(has_kernel).unwrap_or(1)
    }

    /// The most blocks of any grid.
    pub fn most_blocks(&self) -> u32 {
        let passes = self
            .decode
            .iter()
            .chain(&self.prefill)
            .chain(&self.separate);
        passes.flatten().map(|pass| pass.blocks).max().unwrap_or(1)
    }
}

/// What `variant` has kernels for on `device`, in words.
fn supported<D: Device>(device: &mut D, variant: Variant) -> String {
    let mut all = Vec::new();
    for head_dim in HEAD_DIMS {
        let mut columns = COLUMNS.into_iter().rev();
        let has_kernel = |columns: &usize| {
            let name = kernel_name(variant, head_dim, *columns);
            device.has_kernel(&name)
        };
        if let Some(most) = columns.find(has_kernel) {
            let up_to = if most > 1 { "up to " } else { "" };
            all.push(format!("heads of {head_dim} and a batch of {up_to}{most}"));
        }
    }
    match all.is_empty() {
        true => "nothing".into(),
        false => all.join(", "),
    }
}

/// The kernel with the fewest columns, but at least `least`.
fn smallest(passes: &[Option<Pass>], least: usize) -> Option<Pass> {
    let mut found = passes.iter().flatten();
    found.find(|pass| pass.columns >= least).cloned()
}

/// A cooperative launch: one block on each multiprocessor, all resident together.
fn cooperative<D: Device>(
    device: &mut D,
    config: &ModelConfig,
    options: &MegakernelOptions,
    kernel: String,
    columns: usize,
) -> Result<Pass, DeviceError> {
    let limits = device.limits().clone();
    let threads = options
        .threads
        .unwrap_or(limits.threads)
        .min(OG_MAX_THREADS);
    let shape = Shape {
        config,
        variant: options.variant,
        columns,
        threads,
    };
    let shared = shared_memory(&limits, shape, &kernel)?;
    let blocks = options.blocks.unwrap_or(limits.multiprocessors);
    let resident = device.resident_blocks(&kernel, threads, shared.bytes)?;
    if resident < blocks {
        return Err(DeviceError::GridNotResident {
            kernel,
            device: limits.name,
            blocks,
            threads,
            shared_bytes: shared.bytes,
            resident,
        });
    }
    Ok(Pass {
        kernel,
        columns,
        blocks,
        threads,
        shared,
        segments: Segments::new(config, blocks, threads, columns),
    })
}

/// Launches of separate kernels, whose blocks wait for nobody: as many as the device holds of the
/// head's kernel, which has the most work.
fn free<D: Device>(
    device: &mut D,
    config: &ModelConfig,
    options: &MegakernelOptions,
    columns: usize,
) -> Result<Pass, DeviceError> {
    let limits = device.limits().clone();
    let head = format!("step_head_c{columns}");
    let threads = options
        .threads
        .unwrap_or(limits.threads)
        .min(OG_MAX_THREADS);
    let shape = Shape {
        config,
        variant: Variant::default(),
        columns,
        threads,
    };
    let shared = shared_memory(&limits, shape, &head)?;
    let resident = device.resident_blocks(&head, threads, shared.bytes)?;
    let blocks = options.blocks.unwrap_or(resident).max(1);
    Ok(Pass {
        kernel: String::new(),
        columns,
        blocks,
        threads,
        shared,
        segments: Segments::new(config, blocks, threads, columns),
    })
}

fn shared_memory(limits: &Limits, shape: Shape, kernel: &str) -> Result<SharedMemory, DeviceError> {
    let fit = shape.fit(limits.shared_bytes);
    fit.ok_or_else(|| DeviceError::SharedMemory {
        kernel: kernel.to_owned(),
        device: limits.name.clone(),
        needed: shape.bytes(shape.least_tile()),
        most: limits.shared_bytes.into(),
    })
}

/// The separate kernels of one step of `pass.columns` sequences, in order: what a megakernel does
/// between two samples, then the next sample.
pub fn step(pass: &Pass, config: &ModelConfig, arguments: &OgArguments) -> Vec<Launch> {
    let (columns, head_dim) = (pass.columns, config.head_dim);
    let launch = |kernel: String, layer: usize| Launch {
        kernel,
        blocks: pass.blocks,
        threads: pass.threads,
        shared_bytes: pass.shared.bytes,
        cooperative: false,
        arguments: OgArguments {
            layer: layer as u32,
            ..*arguments
        },
    };
    let mut launches = vec![launch(format!("step_embed_c{columns}"), 0)];
    for layer in 0..config.layers {
        let phases = [
            format!("step_qkv_c{columns}"),
            format!("step_attention_h{head_dim}_c{columns}"),
            format!("step_output_h{head_dim}_c{columns}"),
            format!("step_gate_up_c{columns}"),
            format!("step_down_c{columns}"),
        ];
        launches.extend(phases.map(|kernel| launch(kernel, layer)));
    }
    launches.push(launch(format!("step_head_c{columns}"), 0));
    launches.extend(sample(pass, arguments));
    launches
}

/// The separate kernels that sample: each block scores its part of the vocabulary; where some
/// request has filters, each pass of their selection is a launch whose `layer` numbers it, and what
/// survives is drawn from; one block chooses, tells the host, and prepares the next step.
pub fn sample(pass: &Pass, arguments: &OgArguments) -> Vec<Launch> {
    let launch = |kernel: &str, blocks: u32, layer: u32| Launch {
        kernel: kernel.to_owned(),
        blocks,
        threads: pass.threads,
        shared_bytes: pass.shared.bytes,
        cooperative: false,
        arguments: OgArguments {
            layer,
            ..*arguments
        },
    };
    let mut launches = vec![launch("step_score", pass.blocks, 0)];
    for (filter, bit) in (0..).zip([OG_SELECT_TOP_K, OG_SELECT_TOP_P]) {
        if arguments.select & bit != 0 {
            let passes = filter * OG_SELECT_PASSES..(filter + 1) * OG_SELECT_PASSES;
            launches.extend(passes.map(|layer| launch("step_count", pass.blocks, layer)));
        }
    }
    if arguments.select != 0 {
        launches.push(launch("step_draw", pass.blocks, 0));
    }
    launches.push(launch("step_sample", 1, 0));
    launches
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::abi::OG_SELECT_MIN_P;
    use super::*;
    use crate::model::shapes;

    /// The most shared memory of a block, by compute capability (CUDA C++ Programming Guide,
    /// technical specifications).
    const SM_80: u32 = 163 * 1024;
    const SM_86: u32 = 99 * 1024;
    const SM_90: u32 = 227 * 1024;

    fn qwen3() -> ModelConfig {
        shapes::config("qwen3-0.6b").unwrap()
    }

    fn shape(config: &ModelConfig, columns: usize) -> Shape<'_> {
        Shape {
            config,
            variant: Variant::RedundantNorm,
            columns,
            threads: 512,
        }
    }

    #[test]
    fn a_tile_holds_the_widest_row_where_it_can() {
        let config = qwen3();
        let one = shape(&config, 1).fit(SM_86).unwrap();
        assert_eq!(one.tile, 3072);
        // Attention of 16 warps needs more than 3,072 floats.
        assert_eq!(
            one.bytes,
            OG_SHARED_FIXED + 4 * (16 * 4 * 130 + 4 * 128 + 128)
        );
        let eight = shape(&config, 8).fit(SM_86).unwrap();
        assert_eq!(
            (eight.tile, eight.bytes),
            (2816, OG_SHARED_FIXED + 4 * 8 * 2816)
        );
        let eight = shape(&config, 8).fit(SM_90).unwrap();
        assert_eq!(
            (eight.tile, eight.bytes),
            (3072, OG_SHARED_FIXED + 4 * 8 * 3072)
        );
    }

    #[test]
    fn fused_phases_keep_what_they_attended_to_behind_all_else() {
        let config = qwen3();
        let fused = Shape {
            variant: Variant::FusedPhases,
            ..shape(&config, 8)
        };
        let shared = fused.fit(SM_90).unwrap();
        // Two heads of 128 share a KV head.
        assert_eq!(shared.attended_at, 8 * 3072);
        assert_eq!(shared.bytes, OG_SHARED_FIXED + 4 * 8 * (3072 + 256));
    }

    #[test]
    fn every_shape_fits_every_architecture() {
        for name in shapes::names() {
            let config = shapes::config(name).unwrap();
            for (columns, variant) in COLUMNS.into_iter().zip(Variant::ALL.into_iter().cycle()) {
                for most in [SM_80, SM_86, SM_90] {
                    let shape = Shape {
                        variant,
                        ..shape(&config, columns)
                    };
                    assert!(shape.fit(most).is_some(), "{name} {columns} {variant:?}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn tiles_are_whole_chunks_that_fit(
            intermediate_size in 1..100_000_usize,
            group in 1..9_usize,
            columns in 0..4_usize,
            warps in 1..17_u32,
            is_fused: bool,
            most in 0..250_000_u32,
        ) {
            let config = ModelConfig {
                intermediate_size,
                heads: 8 * group,
                ..qwen3()
            };
            let columns = COLUMNS[columns];
            let shape = Shape {
                config: &config,
                variant: if is_fused { Variant::FusedPhases } else { Variant::Block0Norm },
                columns,
                threads: 32 * warps,
            };
            let least = shape.bytes(shape.least_tile());
            match shape.fit(most) {
                None => prop_assert!(u64::from(most) < least),
                Some(shared) => {
                    prop_assert!(u64::from(most) >= least);
                    prop_assert!(shared.bytes <= most && shared.tile > 0);
                    prop_assert_eq!(shared.tile % OG_CHUNK, 0);
                    let group = group as u32 * 128;
                    prop_assert!(!is_fused || shared.tile >= group);
                    let columns = columns as u32;
                    let attended = if is_fused { columns * group } else { 0 };
                    prop_assert!(shared.attended_at >= shared.tile * columns);
                    prop_assert!(shared.attended_at >= 4096);
                    prop_assert_eq!(
                        OG_SHARED_FIXED + 4 * (shared.attended_at + attended),
                        shared.bytes
                    );
                    let widest = intermediate_size.max(config.q_size()).next_multiple_of(256) as u32;
                    prop_assert!(shared.tile <= widest);
                    // A longer tile is not needed, or does not fit.
                    let longer = shape.bytes(u64::from(shared.tile + OG_CHUNK));
                    prop_assert!(shared.tile == widest || longer > u64::from(most));
                }
            }
        }

        #[test]
        fn segments_leave_room_for_their_sums(
            rows in 1..200_000_u64,
            length in 1..30_000_u64,
            blocks in 1..200_u32,
            warps in 1..17_u32,
            columns in 0..4_usize,
        ) {
            let columns = COLUMNS[columns];
            let segments = segments(rows, length, blocks, 32 * warps, columns);
            let groups = rows.div_ceil(2).div_ceil(blocks.into());
            prop_assert!(segments >= 1);
            if segments > 1 {
                prop_assert!(groups * u64::from(segments) * 2 * columns as u64 <= 1024);
                prop_assert!(groups * u64::from(segments) <= warps.into());
            }
        }
    }

    #[test]
    fn warps_share_rows_where_a_block_has_few() {
        let config = qwen3();
        // 132 blocks of 16 warps: 16 groups of rows of QKV for each block, but 4 of O and of down.
        let expected = Segments {
            qkv: 1,
            output: 4,
            gate_up: 1,
            down: 4,
        };
        assert_eq!(Segments::new(&config, 132, 512, 1), expected);
    }

    fn pass(columns: usize) -> Pass {
        Pass {
            kernel: String::new(),
            columns,
            blocks: 264,
            threads: 256,
            shared: SharedMemory {
                tile: 3072,
                attended_at: 0,
                bytes: 50_000,
            },
            segments: Segments {
                qkv: 1,
                output: 1,
                gate_up: 1,
                down: 1,
            },
        }
    }

    #[test]
    fn a_step_of_separate_kernels_has_the_phases_in_order() {
        let config = qwen3();
        let launches = step(&pass(2), &config, &OgArguments::default());
        let names: Vec<_> = launches.iter().map(|launch| &launch.kernel[..]).collect();
        assert_eq!(names.len(), 1 + 5 * 28 + 3);
        let first = ["step_embed_c2", "step_qkv_c2", "step_attention_h128_c2"];
        assert_eq!(names[..3], first);
        let layer = [
            "step_output_h128_c2",
            "step_gate_up_c2",
            "step_down_c2",
            "step_qkv_c2",
        ];
        assert_eq!(names[3..7], layer);
        let last = ["step_head_c2", "step_score", "step_sample"];
        assert_eq!(names[names.len() - 3..], last);
        let layers: Vec<_> = launches
            .iter()
            .map(|launch| launch.arguments.layer)
            .collect();
        assert_eq!(layers[1..11], [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]);
        assert_eq!(layers[layers.len() - 4], 27);
        assert!(launches.iter().all(|launch| !launch.cooperative));
        assert_eq!(launches.last().unwrap().blocks, 1);
    }

    #[test]
    fn a_selection_is_launched_where_it_is_wanted() {
        let names = |select| {
            let arguments = OgArguments {
                select,
                ..OgArguments::default()
            };
            let launches = sample(&pass(1), &arguments);
            let (last, others) = launches.split_last().unwrap();
            assert_eq!((&last.kernel[..], last.blocks), ("step_sample", 1));
            assert!(others.iter().all(|launch| launch.blocks == 264));
            let name = |launch: &Launch| match &launch.kernel[..] {
                "step_count" => launch.arguments.layer.to_string(),
                kernel => kernel.trim_start_matches("step_").to_owned(),
            };
            others.iter().map(name).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(0), "score");
        assert_eq!(names(OG_SELECT_MIN_P), "score draw");
        assert_eq!(names(OG_SELECT_TOP_K), "score 0 1 2 draw");
        assert_eq!(names(OG_SELECT_TOP_P), "score 3 4 5 draw");
        let all = OG_SELECT_TOP_K | OG_SELECT_TOP_P;
        assert_eq!(names(all), "score 0 1 2 3 4 5 draw");
    }

    #[test]
    fn the_smallest_kernel_that_holds_the_columns_is_taken() {
        let passes = [1, 4].map(|columns| Some(pass(columns)));
        let found = |least| smallest(&passes, least).map(|pass| pass.columns);
        assert_eq!([1, 2, 4, 5].map(found), [Some(1), Some(4), Some(4), None]);
    }

    #[test]
    fn kernels_are_named_by_variant_head_and_columns() {
        let name = kernel_name(Variant::Block0Norm, 128, 8);
        assert_eq!(name, "megakernel_h128_c8_block0_norm");
    }

    #[test]
    fn heads_of_other_widths_are_refused_by_name() {
        let config = ModelConfig {
            head_dim: 96,
            ..qwen3()
        };
        let message = check_supported(&config).unwrap_err().to_string();
        for word in ["64 or 128", "96", "--device cpu"] {
            assert!(message.contains(word), "{message}");
        }
    }
}
