"""Fixtures: hand-made evaluations."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from latbench.evaluation.records import (
    RECORDS,
    Evaluation,
    Manifest,
    Record,
    append_records,
    read_evaluation,
    write_manifest,
)
from latbench.task import Fingerprint

Make = Callable[..., Evaluation]


def make_record(id: str, correct: bool = True, **changes: Any) -> Record:
    """A record; `changes` replace any field."""
    fields: dict[str, Any] = {
        "id": id,
        "sample": 0,
        "text": "the answer",
        "reasoning": "",
        "extracted": "7" if correct else "8",
        "gold": "7",
        "status": "correct" if correct else "incorrect",
        "num_latents": 4,
        "num_reasoning_tokens": 0,
        "num_answer_tokens": 3,
        "gold_chain_length": 0,
        "num_prompt_tokens": 10,
        "decode_steps": 9,
        "stop_reason": "eos",
        "seed": 0,
        "chunk": 0,
    }
    return Record(**{**fields, **changes})


@pytest.fixture(scope="session")
def record() -> Callable[..., Record]:
    """Makes a record from (id, correct, changes)."""
    return make_record


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes an evaluation into `tmp_path/<run>` and returns it as read back; `changes` replace manifest fields."""

    def write(records: Sequence[Record], gzipped: bool = False, **changes: Any) -> Evaluation:
        fields: dict[str, Any] = {
            "task": "synth",
            "split": "test",
            "method": "coconut",
            "variant": "",
            "setting": "s1",
            "backbone": "tiny",
            "layout": "default",
            "train_data": "synth/train",
            "run": "run0",
            "seed": 0,
            "n": len(records),
            "complete": True,
            "command": "latbench eval",
            "config": {},
            "questions_sha256": hashlib.sha256(
                json.dumps(sorted({(r.id, r.gold) for r in records})).encode()
            ).hexdigest(),
            "data": {"synth/test": Fingerprint(source="synth", sha256="00", num_examples=len(records))},
            "versions": {},
            "git_commit": None,
            "git_dirty": None,
            "hardware": {},
            "train": {"flops": 2e12, "epochs": 1.5},
            "evaluation": {"seconds": 2.0, "answers": float(len(records))},
        }
        manifest = Manifest(**{**fields, **changes})
        folder = tmp_path / manifest.run
        folder.mkdir(parents=True)
        write_manifest(folder, manifest)
        append_records(folder / RECORDS, records)
        if gzipped:
            (folder / (RECORDS + ".gz")).write_bytes(gzip.compress((folder / RECORDS).read_bytes(), mtime=0))
            (folder / RECORDS).unlink()
        return read_evaluation(folder)

    return write
