"""Trains the study's tokenizers and models on a CPU, each from nothing.

    python train_models.py --data data/fixed --out models/fixed

For each of the two families writes models/fixed/NAME and models/fixed/NAME-early, Hugging Face folders:

- qwen3: a Qwen3 whose tokenizer takes digits one by one, as Qwen3's does;
- llama: a Llama of the same dimensions whose tokenizer takes up to three digits together, as Llama 3's does.

NAME-early is what the model was when it first knew the structure (all but the numbers) of more than a share
of held-out lines: a model that was stopped early. NAME is what became of it. Both tokenizers are byte-level
BPE that learnt its other merges as the demo model's did, and both models have the same rows of embedding,
so that a head costs the same. training.json in each folder is the run's curve.

Another number of threads or another processor changes the order of sums, so a repeated run gives other
weights of the same quality.
"""

import argparse
import itertools
import json
import time
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

import demo_train  # noqa: F401  (finds the modules below)
import train_model
import train_tokenizer
from batches import STRUCTURE_WEIGHT, Corpus

SEED = 1
STEPS = 1_000
TOKENS_PER_BATCH = 6_144
# Of held-out lines, for the model that is stopped early. It is looked at every so many steps.
EARLY_SHARE = 0.2
VALIDATION_STEPS = 25
# As many as the larger tokenizer needs, rounded up.
VOCABULARY_ROWS = 1_408
DIMENSIONS = {
    "vocab_size": VOCABULARY_ROWS,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "rms_norm_eps": 1e-6,
    # Texts are a few hundred tokens: a small base leaves most frequencies to tell them apart.
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    "tie_word_embeddings": True,
    "bos_token_id": None,
}
FAMILIES = {
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, 1, "Qwen2Tokenizer"),
    "llama": (LlamaConfig, LlamaForCausalLM, 3, "PreTrainedTokenizerFast"),
}


def groups_of_digits(most):
    """Every number of two to `most` digits, so that each becomes one token."""
    for digits in range(2, most + 1):
        for number in range(10**digits):
            yield f"{number:0{digits}d}"


def new_tokenizer(corpus, digits):
    """`digits`: how many of them are taken together."""
    words = train_tokenizer.WORDS.replace(r"\p{N}|", rf"\p{{N}}{{1,{digits}}}|")
    pieces = itertools.chain(train_tokenizer.pieces_of(corpus / "train.txt"), groups_of_digits(digits))
    return train_tokenizer.train(pieces, words, VOCABULARY_ROWS)


def autocast():
    """Matrix products in bf16, which processors with AVX-512 BF16 do almost twice as fast; weights stay f32."""
    return torch.autocast("cpu", dtype=torch.bfloat16)


def write_model(model, tokenizer, folder, curve, record):
    """The folder's weights and config, and the curve so far."""
    train_model.write_model(model, tokenizer, folder)
    (folder / "training.json").write_text(json.dumps({**record, "curve": curve}, indent=1) + "\n")


def train(name, options):
    config_type, model_type, digits, tokenizer_class = FAMILIES[name]
    folders = whole, early = options.out / name, options.out / f"{name}-early"
    if (whole / "training.json").exists():
        print(f"{whole} is trained")
        return
    tokenizer = new_tokenizer(options.data, digits)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        train_tokenizer.write(tokenizer, folder, tokenizer_class)
    print(f"{name}: {tokenizer.get_vocab_size()} tokens", flush=True)
    tokenizer = AutoTokenizer.from_pretrained(whole)
    corpus, heldout = (Corpus(options.data / file, whole) for file in ("train.txt", "heldout.txt"))
    torch.manual_seed(SEED)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model = model_type(config_type(**DIMENSIONS, max_position_embeddings=tokenizer.model_max_length, **ends))
    optimizers = train_model.new_optimizers(model)
    record = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "lines": len(corpus),
        "tokens_per_batch": TOKENS_PER_BATCH,
        "seed": SEED,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    epochs = (corpus.epoch(number, SEED, TOKENS_PER_BATCH) for number in itertools.count())
    batches = itertools.islice(itertools.chain.from_iterable(epochs), options.steps)
    curve, tokens, has_early, started = [], 0, False, time.monotonic()
    for step, lines in enumerate(batches):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["full_lr"] * train_model.learning_rate_at(step, options.steps)
        ids, weights = corpus.batch(lines)
        weights = weights[:, 1:]
        with autocast():
            losses, _ = train_model.token_losses(model, ids)
        loss = (losses * weights).sum() / weights.sum()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        tokens += int((weights > 0).sum())
        if (step + 1) % VALIDATION_STEPS and step + 1 != options.steps:
            continue
        with autocast():
            structure, share = train_model.validate(model, heldout, TOKENS_PER_BATCH)
        curve.append(
            {
                "step": step + 1,
                "tokens": tokens,
                "seconds": round(time.monotonic() - started),
                "loss": round(loss.item(), 4),
                "structure_loss": round(losses[weights == STRUCTURE_WEIGHT].mean().item(), 4),
                "heldout_structure_loss": round(structure, 4),
                "heldout_structure_known": round(share, 4),
            }
        )
        print(f"{name}: {curve[-1]}", flush=True)
        if not has_early and share >= EARLY_SHARE:
            write_model(model, tokenizer, early, curve, record)
            has_early = True
    if not has_early:
        raise SystemExit(f"{name}: no step knew the structure of {EARLY_SHARE:.0%} of held-out lines")
    write_model(model, tokenizer, whole, curve, record)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--steps", type=int, default=STEPS)
    arguments.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    options = arguments.parse_args()
    for name in options.families:
        train(name, options)


if __name__ == "__main__":
    main()
