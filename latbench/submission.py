"""Validate a submission: its files must follow from its records, its configuration and the task's data.

Besides what every table asks (`metrics.problem`), an evaluation is refused where one of these does not recompute: the
run's id and the identity of its cell from the configuration, the questions asked from the task's data, the verdict on
every answer from its text, and the leaderboard files beside it; with the embedded backbone, whose tokenizer is always
at hand, also the tokens of prompts and gold chains and the operations of an answer. Counts of steps must be possible.
What it takes a trained model or the machine to know is not checked here: texts, latents and what was measured of them,
costs and times. `latbench rerun RESULT --check` trains and answers again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from itertools import chain
from math import ceil, isclose
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latbench import registry
from latbench.config import TINY, GenerateConfig, RunConfig, tree
from latbench.evaluation.asked import asked, asked_config, asked_of_generated
from latbench.evaluation.contamination import may_know_of_more, recomputed
from latbench.evaluation.fed_prompt import fed_prompt
from latbench.evaluation.job import EvalJob
from latbench.evaluation.metrics import caveats as caveats_of
from latbench.evaluation.metrics import problem, summarise
from latbench.evaluation.plan import EvalConfig, questions
from latbench.evaluation.records import TRACE, Evaluation, Manifest, Record, read_evaluation, records_path
from latbench.measures.measure_files import COST, CostFile, read_measures
from latbench.recorded_passes import keep_pass, key_of, passed_before
from latbench.report.leaderboard import FORMATS, LeaderboardResult, find_evaluations, leaderboard
from latbench.report.page import RECORD_FILES
from latbench.report.reported import TITLE
from latbench.runs.run import Run
from latbench.task import Example, Task
from latbench.util.files import read_bounded
from latbench.util.text import printable

if TYPE_CHECKING:
    from latbench.method import Method
    from latbench.model.backbone import Backbone

MAX_BYTES = 150_000  # of a run's gzipped records
MAX_UNPACKED = 64_000_000  # bytes that these hold
MAX_TABLE = 64_000_000  # bytes of a leaderboard file
MAX_TEXT = 10_000  # characters of a setting
LEAST = 4  # evaluations that are worth a process
PARTS = 4  # of the evaluations for each process: one is busy with the tables meanwhile
MAX_KNOWN = 4  # test sets in memory
MAX_NUMBERS = 100_000_000  # in the parameters of an embedded backbone and its heads, which are built to be checked
# not `variant`: it names what differs from the preset, which later versions may change
_RECOMPUTED = ("run", "task", "method", "setting", "backbone", "layout", "seed", "n", "questions_sha256")


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What `check` finds; no sentence holds a character that could act on a terminal."""

    problems: list[str] = field(default_factory=list)
    """Why a submission is refused, one sentence each."""
    caveats: list[str] = field(default_factory=list)
    """Where numbers that recompute were trained on their own questions, one sentence each."""
    num_evaluations: int = 0
    """Evaluations there are."""
    num_before: int = 0
    """Those of them that passed before and have not changed since."""


def check(folders: Sequence[Path], *, workers: int = 1, incremental: bool = False, again: bool = False) -> Checked:
    """Look at every evaluation under the folders, and at their tables.

    Args:
        folders: that hold evaluations.
        workers: processes that look at evaluations.
        incremental: record what passes, and pass over what has passed before and has not changed since, see
            `recorded_passes`. Tables, and what one evaluation alone does not show, are always looked at.
        again: pass over nothing.
    Raises: ValueError: a folder does not exist, or there is no evaluation in any.
    """
    found = list(find_evaluations(folders))
    keys = {folder: key_of(folder) for folder in found} if incremental else {}
    passed = {folder: passed_before(key) for folder, key in keys.items()} if not again else {}
    known = {folder: caveats for folder, caveats in passed.items() if caveats is not None}
    looked_at, stale = _check_all([folder for folder in found if folder not in known], folders, workers)
    for folder, one in looked_at.items():
        if not one.problems:
            keep_pass(keys.get(folder), one.caveats)
    before = {folder: Checked(caveats=caveats, num_evaluations=1) for folder, caveats in known.items()}
    checked = [(looked_at | before)[folder] for folder in found]
    problems = [*(sentence for one in checked for sentence in one.problems), *stale]
    if not problems:  # what one evaluation alone does not show, such as another run of one setting and seed
        problems += leaderboard(folders, ()).notices
    caveats = [sentence for one in checked for sentence in one.caveats]
    return Checked(
        problems=list(map(printable, problems)), caveats=caveats, num_evaluations=len(found), num_before=len(known)
    )


def _check_all(folders: Sequence[Path], tops: Sequence[Path], workers: int) -> tuple[dict[Path, Checked], list[str]]:
    """Look at evaluations and at the tables of the folders above them, in several processes where there are enough
    evaluations: a process takes seconds to start."""
    workers = min(workers, ceil(len(folders) / LEAST))
    if workers < 2:
        return _check_some(folders, QuestionsReadOnce()), list(chain.from_iterable(map(check_tables, tops)))
    size = max(LEAST, ceil(len(folders) / (PARTS * workers)))  # neighbours share their questions
    parts = [folders[start : start + size] for start in range(0, len(folders), size)]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        stale = pool.map(check_tables, tops)  # first: the tables may take as long as many evaluations
        looked_at = {folder: one for part in pool.map(_check_part, parts) for folder, one in part.items()}
        return looked_at, list(chain.from_iterable(stale))


def _check_part(folders: Sequence[Path]) -> dict[Path, Checked]:
    """A part of the evaluations, in a process that looks at several."""
    return _check_some(folders, _read_once())


def _check_some(folders: Sequence[Path], read: QuestionsReadOnce) -> dict[Path, Checked]:
    return {folder: check_evaluation(folder, read) for folder in folders}


@cache
def _read_once() -> QuestionsReadOnce:
    """That of this process."""
    return QuestionsReadOnce()


class QuestionsReadOnce:
    """Reads questions as `plan.questions` does; those of the last few test sets, which many evaluations share, once."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Task[Any], list[Example]]] = {}

    def __call__(self, settings: EvalConfig) -> tuple[Task[Any], list[Example]]:
        """See `plan.questions`."""
        key = json.dumps([settings.task_name, asdict(settings.task), settings.split, settings.limit])
        if key not in self._known:
            if len(self._known) == MAX_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[key] = questions(settings)
        return self._known[key]


def check_evaluation(folder: Path, read: QuestionsReadOnce | None = None) -> Checked:
    """Look at one evaluation; there is no problem where everything recomputes.

    Args:
        folder: of the evaluation.
        read: of the other evaluations of the submission.
    """
    problems, caveats = [], []
    try:
        problems = list(_sizes(folder))
        if not problems:
            evaluation = read_evaluation(folder, MAX_UNPACKED)
            problems = list(_faults(evaluation, read or QuestionsReadOnce()))
            caveats = [] if problems else [found.sentence for found in caveats_of(summarise(evaluation))]
    except (ValueError, OSError) as error:
        problems.append(str(error))
    named = ([text if str(folder) in text else f"{folder}: {text}" for text in part] for part in (problems, caveats))
    problems, caveats = (list(map(printable, part)) for part in named)
    return Checked(problems=problems, caveats=caveats, num_evaluations=1)


def _sizes(folder: Path) -> Iterator[str]:
    """What is too large to be looked at."""
    path = records_path(folder)
    if path is not None and path.stat().st_size > MAX_BYTES:
        advice = "submit fewer samples" if path.suffix == ".gz" else f"pack it with `gzip -9n {path.name}`"
        yield f"{path.name} has {path.stat().st_size} bytes, more than {MAX_BYTES}; {advice}"
    if (folder / TRACE).exists():
        yield f"{TRACE}/ is too large for a submission; remove it"


def _faults(evaluation: Evaluation, read: QuestionsReadOnce) -> Iterator[str]:
    if evaluation.num_bad_lines:
        yield f"{evaluation.num_bad_lines} lines are no records; evaluate again"
    elif reason := problem(evaluation):
        yield reason
    else:
        measures, unusable = read_measures(evaluation)
        yield from _problems(evaluation, measures.cost, read)
        yield from unusable


def check_tables(folder: Path) -> list[str]:
    """Leaderboard files that are not those of the folder's records, one sentence each."""
    there = {name: path for name, kind in FORMATS.items() if (path := folder / kind.file_name).is_file()}
    if not there:
        return []
    try:
        texts = {name: _table(path) for name, path in there.items()}
    except ValueError as error:
        return [str(error)]

    @cache
    def board(reported: bool, all_records: bool, no_data: bool) -> LeaderboardResult:
        read = asked_of_generated if no_data else asked
        return leaderboard([folder], list(there), reported=reported, all_records=all_records, asked=read)

    problems = []
    for name, path in there.items():
        options = (TITLE in texts[name] and name != "html", name == "html" and f'"{RECORD_FILES}"' in texts[name])
        written = (board(*options, no_data).text_by_format[name] for no_data in (True, False))
        if not any(text == texts[name] for text in written):
            problems.append(
                f"{path} is not what these records give; write it again with --format {name} --out {folder}"
            )
    return problems


def _table(path: Path) -> str:
    """The text of a leaderboard file. Raises: ValueError: it is too large, or no UTF-8."""
    try:
        return read_bounded(path, MAX_TABLE).decode()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8; write it again") from None


def _problems(evaluation: Evaluation, cost: CostFile | None, read: QuestionsReadOnce) -> Iterator[str]:
    manifest = evaluation.manifest
    try:
        _refuse_long_texts(manifest.config)
        config = RunConfig.from_stored({key: value for key, value in manifest.config.items() if key != "eval"})
        untrained = manifest.is_untrained
        name = config.base_id if untrained else config.run_id
        if config.imported is not None:  # into a folder that the user may name
            name = manifest.run
        told = {"train_data": manifest.train_data, "trained": not untrained, "model": manifest.model or {}}
        run = Run(evaluation.folder.parent / name, config, told=told)
        job = EvalJob(run, _settings(manifest, config), read)
        _refuse_download(job)
        fresh = job.manifest
    except ValueError as error:
        yield f"cannot be checked: {' '.join(str(error).split())}"
        return
    if untrained and config.model.id != TINY and not manifest.model:
        yield (
            "its manifest has no hashes of the model's files, which are the identity of a result without training; "
            "evaluate again"
        )
        return
    for name in (*_RECOMPUTED, *(["train_data"] if untrained else [])):
        there, here = getattr(manifest, name), getattr(fresh, name)
        if there != here:
            way_out = "; evaluate it again in a folder of that name" if name == "run" else ""
            yield f"{name} is {there!r} in the manifest, but {here!r} follows from its configuration and data{way_out}"
    stated, contaminated = manifest.contaminated or 0, recomputed(job)
    if contaminated is not None and (contaminated > stated or (contaminated < stated and not may_know_of_more(config))):
        yield (
            f"contaminated is {stated} in the manifest, but {contaminated} training rows ask one "
            "of its questions; evaluate again"
        )
    key = f"{manifest.task}/{manifest.split}"
    if key not in fresh.data or manifest.data[key].sha256 != fresh.data[key].sha256:
        yield f"the data of {key} are not those at hand; fetch the pinned revision"
    if fresh.n == len(evaluation.records):
        try:
            method = _untrained(config, manifest)
        except (ValueError, RuntimeError) as error:  # torch has no memory for a single tensor
            yield f"cannot be checked: {' '.join(str(error).split())}"
            return
        if method and manifest.prompt is not None:
            prompt = fed_prompt(method, job.examples, job.settings.generate)
            if prompt != manifest.prompt:
                yield f"prompt is {manifest.prompt} in the manifest, but {prompt} follows from its configuration"
        yield from _record_problems(evaluation, job, method)
        if method and cost:
            yield from _cost_problems(cost, method, evaluation.records)


def _refuse_long_texts(config: object) -> None:
    """Raises: ValueError: a text is longer than any setting's, such as one that would stand before every question."""
    for key, value in tree.flatten({"config": config}):
        if isinstance(value, str) and len(value) > MAX_TEXT:
            raise ValueError(f"{key} has {len(value)} characters, more than {MAX_TEXT}")


def _refuse_download(job: EvalJob) -> None:
    """Raises: ValueError: the data are a Hub data set that a submission names, and not in the cache."""
    settings = job.settings
    if registry.is_own_data(settings.task_name):
        task = registry.get_task_entry(settings.task_name).cls(settings.task)
        if task.config.is_hub and not task.is_at_hand(settings.split):
            raise ValueError(
                f"its data set {task.config.path} is not in the Hugging Face cache, and a check downloads none that a "
                "submission names; load it once, and check again"
            )


def _record_problems(evaluation: Evaluation, job: EvalJob, method: Method[Any] | None) -> Iterator[str]:
    """One sentence per kind of fault, with the first record that has it."""
    settings = job.settings
    samples, chunk = settings.generate.samples, settings.generate.chunk
    tokens = [_tokens(method, example, settings.generate) for example in job.examples] if method else []
    pairs = [(record, job.examples[place // samples]) for place, record in enumerate(evaluation.records)]
    scores = job.task.score_many([(record.text, example) for record, example in pairs])
    writes_marks = registry.get_method(job.run.config.method_name).cls.writes_marks
    faults: dict[str, list[str]] = {}
    impossible: list[str] = []
    for place, ((record, example), score) in enumerate(zip(pairs, scores, strict=True)):
        expected: dict[str, object] = {
            "id": example.id,
            "sample": place % samples,
            "chunk": place // samples // chunk,
            "gold": example.answer,
            "seed": settings.seed,
        }
        late = "timeout" in (record.status, score.status)  # the checker's time limit depends on the machine
        if not late or record.status == "correct":
            expected["status"] = score.status
        if not late or None not in (record.extracted, score.extracted):
            expected["extracted"] = score.extracted
        if method:
            expected |= tokens[place // samples]
        for name, value in expected.items():
            if getattr(record, name) != value:
                faults.setdefault(name, []).append(_fault(record, name, value))
        reason = _impossible(record, settings.generate, writes_marks=writes_marks)
        if reason is None and method:
            reason = _too_few_tokens(record, method.backbone, writes_marks=writes_marks)
        if reason:
            impossible.append(f"{record.id!r}, {reason}")
    if impossible:
        yield f"counts of {len(impossible)} records are impossible; the first: {impossible[0]}"
    for name, found in faults.items():
        yield f"{name} of {len(found)} records does not recompute; the first: {found[0]}"


def _fault(record: Record, name: str, value: object) -> str:
    return f"{record.id!r} has {getattr(record, name)!r} instead of {value!r}"


def _impossible(record: Record, config: GenerateConfig, *, writes_marks: bool) -> str | None:
    """Why no decoding gives these counts."""
    num_reasoning_tokens = record.num_reasoning_tokens or 0
    emitted = num_reasoning_tokens + record.num_answer_tokens
    least = record.num_latents + emitted - 1  # the last token need not be fed
    if record.decode_steps < least:
        return f"{record.decode_steps} decode steps for {least} latents and tokens at least"
    for what, count, cap in (
        ("tokens", emitted, config.max_new_tokens),
        ("latents", record.num_latents, config.max_latents),
    ):
        if count > cap:
            return f"{count} {what}, where at most {cap} were asked for"
    in_text = record.num_answer_tokens if record.reasoning else emitted  # a chain without think tokens is in the text
    in_chain = num_reasoning_tokens + (record.num_latents if writes_marks else 0)  # a mark is told by its latent steps
    for text, num_tokens in ((record.reasoning, in_chain), (record.text, in_text)):
        if text and not num_tokens:
            return f"{text[:20]!r} in no token"
    return None


def _too_few_tokens(record: Record, backbone: Backbone, *, writes_marks: bool) -> str | None:
    """Why these counts are of no text that a model with this tokenizer wrote; what is in no text may add to them."""
    in_chain, in_text = record.num_reasoning_tokens or 0, record.num_answer_tokens
    answer = record.text.removeprefix(backbone.layout.spec.answer_opening)  # which no model wrote
    parts = [(record.reasoning, in_chain), (answer, in_text)] if record.reasoning else [(answer, in_chain + in_text)]
    for text, num_tokens in parts[1:] if writes_marks else parts:  # marks are in the chain
        least = len(backbone.tokenizer.encode(text, add_special_tokens=False))
        if num_tokens < least and "\ufffd" not in text:  # it stands for a byte of no character, and has three
            return f"{text[:20]!r} in {num_tokens} tokens, of which it has {least}"
    return None


def _untrained(config: RunConfig, manifest: Manifest) -> Method[Any] | None:
    """The method on the embedded backbone, which knows tokens and sizes without training; None with another model.

    Raises: ValueError: backbone and heads are larger than any embedded backbone of a submission may be.
    """
    if config.model.id != TINY:
        return None
    from latbench.model.backbone import Backbone
    from latbench.model.weights import bounded

    entry = registry.get_method(config.method_name)
    with bounded(numbers=MAX_NUMBERS):
        backbone = Backbone.load(replace(config.model, device="cpu"), markers=not manifest.is_untrained)
        method: Method[Any] = entry.cls(backbone, config.method)
    return method


def _tokens(method: Method[Any], example: Example, config: GenerateConfig) -> dict[str, object]:
    """Fields of a record that the tokenizer gives."""
    return {
        "gold_chain_length": method.backbone.num_step_tokens(example),
        "num_prompt_tokens": len(method.prompt_ids(example.question, config)),
    }


def _cost_problems(cost: CostFile, method: Method[Any], records: Sequence[Record]) -> Iterator[str]:
    from latbench.measures.answer_cost import mean_flops

    flops = mean_flops(method, records)
    if cost.flops is None or flops is None or not isclose(cost.flops, flops, rel_tol=1e-9):
        yield f"flops is {cost.flops} in {COST}, but {flops} follows from the records"


def _settings(manifest: Manifest, config: RunConfig) -> EvalConfig:
    seed = manifest.config["eval"].get("seed") if isinstance(manifest.config.get("eval"), dict) else None
    if type(seed) is not int:
        raise ValueError("its manifest does not say what was asked; evaluate the run again")
    generate: GenerateConfig = config.generate
    return replace(asked_config(manifest), generate=generate, seed=seed)
