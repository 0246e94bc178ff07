"""Prose that holds an answer: telling it from formulas, and finding the formula or quantity that it is about."""

from __future__ import annotations

import re

from latbench.answers.notation import TEXT_BOX, normalise
from latbench.answers.spans import math_spans
from latbench.answers.words import in_symbols

MAX_QUANTITY_CHARS = 400  # of a formula in running text
_MAX_PROSE_CHARS = 2000  # that are searched

_DIGITS = r"(?:\d{1,3}(?:(?:,|\{,\}|,\\!)\d{3})+(?!\d)|\d+)"
DECIMAL = rf"(?:{_DIGITS}(?:\.\d+)?|\.\d+)"
_PROSE = re.compile(
    r"(?<![\\A-Za-z])(?:is|are|be|was|were|the|so|we|it|thus|therefore|hence|then|get|gets|have|has|equals?|which|that|this|of"
    r"|because|since|when|if|there|answer|value|total|with|for|by|he|she|they|you)(?![A-Za-z])",
    re.IGNORECASE,
)
# Possessive, because a text of letters alone would otherwise be searched from each of its letters.
_FOREIGN = re.compile(r"\W*+[^\x00-\x7f\W\d]{2,}+[^\d$\\]*+[\d$\\]")
_WORD_THEN_FORMULA = re.compile(r"[^\W\d_]{2,}+[^$\\]*+(?:\$|\\\(|\\\[)")
_ANY_TEXT_BOX = re.compile(r"\\(?:text[a-z]*|mbox)\s*\{[^{}]*\}")
COMMAND_OR_BOX = re.compile(rf"{TEXT_BOX}|\\[A-Za-z]+")
WORD = re.compile(r"(?<![\\A-Za-z])[^\W\d_]{2,}")
_GOES_ON = re.compile(r"(?:(?:,|;|and|or)\s*)+[$\\\d({-]|[-+=<>\\]")  # after a formula: a list or a longer formula
_SENTENCE_END = re.compile(r"(?<=[^\s.])(?<!Mr)(?<!Mrs)(?<!Ms)(?<!Dr)(?<!St)\.\s+(?=[A-Z])")
CLAUSE = re.compile(r",?\s*(?:\\text\{\s*)?(?:where|for (?:all|any|every|each|some))(?![A-Za-z])")
_DENIAL = re.compile(r"(?:\b(?:can)?not|\bneither|\bnor|\bnever|n['’]t)\s+(?:be\s+)?[^\w\s]*$", re.IGNORECASE)
_MAX_DENIAL_CHARS = 20
_REASON = re.compile(r"[,;:]\s|\s(?:because|since|as|when|where|if|so|and|with)\s")
_COPULA = re.compile(
    r"(?<![A-Za-z\\])(?:is|are|be|equals?|was|were|gives?|gets?|makes?|leaves?|therefore|thus|hence|so|es|est|ist|lautet"
    r"|donc|son|sind|sont)(?![A-Za-z])"
    r"(?:\s+(?:equal to|given by|exactly|simply|just|only|about|approximately|therefore|thus))?"
    r"|:(?=\s)|是|为|は",
    re.IGNORECASE,
)
_QUALIFIER = (
    r"(?:(?<![A-Za-z])(?:(?:definitely|certainly|strictly)\s+)?(?:not|never|at least|at most|up to|no more than"
    r"|no less than|more than|less than|fewer than|greater than|over|under|above|below|between)\s+)?"
)
_TOKEN = (
    rf"(?:{DECIMAL}|\\[A-Za-z]+|\\[{{}}|,;:!% ]|[-+*/^=<>()\[\]{{}}_!|%&~]|[$€£](?=-?[\d.])"
    r"|(?<![A-Za-z])(?:sqrt|sin|cos|tan|log|ln|exp|pi)(?![A-Za-z])|[xX](?=\s?10\s?\^)"
    r"|(?<![A-Za-z])[A-Za-z](?=\s?[-+*/^=<>_)(])|(?<=[-+*/^=(_\d])[A-Za-z](?![A-Za-z])"
    r"|(?<=[-+*/^=] )[A-Za-z](?![A-Za-z])"
    r"|(?<=[\d})]),\s?(?=[-\d\\$({])|(?:,\s?)?(?:and|or)\s(?:(?:maybe|perhaps|possibly)\s)?(?=[-\d\\($]|[a-z]\s?=))"
)
_QUANTITY = re.compile(rf"{_QUALIFIER}(?:{_TOKEN}\s?)+", re.IGNORECASE)
_TAIL = re.compile(r"[ \t-]?(?:[A-Za-z]+[ \t]?){1,4}(?:\d[\d.,]*(?:[ \t]?[A-Za-z]+)?)?")


def is_prose(text: str) -> bool:
    """Whether a text has words that neither belong to a formula nor to a quantity."""
    plain = _ANY_TEXT_BOX.sub(" ", text) if "{" in text else text
    if _PROSE.search(plain) or _FOREIGN.match(plain) or _WORD_THEN_FORMULA.match(plain):
        return True
    if len(WORD.findall(plain)) < 3 or re.match(r"\s*[-+$€£(\[\\{|\d]", plain):
        return False
    return len(text) > 60 or WORD.search(COMMAND_OR_BOX.sub(" ", in_symbols(normalise(text)))) is not None


def clean(marked_text: str) -> str:
    """One formula or one sentence of what a marker points at, without its delimiters."""
    span = next(math_spans(marked_text), None) if marked_text[:1] in ("$", "\\") else None
    if span is not None and span.start == 0:
        tail = marked_text[span.end :].strip(" .\n*")
        if not tail or re.fullmatch(r"\\?%|[A-Za-z]+(?:\^\d)?", tail):
            return f"{span.content} {tail}".strip()
        if not _GOES_ON.match(tail) and not CLAUSE.match(tail):
            words = value_words(f"{span.content} ", tail)
            return f"{span.content} {words}".strip()
    sentence = _SENTENCE_END.split(marked_text, maxsplit=1)[0]
    return sentence.strip().rstrip(".").strip("* ").strip()


def is_denied(text: str, start: int) -> bool:
    """Whether the word or letter that starts there is denied, as in `not A`, `it isn't true`."""
    return _DENIAL.search(text[max(0, start - _MAX_DENIAL_CHARS) : start]) is not None


def in_prose(text: str) -> str | None:
    """What prose is about: the formula or quantity after `is`, `:` ..., else its last formula or first quantity."""
    text = text[:_MAX_PROSE_CHARS]
    sentences = [part for line in text.split("\n") for part in _SENTENCE_END.split(line)]
    for sentence in sentences:
        clauses = _REASON.split(sentence)
        clause = next((part for part in clauses if re.search(r"\d", part)), clauses[0])
        if "=" in clause and "\\" not in clause and next(math_spans(clause), None) is None:
            result = _leading(clause.rpartition("=")[2])
            if result:
                return result
        start = _leading(sentence)
        if start:
            return start
        for copula in _COPULA.finditer(sentence):
            found = _leading(sentence[copula.end() :])
            if found:
                return found
    for sentence in sentences:
        spans = [span.content for span in math_spans(sentence) if not is_prose(span.content)]
        if spans:
            return spans[-1]
        found = _first_quantity(sentence)
        if found:
            return found
    return None


def _leading(text: str) -> str | None:
    """The formula or quantity that a text begins with."""
    text = text.lstrip(" \t*:").removeprefix("a total of ").lstrip()
    if text[:1] in ("$", "\\"):
        span = next(math_spans(text), None)
        if span is not None and span.start == 0 and not is_prose(span.content):
            return clean(text)
    match = _QUANTITY.match(text[:MAX_QUANTITY_CHARS])
    return _quantity(text, match) if match else None


def _first_quantity(text: str) -> str | None:
    for match in _QUANTITY.finditer(text):
        found = _quantity(text, match)
        if found:
            return found
    return None


def _quantity(text: str, match: re.Match[str]) -> str | None:
    """The quantity of a match with the words after it that change its value; None where it has no number."""
    found = match[0].strip()
    if not re.search(r"\d", found):
        return None
    after = text[match.end() : match.end() + 80]
    found = re.sub(r"[\s,({\[=<>+*/-]+$", "", found) or found
    if found.count("(") != found.count(")"):
        found = re.sub(r"\s*\([^()]*$|\)+$", "", found)
    found = re.sub(r"(?<=\d)!$", "", found)
    return f"{found} {value_words(found, after)}".strip()


def value_words(found: str, after: str) -> str:
    """The words after a quantity that change its value (`million`, `or more`), "" where there are none."""
    tail = _TAIL.match(after)
    if not tail:
        return ""
    words = tail[0].strip().strip("-").split()
    for number in range(len(words), 0, -1):
        candidate = normalise(f"{found.strip()} {' '.join(words[:number])}")
        if in_symbols(candidate) != candidate:
            return " ".join(words[:number])
    return ""
