r"""Formulas in running text: `$..$`, `$$..$$`, `\(..\)`, `\[..\]`; a dollar sign before an amount is no delimiter."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_DELIMITER = re.compile(r"\\[\\$()\[\]]|\$\$?|\n[ \t]*\n")


@dataclass(frozen=True, kw_only=True)
class Span:
    """A formula within a text."""

    start: int
    """Position of its opening delimiter."""
    end: int
    """Position after its closing delimiter."""
    content: str
    """What stands between them."""


def math_spans(text: str) -> Iterator[Span]:
    """The formulas of a text in order, in one pass.

    A formula in single dollars ends within its paragraph. `$5` opens a formula only where the next `$` can close one:
    it has no space before it and no digit after it.
    """
    opened: re.Match[str] | None = None
    for token in _DELIMITER.finditer(text):
        sign = token[0]
        if sign in ("\\\\", "\\$"):
            continue
        if opened is not None and _closes(text, opened, token):
            content = text[opened.end() : token.start()].strip()
            if content:
                yield Span(start=opened.start(), end=token.end(), content=content)
            opened = None
        elif sign in ("\\(", "\\[") or (sign[0] == "$" and (opened is None or opened[0] in ("$", "$$"))):
            opened = token
        elif sign[0] == "\n" and opened is not None and opened[0] in ("$", "\\("):
            opened = None


def _closes(text: str, opened: re.Match[str], token: re.Match[str]) -> bool:
    if opened[0] != "$":
        return token[0] == {"\\(": "\\)", "\\[": "\\]", "$$": "$$"}[opened[0]]
    if token[0] != "$" or token.start() == opened.end():
        return False
    if not text[opened.end()].isdigit():
        return True
    return not text[token.start() - 1].isspace() and not text[token.end() : token.end() + 1].isdigit()
