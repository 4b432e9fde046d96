"""The corpus as token batches, with the weight that each token has in the loss.

The loss looks hardest at what makes an answer valid, the atoms and marks of the conformer; less at the
last decimals, which are thermal noise of the embedding; hardly at the prompt, which is given.
"""

import numpy as np
import torch
from transformers import AutoTokenizer

PROMPT_WEIGHT = 0.1
STRUCTURE_WEIGHT = 2.0
NUMBER_WEIGHT = 1.0
# Of each decimal; a token of several counts as its first.
DECIMAL_WEIGHTS = (NUMBER_WEIGHT, 0.5, 0.2, 0.1)
# A padded position is never a target.
PADDING_WEIGHT = 0.0
# Tokenised in pieces, whose lists of Python integers would together take gigabytes.
LINES_AT_ONCE = 4_096
# So many batches are cut from one pool that is sorted by length.
BATCHES_PER_POOL = 50


class Corpus:
    """Tokenised lines, each ended by the end-of-text token.

    ids: [tokens], int64; weights: [tokens], f32; starts: [lines + 1], where each line begins.
    """

    def __init__(self, path, tokenizer_folder):
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
        lines = path.read_text().splitlines()
        encoded = []
        for first in range(0, len(lines), LINES_AT_ONCE):
            ended = [line + tokenizer.eos_token for line in lines[first : first + LINES_AT_ONCE]]
            encoded += [np.array(ids, np.int64) for ids in tokenizer(ended)["input_ids"]]
        self.starts = np.concatenate([[0], np.cumsum([len(ids) for ids in encoded])])
        self.ids = np.concatenate(encoded)
        self.weights = self.token_weights(tokenizer)
        self.padding = tokenizer.pad_token_id

    def __len__(self):
        return len(self.starts) - 1

    def token_weights(self, tokenizer):
        id_of = tokenizer.convert_tokens_to_ids
        weights = np.full(len(self.ids), STRUCTURE_WEIGHT, np.float32)
        for separator in (",", ",-"):
            weights[self.ids == id_of(separator)] = NUMBER_WEIGHT
        digits = np.zeros(len(tokenizer), np.int64)
        for token, token_id in tokenizer.get_vocab().items():
            digits[token_id] = len(token) if token.isdecimal() else 0
        points = np.flatnonzero(self.ids == id_of("."))
        for offset in (-1, 0):
            weights[points + offset] = NUMBER_WEIGHT
        at, decimals = points + 1, np.zeros_like(points)
        for _ in DECIMAL_WEIGHTS:
            # The numbers that have a token of decimals here.
            more = digits[self.ids[at]] > 0
            at, decimals = at[more], decimals[more]
            weights[at] = np.array(DECIMAL_WEIGHTS)[decimals]
            decimals += digits[self.ids[at]]
            at = at + 1
        ends = np.flatnonzero(self.ids == id_of("[/SMILES]"))
        for start, end in zip(self.starts, ends):
            weights[start : end + 1] = PROMPT_WEIGHT
        return weights

    def batch(self, lines):
        """-> ids [lines, length], int64; weights [lines, length], f32; padded on the right."""
        length = max(self.starts[line + 1] - self.starts[line] for line in lines)
        ids = np.full((len(lines), length), self.padding, np.int64)
        weights = np.full((len(lines), length), PADDING_WEIGHT, np.float32)
        for row, line in enumerate(lines):
            start, end = self.starts[line], self.starts[line + 1]
            ids[row, : end - start] = self.ids[start:end]
            weights[row, : end - start] = self.weights[start:end]
        return torch.from_numpy(ids), torch.from_numpy(weights)

    def epoch(self, number, seed, tokens_per_batch):
        """Batches of line numbers, of like lengths and about as many tokens, in an order fixed by the
        seed and the epoch's number."""
        rng = np.random.default_rng([seed, number])
        order = rng.permutation(len(self))
        lengths = np.diff(self.starts)
        lines_per_pool = int(BATCHES_PER_POOL * tokens_per_batch / lengths.mean())
        for first in range(0, len(order), lines_per_pool):
            pool = order[first : first + lines_per_pool]
            pool = pool[np.argsort(lengths[pool], kind="stable")]
            cuts = np.cumsum(lengths[pool]) // tokens_per_batch
            batches = np.split(pool, np.flatnonzero(np.diff(cuts)) + 1)
            for index in rng.permutation(len(batches)):
                yield batches[index]
