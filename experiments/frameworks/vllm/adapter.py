"""Decodes with vLLM in bf16, one sequence, CUDA graphs as it sets itself up."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

import vllm
from contract import parser, serve, timed_whole
from vllm import LLM, SamplingParams, TokensPrompt


class Vllm:
    def __init__(self, arguments):
        self.llm = LLM(
            model=arguments.checkpoint,
            skip_tokenizer_init=True,
            dtype="bfloat16",
            max_model_len=arguments.context,
            max_num_seqs=1,
            # Every turn runs its prompt.
            enable_prefix_caching=False,
        )

    def hello(self) -> dict:
        return {
            "framework": f"vLLM {vllm.__version__}",
            "setup": "bf16, one sequence, no prefix cache",
            "device": "cuda",
            "threads": None,
            "versions": {"vllm": vllm.__version__},
        }

    def decode(self, prompt: list[int], max_tokens: int) -> dict:
        def generate(count: int) -> list[int]:
            sampling = SamplingParams(temperature=0.0, max_tokens=count, ignore_eos=True, detokenize=False)
            outputs = self.llm.generate(TokensPrompt(prompt_token_ids=prompt), sampling, use_tqdm=False)
            return list(outputs[0].outputs[0].token_ids)

        return timed_whole(generate, max_tokens)


if __name__ == "__main__":
    arguments = parser(__doc__).parse_args()
    serve(lambda: Vllm(arguments))
