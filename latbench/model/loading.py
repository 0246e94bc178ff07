"""What a backbone is made of: device, model and tokenizer from a folder, the cache or the Hub, markers, adapters."""

from __future__ import annotations

import copy
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.pytorch_utils import Conv1D

from latbench import registry
from latbench.config import LoraConfig, ModelConfig
from latbench.model.layout import CLOSE_MARKER, OPEN_MARKER
from latbench.model.source import ModelFileError, check_config, local_folder, not_loaded, unchanged, weight_files
from latbench.model.weights import fresh_model, load_model
from latbench.task import Task

GENERATION = "generation_config.json"
WITHOUT_512_BIT_VECTORS = {"DEFAULT", "NO AVX", "AVX2"}  # PyTorch's names
ATTENTION_TYPES = {"full_attention", "sliding_attention"}


def resolve_device(device: str) -> torch.device:
    """The device of that name; `auto` is CUDA where there is one, and one of its own for each process of a launcher.

    Raises: ValueError: CUDA asked for but absent.
    """
    if device == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        place = os.environ.get("LOCAL_RANK")
        return torch.device("cuda") if place is None else torch.device("cuda", int(place) % torch.cuda.device_count())
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise ValueError(f"model.device must be auto, cpu, cuda or cuda:N, got {device!r}") from None
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"model.device is {device!r} but this machine has {torch.cuda.device_count()} CUDA devices; use cpu or auto"
        )
    return resolved


def is_slow_in_bfloat16(device: torch.device) -> bool:
    """Whether products in bfloat16 take tens of times as long as in float32: an x86 CPU without 512-bit vectors."""
    is_x86 = platform.machine() in {"x86_64", "AMD64"}
    return device.type == "cpu" and is_x86 and torch.backends.cpu.get_cpu_capability() in WITHOUT_512_BIT_VECTORS


def task_words(task: str | None) -> tuple[str, ...]:
    """Words of a task for the embedded tokenizer. Raises: ValueError: an unknown task, or one that names no words."""
    if task is None:
        return ()
    cls: type[Task[Any]] = registry.get_task_entry(task).cls
    if not cls.words:
        raise ValueError(f"model.words is {task!r}, a task that names no words of its own; leave it out")
    return cls.words


def from_hub(
    config: ModelConfig, *, seed: int, device: torch.device | None = None, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer from a local folder, the cache, or the Hub; nothing in their files is run or unpickled.

    Args:
        seed: of fresh weights.
        device: "meta" for fresh weights without storage.
        trust_remote_code: run Python files that lie beside the model; this call's caller decides, never a file.
    Raises: ValueError: not at hand, damaged, or weights that do not fit the architecture.
    """
    folder = local_folder(config.id, config.revision, weights=config.weights == "pretrained", code=trust_remote_code)
    try:
        with unchanged(folder):
            return _from_folder(folder, config, seed, device, trust_remote_code)
    except ModelFileError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        if "trust_remote_code" in str(error):  # of transformers
            raise ModelFileError(
                f"model.id {config.id!r} comes with code of its own, which nothing but this call can allow to run; "
                "read it, and pass --trust-remote-code"
            ) from None
        raise ModelFileError(not_loaded(config.id, error)) from None


def _from_folder(
    folder: Path, config: ModelConfig, seed: int, device: torch.device | None, trust_remote_code: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    check_config(folder)
    tokenizer = _tokenizer(str(folder), trust_remote_code)
    shape = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    if config.weights == "random":
        model = fresh_model(
            shape, seed=seed, attention=config.attention, device=device, trust_remote_code=trust_remote_code
        )
    else:
        model = load_model(
            weight_files(folder),
            shape,
            dtype=config.dtype,
            attention=config.attention,
            trust_remote_code=trust_remote_code,
        )
        if (folder / GENERATION).is_file():
            model.generation_config = GenerationConfig.from_pretrained(folder)
    for named in (model, model.config, tokenizer):  # not the place in the cache
        named.name_or_path = config.id
    return model, tokenizer


def _tokenizer(name: str, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The tokenizer as its files declare it: for some model families AutoTokenizer replaces a declared generic class by
    the family's own, and with it the pre-tokeniser and the ids."""
    declared = get_tokenizer_config(name).get("tokenizer_class")
    generic = declared in ("TokenizersBackend", "PreTrainedTokenizerFast")
    loader = PreTrainedTokenizerFast if generic else AutoTokenizer
    tokenizer: PreTrainedTokenizerBase = loader.from_pretrained(name, trust_remote_code=trust_remote_code)
    return tokenizer


def check_rows(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises: ValueError: the tokenizer has ids beyond the rows of the embedding."""
    rows = model.get_input_embeddings().weight.shape[0]
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= rows:
        raise ValueError(
            f"model.id: its tokenizer has ids up to {highest}, but its embedding has {rows} rows; give the tokenizer "
            "of this model, or resize its embeddings and save both"
        )


def ending_ids(generation: GenerationConfig | None, name: str) -> list[int]:
    """Ids that end an answer by a model's generation settings. Raises: ValueError: they are no ids."""
    said = getattr(generation, "eos_token_id", None)
    ids = said if isinstance(said, list) else [] if said is None else [said]
    if any(type(id) is not int or id.bit_length() > 63 for id in ids):
        raise ValueError(
            f"{GENERATION} of {name} has eos_token_id={said!r}, which is neither an id nor a list of ids; mend it"
        )
    return ids


def refuse_linear_attention(config: PretrainedConfig) -> None:
    text = config.get_text_config()
    other = set(getattr(text, "layer_types", None) or ()) - ATTENTION_TYPES
    if other or not hasattr(text, "num_attention_heads"):
        kinds = ", ".join(sorted(other)) or "no attention heads"
        raise ValueError(
            f"model.id: {config.model_type} has layers that keep no key-value cache per position ({kinds}); "
            "use a model with full or sliding-window attention"
        )


def add_markers(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int) -> list[int]:
    """Add the think tokens that the tokenizer lacks; new rows start near the mean row. Returns: their ids."""
    missing = [marker for marker in (OPEN_MARKER, CLOSE_MARKER) if marker not in tokenizer.get_added_vocab()]
    if not missing:
        return []
    tokenizer.add_special_tokens({"additional_special_tokens": missing}, replace_extra_special_tokens=False)
    ids = [int(tokenizer.convert_tokens_to_ids(marker)) for marker in missing]
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:  # some models have spare rows
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    generator = torch.Generator().manual_seed(seed)
    modules = (model.get_input_embeddings(), model.get_output_embeddings())
    for table in {id(module.weight): module.weight for module in modules}.values():
        with torch.no_grad():
            old = table[[row for row in range(len(tokenizer)) if row not in ids]].float()
            noise = torch.randn(len(ids), table.shape[1], generator=generator).to(table.device)
            # the same row twice could not be told apart; a tenth of the spread is enough
            table[ids] = (old.mean(0) + 0.1 * old.std(0) * noise).to(table.dtype)
    return ids


def with_lora(model: PreTrainedModel, config: LoraConfig, added: list[int]) -> Any:
    """The model with adapters; rows of added tokens are trained in every embedding table."""
    from peft import LoraConfig as PeftLoraConfig
    from peft import get_peft_model

    tables = [model.get_input_embeddings()]
    if model.get_output_embeddings().weight is not tables[0].weight:  # PEFT follows tied weights by itself
        tables.append(model.get_output_embeddings())
    names = [name for name, module in model.named_modules() if any(module is table for table in tables)]
    if config.targets:
        _check_targets(model, config.targets)
    adapters = PeftLoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=config.targets or "all-linear",
        trainable_token_indices=dict.fromkeys(names, added) if added and config.train_markers else None,
    )
    return get_peft_model(model, adapters)


def _check_targets(model: PreTrainedModel, targets: Sequence[str]) -> None:
    """PEFT is content where one of them is there. Raises: ValueError: one names no linear layer."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in linear):
            choice = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
            raise ValueError(
                f"model.lora.targets: {target!r} names no linear layer of this model, which has {choice}; "
                "a preset for another architecture needs other targets"
            )


def below_adapters(module: nn.Module) -> dict[str, Tensor]:
    """The tensors that a module's adapters adapt, by the names that they have in a module without adapters."""
    return {
        name.replace("base_model.model.", "").replace(".token_adapter", "").replace(".base_layer", ""): tensor
        for name, tensor in module.state_dict(keep_vars=True).items()
        if ".lora_" not in name and ".trainable_tokens_" not in name
    }


def restart_token_rows(module: nn.Module) -> None:
    """Let adapters of rows of a table begin with the rows that the table has now."""
    from peft.tuners.trainable_tokens.layer import TrainableTokensLayer

    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, TrainableTokensLayer):
                for name, rows in part.trainable_tokens_delta.items():
                    rows.copy_(part.get_base_layer().weight[part.token_indices[name]])


def without_adapters(module: nn.Module) -> nn.Module:
    """A copy whose adapters are merged, in float32; the module itself where it has none."""
    if not any(hasattr(part, "merge_and_unload") for part in module.modules()):
        return module
    merged = copy.deepcopy(module)
    for parent in list(merged.modules()):
        for name, child in list(parent.named_children()):
            if hasattr(child, "merge_and_unload"):
                adapted: Any = child
                setattr(parent, name, adapted.float().merge_and_unload())
    return merged
