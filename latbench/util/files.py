"""Files that must be whole: written beside and renamed."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write beside and rename, so that the file is never seen half written, not even after a power cut."""
    beside = temporary(path)
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def temporary(path: Path) -> Path:
    """Where `write_whole` writes; a killed process leaves it behind."""
    return path.with_name(path.name + ".tmp")
