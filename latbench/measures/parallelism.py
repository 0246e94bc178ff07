"""Compression and parallelism of a run from its stored trace, against gold chains, known paths and known graphs.

Reference latents of a path are the mean input embeddings of its spans' tokens, for every method; where a helper model
of the training makes latents of chains (`Method.label_latents`), also those it makes of the same spans. A step's
distribution is what it mixed; of methods that feed something else, what the LM head reads in the hidden state. Both are
kept by their largest entries alone (`generate.trace_top_k`, 50; the paper's code counts 100 for N_eff).

Where all paths are orders of the same steps, as in `synth`, N_eff is close to M for any good chain, one in a single
order included: its matching takes a step wherever it stands. There the graph measures tell (known_graph.py), and N_eff
against random matchings says no more than that latents lie near the embeddings of what they hold.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import fsum
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from latbench.config import GenerateConfig
from latbench.decoding.latent_trace import LabelLatents
from latbench.decoding.rule import LatentRule, Mode, RowState
from latbench.evaluation.job import EvalJob
from latbench.evaluation.records import TRACE, TRACE_HEADER
from latbench.evaluation.statistics import Interval, mean_interval
from latbench.measures.compression import (
    MASS_TOP_K,
    TRIALS,
    Floats,
    Steps,
    compression_rate,
    distance_between,
    distance_from,
    even_cuts,
    mean_distances,
    mean_references,
    path_parallelism,
    sizes,
    spans,
)
from latbench.measures.known_graph import THRESHOLD, Known, superposition, told_apart
from latbench.measures.latents import AnswerLatents, StoredTrace
from latbench.measures.measure_files import GraphParallelism, MeasureHeader, ParallelismFile, Paths, Rate, write_measure
from latbench.measures.paths import KnownPaths, chosen, read_paths
from latbench.method import Method
from latbench.model.backbone import Backbone
from latbench.model.layout import Layout
from latbench.runs.lock import locked
from latbench.task import Example, Task
from latbench.util.progress import progress

MAX_PATHS = 16  # of a question
LABEL_BATCH = 256

Row = tuple[Steps, Sequence[int], Sequence[int]]  # steps, chain, cuts: see `compression.segment_hits`
References = Callable[["_Problem"], Sequence[Floats | None]]  # reference latents of each path: (reference, hidden)


def parallelism(
    job: EvalJob,
    *,
    paths_file: Path | None = None,
    max_paths: int = MAX_PATHS,
    threshold: float = THRESHOLD,
) -> tuple[Path, ParallelismFile]:
    """Measure a stored trace, on the first answer to each question.

    Args:
        job: the evaluation whose trace is on file.
        paths_file: chains of `latbench paths`; None: those that the task knows.
        max_paths: most paths of a question, the gold chain among them.
        threshold: of the graph measures.
    Returns: the file, `parallelism.json` beside the records, and what it holds.
    Raises: ValueError: no complete trace of this evaluation, or paths of other questions.
    """
    task, examples, seed = job.task, job.examples, job.settings.seed
    stored = _stored(job)
    known = read_paths(paths_file, job.manifest.questions_sha256) if paths_file else _known_paths(task, examples)
    answers = [_Answer(example, _steps(stored.get(index))) for index, example in enumerate(examples)]
    method = job.run.with_helpers_for("label_latents").method
    layout, vocab = method.backbone.layout, len(method.backbone.model.get_input_embeddings().weight)
    own = [_row(answer, layout.steps(answer.example.steps)) for answer in answers if answer.example.steps]
    own = [row for row in own if len(row[0])]
    of_chains = _label_rows(method, examples)
    labels = [row for row in of_chains if row]
    top_k = stored.header.top_k
    problems = _problems(answers, known, layout, max_paths, seed)
    counted = min(top_k, MASS_TOP_K)

    def paths(references: References) -> Paths | None:
        return _paths(problems, references, known.source, max_paths, counted)

    found = ParallelismFile(
        header=MeasureHeader.of(job.manifest, seed=seed),
        read_through=_read_through(method, job.settings.generate),
        vocab=vocab,
        top_k=top_k,
        num_latents=sum(len(answer.steps) for answer in answers),
        **_distances(answers, method.backbone),
        tokens_per_latent=_tokens_per_latent(own),
        ecr=_rates(own, vocab),
        label_tokens_per_latent=_tokens_per_latent(labels),
        label_ecr=_rates(labels, vocab),
        label_distance=mean_distances([(a.steps, row[0]) for a, row in zip(answers, of_chains, strict=True) if row]),
        paths=paths(partial(_mean_references, table=_Embeddings(method.backbone))),
        label_references=paths(partial(_label_references, method=method)),
        graph=_graph(task, answers, layout, threshold, seed),
    )
    with locked(job.folder):
        return write_measure(job.folder, found), found


@dataclass(frozen=True)
class _Answer:
    """A question with the latent steps of its first answer."""

    example: Example
    steps: Steps


def _stored(job: EvalJob) -> StoredTrace:
    folder = job.folder / TRACE
    if not (folder / TRACE_HEADER).exists():
        raise ValueError(
            f"no complete trace in {folder}; make it with `latbench trace {job.run.folder}` and the same options"
        )
    return StoredTrace.open(folder, of=job.manifest)


def _steps(latents: AnswerLatents) -> Steps:
    return Steps(latents.ids, latents.weights, latents.embeds)


@torch.no_grad()
def _distances(answers: Sequence[_Answer], backbone: Backbone) -> dict[str, Interval | None]:
    """Fields of the file, by name: of each answer's latents from each other and from the mean input embedding."""
    vocab = torch.arange(len(backbone.model.get_input_embeddings().weight), device=backbone.device)
    centre = backbone.embed(vocab).float().mean(0).cpu().numpy()  # some models scale what their table holds
    fed = [embeds for answer in answers if (embeds := answer.steps.embeds) is not None]
    return {
        "between_latents": _mean_distance([distance_between(embeds) for embeds in fed]),
        "from_centre": _mean_distance([distance_from(embeds, centre) for embeds in fed]),
    }


def _mean_distance(found: Sequence[float | None]) -> Interval | None:
    there = [distance for distance in found if distance is not None]
    return mean_interval(there).clipped(low=0) if there else None


def _known_paths(task: Task[Any], examples: Sequence[Example]) -> KnownPaths:
    return KnownPaths(f"task {task.name}", {example.id: task.paths(example) for example in examples})


@torch.no_grad()
def _read_through(method: Method[Any], config: GenerateConfig) -> Literal["mixture", "LM head"]:
    """Asks the rule for one step: what it says it mixed is what a trace keeps."""
    rule, backbone = method.rule(config), method.backbone
    if not isinstance(rule, LatentRule):
        return "LM head"
    table = backbone.model.get_input_embeddings().weight
    rows = RowState.fresh(torch.zeros(1, dtype=torch.long, device=table.device), Mode.LATENT)
    latent = rule.latent(table.new_zeros(1, backbone.hidden_size), table.new_zeros(1, len(table)), rows)
    return "LM head" if latent.mixture is None else "mixture"


# ECR


def _row(answer: _Answer, chain: Sequence[int]) -> Row:
    return answer.steps, chain, even_cuts(len(chain), len(answer.steps))


def _label_rows(method: Method[Any], examples: Sequence[Example]) -> list[Row | None]:
    """What a helper model makes of the gold chains, in the segments it made it of; None where it makes nothing."""
    rows: list[Row | None] = []
    for start in range(0, len(examples), LABEL_BATCH):
        batch = examples[start : start + LABEL_BATCH]
        for example, label in zip(batch, method.label_latents(batch), strict=True):
            chain = method.backbone.layout.steps(example.steps)
            rows.append(None if label is None else (_mixed(label), chain, label.cuts))
    return rows


def _mixed(label: LabelLatents) -> Steps:
    return Steps(label.ids.numpy(), label.weights.numpy())


def _tokens_per_latent(rows: Sequence[Row]) -> float | None:
    count = sum(len(steps) for steps, _, _ in rows)
    return sum(len(chain) for _, chain, _ in rows) / count if count else None


def _rates(rows: Sequence[Row], vocab: int) -> list[Rate]:
    """At the sizes that a step's entries reach: beyond them, ECR@K would only repeat."""
    widest = max((int((steps.weights > 0).sum(-1).max()) for steps, _, _ in rows), default=0)
    return [compression_rate(rows, k) for k in sizes(vocab, widest)]


# N_eff


@dataclass(frozen=True)
class _Problem:
    """A question with latent steps and two paths or more, as examples that have them for their chains."""

    key: str
    steps: Steps
    paths: Sequence[Example]
    chains: Sequence[Sequence[int]]


def _problems(answers: Sequence[_Answer], known: KnownPaths, layout: Layout, cap: int, seed: int) -> list[_Problem]:
    found = []
    for answer in answers:
        example, key = answer.example, f"{seed} {answer.example.id}"
        steps = chosen(example.steps, known.by_id.get(example.id, ()), cap, key) if len(answer.steps) else []
        paths = [path for path in steps if layout.steps(path)]
        if len(paths) > 1:
            asked = [replace(example, steps=tuple(path)) for path in paths]
            found.append(_Problem(key, answer.steps, asked, [layout.steps(path) for path in paths]))
    return found


def _mean_references(one: _Problem, table: Mapping[int, Floats]) -> list[Floats | None]:
    return [mean_references(np.stack([table[token] for token in chain]), len(one.steps)) for chain in one.chains]


def _label_references(one: _Problem, method: Method[Any]) -> list[Floats | None]:
    """What the helper model makes of the spans that step 1 of N_eff cuts."""
    parts = [spans(len(chain), min(len(one.steps), len(chain))) for chain in one.chains]
    labels = method.label_latents(one.paths, [[0, *(end for _, end in bounds)] for bounds in parts])
    return [None if label is None else label.embeds.numpy() for label in labels]


def _paths(problems: Sequence[_Problem], references: References, source: str, cap: int, top_k: int) -> Paths | None:
    """Means over the questions all of whose paths have references; None where there is none."""
    found = []
    with progress("paths", total=len(problems)) as advance:
        for one in problems:
            there = [latents for latents in references(one) if latents is not None]
            if len(there) == len(one.chains):
                pairs = list(zip(one.chains, there, strict=True))
                found.append(path_parallelism(one.steps, pairs, one.key, top_k=top_k))
            advance(1)
    if not found:
        return None
    most = max(one.num_paths for one in found)
    return Paths(
        source=source,
        cap=cap,
        num_questions=len(found),
        mean_paths=fsum(one.num_paths for one in found) / len(found),
        max_paths=most,
        trials=TRIALS,
        top_k=top_k,
        n_eff=mean_interval([one.n_eff for one in found]).clipped(1, most),
        n_eff_random=mean_interval([one.n_eff_random for one in found]).clipped(1, most),
        ratio=mean_interval([one.ratio for one in found]).clipped(1 / most, most),
    )


class _Embeddings(dict[int, Floats]):
    """Input embeddings by id, looked up once each: (hidden,) float32."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    @torch.no_grad()
    def __missing__(self, token: int) -> Floats:
        row: Floats = self.backbone.embed(torch.tensor(token, device=self.backbone.device)).float().cpu().numpy()
        self[token] = row
        return row


# graphs


def _graph(
    task: Task[Any], answers: Sequence[_Answer], layout: Layout, threshold: float, seed: int
) -> GraphParallelism | None:
    rows = [(answer.steps, known) for answer in answers if (known := _known(task, answer.example, layout))]
    random.Random(f"graphs {seed}").shuffle(rows)  # levels come in turn, and neighbours are paired for chance
    return superposition(rows, threshold)


def _known(task: Task[Any], example: Example, layout: Layout) -> Known | None:
    nodes = task.graph(example)
    if not nodes:
        return None
    values, steps = (
        [layout.tokenizer.encode(text, add_special_tokens=False) for text in texts]
        for texts in ([node.value for node in nodes], [node.step for node in nodes])
    )
    tokens = [frozenset(value) for value in values]
    needs = [node.needs for node in nodes]
    return Known(
        values=tokens,
        needs=needs,
        order=[example.steps.index(node.step) for node in nodes],
        counts=told_apart(tokens, steps, needs),
    )
