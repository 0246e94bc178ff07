"""Latent reliance: the same questions again with replaced latents, each intervention paired with the untouched run.

    zeros   zero vectors
    noise   Gaussian vectors, each with mean and deviation of the one it replaces
    other   the latents of another question, cut or begun again to the same number
    cut<k>  the run's own first k latents, then the close marker; cut0 answers without any thought

The number of latents of a question is that of the untouched run (but for cut<k>), so that none can win by thinking
longer. The untouched run is the evaluation on file, its vectors are those of its trace (kept in half precision, but
for cut<k>, where the run makes them itself). Only the first answer to each question is looked at.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from latbench.decoding.intervened import Intervened, fitted, matched_noise, zeros
from latbench.decoding.loop import Prompt
from latbench.decoding.rule import LatentRule
from latbench.decoding.sampling import row_keys
from latbench.evaluation.job import EvalJob
from latbench.evaluation.records import TRACE, Evaluation
from latbench.measures.latents import StoredTrace
from latbench.measures.measure_files import LETTERS, MeasureHeader, RelianceFile, read_measure, verdicts, write_measure
from latbench.runs.lock import is_main_process, locked
from latbench.util.progress import progress

DEFAULT = ("zeros", "noise", "other", "cut0", "cut1", "cut2", "cut4", "cut8")
_CUT = re.compile(r"cut(0|[1-9]\d{0,5})")


def reliance(job: EvalJob, names: Sequence[str] = DEFAULT) -> tuple[Path, RelianceFile]:
    """Answer with every intervention and store the verdicts; what is on file is kept.

    Args:
        job: the evaluation on file, which has a trace.
        names: of interventions; a cut<k> that reaches the longest thought changes nothing and is left out.
    Returns: the file, `reliance.json` beside the records, and what it holds.
    Raises: ValueError: an unknown name, no complete evaluation or trace, a trace of other answers, a method whose
        latent steps are of another kind, or another process writes the folder.
    """
    if not is_main_process():
        raise ValueError("reliance is measured in one process; start it without a launcher")
    for name in names:
        if name not in DEFAULT and not _CUT.fullmatch(name):
            raise ValueError(f"unknown intervention {name!r}; choose among zeros, noise, other, cut<k> such as cut4")
    before, folder = job.answered(), job.folder
    stored = StoredTrace.open(folder / TRACE, of=before.manifest)
    rule = job.run.method.rule(job.settings.generate)
    if not isinstance(rule, LatentRule):
        raise ValueError(f"method {job.run.config.method_name!r} takes no latent steps; measure one that does")
    counts = [len(stored.get(index)) for index in range(len(job.examples))]
    if counts != [record.num_latents for record in before.records if record.sample == 0]:
        raise ValueError(f"{folder / TRACE} holds other thoughts than the records beside it; trace the run again")
    header = MeasureHeader.of(job.manifest, seed=job.settings.seed)
    with locked(folder):
        file = _known(folder, before, header, sum(counts))
        open_names = [name for name in dict.fromkeys(names) if name not in file.replaced]
        open_names = [name for name in open_names if not _CUT.fullmatch(name) or int(name[3:]) < max(counts)]
        work = Work(job, rule, stored, counts)
        with progress("interventions", total=len(open_names) * len(job.examples)) as advance:
            for name in open_names:
                letters = work.verdicts(name, advance)
                file = replace(file, replaced={**file.replaced, name: letters})
                write_measure(folder, file)
        return write_measure(folder, file), file


def _known(folder: Path, before: Evaluation, header: MeasureHeader, num_latents: int) -> RelianceFile:
    """What is on file of these very answers, whatever version of latbench wrote it, else nothing replaced yet."""
    fresh = RelianceFile(header=header, num_latents=num_latents, untouched=verdicts(before.records), replaced={})
    known = read_measure(folder, RelianceFile, before.manifest)
    if known is None:
        return fresh
    same = replace(header, git_commit=known.header.git_commit, versions=known.header.versions)
    return known if replace(known, replaced={}) == replace(fresh, header=same) else fresh


class Work:
    """Answers under intervention, chunk by chunk."""

    def __init__(self, job: EvalJob, rule: LatentRule, stored: StoredTrace, counts: Sequence[int]) -> None:
        self.job, self.rule, self.stored, self.counts = job, rule, stored, counts
        self.donors = donors([index for index, count in enumerate(counts) if count], f"reliance {job.settings.seed}")

    def verdicts(self, name: str, advance: Callable[[int], None]) -> str:
        """A letter for each question."""
        chunk = self.job.settings.generate.chunk
        letters = ""
        for start in range(0, len(self.job.examples), chunk):
            places = range(start, min(start + chunk, len(self.job.examples)))
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
