"""Every Hub schema becomes the rows that the local files hold; fixtures are Parquet files in the schema of the Hub."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest

from latbench.data import hub
from latbench.registry import get_task_entry
from latbench.task import Example
from tests.tasks.file_tasks import file_task, with_sources

GSM8K = {
    "question": "Ann fills 3 bags with 4 apples each and eats 2. How many are left?",
    "answer": "She packs 3 * 4 = <<3*4=12>>12 apples.\nThat leaves 12 - 2 = $<<12-2=10>>10.\n#### 1,010",
}
AUG = {"question": " How many? ", "cot": "<<3*4=12>> <<12-2=10>>", "answer": "1,010"}
MATH_SOLUTION = "We have $x = 1.5 + 2.$ So $2x = 7$, i.e. twice it.\n\nThe answer is $\\boxed{\\frac{7}{1}}$."
MATH_STEPS = ("We have $x = 1.5 + 2.$", "So $2x = 7$, i.e. twice it.", "The answer is $\\boxed{\\frac{7}{1}}$.")
AIME_URL = "https://artofproblemsolving.com/wiki/index.php/2024_AIME_II_Problems/Problem_4"


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """load(task, split, *Hub rows): the split's examples, its Hub source replaced by a Parquet file of the rows."""

    def load(name: str, split: str, *rows: dict[str, Any]) -> list[Example]:
        path = tmp_path / "rows.parquet"
        datasets.Dataset.from_list(list(rows)).to_parquet(str(path))
        stored = datasets.load_dataset(
            "parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
        )
        monkeypatch.delenv("LATBENCH_DATA_DIR", raising=False)
        monkeypatch.setattr(hub, "_cached", lambda source: stored)
        published = file_task(name).sources[split]
        assert published.hub is not None
        task = with_sources(name, {split: replace(published, num_rows=len(rows))})  # a fixture has few of them
        examples = task.load(split)
        assert task.fingerprint(split).source.startswith(f"{published.hub.id}/{published.hub.name}@")
        assert task.fingerprint(split).num_examples == len(examples)
        return examples

    return load


def test_gsm8k(load: Any) -> None:
    [example] = load("gsm8k", "test", GSM8K)
    assert example == Example(
        id="gsm8k-test-00000",
        question=GSM8K["question"],
        steps=("She packs 3 * 4 = <<3*4=12>>12 apples.", "That leaves 12 - 2 = $<<12-2=10>>10."),
        answer="1010",
    )
    assert example.meta == {"solution": GSM8K["answer"]}


def test_gsm8k_without_final_line_is_refused(load: Any) -> None:
    with pytest.raises(ValueError, match=r"openai/gsm8k/main@.*:test, row 2: field 'answer' has no ####"):
        load("gsm8k", "test", GSM8K, {**GSM8K, "answer": "just text"})


def test_gsm8k_aug(load: Any) -> None:
    first, second = load("gsm8k_aug", "train", AUG, {**AUG, "cot": "", "answer": "about 3"})
    assert first.steps == ("<<3*4=12>>", "<<12-2=10>>")
    assert (first.id, first.question, first.answer) == ("gsm8k-aug-hub-000000", "How many?", "1010")
    assert (second.steps, second.answer) == ((), "about 3")


def test_gsm_hard(load: Any) -> None:
    rows = [
        {"input": f"How many {n}?", "code": "def solution(): ...", "target": n}
        for n in (-9867630.0, 0.0016791648, 2e16)
    ]
    examples = load("gsm_hard", "test", *rows)
    assert [example.answer for example in examples] == ["-9867630", "0.0016791648", "20000000000000000"]
    assert examples[0].id == "gsm-hard-0000"
    assert examples[0].meta["code"] == rows[0]["code"]


def test_svamp(load: Any) -> None:
    row = {
        "ID": "chal-777",
        "Body": "There are 87 oranges in 3 bowls",
        "Question": "How many are in a bowl?",
        "Equation": "( 87.0 / 3.0 )",
        "Answer": "29.0",
        "Type": "Common-Division",
        "question_concat": "There are 87 oranges in 3 bowls How many are in a bowl?",
    }
    [example] = load("svamp", "test", row)
    assert example == Example(
        id="svamp-chal-777",
        question="There are 87 oranges in 3 bowls. How many are in a bowl?",
        steps=("( 87.0 / 3.0 )",),
        answer="29",
    )


def test_multiarith(load: Any) -> None:
    [example] = load("multiarith", "test", {"question": " 32 and 42 less 35? ", "final_ans": "39"})
    assert example == Example(id="multiarith-hub-000", question="32 and 42 less 35?", steps=(), answer="39")


def test_math500(load: Any) -> None:
    row = {
        "problem": "Find $2x$.",
        "solution": MATH_SOLUTION,
        "answer": "\\frac{7}{1}",
        "subject": "Algebra",
        "level": 2,
        "unique_id": "test/algebra/1.json",
    }
    [example] = load("math500", "test", row)
    assert (example.id, example.steps, example.answer) == ("math500-hub-000", MATH_STEPS, "\\frac{7}{1}")
    assert example.meta == {"subject": "Algebra", "level": 2, "unique_id": "test/algebra/1.json"}


def test_math(load: Any) -> None:
    row = {"problem": "Find $2x$.", "level": "Level 5", "solution": MATH_SOLUTION, "type": "Algebra"}
    odd = {**row, "level": "Level ?", "solution": "Nothing: $\\boxed{}$."}
    first, second = load("math", "train", row, odd)
    assert (first.id, first.steps, first.answer) == ("math-train-hub-0000", MATH_STEPS, "\\frac{7}{1}")
    assert (first.meta["level"], second.meta["level"], second.answer) == (5, None, "0")
    with pytest.raises(ValueError, match=r"row 1: field 'solution' has no .boxed answer"):
        load("math", "train", {**row, "solution": "It is 7."})


def test_aime24(load: Any) -> None:
    row = {"id": 3, "problem": "Find $n$.", "solution": "...", "answer": "073", "url": AIME_URL, "year": "2024"}
    [example] = load("aime24", "test", row)
    assert (example.id, example.answer, example.steps) == ("aime24-II-04", "73", ())
    with pytest.raises(ValueError, match=r"field 'url' names no problem of AIME 2024"):
        load("aime24", "test", {**row, "url": "https://example.org"})


def test_aime25(load: Any) -> None:
    examples = load("aime25", "test", *({"problem": f"Find {n}.", "answer": str(n), "id": str(n)} for n in range(30)))
    assert [examples[index].id for index in (0, 14, 15, 29)] == [
        "aime25-I-01", "aime25-I-15", "aime25-II-01", "aime25-II-15",
    ]  # fmt: skip
    assert examples[29].answer == "29"


def test_amc23(load: Any) -> None:
    [example] = load("amc23", "test", {"id": 0, "question": "How far?", "answer": 27.0, "url": "https://example.org"})
    assert (example.id, example.question, example.answer) == ("amc23-hub-00", "How far?", "27")


def openr1(generations: list[str], complete: list[bool], correct: list[bool], answer: str = "7") -> dict[str, Any]:
    return {
        "problem": "Find $2x$.",
        "solution": "",
        "answer": answer,
        "uuid": "abc",
        "generations": generations,
        "is_reasoning_complete": complete,
        "correctness_math_verify": correct,
    }


def test_openr1_math_takes_the_shortest_complete_correct_trace(load: Any) -> None:
    long, short, wrong = (
        "<think>\nOne.\n\nTwo,\nlines.\n\n\nThree.\n</think>\nIt is 7.",
        "Ab.\n\nC.</think>7",
        "x</think>8",
    )
    [example] = load("openr1_math", "train", openr1([long, wrong, short], [True] * 3, [True, False, True]))
    assert (example.steps, example.answer, example.id) == (("Ab.", "C."), "7", "openr1-math-abc-0")
    [example] = load("openr1_math", "train", openr1([long, wrong, short], [True, True, False], [True, False, True]))
    assert example.steps == ("One.", "Two,\nlines.", "Three.")


def test_openr1_math_leaves_out_what_has_no_such_trace(load: Any) -> None:
    good = openr1(["a</think>7"], [True], [True])
    rows = [
        openr1(["a</think>7"], [True], [False]),
        openr1(["</think>7"], [True], [True]),
        good,
        {**good, "answer": ""},
    ]
    assert [example.id for example in load("openr1_math", "train", *rows)] == ["openr1-math-abc-2"]


def test_a_renamed_column_is_named_with_its_place(load: Any) -> None:
    with pytest.raises(
        ValueError, match=r"ChilleD/MultiArith/default@.*:train.test, row 1: field 'final_ans' is missing"
    ):
        load("multiarith", "test", {"question": "?", "answer": "39"})


def test_math_test_split(load: Any) -> None:
    row = {"problem": "Find $2x$.", "level": "Level 1", "solution": MATH_SOLUTION, "type": "Algebra"}
    [example] = load("math", "test", row)
    assert (example.id, example.answer, example.meta["level"]) == ("math-test-hub-0000", "\\frac{7}{1}", 1)


def test_asdiv(load: Any) -> None:
    row = {
        "body": "Seven red apples and two green apples are in the basket.",
        "question": "How many apples are in the basket?",
        "solution_type": "Addition",
        "answer": "9 (apples)",
        "formula": "7+2=9",
    }
    golds = ["9 (apples)", "Mrs. Hilt", "5:6", "1,250", "3; 4", "2.5 (kg)"]
    examples = load("asdiv", "test", *({**row, "answer": gold} for gold in golds))
    assert [example.answer for example in examples] == ["9", "1250", "2.5"]
    assert examples[0] == Example(
        id="asdiv-hub-0000", question=f"{row['body']} {row['question']}", steps=("7+2=9",), answer="9"
    )


def test_gsm_symbolic_variants_of_the_hub(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"id": 3, "instance": 7, "original_id": 12, **GSM8K}
    [example] = load("gsm_symbolic", "test", row)
    assert (example.id, example.answer, len(example.steps)) == ("gsm-symbolic-3-7", "1010", 2)
    cls, config = file_task("gsm_symbolic"), get_task_entry("gsm_symbolic").config
    sources = {}
    for name in ("main", "p1", "p2"):
        source = cls(config(variant=name)).source("test")
        assert source.hub is not None
        sources[name] = (source.file, source.hub.name, source.num_rows)
    assert sources == {
        "main": ("gsm_symbolic_main.jsonl.gz", "main", 5000),
        "p1": ("gsm_symbolic_p1.jsonl.gz", "p1", 5000),
        "p2": ("gsm_symbolic_p2.jsonl.gz", "p2", 2500),
    }


def test_gsm_plus_leaves_out_what_has_no_number(load: Any) -> None:
    row = {
        "question": "How many?",
        "solution": "She packs 12.\n\nThat leaves 10.",
        "answer": "1,010",
        "perturbation_type": "numerical substitution",
        "seed_question": "How many?",
        "seed_solution": "12",
        "seed_answer": "12",
    }
    lost = {**row, "answer": "None", "perturbation_type": "critical thinking"}
    for split in ("test", "testmini"):
        first, second = load("gsm_plus", split, row, lost, {**row, "answer": "2.5"})
        assert (first.id, first.answer) == (f"gsm-plus-{split}-00000", "1010")
        assert first.steps == ("She packs 12.", "That leaves 10.")
        assert (second.id, second.answer) == (f"gsm-plus-{split}-00002", "2.5")


def test_aime26(load: Any) -> None:
    [example] = load("aime26", "test", {"problem_idx": 17, "problem": "Find $n$.", "answer": 79})
    assert (example.id, example.question, example.answer) == ("aime26-17", "Find $n$.", "79")


def test_hmmt_feb25(load: Any) -> None:
    row = {
        "problem_idx": 3,
        "problem": "Find $n$.",
        "answer": r"\frac{1}{576}",
        "problem_type": ["Algebra", "Geometry"],
    }
    [example] = load("hmmt_feb25", "test", row)
    assert (example.id, example.answer) == ("hmmt-feb25-03", r"\frac{1}{576}")
    assert example.meta["subject"] == "Algebra, Geometry"


def test_minerva_math(load: Any) -> None:
    [example] = load("minerva_math", "test", {"question": "How far?", "answer": "4.5e33"})
    assert (example.id, example.answer) == ("minerva-math-hub-000", "4.5e33")


def test_aqua(load: Any) -> None:
    row = {
        "question": "How fast?",
        "options": ["A)5(√3 + 1)", "B) 6", "C)7", "D)8", "E)None of these"],
        "rationale": "Explanation :\n\nIt is 7.\nAnswer: C",
        "correct": "C",
    }
    [example] = load("aqua", "validation", row)
    assert example.question == "How fast?\n(A) 5(√3 + 1)\n(B) 6\n(C) 7\n(D) 8\n(E) None of these"
    assert (example.answer, example.meta["answer_text"]) == ("C", "7")
    assert example.steps == ("Explanation :", "It is 7.", "Answer: C")
    with pytest.raises(ValueError, match="row 1: the answer is choice 0 of 5"):
        load("aqua", "validation", {**row, "correct": "F"})


def test_commonsense_qa(load: Any) -> None:
    row = {
        "id": "1afa",
        "question": "Where?",
        "question_concept": "door",
        "choices": {"label": ["A", "B"], "text": ["bank", "mall"]},
        "answerKey": "B",
    }
    [example] = load("commonsense_qa", "test", row)
    assert (example.id, example.question, example.answer) == ("csqa-hub-1afa", "Where?\n(A) bank\n(B) mall", "B")


def test_arc_challenge_relabels_numbers(load: Any) -> None:
    row = {
        "id": "Mercury_1",
        "question": "Which?",
        "choices": {"text": ["dry", "wet", "oily"], "label": ["1", "2", "3"]},
        "answerKey": "3",
    }
    [example] = load("arc_challenge", "test", row)
    assert example.question == "Which?\n(A) dry\n(B) wet\n(C) oily"
    assert (example.answer, example.meta["source_label"]) == ("C", "3")
    with pytest.raises(ValueError, match="row 1: '4' is not in list"):
        load("arc_challenge", "test", {**row, "answerKey": "4"})
