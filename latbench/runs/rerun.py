"""Repeat a result from its manifest, and say how far the repetition agrees with it."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from latbench.config import RunConfig, stable_hash
from latbench.report.statistics import Interval, wilson_interval
from latbench.runs import environment
from latbench.runs.evaluate import evaluate
from latbench.runs.plan import plan
from latbench.runs.records import Evaluation, Manifest, read_evaluation
from latbench.runs.train import base_run, train

RERUNS = ".rerun"  # within the folder of runs; hidden, so that no leaderboard counts a repetition as another seed


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """A result and its repetition.

    Args:
        folder: of the repetition; n: answers compared; same_questions: both were asked the same.
        num_identical: records equal in every field.
        accuracy_before, accuracy_now: shares of correct answers; interval: Wilson's, of the former.
        differences: what else is not the same: data, versions.
    """

    folder: Path
    n: int
    same_questions: bool
    num_identical: int
    accuracy_before: float
    accuracy_now: float
    interval: Interval
    differences: tuple[str, ...]

    @property
    def reproduced(self) -> bool:
        """Whether the same questions were asked and the accuracy lies within the interval of the result; other hardware
        rounds differently."""
        return self.same_questions and self.interval.low <= self.accuracy_now <= self.interval.high


def rerun(result: Path, *, runs_dir: Path) -> Agreement:
    """Train and evaluate as the manifest in `result` says, under `<runs_dir>/.rerun`, and compare the records.

    Raises: ValueError: no complete result there, or its configuration no longer fits this version.
    """
    before = read_evaluation(result)
    manifest = before.manifest
    if not manifest.complete or len(before.records) != manifest.n:
        raise ValueError(
            f"{result} is incomplete ({len(before.records)} of {manifest.n} records); rerun a whole result"
        )
    asked = manifest.config.get("eval")
    if not isinstance(asked, dict):
        raise ValueError(f"the manifest in {result} does not say what was evaluated; evaluate the run again")
    config = RunConfig.from_tree({key: value for key, value in manifest.config.items() if key != "eval"})
    where = _folder(runs_dir)
    start = (
        base_run(config, runs_dir=where)
        if manifest.train_data == "none"
        else train(config, runs_dir=where, resume=True)
    )
    changes = {f"task.{key}": value for key, value in asked["task"].items() if key != "name"}
    changes |= {f"generate.{key}": value for key, value in asdict(config.generate).items()}
    wanted = plan(
        start.config,
        asked["task"]["name"],
        split=asked["split"],
        limit=asked["limit"],
        changes={"seed": asked["seed"], **changes},
    )
    return _agreement(before, read_evaluation(evaluate(start, wanted)))


def _folder(runs_dir: Path) -> Path:
    """Where this code repeats results: an earlier repetition by other code proves nothing, nor one by changed files."""
    commit, dirty = environment.git_state()
    where = runs_dir / RERUNS
    if dirty or commit is None:
        where.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="changed-", dir=where))
    return where / stable_hash([commit, environment.versions()])


def _agreement(before: Evaluation, now: Evaluation) -> Agreement:
    there = {(record.id, record.sample): record for record in now.records}
    n = len(before.records)
    correct = sum(record.status == "correct" for record in before.records)
    return Agreement(
        folder=now.folder,
        n=n,
        same_questions=before.manifest.questions_sha256 == now.manifest.questions_sha256,
        num_identical=sum(there.get((record.id, record.sample)) == record for record in before.records),
        accuracy_before=correct / n,
        accuracy_now=sum(record.status == "correct" for record in now.records) / len(now.records),
        interval=wilson_interval(correct, n),
        differences=_differences(before.manifest, now.manifest),
    )


def _differences(before: Manifest, now: Manifest) -> tuple[str, ...]:
    data = [f"data {name}" for name, found in before.data.items() if now.data.get(name) != found]
    versions = [
        f"{name} {version} there, {now.versions.get(name, 'absent')} here"
        for name, version in before.versions.items()
        if now.versions.get(name) != version
    ]
    commits = [] if before.git_commit == now.git_commit else ["latbench's commit"]
    return (*data, *versions, *commits)
