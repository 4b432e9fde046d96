//! From literal runs and slots to tables.
//!
//! A place in the text is a segment and how far it is done: tokens of a literal, or a state of a
//! slot's automaton. Where a slot's regex matches, the place is also the beginning of the next
//! segment; so a state of the tables is a set of places (the subset construction). Segments meet
//! between tokens, never inside one, but for slots that are joined to the literal before.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::Limits;
use super::draft::Draft;
use super::error::ConstraintError;
use super::groups::{Group, Groups};
use super::memo::Memo;
use super::regex::Dfa;
use super::tables::Tables;
use super::template::{Segment, Slot, Template};
use super::vocabulary::Vocabulary;
use crate::model::TokenId;
use crate::model::tokenizer::Tokenizer;

/// A place: a segment, and how far it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Place {
    segment: u32,
    /// Tokens of a literal, or the state of a slot's automaton.
    at: u32,
}

/// A segment, compiled.
enum Part {
    /// Tokens that are forced.
    Run {
        tokens: Arc<[TokenId]>,
        /// Tokens that may stand for the last one, and the states of the next segment's automaton
        /// that they lead to.
        joining: Vec<(TokenId, u32)>,
    },
    /// The automaton of a slot.
    Slot(usize),
}

/// Compiles a template; `what` names it in errors.
///
/// # Errors
/// A literal that can't be spelled, a regex that is refused, no match, or too many states.
pub fn compile(
    template: &Template,
    what: &'static str,
    memo: &Memo,
    tokenizer: &Tokenizer,
    vocabulary: &Vocabulary,
    end_tokens: &[TokenId],
    limits: Limits,
) -> Result<Tables, ConstraintError> {
    let mut dfas = Vec::new();
    let mut numbers: FxHashMap<&str, usize> = FxHashMap::default();
    let mut parts = Vec::new();
    for segment in template.segments() {
        let part = match segment {
            Segment::Literal(text) => {
                let tokens = memo.spell(tokenizer, vocabulary, text)?;
                if let Some(&token) = tokens.iter().find(|&token| end_tokens.contains(token)) {
                    let reason = format!("ends a text, but stands in the literal {text:?}");
                    return Err(ConstraintError::Token { token, reason });
                }
                let joining = Vec::new();
                Part::Run { tokens, joining }
            }
            Segment::Slot(slot) => {
                let number = match numbers.get(slot.regex.as_str()) {
                    Some(&number) => number,
                    None => {
                        dfas.push(memo.automaton(
                            &slot.regex,
                            &slot.what(what),
                            limits.automaton_bytes,
                        )?);
                        numbers.insert(&slot.regex, dfas.len() - 1);
                        dfas.len() - 1
                    }
                };
                if let (true, Some(Part::Run { tokens, joining })) = (slot.joined, parts.last_mut())
                {
                    *joining = joining_tokens(tokens, &dfas[number], vocabulary, end_tokens);
                }
                Part::Slot(number)
            }
        };
        parts.push(part);
    }
    let alone: Vec<TokenId> = (parts.iter())
        .flat_map(|part| match part {
            Part::Run { tokens, joining } => (tokens.iter().copied())
                .chain(joining.iter().map(|&(token, _)| token))
                .collect(),
            Part::Slot(_) => Vec::new(),
        })
        .collect();
    let groups = Groups::new(vocabulary, &dfas, &alone, end_tokens)?;
    let search = Search {
        parts: &parts,
        dfas: &dfas,
        groups: &groups,
        states: FxHashMap::default(),
        single: FxHashMap::default(),
        sets: Vec::new(),
        draft: Draft::new(what, limits),
    };
    search.run()?.finish(&groups, vocabulary.rows(), end_tokens)
}

impl Slot {
    /// Its regex's name in errors.
    fn what(&self, whole: &str) -> String {
        if self.name.is_empty() {
            whole.to_owned()
        } else {
            format!("regex of slot '{}'", self.name)
        }
    }
}

/// The tokens that spell the last one of `tokens` and go on into `dfa`.
fn joining_tokens(
    tokens: &[TokenId],
    dfa: &Dfa,
    vocabulary: &Vocabulary,
    end_tokens: &[TokenId],
) -> Vec<(TokenId, u32)> {
    let last = tokens
        .last()
        .and_then(|&last| vocabulary.bytes().text(last));
    let Some(last) = last else {
        return Vec::new();
    };
    (vocabulary.beyond(last).iter())
        .map(|&token| {
            let beginning = &vocabulary.bytes().get(token)[last.len()..];
            (token, dfa.read(dfa.start(), beginning))
        })
        .filter(|&(token, state)| state != Dfa::DEAD && !end_tokens.contains(&token))
        .collect()
}

struct Search<'a> {
    parts: &'a [Part],
    dfas: &'a [Arc<Dfa>],
    groups: &'a Groups,
    /// The state of each set of places.
    states: FxHashMap<Vec<Place>, u32>,
    /// The state of each place that a token led to alone.
    single: FxHashMap<Place, u32>,
    /// The set of each state.
    sets: Vec<Vec<Place>>,
    draft: Draft,
}

impl Search<'_> {
    fn run(mut self) -> Result<Draft, ConstraintError> {
        let start = self.beginning(0);
        self.state_of(&[start])?;
        let mut state = 0;
        while state < self.sets.len() {
            let edges = self.edges(state)?;
            self.draft.set_edges(state as u32, edges)?;
            state += 1;
        }
        Ok(self.draft)
    }

    /// The place before anything of a segment, or the one behind the last segment.
    fn beginning(&self, segment: u32) -> Place {
        let at = match self.parts.get(segment as usize) {
            Some(&Part::Slot(number)) => self.dfas[number].start(),
            Some(Part::Run { .. }) | None => 0,
        };
        Place { segment, at }
    }

    /// Adds to `places` the beginnings of the segments that may begin there.
    fn close(&self, places: &mut Vec<Place>) {
        let mut next = 0;
        while let Some(&place) = places.get(next) {
            let done = match self.parts.get(place.segment as usize) {
                Some(&Part::Slot(number)) => self.dfas[number].is_accepting(place.at),
                Some(Part::Run { tokens, .. }) => place.at as usize == tokens.len(),
                None => false,
            };
            let beginning = self.beginning(place.segment + 1);
            if done && !places.contains(&beginning) {
                places.push(beginning);
            }
            next += 1;
        }
        // The end of a literal is nothing but the beginning of what follows.
        places.retain(|place| match self.parts.get(place.segment as usize) {
            Some(Part::Run { tokens, .. }) => (place.at as usize) < tokens.len(),
            _ => true,
        });
        places.sort_unstable();
    }

    fn state_of(&mut self, places: &[Place]) -> Result<u32, ConstraintError> {
        if let [place] = places
            && let Some(&state) = self.single.get(place)
        {
            return Ok(state);
        }
        let mut closed = places.to_vec();
        self.close(&mut closed);
        let state = match self.states.get(&closed) {
            Some(&state) => state,
            None => {
                let end = self.beginning(self.parts.len() as u32);
                let state = self.draft.add_state(closed.contains(&end))?;
                self.sets.push(closed.clone());
                self.states.insert(closed, state);
                state
            }
        };
        if let [place] = places {
            self.single.insert(*place, state);
        }
        Ok(state)
    }

    fn edges(&mut self, state: usize) -> Result<Vec<(Group, u32)>, ConstraintError> {
        let mut reached: Vec<(Group, Place)> = Vec::new();
        for index in 0..self.sets[state].len() {
            self.leave(self.sets[state][index], &mut reached);
        }
        // One token may lead to several places.
        reached.sort_unstable();
        reached.dedup();
        let mut edges = Vec::new();
        let mut places = Vec::new();
        for run in reached.chunk_by(|a, b| a.0 == b.0) {
            places.clear();
            places.extend(run.iter().map(|&(_, place)| place));
            edges.push((run[0].0, self.state_of(&places)?));
        }
        Ok(edges)
    }

    /// Where tokens lead from `place`.
    fn leave(&self, place: Place, reached: &mut Vec<(Group, Place)>) {
        let Place { segment, at } = place;
        match self.parts.get(segment as usize) {
            None => {}
            Some(Part::Run { tokens, joining }) => {
                let token = tokens[at as usize];
                let next = Place {
                    segment,
                    at: at + 1,
                };
                reached.push((self.groups.group_of(token), next));
                if at as usize + 1 == tokens.len() {
                    let segment = segment + 1;
                    reached.extend(
                        (joining.iter()).map(|&(token, at)| {
                            (self.groups.group_of(token), Place { segment, at })
                        }),
                    );
                }
            }
            Some(&Part::Slot(number)) => {
                let walk = self.groups.walk(number, at).iter();
                reached.extend(walk.map(|&(group, at)| (group, Place { segment, at })));
            }
        }
    }
}
