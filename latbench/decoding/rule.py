"""StepRule: what a row feeds next, given the hidden state and the logits at its last position.

A rule sees all rows at once. Each row is in its own mode; a rule for latent methods says what a LATENT row feeds and
when it stops, everything about TEXT rows is inherited.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum

import torch
from torch import Tensor
from torch.nn import functional

from latbench.decoding.sampling import Sampling
from latbench.model.backbone import Backbone

_ROW_TENSORS = ("keys", "steps", "mode", "num_latents", "in_answer", "question", "num_marks")  # first axis batch


class Mode(IntEnum):
    """What a row does next."""

    DONE = 0
    TEXT = 1
    LATENT = 2


@dataclass
class RowState:
    """What a rule may know of its rows.

    Args:
        keys: (batch,) of the random generator.
        steps: (batch,) decisions taken so far.
        mode: (batch,) Mode of the coming decision.
        num_latents: (batch,) latent steps so far.
        in_answer: (batch,) bool, the close marker is behind the row.
        question: (batch,) index of the row's prompt among those given to `decode`; 0, 1, 2 ... in `unroll`.
        num_marks: (batch,) emitted tokens so far that the rule knows to be marks of the method's own, such as a tag
            that asks for latent steps; they are no reasoning tokens.
        thinking: some row is in LATENT mode; else a rule may skip that half of its work.
        talking: some row is not in LATENT mode; else a rule may skip that half of its work.
        memory: the rule's own tensors, first axis batch; rows that start anew are zeroed by the loop.
    """

    keys: Tensor
    steps: Tensor
    mode: Tensor
    num_latents: Tensor
    in_answer: Tensor
    question: Tensor
    num_marks: Tensor
    thinking: bool = True
    talking: bool = True
    memory: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def fresh(cls, keys: Tensor, mode: Mode) -> RowState:
        """Rows that have decided nothing yet: (batch,) keys, all in one mode."""
        zeros = torch.zeros_like(keys)
        order = torch.arange(len(keys), device=keys.device)
        return cls(keys, zeros, torch.full_like(keys, mode), zeros.clone(), zeros.bool(), order, zeros.clone())

    def restart(self, rows: Tensor, keys: Tensor, mode: Tensor, in_answer: Tensor, question: Tensor) -> None:
        """Begin anew in these rows ((n,) indices, keys, modes, flags and questions)."""
        self.keys[rows], self.mode[rows], self.in_answer[rows], self.question[rows] = keys, mode, in_answer, question
        self.steps[rows] = 0
        self.num_latents[rows] = 0
        self.num_marks[rows] = 0
        for tensor in self.memory.values():
            tensor[rows] = 0

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these, in this order."""
        for name in _ROW_TENSORS:
            setattr(self, name, getattr(self, name)[rows])
        self.memory = {name: tensor[rows] for name, tensor in self.memory.items()}

    def add(self, fresh: RowState) -> None:
        """Append rows that have decided nothing yet."""
        num = len(fresh.keys)
        for name in _ROW_TENSORS:
            setattr(self, name, torch.cat([getattr(self, name), getattr(fresh, name)]))
        self.memory = {name: torch.cat([t, t.new_zeros(num, *t.shape[1:])]) for name, t in self.memory.items()}


@dataclass
class Mixture:
    """What a latent step mixed, for traces: (batch, top_k) ids and weights, in any order."""

    ids: Tensor
    weights: Tensor


@dataclass
class LatentAction:
    """What a latent step did, in the method's own terms: enough to feed it again and to score it.

    Args:
        record: (batch, ...) tensors by name, such as the drawn latent, or ids and scores of a mixture.
        log_prob: (batch,) of what was done, float32; None: a latent step is no action of its own (no choice was made).
    """

    record: dict[str, Tensor]
    log_prob: Tensor | None = None


@dataclass
class Step:
    """A decision for every row.

    Args:
        embeds: (batch, hidden) next input.
        mode: (batch,) Mode of this input: LATENT counts as a latent step, TEXT goes with a token, DONE ends the row;
            None: all are TEXT.
        token: (batch,) emitted id, -1 where none is; a rule may emit a token and feed a blend.
        forced: (batch, width) ids to feed instead of `embeds`, one per step, -1 where none: not sampled, not counted;
            a row with forced ids takes part in no decision until they are fed. None: no row has any.
        mixture: for traces; None: the LM head's reading of `hidden` is stored.
        latent: what a latent step did, for rollouts; None: this rule keeps no record of it.
    """

    embeds: Tensor
    mode: Tensor | None
    token: Tensor
    forced: Tensor | None = None
    mixture: Mixture | None = None
    latent: LatentAction | None = None


class StepRule:
    """Plain text: sample a token, feed its embedding."""

    start = Mode.TEXT

    def __init__(self, backbone: Backbone, sampling: Sampling | None = None) -> None:
        self.backbone = backbone
        self.sampling = sampling or Sampling()

    def step(self, hidden: Tensor, logits: Tensor, rows: RowState) -> Step:
        """Decide for all rows: (batch, hidden) and (batch, vocab) at each row's last position."""
        token = self.sampling.choose(self.backbone.sayable(logits), rows.keys, rows.steps)
        return Step(self.backbone.embed(token), None, token)


@dataclass
class Latent:
    """What LATENT rows do: (batch, hidden) next embeddings, (batch,) bool `stop` to leave latent mode instead; `action`
    for rollouts."""

    embeds: Tensor
    stop: Tensor
    mixture: Mixture | None = None
    action: LatentAction | None = None


class LatentRule(StepRule):
    """Latent steps until `stop`, then the forced close marker, then plain text."""

    start = Mode.LATENT

    @abstractmethod
    def latent(self, hidden: Tensor, logits: Tensor, rows: RowState) -> Latent:
        """What the rows in LATENT mode do; computed for all rows, read for those alone."""

    def step(self, hidden: Tensor, logits: Tensor, rows: RowState) -> Step:
        """See StepRule."""
        if not rows.thinking:
            return super().step(hidden, logits, rows)
        latent = self.latent(hidden, logits, rows)
        thinks = rows.mode == Mode.LATENT
        closes = thinks & latent.stop
        feeds = thinks ^ closes
        embeds, token = latent.embeds, torch.full_like(rows.mode, -1)
        marker = self.backbone.layout.close
        if rows.talking or not marker:
            text = super().step(hidden, logits, rows)
            silent = thinks if marker else feeds  # without a marker to force, text starts at once
            embeds = torch.where(feeds[:, None], embeds, text.embeds)
            token = torch.where(silent, token, text.token)
        mode = torch.where(feeds, Mode.LATENT, Mode.TEXT)
        return Step(
            embeds,
            mode,
            token,
            forced=close_marker(self.backbone, closes),
            mixture=latent.mixture,
            latent=latent.action,
        )


class FixedLatents(LatentRule):
    """A fixed number of latent steps.

    Args:
        num_latents: steps, of all rows or (questions,) of each; 0: straight to the close marker.
        next_embeds: (batch, hidden) last hidden state -> next input embedding; None feeds it back as it is.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_latents: int | Tensor,
        next_embeds: Callable[[Tensor], Tensor] | None = None,
        sampling: Sampling | None = None,
    ) -> None:
        super().__init__(backbone, sampling)
        self.num_latents = num_latents
        self.next_embeds = next_embeds or (lambda hidden: hidden)

    def latent(self, hidden: Tensor, logits: Tensor, rows: RowState) -> Latent:
        """See LatentRule."""
        num = self.num_latents[rows.question] if isinstance(self.num_latents, Tensor) else self.num_latents
        return Latent(self.next_embeds(hidden), rows.num_latents >= num)


@dataclass
class RecordedLatents:
    """What one `unroll` fed, with gradients, for a loss on the latents: `unroll(..., record=recorded)`.

    Args:
        fed: (batch, hidden) of each latent step.
        seen: (batch, hidden) last hidden states that these steps were made from.
        took: (batch,) bool, the rows that took the step; the values of the others were not fed.
        after: (batch, hidden) last hidden states after each row's last step.
    """

    after: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    fed: list[Tensor] = field(default_factory=list)
    seen: list[Tensor] = field(default_factory=list)
    took: list[Tensor] = field(default_factory=list)

    @property
    def embeds(self) -> Tensor:
        """(batch, latents, hidden) inputs of the latent steps."""
        return self._stacked(self.fed, self.after)

    @property
    def hidden(self) -> Tensor:
        """(batch, latents, hidden) last hidden states before each latent step."""
        return self._stacked(self.seen, self.after)

    @property
    def mask(self) -> Tensor:
        """(batch, latents) bool: which steps each row took."""
        return self._stacked(self.took, torch.ones_like(self.after[:, 0], dtype=torch.bool))

    @staticmethod
    def _stacked(steps: list[Tensor], like: Tensor) -> Tensor:
        return torch.stack(steps, dim=1) if steps else like[:, None][:, :0]


def surely_none(rows: Tensor) -> bool:
    """Whether (batch,) bool holds for no row, as far as that can be told without waiting for a GPU."""
    return rows.device.type == "cpu" and not rows.any()


def close_marker(backbone: Backbone, rows: Tensor) -> Tensor | None:
    """Forced ids: the close marker for these rows ((batch,) bool), -1 for the others; None where surely none is."""
    if surely_none(rows):
        return None
    marker = torch.tensor(backbone.layout.close, device=rows.device, dtype=torch.long)
    return torch.where(rows[:, None], marker, -1)


def widened(ids: Tensor, width: int) -> Tensor:
    """Forced ids with -1 up to a width."""
    return ids if ids.shape[1] >= width else functional.pad(ids, (0, width - ids.shape[1]), value=-1)


def says_close(backbone: Backbone, logits: Tensor) -> Tensor:
    """Where the likeliest token is the first id of the close marker: (batch,) bool; nowhere without a marker."""
    first = backbone.layout.close[0] if backbone.layout.close else -1
    return logits.argmax(-1) == first
