use std::path::Path;

use half::{bf16, f16};
use serde_json::{Value, json};

use super::*;
use crate::model::layout::{Shape, Tensor, tensors};
use crate::model::promotion::{self, Promoter};
use crate::model::{random, shapes};

fn tiny() -> Weights {
    random::weights(&shapes::config("tiny").unwrap(), 1, &mut |_, _| ()).unwrap()
}

fn load_folder(folder: &Path, options: LoadOptions) -> Result<Weights, CheckpointError> {
    load(&Files::folder(folder).unwrap(), options, &mut |_, _| ())
}

fn every_option() -> Vec<LoadOptions> {
    let placements = [Placement::Auto, Placement::Mapped, Placement::HugePages];
    let options = |placement| {
        [Precision::Stored, Precision::Bf16].map(|precision| LoadOptions {
            placement,
            precision,
        })
    };
    placements.into_iter().flat_map(options).collect()
}

/// Every number of every tensor, widened, and the tensor's name.
fn numbers(weights: &Weights) -> Vec<(String, Vec<f32>)> {
    let widened = |tensor: Tensor<'_>| match tensor {
        Tensor::Vector(values) => values.to_vec(),
        Tensor::Matrix(matrix) => {
            let mut values = vec![0.0; matrix.rows() * matrix.columns()];
            for (row, out) in values.chunks_mut(matrix.columns()).enumerate() {
                matrix.copy_row(row, out);
            }
            values
        }
    };
    tensors(weights)
        .into_iter()
        .map(|(spec, tensor)| (spec.name, widened(tensor)))
        .collect()
}

/// A tensor to write: its name, type, shape and bytes.
type Stored = (String, safetensors::Dtype, Vec<usize>, Vec<u8>);

/// A safetensors file of `tensors`, padded so that they begin at an odd or an even offset.
fn file_of(tensors: &[Stored], odd: bool) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, dtype, shape, bytes) in tensors {
        let offsets = [end, end + bytes.len()];
        header.insert(
            name.clone(),
            json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}),
        );
        end += bytes.len();
    }
    let mut header = Value::Object(header).to_string();
    if header.len().is_multiple_of(2) == odd {
        header.push(' ');
    }
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.into_bytes());
    tensors.iter().for_each(|(.., bytes)| file.extend(bytes));
    file
}

/// `weights` as tensors of type `dtype`, every one of them.
fn stored(weights: &Weights, dtype: safetensors::Dtype) -> Vec<Stored> {
    let bytes = |values: &[f32]| -> Vec<u8> {
        let bytes = |v: &f32| match dtype {
            safetensors::Dtype::BF16 => bf16::from_f32(*v).to_le_bytes().to_vec(),
            safetensors::Dtype::F16 => f16::from_f32(*v).to_le_bytes().to_vec(),
            _ => v.to_le_bytes().to_vec(),
        };
        values.iter().flat_map(bytes).collect()
    };
    let shapes = tensors(weights)
        .into_iter()
        .map(|(spec, _)| spec.shape.dimensions());
    let numbers = numbers(weights).into_iter().zip(shapes);
    numbers
        .map(|((name, values), shape)| (name, dtype, shape, bytes(&values)))
        .collect()
}

fn config_of(weights: &Weights) -> Vec<u8> {
    config_json::to_json(&weights.config, "bfloat16")
        .to_string()
        .into_bytes()
}

#[test]
fn what_is_written_is_loaded() {
    let written = tiny();
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &written).unwrap();
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(
        names.len(),
        2,
        "nothing half-written stays behind: {names:?}"
    );
    for options in every_option() {
        let loaded = load_folder(folder.path(), options).unwrap();
        assert_eq!(loaded.config, written.config);
        assert!(numbers(&loaded) == numbers(&written), "{options:?}");
    }
}

#[test]
fn every_architecture_and_an_untied_head_are_written_and_loaded() {
    for (name, tied) in [
        ("qwen3-0.6b", false),
        ("qwen2.5-0.5b", true),
        ("llama-3.2-1b", false),
    ] {
        let config = ModelConfig {
            hidden_size: 24,
            intermediate_size: 40,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_dim: 10,
            vocab_size: 33,
            tied_embeddings: tied,
            ..shapes::config(name).unwrap()
        };
        let written = random::weights(&config, 5, &mut |_, _| ()).unwrap();
        assert_eq!(
            written.layers[0].qkv_bias.is_some(),
            name.starts_with("qwen2")
        );
        assert_eq!(
            written.layers[0].qk_norm.is_some(),
            name.starts_with("qwen3")
        );
        assert_eq!(written.head.is_some(), !tied);
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &written).unwrap();
        let loaded = load_folder(folder.path(), LoadOptions::default()).unwrap();
        assert_eq!(loaded.config, config);
        assert!(numbers(&loaded) == numbers(&written), "{name}");
    }
}

#[test]
fn f16_and_f32_are_kept_or_rounded_to_bf16_as_asked() {
    let weights = tiny();
    for dtype in [safetensors::Dtype::F16, safetensors::Dtype::F32] {
        let file = file_of(&stored(&weights, dtype), false);
        for options in every_option() {
            let loaded = from_bytes(config_of(&weights), file.clone(), options).unwrap();
            let kind = loaded.layers[0].q.values().element_type();
            match options.precision {
                Precision::Stored => assert_eq!(Some(kind), ElementType::of(dtype)),
                Precision::Bf16 => assert_eq!(kind, ElementType::Bf16),
            }
            if dtype == safetensors::Dtype::F32 {
                assert!(numbers(&loaded) == numbers(&weights));
            }
            let converted = loaded.clone().into_bf16();
            let rounded = from_bytes(
                config_of(&weights),
                file.clone(),
                LoadOptions {
                    precision: Precision::Bf16,
                    ..options
                },
            );
            assert!(
                numbers(&converted) == numbers(&rounded.unwrap()),
                "{dtype:?} {options:?}"
            );
        }
    }
}

#[test]
fn tensors_at_odd_offsets_are_copied_where_they_can_not_be_mapped() {
    let weights = tiny();
    for dtype in [safetensors::Dtype::BF16, safetensors::Dtype::F32] {
        for odd in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join(CONFIG), config_of(&weights)).unwrap();
            std::fs::write(
                folder.path().join(SINGLE),
                file_of(&stored(&weights, dtype), odd),
            )
            .unwrap();
            for options in every_option() {
                let loaded = load_folder(folder.path(), options).unwrap();
                assert!(
                    numbers(&loaded) == numbers(&weights),
                    "{dtype:?} {odd} {options:?}"
                );
            }
        }
    }
}

/// Two shards; the index is written by `index`.
fn sharded(folder: &Path, weights: &Weights, second: &str) {
    let tensors = stored(weights, safetensors::Dtype::BF16);
    let (first_half, second_half) = tensors.split_at(tensors.len() / 2);
    let mut map = serde_json::Map::new();
    for (half, file) in [(first_half, "a.safetensors"), (second_half, second)] {
        half.iter()
            .for_each(|(name, ..)| drop(map.insert(name.clone(), file.into())));
    }
    std::fs::write(folder.join(CONFIG), config_of(weights)).unwrap();
    std::fs::write(folder.join("a.safetensors"), file_of(first_half, false)).unwrap();
    std::fs::write(folder.join("b.safetensors"), file_of(second_half, false)).unwrap();
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
    std::fs::write(folder.join(INDEX), index.to_string()).unwrap();
}

#[test]
fn every_shard_is_moved_into_huge_pages() {
    if !promotion::is_supported() {
        return;
    }
    let weights = tiny();
    let folder = tempfile::tempdir().unwrap();
    sharded(folder.path(), &weights, "b.safetensors");
    let loaded = load_folder(folder.path(), LoadOptions::default()).unwrap();
    let Some(mut promoter) = Promoter::new(&loaded, 2) else {
        // No huge pages here, or no memory.
        return;
    };
    assert_eq!((loaded.storages().len(), loaded.placement()), (2, "mapped"));
    while promoter.advance(|copy| copy()) {
        assert!(numbers(&loaded) == numbers(&weights));
        assert_eq!(loaded.placement(), "both");
    }
    assert!(numbers(&loaded) == numbers(&weights));
    assert_eq!(loaded.placement(), "huge-pages");
    assert!(Promoter::new(&loaded, 2).is_none(), "once is enough");
}

#[test]
fn shards_are_loaded_by_their_index() {
    let weights = tiny();
    let folder = tempfile::tempdir().unwrap();
    sharded(folder.path(), &weights, "b.safetensors");
    for options in every_option() {
        let loaded = load_folder(folder.path(), options).unwrap();
        assert!(numbers(&loaded) == numbers(&weights), "{options:?}");
    }
    std::fs::remove_file(folder.path().join("b.safetensors")).unwrap();
    let error = load_folder(folder.path(), LoadOptions::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("there is no b.safetensors"), "{error}");
}

#[test]
fn an_index_that_leads_out_of_the_folder_is_refused() {
    let weights = tiny();
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("model");
    std::fs::create_dir_all(folder.join("sub")).unwrap();
    for outside in [
        "../b.safetensors",
        "/etc/passwd",
        "sub/b.safetensors",
        "..",
        "",
    ] {
        sharded(&folder, &weights, outside);
        let error = load_folder(&folder, LoadOptions::default())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&format!("'{outside}' is no plain file name")),
            "{error}"
        );
        assert!(error.contains(INDEX), "{error}");
    }
}

#[test]
fn an_index_that_is_none_is_refused() {
    let weights = tiny();
    let folder = tempfile::tempdir().unwrap();
    sharded(folder.path(), &weights, "b.safetensors");
    for text in [
        "",
        "{}",
        "[]",
        r#"{"weight_map": []}"#,
        r#"{"weight_map": {"a": 1}}"#,
    ] {
        std::fs::write(folder.path().join(INDEX), text).unwrap();
        let error = load_folder(folder.path(), LoadOptions::default())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("not a valid index of shards"),
            "{text}: {error}"
        );
    }
    std::fs::write(folder.path().join(INDEX), r#"{"weight_map": {}}"#).unwrap();
    let error = load_folder(folder.path(), LoadOptions::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("'model.embed_tokens.weight' is missing"),
        "{error}"
    );
}

#[test]
fn a_missing_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = load_folder(folder.path(), LoadOptions::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("there is no config.json"), "{error}");
    std::fs::write(folder.path().join(CONFIG), config_of(&tiny())).unwrap();
    let error = load_folder(folder.path(), LoadOptions::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("there is no model.safetensors"), "{error}");
    std::fs::write(
        folder.path().join(CONFIG),
        r#"{"architectures": ["GPT2LMHeadModel"]}"#,
    )
    .unwrap();
    let error = load_folder(folder.path(), LoadOptions::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("/config.json: architectures = [\"GPT2LMHeadModel\"]"),
        "{error}"
    );
}

#[test]
fn a_missing_or_misshapen_tensor_is_named_with_what_was_expected() {
    let weights = tiny();
    let refused = |change: &dyn Fn(&mut Vec<Stored>)| {
        let mut tensors = stored(&weights, safetensors::Dtype::BF16);
        change(&mut tensors);
        let file = file_of(&tensors, false);
        from_bytes(config_of(&weights), file, LoadOptions::default())
            .unwrap_err()
            .to_string()
    };
    let up = "model.layers.1.mlp.up_proj.weight";
    let missing = refused(&|tensors| tensors.retain(|(name, ..)| name != up));
    assert!(
        missing.contains(up) && missing.contains("[192, 128]"),
        "{missing}"
    );
    let turned = refused(&|tensors| {
        let found = tensors.iter_mut().find(|(name, ..)| name == up).unwrap();
        found.2.reverse();
    });
    assert!(
        turned.contains("has shape [128, 192]") && turned.contains("[192, 128]"),
        "{turned}"
    );
    let norm = "model.norm.weight";
    let flat = refused(&|tensors| {
        let found = tensors.iter_mut().find(|(name, ..)| name == norm).unwrap();
        found.2 = vec![1, 128];
    });
    assert!(
        flat.contains("'model.norm.weight' has shape [1, 128]"),
        "{flat}"
    );
    let quantized = refused(&|tensors| {
        let found = tensors.iter_mut().find(|(name, ..)| name == up).unwrap();
        found.1 = safetensors::Dtype::I16;
    });
    assert!(
        quantized.contains(up) && quantized.contains("of type I16"),
        "{quantized}"
    );
}

#[test]
fn what_the_model_does_not_use_is_passed_over() {
    let weights = tiny();
    let mut tensors = stored(&weights, safetensors::Dtype::BF16);
    for name in [
        "lm_head.weight",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
    ] {
        tensors.push((name.into(), safetensors::Dtype::I64, vec![1], vec![0; 8]));
    }
    let file = file_of(&tensors, false);
    let loaded = from_bytes(config_of(&weights), file, LoadOptions::default()).unwrap();
    assert!(loaded.head.is_none(), "tied, whatever is stored");
}

#[test]
fn a_file_of_the_wrong_length_is_refused() {
    let weights = tiny();
    let whole = file_of(&stored(&weights, safetensors::Dtype::BF16), false);
    let error = |file: Vec<u8>| {
        from_bytes(config_of(&weights), file, LoadOptions::default())
            .unwrap_err()
            .to_string()
    };
    let cut = error(whole[..whole.len() - 1].to_vec());
    assert!(
        cut.contains(&format!(
            "{} bytes, but its header describes {}",
            whole.len() - 1,
            whole.len()
        )),
        "{cut}"
    );
    let longer = error([&whole[..], b"x"].concat());
    assert!(
        longer.contains("bytes, but its header describes"),
        "{longer}"
    );
    for len in [0, 7] {
        let short = error(whole[..len].to_vec());
        assert!(
            short.contains(&format!("it has only {len} bytes")),
            "{short}"
        );
    }
    assert!(error(whole[..200].to_vec()).contains("in a file of 200"));
    assert!(
        error(b"version https://git-lfs.github.com/spec/v1\n".to_vec()).contains("in a file of 43")
    );
}

/// Nothing of the size that these claim could be allocated.
#[test]
fn a_header_that_claims_the_impossible_is_refused() {
    let weights = tiny();
    let error = |file: Vec<u8>| {
        from_bytes(config_of(&weights), file, LoadOptions::default())
            .unwrap_err()
            .to_string()
    };
    for claimed in [1 << 60, u64::MAX, u64::MAX - 7, (1 << 24) + 1, 93] {
        let mut file = claimed.to_le_bytes().to_vec();
        file.resize(100, b' ');
        assert!(
            error(file).contains("not a valid safetensors file"),
            "{claimed}"
        );
    }
    let huge = 1_u64 << 62;
    let headers = [
        json!({"a": {"dtype": "F32", "shape": [huge, huge], "data_offsets": [0, 8]}}),
        json!({"a": {"dtype": "F32", "shape": [huge], "data_offsets": [0, huge]}}),
        json!({"a": {"dtype": "F32", "shape": [1], "data_offsets": [8, 4]}}),
        json!({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}),
        json!({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
               "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}),
        json!({"a": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}}),
        json!({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}),
        json!({"a": 1}),
        json!([]),
    ];
    for header in headers {
        let text = header.to_string();
        let mut file = (text.len() as u64).to_le_bytes().to_vec();
        file.extend(text.into_bytes());
        file.extend([0; 8]);
        assert!(
            error(file).contains("not a valid safetensors file"),
            "{header}"
        );
    }
    let claims =
        json!({"a": {"dtype": "F32", "shape": [1_u64 << 50], "data_offsets": [0, 1_u64 << 52]}});
    let mut file = (claims.to_string().len() as u64).to_le_bytes().to_vec();
    file.extend(claims.to_string().into_bytes());
    assert!(error(file).contains("but its header describes 4503599627370"));
}

/// A sparse file can be as long as it claims to be; its tensors are still not those asked for.
#[cfg(unix)]
#[test]
fn a_sparse_file_of_a_petabyte_is_not_read() {
    let weights = tiny();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(CONFIG), config_of(&weights)).unwrap();
    let elements = 1_u64 << 42;
    let name = "model.embed_tokens.weight";
    let header = json!({name: {"dtype": "BF16", "shape": [512, elements / 512], "data_offsets": [0, 2 * elements]}});
    let header = header.to_string();
    let path = folder.path().join(SINGLE);
    std::fs::write(
        &path,
        [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat(),
    )
    .unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    if file
        .set_len(8 + header.len() as u64 + 2 * elements)
        .is_err()
    {
        return; // This file system has no files of that length.
    }
    let error = load_folder(folder.path(), LoadOptions::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("asks for [512, 128]"), "{error}");
}

/// transformers wrote these; `tests/fixtures` says how.
#[test]
fn checkpoints_of_every_architecture_that_transformers_wrote_are_loaded() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/checkpoints");
    let checkpoints = std::fs::read_dir(&folder).expect("the fixtures are in the repository");
    let mut seen = 0;
    for checkpoint in checkpoints {
        let path = checkpoint.unwrap().path();
        for options in every_option() {
            let loaded = load_folder(&path, options).unwrap_or_else(|error| panic!("{error}"));
            let finite = |(_, values): &(String, Vec<f32>)| values.iter().all(|v| v.is_finite());
            assert!(numbers(&loaded).iter().all(finite), "{}", path.display());
        }
        seen += 1;
    }
    assert!(seen >= 7, "{seen} checkpoints in {}", folder.display());
}

#[test]
fn progress_ends_with_everything() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &tiny()).unwrap();
    for options in every_option() {
        let mut last = (0, 0);
        let files = Files::folder(folder.path()).unwrap();
        load(&files, options, &mut |done, total| last = (done, total)).unwrap();
        let matrices = shapes::config("tiny").unwrap();
        let bytes = matrices.weight_bytes_per_token() as u64;
        assert_eq!(last, (bytes, bytes), "{options:?}");
    }
}

#[test]
fn specs_and_weights_agree() {
    let weights = tiny();
    for (spec, tensor) in tensors(&weights) {
        match (spec.shape, tensor) {
            (Shape::Matrix(rows, columns), Tensor::Matrix(matrix)) => {
                assert_eq!(
                    (rows, columns),
                    (matrix.rows(), matrix.columns()),
                    "{}",
                    spec.name
                );
            }
            (Shape::Vector(len), Tensor::Vector(values)) => assert_eq!(len, values.len()),
            _ => panic!("{} is of another kind", spec.name),
        }
    }
}
