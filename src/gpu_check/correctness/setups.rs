//! What is checked: the engines, and what each of them decodes.

use crate::engine::megakernel::{Barrier, MAX_COLUMNS, MegakernelOptions, Stage, Variant};
use crate::measure::ladder;
use crate::model::ModelConfig;

/// One engine, and what is checked of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Setup {
    /// Index of [`ladder::shapes_and_wide_heads`].
    pub shape: usize,
    /// How the engine is set up.
    pub options: MegakernelOptions,
    /// Whether its logits are compared.
    pub logits: bool,
    /// What it decodes.
    pub decodings: Vec<Decoding>,
}

/// Sequences that decode together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Decoding {
    /// Index of [`ladder::samplings`].
    pub sampling: usize,
    /// For each sequence the index of its guide in [`ladder::guides`], if it has one.
    pub guides: Vec<Option<usize>>,
}

impl Decoding {
    /// `count` sequences without a guide.
    fn free(sampling: usize, count: usize) -> Self {
        Self {
            sampling,
            guides: vec![None; count],
        }
    }

    /// One sequence with a guide.
    fn guided(sampling: usize, guide: usize) -> Self {
        Self {
            sampling,
            guides: vec![Some(guide)],
        }
    }

    /// Whether some sequence has a guide.
    pub fn is_guided(&self) -> bool {
        self.guides.iter().any(Option::is_some)
    }

    /// What it is called in results.
    pub fn name(&self) -> String {
        let count = self.guides.len();
        let sampling = self.sampling;
        let guide = |guide: &Option<usize>| guide.map_or("none".into(), |index| index.to_string());
        let guides: Vec<String> = self.guides.iter().map(guide).collect();
        match self.is_guided() {
            false => format!("tokens of {count} sequences, sampling {sampling}"),
            true => format!(
                "tokens of {count} sequences, sampling {sampling}, guides {}",
                guides.join(" ")
            ),
        }
    }
}

/// Greedy, drawn from all that is allowed, and with all filters.
const GUIDED_SAMPLINGS: [usize; 3] = [0, 2, 5];

/// Every guide with every one of these samplings.
fn guided(samplings: &[usize]) -> Vec<Decoding> {
    let guides = 0..ladder::guides().len();
    let each = |guide| {
        samplings
            .iter()
            .map(move |&sampling| Decoding::guided(sampling, guide))
    };
    guides.flat_map(each).collect()
}

/// A batch with every guide, one of them twice, and one sequence that has none.
fn guided_batch() -> Decoding {
    Decoding {
        sampling: 5,
        guides: vec![Some(0), None, Some(1), Some(2), Some(0)],
    }
}

/// Whether a program for GPUs holds kernels for `config` with this variant.
fn is_compiled(config: &ModelConfig, variant: Variant) -> bool {
    variant == Variant::default() || config.head_dim == ladder::WIDE_HEAD
}

/// Everything, on a GPU.
pub fn all() -> Vec<Setup> {
    let mut setups = Vec::new();
    let shapes = ladder::shapes_and_wide_heads();
    let all_shapes = 0..shapes.len();
    let samplings = 0..ladder::samplings().len();
    let each_sampling: Vec<_> = samplings.map(|index| Decoding::free(index, 1)).collect();
    let setup = |shape: usize, options: MegakernelOptions| Setup {
        shape,
        options,
        logits: false,
        decodings: Vec::new(),
    };
    for variant in Variant::ALL {
        let compiled = |shape: &usize| is_compiled(&shapes[*shape], variant);
        for barrier in Barrier::ALL {
            for stage in [Stage::V1, Stage::V0] {
                setups.extend(all_shapes.clone().filter(compiled).map(|shape| Setup {
                    logits: true,
                    decodings: each_sampling.clone(),
                    ..setup(
                        shape,
                        MegakernelOptions {
                            variant,
                            barrier,
                            stage,
                            ..ladder::options(1)
                        },
                    )
                }));
            }
        }
        // Rows are gathered by the phase of the head, which variants differ in.
        setups.extend(all_shapes.clone().filter(compiled).map(|shape| Setup {
            decodings: guided(&GUIDED_SAMPLINGS),
            ..setup(
                shape,
                MegakernelOptions {
                    variant,
                    ..ladder::options(1)
                },
            )
        }));
    }
    for stage in [Stage::Launches, Stage::Graph] {
        setups.extend(all_shapes.clone().map(|shape| Setup {
            decodings: each_sampling.clone(),
            ..setup(
                shape,
                MegakernelOptions {
                    stage,
                    ..ladder::options(1)
                },
            )
        }));
    }
    for stage in [Stage::V0, Stage::Launches, Stage::Graph] {
        setups.extend(all_shapes.clone().map(|shape| Setup {
            decodings: guided(&[GUIDED_SAMPLINGS[shape % GUIDED_SAMPLINGS.len()]]),
            ..setup(
                shape,
                MegakernelOptions {
                    stage,
                    ..ladder::options(1)
                },
            )
        }));
    }
    for stage in Stage::ALL {
        let batches = [1, 2, 3, 4, 5, 8].map(|count| Decoding::free(2, count));
        setups.extend(all_shapes.clone().map(|shape| Setup {
            decodings: [&batches[..], &[guided_batch()]].concat(),
            ..setup(
                shape,
                MegakernelOptions {
                    stage,
                    ..ladder::options(MAX_COLUMNS)
                },
            )
        }));
    }
    for columns in [1, 2, 3, 4, 7] {
        setups.extend(all_shapes.clone().map(|shape| Setup {
            logits: true,
            // Runs of forced tokens take as many.
            decodings: vec![Decoding::guided(0, 0)],
            ..setup(
                shape,
                MegakernelOptions {
                    columns,
                    ..ladder::options(1)
                },
            )
        }));
    }
    for (blocks, threads) in [(1, 32), (1, 256), (2, 96), (5, 64), (13, 32)] {
        setups.extend(Barrier::ALL.map(|barrier| Setup {
            logits: true,
            decodings: vec![
                Decoding::free(0, 1),
                Decoding::free(5, 1),
                Decoding::guided(2, 1),
            ],
            ..setup(
                0,
                MegakernelOptions {
                    barrier,
                    blocks: Some(blocks),
                    threads: Some(threads),
                    ..ladder::options(1)
                },
            )
        }));
    }
    setups
}

/// A few, on the emulator: `tests/emulated.rs` has the rest.
pub fn few() -> Vec<Setup> {
    let pairs = Variant::ALL.into_iter().zip(Stage::ALL);
    let barriers = Barrier::ALL.into_iter().cycle();
    let guides = ladder::guides().len();
    let setup =
        |(index, ((variant, stage), barrier)): (usize, ((Variant, Stage), Barrier))| Setup {
            shape: index % ladder::shapes().len(),
            options: MegakernelOptions {
                variant,
                stage,
                barrier,
                columns: 2,
                ..ladder::options(1)
            },
            logits: true,
            decodings: vec![
                Decoding::free(index, 1),
                Decoding::free(2, 1),
                Decoding::guided(2, index % guides),
            ],
        };
    pairs.zip(barriers).enumerate().map(setup).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::megakernel::plan::kernel_name;

    #[test]
    fn all_that_can_be_chosen_is_checked() {
        let setups = all();
        let shapes = ladder::shapes_and_wide_heads();
        let some = |holds: &dyn Fn(&Setup) -> bool| setups.iter().any(holds);
        for variant in Variant::ALL {
            for (shape, config) in shapes.iter().enumerate() {
                let of_variant =
                    |setup: &Setup| setup.shape == shape && setup.options.variant == variant;
                let has_kernels = is_compiled(config, variant);
                for (barrier, stage) in [
                    (Barrier::Cooperative, Stage::V0),
                    (Barrier::Cooperative, Stage::V1),
                    (Barrier::Epoch, Stage::V0),
                    (Barrier::Epoch, Stage::V1),
                ] {
                    let found = some(&|setup| {
                        let options = &setup.options;
                        of_variant(setup)
                            && setup.logits
                            && (options.barrier, options.stage) == (barrier, stage)
                    });
                    assert_eq!(found, has_kernels, "{variant:?} {shape}");
                }
                for guide in 0..ladder::guides().len() {
                    let found = some(&|setup| {
                        let follows = |decoding: &Decoding| decoding.guides == [Some(guide)];
                        of_variant(setup) && setup.decodings.iter().any(follows)
                    });
                    assert_eq!(found, has_kernels, "{variant:?} {shape} {guide}");
                }
            }
        }
        // Every architecture with every variant.
        let has_wide = |index: usize| {
            let architecture = ladder::shapes()[index].architecture;
            let wide = |config: &&ModelConfig| config.head_dim == ladder::WIDE_HEAD;
            shapes
                .iter()
                .filter(wide)
                .any(|config| config.architecture == architecture)
        };
        assert!((0..ladder::shapes().len()).all(has_wide));
        for stage in Stage::ALL {
            for guide in 0..ladder::guides().len() {
                let of_batch = |decoding: &Decoding| {
                    decoding.guides.len() > 1 && decoding.guides.contains(&Some(guide))
                };
                let alone = |decoding: &Decoding| decoding.guides == [Some(guide)];
                let of_stage = |setup: &Setup| setup.options.stage == stage;
                assert!(some(
                    &|setup| of_stage(setup) && setup.decodings.iter().any(of_batch)
                ));
                assert!(some(
                    &|setup| of_stage(setup) && setup.decodings.iter().any(alone)
                ));
            }
        }
    }

    /// What a GPU is asked for is among what was compiled for it.
    #[test]
    fn every_variant_that_is_checked_has_its_kernel() {
        let table = include_str!("../../../cuda/resources.txt");
        let kernels: Vec<&str> = table
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        let shapes = ladder::shapes_and_wide_heads();
        for setup in all() {
            let head_dim = shapes[setup.shape].head_dim;
            let name = kernel_name(setup.options.variant, head_dim, 1);
            assert!(kernels.contains(&&name[..]), "{name}");
        }
    }

    #[test]
    fn a_decoding_is_named_by_what_it_follows() {
        assert_eq!(
            Decoding::free(3, 2).name(),
            "tokens of 2 sequences, sampling 3"
        );
        let batch = guided_batch().name();
        assert!(batch.ends_with("guides 0 none 1 2 0"), "{batch}");
    }
}
