"""What an evaluation asked, read back from its manifest and the task's data."""

from __future__ import annotations

from latbench import registry
from latbench.config import GenerateConfig, tree
from latbench.data import FileTask
from latbench.evaluation.manifest import questions_hash
from latbench.evaluation.plan import EvalConfig, questions
from latbench.evaluation.records import Manifest
from latbench.task import Example


def asked(manifest: Manifest) -> list[Example]:
    """The examples of an evaluation as they were asked; none where the data at hand are not these.

    Nothing is downloaded for it (`Task.is_at_hand`).
    """
    try:
        settings = asked_config(manifest)
        if not registry.get_task_entry(settings.task_name).cls(settings.task).is_at_hand(settings.split):
            return []
        _, examples = questions(settings)
    except ValueError:
        return []
    return examples if questions_hash(examples) == manifest.questions_sha256 else []


def asked_of_generated(manifest: Manifest) -> list[Example]:
    """As `asked`, but none of a data set: what a page may show that is published, whatever the licence of the data."""
    return [] if _is_data_set(manifest) else asked(manifest)


def _is_data_set(manifest: Manifest) -> bool:
    try:
        return issubclass(registry.get_task_entry(asked_config(manifest).task_name).cls, FileTask)
    except ValueError:
        return True


def asked_config(manifest: Manifest) -> EvalConfig:
    """What an evaluation asked, without how it was decoded. Raises: ValueError: the manifest does not say."""
    given = manifest.config.get("eval")
    if not isinstance(given, dict) or not isinstance(given.get("task"), dict) or "name" not in given["task"]:
        raise ValueError("its manifest does not say what was asked; evaluate the run again")
    settings = {key: value for key, value in given["task"].items() if key != "name"}
    config, errors = tree.validate("task", registry.get_task_entry(given["task"]["name"]).config, settings)
    if errors:
        raise ValueError(f"its task no longer takes these settings: {errors[0]}")
    limit = given.get("limit")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ValueError(f"its manifest names an impossible limit ({limit!r}); evaluate the run again")
    return EvalConfig(
        task_name=given["task"]["name"],
        task=config,
        split=manifest.split,
        limit=limit,
        generate=GenerateConfig(),
        seed=manifest.seed,
    )
