"""The folder in which tasks look for their data files."""

from __future__ import annotations

import os
from pathlib import Path

DATA_DIR = "LATBENCH_DATA_DIR"  # environment variable: the folder, also of the processes that this one starts


def use_data_dir(folder: Path | str | None) -> None:
    """Let tasks look for their files in a folder from now on; None leaves it as it is.

    Raises: ValueError: there is no such folder.
    """
    if folder is None:
        return
    path = Path(folder)
    if not path.is_dir():
        raise ValueError(f"--data-dir {folder} is no folder; give the one that holds the data files")
    os.environ[DATA_DIR] = str(path.resolve())
