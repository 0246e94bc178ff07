r"""How many verdicts on 5,000 model-like answers are wrong, and how fast they come: `python benchmarks/scoring.py`.

The answers are the hand-made rows of the tests plus, for golds of the local data files, the gold in common wordings,
equal values in another spelling, and values made wrong on purpose; each knows its verdict. The peer is Math-Verify with
its own extraction, on a part of the mathematical answers, in the same run.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import os
import random
import re
import runpy
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from latbench.answers.check import quick_verdict
from latbench.answers.extract import AnswerKind, extract
from latbench.answers.workers import CheckPool, Item
from latbench.task import Status

ROOT = Path(__file__).resolve().parents[1]
FILES: dict[str, AnswerKind] = {
    "math500.jsonl": "math",
    "math_train.jsonl.gz": "math",
    "aime24.jsonl": "number",
    "amc23.jsonl": "number",
    "gsm8k_test.jsonl.gz": "number",
    "gsm_hard.jsonl": "number",
    "svamp.jsonl": "number",
    "prosqa_test.jsonl.gz": "text",
}
WORDINGS = {
    "number": (
        "{}",
        "The answer is: {}",
        "3 * 7 = 21, so that #### {}",
        "With 4 left, **Answer:** {}",
        "Adding 12 we get $\\boxed{{{}}}$ units, more than 5.",
    ),
    "math": (
        "{}",
        "\\boxed{{{}}}",
        "Since $x^2 = 4$, the final answer is ${}$.",
        "Thus $a + b = 7$ and\n\\[\n\\boxed{{{}}}\n\\]",
        "The answer is \\({}\\).",
    ),
    "text": ("{}", "The answer is: {}", "#### {}"),
}
# (pattern, replacement): each keeps the value of any gold of the files that it changes
EQUAL = [
    (r"\\frac\{", r"\\dfrac{"),
    (r"\\frac\{(-?\d+)\}\{(\d+)\}$", r"\1/\2"),
    (r"^(-?\d+)$", r"\1.0"),
    (r"^(-?\d+)$", r"x = \1"),
    (r"^(\d{1,3})(\d{3})$", r"\1,\2"),
    (r"^(\d{1,3})(\d{3})$", r"\1{,}\2"),
    (r"^(-?\d+)$", r"\1\\text{ apples}"),
    (r"\^\\circ", r"^{\\circ}"),
    (r"\^\\circ$", r"\\text{ degrees}"),
    (r"^\(|^\\left\(", r"\\Big("),
    (r",(?=\S)(?!\\!)(?!\d{3})", r",\\; "),
    (r"pmatrix", r"bmatrix"),
    (r"\\text\{(\w+)\}$", r"\1"),
    (r"\\sqrt\{(\d)\}", r"\\sqrt\1"),
    (r"\^(\d)", r"^{\1}"),
]


NUM_PEER = 300  # answers that the peer checks
# Items that our own reader leaves to Math-Verify.
SLOW: list[Item] = [(r"\frac12", r"\int_0^1 x\,dx", "math"), (r"\frac13", r"\int_0^1 x^2\,dx", "math")]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One answer text whose verdict is known."""

    gold: str
    text: str
    kind: AnswerKind
    expected: Status
    origin: str


def golds(folder: Path, name: str) -> list[str]:
    """Distinct golds of one file, in order."""
    data = (folder / name).read_bytes()
    text = (gzip.decompress(data) if name.endswith(".gz") else data).decode()
    return list(dict.fromkeys(json.loads(line)["answer"].strip() for line in text.split("\n") if line))


def equal_spellings(gold: str, kind: AnswerKind) -> Iterator[str]:
    """The same value, written differently."""
    if kind == "number":
        yield from (
            (f"{float(gold):,.2f}", f"${gold}", f"{gold} apples", f"{gold}.") if "." not in gold else (f"{gold} m",)
        )
    elif kind == "text":
        yield from (gold.upper(), f" {gold} \n")
    else:
        yield from (changed for old, new in EQUAL if (changed := re.sub(old, new, gold)) != gold)


def wrong_values(gold: str, kind: AnswerKind, rng: random.Random) -> Iterator[str]:
    """Another value in the same form."""
    if kind == "number":
        value = float(gold)
        yield from (f"{value * 1.01 + 1:.4f}", f"{value * 10 + 10:.1f}", *([f"{-value}"] if value else []))
        return
    if kind == "text":
        yield from (f"{gold[:-2]}x.", "unknown")
        return
    digits = [match.start() for match in re.finditer(r"\d", gold)]
    if digits and not re.search(r"\\approx|%.*=|=.*%", gold):
        position = rng.choice(digits)
        yield gold[:position] + str((int(gold[position]) + 1) % 10) + gold[position + 1 :]
    yield r"\sqrt{7919}"
    if re.fullmatch(r"\(-?\d+, ?-?\d+\)", gold):
        first, second = gold[1:-1].split(",")
        yield from (f"({second.strip()}, {first})",) if first.strip() != second.strip() else ()
        yield f"[{first}, {second}]"


def build(folder: Path, num_answers: int, seed: int) -> list[Case]:
    """The hand-made rows and a sample of what the golds give."""
    rows = runpy.run_path(str(ROOT / "tests" / "answers" / "answer_rows.py"))["ROWS"]
    cases = [Case(gold=g, text=t, kind=kind, expected=s, origin="by hand") for kind, (g, t, s) in rows]
    rng, made = random.Random(seed), []
    for name, kind in FILES.items():
        for gold in golds(folder, name):
            for wording in WORDINGS[kind]:
                made.append(
                    Case(gold=gold, text=wording.format(gold), kind=kind, expected="correct", origin="gold, worded")
                )
            values = [(value, "correct", "equal, respelt") for value in equal_spellings(gold, kind)]
            values += [(value, "incorrect", "made wrong") for value in wrong_values(gold, kind, rng)]
            for value, expected, origin in values:
                text = rng.choice(WORDINGS[kind]).format(value)
                made.append(Case(gold=gold, text=text, kind=kind, expected=expected, origin=origin))  # type: ignore[arg-type]
    rng.shuffle(made)
    return cases + made[: num_answers - len(cases)]


def math_verify(cases: list[Case]) -> tuple[float, int]:
    """Answers per second and wrong verdicts of Math-Verify as its documentation calls it, without time limits."""
    from math_verify import parse, verify

    logging.disable(logging.WARNING)  # it warns of each call without a time limit

    def correct(case: Case) -> bool:
        gold = parse(f"${case.gold}$", parsing_timeout=None)
        return bool(verify(gold, parse(case.text, parsing_timeout=None), timeout_seconds=None))

    correct(cases[0])  # its imports are not what is measured
    start = time.perf_counter()
    verdicts = [correct(case) for case in cases]
    seconds = time.perf_counter() - start
    wrong = sum(verdict != (case.expected == "correct") for case, verdict in zip(cases, verdicts, strict=True))
    return len(cases) / seconds, wrong


def main() -> None:
    """Score all answers with one worker, item by item, then with two at once."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = os.environ.get("LATBENCH_DATA_DIR", str(ROOT.parent / "shared" / "data"))
    parser.add_argument("--data-dir", type=Path, default=Path(default))
    parser.add_argument("--num-answers", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    cases = build(arguments.data_dir, arguments.num_answers, arguments.seed)

    start = time.perf_counter()
    items = [(case.gold, extract(case.text, case.kind), case.kind) for case in cases]
    extraction = time.perf_counter() - start
    slowest: tuple[float, Case | None] = (0.0, None)
    with CheckPool(1) as pool:
        pool.check_many([SLOW[0]])  # the start of the workers is not what is measured
        one_start = time.perf_counter()
        statuses = []
        for case, item in zip(cases, items, strict=True):
            start = time.perf_counter()
            statuses += pool.check_many([item])
            slowest = max(slowest, (time.perf_counter() - start, case), key=lambda pair: pair[0])
        one = time.perf_counter() - one_start
    with CheckPool(2) as pool:
        pool.check_many(SLOW)
        start = time.perf_counter()
        same = pool.check_many(items) == statuses
        two = time.perf_counter() - start
    whole = len(cases) / (extraction + one)
    peer, peer_wrong = math_verify(
        [case for case in cases if case.kind == "math" and case.origin != "by hand"][:NUM_PEER]
    )

    wrong = [(case, status) for case, status in zip(cases, statuses, strict=True) if status != case.expected]
    totals, misses = Counter(case.origin for case in cases), Counter(case.origin for case, _ in wrong)
    print(tabulate([(o, n, misses[o]) for o, n in totals.items()], headers=("answers", "n", "wrong verdicts")), "\n")
    needed = sum(quick_verdict(*item) is None for item in items)
    figures = [
        ("wrong verdicts", len(wrong)),
        ("extraction, answers/s", round(len(cases) / extraction)),
        ("share that needs Math-Verify", f"{needed / len(cases):.3f}"),
        ("from text to verdict, 1 worker, answers/s", round(whole)),
        (f"Math-Verify on {NUM_PEER} of them, answers/s", round(peer)),
        ("ratio to Math-Verify", f"{whole / peer:.1f}"),
        ("wrong verdicts of Math-Verify", f"{peer_wrong} of {NUM_PEER}"),
        ("1 worker, answers/s", round(len(cases) / one)),
        ("2 workers, answers/s", round(len(cases) / two)),
        ("1 and 2 workers agree", same),
        ("slowest item, s", f"{slowest[0]:.2f} {slowest[1] and (slowest[1].gold, slowest[1].text)!r}"),
    ]
    print(tabulate(figures))
    for case, status in wrong:
        print(f"WRONG {status}, expected {case.expected}: {case.gold!r} <- {case.text!r}")


if __name__ == "__main__":
    main()
