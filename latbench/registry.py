"""Registered methods and tasks: found by reading files, imported on first use.

Names come from the files of the packages `methods` and `tasks` and from the entry-point groups `latbench.methods` and
`latbench.tasks`; listing parses source with `ast`, so that it needs no torch. A task may also be a data file or a Hub
data set of the user's own: its name is the file's name, or the Hub id with `--` for the slash.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from latbench.task import Task

Kind = Literal["method", "task"]
FILES = "LATBENCH_FILES"  # environment variable: Python files that a command was given, for the processes it starts
DATA_ENDINGS = (".jsonl", ".json", ".csv", ".parquet")  # of own data, each with or without `.gz`
_OWN_DATA = "latbench.data.own_data"  # module of the one task over all own data
_FILE_NAME = re.compile(r"\w[\w.+-]*")
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
ClassT = TypeVar("ClassT", bound=type)
RegisteredT = TypeVar("RegisteredT")


@dataclass(frozen=True, kw_only=True)
class Entry(Generic[RegisteredT]):
    """A registered class with the types of its configuration."""

    name: str
    """Registered name."""
    cls: type[RegisteredT]
    """The method or task."""
    config: type
    """Class of its settings, `method.*` or `task.*`."""
    decoding: type | None = None
    """Class of the decoding settings that this method alone reads, `generate.method.*`; None: it reads none."""


_entries: dict[Kind, dict[str, Entry[Any]]] = {"method": {}, "task": {}}


def _register(kind: Kind, name: str, config: type, decoding: type | None = None) -> Callable[[ClassT], ClassT]:
    def decorate(cls: ClassT) -> ClassT:
        known = _entries[kind].get(name)
        if known is not None and known.cls.__module__ != cls.__module__:
            both = " and ".join(_place(module) for module in (known.cls.__module__, cls.__module__))
            raise ValueError(f"{kind} {name!r} is registered twice: {both}; give one of them another name")
        cls.name = name  # type: ignore[attr-defined]
        if kind == "method":
            cls.decoding = decoding  # type: ignore[attr-defined]
        _entries[kind][name] = Entry(name=name, cls=cls, config=config, decoding=decoding)
        return cls

    return decorate


def register_method(name: str, *, config: type, decoding: type | None = None) -> Callable[[ClassT], ClassT]:
    """Class decorator: the method's registered name and the types of its configuration.

    Args:
        config: class of `method.*`.
        decoding: class of `generate.method.*`, the decoding settings that no other method reads.
    """
    return _register("method", name, config, decoding)


def register_task(name: str, *, config: type) -> Callable[[ClassT], ClassT]:
    """Class decorator: the task's registered name and the type of its configuration."""
    return _register("task", name, config)


def get_method(name: str) -> Entry[Any]:
    """The registered method of that name. Raises: ValueError: unknown, with the nearest name."""
    return _get("method", name)


def get_task_entry(name: str) -> Entry[Task[Any]]:
    """The registered task of that name. Raises: ValueError: unknown, with the nearest name."""
    return _get("task", name)


def method_names() -> list[str]:
    """Names of all methods, sorted; nothing is imported."""
    return sorted(_modules("method"))


def task_names() -> list[str]:
    """Names of all tasks, sorted; nothing is imported."""
    return sorted(_modules("task"))


def importers() -> dict[str, Any]:
    """Importers of released checkpoints by name: `IMPORTER` of every file in `methods/importers/`, and of the modules
    of the entry-point group `latbench.importers`."""
    folder = _package_folder("method") / "importers"
    modules = dict(_entry_points("latbench.importers", tuple(sys.path)))
    modules |= {p.stem: f"methods.importers.{p.stem}" for p in folder.glob("*.py") if not p.stem.startswith("_")}
    return {name: importlib.import_module(module).IMPORTER for name, module in sorted(modules.items())}


def is_data_file(path: str) -> bool:
    """Whether a path ends as a file of own data does."""
    return path.removesuffix(".gz").endswith(DATA_ENDINGS)


def is_own_data(name: str) -> bool:
    """Whether a task's name is that of own data: of a file, or a Hub id with `--` for the slash."""
    return bool(_FILE_NAME.fullmatch(name)) and (is_data_file(name) or "--" in name)


@lru_cache(maxsize=256)
def own_data(name: str) -> Entry[Task[Any]]:
    """The task over own data of that name."""
    module = importlib.import_module(_OWN_DATA)
    cls = type(module.OwnData.__name__, (module.OwnData,), {"name": name, "__doc__": module.OwnData.__doc__})
    return Entry(name=name, cls=cls, config=module.OwnDataConfig)


def describe(kind: Kind) -> dict[str, str]:
    """First docstring line by name, read from the files without importing them."""
    return {name: _docstring(module).split("\n")[0] for name, module in sorted(_modules(kind).items())}


def papers() -> dict[str, tuple[str, ...]]:
    """arXiv numbers of each method's papers: those in the first line of its docstring, else in the first paragraph that
    names any. The files are read without importing them."""
    found = {}
    for name, module in sorted(_modules("method").items()):
        first, _, rest = _docstring(module).partition("\n")
        numbers = (ARXIV.findall(part) for part in (first, *rest.split("\n\n")))
        found[name] = tuple(dict.fromkeys(next(filter(None, numbers), [])))
    return found


def preset_file(method: str) -> Path:
    """`presets/<method>.yaml` beside the method's module or package, ours or a third party's.

    Raises: ValueError: unknown method, with the nearest name.
    """
    modules = _modules("method")
    if method not in modules:
        raise unknown("method", method, modules)
    spec = importlib.util.find_spec(modules[method])
    if spec is None or spec.origin is None:
        raise ValueError(f"module {modules[method]} of method {method!r} is not found; reinstall its package")
    path = Path(spec.origin)
    folder = path.parent.parent if path.name == "__init__.py" else path.parent
    return folder / "presets" / f"{method}.yaml"


def from_file(kind: Kind, name_or_path: str) -> str:
    """The registered name; of a Python file, such as `./mine.py`, which is run and must register one method or task.

    Only a call's own argument leads here, never a file: whoever names a Python file asks for it to be run, and anew
    where it has changed since. Processes that this one starts find the file in the environment variable FILES.

    Raises: ValueError: no such file, or it registers none or several.
    """
    if not name_or_path.endswith(".py"):
        return name_or_path
    path = Path(name_or_path).resolve()
    if not path.is_file():
        raise ValueError(f"--{kind} {name_or_path}: there is no such file; give a registered name or the path of one")
    names = _registered_names(path, kind)
    if len(names) != 1:
        found = ", ".join(names) or "none"
        raise ValueError(f"--{kind} {name_or_path} must register one {kind} with @register_{kind}(...); found {found}")
    _run_file(path, anew=True)
    known = [text for text in os.environ.get(FILES, "").split(os.pathsep) if text]
    if str(path) not in known:
        os.environ[FILES] = os.pathsep.join([*known, str(path)])
    return names[0]


def own_code(method: str, task: str) -> dict[str, str]:
    """SHA-256, as they were run, of the user's own Python files that a method and a task are made of, by what they are
    and their name, such as `method mine.py`; empty for ours and for installed packages."""
    found = {}
    for kind, entry in (("method", get_method(method)), ("task", get_task_entry(task))):
        for module in dict.fromkeys(cls.__module__ for cls in entry.cls.__mro__):
            if module in _run:
                found[f"{kind} {Path(_place(module)).name}"] = hashlib.sha256(_run[module]).hexdigest()
    return found


def unknown(what: str, name: str, available: Iterable[str]) -> ValueError:
    """One sentence: the unknown name, the nearest known one, and all of them."""
    names = sorted(available)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ValueError(f"unknown {what} {name!r}; {hint}Available: {', '.join(names) or 'none'}")


def _get(kind: Kind, name: str) -> Entry[Any]:
    if kind == "task" and is_own_data(name):
        return own_data(name)
    if name not in _entries[kind]:
        modules = _modules(kind)
        if name.endswith(".py"):  # in a configuration or a sweep, which run nothing
            raise ValueError(
                f"{kind} {name!r} is a Python file, which no file of settings can run; set {FILES}={name} in the "
                f"environment, and give the {kind} its registered name here"
            )
        if name not in modules:
            own = f"; for a {kind} in a file of your own name the file, or set {FILES}=FILE.py in the environment"
            raise ValueError(f"{unknown(kind, name, modules)}{own}")
        importlib.import_module(modules[name])
        if name not in _entries[kind]:
            raise ValueError(f"module {modules[name]} registers no {kind} named {name!r}")
    return _entries[kind][name]


def _modules(kind: Kind) -> dict[str, str]:
    """Module name by registered name: files of the package, then entry points, then what is already registered."""
    folder = _package_folder(kind)
    for text in os.environ.get(FILES, "").split(os.pathsep):
        if text:
            _run_file(Path(text))
    found = {entry.name: entry.cls.__module__ for entry in _entries[kind].values()}
    for name, module in _entry_points(f"latbench.{kind}s", tuple(sys.path)):
        found.setdefault(name, module)
    for path in sorted(folder.iterdir()):
        name = path.stem
        is_module = path.suffix == ".py" or (path.is_dir() and (path / "__init__.py").exists())
        if is_module and not name.startswith("_"):
            for registered in _registered_names(path, kind):
                found[registered] = f"{kind}s.{name}"
    return found


@lru_cache(maxsize=16)
def _entry_points(group: str, _search_path: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Name and module of the entry points of a group: read once a search path, since every package is opened for it."""
    return tuple((point.name, point.module) for point in importlib.metadata.entry_points(group=group))


_run: dict[str, bytes] = {}  # what each file held when it was run, by the name of its module


def _run_file(path: Path, *, anew: bool = False) -> None:
    """Run a Python file once, as a module of its own name.

    Args:
        path: files of one name in several folders are several modules.
        anew: run it again where it has changed since.
    """
    path = path.resolve()
    name = f"latbench_file_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules and not (anew and path.read_bytes() != _run[name]):
        return
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, f"{path} ends in .py"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name], _run[name] = module, path.read_bytes()
    try:
        exec(compile(_run[name], path, "exec"), module.__dict__)  # as it is now, and not as a cache has it
    except Exception:
        del sys.modules[name]
        raise


def _place(module: str) -> str:
    """Where a module lies, for a message: the file that a user named, else the module's name."""
    return str(sys.modules[module].__file__) if module in _run else module


def _registered_names(path: Path, kind: Kind) -> list[str]:
    """Names in `@register_<kind>("name", ...)` decorators of a module or package."""
    files = sorted(path.glob("*.py")) if path.is_dir() else [path]
    return [name for file in files for name in _names_in(file, kind, file.stat().st_mtime_ns)]


@cache
def _names_in(file: Path, kind: Kind, _modified: int) -> tuple[str, ...]:
    """Names in the decorators of one file, read once for each of its versions."""
    names = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and _name(node.func) == f"register_{kind}":
            first: Any = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                names.append(first.value)
    return tuple(names)


def _name(called: ast.expr) -> str | None:
    """`f` of both `f(...)` and `module.f(...)`."""
    return called.id if isinstance(called, ast.Name) else called.attr if isinstance(called, ast.Attribute) else None


def _docstring(module: str) -> str:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return ""
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""


def _package_folder(kind: Kind) -> Path:
    """Folder of our package `methods` or `tasks`; both names are generic, so a foreign package may shadow ours."""
    name = f"{kind}s"
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.origin:  # without origin: any folder of that name
        found = ", ".join((spec and spec.submodule_search_locations) or ())
        hidden = f", and the folder {found} may hide it: start elsewhere" if found else ""
        raise ValueError(f"latbench's package {name!r} is not found; run `pip install -e .` in its checkout{hidden}")
    if "__latbench__ = True" not in Path(spec.origin).read_text(encoding="utf-8", errors="replace"):
        raise ValueError(
            f"another package named {name!r} at {spec.origin} hides latbench's own; uninstall it or put latbench first "
            "on the path (python -m latbench from the checkout does)"
        )
    return Path(spec.origin).parent
