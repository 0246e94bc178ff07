"""Accuracy against chain length: where everything in the picture stands, whatever draws it.

The page and SVG files fill a template with a chart, PNG files are drawn from the same by `picture.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from math import ceil, cos, floor, hypot, inf, log, log10, pi, sin
from typing import Literal

from latbench.evaluation.statistics import Interval
from latbench.report.cells import Cell, comparable, main_cells
from latbench.report.columns import interval_text
from latbench.util.text import plain

WIDTH, HEIGHT = 720, 440  # of the view box; y points down
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 14, 44  # margins
LOG_FROM = 30  # longest chain / shortest that is not 0, from which lengths are shown on a logarithmic scale
# Okabe and Ito's palette (jfly.uni-koeln.de/color), told apart with every form of colour blindness; yellow left out,
# too pale on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#1D2129")
APART = 11.0  # least distance of two marks
LABEL_SIZE, CHARACTER = 12, 0.6  # height of a label, and width of one of its characters as a share of that
LABEL_DISTANCES = (9, 16, 26, 38, 52, 68)
DIRECTIONS = 16
MOST_LABEL = 40  # characters

Scale = Literal["auto", "linear", "log"]
Place = tuple[float, float]
Box = tuple[float, float, float, float]


def _around(count: int, *radii: float) -> tuple[tuple[float, float], ...]:
    """Corners at equal angles from the top, their distances from the centre in turn."""
    angles = [2 * pi * number / count for number in range(count)]
    return tuple(
        (round(radii[number % len(radii)] * sin(angle), 2), round(-radii[number % len(radii)] * cos(angle), 2))
        for number, angle in enumerate(angles)
    )


MARKERS: tuple[tuple[tuple[float, float], ...], ...] = (  # outlines around 0, 0
    _around(24, 5),
    ((-4.5, -4.5), (4.5, -4.5), (4.5, 4.5), (-4.5, 4.5)),
    _around(4, 6),
    ((0, -6), (5.8, 4), (-5.8, 4)),
    ((0, 6), (5.8, -4), (-5.8, -4)),
    ((-2, -6), (2, -6), (2, -2), (6, -2), (6, 2), (2, 2), (2, 6), (-2, 6), (-2, 2), (-6, 2), (-6, -2), (-2, -2)),
    _around(10, 6.5, 2.8),
)


@dataclass(frozen=True, kw_only=True)
class Label:
    """A text beside a mark, with a line to it where it stands far off."""

    x: float
    """Of its left end."""
    y: float
    """Of its lower end."""
    text: str
    line: tuple[Place, Place] | None


@dataclass(frozen=True, kw_only=True)
class Point:
    """One cell, in units of the view box."""

    cell: int
    """Its place in the section."""
    x: float
    y: float
    mark: Place
    """Where its mark stands: beside the point where another mark stands there."""
    along: tuple[float, float]
    """Ends of the bar of accuracy."""
    across: tuple[float, float] | None
    """Ends of the bar of #L; None where it has no bounded interval."""
    colour: int
    """Place in `COLOURS`."""
    marker: int
    """Place in `MARKERS`."""
    is_variant: bool
    """Whether another cell stands for its method, see `rows.main_cells`; its mark is hollow."""
    name: str
    """What its label says: the method; of another setting with its variant."""
    tip: str
    """What there is to say of it, in lines."""
    label: Label | None
    on_front: bool


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A picture of one section."""

    title: str
    points: tuple[Point, ...]
    """In the order of the cells."""
    front: tuple[Place, ...]
    x_ticks: tuple[tuple[float, str], ...]
    """Place and text."""
    y_ticks: tuple[tuple[float, str], ...]
    legend: tuple[tuple[int, int, str], ...]
    """Colour, marker and name of each method."""
    is_log: bool


def charts(cells: Sequence[Cell], scale: Scale = "auto", *, label_all: bool = False) -> list[Chart]:
    """One picture per task, split and test set that has a cell with a chain length."""
    methods = _methods(cells)
    return [
        made for section in comparable(cells) if (made := chart(section, scale, methods=methods, label_all=label_all))
    ]


def chart(
    cells: Sequence[Cell], scale: Scale = "auto", *, methods: Sequence[str] | None = None, label_all: bool = False
) -> Chart | None:
    """The picture of the cells of one section that have a chain length; None where there is none.

    Args:
        cells: in the order of the table.
        scale: of #L; log is linear below 1, so that 0 (no reasoning) has its place; auto takes log where the longest
            chain is more than 30 times the shortest that is not 0.
        methods: which of them has which style; None: those of the cells.
        label_all: write a label at every mark, not only at those on the front.
    """
    mains, places = main_cells(cells), [place for place, cell in enumerate(cells) if cell.chain_length is not None]
    drawn = [cells[place] for place in places]
    if not drawn:
        return None
    axes = _Axes(drawn, scale)
    styles = {name: style(number) for number, name in enumerate(methods or _methods(cells))}
    front = pareto_front(drawn)
    marks = _apart([(axes.x(_length(cell).value), axes.y(cell.accuracy.value)) for cell in drawn])
    points = []
    for place, cell, mark in zip(places, drawn, marks, strict=True):
        length, accuracy = _length(cell), cell.accuracy
        colour, marker = styles[cell.identity.method]
        points.append(
            Point(
                cell=place,
                x=axes.x(length.value),
                y=axes.y(accuracy.value),
                mark=mark,
                along=(axes.y(accuracy.low), axes.y(accuracy.high)),
                across=(axes.x(length.low), axes.x(length.high)) if length.high < inf else None,
                colour=colour,
                marker=marker,
                is_variant=mains[place] != place,
                name=plain(cell.identity.method if mains[place] == place else cell.label),
                tip=_tip(cell, cell in front),
                label=None,
                on_front=cell in front,
            )
        )
    task, split, n, _ = drawn[0].section
    return Chart(
        title=plain(f"{task} / {split}, n = {n}"),
        points=tuple(_labelled(points, label_all)),
        front=tuple((axes.x(_length(cell).value), axes.y(cell.accuracy.value)) for cell in front),
        x_ticks=axes.x_ticks,
        y_ticks=axes.y_ticks,
        legend=tuple((*styles[name], plain(name)) for name in _methods(drawn)),
        is_log=axes.is_log,
    )


def style(number: int) -> tuple[int, int]:
    """Colour and marker of a method; with both the first 49 methods differ."""
    return number % len(COLOURS), (number + number // len(COLOURS)) % len(MARKERS)


def pareto_front(cells: Sequence[Cell]) -> list[Cell]:
    """Cells that no other beats: at least as accurate with a chain at most as long, and better in one; by length."""

    def beaten(cell: Cell) -> bool:
        length, accuracy = _length(cell).value, cell.accuracy.value
        others = [(_length(other).value, other.accuracy.value) for other in cells]
        return any(x <= length and y >= accuracy and (x, y) != (length, accuracy) for x, y in others)

    return sorted((cell for cell in cells if not beaten(cell)), key=lambda cell: _length(cell).value)


def description(cells: Sequence[Cell]) -> str:
    """The points as text, a line each: task, label, accuracy (%) and #L with their intervals."""
    drawn = [cell for cell in cells if cell.chain_length]
    return "\n".join(
        f"{cell.section[0]} {cell.label}: {interval_text(cell.accuracy, 100)}, #L {interval_text(cell.chain_length)}"
        for cell in drawn
    )


class _Axes:
    """Where lengths and accuracies stand in the view box."""

    def __init__(self, cells: Sequence[Cell], scale: Scale) -> None:
        lengths = [_length(cell).value for cell in cells]
        positive = [length for length in lengths if length > 0]
        spread = bool(positive) and max(positive) > LOG_FROM * min(positive)
        self.is_log = scale == "log" or (scale == "auto" and spread)
        self._scale: Callable[[float], float] = _bent if self.is_log else float
        bounded = [min(_length(cell).high, 1.5 * max(lengths)) for cell in cells if _length(cell).high < inf]
        self._longest = max(1.0, *lengths, *bounded)
        x_marks = _log_marks(self._longest) if self.is_log else _marks(0, self._longest)
        self._right = self._scale(max(self._longest, x_marks[-1]))
        lowest = min(96.0, *(100 * cell.accuracy.low for cell in cells))
        y_marks = _marks(lowest, max(lowest + 4, *(100 * cell.accuracy.high for cell in cells)))  # never one line alone
        self._bottom, self._top = y_marks[0], min(100.0, y_marks[-1])
        self.x_ticks = tuple((self.x(mark), f"{mark:g}") for mark in x_marks if mark <= self._longest)
        self.y_ticks = tuple((self.y(mark / 100), f"{mark:g}") for mark in y_marks if mark <= self._top)

    def x(self, length: float) -> float:
        share = self._scale(min(length, self._longest)) / self._right
        return round(LEFT + 12 + (WIDTH - LEFT - RIGHT - 24) * share, 1)

    def y(self, accuracy: float) -> float:
        share = (100 * accuracy - self._bottom) / (self._top - self._bottom)
        return round(HEIGHT - BOTTOM - 8 - (HEIGHT - TOP - BOTTOM - 16) * share, 1)


def _apart(places: Sequence[Place]) -> list[Place]:
    """Places of marks that do not cover each other: where one is taken, the nearest free one around it."""
    taken: list[Place] = []
    for x, y in places:
        around = ((x + dx, y + dy) for radius in range(1, len(places) + 1) for dx, dy in _ring(radius))
        inside = ((round(a, 1), round(b, 1)) for a, b in around if LEFT < a < WIDTH - 6 and 6 < b < HEIGHT - BOTTOM + 4)
        candidates = ((x, y), *inside)
        taken.append(next(place for place in candidates if all(_distance(place, other) > APART - 1 for other in taken)))
    return taken


@cache
def _ring(radius: int) -> tuple[Place, ...]:
    """Places that far from the middle, in units of APART, and that far apart on the circle."""
    angles = (2 * pi * i / (6 * radius) for i in range(6 * radius))
    return tuple((radius * APART * cos(angle), radius * APART * sin(angle)) for angle in angles)


def _labelled(points: Sequence[Point], every: bool) -> Iterator[Point]:
    """The points with labels at the nearest places that are free of marks, bars and other labels."""
    taken = [box for point in points for box in _obstacles(point)]
    order = sorted(range(len(points)), key=lambda i: (points[i].mark, points[i].name))
    labels: dict[int, Label] = {}
    named: set[str] = set()
    for i in order:
        point = points[i]
        if not every and (not point.on_front or point.name in named):
            continue
        named.add(point.name)
        labels[i], box = _label(point, taken)
        taken.append(box)
    return (replace(point, label=labels.get(i)) for i, point in enumerate(points))


def _label(point: Point, taken: Sequence[Box]) -> tuple[Label, Box]:
    text = point.name if len(point.name) <= MOST_LABEL else point.name[: MOST_LABEL - 1] + "…"
    width, (x, y) = CHARACTER * LABEL_SIZE * len(text), point.mark
    frame = (LEFT, TOP - 10, WIDTH, HEIGHT - BOTTOM)

    def cost(box: Box) -> float:
        return sum(_overlap(box, other) for other in taken) + 10 * _outside(box, frame)

    boxes = [(x + dx, y + dy, x + dx + width, y + dy + LABEL_SIZE) for _, dx, dy in _places(width, LABEL_SIZE)]
    best = min(range(len(boxes)), key=lambda i: (round(cost(boxes[i]), 6), i))
    box, is_near = boxes[best], best < DIRECTIONS
    end = (min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3]))
    line = None if is_near else (point.mark, (round(end[0], 1), round(end[1], 1)))
    return Label(x=round(box[0], 1), y=round(box[3] - 2.5, 1), text=text, line=line), box


def _obstacles(point: Point) -> Iterator[Box]:
    """Boxes of a mark and its bars, with a little air."""
    x, y = point.mark
    yield x - 7, y - 7, x + 7, y + 7
    yield point.x - 3, min(point.along), point.x + 3, max(point.along)
    if point.across:
        yield min(point.across), point.y - 3, max(point.across), point.y + 3


def _places(width: float, height: float) -> Iterator[tuple[float, float, float]]:
    """Distance and offset of a label's upper left corner from its mark; nearest first, then right before left."""
    order = sorted(range(DIRECTIONS), key=lambda i: (min(i, DIRECTIONS - i), i))
    for distance, direction in product(LABEL_DISTANCES, order):
        angle = 2 * pi * direction / DIRECTIONS
        dx, dy = cos(angle), -sin(angle)
        yield distance, distance * dx - width * (1 - dx) / 2, distance * dy - height * (1 - dy) / 2


def _distance(a: Place, b: Place) -> float:
    return hypot(a[0] - b[0], a[1] - b[1])


def _overlap(a: Box, b: Box) -> float:
    """Shared area."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _outside(box: Box, frame: Box) -> float:
    """Area of the box that lies outside the frame."""
    return (box[2] - box[0]) * (box[3] - box[1]) - _overlap(box, frame)


def _methods(cells: Sequence[Cell]) -> list[str]:
    return sorted({cell.identity.method for cell in cells})


def _tip(cell: Cell, on_front: bool) -> str:
    parts = [
        plain(cell.label),
        f"accuracy {interval_text(cell.accuracy, 100)} %",
        f"#L {interval_text(_length(cell))}",
        f"{len(cell.rows)} seed{'s' * (len(cell.rows) > 1)}{', on the Pareto front' * on_front}",
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
