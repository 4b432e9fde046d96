"""Decodes with llama.cpp, as it sets itself up: weights mapped, flash attention on `auto`, KV cache in f16.

The checkpoint's bf16 weights are first written as a GGUF file, bit for bit. Tokens go in and logits come out
through llama.cpp's C interface; the argmax is NumPy's over the logits in place, which takes less than a
thousandth of a step.
"""

import ctypes
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

import llama_cpp
import numpy as np
from contract import parser, serve, timed
from write_gguf import write


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def only_errors(level, text, _data):
    """Passes llama.cpp's warnings and errors on, and nothing else."""
    if level in (3, 4):
        sys.stderr.write(text.decode(errors="replace"))


class LlamaCpp:
    def __init__(self, arguments):
        llama_cpp.llama_log_set(only_errors, None)
        llama_cpp.llama_backend_init()
        self.device = arguments.device
        self.threads = arguments.threads
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "model.gguf"
        write(Path(arguments.checkpoint), path)
        model_params = llama_cpp.llama_model_default_params()
        model_params.n_gpu_layers = 0 if self.device == "cpu" else 10_000
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), model_params)
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = arguments.context
        params.n_threads = self.threads
        params.n_threads_batch = self.threads
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit(f"llama.cpp cannot make a context of {arguments.context}")
        vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(vocab)

    def hello(self) -> dict:
        return {
            "framework": f"llama.cpp (llama-cpp-python {llama_cpp.__version__})",
            "setup": "bf16 GGUF, KV cache in f16, flash attention auto",
            "device": self.device,
            "threads": self.threads,
            "versions": {
                "llama-cpp-python": llama_cpp.__version__,
                "system": llama_cpp.llama_print_system_info().decode(),
            },
        }

    def clear(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def eval(self, tokens: list[int]) -> np.ndarray:
        """Appends `tokens`; the logits after the last, [vocabulary], valid until the next call."""
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        batch = llama_cpp.llama_batch_get_one(array, len(tokens))
        if llama_cpp.llama_decode(self.context, batch) != 0:
            raise SystemExit("llama_decode failed")
        logits = llama_cpp.llama_get_logits_ith(self.context, -1)
        return np.ctypeslib.as_array(logits, shape=(self.vocabulary,))

    def decode(self, prompt: list[int], max_tokens: int) -> dict:
        self.clear()
        return timed(
            lambda: int(self.eval(prompt).argmax()),
            lambda token: int(self.eval([token]).argmax()),
            max_tokens,
        )

    def logits(self, tokens: list[int]) -> np.ndarray:
        """A step each, as in decoding: [tokens, vocabulary]."""
        self.clear()
        return np.stack([self.eval([token]).copy() for token in tokens])


if __name__ == "__main__":
    arguments = parser(__doc__).parse_args()
    serve(lambda: LlamaCpp(arguments))
