"""What commands share: where they print, how they find what they are pointed to, and what an error is called."""

from __future__ import annotations

import errno
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
UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR}
# How libraries that write through C++ or Rust say that the disk is full
DISK_FULL = ("No space left on device", "PytorchStreamWriter failed writing", "unexpected pos", "os error 28")


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


def describe(error: Exception) -> tuple[list[str], int]:
    """Sentences about an error, and the exit code: 2 where the user asked for the wrong thing, else 1."""
    if hasattr(error, "format_message"):  # Typer's own usage errors, whose class its versions keep in different places
        return [_usage(error)], BAD_INPUT
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        return [f"cannot write {error.filename}: {error.strerror}; choose another folder with --runs-dir"], FAILED
    if any(text in str(error) for text in DISK_FULL):
        place = getattr(error, "filename", None)
        where = f" while writing {place}" if place else ""
        way_out = "free some space and repeat the command (train and sweep with --resume)"
        return [f"the disk is full{where}; {way_out}, what was whole is kept"], FAILED
    if isinstance(error, ValueError):
        return [line for line in str(error).splitlines() if line.strip()] or ["invalid value"], BAD_INPUT
    if isinstance(error, ModuleNotFoundError):
        return [f"package {error.name!r} is not installed; run `pip install {error.name}`"], FAILED
    first = next(iter(str(error).splitlines()), "")
    return [f"{type(error).__name__}: {first}; --debug shows where"], FAILED


def _usage(error: Any) -> str:
    near = getattr(error, "possibilities", None)
    if near:
        return f"unknown option {error.option_name!r}; did you mean {near[0]!r}?"
    sentence = " ".join(error.format_message().split())
    return sentence if sentence.endswith("?") else f"{sentence.rstrip('.')}; --help shows what there is"


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
