//! Traces: what engines record, files of it, and what is made of them and of those of PyTorch's profiler.

mod cpu;
mod emulated;
mod events;
mod files;
mod pytorch;

use std::num::NonZeroUsize;

use onegrid::engine::Engine;
use onegrid::engine::cpu::{CpuEngine, CpuOptions};
use onegrid::engine::trace::Recording;
use onegrid::measure::ladder;
use onegrid::model::{ModelConfig, TokenId};
use onegrid::sampling::SamplingParams;

fn cpu(config: &ModelConfig, threads: usize, sequences: usize) -> CpuEngine {
    let options = CpuOptions {
        threads: NonZeroUsize::new(threads),
        ..CpuOptions::new(200, sequences)
    };
    CpuEngine::new(ladder::weights(config).unwrap(), &options).unwrap()
}

/// Runs a prompt of `prompt` tokens and decodes `new` more; those.
fn run(
    engine: &mut dyn Engine,
    prompt: usize,
    new: usize,
    sampling: &SamplingParams,
) -> Vec<TokenId> {
    let prompt = ladder::tokens(engine.config(), prompt);
    let mut finished = ladder::decode(engine, &[prompt], new, sampling).unwrap();
    finished.remove(0).tokens
}

/// The same, recorded.
fn record(
    engine: &mut dyn Engine,
    steps: usize,
    prompt: usize,
    new: usize,
    sampling: &SamplingParams,
) -> (Vec<TokenId>, Recording) {
    engine.start_trace(steps).unwrap();
    let tokens = run(engine, prompt, new, sampling);
    (tokens, engine.take_trace().unwrap().unwrap())
}
