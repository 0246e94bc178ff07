"""Tables of what was measured beyond the records: parallelism, known graphs, latent reliance, cost of an answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import fsum, inf
from statistics import median
from typing import TypeVar

from latbench.evaluation.statistics import Interval, over_seeds
from latbench.measures.files import CostFile, Effect, Graph, Measures, ParallelismFile, Paths, Rate, effects
from latbench.report.formats import DASH, Table, interval_text, markdown_table, number_text

T = TypeVar("T")
INTERVALS = "Intervals (95 %) are over questions for one run, over seeds for several."
RELIANCE_TITLE = """\
Latent reliance: accuracy (%) on the first answer to each question with the latents replaced, their number that of the
untouched run (cut: the close marker comes after so many). Change: points against the untouched run, 95 % intervals;
p: exact McNemar on the same questions, the largest of the seeds."""


@dataclass(frozen=True)
class Measured:
    """One cell: what tells it from others, by heading, and the measures of each of its seeds."""

    names: Mapping[str, str]
    seeds: Sequence[Measures]

    @property
    def parallelism(self) -> list[ParallelismFile]:
        """Of the seeds that have it."""
        return [one.parallelism for one in self.seeds if one.parallelism is not None]


def measure_tables(cells: Sequence[Measured]) -> list[Table]:
    """Tables of the cells that were measured; a kind that no cell has is left out."""
    made = [_compression(cells), _graphs(cells), _reliance(cells), _cost(cells)]
    return [table for table in made if table.lines]


def measure_text(found: Measures) -> str:
    """The tables of one run, as plain text."""
    tables = measure_tables([Measured({}, [found])])
    return "\n\n".join(part for table in tables for part in (table.title, markdown_table(table))) + "\n"


@dataclass(frozen=True)
class _Line:
    """Latents of one kind in one cell: the run's own, or labels, which have no paths."""

    cell: Measured
    found: Sequence[ParallelismFile]
    labels: bool

    def rates(self, k: int) -> list[Rate]:
        every = [rate for one in self.found for rate in (one.label_ecr if self.labels else one.ecr)]
        return [rate for rate in every if rate.k == k]

    @property
    def kind(self) -> str:
        return "labels" if self.labels else ", ".join(dict.fromkeys(one.read_through for one in self.found))

    @property
    def tokens(self) -> list[float]:
        every = [one.label_tokens_per_latent if self.labels else one.tokens_per_latent for one in self.found]
        return [value for value in every if value is not None]

    def distances(self, name: str) -> list[Interval]:
        every = [] if self.labels else [getattr(one, name) for one in self.found]
        return [interval for interval in every if interval is not None]

    @property
    def paths(self) -> list[Paths]:
        return [] if self.labels else [one.paths for one in self.found if one.paths is not None]

    @property
    def label_distances(self) -> list[list[float]]:
        return [] if self.labels else [one.label_distance for one in self.found if one.label_distance]

    @property
    def label_references(self) -> list[Paths]:
        return [] if self.labels else [one.label_references for one in self.found if one.label_references is not None]


def _compression(cells: Sequence[Measured]) -> Table:
    found = [(cell, cell.parallelism) for cell in cells]
    lines = [
        _Line(cell, files, labels)
        for cell, every in found
        for labels in (False, True)
        for files in _alike([one for one in every if one.label_ecr or not labels], partial(_paths_known, labels=labels))
    ]
    ks = sorted({rate.k for line in lines for one in line.found for rate in (*one.ecr, *one.label_ecr)})
    columns: dict[str, Callable[[_Line], str]] = {
        **_leading(cells, lambda line: line.cell),
        "read from": lambda line: line.kind,
        "seeds": lambda line: str(len(line.found)),
        "r": lambda line: number_text(_mean(line.tokens), ".2f"),
    }
    for k in ks:
        columns[f"ECR@{k}"] = lambda line, k=k: _over_seeds([rate.value for rate in line.rates(k)])  # type: ignore[misc]
        columns[f"chance@{k}"] = lambda line, k=k: _chances(line.rates(k))  # type: ignore[misc]
    for name, heading in (("between_latents", "between latents"), ("from_centre", "from centre")):
        if any(line.distances(name) for line in lines):
            columns[heading] = lambda line, name=name: _over_seeds(line.distances(name))  # type: ignore[misc]
    if any(line.label_distances for line in lines):
        columns["apart from labels, by step"] = lambda line: _means_by_step(line.label_distances)
    if any(line.paths for line in lines):
        known = [line for line in lines if line.paths]
        columns |= _telling_apart("paths", known, lambda line: _paths_known(line.found[0], labels=line.labels))
        columns |= {
            "M": lambda line: _num_paths(line.paths),
            "N_eff": lambda line: _over_paths(line.paths, [paths.n_eff for paths in line.paths]),
            "N_eff random": lambda line: _over_paths(line.paths, [paths.n_eff_random for paths in line.paths]),
            "ratio": lambda line: _over_seeds([paths.ratio for paths in line.paths], digits=3),
        }
    if any(line.label_references for line in lines):
        columns |= {
            "N_eff, labels": lambda line: _over_paths(line.label_references, [p.n_eff for p in line.label_references]),
            "ratio, labels": lambda line: _over_seeds([paths.ratio for paths in line.label_references], digits=3),
        }
    return _table(_compression_title(lines), lines, columns)


def _compression_title(lines: Sequence[_Line]) -> str:
    every = [paths for line in lines for paths in line.paths]
    sources = "; ".join(dict.fromkeys(f"{one.source}, {one.num_questions} questions" for one in every))
    paths = (
        f" N_eff: effective number of the M known paths ({sources}), of which the {max(one.top_k for one in every)} "
        "largest entries of a step count; beside it that of random matchings, and the mean ratio. Reference latents "
        "are mean embeddings of a path's spans."
        if every
        else ""
    )
    if any(line.label_references for line in lines):
        paths += " N_eff, labels: with what the encoder of the training makes of these spans as references."
    distances = (
        " Between latents, from centre: Euclidean distance of an answer's latents from each other and from the mean "
        "input embedding; the former is near zero where they have collapsed into one."
        if any(line.distances("between_latents") or line.distances("from_centre") for line in lines)
        else ""
    )
    apart = (
        " Apart from labels: total variation between a step and the label of the gold chain at its place."
        if any(line.label_distances for line in lines)
        else ""
    )
    return (
        "Compression and parallelism, from the latent steps of the first answers: what they mixed, what the LM head "
        "reads where hidden states are fed, or the labels that training made of gold chains. ECR@K: tokens of a "
        "latent's segment of the gold chain (r tokens on average) among its K largest entries; chance: with segments "
        f"shuffled across examples / across examples at the same step.{distances}{apart}{paths} {INTERVALS}"
    )


def _chances(rates: Sequence[Rate]) -> str:
    anywhere, in_place = _mean([r.chance for r in rates]), _mean([r.chance_in_place for r in rates])
    return DASH if anywhere is None else f"{number_text(anywhere, '.2f')} / {number_text(in_place, '.2f')}"


def _over_paths(found: Sequence[Paths], values: Sequence[Interval]) -> str:
    """An effective number of paths: at least one, at most all."""
    return _over_seeds(values, bounds=(1, max((paths.max_paths for paths in found), default=1)))


def _num_paths(found: Sequence[Paths]) -> str:
    most = max((paths.max_paths for paths in found), default=0)
    return f"2 to {most}, mean {number_text(_mean([p.mean_paths for p in found]), '.2f')}" if found else DASH


def _graphs(cells: Sequence[Measured]) -> Table:
    graphs = [(cell, [one.graph for one in cell.parallelism if one.graph is not None]) for cell in cells]
    lines = [(cell, found) for cell, every in graphs for found in _alike(every, _threshold)]

    def share(name: str) -> Callable[[tuple[Measured, list[Graph]]], str]:
        return lambda line: _percents([getattr(graph, name) for graph in line[1]])

    columns: dict[str, Callable[[tuple[Measured, list[Graph]]], str]] = {
        **_leading(cells, lambda line: line[0]),
        **_telling_apart("threshold", lines, lambda line: _threshold(line[1][0])),
        "seeds": lambda line: str(len(line[1])),
        "carried": share("share_carried"),
        "by chance": share("chance_carried"),
        "two at once": share("share_parallel"),
        "two by chance": share("chance_parallel"),
        "by step": lambda line: _by_step(line[1]),
        "settled": share("settled"),
        "early": share("early"),
        "needed first": share("in_order"),
        "together": share("together"),
        "needed last": share("reversed"),
        "gold order": share("gold_order"),
    }
    thresholds = ", ".join(dict.fromkeys(_threshold(graph) for _, found in lines for graph in found))
    title = (
        "Latent steps against the known graph (%). A quantity carries probability at a step where all tokens of its "
        f"value have {thresholds} at least, and is settled from then on. Carried: of the quantities that could be "
        "computed next; two at once: of the steps at which two or more could; both also with the graph of another "
        "question. Settled: of all quantities; early: before all that they need. Needed first, together, last: of "
        "pairs of quantities one of which needs the other. Gold order: of pairs settled apart. Quantities whose value "
        f"is written elsewhere too are left out. By step: carried / computable, means. {INTERVALS}"
    )
    return _table(title, lines, columns)


def _by_step(found: Sequence[Graph]) -> str:
    """Quantities carried / computable at latent step 1, 2 ..."""
    carried, computable = (_means([getattr(one, name) for one in found], ".1f") for name in ("carried", "computable"))
    return _first_steps([f"{some}/{all_}" for some, all_ in zip(carried, computable, strict=True)])


def _means_by_step(found: Sequence[Sequence[float]]) -> str:
    return _first_steps(_means(found, ".2f"))


def _means(rows: Sequence[Sequence[float]], spec: str) -> list[str]:
    """Means over the rows that reach a step, of each step."""
    steps = range(max(map(len, rows), default=0))
    return [number_text(_mean([row[step] for row in rows if step < len(row)]), spec) for step in steps]


def _first_steps(texts: Sequence[str], shown: int = 8) -> str:
    return ", ".join([*texts[:shown], *["..."] * (len(texts) > shown)]) or DASH


def _reliance(cells: Sequence[Measured]) -> Table:
    lines: list[tuple[Measured, str, list[Effect]]] = []
    for cell in cells:
        files = [one.reliance for one in cell.seeds if one.reliance is not None]
        found = [{effect.name: effect for effect in effects(one)} for one in files]
        for name in dict.fromkeys(name for one in found for name in one):
            lines.append((cell, name, [one[name] for one in found if name in one]))
    columns: dict[str, Callable[[tuple[Measured, str, list[Effect]]], str]] = {
        **_leading(cells, lambda line: line[0]),
        "latents": lambda line: line[1],
        "seeds": lambda line: str(len(line[2])),
        "accuracy": lambda line: _over_seeds([effect.accuracy for effect in line[2]], 100, 1, (0, 1)),
        "change": lambda line: _over_seeds([effect.change for effect in line[2]], 100, 1, (-1, 1)),
        "p": lambda line: number_text(max(effect.p_value for effect in line[2]), ".2g"),
    }
    return _table(" ".join(RELIANCE_TITLE.split()), lines, columns)


def _cost(cells: Sequence[Measured]) -> Table:
    costs = [(cell, [one.cost for one in cell.seeds if one.cost is not None]) for cell in cells]
    lines = [(cell, found) for cell, every in costs for found in _alike(every, _circumstances)]

    def mean(value: Callable[[CostFile], float | None], spec: str) -> Callable[[tuple[Measured, list[CostFile]]], str]:
        return lambda line: number_text(_mean([number for one in line[1] if (number := value(one)) is not None]), spec)

    columns: dict[str, Callable[[tuple[Measured, list[CostFile]]], str]] = {
        **_leading(cells, lambda line: line[0]),
        **_telling_apart("circumstances", lines, lambda line: _circumstances(line[1][0])),
        "seeds": lambda line: str(len(line[1])),
        "FLOPs": mean(lambda one: one.flops, ".2e"),
        "ms, batch 1": mean(lambda one: 1000 * median(one.seconds_single), ".1f"),
        "ratio, batch 1": mean(lambda one: one.ratio_single, ".2f"),
        "ms, full batch": mean(lambda one: 1000 * median(one.seconds_full), ".2f"),
        "ratio, full batch": mean(lambda one: one.ratio_full, ".2f"),
        "peak MiB": mean(lambda one: None if one.peak_memory_bytes is None else one.peak_memory_bytes / 2**20, ".0f"),
    }
    title = (
        "Cost of an answer: floating-point operations by the formula of runs/cost.py; milliseconds at batch 1 and at "
        f"full batch, medians of rounds ({'; '.join(dict.fromkeys(_circumstances(line[1][0]) for line in lines))}); "
        "ratios to the reference, which took turns with the run; peak memory of the evaluation's process. Means over "
        "seeds."
    )
    return _table(title, lines, columns)


def _circumstances(found: CostFile) -> str:
    gpus = found.hardware.get("gpus") or []
    machine = ", ".join(map(str, gpus)) or f"{found.hardware.get('cores')} cores of {found.hardware.get('cpu')}"
    return f"batch {found.batch_size} on {machine} beside {re.sub(r'-s[0-9]+$', '', found.reference)}"


def _paths_known(found: ParallelismFile, *, labels: bool) -> str:
    """Of labels none are looked at."""
    return f"{found.paths.source}, at most {found.paths.cap}" if found.paths and not labels else ""


def _threshold(found: Graph) -> str:
    return f"{found.threshold:g}"


def _alike(found: Sequence[T], how: Callable[[T], str]) -> list[list[T]]:
    """What was measured alike, together: nothing else may be averaged."""
    groups: dict[str, list[T]] = {}
    for one in found:
        groups.setdefault(how(one), []).append(one)
    return list(groups.values())


def _telling_apart(name: str, lines: Sequence[T], how: Callable[[T], str]) -> dict[str, Callable[[T], str]]:
    """A column that says how each line was measured, where that is not the same for all."""
    return {name: lambda line: how(line) or DASH} if len({how(line) for line in lines}) > 1 else {}


def _leading(cells: Sequence[Measured], cell_of: Callable[[T], Measured]) -> dict[str, Callable[[T], str]]:
    names = dict.fromkeys(name for cell in cells for name in cell.names)
    return {name: lambda line, name=name: cell_of(line).names[name] for name in names}  # type: ignore[misc]


def _table(title: str, lines: Sequence[T], columns: Mapping[str, Callable[[T], str]]) -> Table:
    texts = tuple(tuple(text(line) for text in columns.values()) for line in lines)
    return Table(title=title, headings=tuple(columns), lines=texts)


def _percents(values: Sequence[Interval | float | None]) -> str:
    """Mean over seeds in percent; with an interval where each has one, or where there are several."""
    there = [value for value in values if value is not None]
    if intervals := [value for value in there if isinstance(value, Interval)]:
        return _over_seeds(intervals, 100, 1, (0, 1))
    mean = _mean([value for value in there if not isinstance(value, Interval)])
    return DASH if mean is None else f"{100 * mean:.1f}"


def _over_seeds(
    values: Sequence[Interval], scale: float = 1, digits: int = 2, bounds: tuple[float, float] = (0, inf)
) -> str:
    return interval_text(over_seeds(values, *bounds), scale, digits)


def _mean(values: Sequence[float]) -> float | None:
    return fsum(values) / len(values) if values else None
