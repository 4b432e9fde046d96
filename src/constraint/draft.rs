//! From states and what leads from one to another, to tables.

use std::cmp::Reverse;
use std::collections::VecDeque;

use bytemuck::Zeroable;
use rustc_hash::FxHashMap;

use super::Limits;
use super::error::{ConstraintError, Found};
use super::groups::{Group, Groups};
use super::steps::Rows;
use super::tables::{MOST_LISTED, StateId, StateRow, Tables};
use crate::model::TokenId;

/// An automaton over groups of tokens, as it is found.
#[derive(Debug)]
pub struct Draft {
    what: &'static str,
    limits: Limits,
    /// Of each state: what leads on, a group at most once.
    edges: Vec<Vec<(Group, u32)>>,
    accepting: Vec<bool>,
    /// All edges so far.
    count: usize,
}

/// Transitions that one constraint may have before tokens of equal columns become one class: 8
/// bytes each.
const MOST_EDGES: usize = 16 << 20;

impl Draft {
    /// No states yet; the first one that is added is the start. `what` names the constraint in
    /// errors.
    pub fn new(what: &'static str, limits: Limits) -> Self {
        Self {
            what,
            limits,
            edges: Vec::new(),
            accepting: Vec::new(),
            count: 0,
        }
    }

    /// Adds a state whose edges are still to be [set](Self::set_edges).
    ///
    /// # Errors
    /// More states than the limit.
    pub fn add_state(&mut self, accepting: bool) -> Result<u32, ConstraintError> {
        // Two more are the dead state and the one after an end token.
        let limit = self.limits.states.min(usize::from(u16::MAX) + 1) - 2;
        if self.edges.len() >= limit {
            return Err(ConstraintError::TooLarge {
                what: "states",
                found: Found::MoreThan(limit),
                limit,
            });
        }
        self.edges.push(Vec::new());
        self.accepting.push(accepting);
        Ok(self.edges.len() as u32 - 1)
    }

    /// Says what leads from `state` to where.
    ///
    /// # Errors
    /// More transitions than fit in memory.
    pub fn set_edges(
        &mut self,
        state: u32,
        edges: Vec<(Group, u32)>,
    ) -> Result<(), ConstraintError> {
        self.count += edges.len();
        if self.count > MOST_EDGES {
            return Err(ConstraintError::TooLarge {
                what: "transitions",
                found: Found::MoreThan(MOST_EDGES),
                limit: MOST_EDGES,
            });
        }
        self.edges[state as usize] = edges;
        Ok(())
    }

    /// Builds the tables for a model of `rows` rows.
    ///
    /// # Errors
    /// No match that tokens can spell, or tables larger than the limit.
    pub fn finish(
        mut self,
        groups: &Groups,
        rows: usize,
        end_tokens: &[TokenId],
    ) -> Result<Tables, ConstraintError> {
        let what = self.what.to_owned();
        let distances = self.tokens_to_go();
        let Some(shortest) = distances[0] else {
            return Err(ConstraintError::Unspellable { what });
        };
        for edges in &mut self.edges {
            edges.retain(|&(_, next)| distances[next as usize].is_some());
        }
        if self.edges[0].is_empty() {
            return Err(ConstraintError::OnlyEmpty { what });
        }
        let order = self.order(groups);
        let mut numbers = vec![Tables::DEAD; self.edges.len()];
        for (place, &state) in order.iter().enumerate() {
            numbers[state as usize] = place as StateId + 1;
        }
        let ended = order.len() as StateId + 1;
        let states = order.len() + 1 + usize::from(!end_tokens.is_empty());

        let (mut class_of_group, text_classes) = self.classes(groups.len());
        // One class for the first end token, which is the one to be forced, and one for the rest.
        let classes = text_classes + end_tokens.len().min(2);
        self.check_bytes(2 * rows + states * size_of::<StateRow>())?;
        if classes > usize::from(u16::MAX) {
            return Err(ConstraintError::TooLarge {
                what: "classes of tokens",
                found: Found::Exactly(classes),
                limit: usize::from(u16::MAX),
            });
        }
        let places = self.class_places(&order, &class_of_group, text_classes, classes);
        for class in &mut class_of_group {
            *class = places[*class as usize];
        }
        let end_class = |index: usize| places[text_classes + index.min(1)] as u16;
        // The last class is that of tokens which are never allowed.
        let mut class_of_token = vec![classes as u16 - 1; rows];
        for (token, class) in class_of_token.iter_mut().enumerate() {
            let group = groups.group_of(token as TokenId);
            if group != Groups::NONE {
                *class = class_of_group[group as usize] as u16;
            }
        }
        for (index, &token) in end_tokens.iter().enumerate() {
            class_of_token[token as usize] = end_class(index);
        }
        let mut steps = Rows::default();
        let mut row_of = vec![steps.add(&[]); states];
        let mut lists: FxHashMap<Vec<TokenId>, u32> = FxHashMap::default();
        let mut next = vec![Tables::DEAD; classes];
        let mut tables = Tables {
            class_of_token,
            classes,
            steps: Vec::new(),
            rows: vec![StateRow::zeroed(); states],
            listed: Vec::new(),
            start: numbers[0],
            shortest,
        };
        for &state in &order {
            let state = state as usize;
            let (number, edges) = (usize::from(numbers[state]), &self.edges[state]);
            next.fill(Tables::DEAD);
            let mut count = 0;
            for &(group, to) in edges {
                next[class_of_group[group as usize] as usize] = numbers[to as usize];
                count += groups.members(group).len();
            }
            let mut ends: &[TokenId] = &[];
            if self.accepting[state] {
                // With nothing else to follow, one end token is as good as another.
                ends = &end_tokens[..end_tokens
                    .len()
                    .min(if count == 0 { 1 } else { usize::MAX })];
                for &end in ends {
                    next[usize::from(tables.class_of_token[end as usize])] = ended;
                }
                count += ends.len();
            }
            row_of[number] = steps.add(&next);
            self.check_working_bytes(2 * steps.steps())?;
            let mut first = 0;
            if (1..=MOST_LISTED).contains(&count) {
                let text = edges.iter().flat_map(|&(group, _)| groups.members(group));
                let mut list: Vec<TokenId> = text.chain(ends).copied().collect();
                list.sort_unstable();
                let listed = &mut tables.listed;
                first = *lists.entry(list).or_insert_with_key(|list| {
                    listed.extend_from_slice(list);
                    (listed.len() - list.len()) as u32
                });
            }
            tables.rows[number] = StateRow {
                kind: StateRow::kind_of(count),
                accepting: u16::from(self.accepting[state]),
                first,
                count: count as u32,
                ..StateRow::zeroed()
            };
        }
        let places;
        (tables.steps, places) = steps.place();
        for (state, row) in tables.rows.iter_mut().zip(row_of) {
            (state.steps, state.classes) = places[row.number as usize];
            state.base = row.base;
        }
        if !end_tokens.is_empty() {
            tables.rows[usize::from(ended)].accepting = 1;
        }
        self.check_bytes(tables.bytes())?;
        Ok(tables)
    }

    fn check_bytes(&self, found: usize) -> Result<(), ConstraintError> {
        let limit = self.limits.table_bytes;
        if found <= limit {
            return Ok(());
        }
        Err(ConstraintError::TooLarge {
            what: "bytes of tables",
            found: Found::Exactly(found),
            limit,
        })
    }

    /// The states that stay, from the start on, in an order in which neighbours resemble each other:
    /// as they are reached by tokens of one byte, then by any. States that count follow each other
    /// regularly in it, whatever longer tokens there are, so that their rows of steps are equal.
    fn order(&self, groups: &Groups) -> Vec<u32> {
        let mut order = vec![0];
        let mut found = vec![false; self.edges.len()];
        found[0] = true;
        for only_single_bytes in [true, false] {
            let mut next = 0;
            while let Some(&state) = order.get(next) {
                for &(group, to) in &self.edges[state as usize] {
                    if (!only_single_bytes || groups.has_single_byte(group))
                        && !std::mem::replace(&mut found[to as usize], true)
                    {
                        order.push(to);
                    }
                }
                next += 1;
            }
        }
        order
    }

    /// The place of each class among `classes`, those of end tokens included: those that are still
    /// allowed in the last states of `order` come first, so that rows of steps may end early, and the
    /// one of tokens that are never allowed comes last.
    fn class_places(
        &self,
        order: &[u32],
        class_of_group: &[u32],
        text_classes: usize,
        classes: usize,
    ) -> Vec<u32> {
        // Of each class: the last state that allows it, counted from 1, and how many do.
        let mut allowed = vec![(0, 0); classes];
        let mut allow = |class: usize, place: usize| {
            let (last, states) = &mut allowed[class];
            *states += usize::from(*last != place);
            *last = place;
        };
        for (place, &state) in (1..).zip(order) {
            for &(group, _) in &self.edges[state as usize] {
                allow(class_of_group[group as usize] as usize, place);
            }
            if self.accepting[state as usize] {
                (text_classes..classes).for_each(|class| allow(class, place));
            }
        }
        let mut sorted: Vec<usize> = (0..classes).collect();
        sorted.sort_by_key(|&class| (class == 0, Reverse(allowed[class])));
        let mut places = vec![0; classes];
        for (place, class) in (0..).zip(sorted) {
            places[class] = place;
        }
        places
    }

    /// Refuses rows that are beyond the limit by so much that no sharing brings them below it.
    fn check_working_bytes(&self, bytes: usize) -> Result<(), ConstraintError> {
        /// Times the limit.
        const MOST: usize = 8;
        let limit = self.limits.table_bytes;
        if bytes <= MOST * limit {
            return Ok(());
        }
        Err(ConstraintError::TooLarge {
            what: "bytes of tables",
            found: Found::MoreThan(limit),
            limit,
        })
    }

    /// Of each state: the fewest tokens to a match, or `None` where decoding would paint itself
    /// into a corner.
    fn tokens_to_go(&self) -> Vec<Option<usize>> {
        let states = self.edges.len();
        let mut into: Vec<Vec<u32>> = vec![Vec::new(); states];
        for (state, edges) in self.edges.iter().enumerate() {
            for &(_, next) in edges {
                // Edges often come in runs to the same state.
                if into[next as usize].last() != Some(&(state as u32)) {
                    into[next as usize].push(state as u32);
                }
            }
        }
        let mut distances: Vec<Option<usize>> = (self.accepting.iter())
            .map(|&accepting| accepting.then_some(0))
            .collect();
        let mut queue: VecDeque<usize> =
            (0..states).filter(|&state| self.accepting[state]).collect();
        while let Some(state) = queue.pop_front() {
            for &before in &into[state] {
                let before = before as usize;
                if distances[before].is_none() {
                    distances[before] = distances[state].map(|distance| distance + 1);
                    queue.push_back(before);
                }
            }
        }
        distances
    }

    /// The class of each group, and how many there are. Groups of one class lead from every state
    /// to the same one; class 0 leads nowhere.
    ///
    /// The partition is refined state by state: the groups of a class that lead to the same state
    /// become a class, unless they are all of it. Only edges are looked at, so that a state which
    /// allows ten tokens costs ten steps.
    fn classes(&self, groups: usize) -> (Vec<u32>, usize) {
        let mut class_of = vec![0_u32; groups];
        // What is in no group is in class 0 as well, which therefore is never used up.
        let mut sizes = vec![groups + 1];
        let mut parts: FxHashMap<(u32, u32), Part> = FxHashMap::default();
        for edges in &self.edges {
            parts.clear();
            for &(group, next) in edges {
                let part = parts.entry((class_of[group as usize], next)).or_default();
                part.size += 1;
            }
            for &(group, next) in edges {
                let class = &mut class_of[group as usize];
                let part = parts.get_mut(&(*class, next)).expect("counted above");
                *class = *part.class.get_or_insert_with(|| {
                    if part.size == sizes[*class as usize] {
                        return *class;
                    }
                    sizes[*class as usize] -= part.size;
                    sizes.push(part.size);
                    sizes.len() as u32 - 1
                });
            }
        }
        (class_of, sizes.len())
    }
}

/// The groups of one class that lead to one state.
#[derive(Default)]
struct Part {
    size: usize,
    /// The class that they become.
    class: Option<u32>,
}
