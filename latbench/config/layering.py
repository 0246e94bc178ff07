"""Layering of configuration trees: a preset under what the user says, and the recipe of the run it starts from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latbench import registry
from latbench.config import tree
from latbench.config.fields import TINY
from latbench.config.own_data import is_named, without_place

SHARED = ("seed", "task", "model")  # by a run and the one it starts from
DATA = ("split", "num_examples", "drop_contaminated")  # of `train`: shared too unless `start.train` says otherwise


def default_preset(method: str, model_id: str) -> str:
    """Name of the preset that applies unasked: the method's `tiny` for the embedded backbone, else "none"."""
    return TINY if model_id == TINY and TINY in tree.presets(method) else "none"


def layered(upper: tree.Tree) -> tree.Tree:
    """The tree over its preset, and `start` over that of its method; unknown methods are left to the validation.

    Raises: ValueError: unknown preset, or a method whose presets start from each other in a circle.
    """
    method = section_of(upper, "method").get("name")
    if method not in registry.method_names():
        return upper
    name = str(upper.get("preset") or default_preset(method, model_id(upper)))
    whole = tree.merge(_for_task(_preset(method, name), upper), upper) | {"preset": name}
    generate = {
        key: value for key, value in section_of(upper, "generate").items() if key != "method"
    }  # another reads it
    return _with_start(whole, model_id(whole), generate)


def _with_start(whole: tree.Tree, model_id: str, generate: tree.Tree, outer: tuple[tree.Tree, ...] = ()) -> tree.Tree:
    """The tree with its `start`, and that of the start, layered: preset, what it takes over, what it says itself.

    Args:
        generate: what the user asked of decoding; taken over, as are the training data, so that the start equals the
            run that the same command trains with its method.
        outer: the starts around this one, as they were given; one that is given again goes on for ever.
    """
    given = section_of(whole, "start")
    method = section_of(given, "method").get("name")
    if method not in registry.method_names():
        return whole
    within = "start." * (len(outer) + 1)
    name = str(given.get("preset") or default_preset(method, model_id))
    if given in outer:
        raise ValueError(
            f"{within}method {method!r} with preset {name!r} starts from itself, without end; set {within[:-1]}=null"
        )
    try:
        lower = _preset(method, name)
    except ValueError as error:
        raise ValueError(f"{within}preset: {error}") from None
    data = {key: value for key, value in section_of(whole, "train").items() if key in DATA}
    taken = {key: values for key, values in (("train", data), ("generate", generate)) if values}
    lower = tree.merge({key: value for key, value in lower.items() if key not in SHARED}, taken)
    start = tree.merge(lower, given) | {"preset": name}
    return whole | {"start": _with_start(start, model_id, generate, (*outer, given))}


def section_of(whole: Mapping[str, Any], name: str) -> tree.Tree:
    """A section of a tree not yet validated; empty where it is absent or no mapping."""
    section = whole.get(name)
    return section if isinstance(section, dict) else {}


def _preset(method: str, name: str) -> tree.Tree:
    return spelled_out(tree.preset(method, name))


def spelled_out(given: Mapping[str, Any]) -> tree.Tree:
    """The tree with names that stand without settings as mappings, so that trees merge."""
    whole = dict(given)
    if isinstance(start := whole.get("start"), dict):
        whole["start"] = spelled_out(start)
    names = {kind: {"name": whole[kind]} for kind in ("task", "method") if isinstance(whole.get(kind), str)}
    return whole | names


def over(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> tree.Tree:
    """One tree over another. Own data that the upper one names are not where those of the lower one are."""
    below, above = spelled_out(lower), spelled_out(upper)
    if is_named(section_of(above, "task").get("name")):
        below["task"] = without_place(section_of(below, "task"))
    return tree.merge(below, above)


def over_file(settings: Mapping[str, Any], file: Path | None) -> tree.Tree:
    """The tree of values by dotted key, over that of a YAML file. Raises: ValueError: as `tree.read_yaml`."""
    return over({} if file is None else tree.unfold(tree.read_yaml(file)), tree.unfold(settings))


def model_id(given: Mapping[str, Any]) -> str:
    return str(section_of(given, "model").get("id", TINY))


def _for_task(lower: tree.Tree, upper: Mapping[str, Any]) -> tree.Tree:
    """The preset without its task's settings where the user chose another task."""
    wanted = upper.get("task")
    name = wanted.get("name") if isinstance(wanted, Mapping) else wanted
    if name is None or "task" not in lower or lower["task"].get("name") == name:
        return lower
    return {key: value for key, value in lower.items() if key != "task"}
