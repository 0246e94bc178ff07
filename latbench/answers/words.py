r"""Words that are part of a value, written in symbols: `3 million`, `2 thirds`, `10 or more`, `not 8`, `2 dozen`.

Without this step such words would pass for units, which are ignored. Some can be read in two ways, which the question
decides: `in_symbols` gives one value, `smaller_count` the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from latbench.answers.notation import TEXT_BOX

_SMALL = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_COUNTS = {word: value for value, word in enumerate(_SMALL)} | {word: 20 + 10 * i for i, word in enumerate(_TENS)}
_SCALES = {
    "hundred": "100", "thousand": "1000", "million": "1000000", "billion": "1000000000", "trillion": "1000000000000",
    "tens": "10", "dozen": "12", "score": "20", "lakh": "100000", "crore": "10000000",
}  # fmt: skip
_PARTS = {
    "half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
    "ninth": 9, "tenth": 10, "eleventh": 11, "twelfth": 12, "twentieth": 20, "hundredth": 100, "thousandth": 1000,
    "millionth": 1000000,
}  # fmt: skip
# (names of a unit, names of its parts, how many parts it has), for quantities in two units
_DIVIDED = (
    ("years?|yrs?", "months?", 12),
    ("weeks?", "days?", 7),
    ("days?", "hours?|hrs?", 24),
    ("hours?|hrs?", "minutes?|mins?", 60),
    ("minutes?|mins?", "seconds?|secs?", 60),
    ("yards?|yds?", "feet|foot|ft", 3),
    ("feet|foot|ft", "inches|inch|in", 12),
    ("pounds?|lbs?", "ounces?|oz", 16),
    ("dollars?", "cents?", 100),
)
_FRACTION = r"\\frac\{\d+\}\{\d+\}"
_QUANTITY = (
    r"(?P<lead>[-+]?\s*[¤€£]?\s*)"
    rf"(?P<number>{_FRACTION}|[\d.,]*\d(?:\s+\d+\s*/\s*\d+|\s*/\s*\d+|\s*{_FRACTION})?)"
)
MAX_INNER_CHARS = 60  # of a value within a value, as in `3 million or more`
_ANY = r"(?P<any>[^A-Za-z]*[\dA-Za-z}].*?)"  # a number or formula
_REST = r"(?P<rest>(?:\s+[A-Za-z.%]+){0,4}|\s*%|\s*\^\\circ)?"


def _scaled(found: re.Match[str]) -> str:
    factors = [_SCALES.get(word) or _SCALES[word.removesuffix("s")] for word in found["scale"].lower().split()]
    value = " \\times ".join([found["number"], *factors])
    return _with_rest(f"{found['lead']}{value}", found)


def _with_rest(value: str, found: re.Match[str]) -> str:
    rest = (found["rest"] or "").strip()
    rest = re.sub(r"^of (?:a|an|the)?\s*", "", rest)
    return f"{value} \\text{{ {rest}}}" if re.search("[A-Za-z]", rest) else f"{value}{rest}"


def _part(found: re.Match[str]) -> str:
    if found["part"].lower() in _ORDINALS and not found["plural"] and found["number"] != "1" and found["by"] != "-":
        return found[0]  # 49 fourth grade boys
    return _with_rest(f"{found['lead']}\\frac{{{found['number']}}}{{{_PARTS[found['part'].lower()]}}}", found)


def _and_part(found: re.Match[str]) -> str:
    top = {"a": "1", "one": "1", "an": "1", "three": "3", "two": "2"}[found["top"].lower()]
    return _with_rest(f"{found['lead']}{found['number']}\\frac{{{top}}}{{{_PARTS[found['part'].lower()]}}}", found)


def _raised(found: re.Match[str]) -> str:
    return f"{found['lead']}{found['number']}^{3 if found['power'].lower() == 'cubed' else 2}"


def _relation(sign: str) -> Callable[[re.Match[str]], str]:
    def rewrite(found: re.Match[str]) -> str:
        value = found["any"].strip()
        return f"{sign} {in_symbols(value) if len(value) <= MAX_INNER_CHARS else value}"

    return rewrite


_ORDINALS = _PARTS.keys() - {"half", "halve", "quarter"}
_SCALE_WORDS, _PART_WORDS = "|".join(_SCALES), "|".join(_PARTS)
_MORE, _LESS = "more|greater|larger|higher|above|over|up|bigger|longer", "less|fewer|smaller|lower|below|under|shorter"
_RULES: list[tuple[re.Pattern[str], Callable[[re.Match[str]], str]]] = [
    (re.compile(pattern, re.IGNORECASE), rewrite)
    for pattern, rewrite in (
        (rf"{_QUANTITY}\s*-?\s*(?P<scale>(?:{_SCALE_WORDS})s?(?:\s+(?:{_SCALE_WORDS})s?)*){_REST}", _scaled),
        (rf"{_QUANTITY}\s*(?P<by>[- ])\s*(?P<part>{_PART_WORDS})(?P<plural>s?){_REST}", _part),
        (rf"{_QUANTITY},?\s*(?:remainder|rem\.?)\s*(?P<left>\d+)", lambda f: f"({f['number']},{f['left']})"),
        (rf"{_QUANTITY}(?:\s+{_REST[:-1]})?,?\s+(?P<top>a|an|one|two|three)\s+(?P<part>{_PART_WORDS})s?", _and_part),
        (rf"{_ANY}\s*,?\s*(?:or|\\lor|and|\\land|,)\s+(?:any\s?thing )?(?:{_MORE})(?:\s.*)?", _relation(r"\ge")),
        (rf"{_ANY}\s*,?\s*(?:or|\\lor|and|\\land|,)\s+(?:any\s?thing )?(?:{_LESS})(?:\s.*)?", _relation(r"\le")),
        (rf"(?:at least|no (?:{_LESS}) than|not (?:{_LESS}) than|a minimum of)\s+{_ANY}", _relation(r"\ge")),
        (rf"(?:at most|no (?:{_MORE}) than|not (?:{_MORE}) than|up to|a maximum of)\s+{_ANY}", _relation(r"\le")),
        (rf"(?:{_MORE}|greater|strictly (?:{_MORE}))(?: than)?\s+{_ANY}", _relation(r">")),
        (rf"(?:{_LESS}|strictly (?:{_LESS}))(?: than)?\s+{_ANY}", _relation(r"<")),
        (rf"(?:not|n't)\s+\S+?,?\s+but (?:rather |instead )?{_ANY}", _relation("")),
        (rf"(?:definitely |certainly )?(?:not|n't|never|anything but)(?: equal to)?\s+{_ANY}", _relation(r"\ne")),
        (r"(?:(?:some(?:thing|where) )?(?:in )?between)\s+(?P<low>\S+)\s*(?:and|\\land|,)\s*(?P<high>\S+)(?:\s.*)?",
         lambda f: f"({f['low']},{f['high']})"),
        (r"(?:from )?(?P<low>[-¤\d.,/]+)\s+(?:to|through|until)\s+(?P<high>[-¤\d.,/]+)(?:\s[A-Za-z ]*)?",
         lambda f: f"[{f['low']},{f['high']}]"),
        (rf"{_QUANTITY}\s+(?P<power>squared|cubed)", _raised),
        (rf"{_QUANTITY}\s+factorial", lambda f: f"{f['lead']}{f['number']}!"),
        (rf"{_QUANTITY}\s*(?:\^\s*\{{?\s*)?(?:st|nd|rd|th)\s*\}}?{_REST}",
         lambda f: _with_rest(f["lead"] + f["number"], f)),
    )
]  # fmt: skip
_IN_PARTS = [
    (re.compile(rf"(?P<whole>\d+)\s*(?:{unit}),?\s*(?P<parts>\d+)\s*(?:{part})\.?", re.IGNORECASE), number)
    for unit, part, number in _DIVIDED
]
_COUNTED = re.compile(rf"{_QUANTITY}\s+(?:dozens?|quarters)(?:\s+(?!of\s+an?\b)[A-Za-z]+){{0,4}}", re.IGNORECASE)
_OPERATIONS = {"plus": "+", "minus": "-", "times": "\\times", "divided by": "/", "over": "/"}
_NEGATIVE = re.compile(r"(?<![\w)}] )(?:negative|minus)\s+(?=[\d¤])", re.IGNORECASE)
_OPERATION = re.compile(rf"(?<=\d)\s+({'|'.join(_OPERATIONS)})\s+(?=\d)", re.IGNORECASE)
_COUNT = re.compile(
    rf"(?<![A-Za-z\\])(?:(?P<tens>{'|'.join(_TENS)})[- ](?P<ones>{'|'.join(_SMALL[1:10])})"
    rf"|(?P<one>{'|'.join(_SMALL + _TENS)}))(?![A-Za-z])",
    re.IGNORECASE,
)
_ABOUT = re.compile(
    r"[\s(,]*(?<![\\A-Za-z])(?:or\s+|i\.e\.\s+)?(?:approximately|approx\.?|about|roughly|around|nearly|almost|circa)\s+(?=[-¤\d.])",
    re.IGNORECASE,
)
_HAS_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2}")


def in_symbols(text: str) -> str:
    """A normalised answer with the words that are part of its value in symbols; any other answer as it is."""
    if not _HAS_WORD.search(text) or "_{\\text" in text:
        return text
    flat = " ".join(re.sub(TEXT_BOX, r" \1 ", text).split()).replace("^{ ", "^{")
    if _ABOUT.search(flat):
        return _ABOUT.sub(r" \\approx ", flat).strip()
    spelled = _spelled(flat)
    if spelled:
        return spelled
    if _NEGATIVE.search(flat):
        return in_symbols(_NEGATIVE.sub("-", flat))
    flat = _OPERATION.sub(lambda found: f" {_OPERATIONS[found[1].lower()]} ", _COUNT.sub(_count, flat))
    flat = re.sub(rf"^(?:an?\s+)?(?=(?:{_PART_WORDS})$)", "1 ", flat)  # a half
    for pattern, number in _IN_PARTS:
        found = pattern.fullmatch(flat)
        if found:
            return f"{found['whole']}+\\frac{{{found['parts']}}}{{{number}}}"
    for pattern, rewrite in _RULES:
        found = pattern.fullmatch(flat)
        if found:
            return rewrite(found).strip()
    return flat if _OPERATION.search(text) or (_COUNT.search(text) and re.search(r"\d", flat)) else text


def smaller_count(text: str) -> str | None:
    """The other value of a normalised quantity: 7 of `7 dozen` or `7 quarters`, 450 of `7 hours, 30 minutes`."""
    counted = _COUNTED.fullmatch(text)
    if counted:
        return counted["lead"] + counted["number"]
    for pattern, number in _IN_PARTS:
        found = pattern.fullmatch(text)
        if found:
            return str(int(found["whole"]) * number + int(found["parts"]))
    return None


def _spelled(text: str) -> str | None:
    """A number in words alone (`one hundred and twenty-one`) in digits; None for any other text."""
    total, group = 0, 0
    words = [word for word in re.split(r"[\s,-]+", text.casefold()) if word]
    if len(words) < 2 or words[0] not in _COUNTS:
        return None
    for word in words:
        if word in _COUNTS:
            group += _COUNTS[word]
        elif word == "hundred":
            group *= 100
        elif word in ("thousand", "million", "billion", "trillion"):
            total, group = total + group * int(_SCALES[word]), 0
        elif word != "and":
            return None
    return str(total + group)


def _count(found: re.Match[str]) -> str:
    if found["one"]:
        return str(_COUNTS[found["one"].lower()])
    return str(_COUNTS[found["tens"].lower()] + _COUNTS[found["ones"].lower()])
