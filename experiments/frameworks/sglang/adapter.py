"""Decodes with SGLang in bf16, one sequence, CUDA graphs as it sets itself up."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

import sglang
from contract import parser, serve, timed_whole


class Sglang:
    def __init__(self, arguments):
        self.engine = sglang.Engine(
            model_path=arguments.checkpoint,
            skip_tokenizer_init=True,
            dtype="bfloat16",
            context_length=arguments.context,
            max_running_requests=1,
            # Every turn runs its prompt.
            disable_radix_cache=True,
        )

    def hello(self) -> dict:
        return {
            "framework": f"SGLang {sglang.__version__}",
            "setup": "bf16, one sequence, no radix cache",
            "device": "cuda",
            "threads": None,
            "versions": {"sglang": sglang.__version__},
        }

    def decode(self, prompt: list[int], max_tokens: int) -> dict:
        def generate(count: int) -> list[int]:
            sampling = {"temperature": 0.0, "max_new_tokens": count, "ignore_eos": True}
            return self.engine.generate(input_ids=prompt, sampling_params=sampling)["output_ids"]

        return timed_whole(generate, max_tokens)


if __name__ == "__main__":
    arguments = parser(__doc__).parse_args()
    serve(lambda: Sglang(arguments))
