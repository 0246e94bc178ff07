"""Values of closed forms: exact rationals as long as possible, else complex numbers of a chosen precision.

Every operation is bounded, so that no expression can cost more than a fixed amount of work: what would leave the bounds
raises `TooLarge`, what has no value raises `Undefined`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from math import comb, factorial, isqrt
from typing import Any

Value = Any  # a Fraction, or an mpmath number of the arithmetic's context

MAX_BITS = 40_000  # of a numerator or denominator, about 12,000 decimal digits
MAX_MAGNITUDE = 1_000_000  # bits of the exponent range of an inexact value
MAX_FACTORIAL = 3000
MAX_WORK = 40_000  # units per evaluation; one unit is an operation on numbers of a machine word or two
DIGITS = (60, 120, 180)  # the precisions at which inexact values are compared


class TooLarge(ArithmeticError):
    """A value or its computation leaves the bounds."""


class Undefined(ArithmeticError):
    """An expression has no value, as a division by zero has none."""


@dataclass(kw_only=True)
class Arithmetic:
    """Operations on values at one precision, and the work that is left for one evaluation."""

    digits: int
    work: float = MAX_WORK
    only_real: bool = False
    """Whether a value that is not real counts as undefined, in the middle of a computation as well."""
    variables: dict[str, Value] = field(default_factory=dict)
    """Values of the symbols of an expression, by name."""

    def charge(self, *values: Value) -> None:
        """Count one operation; long numbers cost more, because fractions are reduced in quadratic time."""
        self.work -= 1
        for value in values:
            if self.only_real and isinstance(value, context(self.digits).mpc) and value.imag != 0:
                raise Undefined
            if isinstance(value, Fraction):
                bits = max(value.numerator.bit_length(), value.denominator.bit_length())
                if bits > MAX_BITS:
                    raise TooLarge
                self.work -= (bits / 1000) ** 2
            elif value != 0 and not abs(context(self.digits).mag(value)) <= MAX_MAGNITUDE:  # also infinities and nan
                raise TooLarge
        if self.work < 0:
            raise TooLarge

    def inexact(self, value: Value) -> Any:
        """The value as a number of this precision."""
        ctx = context(self.digits)
        return ctx.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value

    def _both(self, operation: Callable[[Any, Any], Any], left: Value, right: Value) -> Value:
        if not (isinstance(left, Fraction) and isinstance(right, Fraction)):
            left, right = self.inexact(left), self.inexact(right)
        result = operation(left, right)
        self.charge(result)
        return result

    def add(self, left: Value, right: Value) -> Value:
        """The sum."""
        return self._both(lambda a, b: a + b, left, right)

    def multiply(self, left: Value, right: Value) -> Value:
        """The product."""
        return self._both(lambda a, b: a * b, left, right)

    def divide(self, left: Value, right: Value) -> Value:
        """The quotient."""
        if right == 0:
            raise Undefined
        return self._both(lambda a, b: a / b, left, right)

    def power(self, base: Value, exponent: Value) -> Value:
        """The principal power."""
        if isinstance(exponent, Fraction) and exponent.denominator != 1:
            if isinstance(base, Fraction) and base >= 0:
                return self.root(self.power(base, Fraction(exponent.numerator)), exponent.denominator)
        elif isinstance(exponent, Fraction):
            return self._integer_power(base, exponent.numerator)
        if base == 0:
            raise Undefined
        base, exponent = self.inexact(base), self.inexact(exponent)
        ctx = context(self.digits)
        self._bounded(ctx.log(base) * exponent)
        return self.checked(base**exponent)

    def _integer_power(self, base: Value, exponent: int) -> Value:
        if base == 0 and exponent <= 0:
            if exponent == 0:
                return Fraction(1)
            raise Undefined
        if isinstance(base, Fraction):
            bits = max(base.numerator.bit_length(), base.denominator.bit_length())
            if base not in (0, 1, -1) and abs(exponent) * (bits - 1) > MAX_BITS:
                raise TooLarge
            exponent = exponent if base not in (0, 1, -1) else exponent % 2 + 2
        elif exponent.bit_length() > 20 or abs(context(self.digits).mag(base) * exponent) > MAX_MAGNITUDE:
            raise TooLarge
        return self.checked(base**exponent)

    def root(self, value: Value, degree: int) -> Value:
        """The root of a positive degree, exact where it is rational; an odd root of a negative number is real."""
        if isinstance(value, Fraction):
            sign = -1 if value < 0 and degree % 2 else 1
            if value >= 0 or sign < 0:
                top, bottom = _integer_root(sign * value.numerator, degree), _integer_root(value.denominator, degree)
                if top is not None and bottom is not None:
                    return Fraction(sign * top, bottom)
                return self.checked(sign * context(self.digits).root(self.inexact(sign * value), degree))
        if degree.bit_length() > 20:
            raise TooLarge
        return self.checked(context(self.digits).root(self.inexact(value), degree))

    def factorial(self, value: Value) -> Value:
        """n! of a number that is not a negative integer."""
        if isinstance(value, Fraction) and value.denominator == 1:
            if value < 0:
                raise Undefined
            if value > MAX_FACTORIAL:
                raise TooLarge
            return self.checked(Fraction(factorial(value.numerator)))
        self._bounded(self.inexact(value), MAX_FACTORIAL)
        return self.checked(context(self.digits).factorial(self.inexact(value)))

    def binomial(self, top: Value, bottom: Value) -> Value:
        """The binomial coefficient."""
        if all(isinstance(value, Fraction) and value.denominator == 1 and value >= 0 for value in (top, bottom)):
            if top > MAX_FACTORIAL:
                raise TooLarge
            return self.checked(Fraction(comb(top.numerator, bottom.numerator)))
        lower = self.add(top, -bottom)
        return self.divide(self.factorial(top), self.multiply(self.factorial(bottom), self.factorial(lower)))

    def apply(self, name: str, value: Value) -> Value:
        """A function that mpmath knows under this name (`sin`, `log` for the natural one ...)."""
        if name in ("exp", "sinh", "cosh", "tanh"):
            self._bounded(self.inexact(value))
        if value == 0 and name in ("log", "cot", "csc"):
            raise Undefined
        try:
            return self.checked(getattr(context(self.digits), name)(self.inexact(value)))
        except (ValueError, ZeroDivisionError) as error:
            raise Undefined from error

    def real(self, value: Value) -> Value:
        """A value without imaginary part; Undefined for any other."""
        if isinstance(value, Fraction):
            return value
        ctx = context(self.digits)
        if abs(ctx.im(value)) > ctx.mpf(10) ** (-self.digits // 2) * max(1, abs(value)):
            raise Undefined
        return ctx.re(value)

    def checked(self, value: Value) -> Value:
        """The value, after its size has been counted."""
        self.charge(value)
        return value

    def _bounded(self, value: Any, limit: int = MAX_MAGNITUDE // 2) -> None:
        if not abs(value) < limit:
            raise TooLarge


@cache
def context(digits: int) -> Any:
    """An mpmath context of its own for each precision."""
    from mpmath.ctx_mp import MPContext  # here: answers that are plain numbers need no mpmath

    ctx = MPContext()
    ctx.dps = digits
    return ctx


def same(values: Callable[[int], tuple[Value, Value]]) -> bool:
    """Whether two values are equal: exactly if both are rational, else by what is left of the difference.

    The difference of equal values shrinks with the precision, any other stays; so no size of the values is presumed.

    Args:
        values: digits -> the two values at this precision.
    """
    left, right = values(DIGITS[0])
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    coarse, size = _distance(left, right, DIGITS[0])
    if coarse > max(size, Fraction(1)) / 1000:
        return False
    for digits in DIGITS[1:]:  # a difference can be zero at one precision by chance, hence a third one
        fine, size = _distance(*values(digits), digits)
        if fine < max(coarse * Fraction(1, 10**30), size * Fraction(1, 10**100)):
            return True
        if coarse:
            return False
        coarse = fine
    return coarse == 0


def _distance(left: Value, right: Value, digits: int) -> tuple[Fraction, Fraction]:
    """How far two values are from each other, and the larger absolute value."""
    ctx = context(digits)
    left, right = (ctx.mpf(v.numerator) / v.denominator if isinstance(v, Fraction) else v for v in (left, right))
    return fraction(abs(left - right)), fraction(max(abs(left), abs(right)))


def fraction(value: Value) -> Fraction:
    """A real value as a fraction."""
    if isinstance(value, Fraction):
        return value
    mantissa, exponent = value.man_exp
    if abs(exponent) > MAX_MAGNITUDE:
        raise TooLarge
    return Fraction(int(mantissa)) * Fraction(2) ** int(exponent)


def _integer_root(value: int, degree: int) -> int | None:
    """The exact root of a natural number; None where it is no integer."""
    if value < 2:
        return value
    if degree == 2:
        root = isqrt(value)
        return root if root * root == value else None
    if degree > value.bit_length():
        return None
    low, high = 1, 1 << (value.bit_length() // degree + 1)
    while low < high:
        middle = (low + high) // 2
        if middle**degree < value:
            low = middle + 1
        else:
            high = middle
    return low if low**degree == value else None
