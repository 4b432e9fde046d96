//! Two distributions over the same vocabulary, at one position.

use crate::model::TokenId;

/// Logits that stand for no distribution, or can't be compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogitsError {
    /// Rows of different vocabularies.
    #[error("{other} logits beside {reference} of the reference: the vocabularies differ")]
    Lengths {
        /// Logits of the reference's row.
        reference: usize,
        /// Logits of the other row.
        other: usize,
    },
    /// NaN or plus infinity.
    #[error("the logit of token {token} is NaN or infinity; expected a number, or -inf for a mask")]
    NotANumber {
        /// The token.
        token: usize,
    },
    /// Nothing but minus infinity, or no logits at all.
    #[error("no token has a probability: all {vocab_size} logits are -inf")]
    AllMasked {
        /// How many logits there are.
        vocab_size: usize,
    },
    /// A given token without a logit.
    #[error("the next token is {token}, and there are {vocab_size} logits")]
    TokenOutOfRange {
        /// The token.
        token: TokenId,
        /// How many logits there are.
        vocab_size: usize,
    },
}

/// How far one row of logits is from the reference's.
#[derive(Clone, Debug, PartialEq)]
pub struct PositionDivergence {
    /// KL(reference || other) in nats; infinite where the other rules out what the reference allows.
    pub kl: f64,
    /// KL(other || reference) in nats.
    pub kl_reverse: f64,
    /// Jensen-Shannon divergence in nats: at most ln 2.
    pub jensen_shannon: f64,
    /// Whether both have the same likeliest token.
    pub top1_agrees: bool,
    /// By how many nats the reference's likeliest token leads its second: 0 where they tie, infinite
    /// where it allows no second.
    pub margin: f64,
    /// For each k asked for: the share of the reference's k likeliest tokens that are among the
    /// other's k likeliest. Only allowed tokens count, so that either side may have fewer than k; the
    /// share is of the larger side.
    pub top_k: Vec<f64>,
    /// -ln of the probability of the token that really comes next, for the reference and the other.
    pub next: Option<[f64; 2]>,
    /// The largest absolute difference of two logits; infinite where only one is masked.
    pub max_difference: f32,
}

/// Logits, and what makes probabilities of them.
struct Distribution<'a> {
    logits: &'a [f32],
    /// ln of the sum of exponentials.
    log_sum: f64,
}

impl<'a> Distribution<'a> {
    fn new(logits: &'a [f32]) -> Result<Self, LogitsError> {
        let mut max = f32::NEG_INFINITY;
        for (token, &logit) in logits.iter().enumerate() {
            if logit.is_nan() || logit == f32::INFINITY {
                return Err(LogitsError::NotANumber { token });
            }
            max = max.max(logit);
        }
        if max == f32::NEG_INFINITY {
            let vocab_size = logits.len();
            return Err(LogitsError::AllMasked { vocab_size });
        }
        let max = f64::from(max);
        let sum: f64 = logits
            .iter()
            .map(|&logit| (f64::from(logit) - max).exp())
            .sum();
        Ok(Self {
            logits,
            log_sum: max + sum.ln(),
        })
    }

    /// ln of the probability of a token.
    fn log_probability(&self, logit: f32) -> f64 {
        f64::from(logit) - self.log_sum
    }

    /// The `k` likeliest of the tokens that are allowed, likeliest first; ties in the order of ids.
    fn top(&self, k: usize) -> Vec<usize> {
        let mut top: Vec<usize> = Vec::with_capacity(k + 1);
        for (token, &logit) in self.logits.iter().enumerate() {
            let least = top.last().map_or(f32::NEG_INFINITY, |&t| self.logits[t]);
            // Later ids stand behind equal ones.
            if logit == f32::NEG_INFINITY || (top.len() == k && logit <= least) {
                continue;
            }
            let place = top.partition_point(|&t| self.logits[t] >= logit);
            top.insert(place, token);
            top.truncate(k);
        }
        top
    }
}

impl PositionDivergence {
    /// Compares two rows of logits, `[vocabulary]` each. `next` is the token that follows in the
    /// text; `top_k` are the k of [`top_k`](Self::top_k), in any order.
    ///
    /// # Errors
    /// Rows that are no distributions over one vocabulary, or have no logit for `next`.
    pub fn between(
        reference: &[f32],
        other: &[f32],
        next: Option<TokenId>,
        top_k: &[usize],
    ) -> Result<Self, LogitsError> {
        let vocab_size = reference.len();
        if other.len() != vocab_size {
            return Err(LogitsError::Lengths {
                reference: vocab_size,
                other: other.len(),
            });
        }
        let (p, q) = (Distribution::new(reference)?, Distribution::new(other)?);
        let next = next.map(|token| {
            let logit = |logits: &[f32]| logits.get(token as usize).copied();
            match (logit(reference), logit(other)) {
                (Some(a), Some(b)) => Ok([-p.log_probability(a), -q.log_probability(b)]),
                _ => Err(LogitsError::TokenOutOfRange { token, vocab_size }),
            }
        });
        let mut divergence = Self {
            kl: 0.0,
            kl_reverse: 0.0,
            jensen_shannon: 0.0,
            top1_agrees: false,
            margin: 0.0,
            top_k: Vec::new(),
            next: next.transpose()?,
            max_difference: 0.0,
        };
        divergence.add_terms(&p, &q);
        divergence.rank(&p, &q, top_k);
        Ok(divergence)
    }

    fn add_terms(&mut self, p: &Distribution, q: &Distribution) {
        for (&a, &b) in p.logits.iter().zip(q.logits) {
            match (a == f32::NEG_INFINITY, b == f32::NEG_INFINITY) {
                (true, true) => continue,
                (false, false) => {
                    let (log_p, log_q) = (p.log_probability(a), q.log_probability(b));
                    self.kl += kl_term(log_p, log_q);
                    self.kl_reverse += kl_term(log_q, log_p);
                    self.jensen_shannon += jensen_shannon_term(log_p, log_q);
                }
                // What one rules out is half of the mixture's alone.
                (false, true) => {
                    let probability = p.log_probability(a).exp();
                    self.kl = f64::INFINITY;
                    self.kl_reverse += probability;
                    self.jensen_shannon += probability * std::f64::consts::LN_2 / 2.0;
                }
                (true, false) => {
                    let probability = q.log_probability(b).exp();
                    self.kl += probability;
                    self.kl_reverse = f64::INFINITY;
                    self.jensen_shannon += probability * std::f64::consts::LN_2 / 2.0;
                }
            }
            self.max_difference = self.max_difference.max((a - b).abs());
        }
        for sum in [&mut self.kl, &mut self.kl_reverse, &mut self.jensen_shannon] {
            // Below zero only by rounding.
            *sum = sum.max(0.0);
        }
    }

    fn rank(&mut self, p: &Distribution, q: &Distribution, top_k: &[usize]) {
        // The margin needs two.
        let most = top_k.iter().copied().fold(2, usize::max);
        let (first, others) = (p.top(most), q.top(most));
        self.top1_agrees = first[0] == others[0];
        self.margin = first.get(1).map_or(f64::INFINITY, |&second| {
            f64::from(p.logits[first[0]]) - f64::from(p.logits[second])
        });
        let overlap = |&k: &usize| {
            let (ours, theirs) = (&first[..k.min(first.len())], &others[..k.min(others.len())]);
            let shared = ours.iter().filter(|token| theirs.contains(token)).count();
            shared as f64 / ours.len().max(theirs.len()) as f64
        };
        self.top_k = top_k.iter().map(overlap).collect();
    }
}

/// One token's term of KL(p || q), from ln p and ln q, both finite.
///
/// The terms `p ln(p / q)` have either sign and nearly cancel where p and q are close, while their sum is
/// of second order. Since probabilities add up to one, `p ln(p / q) + q - p` has the same sum, and no
/// term below zero: with d = ln(p / q) it is `p (d + exp(-d) - 1)`.
fn kl_term(log_p: f64, log_q: f64) -> f64 {
    let d = log_p - log_q;
    if d > -1.0 {
        log_p.exp() * (d + (-d).exp_m1())
    } else {
        // exp(-d) may overflow here, and nothing cancels.
        log_p.exp() * (d - 1.0) + log_q.exp()
    }
}

/// One token's term of the Jensen-Shannon divergence, from ln p and ln q, both finite: half of
/// `p ln(p / m) + q ln(q / m)` with m in the middle between p and q.
fn jensen_shannon_term(log_p: f64, log_q: f64) -> f64 {
    let (larger, d) = match log_p >= log_q {
        true => (log_p.exp(), log_p - log_q),
        false => (log_q.exp(), log_q - log_p),
    };
    // ln(p / m) for the larger one of the two; that of the smaller one is less by d.
    let log_ratio = -((-d).exp_m1() / 2.0).ln_1p();
    larger * (log_ratio + (-d).exp() * (log_ratio - d)) / 2.0
}
