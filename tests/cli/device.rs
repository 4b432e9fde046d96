//! `--device cuda` and `--device emulated`.

use super::*;

/// Hides any driver there may be: an empty folder comes first where libraries are looked for, and
/// no GPU is visible.
fn without_gpu(args: &[&str]) -> Command {
    let mut command = onegrid(args);
    command.env("CUDA_VISIBLE_DEVICES", "");
    command
}

#[test]
fn a_machine_without_a_gpu_fails_and_says_what_it_lacks() {
    for command in ["generate", "bench", "inspect"] {
        let args = [command, "--model", "random:tiny", "--device", "cuda"];
        let message = error(without_gpu(&args), 1);
        assert_says(&message, &["NVIDIA driver", "--device cpu"]);
    }
    let message = error(without_gpu(&["bench", "--engines", "cpu,cuda"]), 1);
    assert_says(&message, &["NVIDIA driver"]);
}

#[test]
fn without_a_gpu_auto_is_the_cpu_and_says_nothing() {
    let mut command = without_gpu(&["generate", "--model", "random:tiny", "--device", "auto"]);
    command.args([
        "--prompt-tokens",
        "1,2,3",
        "--max-tokens",
        "3",
        "--threads",
        "1",
    ]);
    let output = command.output().unwrap();
    assert!(output.status.success());
    let noise = String::from_utf8(output.stderr).unwrap();
    assert!(
        !noise.contains("CUDA") && !noise.contains("NVIDIA"),
        "{noise}"
    );
}

#[test]
fn a_variant_is_refused_where_the_device_has_it_not() {
    for (device, variant, reason) in [
        ("cpu", "head_blocks", "--device cuda"),
        ("cpu", "fused_phases", "--device cuda"),
        ("emulated", "parking", "--device cpu"),
        ("reference", "block0_norm", "no variants"),
    ] {
        let model = ["generate", "--model", "random:tiny", "--prompt-tokens", "1"];
        let mut command = onegrid(&model);
        command.args(["--device", device, "--variant", variant]);
        let known = if device == "reference" {
            reason
        } else {
            "redundant_norm, block0_norm"
        };
        assert_says(
            &error(command, 2),
            &["--variant", variant, device, reason, known],
        );
    }
}

#[test]
fn flags_of_the_kernel_are_for_the_devices_that_run_it() {
    for (flag, value) in [("--stage", "v0"), ("--barrier", "epoch")] {
        let args = [
            "generate",
            "--model",
            "random:tiny",
            "--device",
            "cpu",
            flag,
            value,
        ];
        let message = error(onegrid(&args), 2);
        assert_says(&message, &[flag, "--device cuda", "--device cpu"]);
    }
}
