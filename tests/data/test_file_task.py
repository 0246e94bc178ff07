"""Where data are looked for, what a fingerprint says, and which training rows leak a test question."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from latbench.data import FileTask, Source, contamination, hub, normalised_question
from latbench.data import file_task as data
from latbench.data.hub import HubRows, HubSource
from latbench.task import Example, TaskConfig

ROWS = [
    {"id": "a", "question": "1+1?", "steps": [], "answer": "2"},
    {"id": "b", "question": "2+2?", "steps": [], "answer": "4"},
]


def hub_row(row: Mapping[str, Any], index: int) -> dict[str, Any]:
    return {"id": f"hub-{index}", "question": row["problem"], "steps": [], "answer": row["target"]}


class Toy(FileTask[TaskConfig]):
    name = "toy"
    kind = "number"
    sources: ClassVar = {
        "train": Source(file="toy_train.jsonl"),
        "test": Source(
            file="toy_test.jsonl", num_rows=2, hub=HubSource(id="lab/toy", split="test", revision="c0ffee", row=hub_row)
        ),
    }


class FirstOnly(Toy):
    def select(self, split: str, examples: list[Example]) -> tuple[list[Example], str]:
        return examples[:1], "first only"


def toy() -> Toy:
    return Toy(TaskConfig())


def write_test_split(folder: Path) -> Path:
    path = folder / "toy_test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def on_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"problem": row["question"], "target": row["answer"]} for row in ROWS]
    monkeypatch.setattr(data, "hub_rows", lambda source: HubRows(rows=rows, origin=f"{source.id}@{source.revision}"))


def test_a_local_file_comes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_hub: None) -> None:
    monkeypatch.setenv("LATBENCH_DATA_DIR", str(tmp_path))
    assert [example.id for example in toy().load("test")] == ["hub-0", "hub-1"]
    write_test_split(tmp_path)
    assert [example.id for example in toy().load("test")] == ["a", "b"]


def test_splits_are_those_of_the_sources() -> None:
    assert Toy.splits == ("train", "test")
    with pytest.raises(ValueError, match="unknown toy split 'tset'; did you mean 'test'"):
        toy().load("tset")


def test_fingerprint_is_the_hash_of_the_file_and_stable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATBENCH_DATA_DIR", str(tmp_path))
    path = write_test_split(tmp_path)
    fingerprint = toy().fingerprint("test")
    assert fingerprint.source == "toy_test.jsonl"
    assert fingerprint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert fingerprint.num_examples == 2
    assert toy().fingerprint("test") == fingerprint


def test_a_filter_is_named_in_the_fingerprint_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATBENCH_DATA_DIR", str(tmp_path))
    write_test_split(tmp_path)
    fingerprint = FirstOnly(TaskConfig()).fingerprint("test")
    assert (fingerprint.source, fingerprint.num_examples) == ("toy_test.jsonl first only", 1)


def test_hub_rows_are_hashed_by_content(monkeypatch: pytest.MonkeyPatch, on_hub: None) -> None:
    monkeypatch.delenv("LATBENCH_DATA_DIR", raising=False)
    first = toy().fingerprint("test")
    assert (first.source, first.num_examples) == ("lab/toy@c0ffee", 2)
    rows = [{"problem": "1+1?", "target": "2"}, {"problem": "2+2?", "target": "5"}]
    monkeypatch.setattr(data, "hub_rows", lambda source: HubRows(rows=rows, origin="lab/toy@c0ffee"))
    assert toy().fingerprint("test").sha256 != first.sha256


def test_a_change_to_the_loaded_list_does_not_reach_the_task(monkeypatch: pytest.MonkeyPatch, on_hub: None) -> None:
    monkeypatch.delenv("LATBENCH_DATA_DIR", raising=False)
    task = toy()
    task.load("test").clear()
    assert len(task.load("test")) == 2


def test_missing_data_say_which_file_and_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(source: HubSource) -> HubRows:
        raise LookupError(f"{source.id} is not cached")

    monkeypatch.setattr(data, "hub_rows", nowhere)
    monkeypatch.delenv("LATBENCH_DATA_DIR", raising=False)
    with pytest.raises(ValueError, match="no data for task 'toy', split 'test'") as caught:
        toy().load("test")
    assert str(caught.value).endswith(
        "LATBENCH_DATA_DIR is not set and lab/toy is not cached; "
        "set LATBENCH_DATA_DIR (or --data-dir) to a folder that holds toy_test.jsonl"
    )
    monkeypatch.setenv("LATBENCH_DATA_DIR", str(tmp_path))
    with pytest.raises(
        ValueError, match=f"LATBENCH_DATA_DIR={tmp_path} holds no toy_train.jsonl and the Hub has no copy"
    ):
        toy().load("train")


def test_a_wrong_number_of_hub_rows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LATBENCH_DATA_DIR", raising=False)
    monkeypatch.setattr(
        data, "hub_rows", lambda source: HubRows(rows=[{"problem": "?", "target": "1"}], origin="lab/toy")
    )
    with pytest.raises(ValueError, match="lab/toy holds 1 rows, but task 'toy', split 'test' has 2"):
        toy().load("test")


def test_scores_follow_the_kind_and_the_configured_scorer() -> None:
    example = Example(id="a", question="?", steps=(), answer="18")
    pairs = [("so it is 18.0", example), ("19", example), ("", example)]
    assert [score.status for score in toy().score_many(pairs)] == ["correct", "incorrect", "no_answer"]
    strict = Toy(TaskConfig(scorer="after_hash"))
    assert [strict.score(text, example).status for text in ("### 18", "### 18.0")] == ["correct", "incorrect"]
    run_on = "#### 18\n\nQuestion: and then?\n#### 3"
    assert [Toy(TaskConfig(run_on=which)).score(run_on, example).status for which in ("first", "last")] == [
        "correct", "incorrect",
    ]  # fmt: skip


def test_local_data_need_neither_datasets_nor_torch(tmp_path: Path) -> None:
    write_test_split(tmp_path)
    code = (
        "import sys, tasks.gsm8k, tasks.openr1_math\n"
        "from latbench.data import Source, read_split\n"
        "assert len(read_split(Source(file='toy_test.jsonl'), 'number', 'toy').examples) == 2\n"
        "print(*sorted({'torch', 'datasets', 'transformers'} & set(sys.modules)))"
    )
    environment = {"LATBENCH_DATA_DIR": str(tmp_path), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(data.__file__).parents[2],
    )
    assert done.stdout.strip() == ""


def example(id: str, question: str) -> Example:
    return Example(id=id, question=question, steps=(), answer="1")


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("How many  apples,\nin all?", "how many apples in all", True),
        ("It’s “5” – 3.", 'It\'s "5" - 3', True),
        ("Find $x+1$.", "Find $x-1$.", False),
        ("It costs 2.5 dollars.", "It costs 25 dollars.", False),
        ("He has 3.", "He has 3", True),
        ("Find x^2.", "Find x2.", False),
        ("ﬁve", "FIVE", True),
        ("If 2 of the games didn’t work", "If 2 of the games did n't work ,", True),
        ("a pie-eating contest in a T-shirt", "A pie - eating contest in a T - shirt", True),
        ("a 5-day trip for $1,346", "A 5 day trip for $ 1346", True),
        (r"Find $\cos ^{3} \frac{2 \pi}{7}+x$.", r"Find \[\cos^3 \frac{2 \pi}{7} + x.\]", True),
        ("One focus is at $(3,7)$, and", "One focus is at $(3, 7)$ and", True),
        (r"Simplify $\sin x - \cos x$.", r"Simplify $\sin x \cos x$.", False),
        ("Solve $5-x=3$.", "Solve $5x=3$.", False),
        ("Evaluate $i^{-5}$.", "Evaluate $i^5$.", False),
        (r"What is $88 \div (4 \div 2)$?", r"What is $88 \div 4 \div 2$?", False),
        ("He has .5 of it.", "He has 5 of it.", False),
        ("Is it 7 2?", "Is it 72?", False),
    ],
)
def test_questions_are_one_when_only_case_space_and_punctuation_differ(left: str, right: str, same: bool) -> None:
    assert (normalised_question(left) == normalised_question(right)) is same


def test_contamination_lists_every_pair_and_counts_rows_once() -> None:
    train = [example("t0", "Who?"), example("t1", "where"), example("t2", "why"), example("t3", "WHO")]
    test = [example("e0", "who!"), example("e1", "Where?"), example("e2", "who"), example("e3", "when")]
    report = contamination(train, test)
    assert report.pairs == (("t0", "e0"), ("t0", "e2"), ("t1", "e1"), ("t3", "e0"), ("t3", "e2"))
    assert (report.num_train, report.num_test) == (4, 4)
    assert (report.num_train_overlapping, report.num_test_overlapping) == (3, 3)


def test_dropping_leaves_no_contamination_and_keeps_the_rest_in_order() -> None:
    train = [example(f"t{n}", f"What is {n}?") for n in range(6)]
    test = [example("e", "what is 2"), example("f", "What is 4"), example("g", "other")]
    kept = contamination(train, test).without(train)
    assert [row.id for row in kept] == ["t0", "t1", "t3", "t5"]
    assert not contamination(kept, test).pairs


def test_hub_module_is_not_asked_for_data_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> bool:
        raise AssertionError("the Hub was probed")

    monkeypatch.setattr(hub, "hub_reachable", never)
    monkeypatch.setenv("LATBENCH_DATA_DIR", str(tmp_path))
    write_test_split(tmp_path)
    assert len(toy().load("test")) == 2
