"""Latent steps against a known dependency graph: which quantities carry probability, how many at once, in which order.

A direct test of superposition. The value of a quantity is read by its tokens alone:

- its mass at a step is the least probability, among the step's largest entries, of its value's tokens;
- it carries probability where that reaches a threshold; it is settled at the first step at which it does;
- it can be computed at a step when it is not settled before, and all that it needs is.

A superposition of orders shows as several quantities that can be computed carrying probability at one step; a chain of
thought in one order shows one at a time. What the definition cannot see: whether a token stands for this value or for
something else that looks the same. With values of one digit that is common, so a quantity counts only where its value
is written in no step but its own (there once) and those that need it, and where the same holds for all that it needs.
A value used as an operand counts as carried, since it must have been known. The same figures with the graph of another
question stand beside: what tokens of that kind carry by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum

import numpy as np

from latbench.evaluation.statistics import Interval, ratio_of_means
from latbench.measures.compression import Floats, Steps
from latbench.measures.measure_files import GraphParallelism

THRESHOLD = 0.1  # of the probability


@dataclass(frozen=True)
class Known:
    """The graph of one problem in tokens.

    Args:
        values: token ids of each quantity's value; needs: indices of the quantities each is computed from.
        order: place of each quantity in the gold chain.
        counts: whether a quantity can be told by its value, see `told_apart`.
    """

    values: Sequence[frozenset[int]]
    needs: Sequence[Sequence[int]]
    order: Sequence[int]
    counts: Sequence[bool]


@dataclass(frozen=True)
class Settling:
    """What the steps of one answer show.

    Args:
        computable, carried: quantities that could be computed at each step, and those of them that carry probability.
        settled: step of each quantity that counts; None: never.
        early: those that carry probability before all that they need is settled.
    """

    computable: list[int]
    carried: list[int]
    settled: dict[int, int | None]
    early: int


def told_apart(
    values: Sequence[frozenset[int]], steps: Sequence[Sequence[int]], needs: Sequence[Sequence[int]]
) -> list[bool]:
    """Whether a quantity's value, and those of all that it needs, are written where they belong alone.

    Args:
        values: token ids of each value; steps: token ids of the explicit step of each quantity.
    """

    def alone(i: int) -> bool:
        others = (steps[j] for j in range(len(steps)) if j != i and i not in needs[j])
        return all(steps[i].count(token) == 1 for token in values[i]) and not any(
            values[i] <= set(other) for other in others
        )

    single = [bool(values[i]) and alone(i) for i in range(len(values))]
    return [single[i] and all(single[j] for j in needs[i]) for i in range(len(values))]


def settle(steps: Steps, known: Known, threshold: float = THRESHOLD) -> Settling:
    """Quantities at the latent steps of one answer; those that do not count are passed over."""
    mass = _masses(steps, known)
    carries = mass >= threshold
    first = {i: (int(carries[:, i].argmax()) if carries[:, i].any() else None) for i in range(len(known.values))}

    def before(i: int, step: int) -> bool:
        at = first[i]
        return at is not None and at < step

    ready = [
        [
            i
            for i in range(len(known.values))
            if known.counts[i] and not before(i, step) and all(before(j, step) for j in known.needs[i])
        ]
        for step in range(len(steps))
    ]
    counted = [i for i in range(len(known.values)) if known.counts[i]]
    return Settling(
        computable=[len(row) for row in ready],
        carried=[sum(bool(carries[step, i]) for i in row) for step, row in enumerate(ready)],
        settled={i: first[i] for i in counted},
        early=sum((at := first[i]) is not None and not all(before(j, at) for j in known.needs[i]) for i in counted),
    )


def _masses(steps: Steps, known: Known) -> Floats:
    """(latent, quantity)."""
    each = [[np.where(steps.ids == token, steps.weights, 0).sum(-1) for token in value] for value in known.values]
    empty = np.zeros(len(steps))
    masses: Floats = np.stack([np.min(parts, axis=0) if parts else empty for parts in each], axis=-1)
    return masses


def superposition(rows: Sequence[tuple[Steps, Known]], threshold: float = THRESHOLD) -> GraphParallelism | None:
    """The measures of many answers; None where no quantity counts.

    Args:
        rows: steps and graph by question; chance pairs each with the graph of the next one, so that they should stand
            in an order that says nothing.
    """
    rows = [(steps, known) for steps, known in rows if any(known.counts) and len(steps)]
    if not rows:
        return None
    seen = [settle(steps, known, threshold) for steps, known in rows]
    shifted = [settle(rows[i][0], rows[(i + 1) % len(rows)][1], threshold) for i in range(len(rows))]
    other = shifted if len(rows) > 1 else []
    first = [at for found in seen for at in found.settled.values()]
    edges = [edge for (_, known), found in zip(rows, seen, strict=True) for edge in _edges(known, found)]
    pairs = [pair for (_, known), found in zip(rows, seen, strict=True) for pair in _in_gold_order(known, found)]
    return GraphParallelism(
        threshold=threshold,
        num_questions=len(rows),
        num_quantities=len(first),
        computable=_means([found.computable for found in seen]),
        carried=_means([found.carried for found in seen]),
        share_carried=_carried(seen),
        share_parallel=_parallel(seen),
        chance_carried=_value(_carried(other)),
        chance_parallel=_value(_parallel(other)),
        settled=_share([at is not None for at in first]),
        early=sum(found.early for found in seen) / len(first),
        in_order=_share([edge > 0 for edge in edges]),
        together=_share([edge == 0 for edge in edges]),
        reversed=_share([edge < 0 for edge in edges]),
        gold_order=_share(pairs),
    )


def _edges(known: Known, found: Settling) -> list[int]:
    """Steps between a needed quantity and one that needs it, for pairs of settled ones."""
    both = ((found.settled.get(j), found.settled.get(i)) for i in found.settled for j in known.needs[i])
    return [after - before for before, after in both if before is not None and after is not None]


def _in_gold_order(known: Known, found: Settling) -> list[bool]:
    at = [(known.order[i], step) for i, step in found.settled.items() if step is not None]
    return [(a[0] < b[0]) == (a[1] < b[1]) for n, a in enumerate(at) for b in at[:n] if a[1] != b[1]]


def _carried(seen: Sequence[Settling]) -> Interval | None:
    return _ratio([sum(found.carried) for found in seen], [sum(found.computable) for found in seen])


def _parallel(seen: Sequence[Settling]) -> Interval | None:
    wide = [[k for n, k in zip(found.computable, found.carried, strict=True) if n >= 2] for found in seen]
    return _ratio([sum(k >= 2 for k in row) for row in wide], [len(row) for row in wide])


def _ratio(numerators: Sequence[int], denominators: Sequence[int]) -> Interval | None:
    found = ratio_of_means(numerators, denominators)
    return None if found is None else found.clipped(0, 1)


def _value(interval: Interval | None) -> float | None:
    return None if interval is None else interval.value


def _share(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None


def _means(rows: Sequence[Sequence[int]]) -> list[float]:
    """Mean of each column over the rows that reach it."""
    longest = max(map(len, rows))
    columns = ([row[t] for row in rows if t < len(row)] for t in range(longest))
    return [fsum(column) / len(column) for column in columns]
