"""What commands share: where they print, how they find what they are pointed to, and what an error is called."""

from __future__ import annotations

import errno
import json
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latbench.config import tree
from latbench.runs.lock import is_main_process
from latbench.runs.run import Run, find_run, load_run

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


def use_data_dir(folder: Path | None) -> None:
    """Let tasks look for their files in a folder. Raises: ValueError: there is no such folder."""
    if folder is None:
        return
    if not folder.is_dir():
        raise ValueError(f"--data-dir {folder} is no folder; give the one that holds the data files")
    from latbench.data import DATA_DIR

    os.environ[DATA_DIR] = str(folder.resolve())


def options_tree(config: Path | None, options: Mapping[str, Any]) -> tree.Tree:
    """The tree of a YAML file with the command-line options that were given (by dotted key) over it."""
    upper: tree.Tree = {}
    for key, value in options.items():
        if value is not None:
            tree.put(upper, key, value)
    lower = tree.read_yaml(config) if config is not None else {}
    named = {kind: {"name": lower[kind]} for kind in ("task", "method") if isinstance(lower.get(kind), str)}
    return tree.merge(lower | named, upper)


def find_target(
    run: str | None,
    options: Mapping[str, Any],
    *,
    settings: Mapping[str, Any],
    preset: str | None,
    device: str | None,
    device_map: str | None = None,
    runs_dir: Path,
    trust_remote_code: bool = False,
) -> tuple[Run, dict[str, Any]]:
    """What to evaluate: a run, or a method over a model as it comes, and the decoding in which it differs from the run.

    Args:
        options: `model.id` and `method.name`, None where not given.
        settings: further `model.*` and `method.*` of a model as it comes, by dotted key.
        device: where the model of a run is put; None: where its configuration says.
        device_map: how it is spread over several devices.
        trust_remote_code: run Python files that lie beside the model.
    Raises: ValueError: both or half of it was given, or there is no such run.
    """
    from latbench.config import parse
    from latbench.evaluation.plan import decoding_changes
    from latbench.runs.train import base_run

    given = [key for key, value in options.items() if value is not None]
    if not given and preset is not None:
        raise ValueError("--preset belongs to an evaluation with --model and --method; a run has its own")
    if not given:
        folder = find_run(run, runs_dir)
        return load_run(folder, device=device, device_map=device_map, trust_remote_code=trust_remote_code), {}
    if run is not None:
        raise ValueError("RUN names a trained run and --model with --method an untrained one; give one of the two")
    if len(given) < len(options):
        raise ValueError("an evaluation without a run needs both --model and --method")
    config = parse(options_tree(None, {**settings, **options, "model.device": device}), preset=preset)
    base = base_run(config, runs_dir=runs_dir, trust_remote_code=trust_remote_code)
    return base, decoding_changes(base.config, config)


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


def evaluation_folder(name: str, runs_dir: Path) -> Path:
    """The one evaluation in a folder, or of a run given by name. Raises: ValueError: none, or several."""
    from latbench.report.leaderboard import find_evaluations

    top = find_run(name, runs_dir)
    found = list(find_evaluations([top]))
    if len(found) == 1:
        return found[0]
    what = "no evaluation" if not found else f"{len(found)} evaluations"
    way_out = "make one with `latbench eval`" if not found else f"name one, such as {found[0]}"
    raise ValueError(f"{top} holds {what}; {way_out}")


def stale_files(texts: Mapping[Path, str]) -> list[str]:
    """A sentence on each file that is missing or differs from its text."""
    return [
        f"{path} is not up to date; write it anew without --check"
        for path, text in texts.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


def slots(jobs: int | None) -> list[str | None]:
    """What each process of a sweep may see: a GPU, or with none (or so many jobs asked for) no restriction."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
    if torch.cuda.is_available():
        return [gpus[index % len(gpus)] for index in range(jobs or len(gpus))]
    return [None] * (jobs or 1)


def figures(summary: Summary) -> dict[str, Any]:
    """An evaluation's metrics as JSON values, without its manifest, which is a file of its own."""
    return {key: value for key, value in asdict(summary).items() if key != "manifest"}
