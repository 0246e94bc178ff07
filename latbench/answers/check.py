r"""Whether an extracted answer equals the gold answer: exact numbers and formulas, then Math-Verify, then text.

Kinds. `number`: the value of the answer, which may be a formula, within max(1e-4, 1e-9 |b|) of the gold b, within
1e-3 |b| of a small gold (GSM-Hard has 0.0000003509, which 0 would equal otherwise), and within 1e-4 of an integer gold,
so that integers are exact at any size. `choice`: the letter. `text`: the words; case, spacing and final punctuation are
ignored. `math`: as below. Nothing is ever evaluated as Python.

Accepted in `math`:
- spelling: `\frac12`, `\dfrac`, `1/2`, `½`; `\left(`; thin spaces; `$...$`; thousands separators `1,234`, `1{,}234`,
  `1\,234`, `1~234`, `1 234`; mixed numbers `1\frac{4}{5}`, `1 4/5`; `3 \times 10^5`; `x**2`, `2*pi*r`; Unicode digits,
  fractions, superscripts and signs; `\text{Monday}` for `Monday`; number words (`two thirds`).
- an equal value in another form: `\sqrt{242}` for `11\sqrt2`, an expanded product, a matrix in other brackets. Rational
  closed forms are compared exactly, other constants to more than 60 digits, formulas with symbols by their values at
  chosen points, equations up to a factor.
- decimals: equal within 1e-4 and within a thousandth of the gold where one of two rational numbers is written as a
  decimal (`0.6667` for `\frac23`, but `0.0001` is not `.0000672`); within 1e-6 of an irrational gold.
- a name before the answer: `x = 5` for `5`, `x \in [-2,7]` for `[-2,7]`, `(p,q) = (3,2)` for `(3,2)`, either way round;
  but `y = 5` is not `x = 5`. Of an equation chain the last side counts: `2 + 3 = 5` for `5`; of an approximation the
  exact side (`\frac23 \approx 0.67`), unless the gold is that decimal.
- a unit, percent, degree or currency sign left out, or added where the gold has none. Units that contradict each other
  (`5\text{ cm}`, `5\text{ m}`; `\$36`, `36\%`; `5\text{ gallons}`, `5\text{ tents}`) are wrong.
- a base left out, since the question names it: `2516` for `2516_8`; another base is wrong, so is the decimal value.
- `\pm` for the two values; sets and lists in any order, with or without braces, joined by commas, `and` or `or`; an
  element of a set (in braces) written twice.
- any notation for a set of real numbers: intervals, unions, inequalities, set-builder notation.
- the other case of a variable, unless a letter is used in both cases.
Words that change a value are part of it: `3 million` is 3000000, `2 thirds` is `\frac23`, `10 or more` is `\ge 10`.
In `number`, where the question alone can tell, either will do: `7 dozen` is 84 or 7, `16 quarters` 4 or 16, and
`7 hours and 30 minutes` is 7.5 or 450.
Not accepted: `0.5` for `50\%` (a percent sign is a unit); tuples out of order or without brackets; open for closed
intervals; `12` for `(1,2)`; the pair `(1,234)` for `1,234`; a column vector as a tuple; radians for degrees; a value
too large to compute (beyond 12,000 digits), unless it is spelled as the gold.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from latbench.answers.extract import AnswerKind
from latbench.answers.formulas import constant, equal_equations, equal_formulas
from latbench.answers.math_verify_fallback import math_verify_equal, readable, uses_both_cases
from latbench.answers.notation import is_text, normalise, text_key
from latbench.answers.numbers import Number, close, parse_number, split_base
from latbench.answers.sets import describes_set, equal_sets, has_inequality, interval_text, parse_set
from latbench.answers.structure import NAME, Compound, named_values, parse_group, split_top, strip_brackets
from latbench.answers.units import contradict, split_unit
from latbench.answers.words import in_symbols, smaller_count
from latbench.task import Status

Compare = Callable[[str, str], bool | None]

MAX_ANSWER_CHARS = 2000  # a longer answer equals no gold but itself; the longest gold of MATH has 159
MAX_DEPTH = 20  # of nested groups
MAX_REPEATED = 4  # forms of one value in a row, as in `\\frac12 or 0.5`
MAX_ITEMS = 100  # of a list that is compared in any order
_RELATION = r"=|\\in(?![A-Za-z])|\\equiv(?![A-Za-z])"
_BLANK = re.compile(r"(?<!\d) | (?!\d)")  # one between two digits keeps two numbers apart
_ALNUM = re.compile(r"[0-9A-Za-z]")
_MEMBERSHIP = re.compile(rf"{NAME.pattern}\\in(?![A-Za-z])")
_CLAUSE = re.compile(r"[,\s]*(?:\\text\{\s*)?(?<![A-Za-z\\])(?:where|for (?:all|any|every|each|some))(?![A-Za-z])")
# `sold it for $30` is extracted as `or $30`, in published records too; the end of a word joins nothing.
_CONNECTIVE = re.compile(r"^(?:or|and)\s+(?=[-\\$\d.(])")
_APPROX = re.compile(r"\\approx(?![A-Za-z])|\\simeq(?![A-Za-z])")


def verdict(gold: str, extracted: str | None, kind: AnswerKind) -> Status:
    """Compare in this process; hostile input can cost any time and memory, so that model text goes through `CheckPool`.

    Args:
        gold: the reference answer.
        extracted: what `extract` found, None where it found nothing.
    Returns: correct, incorrect or no_answer.
    Raises: MemoryError: the comparison does not fit into memory.
    """
    quick = quick_verdict(gold, extracted, kind)
    if quick is not None:
        return quick
    assert extracted is not None, "a missing answer is decided quickly"
    return _status(_Comparison(number=kind == "number", thorough=True).equal(_prepared(gold), _prepared(extracted)))


def quick_verdict(gold: str, extracted: str | None, kind: AnswerKind) -> Status | None:
    """The verdict where numbers, words, structure and our own reader decide; None where Math-Verify is needed."""
    if extracted is None or not extracted.strip():
        return "no_answer"
    if len(extracted) > MAX_ANSWER_CHARS or len(gold) > MAX_ANSWER_CHARS:
        return _status(gold.strip() == extracted.strip())
    left, right = normalise(gold), normalise(extracted)
    if (not _ALNUM.search(left) and not text_key(left)) or (not _ALNUM.search(right) and not text_key(right)):
        return _status(left == right != "")
    if kind == "number":
        number = parse_number(split_unit(left)[0])
        if number is None:
            return "incorrect"
        other = parse_number(right)
        if other is not None:
            return _status(close(number.value, other.value))
        smaller = smaller_count(right)
        if smaller is not None and (count := parse_number(smaller)) and close(number.value, count.value):
            return "correct"
    elif kind != "math":
        return _status(text_key(left) == text_key(right))
    equal = _Comparison(number=kind == "number", thorough=False).equal(_prepared(gold), _prepared(extracted))
    return None if equal is None else _status(equal)


def _prepared(text: str) -> str:
    return in_symbols(normalise(_CONNECTIVE.sub("", text)))


def _status(equal: bool | None) -> Status:
    return "correct" if equal else "incorrect"


def _same_number(gold: Number, answer: Number) -> bool:
    """In mathematics only decimals may be rounded; integers and fractions are exact."""
    if gold.rounded or answer.rounded:
        return close(gold.value, answer.value)
    return gold.value == answer.value


@dataclass(frozen=True, kw_only=True)
class _Comparison:
    """How two prepared answers are compared. Three verdicts: True, False, and None where only Math-Verify can tell."""

    number: bool
    """Whether values are compared with the tolerance of kind `number`."""
    thorough: bool
    """Whether Math-Verify is asked, or None is returned in its place."""

    def equal(self, gold: str, answer: str, depth: int = 0) -> bool | None:
        """Compare two answers of any structure."""
        if gold == answer != "":
            return True
        if depth > MAX_DEPTH:
            return False
        for step in (_clauses, _alternatives, _approximations, _sets, _named):
            decided, equal = step(self, gold, answer, depth + 1)
            if decided:
                return equal
        return self._structured(gold, answer, depth + 1)

    def _structured(self, gold: str, answer: str, depth: int) -> bool | None:
        left, right = parse_group(gold), parse_group(answer)
        if not (_is_list(left) or _is_list(right)) or _MEMBERSHIP.match(gold) or _MEMBERSHIP.match(answer):
            aligned = _align(gold, answer)
            if aligned is None:
                return False
            if aligned != (gold, answer):
                return self.equal(*aligned, depth)
        if left is None and right is None:
            return self._scalar(strip_brackets(gold), strip_brackets(answer))
        if left is None and right is not None and right.kind == "list" and len(right.items) <= MAX_REPEATED:
            return self._ordered([gold] * len(right.items), right.items, depth)
        if left is None or right is None:
            unstructured = gold if left is None else answer
            possible = has_inequality(unstructured) and not _is_list(left or right)
            return self._verify(gold, answer) if possible else False
        return self._groups(left, right, depth)

    def _groups(self, left: Compound, right: Compound, depth: int) -> bool | None:
        if {left.kind, right.kind} <= {"list", "set"} and max(len(left.items), len(right.items)) <= MAX_ITEMS:
            items = left.items, right.items
            if "set" in (left.kind, right.kind):
                items = self._distinct(left.items, depth), self._distinct(right.items, depth)
            return len(items[0]) == len(items[1]) and self._unordered(*items, depth)
        if left.kind != right.kind or len(left.items) != len(right.items):
            return False
        if not left.ordered:
            return self._unordered(left.items, right.items, depth)
        return self._ordered(left.items, right.items, depth)

    def _distinct(self, items: Sequence[str], depth: int) -> tuple[str, ...]:
        quick = _Comparison(number=self.number, thorough=False)
        found: list[str] = []
        for item in items:
            if not any(quick.equal(item, other, depth) is True for other in found):
                found.append(item)
        return tuple(found)

    def _ordered(self, gold: Sequence[str], answer: Sequence[str], depth: int) -> bool | None:
        if len(gold) != len(answer):
            return False
        results = [self.equal(a, b, depth) for a, b in zip(gold, answer, strict=True)]
        return False if False in results else None if None in results else True

    def _unordered(self, gold: Sequence[str], answer: Sequence[str], depth: int) -> bool | None:
        """Pair each gold item with an unused answer item."""
        if len(gold) != len(answer) or len(gold) > MAX_ITEMS:
            return False
        unused = list(answer)
        for item in gold:
            results = [self.equal(item, other, depth) for other in unused]
            if True not in results:
                return None if None in results else False
            del unused[results.index(True)]
        return True

    def _scalar(self, gold: str, answer: str) -> bool | None:
        """Two single values."""
        if is_text(gold) or is_text(answer):
            return text_key(gold) == text_key(answer)
        (left, left_unit), (right, right_unit) = split_unit(gold), split_unit(answer)
        if contradict(left_unit, right_unit):
            return False
        left, right = strip_brackets(left), strip_brackets(right)
        (left, left_base), (right, right_base) = split_base(left), split_base(right)
        if left_base is not None or right_base is not None:
            same_base = left_base == right_base or right_base is None or (left_base is None and right_base == 10)
            return left == (right.upper().lstrip("0") or right if right_base is None else right) and same_base
        if _BLANK.sub("", left) == _BLANK.sub("", right) != "":
            return True
        numbers = parse_number(left), parse_number(right)
        if numbers[0] is not None and numbers[1] is not None:
            if self.number:
                return close(numbers[0].value, numbers[1].value)
            return _same_number(numbers[0], numbers[1])
        if self.number and numbers[0] is not None:
            value = constant(right)
            if value is not None:
                return close(numbers[0].value, value)
        return self._formulas(left, right)

    def _formulas(self, gold: str, answer: str) -> bool | None:
        sides = [[side.strip() for side in split_top(text, "=")] for text in (gold, answer)]
        if len(sides[0]) == len(sides[1]) == 2:
            left, right = ((sides[0][0], sides[0][1]), (sides[1][0], sides[1][1]))
            return equal_equations(left, right) or self._verify(gold, answer)
        equal = equal_formulas(*_one_case(gold, answer)) if len(sides[0]) == len(sides[1]) == 1 else None
        return self._verify(gold, answer) if equal is None else equal

    def _verify(self, gold: str, answer: str) -> bool | None:
        if not readable(gold, answer):
            return False
        return math_verify_equal(gold, answer) if self.thorough else None


# Each of the following decides some pairs of answers. Returns: whether it did, and its verdict.


def _clauses(comparison: _Comparison, gold: str, answer: str, depth: int) -> tuple[bool, bool | None]:
    """What stands before `where ..` or `for all ..` is compared; the clause may be left out."""
    heads = [_CLAUSE.split(text, maxsplit=1)[0].strip() for text in (gold, answer)]
    if heads == [gold.strip(), answer.strip()] or not all(heads):
        return False, None
    return True, comparison.equal(heads[0], heads[1], depth)


def _alternatives(comparison: _Comparison, gold: str, answer: str, depth: int) -> tuple[bool, bool | None]:
    """A gold that gives one number twice (`0.56 = 56\\%`): either will do."""
    sides = re.split(rf"{_RELATION}|{_APPROX.pattern}", gold)
    if len(sides) < 2 or not all(parse_number(split_unit(side.strip())[0]) for side in sides):
        return False, None
    return True, True in [comparison.equal(side.strip(), answer, depth) for side in sides]


def _approximations(comparison: _Comparison, gold: str, answer: str, depth: int) -> tuple[bool, bool | None]:
    """Of `exact \\approx decimal` the exact side counts; the decimal where the gold is a decimal and fits to both."""
    if not _APPROX.search(gold) and not _APPROX.search(answer):
        return False, None
    (left, _), (right, decimal) = _exact(gold), _exact(answer)
    if not left or not right:
        return True, False
    equal = comparison.equal(left, right, depth)
    target = parse_number(split_unit(left)[0])
    rounded = parse_number(split_unit(decimal)[0]) if decimal else None
    if equal is False and target and target.rounded and rounded:
        value = constant(split_unit(_last_side(right))[0])
        digits = len(decimal.partition(".")[2])
        if value is not None and abs(value - rounded.value) <= Fraction(1, 10**digits):
            return True, comparison.equal(left, decimal, depth)
    return True, equal


def _exact(text: str) -> tuple[str, str]:
    """The exact side and the approximate one; an approximation of nothing is itself the value."""
    exact, *approximate = (side.strip(" (,)") if side.count("(") != side.count(")") else side.strip()
                           for side in _APPROX.split(text))  # fmt: skip
    if not approximate:
        return exact, ""
    if exact not in ("\\pi", "e") and NAME.fullmatch(exact):  # x \\approx 5
        return f"{exact} = {approximate[-1]}", ""
    return (exact, approximate[-1]) if exact.strip(" (),") else (approximate[0], "")


def _sets(comparison: _Comparison, gold: str, answer: str, depth: int) -> tuple[bool, bool | None]:
    """Sets of real numbers, where at least one side can only be read as such."""
    if not describes_set(gold) and not describes_set(answer):
        return False, None
    left, right = parse_set(gold), parse_set(answer)
    if left is not None and right is not None:
        return True, equal_sets(left, right)
    intervals = interval_text(gold), interval_text(answer)
    if any(intervals) and intervals != (gold, answer):
        return True, comparison.equal(intervals[0] or gold, intervals[1] or answer, depth)
    single = answer if left is not None else gold
    if (
        (has_inequality(gold) or has_inequality(answer))
        and (left or right)
        and constant(split_unit(single)[0]) is not None
    ):
        return True, False
    return False, None


def _named(comparison: _Comparison, gold: str, answer: str, depth: int) -> tuple[bool, bool | None]:
    """Values by name: `a=1, b=2`, `(a,b)=(1,2)`; in the order of the names where the other side has none."""
    left, right = named_values(gold), named_values(answer)
    if left is None and right is None:
        return False, None
    if left is not None and right is not None:
        if left.keys() != right.keys():
            return True, False
        return True, comparison._ordered(list(left.values()), [right[name] for name in left], depth)
    named, group = left or right, parse_group(gold if left is None else answer)
    assert named is not None, "one side is named"
    if group is None or group.kind not in ("list", "set", "()"):
        return False, None
    values = list(named.values()), list(group.items)
    first, second = values if left is not None else values[::-1]
    indexed = len({name.split("_")[0] for name in named}) == 1
    if group.kind != "()" and (left is None or indexed):
        return True, comparison._unordered(first, second, depth)
    return True, comparison._ordered(first, second, depth)


def _is_list(group: Compound | None) -> bool:
    return group is not None and group.kind in ("list", "set")


def _align(gold: str, answer: str) -> tuple[str, str] | None:
    """Drop names and chains before the value (`x =`) on the side that has more; None where two names contradict."""
    (gold_name, gold_value), (answer_name, answer_value) = _split_relation(gold), _split_relation(answer)
    if gold_name is None:
        return (gold, answer) if answer_name is None or has_inequality(gold) else (gold, answer_value)
    named = not gold_name or NAME.fullmatch(gold_name) is not None
    if answer_name is None:
        return (gold_value, answer) if named else (gold, answer)
    if named and NAME.fullmatch(answer_name):
        same = gold_name.replace(" ", "") == answer_name.replace(" ", "")
        return (gold_value, answer_value) if same else None
    return gold, answer


def _split_relation(text: str) -> tuple[str | None, str]:
    """(first side, last side) of an equation chain; (None, text) where there is none."""
    if has_inequality(text):
        return None, text
    sides = split_top(text, _RELATION)
    return (sides[0], sides[-1]) if len(sides) > 1 and sides[-1] else (None, text)


def _last_side(text: str) -> str:
    return _split_relation(text)[1]


def _one_case(gold: str, answer: str) -> tuple[str, str]:
    """Both with capital letters alone, unless one of them uses a letter in both cases; `e` and `i` are constants."""
    if uses_both_cases(gold) or uses_both_cases(answer):
        return gold, answer
    capital = re.compile(r"\\[A-Za-z]+|[a-df-hj-z]")
    left, right = (capital.sub(lambda m: m[0] if m[0][0] == "\\" else m[0].upper(), text) for text in (gold, answer))
    return left, right
