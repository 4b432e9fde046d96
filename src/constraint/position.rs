//! A mask by position: what the other kinds are compared with.
//!
//! A placeholder text is tokenized once; some of its positions are copied and others are free.
//! The answer has exactly as many tokens, whatever stands at the free ones, unless `truncate`
//! lets a free run end when it is complete.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::Limits;
use super::draft::Draft;
use super::error::ConstraintError;
use super::groups::{Group, Groups};
use super::memo::Memo;
use super::regex::Dfa;
use super::tables::Tables;
use super::template::{Segment, Template};
use super::vocabulary::Vocabulary;
use crate::model::TokenId;
use crate::model::tokenizer::Tokenizer;

/// Runs of positions that are copied or free.
///
/// As a file:
///
/// ```json
/// {
///   "truncate": true,
///   "positions": [
///     {"copy": [58, 34, 256]},
///     {"free": 6, "blocked": [198], "until": "-?\\d+\\.\\d{4}"},
///     {"free": 1, "allowed": [29, 30]}
///   ]
/// }
/// ```
///
/// With `truncate`, a free run with `until` ends with the first token at which the text of the
/// run so far matches that regex, whole. Text that can't match any more runs on to its last
/// position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Positions {
    #[serde(default)]
    truncate: bool,
    #[serde(rename = "positions")]
    runs: Vec<Run>,
}

/// Positions of one kind that follow each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Run {
    /// Tokens that are forced.
    Copy(Copied),
    /// Tokens that are free.
    Free(Free),
}

/// Positions whose tokens are given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copied {
    /// A token for each position.
    #[serde(rename = "copy")]
    pub tokens: Vec<TokenId>,
}

/// Positions whose tokens are chosen: any ordinary token, if nothing else is said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Free {
    /// How many positions there are, at the most.
    #[serde(rename = "free")]
    pub count: usize,
    /// Only these tokens, which may be added tokens too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<Vec<TokenId>>,
    /// All ordinary tokens but these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<Vec<TokenId>>,
    /// The regex that tells when the run is complete; only asked with `truncate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

impl Positions {
    /// A mask of these runs.
    ///
    /// # Errors
    /// No run, a run of no positions, a run with both an allowed and a blocked list.
    pub fn new(runs: Vec<Run>, truncate: bool) -> Result<Self, ConstraintError> {
        if runs.is_empty() {
            let what = "list of positions".to_owned();
            return Err(ConstraintError::Empty { what });
        }
        for (index, run) in runs.iter().enumerate() {
            let wrong = match run {
                Run::Copy(copy) if copy.tokens.is_empty() => "copies no token",
                Run::Free(free) if free.count == 0 => "has no position",
                Run::Free(free) if free.allowed.is_some() && free.blocked.is_some() => {
                    "has both allowed and blocked tokens; give one of the two"
                }
                _ => continue,
            };
            let reason = format!("run {} {wrong}", index + 1);
            return Err(ConstraintError::Positions { reason });
        }
        Ok(Self { truncate, runs })
    }

    /// Reads a file of positions.
    ///
    /// # Errors
    /// No such JSON, unknown fields, and all that [`new`](Self::new) refuses.
    pub fn from_json(json: &[u8]) -> Result<Self, ConstraintError> {
        let Self { truncate, runs } =
            serde_json::from_slice(json).map_err(|error| ConstraintError::Positions {
                reason: format!("{error}; {FORM}"),
            })?;
        Self::new(runs, truncate)
    }

    /// The mask of a template: literals are copied, and a slot is as many free positions as its
    /// placeholder has tokens, complete when the slot's regex matches.
    ///
    /// # Errors
    /// A slot without a placeholder, a text that can't be spelled.
    pub(super) fn from_template(
        template: &Template,
        memo: &Memo,
        tokenizer: &Tokenizer,
        vocabulary: &Vocabulary,
        truncate: bool,
    ) -> Result<Self, ConstraintError> {
        let spell = |text: &str| memo.spell(tokenizer, vocabulary, text);
        let runs = (template.segments().iter())
            .map(|segment| match segment {
                Segment::Literal(text) => Ok(Run::Copy(Copied {
                    tokens: spell(text)?.to_vec(),
                })),
                Segment::Slot(slot) => match &slot.placeholder {
                    Some(placeholder) => Ok(Run::Free(Free {
                        count: spell(placeholder)?.len(),
                        allowed: None,
                        blocked: None,
                        until: Some(slot.regex.clone()),
                    })),
                    None => Err(ConstraintError::Positions {
                        reason: format!(
                            "slot '{}' has no placeholder; give it one, like \"0.0000\"",
                            slot.name
                        ),
                    }),
                },
            })
            .collect::<Result<_, _>>()?;
        Self::new(runs, truncate)
    }

    /// Lets free runs with `until` end when they are complete, whatever the file says.
    pub fn with_truncation(mut self) -> Self {
        self.truncate = true;
        self
    }

    /// Its runs.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Whether free runs end when they are complete.
    pub fn truncates(&self) -> bool {
        self.truncate
    }

    /// Every token that is named.
    fn named(&self) -> Vec<TokenId> {
        let lists = self.runs.iter().flat_map(|run| match run {
            Run::Copy(copy) => [Some(&copy.tokens), None],
            Run::Free(free) => [free.allowed.as_ref(), free.blocked.as_ref()],
        });
        lists.flatten().flatten().copied().collect()
    }
}

/// What a file of positions holds, for messages.
const FORM: &str = r#"expected is {"truncate": true or false, "positions": [...]} with {"copy": [TOKEN, ...]} and {"free": COUNT}, the latter with "allowed" or "blocked": [TOKEN, ...] and "until": REGEX where wanted"#;

/// Compiles a mask by position; `what` names it in errors.
///
/// # Errors
/// Tokens that the tokenizer does not have or that end a text, a regex that is refused, a free
/// position with no token left, or too many states.
pub fn compile(
    positions: &Positions,
    what: &'static str,
    memo: &Memo,
    vocabulary: &Vocabulary,
    end_tokens: &[TokenId],
    limits: Limits,
) -> Result<Tables, ConstraintError> {
    let named = positions.named();
    for &token in &named {
        let reason = if token as usize >= vocabulary.bytes().len() {
            let tokens = vocabulary.bytes().len();
            format!("is outside the tokenizer's {tokens} tokens")
        } else if end_tokens.contains(&token) {
            "ends a text and can't stand at a position; it follows the last one by itself".into()
        } else {
            continue;
        };
        return Err(ConstraintError::Token { token, reason });
    }
    let mut dfas = Vec::new();
    let mut numbers: FxHashMap<&str, usize> = FxHashMap::default();
    let mut until = Vec::new();
    for (index, run) in positions.runs.iter().enumerate() {
        let pattern = match run {
            Run::Free(free) if positions.truncate => free.until.as_deref(),
            _ => None,
        };
        until.push(match pattern {
            None => None,
            Some(pattern) => Some(match numbers.get(pattern) {
                Some(&number) => number,
                None => {
                    let what = format!("regex of run {}", index + 1);
                    if !vocabulary.has_text() {
                        return Err(ConstraintError::NoTokenizer { what });
                    }
                    dfas.push(memo.automaton(pattern, &what, limits.automaton_bytes)?);
                    numbers.insert(pattern, dfas.len() - 1);
                    dfas.len() - 1
                }
            }),
        });
    }
    let groups = Groups::new(vocabulary, &dfas, &named, end_tokens)?;
    let ordinary = (0..groups.len() as Group)
        .filter(|&group| {
            let member = groups.members(group).first();
            member.is_some_and(|&token| vocabulary.is_text(token))
        })
        .collect();
    let search = Search {
        positions,
        until,
        dfas: &dfas,
        groups: &groups,
        ordinary,
        states: FxHashMap::default(),
        places: Vec::new(),
        draft: Draft::new(what, limits),
    };
    search.run()?.finish(&groups, vocabulary.rows(), end_tokens)
}

/// A position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place {
    run: usize,
    /// Tokens of the run that are there.
    done: usize,
    /// The state of the run's automaton; dead where there is none.
    state: u32,
}

struct Search<'a> {
    positions: &'a Positions,
    /// Of each run: its automaton.
    until: Vec<Option<usize>>,
    dfas: &'a [Arc<Dfa>],
    groups: &'a Groups,
    /// Groups of ordinary tokens.
    ordinary: Vec<Group>,
    states: FxHashMap<Place, u32>,
    places: Vec<Place>,
    draft: Draft,
}

impl Search<'_> {
    fn run(mut self) -> Result<Draft, ConstraintError> {
        self.state_of(self.beginning(0))?;
        let mut state = 0;
        while state < self.places.len() {
            let edges = self.edges(self.places[state])?;
            self.draft.set_edges(state as u32, edges)?;
            state += 1;
        }
        Ok(self.draft)
    }

    fn beginning(&self, run: usize) -> Place {
        let number = self.until.get(run).copied().flatten();
        Place {
            run,
            done: 0,
            state: number.map_or(Dfa::DEAD, |number| self.dfas[number].start()),
        }
    }

    fn state_of(&mut self, place: Place) -> Result<u32, ConstraintError> {
        if let Some(&state) = self.states.get(&place) {
            return Ok(state);
        }
        let state = self
            .draft
            .add_state(place.run == self.positions.runs.len())?;
        self.places.push(place);
        self.states.insert(place, state);
        Ok(state)
    }

    fn edges(&mut self, place: Place) -> Result<Vec<(Group, u32)>, ConstraintError> {
        let positions = self.positions;
        let Some(run) = positions.runs.get(place.run) else {
            return Ok(Vec::new());
        };
        let free = match run {
            Run::Copy(Copied { tokens }) => {
                let group = self.groups.group_of(tokens[place.done]);
                let next = self.after(place, tokens.len(), Dfa::DEAD);
                return Ok(vec![(group, self.state_of(next)?)]);
            }
            Run::Free(free) => free,
        };
        let groups_of = |tokens: &[TokenId]| {
            let mut groups: Vec<Group> = (tokens.iter())
                .map(|&token| self.groups.group_of(token))
                .collect();
            groups.sort_unstable();
            groups.dedup();
            groups
        };
        let groups = match (&free.allowed, &free.blocked) {
            (Some(allowed), _) => groups_of(allowed),
            (None, Some(blocked)) => {
                let blocked = groups_of(blocked);
                let mut groups = self.ordinary.clone();
                groups.retain(|group| blocked.binary_search(group).is_err());
                groups
            }
            (None, None) => self.ordinary.clone(),
        };
        let mut edges = Vec::with_capacity(groups.len());
        for group in groups {
            let state = self.read(place, group);
            let next = self.after(place, free.count, state);
            edges.push((group, self.state_of(next)?));
        }
        Ok(edges)
    }

    /// The state of the run's automaton after a token of `group`.
    fn read(&self, place: Place, group: Group) -> u32 {
        let Some(number) = self.until[place.run].filter(|_| place.state != Dfa::DEAD) else {
            return Dfa::DEAD;
        };
        let walk = self.groups.walk(number, place.state);
        match walk.binary_search_by_key(&group, |&(group, _)| group) {
            Ok(found) => walk[found].1,
            Err(_) => Dfa::DEAD,
        }
    }

    /// Where one more token leads, in a run of `count` positions whose automaton is in `state`
    /// after it.
    fn after(&self, place: Place, count: usize, state: u32) -> Place {
        let done = place.done + 1;
        let complete = self.until[place.run].is_some_and(|dfa| self.dfas[dfa].is_accepting(state));
        if done == count || complete {
            return self.beginning(place.run + 1);
        }
        Place {
            run: place.run,
            done,
            state,
        }
    }
}
