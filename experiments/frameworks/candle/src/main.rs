//! The adapter of candle: decodes a Qwen3 checkpoint as README.md in the folder above says.
//!
//! candle's matrix product on a CPU knows f16, f32 and f64, not bf16: the weights are widened to f32, and
//! a step reads twice the bytes.

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use candle_core::{DType, Device, IndexOp, Tensor};
use candle_nn::{Activation, VarBuilder};
use candle_transformers::models::qwen3::{Config, ModelForCausalLM};
use clap::Parser;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Parser)]
struct Arguments {
    /// A Hugging Face folder.
    checkpoint: PathBuf,
    #[arg(long)]
    threads: usize,
    #[arg(long)]
    device: String,
    /// The most positions of a text; the cache grows as it needs to.
    #[arg(long)]
    context: usize,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Request {
    Decode { prompt: Vec<u32>, max_tokens: usize },
    Logits { logits: Vec<u32>, file: PathBuf },
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.device == "cpu", "this adapter is for --device cpu");
    ensure!(arguments.context > 0, "--context must be 1 or more");
    // SAFETY: no other thread runs yet. candle and rayon read it when they first compute.
    unsafe { std::env::set_var("RAYON_NUM_THREADS", arguments.threads.to_string()) };
    let started = Instant::now();
    let mut model = load(&arguments.checkpoint)?;
    let mut output = std::io::stdout();
    let hello = json!({
        "framework": concat!("candle ", "0.11"),
        "setup": "weights widened to f32",
        "device": "cpu",
        "threads": arguments.threads,
        "load_seconds": started.elapsed().as_secs_f64(),
        "versions": {"candle-transformers": "0.11"},
        "has_logits": true,
    });
    writeln!(output, "{hello}")?;
    output.flush()?;
    for line in std::io::stdin().lock().lines() {
        let answer = match serde_json::from_str(&line?)? {
            Request::Decode { prompt, max_tokens } => decode(&mut model, &prompt, max_tokens)?,
            Request::Logits { logits, file } => save_logits(&mut model, &logits, &file)?,
        };
        writeln!(output, "{answer}")?;
        output.flush()?;
    }
    Ok(())
}

fn load(folder: &Path) -> anyhow::Result<ModelForCausalLM> {
    let path = folder.join("config.json");
    let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let value: Value = serde_json::from_slice(&text)?;
    let number = |name: &str| {
        let found = value[name].as_u64().map(|number| number as usize);
        found.with_context(|| format!("{}: no {name}", path.display()))
    };
    let theta = [&value["rope_theta"], &value["rope_parameters"]["rope_theta"]];
    let theta = theta.into_iter().find_map(Value::as_f64);
    let config = Config {
        vocab_size: number("vocab_size")?,
        hidden_size: number("hidden_size")?,
        intermediate_size: number("intermediate_size")?,
        num_hidden_layers: number("num_hidden_layers")?,
        num_attention_heads: number("num_attention_heads")?,
        head_dim: number("head_dim")?,
        attention_bias: false,
        num_key_value_heads: number("num_key_value_heads")?,
        max_position_embeddings: number("max_position_embeddings")?,
        sliding_window: None,
        max_window_layers: 0,
        tie_word_embeddings: value["tie_word_embeddings"].as_bool().unwrap_or(false),
        rope_theta: theta.context("config.json: no rope_theta")?,
        rms_norm_eps: value["rms_norm_eps"].as_f64().context("config.json: no rms_norm_eps")?,
        use_sliding_window: false,
        hidden_act: Activation::Silu,
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            files.push(path);
        }
    }
    if files.is_empty() {
        bail!("{}: no safetensors", folder.display());
    }
    // SAFETY: the checkpoint is not changed while it is mapped.
    let weights =
        unsafe { VarBuilder::from_mmaped_safetensors(&files, DType::F32, &Device::Cpu)? };
    Ok(ModelForCausalLM::new(&config, weights)?)
}

/// Appends `tokens` at `position`; the logits after the last of them: `[vocabulary]`.
fn run(model: &mut ModelForCausalLM, tokens: &[u32], position: usize) -> anyhow::Result<Tensor> {
    let input = Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?;
    Ok(model.forward(&input, position)?.i((0, 0))?)
}

fn likeliest(logits: &Tensor) -> anyhow::Result<u32> {
    Ok(logits.argmax(0)?.to_scalar()?)
}

fn decode(
    model: &mut ModelForCausalLM,
    prompt: &[u32],
    max_tokens: usize,
) -> anyhow::Result<Value> {
    model.clear_kv_cache();
    let started = Instant::now();
    let mut tokens = vec![likeliest(&run(model, prompt, 0)?)?];
    let first = Instant::now();
    while tokens.len() < max_tokens {
        let position = prompt.len() + tokens.len() - 1;
        let last = tokens[tokens.len() - 1];
        tokens.push(likeliest(&run(model, &[last], position)?)?);
    }
    Ok(json!({
        "tokens": tokens,
        "first_token_seconds": (first - started).as_secs_f64(),
        "decode_seconds": first.elapsed().as_secs_f64(),
    }))
}

fn save_logits(
    model: &mut ModelForCausalLM,
    tokens: &[u32],
    file: &Path,
) -> anyhow::Result<Value> {
    model.clear_kv_cache();
    let mut rows = Vec::new();
    // A step each, as in decoding.
    for (position, token) in tokens.iter().enumerate() {
        rows.push(run(model, &[*token], position)?);
    }
    let ids: Vec<i64> = tokens.iter().copied().map(i64::from).collect();
    let tensors = HashMap::from([
        ("logits", Tensor::stack(&rows, 0)?),
        ("tokens", Tensor::new(&ids[..], &Device::Cpu)?),
        ("lengths", Tensor::new(&[tokens.len() as i64], &Device::Cpu)?),
    ]);
    candle_core::safetensors::save(&tensors, file)?;
    Ok(json!({}))
}
