"""Decodes greedily with llama.cpp and prints how long it took, as JSON.

    python llama_bench.py MODEL.gguf --prompt 1,2,3 --new-tokens 64

The same clock as `onegrid bench`: the first token's time runs from the start of the prompt to the
first argmax, the decode speed counts the tokens after the first. Tokens go in and logits come out
through llama.cpp's C interface; the argmax is NumPy's over the logits in place, and its share of
the time is measured and printed (`argmax_share`).
"""

import argparse
import ctypes
import json
import sys
import time

import llama_cpp
import numpy as np


class Llama:
    """A model and a context of one sequence, as llama.cpp sets them up unless told otherwise."""

    def __init__(self, path: str, threads: int, context: int):
        llama_cpp.llama_backend_init()
        model_params = llama_cpp.llama_model_default_params()
        model_params.n_gpu_layers = 0
        started = time.perf_counter()
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), model_params)
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        self.load_seconds = time.perf_counter() - started
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = context
        params.n_threads = threads
        params.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit(f"llama.cpp cannot make a context of {context}")
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(
            llama_cpp.llama_model_get_vocab(self.model)
        )

    def clear(self) -> None:
        """Forgets everything cached."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def eval(self, tokens: list[int]) -> np.ndarray:
        """Appends `tokens`; the logits after the last, [vocabulary], valid until the next call."""
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        batch = llama_cpp.llama_batch_get_one(array, len(tokens))
        if llama_cpp.llama_decode(self.context, batch) != 0:
            raise SystemExit("llama_decode failed")
        logits = llama_cpp.llama_get_logits_ith(self.context, -1)
        return np.ctypeslib.as_array(logits, shape=(self.vocabulary,))

    def logits(self, tokens: list[int]) -> np.ndarray:
        """Teacher-forced logits after each of `tokens`, one step each: [tokens, vocabulary]."""
        self.clear()
        return np.stack([self.eval([token]).copy() for token in tokens])


def decode(llama: Llama, prompt: list[int], new_tokens: int) -> dict:
    """One greedy run from an empty cache."""
    llama.clear()
    argmax_seconds = 0.0
    started = time.perf_counter()
    logits = llama.eval(prompt)
    tokens = [int(logits.argmax())]
    first = time.perf_counter()
    while len(tokens) < new_tokens:
        logits = llama.eval(tokens[-1:])
        sampling = time.perf_counter()
        tokens.append(int(logits.argmax()))
        argmax_seconds += time.perf_counter() - sampling
    seconds = time.perf_counter() - first
    return {
        "first_token_ms": 1e3 * (first - started),
        "decode_tokens_per_second": (new_tokens - 1) / seconds,
        "argmax_share": argmax_seconds / seconds,
        "tokens": tokens,
    }


def bench(path: str, prompt: list[int], new_tokens: int, repetitions: int, threads: int) -> dict:
    """Runs of one process, after a short one that is not counted."""
    llama = Llama(path, threads, len(prompt) + new_tokens)
    decode(llama, prompt, 4)
    runs = [decode(llama, prompt, new_tokens) for _ in range(repetitions)]
    if any(run["tokens"] != runs[0]["tokens"] for run in runs):
        raise SystemExit("llama.cpp's repetitions differ: no speed is reported")
    return {
        "engine": "llama.cpp",
        "version": llama_cpp.__version__,
        "system_info": llama_cpp.llama_print_system_info().decode(),
        "threads": threads,
        "load_seconds": llama.load_seconds,
        "first_token_ms": [run["first_token_ms"] for run in runs],
        "decode_tokens_per_second": [run["decode_tokens_per_second"] for run in runs],
        "argmax_share": max(run["argmax_share"] for run in runs),
        "tokens": runs[0]["tokens"],
    }


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def only_errors(level, text, _data):
    """Passes llama.cpp's warnings and errors on, and nothing else."""
    if level in (3, 4):
        sys.stderr.write(text.decode(errors="replace"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--prompt", required=True, help="token ids, separated by commas")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--logits", help="write the prompt's logits to this .npy file instead")
    arguments = parser.parse_args()
    llama_cpp.llama_log_set(only_errors, None)
    ids = [int(token) for token in arguments.prompt.split(",")]
    if arguments.logits:
        llama = Llama(arguments.model, arguments.threads, len(ids))
        np.save(arguments.logits, llama.logits(ids))
    else:
        result = bench(
            arguments.model,
            ids,
            arguments.new_tokens,
            arguments.repetitions,
            arguments.threads,
        )
        print(json.dumps(result))
