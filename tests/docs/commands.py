"""The commands that README.md, docs/ and results/README.md show, and what tells those that no test can run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOT_RUN: Mapping[str, str] = {
    r"make (quickstart|test)": "sets up an environment from the package index and works for minutes; CI runs it",
    r"git clone .*": "clones this repository",
    r"latbench import .*": "reads a release from the Hub; tests/methods/importers import made ones",
    r"latbench eval runs/gsm8k-codi-gpt2-.*": "evaluates an import from the Hub",
    r"latbench eval RUN --set task.scorer=.*": "evaluates an import from the Hub",
    r"latbench eval --model Qwen/QwQ-32B .*": "loads a model of 32 billion weights from the Hub",
    r"latbench sweep results/.*": "trains for hours",
    r"latbench eval RUN --tasks math500 --shards? .*": "answers a part of a test set; test_shards.py joins parts",
    r"latbench sweep SWEEP.yaml --shards .*": "starts a process for each shard; test_sharded.py has such jobs",
    r"latbench sweep SWEEP.yaml --executor ray .*": "needs a cluster; tests/sweep/test_ray.py has one of three nodes",
    r"latbench serve .*": "serves until it is stopped; tests/serving asks one",
    r"latbench eval runs/NAME .*": "takes a folder that somebody shared; tests/test_export.py loads one back",
    r"latbench export RUN hub:.*": "writes to the Hub; tests/test_export.py has a made one",
    r"latbench lm-eval .*--tasks gsm8k.*": "takes a task of lm-eval from the Hub; tests/integrations has local ones",
    r"latbench train .*--preset smollm2-135m.*": "takes a model from the Hub; test_smollm2_presets.py has a small one",
    r"pip install .*": "installs from the package index",
    r"accelerate launch .*": "starts several processes on accelerators",
    r"latbench leaderboard results --check": "takes half a minute; tests/test_submission.py recomputes the same files",
}
"""Commands, as regular expressions, with the reason why they are parsed and not run."""


@dataclass(frozen=True)
class Command:
    """A line of a page that a reader may type."""

    page: str
    """Path from the root of the checkout."""
    line: str
    """The line without its comment."""

    @property
    def words(self) -> list[str]:
        """As the shell splits it, without where the output goes."""
        return shlex.split(self.line.partition(" > ")[0])

    @property
    def reason(self) -> str | None:
        """Why it is not run; None: it is."""
        return next((why for shown, why in NOT_RUN.items() if re.fullmatch(shown, self.line)), None)


def pages() -> list[str]:
    """The pages whose commands are run, each in a folder of its own."""
    docs = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
    return ["README.md", *docs]


def shown(page: str) -> list[Command]:
    """The lines of the fenced and indented blocks of a page that are commands."""
    return [Command(page, line) for line in _lines((ROOT / page).read_text(encoding="utf-8"))]


def inline(page: str) -> list[Command]:
    """Commands within sentences and tables, but for those that are cut short."""
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    found = re.findall(r"(?<!`)`(latbench [a-z][^`|]*)`(?!`)", text)
    lines = dict.fromkeys(" ".join(line.split()) for line in found)
    return [Command(page, line) for line in lines if "..." not in line and "[" not in line]


def _lines(text: str) -> Iterator[str]:
    fenced = False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced and line.strip() in ("```", "```sh", "```bash", "```shell")
        elif fenced or line.startswith("    "):
            command = _without_comment(line.strip())
            if re.match(r"(latbench|make|git|python|accelerate|pip) ", command):
                yield command


def _without_comment(line: str) -> str:
    """A command ends before a comment, or before the words that a page puts after many spaces."""
    return re.split(r"\s+# |\s{3,}", line)[0].strip()
