"""The templates of the page and of SVG files, filled."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latbench.report.chart import BOTTOM, HEIGHT, LEFT, MARKERS, RIGHT, TOP, WIDTH

if TYPE_CHECKING:
    import jinja2

FOLDER = Path(__file__).parent / "templates"


def render(name: str, **values: Any) -> str:
    """The text of a template; whatever is filled in is escaped.

    Args:
        name: of its file.
        values: by the names that it uses.
    """
    return _environment().get_template(name).render(**values)


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    box = {"left": LEFT, "right": WIDTH - RIGHT, "top": TOP, "bottom": HEIGHT - BOTTOM}
    outlines = ["M" + "L".join(f"{x},{y}" for x, y in corners) + "z" for corners in MARKERS]
    environment.globals |= {"box": box, "chart_width": WIDTH, "chart_height": HEIGHT, "outlines": outlines}
    return environment
