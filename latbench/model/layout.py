"""How question, markers, steps, answer and EOS become one token sequence with labels; batches as Mappings.

Every piece is tokenised on its own and the ids are concatenated: a sequence is never re-tokenised as a whole, so a
merge across a boundary (Llama-3 has one token for `>>` plus newline) cannot move a label. Padding lives here and in
`cache.py` alone; it is always on the right and is known from lengths, never from a token id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Literal, Self

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from latbench.model import chat_template
from latbench.task import Example

IGNORE_INDEX = -100
OPEN_MARKER, CLOSE_MARKER = "<think>", "</think>"
Supervise = Literal["steps", "answer"]


@dataclass(frozen=True, kw_only=True)
class LayoutSpec:
    """The texts of a layout; markers are special tokens where `markers` is set, else plain text.

    Args:
        markers: `<open>` and `<close>` are the tokenizer's think tokens, added where it has none.
        question_suffix: after the question, where no chat template words it.
        joiner: between two steps; joiner_after_last: also after the last.
        close: text of the close marker where `markers` is off.
        answer_prefix: before the answer.
    """

    markers: bool
    question_suffix: str
    joiner: str
    joiner_after_last: bool
    close: str
    answer_prefix: str


LAYOUTS: dict[str, LayoutSpec] = {
    # prompt <open> steps joined by newline <close> answer EOS
    "default": LayoutSpec(
        markers=True, question_suffix="", joiner="\n", joiner_after_last=False, close="", answer_prefix=""
    ),
    # Coconut's own (specs/cot_baselines.md 2.1 a): question newline, each step with a newline, `### ` answer EOS
    "coconut": LayoutSpec(
        markers=False, question_suffix="\n", joiner="\n", joiner_after_last=True, close="###", answer_prefix=" "
    ),
}


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """Token ids of one example, piece by piece, in sequence order."""

    prompt: tuple[int, ...]  # question with its template, and the open marker
    steps: tuple[int, ...]  # joiners included
    close: tuple[int, ...]
    answer: tuple[int, ...]
    eos: int

    def __len__(self) -> int:
        return len(self.prompt) + len(self.steps) + len(self.close) + len(self.answer) + 1


class Layout:
    """One layout over one tokenizer.

    Args:
        name: key of LAYOUTS.
        tokenizer: with EOS; markers already added where the layout wants them.
        chat_template: word the question through the tokenizer's chat template.
        instruction: stands before every question, with a blank line after it.
        markers: False: the model has no think tokens and gets none; its whole output is the answer segment.

    Raises: ValueError: the tokenizer has no EOS token.
    """

    def __init__(
        self,
        name: str,
        tokenizer: PreTrainedTokenizerBase,
        *,
        chat_template: bool = False,
        instruction: str = "",
        markers: bool = True,
    ) -> None:
        if tokenizer.eos_token_id is None:
            raise ValueError(
                "model.id: its tokenizer has no end-of-sequence token, so no answer can end; "
                "set tokenizer.eos_token and save it beside the model"
            )
        self.name = name
        self.spec = LAYOUTS[name]
        self.tokenizer = tokenizer
        self.chat_template = chat_template
        self.instruction = instruction
        self.eos: int = tokenizer.eos_token_id
        self._ids = lru_cache(maxsize=1 << 17)(self._tokenize)
        self.raw = lru_cache(maxsize=1 << 17)(self._raw)
        self._worded = lru_cache(maxsize=1 << 17)(self._in_template)
        special = self.spec.markers and markers
        self.open: tuple[int, ...] = self._ids(OPEN_MARKER) if special else ()
        self.close: tuple[int, ...] = self._ids(CLOSE_MARKER if special else self.spec.close)
        self.joiner: tuple[int, ...] = self._ids(self.spec.joiner)

    def prompt(self, question: str) -> tuple[int, ...]:
        """Ids fed before the first decision: the worded question and the open marker."""
        if self.instruction:
            question = f"{self.instruction}\n\n{question}"
        if not self.chat_template:
            return self.raw(question + self.spec.question_suffix) + self.open
        text = self._worded(question)
        ids = self._ids(text)
        # some templates of reasoning models open the think block themselves
        opened = bool(self.open) and text.rstrip().endswith(OPEN_MARKER)
        return ids if opened else ids + self.open

    def _in_template(self, question: str) -> str:
        return chat_template.render(self.tokenizer, [{"role": "user", "content": question}])

    def _raw(self, text: str) -> tuple[int, ...]:
        """Ids of a text at the start of a sequence: with the tokenizer's BOS, without an EOS it may append."""
        ids = tuple(self.tokenizer.encode(text))
        return ids[:-1] if ids and ids[-1] == self.eos and not text.endswith(str(self.tokenizer.eos_token)) else ids

    def steps(self, steps: Sequence[str]) -> tuple[int, ...]:
        """Ids of the reasoning chain, joiners included."""
        ids: list[int] = []
        for number, step in enumerate(steps, start=1):
            ids += self._ids(step)
            if number < len(steps) or self.spec.joiner_after_last:
                ids += self.joiner
        return tuple(ids)

    def encode(self, example: Example) -> Pieces:
        """All pieces of an example, whose question is the task's prompt."""
        return Pieces(
            prompt=self.prompt(example.question),
            steps=self.steps(example.steps),
            close=self.close,
            answer=self._ids(self.spec.answer_prefix + example.answer),
            eos=self.eos,
        )

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, special tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _tokenize(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))


@dataclass
class Tokens:
    """Right-padded sequences.

    Args:
        ids: (batch, seq); positions: (batch, seq), 0, 1, 2 ... also over the padding.
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

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same on another device."""
        return type(self)(*(getattr(self, f.name).to(device, non_blocking=non_blocking) for f in fields(self)))


class Batch(Mapping[str, Any]):
    """Tensors of one micro-batch by name, with the number of items of each loss term.

    A Mapping with `.to()`, so that Accelerate moves it whole; values are tensors or dataclasses with `.to()`.
    """

    def __init__(self, *, num_items: Mapping[str, int], **values: Any) -> None:
        self.num_items = dict(num_items)
        self._values = values

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_values"][name]
        except KeyError:
            held = ", ".join(self.__dict__.get("_values", {}))
            raise AttributeError(f"batch has no {name!r}; it holds {held}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same on another device."""
        moved = {
            name: value.to(device, non_blocking=non_blocking) if hasattr(value, "to") else value
            for name, value in self._values.items()
        }
        return Batch(num_items=self.num_items, **moved)


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


def sequence_batch(pieces: Sequence[Pieces], supervise: Supervise) -> Batch:
    """One right-padded sequence per example: prompt, steps, close, answer, EOS.

    Args:
        supervise: `steps`: cross-entropy on steps, close marker, answer and EOS; `answer`: on answer and EOS alone.
    Returns: Batch with `tokens` and `num_items["ce"]`, the number of supervised tokens.
    """
    ids, labels = [], []
    for piece in pieces:
        sequence = [*piece.prompt, *piece.steps, *piece.close, *piece.answer, piece.eos]
        free = len(piece.prompt) + (0 if supervise == "steps" else len(piece.steps) + len(piece.close))
        ids.append(sequence)
        labels.append([IGNORE_INDEX] * free + sequence[free:])
    tokens = pad(ids, [row[1:] for row in labels])  # a position predicts the next id
    return Batch(num_items={"ce": _num_supervised(tokens)}, tokens=tokens)


def rollout_batch(pieces: Sequence[Pieces]) -> Batch:
    """Question and target apart, for methods that take latent steps in between.

    Returns: Batch with `question` (the prompt, nothing supervised), `target` (steps, close, answer, EOS, all supervised
    but a close marker that nothing precedes: it is forced) and `num_items["ce"]`.
    """
    targets = [[*piece.steps, *piece.close, *piece.answer, piece.eos] for piece in pieces]
    labels = [list(target) for target in targets]
    for piece, row in zip(pieces, labels, strict=True):
        if not piece.steps:
            row[: len(piece.close)] = [IGNORE_INDEX] * len(piece.close)
    target = pad(targets, labels)
    return Batch(
        num_items={"ce": _num_supervised(target)}, question=pad([piece.prompt for piece in pieces]), target=target
    )


def _num_supervised(tokens: Tokens) -> int:
    return int((tokens.labels != IGNORE_INDEX).sum())
