//! Where the classes of tokens lead from each state, as rows of steps that states share.
//!
//! A row holds differences to the lowest state that it leads to, less one, so that 0 is left to say
//! "not allowed"; and it ends with the last class that is allowed. States that count (as those of
//! `[a-z]{0,100}` do) then have equal rows as long as the count is far from its end, and beginnings of
//! that row near it, if the classes that are allowed to the end come first.

use rustc_hash::FxHashMap;

use super::tables::{StateId, Tables};

/// A row as a state has it: which one, and what its steps are counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its number in [`Rows`].
    pub number: u32,
    /// What to add to a step that is not 0.
    pub base: StateId,
}

/// Different rows of steps, while states are added.
#[derive(Debug, Default)]
pub struct Rows {
    numbers: FxHashMap<Box<[u16]>, u32>,
    /// All steps of all rows.
    steps: usize,
}

impl Rows {
    /// The row of a state that leads to `next[class]`, or nowhere where that is [`Tables::DEAD`].
    pub fn add(&mut self, next: &[StateId]) -> Row {
        let alive = |state: &&StateId| **state != Tables::DEAD;
        let length = (next.iter().rposition(|state| *state != Tables::DEAD)).map_or(0, |at| at + 1);
        let lowest = next.iter().filter(alive).min().copied().unwrap_or(1);
        let base = lowest - 1;
        let steps: Box<[u16]> = (next[..length].iter())
            .map(|&state| state.saturating_sub(base))
            .collect();
        let new = self.numbers.len() as u32;
        let number = match self.numbers.get(&steps) {
            Some(&number) => number,
            None => {
                self.steps += steps.len();
                self.numbers.insert(steps, new);
                new
            }
        };
        Row { number, base }
    }

    /// How many steps there are in all rows, before one may be the beginning of another.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// All rows in one vector, and where each begins in it, with its length. A row that another one
    /// begins with takes no room of its own.
    pub fn place(self) -> (Vec<u16>, Vec<(u32, u16)>) {
        let mut rows: Vec<(Box<[u16]>, u32)> = self.numbers.into_iter().collect();
        // In this order, a row comes right before one that begins with it, if there is any.
        rows.sort_unstable();
        let mut places = vec![(0, 0); rows.len()];
        let mut all = Vec::new();
        let mut last: &[u16] = &[];
        let mut at = 0;
        for (row, number) in rows.iter().rev() {
            if !last.starts_with(row) {
                at = all.len() as u32;
                all.extend_from_slice(row);
            }
            places[*number as usize] = (at, row.len() as u16);
            last = row;
        }
        (all, places)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn counting_states_share_one_row() {
        let mut rows = Rows::default();
        // States 1 to 6 allow one, two or three characters more, up to state 6.
        let added: Vec<Row> = (1..=6_u16)
            .map(|state| {
                let next = [1, 2, 3].map(|more| if state + more <= 6 { state + more } else { 0 });
                rows.add(&next)
            })
            .collect();
        let numbers: Vec<u32> = added.iter().map(|row| row.number).collect();
        assert_eq!(numbers, [0, 0, 0, 1, 2, 3]);
        let (all, places) = rows.place();
        assert_eq!(all, [1, 2, 3]);
        assert_eq!(places, [(0, 3), (0, 2), (0, 1), (0, 0)]);
    }

    proptest! {
        #[test]
        fn every_state_finds_its_own_steps(
            states in prop::collection::vec(
                prop::collection::vec(prop_oneof![Just(0), 1..9_u16, Just(u16::MAX)], 5),
                1..40,
            ),
        ) {
            let mut rows = Rows::default();
            let added: Vec<Row> = states.iter().map(|next| rows.add(next)).collect();
            let upper = rows.steps();
            let (all, places) = rows.place();
            prop_assert!(all.len() <= upper);
            for (next, row) in states.iter().zip(added) {
                let (at, length) = places[row.number as usize];
                for (class, &expected) in next.iter().enumerate() {
                    let step = if class < usize::from(length) { all[at as usize + class] } else { 0 };
                    let found = if step == 0 { 0 } else { row.base + step };
                    prop_assert_eq!(found, expected);
                }
            }
        }
    }
}
