//! A compiled constraint: what a decoder follows, token by token.

use std::fmt::Debug;
use std::sync::Arc;

use super::tables::Tables;
use crate::model::TokenId;

/// What a request's output must follow.
#[derive(Clone, Debug)]
pub enum Guide {
    /// Token tables, which every device can step by itself.
    Tables(Arc<Tables>),
    /// A grammar that only the host can step, one mask a token.
    Host(Arc<dyn HostGrammar>),
}

/// A grammar that is no regular language.
pub trait HostGrammar: Debug + Send + Sync {
    /// A walk through it from the start.
    fn walk(&self) -> Box<dyn HostWalk>;
}

/// A walk through a [`HostGrammar`].
pub trait HostWalk: Debug {
    /// Sets the bits of the tokens that may come next (`mask: [ceil(vocabulary / 32)]`), and says how many
    /// there are.
    ///
    /// # Errors
    /// Whatever the grammar meets; the request ends there.
    fn allowed(&mut self, mask: &mut [u32]) -> Result<usize, String>;

    /// Goes on by a token that is allowed.
    ///
    /// # Errors
    /// As [`allowed`](Self::allowed).
    fn advance(&mut self, token: TokenId) -> Result<(), String>;

    /// Whether the text so far is a whole match.
    fn is_accepting(&mut self) -> bool;
}
