//! The token tables of a constraint, as engines step them.

use bytemuck::{Pod, Zeroable};

use crate::model::TokenId;

/// A state of the tables.
pub type StateId = u16;

/// The most tokens that a state lists: up to so many, gathering their rows of the head is
/// cheaper than streaming it.
pub const MOST_LISTED: usize = 64;

/// What a state allows, as a device reads it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct StateRow {
    /// One of [`StateRow::NOTHING`] to [`StateRow::MANY`].
    pub kind: u16,
    /// 1 if the text so far is a whole match, else 0.
    pub accepting: u16,
    /// Where the state's tokens begin in [`Tables::listed`]; 0 if it lists none.
    pub first: u32,
    /// How many tokens are allowed. All of them are listed unless the kind is `MANY`.
    pub count: u32,
    /// Where the state's steps begin in [`Tables::steps`]: one for each class from 0 on.
    pub steps: u32,
    /// How many steps it has; tokens of the classes from there on are not allowed.
    pub classes: u16,
    /// A step of 0 is not allowed; any other leads to the state `base + step`.
    pub base: StateId,
}

impl StateRow {
    /// Nothing may follow.
    pub const NOTHING: u16 = 0;
    /// One token may follow.
    pub const FORCED: u16 = 1;
    /// Up to [`MOST_LISTED`] tokens may follow.
    pub const FEW: u16 = 2;
    /// More tokens may follow.
    pub const MANY: u16 = 3;

    /// The kind of a state that allows `count` tokens.
    pub(super) fn kind_of(count: usize) -> u16 {
        match count {
            0 => Self::NOTHING,
            1 => Self::FORCED,
            2..=MOST_LISTED => Self::FEW,
            _ => Self::MANY,
        }
    }
}

/// What may follow in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed<'t> {
    /// This token and no other.
    Forced(TokenId),
    /// One of these, ascending, 2 to [`MOST_LISTED`].
    Few(&'t [TokenId]),
    /// More than that: every token whose [`Tables::next`] is not [`Tables::DEAD`].
    Many,
    /// Nothing: the text is complete.
    Nothing,
}

/// Token tables of one constraint.
///
/// Where a token leads from a state takes two loads: its class, and the step of that class among the
/// state's own. Steps are counted from the lowest state that the state leads to, so that the states
/// of a loop that counts to a hundred have the same ones and share them; and classes that are no longer
/// allowed near the end come last, where a row of steps may end before them. From every state but
/// [`DEAD`](Self::DEAD) a whole match can be reached by the tokens that are allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    pub(super) class_of_token: Vec<u16>,
    pub(super) classes: usize,
    pub(super) steps: Vec<u16>,
    pub(super) rows: Vec<StateRow>,
    pub(super) listed: Vec<TokenId>,
    pub(super) start: StateId,
    pub(super) shortest: usize,
}

impl Tables {
    /// Where a token leads that is not allowed. Nothing is allowed here.
    pub const DEAD: StateId = 0;

    /// Rows of the model's embedding.
    pub fn vocab_size(&self) -> usize {
        self.class_of_token.len()
    }

    /// The state before the first token.
    pub fn start(&self) -> StateId {
        self.start
    }

    /// The state after `token`, or [`DEAD`](Self::DEAD) if it is not allowed.
    ///
    /// # Panics
    /// If there is no such state.
    #[inline]
    pub fn next(&self, state: StateId, token: TokenId) -> StateId {
        let row = &self.rows[usize::from(state)];
        match self.class_of_token.get(token as usize) {
            Some(&class) if class < row.classes => {
                match self.steps[row.steps as usize + usize::from(class)] {
                    0 => Self::DEAD,
                    step => row.base + step,
                }
            }
            _ => Self::DEAD,
        }
    }

    /// What may follow in `state`.
    ///
    /// # Panics
    /// If there is no such state.
    #[inline]
    pub fn allowed(&self, state: StateId) -> Allowed<'_> {
        let row = &self.rows[usize::from(state)];
        let listed = |count: u32| &self.listed[row.first as usize..(row.first + count) as usize];
        match row.kind {
            StateRow::NOTHING => Allowed::Nothing,
            StateRow::FORCED => Allowed::Forced(listed(1)[0]),
            StateRow::FEW => Allowed::Few(listed(row.count)),
            _ => Allowed::Many,
        }
    }

    /// Whether `token` may follow in `state`.
    ///
    /// # Panics
    /// If there is no such state.
    #[inline]
    pub fn allows(&self, state: StateId, token: TokenId) -> bool {
        self.next(state, token) != Self::DEAD
    }

    /// How many tokens may follow in `state`.
    ///
    /// # Panics
    /// If there is no such state.
    pub fn count(&self, state: StateId) -> usize {
        self.rows[usize::from(state)].count as usize
    }

    /// Whether the text so far is a whole match.
    ///
    /// # Panics
    /// If there is no such state.
    #[inline]
    pub fn is_accepting(&self, state: StateId) -> bool {
        self.rows[usize::from(state)].accepting != 0
    }

    /// How many states there are, [`DEAD`](Self::DEAD) included.
    pub fn states(&self) -> usize {
        self.rows.len()
    }

    /// How many classes the tokens fall into.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Bytes of the tables as a device holds them: the four slices below.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.class_of_token)
            + size_of_val(&*self.steps)
            + size_of_val(&*self.rows)
            + size_of_val(&*self.listed)
    }

    /// The fewest tokens from the start to a whole match, an end token not counted.
    pub fn shortest(&self) -> usize {
        self.shortest
    }

    /// The class of each token: `[vocab_size]`. The last class is never allowed.
    pub fn class_of_token(&self) -> &[u16] {
        &self.class_of_token
    }

    /// The steps of all states; states that step alike have theirs in one place.
    pub fn steps(&self) -> &[u16] {
        &self.steps
    }

    /// The steps of `state` by class, as far as it has any: `[classes or fewer]`.
    ///
    /// # Panics
    /// If there is no such state.
    pub fn steps_of(&self, state: StateId) -> &[u16] {
        let row = &self.rows[usize::from(state)];
        &self.steps[row.steps as usize..][..usize::from(row.classes)]
    }

    /// What each state allows: `[states]`.
    pub fn state_rows(&self) -> &[StateRow] {
        &self.rows
    }

    /// The tokens of states that list theirs, ascending in each; states that allow the same share them.
    pub fn listed(&self) -> &[TokenId] {
        &self.listed
    }
}
