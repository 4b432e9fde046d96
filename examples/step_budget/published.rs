//! Kernels whose speed is published, as phases: a list for each, read from its source or, where
//! that is said, from its description.

use onegrid::measure::step_budget::{Grid, Loads, Phase, Step, Waits, step};
use onegrid::model::{ModelConfig, shapes};

use crate::cards::{A10, B200, Card, H100, H200, RTX_3090, RTX_5090};
use crate::model::{End, Host, Reckoning, Time};

/// A published measurement.
pub struct Published {
    pub kernel: &'static str,
    pub card: Card,
    pub position: usize,
    /// Tokens a second.
    pub measured: f64,
    /// Whether the prediction has to come within 20% before any other is quoted.
    pub must_hold: bool,
    /// Where its phases are from.
    pub structure: &'static str,
    step: Step,
    in_flight: Option<usize>,
    host: Host,
}

impl Published {
    pub fn time(&self, end: End) -> Time {
        self.reckon(&Reckoning::new(self.card, end))
    }

    pub fn reckon(&self, reckoning: &Reckoning) -> Time {
        reckoning.time(&self.step, self.in_flight, self.host)
    }

    /// Predicted over measured, less one.
    pub fn error(&self) -> f64 {
        self.time(End::Middle).tokens_per_second() / self.measured - 1.0
    }

    pub fn barriers(&self) -> usize {
        self.step.barriers()
    }
}

/// All that the prediction is compared with, those that must hold first.
pub fn all() -> Vec<Published> {
    vec![
        mega_qwen(RTX_3090, 1, 530.0, true),
        qwen_megakernel(),
        mega_qwen(RTX_3090, 200, 422.0, false),
        mega_qwen(RTX_5090, 50, 490.0, false),
        mega_qwen(A10, 50, 347.0, false),
        grid_barriers_on_b200(),
        hazy(H100, 972.78),
        hazy(H200, 759.83),
    ]
}

fn qwen3() -> ModelConfig {
    shapes::config("qwen3-0.6b").expect("a shape of that name")
}

const NOTHING: Waits = Waits {
    l1: 0,
    l2: 0,
    memory: 0,
    reductions: 0,
    block_barriers: 0,
    batches: 0,
};

fn phase(name: &'static str, bytes: usize, waits: Waits) -> Phase {
    Phase {
        name,
        bytes,
        waits,
        barrier: true,
        ..Phase::default()
    }
}

/// Bytes of a layer's matrices: QKV, O, gate and up, down.
fn matrices(config: &ModelConfig) -> [usize; 4] {
    let rows = config.q_size() + 2 * config.kv_size();
    let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
    [
        rows * hidden,
        hidden * config.q_size(),
        2 * intermediate * hidden,
        hidden * intermediate,
    ]
    .map(|elements| 2 * elements)
}

/// Infatoshi/MegaQwen at 0bc1fde, `csrc/megakernel/fused_decode_ldg.cu`, and Yunle-Lee/MegaQwen-A10
/// at ac75bfc: cooperative, 256 threads on each of 82 multiprocessors, norms by block 0, attention
/// by 16 blocks, one warp a position, while the others touch a quarter of the lines of O, gate and
/// up; LM head and argmax as two more kernels.
fn mega_qwen(card: Card, position: usize, measured: f64, must_hold: bool) -> Published {
    let config = qwen3();
    let [qkv, output, gate_up, down] = matrices(&config);
    let norm = Waits {
        l2: 1,
        memory: 1,
        reductions: 2,
        block_barriers: 2,
        ..NOTHING
    };
    let product = Waits {
        memory: 1,
        batches: 1,
        reductions: 1,
        ..NOTHING
    };
    let add_residual = Waits { l2: 1, ..product };
    // Key, score, value: the value is loaded after the score.
    let trip = Waits {
        memory: 2,
        reductions: 1,
        ..NOTHING
    };
    let touched = (output + gate_up) / 4;
    let attention = Phase {
        bytes: position * 2 * config.kv_size() * 2 + touched,
        preload: touched,
        trips: (position + 1).div_ceil(8) - 1,
        trip,
        ..phase(
            "attention",
            0,
            trip.and(Waits {
                l2: 1,
                reductions: 2,
                block_barriers: 2,
                ..NOTHING
            }),
        )
    };
    let rotate = Waits {
        l2: 2,
        memory: 1,
        reductions: 1,
        ..NOTHING
    };
    let argmax = Waits {
        l2: 2,
        block_barriers: 8,
        ..NOTHING
    };
    let head = config.vocab_size * config.hidden_size * 2;
    let step = Step {
        first: vec![phase(
            "embed",
            0,
            Waits {
                memory: 1,
                ..NOTHING
            },
        )],
        layer: vec![
            phase("norm", 0, norm),
            phase("qkv", qkv, product),
            phase("rotate", 0, rotate),
            attention,
            phase("output", output - output / 4, add_residual),
            phase("norm", 0, norm),
            phase("gate_up", gate_up - gate_up / 4, product),
            phase("down", down, add_residual),
        ],
        layers: config.layers,
        last: vec![
            Phase {
                barrier: false,
                ..phase("norm", 0, norm)
            },
            Phase {
                barrier: false,
                ..phase("head", head, product.and(argmax))
            },
        ],
    };
    Published {
        kernel: if card.name == "A10" {
            "MegaQwen-A10"
        } else {
            "MegaQwen"
        },
        position,
        measured,
        must_hold,
        structure: "source",
        step,
        // 8 warps, a row of 1,024 weights each.
        in_flight: Some(card.multiprocessors.min(82) * 8 * 2048),
        host: Host {
            round_trips: 1,
            launches: 2,
            logits: 0,
        },
        card,
    }
}

/// AlpinDale/qwen_megakernel at 429745b, `csrc/kernel.cu`: 128 blocks of 512 threads, norms by every
/// block, four barriers and two flags a layer (counted as barriers), attention by 8 blocks of two
/// heads each while the others prefetch O, gate, up and down into L2; LM head in a second kernel.
/// 100 tokens, launched without waiting for them.
fn qwen_megakernel() -> Published {
    let config = qwen3();
    let [qkv, output, gate_up, down] = matrices(&config);
    let position = 50;
    let norm = Waits {
        l2: 1,
        memory: 1,
        reductions: 2,
        block_barriers: 3,
        ..NOTHING
    };
    let tail = Waits {
        batches: 1,
        reductions: 1,
        ..NOTHING
    };
    let from_memory = Waits { memory: 1, ..tail };
    let from_l2 = Waits { l2: 1, ..tail };
    let fill_and_residual = Waits {
        l2: 2,
        block_barriers: 1,
        ..NOTHING
    };
    let trip = Waits {
        memory: 2,
        reductions: 1,
        ..NOTHING
    };
    let prefetched = output + gate_up + down;
    let attention = Phase {
        bytes: position * 2 * config.kv_size() * 2 + prefetched,
        preload: prefetched,
        trips: 2 * (position + 1).div_ceil(16) - 1,
        trip,
        ..phase(
            "attention",
            0,
            trip.and(Waits {
                l2: 2,
                reductions: 4,
                block_barriers: 4,
                ..NOTHING
            }),
        )
    };
    let rotate = Waits {
        l2: 2,
        memory: 1,
        reductions: 1,
        block_barriers: 1,
        ..NOTHING
    };
    let head = config.vocab_size * config.hidden_size * 2;
    let argmax = Waits {
        l2: 6,
        block_barriers: 8,
        ..NOTHING
    };
    Published {
        kernel: "qwen_megakernel",
        card: RTX_5090,
        position,
        measured: 1033.0,
        must_hold: true,
        structure: "source",
        step: Step {
            first: vec![phase("reset", 0, NOTHING)],
            layer: vec![
                phase("qkv", qkv, norm.and(from_memory)),
                phase("rotate", 0, rotate),
                attention,
                phase("output", 0, fill_and_residual.and(from_l2)),
                phase("gate_up", 0, norm.and(from_l2)),
                phase("down", 0, fill_and_residual.and(from_l2)),
            ],
            layers: config.layers,
            last: vec![
                Phase {
                    barrier: false,
                    ..phase("norm", 0, norm)
                },
                phase("head", head, from_memory),
                Phase {
                    barrier: false,
                    ..phase("argmax", 0, argmax)
                },
            ],
        },
        in_flight: Some(128 * 16 * 2048),
        host: Host {
            round_trips: 0,
            launches: 3,
            logits: 0,
        },
    }
}

/// kamahori/vibe-megakernel, run B: its source was not found. Described as split over the columns,
/// with grid barriers and no weights loaded across them: our five phases, their loads together.
fn grid_barriers_on_b200() -> Published {
    let config = qwen3();
    let grid = Grid {
        blocks: B200.multiprocessors,
    };
    let mut step = step(&config, grid, 128, Loads::Together, true);
    let phases = step.layer.iter_mut().chain(&mut step.last);
    for phase in phases.filter(|phase| phase.preload > 0) {
        phase.preload = 0;
        phase.early = 0;
        // The first weights; x is loaded meanwhile.
        phase.waits.memory += 1;
        phase.waits.l2 -= 1;
    }
    Published {
        kernel: "vibe-megakernel B",
        card: B200,
        position: 128,
        measured: 2128.0,
        must_hold: false,
        structure: "assumed",
        step,
        in_flight: None,
        host: Host::default(),
    }
}

/// HazyResearch/Megakernels, Llama 3.2 1B, as measured by msaroufim/megakernels-vs-cuda-graphs:
/// six instructions a layer that wait for each other's counters (counted as barriers), up to 192 KB
/// of the next one's weights loaded before.
fn hazy(card: Card, microseconds: f64) -> Published {
    let config = shapes::config("llama-3.2-1b").expect("a shape of that name");
    let [qkv, output, gate_up, down] = matrices(&config);
    let ahead = card.multiprocessors * 192 * 1024;
    let product = |name, bytes: usize| Phase {
        preload: bytes.min(ahead),
        ..phase(
            name,
            bytes,
            Waits {
                l2: 1,
                reductions: 3,
                block_barriers: 2,
                batches: 1,
                ..NOTHING
            },
        )
    };
    let attend = Waits {
        l2: 2,
        memory: 1,
        reductions: 4,
        block_barriers: 2,
        ..NOTHING
    };
    let merge = Waits {
        l2: 2,
        reductions: 1,
        block_barriers: 1,
        ..NOTHING
    };
    let head = config.vocab_size * config.hidden_size * 2;
    Published {
        kernel: "Hazy Megakernels, Llama 1B",
        card,
        position: 0,
        measured: 1e6 / microseconds,
        must_hold: false,
        structure: "description",
        step: Step {
            first: Vec::new(),
            layer: vec![
                product("qkv", qkv),
                phase("attention", 0, attend),
                phase("merge", 0, merge),
                product("output", output),
                product("gate_up", gate_up),
                product("down", down),
            ],
            layers: config.layers,
            last: vec![Phase {
                barrier: false,
                ..product("head", head)
            }],
        },
        in_flight: None,
        host: Host::default(),
    }
}
