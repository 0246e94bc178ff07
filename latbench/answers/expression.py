r"""A reader of LaTeX and plain formulas, which evaluates them at given values of their symbols.

It reads arithmetic, roots, powers, factorials, binomials, the usual functions, absolute values, floors, sums and
products with constant bounds, mixed numbers and repeating decimals. What has two readings (`1/2x`) or is not known
stays unread and is left to Math-Verify. Text is never evaluated as Python.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from latbench.answers import nodes
from latbench.answers.arithmetic import context

MAX_DEPTH = 40  # of nested groups

_TOKEN = re.compile(
    r"\s*(?:(?P<repeating>\d*\.\d*\\overline\s*\{\d+\})"
    r"|(?P<number>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+|\.(?![\w.\\]))?(?:[eE][+-]?\d{1,4}(?!\w))?|\.\d+)"
    r"|(?P<command>\\[A-Za-z]+|\\[{}])|(?P<letter>[A-Za-z])|(?P<symbol>\S))"
)
_GREEK = frozenset(
    [
        "alpha",
        "beta",
        "gamma",
        "delta",
        "epsilon",
        "varepsilon",
        "zeta",
        "eta",
        "theta",
        "vartheta",
        "iota",
        "kappa",
        "lambda",
        "mu",
        "nu",
        "xi",
        "rho",
        "sigma",
        "tau",
        "phi",
        "varphi",
        "chi",
        "psi",
        "omega",
        "Gamma",
        "Delta",
        "Theta",
        "Lambda",
        "Xi",
        "Sigma",
        "Phi",
        "Psi",
        "Omega",
        "ell",
        "hbar",
    ]
)
_FUNCTIONS = {
    **{name: name for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "exp")},
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "ln": "log",
}  # fmt: skip
_INVERSE = {"sin": "asin", "cos": "acos", "tan": "atan"}
_CLOSING = {"(": ")", "[": "]", "{": "}", "\\{": "\\}", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}
_ROUNDING = {"\\lfloor": "floor", "\\lceil": "ceil"}


class Unread(ValueError):
    """A formula that this reader does not understand."""


class Malformed(ValueError):
    """A formula that no reader should understand, as two numbers in a row."""


@dataclass(frozen=True, kw_only=True)
class Expression:
    """A formula that has been read."""

    node: nodes.Node
    """The value under an arithmetic that knows the symbols."""
    symbols: frozenset[str]
    """Names of the free symbols."""
    complex: bool
    """Whether the imaginary unit occurs."""
    bare_log: bool
    r"""Whether a `\log` without base occurs, whose base is a matter of convention."""
    integer: bool
    """Whether a floor or ceiling occurs, hence symbols are likely to stand for integers."""
    decimal: bool
    """Whether a number is written with a decimal point, hence may be rounded."""


@lru_cache(maxsize=512)
def read(text: str) -> Expression:
    """Read a normalised formula.

    Raises: Unread, Malformed: see there.
    """
    reader = _Reader(text)
    node = reader.sum()
    if reader.next is not None:
        raise Unread
    return Expression(
        node=node,
        symbols=frozenset(reader.symbols),
        complex=reader.complex,
        bare_log=reader.bare_log,
        decimal=reader.decimal,
        integer=reader.integer,
    )


class _Reader:
    """Recursive descent over the tokens of one formula."""

    def __init__(self, text: str) -> None:
        self.tokens = [(match.lastgroup or "", match[0].strip()) for match in _TOKEN.finditer(text)]
        self.position = 0
        self.depth = 0
        self.bars = 0  # absolute values that are open
        self.bound: list[str] = []  # summation indices in force
        self.symbols: set[str] = set()
        self.complex = self.bare_log = self.decimal = self.integer = False

    @property
    def next(self) -> str | None:
        return self.tokens[self.position][1] if self.position < len(self.tokens) else None

    @property
    def next_kind(self) -> str | None:
        return self.tokens[self.position][0] if self.position < len(self.tokens) else None

    def take(self) -> str:
        if self.position >= len(self.tokens):
            raise Unread
        self.position += 1
        return self.tokens[self.position - 1][1]

    def accept(self, *tokens: str) -> str | None:
        return self.take() if self.next in tokens else None

    def expect(self, token: str) -> None:
        if self.accept(token) is None:
            raise Unread

    def sum(self) -> nodes.Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unread
        node = self.term()
        while sign := self.accept("+", "-"):
            node = nodes.sum(node, self.term(), sign)
        self.depth -= 1
        return node

    def term(self) -> nodes.Node:
        node, divided = self.signed(), False
        while True:
            if self.accept("*", "\\cdot", "\\times"):
                node, divided = nodes.product(node, self.signed()), False
            elif self.accept("/", "\\div"):
                node, divided = nodes.quotient(node, self.signed()), True
            elif self.starts_factor():
                if divided:
                    raise Unread  # 1/2x: two readings
                node = nodes.product(node, self.power())
            else:
                return node

    def starts_factor(self) -> bool:
        if self.next_kind in ("number", "repeating"):
            raise Malformed
        if self.next_kind == "letter" or self.next in ("(", "[", "{", "\\lfloor", "\\lceil"):
            return True
        if self.next == "|":
            return not self.bars
        return self.next_kind == "command" and self.next not in ("\\cdot", "\\times", "\\div", "\\rfloor", "\\rceil",
                                                                 "\\}")  # fmt: skip

    def signed(self) -> nodes.Node:
        if self.accept("-"):
            node = self.signed()
            return lambda arithmetic: -node(arithmetic)
        if self.accept("+"):
            return self.signed()
        return self.power()

    def power(self) -> nodes.Node:
        base = self.postfix(self.atom())
        if self.accept("^") is None:
            return base
        if self.accept("\\circ"):
            return nodes.degrees(base)
        exponent = self.script()
        if self.next in ("^", "!", "'"):
            raise Unread
        return lambda arithmetic: arithmetic.power(base(arithmetic), exponent(arithmetic))

    def postfix(self, node: nodes.Node) -> nodes.Node:
        while self.accept("!"):
            if self.next == "!":
                raise Unread
            node = nodes.factorial(node)
        return node

    def script(self) -> nodes.Node:
        """An exponent: a group, or a signed number, letter or command."""
        if self.next == "{":
            return self.group("{")
        if self.accept("-"):
            node = self.script()
            return lambda arithmetic: -node(arithmetic)
        return self.atom()

    def group(self, opening: str) -> nodes.Node:
        self.expect(opening)
        if self.next == _CLOSING[opening]:
            raise Malformed
        bars, self.bars = self.bars, 0
        node = self.sum()
        self.bars = bars
        self.expect(_CLOSING[opening])
        return node

    def argument(self) -> nodes.Node:
        """What a command such as \\frac or \\sqrt takes: a group or a single digit, letter or command."""
        if self.next in ("{", "("):
            return self.group(self.next)
        return self.atom()

    def atom(self) -> nodes.Node:
        kind, token = self.next_kind, self.take()
        if kind == "number":
            return self.number(token)
        if kind == "repeating":
            return nodes.constant(nodes.repeating(token))
        if kind == "letter":
            return self.letter(token)
        if token in ("(", "[", "{", "\\{"):
            self.position -= 1
            return self.group(token)
        if token in _ROUNDING:
            self.position -= 1
            self.integer = True
            return nodes.rounded(self.group(token), _ROUNDING[token])
        if token == "|":
            bars, self.bars = self.bars, self.bars + 1
            node = self.sum()
            self.bars = bars
            self.expect("|")
            return lambda arithmetic: abs(node(arithmetic))
        if kind == "command":
            return self.command(token[1:])
        raise Unread

    def number(self, token: str) -> nodes.Node:
        self.decimal |= "." in token
        value = Fraction(token.replace(",", "").rstrip("."))
        mixed = self.mixed() if value.denominator == 1 and token.isdigit() else None
        return nodes.constant(value if mixed is None else value + mixed)

    def mixed(self) -> Fraction | None:
        """The fraction after the whole part of a mixed number (`2 3/4`, `2\\frac34`), if one follows."""
        rest = [token for _, token in self.tokens[self.position : self.position + 7]]
        if len(rest) >= 3 and rest[0].isdigit() and rest[1] == "/" and rest[2].isdigit():
            top, bottom, length = rest[0], rest[2], 3
        elif len(rest) == 7 and rest[0] == "\\frac" and [rest[i] for i in (1, 3, 4, 6)] == ["{", "}", "{", "}"]:
            top, bottom, length = rest[2], rest[5], 7
        else:
            return None
        if not (top.isdigit() and bottom.isdigit() and int(bottom)):
            return None
        self.position += length
        return Fraction(int(top), int(bottom))

    def letter(self, token: str) -> nodes.Node:
        name = token + self.index()
        if name not in self.bound:
            if name == "i":
                self.complex = True
                return lambda arithmetic: context(arithmetic.digits).mpc(0, 1)
            if name == "e":
                return lambda arithmetic: context(arithmetic.digits).e + 0
        return self.symbol(name)

    def symbol(self, name: str) -> nodes.Node:
        if name not in self.bound:
            self.symbols.add(name)
        return lambda arithmetic: arithmetic.variables[name]

    def index(self) -> str:
        """The index of a symbol, as part of its name."""
        if self.accept("_") is None:
            return ""
        if self.accept("{") is None:
            return "_" + self.take()
        parts, depth = [], 1
        while depth:
            token = self.take()
            depth += (token == "{") - (token == "}")
            parts.append(token)
        return "_" + "".join(parts[:-1])

    def command(self, name: str) -> nodes.Node:
        if name == "pi":
            return lambda arithmetic: context(arithmetic.digits).pi + 0
        if name in _GREEK:
            return self.symbol("\\" + name + self.index())
        if name in _FUNCTIONS or name == "log":
            return self.function(name)
        if name == "frac":
            return nodes.quotient(self.argument(), self.argument())
        if name == "binom":
            top, bottom = self.argument(), self.argument()
            return lambda arithmetic: arithmetic.binomial(top(arithmetic), bottom(arithmetic))
        if name == "sqrt":
            degree = self.group("[") if self.next == "[" else nodes.constant(Fraction(2))
            return nodes.root(self.argument(), degree)
        if name == "overline":  # the conjugate; of letters it may be a segment or digits
            inner = self.argument()
            if not self.complex:
                raise Unread
            return nodes.conjugate(inner)
        if name in ("sum", "prod"):
            return self.series(name)
        raise Unread

    def function(self, name: str) -> nodes.Node:
        base = None
        if name == "log":
            if self.accept("_"):
                base = self.script()
            else:
                self.bare_log = True
        function = _FUNCTIONS.get(name, "log")
        exponent = None
        if self.accept("^"):
            exponent = self.script()
            if name in _INVERSE and self.tokens[self.position - 4 : self.position] == _MINUS_ONE:
                function, exponent = _INVERSE[name], None
        node = nodes.applied(function, self.operand(), base)
        if exponent is None:
            return node
        return lambda arithmetic: arithmetic.power(node(arithmetic), exponent(arithmetic))

    def operand(self) -> nodes.Node:
        """The argument of a function, in brackets or as the factors that follow."""
        if self.next in ("(", "[", "{", "|"):
            node = self.atom() if self.next == "|" else self.group(self.next)
            if self.next in ("^", "!"):
                raise Unread
            return node
        node = self.power()
        while self.next_kind == "letter" or (self.next_kind == "command" and self.next in _SIMPLE_FACTORS):
            node = nodes.product(node, self.power())
        if self.next in ("/", "*", "\\cdot", "\\times", "(", "{"):
            raise Unread  # where the argument ends is not clear
        return node

    def series(self, name: str) -> nodes.Node:
        self.expect("_")
        self.expect("{")
        index = self.take()
        self.expect("=")
        first = self.sum()
        self.expect("}")
        self.expect("^")
        last = self.script()
        self.bound.append(index)
        body = self.term()
        self.bound.pop()
        return nodes.series(name == "sum", index, first, last, body)


_MINUS_ONE = [("symbol", "{"), ("symbol", "-"), ("number", "1"), ("symbol", "}")]
_SIMPLE_FACTORS = frozenset({"\\pi", "\\frac", "\\sqrt", *(f"\\{name}" for name in _GREEK)})
