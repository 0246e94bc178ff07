r"""Sets of real numbers as unions of intervals: interval notation, inequalities, set-builder notation.

Two texts are equal where they describe the same set: `\{x \mid 2 \le x < 5\}`, `[2,5)`, `5 > x \ge 2`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from latbench.answers.formulas import constant, equal_formulas
from latbench.answers.structure import NAME, inside, parse_group, split_top

INFINITY = "\\infty"
_RELATION = re.compile(r"(<|>|\\le(?![A-Za-z])|\\ge(?![A-Za-z])|\\ne(?![A-Za-z])|(?<![<>])=)")
_INEQUALITY = re.compile(r"[<>]|\\(?:le|ge|ne)(?![A-Za-z])")
_SET = re.compile(
    r"[<>]|\\(?:le|ge|ne|cup|cap|infty|setminus|mathbb|emptyset|in)(?![A-Za-z])|\\\{[^{}]*[|:]|^\s*(?:\(.*\]|\[.*\))$"
    r"|^(?:all )?(?:\\text\{\s*)?(?:all )?(?:the )?(?:(?:non-?)?(?:positive |negative ))?reals?(?: numbers?)?\s*\}?$"
)
_ALL_REALS = re.compile(r"\\mathbb\{R\}|(?:\\text\{\s*)?(?:all )?(?:the )?reals?(?: numbers?)?\s*\}?", re.IGNORECASE)
_HALF_LINES = {"+": ">", "-": "<", "positive": ">", "negative": "<", "nonnegative": "\\ge", "nonpositive": "\\le"}
_HALF_LINE = re.compile(
    r"\\mathbb\{R\}\s*[\^_]\s*\{?\s*([+-])\s*\}?"
    r"|(?:\\text\{\s*)?(?:all )?(?:the )?((?:non-?)?(?:positive|negative)) reals?(?: numbers?)?\s*\}?",
    re.IGNORECASE,
)
MAX_INTERVALS = 60


@dataclass(frozen=True, kw_only=True)
class Bound:
    """An end of an interval."""

    text: str
    """Its formula, or signed infinity."""
    value: Fraction
    """Its value to 60 digits; unused for infinity."""
    infinite: int = 0
    """-1, 0 or 1."""

    def key(self) -> tuple[int, Fraction]:
        """What bounds are ordered by."""
        return self.infinite, self.value


@dataclass(frozen=True, kw_only=True)
class RealInterval:
    """An interval; a single number is the closed interval from itself to itself."""

    low: Bound
    high: Bound
    low_closed: bool
    high_closed: bool

    def empty(self) -> bool:
        """Whether no number lies in it."""
        low, high = self.low.key(), self.high.key()
        return low > high or (low == high and not (self.low_closed and self.high_closed))


@dataclass(frozen=True, kw_only=True)
class RealSet:
    """A union of disjoint intervals in order, and the name of its variable, if one was given."""

    intervals: tuple[RealInterval, ...]
    name: str | None = None


def describes_set(text: str) -> bool:
    """Whether a normalised text can only be read as a set of numbers (a pair `(1,2)` can be read otherwise)."""
    return _SET.search(text) is not None


def has_inequality(text: str) -> bool:
    """Whether a normalised text contains an inequality."""
    return _INEQUALITY.search(text) is not None


def interval_text(text: str) -> str | None:
    """`a < x \\le b` as `(a,b]`, whatever its ends are; None for any other text."""
    pieces = [piece.strip() for piece in _RELATION.split(text)]
    if len(pieces) != 5 or not NAME.fullmatch(pieces[2]) or re.search(r"[,;]", text):
        return None
    low, left, _, right, high = pieces
    if {left, right} <= {">", "\\ge"}:
        low, left, right, high = (
            high,
            right.replace(">", "<").replace("ge", "le"),
            left.replace(">", "<").replace("ge", "le"),
            low,
        )
    if not {left, right} <= {"<", "\\le"}:
        return None
    return f"{'(' if left == '<' else '['}{low},{high}{')' if right == '<' else ']'}"


def equal_sets(gold: RealSet, answer: RealSet) -> bool:
    """Whether two sets are the same, and their variables as well where both are named."""
    if gold.name and answer.name and gold.name != answer.name:
        return False
    if len(gold.intervals) != len(answer.intervals):
        return False
    return all(
        (left.low_closed, left.high_closed) == (right.low_closed, right.high_closed)
        and _equal_bounds(left.low, right.low)
        and _equal_bounds(left.high, right.high)
        for left, right in zip(gold.intervals, answer.intervals, strict=True)
    )


def _equal_bounds(gold: Bound, answer: Bound) -> bool:
    if gold.infinite or answer.infinite:
        return gold.infinite == answer.infinite
    return gold.value == answer.value or equal_formulas(gold.text, answer.text) is True


def parse_set(text: str) -> RealSet | None:
    """The set that a normalised text describes; None for anything else."""
    text = text.strip()
    name = None
    member = re.match(rf"({NAME.pattern})\\in(?![A-Za-z])\s*", text)
    if member and not has_inequality(text[: member.end()]):
        rest = text[member.end() :]
        if not has_inequality(rest) and not re.search(r"\\l(?:and|or)|[,;]\s*[A-Za-z]", rest):
            name, text = member[1].strip(), rest
    found = _parse(text)
    return found if found is None or name is None else RealSet(intervals=found.intervals, name=name)


def _parse(text: str) -> RealSet | None:
    if text in ("\\emptyset", "\\{\\}"):
        return RealSet(intervals=())
    if _ALL_REALS.fullmatch(text):
        return RealSet(intervals=(_everything(),))
    half = _HALF_LINE.fullmatch(text)
    if half:
        return _half_line(_HALF_LINES[half[1] or half[2].lower().replace("-", "")], Bound(text="0", value=Fraction(0)))
    builder = _set_builder(text)
    if builder is not None:
        return _parse(builder)
    if has_inequality(text):
        return _conditions(text)
    for separator, combine in ((r"\\cup(?![A-Za-z])", _union), (r"\\cap(?![A-Za-z])", _intersection)):
        parts = split_top(text, separator)
        if len(parts) > 1:
            return _combined([_parse(part) for part in parts], combine)
    difference = split_top(text, r"\\setminus(?![A-Za-z])")
    if len(difference) == 2:
        whole, removed = (_parse(part) for part in difference)
        return None if whole is None or removed is None else _intersection([whole, _complement(removed)])
    return _simple(text)


def _set_builder(text: str) -> str | None:
    """The condition of `\\{x \\in \\mathbb{R} | condition\\}`; None for any other text."""
    inner = inside(text) if text.startswith("\\{") else None
    match = re.match(rf"\s*({NAME.pattern})(?:\\in\s*\\mathbb\{{R\}})?\s*[|:]\s*", inner or "")
    return inner[match.end() :] if inner and match else None


def _simple(text: str) -> RealSet | None:
    """An interval or a finite set of constants."""
    if text.startswith("\\{"):
        inner = inside(text)
        items = split_top(inner, ",") if inner else []
        points = [_bound(item) for item in items]
        if not points or None in points:
            return None
        return _merged([_point(point) for point in points if point is not None])
    group = parse_group(text)
    if group is None or group.kind not in ("()", "(]", "[)", "[]") or len(group.items) != 2:
        return None
    low, high = _bound(group.items[0]), _bound(group.items[1])
    if low is None or high is None:
        return None
    interval = RealInterval(low=low, high=high, low_closed=group.kind[0] == "[", high_closed=group.kind[1] == "]")
    return None if interval.empty() else RealSet(intervals=(interval,))


def _conditions(text: str) -> RealSet | None:
    """Inequalities joined by `or`, `and` or commas; commas mean `and` unless no number satisfies all."""
    alternatives = split_top(text, r"\\lor(?![A-Za-z])|\\cup(?![A-Za-z])")
    if len(alternatives) > 1:
        return _combined([_conditions(part) if has_inequality(part) else _parse(part) for part in alternatives], _union)
    parts = [part for part in split_top(text, r"\\land(?![A-Za-z])|\\cap(?![A-Za-z])|[,;]") if part]
    parts = [part for part in parts if not re.fullmatch(rf"{NAME.pattern}\\in\s*\\mathbb\{{R\}}", part)]
    if len(parts) > 1:
        sets = [_conditions(part) for part in parts]
        both = _combined(sets, _intersection)
        joined_by_words = re.search(r"\\land(?![A-Za-z])", text) is not None
        return both if both is None or both.intervals or joined_by_words else _combined(sets, _union)
    return _chain(parts[0]) if parts else None


def _chain(text: str) -> RealSet | None:
    r"""One inequality or a chain of them around a variable: `a < x \le b`, `x > 2`, `|x - 1| < 3`, `> 2`."""
    pieces = [piece.strip() for piece in _RELATION.split(text)]
    sides, relations = pieces[::2], pieces[1::2]
    if not relations or "=" in relations:
        return None
    centre = [number for number, side in enumerate(sides) if side == "" or _bound(side) is None]
    if len(centre) != 1:
        return None
    position = centre[0]
    if (sides[position] == "" and position) or len(sides) > 3:
        return None
    name, found = sides[position], [_everything_set()]
    absolute = re.fullmatch(rf"\|\s*({NAME.pattern})(?:([-+])\s*([^|]+))?\|", name)
    for number, relation in enumerate(relations):
        left = number < position
        bound = _bound(sides[number] if left else sides[number + 1])
        if bound is None or abs(number - position + left) > 1:
            return None
        relation = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}.get(relation, relation) if left else relation
        found.append(_around(absolute, relation, bound) if absolute else _half_line(relation, bound))
    if absolute:
        name = absolute[1]
    elif name and not NAME.fullmatch(name):
        return None
    result = _intersection(found)
    return RealSet(intervals=result.intervals, name=name.strip() or None)


def _half_line(relation: str, bound: Bound) -> RealSet:
    everything = _everything()
    if relation == "\\ne":
        return _complement(RealSet(intervals=(_point(bound),)))
    if relation in ("<", "\\le"):
        line = RealInterval(low=everything.low, high=bound, low_closed=False, high_closed=relation == "\\le")
    else:
        line = RealInterval(low=bound, high=everything.high, low_closed=relation == "\\ge", high_closed=False)
    return RealSet(intervals=() if line.empty() else (line,))


def _around(absolute: re.Match[str], relation: str, bound: Bound) -> RealSet:
    """The numbers whose distance from a centre is below or above a bound."""
    centre = "0" if absolute[2] is None else f"{'-' if absolute[2] == '+' else ''}({absolute[3]})"
    low, high = _bound(f"{centre}-({bound.text})"), _bound(f"{centre}+({bound.text})")
    if low is None or high is None or bound.value < 0:
        return RealSet(intervals=())
    if relation == "\\ne":
        return _complement(_union([RealSet(intervals=(_point(end),)) for end in (low, high)]))
    if relation in ("<", "\\le"):
        return _intersection(
            [_half_line(relation.replace("<", ">").replace("le", "ge"), low), _half_line(relation, high)]
        )
    return _union([_half_line(relation.replace(">", "<").replace("ge", "le"), low), _half_line(relation, high)])


def _bound(text: str) -> Bound | None:
    """A constant or an infinity; None for any other text."""
    plain = text.replace(" ", "")
    if plain.strip("+-()") == INFINITY:
        return Bound(text=plain, value=Fraction(0), infinite=-1 if "-" in plain else 1)
    value = constant(text) if plain else None
    return None if value is None else Bound(text=text, value=value)


def _point(bound: Bound) -> RealInterval:
    return RealInterval(low=bound, high=bound, low_closed=True, high_closed=True)


def _everything() -> RealInterval:
    low, high = (
        Bound(text=f"{sign}{INFINITY}", value=Fraction(0), infinite=infinite) for sign, infinite in (("-", -1), ("", 1))
    )
    return RealInterval(low=low, high=high, low_closed=False, high_closed=False)


def _everything_set() -> RealSet:
    return RealSet(intervals=(_everything(),))


def _combined(sets: Sequence[RealSet | None], combine: Callable[[Sequence[RealSet]], RealSet]) -> RealSet | None:
    known = [part for part in sets if part is not None]
    names = {part.name for part in known if part.name}
    if len(known) < len(sets) or len(names) > 1 or sum(len(part.intervals) for part in known) > MAX_INTERVALS:
        return None
    result = combine(known)
    return RealSet(intervals=result.intervals, name=next(iter(names), None))


def _union(sets: Sequence[RealSet]) -> RealSet:
    return _merged([interval for part in sets for interval in part.intervals])


def _merged(intervals: Sequence[RealInterval]) -> RealSet:
    """Disjoint intervals in order; intervals that overlap or touch in a number of one of them become one."""
    merged: list[RealInterval] = []
    for interval in sorted(intervals, key=lambda part: (part.low.key(), not part.low_closed)):
        last = merged[-1] if merged else None
        touches = last is not None and (
            interval.low.key() < last.high.key()
            or (interval.low.key() == last.high.key() and (interval.low_closed or last.high_closed))
        )
        if last is None or not touches:
            merged.append(interval)
            continue
        end = max(last, interval, key=lambda part: (part.high.key(), part.high_closed))
        merged[-1] = RealInterval(low=last.low, high=end.high, low_closed=last.low_closed, high_closed=end.high_closed)
    return RealSet(intervals=tuple(merged))


def _intersection(sets: Sequence[RealSet]) -> RealSet:
    result = list(sets[0].intervals)
    for part in sets[1:]:
        result = [both for left in result for right in part.intervals if not (both := _overlap(left, right)).empty()]
    return _merged(result)


def _overlap(left: RealInterval, right: RealInterval) -> RealInterval:
    low = max(left, right, key=lambda part: (part.low.key(), not part.low_closed))
    high = min(left, right, key=lambda part: (part.high.key(), part.high_closed))
    return RealInterval(low=low.low, high=high.high, low_closed=low.low_closed, high_closed=high.high_closed)


def _complement(whole: RealSet) -> RealSet:
    everything, gaps = _everything(), []
    low, low_closed = everything.low, False
    for part in whole.intervals:
        gaps.append(RealInterval(low=low, high=part.low, low_closed=low_closed, high_closed=not part.low_closed))
        low, low_closed = part.high, not part.high_closed
    gaps.append(RealInterval(low=low, high=everything.high, low_closed=low_closed, high_closed=False))
    return _merged([gap for gap in gaps if not gap.empty() and not (gap.low.infinite and gap.low == gap.high)])
