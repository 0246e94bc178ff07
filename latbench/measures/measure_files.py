"""What was measured of an evaluation beyond its records, as files beside them: `parallelism.json`, `reliance.json` ...

Written by the commands of these names (`latents.json` by `latbench trace`), read by the tables and the page. Like a
trace, a file belongs to one run, one setting and one set of questions: with other records beside it, it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as config_dataclass

from latbench.evaluation.provenance import Provenance, refuse_others
from latbench.evaluation.records import Evaluation, Manifest, Record
from latbench.evaluation.statistics import Interval, mcnemar_exact, mean_interval, median_ratio, wilson_interval
from latbench.task import STRICT, Status
from latbench.util.files import read_bounded, write_whole

PARALLELISM, RELIANCE, COST, LATENTS = "parallelism.json", "reliance.json", "cost.json", "latents.json"
MAX_BYTES = 16_000_000  # of a file that somebody else may have written
LETTERS: Mapping[Status, str] = {"correct": "c", "incorrect": "i", "no_answer": "n", "timeout": "t"}

Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]  # of each round
Verdicts = Annotated[str, Field(pattern=f"^[{''.join(LETTERS.values())}]*$")]  # a letter per question, in order


def _unbounded(value: object) -> object:
    """An interval as it stands in JSON, which has no infinity: null where a single answer leaves it without a bound."""
    return {**value, "high": inf} if isinstance(value, dict) and value.get("high", 0) is None else value


Distance = Annotated[Interval, BeforeValidator(_unbounded)]


@config_dataclass(frozen=True, kw_only=True, config=STRICT)
class MeasureHeader(Provenance):
    """What a measure belongs to."""

    format_version: Literal[1] = 1
    """Of the file."""
    seed: int
    """Of what the measure draws."""


@config_dataclass(frozen=True, kw_only=True, config=STRICT)
class Rate:
    """ECR@k of many chains.

    Args:
        value: explicit tokens per latent found among its k largest entries, with the interval over chains.
        chance: the same with segments shuffled across examples.
        chance_in_place: across examples at the same step.
    """

    k: Annotated[int, Field(ge=1)]
    value: Interval
    chance: float
    chance_in_place: float


@config_dataclass(frozen=True, kw_only=True, config=STRICT)
class Paths:
    """N_eff over the questions with two known paths or more.

    Args:
        source: the task, or the run that chains were sampled from.
        cap: most paths of a question that are used, the gold chain among them.
        num_questions: with two or more.
        mean_paths: M of these questions, the mean.
        max_paths: M of these questions, the largest.
        trials: random matchings.
        top_k: entries of a distribution that count.
        n_eff: effective number of paths, the mean over the questions.
        n_eff_random: the same with random matchings.
        ratio: mean of the two numbers' ratios.
    """

    source: str
    cap: Annotated[int, Field(ge=2)]
    num_questions: Count
    mean_paths: float
    max_paths: Count
    trials: Count
    top_k: Count
    n_eff: Interval
    n_eff_random: Interval
    ratio: Interval


@config_dataclass(frozen=True, kw_only=True, config=STRICT)
class GraphParallelism:
    """Latent steps against the known graphs, see known_graph.py; shares are None where nothing could show them.

    Args:
        num_questions: with a quantity that counts.
        num_quantities: that count.
        computable: quantities that can be computed at latent step 1, 2 ..., means over the answers that have it.
        carried: those of them that carry probability there.
        share_carried: of the quantities that can be computed at a step, those that carry probability.
        share_parallel: of the steps at which two or more can be computed, those at which two or more carry it;
            intervals over questions.
        chance_carried: share_carried with the graph of another question.
        chance_parallel: share_parallel with the graph of another question.
        settled: share of the quantities that ever carry it.
        early: that do so before all they need is settled.
        in_order: of pairs (needed, needing) that are both settled, the share with the needed one first.
        together: the share with both at one step.
        reversed: the share with the needed one last.
        gold_order: of pairs settled at different steps, share in the order of the gold chain.
    """

    threshold: float
    num_questions: Count
    num_quantities: Count
    computable: list[float]
    carried: list[float]
    share_carried: Interval | None
    share_parallel: Interval | None
    chance_carried: float | None
    chance_parallel: float | None
    settled: float | None
    early: float | None
    in_order: float | None
    together: float | None
    reversed: float | None
    gold_order: float | None


@config_dataclass(frozen=True, kw_only=True, config=STRICT)
class ParallelismFile:
    """Compression and parallelism of one evaluation, from its trace, on the first answer to each question.

    Args:
        read_through: what a step's distribution is: what it mixed, or what the LM head reads in the hidden state.
        vocab: size of the vocabulary.
        top_k: entries of a distribution that were kept.
        num_latents: steps looked at.
        between_latents: mean Euclidean distance of an answer's latents from each other, with its interval over answers;
            None where no answer has any, or in an older file.
        from_centre: the same from the mean input embedding.
        tokens_per_latent: r, mean tokens of the gold chain per step; None where the data have no chains.
        ecr: of the run's own steps on the gold chain.
        label_ecr: of the latents that a helper model of the training makes of the gold chains, with
            label_tokens_per_latent.
        label_distance: total variation between the two at latent step 1, 2 ..., means over the answers. Empty where
            there is nothing to look at.
        paths: None where none are known.
        graph: None where no graph is known.
        label_references: the paths, with the latents that the helper model makes of a path's spans as references in
            place of mean embeddings; None where it makes none.
    """

    header: MeasureHeader
    read_through: Literal["mixture", "LM head"]
    vocab: Count
    top_k: Count
    num_latents: Count
    between_latents: Distance | None = None
    from_centre: Distance | None = None
    tokens_per_latent: float | None
    ecr: list[Rate]
    label_tokens_per_latent: float | None
    label_ecr: list[Rate]
    label_distance: list[float] = Field(default_factory=list)
    paths: Paths | None
    label_references: Paths | None = None
    graph: GraphParallelism | None


@config_dataclass(frozen=True, kw_only=True, config=STRICT)
class RelianceFile:
    """Verdicts on the first answer to each question, untouched and with replaced latents, as letters (LETTERS).

    Args:
        num_latents: of the untouched run, all questions together.
        replaced: by name of the intervention (see measures/reliance.py).
    """

    header: MeasureHeader
    num_latents: Count
    untouched: Verdicts
    replaced: dict[str, Verdicts]

    def __post_init__(self) -> None:
        for name, letters in self.replaced.items():
            if len(letters) != len(self.untouched):
                raise ValueError(f"{name} has {len(letters)} verdicts, the untouched run {len(self.untouched)}")


@config_dataclass(frozen=True, kw_only=True, config=STRICT)
class CostFile:
    """What an answer costs, see measures/answer_cost.py.

    Args:
        flops: floating-point operations, mean over the records by the formula there; None where nothing was decoded.
        seconds_single: per answer, one for each round, of `num_single` questions one by one.
        seconds_full: per answer, one for each round, of `batch_size` questions at once.
        reference: the run that took turns with this one.
        reference_single: its seconds of the same rounds, one by one.
        reference_full: its seconds of the same rounds, at once.
        peak_memory_bytes: of the evaluation; on a CPU all that its process held.
    """

    header: MeasureHeader
    flops: float | None
    num_single: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    seconds_single: Seconds
    seconds_full: Seconds
    reference: str
    reference_single: Seconds
    reference_full: Seconds
    peak_memory_bytes: float | None
    hardware: dict[str, Any]

    def __post_init__(self) -> None:
        if not isinstance(self.hardware.get("gpus", []), list):
            raise ValueError("hardware.gpus must be a list")
        times = (self.seconds_single, self.seconds_full, self.reference_single, self.reference_full)
        if len(set(map(len, times))) > 1:
            raise ValueError("not every round has all its times")

    @property
    def ratio_single(self) -> float:
        """Time at batch 1 against the reference: the median over rounds."""
        return median_ratio(self.seconds_single, self.reference_single)

    @property
    def ratio_full(self) -> float:
        """Time at full batch against the reference: the median over rounds."""
        return median_ratio(self.seconds_full, self.reference_full)


@dataclass(frozen=True, kw_only=True)
class LatentStep:
    """One latent step as text."""

    entropy: float
    """Of its distribution, in nats."""
    tokens: tuple[tuple[str, float], ...]
    """The largest entries of its distribution, as (token text, weight)."""


@config_dataclass(frozen=True, kw_only=True, config=STRICT)
class LatentsFile:
    """Latent steps as text, of the records that the page may show: small enough to commit, where a trace is not.

    Args:
        rows: places of the records in their file.
        steps: of each row, as (entropy, largest (token text, weight)).
    """

    header: MeasureHeader
    rows: list[Count]
    steps: list[list[tuple[float, list[tuple[str, float]]]]]

    def __post_init__(self) -> None:
        if len(self.rows) != len(self.steps):
            raise ValueError(f"{len(self.rows)} rows, but latent steps of {len(self.steps)}")

    def get(self, row: int, top: int) -> tuple[LatentStep, ...]:
        """As `StoredTrace.shown`. Raises: ValueError: nothing of this record."""
        found = self.steps[self.rows.index(row)]
        return tuple(LatentStep(entropy=entropy, tokens=tuple(tokens[:top])) for entropy, tokens in found)


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One intervention beside the untouched run, on the same questions.

    Args:
        accuracy: a fraction, Wilson's interval.
        change: against the untouched run, t-interval over questions.
        lost: questions that the untouched run alone solves.
        gained: questions that the other alone solves.
        p_value: exact McNemar, two-sided.
    """

    name: str
    n: int
    accuracy: Interval
    change: Interval
    lost: int
    gained: int
    p_value: float


@dataclass(frozen=True, kw_only=True)
class Measures:
    """The measures of an evaluation; each is None where it was not made."""

    parallelism: ParallelismFile | None = None
    reliance: RelianceFile | None = None
    cost: CostFile | None = None
    latents: LatentsFile | None = None


def effects(found: RelianceFile) -> list[Effect]:
    """Each intervention beside the untouched run."""
    before = [letter == "c" for letter in found.untouched]
    made = []
    for name, letters in found.replaced.items():
        after = [letter == "c" for letter in letters]
        changes = [int(b) - int(a) for a, b in zip(before, after, strict=True)]
        lost, gained = changes.count(-1), changes.count(1)
        made.append(
            Effect(
                name=name,
                n=len(after),
                accuracy=wilson_interval(sum(after), len(after)),
                change=mean_interval(changes).clipped(-1, 1),
                lost=lost,
                gained=gained,
                p_value=mcnemar_exact(lost, gained),
            )
        )
    return made


def verdicts(records: Sequence[Record]) -> str:
    """Letters of the first answer to each question, in the order of the records."""
    return "".join(LETTERS[record.status] for record in records if record.sample == 0)


F = TypeVar("F", ParallelismFile, RelianceFile, CostFile, LatentsFile)


def write_measure(folder: Path, measure: ParallelismFile | RelianceFile | CostFile | LatentsFile) -> Path:
    """Write a measure beside the records, whole. Returns: its path."""
    file = _FILES[type(measure)]
    path = folder / file.name
    write_whole(path, file.adapter.dump_json(measure, indent=file.indent).decode() + "\n")
    return path


def read_measure(folder: Path, kind: type[F], of: Manifest) -> F | None:
    """A measure of an evaluation; None where there is none.

    Args:
        of: manifest of the evaluation it is read with.
    Raises: ValueError: damaged, of a newer version, or of another run, setting or other questions.
    """
    file = _FILES[kind]
    path = folder / file.name
    again = f"remove it, or measure again with `latbench {file.command}`"
    try:
        found: F = file.adapter.validate_json(read_bounded(path, MAX_BYTES))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise ValueError(f"{path} cannot be read ({where}: {first['msg']}); {again}") from None
    refuse_others(f"{path} is", found.header.answers, Provenance.of(of).answers, again)
    return found


def read_measures(evaluation: Evaluation) -> tuple[Measures, list[str]]:
    """What was measured of an evaluation, and a sentence on each file that cannot be used."""
    folder, of = evaluation.folder, evaluation.manifest
    notices = []
    found: dict[str, Any] = {}
    for kind, file in _FILES.items():
        name = file.name.removesuffix(".json")
        try:
            found[name] = read_measure(folder, kind, of)
            if name == "reliance" and found[name] and found[name].untouched != verdicts(evaluation.records):
                found[name] = None
                raise ValueError(f"{folder / RELIANCE} is of other verdicts than the records; measure again")
        except (ValueError, OSError) as error:
            notices.append(f"not shown: {error}")
    return Measures(**found), notices


class _MeasureFile(NamedTuple):
    name: str
    command: str  # that writes it
    adapter: TypeAdapter[Any]
    indent: int | None = 1


_FILES: Mapping[type[Any], _MeasureFile] = {
    ParallelismFile: _MeasureFile(PARALLELISM, "parallelism", TypeAdapter(ParallelismFile)),
    RelianceFile: _MeasureFile(RELIANCE, "reliance", TypeAdapter(RelianceFile)),
    CostFile: _MeasureFile(COST, "cost", TypeAdapter(CostFile)),
    LatentsFile: _MeasureFile(LATENTS, "trace", TypeAdapter(LatentsFile), indent=None),  # or a line for each number
}
