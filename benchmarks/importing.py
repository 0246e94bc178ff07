"""Time and peak memory of `latbench import` on checkpoints of the shape of Llama-3.2-1B with random bfloat16 weights.

Two forms: a merged Hugging Face folder (latent_sft), whose weights are checked and copied, and CODI's wrapper, whose
bfloat16 layers and float32 adapters are merged to float32. The peer reads and writes the merged folder as transformers
does: `from_pretrained`, `save_pretrained`. Each runs in a process of its own; memory is its largest resident size, in
which mapped pages of the source count. The files (about 2.5 GB, 4.6 GB and the run) are removed afterwards.

    python benchmarks/importing.py [--form latent_sft codi] [--layers 16] [--dir FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from tabulate import tabulate
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

ROWS, RANK, ALPHA = 128_256, 128, 32
ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SHARD_BYTES = 1_000_000_000
PEER = "from transformers import AutoModelForCausalLM as M; M.from_pretrained({0!r}).save_pretrained({1!r})"


@dataclass
class Measured:
    """One process: seconds, the bytes it had resident at most, and the bytes of weights it left behind."""

    name: str
    seconds: float
    peak: int
    source: int
    written: int


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--form", nargs="+", default=["latent_sft", "codi"], choices=["latent_sft", "codi"])
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--dir", type=Path, default=None, help="where the files go for a while")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="import-", dir=options.dir))
    try:
        rows = [row for form in options.form for row in measured(form, folder, options.layers)]
        print(json.dumps([vars(row) for row in rows]))
        print(table(rows))
    finally:
        shutil.rmtree(folder)


def table(rows: list[Measured]) -> str:
    """Peak memory as a share of the weights, those of the source and those that were written."""
    shown = [
        [r.name, r.source / 1e9, r.written / 1e9, r.seconds, r.peak / 1e9, r.peak / r.source, r.peak / r.written]
        for r in rows
    ]
    headers = ["process", "source, GB", "written, GB", "s", "peak, GB", "peak / source", "peak / written"]
    return tabulate(shown, headers=headers, tablefmt="github", floatfmt=".2f")


def measured(form: str, folder: Path, layers: int) -> Iterator[Measured]:
    """Write a source, import it, and for the merged folder let transformers read and write it; then remove all."""
    config = LlamaConfig(
        vocab_size=ROWS, hidden_size=2048, intermediate_size=8192, num_hidden_layers=layers, num_attention_heads=32,
        num_key_value_heads=8, head_dim=64, max_position_embeddings=131072, tie_word_embeddings=True, dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    command = [sys.executable, "-m", "latbench", "import", "--runs-dir", str(folder / "runs")]
    if form == "latent_sft":
        source = folder / "Llama-1B-Latent-SFT-Top10"
        write_folder(source, config, shapes)
        yield run(form, [*command, str(source)], source, folder / "runs")
        again = folder / "again"
        yield run("transformers", [sys.executable, "-c", PEER.format(str(source), str(again))], source, again)
    else:
        source, base = folder / "pytorch_model.bin", folder / "base"
        write_texts(base, config, filled=True)
        torch.save(dict(wrapper(shapes)), source)
        yield run(form, [*command, str(source), "--base", str(base)], source, folder / "runs")
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def run(name: str, command: list[str], source: Path, out: Path) -> Measured:
    """Run a command to its end."""
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = wait(process)
    if status:
        raise RuntimeError(f"{name} failed: {' '.join(command)}")
    return Measured(name, time.perf_counter() - start, usage.ru_maxrss * 1024, size(source), size(out))


def wait(process: subprocess.Popen[bytes]) -> tuple[int, int, resource.struct_rusage]:
    """The end of one process with what it used."""
    return os.wait4(process.pid, 0)


def size(path: Path) -> int:
    """Bytes of the weights in a file or a folder."""
    files = [path] if path.is_file() else [*path.rglob("*.safetensors")]
    return sum(file.stat().st_size for file in files)


def write_texts(folder: Path, config: LlamaConfig, *, filled: bool = False) -> None:
    """Configuration and a byte tokenizer; `filled`: with as many ids as the table has rows."""
    folder.mkdir()
    config.save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [f"word{number}" for number in range(ROWS - len(alphabet) - 1)] if filled else []
    vocab = {word: number for number, word in enumerate([*alphabet, *words])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(folder)


def random(shape: tuple[int, ...], dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Small normal numbers."""
    return torch.randn(shape, dtype=dtype) * 0.02


def write_folder(folder: Path, config: LlamaConfig, shapes: dict[str, tuple[int, ...]]) -> None:
    """A merged folder in shards."""
    write_texts(folder, config)
    outline = {name: torch.empty(shape, dtype=torch.bfloat16, device="meta") for name, shape in shapes.items()}
    shards = split_torch_state_dict_into_shards(outline, max_shard_size=SHARD_BYTES)
    for file, names in shards.filename_to_tensors.items():
        save_file({name: random(shapes[name]) for name in names}, folder / file, metadata={"format": "pt"})
    if shards.is_sharded:
        index = {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def wrapper(shapes: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, Tensor]]:
    """CODI's state dictionary: bfloat16 layers, float32 adapters and projection, three more rows."""
    prefix = "codi.base_model.model."
    for name, (first, *rest) in shapes.items():
        layer = name.removesuffix(".weight")
        if layer.rpartition(".")[2] in ADAPTED:
            yield f"{prefix}{layer}.base_layer.weight", random((first, *rest))
            yield f"{prefix}{layer}.lora_A.default.weight", random((RANK, rest[0]), torch.float32)
            yield f"{prefix}{layer}.lora_B.default.weight", random((first, RANK), torch.float32)
        else:
            table = random((first + 3, *rest)) if first == ROWS else random((first, *rest))
            yield prefix + name, table
            if first == ROWS:
                yield f"{prefix}lm_head.weight", table.clone()
    for layer in ("1", "3"):
        yield f"prj.{layer}.weight", random((2048, 2048), torch.float32)
        yield f"prj.{layer}.bias", random((2048,), torch.float32)
    yield "prj.ln.weight", torch.ones(2048)
    yield "prj.ln.bias", torch.zeros(2048)


if __name__ == "__main__":
    main()
