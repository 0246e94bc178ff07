"""Our tasks in lm-evaluation-harness, and our answer checker as a metric of its tasks.

A YAML names them with `!function`; `tasks/lm_eval/synth.yaml` shows both. They serve any of its models, also
without `latbench lm-eval`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any, get_args

import datasets
import yaml

from latbench import registry
from latbench.answers.extract import AnswerKind
from latbench.answers.scoring import score_answers
from latbench.api import get_task
from latbench.config import own_data
from latbench.config.own_data import with_own_data as with_settings
from latbench.evaluation.plan import plan
from latbench.runs.run import Run, find_run, load_run
from latbench.task import RunOn, Scorer, Task
from latbench.util.files import write_whole

RUNS = Path("runs")  # where a run that is given by name is looked for
TASKS, MODEL_ARGS = ("--tasks", "-t"), ("--model_args", "-a")  # lm-eval's options
LM_EVAL_KEYS = {"task", "group", "include", "dataset_path", "custom_dataset"}  # of its own YAML files


def examples(
    task: str, split: str = "test", run: Any = None, settings: Mapping[str, Any] | None = None, **metadata: Any
) -> dict[str, datasets.Dataset]:
    """A split of one of our tasks for lm-eval's `custom_dataset`: columns id, question (as it is asked), steps, answer.

    Args:
        task: a registered name, or own data as a user names them.
        split: of the task.
        run: of `--model_args`, which lm-eval hands over too: the task as this run's own evaluation would ask it.
        settings: `task.*` on top; `--metadata '{"settings": {...}}'`.
        metadata: whatever else lm-eval hands over.
    Raises: ValueError: no such task, split or run, or settings out of range.
    """
    source = _task(task, run, settings, split)
    rows = [
        {"id": row.id, "question": source.prompt(row), "steps": list(row.steps), "answer": row.answer}
        for row in source.load(split)
    ]
    return {split: datasets.Dataset.from_list(rows)}


def _task(task: str, run: Any, settings: Mapping[str, Any] | None, split: str = "test") -> Task[Any]:
    """One of our tasks; as a run's own evaluation would ask it, where one is named."""
    if run is None:
        return get_task(task, **(settings or {}))
    changes = {f"task.{key}": value for key, value in (settings or {}).items()}
    wanted = plan(run_of(run).config, task, split=split, changes=changes)
    made: Task[Any] = registry.get_task_entry(wanted.task_name).cls(wanted.task)
    return made


def latbench_correct(
    references: Sequence[str],
    predictions: Sequence[str],
    kind: AnswerKind = "math",
    labels: Sequence[str] = (),
    scorer: Scorer = "default",
    run_on: RunOn = "first",
) -> float:
    """Share of answer texts that our checker finds correct, a metric for `metric_list` in a task's YAML.

    Args:
        references: gold answers.
        predictions: answer texts, from which the answer is extracted.
        kind: number, math, text or choice (`latbench/answers/extract.py`).
        labels: the only answers there are, single words; a sentence answers with the one that it names.
        scorer: "default", or that of a paper.
        run_on: whether the "first" or the "last" answer counts where a text runs on to further questions.
    Raises: ValueError: unknown kind.
    """
    kinds = get_args(AnswerKind)
    if kind not in kinds:
        raise registry.unknown("kind of answers", kind, kinds)
    pairs = [(str(text), str(gold)) for text, gold in zip(predictions, references, strict=True)]
    scores = score_answers(pairs, kind, scorer, run_on, labels)
    return sum(score.status == "correct" for score in scores) / len(scores)


def own_data_task(named: str, run: Any = None, **settings: Any) -> dict[str, Any]:
    """Own data as a task for `simple_evaluate(tasks=[...])`, asked and checked as `latbench eval` does it.

    Args:
        named: a data file, a Hub id (`org/name`, `org/name:split`), or a YAML file that says `path`.
        run: that is evaluated, folder or name: own data that it was trained on say how others are asked; None: none.
        settings: `task.*`, such as `columns` and `kind`.
    Raises: ValueError: there is no such file or run, or its settings cannot be used.
    """
    section = with_settings({"name": named})
    task = _task(named, run, settings)
    whole = str(
        section["path"] if registry.is_data_file(named) else Path(named).resolve() if _is_yaml(named) else named
    )
    return {
        "task": section["name"],
        "custom_dataset": examples,
        "dataset_kwargs": {"task": whole},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": []},  # as the run says; greedy for lm-eval's other models
        "metric_list": [
            {
                "metric": latbench_correct,
                "kind": task.config.kind,
                "labels": list(task.config.labels),
                "scorer": task.config.scorer,
                "run_on": task.config.run_on,
                "aggregation": "mean",
                "higher_is_better": True,
            }
        ],
        "metadata": {"version": 1.0, "settings": dict(settings)},
    }


def with_own_data(arguments: Sequence[str], folder: Path, settings: Mapping[str, Any] | None = None) -> list[str]:
    """lm-eval's arguments, where its `--tasks` names own data with a task's YAML in place of each.

    Args:
        arguments: of lm-eval's command line.
        folder: for the YAML files.
        settings: of own data, `task.*` by dotted key.
    Raises: ValueError: there is no such file, its settings cannot be used, or there are settings and no own data.
    """
    found, run = list(arguments), _run_named(arguments)
    own = {key.removeprefix("task."): value for key, value in (settings or {}).items()}
    written: list[Path] = []

    def with_yaml(names: str) -> str:
        parts = names.split(",")
        for place, part in enumerate(parts):
            if _names_own_data(part):
                written.append(_written(own_data_task(part, run, **own), folder))
                parts[place] = str(written[-1])
        return ",".join(parts)

    for place, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option in TASKS and equals:
            found[place] = f"{option}={with_yaml(value)}"
        elif argument in TASKS:
            for index in _values(arguments, place):
                found[index] = with_yaml(arguments[index])
    if own and not written:
        raise ValueError("--columns, --kind and --prompt are about own data, and --tasks names none")
    return found


def _values(arguments: Sequence[str], place: int) -> range:
    """Places of the values of the option at a place."""
    rest = (index for index in range(place + 1, len(arguments)) if arguments[index].startswith("-"))
    return range(place + 1, next(rest, len(arguments)))


def _run_named(arguments: Sequence[str]) -> str | None:
    """`run` of `--model_args`, as lm-eval reads it: pairs that commas or spaces part."""
    for place, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        texts = [value] if option in MODEL_ARGS and equals else []
        if argument in MODEL_ARGS:
            texts = [arguments[index] for index in _values(arguments, place)]
        for pair in ",".join(texts).split(","):
            if pair.strip().startswith("run="):
                return pair.strip().removeprefix("run=")
    return None


def _names_own_data(named: str) -> bool:
    """Whether a task of `--tasks` is own data of ours, and no task, folder or YAML file of lm-eval's."""
    if _is_yaml(named) and Path(named).is_file():
        keys = re.findall(r"^(\w+):", Path(named).read_text(encoding="utf-8"), re.MULTILINE)
        return "path" in keys and not LM_EVAL_KEYS & set(keys)
    is_hub_id = own_data.HUB_ID.fullmatch(named) is not None and not _is_yaml(named)
    return registry.is_data_file(named) or (is_hub_id and not Path(named).exists())


def _is_yaml(named: str) -> bool:
    return named.endswith(own_data.YAML)


def _written(task: Mapping[str, Any], folder: Path) -> Path:
    """The YAML file of a task, in which functions stand by name as lm-eval reads them."""
    path = folder / f"{task['task']}.yaml"
    write_whole(path, yaml.dump(dict(task), Dumper=_Dumper, sort_keys=False, allow_unicode=True))
    return path


class _Dumper(yaml.SafeDumper):
    """Writes functions as lm-eval reads them."""


_Dumper.add_representer(
    FunctionType,
    lambda dumper, function: dumper.represent_scalar("!function", f"{function.__module__}.{function.__name__}"),
)


def run_of(run: Any, device: str | None = None, *, trust_remote_code: bool = False) -> Run:
    """The run of `--model_args`, by folder or by name. Raises: ValueError: there is none."""
    return load_run(find_run(str(run), RUNS), device=device, trust_remote_code=trust_remote_code)
