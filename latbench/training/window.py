"""Exact means of the loss terms between two rows of the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from latbench.method import Losses


class LossWindow:
    """Sums of the loss terms since the last log row; kept in resume points, so that a resumed log shows no seam."""

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}  # by term, of this process
        self.items: dict[str, int] = {}  # by term, of all processes
        self.largest: dict[str, Tensor] = {}  # by name, of this process
        self.figures: dict[str, tuple[float, float]] = {}  # sum and number by name, the same at all processes
        self.objective: Tensor | None = None
        self.steps = 0

    def add(self, losses: Losses, objective: Tensor) -> None:
        """Add a micro-batch; nothing leaves the device."""
        for name, term in losses.items():
            total = term.total.detach().double()
            if term.largest:
                self.largest[name] = torch.maximum(self.largest[name], total) if name in self.largest else total
                continue
            self.totals[name] = self.totals[name] + total if name in self.totals else total
        part = objective.detach().double()
        self.objective = part if self.objective is None else self.objective + part

    def add_step(self, items: Mapping[str, int]) -> None:
        """Add an optimiser step's items."""
        self.steps += 1
        for name, count in items.items():
            self.items[name] = self.items.get(name, 0) + count

    def add_figures(self, figures: Mapping[str, tuple[float, float]]) -> None:
        """Add sums and numbers of figures that are no loss terms, the same at all processes."""
        for name, (total, num) in figures.items():
            before = self.figures.get(name, (0.0, 0.0))
            self.figures[name] = (before[0] + total, before[1] + num)

    def means(self) -> tuple[float, dict[str, float]]:
        """Mean objective per step, and by name as the log has it: each term per item, figures, and the largest of those
        that are so; sums must have been merged over processes."""
        assert self.objective is not None
        terms = {
            name if "/" in name else f"loss/{name}": float(total) / max(self.items[name], 1)
            for name, total in self.totals.items()
        }
        figures = {name: total / max(num, 1) for name, (total, num) in self.figures.items()}
        largest = {name: float(value) for name, value in self.largest.items()}
        return float(self.objective) / self.steps, {**terms, **figures, **largest}

    def merge(self, accelerator: Accelerator) -> None:
        """Move all processes' sums to the main one."""
        if accelerator.num_processes == 1 or self.objective is None:
            return
        names = sorted(self.totals)
        sums = torch.stack([self.objective, *(self.totals[name] for name in names)])
        sums = accelerator.reduce(sums, "sum") * float(accelerator.is_main_process)
        self.objective, self.totals = sums[0], dict(zip(names, sums[1:], strict=True))
        for name, value in sorted(self.largest.items()):
            self.largest[name] = accelerator.gather(value[None]).amax()

    def state(self) -> dict[str, Any]:
        """As JSON values; a float64 keeps its bits."""
        totals = {name: float(total) for name, total in self.totals.items()}
        objective = None if self.objective is None else float(self.objective)
        return {
            "totals": totals,
            "items": self.items,
            "objective": objective,
            "steps": self.steps,
            "largest": {name: float(value) for name, value in self.largest.items()},
            "figures": {name: list(figure) for name, figure in self.figures.items()},
        }

    def load(self, state: Mapping[str, Any], *, device: torch.device, main: bool) -> None:
        """Continue from `state()`; processes other than the main one hold zeros."""
        share = float(main)
        self.totals = {
            name: torch.tensor(total * share, dtype=torch.float64, device=device)
            for name, total in state["totals"].items()
        }
        self.items, self.steps = dict(state["items"]), state["steps"]
        self.largest = {
            name: torch.tensor(value, dtype=torch.float64, device=device) for name, value in state["largest"].items()
        }
        self.figures = {name: (total, num) for name, (total, num) in state["figures"].items()}
        if state["objective"] is not None:
            self.objective = torch.tensor(state["objective"] * share, dtype=torch.float64, device=device)
