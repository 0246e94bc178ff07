"""Log-likelihoods of given continuations: right after a text, or after a method has thought about a question.

Right padding alone, in the order asked. Continuations that differ in their last token share one row, so that the
letters of a multiple-choice question cost one thought.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from latbench.config import GenerateConfig
from latbench.decoding.loop import Prompt
from latbench.decoding.rule import Mode, RowState, Step, StepRule, close_marker, widened
from latbench.method import Method
from latbench.model.backbone import Backbone
from latbench.model.batches import pad
from latbench.task import Example

Progress = Callable[[int], None]


class Likelihood(NamedTuple):
    """Natural log-probability of a continuation, and whether greedy decoding would have written it."""

    logprob: float
    is_greedy: bool


@torch.inference_mode()
def after_text(
    backbone: Backbone,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    batch_size: int,
    advance: Progress = lambda count: None,
) -> list[Likelihood]:
    """Score continuations right after their contexts, as one text; a context that is too long loses its beginning.

    Args:
        pairs: ids of context and continuation, neither empty.
        advance: told how many pairs are done.
    Raises: ValueError: a continuation alone is longer than the model's context.
    """
    asked: dict[tuple[int, ...], list[int]] = {}  # what the model reads -> the pairs it answers
    for index, (context, continuation) in enumerate(pairs):
        if len(continuation) > backbone.context:
            raise ValueError(
                f"a continuation has {len(continuation)} tokens and the model's context {backbone.context}; "
                "take a model with a longer context"
            )
        asked.setdefault((*context, *continuation)[:-1][-backbone.context :], []).append(index)
    found: dict[int, Likelihood] = {}
    longest_first = sorted(asked, key=lambda ids: (-len(ids), ids))
    for start in range(0, len(longest_first), batch_size):
        batch = longest_first[start : start + batch_size]
        needed = [max(len(pairs[index][1]) for index in asked[ids]) for ids in batch]
        tokens = pad(batch).to(backbone.device)
        first = tokens.lengths - torch.tensor(needed, device=backbone.device)
        select = tokens.mask & (tokens.positions >= first[:, None])
        logits = backbone.causal(backbone.embed(tokens.ids), tokens.positions, select).logits
        for ids, rows in zip(batch, _logprobs(logits).split(needed), strict=True):
            for index in asked[ids]:
                wanted = torch.tensor(pairs[index][1], device=rows.device)
                own = rows[-len(wanted) :]
                total = own.gather(-1, wanted[:, None]).sum()
                found[index] = Likelihood(float(total), bool((own.argmax(-1) == wanted).all()))
            advance(len(asked[ids]))
    return [found[index] for index in range(len(pairs))]


def after_thinking(
    method: Method[Any], pairs: Sequence[tuple[str, str]], config: GenerateConfig, *, seed: int = 0
) -> list[Likelihood]:
    """Let a method think about each question and score the continuations where its answer would stand.

    The question is asked in the run's own prompt. What the method thinks is what it thinks in `generate` of the same
    configuration; if it has not closed its thought by `max_new_tokens`, at its EOS or at the end of the context, the
    close marker is forced. Spaces at a continuation's start are left out: lm-eval separates question and answer by
    them, a layout by its marker.

    Args:
        pairs: question and continuation.
    Raises: ValueError: the layout has no close marker, a continuation is empty, or a question with one leaves no room.
    """
    backbone = method.backbone
    if not backbone.layout.close:
        raise ValueError(
            f"{backbone.name} has no close marker after which an answer could be scored; "
            "take a trained run, or score without thinking (think=false)"
        )
    asked: dict[tuple[str, tuple[int, ...]], dict[int, list[int]]] = {}  # question, shared ids -> last id -> pairs
    for index, (question, continuation) in enumerate(pairs):
        example = Example(id="", question=question, steps=(), answer=continuation.lstrip() or continuation)
        ids = backbone.layout.encode(example).answer
        if not ids:
            raise ValueError(
                f"a continuation of the question {question[:60]!r} is empty; give each choice of the task a text"
            )
        *shared, last = ids
        asked.setdefault((question, tuple(shared)), {}).setdefault(last, []).append(index)
    prompts = [Prompt(id=question, text=question) for question, _ in asked]
    rooms = []
    for question, ids in asked:
        used = len(method.prompt_ids(question, config)) + len(backbone.layout.close) + len(ids)
        rooms.append(backbone.context - used)
        if rooms[-1] < 0:
            raise ValueError(
                f"a question with its continuation has {used} tokens and the model's context {backbone.context}; "
                "give fewer examples in the prompt (--num_fewshot)"
            )
    rule = ScoredRule(method.rule(config), [ids for _, ids in asked], [*map(list, asked.values())], rooms, config)
    method.generate(prompts, replace(config, max_new_tokens=config.max_new_tokens + 1, until=[]), seed=seed, rule=rule)
    assert bool(rule.read.all()), "every row reads its continuation before it ends"
    found: dict[int, Likelihood] = {}
    for lasts, row in zip(asked.values(), rule.likelihoods(), strict=True):
        for indices, likelihood in zip(lasts.values(), row, strict=False):  # rows are padded
            found |= dict.fromkeys(indices, likelihood)
    return [found[index] for index in range(len(pairs))]


class ScoredRule(StepRule):
    """A method's rule up to the answer, where each row reads given ids and scores what could come last.

    Args:
        rule: of the method; shared: ids to read for each prompt; lasts: what may follow them.
        rooms: decisions after which a prompt's thought is closed; `config.max_new_tokens` caps its text as well.
    """

    def __init__(
        self,
        rule: StepRule,
        shared: Sequence[Sequence[int]],
        lasts: Sequence[Sequence[int]],
        rooms: Sequence[int],
        config: GenerateConfig,
    ) -> None:
        super().__init__(rule.backbone, rule.sampling)
        self.rule, self.start = rule, rule.start
        device = rule.backbone.device
        tokens = pad([[*ids, 0] for ids in shared]).to(device)  # one to spare where nothing is shared
        self.ids, self.lengths = tokens.ids, tokens.lengths - 1
        self.lasts = pad(lasts).ids.to(device)  # (questions, alternatives)
        self.rooms, self.max_tokens = torch.tensor(rooms, device=device), config.max_new_tokens
        self.eos = torch.tensor(rule.backbone.eos_ids, device=device)
        self.read = torch.zeros(len(shared), dtype=torch.bool, device=device)
        self.logprobs = torch.zeros(self.lasts.shape, dtype=torch.float64, device=device)
        self.greedy = torch.ones(self.lasts.shape, dtype=torch.bool, device=device)

    def likelihoods(self) -> list[list[Likelihood]]:
        """What was scored, by prompt and alternative."""
        rows = zip(self.logprobs.tolist(), self.greedy.tolist(), strict=True)
        return [[Likelihood(*pair) for pair in zip(*row, strict=True)] for row in rows]

    def step(self, hidden: Tensor, logits: Tensor, rows: RowState) -> Step:
        """See StepRule."""
        step = self.rule.step(hidden, logits, rows)
        closes = ~rows.in_answer & self._has_thought(step, rows)
        at = rows.memory.setdefault("continuation", torch.zeros_like(rows.steps))
        length = self.lengths[rows.question]
        reads, ends = rows.in_answer & (at < length), rows.in_answer & (at == length)
        given = self.ids[rows.question, torch.minimum(at, length)][:, None]
        self._score(_logprobs(logits), given, reads, ends, rows.question)
        rows.memory["continuation"] = at + (reads | ends)
        embeds = torch.where(reads[:, None], self.backbone.embed(given[:, 0]), step.embeds)
        token = torch.where(reads | closes, -1, torch.where(ends, self.eos[0], step.token))
        mode = None if step.mode is None else torch.where(reads | ends | closes, Mode.TEXT, step.mode)
        forced = close_marker(self.backbone, closes)
        if step.forced is not None:
            forced = torch.full_like(step.forced, -1) if forced is None else forced
            width = max(forced.shape[1], step.forced.shape[1])
            forced = torch.where(
                (rows.in_answer | closes)[:, None], widened(forced, width), widened(step.forced, width)
            )
        return Step(embeds, mode, token, forced, step.mixture)

    def _has_thought(self, step: Step, rows: RowState) -> Tensor:
        """(batch,) bool: the thought ends here, if it has not closed itself."""
        ended = (step.token[:, None] == self.eos).any(1)
        if step.mode is not None:
            ended = ended | (step.mode == Mode.DONE)
        full = rows.steps - rows.num_latents >= self.max_tokens
        return ended | full | (rows.steps >= self.rooms[rows.question])

    def _score(self, logprobs: Tensor, given: Tensor, reads: Tensor, ends: Tensor, question: Tensor) -> None:
        """Add what the ids at hand are worth: (batch, 1) shared ids where a row reads, the last ones where it ends.

        A prompt stands in one row at most, so that rows write to different places.
        """
        wanted = torch.where(ends[:, None], self.lasts[question], given)  # (batch, alternatives)
        counts = (reads | ends)[:, None]
        self.logprobs[question] += torch.where(counts, logprobs.gather(1, wanted), 0.0).double()
        self.greedy[question] &= ~counts | (logprobs.argmax(-1, keepdim=True) == wanted)
        self.read[question] |= ends


def _logprobs(logits: Tensor) -> Tensor:
    """Log-probabilities, in float32 at least."""
    return logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
