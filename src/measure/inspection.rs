//! What a model is, and how fast this machine could decode it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::bandwidth::team::ReadTeam;
use super::bandwidth::{Bandwidth, BandwidthError, SAMPLE_SECONDS};
use super::statistics::Summary;
use crate::memory;
use crate::model::storage::{Storage, huge_pages};
use crate::model::{Files, ModelConfig, checkpoint};
use crate::report::table::{Cell, Column, Table};

/// Positions whose floors are told, where the model has them.
const POSITIONS: [usize; 6] = [0, 1024, 4096, 8192, 32_768, 131_072];

/// Measurements of the bandwidth.
const SAMPLES: usize = 5;

/// More bytes than this tell nothing new of the bandwidth: they exceed every cache by far.
const MOST_BYTES: usize = 1 << 30;

/// A model's shape and sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    /// As it was asked for.
    pub model: String,
    /// The family.
    pub architecture: String,
    /// Type of the matrices in the checkpoint.
    pub dtype: String,
    /// Number of parameters; a tied head counts once.
    pub parameters: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Whether the LM head is the embedding.
    pub tied_embeddings: bool,
    /// Base of the rotary embedding.
    pub rope_theta: f64,
    /// Factor of its scaling, if it has one.
    pub rope_scaling_factor: Option<f64>,
    /// The longest sequence the model was made for.
    pub max_positions: usize,
    /// Tokens that the tokenizer knows; `None` if there is no tokenizer.
    pub tokenizer_tokens: Option<usize>,
    /// Tokens that end a text; `None` if there is no tokenizer.
    pub stop_tokens: Option<Vec<u32>>,
    /// Bytes of bf16 that a decode step must read.
    pub bytes: StepBytes,
    /// How fast this machine could decode it at best; `None` if that was not asked for.
    pub floor: Option<MachineFloor>,
    /// The GPU that would decode it; `None` if that was not asked for.
    pub card: Option<CardInspection>,
}

/// A GPU, and how the kernel would be launched on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CardInspection {
    /// Its name.
    pub name: String,
    /// As in `9.0`.
    pub compute_capability: String,
    /// The newest CUDA that the driver supports.
    pub driver: String,
    /// Its memory, in bytes.
    pub memory_bytes: u64,
    /// Size of the second-level cache, in bytes.
    pub l2_bytes: u64,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// The kernel that decodes one sequence.
    pub kernel: String,
    /// Blocks of its grid.
    pub blocks: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Blocks of that size that can be resident together.
    pub resident_blocks: u32,
    /// Shared memory of a block, in bytes.
    pub shared_bytes: u32,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of a thread that did not fit registers.
    pub spilled_bytes: u32,
    /// What the memory's clock and bus allow, in bytes a second; `None` where the driver does not
    /// say.
    pub specified_bandwidth_bytes_per_second: Option<f64>,
    /// How fast its memory was read, in bytes a second; `None` where that was not measured.
    pub read_bandwidth_bytes_per_second: Option<f64>,
    /// The most tokens a second that the specified bandwidth allows, by position.
    pub positions: Vec<PositionFloor>,
}

impl CardInspection {
    /// What `floors` would be on a card of this specified bandwidth.
    pub fn floors(config: &ModelConfig, bandwidth: Option<f64>) -> Vec<PositionFloor> {
        bandwidth.map_or(Vec::new(), |bandwidth| floors(config, bandwidth))
    }

    fn rows(&self, row: &mut impl FnMut(&str, String, &str)) {
        row("GPU", self.name.clone(), "");
        row("compute capability", self.compute_capability.clone(), "");
        row("driver", format!("CUDA {}", self.driver), "");
        row(
            "GPU memory",
            format!("{:.0}", self.memory_bytes as f64 * 1e-6),
            "MB",
        );
        row(
            "second-level cache",
            format!("{:.1}", self.l2_bytes as f64 * 1e-6),
            "MB",
        );
        row("kernel", self.kernel.clone(), "");
        let grid = format!("{} blocks of {} threads", self.blocks, self.threads);
        row("grid", grid, "");
        row(
            "resident at most",
            self.resident_blocks.to_string(),
            "blocks",
        );
        row("multiprocessors", self.multiprocessors.to_string(), "");
        row("shared memory", self.shared_bytes.to_string(), "B a block");
        row("registers", self.registers.to_string(), "a thread");
        row("spilled", self.spilled_bytes.to_string(), "B a thread");
        let speed = |bandwidth: Option<f64>, missing: &str| {
            bandwidth.map_or(missing.to_owned(), |speed| format!("{:.2}", speed * 1e-9))
        };
        let specified = speed(self.specified_bandwidth_bytes_per_second, "not known");
        row("GPU memory, specification", specified, "GB/s");
        let measured = speed(self.read_bandwidth_bytes_per_second, "not measured");
        row("GPU memory reads", measured, "GB/s");
        for at in &self.positions {
            let name = format!("floor by specification at position {}", at.position);
            row(&name, format!("{:.2}", at.tokens_per_second), "tok/s");
        }
    }
}

/// The most tokens a second of `config` that `bandwidth` allows, by position.
fn floors(config: &ModelConfig, bandwidth: f64) -> Vec<PositionFloor> {
    let positions = POSITIONS.into_iter().filter(|&p| p < config.max_positions);
    let at = |position| {
        let bytes_per_token = config.bytes_per_token(position);
        PositionFloor {
            position,
            bytes_per_token,
            tokens_per_second: bandwidth / bytes_per_token as f64,
        }
    };
    positions.map(at).collect()
}

/// What a decode step must read, in bytes of bf16.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepBytes {
    /// The matrices of one layer.
    pub layer: usize,
    /// The LM head.
    pub head: usize,
    /// All weights of a step: the layers and the head.
    pub weights_per_token: usize,
    /// Keys and values of each past position.
    pub kv_per_position: usize,
}

/// How fast a machine could decode at best.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachineFloor {
    /// Threads that read.
    pub threads: usize,
    /// The fastest way to read that was found.
    pub read_kernel: String,
    /// Bytes that were read: as many as a step reads, if that is not too much.
    pub read_bytes: u64,
    /// How fast they were read.
    pub read_bandwidth_bytes_per_second: Summary,
    /// The most tokens a second, by position.
    pub positions: Vec<PositionFloor>,
}

/// The floor at one position.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PositionFloor {
    /// Past positions.
    pub position: usize,
    /// Bytes that a step there must read.
    pub bytes_per_token: usize,
    /// How many such steps memory allows in a second.
    pub tokens_per_second: f64,
}

/// The type of the matrices that a checkpoint's `config.json` declares, if it does.
pub fn declared_dtype(files: &Files) -> Option<String> {
    let json = files.read(checkpoint::CONFIG).ok()??;
    let config: serde_json::Value = serde_json::from_slice(&json).ok()?;
    let dtype = config.get("dtype").or_else(|| config.get("torch_dtype"))?;
    dtype.as_str().map(str::to_owned)
}

/// What a [`ModelConfig`] does not say of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Provenance {
    /// As it was asked for.
    pub model: String,
    /// Type of the matrices in the checkpoint.
    pub dtype: String,
    /// Tokens that the tokenizer knows.
    pub tokenizer_tokens: Option<usize>,
    /// Tokens that end a text.
    pub stop_tokens: Option<Vec<u32>>,
}

impl Inspection {
    /// The shape and sizes of `config`, without a floor.
    pub fn new(config: &ModelConfig, provenance: Provenance) -> Self {
        Self {
            model: provenance.model,
            architecture: format!("{:?}", config.architecture),
            dtype: provenance.dtype,
            parameters: config.parameters(),
            layers: config.layers,
            hidden_size: config.hidden_size,
            intermediate_size: config.intermediate_size,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            vocab_size: config.vocab_size,
            tied_embeddings: config.tied_embeddings,
            rope_theta: config.rope.theta,
            rope_scaling_factor: config.rope.scaling.map(|scaling| scaling.factor),
            max_positions: config.max_positions,
            tokenizer_tokens: provenance.tokenizer_tokens,
            stop_tokens: provenance.stop_tokens,
            bytes: StepBytes {
                layer: 2 * config.layer_matrix_elements(),
                head: 2 * config.vocab_size * config.hidden_size,
                weights_per_token: config.weight_bytes_per_token(),
                kv_per_position: config.kv_bytes_per_position(),
            },
            floor: None,
            card: None,
        }
    }

    /// Name and value of everything, then the floors.
    pub fn table(&self) -> Table {
        let mut table = Table::new([
            Column::text("property"),
            Column::text("value"),
            Column::text("unit"),
        ]);
        let mut row = |name: &str, value: String, unit: &str| {
            table.push([Cell::text(name), Cell::text(value), Cell::text(unit)]);
        };
        let megabytes = |bytes: usize| format!("{:.3}", bytes as f64 * 1e-6);
        row("model", self.model.clone(), "");
        row("architecture", self.architecture.clone(), "");
        row("weights", self.dtype.clone(), "");
        row(
            "parameters",
            format!("{:.1}", self.parameters as f64 * 1e-6),
            "million",
        );
        row("layers", self.layers.to_string(), "");
        row("hidden size", self.hidden_size.to_string(), "");
        row("MLP size", self.intermediate_size.to_string(), "");
        let heads = format!("{} of {}", self.heads, self.head_dim);
        row("query heads", heads, "");
        row("key/value heads", self.kv_heads.to_string(), "");
        row("vocabulary", self.vocab_size.to_string(), "tokens");
        let head = if self.tied_embeddings {
            "the embedding"
        } else {
            "its own matrix"
        };
        row("LM head", head.to_owned(), "");
        row("RoPE base", self.rope_theta.to_string(), "");
        if let Some(factor) = self.rope_scaling_factor {
            row("RoPE scaling", factor.to_string(), "");
        }
        row(
            "longest context",
            self.max_positions.to_string(),
            "positions",
        );
        let tokenizer = self
            .tokenizer_tokens
            .map_or("none".into(), |tokens| tokens.to_string());
        row("tokenizer", tokenizer, "tokens");
        if let Some(stop_tokens) = &self.stop_tokens {
            let stop_tokens: Vec<_> = stop_tokens.iter().map(ToString::to_string).collect();
            row("stop tokens", stop_tokens.join(", "), "");
        }
        row("one layer", megabytes(self.bytes.layer), "MB");
        row("LM head", megabytes(self.bytes.head), "MB");
        row(
            "read per token",
            megabytes(self.bytes.weights_per_token),
            "MB",
        );
        row(
            "and per past position",
            megabytes(self.bytes.kv_per_position),
            "MB",
        );
        if let Some(floor) = &self.floor {
            let read = &floor.read_bandwidth_bytes_per_second;
            let name = format!("memory reads, {} threads", floor.threads);
            row(&name, format!("{:.2}", read.median * 1e-9), "GB/s");
            for at in &floor.positions {
                let name = format!("floor at position {}", at.position);
                row(&name, format!("{:.2}", at.tokens_per_second), "tok/s");
            }
        }
        if let Some(card) = &self.card {
            card.rows(&mut row);
        }
        table
    }
}

/// A floor that could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum FloorError {
    /// No memory to read.
    #[error("no memory to measure the read bandwidth with ({bytes} bytes): {source}")]
    OutOfMemory {
        /// Bytes asked for.
        bytes: usize,
        /// The system's word.
        source: std::io::Error,
    },
    /// No threads to read with.
    #[error("cannot start {threads} threads to measure the read bandwidth: {source}")]
    Threads {
        /// How many.
        threads: usize,
        /// The system's word.
        source: std::io::Error,
    },
    /// What was read differs.
    #[error(transparent)]
    Bandwidth(#[from] BandwidthError),
}

impl MachineFloor {
    /// Measures how fast `threads` read as many bytes as a decode step of `config` reads (at most
    /// a gigabyte, and half of what is free), in huge pages as the CPU engine's weights are.
    ///
    /// # Errors
    /// If there is no memory, or no threads.
    pub fn measure(config: &ModelConfig, threads: usize) -> Result<Self, FloorError> {
        let free = memory::available().map_or(usize::MAX, |bytes| bytes as usize / 2);
        let bytes = config
            .weight_bytes_per_token()
            .min(MOST_BYTES)
            .min(free)
            .max(1);
        let map = huge_pages(bytes);
        let mut map = map.map_err(|source| FloorError::OutOfMemory { bytes, source })?;
        // Written, so that it has pages of its own: all that was never written is one page of zeros.
        map.fill(0x5a);
        let team = ReadTeam::new(threads);
        let team = team.map_err(|source| FloorError::Threads { threads, source })?;
        let memory = Arc::new(Storage::Anonymous(map));
        let mut bandwidth = Bandwidth::calibrate(team, memory, SAMPLE_SECONDS)?;
        let samples: Result<Vec<f64>, _> = (0..SAMPLES).map(|_| bandwidth.measure()).collect();
        let read = Summary::new(samples?).expect("readings are finite");
        Ok(Self {
            threads,
            read_kernel: bandwidth.kernel().to_string(),
            read_bytes: bandwidth.bytes(),
            positions: floors(config, read.median),
            read_bandwidth_bytes_per_second: read,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::shapes;

    #[test]
    fn the_sizes_of_qwen3_are_those_of_the_design() {
        let config = shapes::config("qwen3-0.6b").unwrap();
        let inspection = Inspection::new(&config, Provenance::default());
        let bytes = &inspection.bytes;
        assert_eq!(bytes.layer, 31_457_280);
        assert_eq!(bytes.head, 311_164_928);
        assert_eq!(bytes.weights_per_token, 1_191_968_768);
        assert_eq!(bytes.kv_per_position, 114_688);
        assert!((595e6..597e6).contains(&(inspection.parameters as f64)));
    }

    fn card(read: Option<f64>) -> CardInspection {
        let config = shapes::config("qwen3-0.6b").unwrap();
        CardInspection {
            name: "a card".into(),
            compute_capability: "9.0".into(),
            driver: "13.0".into(),
            memory_bytes: 80_000_000_000,
            l2_bytes: 50_000_000,
            multiprocessors: 132,
            kernel: "megakernel_h128_c1_redundant_norm".into(),
            blocks: 132,
            threads: 512,
            resident_blocks: 132,
            shared_bytes: 44_032,
            registers: 96,
            spilled_bytes: 0,
            specified_bandwidth_bytes_per_second: Some(4.8e12),
            read_bandwidth_bytes_per_second: read,
            positions: CardInspection::floors(&config, Some(4.8e12)),
        }
    }

    #[test]
    fn what_was_not_measured_of_a_card_is_called_so() {
        let config = shapes::config("qwen3-0.6b").unwrap();
        let table = |read| {
            let inspection = Inspection {
                card: Some(card(read)),
                ..Inspection::new(&config, Provenance::default())
            };
            inspection.table().to_text()
        };
        let text = table(None);
        assert!(
            text.contains("not measured") && text.contains("4800.00"),
            "{text}"
        );
        // 248 us a token (DESIGN: 1,192 MB at 4.8 TB/s).
        assert!(
            text.contains("floor by specification at position 0"),
            "{text}"
        );
        assert!(text.contains("4026.95"), "{text}");
        assert!(!table(Some(4.4e12)).contains("not measured"));
        assert!(CardInspection::floors(&config, None).is_empty());
    }

    #[test]
    fn the_floor_falls_with_the_position() {
        let config = shapes::config("tiny").unwrap();
        let floor = MachineFloor::measure(&config, 2).unwrap();
        assert_eq!(floor.read_bytes, config.weight_bytes_per_token() as u64);
        assert!(floor.positions.len() > 1);
        assert!(
            floor
                .positions
                .iter()
                .all(|at| at.position < config.max_positions)
        );
        let speeds = floor.positions.iter().map(|at| at.tokens_per_second);
        assert!(speeds.is_sorted_by(|before, after| before > after));
        let inspection = Inspection {
            floor: Some(floor),
            ..Inspection::new(&config, Provenance::default())
        };
        assert!(
            inspection
                .table()
                .to_text()
                .contains("floor at position 1024")
        );
        let json = serde_json::to_string(&inspection).unwrap();
        assert_eq!(
            serde_json::from_str::<Inspection>(&json).unwrap(),
            inspection
        );
    }
}
