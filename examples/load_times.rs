//! How long a checkpoint takes to load, mapped and into huge pages.
//!
//! `cargo run --release --example load_times -- FOLDER [SHAPE]`: with SHAPE, random weights of that
//! shape are written to FOLDER first. Run it twice: the first run reads the disk, the second the
//! page cache.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use onegrid::model::checkpoint::{LoadOptions, Placement, Precision, load, write};
use onegrid::model::{Files, random, shapes};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(
        arguments
            .next()
            .context("usage: load_times FOLDER [SHAPE]")?,
    );
    if let Some(shape) = arguments.next() {
        let weights = random::weights(&shapes::config(&shape)?, 0, &mut |_, _| ())?;
        write(&folder, &weights)?;
    }
    let files = Files::folder(folder)?;
    for round in 0..3 {
        for placement in [Placement::Mapped, Placement::HugePages] {
            let options = LoadOptions {
                placement,
                precision: Precision::Bf16,
            };
            let start = Instant::now();
            let weights = load(&files, options, &mut |_, _| ())?;
            let loaded = start.elapsed();
            let start = Instant::now();
            let sum = checksum(&weights);
            println!(
                "{round} {placement:?}: loaded in {:.3} s, read once in {:.3} s (checksum {sum:x})",
                loaded.as_secs_f64(),
                start.elapsed().as_secs_f64()
            );
        }
    }
    Ok(())
}

/// Reads every byte of every matrix on one thread.
fn checksum(weights: &onegrid::model::Weights) -> u64 {
    let sum = |bytes: &[u8]| {
        let words = bytes
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(word.try_into().expect("8")));
        words.fold(0_u64, u64::wrapping_add)
    };
    let layers = weights.layers.iter().flat_map(|layer| {
        [
            &layer.q,
            &layer.k,
            &layer.v,
            &layer.o,
            &layer.gate,
            &layer.up,
            &layer.down,
        ]
    });
    let matrices = layers.chain([&weights.embedding]);
    matrices
        .map(|matrix| sum(matrix.values().as_bytes()))
        .fold(0, u64::wrapping_add)
}
