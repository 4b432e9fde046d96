//! Tokens that no automaton of a constraint tells apart, and a trie of them.
//!
//! Bytes that all automata treat alike are one class (every letter in a JSON string, say), so two
//! tokens whose bytes are of the same classes, one by one, lead from every state to the same state.
//! They are one group. A vocabulary of 150,000 tokens is a few thousand groups, or a dozen, and
//! walking their trie from a state costs as much less than walking the vocabulary's.

use rustc_hash::FxHashMap;

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
    /// Of each node, in preorder: a byte of the class that leads to it, ...
    bytes: Vec<u8>,
    /// ... how many lead to it, less one, ...
    depths: Vec<u16>,
    /// ... the first node after its subtree, ...
    ends: Vec<u32>,
    /// ... and where its groups begin in `listed`.
    firsts: Vec<u32>,
    listed: Vec<Group>,
}

impl Groups {
    /// No group: added tokens that nothing names, end tokens, padding.
    pub const NONE: Group = Group::MAX;
    /// The ordinary tokens that no automaton can read from any state.
    pub const REST: Group = 0;

    /// Groups the tokens of `vocabulary` by what `dfas` make of them. Each of `alone` becomes a
    /// group of its own, added tokens too; those of `excluded` are in no group.
    pub fn new(
        vocabulary: &Vocabulary,
        dfas: &[Dfa],
        alone: &[TokenId],
        excluded: &[TokenId],
    ) -> Self {
        let mut building = Building::new(vocabulary, alone, excluded);
        building.add_tokens(vocabulary, &ByteClasses::of(dfas));
        building.finish()
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

    /// The groups that can be read from `state`, and the states that they lead to.
    pub fn walk(&self, dfa: &Dfa, state: u32) -> Vec<(Group, u32)> {
        let mut reached = Vec::new();
        // The states on the way to the node at hand; the deepest node decides how many.
        let deepest = self
            .depths
            .iter()
            .max()
            .map_or(0, |&depth| usize::from(depth) + 1);
        let mut path = vec![Dfa::DEAD; deepest + 1];
        path[0] = state;
        let mut node = 0;
        while node < self.bytes.len() {
            let depth = usize::from(self.depths[node]);
            let next = dfa.next(path[depth], self.bytes[node]);
            if next == Dfa::DEAD {
                node = self.ends[node] as usize;
                continue;
            }
            path[depth + 1] = next;
            let groups = self.firsts[node] as usize..self.firsts[node + 1] as usize;
            reached.extend(self.listed[groups].iter().map(|&group| (group, next)));
            node += 1;
        }
        reached
    }
}

/// Classes of bytes that all of several automata treat alike.
struct ByteClasses {
    /// The class of each byte: `None` if it leads nowhere in any automaton.
    of: [Option<u8>; 256],
}

impl ByteClasses {
    fn of(dfas: &[Dfa]) -> Self {
        let mut of = [None; 256];
        let mut seen: FxHashMap<Vec<u8>, u8> = FxHashMap::default();
        let live: Vec<Vec<bool>> = (dfas.iter())
            .map(|dfa| (0..=u8::MAX).map(|byte| dfa.is_live(byte)).collect())
            .collect();
        for (byte, class) in of.iter_mut().enumerate() {
            if live.iter().any(|live| live[byte]) {
                let classes = dfas.iter().map(|dfa| dfa.class_of()[byte]).collect();
                // At most 256 entries, so the last number is 255.
                let next = seen.len();
                *class = Some(*seen.entry(classes).or_insert(next as u8));
            }
        }
        Self { of }
    }
}

/// The groups and their trie while they grow.
struct Building {
    group_of: Vec<Group>,
    groups: u32,
    /// Whether a token is to be a group of its own.
    alone: Vec<bool>,
    nodes: Vec<Node>,
    /// Children by parent and class.
    children: FxHashMap<(u32, u8), u32>,
    /// Groups by the node that they end at.
    ending: Vec<(u32, Group)>,
}

#[derive(Clone, Copy)]
struct Node {
    /// Any byte of the class that leads here.
    byte: u8,
    /// The group of the tokens that end here and don't stand alone.
    group: Group,
    first_child: u32,
    next_sibling: u32,
}

/// No node.
const NOTHING: u32 = u32::MAX;
const ROOT: u32 = 0;

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
        let mut groups = Groups::REST + 1;
        for &token in alone {
            if !std::mem::replace(&mut stands_alone[token as usize], true) {
                group_of[token as usize] = groups;
                groups += 1;
            }
        }
        let mut building = Self {
            group_of,
            groups,
            alone: stands_alone,
            nodes: Vec::new(),
            children: FxHashMap::default(),
            ending: Vec::new(),
        };
        building.add_node(0);
        building
    }

    fn add_node(&mut self, byte: u8) -> u32 {
        self.nodes.push(Node {
            byte,
            group: Groups::NONE,
            first_child: NOTHING,
            next_sibling: NOTHING,
        });
        self.nodes.len() as u32 - 1
    }

    /// Adds every token all of whose bytes have a class.
    fn add_tokens(&mut self, vocabulary: &Vocabulary, classes: &ByteClasses) {
        let mut path = vec![ROOT];
        let mut node = 0;
        while node < vocabulary.nodes() {
            let byte = vocabulary.byte(node);
            let Some(class) = classes.of[usize::from(byte)] else {
                node = vocabulary.end(node);
                continue;
            };
            path.truncate(vocabulary.depth(node) + 1);
            let child = self.child(path[path.len() - 1], class, byte);
            path.push(child);
            for &token in vocabulary.ending_at(node) {
                self.end_token(token, child);
            }
            node += 1;
        }
    }

    fn child(&mut self, parent: u32, class: u8, byte: u8) -> u32 {
        if let Some(&child) = self.children.get(&(parent, class)) {
            return child;
        }
        let child = self.add_node(byte);
        self.children.insert((parent, class), child);
        let parent = &mut self.nodes[parent as usize];
        let sibling = std::mem::replace(&mut parent.first_child, child);
        self.nodes[child as usize].next_sibling = sibling;
        child
    }

    fn end_token(&mut self, token: TokenId, node: u32) {
        let group = &mut self.group_of[token as usize];
        if self.alone[token as usize] {
            self.ending.push((node, *group));
        } else if *group != Groups::NONE {
            let shared = &mut self.nodes[node as usize].group;
            if *shared == Groups::NONE {
                *shared = self.groups;
                self.groups += 1;
                self.ending.push((node, *shared));
            }
            *group = *shared;
        }
    }

    fn finish(mut self) -> Groups {
        self.ending.sort_unstable();
        let mut groups = Groups {
            starts: vec![0; self.groups as usize + 1],
            members: Vec::new(),
            bytes: Vec::with_capacity(self.nodes.len()),
            depths: Vec::with_capacity(self.nodes.len()),
            ends: vec![0; self.nodes.len() - 1],
            firsts: Vec::with_capacity(self.nodes.len()),
            listed: Vec::with_capacity(self.ending.len()),
            group_of: Vec::new(),
        };
        self.flatten(&mut groups);
        // A counting sort by group, which leaves the members ascending.
        for &group in self.group_of.iter().filter(|&&group| group != Groups::NONE) {
            groups.starts[group as usize + 1] += 1;
        }
        for group in 0..self.groups as usize {
            groups.starts[group + 1] += groups.starts[group];
        }
        let mut places = groups.starts.clone();
        groups.members = vec![0; *places.last().expect("never empty") as usize];
        for (token, &group) in self.group_of.iter().enumerate() {
            if group != Groups::NONE {
                let place = &mut places[group as usize];
                groups.members[*place as usize] = token as TokenId;
                *place += 1;
            }
        }
        groups.group_of = self.group_of;
        groups
    }

    /// Lays the nodes down in preorder, without the root.
    fn flatten(&self, groups: &mut Groups) {
        // The nodes to come with their depths, and the places whose subtrees are not over.
        let mut stack = vec![(self.nodes[ROOT as usize].first_child, 0_u16)];
        let mut open: Vec<usize> = Vec::new();
        while let Some((node, depth)) = stack.pop() {
            if node == NOTHING {
                continue;
            }
            let Node {
                byte,
                first_child,
                next_sibling,
                ..
            } = self.nodes[node as usize];
            for place in open.drain(usize::from(depth)..) {
                groups.ends[place] = groups.bytes.len() as u32;
            }
            open.push(groups.bytes.len());
            groups.bytes.push(byte);
            groups.depths.push(depth);
            groups.firsts.push(groups.listed.len() as u32);
            let ending = self.ending.partition_point(|&(at, _)| at < node);
            let here = self.ending[ending..]
                .iter()
                .take_while(|&&(at, _)| at == node);
            groups.listed.extend(here.map(|&(_, group)| group));
            stack.push((next_sibling, depth));
            stack.push((first_child, depth + 1));
        }
        for place in open {
            groups.ends[place] = groups.bytes.len() as u32;
        }
        groups.firsts.push(groups.listed.len() as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constraint::test_vocabulary;

    fn dfa(pattern: &str) -> Dfa {
        Dfa::new(pattern, "regex", 1 << 20).unwrap()
    }

    #[test]
    fn walking_groups_is_reading_every_token() {
        let tokenizer = test_vocabulary::byte_level(&["ab", "12", "1a", "a1", "é", "<a", "b1c2"]);
        let vocabulary = Vocabulary::of(&tokenizer).unwrap();
        let dfas = [dfa("[a-c]*1(é|<)?"), dfa(r"\d+[a-z]{2}")];
        let alone = [vocabulary.tokens()[3], tokenizer.token_id("12").unwrap()];
        let groups = Groups::new(&vocabulary, &dfas, &alone, &[]);
        for dfa in &dfas {
            for state in 1..dfa.states() as u32 {
                let walked: FxHashMap<Group, u32> = groups.walk(dfa, state).into_iter().collect();
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
        let groups = Groups::new(&vocabulary, &[dfa("[a-z]+")], &[added], &excluded);
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
