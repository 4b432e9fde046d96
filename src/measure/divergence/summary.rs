//! The divergence over many positions of several texts.
//!
//! Intervals draw whole sequences, not positions ([`by_sequence`](super::by_sequence)).

use serde::{Deserialize, Serialize};

use super::by_sequence::{Figure, Sorted, Sums, finite, times_drawn};
use super::position::{LogitsError, PositionDivergence};
use crate::model::TokenId;

/// What is counted where, beside the divergences themselves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Criteria {
    /// The reference's choice is clear where its likeliest token leads by more than this, in nats.
    pub clear_margin: f64,
    /// How many of the likeliest tokens are compared as a set; several such numbers.
    pub top_k: Vec<usize>,
}

impl Default for Criteria {
    /// A quarter of a nat: bf16 logits below 32 are at most an eighth apart, so that rounding two of them
    /// moves their distance by an eighth at most.
    fn default() -> Self {
        Self {
            clear_margin: 0.25,
            top_k: vec![5, 10],
        }
    }
}

/// How a divergence spreads over positions; in nats. `null` in JSON where it is infinite.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The mean.
    pub mean: Figure,
    /// What half of the positions stay below.
    pub p50: Figure,
    /// What 90% stay below.
    pub p90: Figure,
    /// What 99% stay below.
    pub p99: Figure,
    /// What 99.9% stay below. No interval: too few positions lie beyond it in most texts.
    pub p99_9: Option<f64>,
    /// The largest. No interval: a draw never exceeds it, so that a bootstrap can't bound it.
    pub max: Option<f64>,
    /// Positions where it is infinite: one side rules out what the other allows.
    pub infinite: usize,
}

/// How often sets of likeliest tokens agree.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Overlap {
    /// How many tokens are in each set.
    pub k: usize,
    /// The mean share of tokens that are in both sets.
    pub share: Figure,
}

/// How well both predict the tokens that were given.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Perplexity {
    /// Tokens predicted: all but the first of each sequence.
    pub tokens: usize,
    /// exp of the reference's mean negative log-probability of them; `null` where it is infinite.
    pub reference: Option<f64>,
    /// The same of the other.
    pub other: Option<f64>,
    /// The other's over the reference's: 1 is as good, more is worse.
    pub ratio: Figure,
}

/// How far the logits of some texts are from the reference's. The names of the JSON fields are a contract.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    /// Texts that were compared.
    pub sequences: usize,
    /// Positions of all of them.
    pub positions: usize,
    /// KL(reference || other).
    pub kl: Spread,
    /// KL(other || reference).
    pub kl_reverse: Spread,
    /// Jensen-Shannon divergence, at most ln 2.
    pub jensen_shannon: Spread,
    /// Share of positions where both have the same likeliest token.
    pub top1: Figure,
    /// What was counted as a clear choice of the reference, and which sets were compared.
    #[serde(flatten)]
    pub criteria: Criteria,
    /// Positions where the reference's choice is clear.
    pub clear_positions: usize,
    /// Share of these where both have the same likeliest token.
    pub top1_where_clear: Figure,
    /// Agreement of the sets of likeliest tokens.
    pub overlap: Vec<Overlap>,
    /// Prediction of the given tokens; `None` if every sequence has only one.
    pub perplexity: Option<Perplexity>,
    /// The largest absolute difference of two logits; `null` where one of them is masked.
    pub max_difference: Option<f32>,
    /// Each sequence by itself: what the intervals are drawn from.
    pub samples: Vec<SequenceSample>,
}

/// One sequence's part.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SequenceSample {
    /// Its positions.
    pub positions: usize,
    /// Mean KL(reference || other); `null` where it is infinite.
    pub kl_mean: Option<f64>,
    /// Mean KL(other || reference).
    pub kl_reverse_mean: Option<f64>,
    /// Mean Jensen-Shannon divergence.
    pub jensen_shannon_mean: f64,
    /// Positions where both have the same likeliest token.
    pub top1: usize,
    /// Positions where the reference's choice is clear.
    pub clear: usize,
    /// Those of them where both have the same likeliest token.
    pub top1_where_clear: usize,
    /// Mean agreement of the sets, for each k.
    pub overlap_mean: Vec<f64>,
    /// Tokens predicted.
    pub tokens: usize,
    /// Negative log-probability of these together, for the reference and the other; `null` where it is
    /// infinite.
    pub nll: [Option<f64>; 2],
    /// KL(reference || other) by position, rounded to three digits. In JSON one string of numbers with a
    /// space between them, or `inf`: a line for each position would be most of a result file.
    #[serde(with = "in_words")]
    pub kl: Vec<f64>,
}

/// Numbers as one string.
mod in_words {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(numbers: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
        let words: Vec<String> = numbers.iter().map(|number| format!("{number:e}")).collect();
        serializer.serialize_str(&words.join(" "))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let numbers = text.split_whitespace().map(str::parse);
        numbers.collect::<Result<_, _>>().map_err(D::Error::custom)
    }
}

/// Takes positions as they come, and keeps a few numbers of each.
#[derive(Clone, Debug)]
pub struct Collector {
    criteria: Criteria,
    /// `[sequence][position]`
    sequences: Vec<Vec<PositionDivergence>>,
}

impl Collector {
    /// A collector without positions.
    pub fn new(criteria: Criteria) -> Self {
        Self {
            criteria,
            sequences: Vec::new(),
        }
    }

    /// Begins the next sequence.
    pub fn begin_sequence(&mut self) {
        self.sequences.push(Vec::new());
    }

    /// Adds the next position: the logits of both, `[vocabulary]`, and the token that follows in the
    /// text, if one does.
    ///
    /// # Errors
    /// Logits that are no distributions over one vocabulary.
    ///
    /// # Panics
    /// Before [`begin_sequence`](Self::begin_sequence).
    pub fn push(
        &mut self,
        reference: &[f32],
        other: &[f32],
        next: Option<TokenId>,
    ) -> Result<(), LogitsError> {
        let top_k = &self.criteria.top_k;
        let position = PositionDivergence::between(reference, other, next, top_k)?;
        let sequence = self.sequences.last_mut().expect("a sequence has begun");
        sequence.push(position);
        Ok(())
    }

    /// What all positions say together; `None` if there are none.
    pub fn summary(self) -> Option<Divergence> {
        let Self {
            criteria,
            mut sequences,
        } = self;
        sequences.retain(|sequence| !sequence.is_empty());
        if sequences.is_empty() {
            return None;
        }
        let positions = || sequences.iter().flatten();
        let counts = |of: &dyn Fn(&PositionDivergence) -> f64| Sums::new(&sequences, of);
        let all = counts(&|_| 1.0);
        let agrees = |position: &PositionDivergence| f64::from(u8::from(position.top1_agrees));
        let is_clear = |position: &PositionDivergence| {
            f64::from(u8::from(position.margin > criteria.clear_margin))
        };
        let clear = counts(&is_clear);
        let overlap = |(index, &k): (usize, &usize)| Overlap {
            k,
            share: counts(&|position| position.top_k[index]).over(&all),
        };
        Some(Divergence {
            sequences: sequences.len(),
            positions: positions().count(),
            kl: Spread::new(&sequences, &|position| position.kl),
            kl_reverse: Spread::new(&sequences, &|position| position.kl_reverse),
            jensen_shannon: Spread::new(&sequences, &|position| position.jensen_shannon),
            top1: counts(&agrees).over(&all),
            clear_positions: clear.total() as usize,
            top1_where_clear: counts(&|position| agrees(position) * is_clear(position))
                .over(&clear),
            overlap: criteria.top_k.iter().enumerate().map(overlap).collect(),
            perplexity: Perplexity::new(&sequences),
            max_difference: {
                let differences = positions().map(|position| position.max_difference);
                let max = differences.fold(0.0, f32::max);
                max.is_finite().then_some(max)
            },
            samples: sequences
                .iter()
                .map(|sequence| SequenceSample::new(sequence, &criteria))
                .collect(),
            criteria,
        })
    }
}

/// How many times as far from the reference `a` is as `b`: the ratio of their mean KL(reference || .),
/// both over the same draws of sequences. `None` unless both are of the same sequences and finite, and
/// `b` is not the reference itself.
pub fn kl_ratio(a: &Divergence, b: &Divergence) -> Option<Figure> {
    let lengths = |of: &Divergence| {
        of.samples
            .iter()
            .map(|sample| sample.positions)
            .collect::<Vec<_>>()
    };
    if lengths(a) != lengths(b) {
        return None;
    }
    let sums = |of: &Divergence| {
        let sum = |sample: &SequenceSample| Some(sample.kl_mean? * sample.positions as f64);
        of.samples
            .iter()
            .map(sum)
            .collect::<Option<Vec<_>>>()
            .map(Sums)
    };
    let (a, b) = (sums(a)?, sums(b)?);
    (b.total() > 0.0).then(|| a.over(&b))
}

impl Spread {
    fn new(sequences: &[Vec<PositionDivergence>], of: &dyn Fn(&PositionDivergence) -> f64) -> Self {
        let sorted = Sorted::new(sequences, of);
        let percentile = |share: f64| {
            let of_draw =
                |draw: &[usize]| sorted.quantile(&times_drawn(sequences.len(), draw), share);
            Figure::new(sequences.len(), sorted.quantile_of_all(share), of_draw)
        };
        Self {
            mean: Sums::new(sequences, of).over(&Sums::new(sequences, &|_| 1.0)),
            p50: percentile(0.5),
            p90: percentile(0.9),
            p99: percentile(0.99),
            p99_9: finite(sorted.quantile_of_all(0.999)),
            max: finite(sorted.quantile_of_all(1.0)),
            infinite: sorted
                .values
                .iter()
                .filter(|(value, _)| value.is_infinite())
                .count(),
        }
    }
}

impl Perplexity {
    fn new(sequences: &[Vec<PositionDivergence>]) -> Option<Self> {
        let nll = |side: usize| {
            Sums::new(sequences, &|position| {
                position.next.map_or(0.0, |next| next[side])
            })
        };
        let tokens = Sums::new(sequences, &|position| {
            f64::from(u8::from(position.next.is_some()))
        });
        if tokens.total() == 0.0 {
            return None;
        }
        let (reference, other) = (nll(0), nll(1));
        let excess = Sums(
            other
                .0
                .iter()
                .zip(&reference.0)
                .map(|(o, r)| o - r)
                .collect(),
        );
        let exp = |value: Option<f64>| value.map(f64::exp).and_then(finite);
        let excess = excess.over(&tokens);
        Some(Self {
            tokens: tokens.total() as usize,
            reference: exp(finite(reference.total() / tokens.total())),
            other: exp(finite(other.total() / tokens.total())),
            // exp keeps the order, and so the interval.
            ratio: Figure {
                value: exp(excess.value),
                low: exp(excess.low),
                high: exp(excess.high),
            },
        })
    }
}

impl SequenceSample {
    fn new(sequence: &[PositionDivergence], criteria: &Criteria) -> Self {
        let positions = sequence.len();
        let mean = |of: &dyn Fn(&PositionDivergence) -> f64| {
            sequence.iter().map(of).sum::<f64>() / positions as f64
        };
        let is_clear = |position: &&PositionDivergence| position.margin > criteria.clear_margin;
        let agrees = |position: &&PositionDivergence| position.top1_agrees;
        let nexts = || sequence.iter().filter_map(|position| position.next);
        Self {
            positions,
            kl_mean: finite(mean(&|position| position.kl)),
            kl_reverse_mean: finite(mean(&|position| position.kl_reverse)),
            jensen_shannon_mean: mean(&|position| position.jensen_shannon),
            top1: sequence.iter().filter(agrees).count(),
            clear: sequence.iter().filter(is_clear).count(),
            top1_where_clear: sequence.iter().filter(is_clear).filter(agrees).count(),
            overlap_mean: (0..criteria.top_k.len())
                .map(|index| mean(&|position| position.top_k[index]))
                .collect(),
            tokens: nexts().count(),
            nll: [0, 1].map(|side| finite(nexts().map(|next| next[side]).sum())),
            kl: sequence
                .iter()
                .map(|position| three_digits(position.kl))
                .collect(),
        }
    }
}

fn three_digits(number: f64) -> f64 {
    let rounded = format!("{number:.2e}").parse();
    rounded.expect("a number as it was printed")
}
