"""Text that somebody else wrote, made fit to be shown."""

from __future__ import annotations


def printable(text: str) -> str:
    """One line in which line ends, control, formatting and invisible characters are escapes as in a Python literal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
