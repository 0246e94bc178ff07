"""One question through a run: each latent step as its top tokens, beside the part of the gold chain in its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from latbench.evaluation.asked import asked
from latbench.evaluation.job import EvalJob
from latbench.evaluation.plan import EvalConfig
from latbench.evaluation.records import MANIFEST, TRACE, TRACE_HEADER, Record, read_evaluation, records_path
from latbench.measures.compression import even_cuts
from latbench.measures.latents import COLUMNS, AnswerLatents, StoredTrace
from latbench.measures.measure_files import LatentsFile, LatentStep, read_measure
from latbench.runs.run import Run
from latbench.task import Example, Score, Status, StopReason
from latbench.util.text import printable

if TYPE_CHECKING:
    from latbench.decoding.latent_trace import LatentTrace
    from latbench.decoding.loop import Generation


@dataclass(frozen=True, kw_only=True)
class InspectedStep(LatentStep):
    """One latent step beside the chain.

    Args:
        segment: the gold chain in this step's place; "" where there is none.
        text: what the method's helper model reads in the latent; "": a later step has it, None: it has none.
    """

    segment: str
    text: str | None = None


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """One answer with its latent steps.

    Args:
        run: name of its folder.
        id: of the question, None where it is not of the split.
        gold: the reference answer; None where there is none.
        status: the verdict; None where there is none.
        extracted: what was read as the answer; None where there is nothing.
        latents: in step order.
        reasoning: explicit reasoning text.
        text: the answer segment.
        from_file: the latent steps are those of a stored trace.
    """

    run: str
    id: str | None
    question: str
    steps: tuple[str, ...]
    gold: str | None
    latents: tuple[InspectedStep, ...]
    reasoning: str
    text: str
    status: Status | None
    extracted: str | None
    num_latents: int
    stop_reason: StopReason
    from_file: bool


def inspect(job: EvalJob, *, index: int = 0, text: str | None = None, top: int = 5) -> Inspection:
    """The first answer to a question: from the stored trace and records where it stands there, else generated.

    Args:
        job: the evaluation that the question belongs to.
        index: of the question in the split, from 0.
        text: a question instead, of the split or any other.
        top: tokens per latent step.
    Raises: ValueError: no such index, the run is unfinished, the data are not at hand, or the trace stored for this
        evaluation belongs to something else or is damaged.
    """
    place, example = _find(job.examples, index, text)
    stored = None if place is None else _stored_latents(job, place)
    run = job.run if stored is not None else job.run.with_helpers_for("read_latents")
    record = None if stored is None else _record(job, example)
    answer: Record | Generation
    if record is None:
        answer = generated = _generate(run, job.settings, example, top)
        trace = stored or _drawn(generated.trace)
        verdict = None if place is None else job.task.score(answer.text, example)
    else:
        answer, trace, verdict = record, stored, Score(status=record.status, extracted=record.extracted)
    return Inspection(
        run=run.folder.name,
        id=None if place is None else example.id,
        question=example.question,
        steps=example.steps,
        gold=None if place is None else example.answer,
        latents=() if trace is None else _latents(run, trace, example, top),
        reasoning=answer.reasoning,
        text=answer.text,
        status=None if verdict is None else verdict.status,
        extracted=None if verdict is None else verdict.extracted,
        num_latents=answer.num_latents,
        stop_reason=answer.stop_reason,
        from_file=stored is not None,
    )


def inspect_stored(folder: Path, *, index: int | None = None, text: str | None = None, top: int = 5) -> Inspection:
    """An answer of an evaluation whose run is not at hand, from its records and `latents.json`.

    Args:
        folder: of the evaluation, such as one of `results/`.
        index: of the question, from 0; None: the first whose latent steps are kept.
        text: a question of the evaluation instead, where its task's data are at hand.
        top: tokens per latent step.
    Raises: ValueError: the folder keeps no latent steps, or none of this answer.
    """
    evaluation = read_evaluation(folder)
    manifest, records = evaluation.manifest, evaluation.records
    kept = read_measure(folder, LatentsFile, manifest)
    if kept is None or not kept.rows:
        raise ValueError(f"{folder} keeps no latent steps; `latbench trace RUN` writes them beside a run's records")
    examples = {example.id: example for example in asked(manifest)}
    firsts = {place: record for place, record in enumerate(records) if record.sample == 0 and place in kept.rows}
    if text is not None:
        chosen = (place for place, record in firsts.items() if (e := examples.get(record.id)) and e.question == text)
    else:
        wanted = {record.id: None for record in records}  # in order of the questions
        names = list(wanted) if index is None else list(wanted)[index : index + 1]
        chosen = (place for place, record in firsts.items() if record.id in names)
    place = next(chosen, None)
    if place is None:
        order = {name: number for number, name in enumerate(dict.fromkeys(record.id for record in records))}
        known = ", ".join(str(order[record.id]) for record in list(firsts.values())[:10])
        raise ValueError(f"{folder} keeps no latent steps of this question; choose --index among {known} ...")
    record, example = records[place], examples.get(records[place].id)
    steps = kept.get(place, top)
    return Inspection(
        run=manifest.run,
        id=record.id,
        question="not at hand" if example is None else example.question,
        steps=() if example is None else example.steps,
        gold=record.gold,
        latents=tuple(InspectedStep(entropy=step.entropy, tokens=step.tokens, segment="") for step in steps),
        reasoning=record.reasoning,
        text=record.text,
        status=record.status,
        extracted=record.extracted,
        num_latents=record.num_latents,
        stop_reason=record.stop_reason,
        from_file=True,
    )


def _find(examples: Sequence[Example], index: int, text: str | None) -> tuple[int | None, Example]:
    """The question with its place in the split, None for a free text."""
    if text is None:
        if not 0 <= index < len(examples):
            raise ValueError(f"--index {index} is none of the questions 0 to {len(examples) - 1}; choose one of them")
        return index, examples[index]
    asked_as = ((place, example) for place, example in enumerate(examples) if example.question == text)
    return next(asked_as, (None, Example(id="", question=text, steps=(), answer="")))


def _stored_latents(job: EvalJob, place: int) -> AnswerLatents | None:
    """The latent steps on file; None where there is no complete trace."""
    folder = job.folder / TRACE
    return StoredTrace.open(folder, of=job.manifest).get(place) if (folder / TRACE_HEADER).exists() else None


def _drawn(trace: LatentTrace | None) -> AnswerLatents | None:
    """The latent steps of an answer made now; None where it took none."""
    if trace is None:
        return None
    columns = {name: getattr(trace, name).float().cpu().numpy() for name in COLUMNS if name != "ids"}
    return AnswerLatents(ids=trace.ids.cpu().numpy(), **columns, texts=trace.texts)


def _record(job: EvalJob, example: Example) -> Record | None:
    """The first answer on file; None where the evaluation has not come that far or was of other questions."""
    if not (job.folder / MANIFEST).exists() or records_path(job.folder) is None:
        return None
    evaluation = read_evaluation(job.folder)
    if evaluation.manifest.questions_sha256 != job.manifest.questions_sha256:
        return None
    return next((record for record in evaluation.records if (record.id, record.sample) == (example.id, 0)), None)


def _generate(run: Run, settings: EvalConfig, example: Example, top: int) -> Generation:
    """The answer with its trace, as an evaluation would draw it."""
    from latbench.decoding.loop import Prompt

    config = replace(settings.generate, trace_top_k=max(settings.generate.trace_top_k, top))
    prompt = Prompt(id=example.id, text=example.question)
    return run.method.generate([prompt], config, seed=settings.seed, trace=True)[0]


def _latents(run: Run, trace: AnswerLatents, example: Example, top: int) -> tuple[InspectedStep, ...]:
    layout = run.method.backbone.layout
    return latent_steps(trace, layout.steps(example.steps), layout.tokenizer.decode, top)


def latent_steps(
    trace: AnswerLatents, chain: Sequence[int], decode: Callable[[list[int]], str], top: int
) -> tuple[InspectedStep, ...]:
    """Latent steps as text, in order.

    Args:
        chain: ids of the gold chain, cut evenly: step t = 1 .. m has ids ceil((t - 1) T / m) + 1 to ceil(t T / m), so
            that a shorter segment comes last, as where every r tokens were condensed.
        decode: ids -> text, special tokens included.
        top: tokens per step.
    """
    num = len(trace.entropy)
    cuts = even_cuts(len(chain), num)
    texts: Sequence[str | None] = trace.texts or [None] * num
    rows = zip(trace.entropy.tolist(), trace.ids.tolist(), trace.weights.tolist(), pairwise(cuts), texts, strict=True)
    return tuple(
        InspectedStep(
            entropy=entropy,
            tokens=tuple((decode([token]), weight) for token, weight in zip(ids[:top], weights[:top], strict=True)),
            segment=decode(list(chain[start:end])),
            text=text,
        )
        for entropy, ids, weights, (start, end), text in rows
    )


def render(found: Inspection) -> str:
    """Plain text; whatever could act on a terminal is written as an escape."""
    known = found.gold is not None
    head = {
        "question": printable(found.question),
        "gold steps": printable("\n".join(found.steps)) if found.steps else "none" if known else "unknown",
        "gold answer": printable(found.gold) if found.gold is not None else "unknown",
    }
    read = "" if found.extracted is None else f", read as {printable(found.extracted)}"
    origin = "stored trace" if found.from_file else "generated now"
    tail = {
        **({"reasoning": printable(found.reasoning)} if found.reasoning else {}),
        "answer": printable(found.text) or "none",
        "verdict": f"{found.status}{read}" if found.status else "not scored",
        "latent steps": f"{found.num_latents} ({origin})",
        "stopped by": found.stop_reason,
    }
    blocks = [_lines(head), *([_table(found.latents)] if found.latents else []), _lines(tail)]
    return "\n\n".join(blocks) + "\n"


def _lines(texts: dict[str, str]) -> str:
    width = max(map(len, texts))
    return "\n".join(f"{name:{width}}  {text}".rstrip() for name, text in texts.items())


def _table(latents: Sequence[InspectedStep]) -> str:
    from tabulate import tabulate

    is_read = any(step.text is not None for step in latents)
    columns = ("step", "entropy, nats", "top tokens", *(("read as",) if is_read else ()), "gold segment")
    rows = [
        [
            str(number),
            f"{step.entropy:.2f}",
            "  ".join(f"'{printable(token)}' {weight:.3f}" for token, weight in step.tokens),
            *((_quoted(step.text),) if is_read else ()),
            _quoted(step.segment),
        ]
        for number, step in enumerate(latents, start=1)
    ]
    sides = ["right", "right", *["left"] * (len(columns) - 2)]
    return tabulate(rows, columns, tablefmt="simple", disable_numparse=True, colalign=sides)


def _quoted(text: str | None) -> str:
    return f"'{printable(text)}'" if text else ""
