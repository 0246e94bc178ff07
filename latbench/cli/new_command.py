"""`latbench new`: a file to start from, complete and running."""

from __future__ import annotations

import keyword
from pathlib import Path
from typing import Annotated, Literal

import typer

from latbench.cli.console import note, say

commands = typer.Typer()
TEMPLATES = Path(__file__).parent / "templates"
EXAMPLE: dict[str, str] = {"method": "six", "task": "sums"}  # the name that a template has


@commands.command(rich_help_panel="Runs")
def new(
    kind: Annotated[Literal["method", "task"], typer.Argument(help="method or task.")],
    name: Annotated[str, typer.Argument(help="Its registered name, and that of its file.")],
    out: Annotated[Path, typer.Option(help="Folder of the file.")] = Path(),
) -> None:
    """Write the file of a method or a task to start from, complete and running."""
    path = out / f"{name}.py"
    write_template(kind, name, path)
    say(str(path))
    note(f"next: latbench train {'--method' if kind == 'method' else '--method cot --task'} {path}")


def write_template(kind: Literal["method", "task"], name: str, path: Path) -> None:
    """Write the template under another name.

    Raises: ValueError: the name is taken or no identifier, or the file exists.
    """
    from latbench import registry

    if not name.isidentifier() or keyword.iskeyword(name) or name != name.lower():
        raise ValueError(f"{name!r} cannot name a {kind}; take small letters, digits and _, such as my_{kind}")
    if name in (registry.method_names() if kind == "method" else registry.task_names()):
        raise ValueError(f"a {kind} named {name!r} is registered already; choose another name")
    if path.exists():
        raise ValueError(f"{path} exists; remove it or choose another name")
    example = EXAMPLE[kind]
    text = (TEMPLATES / f"{kind}.py.txt").read_text(encoding="utf-8")
    text = text.replace(f'"{example}"', f'"{name}"').replace(f"'{example}'", f"'{name}'")
    text = text.replace(example.title(), "".join(part.title() for part in name.split("_")))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
