//! Deterministic random weights: a stand-in for a checkpoint wherever the text does not matter.
//!
//! Matrices are uniform with variance `1 / columns`, so that activations keep their scale through
//! any number of layers; norms are uniform in [0.75, 1.25] and biases in [-0.5, 0.5], so that a
//! norm or a bias left out shows in the logits. A number depends on the seed, the tensor's name
//! and its index alone: not on threads, not on the machine.

use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;

use half::bf16;

use super::config::ModelConfig;
use super::layout::{Shape, TensorSource, TensorSpec, assemble, pack, specs};
use super::storage::{Slice, Storage, elements_mut, huge_pages};
use super::weights::{Matrix, Values, Weights};

/// Random bf16 weights for `config`, in huge pages.
///
/// `progress` is told how many bytes of how many are made.
///
/// # Errors
/// If the system has no memory for them.
pub fn weights(
    config: &ModelConfig,
    seed: u64,
    progress: &mut dyn FnMut(u64, u64),
) -> std::io::Result<Weights> {
    let matrices = specs(config)
        .into_iter()
        .filter_map(|spec| match spec.shape {
            Shape::Matrix(rows, columns) => Some((spec.name, rows, columns)),
            Shape::Vector(_) => None,
        });
    let matrices: Vec<_> = matrices.collect();
    let (ranges, total) = pack(
        matrices
            .iter()
            .map(|(_, rows, columns)| rows * columns * size_of::<bf16>()),
    );
    let mut map = huge_pages(total)?;
    for ((name, _, columns), range) in matrices.iter().zip(&ranges) {
        let bound = (3.0 / *columns as f64).sqrt() as f32;
        fill(
            elements_mut(&mut map[range.clone()]),
            stream(seed, name),
            bound,
        );
        progress(range.end as u64, total as u64);
    }
    let mut made = Made {
        seed,
        storage: Arc::new(Storage::Anonymous(map)),
        ranges: ranges.into_iter(),
    };
    let Ok(weights) = assemble(config, &mut made);
    Ok(weights)
}

/// The matrices are made; the vectors are made as they are asked for.
struct Made {
    seed: u64,
    storage: Arc<Storage>,
    ranges: std::vec::IntoIter<Range<usize>>,
}

impl TensorSource for Made {
    type Error = Infallible;

    fn matrix(&mut self, spec: &TensorSpec) -> Result<Matrix, Infallible> {
        let range = self.ranges.next().expect("a range for every matrix");
        let values = Slice::new(Arc::clone(&self.storage), range);
        let values = Values::Bf16(values.expect("tensors begin on cache lines"));
        let Shape::Matrix(rows, columns) = spec.shape else {
            unreachable!("asked for as a matrix");
        };
        Ok(Matrix::new(rows, columns, values))
    }

    /// Norms and biases, rounded to bf16 as a checkpoint holds them.
    fn vector(&mut self, spec: &TensorSpec) -> Result<Vec<f32>, Infallible> {
        let (centre, bound) = match spec.name.ends_with(".bias") {
            true => (0.0, 0.5),
            false => (1.0, 0.25),
        };
        let mut values = vec![bf16::ZERO; spec.shape.elements()];
        fill(&mut values, stream(self.seed, &spec.name), bound);
        let values = values
            .iter()
            .map(|v| bf16::from_f32(centre + v.to_f32()).to_f32());
        Ok(values.collect())
    }
}

/// The key of a tensor's numbers: FNV-1a over its name, mixed with the seed.
pub(crate) fn stream(seed: u64, name: &str) -> u64 {
    let name = name.strip_suffix(".weight").unwrap_or(name);
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    split_mix(hash ^ split_mix(seed))
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): a bijection with good avalanche.
fn split_mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Fills `out` with numbers uniform in `[-bound, bound]`, four from each 64-bit hash.
pub(crate) fn fill(out: &mut [bf16], stream: u64, bound: f32) {
    /// Elements a thread takes at once; a multiple of four, so that hashes don't straddle pieces.
    const PIECE: usize = 1 << 20;
    let scale = bound / 32767.5;
    let fill_piece = |piece: usize, out: &mut [bf16]| {
        let first = (piece * PIECE / 4) as u64;
        for (index, four) in (first..).zip(out.chunks_mut(4)) {
            let mut bits = split_mix(stream.wrapping_add(index));
            for value in four {
                *value = bf16::from_f32((f32::from(bits as u16) - 32767.5) * scale);
                bits >>= 16;
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    if out.len() <= PIECE || threads == 1 {
        for (piece, out) in out.chunks_mut(PIECE).enumerate() {
            fill_piece(piece, out);
        }
        return;
    }
    let pieces = std::sync::Mutex::new(out.chunks_mut(PIECE).enumerate());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let next = pieces.lock().expect("no thread panics here").next();
                    let Some((piece, out)) = next else { break };
                    fill_piece(piece, out);
                }
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::shapes;

    fn made(seed: u64) -> Weights {
        let config = shapes::config("tiny").unwrap();
        weights(&config, seed, &mut |_, _| ()).unwrap()
    }

    #[test]
    fn numbers_depend_on_seed_and_name_alone() {
        let (first, again, other) = (made(1), made(1), made(2));
        assert_eq!(first.embedding.as_bf16(), again.embedding.as_bf16());
        assert_eq!(first.layers[1].input_norm, again.layers[1].input_norm);
        assert_ne!(first.embedding.as_bf16(), other.embedding.as_bf16());
        assert_ne!(first.layers[1].input_norm, other.layers[1].input_norm);
        let [one, two] = &first.layers[..] else {
            panic!("tiny has two layers");
        };
        assert_ne!(one.q.as_bf16(), two.q.as_bf16());
        assert_ne!(one.gate.as_bf16(), one.up.as_bf16());
        assert_ne!(one.k.as_bf16(), one.v.as_bf16());
        assert_ne!(one.input_norm, one.post_attention_norm);
    }

    /// Large tensors are filled in pieces by several threads; here by one, element by element.
    #[test]
    fn numbers_do_not_depend_on_threads() {
        let mut pieces = vec![bf16::ZERO; (2 << 20) + 5];
        fill(&mut pieces, stream(7, "a"), 0.1);
        let number = |index: usize| {
            let bits = split_mix(stream(7, "a").wrapping_add(index as u64 / 4));
            let bits = (bits >> (16 * (index % 4))) as u16;
            bf16::from_f32((f32::from(bits) - 32767.5) * (0.1 / 32767.5))
        };
        for index in (0..pieces.len())
            .step_by(997)
            .chain([1 << 20, (2 << 20) + 4])
        {
            assert_eq!(pieces[index], number(index), "{index}");
        }
    }

    /// Of n uniform numbers the mean has a deviation of sigma / sqrt(n) and the variance one of
    /// 0.9 sigma^2 / sqrt(n): five of each are allowed.
    #[test]
    fn matrices_have_mean_zero_and_variance_one_by_columns() {
        let weights = made(3);
        for matrix in [
            &weights.embedding,
            &weights.layers[0].q,
            &weights.layers[1].down,
        ] {
            let values: Vec<f64> = matrix
                .as_bf16()
                .unwrap()
                .iter()
                .map(|v| v.to_f64())
                .collect();
            let n = values.len() as f64;
            let expected = 1.0 / matrix.columns() as f64;
            let mean = values.iter().sum::<f64>() / n;
            let variance = values.iter().map(|v| v * v).sum::<f64>() / n;
            assert!(mean.abs() < 5.0 * (expected / n).sqrt(), "mean {mean}");
            let error = (variance / expected - 1.0).abs();
            assert!(
                error < 5.0 * 0.9 / n.sqrt() + 1e-3,
                "variance {variance}, not {expected}"
            );
        }
        let norms = &weights.layers[0].input_norm;
        assert!(norms.iter().all(|norm| (0.75..=1.25).contains(norm)));
        assert!(
            norms
                .iter()
                .all(|norm| bf16::from_f32(*norm).to_f32() == *norm)
        );
    }

    #[test]
    fn progress_ends_with_everything() {
        let config = shapes::config("tiny").unwrap();
        let mut last = (0, 0);
        let mut grows = true;
        let mut progress = |done, total| {
            grows &= done > last.0;
            last = (done, total);
        };
        weights(&config, 0, &mut progress).unwrap();
        assert!(grows && last.0 > 0 && last.0 <= last.1, "{last:?}");
        assert!(last.1 - last.0 < 64);
    }
}
