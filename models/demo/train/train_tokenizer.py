"""Trains the tokenizer: byte-level BPE with single digits, as Qwen3's, over a small vocabulary.

    python train_tokenizer.py --corpus CORPUS --out MODEL

writes MODEL/tokenizer.json, tokenizer_config.json and chat_template.jinja.

The conformer repeats the SMILES with coordinates in between, and a model copies best what is spelled
the same in both places. So the merges are learnt from pieces of text that never hold two atoms, nor a
bond, branch or ring mark beside a bracket or a comma: `CC(=O)` has the same tokens as its copy in
`[C]<..>[C]<..>(=[O]<..>)`. `]<`, `]<-`, `,-` and `>[` do become one token each, so a point takes 20
tokens whatever its signs, and the distance from an atom to its copy grows by a fixed stride.
"""

import argparse
import json
import re
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from conformer_text import BARE_ATOM, CONFORMER_CLOSE, CONFORMER_OPEN, SMILES_CLOSE, SMILES_OPEN

END_OF_TEXT = "<|endoftext|>"
# One token each. They are part of the text, so not "special", which would hide them from readers.
TAGS = [SMILES_OPEN, SMILES_CLOSE, CONFORMER_OPEN, CONFORMER_CLOSE]
# Qwen3's: letters with at most one mark before them, single digits, runs of marks, white space.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# What a merge may hold: the end of an atom or a number with what follows it, or one atom's symbol.
PIECES = re.compile(rf"\]<-?|,-?|>\[|@@|{BARE_ATOM}")
VOCABULARY = 512
MODEL_MAX_LENGTH = 2048
# A conversation with the model: a molecule in, its conformer out, and the next one afresh.
CHAT_TEMPLATE = """\
{#- Only the last molecule: the model knows texts of one, and nothing of a conversation. #}
{%- set asked = messages | selectattr('role', 'equalto', 'user') | list %}
{%- if asked %}
    {{- '[SMILES]' + asked[-1].content + '[/SMILES]' }}
{%- endif %}
"""


def pieces_of(path):
    with open(path) as lines:
        for line in lines:
            yield from PIECES.findall(line.split(CONFORMER_OPEN)[1])


def train(pieces, words=WORDS, vocabulary=VOCABULARY):
    """A tokenizer that splits texts at `words` and has learnt at most `vocabulary` tokens from `pieces`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(pieces, trainer)
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    return tokenizer


def write(tokenizer, folder, tokenizer_class="Qwen2Tokenizer"):
    """tokenizer.json, tokenizer_config.json and chat_template.jinja, for transformers' `tokenizer_class`."""
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": tokenizer_class,
        "add_prefix_space": False,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": END_OF_TEXT,
        "errors": "replace",
        "model_max_length": MODEL_MAX_LENGTH,
        "pad_token": END_OF_TEXT,
        "split_special_tokens": False,
        "unk_token": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--corpus", type=Path, required=True)
    arguments.add_argument("--out", type=Path, required=True)
    options = arguments.parse_args()

    tokenizer = train(pieces_of(options.corpus / "train.txt"))
    write(tokenizer, options.out)
    print(f"{tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()
