"""What each row of a decoding did, step by step: what reinforcement learning scores and learns from.

The steps of a row follow its prompt and say all that was fed after it: a sampled token, a latent step with the method's
own record of it, or an id that was forced. The last token of a row need not have been fed (it is EOS, or a cap came).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from latbench.decoding.rule import Mode, Step


class Kind(IntEnum):
    """What a step of a row was."""

    FORCED = 0  # an id that nothing chose: the second and later ids of a close marker
    TOKEN = 1  # a sampled token
    LATENT = 2  # a latent step
    CLOSE = 3  # the first forced id, for which the row left latent mode by the rule's choice or at the cap


@dataclass(kw_only=True)
class RowActions:
    """The steps of one row, in order.

    Args:
        kinds: (step,) Kind.
        ids: (step,) token ids, -1 for a latent step.
        log_probs: (step,) float32, what the decoding loop gave the choice: of TOKEN and CLOSE the log-softmax of the
            logits over the sampling temperature, before top-k and top-p; of LATENT what the rule says; else 0.
        records: (latent, ...) by name, of the latent steps alone.
    """

    kinds: Tensor
    ids: Tensor
    log_probs: Tensor
    records: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.kinds)


class ActionRecorder:
    """Collects the steps of many rows without a loop over rows.

    Args:
        temperature: of sampling; 0 (greedy) counts as 1.
    """

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature or 1.0
        self._rows: list[Tensor] = []
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []
        self._latent_rows: list[Tensor] = []
        self._records: dict[str, list[Tensor]] = {}

    def add(
        self, questions: Tensor, running: Tensor, deciding: Tensor, emitted: Tensor, step: Step, logits: Tensor
    ) -> None:
        """Note this step of the rows where `running` holds.

        Args:
            questions: (batch,) whose rows they are.
            running: (batch,) bool, rows in the loop.
            deciding: (batch,) bool, rows with a choice rather than a queue of forced ids.
            emitted: (batch,) bool, rows that emit a token.
            step: of the rule, `token` being what is fed: emitted, forced, or -1.
            logits: (batch, vocab) that the choice was made from.
        """
        token = step.token
        latent = deciding & (token < 0)
        if step.mode is not None:
            latent &= step.mode == Mode.LATENT
        kinds = torch.full_like(token, Kind.FORCED)
        kinds = torch.where(deciding & (token >= 0), Kind.CLOSE, kinds)
        kinds = torch.where(emitted, Kind.TOKEN, kinds)
        kinds = torch.where(latent, Kind.LATENT, kinds)
        wide = logits if logits.element_size() > 4 else logits.float()
        chosen = (wide / self.temperature).log_softmax(-1).gather(-1, token.clamp(min=0)[:, None])[:, 0]
        log_probs = torch.where((kinds == Kind.TOKEN) | (kinds == Kind.CLOSE), chosen, 0.0)
        if step.latent is not None and step.latent.log_prob is not None:
            log_probs = torch.where(latent, step.latent.log_prob.to(log_probs.dtype), log_probs)
        rows = running & (latent | (token >= 0))
        self._rows.append(questions[rows])
        self._parts.append((kinds[rows], token[rows], log_probs[rows]))
        if step.latent is not None:
            self._latent_rows.append(questions[latent & running])
            for name, value in step.latent.record.items():
                self._records.setdefault(name, []).append(value[latent & running])

    def actions(self, num_questions: int) -> list[RowActions]:
        """The steps of every question, on the CPU; none where it was never decoded."""
        if not self._rows:
            nothing = torch.zeros(0, dtype=torch.long)
            return [RowActions(kinds=nothing, ids=nothing, log_probs=torch.zeros(0), records={})] * num_questions
        kinds, ids, log_probs = (_split(self._rows, part, num_questions) for part in zip(*self._parts, strict=True))
        records = {name: _split(self._latent_rows, parts, num_questions) for name, parts in self._records.items()}
        return [
            RowActions(
                kinds=kinds[row],
                ids=ids[row],
                log_probs=log_probs[row],
                records={name: split[row] for name, split in records.items()},
            )
            for row in range(num_questions)
        ]


def _split(rows: list[Tensor], parts: tuple[Tensor, ...] | list[Tensor], num_questions: int) -> list[Tensor]:
    """What was collected step by step, by row and in order of the steps."""
    owner = torch.cat(rows)
    order = owner.argsort(stable=True)
    counts = owner.bincount(minlength=num_questions).tolist()
    return list(torch.cat(list(parts))[order].cpu().split(counts))
