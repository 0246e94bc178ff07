"""Math-Verify (sympy) on two single formulas that our own reader does not understand."""

from __future__ import annotations

import logging
import re

_WORD = re.compile(r"\\text\{([^{}]*)\}|(?<![\\A-Za-z])([A-Za-z]{4,})")


def readable(gold: str, answer: str) -> bool:
    """Whether both sides have the same words; words are all that Math-Verify leaves out without notice."""
    words = [sorted("".join(found).strip().casefold() for found in _WORD.findall(text)) for text in (gold, answer)]
    return words[0] == words[1]


def math_verify_equal(gold: str, answer: str) -> bool:
    """Compare with Math-Verify; its own time limits need signals and are off, the worker has one."""
    from latex2sympy2_extended.latex2sympy2 import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    # units=False: Math-Verify takes trailing letters for a unit and reads 2ab as 2
    plain = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
    )
    config = [LatexExtractionConfig(normalization_config=plain, boxed_match_priority=-1)]
    parsed = [parse(f"${side}$", config, "no_fallback", parsing_timeout=None) for side in _distinct_case(gold, answer)]
    if not parsed[0] or not parsed[1]:
        return False
    return bool(verify(parsed[0], parsed[1], allow_set_relation_comp=True, timeout_seconds=None))


def _distinct_case(gold: str, answer: str) -> tuple[str, str]:
    """Math-Verify ignores case; where a letter occurs in both (`R - r`), capitals get an index."""
    if not uses_both_cases(gold) and not uses_both_cases(answer):
        return gold, answer
    capital = re.compile(r"\\[A-Za-z]+|[A-Z]")
    marked = [
        capital.sub(lambda m: m[0] if m[0].startswith("\\") else f"{{{m[0].lower()}_{{0}}}}", text)
        for text in (gold, answer)
    ]
    return marked[0], marked[1]


def uses_both_cases(text: str) -> bool:
    """Whether some letter occurs as a capital and as a small one."""
    letters = set(re.sub(r"\\[A-Za-z]+", "", text))
    return any(letter.isupper() and letter.lower() in letters for letter in letters)
