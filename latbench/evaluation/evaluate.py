"""Answer the questions of an evaluation: fixed chunks in file order -> answers -> verdicts -> records, by chunk."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latbench.evaluation.fed_prompt import fed_prompt
from latbench.evaluation.job import EvalJob
from latbench.evaluation.join import join_whole, lost_parts
from latbench.evaluation.on_file import OnFile
from latbench.evaluation.plan import check_samples
from latbench.evaluation.records import Record, append_records, write_manifest
from latbench.evaluation.shards import Shard, owned, parts_in, refuse_lost, refuse_other_division, shards_of
from latbench.runs.lock import is_main_process, wait_for_all
from latbench.runs.train import keep
from latbench.task import Example
from latbench.util import heap
from latbench.util.progress import progress

if TYPE_CHECKING:
    from latbench.method import Method


def evaluate_all(jobs: Sequence[EvalJob], shard: Shard | None = None) -> list[Path]:
    """Evaluate one after another, once it is known that none of them is refused.

    Args:
        jobs: the evaluations.
        shard: answer the chunks of one shard alone, see `evaluate`; None: all of them.
    Returns: the folder of each, see `evaluate`.
    Raises: ValueError, OSError: as `evaluate`.
    """
    for job in jobs:
        refuse(job, shard)
    return [evaluate(job, shard) for job in jobs]


def evaluate(job: EvalJob, shard: Shard | None = None) -> Path:
    """Answer and score every question; whole chunks already on file are kept.

    Nothing on file is touched before it is known that the evaluation can go on. The process that completes the last
    part of a sharded evaluation joins them all; where a launcher started the processes, the main one does so, once all
    have answered. Without a shard, parts that lie there are joined.

    Args:
        job: the evaluation.
        shard: answer its chunks alone, into a part of its own.
    Returns: the folder with manifest and records, which are there once all parts are.
    Raises: ValueError: the run is unfinished, the data are not at hand, the method cannot decode so, another process
        writes the folder, the records there are of another setting, or a part is lost. OSError: the folder cannot be
        written.
    """
    refuse(job, shard, load=False)
    if shard is None:
        with owned(job.folder, None):
            refuse_lost(job.folder, lost_parts(job), "eval")
            if not shards_of(job.folder):
                _answer(job, OnFile.of(job))
    elif not OnFile.of(job).is_complete:
        with owned(job.folder, shard):
            _answer(job, OnFile.of(job, shard))
    wait_for_all()
    if is_main_process():
        join_whole(job)
    wait_for_all()
    return job.folder


def is_answered(job: EvalJob) -> bool:
    """Whether the whole evaluation is on file. Raises: ValueError: what is there is of another evaluation."""
    return OnFile.of(job).is_complete


def _answer(job: EvalJob, there: OnFile) -> None:
    """Answer what is left of an evaluation, or of a shard of it."""
    if there.is_complete:
        return
    method = _method(job)
    if is_main_process():
        keep(job.run)
    _run_chunks(job, method, there)


def refuse(job: EvalJob, shard: Shard | None, *, load: bool = True) -> None:
    """Refuse what `evaluate` would refuse, as far as it is known before any lock is held.

    Args:
        job: the evaluation.
        shard: of it; None: all of it.
        load: look at the method too, where there is something left to answer.
    Raises: ValueError: it is refused.
    """
    if shard is None and not is_main_process():
        raise ValueError("an evaluation without shards runs in one process; start it without a launcher")
    check_samples(job.run.config, job.settings)
    whole = OnFile.of(job)
    if whole.is_complete:
        return
    if shard is not None and whole.records.exists() and not parts_in(job.folder):
        raise ValueError(
            f"{job.folder} holds an evaluation that was begun without shards; finish it without --shard, or remove the "
            "folder to evaluate anew"
        )
    if shard is not None:
        refuse_other_division(job.folder, shard.count)
    lost_parts(job)
    there = whole if shard is None else OnFile.of(job, shard)
    if load and not there.is_complete and (shard is not None or not parts_in(job.folder)):
        _method(job)


def _method(job: EvalJob) -> Method[Any]:
    """The method that answers. Raises: ValueError: it cannot be loaded, or cannot decode so."""
    method = job.run.method
    method.rule(job.settings.generate)
    return method


def _run_chunks(job: EvalJob, method: Method[Any], there: OnFile) -> None:
    """Answer, score and append chunk by chunk; the manifest follows each."""
    import torch

    if method.backbone.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(method.backbone.device)  # of what the process did before
    begun = there.known or there.fresh
    state = replace(
        begun,
        complete=False,
        backbone=method.backbone.name,
        layout=method.backbone.layout.name,
        prompt=begun.prompt or fed_prompt(method, job.examples, job.settings.generate),
        dtype=_dtype(method) if job.run.config.model.dtype == "auto" else None,
    )
    write_manifest(there.folder, state)
    there.cut()
    finished, total = (sum(len(chunk.examples) for chunk in part) for part in (there.done, there.chunks))
    title = f"{job.run.config.method_name} on {job.settings.task_name}"
    with progress(title, total=total, done=finished) as advance:
        for number, examples in there.left:
            start = time.monotonic()
            records = answer_chunk(job, method, examples, number)
            append_records(there.records, records)
            state = replace(state, evaluation=_costs(state.evaluation, method, records, time.monotonic() - start))
            write_manifest(there.folder, state)
            heap.release()
            advance(len(examples))
    write_manifest(there.folder, replace(state, complete=True))


def _dtype(method: Method[Any]) -> str:
    """Of the model's weights, such as `bfloat16`."""
    return str(method.backbone.model.dtype).removeprefix("torch.")


def answer_chunk(job: EvalJob, method: Method[Any], examples: Sequence[Example], index: int) -> list[Record]:
    """Records of one chunk: every sample of a question, question by question."""
    from latbench.decoding.loop import Prompt

    settings = job.settings
    pairs = [(example, sample) for example in examples for sample in range(settings.generate.samples)]
    prompts = [Prompt(id=example.id, text=example.question, sample=sample) for example, sample in pairs]
    generations = method.generate(prompts, settings.generate, seed=settings.seed)
    scores = job.task.score_many(
        [(answer.text, example) for answer, (example, _) in zip(generations, pairs, strict=True)]
    )
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
            seed=settings.seed,
            chunk=index,
        )
        for (example, sample), answer, score in zip(pairs, generations, scores, strict=True)
    ]


def _costs(
    before: Mapping[str, float], method: Method[Any], records: Sequence[Record], seconds: float
) -> dict[str, float]:
    """Costs of all sessions so far; operations follow from the records, see measures/answer_cost.py."""
    from latbench.training.cost import peak_memory_bytes

    return {
        "seconds": before.get("seconds", 0.0) + seconds,
        "answers": before.get("answers", 0) + len(records),
        "peak_memory_bytes": max(before.get("peak_memory_bytes", 0), peak_memory_bytes(method.backbone.device)),
    }
