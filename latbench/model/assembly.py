"""What every tensor of an imported run is made of, with nothing left over on either side.

An `Assembly` holds no tensor: it names, for each tensor of the language model and of the method's heads, the source
tensors and what is computed of them. They are read when the run is written.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from transformers import PretrainedConfig

from latbench.model.released import BUFFERS, Base, Release, rows_of
from latbench.model.tensor_files import TensorFiles
from latbench.model.weights import Account

Compute = Callable[..., Tensor]
Shapes = Mapping[str, tuple[int, ...]]
GPT2_CONV = ("c_attn", "c_proj", "c_fc")
"""Layers of GPT-2 that keep their weight as (in, out)."""


@dataclass(frozen=True)
class Piece:
    """One tensor of the run, and what it is made of."""

    shape: tuple[int, ...]
    parts: tuple[tuple[TensorFiles, str], ...]
    """Release tensors, in the order in which `compute` takes them."""
    compute: Compute | None = None
    """Makes it of the parts; None: it is the one part as it is."""
    computed: bool = False
    """It is the result of arithmetic, in float32."""

    @property
    def dtype(self) -> torch.dtype | None:
        """Number format that it comes in."""
        if self.computed or not self.parts:
            return torch.float32
        files, name = self.parts[0]
        return files.dtypes[name]


@dataclass
class Assembly:
    """What every tensor of the run is made of; names of the source are without the prefixes of wrappers."""

    source: Release
    pieces: dict[str, Piece] = field(default_factory=dict)
    """Tensors of the language model by their names in transformers."""
    heads: dict[str, Piece] = field(default_factory=dict)
    """Tensors of the method's own modules by their names in `Method.heads`."""
    dropped: dict[str, str] = field(default_factory=dict)
    """Release tensors that are left out, each with the reason."""
    numbers: dict[str, str] = field(default_factory=dict)
    """Tensors of heads that are one number of the run's configuration, each with its dotted key."""
    equal: list[tuple[str, str]] = field(default_factory=list)
    """Pairs of source tensors that must hold the same numbers."""

    def copy(self, target: str, name: str, *, head: bool = False) -> None:
        """A tensor as it is in the source."""
        where = self.heads if head else self.pieces
        where[target] = Piece(self.source.shape(name), ((self.source.tensors, self.source.names[name]),))

    def merge(self, target: str, weight: tuple[TensorFiles, str], a: str, b: str, scale: float, *, conv: bool) -> None:
        """A weight with its low-rank update: W + scale B A, transposed where the layer keeps W as (in, out).

        Args:
            weight: W.
            a: A (r, in) in the source.
            b: B (out, r) in the source.
            scale: alpha / r.
        Raises: ValueError: the three do not fit each other, or A or B is no matrix.
        """
        low, high, shape = self.source.matrix(a), self.source.matrix(b), weight[0].shapes[weight[1]]
        update = (low[1], high[0]) if conv else (high[0], low[1])
        if low[0] != high[1] or shape != update:
            raise ValueError(
                f"{self.source.name}: {a} {low} and {b} {high} do not fit the weight {weight[1]} {shape}; "
                "the adapter is of another base model, give the right one with --base"
            )
        files = self.source.tensors
        self.pieces[target] = Piece(
            shape,
            (weight, (files, self.source.names[a]), (files, self.source.names[b])),
            partial(merged, scale=scale, conv=conv),
            computed=True,
        )

    def adapt(self, prefix: str, alpha: float, conv: Collection[str] = ()) -> int:
        """Merge a wrapped model that stores each adapted layer as `base_layer` beside its A and B, and copy the rest.

        Args:
            prefix: of all its names, in front of those of transformers.
            alpha: numerator of the scale, whose denominator is the rank of A.
            conv: last names of layers that keep W as (in, out), as GPT-2's do.
        Returns: the rank of the adapters, 0 where there is none.
        """
        rank = 0
        for name in [name for name in self.source.names if name.startswith(prefix) and name not in self.dropped]:
            target = name.removeprefix(prefix)
            layer, base, last = target.rpartition(".base_layer.")
            if base and last == "weight":
                a, b = (f"{prefix}{layer}.lora_{part}.default.weight" for part in "AB")
                rank = self.source.matrix(a)[0]
                weight = (self.source.tensors, self.source.names[name])
                self.merge(f"{layer}.weight", weight, a, b, alpha / rank, conv=layer.rpartition(".")[2] in conv)
            elif ".lora_" not in target:
                self.copy(f"{layer}.{last}" if base else target, name)
        return rank

    def adapt_base(self, base: Base, prefix: str, suffix: str, alpha: float, conv: Collection[str] = ()) -> int:
        """Merge adapters whose base model is not in the source, and copy the base's other weights.

        Args:
            prefix: before the name of a layer with its `lora_A` or `lora_B`, such as `base_model.model.`.
            suffix: after it, such as `.weight`.
            alpha: as in `adapt`.
            conv: as in `adapt`.
        Returns: the rank of the adapters.
        Raises: ValueError: there are none, the base lacks an adapted layer, or has others of the same kind.
        """
        weights, adapted_layers, rank = base.weights, set[str](), 0
        for name in [name for name in self.source.names if name.startswith(prefix)]:
            layer, adapted, last = name.removeprefix(prefix).rpartition(".lora_A")
            if not adapted or last != suffix:
                continue
            if f"{layer}.weight" not in weights:
                raise ValueError(
                    f"{self.source.name} adapts {layer}, which {base.id} has not; give its base model with --base"
                )
            rank = self.source.matrix(name)[0]
            adapted_layers.add(layer)
            weight = (base.tensors, weights[f"{layer}.weight"])
            b = f"{prefix}{layer}.lora_B{suffix}"
            self.merge(f"{layer}.weight", weight, name, b, alpha / rank, conv=layer.rpartition(".")[2] in conv)
        for target, name in weights.items():
            tied = target == "lm_head.weight" and base.config.tie_word_embeddings
            if target not in self.pieces and not tied:
                self.pieces[target] = Piece(base.tensors.shapes[name], ((base.tensors, name),))
        kinds = {_kind(layer) for layer in adapted_layers}
        like = [name.removesuffix(".weight") for name in weights if _kind(name.removesuffix(".weight")) in kinds]
        if bare := [layer for layer in like if layer not in adapted_layers]:
            raise ValueError(
                f"{self.source.name} adapts {len(adapted_layers)} of {len(like)} such layers of {base.id}, not "
                f"{', '.join(bare[:5])}; give its base model with --base"
            )
        if not rank:
            raise ValueError(f"{self.source.name} holds no adapters ({prefix}*.lora_A{suffix}); fetch it anew")
        return rank

    def drop(self, name: str, reason: str) -> None:
        """Leave a source tensor out."""
        self.dropped[name] = reason

    def drop_duplicate(self, name: str, of: str) -> None:
        """Leave a source tensor out that must equal another one."""
        self.drop(name, f"equals {of}")
        self.equal.append((name, of))

    def drop_all(self, prefix: str, reason: str) -> None:
        """Leave out all source tensors whose names begin with `prefix`."""
        for name in self.source.names:
            if name.startswith(prefix):
                self.drop(name, reason)

    def drop_buffers(self) -> None:
        """Leave out masks and frequencies, which the model computes itself."""
        for name in self.source.names:
            if name.endswith(BUFFERS):
                self.drop(name, "a buffer that the model computes itself")

    def copy_rest(self, rename: Callable[[str], str | None]) -> None:
        """Copy every source tensor that is neither dropped nor used, under the name that `rename` gives it; None: it
        has no place, and stays unexpected."""
        used = self.used
        for name in self.source.names:
            if name not in used and (target := rename(name)) is not None:
                self.copy(target, name)

    @property
    def used(self) -> set[str]:
        """Names of source tensors that are used or dropped."""
        files = self.source.tensors
        parts = {
            name for piece in (*self.pieces.values(), *self.heads.values()) for where, name in piece.parts
            if where is files
        }  # fmt: skip
        return {short for short, name in self.source.names.items() if name in parts} | self.dropped.keys()

    def account(self, needed: Shapes, heads: Shapes, way_out: str) -> None:
        """Every tensor of model and heads is made of something, and every source tensor is used or dropped.

        Args:
            needed: shapes of the model's tensors.
            heads: of the method's.
            way_out: what the user can do.
        Raises: ValueError: names or shapes differ.
        """
        used = self.used
        left = [name for name in self.source.names if name not in used]
        found = {name: piece.shape for name, piece in (*self.pieces.items(), *self.heads.items())}
        wanted = {**needed, **heads}
        Account(
            missing=[name for name in wanted if name not in found],
            unexpected=[*(name for name in found if name not in wanted), *left],
            other_shape=[
                f"{name} ({list(found[name])} instead of {list(shape)})"
                for name, shape in wanted.items()
                if name in found and found[name] != shape
            ],
            not_float=[name for name, piece in (*self.pieces.items(), *self.heads.items()) if piece.dtype is None],
        ).refuse(self.source.name, way_out)


def merged(weight: Tensor, a: Tensor, b: Tensor, *, scale: float, conv: bool) -> Tensor:
    """W + scale B A in float32: (out, in), or (in, out) for `conv`."""
    update = b.float() @ a.float()
    return weight.float() + scale * (update.T if conv else update)


def _kind(layer: str) -> str:
    """A layer's name without the number of its block."""
    return ".".join("*" if part.isdigit() else part for part in layer.split("."))


def untie(assembly: Assembly, source: Release, prefix: str, config: PretrainedConfig) -> None:
    """Leave out a stored LM head that is tied to the embeddings, once it equals them; to be called before the rest is
    copied."""
    head = f"{prefix}lm_head.weight"
    if source.has(head) and config.tie_word_embeddings:
        assembly.drop_duplicate(head, prefix + rows_of(source, prefix)[0])
