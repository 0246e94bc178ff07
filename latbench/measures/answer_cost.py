"""What an answer costs: floating-point operations, time at batch 1 and at full batch, peak memory.

Operations follow from the records by a formula. Time is a matter of the machine: all runs that are measured together
take turns, round by round, so that other work of the machine slows all of them, and each is compared with the first.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from latbench.decoding.loop import Prompt
from latbench.evaluation.job import EvalJob
from latbench.evaluation.records import Evaluation, Record
from latbench.measures.measure_files import CostFile, MeasureHeader, write_measure
from latbench.method import Method
from latbench.runs.environment import hardware
from latbench.runs.lock import is_main_process, locked
from latbench.util.progress import progress

NUM_SINGLE = 16  # questions of a round that are answered one by one


def cost(jobs: Sequence[EvalJob], *, rounds: int = 5, num_single: int = NUM_SINGLE) -> list[tuple[Path, CostFile]]:
    """Time the runs in turns, the first of them the reference of all, and store what an answer of each costs.

    A round answers `num_single` questions one by one, and one full batch (`generate.batch_size`) at once; both are the
    first questions of the evaluation, and one round before the others is not counted.

    Returns: the file, `cost.json` beside the records, and what it holds, for each run.
    Raises: ValueError: no round or no run, one without a complete evaluation, runs that are asked different questions,
        or another process writes a folder.
    """
    if not is_main_process():
        raise ValueError("cost is measured in one process; start it without a launcher")
    if rounds < 1:
        raise ValueError(f"--rounds must be >= 1, got {rounds}; leave it out for 5")
    if not jobs:
        raise ValueError("no run to measure; name one")
    measured = [_Measured(job, job.answered()) for job in jobs]
    first, *others = (one.answered for one in measured)
    for other in others:
        if other.manifest.questions_sha256 != first.manifest.questions_sha256:
            raise ValueError(
                f"{first.folder} and {other.folder} do not ask the same questions, so that their times cannot be "
                "compared; measure runs on the same task, split and limit"
            )
    with progress("rounds", total=(rounds + 1) * len(measured)) as advance:
        for number in range(rounds + 1):
            for one in measured:
                one.time(num_single, keep=number > 0)
                advance(1)
    found = []
    for one in measured:
        with locked(one.job.folder):
            file = one.file(reference=measured[0], num_single=num_single)
            found.append((write_measure(one.job.folder, file), file))
    return found


@dataclass
class _Measured:
    """One run with its evaluation on file and the seconds per answer of the rounds so far."""

    job: EvalJob
    answered: Evaluation
    single: list[float] = field(default_factory=list)
    full: list[float] = field(default_factory=list)

    def time(self, num_single: int, *, keep: bool) -> None:
        """One round."""
        single = self._seconds(num_single, batch_size=1)
        full = self._seconds(self.full_batch, batch_size=self.full_batch)
        if keep:
            self.single.append(single)
            self.full.append(full)

    @property
    def full_batch(self) -> int:
        """Questions of a full batch."""
        return min(self.job.settings.generate.batch_size, len(self.job.examples))

    def _seconds(self, num: int, batch_size: int) -> float:
        """Per answer to the first so many questions, tokenising and reading the texts back included."""
        prompts = [Prompt(id=example.id, text=example.question) for example in self.job.examples[:num]]
        config = replace(self.job.settings.generate, batch_size=batch_size)
        start = time.perf_counter()
        self.job.run.method.generate(prompts, config, seed=self.job.settings.seed)
        return (time.perf_counter() - start) / len(prompts)

    def file(self, *, reference: _Measured, num_single: int) -> CostFile:
        """What is stored."""
        before = self.answered
        return CostFile(
            header=MeasureHeader.of(self.job.manifest, seed=self.job.settings.seed),
            flops=mean_flops(self.job.run.method, before.records),
            num_single=min(num_single, len(self.job.examples)),
            batch_size=self.full_batch,
            seconds_single=self.single,
            seconds_full=self.full,
            reference=reference.job.run.folder.name,
            reference_single=reference.single,
            reference_full=reference.full,
            peak_memory_bytes=before.manifest.evaluation.get("peak_memory_bytes"),
            hardware=hardware(),
        )


def mean_flops(method: Method[Any], records: Sequence[Record]) -> float | None:
    """Operations of an answer on file, see `AnswerFlops`, mean over what was decoded; None where nothing was."""
    formula = AnswerFlops.of(method)
    decoded = [record for record in records if record.stop_reason != "prompt_too_long"]
    return statistics.fmean(map(formula.of_record, decoded)) if decoded else None


@dataclass(frozen=True)
class AnswerFlops:
    """Floating-point operations of an answer at batch 1 with a cache; a multiply-add is two.

    With P tokens of prompt and S forward passes after it, the layers run on P + S positions and the LM head on S + 1:

        layers * (P + S) + lm_head * (S + 1) + own * latents + attention * (P^2 + (P + 1) + ... + (P + S))

    layers, lm_head, own: twice the weights in matrix products, of the transformer's layers, of the LM head, and of the
    method's own modules, which run once per latent step; attention: 4 * layers * heads * head size, for scores and
    values of one query and key. Norms, softmax, embeddings and their mixing are left out; a prompt's queries meet
    all its keys.
    """

    layers: int
    lm_head: int
    own: int
    attention: int

    @classmethod
    def of(cls, method: Method[Any]) -> AnswerFlops:
        """The coefficients of a method's model; LoRA's matrices count with the layers."""
        model = method.backbone.model
        head = model.get_output_embeddings()
        config = model.config.get_text_config()
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        lm_head = _product_flops(head)
        return cls(
            layers=_product_flops(model) - lm_head,
            lm_head=lm_head,
            own=_product_flops(method.heads),
            attention=4 * config.num_hidden_layers * config.num_attention_heads * size,
        )

    def of_record(self, record: Record) -> int:
        """Of an answer on file."""
        return self.of_counts(record.num_prompt_tokens, record.decode_steps, record.num_latents)

    def of_counts(self, prompt: int, steps: int, latents: int) -> int:
        """Of P tokens of prompt and S forward passes after it, some of which are latent steps."""
        keys = prompt**2 + steps * prompt + steps * (steps + 1) // 2
        positions = self.layers * (prompt + steps) + self.lm_head * (steps + 1)
        return positions + self.own * latents + self.attention * keys


def _product_flops(module: nn.Module) -> int:
    products = [part for part in module.modules() if isinstance(part, nn.Linear | Conv1D)]
    return 2 * sum(part.weight.numel() for part in products)
