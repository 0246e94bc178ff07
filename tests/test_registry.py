"""The registry: names from files and entry points, import on first use, foreign packages."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
import textwrap
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from latbench import registry
from latbench.task import Task, TaskConfig

CHECKOUT = Path(registry.__file__).parents[1]


def run_python(code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter with these folders first on its path."""
    start = f"import sys; sys.path[:0] = {[str(folder) for folder in (*path, CHECKOUT)]}\n"
    return subprocess.run([sys.executable, "-c", start + textwrap.dedent(code)], capture_output=True, text=True)


def test_listing_imports_neither_torch_nor_a_method_nor_a_task() -> None:
    done = run_python(
        """
        from latbench import registry
        assert "cot" in registry.method_names() and "synth" in registry.task_names()
        assert all(registry.describe("method").values()) and all(registry.describe("task").values())
        loaded = [name for name in sys.modules if name.startswith(("torch", "transformers", "methods.", "tasks."))]
        assert loaded == [], loaded
        """
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["method", "task"])
def test_registered_name_is_the_file_name(kind: registry.Kind) -> None:
    for name, module in registry._modules(kind).items():
        assert module.split(".")[-1] == name


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown method 'ctt'; did you mean 'cot'\? Available: .*direct"):
        registry.get_method("ctt")
    with pytest.raises(ValueError, match=r"unknown task 'gsm9k'; did you mean 'gsm8k'\?"):
        registry.get_task_entry("gsm9k")
    with pytest.raises(ValueError, match="unknown method 'zzzzzzzz'; Available: "):
        registry.get_method("zzzzzzzz")


def test_papers_are_those_that_a_method_is_named_after_in_the_same_order_whatever_is_imported() -> None:
    registry.get_method("sim_cot")
    registry.get_method("coconut")
    papers = registry.papers()
    assert list(papers) == registry.method_names()
    assert papers["coconut"] == ("2412.06769",), "the first line names it"
    assert papers["soft_thinking"][0] == "2505.15778", "the first paragraph that names any"
    assert all(papers.values())


def test_registering_a_name_from_two_modules_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._entries, "task", {})

    class First(Task[TaskConfig]): ...

    class Second(Task[TaskConfig]): ...

    Second.__module__ = "elsewhere"
    registry.register_task("thing", config=dict)(First)
    assert registry.get_task_entry("thing").cls is First
    with pytest.raises(ValueError, match=r"task 'thing' is registered twice: .* and elsewhere"):
        registry.register_task("thing", config=dict)(Second)


def test_a_python_file_in_a_file_of_settings_is_not_run_and_said_to_be_one(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("raise SystemExit")
    with pytest.raises(ValueError, match=rf"^method '{file}' is a Python file, .*; set {registry.FILES}={file} in the"):
        registry.get_method(str(file))


def test_the_file_that_a_call_names_is_the_one_that_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._entries, "task", dict(registry._entries["task"]))
    monkeypatch.setenv(registry.FILES, "")

    def write(place: str, name: str, text: str) -> str:
        file = tmp_path / place
        file.parent.mkdir(exist_ok=True)
        file.write_text(
            "from latbench.registry import register_task\n"
            f'@register_task("{name}", config=dict)\nclass Theirs:\n    text = {text}\n'
        )
        return str(file)

    def text_of(file: str) -> object:
        return getattr(registry.get_task_entry(registry.from_file("task", file)).cls, "text", None)

    assert text_of(write("a/mine.py", "mine", "'first'")) == "first"
    assert text_of(write("a/mine.py", "mine", "'edited'")) == "edited"
    assert text_of(write("b/mine.py", "other", "'of the same name'")) == "of the same name"
    twice = rf"task 'mine' is registered twice: {tmp_path}/a/mine.py and {tmp_path}/b/more.py; give one of them another"
    with pytest.raises(ValueError, match=twice):
        registry.from_file("task", write("b/more.py", "mine", "'of the same task'"))
    with pytest.raises(NameError):
        registry.from_file("task", write("b/broken.py", "broken", "nothing"))
    assert text_of(str(tmp_path / "a/mine.py")) == "edited", "what was refused stands in nobody's way"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(registry.FILES, "a/mine.py")
    assert text_of("a/../a/mine.py") == "edited", "one file, however it is named"
    assert "synth" in registry.task_names()


def test_entry_points_add_names_and_are_imported_on_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "their_task.py"
    module.write_text(
        '"""Their task."""\nfrom latbench.registry import register_task\n'
        '@register_task("theirs", config=dict)\nclass Theirs: ...\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registry._entries, "task", dict(registry._entries["task"]))
    points = [importlib.metadata.EntryPoint(name="theirs", value="their_task", group="latbench.tasks")]

    def entry_points(group: str) -> list[Any]:
        return [point for point in points if point.group == group]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    assert "theirs" in registry.task_names()
    assert registry.describe("task")["theirs"] == "Their task."
    assert "their_task" not in sys.modules
    assert registry.get_task_entry("theirs").config is dict


def test_two_files_of_one_name_are_both_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(registry.FILES, "")
    for kind in ("method", "task"):
        monkeypatch.setitem(registry._entries, kind, dict(registry._entries[kind]))
        path = tmp_path / kind / "mine.py"
        path.parent.mkdir()
        path.write_text(
            f'"""Mine."""\nfrom latbench.registry import register_{kind}\n'
            f'@register_{kind}("my_{kind}", config=dict)\nclass Mine: ...\n'
        )
    assert registry.from_file("method", str(tmp_path / "method" / "mine.py")) == "my_method"
    assert registry.from_file("task", str(tmp_path / "task" / "mine.py")) == "my_task"
    assert registry.get_method("my_method").config is registry.get_task_entry("my_task").config is dict


def test_a_plain_folder_found_instead_of_a_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    namespace = ModuleSpec("tasks", None, is_package=True)
    namespace.submodule_search_locations = ["/data/tasks"]
    for spec, end in ((namespace, ", and the folder /data/tasks may hide it: start elsewhere"), (None, "")):
        with monkeypatch.context() as patch:
            patch.setattr(importlib.util, "find_spec", lambda name, spec=spec: spec)
            with pytest.raises(ValueError, match=f"'tasks' is not found; run `pip install -e .` in its checkout{end}$"):
                registry.task_names()


@pytest.mark.parametrize("kind", ["methods", "tasks"])
def test_a_foreign_package_of_the_same_name_is_named_with_its_path(tmp_path: Path, kind: str) -> None:
    foreign = tmp_path / kind / "__init__.py"
    foreign.parent.mkdir()
    foreign.write_text("raise RuntimeError('a foreign package must not be imported')\n")
    code = f"from latbench import registry; registry.{kind[:-1]}_names()"
    done = run_python(code, tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        f"ValueError: another package named '{kind}' at {foreign} hides latbench's own; uninstall it"
    )


def test_a_foreign_module_of_the_same_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text("x = 1\n")
    done = run_python("from latbench import registry; registry.task_names()", tmp_path)
    assert "another package named 'tasks'" in done.stderr.strip().splitlines()[-1]
