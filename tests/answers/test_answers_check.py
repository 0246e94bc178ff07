"""Verdicts: a hand-made table, every gold of the local data, the papers' scorers."""

from __future__ import annotations

import gzip
import json
import os
import re
from itertools import pairwise
from pathlib import Path

import pytest

from latbench.answers.check import quick_verdict, verdict
from latbench.answers.extract import AnswerKind, extract
from latbench.answers.paper_scorers import paper_verdict
from latbench.task import PaperScorer, Status
from tests.answers.answer_rows import ROWS, Row
from tests.answers.kind_rows import KIND_ROWS

FOLDER = Path(os.environ.get("LATBENCH_DATA_DIR", Path(__file__).parents[3] / "shared" / "data"))
FILES = sorted(path.name for path in FOLDER.glob("*.jsonl*"))


def golds(name: str) -> list[str]:
    data = (FOLDER / name).read_bytes()
    text = (gzip.decompress(data) if name.endswith(".gz") else data).decode()
    return list(dict.fromkeys(json.loads(line)["answer"] for line in text.split("\n") if line))


KINDS: dict[str, AnswerKind] = {
    "math": "math", "minerva": "math", "olympiadbench": "math", "hmmt": "math",
    "aqua": "choice", "arc": "choice", "csqa": "choice",
    "prosqa": "text", "prontoqa": "text", "strategyqa": "text", "mult": "text", "asdiv": "text",
}  # fmt: skip


def kind_of(name: str) -> AnswerKind:
    return next((kind for start, kind in KINDS.items() if re.match(rf"{start}(?![a-z])", name)), "number")


@pytest.mark.parametrize(("kind", "row"), ROWS, ids=lambda value: value if isinstance(value, str) else None)
def test_hand_made_rows(kind: AnswerKind, row: Row) -> None:
    gold, text, status = row
    assert verdict(gold, extract(text, kind), kind) == status


@pytest.mark.parametrize("name", KIND_ROWS)
def test_rows_by_kind_of_mistake(name: str) -> None:
    wrong = [row for row in KIND_ROWS[name] if verdict(row[1], extract(row[2], row[0]), row[0]) != row[3]]
    assert wrong == []


@pytest.mark.parametrize(("kind", "row"), [(kind, row) for kind, row in ROWS if kind != "math"])
def test_only_mathematics_needs_a_worker(kind: AnswerKind, row: Row) -> None:
    assert quick_verdict(row[0], extract(row[1], kind), kind) == row[2]


# Without data there is nothing to collect; an empty parametrisation would be reported as a skipped test.
if FILES:

    @pytest.mark.parametrize("name", FILES)
    @pytest.mark.parametrize("wording", ["%s", r"\boxed{%s}", "So the answer is %s."])
    def test_every_gold_equals_itself(name: str, wording: str) -> None:
        kind = kind_of(name)
        unequal = [
            gold for gold in golds(name) if quick_verdict(gold, extract(wording % gold, kind), kind) != "correct"
        ]
        assert unequal == []


if "math500.jsonl" in FILES:
    EQUAL_NEIGHBOURS = {("36", r"\$36"), (r"\$36", "36")}

    @pytest.mark.slow
    def test_neighbouring_golds_of_math500_differ() -> None:
        answers = golds("math500.jsonl")
        pairs = [*pairwise(answers), *zip(answers, answers[7:], strict=False)]
        accepted = {pair for pair in pairs if verdict(*pair, "math") == "correct"}
        assert accepted - EQUAL_NEIGHBOURS == set()


def test_two_missing_answers_are_not_equal() -> None:
    for kind in ("number", "math", "text", "choice"):
        assert verdict("", None, kind) == "no_answer"
        assert verdict("", "", kind) == "no_answer"
        assert verdict("", "5", kind) == "incorrect"


@pytest.mark.parametrize("answer", ["9" * 10**7, "0" * 10**7 + "5", "1e999999999", "{" * 10**4 + "5" + "}" * 10**4])
@pytest.mark.parametrize("kind", ["number", "math"])
def test_overlong_numbers_are_decided_without_reading_them(answer: str, kind: AnswerKind) -> None:
    assert quick_verdict("5", answer, "number") == "incorrect"
    assert len(answer) < 2000 or quick_verdict("5", answer, kind) == "incorrect"


def test_model_text_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for code in ("__import__('os').system('touch x')", "open('x', 'w')", r"\text{__import__}('os').system('touch x')"):
        for kind in ("number", "math", "text", "choice"):
            assert verdict("5", extract(code, kind), kind) in ("incorrect", "no_answer")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("scorer", "text", "gold", "status"),
    [
        ("after_hash", "### 1,200", "1200", "correct"),
        ("after_hash", "18.0", "18", "incorrect"),
        ("after_hash", "# 4 # 18 ", "18", "correct"),
        ("after_hash", "The answer is 18", "18", "incorrect"),
        ("after_hash", "18 #", "18", "no_answer"),
        ("after_hash", "", "18", "no_answer"),
        ("last_number", "The answer is: 1,200.", "1200", "correct"),
        ("last_number", "18.0", "18", "correct"),
        ("last_number", "17 or 18", "18", "correct"),
        ("last_number", "18 or 17", "18", "incorrect"),
        ("last_number", "-9867630", "-9867630.0", "correct"),
        ("last_number", "9867631", "9867630", "incorrect"),
        ("last_number", "", "18", "no_answer"),
        ("last_number", "none", "none", "no_answer"),
        ("last_number", "18", "none", "incorrect"),
        ("last_number", "9" * 400, "9" * 500, "incorrect"),
        ("after_answer", "Answer:5.0", "5", "correct"),
        ("after_answer", "x###Answer:7Answer:8", "7", "correct"),
        ("after_answer", "1000", "1,000", "correct"),
        ("after_answer", " 5.\n", "5", "correct"),
        ("after_answer", "$5", "5", "incorrect"),
        ("after_answer", "5%", "5", "incorrect"),
        ("after_answer", "5 apples", "5", "incorrect"),
        ("after_answer", "", "5", "no_answer"),
        ("after_answer", "10.00001", "10", "incorrect"),
        ("after_answer", "1000", "1e3", "correct"),
        ("after_answer", "nan", "nan", "incorrect"),
        ("after_answer", "inf", "inf", "incorrect"),
        ("colar", r"\frac12", r"\frac{1}{2}", "incorrect"),
        ("after_answer", "answer:3", "3", "incorrect"),
        ("after_answer", "Answer: blue", "blue", "correct"),
    ],
)
def test_papers_scorers_keep_their_rules(scorer: PaperScorer, text: str, gold: str, status: Status) -> None:
    assert paper_verdict(text, gold, scorer)[0] == status
