//! How far one engine's logits are from another's.

/// Kullback-Leibler divergence KL(p || q) in nats of the distributions that two sets of logits
/// stand for: what is lost by predicting with `q` where `p` is the truth.
///
/// # Panics
/// If the lengths differ.
pub fn kl(p_logits: &[f32], q_logits: &[f32]) -> f64 {
    assert_eq!(p_logits.len(), q_logits.len());
    let (p_log_sum, q_log_sum) = (log_sum_exp(p_logits), log_sum_exp(q_logits));
    let terms = p_logits.iter().zip(q_logits).map(|(&p, &q)| {
        let log_p = f64::from(p) - p_log_sum;
        let log_q = f64::from(q) - q_log_sum;
        let probability = log_p.exp();
        // What has no probability adds nothing (the limit of x ln x), however unlikely q finds it.
        if probability == 0.0 {
            0.0
        } else {
            probability * (log_p - log_q)
        }
    });
    // Below zero only by rounding.
    terms.sum::<f64>().max(0.0)
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

/// ln of the sum of exponentials, without overflow.
fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits
        .iter()
        .map(|&logit| (f64::from(logit) - max).exp())
        .sum();
    max + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kl_is_that_of_the_formula() {
        // p = (1/4, 3/4), q = (1/2, 1/2); logits may be shifted as a whole.
        let p = [0.25_f32.ln() + 5.0, 0.75_f32.ln() + 5.0];
        let expected = 0.25 * 0.5_f64.ln() + 0.75 * 1.5_f64.ln();
        assert!((kl(&p, &[7.0, 7.0]) - expected).abs() < 1e-6);
        assert_eq!(kl(&p, &p), 0.0);
    }

    #[test]
    fn masked_logits_add_nothing() {
        let p = [0.0, f32::NEG_INFINITY];
        assert!((kl(&p, &[0.0, 0.0]) - 2.0_f64.ln()).abs() < 1e-12);
        assert_eq!(kl(&[0.0, 0.0], &p), f64::INFINITY);
    }

    #[test]
    fn the_difference_is_the_largest() {
        assert_eq!(max_difference(&[1.0, -2.0, 3.0], &[1.5, 0.0, 3.0]), 2.0);
    }
}
