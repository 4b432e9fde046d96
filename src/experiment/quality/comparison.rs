//! The reference's rows beside another's.

use std::path::Path;

use super::reference::Reference;
use crate::experiment::{ExperimentError, Watch};
use crate::measure::divergence::Collector;
use crate::model::TokenId;
use crate::report::saved_logits::SavedLogits;

/// A comparison of all rows, in order.
pub struct Comparison<'a> {
    reference: &'a mut Reference,
    collector: &'a mut Collector,
    /// For each row, whether a text begins with it, and the token that follows.
    places: Vec<(bool, Option<TokenId>)>,
    row: Vec<f32>,
}

impl<'a> Comparison<'a> {
    /// A comparison that has not begun.
    pub fn new(reference: &'a mut Reference, collector: &'a mut Collector) -> Self {
        let places = reference.texts().iter().flat_map(|text| {
            let next = text[1..].iter().copied().map(Some).chain([None]);
            next.enumerate().map(|(index, next)| (index == 0, next))
        });
        Self {
            places: places.collect(),
            reference,
            collector,
            row: Vec::new(),
        }
    }

    /// Compares row `index`, the next one: `[vocabulary]`.
    ///
    /// # Errors
    /// Logits that are no distribution over the reference's vocabulary.
    pub fn push(&mut self, index: usize, logits: &[f32]) -> Result<(), ExperimentError> {
        let (begins, next) = self.places[index];
        if begins {
            self.collector.begin_sequence();
        }
        self.reference.read_row(index, &mut self.row)?;
        let pushed = self.collector.push(&self.row, logits, next);
        pushed.map_err(|source| ExperimentError::Logits { row: index, source })
    }
}

/// Compares a file's rows.
///
/// # Errors
/// Logits of other texts than the reference's, or that are no distributions.
pub fn compare_file(
    saved: &mut SavedLogits,
    path: &Path,
    reference: &mut Reference,
    collector: &mut Collector,
    watch: &Watch,
) -> Result<(), ExperimentError> {
    if saved.texts() != reference.texts() {
        return Err(ExperimentError::WrongOutput {
            reason: format!(
                "{} holds logits of other texts than the reference: {}",
                path.display(),
                first_difference(reference.texts(), saved.texts())
            ),
        });
    }
    let rows: usize = saved.texts().iter().map(Vec::len).sum();
    let mut comparison = Comparison::new(reference, collector);
    let mut row = Vec::new();
    for index in 0..rows {
        watch.check()?;
        saved.read_row(index, &mut row)?;
        comparison.push(index, &row)?;
    }
    Ok(())
}

/// Where two lists of texts part.
fn first_difference(expected: &[Vec<TokenId>], found: &[Vec<TokenId>]) -> String {
    if expected.len() != found.len() {
        return format!("{} texts, expected {}", found.len(), expected.len());
    }
    let differs = |(text, (a, b)): (usize, (&Vec<TokenId>, &Vec<TokenId>))| {
        let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
        (a != b).then(|| match (a.get(same), b.get(same)) {
            (Some(expected), Some(found)) => {
                format!("token {same} of text {text} is {found}, expected {expected}")
            }
            _ => format!("text {text} has {} tokens, expected {}", b.len(), a.len()),
        })
    };
    let mut pairs = expected.iter().zip(found).enumerate();
    pairs.find_map(differs).unwrap_or_default()
}
