"""The one decoding loop with questions that come while others are being answered, and answers told as they grow."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latbench.config import GenerateConfig
from latbench.decoding.latent_trace import TraceRecorder, largest
from latbench.decoding.loop import LENGTH, RUNNING, Generation, Loop, Prompt
from latbench.decoding.rule import Mode, RowState, Step, StepRule
from latbench.model.backbone import Backbone

SHRINK = 2  # a batch is shrunk once the rows that run fit into one part of so many


@dataclass(frozen=True, kw_only=True)
class LatentReading:
    """One latent step of one answer."""

    ids: tuple[int, ...]
    """The largest entries of its distribution, by falling weight."""
    weights: tuple[float, ...]
    """Their weights."""
    entropy: float
    """In nats, of the LM head's whole distribution before the step."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a question that is being answered has come to."""

    reasoning: tuple[int, ...]
    """Ids of the explicit reasoning."""
    answer: tuple[int, ...]
    """Ids of the answer segment; none before it is reached."""


class LatentFeed(TraceRecorder):
    """Tells the latent steps of chosen questions as they are taken, and keeps none.

    Args:
        top_k: entries told of a step.
    """

    def __init__(self, top_k: int) -> None:
        super().__init__(top_k)
        self.wanted: set[int] = set()
        self._told: dict[int, list[LatentReading]] = {}

    def add(self, questions: Tensor, latent: Tensor, step: Step, logits: Tensor) -> None:
        """See TraceRecorder."""
        if not self.wanted:
            return
        pairs = enumerate(zip(questions.tolist(), latent.tolist(), strict=True))
        places = {row: question for row, (question, thinks) in pairs if thinks and question in self.wanted}
        if not places:
            return
        ids, weights, entropies = largest(step, logits, torch.tensor(list(places), device=logits.device), self.top_k)
        columns = zip(places.values(), ids.tolist(), weights.tolist(), entropies.tolist(), strict=True)
        for question, entries, shares, entropy in columns:
            reading = LatentReading(ids=tuple(entries), weights=tuple(shares), entropy=entropy)
            self._told.setdefault(question, []).append(reading)

    def take(self) -> dict[int, list[LatentReading]]:
        """The latent steps since the last call, by question."""
        told, self._told = self._told, {}
        return told


class Session(Loop):
    """A loop that runs as long as there are questions: `add` them at any time, and call `step` again and again.

    The batch grows up to `config.batch_size` rows. A question gets its answer whatever others are answered beside it,
    the same as `decode` gives it.

    Args:
        config: its `max_new_tokens` bounds that of every prompt.
        seed: keys the draws of prompts that say no seed of their own.
        top_k: entries told of a latent step, for questions whose latent steps are told.
    """

    def __init__(
        self, backbone: Backbone, rule: StepRule, config: GenerateConfig, *, seed: int = 0, top_k: int = 5
    ) -> None:
        self.feed = LatentFeed(top_k)
        super().__init__(backbone, {}, {}, rule, config, seed, self.feed, None)
        self.queue: deque[int] = deque()
        self.active = 0  # rows that run
        self.idle = 0  # steps that questions have waited beside free rows
        self.stopping = False
        self._next = 0

    def __len__(self) -> int:
        """Questions that have no answer yet."""
        return self.active + len(self.queue)

    @property
    def num_waiting(self) -> int:
        """Questions that no row has taken up yet."""
        return len(self.queue)

    def add(self, ids: Sequence[int], prompt: Prompt, *, latents: bool = False) -> int:
        """Take a question.

        Args:
            ids: fed before the first decision, see `decode`.
            latents: tell its latent steps.
        Returns: its number.
        Raises: ValueError: the prompt does not fit the model's context.
        """
        if len(ids) > self.backbone.context:
            raise ValueError(
                f"the prompt has {len(ids)} tokens, more than the context of {self.backbone.context}; shorten it"
            )
        number, self._next = self._next, self._next + 1
        self.prompts[number], self.prompt_ids[number] = prompt, ids
        if latents:
            self.feed.wanted.add(number)
        self.stopping = self.stopping or bool(self._until(number))
        self.queue.append(number)
        return number

    @torch.inference_mode()
    def cancel(self, number: int) -> None:
        """Drop a question, whether it waits or runs; nothing where it is answered already."""
        if number not in self.prompts:
            return
        if number in self.queue:
            self.queue.remove(number)
        else:
            row = self.slots.question == number
            self.slots.stop.masked_fill_(row, LENGTH)
            self.slots.question.masked_fill_(row, -1)
            self.active -= 1
        self._forget(number)

    @torch.inference_mode()
    def step(self) -> dict[int, Generation]:
        """Run the model once over all rows. Returns: the answers that are complete now, by number."""
        self._make_room()
        if not self.active:
            return {}
        before, self.active = self.active, self._advance()
        if self.active < before:
            self._retire()
        done, self.results = self.results, {}
        for number in done:
            self._forget(number)
        return done

    @torch.inference_mode()
    def written(self, numbers: Collection[int]) -> dict[int, Written]:
        """What these questions have come to, of those whose rows run."""
        if not self.active or not numbers:
            return {}
        s = self.slots
        facts = torch.stack([s.question, s.num_tokens, s.reasoning_end, s.answer_start, self.rows.in_answer.long()], 1)
        rows = [(row, *row_facts) for row, row_facts in enumerate(facts.tolist()) if row_facts[0] in numbers]
        if not rows:
            return {}
        most = max(num_tokens for _, _, num_tokens, *_ in rows)
        tokens = s.tokens[[row for row, *_ in rows], :most].tolist()
        hidden = max(len(self.close) - 1, 0)  # ids that may turn out to begin the close marker
        found = {}
        for ids, (_, number, num_tokens, end, start, closed) in zip(tokens, rows, strict=True):
            reasoning = ids[:end] if closed else ids[: max(num_tokens - hidden, 0)]
            answer = ids[start:num_tokens] if closed else []
            found[number] = Written(reasoning=tuple(reasoning), answer=tuple(answer))
        return found

    def _make_room(self) -> None:
        """Give waiting questions rows, or shrink the batch when none wait.

        A prefill costs about a step of all rows, so questions wait until they have waited as many steps as rows run.
        """
        free = self.config.batch_size - self.active
        self.idle += min(free, len(self.queue))
        if self.queue and free and self.idle >= self.active:
            taken = [self.queue.popleft() for _ in range(min(free, len(self.queue)))]
            taken.sort(key=lambda number: (-len(self._ids(number)), number))  # a prefill takes them by falling length
            self._grow(self.active + len(taken), len(self._ids(taken[0])))
            slots = (self.slots.stop != RUNNING).nonzero()[: len(taken), 0]
            self._admit(slots, taken)
            self.active += len(taken)
            self.idle = 0
        elif not self.queue and 0 < self.active <= len(self.slots.stop) // SHRINK:
            self._compact(self.active)

    def _grow(self, num: int, longest: int) -> None:
        """Have at least so many rows, the first of them for prompts of at most `longest` tokens."""
        if not hasattr(self, "slots"):
            self._allocate(num, longest)
        more = num - len(self.slots.stop)
        if more > 0:
            fresh = self._fresh_slots(more)
            self.rows.add(RowState.fresh(torch.zeros_like(fresh.question), Mode.DONE))
            self.slots.add(fresh)
            self.cache.add(more, fresh.stop.device)

    def _forget(self, number: int) -> None:
        del self.prompts[number], self.prompt_ids[number]
        self.feed.wanted.discard(number)
