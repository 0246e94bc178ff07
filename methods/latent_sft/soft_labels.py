"""Soft labels on disk: streamed while they are made, read memory-mapped, tied to what they were made from.

<folder>/<field>.bin     the labels of all rows one after another, `width` values each
         offsets.bin     int64: where each row ends, in labels
         fields.json     fields and fingerprint, until the labels are finished
         labels.json     fields, fingerprint, num_rows, num_labels, once they are
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latbench.util.files import write_whole

HEADER = "fields.json"
LABELS = "labels.json"
OFFSETS = "offsets"
READ_AS = {"int32": np.int64, "float16": np.float32, "float32": np.float32}

Fields = Mapping[str, tuple[int, str]]


class LabelWriter:
    """Streams rows of labels; continue after a kill by opening the same folder again.

    An unfinished folder of other fields or another fingerprint is started anew, as nobody can use it.

    Args:
        folder: for these labels alone; `*.bin` files of others are removed.
        fields: name -> (values per label, dtype on disk: int32, float16 or float32).
        fingerprint: JSON values that say what the labels depend on.
    Attributes:
        num_rows: rows that are whole on disk; a continued run adds row `num_rows` next.
        num_labels: labels that are whole on disk.
    Raises: ValueError: the folder is finished.
    """

    def __init__(self, folder: Path, fields: Fields, fingerprint: Mapping[str, Any]) -> None:
        assert fields
        assert OFFSETS not in fields
        assert all(width > 0 and dtype in READ_AS for width, dtype in fields.values())
        if SoftLabels.is_finished(folder):
            raise ValueError(f"the soft labels in {folder} are finished; use them, or remove it to make them again")
        self.folder, self.fields = folder, dict(fields)
        self._facts = {"fields": self.fields, "fingerprint": dict(fingerprint)}
        folder.mkdir(parents=True, exist_ok=True)
        header = folder / HEADER
        if not header.exists() or header.read_text(encoding="utf-8") != _json(self._facts):
            for path in folder.glob("*.bin"):  # before the header, which would vouch for them
                path.unlink()
            write_whole(header, _json(self._facts))
        self.num_rows, self.num_labels = self._cut_torn_rows()

    def add(self, rows: Sequence[Mapping[str, Tensor]]) -> None:
        """Append rows.

        Args:
            rows: per field (num_labels, width), rounded to the field's dtype; num_labels may be 0.
        """
        if not rows:
            return
        for row in rows:
            num_labels = len(row[next(iter(self.fields))])
            assert row.keys() == self.fields.keys()
            assert all(row[name].shape == (num_labels, width) for name, (width, _) in self.fields.items())
        for name, (_, dtype) in self.fields.items():
            values = torch.cat([row[name].detach() for row in rows]).to("cpu", getattr(torch, dtype))
            self._append(name, values)
        ends = torch.tensor([len(row[name]) for row in rows]).cumsum(0) + self.num_labels
        self._append(OFFSETS, ends)  # last: a row is whole once its end is written
        self.num_rows, self.num_labels = self.num_rows + len(rows), int(ends[-1])

    def finish(self) -> None:
        """Declare the labels complete, so that `SoftLabels` opens them."""
        facts = {**self._facts, "num_rows": self.num_rows, "num_labels": self.num_labels}
        write_whole(self.folder / LABELS, _json(facts))
        (self.folder / HEADER).unlink(missing_ok=True)

    def _append(self, name: str, values: Tensor) -> None:
        with _path(self.folder, name).open("ab") as file:
            file.write(values.numpy().tobytes())
            file.flush()
            os.fsync(file.fileno())  # also after a power cut no end stands before its labels

    def _cut_torn_rows(self) -> tuple[int, int]:
        """Cut every file to the rows that are whole in all of them; returns num_rows, num_labels."""
        for name in (OFFSETS, *self.fields):
            _path(self.folder, name).touch()
        stored = [_path(self.folder, name).stat().st_size // size for name, size in _label_bytes(self.fields).items()]
        ends = np.fromfile(_path(self.folder, OFFSETS), np.int64)
        num_rows = _num_whole_rows(ends, min(stored))
        num_labels = int(ends[num_rows - 1]) if num_rows else 0
        for name, size in _file_bytes(self.fields, num_rows, num_labels).items():
            os.truncate(_path(self.folder, name), size)
        return num_rows, num_labels


class SoftLabels:
    """Finished labels, memory-mapped; made by `open`.

    Args:
        ends: (row,) where each row ends, in labels.
        values: per field (label, width).
    """

    def __init__(self, ends: NDArray[np.int64], values: Mapping[str, NDArray[Any]]) -> None:
        self._ends, self._values = ends, values
        self.num_labels = int(ends[-1]) if len(ends) else 0

    @classmethod
    def open(cls, folder: Path, fingerprint: Mapping[str, Any]) -> SoftLabels:
        """The labels of a folder, which must have been made under this fingerprint.

        Raises: ValueError: not finished, another fingerprint, or damaged.
        """
        if not cls.is_finished(folder):
            raise ValueError(f"the soft labels in {folder} are not finished ({LABELS} is missing); make them first")
        try:
            facts = json.loads((folder / LABELS).read_text(encoding="utf-8"))
            stored = dict(facts["fingerprint"])
            fields: Fields = {name: (width, dtype) for name, (width, dtype) in facts["fields"].items()}
            num_rows, num_labels = facts["num_rows"], facts["num_labels"]
            sizes = _file_bytes(fields, num_rows, num_labels)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise _damaged(folder, f"{LABELS} cannot be read") from None
        _check_fingerprint(folder, stored, fingerprint)
        for name, size in sizes.items():
            path = _path(folder, name)
            if not path.is_file() or path.stat().st_size != size:
                state = f"has {path.stat().st_size} bytes instead of {size}" if path.is_file() else "is missing"
                raise _damaged(folder, f"{path.name} {state}")
        ends = _mapped(folder, OFFSETS, "int64", (num_rows,))
        if _num_whole_rows(ends, num_labels) != num_rows or (ends[-1] if num_rows else 0) != num_labels:
            raise _damaged(folder, f"{OFFSETS}.bin does not fit {num_labels} labels")
        maps = {name: _mapped(folder, name, dtype, (num_labels, width)) for name, (width, dtype) in fields.items()}
        return cls(ends, maps)

    @staticmethod
    def is_finished(folder: Path) -> bool:
        """Whether all labels are there; says nothing about what they were made from."""
        return (folder / LABELS).is_file()

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._ends)

    def row(self, index: int) -> dict[str, Tensor]:
        """The labels of a row, copied from disk: per field (num_labels, width), int64 or float32."""
        assert 0 <= index < len(self)
        labels = slice(self._ends[index - 1] if index else 0, self._ends[index])
        return {
            name: torch.from_numpy(np.array(values[labels], READ_AS[values.dtype.name]))
            for name, values in self._values.items()
        }


def fingerprint_of_tensors(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """First 16 hex digits of the sha256 over names, dtypes, shapes and bytes, one tensor in memory at a time."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data)  # numpy has no bfloat16
    return digest.hexdigest()[:16]


def fingerprint_of_texts(rows: Iterable[tuple[str, ...]]) -> str:
    """First 16 hex digits of the sha256 over the rows as JSON lines."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()[:16]


def _num_whole_rows(ends: NDArray[np.int64], num_labels: int) -> int:
    """Rows before the first whose end is impossible: below the end before it, or beyond the stored labels."""
    impossible = (np.diff(ends, prepend=0) < 0) | (ends > num_labels)
    return int(impossible.argmax()) if impossible.any() else len(ends)


def _check_fingerprint(folder: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for key in {**wanted, **stored}:
        was, now = ("absent" if key not in source else _json(source[key], indent=None) for source in (stored, wanted))
        if was != now:
            raise ValueError(
                f"the soft labels in {folder} were made with {key} {was}, not {now}; "
                f"change {key} back, or remove the folder to make them again"
            )


def _damaged(folder: Path, how: str) -> ValueError:
    return ValueError(f"the soft labels in {folder} are damaged: {how}; remove the folder to make them again")


def _label_bytes(fields: Fields) -> dict[str, int]:
    """Bytes of one label in each field's file."""
    return {name: width * np.dtype(dtype).itemsize for name, (width, dtype) in fields.items()}


def _file_bytes(fields: Fields, num_rows: int, num_labels: int) -> dict[str, int]:
    """Bytes of each file."""
    return {name: num_labels * size for name, size in _label_bytes(fields).items()} | {OFFSETS: num_rows * 8}


def _mapped(folder: Path, name: str, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    if not shape[0]:  # an empty file cannot be mapped
        return np.empty(shape, dtype)
    return np.memmap(_path(folder, name), dtype, "r", shape=shape)


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.bin"


def _json(value: Any, indent: int | None = 1) -> str:
    return json.dumps(value, sort_keys=True, indent=indent)
