"""What every registered task owes; a new task is covered with no new code.

Tasks read from files are checked where LATBENCH_DATA_DIR holds their data, as `make test` arranges where it can.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest

from latbench.data import DATA_DIR, FileTask, hub
from latbench.registry import describe, get_task_entry, task_names
from latbench.task import Example, Task, TaskConfig


def at_hand(name: str, split: str) -> bool:
    """Whether the split is generated, or its file lies in LATBENCH_DATA_DIR."""
    sources = getattr(get_task_entry(name).cls, "sources", None)
    return sources is None or (Path(os.environ.get(DATA_DIR, "/nowhere")) / sources[split].file).exists()


EVERY = [(name, split) for name in task_names() for split in get_task_entry(name).cls.splits]
SPLITS = [
    pytest.param(name, split, marks=pytest.mark.slow if split == "train" else ())  # training splits are large
    for name, split in EVERY
    if at_hand(name, split)
]


def new_task(name: str) -> Task[TaskConfig]:
    entry = get_task_entry(name)
    task: Task[TaskConfig] = entry.cls(entry.config())
    return task


@cache
def loaded(name: str, split: str) -> tuple[Task[TaskConfig], list[Example]]:
    """The task and the split's examples."""
    task = new_task(name)
    return task, task.load(split)


@pytest.mark.parametrize(
    ("name", "split"), [pair for pair in EVERY if get_task_entry(pair[0]).cls.__base__ is FileTask]
)
def test_absent_data_are_one_sentence_that_says_what_to_set(
    name: str, split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATA_DIR, str(tmp_path))
    monkeypatch.setattr(hub, "hub_rows", lambda source: (_ for _ in ()).throw(LookupError("no network")))
    with pytest.raises(ValueError, match=f"^no data for task '{name}', split '{split}': ") as error:
        new_task(name).load(split)
    assert "set LATBENCH_DATA_DIR (or --data-dir) to a folder that holds " in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", task_names())
def test_name_is_the_file_and_the_first_docstring_line_says_what_it_is(name: str) -> None:
    entry = get_task_entry(name)
    assert entry.cls.name == name
    assert entry.cls.__module__.split(".")[1] == name
    assert issubclass(entry.config, TaskConfig)
    assert len(describe("task")[name]) > 10
    assert entry.cls.splits


@pytest.mark.parametrize("name", task_names())
def test_an_unknown_split_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"(?=.*{name})(?=.*no-such-split)"):
        new_task(name).load("no-such-split")


@pytest.mark.parametrize(("name", "split"), SPLITS)
def test_ids_are_unique_and_no_question_or_answer_is_empty(name: str, split: str) -> None:
    task, examples = loaded(name, split)
    assert len({example.id for example in examples}) == len(examples)
    for example in examples:
        assert example.question.strip()
        assert example.answer.strip()
        assert all(step.strip() for step in example.steps)
        assert task.prompt(example).strip()


@pytest.mark.parametrize(("name", "split"), SPLITS)
def test_every_gold_equals_itself_bare_and_boxed(name: str, split: str) -> None:
    task, examples = loaded(name, split)
    bare = [(example.answer, example) for example in examples]
    boxed = [(rf"Hence the answer is \boxed{{{example.answer}}}.", example) for example in examples]
    assert [score for score in task.score_many(bare + boxed) if score.status != "correct"] == []


@pytest.mark.parametrize(("name", "split"), SPLITS)
def test_a_missing_answer_is_no_answer(name: str, split: str) -> None:
    task, examples = loaded(name, split)
    assert {score.status for score in task.score_many([("", example) for example in examples])} <= {"no_answer"}


@pytest.mark.parametrize(("name", "split"), SPLITS)
def test_fingerprint_counts_the_examples_and_loading_again_gives_the_same(name: str, split: str) -> None:
    task, examples = loaded(name, split)
    fingerprint = task.fingerprint(split)
    again = new_task(name)
    assert fingerprint.num_examples == len(examples) > 0
    assert len(fingerprint.sha256) == 64
    assert again.fingerprint(split) == fingerprint
    assert [example.id for example in again.load(split)] == [example.id for example in examples]


def test_the_page_of_tasks_lists_every_task_with_its_splits_and_kind() -> None:
    page = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith("| `")]
    by_name = {line.split("`")[1]: [field.strip() for field in line.strip("|").split("|")] for line in lines}
    assert sorted(by_name) == sorted(task_names())
    for name in task_names():
        cls = get_task_entry(name).cls
        if issubclass(cls, FileTask):
            splits, kind = by_name[name][3:5]
            assert [split.split(" (")[0] for split in splits.split(", ")] == list(cls.splits)
            assert kind == cls.kind
