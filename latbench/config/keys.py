"""Every configuration key with its type, range, default and meaning, read from the classes that declare them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from latbench import registry
from latbench.config.identity import OWN, SECTIONS
from latbench.config.sections import ImportConfig
from latbench.task import TaskConfig

_BOUNDS = {"minimum": ">= {}", "exclusiveMinimum": "> {}", "maximum": "<= {}", "exclusiveMaximum": "< {}"}
_TYPES = {"string": "text", "boolean": "true or false", "integer": "integer", "number": "number", "null": "null"}


@dataclass(frozen=True, kw_only=True)
class Key:
    """One configuration key, as `--set` and YAML files name it."""

    name: str
    """Dotted name; `<name>` stands for a name that the user chooses."""
    type: str
    """Type and range in words, such as `integer >= 1 or null`."""
    default: str
    """Default as it is written in YAML."""
    meaning: str
    """What the key does, with its unit."""


def shared_keys() -> list[Key]:
    """Keys of every run: `seed`, `model.*`, `train.*` and `generate.*`."""
    seed = Key(name="seed", type="integer >= 0", default="0", meaning="Seed of weights, data order and random draws.")
    return [seed, *(key for section, cls in SECTIONS.items() for key in keys_of(section, cls) if key.name != OWN)]


def method_keys(method: str) -> list[Key]:
    """Keys that one method reads: `method.*` and `generate.method.*`. Raises: ValueError: unknown method."""
    entry = registry.get_method(method)
    own = [] if entry.decoding is None else list(keys_of(OWN, entry.decoding))
    return [*keys_of("method", entry.config), *own]


def task_keys(task: str) -> list[Key]:
    """Keys that one task reads: `task.*`. Raises: ValueError: unknown task."""
    return list(keys_of("task", registry.get_task_entry(task).config))


def every_task_keys() -> list[Key]:
    """Keys of `task.*` that all tasks read."""
    return list(keys_of("task", TaskConfig))


def imported_keys() -> list[Key]:
    """Keys of a run that is a released checkpoint: `imported.*`."""
    return list(keys_of("imported", ImportConfig))


def keys_of(section: str, config: type) -> Iterator[Key]:
    """Keys of a configuration class, those of the classes in it included.

    Args:
        section: first part of the names, such as `train`.
        config: the class; a field without a docstring has that of the class it is inherited from.
    """
    schema = TypeAdapter(config).json_schema(ref_template="{model}")
    order = [field.name for field in dataclasses.fields(config)]
    fields = dict(sorted(schema.get("properties", {}).items(), key=lambda item: order.index(item[0])))
    inherited = _docstrings(config)
    described = {name: {"description": inherited.get(name, "")} | field for name, field in fields.items()}
    yield from _keys(section, {"properties": described}, schema.get("$defs", {}))


def _docstrings(config: type) -> dict[str, str]:
    """The docstring under each field, of the nearest class that has one."""
    return {
        name: field.description
        for cls in reversed(config.__mro__)
        for name, field in vars(cls).get("__pydantic_fields__", {}).items()
        if field.description
    }


def _keys(section: str, schema: Mapping[str, Any], classes: Mapping[str, Any]) -> Iterator[Key]:
    for name, field in schema.get("properties", {}).items():
        key = f"{section}.{name}"
        yield Key(
            name=key,
            type=_type(field, classes),
            default=_default(field),
            meaning=" ".join(str(field.get("description", "")).split()),
        )
        for nested, prefix in _nested(field, key):
            yield from _keys(prefix, classes[nested], classes)


def _nested(field: Mapping[str, Any], key: str) -> Iterator[tuple[str, str]]:
    """(class, prefix) of the configuration classes that a field holds."""
    for part in field.get("anyOf", [field]):
        if "$ref" in part:
            yield part["$ref"], key
        values = part.get("additionalProperties")
        if isinstance(values, dict) and "$ref" in values:
            yield values["$ref"], f"{key}.<name>"


def _default(field: Mapping[str, Any]) -> str:
    if "default" in field:
        return json.dumps(field["default"], ensure_ascii=False)
    return {"array": "[]", "object": "{}"}.get(str(field.get("type")), "required")


def _weak(field: Mapping[str, Any], bound: str) -> bool:
    """Whether a bound says nothing, since the same number is excluded."""
    excluded = field.get(f"exclusive{bound.capitalize()}")
    return excluded is not None and bool(excluded == field[bound])


def _type(field: Mapping[str, Any], classes: Mapping[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_type(part, classes) for part in field["anyOf"]))
    if "enum" in field or "const" in field:
        return ", ".join(map(str, field.get("enum", [field.get("const")])))
    if "$ref" in field:
        return "mapping"
    if field.get("type") == "array":
        if items := field.get("prefixItems"):
            return f"list of {len(items)}: {_type(items[0], classes)}"
        return f"list of {_type(field.get('items', {}), classes)}"
    if field.get("type") == "object":
        return "mapping"
    bounds = [text.format(f"{field[key]:g}") for key, text in _BOUNDS.items() if key in field and not _weak(field, key)]
    return " ".join([_TYPES.get(str(field.get("type")), "any"), *bounds])
