//! A device that has not all kernels, as programs for GPUs have not: what runs, and what is refused.

use onegrid::engine::EngineError;
use onegrid::engine::emulated::{BLOCKS, EmulatedDevice};
use onegrid::engine::megakernel::{MegakernelEngine, MegakernelOptions, Variant};
use onegrid::measure::ladder;
use onegrid::model::ModelConfig;

use crate::recorder::Recorder;

/// What `cuda/megakernel.cu` makes for GPUs: of the other variants, heads of 128 and one column.
fn is_for_gpus(name: &str) -> bool {
    name.contains("redundant_norm") || name.contains("_h128_c1_") || name.starts_with("step_")
}

fn engine(
    config: &ModelConfig,
    variant: Variant,
    sequences: usize,
) -> Result<MegakernelEngine<Recorder>, EngineError> {
    let device = EmulatedDevice::new(BLOCKS, 32).unwrap();
    let (recorder, _) = Recorder::new(device, |_| ());
    let options = MegakernelOptions {
        variant,
        ..ladder::options(sequences)
    };
    let weights = ladder::weights(config).unwrap();
    MegakernelEngine::new(
        recorder.keeping(is_for_gpus),
        &weights,
        options,
        &mut |_, _| (),
    )
}

#[test]
fn a_variant_without_a_kernel_for_the_heads_is_refused_with_what_there_is() {
    let narrow = &ladder::shapes()[0];
    assert_eq!(narrow.head_dim, 64);
    for variant in Variant::ALL.into_iter().skip(1) {
        let error = engine(narrow, variant, 1).err().expect("no such kernel");
        let message = error.to_string();
        for words in [
            variant.name(),
            "no kernel for heads of 64",
            "it has kernels for heads of 128 and a batch of 1:",
            "--variant redundant_norm",
        ] {
            assert!(message.contains(words), "{message}");
        }
    }
    assert!(engine(narrow, Variant::RedundantNorm, 1).is_ok());
}

#[test]
fn a_variant_without_a_kernel_for_a_batch_decodes_one_sequence() {
    let wide = &ladder::shapes()[2];
    assert_eq!(wide.head_dim, 128);
    let sampling = &ladder::samplings()[0];
    let prompts = [3, 5].map(|length| ladder::tokens(wide, length));
    let mut cpu = ladder::cpu(ladder::weights(wide).unwrap(), 2).unwrap();
    let expected = ladder::decode(&mut cpu, &prompts[..1], 3, sampling).unwrap();
    for variant in Variant::ALL.into_iter().skip(1) {
        let mut engine = engine(wide, variant, 2).unwrap();
        // Prompts of several columns are the default variant's matter.
        let found = ladder::decode(&mut engine, &prompts[..1], 3, sampling).unwrap();
        assert_eq!(found, expected, "{}", variant.name());
        let error = ladder::decode(&mut engine, &prompts, 3, sampling).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("a batch of 2"), "{message}");
        // It is not the end of the engine.
        let found = ladder::decode(&mut engine, &prompts[..1], 3, sampling).unwrap();
        assert_eq!(found, expected, "{}", variant.name());
    }
}
