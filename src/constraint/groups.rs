//! Tokens that no automaton of a constraint tells apart.
//!
//! What a token's bytes do to the automata is a function from states to states. Of the 150,000
//! tokens of a vocabulary most do what another one does (in a JSON string, any three letters lead
//! three characters on), so there are a dozen functions, or a few hundred: those are the groups.
//! They are found in one walk of the vocabulary's trie, in which a byte after a function makes
//! another function, and is looked up if it was met before.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::error::{ConstraintError, Found};
use super::regex::Dfa;
use super::vocabulary::Vocabulary;
use crate::model::TokenId;

/// The number of a group.
pub type Group = u32;

/// A partition of the tokens that a constraint may allow.
#[derive(Debug)]
pub struct Groups {
    /// Of each token: its group, or [`Groups::NONE`].
    group_of: Vec<Group>,
    /// Group g has `members[starts[g]..starts[g + 1]]`, ascending.
    starts: Vec<u32>,
    members: Vec<TokenId>,
    /// Of each group: whether a token of it is a single byte.
    single_byte: Vec<bool>,
    /// Of each state of each automaton: the groups that it can read, and where they lead.
    walks: Vec<Vec<Vec<(Group, u32)>>>,
}

/// Pairs of states that all functions of a constraint may have together, 8 bytes each.
const MOST_PAIRS: usize = 16 << 20;

impl Groups {
    /// No group: added tokens that nothing names, end tokens, padding.
    pub const NONE: Group = Group::MAX;
    /// The ordinary tokens that no automaton can read from any state.
    pub const REST: Group = 0;

    /// Groups the tokens of `vocabulary` by what `dfas` make of them. Each of `alone` becomes a
    /// group of its own, added tokens too; those of `excluded` are in no group.
    ///
    /// # Errors
    /// If the tokens do more different things to the automata than fit in memory.
    pub fn new(
        vocabulary: &Vocabulary,
        dfas: &[Arc<Dfa>],
        alone: &[TokenId],
        excluded: &[TokenId],
    ) -> Result<Self, ConstraintError> {
        let mut building = Building::new(vocabulary, alone, excluded);
        let mut functions = Functions::new(dfas);
        let mut path = vec![Functions::IDENTITY];
        let mut node = 0;
        while node < vocabulary.nodes() {
            path.truncate(vocabulary.depth(node) + 1);
            let function = functions.then(path[path.len() - 1], vocabulary.byte(node))?;
            if function == Functions::NOWHERE {
                node = vocabulary.end(node);
                continue;
            }
            path.push(function);
            for &token in vocabulary.ending_at(node) {
                building.add(token, function);
            }
            node += 1;
        }
        Ok(building.finish(&functions, dfas, vocabulary))
    }

    /// How many groups there are.
    #[allow(
        clippy::len_without_is_empty,
        reason = "there is always the group of the rest"
    )]
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// The group of a token, or [`NONE`](Self::NONE).
    pub fn group_of(&self, token: TokenId) -> Group {
        (self.group_of.get(token as usize)).map_or(Self::NONE, |&group| group)
    }

    /// The tokens of a group, ascending.
    pub fn members(&self, group: Group) -> &[TokenId] {
        let group = group as usize;
        &self.members[self.starts[group] as usize..self.starts[group + 1] as usize]
    }

    /// Whether one of the group's tokens is a single byte.
    pub fn has_single_byte(&self, group: Group) -> bool {
        self.single_byte[group as usize]
    }

    /// The groups that can be read from a state of automaton number `dfa`, and the states that
    /// they lead to, by group.
    pub fn walk(&self, dfa: usize, state: u32) -> &[(Group, u32)] {
        &self.walks[dfa][state as usize]
    }
}

/// What strings of bytes do to all states of all automata.
///
/// The states of all automata are numbered one after the other. A function is a list of pairs
/// (from, to) by `from`; states that it leads nowhere are left out, so that large automata, of
/// which a string can be read from a small part, cost little.
struct Functions<'a> {
    dfas: &'a [Arc<Dfa>],
    /// The first number of each automaton's states.
    offsets: Vec<u32>,
    classes: ByteClasses,
    lists: Vec<Vec<(u32, u32)>>,
    numbers: FxHashMap<Vec<(u32, u32)>, u32>,
    /// What a byte of each class makes of each function, as far as it is known:
    /// `[functions][classes]`.
    known: Vec<Option<u32>>,
    pairs: usize,
}

impl<'a> Functions<'a> {
    /// Leads nowhere from any state.
    const NOWHERE: u32 = 0;
    /// Leads from every state to itself: no bytes at all.
    const IDENTITY: u32 = 1;

    fn new(dfas: &'a [Arc<Dfa>]) -> Self {
        let mut states = 0;
        let mut offsets = Vec::with_capacity(dfas.len());
        let mut identity = Vec::new();
        for dfa in dfas {
            offsets.push(states);
            identity.extend((1..dfa.states() as u32).map(|state| (states + state, states + state)));
            states += dfa.states() as u32;
        }
        let mut functions = Self {
            dfas,
            offsets,
            classes: ByteClasses::of(dfas),
            lists: Vec::new(),
            numbers: FxHashMap::default(),
            known: Vec::new(),
            pairs: 0,
        };
        functions.number(Vec::new());
        functions.lists.push(identity);
        functions.known.resize(2 * functions.classes.count, None);
        functions
    }

    /// The number of a function, which is new or not.
    fn number(&mut self, list: Vec<(u32, u32)>) -> u32 {
        if let Some(&number) = self.numbers.get(&list) {
            return number;
        }
        let number = self.lists.len() as u32;
        self.pairs += list.len();
        self.lists.push(list.clone());
        self.numbers.insert(list, number);
        self.known
            .resize(self.lists.len() * self.classes.count, None);
        number
    }

    /// What `function` and then `byte` do.
    fn then(&mut self, function: u32, byte: u8) -> Result<u32, ConstraintError> {
        let Some(class) = self.classes.of[usize::from(byte)] else {
            return Ok(Self::NOWHERE);
        };
        let place = function as usize * self.classes.count + usize::from(class);
        if let Some(known) = self.known[place] {
            return Ok(known);
        }
        let mut list = Vec::new();
        let mut dfa = 0;
        for &(from, to) in &self.lists[function as usize] {
            // A state leads to states of its own automaton, and the list is in their order.
            while self.offsets.get(dfa + 1).is_some_and(|&next| next <= from) {
                dfa += 1;
            }
            let next = self.dfas[dfa].next(to - self.offsets[dfa], byte);
            if next != Dfa::DEAD {
                list.push((from, self.offsets[dfa] + next));
            }
        }
        if self.pairs + list.len() > MOST_PAIRS {
            return Err(ConstraintError::TooLarge {
                what: "pairs of states to tell tokens apart (simpler regexes need fewer)",
                found: Found::MoreThan(MOST_PAIRS),
                limit: MOST_PAIRS,
            });
        }
        let number = self.number(list);
        self.known[place] = Some(number);
        Ok(number)
    }
}

/// Classes of bytes that all of several automata treat alike.
struct ByteClasses {
    /// The class of each byte: `None` if it leads nowhere in any automaton.
    of: [Option<u8>; 256],
    count: usize,
}

impl ByteClasses {
    fn of(dfas: &[Arc<Dfa>]) -> Self {
        let mut of = [None; 256];
        let mut seen: FxHashMap<Vec<u8>, u8> = FxHashMap::default();
        let live: Vec<[bool; 256]> = dfas.iter().map(|dfa| dfa.live_bytes()).collect();
        for (byte, class) in of.iter_mut().enumerate() {
            if live.iter().any(|live| live[byte]) {
                let classes = dfas.iter().map(|dfa| dfa.class_of()[byte]).collect();
                // At most 256 entries, so the last number is 255.
                let next = seen.len();
                *class = Some(*seen.entry(classes).or_insert(next as u8));
            }
        }
        let count = seen.len();
        Self { of, count }
    }
}

/// The groups while they grow.
struct Building {
    group_of: Vec<Group>,
    /// Whether a token is to be a group of its own.
    alone: Vec<bool>,
    /// Of each group: its function.
    functions: Vec<u32>,
    /// The group of each function, of the tokens that don't stand alone.
    shared: FxHashMap<u32, Group>,
}

impl Building {
    fn new(vocabulary: &Vocabulary, alone: &[TokenId], excluded: &[TokenId]) -> Self {
        let tokens = vocabulary.bytes().len();
        let mut group_of = vec![Groups::NONE; tokens];
        for &token in vocabulary.tokens() {
            group_of[token as usize] = Groups::REST;
        }
        for &token in excluded {
            group_of[token as usize] = Groups::NONE;
        }
        let mut stands_alone = vec![false; tokens];
        let mut functions = vec![Functions::NOWHERE];
        for &token in alone {
            if !std::mem::replace(&mut stands_alone[token as usize], true) {
                group_of[token as usize] = functions.len() as Group;
                functions.push(Functions::NOWHERE);
            }
        }
        Self {
            group_of,
            alone: stands_alone,
            functions,
            shared: FxHashMap::default(),
        }
    }

    fn add(&mut self, token: TokenId, function: u32) {
        let group = &mut self.group_of[token as usize];
        if self.alone[token as usize] {
            self.functions[*group as usize] = function;
        } else if *group != Groups::NONE {
            *group = *self.shared.entry(function).or_insert_with(|| {
                self.functions.push(function);
                self.functions.len() as Group - 1
            });
        }
    }

    fn finish(
        self,
        functions: &Functions<'_>,
        dfas: &[Arc<Dfa>],
        vocabulary: &Vocabulary,
    ) -> Groups {
        let mut walks: Vec<Vec<Vec<(Group, u32)>>> = (dfas.iter())
            .map(|dfa| vec![Vec::new(); dfa.states()])
            .collect();
        for (group, &function) in self.functions.iter().enumerate() {
            let mut dfa = 0;
            for &(from, to) in &functions.lists[function as usize] {
                while functions
                    .offsets
                    .get(dfa + 1)
                    .is_some_and(|&next| next <= from)
                {
                    dfa += 1;
                }
                let offset = functions.offsets[dfa];
                walks[dfa][(from - offset) as usize].push((group as Group, to - offset));
            }
        }
        // A counting sort by group, which leaves the members ascending.
        let mut starts = vec![0; self.functions.len() + 1];
        let grouped = |group: &&Group| **group != Groups::NONE;
        for &group in self.group_of.iter().filter(grouped) {
            starts[group as usize + 1] += 1;
        }
        for group in 0..self.functions.len() {
            starts[group + 1] += starts[group];
        }
        let mut places = starts.clone();
        let mut members = vec![0; *starts.last().expect("never empty") as usize];
        for (token, &group) in self.group_of.iter().enumerate() {
            if group != Groups::NONE {
                let place = &mut places[group as usize];
                members[*place as usize] = token as TokenId;
                *place += 1;
            }
        }
        let mut single_byte = vec![false; self.functions.len()];
        for &token in vocabulary.tokens() {
            let group = self.group_of[token as usize];
            if group != Groups::NONE && vocabulary.bytes().get(token).len() == 1 {
                single_byte[group as usize] = true;
            }
        }
        Groups {
            group_of: self.group_of,
            starts,
            members,
            single_byte,
            walks,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constraint::test_vocabulary;

    fn dfa(pattern: &str) -> Arc<Dfa> {
        Arc::new(Dfa::new(pattern, "regex", 1 << 20).unwrap())
    }

    #[test]
    fn walking_groups_is_reading_every_token() {
        let tokenizer = test_vocabulary::byte_level(&["ab", "12", "1a", "a1", "é", "<a", "b1c2"]);
        let vocabulary = Vocabulary::of(&tokenizer).unwrap();
        let dfas = [dfa("[a-c]*1(é|<)?"), dfa(r"\d+[a-z]{2}")];
        let alone = [vocabulary.tokens()[3], tokenizer.token_id("12").unwrap()];
        let groups = Groups::new(&vocabulary, &dfas, &alone, &[]).unwrap();
        for (number, dfa) in dfas.iter().enumerate() {
            for state in 1..dfa.states() as u32 {
                let walked: FxHashMap<Group, u32> =
                    groups.walk(number, state).iter().copied().collect();
                for &token in vocabulary.tokens() {
                    let next = dfa.read(state, vocabulary.bytes().get(token));
                    let walked = walked.get(&groups.group_of(token)).copied();
                    assert_eq!(walked.unwrap_or(Dfa::DEAD), next, "{token}");
                }
            }
        }
        for token in alone {
            assert_eq!(groups.members(groups.group_of(token)), [token]);
        }
    }

    #[test]
    fn the_members_of_all_groups_are_all_ordinary_tokens_but_the_excluded() {
        let tokenizer = test_vocabulary::demo();
        let vocabulary = Vocabulary::of(&tokenizer).unwrap();
        let excluded = [vocabulary.tokens()[7]];
        let added = tokenizer.token_id("[SMILES]").unwrap();
        let groups = Groups::new(&vocabulary, &[dfa("[a-z]+")], &[added], &excluded).unwrap();
        let mut all: Vec<TokenId> = (0..groups.len() as Group)
            .flat_map(|group| groups.members(group))
            .copied()
            .collect();
        all.sort_unstable();
        let mut expected: Vec<TokenId> = vocabulary.tokens().to_vec();
        expected.retain(|token| !excluded.contains(token));
        expected.push(added);
        expected.sort_unstable();
        assert_eq!(all, expected);
    }
}
