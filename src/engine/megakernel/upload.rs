//! The weights in the order in which the kernels read them, written to a device piece by piece:
//! the host never holds a second copy of the model.
//!
//! Rows of q, k and v follow each other in one matrix; rows of gate and up take turns; every row
//! is padded with zeros to its stride; vectors are f32; the RoPE table is computed here.

use half::bf16;

use super::device::WeightSink;
use super::error::DeviceError;
use super::layout::WeightLayout;
use crate::model::storage::Element;
use crate::model::weights::Values;
use crate::model::{Matrix, ModelConfig, Weights};

/// Writes `weights`, with a RoPE table of `context` positions, where `layout` says, and tells
/// `progress` how many bytes of how many are written.
///
/// # Errors
/// A row that exceeds a piece; a device that fails.
pub fn upload(
    sink: &mut impl WeightSink,
    weights: &Weights,
    layout: &WeightLayout,
    context: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), DeviceError> {
    let parts = parts(weights, layout, context);
    let total = parts.iter().map(|part| part.bytes() as u64).sum();
    let mut done = 0;
    for part in &parts {
        let rows = sink.piece_bytes() / part.row_bytes().max(1);
        if rows == 0 {
            let what = "a row of the weights";
            return Err(DeviceError::TooLarge { what });
        }
        for first in (0..part.rows).step_by(rows) {
            let rows = rows.min(part.rows - first);
            let len = rows * part.row_bytes();
            let offset = part.offset + (first * part.row_bytes()) as u64;
            sink.write_weights(offset, len, &mut |bytes| {
                for (row, bytes) in (first..).zip(bytes.chunks_exact_mut(part.row_bytes())) {
                    part.content.write_row(row, bytes);
                }
            })?;
            done += len as u64;
            progress(done, total);
        }
    }
    Ok(())
}

/// One tensor as the kernels read it.
struct Part<'a> {
    /// Where it begins.
    offset: u64,
    rows: usize,
    content: Content<'a>,
    /// Elements from a row to the next.
    stride: usize,
}

enum Content<'a> {
    /// The rows of matrices, one after the other.
    Stacked(Vec<&'a Matrix>),
    /// A row of each matrix in turn.
    Interleaved([&'a Matrix; 2]),
    /// A vector, as one row.
    Vector(&'a [f32]),
    /// A row for each position: (cosine, sine) of each pair's angle.
    Rope(Vec<f64>),
}

impl Part<'_> {
    fn row_bytes(&self) -> usize {
        match &self.content {
            Content::Stacked(_) | Content::Interleaved(_) => self.stride * size_of::<bf16>(),
            Content::Vector(_) | Content::Rope(_) => self.stride * size_of::<f32>(),
        }
    }

    fn bytes(&self) -> usize {
        self.rows * self.row_bytes()
    }
}

/// All tensors of `weights`.
fn parts<'a>(weights: &'a Weights, layout: &WeightLayout, context: usize) -> Vec<Part<'a>> {
    let config = &weights.config;
    let model = &layout.model;
    let strides = [
        model.hidden_stride,
        model.q_stride,
        model.intermediate_stride,
    ];
    let [hidden_stride, q_stride, intermediate_stride] = strides.map(|stride| stride as usize);
    let mut parts = vec![Part::stacked(
        model.embedding,
        hidden_stride,
        vec![&weights.embedding],
    )];
    for (index, layer) in weights.layers.iter().enumerate() {
        let begin = model.layers_begin + index as u64 * model.layer_bytes;
        let stacked = |at: u64, stride, matrices| Part::stacked(begin + at, stride, matrices);
        parts.push(Part::vector(begin + model.input_norm, &layer.input_norm));
        let qkv = vec![&layer.q, &layer.k, &layer.v];
        parts.push(stacked(model.qkv, hidden_stride, qkv));
        if let Some(bias) = &layer.qkv_bias {
            let mut offset = begin + model.qkv_bias;
            for bias in [&bias.q, &bias.k, &bias.v] {
                parts.push(Part::vector(offset, bias));
                offset += size_of_val(bias.as_slice()) as u64;
            }
        }
        if let Some(norm) = &layer.qk_norm {
            parts.push(Part::vector(begin + model.q_norm, &norm.q));
            parts.push(Part::vector(begin + model.k_norm, &norm.k));
        }
        parts.push(stacked(model.output, q_stride, vec![&layer.o]));
        let norm = &layer.post_attention_norm;
        parts.push(Part::vector(begin + model.post_attention_norm, norm));
        parts.push(Part {
            offset: begin + model.gate_up,
            rows: 2 * layer.gate.rows(),
            content: Content::Interleaved([&layer.gate, &layer.up]),
            stride: hidden_stride,
        });
        parts.push(stacked(model.down, intermediate_stride, vec![&layer.down]));
    }
    parts.push(Part::vector(model.final_norm, &weights.final_norm));
    if let Some(head) = &weights.head {
        parts.push(Part::stacked(model.head, hidden_stride, vec![head]));
    }
    parts.push(Part::rope(model.rope, config, context));
    parts
}

impl<'a> Part<'a> {
    fn stacked(offset: u64, stride: usize, matrices: Vec<&'a Matrix>) -> Self {
        Self {
            offset,
            rows: matrices.iter().map(|matrix| matrix.rows()).sum(),
            content: Content::Stacked(matrices),
            stride,
        }
    }

    fn vector(offset: u64, vector: &'a [f32]) -> Self {
        Self {
            offset,
            rows: 1,
            content: Content::Vector(vector),
            stride: vector.len(),
        }
    }

    fn rope(offset: u64, config: &ModelConfig, context: usize) -> Self {
        Self {
            offset,
            rows: context,
            content: Content::Rope(config.rope.frequencies(config.head_dim)),
            stride: config.head_dim,
        }
    }
}

impl Content<'_> {
    /// Writes row `row`, and zeros behind it to the end of `bytes`.
    fn write_row(&self, mut row: usize, bytes: &mut [u8]) {
        match self {
            Content::Stacked(matrices) => {
                for matrix in matrices {
                    if row < matrix.rows() {
                        return write_matrix_row(matrix, row, bytes);
                    }
                    row -= matrix.rows();
                }
                unreachable!("a row beyond the matrices");
            }
            Content::Interleaved(matrices) => {
                write_matrix_row(matrices[row % 2], row / 2, bytes);
            }
            Content::Vector(vector) => write(bytes, vector.iter().map(|x| x.to_le_bytes())),
            Content::Rope(frequencies) => {
                let turns = frequencies.iter().flat_map(|frequency| {
                    let (sine, cosine) = (row as f64 * frequency).sin_cos();
                    [cosine as f32, sine as f32]
                });
                write(bytes, turns.map(f32::to_le_bytes));
            }
        }
    }
}

fn write_matrix_row(matrix: &Matrix, row: usize, bytes: &mut [u8]) {
    let range = row * matrix.columns()..(row + 1) * matrix.columns();
    match matrix.values() {
        Values::Bf16(values) => {
            let row = &values.as_bytes()[2 * range.start..2 * range.end];
            let (filled, rest) = bytes.split_at_mut(row.len());
            filled.copy_from_slice(row);
            rest.fill(0);
        }
        Values::F16(values) => write_rounded(&values.as_slice()[range], bytes),
        Values::F32(values) => write_rounded(&values.as_slice()[range], bytes),
    }
}

fn write_rounded<T: Element>(row: &[T], bytes: &mut [u8]) {
    write(
        bytes,
        row.iter().map(|x| bf16::from_f32(x.widen()).to_le_bytes()),
    );
}

/// Fills `bytes` with `values`, and zeros behind them.
fn write<const SIZE: usize>(bytes: &mut [u8], values: impl Iterator<Item = [u8; SIZE]>) {
    let (slots, _) = bytes.as_chunks_mut::<SIZE>();
    let mut slots = slots.iter_mut();
    for value in values {
        *slots.next().expect("a row is no longer than its stride") = value;
    }
    slots.for_each(|slot| *slot = [0; SIZE]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::Rope;
    use crate::model::storage::Slice;
    use crate::model::{Architecture, random};

    /// Weights in memory, written in pieces of a few rows.
    struct Image {
        bytes: Vec<u8>,
        written: Vec<bool>,
        pieces: usize,
    }

    const PIECE: usize = 4096;

    impl WeightSink for Image {
        fn piece_bytes(&self) -> usize {
            PIECE
        }

        fn write_weights(
            &mut self,
            offset: u64,
            len: usize,
            fill: &mut dyn FnMut(&mut [u8]),
        ) -> Result<(), DeviceError> {
            assert!(len <= PIECE);
            let range = offset as usize..offset as usize + len;
            assert!(self.written[range.clone()].iter().all(|written| !written));
            self.written[range.clone()].fill(true);
            self.bytes[range.clone()].fill(0xff);
            fill(&mut self.bytes[range]);
            self.pieces += 1;
            Ok(())
        }
    }

    impl Image {
        fn bf16(&self, offset: u64) -> bf16 {
            let at = offset as usize;
            assert!(
                self.written[at] && self.written[at + 1],
                "{at} is not written"
            );
            bf16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
        }

        fn f32(&self, offset: u64) -> f32 {
            let at = offset as usize;
            assert!(self.written[at..at + 4].iter().all(|written| *written));
            f32::from_le_bytes(self.bytes[at..at + 4].try_into().unwrap())
        }

        /// Row `row` of the matrix at `offset` is `expected`, and zeros up to the stride.
        fn check_row(&self, offset: u64, row: usize, stride: u32, expected: &[f32]) {
            let begin = offset + row as u64 * u64::from(stride) * 2;
            for column in 0..stride as usize {
                let found = self.bf16(begin + 2 * column as u64).to_f32();
                let expected = expected.get(column).copied().unwrap_or(0.0);
                assert_eq!(found, bf16::from_f32(expected).to_f32(), "{row}, {column}");
            }
        }

        fn check_matrix(&self, offset: u64, stride: u32, matrix: &Matrix) {
            for row in 0..matrix.rows() {
                self.check_row(offset, row, stride, &values(matrix, row));
            }
        }

        fn check_vector(&self, offset: u64, vector: &[f32]) {
            for (offset, expected) in (offset..).step_by(4).zip(vector) {
                assert_eq!(self.f32(offset), *expected);
            }
        }
    }

    fn values(matrix: &Matrix, row: usize) -> Vec<f32> {
        let mut values = vec![0.0; matrix.columns()];
        matrix.copy_row(row, &mut values);
        values
    }

    fn config(architecture: Architecture, tied_embeddings: bool) -> ModelConfig {
        ModelConfig {
            architecture,
            hidden_size: 90,
            intermediate_size: 154,
            layers: 3,
            heads: 6,
            kv_heads: 3,
            head_dim: 64,
            vocab_size: 203,
            max_positions: 2048,
            rms_norm_eps: 1e-6,
            rope: Rope {
                theta: 1e6,
                scaling: None,
            },
            tied_embeddings,
        }
    }

    const CONTEXT: usize = 70;

    fn check_image(weights: &Weights) {
        let layout = WeightLayout::new(&weights.config, CONTEXT).unwrap();
        let mut image = Image {
            bytes: vec![0; layout.bytes as usize],
            written: vec![false; layout.bytes as usize],
            pieces: 0,
        };
        let mut last = (0, 1);
        let mut progress = |done, total| last = (done, total);
        upload(&mut image, weights, &layout, CONTEXT, &mut progress).unwrap();
        assert_eq!(last.0, last.1);
        let written = image.written.iter().filter(|written| **written).count();
        assert_eq!(written as u64, last.1);
        assert!(image.pieces > 100);

        let model = &layout.model;
        image.check_matrix(model.embedding, model.hidden_stride, &weights.embedding);
        image.check_matrix(model.head, model.hidden_stride, weights.head());
        image.check_vector(model.final_norm, &weights.final_norm);
        for (index, layer) in (0..).zip(&weights.layers) {
            let begin = model.layers_begin + index * model.layer_bytes;
            let qkv = [&layer.q, &layer.k, &layer.v];
            let rows = qkv
                .iter()
                .flat_map(|m| (0..m.rows()).map(|row| values(m, row)));
            for (row, expected) in rows.enumerate() {
                image.check_row(begin + model.qkv, row, model.hidden_stride, &expected);
            }
            for row in 0..layer.gate.rows() {
                for (matrix, row_of) in [(&layer.gate, 2 * row), (&layer.up, 2 * row + 1)] {
                    let expected = values(matrix, row);
                    image.check_row(
                        begin + model.gate_up,
                        row_of,
                        model.hidden_stride,
                        &expected,
                    );
                }
            }
            image.check_matrix(begin + model.output, model.q_stride, &layer.o);
            image.check_matrix(begin + model.down, model.intermediate_stride, &layer.down);
            image.check_vector(begin + model.input_norm, &layer.input_norm);
            image.check_vector(
                begin + model.post_attention_norm,
                &layer.post_attention_norm,
            );
            if let Some(norm) = &layer.qk_norm {
                image.check_vector(begin + model.q_norm, &norm.q);
                image.check_vector(begin + model.k_norm, &norm.k);
            }
            if let Some(bias) = &layer.qkv_bias {
                let all = [&bias.q[..], &bias.k, &bias.v].concat();
                image.check_vector(begin + model.qkv_bias, &all);
            }
        }
        let frequencies = weights.config.rope.frequencies(64);
        for position in 0..CONTEXT {
            for (pair, frequency) in frequencies.iter().enumerate() {
                let at = model.rope + (position * 64 + 2 * pair) as u64 * 4;
                let angle = position as f64 * frequency;
                let expected = [angle.cos(), angle.sin()].map(|x| x as f32);
                assert_eq!([image.f32(at), image.f32(at + 4)], expected);
            }
        }
    }

    #[test]
    fn every_element_of_every_tensor_lies_where_the_layout_says() {
        use Architecture::{Llama, Qwen2, Qwen3};
        for (architecture, tied) in [(Qwen3, true), (Qwen2, false), (Llama, true)] {
            check_image(&random::weights(&config(architecture, tied), 7, &mut |_, _| ()).unwrap());
        }
    }

    #[test]
    fn matrices_in_f16_and_f32_are_rounded_on_their_way() {
        let config = config(Architecture::Qwen3, false);
        let mut weights = random::weights(&config, 7, &mut |_, _| ()).unwrap();
        let scaled = |matrix: &Matrix| -> Vec<f32> {
            let rows = (0..matrix.rows()).flat_map(|row| values(matrix, row));
            rows.map(|x| x * 1.0013).collect()
        };
        let gate = scaled(&weights.layers[1].gate);
        let shape = (
            weights.layers[1].gate.rows(),
            weights.layers[1].gate.columns(),
        );
        weights.layers[1].gate = Matrix::new(shape.0, shape.1, Values::F32(stored(&gate)));
        let down = scaled(&weights.layers[2].down);
        let down: Vec<_> = down.into_iter().map(half::f16::from_f32).collect();
        let shape = (
            weights.layers[2].down.rows(),
            weights.layers[2].down.columns(),
        );
        weights.layers[2].down = Matrix::new(shape.0, shape.1, Values::F16(stored(&down)));
        check_image(&weights);
    }

    fn stored<T: Element>(values: &[T]) -> Slice<T> {
        use crate::model::storage::{Storage, elements_mut, huge_pages};
        let len = size_of_val(values);
        let mut map = huge_pages(len).unwrap();
        elements_mut::<T>(&mut map[..len]).copy_from_slice(values);
        Slice::new(std::sync::Arc::new(Storage::Anonymous(map)), 0..len).unwrap()
    }

    #[test]
    fn a_row_beyond_a_piece_is_refused() {
        let mut config = config(Architecture::Llama, true);
        config.intermediate_size = 2100;
        let weights = random::weights(&config, 7, &mut |_, _| ()).unwrap();
        let layout = WeightLayout::new(&config, 4).unwrap();
        let mut image = Image {
            bytes: vec![0; layout.bytes as usize],
            written: vec![false; layout.bytes as usize],
            pieces: 0,
        };
        let error = upload(&mut image, &weights, &layout, 4, &mut |_, _| ()).unwrap_err();
        assert!(
            error.to_string().contains("a row of the weights"),
            "{error}"
        );
    }
}
