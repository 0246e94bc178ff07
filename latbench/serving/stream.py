"""Text that grows token by token, told without ever taking a character back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

UNFINISHED = "\ufffd"  # what a tokenizer writes for bytes that are no character yet


class TextStream:
    """The text of ids that grow.

    Args:
        decode: ids -> text.
        stops: stop strings; what may turn out to begin one is held back.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = ()) -> None:
        self._decode, self._stops = decode, stops
        self._num_ids = 0
        self._told = ""

    def grow(self, ids: Sequence[int]) -> str:
        """What can be told of a text that has grown.

        Args:
            ids: of the whole text so far.
        """
        if len(ids) == self._num_ids:
            return ""
        self._num_ids = len(ids)
        text = self._decode(ids).rstrip(UNFINISHED)
        return self._tell(text[: len(text) - self._held(text)])

    def end(self, text: str) -> str:
        """What is left to tell of the whole text."""
        return self._tell(text)

    def _tell(self, text: str) -> str:
        if not text.startswith(self._told):
            return ""  # what was told cannot be taken back
        new, self._told = text[len(self._told) :], text
        return new

    def _held(self, text: str) -> int:
        """Length of the longest end of the text that begins a stop string."""
        longest = max(map(len, self._stops), default=1) - 1
        sizes = range(min(longest, len(text)), 0, -1)
        return next((size for size in sizes if any(stop.startswith(text[-size:]) for stop in self._stops)), 0)
