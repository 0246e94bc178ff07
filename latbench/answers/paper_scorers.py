"""The papers' own scorers, for comparison."""

from __future__ import annotations

import re
from math import isfinite

from latbench.task import PaperScorer, Status

MAX_TEXT_CHARS = 100_000  # of the text's end that are read; an answer stands at the end


def paper_verdict(text: str, gold: str, scorer: PaperScorer) -> tuple[Status, str | None]:
    """The verdict and the extracted text of a paper's own scorer, for comparison.

    after_hash (Coconut's): text after the last `#`, commas removed, equal as a string. last_number (CODI's): last
    number, commas removed, equal as float; unlike the released code a gold that does not parse equals nothing.
    after_answer (CoLaR's): text between the first `Answer:` and the next (all of it without one), without spaces,
    newlines and periods at its ends, equal as floats, else as strings.
    """
    text = text[-MAX_TEXT_CHARS:]
    if scorer == "after_hash":
        found = text.split("#")[-1].replace(",", "").strip()
        return _paper_status(found, found == gold.replace(",", "").strip())
    if scorer == "last_number":
        found = _last_number(text)
        return _paper_status(found, _equal_floats(_last_number(gold), found) is True)
    found = _stripped(text.split("Answer:")[1] if "Answer:" in text else text)
    reference = _stripped(gold)
    equal = _equal_floats(reference, found)
    return _paper_status(found, reference == found if equal is None else equal)


def _paper_status(found: str, equal: bool) -> tuple[Status, str | None]:
    return ("correct" if equal else "incorrect", found) if found else ("no_answer", None)


def _last_number(text: str) -> str:
    numbers: list[str] = re.findall(r"-?\d+\.?\d*", text.replace(",", ""))
    return numbers[-1] if numbers else ""


def _stripped(text: str) -> str:
    return text.strip(" \n").rstrip(".").strip(" \n").replace(",", "")


def _equal_floats(gold: str, answer: str) -> bool | None:
    """None where one of them is no float; infinities and nan equal nothing."""
    try:
        left, right = float(gold), float(answer)
    except ValueError:
        return None
    return isfinite(left) and left == right
