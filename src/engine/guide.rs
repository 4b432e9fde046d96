//! What a request's output must follow, token by token.
//!
//! A [`Guide`] is shared by requests; a [`Cursor`] is where one of them stands in it. Where the guide
//! leaves one token the model is not asked, where it leaves a few only their rows of the LM head are
//! computed, and elsewhere the others are masked.

pub use crate::constraint::guide::{Guide, HostGrammar, HostWalk};
use crate::constraint::{Allowed, StateId, Tables};
use crate::model::TokenId;

/// What a guide had to do with the tokens of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guided {
    /// Tokens that the guide left no choice for.
    pub forced_tokens: usize,
    /// Tokens chosen among a few, whose rows of the head alone were computed.
    pub gathered_steps: usize,
    /// Tokens chosen with the whole head.
    pub full_steps: usize,
    /// Whether the output is a whole match, not cut short.
    pub complete: bool,
}

/// What may come next.
#[derive(Clone, Copy, Debug)]
pub enum Next<'a> {
    /// Any token.
    Any,
    /// This one.
    Forced(TokenId),
    /// One of these, ascending.
    Few(&'a [TokenId]),
    /// Those that [`Cursor::allows`].
    Masked,
    /// Nothing: the output is complete.
    Nothing,
}

/// Where a request stands.
#[derive(Debug)]
pub struct Cursor<'a> {
    place: Place<'a>,
    /// What became of the tokens so far.
    pub guided: Guided,
}

#[derive(Debug)]
enum Place<'a> {
    Free,
    Tables {
        tables: &'a Tables,
        state: StateId,
    },
    Host {
        walk: Box<dyn HostWalk>,
        /// `[ceil(vocabulary / 32)]`
        mask: Vec<u32>,
        allowed: usize,
    },
}

impl<'a> Cursor<'a> {
    /// A cursor at the start of `guide`, for a vocabulary of `vocab_size` tokens.
    ///
    /// # Errors
    /// A grammar that fails at its start.
    pub fn new(guide: Option<&'a Guide>, vocab_size: usize) -> Result<Self, String> {
        let place = match guide {
            None => Place::Free,
            Some(Guide::Tables(tables)) => Place::Tables {
                tables,
                state: tables.start(),
            },
            Some(Guide::Host(grammar)) => {
                let mut walk = grammar.walk();
                let mut mask = vec![0; vocab_size.div_ceil(32)];
                let allowed = walk.allowed(&mut mask)?;
                Place::Host {
                    walk,
                    mask,
                    allowed,
                }
            }
        };
        Ok(Self {
            place,
            guided: Guided::default(),
        })
    }

    /// What may come next.
    pub fn next(&self) -> Next<'a> {
        match &self.place {
            Place::Free => Next::Any,
            Place::Tables { tables, state } => match tables.allowed(*state) {
                Allowed::Forced(token) => Next::Forced(token),
                Allowed::Few(tokens) => Next::Few(tokens),
                Allowed::Many => Next::Masked,
                Allowed::Nothing => Next::Nothing,
            },
            Place::Host { allowed: 0, .. } => Next::Nothing,
            Place::Host {
                mask, allowed: 1, ..
            } => Next::Forced(first_bit(mask)),
            Place::Host { .. } => Next::Masked,
        }
    }

    /// Whether `token` may come next.
    pub fn allows(&self, token: TokenId) -> bool {
        match &self.place {
            Place::Free => true,
            Place::Tables { tables, state } => tables.allows(*state, token),
            Place::Host { mask, .. } => mask[token as usize / 32] >> (token % 32) & 1 != 0,
        }
    }

    /// Sets the logits (`[vocabulary]`) of all tokens that may not come next to minus infinity.
    pub fn mask(&self, logits: &mut [f32]) {
        match &self.place {
            Place::Free => {}
            Place::Tables { tables, state } => {
                let steps = tables.steps_of(*state);
                for (logit, &class) in logits.iter_mut().zip(tables.class_of_token()) {
                    if !matches!(steps.get(usize::from(class)), Some(1..)) {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            }
            Place::Host { mask, .. } => {
                for (chunk, &word) in logits.chunks_mut(32).zip(mask) {
                    for (bit, logit) in chunk.iter_mut().enumerate() {
                        if word >> bit & 1 == 0 {
                            *logit = f32::NEG_INFINITY;
                        }
                    }
                }
            }
        }
    }

    /// Goes on by `token`, which must be allowed, and counts it.
    ///
    /// # Errors
    /// A grammar that fails.
    pub fn advance(&mut self, token: TokenId) -> Result<(), String> {
        debug_assert!(self.allows(token));
        match self.next() {
            Next::Forced(_) => self.guided.forced_tokens += 1,
            Next::Few(_) => self.guided.gathered_steps += 1,
            _ => self.guided.full_steps += 1,
        }
        match &mut self.place {
            Place::Free => {}
            Place::Tables { tables, state } => *state = tables.next(*state, token),
            Place::Host {
                walk,
                mask,
                allowed,
            } => {
                walk.advance(token)?;
                *allowed = walk.allowed(mask)?;
            }
        }
        self.guided.complete = self.is_accepting();
        Ok(())
    }

    fn is_accepting(&mut self) -> bool {
        match &mut self.place {
            Place::Free => false,
            Place::Tables { tables, state } => tables.is_accepting(*state),
            Place::Host { walk, .. } => walk.is_accepting(),
        }
    }

    /// Whether anything is guided at all.
    pub fn is_free(&self) -> bool {
        matches!(self.place, Place::Free)
    }
}

/// The lowest bit that is set, of which there must be one.
fn first_bit(mask: &[u32]) -> TokenId {
    let word = mask.iter().position(|&word| word != 0);
    let word = word.expect("a token is allowed");
    (word * 32) as TokenId + mask[word].trailing_zeros()
}
