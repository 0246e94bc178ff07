"""Evaluate one run on one task: fixed chunks in file order -> answers -> verdicts -> records, resumable by chunk."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latbench import registry
from latbench.evaluation.manifest import known_manifest, new_manifest
from latbench.evaluation.metrics import problem
from latbench.evaluation.plan import EvalConfig, check_samples, eval_folder
from latbench.evaluation.records import (
    RECORDS,
    SAME_ANSWERS,
    Evaluation,
    Manifest,
    Record,
    append_records,
    parse_record,
    read_evaluation,
    write_manifest,
)
from latbench.runs.lock import is_main_process, locked
from latbench.runs.run import Run
from latbench.task import Example, Task
from latbench.util.progress import progress

if TYPE_CHECKING:
    from latbench.method import Method


def evaluate(run: Run, wanted: EvalConfig, asked: tuple[Task[Any], list[Example]] | None = None) -> Path:
    """Answer and score every question; whole chunks already on file are kept.

    Args:
        asked: `questions(wanted)`, where the caller has read them already.
    Returns: the folder with manifest and records.
    Raises: ValueError: the run is unfinished, the data are not at hand, another process writes the folder, or the
        records there are of another setting, or all samples would be equal. OSError: the folder cannot be written.
    """
    if not is_main_process():
        raise ValueError("an evaluation runs in one process; start it without a launcher")
    check_samples(run.config, wanted)
    task, examples = asked or questions(wanted)
    folder = eval_folder(run, wanted)
    with locked(folder):
        fresh = new_manifest(run, wanted, task.fingerprint(wanted.split), examples)
        chunk = wanted.generate.chunk
        chunks = [examples[start : start + chunk] for start in range(0, len(examples), chunk)]
        num_done = keep_whole_chunks(folder / RECORDS, chunks, wanted.generate.samples)
        known = known_manifest(folder, fresh, nothing_to_add=num_done == len(chunks))
        if known is None or not known.complete or num_done < len(chunks):
            state = replace(known or fresh, complete=False)
            _run_chunks(run, wanted, task, chunks, num_done, state, folder)
    return folder


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A complete evaluation on file, with what was asked; `now` is the manifest that it would get today."""

    folder: Path
    evaluation: Evaluation
    now: Manifest
    task: Task[Any]
    examples: Sequence[Example]


def answered(run: Run, wanted: EvalConfig) -> Answered:
    """The complete evaluation of a run on these very questions.

    Raises: ValueError: there is none, it cannot be counted, or it is of another run, setting or other questions.
    """
    folder = eval_folder(run, wanted)
    try:
        found = read_evaluation(folder)
    except ValueError as error:
        raise ValueError(f"{error}; evaluate the run first with `latbench eval`") from None
    if reason := problem(found):
        raise ValueError(f"{folder}: {reason}")
    task, examples = questions(wanted)
    now = new_manifest(run, wanted, task.fingerprint(wanted.split), examples)
    for name in SAME_ANSWERS:
        there, here = getattr(found.manifest, name), getattr(now, name)
        if there != here:
            raise ValueError(f"{folder} holds answers of another {name} ({there}, now {here}); evaluate the run again")
    return Answered(folder=folder, evaluation=found, now=now, task=task, examples=examples)


def questions(wanted: EvalConfig) -> tuple[Task[Any], list[Example]]:
    """The task, and its examples as they are asked: the question is the task's prompt.

    Raises: ValueError: unknown split, or the data are not at hand.
    """
    task: Task[Any] = registry.get_task_entry(wanted.task_name).cls(wanted.task)
    examples = task.load(wanted.split)[: wanted.limit]
    return task, [replace(example, question=task.prompt(example)) for example in examples]


def keep_whole_chunks(path: Path, chunks: Sequence[Sequence[Example]], samples: int) -> int:
    """Number of leading chunks whose records are all on file; what follows them is cut off.

    A chunk that was half written, or holds a line that is no record of it, is answered again: the same answers result.
    """
    if not path.exists():
        return 0
    with path.open("rb") as file:
        lines = file.readlines()
    num_done = kept = 0
    for index, chunk in enumerate(chunks):
        expected = [(example.id, sample, index) for example in chunk for sample in range(samples)]
        block = lines[kept : kept + len(expected)]
        if [_key(line) for line in block] != expected:
            break
        kept += len(block)
        num_done += 1
    if kept < len(lines):
        with path.open("rb+") as file:
            file.truncate(sum(map(len, lines[:kept])))
    return num_done


def _key(line: bytes) -> tuple[str, int, int] | None:
    """(id, sample, chunk) of a whole record line; None of anything else."""
    try:
        record = parse_record(line.decode())
    except ValueError:
        return None
    return (record.id, record.sample, record.chunk) if line.endswith(b"\n") else None


def _run_chunks(
    run: Run,
    wanted: EvalConfig,
    task: Task[Any],
    chunks: Sequence[Sequence[Example]],
    num_done: int,
    state: Manifest,
    folder: Path,
) -> None:
    """Answer, score and append chunk by chunk; the manifest follows each."""
    import torch

    method = run.method
    if method.backbone.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(method.backbone.device)  # of what the process did before
    state = replace(state, backbone=method.backbone.name, layout=method.backbone.layout.name)
    write_manifest(folder, state)
    finished = sum(len(chunk) for chunk in chunks[:num_done])
    with progress(
        f"{run.config.method_name} on {wanted.task_name}", total=sum(map(len, chunks)), done=finished
    ) as advance:
        for index in range(num_done, len(chunks)):
            start = time.monotonic()
            records = answer_chunk(method, task, chunks[index], index, wanted)
            append_records(folder / RECORDS, records)
            state = replace(state, evaluation=_costs(state.evaluation, method, records, time.monotonic() - start))
            write_manifest(folder, state)
            advance(len(chunks[index]))
    write_manifest(folder, replace(state, complete=True))


def answer_chunk(
    method: Method[Any], task: Task[Any], examples: Sequence[Example], index: int, wanted: EvalConfig
) -> list[Record]:
    """Records of one chunk: every sample of a question, question by question."""
    from latbench.decoding.loop import Prompt

    pairs = [(example, sample) for example in examples for sample in range(wanted.generate.samples)]
    prompts = [Prompt(id=example.id, text=example.question, sample=sample) for example, sample in pairs]
    generations = method.generate(prompts, wanted.generate, seed=wanted.seed)
    scores = task.score_many([(answer.text, example) for answer, (example, _) in zip(generations, pairs, strict=True)])
    return [
        Record(
            id=example.id,
            sample=sample,
            text=answer.text,
            reasoning=answer.reasoning,
            extracted=score.extracted,
            gold=example.answer,
            status=score.status,
            num_latents=answer.num_latents,
            num_reasoning_tokens=answer.num_reasoning_tokens,
            num_answer_tokens=answer.num_answer_tokens,
            gold_chain_length=method.backbone.num_step_tokens(example),
            num_prompt_tokens=answer.num_prompt_tokens,
            decode_steps=answer.decode_steps,
            stop_reason=answer.stop_reason,
            seed=wanted.seed,
            chunk=index,
        )
        for (example, sample), answer, score in zip(pairs, generations, scores, strict=True)
    ]


def _costs(
    before: Mapping[str, float], method: Method[Any], records: Sequence[Record], seconds: float
) -> dict[str, float]:
    """Costs of all sessions so far; operations follow from the records, see runs/cost.py."""
    from latbench.training.cost import peak_memory_bytes

    return {
        "seconds": before.get("seconds", 0.0) + seconds,
        "answers": before.get("answers", 0) + len(records),
        "peak_memory_bytes": max(before.get("peak_memory_bytes", 0), peak_memory_bytes(method.backbone.device)),
    }
