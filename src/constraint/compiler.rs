//! From what a constraint says to its tables, by way of the cache.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use serde::Serialize;

use super::cache::{Cache, Key};
use super::error::ConstraintError;
use super::molecule::Molecule;
use super::position::{self, Positions};
use super::segments;
use super::tables::Tables;
use super::template::Template;
use super::vocabulary::Vocabulary;
use crate::model::TokenId;
use crate::model::tokenizer::Tokenizer;

/// What kind of constraint one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regex that the whole text matches.
    Regex,
    /// Literal runs and slots.
    Template,
    /// The template of a molecule.
    Molecule,
    /// A mask by position.
    Position,
    /// A JSON schema.
    JsonSchema,
    /// A Lark grammar.
    Lark,
}

impl Kind {
    /// Its name in messages and results.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Regex => "regex",
            Kind::Template => "template",
            Kind::Molecule => "molecule",
            Kind::Position => "position mask",
            Kind::JsonSchema => "JSON schema",
            Kind::Lark => "Lark grammar",
        }
    }
}

/// What a constraint says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Source {
    /// A regex in the regex crate's syntax, which the whole text matches.
    Regex(String),
    /// Literal runs and slots.
    Template(Template),
    /// A molecule whose coordinates are free.
    Molecule(Molecule),
    /// A mask by position.
    Position(Positions),
}

impl Source {
    /// Which kind it is.
    pub fn kind(&self) -> Kind {
        match self {
            Source::Regex(_) => Kind::Regex,
            Source::Template(_) => Kind::Template,
            Source::Molecule(_) => Kind::Molecule,
            Source::Position(_) => Kind::Position,
        }
    }
}

/// How large a constraint may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// States of the tables; more than 65,536 can't be numbered.
    pub states: usize,
    /// Bytes of the tables as a device holds them.
    pub table_bytes: usize,
    /// Bytes that the automaton of a regex may take while it is built.
    pub automaton_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            states: 1 << 16,
            table_bytes: 16 << 20,
            automaton_bytes: 16 << 20,
        }
    }
}

/// Compiled constraint, shared by requests.
#[derive(Clone, Debug)]
pub struct Constraint {
    /// What kind it is.
    pub kind: Kind,
    /// Its tables.
    pub tables: Arc<Tables>,
    /// How long they took, in milliseconds: to compile, or to read if they were in the cache. The
    /// vocabulary's trie, which a compiler builds once, is not counted.
    pub compile_ms: f64,
    /// What the cache had to do with it.
    pub cache: CacheUse,
}

/// What the cache on disk had to do with a constraint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheUse {
    /// There is none.
    Off,
    /// The tables were there.
    Read,
    /// They were compiled, and are there now.
    Written,
    /// They were compiled and could not be kept, which costs nothing but time: the system's word.
    NotWritten(String),
}

/// Compiles constraints for a tokenizer.
#[derive(Debug)]
pub struct Compiler<'t> {
    tokenizer: &'t Tokenizer,
    vocabulary: OnceLock<Vocabulary>,
    end_tokens: Vec<TokenId>,
    limits: Limits,
    cache: Option<Cache>,
}

impl<'t> Compiler<'t> {
    /// A compiler for `tokenizer`, padded to the model's embedding
    /// ([`Tokenizer::padded_to`]). Any of `end_tokens` ends a text that matches, the first one
    /// where nothing else could follow.
    ///
    /// # Errors
    /// An end token that the tokenizer does not have.
    pub fn new(tokenizer: &'t Tokenizer, end_tokens: &[TokenId]) -> Result<Self, ConstraintError> {
        let mut ends = Vec::new();
        for &token in end_tokens {
            if token as usize >= tokenizer.own_size() {
                let own = tokenizer.own_size();
                let reason = format!("is to end a text, but the tokenizer has {own} tokens");
                return Err(ConstraintError::Token { token, reason });
            }
            if !ends.contains(&token) {
                ends.push(token);
            }
        }
        Ok(Self {
            tokenizer,
            vocabulary: OnceLock::new(),
            end_tokens: ends,
            limits: Limits::default(),
            cache: None,
        })
    }

    /// With other limits than the default ones.
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Keeps compiled tables in `folder`, which is made when it is first needed.
    pub fn with_cache(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cache = Some(Cache::new(folder));
        self
    }

    /// The vocabulary's trie, built when it is first asked for.
    ///
    /// # Errors
    /// A tokenizer whose spelling is not known.
    pub fn vocabulary(&self) -> Result<&Vocabulary, ConstraintError> {
        if self.vocabulary.get().is_none() {
            let built = Vocabulary::of(self.tokenizer)?;
            // Another thread may have been faster with the same trie.
            let _ = self.vocabulary.set(built);
        }
        Ok(self.vocabulary.get().expect("set above"))
    }

    /// The mask by position of a template ([`Positions::from_template`]).
    ///
    /// # Errors
    /// A slot without a placeholder, a text that can't be spelled.
    pub fn positions(
        &self,
        template: &Template,
        truncate: bool,
    ) -> Result<Positions, ConstraintError> {
        Positions::from_template(template, self.tokenizer, self.vocabulary()?, truncate)
    }

    /// Compiles `source`, or reads its tables from the cache.
    ///
    /// # Errors
    /// What is wrong with the constraint, or the limit that it exceeds.
    pub fn compile(&self, source: &Source) -> Result<Constraint, ConstraintError> {
        let kind = source.kind();
        let made = |tables, started: Instant, cache| Constraint {
            kind,
            tables: Arc::new(tables),
            compile_ms: started.elapsed().as_secs_f64() * 1e3,
            cache,
        };
        let started = Instant::now();
        let kept = (self.cache.as_ref()).map(|cache| (cache, self.key(source)));
        if let Some((cache, key)) = kept
            && let Some(tables) = cache.read(key)
            && tables.vocab_size() == self.tokenizer.vocab_size()
            && tables.bytes() <= self.limits.table_bytes
            && tables.states() <= self.limits.states
        {
            return Ok(made(tables, started, CacheUse::Read));
        }
        let vocabulary = self.vocabulary()?;
        let started = Instant::now();
        let tables = self.build(source, vocabulary)?;
        let mut constraint = made(tables, started, CacheUse::Off);
        if let Some((cache, key)) = kept {
            constraint.cache = match cache.write(key, &constraint.tables) {
                Ok(()) => CacheUse::Written,
                Err(error) => CacheUse::NotWritten(error.to_string()),
            };
        }
        Ok(constraint)
    }

    fn build(&self, source: &Source, vocabulary: &Vocabulary) -> Result<Tables, ConstraintError> {
        let template = |template: &Template| {
            segments::compile(
                template,
                source.kind().name(),
                self.tokenizer,
                vocabulary,
                &self.end_tokens,
                self.limits,
            )
        };
        match source {
            Source::Regex(pattern) => template(&Template::of_regex(pattern)),
            Source::Template(source) => template(source),
            Source::Molecule(molecule) => template(&molecule.template()),
            Source::Position(positions) => position::compile(
                positions,
                source.kind().name(),
                vocabulary,
                &self.end_tokens,
                self.limits,
            ),
        }
    }

    /// All that the tables depend on.
    fn key(&self, source: &Source) -> Key {
        let source = serde_json::to_vec(source).expect("strings and numbers");
        Key::of(
            self.tokenizer.fingerprint(),
            self.tokenizer.vocab_size(),
            &self.end_tokens,
            &source,
        )
    }
}
