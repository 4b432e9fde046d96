"""Decodes with Hugging Face transformers in bf16, eagerly or compiled.

Compiled: the forward pass of a step by torch.compile, with a cache of fixed size, as transformers' own
`generate` does it on a GPU.
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

import torch
import transformers
from contract import parser, serve, timed
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache


class Transformers:
    def __init__(self, arguments):
        torch.set_num_threads(arguments.threads)
        torch.set_grad_enabled(False)
        transformers.utils.logging.disable_progress_bar()
        self.device = torch.device(arguments.device)
        self.context = arguments.context
        self.is_compiled = arguments.compile
        model = AutoModelForCausalLM.from_pretrained(
            arguments.checkpoint, dtype=torch.bfloat16, attn_implementation="sdpa"
        )
        self.model = model.eval().to(self.device)
        self.step = torch.compile(self.model.forward, dynamic=False) if self.is_compiled else self.model
        self.cache = self.new_cache()
        if self.is_compiled:
            # Compiles the step before anybody waits for an answer.
            self.decode([1, 2, 3], 3)

    def hello(self) -> dict:
        return {
            "framework": f"transformers {transformers.__version__}",
            "setup": "bf16, sdpa attention, "
            + ("torch.compile with a static cache" if self.is_compiled else "eager with a dynamic cache"),
            "device": self.device.type,
            "threads": torch.get_num_threads(),
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        }

    def new_cache(self):
        if self.is_compiled:
            return StaticCache(config=self.model.config, max_cache_len=self.context)
        return DynamicCache(config=self.model.config)

    def run(self, forward, tokens: list[int], position: int) -> torch.Tensor:
        """Appends `tokens`; the logits after the last of them: [vocabulary]."""
        ids = torch.tensor([tokens], device=self.device)
        positions = torch.arange(position, position + len(tokens), device=self.device)
        output = forward(
            input_ids=ids,
            position_ids=positions[None],
            cache_position=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[0, -1]

    def decode(self, prompt: list[int], max_tokens: int) -> dict:
        if self.is_compiled:
            self.cache.reset()
        else:
            self.cache = self.new_cache()
        position = 0

        def append(forward, tokens: list[int]) -> int:
            nonlocal position
            logits = self.run(forward, tokens, position)
            position += len(tokens)
            return int(logits.argmax())

        return timed(
            lambda: append(self.model, prompt),
            lambda token: append(self.step, [token]),
            max_tokens,
        )

    def logits(self, tokens: list[int]):
        """A step each, as in decoding: [tokens, vocabulary]."""
        if self.is_compiled:
            self.cache.reset()
        else:
            self.cache = self.new_cache()
        rows = [self.run(self.step, [token], position) for position, token in enumerate(tokens)]
        return torch.stack(rows).float().cpu().numpy()


if __name__ == "__main__":
    arguments = parser(__doc__)
    arguments.add_argument("--compile", action="store_true", help="compile the step")
    arguments = arguments.parse_args()
    serve(lambda: Transformers(arguments))
