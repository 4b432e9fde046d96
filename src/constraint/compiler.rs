//! From what a constraint says to its tables, by way of the cache.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use serde::Serialize;

use super::cache::{Cache, Key};
use super::error::ConstraintError;
use super::grammar::Grammar;
use super::guide::Guide;
use super::json_schema::{JsonSchema, Reduced};
use super::memo::Memo;
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

    /// Its name in JSON results: one word.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Regex => "regex",
            Kind::Template => "template",
            Kind::Molecule => "molecule",
            Kind::Position => "position",
            Kind::JsonSchema => "json_schema",
            Kind::Lark => "lark",
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
    /// A JSON schema: tables if it is regular, else a grammar.
    JsonSchema(JsonSchema),
    /// A grammar in llguidance's dialect of Lark.
    Lark(String),
}

impl Source {
    /// Which kind it is.
    pub fn kind(&self) -> Kind {
        match self {
            Source::Regex(_) => Kind::Regex,
            Source::Template(_) => Kind::Template,
            Source::Molecule(_) => Kind::Molecule,
            Source::Position(_) => Kind::Position,
            Source::JsonSchema(_) => Kind::JsonSchema,
            Source::Lark(_) => Kind::Lark,
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
    /// Its tables, or a grammar that the host steps.
    pub guide: Guide,
    /// How long it took, in milliseconds: to compile, or to read if tables were in the cache. The
    /// vocabulary's trie, which a compiler builds once, is not counted.
    pub compile_ms: f64,
    /// What the cache had to do with it.
    pub cache: CacheUse,
}

impl Constraint {
    /// The fewest tokens of a text that satisfies it, one that ends it not counted; 0 for a grammar,
    /// of which that is not known.
    pub fn shortest(&self) -> usize {
        self.tables().map_or(0, |tables| tables.shortest())
    }

    /// Who follows it: `device` for tables, which every device can step by itself; `host` for a grammar.
    pub fn path(&self) -> &'static str {
        match self.guide {
            Guide::Tables(_) => "device",
            Guide::Host(_) => "host",
        }
    }

    /// Its tables; `None` if it is a grammar.
    pub fn tables(&self) -> Option<&Arc<Tables>> {
        match &self.guide {
            Guide::Tables(tables) => Some(tables),
            Guide::Host(_) => None,
        }
    }
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
    /// `None` for a model of token ids without text.
    tokenizer: Option<&'t Tokenizer>,
    /// Rows of the model's embedding.
    rows: usize,
    vocabulary: OnceLock<Vocabulary>,
    end_tokens: Vec<TokenId>,
    limits: Limits,
    cache: Option<Cache>,
    memo: Memo,
}

impl<'t> Compiler<'t> {
    /// A compiler for `tokenizer`, padded to the model's embedding
    /// ([`Tokenizer::padded_to`]). Any of `end_tokens` ends a text that matches, the first one
    /// where nothing else could follow.
    ///
    /// # Errors
    /// An end token that the tokenizer does not have.
    pub fn new(tokenizer: &'t Tokenizer, end_tokens: &[TokenId]) -> Result<Self, ConstraintError> {
        let rows = tokenizer.vocab_size();
        Self::of(Some(tokenizer), rows, tokenizer.own_size(), end_tokens)
    }

    /// A compiler for a model of `rows` tokens that have no text: masks by position are all that it
    /// compiles.
    ///
    /// # Errors
    /// An end token that the model does not have.
    pub fn without_tokenizer(rows: usize, end_tokens: &[TokenId]) -> Result<Self, ConstraintError> {
        Self::of(None, rows, rows, end_tokens)
    }

    fn of(
        tokenizer: Option<&'t Tokenizer>,
        rows: usize,
        own: usize,
        end_tokens: &[TokenId],
    ) -> Result<Self, ConstraintError> {
        let mut ends = Vec::new();
        for &token in end_tokens {
            if token as usize >= own {
                let reason = format!("is to end a text, but the tokenizer has {own} tokens");
                return Err(ConstraintError::Token { token, reason });
            }
            if !ends.contains(&token) {
                ends.push(token);
            }
        }
        Ok(Self {
            tokenizer,
            rows,
            vocabulary: OnceLock::new(),
            end_tokens: ends,
            limits: Limits::default(),
            cache: None,
            memo: Memo::default(),
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
            let built = match self.tokenizer {
                Some(tokenizer) => Vocabulary::of(tokenizer)?,
                None => Vocabulary::without_text(self.rows),
            };
            // Another thread may have been faster with the same trie.
            let _ = self.vocabulary.set(built);
        }
        Ok(self.vocabulary.get().expect("set above"))
    }

    /// The mask by position of a template: literals are copied, and a slot is as many free positions as
    /// its placeholder has tokens, complete when the slot's regex matches.
    ///
    /// # Errors
    /// A slot without a placeholder, a text that can't be spelled.
    pub fn positions(
        &self,
        template: &Template,
        truncate: bool,
    ) -> Result<Positions, ConstraintError> {
        let tokenizer = self.demand_tokenizer(Kind::Template.name())?;
        Positions::from_template(
            template,
            &self.memo,
            tokenizer,
            self.vocabulary()?,
            truncate,
        )
    }

    /// Compiles `source`, or reads its tables from the cache.
    ///
    /// # Errors
    /// What is wrong with the constraint, or the limit that it exceeds.
    pub fn compile(&self, source: &Source) -> Result<Constraint, ConstraintError> {
        let kind = source.kind();
        let made = |guide, started: Instant, cache| Constraint {
            kind,
            guide,
            compile_ms: started.elapsed().as_secs_f64() * 1e3,
            cache,
        };
        let started = Instant::now();
        let kept = (self.cache.as_ref()).map(|cache| (cache, self.key(source)));
        if let Some((cache, key)) = kept
            && let Some(tables) = cache.read(key)
            && tables.vocab_size() == self.rows
            && tables.bytes() <= self.limits.table_bytes
            && tables.states() <= self.limits.states
        {
            return Ok(made(
                Guide::Tables(Arc::new(tables)),
                started,
                CacheUse::Read,
            ));
        }
        let vocabulary = self.vocabulary()?;
        let started = Instant::now();
        let guide = self.build(source, vocabulary)?;
        let mut constraint = made(guide, started, CacheUse::Off);
        // A grammar is not kept: parsing it again is all there is to it.
        if let (Some((cache, key)), Guide::Tables(tables)) = (kept, &constraint.guide) {
            constraint.cache = match cache.write(key, tables) {
                Ok(()) => CacheUse::Written,
                Err(error) => CacheUse::NotWritten(error.to_string()),
            };
        }
        Ok(constraint)
    }

    fn build(&self, source: &Source, vocabulary: &Vocabulary) -> Result<Guide, ConstraintError> {
        if !matches!(source, Source::Position(_)) {
            self.demand_tokenizer(source.kind().name())?;
        }
        let template = |template: &Template| {
            segments::compile(
                template,
                source.kind().name(),
                &self.memo,
                self.demand_tokenizer(source.kind().name())?,
                vocabulary,
                &self.end_tokens,
                self.limits,
            )
        };
        let grammar = |grammar: Grammar| Ok(Guide::Host(Arc::new(grammar)));
        let tables = match source {
            Source::Regex(pattern) => template(&Template::of_regex(pattern)),
            Source::Template(source) => template(source),
            Source::Molecule(molecule) => template(&molecule.template()),
            Source::Position(positions) => position::compile(
                positions,
                source.kind().name(),
                &self.memo,
                vocabulary,
                &self.end_tokens,
                self.limits,
            ),
            Source::JsonSchema(schema) => {
                let on_host = || Grammar::of_json_schema(schema, vocabulary, &self.end_tokens);
                match schema.reduce() {
                    Reduced::Template(reduced) => match template(&reduced) {
                        // A grammar is made as it is needed, and may be as large as it likes.
                        Err(ConstraintError::TooLarge { .. }) => return grammar(on_host()?),
                        tables => tables,
                    },
                    Reduced::NotRegular => return grammar(on_host()?),
                }
            }
            Source::Lark(text) => {
                return grammar(Grammar::of_lark(text, vocabulary, &self.end_tokens)?);
            }
        };
        Ok(Guide::Tables(Arc::new(tables?)))
    }

    fn demand_tokenizer(&self, what: &str) -> Result<&'t Tokenizer, ConstraintError> {
        let what = what.to_owned();
        self.tokenizer.ok_or(ConstraintError::NoTokenizer { what })
    }

    /// All that the tables depend on.
    fn key(&self, source: &Source) -> Key {
        let source = serde_json::to_vec(source).expect("strings and numbers");
        Key::of(
            self.tokenizer.map_or(0, Tokenizer::fingerprint),
            self.rows,
            &self.end_tokens,
            &source,
        )
    }
}
