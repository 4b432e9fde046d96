"""Decodes with ExLlamaV2 in f16, one sequence, unquantised."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

import torch
from contract import parser, serve, timed
from exllamav2 import ExLlamaV2, ExLlamaV2Cache, ExLlamaV2Config
from exllamav2 import __version__ as version


class ExLlama:
    def __init__(self, arguments):
        config = ExLlamaV2Config(arguments.checkpoint)
        config.max_seq_len = arguments.context
        self.model = ExLlamaV2(config)
        self.model.load()
        self.cache = ExLlamaV2Cache(self.model, max_seq_len=arguments.context)

    def hello(self) -> dict:
        return {
            "framework": f"ExLlamaV2 {version}",
            "setup": "f16",
            "device": "cuda",
            "threads": None,
            "versions": {"exllamav2": version, "torch": torch.__version__},
        }

    def run(self, tokens: list[int]) -> torch.Tensor:
        """Appends `tokens`; the logits after the last of them: [vocabulary]."""
        return self.model.forward(torch.tensor([tokens]), self.cache, last_id_only=True)[0, -1]

    @torch.inference_mode()
    def decode(self, prompt: list[int], max_tokens: int) -> dict:
        self.cache.current_seq_len = 0
        return timed(
            lambda: int(self.run(prompt).argmax()),
            lambda token: int(self.run([token]).argmax()),
            max_tokens,
        )

    @torch.inference_mode()
    def logits(self, tokens: list[int]):
        """A step each, as in decoding: [tokens, vocabulary]."""
        self.cache.current_seq_len = 0
        return torch.stack([self.run([token]).float().cpu() for token in tokens]).numpy()


if __name__ == "__main__":
    arguments = parser(__doc__).parse_args()
    serve(lambda: ExLlama(arguments))
