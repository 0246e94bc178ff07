"""Repeat a result from its manifest, and say how far the repetition agrees with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from latbench import registry
from latbench.config import stable_hash
from latbench.evaluation.evaluate import evaluate
from latbench.evaluation.job import EvalJob
from latbench.evaluation.manifest import questions_hash
from latbench.evaluation.metrics import summarise
from latbench.evaluation.plan import questions
from latbench.evaluation.records import Evaluation, Manifest, evaluations_in, read_evaluation
from latbench.evaluation.statistics import Interval
from latbench.evaluation.stored import settings_of
from latbench.runs import environment
from latbench.runs.run import EVAL
from latbench.runs.train import base_run, train

RERUNS = ".rerun"  # within the folder of runs; hidden, so that no leaderboard counts a repetition as another seed


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """A result and its repetition.

    Args:
        folder: of the repetition.
        n: answers compared.
        num_identical: records equal in every field.
        accuracy_before: pass@1 of the result, with its interval over questions (`metrics.Summary`).
        accuracy_now: pass@1 of the repetition.
        length_before: mean #L of the result, with its interval; None where nothing was decoded.
        length_now: mean #L of the repetition.
        differences: what else is not the same: data, versions, code.
    """

    folder: Path
    n: int
    num_identical: int
    accuracy_before: Interval
    accuracy_now: Interval
    length_before: Interval | None
    length_now: Interval | None
    differences: tuple[str, ...]

    @property
    def reproduced(self) -> bool:
        """Whether the accuracy lies within the interval of the result, and the intervals of #L meet.

        Other hardware rounds differently, so that records need not be identical.
        """
        low, high = self.accuracy_before.low, self.accuracy_before.high
        return low <= self.accuracy_now.value <= high and _meet(self.length_before, self.length_now)


def rerun(result: Path, *, runs_dir: Path, trust_remote_code: bool = False) -> Agreement:
    """Train and evaluate as the manifest in `result` says, under `<runs_dir>/.rerun`, and compare the records.

    Args:
        trust_remote_code: run Python files that lie beside the model that the manifest names.
    Raises: ValueError: no complete result there, its configuration no longer fits this version, its questions are not
        at hand, or the model is not the one that answered.
    """
    if evaluations := evaluations_in(result / EVAL):
        raise ValueError(f"{result} is a run; name one of its evaluations: {', '.join(map(str, evaluations))}")
    before = read_evaluation(result)
    manifest = before.manifest
    if not manifest.complete or len(before.records) != manifest.n:
        raise ValueError(
            f"{result} is incomplete ({len(before.records)} of {manifest.n} records); rerun a whole result"
        )
    config, settings = settings_of(manifest)
    if questions_hash(questions(settings)[1]) != manifest.questions_sha256:  # before anything is trained
        raise ValueError(
            f"{result} answers other questions than {settings.task_name}/{settings.split} holds now; "
            "fetch the data that its manifest names"
        )
    where = _folder(runs_dir, registry.own_code(config.method_name, settings.task_name))
    run = (
        base_run(config, runs_dir=where, trust_remote_code=trust_remote_code)
        if manifest.is_untrained
        else train(config, runs_dir=where, resume=True, trust_remote_code=trust_remote_code)
    )
    if manifest.model and (changed := _changed_files(manifest.model, run.report.get("model", {}))):
        raise ValueError(
            f"{result} was answered by other files of the model {config.model.id} ({', '.join(changed[:3])}); fetch "
            "those whose hashes its manifest names"
        )
    return _agreement(before, read_evaluation(evaluate(EvalJob(run, settings))))


def _changed_files(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    return [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)]


def _folder(runs_dir: Path, own_code: Mapping[str, str]) -> Path:
    """Where this code repeats results: an earlier repetition by other code proves nothing, nor one by changed files."""
    commit, dirty = environment.git_state()
    where = runs_dir / RERUNS
    if dirty or commit is None:
        return where / f"changed-{uuid4().hex[:8]}"
    return where / stable_hash([commit, environment.versions(), own_code])


def _agreement(before: Evaluation, now: Evaluation) -> Agreement:
    there = {(record.id, record.sample): record for record in now.records}
    summary, summary_now = summarise(before), summarise(now)
    return Agreement(
        folder=now.folder,
        n=len(before.records),
        num_identical=sum(there.get((record.id, record.sample)) == record for record in before.records),
        accuracy_before=summary.accuracy,
        accuracy_now=summary_now.accuracy,
        length_before=summary.chain_length,
        length_now=summary_now.chain_length,
        differences=_differences(before.manifest, now.manifest),
    )


def _meet(one: Interval | None, other: Interval | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.low <= other.high and other.low <= one.high


def _differences(before: Manifest, now: Manifest) -> tuple[str, ...]:
    data = [f"data {name}" for name, found in before.data.items() if now.data.get(name) != found]
    versions = [
        f"{name} {version} there, {now.versions.get(name, 'absent')} here"
        for name, version in before.versions.items()
        if now.versions.get(name) != version
    ]
    commits = [] if before.git_commit == now.git_commit else ["latbench's commit"]
    files = [] if before.code == now.code else ["Python files of the method or the task"]
    return (*data, *versions, *commits, *files)
