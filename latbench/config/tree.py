"""Configuration trees: YAML, `--set KEY=VALUE`, presets and their layering; one sentence per invalid key."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from latbench import registry

Tree = dict[str, Any]

MAX_BYTES = 2**20  # of a YAML file
MAX_VALUES = 20_000  # in it, with every alias written out
MAX_DEPTH = 50
TEXT, MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """YAML in which `1e-4` is a number: YAML 1.1 asks for a dot and a signed exponent."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:float"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:\d[\d_]*\.[\d_]*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(?:inf|Inf|INF)|\.nan)$"
    ),
    list("-+0123456789."),
)


def read_yaml(path: Path) -> Tree:
    """The mapping in a YAML file of bounded size.

    Raises: ValueError: no such file, not YAML, no mapping, or beyond a bound (aliases written out, depth).
    """
    try:
        size = path.stat().st_size
        text = path.read_text(encoding="utf-8") if size <= MAX_BYTES else ""
        value = parse_yaml(text)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}; give the path of a YAML file") from None
    except (yaml.YAMLError, ValueError) as error:  # UnicodeDecodeError is one
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if size > MAX_BYTES:
        raise ValueError(f"{path} has {size} bytes, more than a configuration may ({MAX_BYTES}); give a smaller file")
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a mapping such as `train: {{lr: 1e-4}}`, got {type(value).__name__}")
    return value


def parse_yaml(text: str) -> Any:
    """The value of a YAML text whose aliases, written out, stay within MAX_VALUES.

    Raises: yaml.YAMLError, ValueError: it is not YAML, too deep or too large, contains itself, or has a key that is no
        text.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is None:
            return None
        size, depth = _extent(node, {})
        if size > MAX_VALUES:
            raise ValueError(f"it holds {size} values with its aliases written out, more than {MAX_VALUES}")
        if depth > MAX_DEPTH:
            raise ValueError(f"its lists and mappings lie {depth} deep in each other, more than {MAX_DEPTH}")
        return yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise ValueError("its lists and mappings lie too deep in each other") from None


def _extent(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Number of values with every alias written out, and how deep they lie in each other.

    Args:
        known: by id of a node, so that a part that is named twice is counted once; (0, 0) while it is being counted.
    """
    if not isinstance(node, yaml.CollectionNode):
        return 1, 0
    if id(node) not in known:
        known[id(node)] = 0, 0
        parts = node.value
        if isinstance(node, yaml.MappingNode):
            for key, _ in node.value:
                if key.tag not in (TEXT, MERGE):
                    raise ValueError(f"line {key.start_mark.line + 1} has a key that is no text; put it in quotes")
            parts = [value for _, value in node.value]
        extents = [_extent(part, known) for part in parts]
        known[id(node)] = 1 + sum(size for size, _ in extents), 1 + max((depth for _, depth in extents), default=0)
    elif known[id(node)] == (0, 0):
        raise ValueError("a part of it contains itself")
    return known[id(node)]


def dump_yaml(tree: Tree) -> str:
    """The tree as YAML, keys in order."""
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def parse_overrides(overrides: Iterable[str]) -> Tree:
    """The tree of `KEY=VALUE` texts; values are YAML.

    Raises: ValueError: a text without `=`, an empty key, or a value that is not YAML.
    """
    tree: Tree = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not all(key.split(".")):
            raise ValueError(f"--set takes KEY=VALUE such as train.lr=1e-4, got {text!r}")
        try:
            put(tree, key, parse_yaml(value))
        except (yaml.YAMLError, ValueError):
            raise ValueError(f"--set {key}: {value!r} is not YAML; quote texts that hold : or [") from None
    return tree


def put(tree: Tree, key: str, value: Any) -> None:
    """Set the value at a dotted key, in place."""
    *parents, last = key.split(".")
    for parent in parents:
        if not isinstance(tree.get(parent), dict):
            tree[parent] = {}
        tree = tree[parent]
    tree[last] = value


def unfold(settings: Mapping[str, Any]) -> Tree:
    """The tree of values by dotted key, each laid over those before it."""
    tree: Tree = {}
    for key, value in settings.items():
        branch: Tree = {}
        put(branch, key, value)
        tree = merge(tree, branch)
    return tree


def get(tree: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key; None where there is none."""
    value: Any = tree
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> Tree:
    """`upper` over `lower`, mapping by mapping; an empty mapping above clears the one below."""
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(value, dict) and value and isinstance(below, dict) else value
    return merged


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf; empty mappings are leaves."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def show(value: Any) -> str:
    """A value as it is written on a command line."""
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def presets(method: str) -> dict[str, Tree]:
    """Preset trees of a method by name, from `presets/<method>.yaml` beside it; empty where there is no such file."""
    path = registry.preset_file(method)
    if not path.exists():
        return {}
    stat = path.stat()
    return copy.deepcopy(_presets(path, stat.st_ino, stat.st_size, stat.st_mtime_ns))


@lru_cache(maxsize=256)
def _presets(path: Path, _inode: int, _size: int, _modified: int) -> dict[str, Tree]:
    """What a file of presets holds; read once per process as long as the file stays untouched."""
    return {str(name): tree for name, tree in read_yaml(path).items()}


def preset(method: str, name: str) -> Tree:
    """One preset of a method; `none` is the empty one. Raises: ValueError: unknown, with the nearest name."""
    available = presets(method)
    if name == "none":
        return {}
    if name not in available:
        raise registry.unknown(f"{method} preset", name, [*available, "none"])
    return available[name]


def validate(
    section: str, config: type, value: Any, *, also_known: Mapping[str, str] | None = None
) -> tuple[Any, list[str]]:
    """The section as its configuration class (None where invalid), and one sentence per error.

    Args:
        also_known: further keys, with their meaning, that an unknown one may have meant.
    """
    try:
        return _adapter(config).validate_python({} if value is None else value), []
    except ValidationError as error:
        known = keys(section, config) | dict(also_known or {})
        return None, [_sentence(section, row, known) for row in error.errors()]


@cache
def _adapter(config: Any) -> TypeAdapter[Any]:
    """Made once a class: making one takes longer than what it is for."""
    return TypeAdapter(config)


def keys(section: str, config: type) -> dict[str, str]:
    """Dotted keys of a configuration class with their meaning, those of the classes in it included."""
    found: dict[str, str] = {}
    if not dataclasses.is_dataclass(config):
        return found
    hints, described = get_type_hints(config), getattr(config, "__pydantic_fields__", {})
    for field in dataclasses.fields(config):
        found[f"{section}.{field.name}"] = (described[field.name].description or "") if field.name in described else ""
        is_mapping = get_origin(hints[field.name]) is dict
        for part in get_args(hints[field.name]):
            found |= keys(f"{section}.{field.name}" + ".<name>" * is_mapping, part)
    return found


_COMPARISONS = {
    "greater_than_equal": ">= {ge:g}",
    "greater_than": "> {gt:g}",
    "less_than_equal": "<= {le:g}",
    "less_than": "< {lt:g}",
}
_KINDS = {
    "int": "an integer",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "a text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping",
    "dataclass": "a mapping",
}


def _sentence(section: str, error: Mapping[str, Any], known: Mapping[str, str]) -> str:
    """`method.latents_per_step must be >= 1, got 0`, from one row of pydantic's errors."""
    key = ".".join([section, *(str(part) for part in error["loc"])])
    kind, context = error["type"], error.get("ctx", {})
    got = f", got {show(error['input'])}" if isinstance(error["input"], (str, int, float, bool, list)) else ""
    if kind == "unexpected_keyword_argument":
        return unknown_key(key, known)
    if kind in _COMPARISONS:
        return f"{key} must be {_COMPARISONS[kind].format(**context)}{got}"
    if kind == "literal_error" and error["loc"][-1] == "[key]":  # of a mapping whose keys are fixed
        own = ".".join([section, *map(str, error["loc"][:-1])])
        names = re.findall(r"'(\w+)'", context["expected"])
        return unknown_key(own, {f"{own.rpartition('.')[0]}.{name}": "" for name in names})
    if kind == "literal_error":
        return f"{key} must be one of {context['expected'].replace(' or ', ', ')}{got}"
    if kind == "value_error":
        return str(context["error"])  # of a `__post_init__`, which names the full keys itself
    if kind == "missing":
        return f"{key} is missing; give it with --set {key}=VALUE"
    expected = _KINDS.get(kind.split("_")[0])
    return f"{key} must be {expected}{got}" if expected else f"{key}: {error['msg']}{got}"


def unknown_key(key: str, known: Mapping[str, str]) -> str:
    """One sentence about a key that no class has, with the known one that is nearest in letters, else in meaning.

    Args:
        known: keys with their meaning.
    """
    *section, leaf = key.split(".")

    def beside(name: str) -> bool:
        parents = name.split(".")[:-1]
        return len(parents) == len(section) and all(a in (b, "<name>") for a, b in zip(parents, section, strict=True))

    by_leaf: dict[str, str] = {}  # those beside the key first, then those near the root
    for name in sorted(known, key=lambda name: (not beside(name), name.count("."), name)):
        by_leaf.setdefault(name.rpartition(".")[2], name)
    near = (
        difflib.get_close_matches(leaf, by_leaf, n=1, cutoff=0.75)
        or _alike_in_meaning(leaf, by_leaf, known)
        or difflib.get_close_matches(leaf, by_leaf, n=1, cutoff=0.6)
    )
    siblings = ", ".join(filter(beside, by_leaf.values()))
    hint = f"did you mean {by_leaf[near[0]]!r}?" if near else f"available: {siblings or 'none'}"
    return f"unknown key {key!r}; {hint}"


def _alike_in_meaning(leaf: str, by_leaf: Mapping[str, str], known: Mapping[str, str]) -> list[str]:
    """The leaf of the key whose meaning has every word of the unknown one, each as a beginning; of several the
    nearest to the root, then the tersest.

    So `learning_rate` finds `lr`, the "peak learning rate of AdamW".
    """
    wanted = leaf.lower().split("_")
    if len(wanted) < 2:
        return []  # one word occurs in too many meanings
    fitting = [
        (name.count("."), len(known[name]), found)
        for found, name in by_leaf.items()
        if all(any(word.startswith(part) for word in re.findall(r"\w+", known[name].lower())) for part in wanted)
    ]
    return [found for *_, found in sorted(fitting)[:1]]
