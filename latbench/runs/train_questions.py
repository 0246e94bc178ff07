"""Which questions a run was trained on, as hashes beside it: what an evaluation of any task can be compared with.

`train_questions.bin` holds eight bytes for each training row: the hash of its question in normal form, which one row
shares with another where both ask the same (`latbench.data.normalised_row`). The rows of the run that a run starts
from are among them; a row that both were trained on stands there once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latbench.config import RunConfig
from latbench.data import normalised_row
from latbench.runs.run import CHECKPOINT, TRAIN
from latbench.task import Example
from latbench.util.files import write_whole_bytes

QUESTIONS = "train_questions.bin"
Keys = NDArray[np.uint64]


def question_keys(examples: Iterable[Example]) -> Keys:
    """The hash of each question: (row,), sorted."""
    digests = (hashlib.blake2b(normalised_row(row).encode(), digest_size=8).digest() for row in examples)
    return np.sort(np.frombuffer(b"".join(digests), dtype="<u8"))


def write_train_questions(folder: Path, keys: Keys, earlier: Path | None) -> None:
    """Write the questions of a run's training rows into its folder.

    Args:
        folder: of the run.
        keys: of the rows that the run itself trains on.
        earlier: folder of the run whose model it goes on with; nothing is written where its questions are not known.
    """
    before = None if earlier is None else read_train_questions(earlier)
    if earlier is None or before is not None:
        whole = keys if before is None else either(keys, before)
        write_whole_bytes(folder / QUESTIONS, whole.astype("<u8").tobytes())


def run_of_model(config: RunConfig) -> Path | None:
    """Folder of the run whose checkpoint or exported folder a configuration takes for its model; None: no run's."""
    model = Path(config.model.id)
    run = model.parent if model.name == CHECKPOINT else model
    return run if (run / TRAIN).is_file() else None


def read_train_questions(folder: Path) -> Keys | None:
    """What `write_train_questions` wrote into a run's folder; None where there is nothing.

    Raises: ValueError: damaged.
    """
    try:
        data = (folder / QUESTIONS).read_bytes()
    except FileNotFoundError:
        return None
    if len(data) % 8:
        raise ValueError(f"{folder / QUESTIONS} is damaged; copy it anew, or remove it")
    return np.frombuffer(data, dtype="<u8")


def num_shared(trained: Keys, asked: Keys) -> int:
    """Number of training rows whose question is among those asked."""
    return int(np.isin(trained, asked).sum())


def either(some: Keys, others: Keys) -> Keys:
    """The keys of rows in one of two sets of training rows, each as often as in the set that has it more often."""
    keys = np.union1d(some, others)
    counts = [np.searchsorted(one, keys, "right") - np.searchsorted(one, keys, "left") for one in (some, others)]
    return np.repeat(keys, np.maximum(*counts))
