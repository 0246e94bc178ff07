"""The operations of a formula, as functions that compute a value under an arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from latbench.answers.arithmetic import Arithmetic, TooLarge, Undefined, Value, context

Node = Callable[[Arithmetic], Value]

MAX_TERMS = 1000  # of a sum or product


def constant(value: Fraction) -> Node:
    """A number."""
    return lambda _: value


def repeating(token: str) -> Fraction:
    """`0.1\\overline{6}` is 1/6."""
    whole, rest = token.split(".", 1)
    start, _, cycle = rest.partition("\\overline")
    cycle = cycle.strip(" {}")
    value = Fraction(int(whole or "0")) + (Fraction(int(start), 10 ** len(start)) if start else 0)
    return value + Fraction(int(cycle), (10 ** len(cycle) - 1) * 10 ** len(start))


def sum(left: Node, right: Node, sign: str) -> Node:
    """The sum, or the difference where the sign is `-`."""
    if sign == "-":
        return lambda arithmetic: arithmetic.add(left(arithmetic), -right(arithmetic))
    return lambda arithmetic: arithmetic.add(left(arithmetic), right(arithmetic))


def product(left: Node, right: Node) -> Node:
    """The product."""
    return lambda arithmetic: arithmetic.multiply(left(arithmetic), right(arithmetic))


def quotient(left: Node, right: Node) -> Node:
    """The quotient."""
    return lambda arithmetic: arithmetic.divide(left(arithmetic), right(arithmetic))


def conjugate(node: Node) -> Node:
    """The conjugate of a complex number."""
    return lambda arithmetic: context(arithmetic.digits).conj(arithmetic.inexact(node(arithmetic)))


def degrees(node: Node) -> Node:
    """An angle in degrees, in radians."""
    return lambda arithmetic: arithmetic.multiply(
        arithmetic.divide(node(arithmetic), Fraction(180)), context(arithmetic.digits).pi + 0
    )


def factorial(node: Node) -> Node:
    """n!"""
    return lambda arithmetic: arithmetic.factorial(node(arithmetic))


def rounded(node: Node, direction: str) -> Node:
    """The floor or ceiling (`floor`, `ceil`)."""

    def value(arithmetic: Arithmetic) -> Value:
        inner = arithmetic.real(node(arithmetic))
        if isinstance(inner, Fraction):
            return Fraction(inner.__floor__() if direction == "floor" else inner.__ceil__())
        if context(arithmetic.digits).mag(inner) > arithmetic.digits:
            raise TooLarge
        return Fraction(int(getattr(context(arithmetic.digits), direction)(inner)))

    return value


def root(node: Node, degree: Node) -> Node:
    """A root of any degree."""

    def value(arithmetic: Arithmetic) -> Value:
        power = degree(arithmetic)
        if not isinstance(power, Fraction) or power.denominator != 1:
            return arithmetic.power(node(arithmetic), arithmetic.divide(Fraction(1), power))
        if power < 1:
            raise Undefined
        return arithmetic.root(node(arithmetic), power.numerator)

    return value


def applied(function: str, operand: Node, base: Node | None) -> Node:
    """A function that mpmath knows by name; `base` is that of a logarithm."""

    def value(arithmetic: Arithmetic) -> Value:
        result = arithmetic.apply(function, operand(arithmetic))
        return result if base is None else arithmetic.divide(result, arithmetic.apply("log", base(arithmetic)))

    return value


def series(add: bool, index: str, first: Node, last: Node, body: Node) -> Node:
    """The sum or product of a body over an index."""

    def value(arithmetic: Arithmetic) -> Value:
        low, high = first(arithmetic), last(arithmetic)
        if not all(isinstance(bound, Fraction) and bound.denominator == 1 for bound in (low, high)):
            raise Undefined
        if high - low >= MAX_TERMS:
            raise TooLarge
        total, outer = Fraction(0 if add else 1), arithmetic.variables.get(index)
        for number in range(int(low), int(high) + 1):
            arithmetic.variables[index] = Fraction(number)
            total = (arithmetic.add if add else arithmetic.multiply)(total, body(arithmetic))
        if outer is not None:
            arithmetic.variables[index] = outer
        return total

    return value
