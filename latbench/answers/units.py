"""Units and the words after a quantity: which leave its value alone, which contradict each other, which change it."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SPELLINGS = {
    "cm": "centimeter centimetre", "mm": "millimeter millimetre", "m": "meter metre", "km": "kilometer kilometre",
    "in": "inch inche", "ft": "foot feet", "yd": "yard", "mi": "mile", "°": "degree deg ^\\circ", "rad": "radian",
    "$": "¤ dollar usd", "¢": "cent", "€": "euro", "£": "pound_sterling", "¥": "yen", "₹": "rupee", "%": "percent",
    "s": "second sec",
    "min": "minute", "h": "hour hr", "day": "", "week": "", "month": "", "year": "yr", "g": "gram gm", "kg": "kilogram",
    "mg": "milligram", "lb": "pound", "oz": "ounce", "t": "ton tonne", "l": "liter litre",
    "ml": "milliliter millilitre", "gal": "gallon", "qt": "quart", "pt": "pint", "cup": "", "acre": "",
    "am": "a.m", "pm": "p.m", "mph": "", "kph": "kmh", "hz": "hertz", "j": "joule", "n": "newton", "w": "watt",
    "v": "volt", "k": "kelvin", "mol": "mole", "°c": "celsius", "°f": "fahrenheit",
}  # fmt: skip
_UNITS = {spelling: unit for unit, names in _SPELLINGS.items() for spelling in (unit, *names.split())}
_LONG_UNITS = sorted((name for name in _UNITS if name.isalpha() and len(name) > 1), key=len, reverse=True)
_RATES = {"mph": ("mi", "h"), "kph": ("km", "h")}
_POWERS = {"square": "^2", "sq": "^2", "cubic": "^3", "cu": "^3"}
# Words that say nothing of what is counted; they contradict no other word.
_NEUTRAL = frozenset(
    [
        "a",
        "an",
        "the",
        "of",
        "in",
        "all",
        "total",
        "unit",
        "unique",
        "different",
        "distinct",
        "possible",
        "more",
        "such",
        "value",
        "integer",
        "number",
        "digit",
        "way",
        "solution",
        "possibility",
        "piece",
        "item",
        "thing",
        "object",
        "point",
        "time",
        "case",
        "element",
        "person",
        "people",
        "each",
        "long",
        "wide",
        "high",
        "tall",
        "old",
        "away",
        "left",
        "only",
        "altogether",
    ]
)
_LETTER = r"[^\W\d_]"
_TRAILING_UNIT = re.compile(
    r"(?P<body>.*[\d}).!]|.*\\pi|.*[A-Za-z](?=\s*\\text))\s*(?:"
    r"(?P<time>[ap]\.?m)|(?P<sign>%|¤|¢|€|£|¥|₹|\^\\circ(?:\s*(?:[CF]|\\text\{\s*[CF]\s*\}))?)|"
    rf"\\text\{{(?P<box>[^{{}}]*{_LETTER}[^{{}}]*)\}}|"
    rf"(?P<known>(?:{'|'.join(_LONG_UNITS)})s?(?:\s?/\s?[a-z]+)?)|"
    r"(?P<foreign>[^\x00-\x7f]+)|"
    rf"(?<=\s)(?P<words>(?:{_LETTER}{{3,}}|sq|cu)\.?(?:[\s-](?:{_LETTER}|\.)+)*)"
    r")(?P<power>\s*\^\s*\{?[23]\}?)?\.?"
)


# of a quantity that is not the answer (`5\text{ is wrong}`)
_DENIES = re.compile(r"(?<![A-Za-z])(?:not|never|wrong|incorrect|false|impossible)(?![A-Za-z])|n't", re.IGNORECASE)
_OF_ANGLES = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What a quantity is counted in."""

    over: frozenset[str]
    """Canonical names of the units or things, with their power; empty where the words say nothing."""
    under: frozenset[str] = frozenset()
    """Canonical names after `per`."""


def contradict(gold: Unit | None, answer: Unit | None) -> bool:
    """Whether two units exclude each other; a unit that is left out contradicts nothing."""
    if gold is None or answer is None:
        return False
    pairs = ((gold.over, answer.over), (gold.under, answer.under))
    return any(left and right and not left & right for left, right in pairs)


def split_unit(text: str) -> tuple[str, Unit | None]:
    """The quantity without its unit or currency sign, and the unit; None where there is none."""
    lead = re.fullmatch(r"(-?)\s*([¤€£¥₹])\s*(-?.*\d.*)", text)
    if lead:
        body, trailing = split_unit(lead[1] + lead[3])
        return (body if trailing else lead[1] + lead[3]), Unit(over=frozenset({_UNITS.get(lead[2], lead[2])}))
    match = _TRAILING_UNIT.fullmatch(text)
    if match is None or not re.search(r"\d|\\pi|[A-Za-z]", match["body"]) or _DENIES.search(match["box"] or ""):
        return text, None
    if (match["sign"] or "").startswith("^") and _OF_ANGLES.search(match["body"]):
        return text, None
    groups = ("time", "sign", "box", "known", "foreign", "words")
    name = next(match[group] for group in groups if match[group] is not None)
    return match["body"].strip(), _unit(name, match["power"] or "")


def _unit(name: str, power: str) -> Unit:
    name = re.sub(r"\\text\{|\}", "", name)
    over, _, under = re.sub(r"\^\\circ\s*", "°", name).casefold().replace("per", "/").partition("/")
    names = _canonical(over, re.sub(r"[^23^]", "", power))
    for rate, (top, bottom) in _RATES.items():
        if rate in names:
            return Unit(over=frozenset({top}), under=frozenset({bottom}))
    return Unit(over=names, under=_canonical(under, ""))


def _canonical(words: str, power: str) -> frozenset[str]:
    found, ahead = [], ""
    for word in re.findall(r"[^\s,;:()-]+", words):
        plain = word.strip(".^23{}") or word
        if plain in _POWERS:
            ahead = _POWERS[plain]
            continue
        singular = plain.removesuffix("s") if len(plain) > 1 else plain
        raised = re.search(r"\^\{?([23])", word)
        unit = _UNITS.get(plain) or _UNITS.get(singular) or _UNITS.get(plain.removesuffix("es"))
        if unit or (singular not in _NEUTRAL and plain not in _NEUTRAL):
            found.append((unit or singular) + (ahead or (f"^{raised[1]}" if raised else "")))
        ahead = ""
    if found and power:
        found[-1] += power
    return frozenset(found)
