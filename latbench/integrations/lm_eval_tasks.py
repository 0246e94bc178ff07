"""Our tasks in lm-evaluation-harness, and our answer checker as a metric of its tasks.

A YAML names them with `!function`; `tasks/lm_eval/synth.yaml` shows both. They serve any of its models, also
without `latbench lm-eval`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import datasets

from latbench import registry
from latbench.answers.extract import AnswerKind
from latbench.answers.scoring import score_answers
from latbench.api import get_task
from latbench.evaluation.plan import plan
from latbench.runs.run import Run, find_run, load_run

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
        source = registry.get_task_entry(task).cls(wanted.task)
    rows = [
        {"id": row.id, "question": source.prompt(row), "steps": list(row.steps), "answer": row.answer}
        for row in source.load(split)
    ]
    return {split: datasets.Dataset.from_list(rows)}


def latbench_correct(references: Sequence[str], predictions: Sequence[str], kind: str = "math") -> float:
    """Share of answer texts that our checker finds correct, a metric for `metric_list` in a task's YAML.

    Args:
        references: gold answers.
        predictions: answer texts, from which the answer is extracted.
        kind: number, math, text or choice (`latbench/answers/extract.py`).
    Raises: ValueError: unknown kind.
    """
    kinds = get_args(AnswerKind)
    if kind not in kinds:
        raise registry.unknown("kind of answers", kind, kinds)
    pairs = [(str(text), str(gold)) for text, gold in zip(predictions, references, strict=True)]
    scores = score_answers(pairs, kind)  # type: ignore[arg-type]
    return sum(score.status == "correct" for score in scores) / len(scores)


def run_of(run: Any, device: str | None = None, *, trust_remote_code: bool = False) -> Run:
    """The run of `--model_args`, by folder or by name. Raises: ValueError: there is none."""
    return load_run(find_run(str(run), RUNS), device=device, trust_remote_code=trust_remote_code)
