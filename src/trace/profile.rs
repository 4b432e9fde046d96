//! What a trace comes to, whoever wrote it: how often each operation ran, and how long.

use serde::Serialize;

/// What an operation is for: what traces of different programs have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// Calls of a framework's operators, those within others left out.
    Operators,
    /// The host's launches of kernels and graphs.
    Launches,
    /// Kernels on a device, all together.
    Kernels,
    /// Rows of the embedding.
    Embedding,
    /// Attention.
    Attention,
    /// Products with matrices of weights.
    MatrixProducts,
    /// RMSNorm and LayerNorm, where they stand alone.
    Norms,
    /// Concatenation.
    Concatenation,
    /// Copies, of any direction.
    Copies,
    /// From logits to a token.
    Sampling,
    /// Waits for other threads, blocks or devices.
    Waiting,
    /// What is none of these.
    Other,
}

impl Group {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 12] = [
        Self::Operators,
        Self::Launches,
        Self::Kernels,
        Self::Embedding,
        Self::Attention,
        Self::MatrixProducts,
        Self::Norms,
        Self::Concatenation,
        Self::Copies,
        Self::Sampling,
        Self::Waiting,
        Self::Other,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Operators => "operators",
            Self::Launches => "launches",
            Self::Kernels => "kernels",
            Self::Embedding => "embedding",
            Self::Attention => "attention",
            Self::MatrixProducts => "matrix products",
            Self::Norms => "norms",
            Self::Concatenation => "concatenation",
            Self::Copies => "copies",
            Self::Sampling => "sampling",
            Self::Waiting => "waiting",
            Self::Other => "other",
        }
    }
}

/// How often, and how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Total {
    /// Occurrences.
    pub count: u64,
    /// Nanoseconds.
    pub nanoseconds: u64,
}

impl Total {
    /// Adds an occurrence.
    pub fn add(&mut self, nanoseconds: u64) {
        self.count += 1;
        self.nanoseconds += nanoseconds;
    }
}

/// One operation: a phase, an operator, a kernel, a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Operation {
    /// What it is for.
    pub group: Group,
    /// Its name.
    pub name: String,
    /// Its occurrences and the time that they took, without what ran within them. Of a trace of several
    /// threads or blocks: the mean over those on which it ran.
    #[serde(flatten)]
    pub total: Total,
    /// Whether each layer must have it a whole number of times.
    pub is_of_layer: bool,
}

/// All that is compared of a trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Profile {
    /// What it is of, for people.
    pub about: String,
    /// Steps; `None` where nothing says.
    pub steps: Option<u64>,
    /// Layers of the model; `None` where nothing says.
    pub layers: Option<u64>,
    /// Tokens that went through the layers in these steps.
    pub tokens: Option<u64>,
    /// What the steps took together.
    pub nanoseconds: u64,
    /// Each group's own total. Its count leaves out what ran within another operation of the group.
    pub groups: Vec<(Group, Total)>,
    /// Operations, those that took longest first.
    pub operations: Vec<Operation>,
    /// What a reader must know: what is missing, what was taken for granted.
    pub notes: Vec<String>,
}

/// What is said of a trace that can't be found in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// Steps.
    pub steps: Option<u64>,
    /// Layers of the model.
    pub layers: Option<u64>,
    /// Tokens of all steps together.
    pub tokens: Option<u64>,
}

/// How a count falls on steps and layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Multiple {
    /// Each step has it `by_layer` times for each layer, and `beside` times more.
    Whole {
        /// Times a layer.
        by_layer: u64,
        /// Times beside the layers.
        beside: u64,
    },
    /// No whole number a step.
    Broken,
}

impl Profile {
    /// How `count` falls on the steps and layers, where they are known.
    pub fn multiple(&self, count: u64) -> Option<Multiple> {
        let steps = self.steps.filter(|&steps| steps > 0)?;
        let layers = self.layers.filter(|&layers| layers > 0)?;
        Some(match count % steps {
            0 => Multiple::Whole {
                by_layer: count / steps / layers,
                beside: count / steps % layers,
            },
            _ => Multiple::Broken,
        })
    }

    /// Counts that can't be right if steps and layers are: what is of layers and no whole multiple of
    /// steps x layers, and groups that are no whole multiple of the steps.
    pub fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        let mut doubt = |name: &str, count: u64, is_of_layer: bool| {
            if let Some(doubt) = self.doubt(name, count, is_of_layer) {
                doubts.push(doubt);
            }
        };
        for (group, total) in &self.groups {
            // Where operations are known to be of layers, they are looked at below.
            let is_known = |of: &Operation| of.group == *group && of.is_of_layer;
            let is_of_layer = *group == Group::Attention && !self.operations.iter().any(is_known);
            doubt(group.name(), total.count, is_of_layer);
        }
        for operation in self
            .operations
            .iter()
            .filter(|operation| operation.is_of_layer)
        {
            doubt(&operation.name, operation.total.count, true);
        }
        doubts
    }

    fn doubt(&self, name: &str, count: u64, is_of_layer: bool) -> Option<String> {
        let each = |parts: u64| count as f64 / parts as f64;
        match (self.steps, self.layers) {
            (Some(steps), Some(layers)) if is_of_layer && steps * layers > 0 => {
                let whole = count.is_multiple_of(steps * layers);
                (!whole).then(|| {
                    format!(
                        "{name}: {count} is no whole multiple of {steps} steps x {layers} layers \
                         ({:.2} each)",
                        each(steps * layers)
                    )
                })
            }
            (None, Some(layers)) if is_of_layer && layers > 0 => {
                let whole = count.is_multiple_of(layers);
                (!whole).then(|| {
                    format!(
                        "{name}: {count} is no whole multiple of {layers} layers ({:.2} steps)",
                        each(layers)
                    )
                })
            }
            (Some(steps), _) if steps > 0 && !count.is_multiple_of(steps) => Some(format!(
                "{name}: {count} is no whole multiple of {steps} steps ({:.2} each)",
                each(steps)
            )),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attention(count: u64, steps: Option<u64>, layers: u64) -> Profile {
        let total = Total {
            count,
            nanoseconds: 1,
        };
        Profile {
            about: String::new(),
            steps,
            layers: Some(layers),
            tokens: None,
            nanoseconds: 1,
            groups: vec![(Group::Attention, total)],
            operations: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// A published analysis divided 48,440 and 20,672 attention kernels by 24 layers, and built on the
    /// "tokens" that it got; the models have 28 and 16.
    #[test]
    fn counts_that_are_no_whole_multiple_are_pointed_out() {
        for (count, layers) in [(48_440, 24), (20_672, 24)] {
            let doubts = attention(count, None, layers).doubts();
            assert_eq!(doubts.len(), 1, "{doubts:?}");
            assert!(doubts[0].contains(&count.to_string()), "{doubts:?}");
        }
        for (count, layers, steps) in [(48_440, 28, 1_730), (20_672, 16, 1_292)] {
            assert!(attention(count, None, layers).doubts().is_empty());
            assert!(attention(count, Some(steps), layers).doubts().is_empty());
            let doubts = attention(count, Some(steps - 1), layers).doubts();
            assert!(doubts[0].contains("steps x"), "{doubts:?}");
        }
    }

    #[test]
    fn a_count_is_told_by_layers_and_beside_them() {
        let profile = attention(0, Some(10), 28);
        let whole = |by_layer, beside| Some(Multiple::Whole { by_layer, beside });
        assert_eq!(profile.multiple(10 * (7 * 28 + 1)), whole(7, 1));
        assert_eq!(profile.multiple(280), whole(1, 0));
        assert_eq!(profile.multiple(281), Some(Multiple::Broken));
        assert_eq!(attention(0, None, 28).multiple(280), None);
    }
}
