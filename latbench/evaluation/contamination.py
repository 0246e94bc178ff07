"""How many training rows ask a question of an evaluation, from the configuration of its run and the data at hand.

These are the rows that the configuration names. A run whose model another run has made also counts, in its manifest,
the questions that are kept beside that run, and so may know of more (`may_know_of_more`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from latbench import registry
from latbench.config import TINY, RunConfig
from latbench.config.identity import is_untrained
from latbench.evaluation.job import EvalJob
from latbench.runs.train import data_name, training_rows
from latbench.runs.train_questions import Keys, either, num_shared, question_keys
from latbench.task import Task

MAX_KNOWN = 8


def recomputed(job: EvalJob) -> int | None:
    """Training rows, those of the runs that a run starts from included, that ask a question of an evaluation.

    Nothing is downloaded for it.

    Args:
        job: the evaluation; its run need not be on disk.
    Returns: None where the run was not trained from its configuration alone, or its training data are not at hand.
    """
    settings, train_data, own = job.settings, str(job.run.report["train_data"]), job.run.config
    if is_untrained(train_data) or own.imported is not None:
        return None
    trained = question_keys([])
    for number, config in enumerate(_chain(own)):
        task: Task[Any] = registry.get_task_entry(config.task_name).cls(config.task)
        data = config.train
        if task.disjoint_splits and (config.task_name, data.split) != (settings.task_name, settings.split):
            continue
        if not task.is_at_hand(data.split):
            return None
        keys, name = _rows(config, task)
        if name == train_data or number > 0:
            trained = either(trained, keys)
        elif config.start is None:  # trained on something else, or on nothing
            return None
    return num_shared(trained, question_keys(job.rows))


def may_know_of_more(config: RunConfig) -> bool:
    """Whether a run's model is what another run has learnt, or is not at hand, so that nobody can tell."""
    from latbench.model.source import CHECKPOINT_INFO

    models = {Path(part.model.id) for part in _chain(config) if part.model.id != TINY}
    return any(not model.is_dir() or (model / CHECKPOINT_INFO).is_file() for model in models)


def _chain(config: RunConfig) -> Iterator[RunConfig]:
    """A run and those that it starts from."""
    yield config
    if config.start is not None:
        yield from _chain(config.start)


_known: dict[str, tuple[Keys, str]] = {}  # the last few training sets, which the results of a folder share


def _rows(config: RunConfig, task: Task[Any]) -> tuple[Keys, str]:
    """Questions of the rows that are trained on, and the name of these data in a manifest."""
    data = config.train
    key = json.dumps([config.to_tree()["task"], data.split, data.num_examples, data.drop_contaminated])
    if key not in _known:
        rows = training_rows(task, config)
        if len(_known) == MAX_KNOWN:
            del _known[next(iter(_known))]
        name = data_name(config.task_name, data.split, len(rows), task.fingerprint(data.split).sha256)
        _known[key] = question_keys(rows), name
    return _known[key]
