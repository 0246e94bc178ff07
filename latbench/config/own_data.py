"""Own data as a task: the file, the Hub id or the YAML file that a user names becomes the settings `task.*`.

Settings that belong to the data may stand in a YAML file beside them: `sums.yaml` beside `sums.jsonl`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latbench import registry
from latbench.config import tree
from latbench.util.files import sha256_of

YAML = (".yaml", ".yml")
HUB_ID = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[\w.-]+)(?::(?P<part>[\w.+-]+))?")
PLACE = ("path", "sha256", "subset", "revision", "part", "held_out")  # which rows; the other settings say how


def is_named(name: object) -> bool:
    """Whether a task's name, as a user gives it, names own data: a file, a YAML file about some, or a Hub id."""
    return isinstance(name, str) and (
        registry.is_data_file(name) or name.endswith(YAML) or "/" in name or registry.is_own_data(name)
    )


def without_place(section: Mapping[str, Any]) -> tree.Tree:
    """How the section `task` asks, without where its data are."""
    return {key: value for key, value in section.items() if key not in PLACE}


def changes(columns: Mapping[str, str] | None, kind: str | None, prompt: str | None) -> dict[str, Any]:
    """What is said of own data, by dotted key.

    Args:
        columns: names of the columns by field; None: nothing is said of them.
        kind: how answers are compared; None: nothing is said of it.
        prompt: a template; None: nothing is said of it.
    """
    said = {"task.columns": dict(columns) if columns else None, "task.kind": kind, "task.prompt": prompt}
    return {key: value for key, value in said.items() if value is not None}


def with_own_data(section: Mapping[str, Any]) -> tree.Tree:
    """The section `task` as a user gives it, with own data spelled out; a section about another task as it is.

    Args:
        section: `name` is the file, the Hub id (`org/name`, or `org/name:split` for one split of it) or the YAML file
            that says `path`; further keys go before what the YAML file beside the data says.
    Returns: `name` fit for a folder, `path`, for a file its `sha256`, and the settings.
    Raises: ValueError: there is no such file, it is of another format, or its YAML file cannot be used.
    """
    if not is_named(section.get("name")) or section.get("sha256"):
        return dict(section)
    given = {key: value for key, value in section.items() if key not in ("name", "path")}
    named = str(section.get("path") or section["name"])
    about: tree.Tree = {}
    if named.endswith(YAML):
        about = _read(Path(named))
        if not isinstance(path := about.pop("path", None), str):
            raise ValueError(f"{named} does not say path; set it to a data file beside it, or to a Hub id")
        named = str(Path(named).parent / path) if registry.is_data_file(path) else path
    if registry.is_data_file(named):
        return _of_file(named, tree.merge(about, given))
    if (found := HUB_ID.fullmatch(named)) is None or Path(named).exists():
        endings = ", ".join(registry.DATA_ENDINGS)
        raise ValueError(
            f"task {named!r} is no registered name, no data file ({endings}, each with or without .gz) and no Hub id "
            "such as openai/gsm8k; name one of these"
        )
    part = {"part": found["part"]} if found["part"] else {}
    return {"name": found["id"].replace("/", "--"), **tree.merge(about, given | part), "path": found["id"]}


def _of_file(named: str, given: tree.Tree) -> tree.Tree:
    path = Path(named).expanduser()
    if not path.is_file():
        raise ValueError(f"task {named!r}: there is no such file; give the path of one")
    beside = path.with_name(path.name.removesuffix(".gz").rpartition(".")[0] + YAML[0])
    about = _read(beside) if beside.is_file() else {}
    about.pop("path", None)
    name = re.sub(r"[^\w.+-]+", "_", path.name).lstrip(".+-")
    return {"name": name, **tree.merge(about, given), "path": str(path.resolve()), "sha256": sha256_of(path)}


def _read(path: Path) -> tree.Tree:
    """The settings in a YAML file about own data. Raises: ValueError: they are not settings of own data."""
    about = tree.read_yaml(path)
    settings = {key: value for key, value in about.items() if key != "path"}  # which is relative to the YAML file
    _, errors = tree.validate("task", registry.own_data("own--data").config, settings)
    if errors:
        raise ValueError("\n".join(f"{path}: {sentence}" for sentence in errors))
    return about
