//! The Rust side of `cuda/abi.h`, as bindgen writes it.

#![allow(missing_docs, non_camel_case_types, non_upper_case_globals)]

pub const OG_MAX_COLUMNS: u32 = 8;
pub const OG_MAX_STOP_TOKENS: u32 = 16;
pub const OG_ROW_ALIGNMENT: u32 = 8;
pub const OG_TENSOR_ALIGNMENT: u32 = 256;
pub const OG_CHUNK: u32 = 256;
pub const OG_MAX_THREADS: u32 = 512;
pub const OG_SHARED_FIXED: u32 = 9216;
pub const OG_QUERY_BLOCK: u32 = 4;
pub const OG_MAX_SPLITS: u32 = 64;
pub const OG_BUCKETS: u32 = 2048;
pub const OG_SELECT_PASSES: u32 = 3;
pub const OG_NO_LOGITS: u32 = 0xffff_ffff;
pub const OG_ALL_FINITE: u32 = 0xffff_ffff;

pub const OG_SHARED_WORK_MIN: u32 = 16384;
pub const OG_SEGMENT_SUMS: u32 = 1024;
pub const OG_GROUP_ROWS: u32 = 2;

pub type OgMode = u32;
pub const OG_MODE_COLUMNS: OgMode = 0;
pub const OG_MODE_DECODE: OgMode = 1;

pub type OgSelect = u32;
pub const OG_SELECT_TOP_K: OgSelect = 1;
pub const OG_SELECT_TOP_P: OgSelect = 2;
pub const OG_SELECT_MIN_P: OgSelect = 4;

pub type OgBarrierKind = u32;
pub const OG_BARRIER_COOPERATIVE: OgBarrierKind = 0;
pub const OG_BARRIER_EPOCH: OgBarrierKind = 1;
pub const OG_BARRIER_NONE: OgBarrierKind = 2;

pub type OgPhase = u32;
pub const OG_PHASE_EMBED: OgPhase = 0;
pub const OG_PHASE_NORM: OgPhase = 1;
pub const OG_PHASE_QKV: OgPhase = 2;
pub const OG_PHASE_ATTENTION: OgPhase = 3;
pub const OG_PHASE_OUTPUT: OgPhase = 4;
pub const OG_PHASE_GATE_UP: OgPhase = 5;
pub const OG_PHASE_DOWN: OgPhase = 6;
pub const OG_PHASE_HEAD: OgPhase = 7;
pub const OG_PHASE_SELECT: OgPhase = 8;
pub const OG_PHASE_SAMPLE: OgPhase = 9;
pub const OG_PHASES: OgPhase = 10;

pub type OgStop = u32;
pub const OG_STOP_NONE: OgStop = 0;
pub const OG_STOP_EOS: OgStop = 1;
pub const OG_STOP_LENGTH: OgStop = 2;
pub const OG_STOP_CONTEXT: OgStop = 3;
pub const OG_STOP_HOST: OgStop = 4;

pub type OgStatus = u32;
pub const OG_STATUS_RUNNING: OgStatus = 0;
pub const OG_STATUS_DONE: OgStatus = 1;
pub const OG_STATUS_NOT_FINITE: OgStatus = 2;
pub const OG_STATUS_STALLED: OgStatus = 3;

#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct OgModel {
    pub hidden: u32,
    pub intermediate: u32,
    pub layers: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    pub vocab: u32,
    pub hidden_stride: u32,
    pub q_stride: u32,
    pub intermediate_stride: u32,
    pub norm_eps: f32,
    pub has_qkv_bias: u32,
    pub has_qk_norm: u32,
    pub padding: u32,
    pub embedding: u64,
    pub head: u64,
    pub final_norm: u64,
    pub rope: u64,
    pub layers_begin: u64,
    pub layer_bytes: u64,
    pub qkv: u64,
    pub output: u64,
    pub gate_up: u64,
    pub down: u64,
    pub input_norm: u64,
    pub post_attention_norm: u64,
    pub q_norm: u64,
    pub k_norm: u64,
    pub qkv_bias: u64,
}

#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct OgState {
    pub control: u64,
    pub barrier: u64,
    pub arrivals: u64,
    pub residual: u64,
    pub normed: u64,
    pub qkv: u64,
    pub split_sums: u64,
    pub split_softmax: u64,
    pub head_outputs: u64,
    pub activated: u64,
    pub partial_rows: u64,
    pub logits: u64,
    pub seen: u64,
    pub candidates: u64,
    pub histograms: u64,
    pub keys: u64,
    pub values: u64,
    pub sequences: u32,
    pub context: u32,
    pub logits_rows: u32,
    pub columns: u32,
}

#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct OgColumn {
    pub sequence: u32,
    pub position: u32,
    pub token: u32,
    pub logits_row: u32,
}

#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct OgRequest {
    pub sequence: u32,
    pub position: u32,
    pub token: u32,
    pub remaining: u32,
    pub stop: u32,
    pub logits_row: u32,
    pub temperature: f32,
    pub repetition_penalty: f32,
    pub top_p: f32,
    pub min_p_depth: f32,
    pub top_k: u32,
    pub seed_low: u32,
    pub seed_high: u32,
    pub stop_tokens: u32,
    pub stop_token: [u32; 16],
}

#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct OgControl {
    pub columns: u32,
    pub requests: u32,
    pub steps: u32,
    pub tokens: u32,
    pub stop_mask: u32,
    pub not_finite: u32,
    pub not_finite_column: u32,
    pub ended: u32,
    pub column: [OgColumn; 8],
    pub request: [OgRequest; 8],
}

#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct OgBarrier {
    pub arrived: u32,
    pub abort: u32,
    pub first_arrival: u32,
    pub epoch: u32,
    pub padding: [u32; 28],
}

#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct OgCandidate {
    pub key: f64,
    pub max: f32,
    pub token: u32,
    pub max_token: u32,
    pub not_finite: u32,
}

#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct OgReport {
    pub status: u32,
    pub norm: u32,
    pub column: u32,
    pub position: u32,
    pub block: u32,
    pub phase: u32,
    pub layer: u32,
    pub steps: u32,
}

#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct OgMailbox {
    pub stop_mask: u32,
    pub padding: [u32; 31],
    pub report: OgReport,
    pub padding2: [u32; 24],
    pub ring: [u64; 1],
}

#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct OgArguments {
    pub weights: u64,
    pub state: u64,
    pub mailbox: u64,
    pub model: OgModel,
    pub at: OgState,
    pub mode: u32,
    pub barrier: u32,
    pub max_steps: u32,
    pub ring_capacity: u32,
    pub tile: u32,
    pub attention_blocks: u32,
    pub score_blocks: u32,
    pub attended_at: u32,
    pub split_length: u32,
    pub select: u32,
    pub qkv_segments: u32,
    pub output_segments: u32,
    pub gate_up_segments: u32,
    pub down_segments: u32,
    pub preload: u32,
    pub prefetch: u32,
    pub watchdog_ms: u32,
    pub layer: u32,
    pub stall_block: u32,
    pub stall_epoch: u32,
}
