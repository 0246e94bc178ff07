"""What every importer of a released checkpoint implements: does it know this source, and what is in it.

An importer is one file in `methods/importers/`. It reads names, shapes and configuration files alone and returns a
`Recipe`: the method with its settings and where each came from, configuration and tokenizer of the model, and for every
tensor of the model and of the method's heads the source tensors that it is made of. `latbench/runs/importing.py` checks
that nothing is left over on either side and writes the run. This module exports all that an importer imports.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase

from latbench.config import ImportConfig
from latbench.model.assembly import GPT2_CONV, Assembly, Piece, untie
from latbench.model.released import (
    Base,
    Release,
    add_tokens,
    read_config,
    read_generation,
    read_tokenizer,
    rows_of,
    special_id,
    token_text,
    with_rows,
)
from latbench.model.source import read_json

__all__ = [
    "GPT2_CONV",
    "Assembly",
    "Base",
    "ImportConfig",
    "Importer",
    "Piece",
    "Recipe",
    "Release",
    "Setting",
    "add_tokens",
    "folder_model",
    "read_json",
    "read_tokenizer",
    "rows_of",
    "special_id",
    "stored_dtype",
    "token_text",
    "untie",
    "with_rows",
]


@dataclass(frozen=True)
class Setting:
    """A value of the run's configuration, and where it came from."""

    value: Any
    origin: str


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that an importer knows of a source."""

    method: str
    """Registered name."""
    settings: Mapping[str, Setting]
    """Values of the run's configuration by dotted key; what is not here has its default."""
    config: PretrainedConfig
    """Of the model, with the number of rows that its embeddings have."""
    tokenizer: PreTrainedTokenizerBase
    """With the tokens that the release adds."""
    generation: GenerationConfig
    """Ids that end an answer, and those that cannot be said."""
    assembly: Assembly
    """The tensors."""
    files: tuple[Path, ...] = ()
    """Files that were read beside the weights and the usual texts of a model folder."""
    required: Mapping[str, str] = field(default_factory=dict)
    """Configuration keys that only the user can say, each with the reason."""
    notes: tuple[str, ...] = ()
    """What a user has to know: where decoding here differs from the authors', what could not be found out."""


class Importer(ABC):
    """Reads one format of released checkpoints; registered by its file in `methods/importers/`."""

    name: ClassVar[str]
    """As in `--format`; the file's name."""
    looks_for: ClassVar[str]
    """What a source of the format has, as a clause for the message about an unknown one."""

    needs_base_weights: ClassVar[bool] = False
    """The base model's weights are read, beside its configuration and tokenizer."""
    takes: ClassVar[frozenset[str]] = frozenset()
    """What the format leaves to the user, of `imported`: `lora_alpha`, `first_added_id`."""

    @abstractmethod
    def recognises(self, source: Release) -> bool:
        """Whether a source is of this format, by names, shapes and configuration alone."""

    def base_id(self, source: Release) -> str | None:
        """Hub id of the base model whose configuration, tokenizer or weights the format needs; None: it needs none.

        A source that does not say of which base it is gives "" instead.
        """
        return None

    @abstractmethod
    def read(self, source: Release, base: Base | None, options: ImportConfig) -> Recipe:
        """What is in the source.

        Args:
            base: what `base_id` asked for.
            options: what the user said of it: what it `takes`.
        Raises: ValueError: it is not whole, or something is missing that only the user can say.
        """


def folder_model(source: Release) -> tuple[PretrainedConfig, PreTrainedTokenizerBase, GenerationConfig]:
    """Configuration, tokenizer and generation settings of a Hugging Face folder.

    Raises: ValueError: one of the first two is missing, one is damaged, or asks for too many layers.
    """
    folder, name = source.folder, source.name
    config = read_config(folder, name)
    return config, read_tokenizer(folder, name), read_generation(folder, name, config)


def stored_dtype(assembly: Assembly) -> Setting:
    """`model.dtype`: bfloat16 where all that is copied is in it, else float32, in which merges are exact."""
    formats = {piece.dtype for piece in assembly.pieces.values()}
    if formats == {torch.bfloat16}:
        return Setting("bfloat16", "the weights are stored so")
    computed = any(piece.computed for piece in assembly.pieces.values())
    return Setting(
        "float32", "adapters are merged in float32" if computed else "the weights fit into it without rounding"
    )
