"""Tasks that do more than read one file of rows: GSM8K's held-out rows, GSM8K-Aug's text form, lists, limits."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from latbench.data import DATA_DIR, FileTask, contamination
from latbench.data.choices import choice_fields
from latbench.registry import get_task_entry
from latbench.task import Example, TaskConfig
from tasks import asdiv as asdiv_module
from tasks import gsm8k as gsm8k_module
from tasks.openr1_math import OpenR1Math, OpenR1MathConfig, token_counter
from tests.tasks.file_tasks import file_task, with_sources


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LATBENCH_DATA_DIR", str(tmp_path))
    return tmp_path


def without_counts(name: str) -> FileTask[TaskConfig]:
    """The task, without the published row counts: fixtures have few rows."""
    sources = file_task(name).sources
    return with_sources(name, {split: replace(source, num_rows=None) for split, source in sources.items()})


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
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


def test_asdiv_keeps_the_rows_with_one_number(folder: Path) -> None:
    golds = ["9 (apples)", "Ellen", "5:6", "6 (cm); 15 (cm)", "1250", "-2.5  (degrees C)"]
    rows = [
        {"id": gold, "question": "How many?", "answer": gold.split(" ")[0], "answer_source": gold} for gold in golds
    ]
    write(folder / "asdiv.jsonl", rows)
    task = without_counts("asdiv")
    assert [example.answer for example in task.load("test")] == ["9", "1250", "-2.5"]
    assert task.fingerprint("test").num_examples == 3


def test_asdiv_counts_the_rows_of_the_file_and_not_those_it_keeps(folder: Path) -> None:
    write(folder / "asdiv.jsonl", [{"id": "b", "question": "Who?", "answer": "Ellen", "answer_source": "Ellen"}])
    with pytest.raises(ValueError, match=r"holds 1 rows, but task 'asdiv', split 'test' has 2305"):
        get_task_entry("asdiv").cls(TaskConfig()).load("test")


def test_a_binary_fraction_of_mawps_equals_the_fraction_and_its_rounding(folder: Path) -> None:
    row = {
        "id": "a",
        "question": "How much longer ?",
        "steps": ["x=3-1.1666666666666667"],
        "answer": "1.8333333333333335",
    }
    write(folder / "mawps_test.jsonl", [row])
    task = without_counts("mawps")
    [example] = task.load("test")
    texts = {"1.8333": "correct", "11/6": "correct", "1.8333333": "correct", "1.8": "incorrect", "2": "incorrect"}
    assert {text: task.score(text, example).status for text in texts} == texts


def test_rounded_chains_of_the_gsm_symbolic_variants_are_left_out(folder: Path) -> None:
    row = {"question": "?", "steps": ["<<60/83=0>>"], "answer": "0"}
    rows = [{**row, "id": name, "inexact_steps": name == "b"} for name in "abc"]
    write(folder / "gsm_symbolic_variants_en.jsonl", rows)
    assert [example.id for example in without_counts("gsm_symbolic_variants").load("test")] == ["a", "c"]


def test_several_values_of_olympiadbench_lose_their_dollar_signs_and_a_sentence_is_left_out(folder: Path) -> None:
    rows = [
        {"id": "a", "question": "?", "answer": "$221,$8$", "multiple": True},
        {"id": "b", "question": "?", "answer": "$f(x)=a x+b$, where $b$ is an integer", "multiple": True},
        {"id": "c", "question": "?", "answer": r"\$5", "multiple": False},
    ]
    write(folder / "olympiadbench_math_en.jsonl", rows)
    task = without_counts("olympiadbench")
    first, second = task.load("test")
    assert (first.answer, second.answer) == ("221,8", r"\$5")
    assert task.score(r"So \boxed{8, 221}.", first).status == "correct"


@pytest.mark.parametrize("digits", [4, 11])
def test_multiplication_reads_the_files_of_its_length(folder: Path, digits: int) -> None:
    line = "7 6 * 1 2||7 6 0 + 0 4 3 1 #### 7 0 4 1"
    (folder / f"mult_{digits}x{digits}_train.txt").write_text(f"{line}\n{line}\n")
    write(folder / f"mult_{digits}x{digits}_test.jsonl", [{"id": "a", "question": "7 6 * 1 2", "answer": "7 0 4 1"}])
    entry = get_task_entry("multiplication")
    task = entry.cls(entry.config(digits=digits))
    first, second = task.load("train")
    assert (first.question, first.steps, first.answer) == ("7 6 * 1 2", ("7 6 0", "0 4 3 1"), "7 0 4 1")
    assert first.id != second.id
    with pytest.raises(ValueError, match=rf"mult_{digits}x{digits}_test.jsonl holds 1 rows, but .* has 1000"):
        task.load("test")
    assert task.score("7 0 4 1", first).status == "correct"
    assert task.score("#### 7 0 4 1", first).status == "correct"
    assert task.score("7 0 4 2", first).status == "incorrect"


def test_multiplication_lines_without_a_separator_are_refused(folder: Path) -> None:
    (folder / "mult_4x4_train.txt").write_text("7 6 * 1 2 #### 7 0 4 1\n")
    with pytest.raises(ValueError, match=r"mult_4x4_train.txt, line 1: the line is not `question"):
        without_counts("multiplication").load("train")


@pytest.mark.parametrize(
    ("text", "status", "extracted"),
    [
        ("Yes", "correct", "Yes"),
        ("yes.", "correct", "yes"),
        ("Yes, because no camel has three humps.", "correct", "Yes"),
        ("Camels have no third hump. So the answer is yes", "correct", "yes"),
        ("I think that it does: yes", "correct", "Yes"),
        ("No, although yes is what many say.", "incorrect", "No"),
        ("Probably no", "incorrect", "No"),
        ("Nobody knows.", "incorrect", "Nobody knows."),
        ("The answer is not yes.", "incorrect", "not yes"),
        ("It isn't no, hence yes", "correct", "yes"),
        ("", "no_answer", None),
    ],
)
def test_a_sentence_answers_with_the_label_that_it_names(
    folder: Path, text: str, status: str, extracted: str | None
) -> None:
    write(folder / "strategyqa_dev.jsonl", [{"id": "a", "question": "Does it?", "steps": [], "answer": "Yes"}])
    task = without_counts("strategyqa")
    score = task.score(text, task.load("test")[0])
    assert score.status == status
    assert (score.extracted or "").rstrip(".").casefold() == (extracted or "").rstrip(".").casefold()


def test_choices_are_labelled_in_order_and_an_answer_beyond_them_is_refused() -> None:
    fields = choice_fields("Where?", ["here", "there"], 1)
    assert fields["question"] == "Where?\n(A) here\n(B) there"
    assert (fields["answer"], fields["answer_text"]) == ("B", "there")
    assert fields["choices"] == [{"label": "A", "text": "here"}, {"label": "B", "text": "there"}]
    with pytest.raises(ValueError, match="the answer is choice 3 of 2"):
        choice_fields("Where?", ["here", "there"], 2)


def test_of_two_equal_choices_the_letter_of_the_reference_counts(folder: Path) -> None:
    row = {"id": "a", "steps": [], **choice_fields("Where?", ["home", "work", "home"], 2)}
    write(folder / "csqa_valid.jsonl", [row])
    task = without_counts("commonsense_qa")
    [example] = task.load("test")
    texts = {"C": "correct", "The answer is (C) home.": "correct", "(A)": "incorrect", "A": "incorrect"}
    assert {text: task.score(text, example).status for text in texts} == texts


# the published data

FOLDER = Path(os.environ.get(DATA_DIR) or "/nowhere")
OVERLAPS = [  # training task and split, test task and split, training rows, test rows
    ("mawps", "train", "multiarith", 484, 490),
    ("mawps", "train", "addsub", 412, 327),
    ("mawps", "train", "singleeq", 543, 436),
    ("mawps", "train", "singleop", 472, 461),
    ("mawps", "train", "asdiv", 215, 198),
    ("mawps", "train", "mawps", 27, 28),
    ("addsub", "test", "singleeq", 126, 127),
    ("asdiv", "test", "multiarith", 60, 64),
    ("asdiv", "test", "singleop", 156, 156),
    ("asdiv", "test", "singleeq", 55, 55),
    ("math500", "test", "math", 500, 500),
    pytest.param("math", "train", "math", 4, 4, marks=pytest.mark.slow),
    ("math", "train", "olympiadbench", 1, 1),
    ("olympiadbench", "test", "math", 1, 1),
    pytest.param("gsm8k", "train", "gsm_symbolic_variants", 0, 0, marks=pytest.mark.slow),
    pytest.param("prontoqa", "train", "prontoqa", 0, 0, marks=pytest.mark.slow),
    pytest.param("prontoqa", "train", "prontoqa_logiclm", 0, 0, marks=pytest.mark.slow),
    pytest.param("commonsense_qa", "train", "commonsense_qa", 0, 0, marks=pytest.mark.slow),
    ("arc_challenge", "train", "arc_challenge", 0, 0),
    ("strategyqa", "train", "strategyqa", 0, 0),
]


@cache
def published(name: str, split: str) -> list[Example]:
    cls = file_task(name)
    if not (FOLDER / cls.sources[split].file).is_file():
        pytest.skip(f"{DATA_DIR} holds no {name}/{split}")
    return cls(get_task_entry(name).config()).load(split)


@pytest.mark.parametrize(("trained", "split", "asked", "num_train", "num_test"), OVERLAPS)
def test_known_overlaps_are_found(trained: str, split: str, asked: str, num_train: int, num_test: int) -> None:
    report = contamination(published(trained, split), published(asked, "test"))
    assert (report.num_train_overlapping, report.num_test_overlapping) == (num_train, num_test)


@pytest.mark.parametrize(
    "pair",
    [
        ("olympiadbench-2713", "math-test-4640"),
        ("olympiadbench-2890", "math-train-3443"),
        ("math-train-2948", "math-test-4656"),
    ],
)
def test_twins_that_differ_in_their_latex_are_found(pair: tuple[str, str]) -> None:
    rows = [*published("olympiadbench", "test"), *published("math", "train"), *published("math", "test")]
    first, second = ([row for row in rows if row.id == name] for name in pair)
    assert contamination(first, second).pairs == (pair,)


@pytest.mark.parametrize("digits", [4, 5, 7, 9, 11])
def test_products_follow_from_the_questions(digits: int) -> None:
    published("multiplication", "test")
    entry = get_task_entry("multiplication")
    for example in entry.cls(entry.config(digits=digits)).load("test"):
        left, right = (int(factor.replace(" ", "")[::-1]) for factor in example.question.split("*"))
        assert int(example.answer.replace(" ", "")[::-1]) == left * right
        assert len(example.question.split("*")[0].split()) == digits


def test_the_hub_reading_of_asdiv_gives_the_rows_of_the_local_file() -> None:
    kept = {example.id: float(example.answer) for example in published("asdiv", "test")}
    read = {}
    for line in gzip.decompress((FOLDER / "asdiv.jsonl.gz").read_bytes()).decode().strip().split("\n"):
        row = json.loads(line)
        hub = {"body": "", "question": "", "formula": "", "solution_type": "", "answer": row["answer_source"]}
        if (found := asdiv_module.hub_row(hub, 0)) is not None:
            read[row["id"]] = float(found["answer"])
    assert read == kept


@pytest.mark.parametrize(
    ("name", "split", "count"),
    [("asdiv", "test", 2084), ("gsm_symbolic_variants", "test", 1699), ("olympiadbench", "test", 674)],
)
def test_so_many_rows_are_kept(name: str, split: str, count: int) -> None:
    assert len(published(name, split)) == count
