//! Damaged checkpoints: whatever the bytes, the answer is an error or a valid model, never a panic.

use std::sync::LazyLock;

use onegrid::model::checkpoint::{
    self, CheckpointError, INDEX, LoadOptions, Placement, Precision, SINGLE, from_bytes,
};
use onegrid::model::{Files, ModelConfig, Weights, config_json, random, shapes};
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// The smallest model of each architecture: `config.json` and `model.safetensors`.
static CHECKPOINTS: LazyLock<Vec<(Vec<u8>, Vec<u8>)>> = LazyLock::new(|| {
    let small = |name: &str, tied_embeddings| {
        let config = ModelConfig {
            hidden_size: 4,
            intermediate_size: 6,
            layers: 1,
            heads: 2,
            kv_heads: 1,
            head_dim: 2,
            vocab_size: 5,
            tied_embeddings,
            ..shapes::config(name).unwrap()
        };
        let folder = tempfile::tempdir().unwrap();
        let weights = random::weights(&config, 1, &mut |_, _| ()).unwrap();
        checkpoint::write(folder.path(), &weights).unwrap();
        let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
        (read("config.json"), read(SINGLE))
    };
    vec![
        small("qwen3-0.6b", true),
        small("qwen2.5-0.5b", false),
        small("llama-3.2-1b", false),
    ]
});

/// One thing that can happen to bytes.
#[derive(Clone, Debug)]
enum Damage {
    Replace(Index, u8),
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, Index),
    Truncate(Index),
    /// A number in the text becomes another one.
    Number(Index, String),
}

fn damage() -> impl Strategy<Value = Damage> {
    let numbers = [
        "0",
        "1",
        "-1",
        "3",
        "4096",
        "16777216",
        "4294967296",
        "9223372036854775808",
        "18446744073709551615",
        "1e308",
        "1e999",
        "0.5",
        "null",
        "true",
        "[]",
        "{}",
        "\"\"",
        "NaN",
    ];
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Replace(at, byte)),
        (any::<Index>(), 0..8_u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        (any::<Index>(), prop::collection::vec(any::<u8>(), 1..9))
            .prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Damage::Remove(from, to)),
        any::<Index>().prop_map(Damage::Truncate),
        (any::<Index>(), select(numbers.to_vec()))
            .prop_map(|(which, number)| Damage::Number(which, number.to_owned())),
    ]
}

fn damaged(bytes: &[u8], damages: &[Damage]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for damage in damages {
        if bytes.is_empty() {
            break;
        }
        let len = bytes.len();
        match damage {
            Damage::Replace(at, byte) => bytes[at.index(len)] = *byte,
            Damage::Flip(at, bit) => bytes[at.index(len)] ^= 1 << bit,
            Damage::Insert(at, new) => {
                let at = at.index(len);
                bytes.splice(at..at, new.iter().copied());
            }
            Damage::Remove(from, to) => {
                let (from, to) = (from.index(len), to.index(len));
                bytes.drain(from.min(to)..from.max(to));
            }
            Damage::Truncate(at) => bytes.truncate(at.index(len)),
            Damage::Number(which, number) => {
                let is_digit = |byte: &u8| byte.is_ascii_digit();
                let starts = (0..len)
                    .filter(|at| is_digit(&bytes[*at]) && (*at == 0 || !is_digit(&bytes[*at - 1])));
                let starts: Vec<usize> = starts.collect();
                if !starts.is_empty() {
                    let start = starts[which.index(starts.len())];
                    let digits = bytes[start..]
                        .iter()
                        .take_while(|byte| is_digit(byte))
                        .count();
                    bytes.splice(start..start + digits, number.bytes());
                }
            }
        }
    }
    bytes
}

/// The header of a safetensors file with a length that is right, and the tensors behind it.
fn with_header(file: &[u8], change: impl FnOnce(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header = change(&file[8..8 + len]);
    let len = (header.len() as u64).to_le_bytes();
    [&len, header.as_slice(), &file[8 + len_of(file)..]].concat()
}

fn len_of(file: &[u8]) -> usize {
    u64::from_le_bytes(file[..8].try_into().unwrap()) as usize
}

/// What a caller may rely on after a model was loaded.
fn is_valid(weights: &Weights) {
    let config = &weights.config;
    config.check().unwrap();
    assert_eq!(weights.layers.len(), config.layers);
    assert_eq!(weights.embedding.rows(), config.vocab_size);
    assert_eq!(weights.embedding.columns(), config.hidden_size);
    assert_eq!(weights.final_norm.len(), config.hidden_size);
    assert_eq!(weights.head.is_some(), !config.tied_embeddings);
    for layer in &weights.layers {
        assert_eq!(layer.q.rows(), config.q_size());
        assert_eq!(layer.down.columns(), config.intermediate_size);
        assert_eq!(layer.qk_norm.is_some(), config.qk_norm());
        assert_eq!(layer.qkv_bias.is_some(), config.qkv_bias());
    }
}

fn loads_or_fails(result: Result<Weights, CheckpointError>) {
    match result {
        Ok(weights) => is_valid(&weights),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn options() -> impl Strategy<Value = LoadOptions> {
    let placements = select(vec![
        Placement::Auto,
        Placement::Mapped,
        Placement::HugePages,
    ]);
    let precisions = select(vec![Precision::Stored, Precision::Bf16]);
    (placements, precisions).prop_map(|(placement, precision)| LoadOptions {
        placement,
        precision,
    })
}

fn damages() -> impl Strategy<Value = Vec<Damage>> {
    prop::collection::vec(damage(), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_config_is_an_error_or_a_config(which in any::<Index>(), damages in damages()) {
        let (config, _) = which.get(&CHECKPOINTS);
        if let Ok(config) = config_json::parse(&damaged(config, &damages)) {
            prop_assert_eq!(config.check(), Ok(()));
            // None of these may overflow or divide by zero.
            config.group_size();
            config.parameters();
            config.bytes_per_token(config.max_positions);
            prop_assert!(config.rms_norm_eps >= 0.0 && config.rope.theta.is_finite());
            if config.head_dim < 1 << 12 {
                let frequencies = config.rope.frequencies(config.head_dim);
                prop_assert!(frequencies.iter().all(|frequency| frequency.is_finite()));
            }
        }
    }

    #[test]
    fn a_damaged_file_is_an_error_or_a_model(
        which in any::<Index>(), damages in damages(), options in options(),
    ) {
        let (config, file) = which.get(&CHECKPOINTS);
        loads_or_fails(from_bytes(config.clone(), damaged(file, &damages), options));
    }

    #[test]
    fn a_damaged_header_is_an_error_or_a_model(
        which in any::<Index>(), damages in damages(), options in options(),
    ) {
        let (config, file) = which.get(&CHECKPOINTS);
        let file = with_header(file, |header| damaged(header, &damages));
        loads_or_fails(from_bytes(config.clone(), file, options));
    }

    #[test]
    fn a_header_length_of_any_size_allocates_nothing(claimed in any::<u64>(), options in options()) {
        let (config, file) = &CHECKPOINTS[0];
        let mut file = file.clone();
        file[..8].copy_from_slice(&claimed.to_le_bytes());
        prop_assume!(claimed != len_of(&CHECKPOINTS[0].1) as u64);
        prop_assert!(from_bytes(config.clone(), file, options).is_err());
    }

    #[test]
    fn a_damaged_config_with_whole_weights_is_an_error_or_a_model(
        which in any::<Index>(), damages in damages(), options in options(),
    ) {
        let (config, file) = which.get(&CHECKPOINTS);
        loads_or_fails(from_bytes(damaged(config, &damages), file.clone(), options));
    }

    #[test]
    fn a_damaged_index_is_an_error_or_a_model(damages in damages()) {
        let (config, file) = &CHECKPOINTS[0];
        let header: serde_json::Value = serde_json::from_slice(&file[8..8 + len_of(file)]).unwrap();
        let names = header.as_object().unwrap().keys().filter(|name| *name != "__metadata__");
        let map: serde_json::Map<_, _> = names.map(|name| (name.clone(), "a.safetensors".into())).collect();
        let index = serde_json::json!({ "weight_map": map }).to_string();
        let files = vec![
            ("config.json", config.clone().into()),
            ("a.safetensors", file.clone().into()),
            (INDEX, damaged(index.as_bytes(), &damages).into()),
        ];
        let files = Files::memory("damaged", files);
        loads_or_fails(checkpoint::load(&files, LoadOptions::default(), &mut |_, _| ()));
    }
}

#[test]
fn the_undamaged_checkpoints_are_loaded() {
    for (config, file) in CHECKPOINTS.iter() {
        is_valid(&from_bytes(config.clone(), file.clone(), LoadOptions::default()).unwrap());
        let same = with_header(file, <[u8]>::to_vec);
        assert_eq!(&same, file);
    }
}
