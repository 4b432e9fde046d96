//! Plans: what varies in an experiment, as a TOML file.

use std::collections::BTreeSet;

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

/// Refuses names that occur twice among `what`.
///
/// # Errors
/// If one does.
pub fn refuse_twice<'a>(
    names: impl IntoIterator<Item = &'a String>,
    what: &str,
) -> Result<(), ExperimentError> {
    let mut seen = BTreeSet::new();
    match names.into_iter().find(|name| !seen.insert(*name)) {
        Some(name) => Err(ExperimentError::Plan {
            reason: format!("two {what} are called `{name}`"),
        }),
        None => Ok(()),
    }
}
