"""Accuracy against chain length as coordinates of an inline SVG: the page's own picture, with tooltips and a front."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, inf, log, log10

from latbench.evaluation.statistics import Interval
from latbench.report.columns import interval_text
from latbench.report.rows import Cell
from latbench.util.text import plain

WIDTH, HEIGHT = 720, 400  # of the view box
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 14, 44  # margins
NUM_COLOURS = 7  # classes c0 to c6 of the style sheet
LOG_FROM = 30  # longest chain / shortest that is not 0, from which lengths are shown on a logarithmic scale
MARKERS = (  # around 0, 0
    "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0z",
    "M-4.5,-4.5h9v9h-9z",
    "M0,-6l6,6l-6,6l-6,-6z",
    "M0,-6l5.8,10h-11.6z",
    "M0,6l5.8,-10h-11.6z",
)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One cell, in units of the view box; the bar across is None where #L has no bounded interval."""

    x: float
    y: float
    along: tuple[float, float]
    across: tuple[float, float] | None
    colour: int
    marker: str
    label: str
    tip: str
    on_front: bool


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A picture of one section; ticks are (place, text), legend entries (colour, marker, method)."""

    points: tuple[Point, ...]
    front: tuple[tuple[float, float], ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    legend: tuple[tuple[int, str, str], ...]
    is_log: bool


def pareto_front(cells: Sequence[Cell]) -> list[Cell]:
    """Cells that no other beats: at least as accurate with a chain at most as long, and better in one; by length."""

    def beaten(cell: Cell) -> bool:
        length, accuracy = _length(cell).value, cell.accuracy.value
        others = [(_length(other).value, other.accuracy.value) for other in cells]
        return any(x <= length and y >= accuracy and (x, y) != (length, accuracy) for x, y in others)

    return sorted((cell for cell in cells if not beaten(cell)), key=lambda cell: _length(cell).value)


def chart(cells: Sequence[Cell]) -> Chart | None:
    """The picture of the cells that have a chain length; None where there is none."""
    drawn = [cell for cell in cells if cell.chain_length is not None]
    if not drawn:
        return None
    lengths = [_length(cell).value for cell in drawn]
    positive = [length for length in lengths if length > 0]
    is_log = bool(positive) and max(positive) > LOG_FROM * min(positive)
    scale: Callable[[float], float] = _bent if is_log else float
    bounded = [min(_length(cell).high, 1.5 * max(lengths)) for cell in drawn if _length(cell).high < inf]
    longest = max(1.0, *lengths, *bounded)
    x_marks = _log_marks(longest) if is_log else _marks(0, longest)
    right = scale(max(longest, x_marks[-1]))
    lowest = min(96.0, *(100 * cell.accuracy.low for cell in drawn))
    y_marks = _marks(lowest, max(lowest + 4, *(100 * cell.accuracy.high for cell in drawn)))  # never one line alone
    bottom, top = y_marks[0], min(100.0, y_marks[-1])

    def x(length: float) -> float:
        return round(LEFT + 12 + (WIDTH - LEFT - RIGHT - 24) * scale(min(length, longest)) / right, 1)

    def y(accuracy: float) -> float:
        return round(HEIGHT - BOTTOM - 8 - (HEIGHT - TOP - BOTTOM - 16) * (accuracy - bottom) / (top - bottom), 1)

    methods = sorted({cell.identity.method for cell in cells})
    front = pareto_front(drawn)

    def point(cell: Cell) -> Point:
        length, accuracy, index = _length(cell), cell.accuracy, methods.index(cell.identity.method)
        return Point(
            x=x(length.value),
            y=y(100 * accuracy.value),
            along=(y(100 * accuracy.low), y(100 * accuracy.high)),
            across=(x(length.low), x(length.high)) if length.high < inf else None,
            colour=index % NUM_COLOURS,
            marker=MARKERS[index % len(MARKERS)],
            label=plain(cell.label),
            tip=_tip(cell, cell in front),
            on_front=cell in front,
        )

    return Chart(
        points=tuple(map(point, drawn)),
        front=tuple((x(_length(cell).value), y(100 * cell.accuracy.value)) for cell in front),
        x_ticks=tuple((x(mark), f"{mark:g}") for mark in x_marks if mark <= longest),
        y_ticks=tuple((y(mark), f"{mark:g}") for mark in y_marks if mark <= top),
        legend=tuple((i % NUM_COLOURS, MARKERS[i % len(MARKERS)], plain(method)) for i, method in enumerate(methods)),
        is_log=is_log,
    )


def _tip(cell: Cell, on_front: bool) -> str:
    accuracy, length = cell.accuracy, _length(cell)
    seeds = f"{len(cell.rows)} seeds" if len(cell.rows) > 1 else "1 seed"
    parts = [
        plain(cell.label),
        f"accuracy {interval_text(accuracy, 100)} %",
        f"#L {interval_text(length)}",
        seeds + (", on the Pareto front" if on_front else ""),
    ]
    return "\n".join(parts)


def _length(cell: Cell) -> Interval:
    assert cell.chain_length is not None, "cells without chain length are left out"
    return cell.chain_length


def _bent(length: float) -> float:
    """Linear up to 1, so that 0 has its place, then logarithmic."""
    return length if length <= 1 else 1 + log(length)


def _marks(low: float, high: float) -> list[float]:
    """Round values from at or below `low` to at or above `high`, about six."""
    raw = max(high - low, 1e-9) / 5
    power = 10 ** floor(log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    return [round(index * step, 10) for index in range(floor(low / step), max(ceil(high / step), 1) + 1)]


def _log_marks(high: float) -> list[float]:
    return [0.0, *(float(10**power) for power in range(ceil(log10(high)) + 1))]
