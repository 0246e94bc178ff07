"""Messages for somebody who writes Python: what they say of commands and options, in the words of `latbench.*`."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_FLAGS = "resume|trust-remote-code|reported|all-records|check"
_WORDS: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"`latbench train --resume`", "`latbench.train(..., resume=True)`"),
    (r"`latbench train --method (\w+)`", r'`latbench.train("\1")`'),
    (r"`latbench eval --model (\S+) --method (\w+)`", r'`latbench.evaluate(model="\1", method="\2")`'),
    (r"`latbench eval`", "`latbench.evaluate(run)`"),
    (r"`latbench trace(?: [^`]*)?` and the same options", "`run.trace()` and the same arguments"),
    (r"`latbench (trace|inspect|reliance|parallelism|paths)(?: [^`]*)?`", r"`run.\1()`"),
    (r"`latbench cost`", "`latbench.cost(runs)`"),
    (r"`latbench list runs` shows those at hand", "they are folders of runs_dir"),
    (r"with --set ([\w.]+)=(\S+?)(?=[;,. ]|$)", r'with settings={"\1": \2}'),
    (r"--set ([\w.]+)=(\S+?)(?=[;,. ]|$)", r'settings={"\1": \2}'),
    (r"--set takes KEY=VALUE such as ([\w.]+)=(\S+?)(?=[;,. ]|$)", r'settings={"KEY": VALUE} such as {"\1": \2}'),
    (r"--set (?=[\w.]+:)", ""),
    (r"add --executor ray", 'add executor="ray"'),
    (rf"(?<!\S)--({_FLAGS})(?![\w-])", lambda found: f"{_name(found)}=True"),
    (r"(?<![\w-])(?<!launch )--([a-z][a-z-]*)", lambda found: _name(found)),
    (r"\bRUN names", "run names"),
    (r"name one of these as RUN", "give the result in one of these folders as task"),
    (r"to the command that loads the model", "to the call that loads the model"),
)


def in_python(sentence: str) -> str:
    """A message in the words of the Python interface."""
    for pattern, words in _WORDS:
        sentence = re.sub(pattern, words, sentence)
    return sentence


def speaks_python(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator of a public function: its ValueErrors speak of arguments, not of command-line options."""

    @wraps(function)
    def called(*arguments: P.args, **named: P.kwargs) -> R:
        try:
            return function(*arguments, **named)
        except ValueError as error:
            if all(isinstance(part, str) for part in error.args):
                error.args = tuple(map(in_python, error.args))
            raise

    return called


def _name(found: re.Match[str]) -> str:
    return found[1].replace("-", "_")
