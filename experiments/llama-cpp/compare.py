"""Decodes the same checkpoint with onegrid and llama.cpp in turns, and writes what came of it.

    python compare.py --onegrid ../../target/release/onegrid --folder CHECKPOINT --gguf FILE \
        --output results/MACHINE/qwen3-0.6b.json

Rounds go onegrid, llama.cpp, llama.cpp, onegrid (ABBA), each side in a process of its own with the
same prompt. A ratio is taken within each round, of the medians of both sides' repetitions.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

HERE = Path(__file__).parent
RESAMPLES = 2000


def run(command: list) -> str:
    """Standard output of a command that succeeds."""
    result = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, check=True)
    return result.stdout.decode()


def summary(samples: list[float]) -> dict:
    """Median and bootstrapped 95% interval, as in onegrid's own results."""
    values = np.array(samples)
    draws = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.quantile(np.median(values[draws], axis=1), [0.025, 0.975])
    return {
        "median": float(np.median(values)),
        "low": float(low),
        "high": float(high),
        "samples": samples,
    }


def onegrid_round(arguments, check_seconds: float) -> dict:
    """A benchmark of one process."""
    report = json.loads(
        run(
            [arguments.onegrid, "bench", "--model", arguments.folder, "--format", "json"]
            + ["--threads", arguments.threads, "--repetitions", arguments.repetitions]
            + ["--prompt-tokens", arguments.prompt_tokens, "--new-tokens", arguments.new_tokens]
            + ["--check-seconds", check_seconds]
        )
    )
    return {"environment": report["environment"], **report["runs"][0]}


def llama_command(arguments, tokens: list[int]) -> list:
    """How llama.cpp is asked to work on `tokens`."""
    ids = ",".join(map(str, tokens))
    return [sys.executable, HERE / "llama_bench.py", arguments.gguf, "--prompt", ids] + [
        "--threads",
        arguments.threads,
    ]


def llama_round(arguments, prompt: list[int]) -> dict:
    """The same of llama.cpp."""
    command = llama_command(arguments, prompt)
    command += ["--new-tokens", arguments.new_tokens, "--repetitions", arguments.repetitions]
    return json.loads(run(command))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Of each row, in f64."""
    logits = logits.astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def kl(p: np.ndarray, q: np.ndarray) -> dict:
    """KL(p || q) of each row's distribution, in nats: mean and largest."""
    log_p, log_q = log_softmax(p), log_softmax(q)
    each = np.maximum((np.exp(log_p) * (log_p - log_q)).sum(axis=-1), 0.0)
    return {"mean": float(each.mean()), "max": float(each.max()), "positions": len(each)}


def quality(arguments, tokens: list[int]) -> dict:
    """Teacher-forced logits of both, and of the f32 reference for the first few tokens."""
    with tempfile.TemporaryDirectory() as folder:

        def onegrid_logits(device: str, tokens: list[int]) -> np.ndarray:
            path = Path(folder) / f"{device}.safetensors"
            run(
                [arguments.onegrid, "logits", "--model", arguments.folder, "--device", device]
                + ["--tokens", ",".join(map(str, tokens)), "--output", path]
            )
            return load_file(path)["logits"]

        path = Path(folder) / "llama.npy"
        run(llama_command(arguments, tokens) + ["--logits", path])
        llama = np.load(path)
        onegrid = onegrid_logits("cpu", tokens)
        count = arguments.reference_tokens
        reference = onegrid_logits("reference", tokens[:count])
    return {
        "kl_onegrid_llama": kl(onegrid, llama),
        "kl_reference_onegrid": kl(reference, onegrid[:count]),
        "kl_reference_llama": kl(reference, llama[:count]),
        "top1_agreement": float((onegrid.argmax(-1) == llama.argmax(-1)).mean()),
    }


def compare(arguments) -> dict:
    """All rounds, ratios and distances."""
    rounds = []
    prompt = None
    for index in range(arguments.rounds):
        print(f"round {index + 1} of {arguments.rounds}", file=sys.stderr)
        if index % 2 == 0:
            onegrid = onegrid_round(arguments, 5.0 if index == 0 else 0.0)
            prompt = onegrid["prompt"][0]
            llama = llama_round(arguments, prompt)
        else:
            llama = llama_round(arguments, prompt)
            onegrid = onegrid_round(arguments, 0.0)
        rounds.append({"onegrid": onegrid, "llama.cpp": llama})

    def onegrid_median(name: str) -> list[float]:
        return [float(np.median(each["onegrid"][name]["samples"])) for each in rounds]

    def llama_median(name: str) -> list[float]:
        return [float(np.median(each["llama.cpp"][name])) for each in rounds]

    bandwidth = [each["onegrid"]["read_bandwidth_bytes_per_second"] for each in rounds]
    bytes_per_token = rounds[0]["onegrid"]["bytes_per_token"]

    def fraction(speeds: list[float]) -> list[float]:
        return [speed * bytes_per_token / read for speed, read in zip(speeds, bandwidth)]

    decode = onegrid_median("decode_tokens_per_second"), llama_median("decode_tokens_per_second")
    first = onegrid_median("first_token_ms"), llama_median("first_token_ms")
    ours, theirs = rounds[0]["onegrid"]["tokens"][0], rounds[0]["llama.cpp"]["tokens"]
    same = [a == b for a, b in zip(ours, theirs)]
    result = {
        "environment": rounds[0]["onegrid"]["environment"],
        "llama.cpp": {name: rounds[0]["llama.cpp"][name] for name in ("version", "system_info")},
        "threads": arguments.threads,
        "prompt_tokens": arguments.prompt_tokens,
        "new_tokens": arguments.new_tokens,
        "bytes_per_token": bytes_per_token,
        "read_bandwidth_bytes_per_second": summary(bandwidth),
        "decode_tokens_per_second": {"onegrid": summary(decode[0]), "llama.cpp": summary(decode[1])},
        "decode_ratio": summary([a / b for a, b in zip(*decode)]),
        "fraction_of_floor": {
            "onegrid": summary([each["onegrid"]["fraction_of_floor"] for each in rounds]),
            "llama.cpp": summary(fraction(decode[1])),
        },
        "first_token_ms": {"onegrid": summary(first[0]), "llama.cpp": summary(first[1])},
        "first_token_ratio": summary([b / a for a, b in zip(*first)]),
        "argmax_share_llama": max(each["llama.cpp"]["argmax_share"] for each in rounds),
        "greedy_tokens_equal": same.index(False) if False in same else len(same),
        "checked": rounds[0]["onegrid"]["checked"],
        "quality": quality(arguments, rounds[0]["onegrid"]["prompt"][0] + ours),
    }
    for each in rounds:
        for side in each.values():
            for bulky in ("environment", "prompt", "tokens", "system_info"):
                side.pop(bulky, None)
    return result | {"rounds": rounds}


def markdown(result: dict) -> str:
    """The result as a table."""

    def cell(value: dict, factor: float, decimals: int) -> str:
        median, low, high = (value[name] * factor for name in ("median", "low", "high"))
        return f"{median:.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]"

    decode, first = result["decode_tokens_per_second"], result["first_token_ms"]
    floor, quality = result["fraction_of_floor"], result["quality"]
    lines = ["| | onegrid | llama.cpp | onegrid's advantage |", "|---|--:|--:|--:|"]
    for name, values, factor, decimals, ratio in (
        ("decode (tok/s)", decode, 1.0, 2, cell(result["decode_ratio"], 1.0, 3)),
        ("of the read bandwidth (%)", floor, 100.0, 1, ""),
        ("first token (ms)", first, 1.0, 1, cell(result["first_token_ratio"], 1.0, 3)),
    ):
        ours, theirs = (cell(values[side], factor, decimals) for side in ("onegrid", "llama.cpp"))
        lines.append(f"| {name} | {ours} | {theirs} | {ratio} |")
    ours, theirs = (quality[f"kl_reference_{side}"]["mean"] for side in ("onegrid", "llama"))
    lines.append(f"| mean KL from f32 (nats) | {ours:.2e} | {theirs:.2e} | |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--onegrid", type=Path, required=True, help="the release build")
    parser.add_argument("--folder", type=Path, required=True, help="the checkpoint")
    parser.add_argument("--gguf", type=Path, required=True, help="the same, by write_gguf.py")
    parser.add_argument("--output", type=Path, required=True, help="the JSON to write")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--repetitions", type=int, default=2, help="of each side in a round")
    parser.add_argument("--reference-tokens", type=int, default=8)
    arguments = parser.parse_args()
    if arguments.rounds < 2 or arguments.rounds % 2:
        parser.error("--rounds must be even: half of them begin with each side")
    result = compare(arguments)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    beside = arguments.output.with_suffix(".part")
    beside.write_text(json.dumps(result, indent=1) + "\n")
    beside.rename(arguments.output)
    print(markdown(result))
