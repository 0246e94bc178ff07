"""What commands print: notes, results, JSON, and sentences that several of them say."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latbench.runs.lock import is_main_process

if TYPE_CHECKING:
    from latbench.evaluation.metrics import Summary

FAILED, BAD_INPUT = 1, 2  # exit codes


def note(text: str) -> None:
    """One line for people, on standard error: standard output holds results alone."""
    if is_main_process():
        print(text, file=sys.stderr)


def say(text: str) -> None:
    """A result as text on standard output, once where several processes share a run."""
    if is_main_process():
        print(text)


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on standard output; numbers that JSON does not have (an unbounded interval) become null."""
    say(json.dumps(_finite(value), ensure_ascii=False, default=str))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def left_out(report: Mapping[str, Any]) -> list[str]:
    """Sentences about training rows that were skipped, and about those that ask a test question."""
    found = [f"{count} training rows skipped: {reason}" for reason, count in report["report"]["skipped"].items()]
    shared = {"a test question": report["num_contaminated"]}
    shared |= {f"a question of {name}": count for name, count in report.get("overlaps", {}).items()}
    if not report["dropped"]:
        found += [
            f"{count} training rows ask {what}; leave them out with --set train.drop_contaminated=true"
            for what, count in shared.items()
            if count
        ]
    return found


def stale_files(texts: Mapping[Path, str]) -> list[str]:
    """A sentence on each file that is missing or differs from its text."""
    return [
        f"{path} is not up to date; write it anew without --check"
        for path, text in texts.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


def figures(summary: Summary) -> dict[str, Any]:
    """An evaluation's metrics as JSON values, without its manifest, which is a file of its own."""
    return {key: value for key, value in asdict(summary).items() if key != "manifest"}
