r"""The final answer in an answer text: what the strongest marker points at, read as a whole.

Markers, strongest first: the last \boxed{}, <answer>, ####, "answer": in JSON, "the answer is" and headings, "is the
answer", bold type. What a marker points at is a plain number with currency, unit and separators; else a formula; else
prose, which is searched for its formula or number. A thinking part (`<think>..</think>`) is no answer.

Every step reads the text a fixed number of times, so that hostile text costs linear time.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Literal

from latbench.answers.formulas import constant
from latbench.answers.markers import after_thinking, before_next_question, last_boxed, marked, phrase_within
from latbench.answers.notation import normalise, plain_characters
from latbench.answers.numbers import parse_number
from latbench.answers.prose import (
    CLAUSE,
    COMMAND_OR_BOX,
    DECIMAL,
    MAX_QUANTITY_CHARS,
    WORD,
    clean,
    in_prose,
    is_denied,
    is_prose,
    value_words,
)
from latbench.answers.spans import math_spans
from latbench.answers.units import split_unit
from latbench.answers.words import in_symbols
from latbench.task import RunOn

__all__ = ["MAX_TEXT_CHARS", "AnswerKind", "extract", "last_boxed"]

AnswerKind = Literal["number", "math", "text", "choice"]

MAX_TEXT_CHARS = 100_000  # of the text's end that are read; an answer stands at the end
MAX_BARE_CHARS = 300  # a text this short, without any marker and without prose, is itself the answer

_SIGN = r"(?:(?<![\w)}\]])[-−+]\s?)?"
_NUMBER = re.compile(  # the power of a unit (`18 m^2`) is none
    rf"(?<![A-Za-z]\^)(?<![A-Za-z]\^\{{)(?<![A-Za-z]\^\d)"
    rf"{_SIGN}[$€£]?(?:(?<=\$)-)?(?:(?:(?<![\d.,])\d{{1,9}}\s?)?\\[dtc]?frac\s*\{{\s*-?{DECIMAL}\s*\}}\s*\{{\s*{DECIMAL}\s*\}}"
    rf"|(?<![\d.,])\d{{1,9}} \d{{1,9}}/\d{{1,9}}(?![\d/])"
    rf"|{DECIMAL}(?:\s?/\s?{DECIMAL}|[eE][+-]?\d{{1,3}}(?!\w)|\s?(?:[xX*]|\\times|\\cdot)\s?10\s?\^\s?\{{?-?\d{{1,4}}\}}?)?)"
)
_PLAIN = re.compile(rf"[-+]?\s?[$€£]?-?(?:\d{{1,3}}(?: \d{{3}})+|{DECIMAL})(?:\s?/\s?{DECIMAL}|[eE][+-]?\d{{1,3}})?")
_SHORT_UNIT = re.compile(
    rf"(?P<number>[-+]?{DECIMAL})\s[A-Za-z]{{1,2}}(?:\^?\d|\^\{{\d\}})?(?:\s?/\s?[A-Za-z]{{1,3}})?"
)
_GLOSS = re.compile(
    rf"(?P<head>(?P<number>[-+]?\s?[$€£]?{DECIMAL})(?:\s[A-Za-z]+){{0,3}})\s+\((?P<gloss>[^()\n]{{2,80}})\)"
)
CHOICE_LETTERS = "ABCDEFGHIJ"
"""What an answer of kind choice is one of."""
_SMALL_LETTERS = CHOICE_LETTERS.lower()
_LETTER = re.compile(
    rf"(?<![A-Za-z'’])(?P<letter>[{CHOICE_LETTERS}])(?![A-Za-z'’])"
    rf"|(?<![A-Za-z'’])['’](?P<quoted>[{CHOICE_LETTERS}])['’](?![A-Za-z])"
    rf"|(?<![A-Za-z])[(\[]\s?(?P<bracketed>[{_SMALL_LETTERS}])\s?[)\]]"
    rf"|^\s*(?!i)(?P<leading>[{_SMALL_LETTERS}])[).:](?=\s)"
)
_BETWEEN_LETTERS = re.compile(r"[\s)\]\"'’]*(?:,|/|&|(?:,\s*)?\b(?:or|and)\b)[\s(\[\"'‘]*", re.IGNORECASE)
_VERB = re.compile(r"[)\]\"'’]*\s+(?:is|was|does|would|can|cannot|has|gives)\b")
_NEGATIVE = re.compile(
    r"(?<![A-Za-z])negative\s+(?=[$€£]?\.?\d)|(?:^|(?<=\bis )|(?<=\bwas )|(?<=#### )|(?<=: ))minus\s+(?=[$€£]?\.?\d)",
    re.IGNORECASE,
)
_EXCLAIMED = re.compile(rf"([$€£]?{DECIMAL})!+")  # a sentence's end; in a box or a formula it is a factorial
_CALCULATION = re.compile(r"<<[^<>\n]{0,300}>>")  # the calculator annotations of GSM8K
_LABEL = re.compile(r"\\text[a-z]*\s*\{[^{}]*(?:\bis|\bare|\bbe|\bequals|:|=)\s*\}\s*(?=\S)")
_BOLD = re.compile(r"\*\*([^*\n]{1,300})\*\*")


def extract(text: str, kind: AnswerKind, run_on: RunOn = "first") -> str | None:
    """The final answer of an answer segment.

    Args:
        text: what the model wrote as its answer (all of its output where it writes no markers).
        kind: number: the number or formula after the marker, else the last number of the text. math: what the marker
            points at, else a short text itself, else the last formula or number. choice: the first letter A-J after the
            marker, else the last one; none that is denied (`not A`) or joined to another (`B or C`). A small letter
            counts in brackets, before a bracket or full stop, and alone. text: after the marker, else all.
        run_on: of a text that runs on to further questions, whether its "first" or its "last" answer counts: of several
            `####`, and of what precedes or follows a line that begins with `Question:` or the like. First by default:
            `####` ends a solution, what comes after it belongs to another question, and lm-eval's strict match reads
            the first as well.
    Returns: the answer as written, a plain number without separators and currency; None where there is none.
    """
    text = after_thinking(text[-MAX_TEXT_CHARS:]).strip()
    if run_on == "first":
        text = before_next_question(text)
    if not text:
        return None
    if kind == "choice":
        return _choice(text, run_on)
    if kind == "text":
        return next((found for _, pointed in marked(text, run_on) if (found := clean(pointed))), None) or text
    text = _CALCULATION.sub(" ", plain_characters(text))
    return _number(text, run_on) if kind == "number" else _math(text, run_on)


def _number(text: str, run_on: RunOn) -> str | None:
    text = _NEGATIVE.sub("-", text)
    whole = _PLAIN.fullmatch(text)
    if whole:
        return _tidy(text)
    for marker, pointed in marked(text, run_on):
        if marker == "heading":
            continue
        exclaimed = None if marker == "box" else _EXCLAIMED.fullmatch(pointed)
        found = _read_number(exclaimed[1] if exclaimed else pointed)
        if found is not None:
            return found
    return _bold(text, number=True) or _last_quantity(text)


def _math(text: str, run_on: RunOn) -> str | None:
    later = None
    for marker, pointed in marked(text, run_on):
        if marker == "heading":
            later = later or pointed
            continue
        found = _read(pointed)
        if found:
            return found
    if later and not re.match(r"(?:\d+[.):]|step|part|case)\s", later, re.IGNORECASE):
        return _read(later)
    return _unmarked_math(text)


def _choice(text: str, run_on: RunOn) -> str | None:
    pointed = next((pointed for marker, pointed in marked(text, run_on) if marker != "reversed"), "")
    found = _letters(pointed)[:1] or _letters(text)[-1:]
    return next(iter(found[0])) if found and len(found[0]) == 1 else None


def _read(pointed: str) -> str | None:
    """What a marker points at: a formula or quantity as a whole, else what prose says."""
    pointed = _bare(pointed)
    within = phrase_within(pointed) if len(pointed) > 8 else None
    if within:
        pointed = _bare(within)
    if not pointed:
        return None
    pointed = _without_label(pointed)
    cleaned = clean(pointed)
    return cleaned if not is_prose(cleaned) or CLAUSE.search(cleaned) else in_prose(pointed) or cleaned


def _read_number(pointed: str) -> str | None:
    """The same for kind `number`; a plain number comes without unit, currency and separators, words alone are none."""
    pointed = _without_gloss(_bare(pointed))
    if _PLAIN.fullmatch(pointed):
        return _tidy(pointed)
    within = phrase_within(pointed) if len(pointed) > 8 else None
    if within:
        pointed = _bare(within)
    pointed = _without_label(pointed)
    cleaned = clean(pointed)
    whole = _plain_or_formula(cleaned) if not is_prose(cleaned) else None
    if whole is not None:
        return whole
    found = in_prose(pointed)
    return None if found is None else (_plain_or_formula(found) or found)


def _without_label(pointed: str) -> str:
    return _LABEL.sub("", pointed, count=1) if pointed.startswith("\\text") else pointed


def _without_gloss(pointed: str) -> str:
    """Without what repeats the number in brackets: `12 (twelve)`, `12 eggs (3*4 = 12)`, `12 (in all)`."""
    found = _GLOSS.fullmatch(pointed)
    if not found:
        return pointed
    gloss = in_symbols(normalise(found["gloss"].rpartition("=")[2]))
    value, number = constant(split_unit(gloss)[0]), parse_number(_tidy(found["number"]))
    if value is not None:
        return found["head"] if number and value == number.value else pointed
    says_more = value_words(found["number"], f" {found['gloss']}") or not WORD.search(gloss) or re.search(r"\d", gloss)
    return pointed if says_more else found["head"]


def _plain_or_formula(text: str) -> str | None:
    """A number without its unit, else the formula; None where words remain that are neither."""
    if _PLAIN.fullmatch(text):
        return _tidy(text)
    if len(text) > MAX_QUANTITY_CHARS * 5 or not re.search(r"[\dA-Za-z]", text):
        return None
    plain = normalise(text)
    short = _SHORT_UNIT.fullmatch(plain)
    if short:
        return _tidy(short["number"])
    symbols = in_symbols(plain)
    body, _ = split_unit(symbols)
    if parse_number(body) and re.fullmatch(r"[-+]?[\d.,\s/eE+-]+", body):
        return _tidy(re.sub(r"(?<=\d) (?=\d{3}(?!\d))", "", body), keep_spaces=True)
    if WORD.search(COMMAND_OR_BOX.sub(" ", body)) or not re.search(r"\d|\\pi", body):
        return None
    return text


def _bare(text: str) -> str:
    """Without Markdown, quotes and final punctuation around it."""
    text = re.sub(r"\s*#+$", "", text.strip()).removesuffix(".").strip("`\"'").strip()
    while len(text) > 4 and text.startswith("**") and "**" in text[2:]:
        inner, _, rest = text[2:].partition("**")
        text = f"{inner}{rest}".strip()
    return text.strip("*").strip() if not re.search(r"\w\*\*\w", text) else text


def _unmarked_math(text: str) -> str | None:
    short = len(text) <= MAX_BARE_CHARS
    if short and (not is_prose(text) or (text[0] in "$\\" and CLAUSE.search(text))):
        return clean(_bare(text)) or None
    spans = [span.content for span in math_spans(text) if not is_prose(span.content)]
    if spans:
        return spans[-1]
    return _bold(text, number=False) or _last_quantity(text) or (text if short else None)


def _bold(text: str, *, number: bool) -> str | None:
    """The quantity in bold type in the last line with a number, where it is the only one there."""
    if "**" not in text:
        return None
    line = next((line for line in reversed(text[-MAX_TEXT_CHARS:].split("\n")) if re.search(r"\d", line)), "")
    bold = [match[1].strip() for match in _BOLD.finditer(line)]
    found = [content for content in bold if not is_prose(content) and not re.match(r"\d+[.):]$", content)]
    if len(found) != 1:
        return None
    return _read_number(found[0]) if number else clean(found[0])


def _last_quantity(text: str) -> str | None:
    """The last number of a text, the whole formula in which it stands, or the quantity whose words change its value."""
    found = deque(_NUMBER.finditer(text), maxlen=1)
    if not found:
        return None
    match = found[0]
    if "$" in text or "\\" in text:
        last = deque(math_spans(text), maxlen=1)
        if last and last[0].start <= match.start() and match.end() <= last[0].end:
            whole = _plain_or_formula(last[0].content)
            if whole is not None:
                return whole
    words = value_words(match[0], text[match.end() : match.end() + 80])
    return _plain_or_formula(f"{match[0]} {words}") if words else _tidy(match[0], keep_spaces="/" in match[0])


def _tidy(number: str, *, keep_spaces: bool = False) -> str:
    number = number.strip().replace("−", "-").lstrip("+")
    number = re.sub(r"[$€£,]|\{,\}|\\!", "", number)
    return re.sub(r"(?<!\d)\s|\s(?!\d)", "", number) if keep_spaces else re.sub(r"\s", "", number)


def _letters(text: str) -> list[set[str]]:
    """The letters of choices in order; those that commas, `or` and `and` join are one set, which chooses none."""
    alone = re.fullmatch(r"[(\[\"'‘]?([a-jA-J])[)\].:\"'’]?", text.strip())
    if alone:
        return [{alone[1].upper()}]
    found = [m for m in _LETTER.finditer(text) if not _is_word(text, m) and not is_denied(text, m.start())]
    letters: list[set[str]] = []
    for before, match in zip([None, *found], found, strict=False):
        joined = before is not None and _BETWEEN_LETTERS.fullmatch(text, before.end(), match.start())
        if joined and not _VERB.match(text, match.end()):
            letters[-1].add(_letter(match))
        else:
            letters.append({_letter(match)})
    return letters


def _letter(match: re.Match[str]) -> str:
    return next(letter for letter in match.groups() if letter).upper()


def _is_word(text: str, match: re.Match[str]) -> bool:
    """Whether a capital is the pronoun I or the article A."""
    after = text[match.end() : match.end() + 12]
    if match["letter"] == "I":
        return re.match(r"\s[a-z]", after) is not None
    return (
        match["letter"] == "A"
        and re.match(r"\s(?!is\b|are\b|was\b|and\b|or\b|because\b|since\b|as\b)[a-z]", after) is not None
    )
