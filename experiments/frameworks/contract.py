"""The bench contract of adapters: how they are called, and what they say. See README.md.

An adapter defines a class with `hello()`, `decode(prompt, max_tokens)` and, where logits can be had,
`logits(tokens)`, and hands a function that makes one to `serve`.
"""

import argparse
import json
import os
import sys
import time
from typing import Callable

import numpy as np
from safetensors.numpy import save_file


def parser(description: str) -> argparse.ArgumentParser:
    """The arguments that every adapter is called with."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("checkpoint", help="a Hugging Face folder")
    result.add_argument("--threads", type=int, required=True)
    result.add_argument("--device", choices=["cpu", "cuda"], required=True)
    result.add_argument("--context", type=int, required=True, help="the most positions of a text")
    return result


def timed(first: Callable[[], int], following: Callable[[int], int], max_tokens: int) -> dict:
    """Decodes: `first()` runs the prompt, `following(token)` a step; each gives the likeliest token."""
    started = time.perf_counter()
    tokens = [first()]
    after_first = time.perf_counter()
    while len(tokens) < max_tokens:
        tokens.append(following(tokens[-1]))
    end = time.perf_counter()
    return {
        "tokens": tokens,
        "first_token_seconds": after_first - started,
        "decode_seconds": end - after_first,
    }


def timed_whole(generate: Callable[[int], list[int]], max_tokens: int) -> dict:
    """Decodes with a program that only gives a text as a whole: `generate(count)` makes that many tokens.
    The first token's time is that of a text of one token."""
    started = time.perf_counter()
    generate(1)
    after_first = time.perf_counter()
    tokens = generate(max_tokens)
    end = time.perf_counter()
    first = after_first - started
    return {
        "tokens": list(tokens),
        "first_token_seconds": first,
        "decode_seconds": end - after_first - first,
    }


def serve(make: Callable[[], object]) -> None:
    """Makes the adapter, then answers requests until there are no more."""
    # Whatever a library prints must not come between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(value: dict) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    started = time.perf_counter()
    adapter = make()
    hello = adapter.hello()
    hello["load_seconds"] = time.perf_counter() - started
    hello["has_logits"] = hasattr(adapter, "logits")
    answer(hello)
    for line in sys.stdin:
        request = json.loads(line)
        if "prompt" in request:
            answer(adapter.decode(request["prompt"], request["max_tokens"]))
        else:
            tokens = request["logits"]
            tensors = {
                "logits": np.ascontiguousarray(adapter.logits(tokens), dtype=np.float32),
                "tokens": np.array(tokens, dtype=np.int64),
                "lengths": np.array([len(tokens)], dtype=np.int64),
            }
            save_file(tensors, request["file"], {"engine": hello["framework"]})
            answer({})
