"""Our tasks in lm-evaluation-harness, and our answer checker as a metric of its tasks.

A YAML names them with `!function`; `tasks/lm_eval/synth.yaml` shows both. They serve any of its models, also
without `latbench lm-eval`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import datasets

from latbench import registry
from latbench.answers.extract import AnswerKind
from latbench.answers.scoring import score_answers
from latbench.api import get_task
from latbench.config import own_data, tree
from latbench.evaluation.plan import plan
from latbench.runs.run import Run, find_run, load_run
from latbench.util.files import write_whole

RUNS = Path("runs")  # where a run that is given by name is looked for


def examples(
    task: str, split: str = "test", run: Any = None, settings: Mapping[str, Any] | None = None, **metadata: Any
) -> dict[str, datasets.Dataset]:
    """A split of one of our tasks for lm-eval's `custom_dataset`: columns id, question (as it is asked), steps, answer.

    Args:
        run: of `--model_args`, which lm-eval hands over too: the task as this run's own evaluation would ask it.
        settings: `task.*` on top; `--metadata '{"settings": {...}}'`.
        metadata: whatever else lm-eval hands over.
    Raises: ValueError: no such task, split or run, or settings out of range.
    """
    if run is None:
        source = get_task(task, **(settings or {}))
    else:
        changes = {f"task.{key}": value for key, value in (settings or {}).items()}
        wanted = plan(run_of(run).config, task, split=split, changes=changes)
        source = registry.get_task_entry(wanted.task_name).cls(wanted.task)
    rows = [
        {"id": row.id, "question": source.prompt(row), "steps": list(row.steps), "answer": row.answer}
        for row in source.load(split)
    ]
    return {split: datasets.Dataset.from_list(rows)}


def latbench_correct(
    references: Sequence[str], predictions: Sequence[str], kind: str = "math", labels: Sequence[str] = ()
) -> float:
    """Share of answer texts that our checker finds correct, a metric for `metric_list` in a task's YAML.

    Args:
        references: gold answers.
        predictions: answer texts, from which the answer is extracted.
        kind: number, math, text or choice (`latbench/answers/extract.py`).
        labels: the only answers there are, single words; a sentence answers with the one that it names.
    Raises: ValueError: unknown kind.
    """
    kinds = get_args(AnswerKind)
    if kind not in kinds:
        raise registry.unknown("kind of answers", kind, kinds)
    pairs = [(str(text), str(gold)) for text, gold in zip(predictions, references, strict=True)]
    scores = score_answers(pairs, kind, labels=labels)  # type: ignore[arg-type]
    return sum(score.status == "correct" for score in scores) / len(scores)


def with_own_data(arguments: Sequence[str], folder: Path) -> list[str]:
    """lm-eval's arguments, where its `--tasks` names data files with a task's YAML in place of each.

    Args:
        arguments: of lm-eval's command line.
        folder: for the YAML files.
    Raises: ValueError: there is no such file, or its own YAML file cannot be used.
    """
    found = list(arguments)
    for place, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option in ("--tasks", "-t") and equals:
            found[place] = f"{option}={_with_yaml(value, folder)}"
        elif argument in ("--tasks", "-t"):
            for index in range(place + 1, len(arguments)):
                if arguments[index].startswith("-"):
                    break
                found[index] = _with_yaml(arguments[index], folder)
    return found


def _with_yaml(names: str, folder: Path) -> str:
    """Comma-separated tasks, the data files among them as paths of YAML files."""
    parts = [_own_data_yaml(part, folder) if registry.is_data_file(part) else part for part in names.split(",")]
    return ",".join(map(str, parts))


def _own_data_yaml(named: str, folder: Path) -> Path:
    """The YAML file of a task over a data file, asked and checked as `latbench eval` does it."""
    section = own_data.with_own_data({"name": named})
    task = get_task(named)
    path = folder / f"{section['name']}.yaml"
    here = f"!function {__name__}"
    about = {
        "task": section["name"],
        "dataset_kwargs": {"task": section["path"]},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": [], "do_sample": False},
        "metadata": {"version": 1.0},
    }
    metric = {"kind": task.config.kind, "labels": task.config.labels, "aggregation": "mean", "higher_is_better": True}
    lines = [
        f"custom_dataset: {here}.examples",
        "metric_list:",
        f"  - metric: {here}.latbench_correct",
        *(f"    {name}: {json.dumps(value)}" for name, value in metric.items()),
    ]
    write_whole(path, tree.dump_yaml(about) + "\n".join(lines) + "\n")
    return path


def run_of(run: Any, device: str | None = None, *, trust_remote_code: bool = False) -> Run:
    """The run of `--model_args`, by folder or by name. Raises: ValueError: there is none."""
    return load_run(find_run(str(run), RUNS), device=device, trust_remote_code=trust_remote_code)
