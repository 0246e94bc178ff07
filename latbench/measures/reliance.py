"""Latent reliance: the same questions again with replaced latents, each intervention paired with the untouched run.

    zeros   zero vectors
    noise   Gaussian vectors, each with mean and deviation of the one it replaces
    other   the latents of another question, cut or begun again to the same number
    cut<k>  the run's own first k latents, then the close marker; cut0 answers without any thought

The number of latents of a question is that of the untouched run (but for cut<k>), so that none can win by thinking
longer. A thought within which the untouched answer ended is closed after that number, and answered. The untouched run
is the evaluation on file, its vectors are those of its trace (kept in half precision, but for cut<k>, where the run
makes them itself). Only the first answer to each question is looked at.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import torch
from torch import Tensor

from latbench.decoding.intervened import Intervened, fitted, matched_noise, zeros
from latbench.decoding.loop import Prompt
from latbench.decoding.rule import LatentRule
from latbench.decoding.sampling import row_keys
from latbench.evaluation.job import EvalJob
from latbench.evaluation.records import TRACE, Manifest
from latbench.evaluation.shards import Shard, owned, refuse_lost, shards_of
from latbench.measures.latents import StoredTrace
from latbench.measures.measure_files import (
    LETTERS,
    RELIANCE,
    MeasureHeader,
    RelianceFile,
    read_measure,
    verdicts,
    write_measure,
)
from latbench.runs.lock import is_main_process, locked, wait_for_all
from latbench.util.files import remove_at_once
from latbench.util.progress import progress

DEFAULT = ("zeros", "noise", "other", "cut0", "cut1", "cut2", "cut4", "cut8")
PARTS = "reliance"  # folder of what several processes make of the file
_CUT = re.compile(r"cut(0|[1-9]\d{0,5})")


@overload
def reliance(job: EvalJob, names: Sequence[str] = DEFAULT, shard: None = None) -> tuple[Path, RelianceFile]: ...
@overload
def reliance(
    job: EvalJob, names: Sequence[str] = DEFAULT, shard: Shard | None = None
) -> tuple[Path, RelianceFile | None]: ...
def reliance(
    job: EvalJob, names: Sequence[str] = DEFAULT, shard: Shard | None = None
) -> tuple[Path, RelianceFile | None]:
    """Answer with every intervention and store the verdicts; what is on file is kept.

    Args:
        job: the evaluation on file, which has a trace.
        names: of interventions; a cut<k> that reaches the longest thought changes nothing and is left out.
        shard: answer its chunks alone; the last shard to end joins them all. None: all chunks.
    Returns: the file, `reliance.json` beside the records, and what it holds; None where other shards are open.
    Raises: ValueError: an unknown name, no complete evaluation or trace, a trace of other answers, a method whose
        latent steps are of another kind, another process writes the folder, or a part is lost.
    """
    if shard is None and not is_main_process():
        raise ValueError("reliance without shards is measured in one process; start it without a launcher")
    for name in names:
        if name not in DEFAULT and not _CUT.fullmatch(name):
            raise ValueError(f"unknown intervention {name!r}; choose among zeros, noise, other, cut<k> such as cut4")
    before, folder = job.answered(), job.folder
    stored = StoredTrace.open(folder / TRACE, of=before.manifest)
    rule = job.run.method.rule(job.settings.generate)
    if not isinstance(rule, LatentRule):
        raise ValueError(
            f"method {job.run.config.method_name!r} takes its latent steps by a rule of its own, which cannot be given "
            "others; measure a method that takes them all before its close marker"
        )
    counts = [len(stored.get(index)) for index in range(len(job.examples))]
    if counts != [record.num_latents for record in before.records if record.sample == 0]:
        raise ValueError(f"{folder / TRACE} holds other thoughts than the records beside it; trace the run again")
    header = MeasureHeader.of(job.manifest, seed=job.settings.seed)
    fresh = RelianceFile(header=header, num_latents=sum(counts), untouched=verdicts(before.records), replaced={})
    parts = _Parts(folder / PARTS, fresh, before.manifest, job.settings.generate.chunk)
    wanted = [name for name in dict.fromkeys(names) if not _CUT.fullmatch(name) or int(name[3:]) < max(counts)]
    work = Work(job, rule, stored, counts)
    if shard is None:
        with locked(folder), owned(parts.folder, None):
            refuse_lost(parts.folder, parts.lost(parts.names), "reliance")
            file = _replace(folder, parts.join(folder, parts.names), wanted, work, range(parts.num_chunks))
            return write_measure(folder, file), file
    if not wanted_on_file(parts.known(folder, fresh), wanted):
        with owned(parts.folder, shard) as part:
            known = parts.known(part, parts.fresh(shard))
            write_measure(part, _replace(part, known, wanted, work, shard.chunks(parts.num_chunks)))
    wait_for_all()
    if is_main_process() and not parts.lost(wanted):
        with locked(folder, for_another=True):
            write_measure(folder, parts.join(folder, wanted))
    wait_for_all()
    file = parts.known(folder, fresh)
    return folder / RELIANCE, file if wanted_on_file(file, wanted) else None


def lost_shards(job: EvalJob, names: Sequence[str], shard: Shard) -> list[Shard]:
    """The shards whose part is missing, or lacks an intervention that the part of one of them has.

    Args:
        job: the evaluation.
        names: of interventions that are asked for.
        shard: the one whose part is complete.
    """
    parts = {part: read_measure(part.folder(job.folder / PARTS), RelianceFile, job.manifest) for part in shard.all}
    own = parts[shard]
    wanted = [name for name in names if own is not None and name in own.replaced]
    return [part for part, file in parts.items() if file is None or not wanted_on_file(file, wanted)]


def wanted_on_file(file: RelianceFile, wanted: Sequence[str]) -> bool:
    """Whether a file holds the verdicts of every intervention."""
    return file.replaced.keys() >= set(wanted)


def _replace(folder: Path, file: RelianceFile, names: Sequence[str], work: Work, chunks: Sequence[int]) -> RelianceFile:
    """Answer with the interventions that a file lacks, and write it after each.

    Args:
        folder: of the file.
        file: what it holds.
        names: of all interventions that it is to hold.
        work: that answers.
        chunks: numbers of those whose questions the file is about.
    """
    open_names = [name for name in names if name not in file.replaced]
    with progress("interventions", total=len(open_names) * len(file.untouched)) as advance:
        for name in open_names:
            letters = work.verdicts(name, chunks, advance)
            file = replace(file, replaced={**file.replaced, name: letters})
            write_measure(folder, file)
    return file


@dataclass(frozen=True)
class _Parts:
    """The parts of a measure that several processes make: each a file of its own, about the questions of its chunks."""

    folder: Path
    """That holds them."""
    whole: RelianceFile
    """About all questions, nothing replaced."""
    of: Manifest
    """Of the evaluation."""
    chunk: int
    """Questions of a chunk."""

    @property
    def num_chunks(self) -> int:
        """Of the evaluation."""
        return -(-len(self.whole.untouched) // self.chunk)

    def places(self, shard: Shard) -> list[int]:
        """Of the questions of a shard among all, in order."""
        starts = [number * self.chunk for number in shard.chunks(self.num_chunks)]
        last = len(self.whole.untouched)
        return [place for start in starts for place in range(start, min(start + self.chunk, last))]

    def fresh(self, shard: Shard) -> RelianceFile:
        """The file of a shard with nothing replaced yet."""
        return replace(self.whole, untouched="".join(self.whole.untouched[place] for place in self.places(shard)))

    def known(self, folder: Path, fresh: RelianceFile) -> RelianceFile:
        """What is on file of these very answers, whatever version of latbench wrote it, else nothing replaced yet.

        Args:
            folder: of the file.
            fresh: with nothing replaced yet.
        """
        known = read_measure(folder, RelianceFile, self.of)
        if known is None:
            return fresh
        same = replace(fresh.header, git_commit=known.header.git_commit, versions=known.header.versions)
        return known if replace(known, replaced={}) == replace(fresh, header=same) else fresh

    @property
    def names(self) -> list[str]:
        """Of the interventions that any part holds."""
        parts = [self.known(shard.folder(self.folder), self.fresh(shard)) for shard in shards_of(self.folder)]
        return list(dict.fromkeys(name for part in parts for name in part.replaced))

    def lost(self, names: Sequence[str]) -> list[Shard]:
        """The shards whose part is missing, or lacks one of these interventions; none where nothing is sharded."""
        shards = shards_of(self.folder)
        return [s for s in shards if not wanted_on_file(self.known(s.folder(self.folder), self.fresh(s)), names)]

    def join(self, folder: Path, names: Sequence[str]) -> RelianceFile:
        """What the file beside the records holds, with what the parts hold; the parts are gone then.

        Args:
            folder: of the evaluation, which is held.
            names: of interventions that every part holds.
        """
        file, shards = self.known(folder, self.whole), shards_of(self.folder)
        if not shards:
            return file
        parts = [(self.places(shard), self.known(shard.folder(self.folder), self.fresh(shard))) for shard in shards]
        for name in names:
            pairs = [zip(places, part.replaced[name], strict=True) for places, part in parts]
            by_place = {place: letter for part in pairs for place, letter in part}
            letters = "".join(by_place[place] for place in range(len(self.whole.untouched)))
            file = replace(file, replaced={**file.replaced, name: letters})
        write_measure(folder, file)
        remove_at_once(self.folder)
        return file


class Work:
    """Answers under intervention, chunk by chunk."""

    def __init__(self, job: EvalJob, rule: LatentRule, stored: StoredTrace, counts: Sequence[int]) -> None:
        self.job, self.rule, self.stored, self.counts = job, rule, stored, counts
        self.donors = donors([index for index, count in enumerate(counts) if count], f"reliance {job.settings.seed}")

    def verdicts(self, name: str, chunks: Sequence[int], advance: Callable[[int], None]) -> str:
        """A letter for each question of some chunks."""
        size = self.job.settings.generate.chunk
        letters = ""
        for number in chunks:
            places = range(number * size, min((number + 1) * size, len(self.job.examples)))
            letters += self._chunk(name, places)
            advance(len(places))
        return letters

    def _chunk(self, name: str, places: Sequence[int]) -> str:
        asked = [self.job.examples[place] for place in places]
        prompts = [Prompt(id=example.id, text=example.question) for example in asked]
        method, settings = self.job.run.method, self.job.settings
        rule = self._rule(name, places)
        answers = method.generate(prompts, settings.generate, seed=settings.seed, rule=rule)
        scores = self.job.task.score_many([(a.text, example) for a, example in zip(answers, asked, strict=True)])
        return "".join(LETTERS[score.status] for score in scores)

    def _rule(self, name: str, places: Sequence[int]) -> Intervened:
        counts = [self.counts[place] for place in places]
        if _CUT.fullmatch(name):
            return Intervened(self.rule, [min(count, int(name[3:])) for count in counts])
        own = [self._fed(place) for place in places]
        fed = {"zeros": lambda _, own: zeros(own), "noise": self._noise, "other": self._other}[name]
        given = [fed(place, row) if len(row) else row for place, row in zip(places, own, strict=True)]
        return Intervened(self.rule, counts, given)

    def _fed(self, place: int) -> Tensor:
        """What the untouched run fed at its latent steps: (latent, hidden)."""
        return torch.from_numpy(self.stored.get(place).embeds)

    def _noise(self, place: int, own: Tensor) -> Tensor:
        return matched_noise(own, row_keys(self.job.settings.seed, [self.job.examples[place].id], [0])[0])

    def _other(self, place: int, own: Tensor) -> Tensor:
        donor = self.donors.get(place)
        return own if donor is None else fitted(self._fed(donor), len(own))


def donors(places: Sequence[int], key: str) -> dict[int, int]:
    """Another place for each, each once: a cycle through all of them in a keyed random order; none for a single one."""
    order = random.Random(key).sample(list(places), len(places))
    return {place: order[number - 1] for number, place in enumerate(order)} if len(order) > 1 else {}
