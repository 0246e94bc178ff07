"""Where a language model comes from: a folder on disk, or a Hugging Face id, which becomes one.

Only named files are fetched and read: weights as safetensors, configuration and tokenizer as JSON and text. A folder
without safetensors weights is refused, and so is an adapter, which would make a load follow a name in a file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from latbench.util.files import damage, sha256_of


class ModelFileError(ValueError):
    """A model's files cannot be used; the message is a sentence that says why, and what to do."""


CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CHECKPOINT_INFO = "latbench.json"  # of a checkpoint of ours, with the hashes of its files
ADAPTER = "adapter_config.json"
CODE = "*.py"
TEXTS = (  # what a load reads beside the weights
    CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "tekken.json",
)
MAX_CONFIG_BYTES = 16 * 2**20  # of a JSON file that is read before anything is known of the model
MAX_LAYERS = 10_000


def local_folder(model_id: str, revision: str | None, *, weights: bool, code: bool = False) -> Path:
    """The folder with a model's files; those of a Hugging Face id are taken from the cache or fetched.

    Args:
        weights: with its safetensors files.
        code: with its Python files, for a call that trusts them.
    Raises: ModelFileError: neither a folder nor an id that can be had.
    """
    folder = Path(model_id)
    if folder.is_dir():
        return folder
    texts = [*TEXTS, INDEX, ADAPTER, *([CODE] if code else [])]
    try:
        folder = Path(snapshot_download(model_id, revision=revision, allow_patterns=texts))
        if weights:
            names = _shards(folder) if (folder / INDEX).is_file() else [WEIGHTS]
            folder = Path(snapshot_download(model_id, revision=folder.name, allow_patterns=names))
    except ModelFileError:
        raise
    except (OSError, ValueError) as error:
        raise ModelFileError(not_loaded(model_id, error)) from None
    return folder


def not_loaded(model_id: str, error: Exception) -> str:
    """A sentence on a model that cannot be loaded."""
    reason = " ".join(str(error).split("\n")[0].split())
    return (
        f"model.id {model_id!r} could not be loaded ({reason}); give a local folder, or a Hugging Face id with network"
    )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model: one, or the shards that its index names.

    Raises: ModelFileError: there are none, a shard is missing, or the folder holds an adapter.
    """
    if (folder / ADAPTER).is_file():
        raise ModelFileError(
            f"{folder} holds an adapter ({ADAPTER}), which is no model by itself; merge it into its base model and "
            "save that"
        )
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        others = sorted(path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".gguf"))
        held = f" (it has {', '.join(others[:3])}, which is not read)" if others else ""
        raise ModelFileError(
            f"{folder} has no {WEIGHTS}{held}; save the model with `save_pretrained`, which writes safetensors"
        )
    files = [folder / name for name in _shards(folder)]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise ModelFileError(
            f"{folder} lacks {len(missing)} of {len(files)} shards ({', '.join(missing[:5])}); fetch them"
        )
    return files


def _shards(folder: Path) -> list[str]:
    """Names of the shards in the index. Raises: ModelFileError: it is damaged, or a name leads out of the folder."""
    index = read_json(folder / INDEX)
    names = index.get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise ModelFileError(f"{folder / INDEX} has no weight_map; fetch it anew")
    for name in names.values():
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelFileError(
                f"{folder / INDEX} names {name!r}, which is no safetensors file beside it; fetch it anew"
            )
    return sorted(set(names.values()))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of bounded size. Raises: ModelFileError: too large, unreadable, or no object."""
    try:
        size = path.stat().st_size
        if size > MAX_CONFIG_BYTES:
            raise ModelFileError(f"{path} has {size} bytes, more than {MAX_CONFIG_BYTES}; fetch it anew")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ModelFileError(f"{path} cannot be read ({' '.join(str(error).split())}); fetch it anew") from None
    if not isinstance(value, dict):
        raise ModelFileError(f"{path} holds no JSON object; fetch it anew")
    return value


def check_config(folder: Path) -> dict[str, Any]:
    """The configuration as it stands in the file, before any class is made of it.

    Raises: ModelFileError: it is missing or damaged, names quantised weights, or asks for too many layers.
    """
    config = read_json(folder / CONFIG)
    if config.get("quantization_config"):
        raise ModelFileError(
            f"{folder} has quantised weights (quantization_config in {CONFIG}), which are not read; give the model in "
            "float32, bfloat16 or float16"
        )
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for key, value in part.items():
            if key.endswith(("layers", "layer")) and type(value) is int and value > MAX_LAYERS:
                raise ModelFileError(f"{folder / CONFIG} asks for {key}={value}, more than {MAX_LAYERS}; mend it")
    return config


def file_hashes(model_id: str, revision: str | None, *, weights: bool) -> dict[str, str]:
    """SHA-256 of each file that a load of a model reads, by name; of a checkpoint of ours, also what it says of itself.

    Raises: ModelFileError: the model is not at hand, or has no safetensors weights.
    """
    folder = local_folder(model_id, revision, weights=weights)
    files = [folder / name for name in (*TEXTS, CHECKPOINT_INFO) if (folder / name).is_file()]
    if weights:
        files += weight_files(folder)
    return {path.name: sha256_of(path) for path in files}


@contextmanager
def unchanged(folder: Path, part: str = "") -> Iterator[None]:
    """Around the load of a checkpoint of ours: its files must be those that were saved; read while it is loaded.

    Args:
        folder: one without `latbench.json` is not ours, and passes.
        part: only files of this folder within it; "": only files at its top.
    Raises: ModelFileError: a file is missing, changed or unknown; also in place of what the load itself raised.
    """
    if not (folder / CHECKPOINT_INFO).is_file():
        yield
        return
    hashes = {name: found for name, found in listed_files(folder).items() if name.rpartition("/")[0] == part}
    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(_change, folder, part, hashes)
        try:
            yield
        finally:
            if (change := found.result()) is not None:
                raise ModelFileError(f"checkpoint {folder} is damaged: {change}; train the run again, or copy it anew")


def listed_files(folder: Path) -> dict[str, str]:
    """SHA-256 by path of the files of a checkpoint of ours, as its `latbench.json` says.

    Raises: ModelFileError: damaged.
    """
    files = read_json(folder / CHECKPOINT_INFO).get("files")
    if not isinstance(files, dict) or not all(isinstance(value, str) for value in files.values()):
        raise ModelFileError(f"{folder / CHECKPOINT_INFO} is damaged; train the run again, or copy the checkpoint anew")
    return files


def _change(folder: Path, part: str, hashes: dict[str, str]) -> str | None:
    """What differs from a checkpoint as it was saved, as a clause; a file that a load would read must be listed."""
    texts = {*TEXTS, INDEX, ADAPTER}
    for path in sorted((folder / part).glob("*")):
        name = path.relative_to(folder).as_posix()
        if (path.name in texts or path.suffix == ".safetensors") and name not in hashes:
            return f"{name} is none of the files that were saved"
    return damage(folder, hashes)
