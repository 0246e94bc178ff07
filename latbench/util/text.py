"""Text that somebody else wrote, made fit to be shown and to be written."""

from __future__ import annotations


def printable(text: str) -> str:
    """One line in which line ends, control, formatting and invisible characters are escapes as in a Python literal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def encodable(text: str) -> str:
    """The text with lone surrogates, which no file can hold, as escapes such as `\\udce9`."""
    return text.encode(errors="backslashreplace").decode()


def cut(text: str, limit: int | None) -> str:
    """The text as it can be encoded; what is longer than `limit` characters loses the rest, and says how much."""
    whole = encodable(text)
    if limit is None or len(whole) <= limit:
        return whole
    return f"{whole[:limit]} … ({len(whole) - limit} more characters)"


def plain(text: str) -> str:
    """The text as one line that can be encoded."""
    return " ".join(encodable(text).split())
