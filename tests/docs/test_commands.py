"""Every command that the documentation shows exists as it is shown, and runs, with tiny settings."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer

import latbench.config
from latbench import registry
from latbench.cli import app, main
from latbench.config import RunConfig, tree
from latbench.config.keys import imported_keys, method_keys, shared_keys, task_keys
from latbench.data import DATA_DIR
from latbench.task import Task
from tests.conftest import small_model
from tests.docs.commands import NOT_RUN, ROOT, Command, inline, pages, shown

ALL = [*pages(), "results/README.md", "CONTRIBUTING.md"]
SMALL: tree.Tree = {
    "train.max_steps": 1,
    "train.batch_size": 4,
    "train.accumulation": 1,
    "train.num_examples": 40,
    "generate.max_new_tokens": 4,
    "generate.max_latents": 8,
}
"""Of a run, and of each run that it starts from."""
SYNTH: tree.Tree = {"task.num_train": 40, "task.num_test": 4}
TINY: tree.Tree = {"model.hidden_size": 16, "model.num_heads": 2, "model.num_layers": 1, "model.mlp_size": 16}
ROLLOUT: tree.Tree = {
    "train.max_steps": None,
    "train.rl.steps": 1,
    "train.rl.prompts": 2,
    "train.rl.group_size": 2,
    "train.rl.eval_every": 0,
    "train.rl.rollout.max_new_tokens": 4,
    "train.rl.rollout.max_latents": 4,
}
SWEEP = "methods: [direct]\nseeds: [0]\nbase: {task: {num_train: 40, num_test: 4}, train: {max_steps: 1}}\n"


OWN_ROWS = "\n".join(
    f'{{"problem": "{i} + 1?", "work": ["<<{i}+1={i + 1}>>"], "result": "{i + 1}"}}' for i in range(140)
)


# what parses


def commands_of(kind: str) -> list[Command]:
    lines = [command for page in ALL for command in (*shown(page), *inline(page))]
    return [command for command in dict.fromkeys(lines) if command.words[0] == kind]


@pytest.mark.parametrize("command", commands_of("latbench"), ids=lambda command: f"{command.page}: {command.line}")
def test_a_command_parses(command: Command) -> None:
    """Its name, its options and the number of its arguments, by the parser of the command line itself."""
    group: Any = typer.main.get_command(app)
    words = command.words[1:]
    context = group.make_context("latbench", list(words))
    name, found, rest = group.resolve_command(context, words)
    assert found is not None
    assert name is not None
    if len(command.words) > 2:  # a command alone may be the name of it
        found.make_context(name, rest, parent=context)
    for key in set_keys(command.words):
        assert key in known_keys(), f"{key} is no key"


@pytest.mark.parametrize("command", commands_of("make"), ids=lambda command: f"{command.page}: {command.line}")
def test_make_knows_its_targets(command: Command) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{command.words[1]}:", makefile, re.MULTILINE)


def test_an_unknown_option_or_key_would_fail() -> None:
    with pytest.raises(Exception, match="No such option"):
        test_a_command_parses(Command("", "latbench train --methode cot"))
    with pytest.raises(AssertionError, match="is no key"):
        test_a_command_parses(Command("", "latbench train --set train.rate=1"))


def test_each_reason_not_to_run_a_command_belongs_to_one() -> None:
    lines = [command.line for page in pages() for command in shown(page)]
    assert [pattern for pattern in NOT_RUN if not any(re.fullmatch(pattern, line) for line in lines)] == []


def set_keys(words: Sequence[str]) -> list[str]:
    """Keys of `--set`, those of the run that a run starts from as its own."""
    values = [value for option, value in pairwise(words) if option == "--set"]
    found = [value.partition("=")[0] for value in values if not value.startswith("KEY")]
    return [re.sub(r"^(start\.)+", "", re.sub(r"^(train\.stages)\.[^.]+", r"\1.<name>", key)) for key in found]


def known_keys() -> frozenset[str]:
    methods = [key.name for name in registry.method_names() for key in method_keys(name)]
    tasks = [key.name for name in (*registry.task_names(), "own--data") for key in task_keys(name)]
    of_all = [key.name for key in (*shared_keys(), *imported_keys())]
    return frozenset([*of_all, *methods, *tasks, "method.name", "task.name", "start.method"])


# what runs


@pytest.fixture
def small_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever is asked for is made tiny."""
    whole = latbench.config.parse

    def tiny(given: Mapping[str, Any], **options: Any) -> RunConfig:
        return whole(shrunk(whole(given, **options), given), **options)

    monkeypatch.setattr(latbench.config, "parse", tiny)
    yield
    for module in list(sys.modules.values()):  # what was imported meanwhile would keep it for all later tests
        if vars(module).get("parse") is tiny:
            vars(module)["parse"] = whole


@pytest.mark.slow
@pytest.mark.usefixtures("small_settings")
@pytest.mark.parametrize("page", [page for page in pages() if any(not found.reason for found in shown(page))])
def test_the_commands_of_a_page_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in an empty folder, through the entry point of the command line."""
    monkeypatch.setattr(Task, "rewards", lambda self, pairs: [float(index % 2) for index in range(len(pairs))])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "SWEEP.yaml").write_text(SWEEP, encoding="utf-8")
    for name in ("my.jsonl", "sums.jsonl"):
        (tmp_path / name).write_text(OWN_ROWS, encoding="utf-8")
    monkeypatch.setenv(registry.FILES, "")  # what the page registers ends with it
    monkeypatch.setattr(registry, "_entries", {kind: dict(known) for kind, known in registry._entries.items()})
    for command in shown(page):
        if command.reason or (reads_data(command.words) and DATA_DIR not in os.environ):
            continue  # a machine that has the data files runs it
        words = [stand_in(word, tmp_path) for word in command.words[1:]]
        if words[0] == "eval" and reads_data(command.words) and "--limit" not in words:
            words += ["--limit", "3"]
        assert main(words) == 0, command.line


def shrunk(config: RunConfig, given: Mapping[str, Any]) -> tree.Tree:
    """What the user gave, with small sizes in the run and in all that it starts from."""
    made: tree.Tree = {}
    whole = tree.merge({}, given)
    settings = SMALL | (TINY if config.model.id == "tiny" else {})
    settings |= SYNTH if config.task_name == "synth" else {}
    settings |= ROLLOUT if config.train.rl else {}
    start, within = config.start, "start."
    while start is not None:
        settings |= {within + key: value for key, value in SMALL.items() if key.startswith("train.")}
        start, within = start.start, f"{within}start."
    for key, value in settings.items():
        tree.put(made, key, value)
    return tree.merge(whole, made)


def reads_data(words: Sequence[str]) -> bool:
    """Whether a command names a task that is not generated."""
    pairs = pairwise(words)
    named = {name for option, value in pairs if option in ("--task", "--tasks") for name in value.split(",")}
    own = {name for name in named if name.endswith((".py", ".jsonl"))}
    generated = own | {"synth", "synth_words", "graphs"}
    return bool(named - generated)


def stand_in(word: str, folder: Path) -> str:
    """What stands for a placeholder of the documentation."""
    if word in ("RUN", "REFERENCE"):  # the latest run, and the first
        if not (folder / "runs").exists():  # the page is about a run that there is
            assert main(["train", "--method", "cot"]) == 0
        last_or_first = max if word == "RUN" else min
        return str(last_or_first((folder / "runs").glob("*/train.json"), key=lambda path: path.stat().st_mtime).parent)
    if word == "run=RUN":
        return f"run={stand_in('RUN', folder)}"
    if word == "EVALUATION":
        made = (folder / "runs").glob("*/eval/*/manifest.json")
        return str(max(made, key=lambda path: path.stat().st_mtime).parent)
    if word == "ID_OR_PATH":
        return str(small_model("llama", folder / "model")["id"])
    if word == "results":
        return str(ROOT / "results")
    return word
