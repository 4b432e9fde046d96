//! A checkpoint's sampling defaults, and what the user wants instead.

use crate::model::generation::{GENERATION_FILE, GenerationDefaults};
use crate::sampling::{SamplingError, SamplingParams};

/// What the user asks for; `None` leaves it to the checkpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SamplingChoice {
    /// 0 is greedy; above 0 draws at random, whatever the checkpoint's `do_sample` says.
    pub temperature: Option<f32>,
    /// 0 keeps all.
    pub top_k: Option<usize>,
    /// 1 keeps all.
    pub top_p: Option<f32>,
    /// 0 keeps all.
    pub min_p: Option<f32>,
    /// 1 changes nothing.
    pub repetition_penalty: Option<f32>,
    /// Seed of the random numbers.
    pub seed: u64,
}

/// Sampling parameters of a checkpoint that are out of range.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{GENERATION_FILE}: {error}; correct the file or give the value as a flag")]
pub struct DefaultsError {
    #[from]
    error: SamplingError,
}

impl SamplingChoice {
    /// The parameters to sample with.
    ///
    /// # Errors
    /// A value of the checkpoint that is out of range and that the user does not replace.
    pub fn resolve(&self, defaults: &GenerationDefaults) -> Result<SamplingParams, DefaultsError> {
        let default_temperature = if defaults.sample {
            defaults.temperature
        } else {
            0.0
        };
        let repetition_penalty = self.repetition_penalty;
        let params = SamplingParams {
            temperature: self.temperature.unwrap_or(default_temperature),
            repetition_penalty: repetition_penalty.unwrap_or(defaults.repetition_penalty),
            seed: self.seed,
            top_k: self.top_k.unwrap_or(defaults.top_k),
            top_p: self.top_p.unwrap_or(defaults.top_p),
            min_p: self.min_p.unwrap_or(defaults.min_p),
        };
        params.check()?;
        Ok(params)
    }

    /// The flags given that greedy decoding, if `params` says so, passes over.
    pub fn without_effect(&self, params: &SamplingParams) -> Vec<&'static str> {
        let given = [
            ("--top-k", self.top_k.is_some()),
            ("--top-p", self.top_p.is_some()),
            ("--min-p", self.min_p.is_some()),
        ];
        let greedy = params.temperature == 0.0;
        let flags = given.iter().filter(|(_, is_given)| greedy && *is_given);
        flags.map(|(flag, _)| *flag).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampled() -> GenerationDefaults {
        GenerationDefaults {
            sample: true,
            temperature: 0.6,
            top_k: 20,
            top_p: 0.95,
            ..GenerationDefaults::default()
        }
    }

    #[test]
    fn without_do_sample_it_is_greedy() {
        let defaults = GenerationDefaults {
            sample: false,
            ..sampled()
        };
        let params = SamplingChoice::default().resolve(&defaults).unwrap();
        assert_eq!(params.temperature, 0.0);
    }

    #[test]
    fn a_temperature_turns_sampling_on_and_off() {
        let temperature = |temperature| SamplingChoice {
            temperature: Some(temperature),
            ..SamplingChoice::default()
        };
        let drawn = temperature(0.7).resolve(&GenerationDefaults::default());
        let drawn = drawn.unwrap();
        assert_eq!((drawn.temperature, drawn.top_k), (0.7, 50));
        let greedy = temperature(0.0).resolve(&sampled()).unwrap();
        assert_eq!(greedy.temperature, 0.0);
    }

    #[test]
    fn the_checkpoint_decides_what_the_user_leaves_open() {
        let choice = SamplingChoice {
            top_k: Some(5),
            seed: 7,
            ..SamplingChoice::default()
        };
        let params = choice.resolve(&sampled()).unwrap();
        let expected = SamplingParams {
            temperature: 0.6,
            top_k: 5,
            top_p: 0.95,
            seed: 7,
            ..SamplingParams::default()
        };
        assert_eq!(params, expected);
        assert!(choice.without_effect(&params).is_empty());
        let greedy = choice.resolve(&GenerationDefaults::default()).unwrap();
        assert_eq!(choice.without_effect(&greedy), ["--top-k"]);
    }

    #[test]
    fn a_bad_value_in_the_checkpoint_is_named() {
        let defaults = GenerationDefaults {
            top_p: 1.5,
            ..sampled()
        };
        let error = SamplingChoice::default().resolve(&defaults).unwrap_err();
        let error = error.to_string();
        assert!(
            error.starts_with("generation_config.json: top-p is 1.5"),
            "{error}"
        );
        let choice = SamplingChoice {
            top_p: Some(0.5),
            ..SamplingChoice::default()
        };
        assert_eq!(choice.resolve(&defaults).unwrap().top_p, 0.5);
    }
}
