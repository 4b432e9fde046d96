"""Profiles transformers writing held-out molecules under a mask by position, as the published study did.

    python trace_transformers.py --model models/fixed/qwen3 --data data/fixed --out traces/qwen3.json.gz

The mask is a logits processor in Python that goes through the batch row by row: where the template copies, all
tokens but one are set to minus infinity, and where it is free, those that hold one of its marks. The first steps
are left out as warm-up, and each further one is marked as a step of the profiler, so that `onegrid compare` can
divide by them. The texts are judged: a trace whose texts have another form than the template
asks for is not written.
"""

import argparse
import json
import os
import re
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessor

import demo_train  # noqa: F401  (finds the module below)
from conformer_text import ATOM, CONFORMER_CLOSE, CONFORMER_OPEN, SMILES_CLOSE, SMILES_OPEN, prompt_of

BATCH = 32
WARMUP_STEPS = 4
PLACEHOLDER = "0.0000,0.0000,0.0000"
MARKS = "<>[]"


def template_of(smiles, tokenizer):
    """The tokens to copy; None for each free position."""
    free = [None] * len(tokenizer(PLACEHOLDER)["input_ids"])
    literals = [CONFORMER_OPEN]
    position = 0
    for atom in ATOM.finditer(smiles):
        wrapped = atom.group() if atom.group().startswith("[") else f"[{atom.group()}]"
        literals[-1] += smiles[position : atom.start()] + wrapped + "<"
        literals.append(">")
        position = atom.end()
    literals[-1] += smiles[position:] + CONFORMER_CLOSE
    tokens = []
    for index, literal in enumerate(literals):
        tokens += (free if index else []) + tokenizer(literal)["input_ids"]
    return [*tokens, tokenizer.eos_token_id]


class PositionMask(LogitsProcessor):
    """Holds each row of a batch to its template; tells `profiler` of every step after the warm-up."""

    def __init__(self, templates, blocked, end):
        self.templates, self.blocked, self.end = templates, blocked, end
        self.prompt = self.profiler = None
        self.steps = 0

    def __call__(self, input_ids, scores):
        self.prompt = self.prompt or input_ids.shape[1]
        position = input_ids.shape[1] - self.prompt
        for row, template in enumerate(self.templates):
            token = template[position] if position < len(template) else self.end
            if token is None:
                scores[row, self.blocked] = float("-inf")
            else:
                scores[row, :] = float("-inf")
                scores[row, token] = 0.0
        self.steps += 1
        if self.steps == WARMUP_STEPS:
            self.profiler.start()
        elif self.steps > WARMUP_STEPS:
            self.profiler.step()
        return scores


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", type=Path, required=True)
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--steps", type=int, default=32)
    options = arguments.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(options.model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16).eval()
    lines = (options.data / "heldout.txt").read_text().splitlines()[:BATCH]
    smiles = [line.removeprefix(SMILES_OPEN).split(SMILES_CLOSE)[0] for line in lines]
    pieces = {index: tokenizer.decode([index]) for index in range(len(tokenizer))}
    blocked = torch.tensor([index for index, piece in pieces.items() if set(piece) & set(MARKS)])
    mask = PositionMask([template_of(one, tokenizer) for one in smiles], blocked, tokenizer.eos_token_id)
    inputs = tokenizer([prompt_of(one) for one in smiles], padding=True, return_tensors="pt")
    # Steps are marked only under a schedule.
    schedule = torch.profiler.schedule(wait=0, warmup=0, active=options.steps, repeat=1)
    mask.profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], schedule=schedule)
    with torch.no_grad():
        output = model.generate(
            **inputs,
            max_new_tokens=WARMUP_STEPS + options.steps,
            do_sample=False,
            logits_processor=[mask],
        )
    mask.profiler.stop()
    form = re.compile(re.escape(CONFORMER_OPEN) + r"\[[^\[\]]+\]<[^<>\[\]]+(>|$)")
    texts = tokenizer.batch_decode(output[:, inputs.input_ids.shape[1] :])
    if wrong := [text for text in texts if not form.match(text)]:
        raise SystemExit(f"not the template's form: {wrong[0]}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    beside = options.out.with_name(f"new-{options.out.name}")
    mask.profiler.export_chrome_trace(str(beside))
    os.replace(beside, options.out)
    print(json.dumps({"layers": model.config.num_hidden_layers, "steps": options.steps, "tokens": BATCH * options.steps}))


if __name__ == "__main__":
    main()
