"""Micro-batches: padded token sequences with labels, and typed batches that move between devices as one.

Padding lives here and in `cache.py` alone; it is always on the right and is known from lengths, never from a token id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor

from latbench.model.layout import Pieces

IGNORE_INDEX = -100
Supervise = Literal["steps", "answer"]


class Movable:
    """Base of a dataclass whose tensors, and whose fields that are movable themselves, go to a device together."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same on another device."""
        values = {field.name: getattr(self, field.name) for field in fields(cast(Any, self))}
        moved = {
            name: value.to(device, non_blocking=non_blocking) if isinstance(value, Tensor | Movable) else value
            for name, value in values.items()
        }
        return type(self)(**moved)


@dataclass
class Tokens(Movable):
    """Right-padded sequences.

    Args:
        ids: (batch, seq).
        positions: (batch, seq), 0, 1, 2 ... also over the padding.
        mask: (batch, seq) bool, True on real tokens.
        labels: (batch, seq), aligned with the logits of the call that takes them, IGNORE_INDEX where nothing is
            supervised: the following id for `logits_at_labels`, the id itself for `extend`.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    labels: Tensor

    @property
    def lengths(self) -> Tensor:
        """(batch,) number of real tokens."""
        return self.mask.sum(1)

    @property
    def num_supervised(self) -> int:
        """Number of positions with a label."""
        return int((self.labels != IGNORE_INDEX).sum())


@dataclass
class SharedPrompts(Movable):
    """Which rows begin alike, so that what they begin with is computed once.

    Args:
        first: (prompt,) a row that begins with it.
        of_row: (batch,) prompt that a row begins with.
        lengths: (prompt,) number of positions.
    """

    first: Tensor
    of_row: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]]) -> Self:
        """Of each row's prompt, whose last token is left to the row: what is predicted there is the row's own."""
        places: dict[tuple[int, ...], int] = {}
        of_row = [places.setdefault(tuple(prompt), len(places)) for prompt in prompts]
        return cls(
            first=torch.tensor([of_row.index(place) for place in range(len(places))]),
            of_row=torch.tensor(of_row),
            lengths=torch.tensor([max(len(prompt) - 1, 0) for prompt in places]),
        )


class Tensors(Mapping[str, Tensor], Movable):
    """Tensors by name that go to a device together."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = dict(tensors)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same on another device."""
        return type(self)({name: value.to(device, non_blocking=non_blocking) for name, value in self.items()})


@dataclass(kw_only=True)
class Batch(Movable):
    """One micro-batch: a method adds its tensors as fields of a subclass, `@dataclass(kw_only=True)`.

    Args:
        num_items: number of items of each loss term, by its name.
    """

    num_items: dict[str, int]

    @classmethod
    def of(cls, other: Batch, **more: Any) -> Self:
        """This kind of batch from one with fewer fields, and the rest; `more` wins."""
        return cls(**{**{field.name: getattr(other, field.name) for field in fields(other)}, **more})


@dataclass(kw_only=True)
class SequenceBatch(Batch):
    """Whole sequences: prompt, steps, close marker, answer, EOS.

    Args:
        tokens: a label is the id that follows.
    """

    tokens: Tokens


@dataclass(kw_only=True)
class RolloutBatch(Batch):
    """Question and target apart, for methods that take latent steps in between.

    Args:
        question: the prompt, nothing supervised.
        target: steps, close marker, answer and EOS; a label is the id itself.
    """

    question: Tokens
    target: Tokens


def pad(sequences: Sequence[Sequence[int]], labels: Sequence[Sequence[int]] | None = None) -> Tokens:
    """Right-padded Tokens of id sequences.

    Args:
        sequences: ids, one list per row.
        labels: one per id, IGNORE_INDEX where it is not supervised; None: none is.
    """
    width = max(map(len, sequences), default=0)
    lengths = torch.tensor([len(row) for row in sequences])
    positions = torch.arange(width).expand(len(sequences), width)
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in sequences], dtype=torch.long)
    targets = torch.full_like(ids, IGNORE_INDEX)
    for row, given in enumerate(labels or ()):
        targets[row, : len(given)] = torch.tensor(given, dtype=torch.long)
    return Tokens(ids=ids, positions=positions, mask=positions < lengths[:, None], labels=targets)


def sequence_batch(pieces: Sequence[Pieces], supervise: Supervise) -> SequenceBatch:
    """One right-padded sequence per example.

    Args:
        supervise: `steps`: cross-entropy on steps, close marker, answer and EOS; `answer`: on answer and EOS alone.
    Returns: `num_items["ce"]` is the number of supervised tokens.
    """
    ids, labels = [], []
    for piece in pieces:
        sequence = [*piece.prompt, *piece.steps, *piece.close, *piece.answer, piece.eos]
        free = len(piece.prompt) + (0 if supervise == "steps" else len(piece.steps) + len(piece.close))
        ids.append(sequence)
        labels.append([IGNORE_INDEX] * free + sequence[free:])
    tokens = pad(ids, [row[1:] for row in labels])  # a position predicts the next id
    return SequenceBatch(num_items={"ce": tokens.num_supervised}, tokens=tokens)


def rollout_batch(pieces: Sequence[Pieces]) -> RolloutBatch:
    """Questions, and targets that are supervised but for a close marker that nothing precedes: it is forced.

    Returns: `num_items["ce"]` is the number of supervised tokens.
    """
    targets = [[*piece.steps, *piece.close, *piece.answer, piece.eos] for piece in pieces]
    labels = [list(target) for target in targets]
    for piece, row in zip(pieces, labels, strict=True):
        if not piece.steps:
            row[: len(piece.close)] = [IGNORE_INDEX] * len(piece.close)
    target, question = pad(targets, labels), pad([piece.prompt for piece in pieces])
    return RolloutBatch(num_items={"ce": target.num_supervised}, question=question, target=target)
