"""Weights from safetensors files with every tensor accounted for, and bounds on what a configuration may ask for.

    load_model    the model that a configuration describes, filled from files
    fresh_model   the same with fresh weights
    load_module   a module's own file: heads, helper models

Every tensor of the architecture must be in the files with its shape and finite, every tensor of the files must be used
or is named as dropped. The account comes first, on tensors without storage, by the loader that then reads the files
(it knows the prefixes, ties and renamings of each architecture); so a refused model has cost no memory. Each tensor is
read when it is put into the model, so that a load takes little more than the weights themselves.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from latbench.model.source import ModelFileError

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
MAX_TENSORS = 100_000  # of a model with fresh weights; the largest released models have fewer
MAX_BUFFER_BYTES = 2**28  # of what a model computes at its start (masks, rotary frequencies), beside its weights
PART_BYTES = 2**28  # of a file that is mapped at once, counted in float32
NAMED = 5  # tensors that an error names
log = logging.getLogger(__name__)


class Stored:
    """A tensor in a file, read once, when it is indexed; `used` says whether it was, or its outline."""

    def __init__(self, file: Any, name: str) -> None:
        self._slice = file.get_slice(name)
        self.shape: tuple[int, ...] = tuple(self._slice.get_shape())
        self.dtype: str = self._slice.get_dtype()
        self.used = False

    def __getitem__(self, index: Any) -> Tensor:
        self.used = True
        tensor: Tensor = self._slice[index]
        self._slice = None  # the last one to go unmaps its part of the file
        return tensor


class Outline:
    """The same tensor without storage."""

    def __init__(self, stored: Stored) -> None:
        self._stored = stored

    def __getitem__(self, index: Any) -> Tensor:
        self._stored.used = True
        return torch.empty(self._stored.shape, dtype=FLOATS.get(self._stored.dtype), device="meta")


@dataclass
class Account:
    """How the tensors of files and those of an architecture differ."""

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    other_shape: list[str] = field(default_factory=list)
    not_float: list[str] = field(default_factory=list)
    not_finite: list[str] = field(default_factory=list)

    def refuse(self, what: str, way_out: str) -> None:
        """Raises: ModelFileError: anything differs; each kind with its number and first names."""
        kinds = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "of another shape": self.other_shape,
            "no floating-point numbers": self.not_float,
            "not finite (NaN or infinity)": self.not_finite,
        }
        found = [
            f"{'1 tensor is' if len(names) == 1 else f'{len(names)} tensors are'} {kind}: {listed(names)}"
            for kind, names in kinds.items()
            if names
        ]
        if found:
            raise ModelFileError(f"{what} does not fit: {'; '.join(found)}; {way_out}")


def listed(names: Sequence[str]) -> str:
    """The first names and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def load_model(
    files: Sequence[Path], config: PretrainedConfig, *, dtype: str, attention: str, trust_remote_code: bool = False
) -> PreTrainedModel:
    """The causal LM that a configuration describes, with the weights in safetensors files.

    Args:
        dtype: of the weights; "auto": that of the configuration, else of the files.
        attention: implementation of attention.
        trust_remote_code: build a class that lies beside the weights.
    Raises: ModelFileError: a file is damaged, or its tensors are not those of the architecture; the first are named.
    """
    where = str(files[0].parent)
    stored = _stored(files)
    precision = _precision(dtype, config, stored.values())
    skeleton = _skeleton(config, attention, 4 * len(stored) + 1000, trust_remote_code=trust_remote_code)
    _check_buffers(skeleton, sum(math.prod(tensor.shape) for tensor in stored.values()), where)
    account = _compare(type(skeleton), config, stored, precision)
    account.refuse(f"model {where}", "give the weights of this very architecture, or mend its config.json")
    check_memory(_num_bytes(skeleton, precision), f"the model in {where}")
    dropped = [name for name, tensor in stored.items() if not tensor.used]
    model, _ = _from_state(type(skeleton), config, stored, dtype=precision, attn_implementation=attention)
    Account(not_finite=not_finite(model)).refuse(f"model {where}", "fetch or train it anew")
    if dropped:
        log.warning(
            "%s: dropped %d tensors that its architecture does not read: %s", where, len(dropped), listed(dropped)
        )
    return model


def fresh_model(
    config: PretrainedConfig, *, seed: int, attention: str, device: torch.device | None = None, **remote: Any
) -> PreTrainedModel:
    """The causal LM that a configuration describes, with fresh weights.

    Args:
        device: "meta" for a model without storage; None: on the CPU.
        remote: `trust_remote_code` and `code_revision`, for a class that lies beside the configuration.
    Raises: ModelFileError: it would not fit into the memory that is free.
    """
    skeleton = _skeleton(config, attention, MAX_TENSORS, **remote)
    if device is not None and device.type == "meta":
        return skeleton
    _check_buffers(skeleton, skeleton.num_parameters(), "the configuration")
    check_memory(_num_bytes(skeleton, torch.float32), "a model of this configuration")
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation=attention, **remote)
    return model


def load_module(module: nn.Module, file: Path, state: Mapping[str, Tensor] | None = None) -> None:
    """Fill a module from its file; of tied tensors one is enough.

    Args:
        state: its tensors by the names that they have in the file; None: by their own.
    Raises: ModelFileError: the file is missing or damaged, or its tensors are not those of the module.
    """
    state = module.state_dict(keep_vars=True) if state is None else state
    stored = _stored([file])
    places: dict[int, list[str]] = {}
    for name, tensor in state.items():
        places.setdefault(id(tensor), []).append(name)
    account = Account(
        missing=[names[0] for names in places.values() if not any(name in stored for name in names)],
        unexpected=[name for name in stored if name not in state],
        other_shape=[
            f"{name} ({list(found.shape)} instead of {list(state[name].shape)})"
            for name, found in stored.items()
            if name in state and found.shape != tuple(state[name].shape)
        ],
    )
    account.refuse(str(file), "copy it anew, or train the run again")
    with torch.no_grad():
        for name, found in stored.items():
            state[name].copy_(found[...])
    Account(not_finite=not_finite(module)).refuse(str(file), "copy it anew, or train the run again")


def not_finite(module: nn.Module) -> list[str]:
    """Names of the parameters and stored buffers that hold NaN or infinity."""
    return [name for name, tensor in module.state_dict().items() if not is_finite(tensor)]


def is_finite(tensor: Tensor) -> bool:
    """Whether every number is finite, without a copy: a NaN is both the least and the greatest, an infinity one."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())


def check_memory(needed: int, what: str) -> None:
    """Raises: ModelFileError: so many bytes are more than the machine has free."""
    free = psutil.virtual_memory().available
    if needed > free:
        raise ModelFileError(
            f"{what} takes {needed / 1e9:.1f} GB, more than the {free / 1e9:.1f} GB of memory that are free; "
            "use a smaller one, or a machine with more memory"
        )


def _stored(files: Iterable[Path]) -> dict[str, Stored]:
    """The tensors in safetensors files by name, in the order in which a model is filled; only headers are read.

    A file is mapped anew for every PART_BYTES of its tensors, and a part unmapped when all its tensors are read: pages
    of a file that were read into a model of another precision would count as memory beside it.
    """
    stored: dict[str, Stored] = {}
    for path in files:
        try:
            file = safe_open(path, framework="pt")
            names, size = sorted(file.keys(), key=_natural), 0
            for name in names:
                if name in stored:
                    raise ModelFileError(
                        f"{path} holds {name!r}, which another file of the model holds too; fetch it anew"
                    )
                stored[name] = Stored(file, name)
                size += math.prod(stored[name].shape) * 4
                if size > PART_BYTES:
                    file, size = safe_open(path, framework="pt"), 0
        except (OSError, SafetensorError) as error:
            raise ModelFileError(f"{path} cannot be read ({' '.join(str(error).split())}); fetch it anew") from None
    return stored


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts layer 2 before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _precision(dtype: str, config: PretrainedConfig, stored: Iterable[Stored]) -> torch.dtype:
    if dtype != "auto":
        named: torch.dtype = getattr(torch, dtype)
        return named
    if isinstance(config.dtype, torch.dtype):
        return config.dtype
    return next((FLOATS[tensor.dtype] for tensor in stored if tensor.dtype in FLOATS), torch.get_default_dtype())


@contextmanager
def bounded(*, tensors: int = MAX_TENSORS, numbers: float = math.inf) -> Iterator[None]:
    """Refuse modules that are made here once they have more parameters than they may, before their memory is used.

    Args:
        tensors: most parameters, each time that one is registered.
        numbers: most numbers in them.
    Raises: ModelFileError: there are more.
    """
    num_tensors = num_numbers = 0

    def count(_module: nn.Module, _name: str, parameter: Tensor | None) -> None:
        nonlocal num_tensors, num_numbers
        num_tensors += 1
        num_numbers += 0 if parameter is None else parameter.numel()
        if num_tensors > tensors:
            raise ModelFileError(f"the configuration of a model asks for more than {tensors} tensors; mend it")
        if num_numbers > numbers:
            raise ModelFileError(f"the configuration of a model asks for more than {numbers:,} numbers; mend it")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _skeleton(config: PretrainedConfig, attention: str, max_tensors: int, **remote: Any) -> PreTrainedModel:
    """The model without storage. Raises: ModelFileError: it has more tensors than it may."""
    with bounded(tensors=max_tensors), torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation=attention, **remote)
    return model


def _num_bytes(skeleton: PreTrainedModel, dtype: torch.dtype) -> int:
    """Of the weights in a precision, and of what the model computes at its start."""
    buffers: int = sum(buffer.numel() * buffer.element_size() for buffer in skeleton.buffers())
    weights: int = skeleton.num_parameters() * dtype.itemsize
    return weights + buffers


def _check_buffers(skeleton: PreTrainedModel, num_weights: int, where: str) -> None:
    """Raises: ModelFileError: masks and positions out of all proportion to the weights at hand."""
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in skeleton.buffers())
    if buffers > max(4 * num_weights, MAX_BUFFER_BYTES):
        raise ModelFileError(
            f"{where} asks for {buffers / 1e9:.1f} GB of masks and positions beside {num_weights} weights; "
            "mend max_position_embeddings in its config.json"
        )


def _compare(
    cls: type[PreTrainedModel], config: PretrainedConfig, stored: Mapping[str, Stored], dtype: torch.dtype
) -> Account:
    """What a load would find, by the loader itself on tensors without storage."""
    outlines = {name: Outline(tensor) for name, tensor in stored.items()}
    with _silent():
        model, info = _from_state(
            cls, config, outlines, dtype=dtype, device_map={"": "meta"}, ignore_mismatched_sizes=True
        )
    buffers = {name.rpartition(".")[2] for name, _ in model.named_buffers()}
    return Account(
        missing=sorted(info["missing_keys"]),
        unexpected=sorted(info["unexpected_keys"]),
        other_shape=sorted(
            f"{name} ({list(there)} instead of {list(wanted)})" for name, there, wanted in info["mismatched_keys"]
        ),
        not_float=[
            f"{name} ({tensor.dtype})"
            for name, tensor in stored.items()
            if tensor.used and tensor.dtype not in FLOATS and name.rpartition(".")[2] not in buffers
        ],
    )


def _from_state(
    cls: type[PreTrainedModel], config: PretrainedConfig, state: Mapping[str, Any], **options: Any
) -> tuple[PreTrainedModel, dict[str, Any]]:
    model, info = cls.from_pretrained(
        None, config=config, state_dict=dict(state), output_loading_info=True, use_safetensors=True, **options
    )
    return model, info


@contextmanager
def _silent() -> Iterator[None]:
    """No report and no progress bar of transformers: what differs is said in an error of ours."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
