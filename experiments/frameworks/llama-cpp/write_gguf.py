"""Writes a Hugging Face folder of a Qwen3 model as a GGUF file, bf16 kept bit for bit.

    python write_gguf.py FOLDER FILE.gguf

The file has no tokenizer: speed and logits are compared by token ids. Matrices keep the bytes of
the safetensors file; norms are widened to f32, as llama.cpp's own converter does. Qwen3's rotary
embedding pairs dimension i with i + head_dim / 2 in both formats, so that no row changes place.
"""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np

LAYER_TENSORS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTER_TENSORS = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def gguf_name(name: str) -> str:
    """The name that llama.cpp knows a tensor of the checkpoint by."""
    if name in OUTER_TENSORS:
        return OUTER_TENSORS[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{LAYER_TENSORS[rest.removesuffix('.weight')]}.weight"


def tensors(folder: Path):
    """Each tensor's name, shape and bf16 bits, mapped from the folder's safetensors files."""
    for path in sorted(folder.glob("*.safetensors")):
        data = np.memmap(path, dtype=np.uint8, mode="r")
        header_bytes = int(data[:8].view("<u8")[0])
        header = json.loads(data[8 : 8 + header_bytes].tobytes())
        body = data[8 + header_bytes :]
        for name, tensor in header.items():
            if name == "__metadata__":
                continue
            if tensor["dtype"] != "BF16":
                raise SystemExit(f"{path}: {name} is {tensor['dtype']}, expected BF16")
            start, end = tensor["data_offsets"]
            yield name, tensor["shape"], body[start:end].view("<u2").reshape(tensor["shape"])


def write(folder: Path, output: Path) -> None:
    """Writes the checkpoint in `folder` to `output`."""
    config = json.loads((folder / "config.json").read_text())
    if config["architectures"] != ["Qwen3ForCausalLM"]:
        raise SystemExit(f"{folder}: {config['architectures']}, expected Qwen3ForCausalLM")
    rope = config.get("rope_parameters") or config
    writer = gguf.GGUFWriter(output, "qwen3")
    writer.add_name(folder.name)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_tokenizer_model("none")
    for name, shape, bits in tensors(folder):
        if len(shape) == 1:
            values = (bits.astype(np.uint32) << 16).view(np.float32)
            writer.add_tensor(gguf_name(name), values)
        else:
            writer.add_tensor(
                gguf_name(name),
                bits.view(np.uint8).reshape(shape[0], -1),
                raw_dtype=gguf.GGMLQuantizationType.BF16,
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    write(arguments.folder, arguments.output)
