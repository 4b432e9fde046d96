//! Plans: what varies in an experiment, as a TOML file.

use serde::de::DeserializeOwned;

use super::ExperimentError;

/// Reads a plan.
///
/// # Errors
/// What is no TOML, or has fields that the experiment does not know; the message names the line.
pub fn parse<P: DeserializeOwned>(text: &str) -> Result<P, ExperimentError> {
    toml::from_str(text).map_err(|error| ExperimentError::Plan {
        reason: error.to_string().trim_end().to_owned(),
    })
}

/// Refuses a list that a plan must not leave empty.
///
/// # Errors
/// If it is empty.
pub fn demand<T>(list: &[T], name: &str) -> Result<(), ExperimentError> {
    match list.is_empty() {
        true => Err(ExperimentError::Plan {
            reason: format!("`{name}` is empty; expected one entry at least"),
        }),
        false => Ok(()),
    }
}
