"""Validate a submission: what stands in its files must follow from its records, its configuration and the task's data.

Besides what every table asks (`metrics.problem`), an evaluation is refused where one of these does not recompute: the
run's id and the identity of its cell from the configuration, the questions asked from the task's data, the verdict on
every answer from its text, and the leaderboard files beside it. What it takes a model to know is not checked here:
`latbench rerun RESULT --check` trains and answers again. Identities need the methods' configurations, hence torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from latbench.config import GenerateConfig, RunConfig
from latbench.report.browse import asked_config
from latbench.report.leaderboard import FORMATS, LeaderboardResult, find_evaluations, leaderboard
from latbench.report.measures import read_measures
from latbench.report.metrics import problem
from latbench.report.page import RECORD_FILES
from latbench.report.reported import TITLE
from latbench.runs.evaluate import questions
from latbench.runs.manifest import new_manifest
from latbench.runs.plan import EvalConfig
from latbench.runs.records import RECORDS, Evaluation, Manifest, Record, read_evaluation
from latbench.runs.run import Run
from latbench.task import Example, Task

MAX_BYTES = 150_000  # of a run's gzipped records
# not `variant`: it names what differs from the preset, which later versions may change
_RECOMPUTED = ("run", "task", "method", "setting", "layout", "seed", "n", "questions_sha256")


def check(folders: Sequence[Path]) -> tuple[list[str], int]:
    """Why a submission is refused, one sentence each, and the number of evaluations looked at.

    Raises: ValueError: a folder does not exist, or there is no evaluation in any.
    """
    found = list(find_evaluations(folders))
    problems = [sentence for folder in found for sentence in check_evaluation(folder)]
    for folder in folders:
        problems += check_tables(folder)
    if not problems:  # what one evaluation alone does not show, such as another run of one setting and seed
        problems += leaderboard(folders, ()).notices
    return problems, len(found)


def check_evaluation(folder: Path) -> list[str]:
    """Why one evaluation is refused, one sentence each; empty where everything recomputes."""
    try:
        evaluation = read_evaluation(folder)
    except (ValueError, OSError) as error:
        return [str(error)]
    if evaluation.num_bad_lines:
        return [f"{folder}: {evaluation.num_bad_lines} lines are no records; evaluate again"]
    if reason := problem(evaluation):
        return [f"{folder}: {reason}"]
    return [f"{folder}: {sentence}" for sentence in (*_problems(evaluation), *read_measures(evaluation)[1])]


def check_tables(folder: Path) -> list[str]:
    """Leaderboard files that are not those of the folder's records, one sentence each."""
    there = {name: path for name, kind in FORMATS.items() if (path := folder / kind.file_name).is_file()}
    if not there:
        return []
    texts = {name: path.read_text(encoding="utf-8") for name, path in there.items()}
    boards: dict[tuple[bool, bool], LeaderboardResult] = {}
    problems = []
    for name, path in there.items():
        options = (TITLE in texts[name] and name != "html", name == "html" and f'"{RECORD_FILES}"' in texts[name])
        if options not in boards:
            boards[options] = leaderboard([folder], list(there), reported=options[0], all_records=options[1])
        if boards[options].text_by_format[name] != texts[name]:
            problems.append(
                f"{path} is not what these records give; write it again with --format {name} --out {folder}"
            )
    return problems


def _problems(evaluation: Evaluation) -> Iterator[str]:
    manifest = evaluation.manifest
    path = evaluation.folder / (RECORDS + ".gz")
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        yield f"{path.name} has {path.stat().st_size} bytes, more than {MAX_BYTES}; submit fewer samples"
    try:
        config = RunConfig.from_tree({key: value for key, value in manifest.config.items() if key != "eval"})
        wanted = _wanted(manifest, config)
        task, examples = questions(wanted)
        fresh = new_manifest(
            _Told(evaluation.folder.parent / config.run_id, config, manifest),
            wanted,
            task.fingerprint(manifest.split),
            examples,
        )
    except ValueError as error:
        yield f"cannot be checked: {' '.join(str(error).split())}"
        return
    for name in _RECOMPUTED:
        there, here = getattr(manifest, name), getattr(fresh, name)
        if there != here:
            yield f"{name} is {there!r} in the manifest, but {here!r} follows from its configuration and data"
    key = f"{manifest.task}/{manifest.split}"
    if key not in fresh.data or manifest.data[key].sha256 != fresh.data[key].sha256:
        yield f"the data of {key} are not those at hand; fetch the pinned revision"
    if len(examples) * wanted.generate.samples == len(evaluation.records):
        yield from _record_problems(evaluation, wanted, task, examples)


def _record_problems(
    evaluation: Evaluation, wanted: EvalConfig, task: Task[Any], examples: Sequence[Example]
) -> Iterator[str]:
    """One sentence per kind of fault, with the first record that has it."""
    samples, chunk = wanted.generate.samples, wanted.generate.chunk
    pairs = [(record, examples[place // samples]) for place, record in enumerate(evaluation.records)]
    scores = task.score_many([(record.text, example) for record, example in pairs])
    faults: dict[str, list[str]] = {}
    for place, ((record, example), score) in enumerate(zip(pairs, scores, strict=True)):
        expected: dict[str, object] = {
            "id": example.id,
            "sample": place % samples,
            "chunk": place // samples // chunk,
            "gold": example.answer,
            "seed": wanted.seed,
            "extracted": score.extracted,
        }
        if "timeout" not in (record.status, score.status):  # the checker's time limit depends on the machine
            expected["status"] = score.status
        for name, value in expected.items():
            if getattr(record, name) != value:
                faults.setdefault(name, []).append(_fault(record, name, value))
    for name, found in faults.items():
        yield f"{name} of {len(found)} records does not recompute; the first: {found[0]}"


def _fault(record: Record, name: str, value: object) -> str:
    return f"{record.id!r} has {getattr(record, name)!r} instead of {value!r}"


def _wanted(manifest: Manifest, config: RunConfig) -> EvalConfig:
    seed = manifest.config["eval"].get("seed") if isinstance(manifest.config.get("eval"), dict) else None
    if type(seed) is not int:
        raise ValueError("its manifest does not say what was asked; evaluate the run again")
    generate: GenerateConfig = config.generate
    return replace(asked_config(manifest), generate=generate, seed=seed)


class _Told(Run):
    """A run of which the manifest tells: nothing of it is on disk."""

    def __init__(self, folder: Path, config: RunConfig, manifest: Manifest) -> None:
        super().__init__(folder, config)
        self.__dict__["report"] = {"train_data": manifest.train_data}
