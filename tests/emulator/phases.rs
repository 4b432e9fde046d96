//! Each phase alone: it gets what the reference engine computed before it, and must come to what the
//! reference computed after.

use std::collections::HashMap;
use std::ops::ControlFlow;

use bytemuck::{AnyBitPattern, NoUninit, cast_slice, cast_slice_mut, pod_read_unaligned};
use half::bf16;
use onegrid::engine::emulated::{BLOCKS, EmulatedDevice};
use onegrid::engine::megakernel::abi::{OG_MAX_SPLITS, OG_NO_LOGITS, OgColumn, OgControl};
use onegrid::engine::megakernel::device::Launch;
use onegrid::engine::megakernel::{Device, MegakernelEngine, MegakernelOptions, Stage};
use onegrid::engine::reference::Activation::{self, *};
use onegrid::engine::{DecodeRequest, Engine};
use onegrid::measure::ladder;
use onegrid::model::{ModelConfig, TokenId};
use onegrid::sampling::SamplingParams;

use crate::recorder::{Moment, Recorder, Recording};

/// Sums of f32 in another order, of a few hundred terms.
const TOLERANCE: f32 = 1e-5;
/// bf16 numbers in the cache: two neighbours may be as near.
const KV_TOLERANCE: f32 = 1.0 / 256.0;

/// What the reference computes at every position of every sequence.
struct Expected {
    /// By sequence, position, layer and what it is.
    activations: HashMap<(usize, usize, usize, Activation), Vec<f32>>,
    /// By sequence and position.
    logits: HashMap<(usize, usize), Vec<f32>>,
}

impl Expected {
    fn new(config: &ModelConfig, texts: &[Vec<TokenId>]) -> Self {
        let weights = ladder::weights(config).unwrap();
        let mut activations = HashMap::new();
        let mut logits = HashMap::new();
        for (sequence, text) in texts.iter().enumerate() {
            let mut reference = ladder::reference(&weights).unwrap();
            for (position, &token) in text.iter().enumerate() {
                let mut observer = |layer, what, values: &[f32]| {
                    activations.insert((sequence, position, layer, what), values.to_vec());
                };
                reference.observe(0, token, &mut observer).unwrap();
            }
            let mut reference = ladder::reference(&weights).unwrap();
            for (position, row) in ladder::all_logits(&mut reference, text)
                .unwrap()
                .into_iter()
                .enumerate()
            {
                logits.insert((sequence, position), row);
            }
        }
        Self {
            activations,
            logits,
        }
    }

    fn of(&self, column: &OgColumn, layer: usize, what: Activation) -> &[f32] {
        &self.activations[&(
            column.sequence as usize,
            column.position as usize,
            layer,
            what,
        )]
    }

    /// The residual stream that layer `layer` begins with.
    fn before(&self, column: &OgColumn, layer: usize) -> &[f32] {
        match layer {
            0 => self.of(column, 0, Embedded),
            _ => self.of(column, layer - 1, AfterMlp),
        }
    }
}

/// The state of a device during one launch.
struct State<'a> {
    device: &'a mut EmulatedDevice,
    launch: &'a Launch,
}

impl State<'_> {
    fn columns(&mut self) -> Vec<OgColumn> {
        let mut bytes = vec![0; size_of::<OgControl>()];
        let at = self.launch.arguments.at.control;
        self.device.read_state(at, &mut bytes).unwrap();
        let control: OgControl = pod_read_unaligned(&bytes);
        control.column[..control.columns as usize].to_vec()
    }

    /// Row `row` of an array of rows of `stride` numbers, `len` of them.
    fn row<T: AnyBitPattern + NoUninit + Default>(
        &mut self,
        array: u64,
        row: usize,
        stride: usize,
        len: usize,
    ) -> Vec<T> {
        let mut values = vec![T::default(); len];
        let at = array + (row * stride * size_of::<T>()) as u64;
        self.device
            .read_state(at, cast_slice_mut(&mut values))
            .unwrap();
        values
    }

    fn write_row<T: NoUninit>(&mut self, array: u64, row: usize, stride: usize, values: &[T]) {
        let at = array + (row * stride * size_of::<T>()) as u64;
        self.device.write_state(at, cast_slice(values)).unwrap();
    }

    /// Which row of the cache a position is, for a KV head.
    fn cache_row(&self, layer: usize, sequence: usize, head: usize, position: usize) -> usize {
        let (at, model) = (&self.launch.arguments.at, &self.launch.arguments.model);
        let heads = layer * at.sequences as usize + sequence;
        (heads * model.kv_heads as usize + head) * at.context as usize + position
    }

    /// The past of a column, as the reference has it.
    fn write_past(&mut self, expected: &Expected, layer: usize, column: &OgColumn) {
        let (at, model) = (self.launch.arguments.at, self.launch.arguments.model);
        let head_dim = model.head_dim as usize;
        for position in 0..column.position {
            let past = OgColumn {
                position,
                ..*column
            };
            for (array, what) in [(at.keys, Keys), (at.values, Values)] {
                let row = expected.of(&past, layer, what);
                for (head, values) in row.chunks(head_dim).enumerate() {
                    let values: Vec<u16> = values
                        .iter()
                        .map(|&x| bf16::from_f32(x).to_bits())
                        .collect();
                    let (sequence, position) = (column.sequence as usize, position as usize);
                    let row = self.cache_row(layer, sequence, head, position);
                    self.write_row(array, row, head_dim, &values);
                }
            }
        }
    }

    /// What was appended for a column: `[kv_heads * head_dim]`.
    fn appended(&mut self, array: u64, layer: usize, column: &OgColumn) -> Vec<f32> {
        let model = self.launch.arguments.model;
        let head_dim = model.head_dim as usize;
        let mut all = Vec::new();
        for head in 0..model.kv_heads as usize {
            let (sequence, position) = (column.sequence as usize, column.position as usize);
            let row = self.cache_row(layer, sequence, head, position);
            let values: Vec<u16> = self.row(array, row, head_dim, head_dim);
            all.extend(values.iter().map(|&bits| bf16::from_bits(bits).to_f32()));
        }
        all
    }

    /// Sets what all splits of all heads of column `c` found: `attended` is the first's, and there was
    /// nothing for the others.
    fn write_splits(&mut self, c: usize, attended: Option<&[f32]>) {
        let (at, model) = (self.launch.arguments.at, self.launch.arguments.model);
        let (heads, head_dim) = (model.heads as usize, model.head_dim as usize);
        let splits = OG_MAX_SPLITS as usize;
        for head in 0..heads {
            // Maximum, and sum of weights.
            let mut softmax = [-1e30_f32, 0.0].repeat(splits);
            let mut sums = vec![0.0_f32; splits * head_dim];
            if let Some(attended) = attended {
                softmax[..2].copy_from_slice(&[0.0, 1.0]);
                sums[..head_dim].copy_from_slice(&attended[head * head_dim..][..head_dim]);
            }
            let row = c * heads + head;
            self.write_row(at.split_softmax, row, 2 * splits, &softmax);
            self.write_row(at.split_sums, row, splits * head_dim, &sums);
        }
    }

    /// The splits of column `c` merged: `[heads * head_dim]`.
    fn merged(&mut self, c: usize) -> Vec<f32> {
        let (at, model) = (self.launch.arguments.at, self.launch.arguments.model);
        let (heads, head_dim) = (model.heads as usize, model.head_dim as usize);
        let splits = OG_MAX_SPLITS as usize;
        let mut all = Vec::new();
        for head in 0..heads {
            let row = c * heads + head;
            let softmax: Vec<f32> = self.row(at.split_softmax, row, 2 * splits, 2 * splits);
            let sums: Vec<f32> = self.row(at.split_sums, row, splits * head_dim, splits * head_dim);
            let parts = || softmax.chunks(2).zip(sums.chunks(head_dim));
            let maximum = parts().map(|(s, _)| s[0]).fold(f32::MIN, f32::max);
            let weight: f32 = parts().map(|(s, _)| (s[0] - maximum).exp2() * s[1]).sum();
            for element in 0..head_dim {
                let of_split =
                    |(s, sums): (&[f32], &[f32])| (s[0] - maximum).exp2() * sums[element];
                all.push(parts().map(of_split).sum::<f32>() / weight);
            }
        }
        all
    }
}

/// Gives the phase of `launch` what the reference computed before it.
fn give(expected: &Expected, state: &mut State, phase: &str, columns: &[OgColumn]) {
    let (at, model) = (state.launch.arguments.at, state.launch.arguments.model);
    let layer = state.launch.arguments.layer as usize;
    let hidden = model.hidden_stride as usize;
    for (c, column) in columns.iter().enumerate() {
        match phase {
            "embed" => {
                let nothing = vec![f32::NAN; model.hidden as usize];
                state.write_row(at.residual, c, hidden, &nothing);
            }
            "qkv" => state.write_row(at.residual, c, hidden, expected.before(column, layer)),
            "attention" => {
                let qkv = expected.of(column, layer, Qkv);
                state.write_row(at.qkv, c, qkv.len(), qkv);
                state.write_splits(c, None);
                state.write_past(expected, layer, column);
            }
            "output" => {
                state.write_row(at.residual, c, hidden, expected.before(column, layer));
                state.write_splits(c, Some(expected.of(column, layer, Attended)));
            }
            "gate_up" => {
                let residual = expected.of(column, layer, AfterAttention);
                state.write_row(at.residual, c, hidden, residual);
            }
            "down" => {
                let residual = expected.of(column, layer, AfterAttention);
                state.write_row(at.residual, c, hidden, residual);
                let gated = expected.of(column, layer, Gated);
                let stride = model.intermediate_stride as usize;
                state.write_row(at.activated, c, stride, gated);
            }
            "head" => {
                let last = model.layers as usize;
                state.write_row(at.residual, c, hidden, expected.before(column, last));
            }
            _ => {}
        }
    }
}

/// What the phase of `launch` came to, beside what the reference computed: name, found, expected and
/// tolerance.
fn results(
    expected: &Expected,
    state: &mut State,
    phase: &str,
    columns: &[OgColumn],
) -> Vec<(Vec<f32>, Vec<f32>, f32)> {
    let (at, model) = (state.launch.arguments.at, state.launch.arguments.model);
    let layer = state.launch.arguments.layer as usize;
    let [hidden, stride] = [model.hidden, model.hidden_stride].map(|n| n as usize);
    let mut all = Vec::new();
    for (c, column) in columns.iter().enumerate() {
        let mut push = |found: Vec<f32>, expected: &[f32], tolerance| {
            all.push((found, expected.to_vec(), tolerance));
        };
        let residual = |state: &mut State| state.row(at.residual, c, stride, hidden);
        match phase {
            "embed" => push(residual(state), expected.before(column, 0), 0.0),
            "qkv" => {
                let qkv = expected.of(column, layer, Qkv);
                let found = state.row(at.qkv, c, qkv.len(), qkv.len());
                push(found, qkv, TOLERANCE);
            }
            "attention" => {
                let attended = expected.of(column, layer, Attended);
                push(state.merged(c), attended, TOLERANCE);
                for (array, what) in [(at.keys, Keys), (at.values, Values)] {
                    let found = state.appended(array, layer, column);
                    push(found, expected.of(column, layer, what), KV_TOLERANCE);
                }
            }
            "output" => {
                let after = expected.of(column, layer, AfterAttention);
                push(residual(state), after, TOLERANCE);
            }
            "gate_up" => {
                let [len, stride] =
                    [model.intermediate, model.intermediate_stride].map(|n| n as usize);
                let found = state.row(at.activated, c, stride, len);
                push(found, expected.of(column, layer, Gated), TOLERANCE);
            }
            "down" => push(
                residual(state),
                expected.of(column, layer, AfterMlp),
                TOLERANCE,
            ),
            "head" if column.logits_row != OG_NO_LOGITS => {
                let (row, vocab) = (column.logits_row as usize, model.vocab as usize);
                let found = state.row(at.logits, row, vocab, vocab);
                let place = (column.sequence as usize, column.position as usize);
                push(found, &expected.logits[&place], TOLERANCE);
            }
            _ => {}
        }
    }
    all
}

/// Tokens of the prompts, by sequence: at the ends of stretches and beside them.
const PROMPTS: [usize; 8] = [11, 4, 5, 6, 1, 16, 2, 9];
/// Tokens decoded behind them.
const NEW_TOKENS: usize = 2;

/// What an engine does that decodes `count` sequences with a kernel for each phase, and the tokens of
/// each sequence whose keys it cached.
fn record(config: &ModelConfig, count: usize) -> (Recording, Vec<Vec<TokenId>>) {
    let device = EmulatedDevice::new(BLOCKS, 64).unwrap();
    let (recorder, recording) = Recorder::new(device, |_| ());
    let options = MegakernelOptions {
        stage: Stage::Launches,
        ring_capacity: 32,
        ..ladder::options(count)
    };
    let weights = ladder::weights(config).unwrap();
    let engine = MegakernelEngine::new(recorder, &weights, options, &mut |_, _| ());
    let mut engine = engine.unwrap();
    let mut requests = Vec::new();
    for (sequence, &length) in PROMPTS[..count].iter().enumerate() {
        let prompt = &ladder::tokens(config, length + sequence)[sequence..];
        let go_on = &mut |_| ControlFlow::Continue(());
        engine.prefill(sequence, prompt, go_on).unwrap();
        requests.push(DecodeRequest {
            sequence,
            max_tokens: NEW_TOKENS,
            sampling: SamplingParams::default(),
            stop_tokens: Vec::new(),
            guide: None,
        });
    }
    let go_on = &mut |_| ControlFlow::Continue(());
    engine.decode(&requests, go_on).unwrap();
    let texts = (0..count).map(|sequence| engine.cached(sequence).to_vec());
    let texts = texts.collect();
    drop(engine);
    let recording = std::mem::take(&mut *recording.lock().unwrap());
    (recording, texts)
}

#[test]
fn each_phase_alone_computes_what_the_reference_does() {
    for config in ladder::shapes() {
        for count in [1, 2, 3, 8] {
            let (recording, texts) = record(&config, count);
            let expected = Expected::new(&config, &texts);
            let mut device = EmulatedDevice::new(BLOCKS, 64).unwrap();
            let mut checked: HashMap<String, usize> = HashMap::new();
            recording.replay(&mut device, &mut |moment, launch, device| {
                // `step_attention_h64_c1`
                let Some(name) = launch.kernel.strip_prefix("step_") else {
                    return;
                };
                let end = name.find("_h64").or(name.find("_h128")).or(name.find("_c"));
                let phase = &name[..end.unwrap_or(name.len())];
                let mut state = State { device, launch };
                let columns = state.columns();
                if moment == Moment::Before {
                    return give(&expected, &mut state, phase, &columns);
                }
                for (found, expected, tolerance) in results(&expected, &mut state, phase, &columns)
                {
                    let distance = ladder::distance(&found, &expected);
                    let (architecture, layer) = (config.architecture, launch.arguments.layer);
                    assert!(
                        distance <= tolerance,
                        "{architecture:?}, {count} columns, {phase} of layer {layer}: {distance:.1e}"
                    );
                    *checked.entry(phase.to_owned()).or_default() += 1;
                }
            });
            // The last token is sampled, and not run.
            let steps = count * (NEW_TOKENS - 1);
            for (phase, times) in [
                ("embed", 1),
                ("qkv", config.layers),
                ("attention", 3 * config.layers),
                ("output", config.layers),
                ("gate_up", config.layers),
                ("down", config.layers),
                ("head", 1),
            ] {
                assert_eq!(checked.get(phase), Some(&(steps * times)), "{phase}");
            }
        }
    }
}
