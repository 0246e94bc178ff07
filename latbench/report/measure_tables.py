"""Tables of what was measured beyond the records: parallelism, known graphs, latent reliance, cost of an answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import fsum
from statistics import median
from typing import Any, TypeVar

from latbench.evaluation.statistics import Interval
from latbench.measures.measure_files import (
    CostFile,
    Effect,
    GraphParallelism,
    Measures,
    ParallelismFile,
    Paths,
    Rate,
    effects,
)
from latbench.report.columns import Column, Show, count, differs, interval, mean, number_text
from latbench.report.table import Head, Line, Table, table

T = TypeVar("T")
SEEDS = "runs that differ in the seed alone; figures are their means."
INTERVALS = "Intervals (95 %) are over questions for one run, over seeds for several."
RELIANCE_TITLE = (
    "Latent reliance: accuracy (%) on the first answer to each question with the latents replaced, their number that "
    "of the untouched run (cut: the close marker comes after so many). Change: points against the untouched run, 95 % "
    "intervals; p: exact McNemar on the same questions, the largest of the seeds."
)


@dataclass(frozen=True)
class Measured:
    """One cell: what tells it from the others, and the measures of each of its seeds."""

    names: tuple[str, ...]
    seeds: Sequence[Measures]
    cell: int | None = None
    """Its place in the section."""

    def lines(self, items: Sequence[T], alike: Callable[[T], Any]) -> list[Line[T]]:
        """A line for all that was measured alike: nothing else may be averaged."""
        groups: dict[Any, list[T]] = {}
        for item in items:
            groups.setdefault(alike(item), []).append(item)
        return [Line(self.names, group, self.cell) for group in groups.values()]


def measure_tables(names: Sequence[Head], cells: Sequence[Measured]) -> list[Table]:
    """Tables of the cells that were measured; a kind that no cell has is left out.

    Args:
        names: heads of what tells the cells apart.
        cells: in the order of the lines.
    """
    made = [_compression(names, cells), _graphs(names, cells), _reliance(names, cells), _cost(names, cells)]
    return [one for one in made if one.lines]


def tables_of_run(found: Measures) -> list[Table]:
    """The tables of one run."""
    return measure_tables([], [Measured((), [found])])


# Compression and parallelism


@dataclass(frozen=True, kw_only=True)
class _Latents:
    """The latents of one kind in one run: its own, or the labels of its training, of which no paths are known."""

    kind: str
    ecr: Sequence[Rate]
    tokens: float | None
    between: Interval | None = None
    centre: Interval | None = None
    label_distance: Sequence[float] | None = None
    paths: Paths | None = None
    label_references: Paths | None = None

    def rate(self, k: int) -> Rate | None:
        return next((rate for rate in self.ecr if rate.k == k), None)


def _own(found: ParallelismFile) -> _Latents:
    return _Latents(
        kind=found.read_through,
        ecr=found.ecr,
        tokens=found.tokens_per_latent,
        between=found.between_latents,
        centre=found.from_centre,
        label_distance=found.label_distance or None,
        paths=found.paths,
        label_references=found.label_references,
    )


def _labels(found: ParallelismFile) -> _Latents:
    return _Latents(kind="labels", ecr=found.label_ecr, tokens=found.label_tokens_per_latent)


def _paths_known(latents: _Latents) -> str | None:
    return f"{latents.paths.source}, at most {latents.paths.cap}" if latents.paths else None


def _kinds(values: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(values))


def _chances(rates: Sequence[Rate]) -> str:
    anywhere, in_place = _mean([rate.chance for rate in rates]), _mean([rate.chance_in_place for rate in rates])
    return f"{number_text(anywhere, '.2f')} / {number_text(in_place, '.2f')}"


def _num_paths(found: Sequence[Paths]) -> str:
    most = max(paths.max_paths for paths in found)
    return f"2 to {most}, mean {number_text(_mean([paths.mean_paths for paths in found]), '.2f')}"


def _over_paths(value: Callable[[Paths], Interval]) -> Show:
    """An effective number of paths: at least one, at most all."""

    def show(found: Sequence[Paths]) -> str:
        most = max(paths.max_paths for paths in found)
        return interval(digits=2, low=1, high=most)([value(paths) for paths in found])

    return show


def _ecr(k: int) -> list[Column[_Latents]]:
    return [
        Column(
            f"ECR@{k}", lambda latents: (rate := latents.rate(k)) and rate.value, interval(digits=2),
            legend=f"tokens of a latent's segment of the gold chain that are among its {k} largest entries.",
        ),
        Column(
            f"chance@{k}", lambda latents: latents.rate(k), _chances,
            legend=f"ECR@{k} with segments shuffled across examples / across examples at the same step.",
        ),
    ]  # fmt: skip


def _some(of: Callable[[_Latents], Any], heading: str, show: Show, legend: str) -> Column[_Latents]:
    """A column that stands where some line has a value."""
    return Column(heading, of, show, if_known=True, legend=legend)


def _paths_column(heading: str, show: Show, legend: str) -> Column[_Latents]:
    return _some(lambda latents: latents.paths, heading, show, legend)


_BEFORE_ECR: tuple[Column[_Latents], ...] = (
    Column(
        "read from", lambda latents: latents.kind, _kinds, is_text=True,
        legend="what a latent's entries are: those of the mixture that was fed, what the LM head reads in a hidden "
        "state, or the labels that training made of gold chains.",
    ),
    Column("seeds", lambda latents: latents, count, legend=SEEDS),
    Column("r", lambda latents: latents.tokens, mean(".2f"), legend="tokens of the gold chain for each latent."),
)  # fmt: skip
_AFTER_ECR: tuple[Column[_Latents], ...] = (
    _some(
        lambda latents: latents.between, "between latents", interval(digits=2),
        "Euclidean distance of an answer's latents from each other; near zero where they have collapsed into one.",
    ),
    _some(
        lambda latents: latents.centre, "from centre", interval(digits=2),
        "Euclidean distance of an answer's latents from the mean input embedding.",
    ),
    _some(
        lambda latents: latents.label_distance,
        "apart from labels, by step",
        lambda rows: _first_steps(_means(rows, ".2f")),
        "total variation between a step and the label of the gold chain at its place.",
    ),
    Column("paths", _paths_known, is_text=True, when=differs(_paths_known), legend="where the known paths come from."),
    _paths_column("M", _num_paths, "known paths of a question: from two to the largest number, and the mean."),
    _paths_column("N_eff", _over_paths(lambda paths: paths.n_eff), "effective number of these paths in the latents."),
    _paths_column(
        "N_eff random", _over_paths(lambda paths: paths.n_eff_random), "the same with random matchings."
    ),
    _some(
        lambda latents: latents.paths and latents.paths.ratio, "ratio", interval(digits=3),
        "N_eff / N_eff random, mean over questions.",
    ),
    _some(
        lambda latents: latents.label_references, "N_eff, labels", _over_paths(lambda paths: paths.n_eff),
        "N_eff with what the encoder of the training makes of a path's spans as reference latents.",
    ),
    _some(
        lambda latents: latents.label_references and latents.label_references.ratio,
        "ratio, labels",
        interval(digits=3),
        "the ratio with the same reference latents.",
    ),
)  # fmt: skip


def _compression(names: Sequence[Head], cells: Sequence[Measured]) -> Table:
    lines: list[Line[_Latents]] = []
    for cell in cells:
        files = [measures.parallelism for measures in cell.seeds if measures.parallelism is not None]
        lines += cell.lines([_own(found) for found in files], _paths_known)
        lines += cell.lines([_labels(found) for found in files if found.label_ecr], _paths_known)
    items = [latents for line in lines for latents in line.items]
    ks = sorted({rate.k for latents in items for rate in latents.ecr})
    columns = [*_BEFORE_ECR, *(column for k in ks for column in _ecr(k)), *_AFTER_ECR]
    return table(_compression_title(items), names, columns, lines)


def _compression_title(items: Sequence[_Latents]) -> str:
    every = [latents.paths for latents in items if latents.paths]
    sources = "; ".join(dict.fromkeys(f"{paths.source}, {paths.num_questions} questions" for paths in every))
    about_paths = (
        f" N_eff: effective number of the M known paths ({sources}), of which the {max(one.top_k for one in every)} "
        "largest entries of a step count; beside it that of random matchings, and the mean ratio. Reference latents "
        "are mean embeddings of a path's spans."
        if every
        else ""
    )
    if any(latents.label_references for latents in items):
        about_paths += " N_eff, labels: with what the encoder of the training makes of these spans as references."
    distances = (
        " Between latents, from centre: Euclidean distance of an answer's latents from each other and from the mean "
        "input embedding; the former is near zero where they have collapsed into one."
        if any(latents.between or latents.centre for latents in items)
        else ""
    )
    apart = (
        " Apart from labels: total variation between a step and the label of the gold chain at its place."
        if any(latents.label_distance for latents in items)
        else ""
    )
    return (
        "Compression and parallelism, from the latent steps of the first answers: what they mixed, what the LM head "
        "reads where hidden states are fed, or the labels that training made of gold chains. ECR@K: tokens of a "
        "latent's segment of the gold chain (r tokens on average) among its K largest entries; chance: with segments "
        f"shuffled across examples / across examples at the same step.{distances}{apart}{about_paths} {INTERVALS}"
    )


# Latent steps against the known graph


def _threshold(graph: GraphParallelism) -> str:
    return f"{graph.threshold:g}"


def _percents(values: Sequence[Interval | float]) -> str:
    """Mean over seeds in percent; with an interval where some have one."""
    if intervals := [value for value in values if isinstance(value, Interval)]:
        return interval(100, high=1)(intervals)
    return mean(".1f", 100)(values)


def _by_step(graphs: Sequence[GraphParallelism]) -> str:
    """Quantities carried / computable at latent step 1, 2 ..."""
    carried = _means([graph.carried for graph in graphs], ".1f")
    computable = _means([graph.computable for graph in graphs], ".1f")
    return _first_steps([f"{some}/{all_}" for some, all_ in zip(carried, computable, strict=True)])


_GRAPH: tuple[Column[GraphParallelism], ...] = (
    Column(
        "threshold", _threshold, is_text=True, when=differs(_threshold),
        legend="probability that all tokens of a value have where a step carries it.",
    ),
    Column("seeds", lambda graph: graph, count, legend=SEEDS),
    Column(
        "carried", lambda graph: graph.share_carried, _percents,
        legend="% of the quantities that could be computed next which a step carries.",
    ),
    Column(
        "by chance", lambda graph: graph.chance_carried, _percents,
        legend="the same with the graph of another question.",
    ),
    Column(
        "two at once", lambda graph: graph.share_parallel, _percents,
        legend="% of the steps at which two quantities or more could be computed that carry two or more.",
    ),
    Column(
        "two by chance", lambda graph: graph.chance_parallel, _percents,
        legend="the same with the graph of another question.",
    ),
    Column(
        "by step", lambda graph: graph, _by_step,
        legend="quantities carried / computable at latent step 1, 2 and so on, means.",
    ),
    Column("settled", lambda graph: graph.settled, _percents, legend="% of all quantities that some step carries."),
    Column(
        "early", lambda graph: graph.early, _percents,
        legend="quantities that are settled before all that they need is settled, in %.",
    ),
    Column(
        "needed first", lambda graph: graph.in_order, _percents,
        legend="% of pairs of quantities one of which needs the other: the needed one is settled first.",
    ),
    Column(
        "together", lambda graph: graph.together, _percents,
        legend="% of the same pairs: both are settled at one step.",
    ),
    Column(
        "needed last", lambda graph: graph.reversed, _percents,
        legend="% of the same pairs: the needed one is settled last.",
    ),
    Column(
        "gold order", lambda graph: graph.gold_order, _percents,
        legend="% of pairs settled at two steps that are settled in the order of the gold chain.",
    ),
)  # fmt: skip


def _graphs(names: Sequence[Head], cells: Sequence[Measured]) -> Table:
    lines = [line for cell in cells for line in cell.lines(_graphs_of(cell), _threshold)]
    thresholds = ", ".join(dict.fromkeys(_threshold(graph) for line in lines for graph in line.items))
    title = (
        "Latent steps against the known graph (%). A quantity carries probability at a step where all tokens of its "
        f"value have {thresholds} at least, and is settled from then on. Carried: of the quantities that could be "
        "computed next; two at once: of the steps at which two or more could; both also with the graph of another "
        "question. Settled: of all quantities; early: before all that they need. Needed first, together, last: of "
        "pairs of quantities one of which needs the other. Gold order: of pairs settled apart. Quantities whose value "
        f"is written elsewhere too are left out. By step: carried / computable, means. {INTERVALS}"
    )
    return table(title, names, _GRAPH, lines)


def _graphs_of(cell: Measured) -> list[GraphParallelism]:
    files = [measures.parallelism for measures in cell.seeds if measures.parallelism is not None]
    return [found.graph for found in files if found.graph is not None]


# Latent reliance


_RELIANCE: tuple[Column[Effect], ...] = (
    Column(
        "latents", lambda effect: effect.name, is_text=True,
        legend="what is fed in place of the latent steps, or after how many they are cut off.",
    ),
    Column("seeds", lambda effect: effect, count, legend=SEEDS),
    Column(
        "accuracy", lambda effect: effect.accuracy, interval(100, high=1),
        legend="% of the first answers that are right.",
    ),
    Column(
        "change", lambda effect: effect.change, interval(100, low=-1, high=1),
        legend="points against the untouched run.",
    ),
    Column(
        "p", lambda effect: effect.p_value, lambda values: number_text(max(values), ".2g"),
        legend="exact McNemar test on the same questions, the largest of the seeds.",
    ),
)  # fmt: skip


def _reliance(names: Sequence[Head], cells: Sequence[Measured]) -> Table:
    lines = [line for cell in cells for line in cell.lines(_effects_of(cell), lambda effect: effect.name)]
    return table(RELIANCE_TITLE, names, _RELIANCE, lines)


def _effects_of(cell: Measured) -> list[Effect]:
    files = [measures.reliance for measures in cell.seeds if measures.reliance is not None]
    return [effect for found in files for effect in effects(found)]


# Cost of an answer


def _circumstances(cost: CostFile) -> str:
    gpus = cost.hardware.get("gpus") or []
    machine = ", ".join(map(str, gpus)) or f"{cost.hardware.get('cores')} cores of {cost.hardware.get('cpu')}"
    return f"batch {cost.batch_size} on {machine} beside {re.sub(r'-s[0-9]+$', '', cost.reference)}"


_COST: tuple[Column[CostFile], ...] = (
    Column(
        "circumstances", _circumstances, is_text=True, when=differs(_circumstances),
        legend="batch and machine of the full batch, and the run that took turns with this one.",
    ),
    Column("seeds", lambda cost: cost, count, legend=SEEDS),
    Column(
        "FLOPs", lambda cost: cost.flops, mean(".2e"),
        legend="floating-point operations of an answer, by formula.",
    ),
    Column(
        "ms, batch 1", lambda cost: 1000 * median(cost.seconds_single), mean(".1f"),
        legend="milliseconds of an answer one by one, median of rounds.",
    ),
    Column(
        "ratio, batch 1", lambda cost: cost.ratio_single, mean(".2f"),
        legend="that time / the reference's in the same rounds.",
    ),
    Column(
        "ms, full batch", lambda cost: 1000 * median(cost.seconds_full), mean(".2f"),
        legend="milliseconds of an answer in a full batch, median of rounds.",
    ),
    Column(
        "ratio, full batch", lambda cost: cost.ratio_full, mean(".2f"),
        legend="that time / the reference's in the same rounds.",
    ),
    Column(
        "peak MiB", lambda cost: cost.peak_memory_bytes, mean(".0f", 2**-20),
        legend="peak memory of the evaluation's process.",
    ),
)  # fmt: skip


def _cost(names: Sequence[Head], cells: Sequence[Measured]) -> Table:
    lines = [
        line
        for cell in cells
        for line in cell.lines([one.cost for one in cell.seeds if one.cost is not None], _circumstances)
    ]
    circumstances = "; ".join(dict.fromkeys(_circumstances(line.items[0]) for line in lines))
    title = (
        "Cost of an answer: floating-point operations by the formula of measures/answer_cost.py; milliseconds at batch "
        f"1 and at full batch, medians of rounds ({circumstances}); ratios to the reference, which took turns with the "
        "run; peak memory of the evaluation's process. Means over seeds."
    )
    return table(title, names, _COST, lines)


def _means(rows: Sequence[Sequence[float]], spec: str) -> list[str]:
    """Means over the rows that reach a step, of each step."""
    steps = range(max(map(len, rows), default=0))
    return [number_text(_mean([row[step] for row in rows if step < len(row)]), spec) for step in steps]


def _first_steps(texts: Sequence[str], shown: int = 8) -> str:
    return ", ".join([*texts[:shown], *["..."] * (len(texts) > shown)]) or "–"


def _mean(values: Sequence[float]) -> float | None:
    return fsum(values) / len(values) if values else None
