"""Answers of one rollout: each with its actions, and all those to one question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latbench.decoding.actions import Kind
from latbench.decoding.loop import Generation


@dataclass(kw_only=True)
class Rollout:
    """One answer.

    Args:
        prompt: ids fed before it.
        kinds: (step,) of its steps, see `RowActions`.
        ids: (step,) of its steps, see `RowActions`.
        said: (step,) the log_probs of `RowActions`.
        records: (latent, ...) by name.
        text: the answer segment.
        correct: the task's own reward.
        reward: the shaped one.
        valid: it ended within the caps.
        num_latents: of its record.
        num_reasoning_tokens: of its record.
        num_answer_tokens: of its record.
        advantage: of its actions.
        first_advantage: of the first of them.
        old: (scored action,) log-probabilities before the first update.
        reference: (scored action,) log-probabilities of the frozen reference.
    """

    prompt: tuple[int, ...]
    kinds: Tensor
    ids: Tensor
    said: Tensor
    records: dict[str, Tensor]
    text: str
    correct: float
    reward: float
    valid: bool
    num_latents: int
    num_reasoning_tokens: int
    num_answer_tokens: int
    advantage: float = 0.0
    first_advantage: float = 0.0
    old: Tensor | None = None
    reference: Tensor | None = None

    @classmethod
    def of(cls, prompt: Sequence[int], generation: Generation, correct: float, reward: float) -> Rollout:
        """An answer of the decoding loop; a last step that is latent leads to nothing, and is left out."""
        found = generation.actions
        assert found is not None, "rollouts are decoded with their actions"
        end = len(found)
        num_latents = int((found.kinds == Kind.LATENT).sum())
        while end and found.kinds[end - 1] == Kind.LATENT:
            end, num_latents = end - 1, num_latents - 1
        return cls(  # copies: what is made in inference mode takes no part in gradients
            prompt=tuple(prompt),
            kinds=found.kinds[:end].clone(),
            ids=found.ids[:end].clone(),
            said=found.log_probs[:end].clone(),
            records={name: record[:num_latents].clone() for name, record in found.records.items()},
            text=generation.text,
            correct=correct,
            reward=reward,
            valid=generation.stop_reason in ("eos", "stop") and not generation.capped,
            num_latents=generation.num_latents,
            num_reasoning_tokens=generation.num_reasoning_tokens or 0,  # a trained method knows its chain
            num_answer_tokens=generation.num_answer_tokens,
        )

    def advantages(self) -> Tensor:
        """(step,) float64."""
        every = torch.full((len(self.kinds),), self.advantage, dtype=torch.float64)
        every[:1] = self.first_advantage
        return every

    @property
    def learns(self) -> bool:
        """Whether any of its actions has an advantage."""
        return self.advantage != 0 or self.first_advantage != 0


@dataclass(kw_only=True)
class Group:
    """All answers to one question.

    Args:
        number: in the order of draws.
        example: index of the question.
    """

    number: int
    example: int
    rollouts: list[Rollout]

    @property
    def is_mixed(self) -> bool:
        """Whether its rewards differ, so that something can be learnt."""
        rewards = [row.reward for row in self.rollouts]
        return min(rewards) != max(rewards)
