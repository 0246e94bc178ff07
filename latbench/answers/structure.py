r"""The structure of an answer: lists, tuples, intervals, matrices, named values, the two values of `\pm`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product

from latbench.answers.notation import TEXT_BOX
from latbench.answers.numbers import parse_number
from latbench.answers.units import split_unit

MAX_SIGNS = 4  # of \pm in one item
_THOUSANDS = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,])")
_SIGN = re.compile(r"\\(pm|mp)(?![A-Za-z])")
NAME = re.compile(r"(?:[A-Za-z]{1,3}|\\[a-z]+(?: ?[A-Z]+)?)(?:_(?:\w|\{[^{}]{1,12}\}))?(?: ?\([\w, ]{1,8}\))?'?\s*")


@dataclass(frozen=True, kw_only=True)
class Compound:
    """Several answers in one."""

    kind: str
    """"list" (bare), "set" (in braces), "union", "matrix 2x3", or the two brackets: "()", "(]", "[)", "[]"."""
    items: tuple[str, ...]
    """The parts in order; of a matrix, row by row."""

    @property
    def ordered(self) -> bool:
        """Whether the order of the items matters."""
        return self.kind not in ("list", "set", "union")


def split_top(text: str, separator: str) -> list[str]:
    """Split at a separator that stands outside all brackets and braces."""
    parts, depth, start = [], 0, 0
    for match in re.finditer(rf"[({{\[]|[)}}\]]|{separator}", text):
        if match[0] in "({[":
            depth += 1
        elif match[0] in ")}]":
            depth -= 1
        elif depth == 0:
            parts.append(text[start : match.start()])
            start = match.end()
    return [part.strip() for part in (*parts, text[start:])]


def parse_group(text: str) -> Compound | None:
    """The structure of a normalised text; None for a single value."""
    union = split_top(text, r"\\cup(?![A-Za-z])")
    if len(union) > 1:
        return Compound(kind="union", items=tuple(union))
    parts = _split_list(text)
    if len(parts) > 1:
        return Compound(kind="list", items=tuple(parts))
    return _parse_matrix(text) or _parse_brackets(text)


def _parse_matrix(text: str) -> Compound | None:
    matrix = re.fullmatch(r"(?P<factor>.*?)\s*\\begin\{([pb]?matrix)\}(.*)\\end\{\2\}", text)
    if matrix is None or "\\begin" in matrix[3]:
        return None
    rows = [row.split("&") for row in re.split(r"\\\\|\\cr(?![A-Za-z])", matrix[3].strip().removesuffix("\\\\"))]
    shape = f"{len(rows)}x{','.join(sorted({str(len(row)) for row in rows}))}"
    factor = matrix["factor"]
    if factor and re.search(r"\\begin|[=<>,;]", factor):
        return None
    factor = factor if factor in ("", "-") else f"({factor})"
    cells = tuple(f"{factor}({cell.strip()})" if factor else cell.strip() for row in rows for cell in row)
    return Compound(kind=f"matrix {shape}", items=cells)


def strip_brackets(text: str) -> str:
    """Without round brackets or set braces around one single value."""
    while (inner := inside(text)) is not None and text[-1] in ")}" and len(split_top(inner, "[,;]")) == 1:
        if text[0] == "[" or text[-1] == "]" or not inner:
            break
        text = inner
    return text


def inside(text: str) -> str | None:
    """What stands between an opening bracket at the start and its closing bracket at the end."""
    opening = re.match(r"[(\[]|\\\{", text)
    if opening is None or len(text) < 2 or text[-1] not in ")]}":
        return None
    depth = 0
    for match in re.finditer(r"[({\[]|[)}\]]", text):
        depth += 1 if match[0] in "({[" else -1
        if depth == 0:
            if match.end() != len(text):
                return None
            return text[opening.end() : -1].removesuffix("\\").strip()
    return None


def named_values(text: str) -> dict[str, str] | None:
    """Values by name, in order, of `a=1, b=2` or `(a,b)=(1,2)`; None where a name is missing or occurs twice."""
    if "=" not in text:
        return None
    sides = [side.strip() for side in text.split("=")]
    if len(sides) == 2 and sides[0][:1] in ("(", "["):
        names, values = (parse_group(side) for side in sides)
        if names is None or values is None or len(names.items) != len(values.items):
            return None
        pairs = list(zip(names.items, values.items, strict=True))
    else:
        parts = split_top(text, "[,;]|\\\\land(?![A-Za-z])")
        pairs = [(name.strip(), value.strip()) for name, _, value in (part.partition("=") for part in parts)]
        if len(pairs) < 2 or any("=" in value or not value for _, value in pairs):
            return None
    names_found = [re.sub(r"\s", "", name) for name, _ in pairs]
    if not all(NAME.fullmatch(name) for name, _ in pairs) or len(set(names_found)) < len(pairs):
        return None
    return dict(zip(names_found, (value for _, value in pairs), strict=True))


def _parse_brackets(text: str) -> Compound | None:
    inner = inside(text)
    if inner is None:
        return None
    if text.startswith("\\{"):
        parts = _split_list(inner)
        return Compound(kind="set", items=tuple(parts)) if len(parts) > 1 else None
    parts = split_top(inner, "[,;]")
    if len(parts) < 2:
        return None
    return Compound(kind=text[0] + text[-1], items=tuple(parts))


def _split_list(text: str) -> list[str]:
    """Items of a bare list; a comma inside `1,234` separates only where the list has commas without spaces anyway.

    In a calculation (`1,200 + 34 = 1,234`) whose only commas are such ones, none of them separates.
    """
    if parse_number(split_unit(text)[0]):
        return [text]
    spaced = split_top(text, r"(?:,\s|;)")
    if not all(map(_holds_together, spaced)):
        spaced = split_top(text, "[,;]")
    return [sign for part in spaced if part for sign in expand_signs(part)]


def _holds_together(item: str) -> bool:
    """Whether no comma in an item separates two."""
    return (
        "," not in item
        or parse_number(split_unit(item)[0]) is not None
        or inside(item) is not None
        or _is_calculation(item)
    )


def _is_calculation(text: str) -> bool:
    """Whether a text computes with numbers of which at least one has thousands separators, and has no other comma."""
    plain = _THOUSANDS.sub("0", text)
    return (
        plain != text
        and not re.search("[,;]", plain)
        and re.search(r"=|[\d)}] ?(?:[-+*/]|\\(?:times|cdot|div)(?![A-Za-z]))", plain) is not None
    )


def expand_signs(text: str) -> list[str]:
    r"""The values that `\pm` stands for: `a \pm b` is two; several are independent unless `\mp` ties them together."""
    signs = _SIGN.findall(text)
    if not signs or text.startswith("\\{") or len(signs) > MAX_SIGNS or re.search(TEXT_BOX, text):
        return [text]
    if "mp" in signs:
        choices = [tuple("+-"[(sign == "mp") ^ flipped] for sign in signs) for flipped in (False, True)]
    else:
        choices = list(product("+-", repeat=len(signs)))
    values = []
    for choice in choices:
        remaining = iter(choice)
        values.append(re.sub(r"^\s*\+\s*", "", _SIGN.sub(lambda _: next(remaining), text)).strip())  # noqa: B023
    return values
