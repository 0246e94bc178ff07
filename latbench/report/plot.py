"""Accuracy against chain length, one point per cell; the same bytes for the same records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import ceil, cos, inf, pi, sin
from pathlib import Path
from typing import Any, Literal

from latbench.evaluation.statistics import Interval
from latbench.report.columns import interval_text
from latbench.report.rows import Cell, comparable
from latbench.util.files import temporary

# Okabe and Ito's palette (jfly.uni-koeln.de/color), told apart with every form of colour blindness; yellow left out,
# too pale on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
INK, GRID = "#333333", "#E4E4E4"
SUFFIXES = (".png", ".svg")
PANEL = (6.4, 4.4)  # inches
COLUMNS = 2
LABEL_DISTANCES = (9, 16, 26, 38, 52, 68)  # points from the point, nearest first
LABEL_DIRECTIONS = 16

Scale = Literal["auto", "linear", "log"]
Box = tuple[float, float, float, float]


def plot(cells: Sequence[Cell], path: Path, scale: Scale = "auto") -> None:
    """Draw one panel per task, split and test set, with 95 % interval bars, and write it.

    What it shows stands in the file's description too, see `description`.

    Args:
        cells: those without chain length (nothing decoded) are left out.
        path: its suffix, .png or .svg, is the format.
        scale: of #L; log is linear below 1, so that 0 (no reasoning) has its place; auto takes log where the longest
            chain is more than 30 times the shortest that is not 0.
    Raises: ValueError: another suffix, no cell to draw, or the file cannot be written.
    """
    refuse_format(path)
    drawn = comparable(cell for cell in cells if cell.chain_length)
    if not drawn:
        raise ValueError("nothing to plot: no cell has a chain length; evaluate a run first")
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    methods = sorted({cell.identity.method for section in drawn for cell in section})
    columns = min(COLUMNS, len(drawn))
    lines = ceil(len(drawn) / columns)
    settings = {"svg.hashsalt": "latbench", "svg.fonttype": "path", "font.size": 10, "axes.titlesize": 11}
    # the user's own matplotlibrc must not change the picture
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, "backend": "agg", **settings}):
        figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * lines), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        axes = list(figure.subplots(lines, columns, squeeze=False).flat)
        for panel, section in zip(axes, drawn, strict=False):
            _draw(panel, section, methods, scale)
        for panel in axes[len(drawn) :]:
            panel.set_axis_off()
        figure.draw_without_rendering()  # the layout is settled, so that labels know where the points are
        figure.set_layout_engine("none")
        for panel, section in zip(axes, drawn, strict=False):
            _label(panel, section, methods)
        _save(figure, path, description(cells))


def refuse_format(path: Path) -> None:
    """Raises: ValueError: the path has another suffix than .png or .svg."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"unknown picture format {path.suffix!r} of {path}; use {' or '.join(SUFFIXES)}")


def description(cells: Sequence[Cell]) -> str:
    """The points as text, a line each: task, label, accuracy (%) and #L with their intervals."""
    drawn = [cell for cell in cells if cell.chain_length]
    return "\n".join(
        f"{cell.section[0]} {cell.label}: {interval_text(cell.accuracy, 100)}, #L {interval_text(cell.chain_length)}"
        for cell in drawn
    )


def _draw(panel: Any, section: Sequence[Cell], methods: Sequence[str], scale: Scale) -> None:
    task, split, n, _ = section[0].section
    panel.set_title(f"{task} / {split}, n = {n}", loc="left", color=INK)
    panel.set_xlabel("chain length #L (mean per answer)", color=INK)
    panel.set_ylabel("accuracy (%)", color=INK)
    panel.grid(True, color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(colors=INK)
    for cell in section:
        colour, marker = _style(cell.identity.method, methods)
        (x, across), (y, along) = _point(_length(cell), 1, inf), _point(cell.accuracy, 100, 100)
        panel.errorbar(
            x, y, xerr=across, yerr=along, fmt=marker, color=colour, markersize=7, markeredgecolor="white",
            markeredgewidth=0.8, elinewidth=1.3, capsize=2.5, zorder=3,
        )  # fmt: skip
    _scale_lengths(panel, section, scale)
    panel.set_ylim(*_accuracy_limits(section))


def _point(interval: Interval, scale: float, high: float) -> tuple[float, list[list[float]] | None]:
    """Value and bar lengths below and above; no bar where the interval is unbounded."""
    value, low, top = scale * interval.value, scale * interval.low, min(high, scale * interval.high)
    return value, [[value - low], [top - value]] if top - low < inf else None


def _length(cell: Cell) -> Interval:
    assert cell.chain_length is not None, "cells without chain length are left out"
    return cell.chain_length


def _style(method: str, methods: Sequence[str]) -> tuple[str, str]:
    """Colour and marker of a method; with both the first 49 methods differ."""
    index = methods.index(method)
    return COLOURS[index % len(COLOURS)], MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]


def _scale_lengths(panel: Any, section: Sequence[Cell], scale: Scale) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    lengths = [_length(cell).value for cell in section]
    positive = [length for length in lengths if length > 0]
    longest = max(end for cell in section for end in (_length(cell).value, _length(cell).high) if end < inf)
    if scale == "log" or (scale == "auto" and positive and longest > 30 * min(positive)):
        panel.set_xscale("symlog", linthresh=1, linscale=0.5)
        panel.set_xlim(-0.25 if min(lengths) < 1 else 0.8 * min(lengths), 2.5 * max(longest, 1))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        panel.xaxis.set_minor_locator(LogLocator(subs=range(2, 10)))
        panel.xaxis.set_minor_formatter(NullFormatter())
    else:
        panel.set_xlim(-0.06 * max(longest, 1), 1.15 * max(longest, 1))


def _accuracy_limits(section: Sequence[Cell]) -> tuple[float, float]:
    """Around the bars with a tenth of air, at least ten points high, so that noise does not look like a result."""
    low = 100 * min(cell.accuracy.low for cell in section)
    high = 100 * max(cell.accuracy.high for cell in section)
    air = max(0.1 * (high - low), (10 - (high - low)) / 2)
    return low - air, high + air


def _label(panel: Any, section: Sequence[Cell], methods: Sequence[str]) -> None:
    """Write each cell's label at the nearest place free of points, bars and other labels; far ones get a line."""
    renderer = panel.figure.canvas.get_renderer()
    to_points = 72 / panel.figure.dpi
    frame = panel.get_window_extent(renderer)
    taken = [box for cell in section for box in _obstacles(panel, cell)]
    for cell in sorted(section, key=lambda cell: (_length(cell).value, cell.accuracy.value, cell.label)):
        colour, _ = _style(cell.identity.method, methods)
        point = (_length(cell).value, 100 * cell.accuracy.value)
        text = panel.annotate(
            _short(cell.label), point, textcoords="offset points", xytext=(0, 0), color=colour, fontsize=9, zorder=4,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 4},
        )  # fmt: skip
        extent = text.get_window_extent(renderer)
        x, y = panel.transData.transform(point)
        width, height = extent.width, extent.height
        places = list(_places(width, height, 1 / to_points))
        boxes = [(x + dx, y + dy, x + dx + width, y + dy + height) for _, dx, dy in places]
        costs = [
            sum(_overlap(box, other) for other in taken) + 10 * _outside(box, (frame.x0, frame.y0, frame.x1, frame.y1))
            for box in boxes
        ]
        best = min(range(len(places)), key=lambda i: (round(costs[i], 6), i))
        distance, dx, dy = places[best]
        text.set_position((dx * to_points, dy * to_points))
        if distance == LABEL_DISTANCES[0]:
            text.arrow_patch.set_visible(False)
        taken.append(boxes[best])


def _obstacles(panel: Any, cell: Cell) -> Iterator[Box]:
    """Boxes of a cell's marker and bars in pixels, with a little air."""
    length, accuracy, reach = _length(cell), cell.accuracy, 6 * panel.figure.dpi / 72
    air = reach / 2
    x, y = panel.transData.transform((length.value, 100 * accuracy.value))
    yield x - reach, y - reach, x + reach, y + reach
    _, bottom = panel.transData.transform((length.value, 100 * accuracy.low))
    _, top = panel.transData.transform((length.value, 100 * accuracy.high))
    yield x - air, bottom - air, x + air, top + air
    if length.high < inf:
        left, _ = panel.transData.transform((length.low, 0))
        right, _ = panel.transData.transform((length.high, 0))
        yield left - air, y - air, right + air, y + air


def _places(width: float, height: float, pixels: float) -> Iterator[tuple[float, float, float]]:
    """Distance in points and offset of a label's lower left corner in pixels; nearest first, then right before left."""
    order = sorted(range(LABEL_DIRECTIONS), key=lambda i: (min(i, LABEL_DIRECTIONS - i), i))
    for distance, direction in product(LABEL_DISTANCES, order):
        angle = 2 * pi * direction / LABEL_DIRECTIONS
        dx, dy = cos(angle), sin(angle)
        yield distance, distance * pixels * dx - width * (1 - dx) / 2, distance * pixels * dy - height * (1 - dy) / 2


def _overlap(a: Box, b: Box) -> float:
    """Shared area in square pixels."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _outside(box: Box, frame: Box) -> float:
    """Area of the box that lies outside the frame, in square pixels."""
    return (box[2] - box[0]) * (box[3] - box[1]) - _overlap(box, frame)


def _short(label: str, limit: int = 40) -> str:
    """A label as plain text: cut to the limit, no math mode."""
    plain = label.encode(errors="backslashreplace").decode().replace("$", r"\$")
    return plain if len(plain) <= limit else plain[: limit - 1] + "…"


def _save(figure: Any, path: Path, text: str) -> None:
    fixed = {"Date": None, "Creator": None} if path.suffix == ".svg" else {"Software": None}
    metadata = {**fixed, "Description": text.encode(errors="backslashreplace").decode()}
    beside = temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(beside, format=path.suffix[1:], dpi=160, metadata=metadata)
        beside.replace(path)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}; choose a folder that can be written") from None
