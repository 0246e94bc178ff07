"""Training with the weights spread over processes: FSDP2, as Accelerate's configuration file asks for it.

Accelerate shards a stage's module in place. What is around it wants whole tensors: resume points hold those that
training can change, and the next stage, or the checkpoint, begins with a plain method. So a blueprint without weights
is kept, and once the stage has ended the method gets its parts from there, with the gathered weights.
"""

from __future__ import annotations

import copy
import os
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType
from torch import nn

from latbench.method import Method

FSDP, DEEPSPEED = "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"  # environment: what `accelerate launch` sets


def is_asked_for() -> bool:
    """Whether Accelerate is configured to spread weights over processes."""
    return _is_set(FSDP)


def refuse_unsupported(*, on_cpu: bool, keeps_moments: bool, decodes: bool) -> None:
    """Refuse ways of sharding that training cannot do, before anything is trained.

    Args:
        on_cpu: the model is on a CPU.
        keeps_moments: stages go on with the optimiser states of the stage before.
        decodes: a stage draws answers.
    Raises: ValueError: one of them is asked for.
    """
    if _is_set(DEEPSPEED):
        raise ValueError(
            "Accelerate is configured for DeepSpeed, whose engine keeps weights and moments in files of its own, from "
            "which no resume point and no checkpoint is made here; set distributed_type: FSDP and fsdp_version: 2, "
            "which shards what ZeRO-3 does (docs/scaling.md has the whole file)"
        )
    if not is_asked_for():
        return
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise ValueError("Accelerate is configured for FSDP 1; set fsdp_version: 2 in its configuration file")
    if _is_set("FSDP_OFFLOAD_PARAMS"):
        raise ValueError("fsdp_offload_params is not supported; set it to false in Accelerate's configuration file")
    if keeps_moments:
        raise ValueError("train.reset_optimizer=false does not go with FSDP; set it to true, or train without FSDP")
    if decodes:
        raise ValueError(
            "reinforcement learning decodes with whole weights; leave FSDP out, and use fewer rows or LoRA"
        )
    if on_cpu and PartialState(cpu=True).distributed_type == DistributedType.MULTI_CPU:
        raise ValueError("Accelerate shards weights on accelerators alone; train on a CPU without FSDP")


def _is_set(name: str) -> bool:
    return os.environ.get(name, "false").lower() == "true"


def ask_for_whole_tensors(accelerator: Accelerator) -> None:
    """Let resume points hold whole tensors, where weights are sharded; every process has loaded the same ones.

    Args:
        accelerator: of the stage.
    """
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None:
        plugin.state_dict_config = plugin.optim_state_dict_config = None  # else those of the former type stay
        plugin.set_state_dict_type("FULL_STATE_DICT")
        plugin.cpu_ram_efficient_loading = False  # it would untie tied weights


class Blueprint:
    """The parts of a method without their weights, to be filled with gathered ones."""

    def __init__(self, method: Method[Any]) -> None:
        """Copy the parts; parameters become empty ones, tied ones stay tied.

        Args:
            method: before it is sharded.
        """
        memo: dict[int, Any] = {}
        for parameter in method.parameters():
            empty = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad)
            memo[id(parameter)] = empty
        self._parts: dict[str, nn.Module] = {name: copy.deepcopy(part, memo) for name, part in method.named_children()}

    def fill(self, method: Method[Any]) -> None:
        """Gather a sharded method's weights, at all processes alike, and give it plain parts.

        Args:
            method: sharded, whose parts are replaced.
        """
        whole = {name: _whole(parameter) for name, parameter in method.named_parameters()}
        buffers = {name: buffer.detach().clone() for name, buffer in method.named_buffers()}
        for name, part in self._parts.items():
            setattr(method, name, part)
        made: dict[int, nn.Parameter] = {}
        for name, empty in list(method.named_parameters()):  # tied ones once
            made[id(empty)] = nn.Parameter(whole[name], requires_grad=empty.requires_grad)
        for module in method.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None:
                    module._parameters[name] = made[id(parameter)]
        for name, buffer in method.named_buffers():
            buffer.copy_(buffers[name])


def _whole(parameter: torch.Tensor) -> torch.Tensor:
    """All of a parameter, of which each process has a part."""
    gathered = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
    return gathered.detach().clone()
