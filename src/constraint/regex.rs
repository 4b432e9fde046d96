//! From a regex to an automaton over bytes that knows when a whole text matches.

use std::collections::VecDeque;

use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::nfa::thompson::{self, NFA, WhichCaptures};
use regex_automata::util::primitives::StateID;
use regex_automata::util::start;
use regex_automata::{Anchored, MatchKind};
use regex_syntax::ast;
use rustc_hash::FxHashMap;

use super::error::{ConstraintError, Found};

/// A deterministic automaton over bytes, without states from which no match can be reached.
#[derive(Clone, Debug)]
pub struct Dfa {
    /// The class of each byte; bytes of a class lead to the same states.
    class_of: [u8; 256],
    classes: usize,
    /// `[states][classes]`; state 0 is where nothing can match any more.
    next: Vec<u32>,
    accepting: Vec<bool>,
    start: u32,
}

impl Dfa {
    /// The state in which nothing can match any more.
    pub const DEAD: u32 = 0;

    /// The automaton of `pattern` in the regex crate's syntax, which matches whole texts: as if
    /// the pattern stood between `\A` and `\z`. `what` names it in errors, `limit` is how many
    /// bytes it may take while it is built.
    ///
    /// # Errors
    /// A pattern that is empty, invalid, matches nothing, needs more than a finite automaton
    /// (named), or grows beyond `limit`.
    pub fn new(pattern: &str, what: &str, limit: usize) -> Result<Self, ConstraintError> {
        let what = || what.to_owned();
        if pattern.is_empty() {
            return Err(ConstraintError::Empty { what: what() });
        }
        let hir = regex_syntax::Parser::new()
            .parse(pattern)
            .map_err(|error| refused(&error, what()))?;
        if hir.properties().look_set().contains_word_unicode() {
            return Err(ConstraintError::Unsupported {
                what: what(),
                feature: r"a Unicode word boundary (\b, \B, \< or \>)",
                instead: r"; (?-u:\b) is the boundary between ASCII words",
            });
        }
        let too_large = || ConstraintError::TooLarge {
            what: "bytes for the automaton of a regex (fewer or smaller repetitions need less)",
            found: Found::MoreThan(limit),
            limit,
        };
        let config = thompson::Config::new()
            .which_captures(WhichCaptures::None)
            .nfa_size_limit(Some(limit));
        let nfa = match NFA::compiler().configure(config).build_from_hir(&hir) {
            Ok(nfa) => nfa,
            Err(error) if error.size_limit().is_some() => return Err(too_large()),
            Err(error) => {
                let message = error.to_string();
                return Err(ConstraintError::Regex {
                    what: what(),
                    message,
                });
            }
        };
        let config = dense::Config::new()
            .start_kind(StartKind::Anchored)
            // Leftmost-first would drop what lies behind a match: the match is of a whole text.
            .match_kind(MatchKind::All)
            .dfa_size_limit(Some(limit))
            .determinize_size_limit(Some(limit));
        let dfa = match dense::Builder::new().configure(config).build_from_nfa(&nfa) {
            Ok(dfa) => dfa,
            Err(error) if error.is_size_limit_exceeded() => return Err(too_large()),
            Err(error) => {
                let message = error.to_string();
                return Err(ConstraintError::Regex {
                    what: what(),
                    message,
                });
            }
        };
        let mut dfa = Self::reached(&dfa);
        dfa.merge_equal_states();
        dfa.drop_hopeless_states();
        if dfa.start == Self::DEAD {
            return Err(ConstraintError::MatchesNothing { what: what() });
        }
        Ok(dfa)
    }

    /// How many states there are, the dead one included.
    pub fn states(&self) -> usize {
        self.accepting.len()
    }

    /// The state before the first byte.
    pub fn start(&self) -> u32 {
        self.start
    }

    /// Whether what was read so far is a match.
    pub fn is_accepting(&self, state: u32) -> bool {
        self.accepting[state as usize]
    }

    /// The state after one more byte.
    pub fn next(&self, state: u32, byte: u8) -> u32 {
        self.next[state as usize * self.classes + usize::from(self.class_of[usize::from(byte)])]
    }

    /// The state after more bytes.
    pub fn read(&self, state: u32, bytes: &[u8]) -> u32 {
        (bytes.iter()).fold(state, |state, &byte| self.next(state, byte))
    }

    /// The class of each byte.
    pub fn class_of(&self) -> &[u8; 256] {
        &self.class_of
    }

    /// Whether each byte leads anywhere from any state.
    pub fn live_bytes(&self) -> [bool; 256] {
        let mut live_classes = vec![false; self.classes];
        for row in self.next.chunks_exact(self.classes) {
            for (live, &next) in live_classes.iter_mut().zip(row) {
                *live |= next != Self::DEAD;
            }
        }
        self.class_of.map(|class| live_classes[usize::from(class)])
    }

    /// The states that `dfa` reaches, in the order in which they are found.
    ///
    /// Its matches show one byte late (it reports them on the byte that follows, or at the end),
    /// which is undone here by asking each state what the end of the text would be to it.
    fn reached(dfa: &dense::DFA<Vec<u32>>) -> Self {
        let mut class_of = [0; 256];
        for byte in 0..=u8::MAX {
            class_of[usize::from(byte)] = dfa.byte_classes().get(byte);
        }
        let classes = class_of
            .iter()
            .max()
            .map_or(1, |&class| usize::from(class) + 1);
        let mut representative = vec![0; classes];
        for byte in 0..=u8::MAX {
            representative[usize::from(class_of[usize::from(byte)])] = byte;
        }
        let mut built = Self {
            class_of,
            classes,
            next: vec![Self::DEAD; classes],
            accepting: vec![false],
            start: Self::DEAD,
        };
        let mut numbers: FxHashMap<StateID, u32> = FxHashMap::default();
        let mut found = VecDeque::new();
        let mut number = |built: &mut Self, found: &mut VecDeque<StateID>, state: StateID| {
            if dfa.is_dead_state(state) {
                return Self::DEAD;
            }
            *numbers.entry(state).or_insert_with(|| {
                let at_end = dfa.next_eoi_state(state);
                built.accepting.push(dfa.is_match_state(at_end));
                found.push_back(state);
                built.accepting.len() as u32 - 1
            })
        };
        let anchored = start::Config::new().anchored(Anchored::Yes);
        let start = dfa
            .start_state(&anchored)
            .expect("an anchored start was built, and no byte is before it");
        built.start = number(&mut built, &mut found, start);
        while let Some(state) = found.pop_front() {
            for &byte in &representative {
                let next = number(&mut built, &mut found, dfa.next_state(state, byte));
                built.next.push(next);
            }
        }
        built
    }

    /// Makes one of states whose rows are equal, which is sound in any order. The late matches
    /// left two of many states, one for after a match and one for after none.
    fn merge_equal_states(&mut self) {
        // Every round may make more rows equal. A few of them find nearly all there is to find.
        const ROUNDS: usize = 8;
        for _ in 0..ROUNDS {
            let mut seen: FxHashMap<(&[u32], bool), u32> = FxHashMap::default();
            let merged: Vec<u32> = (self.next.chunks_exact(self.classes))
                .zip(&self.accepting)
                .enumerate()
                .map(|(state, (row, &accepting))| {
                    *seen.entry((row, accepting)).or_insert(state as u32)
                })
                .collect();
            let before = self.states();
            self.renumber(&merged);
            if self.states() == before {
                return;
            }
        }
    }

    /// Leads to the dead state wherever no match can follow.
    fn drop_hopeless_states(&mut self) {
        let mut into: Vec<Vec<u32>> = vec![Vec::new(); self.states()];
        for (state, row) in self.next.chunks_exact(self.classes).enumerate() {
            for &next in row {
                if into[next as usize].last() != Some(&(state as u32)) {
                    into[next as usize].push(state as u32);
                }
            }
        }
        let mut hopeful = self.accepting.clone();
        let mut queue: Vec<usize> = (0..self.states()).filter(|&state| hopeful[state]).collect();
        while let Some(state) = queue.pop() {
            for &before in &into[state] {
                if !std::mem::replace(&mut hopeful[before as usize], true) {
                    queue.push(before as usize);
                }
            }
        }
        let kept: Vec<u32> = (0..self.states() as u32)
            .map(|state| {
                if hopeful[state as usize] {
                    state
                } else {
                    Self::DEAD
                }
            })
            .collect();
        self.renumber(&kept);
    }

    /// Replaces each state by `stands_for` it (itself or another one that stays), and closes
    /// the gaps. State 0 stays.
    fn renumber(&mut self, stands_for: &[u32]) {
        let mut number = vec![0; self.states()];
        let mut kept = 0;
        for (state, &other) in stands_for.iter().enumerate() {
            if other as usize == state {
                number[state] = kept;
                kept += 1;
            }
        }
        let new = |state: u32| number[stands_for[state as usize] as usize];
        let stays: Vec<usize> = (0..self.states())
            .filter(|&state| stands_for[state] as usize == state)
            .collect();
        let next = (stays.iter())
            .flat_map(|&state| &self.next[state * self.classes..(state + 1) * self.classes])
            .map(|&next| new(next))
            .collect();
        self.accepting = stays.iter().map(|&state| self.accepting[state]).collect();
        self.start = new(self.start);
        self.next = next;
    }
}

/// The parser's refusal, with the features named that no automaton has.
fn refused(error: &regex_syntax::Error, what: String) -> ConstraintError {
    let feature = match error {
        regex_syntax::Error::Parse(error) => match error.kind() {
            ast::ErrorKind::UnsupportedLookAround => Some("look-around"),
            ast::ErrorKind::UnsupportedBackreference => Some("a back-reference"),
            _ => None,
        },
        _ => None,
    };
    match feature {
        Some(feature) => ConstraintError::Unsupported {
            what,
            feature,
            instead: "",
        },
        None => ConstraintError::Regex {
            what,
            message: error.to_string(),
        },
    }
}
