"""One evaluation to be made, or made: a run and what is asked of it, with all that follows from the two."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any

from latbench import registry
from latbench.config import RunConfig, stable_hash, tree
from latbench.config.identity import SAID_ELSEWHERE, untrained_data
from latbench.evaluation.manifest import questions_hash
from latbench.evaluation.metrics import problem
from latbench.evaluation.plan import EvalConfig, plan, questions, task_identity, usual_plan
from latbench.evaluation.provenance import Provenance, refuse_others
from latbench.evaluation.records import Evaluation, Manifest, evaluations_in, read_evaluation
from latbench.runs import environment
from latbench.runs.run import EVAL, Run
from latbench.runs.train_questions import num_shared, question_keys, read_train_questions, run_of_model
from latbench.task import Example, Fingerprint, Task


@dataclass(frozen=True)
class EvalJob:
    """A run on questions. Data and manifest are made on first use and kept."""

    run: Run
    """Who answers."""
    settings: EvalConfig
    """What is asked, and how it is decoded and scored."""
    read: Callable[[EvalConfig], tuple[Task[Any], list[Example]]] = questions
    """How the questions are read; for a caller that has many jobs on the same ones."""

    @classmethod
    def of(
        cls,
        run: Run,
        task: str | None = None,
        *,
        split: str = "test",
        limit: int | None = None,
        changes: Mapping[str, Any] | None = None,
    ) -> EvalJob:
        """The evaluation of a run on a task, see `plan`.

        Args:
            run: who answers.
            task: name of the task; None: the one that the run was trained on.
            split: of the task.
            limit: the first so many questions; None: all.
            changes: values by dotted key that replace the run's own `generate.*`, `task.*` and `seed`.
        Raises: ValueError: unknown task, an override of something that training has fixed, or values out of range.
        """
        name = task or run.config.task_name
        return cls(run, plan(run.config, name, split=split, limit=limit, changes=changes))

    @property
    def task(self) -> Task[Any]:
        """The task, as it is set up. Raises: ValueError: unknown split, or the data are not at hand."""
        return self._questions[0]

    @property
    def examples(self) -> Sequence[Example]:
        """The questions, as they are asked. Raises: ValueError: unknown split, or the data are not at hand."""
        return self._questions[1]

    @property
    def rows(self) -> Sequence[Example]:
        """The questions, as they stand in the data. Raises: ValueError: unknown split, or the data are not at hand."""
        return self.task.load(self.settings.split)[: self.settings.limit]

    @cached_property
    def _questions(self) -> tuple[Task[Any], list[Example]]:
        return self.read(self.settings)

    @cached_property
    def folder(self) -> Path:
        """`<run>/eval/<task>-<split>`, with the limit and a hash of whatever differs from the run's own settings."""
        own, usual = self.settings, usual_plan(self.run.config, self.settings.task_name)
        parts = [own.task_name, own.split]
        if own.limit is not None:
            parts.append(f"first{own.limit}")
        if own.identity != usual.identity:
            parts.append(stable_hash(own.identity))
        return self.run.folder / EVAL / "-".join(parts)

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest that the evaluation would get today, before its first answer.

        Raises: ValueError: the run is unfinished, unknown split, or the data are not at hand.
        """
        return _manifest(self)

    @property
    def provenance(self) -> Provenance:
        """What a file about the answers of this evaluation belongs to. Raises: ValueError: as `manifest`."""
        return Provenance.of(self.manifest)

    def answered(self) -> Evaluation:
        """The complete evaluation on these very questions that is on file.

        Raises: ValueError: there is none, it cannot be counted, or it is of another run, setting or other questions.
        """
        try:
            evaluation = read_evaluation(self.folder)
        except ValueError as error:
            others = [str(folder) for folder in evaluations_in(self.folder.parent) if folder != self.folder]
            way_out = f", or name one of its evaluations as RUN: {', '.join(others)}" if others else ""
            raise ValueError(f"{error}; evaluate the run first with `latbench eval`{way_out}") from None
        if reason := problem(evaluation):
            raise ValueError(f"{self.folder}: {reason}")
        known = Provenance.of(evaluation.manifest)
        what, way_out = f"{self.folder} holds answers", "evaluate the run again"
        refuse_others(what, known.answers, self.provenance.answers, way_out)
        return evaluation


def _manifest(job: EvalJob) -> Manifest:
    """Identity, configuration, data, environment, and costs of training."""
    settings, run = job.settings, job.run
    config, report = replace(run.config, generate=settings.generate), run.report
    scoring = {"name": settings.task_name, **asdict(settings.task)}
    variant, setting = _cell(settings, config, usual_plan(run.config, settings.task_name))
    commit, dirty = environment.git_state()
    model = None if report.get("trained", True) else dict(report.get("model") or {}) or None
    return Manifest(
        task=settings.task_name,
        split=settings.split,
        method=config.method_name,
        variant=variant,
        setting=setting,
        backbone=config.backbone,
        layout=config.model.layout,
        train_data=str(report["train_data"]) if model is None else untrained_data(model),
        run=run.folder.name,
        seed=config.seed,
        n=len(job.examples) * settings.generate.samples,
        complete=False,
        command=environment.command_line(),
        config=config.to_tree()
        | {"eval": {"task": scoring, "split": settings.split, "limit": settings.limit, "seed": settings.seed}},
        questions_sha256=questions_hash(job.examples),
        data={
            **{name: Fingerprint(**row) for name, row in report.get("data", {}).items()},
            f"{settings.task_name}/{settings.split}": job.task.fingerprint(settings.split),
        },
        versions=environment.versions(),
        git_commit=commit,
        git_dirty=dirty,
        hardware=environment.hardware(),
        train=dict(report.get("costs", {})),
        diagnostics={k: v for k, v in report.get("diagnostics", {}).items() if type(v) is float and isfinite(v)},
        created=environment.now(),
        contaminated=_contaminated(job),
        model=model,
        code=registry.own_code(config.method_name, settings.task_name) or None,
    )


def _contaminated(job: EvalJob) -> int | None:
    """`Manifest.contaminated`."""
    untrained = not job.run.report.get("trained", True)
    known = run_of_model(job.run.config) if untrained else job.run.folder
    trained = None if known is None else read_train_questions(known)
    return None if trained is None else num_shared(trained, question_keys(job.rows))


def _cell(settings: EvalConfig, config: RunConfig, usual: EvalConfig) -> tuple[str, str]:
    """Variant and setting of the cell that the evaluation belongs to.

    Args:
        config: of the run, with the decoding of this evaluation.
        usual: what the run's own settings would ask.
    """
    variant, setting = [config.variant], config.setting
    base, own = task_identity(usual.task), task_identity(settings.task)
    if own != base:
        changed = {f"task.{key}": value for key, value in own.items() if base[key] != value}
        variant += [f"{key}={tree.show(value)}" for key, value in changed.items() if key not in SAID_ELSEWHERE]
        setting = stable_hash([setting, {"name": settings.task_name, **own}])
    if settings.seed != config.seed:  # other draws of the same trained model are no further seed of the method
        variant.append(f"eval.seed={settings.seed}")
        setting = stable_hash([setting, settings.seed])
    return " ".join(filter(None, variant)), setting
