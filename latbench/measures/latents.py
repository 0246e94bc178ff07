"""Latent steps of stored traces as text, read without torch: what the page's record browser shows.

The files are those of `latbench.measures.trace`, which describes and writes them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from latbench.evaluation.records import SAME_ANSWERS, TRACE, TRACE_HEADER, Manifest


@dataclass(frozen=True, kw_only=True)
class LatentStep:
    """One latent step: entropy in nats, and the largest entries of its mixture as (token text, weight)."""

    entropy: float
    tokens: tuple[tuple[str, float], ...]


class StoredLatents:
    """The complete trace beside an evaluation's records.

    Args:
        folder: of the trace; header: its trace.json.
        decode: token id -> text.
    """

    def __init__(self, folder: Path, header: Mapping[str, Any], decode: Callable[[int], str]) -> None:
        self._folder, self._header, self._decode = folder, header, decode
        self._chunks: dict[int, tuple[Any, list[int]]] = {}

    def get(self, row: int, top: int) -> tuple[LatentStep, ...]:
        """Latent steps of one answer, with at most `top` tokens each.

        Args:
            row: place of the answer's record in the file.
        Raises: ValueError: the trace is damaged.
        """
        rows = self._header["chunk"] * self._header["samples"]
        path = self._folder / f"chunk-{row // rows:05d}.safetensors"
        try:
            columns, ends = self._chunk(row // rows, path)
            start, end = ends[row % rows], ends[row % rows + 1]
            found = zip(*(columns[name][start:end].tolist() for name in ("entropy", "ids", "weights")), strict=True)
            return tuple(
                LatentStep(
                    entropy=entropy,
                    tokens=tuple((self._decode(i), weight) for i, weight in zip(ids[:top], weights[:top], strict=True)),
                )
                for entropy, ids, weights in found
            )
        except (OSError, KeyError, IndexError, TypeError) as error:
            raise ValueError(f"{path} cannot be read ({error}); trace the run again") from None

    def _chunk(self, index: int, path: Path) -> tuple[Any, list[int]]:
        """Columns of a chunk but the embeddings, and where its rows end, after a leading zero; one is kept."""
        if index not in self._chunks:
            from safetensors import SafetensorError, safe_open

            try:
                with safe_open(path, "np") as file:
                    columns = {name: file.get_tensor(name) for name in ("counts", "entropy", "ids", "weights")}
            except SafetensorError as error:
                raise OSError(str(error)) from None
            self._chunks = {index: (columns, [0, *accumulate(columns["counts"].tolist())])}
        return self._chunks[index]


def stored_latents(
    folder: Path, manifest: Manifest, decode: Callable[[int], str] = "#{}".format
) -> StoredLatents | None:
    """The trace of an evaluation folder; None where there is none that is complete and of this evaluation.

    Args:
        decode: token id -> text, where no tokenizer is at hand in the run's checkpoint.
    """
    try:
        header = json.loads((folder / TRACE / TRACE_HEADER).read_text(encoding="utf-8"))
        if any(header[name] != getattr(manifest, name) for name in SAME_ANSWERS):
            return None
        return StoredLatents(folder / TRACE, header, _decoder(folder) or decode)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _decoder(folder: Path) -> Callable[[int], str] | None:
    path = folder.parents[1] / "checkpoint" / "tokenizer.json"
    if not path.is_file():
        return None
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    known: dict[int, str] = {}

    def decode(token: int) -> str:
        if token not in known:
            known[token] = tokenizer.decode([token], skip_special_tokens=False)
        return known[token]

    return decode
