//! Runs of the engine, recorded: every variant, stage and barrier, and every way in which the
//! phases divide their work, on models that are as small as that allows.

use std::ops::ControlFlow;
use std::sync::OnceLock;
use std::time::Duration;

use onegrid::engine::emulated::EmulatedDevice;
use onegrid::engine::guide::Guide;
use onegrid::engine::megakernel::abi::OgArguments;
use onegrid::engine::megakernel::{Barrier, MegakernelEngine, MegakernelOptions, Stage, Variant};
use onegrid::engine::{DecodeRequest, Engine};
use onegrid::measure::ladder;
use onegrid::model::config::Rope;
use onegrid::model::{Architecture, ModelConfig, TokenId, random};
use onegrid::sampling::SamplingParams;

use crate::recorder::{Recorder, Recording};

/// What an engine does in a case, and on which grid.
pub struct Case {
    pub name: String,
    config: ModelConfig,
    pub options: MegakernelOptions,
    blocks: u32,
    threads: u32,
    /// Changes what every launch is told.
    adjust: fn(&mut OgArguments),
    /// Tokens of the prompt of each sequence.
    prompts: &'static [usize],
    /// How the sequences, by turns, are sampled.
    sampling: Vec<SamplingParams>,
    /// Tokens that each of them may take.
    max_tokens: usize,
    /// Whether each follows a guide, of `ladder::guides` by turns.
    is_guided: bool,
    /// Whether it is recorded when phases begin and end.
    pub is_traced: bool,
    recording: OnceLock<Recording>,
}

/// One KV head, two layers: fewer heads than blocks.
fn small() -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Qwen3,
        hidden_size: 26,
        intermediate_size: 21,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        head_dim: 64,
        vocab_size: 53,
        max_positions: 2048,
        rms_norm_eps: 1e-6,
        rope: Rope {
            theta: 1e6,
            scaling: None,
        },
        tied_embeddings: true,
    }
}

/// More KV heads than blocks, with a group of them each; biases.
fn many_heads() -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Qwen2,
        hidden_size: 11,
        intermediate_size: 7,
        layers: 1,
        heads: 6,
        kv_heads: 3,
        ..small()
    }
}

/// Rows of all products longer than a tile of one chunk, and few rows in most: gate and up, O and down
/// have several warps for each.
fn long_rows() -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Llama,
        hidden_size: 265,
        intermediate_size: 3,
        layers: 1,
        heads: 1,
        vocab_size: 7,
        tied_embeddings: false,
        ..small()
    }
}

/// Long rows of O and of down, and so few of them that warps share each.
fn shared_rows() -> ModelConfig {
    ModelConfig {
        hidden_size: 5,
        intermediate_size: 265,
        layers: 1,
        heads: 5,
        ..small()
    }
}

/// With the vocabulary of the guides.
fn guided() -> ModelConfig {
    ModelConfig {
        layers: 1,
        vocab_size: ladder::shapes()[0].vocab_size,
        ..small()
    }
}

fn wide_heads() -> ModelConfig {
    ModelConfig {
        head_dim: 128,
        layers: 1,
        ..small()
    }
}

fn greedy() -> SamplingParams {
    SamplingParams::default()
}

/// With all filters.
fn filtered() -> SamplingParams {
    SamplingParams {
        temperature: 0.8,
        top_k: 20,
        top_p: 0.9,
        min_p: 0.02,
        repetition_penalty: 1.2,
        seed: 5 << 33 | 9,
    }
}

fn sampled() -> SamplingParams {
    SamplingParams {
        temperature: 0.8,
        seed: 7,
        ..greedy()
    }
}

/// Positions of a KV cache: an odd number, so that nothing lies behind its end but padding.
const CONTEXT: usize = 11;

impl Case {
    fn new(config: ModelConfig, variant: Variant, stage: Stage, barrier: Barrier) -> Self {
        Self {
            name: format!("{} {} {}", variant.name(), stage.name(), barrier.name()),
            config,
            options: MegakernelOptions {
                variant,
                stage,
                barrier,
                columns: 2,
                split_length: 2,
                ring_capacity: 32,
                guide_bytes: Some(1 << 14),
                // For ever: sanitizers are slow.
                watchdog: Duration::ZERO,
                ..MegakernelOptions::new(CONTEXT, 1)
            },
            blocks: 3,
            threads: 64,
            adjust: |_| (),
            prompts: &[7],
            sampling: vec![greedy()],
            max_tokens: 2,
            is_guided: false,
            is_traced: false,
            recording: OnceLock::new(),
        }
    }

    fn called(mut self, what: &str) -> Self {
        self.name = format!("{}, {what}", self.name);
        self
    }

    /// Whether it is one of the first, which differ in variant, stage and barrier alone.
    pub fn is_plain(&self) -> bool {
        !self.name.contains(',')
    }

    /// What the engine did.
    pub fn recording(&self) -> &Recording {
        self.recording.get_or_init(|| self.record())
    }

    fn record(&self) -> Recording {
        let device = EmulatedDevice::new(self.blocks, self.threads).unwrap();
        let (recorder, recording) = Recorder::new(device, self.adjust);
        let weights = random::weights(&self.config, 7, &mut |_, _| ()).unwrap();
        let options = MegakernelOptions {
            sequences: self.prompts.len(),
            ..self.options.clone()
        };
        let engine = MegakernelEngine::new(recorder, &weights, options, &mut |_, _| ());
        let mut engine = engine.unwrap();
        engine.poison_uncached().unwrap();
        if self.is_traced {
            // The last steps find no room any more.
            engine.start_trace(self.max_tokens).unwrap();
        }
        let guides = match self.is_guided {
            true => ladder::guides(),
            false => Vec::new(),
        };
        let mut requests = Vec::new();
        for (sequence, &length) in self.prompts.iter().enumerate() {
            let token = |i: usize| ((i * i * 31 + i * 7 + 3) % self.config.vocab_size) as TokenId;
            let prompt: Vec<TokenId> = (sequence..sequence + length).map(token).collect();
            let go_on = &mut |_| ControlFlow::Continue(());
            engine.prefill(sequence, &prompt, go_on).unwrap();
            requests.push(DecodeRequest {
                sequence,
                max_tokens: self.max_tokens,
                sampling: self.sampling[sequence % self.sampling.len()].clone(),
                stop_tokens: Vec::new(),
                guide: guides
                    .get(sequence % guides.len().max(1))
                    .map(|tables| Guide::Tables(tables.clone())),
            });
        }
        let finished = engine.decode(&requests, &mut |_| ControlFlow::Continue(()));
        for (finished, &length) in finished.unwrap().iter().zip(self.prompts) {
            let most = self.max_tokens.min(CONTEXT - length + 1);
            assert_eq!(finished.tokens.len(), most, "{}", self.name);
        }
        drop(engine);
        std::mem::take(&mut recording.lock().unwrap())
    }
}

/// One launch that makes as many tokens as there is room for, of which two sequences each take theirs.
pub fn long() -> Case {
    let case = Case::new(small(), Variant::RedundantNorm, Stage::V1, Barrier::Epoch);
    Case {
        prompts: &[1, 2],
        sampling: vec![greedy(), sampled()],
        max_tokens: CONTEXT,
        ..case
    }
    .called("to the end of the context")
}

/// All of them; first those that need most barriers.
pub fn all() -> Vec<Case> {
    use Barrier::{Cooperative, Epoch};
    use Stage::{Launches, V0, V1};
    use Variant::{Block0Norm, FusedPhases, HeadBlocks, RedundantNorm};
    let mut cases = Vec::new();
    for (variant, barrier) in [(RedundantNorm, Epoch), (Block0Norm, Cooperative)] {
        let case = Case::new(small(), variant, V1, barrier);
        cases.push(
            Case {
                prompts: &[3, 2],
                sampling: vec![filtered(), sampled()],
                ..case
            }
            .called("sampled"),
        );
    }
    for (index, variant) in Variant::ALL.into_iter().rev().enumerate() {
        for barrier in Barrier::ALL {
            cases.push(Case::new(small(), variant, V1, barrier));
        }
        let barrier = Barrier::ALL[index % 2];
        let two = Case::new(small(), variant, V0, barrier);
        cases.push(
            Case {
                prompts: &[1, 5],
                ..two
            }
            .called("two sequences"),
        );
    }
    // Greedy beside sampled, and prompts in pieces of eight tokens, to the end of the context.
    let batch = Case::new(small(), RedundantNorm, V1, Cooperative);
    let options = MegakernelOptions {
        columns: 8,
        ..batch.options.clone()
    };
    cases.push(
        Case {
            options,
            prompts: &[10, 1, 1, 2, 8],
            sampling: vec![greedy(), filtered()],
            max_tokens: 3,
            ..batch
        }
        .called("five sequences"),
    );
    for (variant, barrier) in [
        (RedundantNorm, Cooperative),
        (Block0Norm, Epoch),
        (FusedPhases, Epoch),
    ] {
        let case = Case::new(long_rows(), variant, V1, barrier);
        cases.push(
            Case {
                adjust: |arguments| arguments.tile = 256,
                prompts: &[3],
                ..case
            }
            .called("several tiles"),
        );
    }
    // Sums of an odd number of rows, more than those of any other matrix, wait for the second tile.
    let case = Case::new(long_rows(), RedundantNorm, V0, Cooperative);
    cases.push(
        Case {
            config: ModelConfig {
                vocab_size: 271,
                ..long_rows()
            },
            options: MegakernelOptions {
                columns: 8,
                ..case.options.clone()
            },
            adjust: |arguments| arguments.tile = 256,
            prompts: &[8],
            ..case
        }
        .called("several tiles of eight columns"),
    );
    let case = Case::new(long_rows(), RedundantNorm, V1, Epoch);
    cases.push(
        Case {
            // Warps share rows of QKV too, of which there are many.
            adjust: |arguments| arguments.qkv_segments = 2,
            prompts: &[3],
            ..case
        }
        .called("rows shared by warps"),
    );
    for (variant, tile) in [(RedundantNorm, 512), (HeadBlocks, 256)] {
        let case = Case::new(shared_rows(), variant, V0, Cooperative);
        let adjust: fn(&mut OgArguments) = match tile {
            256 => |arguments| arguments.tile = 256,
            _ => |_| (),
        };
        cases.push(
            Case {
                adjust,
                prompts: &[3],
                ..case
            }
            .called(&format!("rows shared by warps, tiles of {tile}")),
        );
    }
    for (variant, barrier) in [
        (RedundantNorm, Cooperative),
        (HeadBlocks, Epoch),
        (FusedPhases, Cooperative),
    ] {
        let case = Case::new(many_heads(), variant, V0, barrier);
        cases.push(
            Case {
                blocks: 2,
                prompts: &[4],
                ..case
            }
            .called("more KV heads than blocks"),
        );
    }
    let case = Case::new(wide_heads(), RedundantNorm, V1, Epoch);
    cases.push(
        Case {
            prompts: &[10],
            max_tokens: 3,
            ..case
        }
        .called("wide heads"),
    );
    // A run of forced tokens, a choice among most tokens, one among a few.
    let two: &[usize] = &[1, 2];
    for (stage, variant, barrier, columns, prompts) in [
        (V1, RedundantNorm, Epoch, 8, &[1, 2, 8][..]),
        (V1, Block0Norm, Cooperative, 2, two),
        (Launches, RedundantNorm, Cooperative, 8, two),
    ] {
        let case = Case::new(guided(), variant, stage, barrier);
        cases.push(
            Case {
                options: MegakernelOptions {
                    columns,
                    ..case.options.clone()
                },
                prompts,
                sampling: vec![greedy(), filtered()],
                max_tokens: 4,
                is_guided: true,
                ..case
            }
            .called("guided"),
        );
    }
    for barrier in Barrier::ALL {
        let case = Case::new(small(), RedundantNorm, V1, barrier);
        cases.push(
            Case {
                options: MegakernelOptions {
                    columns: 1,
                    ..case.options.clone()
                },
                prompts: &[2],
                max_tokens: 3,
                is_traced: true,
                ..case
            }
            .called("traced"),
        );
    }
    let case = Case::new(small(), RedundantNorm, Launches, Cooperative);
    cases.push(
        Case {
            prompts: &[7, 2],
            sampling: vec![filtered(), greedy()],
            ..case
        }
        .called("two sequences"),
    );
    let case = Case::new(long_rows(), RedundantNorm, Launches, Cooperative);
    cases.push(
        Case {
            adjust: |arguments| arguments.tile = 256,
            prompts: &[3],
            ..case
        }
        .called("several tiles"),
    );
    cases
}
