"""Time and peak memory of a strict load (every tensor accounted for and finite) against transformers' from_pretrained.

Each load runs in a process of its own, peers in turns; the model is read once more after it is loaded, because a plain
load of equal precision only maps the file. Seconds are CPU time of the load alone, without imports; memory is the
largest resident size beyond that of before, as a share of the weights, and counts mapped pages of the file. A folder
`shaped` is made with zeros in the shape of Llama-3.2-1B (2.5 GB) and removed afterwards.

    python benchmarks/loading.py MODEL_FOLDER... [--shaped] [--dtype float32 bfloat16] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from tabulate import tabulate
from transformers import AutoModelForCausalLM, LlamaConfig

LOAD = """
import json, sys, time
from pathlib import Path
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from latbench.model import source, weights
who, folder, dtype = sys.argv[1:]
def memory(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) * 1024
before, start = memory("VmRSS"), time.process_time()
if who == "latbench":
    shape = AutoConfig.from_pretrained(folder)
    model = weights.load_model(source.weight_files(Path(folder)), shape, dtype=dtype, attention="sdpa")
else:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
read = [torch.aminmax(parameter) for parameter in model.parameters()]
seconds = time.process_time() - start
size = sum(p.numel() * p.element_size() for p in model.parameters())
print(json.dumps([seconds, (memory("VmHWM") - before) / size, size]))
"""
PEERS = ("latbench", "from_pretrained")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--shaped", action="store_true")
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="loading-"))
    try:
        models = [*options.models, *([shaped(folder / "shaped")] if options.shaped else [])]
        rows = [row for model in models for dtype in options.dtype for row in measured(model, dtype, options.rounds)]
        headers = ["model", "dtype", "weights, GB", "load", "CPU s", "ratio", "peak / weights"]
        print(tabulate(rows, headers=headers, tablefmt="github", floatfmt=".2f"))
    finally:
        shutil.rmtree(folder)


def measured(model: Path, dtype: str, rounds: int) -> Iterator[list[object]]:
    """One row per peer: medians over the rounds, and the ratio to `from_pretrained`."""
    found: dict[str, list[list[float]]] = {peer: [] for peer in PEERS}
    for _ in range(rounds):
        for peer in PEERS:
            command = [sys.executable, "-c", LOAD, peer, str(model), dtype]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[peer].append(json.loads(done.stdout.splitlines()[-1]))
    seconds = {peer: statistics.median(row[0] for row in rows) for peer, rows in found.items()}
    for peer, rows in found.items():
        share = statistics.median(row[1] for row in rows)
        yield [model.name, dtype, rows[0][2] / 1e9, peer, seconds[peer], seconds[peer] / seconds[PEERS[1]], share]


def shaped(folder: Path) -> Path:
    """A folder with zeros in the shape of Llama-3.2-1B, in bfloat16."""
    shape = LlamaConfig(
        vocab_size=128_256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, head_dim=64, max_position_embeddings=131072, tie_word_embeddings=True, dtype="bfloat16",
    )  # fmt: skip
    with torch.device("meta"):
        parameters = dict(AutoModelForCausalLM.from_config(shape).named_parameters())
    folder.mkdir()
    zeros = {name: torch.zeros(p.shape, dtype=torch.bfloat16) for name, p in parameters.items()}
    save_file(zeros, folder / "model.safetensors", metadata={"format": "pt"})
    shape.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
