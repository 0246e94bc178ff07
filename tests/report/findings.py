"""What the tables of the results' pages must say, computed from the committed records and measures.

A line of such a table in results/README.md begins with the name of a method and what differs from its preset, as the
leaderboard has them; its other columns are those of `COLUMNS`, or `p against ...` another line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import median_low

from latbench.evaluation.records import read_evaluation
from latbench.evaluation.statistics import Interval, mcnemar_exact
from latbench.measures.measure_files import GraphParallelism, effects, verdicts
from latbench.report.cells import Cell, Row
from latbench.report.leaderboard import leaderboard

RESULTS = Path(__file__).parents[2] / "results"
NOTHING = "–"  # where a seed was not measured


@cache
def cells() -> Mapping[tuple[str, str], Cell]:
    """All committed cells by (task, label)."""
    return {(cell.identity.task, cell.label): cell for cell in leaderboard([RESULTS], ()).cells}


def tables(text: str) -> Iterator[list[list[str]]]:
    """Cells of each table of a Markdown text: the header first, then its rule, then the lines."""
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        yield [[cell.strip() for cell in line.strip("|\n ").split("|")] for line in block.splitlines()]


def percent(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.1f}"


def by_seed(cell: Cell, of: Callable[[Row], str]) -> str:
    """One text per seed, in the order of the seeds; one alone where all are equal."""
    texts = [of(row) for row in sorted(cell.rows, key=lambda row: row.manifest.seed)]
    return texts[0] if len(set(texts)) == 1 else ", ".join(texts)


def graph(of: Callable[[GraphParallelism], Interval | float | None]) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        found = row.measures.parallelism and row.measures.parallelism.graph
        value = of(found) if found else None
        return percent(value.value if isinstance(value, Interval) else value)

    return text


def replaced(name: str) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        found = effects(row.measures.reliance) if row.measures.reliance else []
        return percent(next((effect.accuracy.value for effect in found if effect.name == name), None))

    return text


def ecr(k: int, of: str) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        rates = row.measures.parallelism.ecr if row.measures.parallelism else []
        rate = next((rate for rate in rates if rate.k == k), None)
        if rate is None:
            return NOTHING
        return f"{rate.value.value if of == 'value' else rate.chance:.2f}"

    return text


def paths(name: str) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        found = row.measures.parallelism and row.measures.parallelism.paths
        if name == "labels":
            found = row.measures.parallelism and row.measures.parallelism.label_references
        if not found:
            return NOTHING
        value = {"random": found.n_eff_random.value, "mean": found.mean_paths}.get(name, found.n_eff.value)
        return f"{value:.2f}"

    return text


def distance(row: Row) -> str:
    found = row.measures.parallelism and row.measures.parallelism.between_latents
    return f"{found.value:.1f}" if found else NOTHING


def diagnostic(name: str, digits: int) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        value = row.manifest.diagnostics.get(name)
        return NOTHING if value is None else f"{value:.{digits}f}"

    return text


def cost(name: str) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        found = row.measures.cost
        if found is None:
            return NOTHING
        ours, theirs = getattr(found, f"seconds_{name}"), getattr(found, f"reference_{name}")
        ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
        middle = len(ratios) // 2
        return f"{ratios[middle] if len(ratios) % 2 else (ratios[middle - 1] + ratios[middle]) / 2:.2f}"

    return text


def flops(row: Row) -> str:
    return f"{row.measures.cost.flops:.3g}" if row.measures.cost and row.measures.cost.flops else NOTHING


def length(row: Row) -> str:
    return f"{row.summary.chain_length.value:.1f}" if row.summary.chain_length else NOTHING


def with_interval(row: Row) -> str:
    shown = row.summary.accuracy
    return f"{percent(shown.value)} [{percent(shown.low)}, {percent(shown.high)}]"


def latents_by_chain(row: Row) -> str:
    """Median number of latents by length of the gold chain, the shortest first."""
    found: dict[int, list[int]] = {}
    for record in read_evaluation(row.summary.folder).records:
        found.setdefault(record.gold_chain_length, []).append(record.num_latents)
    return "/".join(f"{median_low(found[chain])}" for chain in sorted(found))


COLUMNS: Mapping[str, Callable[[Row], str]] = {
    "accuracy, %": lambda row: percent(row.summary.accuracy.value),
    "accuracy, % (95 %)": with_interval,
    "#L": length,
    "compression": lambda row: f"{row.compression.value:.2f}" if row.compression else NOTHING,
    "decode steps": lambda row: f"{row.summary.means['decode_steps']:.1f}",
    "training FLOPs": lambda row: f"{row.summary.train_flops:.2e}",
    "passes": lambda row: f"{row.summary.train_passes:.0f}",
    "zeros": replaced("zeros"),
    "noise": replaced("noise"),
    "other question's": replaced("other"),
    **{f"cut after {k}": replaced(f"cut{k}") for k in (1, 2, 4, 8)},
    "carried, %": graph(lambda found: found.share_carried),
    "carried by chance, %": graph(lambda found: found.chance_carried),
    "two at once, %": graph(lambda found: found.share_parallel),
    "two by chance, %": graph(lambda found: found.chance_parallel),
    "needed first, %": graph(lambda found: found.in_order),
    "between latents": distance,
    "ECR@5": ecr(5, "value"),
    "ECR@5 by chance": ecr(5, "chance"),
    "tokens per latent": lambda row: (
        f"{row.measures.parallelism.tokens_per_latent:.2f}"
        if row.measures.parallelism and row.measures.parallelism.tokens_per_latent
        else NOTHING
    ),
    "M": paths("mean"),
    "N_eff": paths("n_eff"),
    "N_eff random": paths("random"),
    "N_eff, labels": paths("labels"),
    "sampled reward": diagnostic("sampled_reward", 2),
    "latents by chain": latents_by_chain,
    "latents": lambda row: f"{row.summary.means['num_latents']:.1f}",
    "rollouts": lambda row: f"{row.manifest.train['rollouts']}" if row.manifest.train.get("rollouts") else NOTHING,
    "segment loss": diagnostic("segment_loss", 4),
    "oracle without the last latent": diagnostic("oracle_without_last", 2),
    "time, batch 1": cost("single"),
    "time, batch 256": cost("full"),
    "FLOPs": flops,
}
AGAINST = "p against "


def value(task: str, label: str, column: str) -> str:
    """What a table must show of a method in a column: one value per seed.

    Raises: KeyError: no committed cell has this label, or there is no such column.
    """
    cell = cells()[task, label]
    if column.startswith(AGAINST):
        return by_seed(cell, against(task, column.removeprefix(AGAINST).strip("`")))
    return by_seed(cell, COLUMNS[column])


def against(task: str, label: str) -> Callable[[Row], str]:
    """Exact McNemar of a run against that of another method with the same seed."""
    others = {row.manifest.seed: row for row in cells()[task, label].rows}

    def text(row: Row) -> str:
        ours, theirs = (_right(found) for found in (row, others[row.manifest.seed]))
        lost = sum(b and not a for a, b in zip(ours, theirs, strict=True))
        gained = sum(a and not b for a, b in zip(ours, theirs, strict=True))
        return f"{mcnemar_exact(lost, gained):.1g}"

    return text


def _right(row: Row) -> Sequence[bool]:
    return [letter == "c" for letter in verdicts(read_evaluation(row.summary.folder).records)]
