//! Shapes that have a name, for `random:<shape>`: those of published models, and three of our own.

use super::config::{Architecture, Llama3Scaling, ModelConfig, Rope};

/// A shape and its name.
struct Named {
    name: &'static str,
    config: ModelConfig,
}

/// A name that no shape has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no shape '{name}'; did you mean '{closest}'? Known: {known}")]
pub struct UnknownShape {
    /// What was asked for.
    pub name: String,
    /// The known name that is most like it.
    pub closest: &'static str,
    /// All known names.
    pub known: String,
}

/// The names of all shapes.
pub fn names() -> Vec<&'static str> {
    all().iter().map(|shape| shape.name).collect()
}

/// The shape of two layers that tests use, and that takes any vocabulary.
pub const TINY: &str = "tiny";
/// The same with heads of 128.
pub const TINY_H128: &str = "tiny-h128";

/// The name of the shape called `name`, in upper or lower case.
///
/// # Errors
/// If there is none.
pub fn find(name: &str) -> Result<&'static str, UnknownShape> {
    let names = names();
    if let Some(found) = names.iter().find(|known| known.eq_ignore_ascii_case(name)) {
        return Ok(found);
    }
    let lower = name.to_lowercase();
    let closest = names.iter().min_by_key(|known| distance(known, &lower));
    Err(UnknownShape {
        name: name.to_owned(),
        closest: closest.expect("there are shapes"),
        known: names.join(", "),
    })
}

/// The shape called `name`, in upper or lower case.
///
/// # Errors
/// If there is none.
pub fn config(name: &str) -> Result<ModelConfig, UnknownShape> {
    let name = find(name)?;
    let shape = all().into_iter().find(|shape| shape.name == name);
    Ok(shape.expect("the name was found").config)
}

/// The dimensions are those of `config.json` in the repositories `Qwen/Qwen3-*`, `Qwen/Qwen2.5-*`
/// (the base models) and `meta-llama/Llama-3.2-1B`.
fn all() -> Vec<Named> {
    vec![
        Named {
            name: TINY,
            config: tiny(),
        },
        Named {
            name: TINY_H128,
            config: ModelConfig {
                head_dim: 128,
                ..tiny()
            },
        },
        Named {
            name: "qwen3-0.6b",
            config: qwen3(1024, 3072, 28, 16, true),
        },
        Named {
            name: "qwen3-1.7b",
            config: qwen3(2048, 6144, 28, 16, true),
        },
        Named {
            name: "qwen3-4b",
            config: qwen3(2560, 9728, 36, 32, true),
        },
        Named {
            name: "qwen3-8b",
            config: qwen3(4096, 12288, 36, 32, false),
        },
        Named {
            name: "qwen3-14b",
            config: qwen3(5120, 17408, 40, 40, false),
        },
        Named {
            name: "qwen3-32b",
            config: qwen3(5120, 25600, 64, 64, false),
        },
        Named {
            name: "qwen2.5-0.5b",
            config: qwen2_5(896, 4864, 24, 14, 64, 32768),
        },
        Named {
            name: "qwen2.5-1.5b",
            config: qwen2_5(1536, 8960, 28, 12, 128, 131_072),
        },
        Named {
            name: "llama-3.2-1b",
            config: llama_3_2_1b(),
        },
        Named {
            name: "llama-380m",
            config: llama_380m(),
        },
    ]
}

fn qwen3(
    hidden_size: usize,
    intermediate_size: usize,
    layers: usize,
    heads: usize,
    tied_embeddings: bool,
) -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Qwen3,
        hidden_size,
        intermediate_size,
        layers,
        heads,
        kv_heads: 8,
        head_dim: 128,
        vocab_size: 151_936,
        max_positions: 40_960,
        rms_norm_eps: 1e-6,
        rope: Rope {
            theta: 1e6,
            scaling: None,
        },
        tied_embeddings,
    }
}

/// Two layers in the proportions of a Qwen3, for tests.
fn tiny() -> ModelConfig {
    ModelConfig {
        kv_heads: 2,
        head_dim: 64,
        vocab_size: 512,
        ..qwen3(128, 192, 2, 4, true)
    }
}

fn qwen2_5(
    hidden_size: usize,
    intermediate_size: usize,
    layers: usize,
    heads: usize,
    head_dim: usize,
    max_positions: usize,
) -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Qwen2,
        kv_heads: 2,
        head_dim,
        max_positions,
        ..qwen3(hidden_size, intermediate_size, layers, heads, true)
    }
}

fn llama_3_2_1b() -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Llama,
        hidden_size: 2048,
        intermediate_size: 8192,
        layers: 16,
        heads: 32,
        kv_heads: 8,
        head_dim: 64,
        vocab_size: 128_256,
        max_positions: 131_072,
        rms_norm_eps: 1e-5,
        rope: Rope {
            theta: 5e5,
            scaling: Some(Llama3Scaling {
                factor: 32.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_positions: 8192,
            }),
        },
        tied_embeddings: true,
    }
}

/// Llama 3.2 1B at half its width, with a vocabulary of 128,330: 383 million parameters.
fn llama_380m() -> ModelConfig {
    ModelConfig {
        hidden_size: 1024,
        intermediate_size: 4096,
        heads: 16,
        vocab_size: 128_330,
        ..llama_3_2_1b()
    }
}

/// Levenshtein's distance, in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The counts are those of the published safetensors files, tied heads counted once.
    #[test]
    fn shapes_have_the_published_numbers_of_parameters() {
        let published = [
            ("qwen3-0.6b", 596_049_920),
            ("qwen3-1.7b", 1_720_574_976),
            ("qwen3-4b", 4_022_468_096),
            ("qwen3-8b", 8_190_735_360),
            ("qwen3-14b", 14_768_307_200),
            ("qwen3-32b", 32_762_123_264),
            ("qwen2.5-0.5b", 494_032_768),
            ("qwen2.5-1.5b", 1_543_714_304),
            ("llama-3.2-1b", 1_235_814_400),
        ];
        for (name, parameters) in published {
            assert_eq!(config(name).unwrap().parameters(), parameters, "{name}");
        }
        // Not published, but what its name promises.
        let own = config("llama-380m").unwrap().parameters();
        assert_eq!(own, 383_101_952);
    }

    #[test]
    fn every_shape_can_be_a_models() {
        for name in names() {
            config(name).unwrap().check().unwrap();
        }
    }

    #[test]
    fn names_are_found_in_any_case() {
        assert_eq!(config("Qwen3-0.6B"), config("qwen3-0.6b"));
    }

    #[test]
    fn an_unknown_shape_is_answered_with_the_closest_and_all() {
        let error = config("qwen3-0.6").unwrap_err();
        assert_eq!(error.closest, "qwen3-0.6b");
        let message = error.to_string();
        assert!(
            message.contains("'qwen3-0.6'") && message.contains("llama-3.2-1b"),
            "{message}"
        );
        assert_eq!(config("llama3.2-1b").unwrap_err().closest, "llama-3.2-1b");
    }

    #[test]
    fn distances_are_levenshteins() {
        for (a, b, expected) in [
            ("", "", 0),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("ab", "ba", 2),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }
}
