"""Which examples an optimiser step sees, as a function of (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import ceil

import numpy as np

WINDOW_STEPS = 64  # steps whose rows are sorted together: long enough for even lengths, short enough to stay random


class Order:
    """Every pass visits each row once, in steps of nearly equal size.

    A pass of n rows has S = ceil(n / rows_per_step) steps of floor(n / S) or one more rows: no step is a small
    remainder that would move the weights as far as a full one. A step's rows depend on `rows_per_step` and not on how
    it is cut into parts, so accumulation and processes change nothing but the order of summation.

    Args:
        num_rows: examples of the stage.
        rows_per_step: at most; batch size * accumulation * processes.
        num_parts: micro-batches of one step over all processes; fewer where a step has fewer rows than that.
        num_processes: divides `num_parts`; every process gets the same number of parts.
        lengths: of the rows in any unit; given, the rows of a step have similar lengths.

    Raises: ValueError: fewer rows than processes, in all or in a step.
    """

    def __init__(
        self,
        *,
        num_rows: int,
        rows_per_step: int,
        num_parts: int,
        num_processes: int,
        seed: int,
        lengths: Sequence[int] | None,
    ) -> None:
        self.steps_per_epoch = ceil(num_rows / rows_per_step)
        smallest = num_rows // self.steps_per_epoch
        if num_rows < num_processes:
            raise ValueError(
                f"{num_rows} training examples are too few for {num_processes} processes; "
                "use fewer processes or more examples"
            )
        if smallest < num_processes:
            raise ValueError(
                f"{num_rows} training examples in steps of at most {rows_per_step} make steps of {smallest}, in which "
                f"{num_processes} processes cannot have one each; raise train.batch_size or train.accumulation"
            )
        self.parts_per_process = min(num_parts, smallest) // num_processes
        self._num_parts = self.parts_per_process * num_processes
        self._num_processes = num_processes
        self._num_rows = num_rows
        self._seed = seed
        self._lengths = None if lengths is None else np.asarray(lengths)
        self._steps = lru_cache(maxsize=2)(self._cut_epoch)

    def part(self, epoch: int, step: int, part: int, process: int) -> list[int]:
        """Row numbers of one micro-batch: part `part` of `parts_per_process` of a step of a pass, for one process."""
        rows = self._steps(epoch)[step]
        return [int(row) for row in np.array_split(rows, self._num_parts)[part * self._num_processes + process]]

    def _cut_epoch(self, epoch: int) -> list[np.ndarray]:
        """Rows of each step of a pass."""
        generator = np.random.default_rng([self._seed, epoch])
        rows = generator.permutation(self._num_rows)
        if self._lengths is None:
            return np.array_split(rows, self.steps_per_epoch)
        window = WINDOW_STEPS * ceil(self._num_rows / self.steps_per_epoch)
        windows = [rows[start : start + window] for start in range(0, self._num_rows, window)]
        rows = np.concatenate([part[np.argsort(self._lengths[part], kind="stable")] for part in windows])
        steps = np.array_split(rows, self.steps_per_epoch)
        return [steps[index] for index in generator.permutation(self.steps_per_epoch)]
