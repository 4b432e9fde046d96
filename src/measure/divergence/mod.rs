//! How far logits are from others, from f32 logits with f64 sums.
//!
//! - [`position`]: two distributions over the same vocabulary, at one position
//! - [`summary`]: many positions of several texts: means, percentiles, agreement, perplexity
//! - [`by_sequence`]: the intervals of these
//!
//! Both take one row of logits at a time: nothing holds the logits of a text.
//!
//! A logit of minus infinity is a token that can't come (a mask): it has no probability. Where one side
//! rules out what the other allows, the divergence of the one that allows it from the other is infinite;
//! Jensen-Shannon stays finite. NaN and plus infinity are refused. Among equal logits the lowest
//! token id counts as the likeliest, as in every engine's argmax.

pub mod by_sequence;
pub mod position;
pub mod summary;

#[cfg(test)]
mod tests;

pub use by_sequence::Figure;
pub use position::{LogitsError, PositionDivergence};
pub use summary::{Collector, Criteria, Divergence};

/// Kullback-Leibler divergence KL(p || q) in nats of the distributions that two sets of logits
/// stand for: what is lost by predicting with `q` where `p` is the truth. NaN where either is no
/// distribution.
///
/// # Panics
/// If the lengths differ.
pub fn kl(p_logits: &[f32], q_logits: &[f32]) -> f64 {
    assert_eq!(p_logits.len(), q_logits.len());
    match PositionDivergence::between(p_logits, q_logits, None, &[]) {
        Ok(divergence) => divergence.kl,
        Err(_) => f64::NAN,
    }
}

/// The largest absolute difference of two sets of logits.
///
/// # Panics
/// If the lengths differ.
pub fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}
