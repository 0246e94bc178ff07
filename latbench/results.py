"""What `latbench.evaluate` returns: the records of an evaluation, and the figures that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from latbench.evaluation.metrics import Summary, caveats, compression, summarise
from latbench.evaluation.records import Evaluation, read_evaluation
from latbench.evaluation.statistics import Interval
from latbench.task import Status

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, kw_only=True, repr=False)
class Result(Evaluation):
    """A complete evaluation: `records`, `manifest`, `folder`, and the figures that tables show of them."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The evaluation in a folder. Raises: ValueError: it cannot be read, or is not complete."""
        found = read_evaluation(folder)
        result = cls(**{name: getattr(found, name) for name in Evaluation.__dataclass_fields__})
        _ = result.summary
        return result

    @cached_property
    def summary(self) -> Summary:
        """Every figure, as `latbench.evaluation.metrics` defines them."""
        return summarise(self)

    @property
    def accuracy(self) -> float:
        """Share of the questions answered correctly (pass@1), from 0 to 1."""
        return self.summary.accuracy.value

    @property
    def interval(self) -> Interval:
        """The accuracy with its 95 % interval: Wilson's, over questions."""
        return self.summary.accuracy

    @property
    def chain_length(self) -> float | None:
        """Mean #L, latent steps plus explicit reasoning tokens; None where no chain is known."""
        length = self.summary.chain_length
        return None if length is None else length.value

    @property
    def lengths(self) -> Mapping[str, float]:
        """#L by question, the mean over its samples."""
        return self.summary.lengths

    @property
    def compression(self) -> float | None:
        """Mean length of the gold chain / mean #L; None where the data have no chains or #L is 0."""
        found = compression(self.summary.gold_lengths, self.summary.lengths)
        return None if found is None else found.value

    @property
    def statuses(self) -> Mapping[Status, int]:
        """Number of answers by verdict: correct, incorrect, no_answer, timeout."""
        return self.summary.statuses

    @property
    def answers_per_second(self) -> float | None:
        """Over the whole evaluation, on the machine that made it."""
        return self.summary.answers_per_second

    @property
    def caveats(self) -> list[str]:
        """What is known against these numbers, one sentence each."""
        return [caveat.sentence for caveat in caveats(self.summary)]

    def to_pandas(self) -> DataFrame:
        """One line per answer: the fields of the records, `correct` and `chain_length`."""
        from pandas import DataFrame

        rows = [
            asdict(record) | {"correct": record.status == "correct", "chain_length": record.chain_length}
            for record in self.records
        ]
        return DataFrame(rows)

    def __repr__(self) -> str:
        """One line: what was asked, accuracy with its interval, #L, and where the records are."""
        low, high, length = self.interval.low, self.interval.high, self.chain_length
        known = "unknown" if length is None else f"{length:.1f}"
        return (
            f"<Result {self.manifest.task}/{self.manifest.split}: accuracy {self.accuracy:.4f} [{low:.4f}, {high:.4f}] "
            f"on {self.summary.n} questions, #L {known}, in {self.folder}>"
        )
