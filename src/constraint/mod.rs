//! Constraints on what a model may write, compiled into tables of tokens.
//!
//! A constraint is compiled once, on the host, into tables that a step of decoding reads with two
//! loads: the class of a token, and the state that follows. Each state says whether it forces one
//! token, allows a few or many; whoever decodes may skip the head for the first and gather a few
//! of its rows for the second.
//!
//! - [`tables`]: the tables, as engines step them
//! - [`regex`]: from a regex to an automaton over bytes
//! - [`vocabulary`]: the tokens as a trie of bytes
//! - `groups`: tokens that no automaton tells apart
//! - [`template`]: literal runs and slots; [`molecule`]: the template of a molecule
//! - [`position`]: a mask by position
//! - `literal`, `segments`, `draft`, `steps`: from those to the tables
//! - `memo`: what constraints of one compiler share
//! - [`json_schema`]: the schemas that are regular, as templates
//! - [`grammar`]: what no finite automaton follows, stepped on the host
//! - [`guide`]: tables or a grammar, as decoders take them
//! - [`cache`]: compiled tables on disk
//! - [`error`]: what can be wrong with a constraint

pub mod cache;
mod compiler;
mod draft;
pub mod error;
pub mod grammar;
mod groups;
pub mod guide;
pub mod json_schema;
mod literal;
mod memo;
pub mod molecule;
pub mod position;
pub mod regex;
mod segments;
mod steps;
pub mod tables;
pub mod template;
#[cfg(test)]
mod test_vocabulary;
#[cfg(test)]
mod tests;
pub mod vocabulary;

pub use compiler::{CacheUse, Compiler, Constraint, Kind, Limits, Source};
pub use error::ConstraintError;
pub use guide::{Guide, HostGrammar, HostWalk};
pub use tables::{Allowed, StateId, StateRow, Tables};
