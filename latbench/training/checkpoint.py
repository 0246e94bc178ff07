"""A trained method as a folder that other tools read too.

<folder>/config.json, model.safetensors, tokenizer ...   plain Hugging Face model, LoRA merged
         adapter/                                         the LoRA adapter alone, where there is one
         heads.safetensors                                the method's own modules, where it has any
         auxiliary/<name>/model.safetensors               helper models (encoder, auxiliary decoder)
         latbench.json                                    method, configuration, layout, versions, SHA-256 of each file
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
from pydantic import TypeAdapter, ValidationError
from torch import nn
from transformers import PreTrainedModel

from latbench import registry
from latbench.config import ModelConfig
from latbench.method import Method
from latbench.model.backbone import Backbone
from latbench.model.loading import below_adapters, resolve_device, restart_token_rows, without_adapters
from latbench.model.source import CHECKPOINT_INFO as INFO
from latbench.model.source import WEIGHTS, ModelFileError, unchanged
from latbench.model.weights import load_module
from latbench.util.files import sha256_of

HEADS = "heads.safetensors"
FORMAT_VERSION = 2  # 1 kept sizes of files instead of hashes
FIELDS = ("method", "method_config", "model", "backbone", "layout", "markers", "chat_template", "vocab_size", "files")


def save(
    method: Method[Any],
    folder: Path,
    extra: Mapping[str, Any] | None = None,
    *,
    helpers_of: Path | None = None,
    write: Callable[[Path], None] | None = None,
) -> None:
    """Write a method's checkpoint beside and rename it into place; an older one there is replaced.

    Args:
        extra: JSON values kept in `latbench.json`, returned by `read_info`.
        helpers_of: checkpoint whose helper models are taken over as they are, where the method was trained without.
        write: writes model, tokenizer and heads into a folder, for weights that are never in memory as a whole; None:
            those of `method` are written.
    """
    beside = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        (write or partial(_write, method))(beside)
    except ValueError:
        shutil.rmtree(beside)
        raise
    if not len(method.auxiliary) and helpers_of is not None and (helpers_of / "auxiliary").is_dir():
        shutil.copytree(helpers_of / "auxiliary", beside / "auxiliary")
    files = {str(path.relative_to(beside)): sha256_of(path) for path in sorted(beside.rglob("*")) if path.is_file()}
    info = {**_describe(method), "files": files, "extra": dict(extra or {})}
    (beside / INFO).write_text(json.dumps(info, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if folder.exists():
        replaced = folder.with_name(folder.name + ".old")
        shutil.rmtree(replaced, ignore_errors=True)
        folder.replace(replaced)
        beside.replace(folder)
        shutil.rmtree(replaced)
    else:
        beside.replace(folder)


def _write(method: Method[Any], folder: Path) -> None:
    method.backbone.save(folder)
    if any(True for _ in method.heads.state_dict()):
        safetensors.torch.save_model(method.heads, str(folder / HEADS))
    for name, module in method.auxiliary.items():
        _save_auxiliary(module, folder / "auxiliary" / name)


def load(
    folder: Path,
    *,
    device: str | None = None,
    device_map: str | None = None,
    auxiliary: bool = False,
    method: str | None = None,
    layout: str | None = None,
    backbone: str | None = None,
    trust_remote_code: bool = False,
) -> Method[Any]:
    """The method of a checkpoint, in evaluation mode.

    Args:
        device: where to put it; None: where it was trained, as `model.device` says.
        device_map: spread the model over several devices instead, see `ModelConfig.device_map`.
        auxiliary: also load helper models where the checkpoint has them; inference does not need them.
        method: name that the caller expects; None: any.
        layout: name that the caller expects; None: any.
        backbone: name that the caller expects; None: any.
        trust_remote_code: run Python files that lie in the folder; nothing in the folder can ask for that.
    Raises: ValueError: not a checkpoint, damaged, of another format version, or not what the caller expects; a tensor
        is missing, has another shape, is not finite or belongs to nothing.
    """
    info = read_info(folder)
    for what, expected in (("method", method), ("layout", layout), ("backbone", backbone)):
        if expected is not None and info[what] != expected:
            raise ValueError(
                f"checkpoint {folder} has {what} {info[what]!r}, not {expected!r}; give the folder of another run"
            )
    entry = registry.get_method(info["method"])
    try:
        model = TypeAdapter(ModelConfig).validate_python(info["model"])
        config: Any = TypeAdapter(entry.config).validate_python(info["method_config"])
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ValueError(
            f"{folder / INFO} does not fit this latbench: {field}: {first['msg']}; train the run again"
        ) from None
    where = "auto" if device_map is not None else model.device if device is None else device
    placed = replace(model, device=where, device_map=device_map)
    loaded: Method[Any] = entry.cls(_load_backbone(folder, info, placed, trust_remote_code), config)
    if any(True for _ in loaded.heads.state_dict()):
        load_module(loaded.heads, folder / HEADS)
    elif (folder / HEADS).exists():
        raise ValueError(f"{folder} has {HEADS}, but method {info['method']!r} has none; copy the checkpoint anew")
    if auxiliary and any(name.startswith("auxiliary/") for name in info["files"]):
        loaded.build_auxiliary()
        for name, module in loaded.auxiliary.items():
            with unchanged(folder, f"auxiliary/{name}"):
                load_module(module, folder / "auxiliary" / name / WEIGHTS)
    return loaded.to(loaded.backbone.device).eval()


def load_parts(method: Method[Any], folder: Path) -> None:
    """Set a method's heads and helper models to those of a checkpoint of the same method, where it has them; adapters,
    which the checkpoint has merged, begin anew.

    Raises: ValueError: damaged, or made with other settings of the method.
    """
    files = read_info(folder)["files"]
    parts = {HEADS: method.heads, **{f"auxiliary/{name}/{WEIGHTS}": part for name, part in method.auxiliary.items()}}
    for file, module in parts.items():
        if file not in files:
            continue
        try:
            load_module(module, folder / file, below_adapters(module))
            restart_token_rows(module)
        except ModelFileError as error:
            raise ValueError(
                f"{error}; the settings of method {method.name!r} must be those of the run that is started from"
            ) from None


def read_info(folder: Path) -> dict[str, Any]:
    """What `latbench.json` of a checkpoint says, `extra` included.

    Raises: ValueError: not a checkpoint, damaged, or of another format version.
    """
    try:
        info = json.loads((folder / INFO).read_text(encoding="utf-8"))
        version = info["format_version"]
        whole = version != FORMAT_VERSION or all(name in info for name in FIELDS)
    except FileNotFoundError:
        raise ValueError(
            f"{folder} is not a latbench checkpoint ({INFO} is missing); give a run's checkpoint folder"
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise ValueError(f"{folder / INFO} is damaged; train the run again, or copy the checkpoint anew")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"checkpoint {folder} has format version {version}, this latbench reads {FORMAT_VERSION}; "
            f"use latbench {info.get('versions', {}).get('latbench', 'of that version')}"
        )
    return dict(info)


def _describe(method: Method[Any]) -> dict[str, Any]:
    backbone = method.backbone
    return {
        "format_version": FORMAT_VERSION,
        "method": method.name,
        "method_config": asdict(method.config),
        "model": asdict(backbone.config),
        "backbone": backbone.name,
        "layout": backbone.layout.name,
        "markers": bool(backbone.layout.open),
        "chat_template": backbone.layout.chat_template,
        "vocab_size": len(backbone.tokenizer),
        "versions": {name: importlib.metadata.version(name) for name in ("latbench", "torch", "transformers")},
    }


def _save_auxiliary(module: nn.Module, folder: Path) -> None:
    folder.mkdir(parents=True)
    module = without_adapters(module)  # a checkpoint is loaded without LoRA
    safetensors.torch.save_model(module, str(folder / WEIGHTS), metadata={"format": "pt"})
    if isinstance(module, PreTrainedModel):  # so that `from_pretrained` reads the folder
        module.config.save_pretrained(folder)


def _load_backbone(folder: Path, info: Mapping[str, Any], model: ModelConfig, trust_remote_code: bool) -> Backbone:
    here = replace(
        model,
        id=str(folder),
        revision=None,
        weights="pretrained",
        lora=None,  # merged
        layout=info["layout"],
        chat_template=info["chat_template"],
    )
    resolve_device(here.device)  # an absent device is no damage of the checkpoint
    try:
        backbone = Backbone.load(
            here, markers=info["markers"], name=info["backbone"], trust_remote_code=trust_remote_code
        )
    except ModelFileError:  # names the file and what is wrong with it
        raise
    except ValueError as error:
        raise ValueError(f"checkpoint {folder} is damaged ({error}); train the run again, or copy it anew") from None
    num_tokens, num_rows = len(backbone.tokenizer), backbone.model.get_input_embeddings().weight.shape[0]
    if num_tokens != info["vocab_size"] or num_tokens > num_rows:
        raise ValueError(
            f"the tokenizer in {folder} has {num_tokens} tokens, but the checkpoint was saved with "
            f"{info['vocab_size']} and embeds {num_rows}; copy the tokenizer files of the same run"
        )
    return backbone
