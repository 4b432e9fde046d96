"""Decodes with TensorRT-LLM in bf16, one sequence."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

import tensorrt_llm
from contract import parser, serve, timed_whole
from tensorrt_llm import LLM, SamplingParams


class TensorrtLlm:
    def __init__(self, arguments):
        self.llm = LLM(
            model=arguments.checkpoint,
            skip_tokenizer_init=True,
            dtype="bfloat16",
            max_batch_size=1,
            max_seq_len=arguments.context,
        )

    def hello(self) -> dict:
        return {
            "framework": f"TensorRT-LLM {tensorrt_llm.__version__}",
            "setup": "bf16, one sequence",
            "device": "cuda",
            "threads": None,
            "versions": {"tensorrt-llm": tensorrt_llm.__version__},
        }

    def decode(self, prompt: list[int], max_tokens: int) -> dict:
        def generate(count: int) -> list[int]:
            # No token ends a text.
            sampling = SamplingParams(top_k=1, max_tokens=count, end_id=-1, pad_id=0)
            return list(self.llm.generate(prompt, sampling, use_tqdm=False).outputs[0].token_ids)

        return timed_whole(generate, max_tokens)


if __name__ == "__main__":
    arguments = parser(__doc__).parse_args()
    serve(lambda: TensorrtLlm(arguments))
