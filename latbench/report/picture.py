"""Charts as files: SVG through the page's template, PNG through matplotlib; the same bytes for the same records."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

from latbench.report.cells import Cell
from latbench.report.chart import (
    BOTTOM,
    COLOURS,
    HEIGHT,
    LABEL_SIZE,
    LEFT,
    MARKERS,
    RIGHT,
    TOP,
    WIDTH,
    Chart,
    Point,
    Scale,
    charts,
    description,
)
from latbench.report.template import render
from latbench.util.files import temporary
from latbench.util.text import encodable

INK, SOFT, GRID = "#1D2129", "#5B6472", "#E4E4E4"
SUFFIXES = (".png", ".svg")
PER_LINE = 2  # panels side by side
TITLE = 30  # height of a panel's title
INCH = 112.5  # units of the view box


def plot(cells: Sequence[Cell], path: Path, scale: Scale = "auto") -> None:
    """Draw one panel per task, split and test set, with 95 % interval bars, and write it.

    What it shows stands in the file's description too, see `chart.description`.

    Args:
        cells: those without chain length (nothing decoded) are left out.
        path: its suffix, .png or .svg, is the format.
        scale: of #L, see `chart.chart`.
    Raises: ValueError: another suffix, no cell to draw, or the file cannot be written.
    """
    refuse_format(path)
    panels = charts(cells, scale, label_all=True)
    if not panels:
        raise ValueError("nothing to plot: no cell has a chain length; evaluate a run first")
    text, beside = encodable(description(cells)), temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".svg":
            beside.write_text(svg(panels, text), encoding="utf-8")
        else:
            _write_png(panels, text, beside)
        beside.replace(path)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}; choose a folder that can be written") from None


def refuse_format(path: Path) -> None:
    """Raises: ValueError: the path has another suffix than .png or .svg."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"unknown picture format {path.suffix!r} of {path}; use {' or '.join(SUFFIXES)}")


def svg(panels: Sequence[Chart], description: str) -> str:
    """A file of its own, with the colours that the page's style sheet would give."""
    columns, lines = _grid(panels)
    placed = [
        (panel, WIDTH * (number % columns), (HEIGHT + TITLE) * (number // columns))
        for number, panel in enumerate(panels)
    ]
    size = {"width": WIDTH * columns, "height": (HEIGHT + TITLE) * lines}
    return render(
        "picture.svg.jinja", panels=placed, description=description, colours=COLOURS, title_height=TITLE, **size
    )


def _grid(panels: Sequence[Chart]) -> tuple[int, int]:
    columns = min(PER_LINE, len(panels))
    return columns, ceil(len(panels) / columns)


def _write_png(panels: Sequence[Chart], description: str, path: Path) -> None:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns, lines = _grid(panels)
    # the user's own matplotlibrc must not change the picture
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, "backend": "agg", "text.parse_math": False}):
        size = (WIDTH * columns / INCH, (HEIGHT + TITLE) * lines / INCH)
        figure = Figure(figsize=size, facecolor="white")
        FigureCanvasAgg(figure)
        for number, panel in enumerate(panels):
            line, column = divmod(number, columns)
            axes = figure.add_axes((column / columns, 1 - (line + 1) / lines, 1 / columns, 1 / lines))
            axes.set_axis_off()
            axes.set_xlim(0, WIDTH)
            axes.set_ylim(HEIGHT, -TITLE)
            _draw(axes, panel)
        metadata = {"Software": None, "Description": description}
        figure.savefig(path, format="png", dpi=160, metadata=metadata)


def _draw(axes: Any, panel: Chart) -> None:
    def write(x: float, y: float, text: str, **options: Any) -> None:
        size = options.pop("size", LABEL_SIZE) * 72 / INCH
        axes.text(x, y, text, fontsize=size, **{"color": INK, "va": "baseline", **options})

    write(LEFT, -8, panel.title, size=14)
    for x, text in panel.x_ticks:
        axes.plot((x, x), (TOP, HEIGHT - BOTTOM), color=GRID, linewidth=0.7, zorder=0)
        write(x, HEIGHT - BOTTOM + 16, text, color=SOFT, ha="center")
    for y, text in panel.y_ticks:
        axes.plot((LEFT, WIDTH - RIGHT), (y, y), color=GRID, linewidth=0.7, zorder=0)
        write(LEFT - 6, y + 4, text, color=SOFT, ha="right")
    axis = f"chain length #L (mean per answer{', logarithmic' * panel.is_log})"
    write((WIDTH + LEFT - RIGHT) / 2, HEIGHT - 8, axis, ha="center")
    write(14, (HEIGHT + TOP - BOTTOM) / 2, "accuracy (%)", ha="center", va="center", rotation=90)
    axes.plot(*zip(*panel.front, strict=True), color=SOFT, linewidth=1, linestyle=(0, (5, 4)), zorder=1)
    for point in panel.points:
        _draw_point(axes, point)
        if point.label:
            colour = COLOURS[point.colour]
            write(point.label.x, point.label.y, point.label.text, color=colour, zorder=4)
            if point.label.line:
                axes.plot(*zip(*point.label.line, strict=True), color=colour, linewidth=0.5, zorder=2)


def _draw_point(axes: Any, point: Point) -> None:
    from matplotlib.patches import Polygon

    colour = COLOURS[point.colour]
    axes.plot((point.x, point.x), point.along, color=colour, linewidth=1.1, zorder=2)
    if point.across:
        axes.plot(point.across, (point.y, point.y), color=colour, linewidth=1.1, zorder=2)
    if point.mark != (point.x, point.y):
        axes.plot(*zip((point.x, point.y), point.mark, strict=True), color=colour, linewidth=0.5, zorder=2)
    corners = [(point.mark[0] + x, point.mark[1] + y) for x, y in MARKERS[point.marker]]
    face, edge = ("white", colour) if point.is_variant else (colour, "white")
    axes.add_patch(Polygon(corners, closed=True, facecolor=face, edgecolor=edge, linewidth=1, zorder=3))
