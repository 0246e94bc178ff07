"""The options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from latbench.config import own_data, tree

MethodOption = Annotated[
    str | None, typer.Option("--method", help="Method, of `latbench list methods` or a Python file of your own.")
]
TaskOption = Annotated[
    str | None,
    typer.Option(
        "--task", help="Task, data file (.jsonl, .json, .csv, .parquet), Hub id or Python file; synth by default."
    ),
]
ColumnsOption = Annotated[
    str | None,
    typer.Option("--columns", help="Of own data: what columns are called, such as question=problem,answer=solution."),
]
KindOption = Annotated[
    str | None, typer.Option("--kind", help="Of own data: how answers are compared, number, math, text or choice.")
]
PromptOption = Annotated[
    str | None, typer.Option("--prompt", help="Of own data: template such as 'Q: {question}'; fields are columns.")
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
ShardOption = Annotated[
    str | None,
    typer.Option("--shard", metavar="I/N", help="Answer the I-th of N parts; the last one to end joins them all."),
]


class Where(StrEnum):
    """What runs jobs."""

    local = "local"
    ray = "ray"


ShardsOption = Annotated[
    int | None,
    typer.Option("--shards", min=1, help="Divide each evaluation into so many parts, each answered by a job."),
]
JobsOption = Annotated[
    int | None, typer.Option("--jobs", min=1, help="Processes at once; one per GPU, or one, by default.")
]
ExecutorOption = Annotated[Where, typer.Option("--executor", help="This machine, or a Ray cluster.")]
AddressOption = Annotated[
    str | None,
    typer.Option("--address", metavar="HOST:PORT", help="Head of the Ray cluster; the one this machine is in."),
]
GpusOption = Annotated[
    float | None, typer.Option("--gpus-per-job", min=0, help="On Ray; one where there are any, by default.")
]
CpusOption = Annotated[float | None, typer.Option("--cpus-per-job", min=0, help="On Ray; one by default.")]
TrustOption = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python files that lie beside the model, in this call alone.")
]
RunArgument = Annotated[
    str | None, typer.Argument(metavar="RUN", help="Folder or name; the latest trained run by default.")
]
MeasuredArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN",
        help="Folder or name, or the folder of one of its evaluations, with its settings; the latest trained run by "
        "default.",
    ),
]
OneTaskOption = Annotated[
    str | None, typer.Option("--task", help="One task, data file or Hub id; the run's own by default.")
]
SplitOption = Annotated[str | None, typer.Option("--split", help="Split of the task; test by default.")]
RUNS = Path("runs")


def own_data_options(columns: str | None, kind: str | None, prompt: str | None) -> dict[str, Any]:
    """By dotted key, what the options say of own data. Raises: ValueError: `--columns` is no list of pairs."""
    pairs = [pair.partition("=") for pair in columns.split(",")] if columns else []
    if wrong := ["".join(pair) for pair in pairs if not all(pair)]:
        raise ValueError(
            f"--columns takes FIELD=COLUMN pairs such as question=problem,answer=solution, got {wrong[0]!r}"
        )
    fields = [field.strip() for field, _, _ in pairs]
    if twice := [field for field in fields if fields.count(field) > 1]:
        raise ValueError(f"--columns names {twice[0]!r} twice, got {columns!r}; name one column for a field")
    names = dict(zip(fields, (column.strip() for _, _, column in pairs), strict=True))
    return own_data.changes(names, kind, prompt)


def eval_changes(settings: list[str] | None, samples: int | None) -> dict[str, Any]:
    """What `--set` and `--samples` say of an evaluation, by dotted key."""
    changes = dict(tree.flatten(tree.parse_overrides(settings or [])))
    return changes if samples is None else {**changes, "generate.samples": samples}
