"""Tasks that do more than read one file of rows: GSM8K's held-out rows, GSM8K-Aug's text form, lists, limits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from latbench.data import FileTask
from latbench.registry import get_task_entry
from latbench.task import TaskConfig
from tasks import gsm8k as gsm8k_module
from tasks.openr1_math import OpenR1Math, OpenR1MathConfig, token_counter


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LATBENCH_DATA_DIR", str(tmp_path))
    return tmp_path


def without_counts(name: str) -> FileTask[TaskConfig]:
    """The task, without the published row counts: fixtures have few rows."""
    entry = get_task_entry(name)
    sources = {split: replace(source, num_rows=None) for split, source in entry.cls.sources.items()}
    task: FileTask[TaskConfig] = type("Fixture", (entry.cls,), {"sources": sources})(entry.config())
    return task


def write(path: Path, rows: list[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def gsm8k_rows(split: str, count: int) -> list[Mapping[str, Any]]:
    return [
        {
            "id": f"gsm8k-{split}-{n:05d}",
            "question": f"{n}+1?",
            "steps": [f"It is <<{n}+1={n + 1}>>{n + 1}."],
            "answer": str(n + 1),
        }
        for n in range(count)
    ]


@pytest.fixture
def held_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(gsm8k_module, "HELD_OUT", replace(gsm8k_module.HELD_OUT, num_rows=None))
    path = folder / "gsm8k_aug_style_valid.jsonl"
    rows = gsm8k_rows("train", 10)
    write(
        path, [{**rows[n], "id": f"v{n}", "steps": [f"<<{n}+1={n + 1}>>"], "gsm8k_id": rows[n]["id"]} for n in (7, 2)]
    )
    return path


def test_gsm8k_validation_is_taken_out_of_train_and_keeps_its_own_steps(folder: Path, held_out: Path) -> None:
    write(folder / "gsm8k_train.jsonl", gsm8k_rows("train", 10))
    task = without_counts("gsm8k")
    train, validation = task.load("train"), task.load("validation")
    assert [example.id for example in validation] == ["gsm8k-train-00002", "gsm8k-train-00007"]
    assert validation[0].steps == ("It is <<2+1=3>>3.",)
    assert len(train) == 8
    assert not {example.id for example in train} & {example.id for example in validation}


def test_gsm8k_fingerprint_names_the_held_out_file_by_hash(folder: Path, held_out: Path) -> None:
    write(folder / "gsm8k_train.jsonl", gsm8k_rows("train", 10))
    before = without_counts("gsm8k").fingerprint("train")
    assert before.source.startswith("gsm8k_train.jsonl without gsm8k_aug_style_valid.jsonl@")
    write(held_out, [json.loads(line) for line in held_out.read_text().splitlines()[:1]])
    after = without_counts("gsm8k").fingerprint("train")
    assert (before.num_examples, after.num_examples) == (8, 9)
    assert before.source != after.source
    assert before.sha256 == after.sha256


@pytest.mark.parametrize("split", ["train", "validation"])
def test_gsm8k_needs_the_held_out_file_for_both_splits(folder: Path, split: str) -> None:
    write(folder / "gsm8k_train.jsonl", gsm8k_rows("train", 10))
    with pytest.raises(
        ValueError, match=rf"split '{split}': .* holds no gsm8k_aug_style_valid.jsonl and the Hub has no copy"
    ):
        without_counts("gsm8k").load(split)


def test_gsm8k_held_out_rows_must_name_their_problem(folder: Path, held_out: Path) -> None:
    write(folder / "gsm8k_train.jsonl", gsm8k_rows("train", 10))
    write(held_out, gsm8k_rows("train", 1))
    with pytest.raises(ValueError, match=r"gsm8k_aug_style_valid.jsonl, line 1: field 'gsm8k_id' is missing"):
        without_counts("gsm8k").load("train")


def test_gsm8k_aug_lines_are_parsed_by_the_grammar(folder: Path) -> None:
    lines = [
        "Ann fills 3 bags with 4 apples each and eats 2. How many are left?||<<3*4=12>> <<12-2=10>> #### 10",
        "q|| #### 1,200",
        "a || b?||<<1+1=2>> #### 2",
    ]
    (folder / "gsm8k_aug_train.txt").write_text("\n".join(lines) + "\n")
    first, empty, _ = examples = without_counts("gsm8k_aug").load("train")
    assert (first.steps, first.answer) == (("<<3*4=12>>", "<<12-2=10>>"), "10")
    assert first.question == "Ann fills 3 bags with 4 apples each and eats 2. How many are left?"
    assert (empty.question, empty.steps, empty.answer) == ("q", (), "1200")
    assert [example.id for example in examples] == ["gsm8k-aug-000000", "gsm8k-aug-000001", "gsm8k-aug-000002"]


@pytest.mark.parametrize("line", ["no separators at all", "q <<1+1=2>> #### 2", "q||<<1+1=2>> 2"])
def test_gsm8k_aug_lines_without_a_separator_are_refused(folder: Path, line: str) -> None:
    (folder / "gsm8k_aug_train.txt").write_text(f"q||<<1+1=2>> #### 2\n{line}\n")
    with pytest.raises(ValueError, match=r"gsm8k_aug_train.txt, line 2: the line is not `question"):
        without_counts("gsm8k_aug").load("train")


def test_gsm8k_aug_never_takes_another_number_of_rows_or_another_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = get_task_entry("gsm8k_aug")
    (folder / "gsm8k_aug_train.txt").write_text("q||<<1+1=2>> #### 2\n")
    with pytest.raises(ValueError, match=r"holds 1 rows, but task 'gsm8k_aug', split 'train' has 385620"):
        entry.cls(entry.config()).load("train")
    (folder / "gsm8k_aug_train.txt").rename(folder / "gsm8k_aug_style_train_no_aug.jsonl")
    monkeypatch.setattr("latbench.data.hub._cached", lambda source: None)
    with pytest.raises(ValueError, match=r"holds no gsm8k_aug_train.txt"):
        entry.cls(entry.config()).load("train")


def test_prosqa_train_is_the_published_list(folder: Path) -> None:
    published = {
        "question": "Every a is a b. Tom is a a. Is Tom a b or c?",
        "steps": ["Tom is a a.", "Every a is a b."],
        "answer": "Tom is a b.",
        "idx_to_symbol": ["Tom", "a", "b", "c"],
        "edges": [[0, 1], [1, 2]],
        "root": 0,
        "target": 2,
        "neg_target": 3,
    }
    (folder / "prosqa_train.json").write_text(json.dumps([published, published]))
    task = without_counts("prosqa")
    first, second = task.load("train")
    assert (first.id, second.id) == ("prosqa-train-00000", "prosqa-train-00001")
    assert first.meta["edges"] == [[0, 1], [1, 2]]
    texts = ["tom is a B", "Tom is a c.", ""]
    assert [task.score(text, first).status for text in texts] == ["correct", "incorrect", "no_answer"]
    del published["target"]
    (folder / "prosqa_train.json").write_text(json.dumps([published]))
    with pytest.raises(ValueError, match=r"prosqa_train.json, row 1: field 'target' is missing"):
        without_counts("prosqa").load("train")


def test_openr1_math_drops_chains_beyond_the_limit_and_says_so(folder: Path) -> None:
    rows = [{"id": str(n), "question": "?", "steps": ["x" * n], "answer": "1"} for n in (28, 30, 31)]
    write(folder / "openr1_math_train.jsonl", rows)
    task = OpenR1Math(OpenR1MathConfig(max_tokens=10))  # at three characters a token
    assert [example.id for example in task.load("train")] == ["28", "30"]
    assert task.fingerprint("train").source == "openr1_math_train.jsonl max_tokens=10 by characters"


def test_openr1_math_counts_with_a_tokenizer_when_given_one(tmp_path: Path) -> None:
    from latbench.model.tiny import tiny_tokenizer

    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    text = "How many apples are left?"
    expected = len(tokenizer.encode(text, add_special_tokens=False))
    assert token_counter(str(tmp_path))(text) == expected
    assert token_counter(None)(text) == 9  # 25 characters
