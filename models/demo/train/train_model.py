"""Trains the model on a CPU.

    python train_model.py --corpus CORPUS --model MODEL --checkpoint CHECKPOINT --steps STEPS

MODEL holds the tokenizer and receives the config, the weights in bf16 and a record of the run
(training.json) when the last step is done.
CHECKPOINT is a file: written every few minutes, and read when the command is given again. The learning
rate is constant until the last steps, so a run can be resumed with another --steps.
"""

import argparse
import itertools
import json
import os
import time
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer, GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from batches import STRUCTURE_WEIGHT, Corpus
from muon import Muon

# The tokenizer has fewer ids; rows are rounded up, as Qwen3's are.
VOCABULARY_ROWS = 512
WARMUP_STEPS = 60
# The last part of the steps, over which the learning rate falls to zero.
COOLDOWN = 0.25
MUON_LR = 0.02
MUON_WEIGHT_DECAY = 0.01
ADAM_LR = 0.003
CHECKPOINT_SECONDS = 180
REPORT_STEPS = 10
VALIDATION_STEPS = 250
VALIDATION_LINES = 256


def new_model(tokenizer):
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCABULARY_ROWS,
            hidden_size=256,
            intermediate_size=768,
            num_hidden_layers=5,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=64,
            max_position_embeddings=tokenizer.model_max_length,
            max_window_layers=5,
            # Texts are a few hundred tokens: a base of 10,000 leaves most frequencies to tell them apart.
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def token_losses(model, ids):
    """ids: [lines, length] -> the loss of each next token and whether it is the likeliest,
    [lines, length - 1] each. Padding is on the right, where causal attention hides it."""
    logits = model(ids, use_cache=False).logits[:, :-1]
    targets = ids[:, 1:]
    losses = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
    return losses, logits.argmax(-1) == targets


@torch.no_grad()
def validate(model, corpus, tokens_per_batch):
    """-> the mean loss of structure tokens, and the share of lines that have all of them likeliest."""
    structure_loss, structure_tokens, whole_lines, lines = 0.0, 0, 0, 0
    for numbers in torch.arange(VALIDATION_LINES).split(tokens_per_batch // 200):
        ids, weights = corpus.batch(numbers.tolist())
        losses, likeliest = token_losses(model, ids)
        structure = weights[:, 1:] == STRUCTURE_WEIGHT
        structure_loss += losses[structure].sum().item()
        structure_tokens += structure.sum().item()
        whole_lines += (likeliest | ~structure).all(1).sum().item()
        lines += len(ids)
    return structure_loss / structure_tokens, whole_lines / lines


def learning_rate_at(step, steps):
    """The part of the full learning rate that a step has: warm-up, plateau, linear cooldown."""
    warm = min(1.0, (step + 1) / WARMUP_STEPS)
    left = (steps - step) / (COOLDOWN * steps)
    return min(warm, left, 1.0)


def new_optimizers(model):
    """Muon for the matrices of the layers, Adam for the embedding and the norms."""
    matrices = [parameter for parameter in model.model.layers.parameters() if parameter.ndim == 2]
    taken = {id(matrix) for matrix in matrices}
    others = [parameter for parameter in model.parameters() if id(parameter) not in taken]
    optimizers = [
        Muon(matrices, lr=MUON_LR, weight_decay=MUON_WEIGHT_DECAY),
        torch.optim.AdamW(others, lr=ADAM_LR, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["full_lr"] = group["lr"]
    return optimizers


def write_checkpoint(path, model, optimizers, step, tokens, seconds):
    beside = path.with_suffix(".new")
    torch.save(
        {
            "model": model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "step": step,
            "tokens": tokens,
            "seconds": seconds,
        },
        beside,
    )
    beside.rename(path)


def write_model(model, tokenizer, folder):
    """config.json, generation_config.json and model.safetensors in bf16, each written beside and renamed."""
    beside = folder / "new"
    rounded = type(model)(model.config).to(torch.bfloat16)
    rounded.load_state_dict(model.state_dict())
    rounded.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=[tokenizer.eos_token_id], pad_token_id=tokenizer.pad_token_id
    )
    rounded.save_pretrained(beside)
    for file in beside.iterdir():
        file.chmod(0o644)
        os.replace(file, folder / file.name)
    beside.rmdir()


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--corpus", type=Path, required=True)
    arguments.add_argument("--model", type=Path, required=True)
    arguments.add_argument("--checkpoint", type=Path, required=True)
    arguments.add_argument("--steps", type=int, default=4_000)
    arguments.add_argument("--tokens-per-batch", type=int, default=6_144)
    arguments.add_argument("--seed", type=int, default=1)
    options = arguments.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    train = Corpus(options.corpus / "train.txt", options.model)
    heldout = Corpus(options.corpus / "heldout.txt", options.model)
    torch.manual_seed(options.seed)
    model = new_model(tokenizer)
    optimizers = new_optimizers(model)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{parameters} parameters, {len(train)} lines, {len(train.ids)} tokens", flush=True)

    first, tokens, seconds = 0, 0, 0.0
    if options.checkpoint.exists():
        saved = torch.load(options.checkpoint)
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"]):
            optimizer.load_state_dict(state)
        first, tokens, seconds = saved["step"], saved["tokens"], saved["seconds"]
        print(f"resumed at step {first}", flush=True)

    epochs = (train.epoch(number, options.seed, options.tokens_per_batch) for number in itertools.count())
    batches = enumerate(itertools.chain.from_iterable(epochs))
    started = saved_at = time.monotonic()
    for step, lines in itertools.islice(batches, first, options.steps):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["full_lr"] * learning_rate_at(step, options.steps)
        ids, weights = train.batch(lines)
        weights = weights[:, 1:]
        losses, _ = token_losses(model, ids)
        loss = (losses * weights).sum() / weights.sum()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

        tokens += int((weights > 0).sum())
        done = step + 1
        now = time.monotonic()
        if done % REPORT_STEPS == 0:
            structure = losses[weights == STRUCTURE_WEIGHT].mean().item()
            total = seconds + now - started
            losses_now = f"loss {loss:.4f} structure {structure:.4f}"
            print(f"step {done} {losses_now} tokens {tokens} seconds {total:.0f}", flush=True)
        if done % VALIDATION_STEPS == 0:
            structure, whole = validate(model, heldout, options.tokens_per_batch)
            print(f"step {done} held out: structure {structure:.4f} all likeliest {whole:.3f}", flush=True)
        if now - saved_at > CHECKPOINT_SECONDS or done == options.steps:
            write_checkpoint(options.checkpoint, model, optimizers, done, tokens, seconds + now - started)
            saved_at = now
    write_model(model, tokenizer, options.model)
    record = {
        "parameters": parameters,
        "lines": len(train),
        "steps": options.steps,
        "tokens": tokens,
        "tokens_per_batch": options.tokens_per_batch,
        "seed": options.seed,
        "seconds": round(seconds + time.monotonic() - started),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    (options.model / "training.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
