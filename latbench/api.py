"""The public Python names: what the command line can do, with its names, as plain functions and objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from latbench import registry
from latbench.config import ConfigError, over_file, own_data, parse, tree
from latbench.evaluation import stored
from latbench.evaluation.evaluate import evaluate_all
from latbench.evaluation.job import EvalJob
from latbench.evaluation.records import Evaluation, read_evaluation
from latbench.evaluation.target import evaluation_target
from latbench.results import Result
from latbench.runs import run as runs
from latbench.runs.run import find_run
from latbench.runs.train import import_run
from latbench.runs.train import train as train_run
from latbench.serving.settings import ServeSettings
from latbench.task import Task
from latbench.util.data_dir import use_data_dir
from latbench.util.wording import speaks_python

if TYPE_CHECKING:
    from latbench.evaluation.compare import Comparison
    from latbench.evaluation.rerun import Agreement
    from latbench.measures.inspect import Inspection
    from latbench.measures.latents import StoredTrace
    from latbench.measures.measure_files import CostFile, ParallelismFile, RelianceFile
    from latbench.method import Method
    from latbench.report.leaderboard import LeaderboardResult
    from latbench.submission import Checked
    from latbench.sweeps.dry_run import PlannedSweep
    from latbench.sweeps.running import SweepReport

__all__ = [
    "Result",
    "Run",
    "available",
    "check",
    "compare",
    "cost",
    "evaluate",
    "export",
    "get_method",
    "get_task",
    "import_release",
    "leaderboard",
    "load_run",
    "rerun",
    "serve",
    "sweep",
    "train",
]
RUNS = "runs"
Rows = list[dict[str, Any]]
FormatName = Literal["md", "csv", "latex", "html"]
ExecutorName = Literal["local", "ray"]


class Run(runs.Run):
    """A run's folder with its configuration, and what can be asked of it; its model is loaded on first use."""

    @classmethod
    def of(cls, run: runs.Run) -> Run:
        """The same run with these methods."""
        return run if isinstance(run, cls) else cls(**{field.name: getattr(run, field.name) for field in fields(run)})

    if not TYPE_CHECKING:
        generate = speaks_python(runs.Run.generate)

    @overload
    def evaluate(self, tasks: str | None = None, **how: Any) -> Result: ...

    @overload
    def evaluate(self, tasks: Sequence[str], **how: Any) -> list[Result]: ...

    def evaluate(self, tasks: str | Sequence[str] | None = None, **how: Any) -> Any:
        """See `latbench.evaluate`, whose further arguments are `how`."""
        return evaluate(self, tasks, **how)

    @speaks_python
    def trace(self, task: str | Evaluation | None = None, **asked: Any) -> StoredTrace:
        """Store each latent step of the run's answers beside its records, and read what is stored.

        Args:
            task: one, as in `latbench.evaluate`, or a result of this run, asked as it was; None: the run's own. Own
                data are asked as in the evaluation of them on file, unless `columns`, `kind` or `prompt` is given.
            asked: `columns`, `kind`, `prompt`, `split`, `limit`, `samples` and `settings`, as in `latbench.evaluate`.
        Raises: ValueError: the run takes no latent steps, or as `latbench.evaluate`.
        """
        from latbench.measures.latents import StoredTrace
        from latbench.measures.shown_latents import write_latents
        from latbench.measures.trace import trace

        found = StoredTrace.open(trace(self._job(task, **asked)))
        tokenizer = self.method.backbone.tokenizer
        write_latents(found.folder.parent, lambda token: str(tokenizer.decode([token], skip_special_tokens=False)))
        return found

    @speaks_python
    def inspect(
        self,
        question: str | None = None,
        task: str | Evaluation | None = None,
        *,
        index: int = 0,
        top: int = 5,
        **asked: Any,
    ) -> Inspection:
        """One answer with its latent steps as their top tokens; from its trace where that is stored.

        Args:
            question: any question; None: the one at `index` of the split.
            task: as in `trace`.
            index: of the question in the split, from 0.
            top: tokens per latent step.
            asked: as in `trace`.
        """
        from latbench.measures.inspect import inspect

        return inspect(self._job(task, **asked), index=index, text=question, top=top)

    @speaks_python
    def reliance(
        self, task: str | Evaluation | None = None, *, interventions: Sequence[str] | None = None, **asked: Any
    ) -> RelianceFile:
        """How far the run relies on its latent steps: the same questions again with replaced latents.

        Args:
            task: as in `trace`.
            interventions: zeros, noise, other, cut<k>; None: these with k to 8.
            asked: as in `trace`.
        """
        from latbench.measures.reliance import DEFAULT, reliance

        _, found = reliance(self._job(task, **asked), interventions or DEFAULT)
        assert found is not None, "without shards nothing is left open"
        return found

    @speaks_python
    def parallelism(
        self,
        task: str | Evaluation | None = None,
        *,
        paths_file: Path | str | None = None,
        max_paths: int = 16,
        threshold: float = 0.1,
        **asked: Any,
    ) -> ParallelismFile:
        """How much of explicit chains the run's latent steps hold, from its stored trace.

        Args:
            task: as in `trace`.
            paths_file: file that `paths` of a run of `cot` wrote; None: the paths that the task knows.
            max_paths: most paths of a question, the gold chain among them.
            threshold: probability from which a quantity counts, of known graphs.
            asked: as in `trace`.
        """
        from latbench.measures.parallelism import parallelism

        job, file = self._job(task, **asked), None if paths_file is None else Path(paths_file)
        return parallelism(job, paths_file=file, max_paths=max_paths, threshold=threshold)[1]

    @speaks_python
    def paths(self, task: str | Evaluation | None = None, **asked: Any) -> Path:
        """Sample distinct correct chains of each question from a run of `cot`.

        Args:
            task: as in `trace`.
            asked: as in `trace`; 16 samples at temperature 1 unless told otherwise.
        Returns: the file, for the `paths_file` of `parallelism`.
        Raises: ValueError: the run writes no reasoning out, or as `latbench.evaluate`.
        """
        from latbench.measures.paths import SAMPLING, sample_paths

        return sample_paths(self._job(task, usual=SAMPLING, **asked))[0]

    def _job(
        self,
        task: str | Evaluation | None = None,
        *,
        columns: Mapping[str, str] | None = None,
        kind: str | None = None,
        prompt: str | None = None,
        split: str | None = None,
        limit: int | None = None,
        samples: int | None = None,
        settings: Mapping[str, Any] | None = None,
        usual: Mapping[str, Any] | None = None,
    ) -> EvalJob:
        said = _changes(settings, samples=samples) | own_data.changes(columns, kind, prompt)
        changes = {**(usual or {}), **said}
        if isinstance(task, Evaluation):
            if stored.run_of(task.folder) is None or task.manifest.run != self.folder.resolve().name:
                raise ValueError(f"{task.folder} is no evaluation of {self.folder}; give a result of this run")
            return stored.job_in(task.folder, self, split=split, limit=limit, changes=changes)
        named = None if task is None else registry.from_file("task", task)
        return stored.job_on_file(self, named, split=split or "test", limit=limit, changes=changes)


@speaks_python
def train(
    method: str,
    *,
    task: str | None = None,
    model: str | None = None,
    preset: str | None = None,
    config: Path | str | None = None,
    columns: Mapping[str, str] | None = None,
    kind: str | None = None,
    prompt: str | None = None,
    seed: int | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str | None = None,
    runs_dir: Path | str = RUNS,
    data_dir: Path | str | None = None,
    resume: bool = False,
    trust_remote_code: bool = False,
) -> Run:
    """Train a method, by default on `synth` with the embedded tiny backbone.

    Args:
        method: a registered name, or the path of a Python file that registers one.
        task: likewise; or a data file (.jsonl, .json, .csv, .parquet), or a Hub id.
        model: a Hugging Face id or a local path.
        preset: one of `latbench list presets`, or "none".
        config: YAML file with a configuration tree, below all that is given here.
        columns: of own data: names of its columns by field.
        kind: of own data: how answers are compared.
        prompt: of own data: a template.
        seed: of weights, data order and draws; None: 0.
        settings: values by dotted key, such as `{"train.lr": 1e-4}`.
        device: auto, cpu, cuda, cuda:1 ...
        runs_dir: folder of all runs.
        data_dir: folder of data files, from now on; None: what LATBENCH_DATA_DIR names.
        resume: continue an unfinished run; a finished one is returned as it is.
        trust_remote_code: run Python files that lie beside the model; of this call alone.
    Raises: ValueError: settings are unknown or out of range (all reported), or the run exists and `resume` is off.
    """
    use_data_dir(data_dir)
    named: dict[str, Any] = {
        "method.name": registry.from_file("method", method),
        "model.id": model,
        "model.device": device,
    }
    named |= {"task.name": task and registry.from_file("task", task), "seed": seed}
    chosen = {key: value for key, value in named.items() if value is not None}
    chosen |= own_data.changes(columns, kind, prompt) | dict(settings or {})
    given = over_file(chosen, Path(config) if config is not None else None)
    run = train_run(parse(given, preset=preset), runs_dir=runs_dir, resume=resume, trust_remote_code=trust_remote_code)
    return Run.of(run)


@speaks_python
def import_release(
    source: Path | str,
    *,
    format: str | None = None,
    base: Path | str | None = None,
    revision: str | None = None,
    task: str | None = None,
    columns: Mapping[str, str] | None = None,
    kind: str | None = None,
    prompt: str | None = None,
    settings: Mapping[str, Any] | None = None,
    out: Path | str | None = None,
    runs_dir: Path | str = RUNS,
) -> Run:
    """Make a run of a released checkpoint; what is imported already is returned as it is.

    Args:
        source: a folder, a file or a Hugging Face id.
        revision: a commit of the latter, None: the newest.
        format: name of an importer; None: the one that recognises the source.
        base: the base model, folder or id, where the release has adapters alone; None: the one it names.
        task: the run's own, as in `train`; None: gsm8k.
        columns: of own data: names of its columns by field.
        kind: of own data: how answers are compared.
        prompt: of own data: a template.
        settings: values by dotted key, in place of what the importer says.
        out: folder of the run; None: its name in `runs_dir`.
        runs_dir: folder of all runs.
    Raises: ValueError: not at hand, of no known format, not whole, something is missing that only the user can say, or
        the folder holds another run.
    """
    from latbench.runs.importing import plan_import

    below = None if base is None else str(base)
    said = dict(settings or {}) | own_data.changes(columns, kind, prompt)
    if task is not None:
        said["task.name"] = registry.from_file("task", task)
    plan = plan_import(str(source), format=format, base=below, revision=revision, settings=said)
    return Run.of(import_run(plan.config, runs_dir=runs_dir, folder=None if out is None else Path(out)))


@overload
def evaluate(run: runs.Run | Path | str | None = None, tasks: str | None = None, **how: Any) -> Result: ...


@overload
def evaluate(run: runs.Run | Path | str | None, tasks: Sequence[str], **how: Any) -> list[Result]: ...


@overload
def evaluate(run: runs.Run | Path | str | None = None, *, tasks: Sequence[str], **how: Any) -> list[Result]: ...


@speaks_python  # type: ignore[misc]  # `how` of the signatures above stands for the keywords here
def evaluate(
    run: runs.Run | Path | str | None = None,
    tasks: str | Sequence[str] | None = None,
    *,
    model: str | None = None,
    method: str | None = None,
    preset: str | None = None,
    columns: Mapping[str, str] | None = None,
    kind: str | None = None,
    prompt: str | None = None,
    split: str = "test",
    limit: int | None = None,
    samples: int | None = None,
    seed: int | None = None,
    settings: Mapping[str, Any] | None = None,
    shards: int | None = None,
    jobs: int | None = None,
    executor: ExecutorName = "local",
    address: str | None = None,
    gpus_per_job: float | None = None,
    cpus_per_job: float | None = None,
    device: str | None = None,
    runs_dir: Path | str = RUNS,
    data_dir: Path | str | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """Evaluate a run, or a method over a model as it comes; what is complete is read, what is begun is continued.

    Args:
        run: a run, its folder, or its name in `runs_dir`; None: the latest trained one, unless `model` is given.
        tasks: one task or several: registered names, data files, Hub ids, Python files; None: the run's own.
        model: a Hugging Face id or path, in place of a run.
        method: the method over that model.
        preset: of the method over a model as it comes.
        columns: of own data: names of its columns by field.
        kind: of own data: how answers are compared.
        prompt: of own data: a template.
        split: of the tasks.
        limit: the first so many questions of each task.
        samples: answers per question.
        seed: of the draws.
        settings: values by dotted key: `generate.*`, `task.*`.
        shards: parts that each evaluation is divided into, each answered by a job; None: this process answers.
        jobs: processes at once on this machine; None: one per GPU, or one.
        executor: `local` is this machine, `ray` a Ray cluster.
        address: HOST:PORT of the head of the Ray cluster; None: the one that this machine is in, else a new one.
        gpus_per_job: on Ray; None: one where there are any.
        cpus_per_job: on Ray; None: one.
        device: where the model is put.
        runs_dir: folder of all runs.
        data_dir: folder of data files, from now on; None: what LATBENCH_DATA_DIR names.
        trust_remote_code: run Python files that lie beside the model; of this call alone.
    Returns: the result of one task, or a list with that of each of several.
    Raises: ValueError: no such run or task, or a setting that training has fixed. RuntimeError: the job of a shard has
        failed; the others are kept.
    """
    from latbench.sweeps.places import Place, check_jobs
    from latbench.sweeps.sharded import eval_command, evaluate_in_shards, target_options

    use_data_dir(data_dir)
    place = Place(executor=executor, jobs=jobs, address=address, gpus_per_job=gpus_per_job, cpus_per_job=cpus_per_job)
    check_jobs(shards, place)
    given = _changes(settings, samples=samples, seed=seed) | own_data.changes(columns, kind, prompt)
    target, changes = _target(
        run,
        model,
        method,
        given,
        preset=preset,
        device=device,
        runs_dir=Path(runs_dir),
        trust_remote_code=trust_remote_code,
    )
    asked = [tasks] if isinstance(tasks, str) else list(tasks or [])
    named = [registry.from_file("task", name) for name in asked] or [target.config.task_name]
    evaluations = [EvalJob.of(target, name, split=split, limit=limit, changes=changes) for name in named]
    if shards is None:
        evaluate_all(evaluations)
    else:
        put_on = target.device if device is None else device
        options = {"model": model, "method": method, "preset": preset, "device": put_on}
        who = target_options(target, **options, trust_remote_code=trust_remote_code or target.trust_remote_code)
        command = eval_command(who, asked, split=split, limit=limit, changes=given)
        runs_on = place.open([target.config], evaluations)
        for result in evaluate_in_shards(evaluations, command, shards, runs_on, lambda result: None):
            raise RuntimeError(f"{result.job.name} has failed: {result.last_line} (log: {result.job.log})")
    results = [Result.read(evaluation.folder) for evaluation in evaluations]
    return results[0] if tasks is None or isinstance(tasks, str) else results


@speaks_python
def load_run(
    run: Path | str | None = None,
    *,
    runs_dir: Path | str = RUNS,
    device: str | None = None,
    device_map: str | None = None,
    data_dir: Path | str | None = None,
    trust_remote_code: bool = False,
) -> Run:
    """A run that is on disk; its model is loaded on first use.

    Args:
        run: folder, or name in `runs_dir`; None: the latest trained one.
        runs_dir: folder of all runs.
        device: where its model is put; None: where its configuration says.
        device_map: spread its model over several devices instead, see `model.device_map`.
        data_dir: folder of data files, from now on; None: what LATBENCH_DATA_DIR names.
        trust_remote_code: run Python files that lie beside its model.
    Raises: ValueError: there is none.
    """
    use_data_dir(data_dir)
    folder = find_run(None if run is None else str(run), Path(runs_dir))
    return Run.of(runs.load_run(folder, device=device, device_map=device_map, trust_remote_code=trust_remote_code))


@speaks_python
def compare(a: Evaluation | Path | str, b: Evaluation | Path | str, *, runs_dir: Path | str = RUNS) -> Comparison:
    """Paired test of two evaluations on the same questions, and the questions on which they differ.

    Args:
        a: a result, a folder of an evaluation or of a run with one, or the name of such a run in `runs_dir`.
        b: likewise.
        runs_dir: folder of all runs.
    Raises: ValueError: no or several evaluations there, incomplete ones, or other questions.
    """
    from latbench.evaluation import compare as comparison
    from latbench.report.leaderboard import evaluation_in

    def read(given: Evaluation | Path | str) -> Evaluation:
        if isinstance(given, Evaluation):
            return given
        return read_evaluation(evaluation_in(find_run(str(given), Path(runs_dir))))

    return comparison.compare(read(a), read(b))


@speaks_python
def leaderboard(
    folders: Path | str | Sequence[Path | str] = RUNS,
    formats: FormatName | Sequence[FormatName] = ("md",),
    out: Path | str | None = None,
    *,
    only: str | None = None,
    plot: Path | str | None = None,
    reported: bool = False,
    all_records: bool = False,
    no_data: bool = False,
) -> LeaderboardResult:
    """Tables of all evaluations under the folders, from records alone.

    Args:
        folders: are searched for evaluations, at any depth.
        formats: md, csv, latex, html; one or several.
        out: folder to write `leaderboard.<ending>` to; None: nothing is written.
        only: regular expression: rows whose "<task> <method> <variant>" it fits.
        plot: file to draw accuracy against chain length to, .png or .svg; None: no picture.
        reported: with the numbers that papers report, as such.
        all_records: every record, in files beside the page.
        no_data: without questions of data sets on the page, as for one to publish.
    Returns: `text_by_format`, `rows`, `to_pandas()`, `notices` on what was left out, and the `paths` written.
    Raises: ValueError: unknown format, missing folder, no evaluation, or none that `only` fits.
    """
    from latbench.evaluation.asked import asked, asked_of_generated
    from latbench.report import leaderboard as report
    from latbench.report import picture

    if plot is not None:
        picture.refuse_format(Path(plot))
    where, read = Path(out) if out is not None else None, asked_of_generated if no_data else asked
    names = [formats] if isinstance(formats, str) else formats
    board = report.leaderboard(
        _paths(folders), names, where, only=only, reported=reported, all_records=all_records, asked=read
    )
    if plot is not None:
        picture.plot(board.cells, Path(plot))
    return board


@speaks_python
def check(folders: Path | str | Sequence[Path | str] = RUNS, *, workers: int = 1) -> Checked:
    """Whether everything in a submission recomputes, as `latbench leaderboard --check --again` finds out.

    Args:
        folders: are searched for evaluations, at any depth.
        workers: processes at once.
    Returns: `problems`, `caveats` and the number of evaluations looked at.
    Raises: ValueError: a folder does not exist, or holds no evaluation.
    """
    from latbench import submission

    return submission.check(_paths(folders), workers=workers)


@overload
def sweep(sweep: Path | str | Mapping[str, Any], *, dry_run: Literal[False] = False, **how: Any) -> SweepReport: ...


@overload
def sweep(sweep: Path | str | Mapping[str, Any], *, dry_run: Literal[True], **how: Any) -> PlannedSweep: ...


@speaks_python  # type: ignore[misc]  # `how` of the signatures above stands for the keywords here
def sweep(
    sweep: Path | str | Mapping[str, Any],
    *,
    resume: bool = False,
    limit: int | None = None,
    dry_run: bool = False,
    shards: int | None = None,
    jobs: int | None = None,
    executor: ExecutorName = "local",
    address: str | None = None,
    gpus_per_job: float | None = None,
    cpus_per_job: float | None = None,
    runs_dir: Path | str = RUNS,
    data_dir: Path | str | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """Train and evaluate a grid of runs; what is complete is skipped, a failed run stops no other.

    Args:
        sweep: YAML file, or its content: methods, tasks, seeds, settings, base ...
        resume: continue what is unfinished.
        limit: the first so many questions of each evaluation, in place of what the sweep says.
        dry_run: do nothing, and return what would be trained and evaluated, and what it costs.
        shards: parts that each evaluation is divided into, each answered by a job; None: one job for a whole run.
        jobs: processes at once on this machine; None: one per GPU, or one.
        executor: `local` is this machine, `ray` a Ray cluster.
        address: HOST:PORT of the head of the Ray cluster; None: the one that this machine is in, else a new one.
        gpus_per_job: on Ray; None: one where there are any.
        cpus_per_job: on Ray; None: one.
        runs_dir: folder of all runs.
        data_dir: folder of data files, from now on; None: what LATBENCH_DATA_DIR names.
        trust_remote_code: run Python files that lie beside the models.
    Returns: the runs that were complete before, and the results of the others with those that failed; of a dry run
        runs, passes, operations, evaluations and answers.
    Raises: ValueError: invalid configurations, data that are not at hand, unfinished runs while `resume` is off, or a
        cluster that is not there or cannot run the jobs.
    """
    from latbench.sweeps.dry_run import plan_sweep
    from latbench.sweeps.places import Place, check_shards
    from latbench.sweeps.running import run_sweep
    from latbench.sweeps.sweep import members, read_sweep, sweep_of, with_limit

    use_data_dir(data_dir)
    place = Place(executor=executor, jobs=jobs, address=address, gpus_per_job=gpus_per_job, cpus_per_job=cpus_per_job)
    content = with_limit(sweep_of(sweep) if isinstance(sweep, Mapping) else read_sweep(Path(sweep)), limit)
    check_shards(shards)
    if dry_run:
        return plan_sweep(content, runs_dir=Path(runs_dir), trust_remote_code=trust_remote_code)
    return run_sweep(
        content,
        place.for_sweep(content, members(content, Path(runs_dir))),
        runs_dir=Path(runs_dir),
        resume=resume,
        on_end=lambda result: None,
        shards=shards or 1,
        trust_remote_code=trust_remote_code,
    )


@speaks_python
def rerun(
    result: Evaluation | Path | str,
    *,
    runs_dir: Path | str = RUNS,
    data_dir: Path | str | None = None,
    trust_remote_code: bool = False,
) -> Agreement:
    """Repeat a result from its manifest, and say how far the repetition agrees with it.

    Args:
        result: a result, or the folder with its manifest and records.
        runs_dir: the repetition goes into a hidden folder in it.
        data_dir: folder of data files, from now on; None: what LATBENCH_DATA_DIR names.
        trust_remote_code: run Python files that lie beside the model.
    Raises: ValueError: no complete result, or its questions or its model are not at hand.
    """
    from latbench.evaluation.rerun import rerun as repeat

    use_data_dir(data_dir)
    folder = result.folder if isinstance(result, Evaluation) else Path(result)
    return repeat(folder, runs_dir=Path(runs_dir), trust_remote_code=trust_remote_code)


@speaks_python
def cost(
    given: runs.Run | Evaluation | Path | str | Sequence[runs.Run | Evaluation | Path | str],
    task: str | None = None,
    *,
    rounds: int = 5,
    runs_dir: Path | str = RUNS,
    **asked: Any,
) -> list[CostFile]:
    """What an answer costs: operations, and time at batch 1 and full batch, runs taking turns.

    Args:
        given: runs, their folders or names, or results of runs, asked as these were, one or several; the first is the
            reference.
        task: as in `evaluate`; None: each run's own.
        rounds: of turns; medians count.
        runs_dir: folder of all runs.
        asked: as in `Run.trace`.
    """
    from latbench.measures.answer_cost import cost as measure

    each = [given] if isinstance(given, runs.Run | Evaluation | Path | str) else given
    if task is not None and any(isinstance(one, Evaluation) for one in each):
        raise ValueError(
            f"a result says itself what it asked, got task {task!r} beside one; leave task out, or give the run"
        )

    def job(one: runs.Run | Evaluation | Path | str) -> EvalJob:
        if isinstance(one, Evaluation):
            return load_run(stored.run_of(one.folder) or one.folder)._job(one, **asked)
        run = Run.of(one) if isinstance(one, runs.Run) else load_run(one, runs_dir=runs_dir)
        return run._job(task, **asked)

    return [found for _, found in measure([job(one) for one in each], rounds=rounds)]


@speaks_python
def export(
    run: runs.Run | Path | str,
    target: Path | str,
    *,
    license: str | None = None,
    private: bool = False,
    runs_dir: Path | str = RUNS,
) -> str:
    """Write a run as a plain Hugging Face model with a model card, which `load_run` takes.

    Args:
        run: a trained run, its folder, or its name in `runs_dir`.
        target: a folder that does not exist yet, or `hub:OWNER/NAME`.
        license: of the weights, as the Hub names it; None: the base model's.
        private: make the repository a private one.
        runs_dir: folder of all runs.
    Returns: the folder, or the address of the repository.
    Raises: ValueError: nothing was trained, the checkpoint is damaged, or the target is taken.
    """
    from latbench.exporting import export as write

    named = run if isinstance(run, runs.Run) else load_run(run, runs_dir=runs_dir)
    return write(named, str(target), licence=license, private=private)


@speaks_python
def serve(
    run: runs.Run | Path | str | None = None,
    *,
    model: str | None = None,
    method: str | None = None,
    preset: str | None = None,
    host: str = ServeSettings.host,
    port: int = ServeSettings.port,
    api_key: str | None = None,
    max_queue: int = ServeSettings.max_queue,
    max_tokens: int = ServeSettings.max_tokens,
    name: str | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str | None = None,
    runs_dir: Path | str = RUNS,
    data_dir: Path | str | None = None,
    trust_remote_code: bool = False,
    on_start: Callable[[str], None] = print,
) -> None:
    """Serve a run, or a method over a model as it comes, to any OpenAI client, until Ctrl-C or SIGTERM.

    Args:
        run: a run, its folder, or its name in `runs_dir`; None: the latest trained one, unless `model` is given.
        model: a Hugging Face id or path, in place of a run.
        method: the method over that model.
        preset: of the method over a model as it comes.
        host: address to listen at; the default is reached from this machine alone.
        port: of it; 0: any that is free.
        api_key: that clients must send; None: none.
        max_queue: answers that may wait beside those in the batch.
        max_tokens: most tokens that a request may ask for.
        name: of the model for clients; None: the run's.
        settings: values by dotted key, `generate.*` and `seed`: what requests leave open.
        device: where the model is put.
        runs_dir: folder of all runs.
        data_dir: folder of data files, from now on; None: what LATBENCH_DATA_DIR names.
        trust_remote_code: run Python files that lie beside the model.
        on_start: is told the address once requests are taken.
    Raises: ValueError: no such run, a setting that training has fixed, or the address is taken. ModuleNotFoundError:
        starlette or uvicorn is not installed.
    """
    from latbench.serving.server import serve as serve_run

    use_data_dir(data_dir)
    target, changes = _target(
        run,
        model,
        method,
        dict(settings or {}),
        preset=preset,
        device=device,
        runs_dir=Path(runs_dir),
        trust_remote_code=trust_remote_code,
    )
    how = ServeSettings(host=host, port=port, api_key=api_key, max_queue=max_queue, max_tokens=max_tokens, name=name)
    serve_run(target, how, changes=changes, on_start=on_start)


@speaks_python
def available(what: str, *, runs_dir: Path | str = RUNS, method: str | None = None, task: str | None = None) -> Rows:
    """What is at hand, a mapping for each: what `latbench list` shows.

    Args:
        what: methods, tasks, presets, runs or keys.
        runs_dir: folder of all runs.
        method: of keys: those that this method reads too.
        task: of keys: those that this task reads too.
    Raises: ValueError: there is no such list, method or task.
    """
    from latbench import listing

    if what == listing.KEYS:
        return [asdict(key) for key in listing.keys(method, task)]
    if method is not None or task is not None:
        raise ValueError(f"method and task belong to the keys, not to {what!r}")
    return listing.rows(what, Path(runs_dir))


def get_method(name: str) -> type[Method[Any]]:
    """The registered method's class. Raises: ValueError: unknown, with the nearest name."""
    return registry.get_method(name).cls


@speaks_python
def get_task(name: str, **settings: Any) -> Task[Any]:
    """A task, ready to load and score.

    Args:
        name: a registered name, a data file, a Hub id, or a Python file that registers a task.
        settings: `task.*`.
    Raises: ValueError: unknown name, no such file, or settings unknown or out of range.
    """
    section = own_data.with_own_data({"name": registry.from_file("task", name), **settings})
    entry = registry.get_task_entry(str(section.pop("name")))
    config, errors = tree.validate("task", entry.config, section)
    if errors:
        raise ConfigError(errors)
    task: Task[Any] = entry.cls(config)
    return task


def _target(
    run: runs.Run | Path | str | None, model: str | None, method: str | None, changes: Mapping[str, Any], **how: Any
) -> tuple[runs.Run, dict[str, Any]]:
    """Who answers, and the changes of the evaluation itself, as `evaluation_target`.

    A run that is given stays as it is loaded, unless it is to be put elsewhere.
    """
    if not isinstance(run, runs.Run):
        return evaluation_target(None if run is None else str(run), model, method, changes, **how)
    if model is not None or method is not None:
        raise ValueError("run is a trained run, and model with method an untrained one; give one of the two")
    if how["preset"] is not None:
        raise ValueError("preset belongs to an evaluation with model and method; a run has its own")
    changes = dict(changes)
    put: dict[str, Any] = {"trust_remote_code": run.trust_remote_code or how["trust_remote_code"]}
    device_map = changes.pop("model.device_map", None)  # where a run's model is put is not fixed by its training
    if how["device"] is not None or device_map is not None:
        put |= {"device": how["device"], "device_map": device_map}
    is_as_loaded = all(getattr(run, name) == value for name, value in put.items())
    return run if is_as_loaded else replace(run, **put), changes


def _changes(settings: Mapping[str, Any] | None, **named: Any) -> dict[str, Any]:
    """Settings of an evaluation by dotted key, with those that have an argument of their own."""
    keys = {"samples": "generate.samples", "seed": "seed"}
    return dict(settings or {}) | {keys[name]: value for name, value in named.items() if value is not None}


def _paths(folders: Path | str | Sequence[Path | str]) -> list[Path]:
    return [Path(folders)] if isinstance(folders, Path | str) else list(map(Path, folders))
