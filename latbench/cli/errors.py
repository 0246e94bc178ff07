"""What an error is called, and the exit code that goes with it."""

from __future__ import annotations

import errno
from typing import Any

from latbench.cli.console import BAD_INPUT, FAILED

UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR}
# How libraries that write through C++ or Rust say that the disk is full
DISK_FULL = ("No space left on device", "PytorchStreamWriter failed writing", "unexpected pos", "os error 28")


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
