"""Answers that the model draws, scored and grouped; which groups each update learns from.

A rollout is drawn before the first update that uses it, with the weights of that moment. Every process answers its
share of the questions; then all have all groups, so that the groups of an update do not depend on the number of
processes.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor

from latbench.config import RLConfig
from latbench.decoding.action_batch import ActionBatch
from latbench.decoding.loop import Prompt
from latbench.decoding.sampling import row_keys
from latbench.method import Method
from latbench.task import Example, Task
from latbench.training.rl.action_tensors import action_batch, is_scored, kept_rows
from latbench.training.rl.advantages import first_action_winner, group_advantages
from latbench.training.rl.groups import Group, Rollout
from latbench.training.rl.rewards import rewards_of


@dataclass
class RolloutState:
    """Where a stage is in its draws; goes into resume points.

    Args:
        drawn: questions so far.
        number: rollouts so far.
        barren: of the last ones without a mixed group.
        groups: of the rollout in use.
        seconds: of this and earlier sessions, by part of a step.
    """

    drawn: int = 0
    number: int = 0
    barren: int = 0
    groups: list[Group] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))


class RolloutSource:
    """Draws rollouts and hands out the micro-batches of this process.

    Args:
        examples: whose questions are asked.
        task: scores the answers.
        parts: micro-batches of an update for each process.
        process: number of this process.
        num_processes: how many there are.
        reference: a frozen copy of the method, where the divergence from it has a weight.
    Raises: ValueError: the task has no answers to check, or an update has fewer groups than micro-batches.
    """

    def __init__(
        self,
        method: Method[Any],
        examples: Sequence[Example],
        task: Task[Any],
        config: RLConfig,
        *,
        seed: int,
        parts: int,
        process: int = 0,
        num_processes: int = 1,
        reference: Method[Any] | None = None,
        folder: Path = Path(),
    ) -> None:
        self.method, self.examples, self.task, self.config = method, examples, task, config
        self.seed, self.parts, self.process, self.num_processes = seed, parts, process, num_processes
        self.reference, self.folder = reference, folder
        self.state = RolloutState()
        self.num_read = 0  # questions that this process has asked, since the trainer last looked
        self.figures: dict[str, tuple[float, float]] = {}  # sum and number, of rollouts drawn since then
        self._passes = lru_cache(maxsize=2)(self._order)
        smallest = config.prompts // config.minibatches
        if smallest < parts * num_processes:
            raise ValueError(
                f"train.rl.prompts / train.rl.minibatches = {smallest} groups in an update are too few for "
                f"{parts * num_processes} micro-batches; lower train.accumulation or raise train.rl.prompts"
            )

    def batches(self, step: int) -> list[ActionBatch]:
        """The micro-batches of update `step` (0, 1, ...); a new rollout is drawn where its first update is."""
        number, update = divmod(step, self.config.updates)
        if update == 0:
            assert number == self.state.number, "rollouts are drawn in order"
            self._draw_rollout()
        pass_number, minibatch = divmod(update, self.config.minibatches)
        return [action_batch(self.method, part, self.config) for part in self._own_parts(pass_number, minibatch)]

    # which groups an update has

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.examples))

    def _example(self, number: int) -> int:
        """Question of a draw: every pass asks each once, in an order of its own."""
        epoch, place = divmod(number, len(self.examples))
        return int(self._passes(epoch)[place])

    def _own_parts(self, pass_number: int, minibatch: int) -> list[list[Group]]:
        """Groups of this process in an update, by micro-batch; the first pass takes them in order of the draws."""
        order = np.arange(len(self.state.groups))
        if pass_number:
            order = np.random.default_rng([self.seed, self.state.number, pass_number]).permutation(order)
        groups = np.array_split(order, self.config.minibatches)[minibatch]
        every = np.array_split(groups, self.parts * self.num_processes)
        own = every[self.process :: self.num_processes]
        return [[self.state.groups[index] for index in part] for part in own]

    # drawing

    def _draw_rollout(self) -> None:
        state, config = self.state, self.config
        self.method.before_rollout(state.number, state.drawn // len(self.examples), config, self.folder)
        mixed, flat, draws = list[Group](), list[Group](), 0
        wanted = config.prompts
        while wanted > 0 and draws < config.max_draws:
            draws += 1
            for group in self._draw(wanted):
                (mixed if group.is_mixed else flat).append(group)
            if not config.dynamic:
                break
            missing = config.prompts - len(mixed)
            share = len(mixed) / (len(mixed) + len(flat))
            wanted = min(config.prompts, ceil(missing / share)) if share and missing > 0 else max(missing, 0)
        self._check_mixed(mixed, draws)
        self._note(mixed, flat)
        groups = mixed[: config.prompts]
        groups += flat[: config.prompts - len(groups)]  # nothing is learnt from them, but an update keeps its size
        state.groups = sorted(groups, key=lambda group: group.number)
        state.number += 1
        for group in state.groups:
            self._set_advantages(group)
        self.method.after_rollout(state.groups, state.number - 1, self.folder)
        if config.updates > 1 or config.first_action == "winner":
            self._recompute(self.method, "old")
        if self.reference is not None:
            self._recompute(self.reference, "reference")
        if config.first_action == "winner":
            for group in state.groups:
                self._select_first_action(group)

    def _check_mixed(self, mixed: Sequence[Group], draws: int) -> None:
        """Raises: ValueError: nothing has been learnt from for as long as the cap allows."""
        state, config = self.state, self.config
        state.barren = 0 if mixed else state.barren + draws
        if state.barren >= config.max_draws:
            raise ValueError(
                f"none of the last {state.barren * config.prompts} questions had answers of unequal reward, so nothing "
                "can be learnt from them (train.rl.max_draws); start from a run that answers some questions right and "
                "some wrong, or raise train.rl.group_size, train.rl.rollout.temperature or "
                "train.rl.rollout.latent_noise"
            )

    def _draw(self, num: int) -> list[Group]:
        """The next groups, of all processes, in order of the draws."""
        numbers = range(self.state.drawn, self.state.drawn + num)
        self.state.drawn += num
        own = numbers[self.process :: self.num_processes]
        self.num_read += len(own)
        groups: list[Group] = gather_object(self._answer(own))
        return sorted(groups, key=lambda group: group.number)

    def _answer(self, numbers: Sequence[int]) -> list[Group]:
        method, config = self.method, self.config
        decoding = config.rollout.sampled(method.decoding)
        chosen = [self._example(number) for number in numbers]
        keys = row_keys(self.seed, [f"group {number}" for number in numbers], [0] * len(chosen))
        prompts, size = list[Prompt](), config.group_size
        for number, index, key in zip(numbers, chosen, keys, strict=True):
            example = self.examples[index]
            ids = tuple(method.rollout_prompt(example, decoding, key))
            prompts += [
                Prompt(id=example.id, text=example.question, sample=number * size + row, ids=ids) for row in range(size)
            ]
        with self._timed("rollout"):
            rule = method.rollout_rule(decoding)
            answers = method.generate(prompts, decoding, seed=self.seed, actions=True, rule=rule)
        with self._timed("scoring"):
            asked = [self.examples[index] for index in chosen for _ in range(size)]
            correct, rewards = rewards_of(self.task, list(zip(answers, asked, strict=True)), config)
        rows = [
            Rollout.of(prompt.ids or (), answer, *paid)
            for prompt, answer, *paid in zip(prompts, answers, correct, rewards, strict=True)
        ]
        return [
            Group(number=number, example=index, rollouts=rows[place * size : (place + 1) * size])
            for place, (number, index) in enumerate(zip(numbers, chosen, strict=True))
        ]

    # advantages and log-probabilities

    def _set_advantages(self, group: Group) -> None:
        config, rows = self.config, group.rollouts
        assert config.deviation is not None
        advantages = group_advantages(
            [row.reward for row in rows],
            [row.valid for row in rows],
            deviation=config.deviation,
            epsilon=config.advantage_epsilon,
            invalid=config.invalid,
        )
        for row, advantage in zip(rows, advantages.tolist(), strict=True):
            row.advantage = row.first_advantage = advantage

    def _select_first_action(self, group: Group) -> None:
        rows = group.rollouts
        means = [float(row.old.mean()) if row.old is not None and len(row.old) else 0.0 for row in rows]
        advantages = torch.tensor([row.advantage for row in rows])
        winner = first_action_winner(advantages, [row.valid for row in rows], means)
        for index, row in enumerate(rows):
            if winner is not None and index != winner:
                row.first_advantage = 0.0

    @torch.no_grad()
    def _recompute(self, method: Method[Any], name: str) -> None:
        """Log-probabilities of all scored actions under a method, in the batches of the first pass: at its first update
        a ratio is 1 to the bit."""
        found: list[tuple[int, int, Tensor]] = []
        quiet(method)
        place = {
            id(row): (index, number)
            for index, group in enumerate(self.state.groups)
            for number, row in enumerate(group.rollouts)
        }
        with self._timed("recompute"):
            for minibatch in range(self.config.minibatches):
                for part in self._own_parts(0, minibatch):
                    rows = kept_rows(part, self.config)
                    batch = action_batch(self.method, part, self.config).to(method.backbone.device)
                    with method.autocast():
                        values = method.action_log_probs(batch).values.cpu()
                    split = values.split([self._num_scored(row) for row in rows])
                    found += [(*place[id(row)], own.clone()) for row, own in zip(rows, split, strict=True)]
        for group, row_number, values in gather_object(found):
            setattr(self.state.groups[group].rollouts[row_number], name, values)

    def _num_scored(self, row: Rollout) -> int:
        return int(is_scored(row.kinds, self.config, scores_latents=self.method.scores_latents).sum())

    # figures and time

    def _note(self, mixed: Sequence[Group], flat: Sequence[Group]) -> None:
        """Figures of a rollout for the log, over all that was drawn for it."""
        groups = [*mixed, *flat]
        rows = [row for group in groups for row in group.rollouts]
        sums = {
            "rl/reward": (sum(row.reward for row in rows), len(rows)),
            "rl/accuracy": (sum(row.correct for row in rows), len(rows)),
            "rl/chain_length": (sum(row.num_latents + row.num_reasoning_tokens for row in rows), len(rows)),
            "rl/latents": (sum(row.num_latents for row in rows), len(rows)),
            "rl/answer_tokens": (sum(row.num_answer_tokens for row in rows), len(rows)),
            "rl/invalid": (sum(not row.valid for row in rows), len(rows)),
            "rl/mixed_groups": (len(mixed), len(groups)),
        }
        for name, (total, num) in sums.items():
            before = self.figures.get(name, (0.0, 0.0))
            self.figures[name] = (before[0] + total, before[1] + num)

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.state.seconds[part] += time.perf_counter() - start

    # resume points

    def saved(self, *, in_use: bool) -> dict[str, Any]:
        """The state as tensors and plain values.

        Args:
            in_use: updates of the present rollout are still to come.
        """
        state = self.state
        groups = [
            {**vars(group), "rollouts": [dict(vars(row)) for row in group.rollouts]}
            for group in (state.groups if in_use else [])
        ]
        return {**vars(state), "groups": groups, "seconds": dict(state.seconds)}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Continue from `saved()`."""
        groups = [
            Group(**{**group, "rollouts": [Rollout(**row) for row in group["rollouts"]]}) for group in saved["groups"]
        ]
        seconds = defaultdict(float, saved["seconds"])
        self.state = RolloutState(**{**saved, "groups": groups, "seconds": seconds})


def quiet(method: Method[Any]) -> None:
    """Take dropout out of a method, or the ratio of unchanged weights would not be 1; gradients flow as before.

    Modules that checkpoint gradients do so in train mode alone; what they are made of needs no such mode.
    """
    method.eval()
    if method.backbone.config.gradient_checkpointing:
        for module in method.modules():
            module.training = module is method.backbone.model or getattr(module, "gradient_checkpointing", False)
