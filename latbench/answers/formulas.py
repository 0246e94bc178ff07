r"""Whether two formulas are equal: constants exactly or to many digits, formulas with symbols at chosen values of them.

Formulas with symbols are equal where they agree at every chosen point at which both are defined over the reals; so
`\sqrt{1/n}` equals `1/\sqrt{n}`, but `\sqrt{x^2}` does not equal `x`. Formulas that are real only for integers are
compared at integers.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction

from latbench.answers.arithmetic import Arithmetic, TooLarge, Undefined, Value, fraction, same
from latbench.answers.expression import Expression, Malformed, Unread, read

Points = Iterable[Mapping[str, Value]]

NUM_POINTS = 12
MIN_POINTS = 3  # at which both sides must be real
ENOUGH_POINTS = 6  # after which no more are tried
DECIMAL = Fraction(1, 10**6)  # a decimal may differ that much from an irrational number
DECIMAL_SHARE = Fraction(1, 10**3)  # and by this share of a small one


def equal_formulas(gold: str, answer: str) -> bool | None:
    """Compare two normalised formulas; None where one of them cannot be read, or nothing can be told."""
    try:
        left, right = read(gold), read(answer)
        symbols = left.symbols | right.symbols
        if left.bare_log != right.bare_log:
            _check_computable(left, right)
            return None
        return _equal_at_points(left, right, symbols) if symbols else _equal_constants(left, right)
    except (Unread, RecursionError):
        return None
    except (Malformed, TooLarge, Undefined):
        return False


def _check_computable(*expressions: Expression) -> None:
    """Raises: TooLarge, Undefined: a constant among the expressions cannot be computed."""
    for expression in expressions:
        if not expression.symbols:
            expression.node(Arithmetic(digits=60))


def equal_equations(gold: tuple[str, str], answer: tuple[str, str]) -> bool | None:
    """True where two equations, each given by its sides, differ by a constant factor; else None."""
    try:
        sides = [read(side) for side in (*gold, *answer)]
    except (Unread, Malformed, RecursionError):
        return None
    symbols = frozenset[str]().union(*(side.symbols for side in sides))
    ratio, num_points = None, 0
    for point in _real_points(symbols):
        arithmetic = Arithmetic(digits=60, variables=dict(point))
        try:
            values = [side.node(arithmetic) for side in sides]
            left, right = arithmetic.add(values[0], -values[1]), arithmetic.add(values[2], -values[3])
            found = arithmetic.real(arithmetic.divide(left, right))
        except (Undefined, TooLarge):
            continue
        if found == 0 or (ratio is not None and abs(arithmetic.add(found, -ratio)) > abs(ratio) * Fraction(1, 10**40)):
            return None
        ratio, num_points = found, num_points + 1
    return True if num_points >= MIN_POINTS else None


def constant(text: str) -> Fraction | None:
    """The real value of a formula without symbols, an irrational one to 60 digits; None for any other text."""
    try:
        expression = read(text)
        if expression.symbols:
            return None
        arithmetic = Arithmetic(digits=60)
        return fraction(arithmetic.real(expression.node(arithmetic)))
    except (Unread, Malformed, TooLarge, Undefined, RecursionError):
        return None


def _equal_constants(left: Expression, right: Expression) -> bool:
    if left.decimal != right.decimal:
        gold, answer = (expression.node(Arithmetic(digits=60)) for expression in (left, right))
        rational = isinstance(gold, Fraction), isinstance(answer, Fraction)
        if rational in ((True, False), (False, True)):  # a decimal against an irrational number
            return _near(gold, answer)
    return same(lambda digits: (left.node(Arithmetic(digits=digits)), right.node(Arithmetic(digits=digits))))


def _near(gold: Value, answer: Value) -> bool:
    arithmetic = Arithmetic(digits=60)
    difference = abs(arithmetic.inexact(arithmetic.add(gold, -answer)))
    share = abs(arithmetic.inexact(gold)) * arithmetic.inexact(DECIMAL_SHARE)
    return bool(difference <= min(arithmetic.inexact(DECIMAL), share))


def _equal_at_points(left: Expression, right: Expression, symbols: frozenset[str]) -> bool | None:
    complex_numbers = left.complex or right.complex
    only_integers = left.integer or right.integer
    if not only_integers:
        verdict = _agree(left, right, _real_points(symbols), complex_numbers)
        if verdict is not None:
            return verdict
    return _agree(left, right, _integer_points(symbols), complex_numbers)


def _agree(left: Expression, right: Expression, points: Points, complex_numbers: bool) -> bool | None:
    num_points, too_large = 0, False
    for point in points:

        def values(digits: int, point: Mapping[str, Value] = point) -> tuple[Value, Value]:
            found = []
            for expression in (left, right):
                arithmetic = Arithmetic(digits=digits, only_real=not complex_numbers, variables=dict(point))
                found.append(expression.node(arithmetic))
            return found[0], found[1]

        try:
            if not same(values):
                return False
        except Undefined:
            continue
        except TooLarge:
            too_large = True
            continue
        num_points += 1
        if num_points == ENOUGH_POINTS:
            break
    if too_large and num_points < MIN_POINTS:
        raise TooLarge
    return True if num_points >= MIN_POINTS else None


def _real_points(symbols: frozenset[str]) -> Iterator[dict[str, Value]]:
    """The same values for the same symbols on every call: positive ones and mostly negative ones by turns."""
    generator = random.Random(0)
    for number in range(NUM_POINTS):
        low, high = (-500, 60) if number % 2 else (20, 500)
        yield {name: Fraction(generator.randint(low, high) or 1, 97) for name in sorted(symbols)}


def _integer_points(symbols: frozenset[str]) -> Iterator[dict[str, Value]]:
    generator = random.Random(1)
    for _ in range(NUM_POINTS):
        yield {name: Fraction(generator.randint(1, 20)) for name in sorted(symbols)}
