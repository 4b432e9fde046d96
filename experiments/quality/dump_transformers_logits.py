"""Saves the logits that Hugging Face transformers gives for some texts, for `onegrid experiment quality`.

    python dump_transformers_logits.py CHECKPOINT --plan plan.toml --set demo --output logits/demo

writes logits/demo-f32.safetensors and logits/demo-bf16.safetensors: the whole model in f32 and in bf16,
attention `eager`, each text in one pass. The texts are a plan's, those of a file (`--text`), or token ids
(`--ids`: a JSON list of lists). A file holds `logits` [tokens, vocabulary] in the type that the model
computed them in, `tokens` [tokens] and `lengths` [texts].
"""

import argparse
import json
import tomllib
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def texts_of_plan(plan: Path, name: str) -> tuple[list[str], int]:
    """The texts that a set of a plan gives, and how many tokens of each are taken."""
    sets = {each["name"]: each for each in tomllib.loads(plan.read_text())["sets"]}
    if name not in sets:
        raise SystemExit(f"{plan}: no set '{name}'; there are {', '.join(sets)}")
    given = sets[name].get("texts", {}).get("given")
    if given is None:
        raise SystemExit(f"{plan}: the set '{name}' gives no texts; give --text or --ids")
    return given["texts"], given["length"]


def token_lists(arguments: argparse.Namespace) -> list[list[int]]:
    """The tokens of each text."""
    if arguments.ids:
        return json.loads(arguments.ids.read_text())
    tokenizer = AutoTokenizer.from_pretrained(arguments.checkpoint)

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    if arguments.plan:
        texts, length = texts_of_plan(arguments.plan, arguments.set)
        return [encode(text)[:length] for text in texts]
    tokens = encode(arguments.text.read_text())
    starts = range(0, len(tokens) - arguments.length + 1, arguments.length)
    return [tokens[start : start + arguments.length] for start in starts][: arguments.count]


@torch.no_grad()
def logits(checkpoint: str, dtype: torch.dtype, texts: list[list[int]]) -> Tensor:
    """[tokens of all texts, vocabulary], in `dtype`."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype, attn_implementation="eager").eval()
    rows = [model(input_ids=torch.tensor([text]), use_cache=False).logits[0] for text in texts]
    return torch.cat(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a folder, or a repository on the hub")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--plan", type=Path, help="a plan of the experiment, with --set")
    source.add_argument("--text", type=Path, help="a text file, cut into --count pieces of --length tokens")
    source.add_argument("--ids", type=Path, help="a JSON list of lists of token ids")
    parser.add_argument("--set", help="the set of --plan whose texts to take")
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["f32", "bf16"])
    parser.add_argument("--output", type=Path, required=True, help="the beginning of the files' names")
    arguments = parser.parse_args()
    if arguments.plan and not arguments.set:
        parser.error("--plan needs --set")
    transformers.utils.logging.disable_progress_bar()
    texts = token_lists(arguments)
    if not texts or not all(texts):
        raise SystemExit("no tokens: a text is empty, or shorter than one piece")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    for name in arguments.dtypes:
        tensors = {
            "logits": logits(arguments.checkpoint, DTYPES[name], texts),
            "tokens": torch.tensor([token for text in texts for token in text]),
            "lengths": torch.tensor([len(text) for text in texts]),
        }
        metadata = {
            "model": Path(arguments.checkpoint).resolve().name,
            "engine": f"transformers {transformers.__version__}, torch {torch.__version__}, {name}, eager",
        }
        path = f"{arguments.output}-{name}.safetensors"
        save_file(tensors, path, metadata)
        print(f"{path}: {list(tensors['logits'].shape)}, {len(texts)} texts")


if __name__ == "__main__":
    main()
