//! How long a prompt and its continuation may be.

/// Tokens made where nobody says how many.
pub const DEFAULT_MAX_TOKENS: usize = 256;

/// What a prompt and its continuation need of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Positions of the KV cache.
    pub context: usize,
    /// The most tokens to make.
    pub max_tokens: usize,
}

/// A prompt and a continuation that are too long together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    /// For the context that was asked for.
    #[error(
        "the prompt's {prompt_tokens} tokens and the {max_tokens} of --max-tokens exceed the \
         --context of {context} positions; raise it (the model was made for {max_positions}) or \
         lower --max-tokens"
    )]
    Context {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens to make.
        max_tokens: usize,
        /// Positions asked for.
        context: usize,
        /// Positions the model was made for.
        max_positions: usize,
    },
    /// For the model.
    #[error(
        "the prompt's {prompt_tokens} tokens and the {max_tokens} of --max-tokens exceed the \
         {max_positions} positions that the model was made for, and --context can't be raised \
         beyond them; shorten the prompt or lower --max-tokens"
    )]
    Model {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens to make.
        max_tokens: usize,
        /// Positions the model was made for.
        max_positions: usize,
    },
    /// A constraint that no text within the budget satisfies.
    #[error(
        "the shortest text that satisfies the constraint has {shortest} tokens, and --max-tokens \
         is {max_tokens}; raise it"
    )]
    Shortest {
        /// Tokens of the shortest match, without one that ends it.
        shortest: usize,
        /// Tokens to make.
        max_tokens: usize,
    },
    /// A constraint whose shortest text does not fit behind the prompt.
    #[error(
        "the shortest text that satisfies the constraint has {shortest} tokens; behind the \
         prompt's {prompt_tokens} that exceeds the {limit} positions there are (the model was \
         made for {max_positions}; see --context)"
    )]
    ShortestContext {
        /// Tokens of the shortest match, without one that ends it.
        shortest: usize,
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Positions there are.
        limit: usize,
        /// Positions the model was made for.
        max_positions: usize,
    },
    /// A context that the model can't have.
    #[error("--context is {context}, but the model was made for {max_positions} positions")]
    TooMuchContext {
        /// Positions asked for.
        context: usize,
        /// Positions the model was made for.
        max_positions: usize,
    },
}

impl Budget {
    /// The budget of a prompt of `prompt_tokens`, for a model made for `max_positions`.
    ///
    /// Without a `context` the KV cache is as long as the prompt and its continuation and no
    /// longer. Without `max_tokens` there are up to [`DEFAULT_MAX_TOKENS`], or as many as still
    /// fit; twice as many as the `shortest` text has that a constraint allows, if that is more.
    ///
    /// # Errors
    /// If they don't fit: nothing is cut short that was asked for.
    pub fn of(
        prompt_tokens: usize,
        max_tokens: Option<usize>,
        context: Option<usize>,
        max_positions: usize,
        shortest: usize,
    ) -> Result<Self, BudgetError> {
        if let Some(context) = context.filter(|&context| context > max_positions) {
            return Err(BudgetError::TooMuchContext {
                context,
                max_positions,
            });
        }
        let limit = context.unwrap_or(max_positions);
        check_shortest(shortest, max_tokens.unwrap_or(usize::MAX))?;
        // Where nobody says how many, one must fit at least.
        let demanded = max_tokens.unwrap_or(1);
        if prompt_tokens.saturating_add(demanded) > limit {
            let max_tokens = demanded;
            return Err(match context {
                Some(context) => BudgetError::Context {
                    prompt_tokens,
                    max_tokens,
                    context,
                    max_positions,
                },
                None => BudgetError::Model {
                    prompt_tokens,
                    max_tokens,
                    max_positions,
                },
            });
        }
        if prompt_tokens + shortest > limit {
            return Err(BudgetError::ShortestContext {
                shortest,
                prompt_tokens,
                limit,
                max_positions,
            });
        }
        let max_tokens = max_tokens.unwrap_or(DEFAULT_MAX_TOKENS.max(2 * shortest));
        Ok(Self {
            context: context.unwrap_or((prompt_tokens + max_tokens).min(max_positions)),
            max_tokens,
        })
    }
}

/// Whether `max_tokens` are enough for the `shortest` text that a constraint allows. The token that
/// ends it is not counted: without it the text is whole all the same.
///
/// # Errors
/// If not, with both numbers.
pub fn check_shortest(shortest: usize, max_tokens: usize) -> Result<(), BudgetError> {
    if max_tokens < shortest {
        return Err(BudgetError::Shortest {
            shortest,
            max_tokens,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_as_long_as_it_must_be() {
        let budget = |max_tokens, context| Budget::of(10, max_tokens, context, 100, 0).unwrap();
        assert_eq!((budget(Some(20), None).context), 30);
        assert_eq!((budget(Some(90), None).context), 100);
        assert_eq!((budget(Some(20), Some(50)).context), 50);
        assert_eq!((budget(None, None).context), 100);
        assert_eq!((budget(None, None).max_tokens), DEFAULT_MAX_TOKENS);
        assert_eq!(Budget::of(10, None, None, 4096, 0).unwrap().context, 266);
        let constrained = Budget::of(10, None, None, 4096, 200).unwrap();
        assert_eq!((constrained.context, constrained.max_tokens), (410, 400));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_numbers() {
        let error = |prompt, max_tokens, context| {
            let error = Budget::of(prompt, max_tokens, context, 100, 0).unwrap_err();
            error.to_string()
        };
        for (message, numbers) in [
            (
                error(10, Some(91), None),
                ["10 tokens", "91", "100 positions"],
            ),
            (error(100, None, None), ["100 tokens", "1", "100 positions"]),
            (
                error(10, Some(41), Some(50)),
                ["10 tokens", "41", "50 positions"],
            ),
            (
                error(1, Some(1), Some(101)),
                ["--context", "101", "100 positions"],
            ),
            (
                error(1, Some(usize::MAX), None),
                ["1 tokens", "--max-tokens", "100 positions"],
            ),
        ] {
            for number in numbers {
                assert!(message.contains(number), "{number} in: {message}");
            }
        }
    }

    #[test]
    fn a_budget_too_short_for_any_match_is_refused_with_both_numbers() {
        assert!(Budget::of(10, Some(7), None, 100, 7).is_ok());
        let error = Budget::of(10, Some(6), None, 100, 7).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains("7 tokens") && message.contains("is 6"),
            "{message}"
        );
        let error = Budget::of(10, None, Some(50), 100, 41).unwrap_err();
        let message = error.to_string();
        for number in ["41 tokens", "10 that", "50 positions", "100"] {
            assert!(message.contains(number), "{number} in: {message}");
        }
    }
}
