//! `onegrid logits`.

use super::*;

fn read(path: &Path) -> (Vec<usize>, Vec<f32>, Value) {
    let bytes = std::fs::read(path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = json!(header.metadata());
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let logits = tensors.tensor("logits").unwrap();
    assert_eq!(logits.dtype(), safetensors::Dtype::F32);
    assert_eq!(
        tensors.tensor("tokens").unwrap().shape(),
        &logits.shape()[..1]
    );
    assert_eq!(tensors.tensor("lengths").unwrap().shape(), [1]);
    let values = logits.data().chunks_exact(size_of::<f32>());
    let values = values.map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
    (logits.shape().to_vec(), values.collect(), metadata)
}

#[test]
fn a_row_for_each_token() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, tokens: &str, device: &str| {
        let path = folder.path().join(name);
        let args = [
            "logits",
            "--model",
            "random:tiny",
            "--tokens",
            tokens,
            "--device",
            device,
        ];
        let mut command = onegrid(&args);
        command.arg("--output").arg(&path);
        assert_eq!(stdout(command), "");
        read(&path)
    };
    // More tokens than go through the engine at once.
    let tokens: Vec<_> = (0..150).map(|i| (i * 37 % 512).to_string()).collect();
    let (shape, logits, metadata) = run("cpu", &tokens.join(","), "cpu");
    assert_eq!(shape, [150, 512]);
    assert!(logits.iter().all(|logit| logit.is_finite()));
    assert_eq!(metadata["model"], "random:tiny");
    assert_says(metadata["engine"].as_str().unwrap(), &["cpu"]);
    assert_eq!(metadata["version"], env!("CARGO_PKG_VERSION"));
    // Teacher-forced: the beginning does not depend on the rest.
    let (shape, first, metadata) = run("reference", &tokens[..3].join(","), "reference");
    assert_eq!(shape, [3, 512]);
    assert_says(metadata["engine"].as_str().unwrap(), &["reference"]);
    // bf16 keeps 8 bits; the engines' own tests hold them much closer.
    let distance = first.iter().zip(&logits).map(|(a, b)| (a - b).abs());
    assert!(distance.fold(0.0, f32::max) < 0.2);
}

#[test]
fn nothing_is_written_when_it_fails() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("logits.safetensors");
    let output = path.to_str().unwrap();
    let run = |args: &[&str]| onegrid(&[&["logits", "--output", output], args].concat());
    let tiny = ["--model", "random:tiny", "--tokens"];
    assert_says(
        &error(run(&[&tiny[..], &["1,512"]].concat()), 1),
        &["token 512"],
    );
    let long = error(run(&[&tiny[..], &["1,2,3", "--context", "2"]].concat()), 1);
    assert_says(&long, &["3", "2 positions", "--context"]);
    assert_says(&error(run(&["--model", "random:tiny"]), 2), &["--tokens"]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let nowhere = [
        "logits",
        "--model",
        "random:tiny",
        "--tokens",
        "1",
        "--output",
        "/no/x",
    ];
    assert_says(&error(onegrid(&nowhere), 1), &["--output", "/no/x"]);
}
