"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from latbench.config import tree

MethodOption = Annotated[
    str | None, typer.Option("--method", help="Method, of `latbench list methods` or a Python file of your own.")
]
TaskOption = Annotated[
    str | None, typer.Option("--task", help="Task to train on, or a Python file of your own; synth by default.")
]
ModelOption = Annotated[
    str | None, typer.Option("--model", help="Hugging Face id or local path; the embedded tiny one by default.")
]
PresetOption = Annotated[str | None, typer.Option("--preset", help="One of `latbench list presets`, or none.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any configuration key.")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Seed of weights, data order and draws.")]
DeviceOption = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:1 ...")]
RunsOption = Annotated[Path, typer.Option("--runs-dir", help="Folder of all runs.")]
DataOption = Annotated[Path | None, typer.Option("--data-dir", help="Folder of data files (LATBENCH_DATA_DIR).")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="The first so many questions.")]
SamplesOption = Annotated[int | None, typer.Option(min=1, help="Answers per question.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Continue what is unfinished.")]
TrustOption = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python files that lie beside the model, in this call alone.")
]
RunArgument = Annotated[
    str | None, typer.Argument(metavar="RUN", help="Folder or name; the latest trained run by default.")
]
OneTaskOption = Annotated[str | None, typer.Option("--task", help="One task; the run's own by default.")]
SplitOption = Annotated[str, typer.Option("--split", help="Split of the task.")]
RUNS = Path("runs")


def eval_changes(settings: list[str] | None, samples: int | None) -> dict[str, Any]:
    """What `--set` and `--samples` say of an evaluation, by dotted key."""
    changes = dict(tree.flatten(tree.parse_overrides(settings or [])))
    return changes if samples is None else {**changes, "generate.samples": samples}
