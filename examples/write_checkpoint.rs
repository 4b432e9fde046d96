//! Writes random weights as a Hugging Face folder, for programs that know no other models.
//!
//! `cargo run --release --example write_checkpoint -- qwen3-0.6b 0 FOLDER`

use std::path::Path;

use onegrid::model::{checkpoint, random, shapes};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [shape, seed, folder] = &arguments[..] else {
        return Err("expected a shape, a seed and a folder".into());
    };
    let config = shapes::config(shape)?;
    let weights = random::weights(&config, seed.parse()?, &mut |_, _| ())?;
    checkpoint::write(Path::new(folder), &weights)?;
    Ok(())
}
