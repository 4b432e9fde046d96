//! The vocabulary as a trie of bytes.

use crate::model::TokenId;
use crate::model::token_bytes::TokenBytes;
use crate::model::tokenizer::{Tokenizer, TokenizerError};

/// The ordinary tokens of a tokenizer, by their bytes. Added tokens (special ones and others that
/// the tokenizer takes out of a text before it splits it) are not among them.
///
/// The trie lies in arrays in preorder: the children of a node follow it, and `ends` says where
/// its subtree is over. Walking it is a loop without a stack of nodes.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    bytes: TokenBytes,
    /// Rows of the model's embedding.
    rows: usize,
    /// Whether `bytes` are text.
    text: bool,
    /// Of each node: the byte that leads to it.
    node_bytes: Vec<u8>,
    /// Of each node: how many bytes lead to it, less one.
    depths: Vec<u16>,
    /// Of each node: the first node after its subtree.
    ends: Vec<u32>,
    /// Node i is the tokens `tokens[firsts[i]..firsts[i + 1]]`: none, one, or several with the
    /// same bytes.
    firsts: Vec<u32>,
    tokens: Vec<TokenId>,
}

impl Vocabulary {
    /// Builds the trie: a tenth of a second for 150,000 tokens.
    ///
    /// # Errors
    /// A tokenizer whose spelling is not known ([`TokenBytes::of`]).
    pub fn of(tokenizer: &Tokenizer) -> Result<Self, TokenizerError> {
        let bytes = TokenBytes::of(tokenizer)?;
        let mut tokens: Vec<TokenId> = (0..bytes.len() as TokenId)
            .filter(|&token| {
                // A depth is 16 bits; nobody has tokens that long.
                (bytes.text(token)).is_some_and(|text| text.len() <= usize::from(u16::MAX))
            })
            .collect();
        tokens.sort_unstable_by(|&a, &b| (bytes.get(a).cmp(bytes.get(b))).then(a.cmp(&b)));
        let mut trie = Self::empty(bytes, tokenizer.vocab_size());
        trie.fill(tokens);
        Ok(trie)
    }

    /// The vocabulary of a model whose `rows` tokens have no text. Each is told from the others by
    /// its number, and none is read.
    pub fn without_text(rows: usize) -> Self {
        let mut trie = Self {
            text: false,
            ..Self::empty(TokenBytes::of_numbers(rows), rows)
        };
        trie.fill((0..rows as TokenId).collect());
        trie
    }

    fn empty(bytes: TokenBytes, rows: usize) -> Self {
        Self {
            rows,
            text: true,
            node_bytes: Vec::new(),
            depths: Vec::new(),
            ends: Vec::new(),
            firsts: Vec::new(),
            tokens: Vec::new(),
            bytes,
        }
    }

    /// Whether the tokens stand for text.
    pub fn has_text(&self) -> bool {
        self.text
    }

    /// `sorted`: by bytes.
    fn fill(&mut self, sorted: Vec<TokenId>) {
        let mut path: Vec<usize> = Vec::new();
        let mut before: &[u8] = &[];
        for (place, &token) in sorted.iter().enumerate() {
            let bytes = self.bytes.get(token);
            let shared = (before.iter().zip(bytes))
                .take_while(|(a, b)| a == b)
                .count();
            for node in path.drain(shared..) {
                self.ends[node] = self.node_bytes.len() as u32;
            }
            for (depth, &byte) in bytes.iter().enumerate().skip(shared) {
                path.push(self.node_bytes.len());
                self.node_bytes.push(byte);
                self.depths.push(depth as u16);
                self.ends.push(0);
                self.firsts.push(place as u32);
            }
            before = bytes;
        }
        for node in path {
            self.ends[node] = self.node_bytes.len() as u32;
        }
        self.firsts.push(sorted.len() as u32);
        self.tokens = sorted;
    }

    /// Rows of the model's embedding, beyond the tokenizer's own tokens if it is padded.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The bytes of every token.
    pub fn bytes(&self) -> &TokenBytes {
        &self.bytes
    }

    /// The ordinary tokens, by their bytes.
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// How many nodes the trie has, without the root.
    pub(super) fn nodes(&self) -> usize {
        self.node_bytes.len()
    }

    /// The byte that leads to a node.
    pub(super) fn byte(&self, node: usize) -> u8 {
        self.node_bytes[node]
    }

    /// How many bytes lead to a node, less one.
    pub(super) fn depth(&self, node: usize) -> usize {
        usize::from(self.depths[node])
    }

    /// The first node after a node's subtree.
    pub(super) fn end(&self, node: usize) -> usize {
        self.ends[node] as usize
    }

    /// The tokens that end at a node.
    pub(super) fn ending_at(&self, node: usize) -> &[TokenId] {
        &self.tokens[self.firsts[node] as usize..self.firsts[node + 1] as usize]
    }

    /// Whether this is an ordinary token.
    pub fn is_text(&self, token: TokenId) -> bool {
        self.bytes.text(token).is_some()
    }

    /// The ordinary tokens whose bytes begin with `prefix` and go on after it.
    pub(super) fn beyond(&self, prefix: &[u8]) -> &[TokenId] {
        let from = (self.tokens).partition_point(|&token| self.bytes.get(token) <= prefix);
        let count =
            self.tokens[from..].partition_point(|&token| self.bytes.get(token).starts_with(prefix));
        &self.tokens[from..from + count]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constraint::test_vocabulary;

    #[test]
    fn every_ordinary_token_is_found_by_its_bytes() {
        for tokenizer in [
            test_vocabulary::byte_level(&["ab", "abc", "b", "\u{2581}"]),
            test_vocabulary::sentence_piece(&["\u{2581}", "\u{2581}a", "ab", "\n", "a"]),
            test_vocabulary::demo(),
        ] {
            let vocabulary = Vocabulary::of(&tokenizer).unwrap();
            let mut path = Vec::new();
            let mut found = 0;
            for node in 0..vocabulary.nodes() {
                path.truncate(vocabulary.depth(node));
                path.push(vocabulary.byte(node));
                for &token in vocabulary.ending_at(node) {
                    assert_eq!(vocabulary.bytes().text(token), Some(&path[..]));
                    found += 1;
                }
                let inside = (node + 1..vocabulary.end(node))
                    .all(|inner| vocabulary.depth(inner) > vocabulary.depth(node));
                let after = (vocabulary.end(node)..vocabulary.nodes())
                    .take(1)
                    .all(|next| vocabulary.depth(next) <= vocabulary.depth(node));
                assert!(inside && after, "node {node}");
            }
            let ordinary = (0..tokenizer.own_size() as TokenId)
                .filter(|&token| vocabulary.is_text(token))
                .count();
            assert_eq!(found, ordinary);
        }
    }

    #[test]
    fn tokens_beyond_a_prefix_are_those_that_go_on() {
        let tokenizer = test_vocabulary::byte_level(&["ab", "abc", "ac", "abd", "b"]);
        let vocabulary = Vocabulary::of(&tokenizer).unwrap();
        let beyond = |prefix: &[u8]| -> Vec<Vec<u8>> {
            let bytes = vocabulary.bytes();
            (vocabulary.beyond(prefix).iter())
                .map(|&token| bytes.get(token).to_vec())
                .collect()
        };
        assert_eq!(beyond(b"ab"), [b"abc", b"abd"]);
        assert_eq!(beyond(b"a").len(), 4);
        assert!(beyond(b"abc").is_empty());
    }
}
