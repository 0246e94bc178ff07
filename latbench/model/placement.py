"""A model over several devices, for inference: Accelerate's device maps, from a rule or a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import torch
from accelerate import dispatch_model, infer_auto_device_map
from accelerate.utils import check_device_map, get_balanced_memory
from transformers import PreTrainedModel

from latbench.config.sections import DeviceRule
from latbench.model.loading import resolve_device

RULES = get_args(DeviceRule)


def spread(model: PreTrainedModel, device_map: str) -> torch.device:
    """Place the modules of a model, which are on the CPU, and let each pass move from device to device.

    Args:
        device_map: see `ModelConfig.device_map`.
    Returns: the device that takes the input and gives the output.
    Raises: ValueError: the map is no rule and no readable file, names a module or device that is not there, leaves a
        module out, or keeps the embeddings on the CPU beside other devices.
    """
    places = _by_rule(model, device_map) if device_map in RULES else _from_file(model, device_map)
    devices = dict.fromkeys(places.values())
    first = next((device for device in devices if device.type != "cpu"), torch.device("cpu"))
    table = next(name for name, module in model.named_modules() if module is model.get_input_embeddings())
    owner = max((name for name in places if table == name or table.startswith(f"{name}.") or not name), key=len)
    if places[owner].type == "cpu" and first.type != "cpu":
        raise ValueError(
            f"model.device_map {device_map!r} leaves the embeddings ({table}) on the CPU beside other devices; "
            f"put them on {first}"
        )
    dispatch_model(
        model,
        {name: _accelerate_name(device) for name, device in places.items()},
        main_device=_accelerate_name(places[owner]),
        skip_keys=getattr(model, "_skip_keys_device_placement", None),
        force_hooks=True,
    )
    return places[owner]


def _by_rule(model: PreTrainedModel, rule: str) -> dict[str, torch.device]:
    """Accelerate's map: `auto` and `balanced` fill the GPUs evenly, `sequential` one after the other; what does not fit
    stays on the CPU."""
    together = list(model._no_split_modules or ())
    memory = None if rule == "sequential" else get_balanced_memory(model, no_split_module_classes=together)
    found = infer_auto_device_map(model, max_memory=memory, no_split_module_classes=together)
    if "disk" in found.values():
        raise ValueError(
            f"model.device_map is {rule!r}, but the model fits into no devices and memory of this machine; use a "
            "machine with more, or model.dtype=bfloat16"
        )
    return {name: torch.device("cuda", place) if isinstance(place, int) else torch.device(place)
            for name, place in found.items()}  # fmt: skip


def _from_file(model: PreTrainedModel, file: str) -> dict[str, torch.device]:
    """Module name to device, as a JSON object says."""
    way_out = f"give {', '.join(RULES)}, or a JSON file such as " + '{"model": 0, "lm_head": 1}'
    try:
        places: Any = json.loads(Path(file).read_text(encoding="utf-8"))
    except OSError:
        raise ValueError(f"model.device_map {file!r} is no rule and no file that can be read; {way_out}") from None
    except (ValueError, RecursionError):
        raise ValueError(f"model.device_map: {file} is not JSON; {way_out}") from None
    if not isinstance(places, dict) or not places:
        raise ValueError(f"model.device_map: {file} maps no module to a device; {way_out}")
    devices = {str(name): _device(file, str(name), place) for name, place in places.items()}
    names = {name for name, _ in model.named_modules()}
    for name in devices:
        if name not in names:
            raise ValueError(f"model.device_map: {file} names {name!r}, which is no module of this model; {way_out}")
    try:
        check_device_map(model, dict(devices))
    except ValueError as error:
        raise ValueError(f"model.device_map: {file} leaves out weights ({' '.join(str(error).split())})") from None
    return devices


def _device(file: str, name: str, place: object) -> torch.device:
    if isinstance(place, bool) or not isinstance(place, int | str):
        raise ValueError(f"model.device_map: {file} puts {name!r} on {place!r}; give a number of a GPU, or cpu")
    if place == "disk":
        raise ValueError(f"model.device_map: {file} puts {name!r} on the disk; weights stay in memory, use cpu")
    try:
        return resolve_device(f"cuda:{place}" if isinstance(place, int) else place)
    except ValueError as error:
        raise ValueError(f"model.device_map: {file} puts {name!r} on {place!r}: {error}") from None


def _accelerate_name(device: torch.device) -> int | str:
    return (device.index or 0) if device.type == "cuda" else str(device)
