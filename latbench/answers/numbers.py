"""Plain numbers as they are written: integers, decimals, fractions, mixed and scientific numbers, other bases."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_NUMBER_CHARS = 2500  # of a number's text: keeps int() and Fraction() far below anything slow
_INTEGER = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+)"
_DECIMAL = rf"(?:{_INTEGER}(?:\.\d*)?|\.\d+)"
_POWER = (
    r"(?:[eE](?P<e>[+-]?\d{1,4})"
    r"|\s*(?:\\times|\\cdot|\*|(?<=\d)\s*[xX](?=\s*10\s*\^))\s*10\s*\^\s*(?:\{\s*)?(?P<ten>[+-]?\s?\d{1,4})\s*\}?)"
)
_ABSOLUTE, _RELATIVE, _SHARE = Fraction(1, 10**4), Fraction(1, 10**9), Fraction(1, 10**3)
_FIRST = frozenset("0123456789.+-\\")
_FORMS = [
    re.compile(rf"(?P<sign>[+-]?)\s*{form}", re.ASCII)
    for form in (
        rf"(?P<top>{_DECIMAL}){_POWER}?",
        rf"(?:(?P<whole>\d+)\s*)?\\frac\{{(?P<top>[+-]?\s?{_DECIMAL})\}}\{{(?P<bottom>[+-]?\s?{_DECIMAL})\}}",
        rf"(?:(?P<whole>\d+) )?(?P<top>{_DECIMAL})\s*/\s*(?P<bottom>{_DECIMAL})",
    )
]


@dataclass(frozen=True, kw_only=True)
class Number:
    """A rational number."""

    value: Fraction
    """Its exact value."""
    rounded: bool
    """Whether it is written with a decimal point or an exponent."""


def parse_number(text: str) -> Number | None:
    """The number a normalised text spells (integer, decimal, fraction, mixed, scientific); None for anything else."""
    text = text.strip()
    if len(text) > MAX_NUMBER_CHARS or not text or text[0] not in _FIRST:
        return None
    match = next((found for form in _FORMS if (found := form.fullmatch(text))), None)
    if match is None:
        return None
    groups = match.groupdict()
    value = _fraction(groups["top"])
    if groups.get("bottom"):
        bottom = _fraction(groups["bottom"])
        if bottom == 0:
            return None
        value /= bottom
    exponent = groups.get("e") or groups.get("ten")
    if exponent:
        value *= Fraction(10) ** int(exponent.replace(" ", ""))
    if groups.get("whole"):
        if value < 0:
            return None
        value += int(groups["whole"])
    return Number(value=-value if groups["sign"] == "-" else value, rounded="." in text or groups.get("e") is not None)


def _fraction(digits: str) -> Fraction:
    digits = digits.replace(",", "").replace(" ", "")
    return Fraction(int(digits)) if digits.isdigit() else Fraction(digits)


def close(gold: Fraction, answer: Fraction) -> bool:
    """Whether an answer that may be rounded is near enough to the gold.

    The distance may be max(1e-4, 1e-9 |gold|), of a small gold at most 1e-3 |gold|, and of an integer gold at most
    1e-4, so that a large integer is compared exactly.
    """
    size, distance = abs(gold), abs(gold - answer)
    if gold.denominator == 1:
        return distance <= (_ABSOLUTE if gold else 0)
    return distance <= max(min(_ABSOLUTE, _SHARE * size), _RELATIVE * size)


_BASES = dict(two=2, three=3, four=4, five=5, six=6, seven=7, eight=8, nine=9, ten=10, eleven=11, twelve=12)  # noqa: C408
_BASE = re.compile(
    r"(?P<sign>-?)(?:\\text\{|\()?(?P<digits>[0-9A-Za-z]*[0-9][0-9A-Za-z]*)[})]?\s*_\s*\{?(?:\\text\{)?"
    r"(?P<base>\d{1,2}|[a-z]{3,})\}*"
)


def split_base(text: str) -> tuple[str, int | None]:
    """`2516_{8}` -> (`2516`, 8), without leading zeros and in capitals; (text, None) where there is no base."""
    match = _BASE.fullmatch(text)
    if match is None or (match["digits"][0].isalpha() and match["digits"][0].islower()):  # a name with an index
        return text, None
    name = match["base"]
    base = int(name) if name.isdigit() else _BASES.get(name)
    if not base:
        return text, None
    return match["sign"] + (match["digits"].upper().lstrip("0") or "0"), base
