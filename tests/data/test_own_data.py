"""Own data: files of every format, columns, kinds, the prompt, and what is wrong with a row in one sentence."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas
import pytest

import latbench
from latbench.config import over_file, parse
from latbench.data import contamination, own_data
from latbench.data.hub import HubRows
from latbench.registry import get_task_entry
from latbench.task import Example

ROWS = [
    {"problem": "1+2?", "work": ["1+2=3"], "result": 3, "unit": "cm"},
    {"problem": "2+2?", "work": ["2+0=2", "2+2=4"], "result": 4, "unit": "m"},
]
COLUMNS = {"question": "problem", "steps": "work", "answer": "result"}


def jsonl(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def load(path: Path | str, split: str = "test", **settings: Any) -> list[Example]:
    return latbench.get_task(str(path), **settings).load(split)


def written(folder: Path, ending: str) -> Path:
    """ROWS in a file of that format; CSV holds the steps as lines."""
    path = folder / f"rows{ending}"
    table = pandas.DataFrame(ROWS)
    if ending == ".csv":
        table["work"] = ["\n".join(steps) for steps in table["work"]]
        table.to_csv(path, index=False)
    elif ending == ".parquet":
        table.to_parquet(path)
    elif ending == ".json":
        path.write_text(json.dumps(ROWS), encoding="utf-8")
    elif ending == ".jsonl.gz":
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode()))
    else:
        jsonl(path, ROWS)
    return path


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet"])
def test_every_format_gives_the_same_examples(ending: str, tmp_path: Path) -> None:
    examples = load(written(tmp_path, ending), columns=COLUMNS)
    assert [(row.question, row.steps, row.answer) for row in examples] == [
        ("1+2?", ("1+2=3",), "3"),
        ("2+2?", ("2+0=2", "2+2=4"), "4"),
    ]
    assert [row.id for row in examples] == ["row-00000", "row-00001"]


def test_settings_come_from_the_yaml_file_beside_the_data_and_from_the_call_above_it(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "rows.yaml").write_text("columns: {question: problem, answer: result, steps: work}\nkind: math\n")
    assert latbench.get_task(str(path)).config.kind == "math"
    assert latbench.get_task(str(path), kind="number").config.kind == "number"
    assert latbench.get_task(str(path), columns={"steps": "unit"}).load("test")[1].steps == ("m",)
    (tmp_path / "about.yaml").write_text("path: rows.jsonl\nkind: text\n")
    assert latbench.get_task(str(tmp_path / "about.yaml")).config.kind == "text"
    with pytest.raises(ValueError, match=r"^unknown key 'task.columns.qestion'; did you mean 'task.columns.question'"):
        latbench.get_task(str(path), columns={"qestion": "problem"})
    (tmp_path / "rows.yaml").write_text("kinds: math\n")
    with pytest.raises(ValueError, match=r"rows\.yaml: unknown key 'task.kinds'; did you mean 'task.kind'"):
        latbench.get_task(str(path))


def test_the_prompt_is_a_template_over_the_columns(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", ROWS)
    task = latbench.get_task(str(path), columns=COLUMNS, prompt=r"In {unit}: {question} \boxed{{}}")
    assert task.prompt(task.load("test")[0]) == r"In cm: 1+2? \boxed{}"
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 1: field 'size', which task.prompt names, is missing"):
        load(path, columns=COLUMNS, prompt="{size} {question}")


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        (
            "{question",
            "task.prompt has a brace that belongs to no column, got '{question'; write a column as {question}",
        ),
        (
            "{question} {answer}",
            "task.prompt names the answer of a row, which a model is not shown, got '{question} {an",
        ),
        ("{question} {}", "task.prompt has a brace that belongs to no column, got '{question} {}'; "),
        ("{question}}}}", "task.prompt has a brace that belongs to no column, got '{question}}}}'; "),
        ("hello", "task.prompt names no column, so that every row would be asked the same, got 'hello'; name one"),
        ("{{question}}", "task.prompt names no column, so that every row would be asked the same, got '{{question}}'"),
    ],
)
def test_a_prompt_that_asks_every_row_the_same_or_has_a_stray_brace_is_refused(
    prompt: str, sentence: str, tmp_path: Path
) -> None:
    path = jsonl(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(ValueError, match="prompt") as error:
        latbench.get_task(str(path), columns=COLUMNS, prompt=prompt)
    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value)


def test_a_solution_with_its_answer_after_the_mark_gives_steps_and_answer(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [{"question": "1+2?", "answer": "We add.\n1+2=3\n#### 3"}])
    (row,) = load(path, columns={"solution": "answer"})
    assert (row.steps, row.answer) == (("We add.", "1+2=3"), "3")


def test_an_answer_that_is_no_number_keeps_its_commas(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "points.jsonl", [{"question": "Where?", "work": "By sight.\n#### (3, 4)"}])
    assert load(path, columns={"solution": "work"}, kind="math")[0].answer == "(3, 4)"


def test_more_choices_than_letters_are_refused(tmp_path: Path) -> None:
    row = {"question": "Which?", "choices": [f"no. {number}" for number in range(11)], "answer": 3}
    with pytest.raises(ValueError, match=r"there are 11 choices, but answers are letters from A to J; leave some out"):
        load(jsonl(tmp_path / "many.jsonl", [row]), kind="choice")


@pytest.mark.parametrize("field", ["answer", "solution", "steps", "id"])
def test_a_prompt_may_not_name_a_hidden_column_whatever_it_is_called(field: str, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(ValueError, match=rf"task.prompt names the {field} of a row, which a model is not shown"):
        load(path, columns={"question": "problem", field: "result"}, prompt="{question} (hint: {result})")


def test_rows_with_one_question_beside_different_texts_are_different_rows(tmp_path: Path) -> None:
    rows = [
        {"question": "How many are left?", "context": f"Ann has {number} apples.", "answer": number}
        for number in range(12)
    ]
    train, test = jsonl(tmp_path / "train.jsonl", rows[:6]), jsonl(tmp_path / "test.jsonl", rows[5:])
    prompt = "{context}\n{question}"
    report = contamination(load(train, prompt=prompt), load(test, prompt=prompt))
    assert report.pairs == (("row-00005", "row-00000"),)
    assert len(contamination(load(train), load(test)).pairs) == 42  # where the question alone is asked, all are one
    held = load(jsonl(tmp_path / "all.jsonl", rows), prompt=prompt, held_out=3)
    assert len(held) == 3


@pytest.mark.parametrize(
    ("choices", "answer", "letter"),
    [
        (["red", "blue"], "B", "B"),
        (["red", "blue"], 1, "B"),
        (["red", "blue"], "red", "A"),
        ({"text": ["red", "blue"], "label": ["1", "2"]}, "2", "B"),
    ],
)
def test_choices_stand_below_the_question_and_the_answer_is_a_letter(
    choices: Any, answer: Any, letter: str, tmp_path: Path
) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [{"question": "Which?", "choices": choices, "answer": answer}])
    (row,) = load(path, kind="choice")
    assert (row.question, row.answer) == ("Which?\n(A) red\n(B) blue", letter)


def test_labels_are_read_from_sentences(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [{"question": "Is it?", "answer": "Yes"}])
    task = latbench.get_task(str(path), kind="text", labels=["Yes", "No"])
    (row,) = task.load("test")
    assert task.score("Yes, since it is.", row).status == "correct"
    with pytest.raises(ValueError, match=r"line 1: field 'answer' is 'Yes', none of task.labels: Maybe"):
        load(path, kind="text", labels=["Maybe"])


FAULTS = [
    ({"q": "1?", "answer": "1"}, {}, "line 2: field 'question' is missing; the row has q, answer: say which is the "),
    ({"question": " ", "answer": "1"}, {}, "line 2: field 'question' is empty; it is the question"),
    ({"question": "1?", "answer": True}, {}, "line 2: field 'answer' is bool, not text; it is the answer"),
    ({"question": "1?", "answer": "Paris"}, {}, "line 2: field 'answer' is no answer of kind 'number': 'Paris'; say "),
    ({"question": "1?", "answer": "1", "steps": 3}, {}, "line 2: field 'steps' is no list of texts and no text"),
    ({"question": "1?", "answer": "1", "id": "row-00000"}, {}, "line 2: field 'id' repeats 'row-00000' of "),
    ({"question": "1?", "answer": "x"}, {"columns": {"solution": "answer"}}, "line 2: field 'answer' has no ####"),
    ({"question": "1?", "choices": ["a"], "answer": "E"}, {"kind": "choice"}, "'E', none of the choices"),
    (
        {"question": "1?", "answer": "Paris"},
        {"kind": "choice"},
        "line 2: field 'answer' is no answer of kind 'choice', a single letter from A to J: 'Paris'; say ",
    ),
    ([], {}, "line 2: not a JSON object but list"),
]


@pytest.mark.parametrize(("row", "settings", "sentence"), FAULTS)
def test_a_fault_is_one_sentence_with_file_line_and_field(
    row: Any, settings: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    whole = {"question": "0?", "answer": "0", "choices": ["0"]}
    if "columns" in settings:
        whole["answer"] = "#### 0"
    if settings.get("kind") == "choice":
        whole["answer"] = "A"
    path = jsonl(tmp_path / "rows.jsonl", [whole, row])
    with pytest.raises(ValueError, match=r"rows\.jsonl") as error:
        load(path, **settings)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("question,answer\n1?,1\n2?\n", "line 3: 1 fields, but the header has 2"),
        ("question,question\n1?,1\n", "line 1: the header has 'question' twice"),
        ('question,answer\n"1?,1\n', "line 2: not valid CSV"),
        ('question,answer\n"1\n?",1\n2?,two words\n', "line 4: field 'answer' is no answer of kind 'number'"),
        ("question,answer\n", "rows.csv holds no rows"),
    ],
)
def test_a_fault_of_a_csv_file_names_its_line(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"rows\.csv") as error:
        load(path)
    assert sentence in str(error.value)


def test_a_damaged_parquet_file_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(ValueError, match=r"rows\.parquet: not valid Parquet \(.*\)$"):
        load(path)


def test_what_is_no_task_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"task 'absent.jsonl': there is no such file"):
        latbench.get_task("absent.jsonl")
    other = tmp_path / "rows.xlsx"
    other.write_text("")
    with pytest.raises(ValueError, match=r"is no registered name, no data file .* and no Hub id"):
        latbench.get_task(str(other))
    with pytest.raises(ValueError, match="unknown task 'sinth'; did you mean 'synth'"):
        latbench.get_task("sinth")
    task = latbench.get_task(str(jsonl(tmp_path / "rows.jsonl", ROWS)), columns=COLUMNS)
    with pytest.raises(ValueError, match=r"unknown rows.jsonl split 'tset'; did you mean 'test'"):
        task.load("tset")


def test_held_out_rows_depend_on_their_questions_alone(tmp_path: Path) -> None:
    rows = [{"question": f"{number}?", "answer": number} for number in range(40)]
    rows.append({"question": "7 ?", "answer": 7})  # the question of another row
    forth = jsonl(tmp_path / "forth.jsonl", rows)
    back = jsonl(tmp_path / "back.jsonl", rows[::-1])
    parts = {split: {row.question for row in load(forth, split, held_out=10)} for split in ("train", "test")}
    assert len(parts["test"] | parts["train"]) == 41
    assert not parts["test"] & parts["train"]
    assert 10 <= len(parts["test"]) <= 11
    assert ("7?" in parts["test"]) == ("7 ?" in parts["test"])
    assert {row.question for row in load(back, "test", held_out=10)} == parts["test"]
    assert len(load(forth, "train")) == len(load(forth, "test")) == 41
    with pytest.raises(ValueError, match=r"task.held_out is 41, but forth.jsonl holds 41 rows"):
        load(forth, "test", held_out=41)
    with pytest.raises(ValueError, match=r"unknown forth.jsonl split 'validation'"):
        load(forth, "validation", held_out=10)


def test_the_content_is_the_identity_and_the_place_is_not(tmp_path: Path) -> None:
    first = jsonl(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "moved").mkdir()
    moved = jsonl(tmp_path / "moved" / "rows.jsonl", ROWS)

    def run_id(path: Path) -> str:
        return parse({"method": "cot", "task": {"name": str(path), "columns": COLUMNS}}).run_id

    assert run_id(first) == run_id(moved)
    assert run_id(first).startswith("rows.jsonl-cot-")
    jsonl(moved, ROWS[:1])
    assert run_id(first) != run_id(moved)


def test_data_that_are_named_over_a_saved_configuration_are_the_ones_that_are_read(tmp_path: Path) -> None:
    first, second = jsonl(tmp_path / "first.jsonl", ROWS), jsonl(tmp_path / "second.jsonl", ROWS[:1])
    saved = tmp_path / "config.yaml"
    saved.write_text(json.dumps(parse({"method": "cot", "task": {"name": str(first), "columns": COLUMNS}}).to_tree()))
    config = parse(over_file({"task.name": str(second)}, saved))
    assert (config.task_name, config.task) == ("second.jsonl", latbench.get_task(str(second), columns=COLUMNS).config)
    assert parse(over_file({}, saved), overrides=[f"task.name={second}"]).task == config.task
    assert parse(over_file({"seed": 1}, saved)).task_name == "first.jsonl"


def test_a_moved_or_changed_file_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LATBENCH_DATA_DIR", raising=False)
    path = jsonl(tmp_path / "rows.jsonl", ROWS)
    settings = parse({"method": "cot", "task": {"name": str(path), "columns": COLUMNS}}).task

    def new() -> own_data.OwnData:
        task = get_task_entry("rows.jsonl").cls(settings)
        assert isinstance(task, own_data.OwnData)
        return task

    assert new().is_at_hand("test")
    (tmp_path / "data").mkdir()
    moved = path.rename(tmp_path / "data" / "rows.jsonl")
    assert not new().is_at_hand("test")
    with pytest.raises(ValueError, match=r"the data of task 'rows.jsonl' are no longer at /.*; put the file \(sha256 "):
        new().load("test")
    monkeypatch.setenv("LATBENCH_DATA_DIR", str(moved.parent))
    assert len(new().load("test")) == 2
    jsonl(moved, ROWS[:1])
    with pytest.raises(ValueError, match=r"is not the file that task 'rows.jsonl' names \(sha256 \w{12} instead of "):
        new().load("test")


def test_a_hub_data_set_has_its_own_splits_or_one_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def hub_rows(source: Any) -> HubRows:
        asked.append((source.id, source.name, source.split))
        if source.split == "tset":
            raise LookupError("lab/sums has no such split")
        return HubRows(rows=ROWS, origin=f"{source.id}/{source.name}@c0ffee:{source.split}")

    monkeypatch.setattr(own_data, "hub_rows", hub_rows)
    task = latbench.get_task("lab/sums", columns=COLUMNS, subset="main")
    assert task.name == "lab--sums"
    assert len(task.load("test")) == 2
    assert task.fingerprint("test").source == "lab/sums/main@c0ffee:test"
    one = latbench.get_task("lab/sums:part", columns=COLUMNS, held_out=1)
    assert len(one.load("train")) == len(one.load("test")) == 1
    assert asked == [("lab/sums", "main", "test"), *[("lab/sums", "default", "part")] * 2]
    with pytest.raises(ValueError, match=r"task.path must be a whole path or a Hub id such as .*, got '../../lab'"):
        own_data.OwnDataConfig(path="../../lab")
    with pytest.raises(ValueError, match=r"task.held_out is 1, but lab/sums has splits of its own"):
        latbench.get_task("lab/sums", held_out=1)
    with pytest.raises(ValueError, match=r"no data for task 'lab--sums', split 'test': lab/sums has no such split"):
        latbench.get_task("lab/sums:tset").load("test")
