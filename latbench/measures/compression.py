"""How much of explicit chains latent steps hold: ECR@K against one chain, N_eff over several (arXiv:2510.15522).

Pure functions of arrays: what a step's distribution is (a mixture, or the LM head's reading), and where chains come
from, is the caller's. Distributions are given by their largest entries; what is not among them has no mass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum

import numpy as np
from numpy.typing import NDArray

from latbench.evaluation.statistics import ratio_of_means
from latbench.measures.measure_files import Rate

Ints = NDArray[np.integer]
Floats = NDArray[np.floating]
ECR_SIZES = (1, 5, 10, 50)  # K
MASS_TOP_K = 100  # entries of a distribution that count in N_eff
NO_MASS = 1e-12  # added to a mass before its logarithm
TRIALS = 64  # random matchings


@dataclass(frozen=True)
class Steps:
    """The latent steps of one answer.

    Args:
        ids, weights: (latent, top_k) largest entries of each step's distribution, by falling weight.
        embeds: (latent, hidden) as they were fed; None where nothing is asked of them.
    """

    ids: Ints
    weights: Floats
    embeds: Floats | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Parallelism:
    """N_eff of one problem: effective number of paths, the same with random matchings, number of paths M."""

    n_eff: float
    n_eff_random: float
    num_paths: int

    @property
    def ratio(self) -> float:
        """N_eff / N_eff with random matchings."""
        return self.n_eff / self.n_eff_random


def even_cuts(length: int, parts: int) -> list[int]:
    """Bounds of segments, 0 .. length: step t = 1 .. m has tokens ceil((t - 1) T / m) + 1 to ceil(t T / m).

    A shorter segment comes last, as where every r tokens were condensed: rounding down would, at r = 2 and
    an odd T, put every segment one token beside the one its latent was made of.
    """
    return [-(-part * length // max(parts, 1)) for part in range(parts + 1)]


def sizes(vocab: int, top_k: int) -> list[int]:
    """The K of ECR_SIZES that say something: below a quarter of the vocabulary, and not beyond what was kept."""
    return [k for k in ECR_SIZES if k < vocab / 4 and k <= top_k]


def segment_hits(steps: Steps, chain: Sequence[int], cuts: Sequence[int], k: int) -> Ints:
    """c_t, token positions of segment t whose id is among the K largest entries of step t: (latent,).

    Entries of weight 0 are no part of a superposition. Args: cuts: (latent + 1,) bounds of the segments in the chain.
    """
    owner = np.repeat(np.arange(len(steps)), np.diff(cuts))
    tokens = np.asarray(chain)[cuts[0] : cuts[-1]]
    hit = (_top(steps, k)[owner] == tokens[:, None]).any(-1)
    return np.bincount(owner[hit], minlength=len(steps))


def compression_rate(rows: Sequence[tuple[Steps, Sequence[int], Sequence[int]]], k: int) -> Rate:
    """ECR@K, sum of c_t over all latents of all chains / number of latents (arXiv:2510.15522).

    The paper names the measure and gives no formula; multiplicity counts here, and segments are those of `cuts`.

    The baselines are expectations over all shuffles, not draws.

    Args:
        rows: (steps, chain, cuts) by answer, see `segment_hits`; answers without latents say nothing.
    Raises: ValueError: no latent at all.
    """
    rows = [row for row in rows if len(row[0])]
    if not rows:
        raise ValueError("ECR needs at least one latent step")
    hits = [int(segment_hits(*row, k).sum()) for row in rows]
    counts = [len(steps) for steps, _, _ in rows]
    found = ratio_of_means(hits, counts)
    assert found is not None, "there is a latent"
    longest = max(int(np.diff(cuts).max()) for _, _, cuts in rows)
    place = np.concatenate([np.arange(count) for count in counts])
    top = np.concatenate([_padded(_top(steps, k), k) for steps, _, _ in rows])
    owner = np.concatenate([np.repeat(np.arange(len(steps)), np.diff(cuts)) for steps, _, cuts in rows])
    tokens = np.concatenate([np.asarray(chain, dtype=np.int64)[cuts[0] : cuts[-1]] for _, chain, cuts in rows])
    return Rate(
        k=k,
        value=found.clipped(0, longest),
        chance=_shuffled(top, tokens) / len(top),
        chance_in_place=fsum(_shuffled(top[place == t], tokens[owner == t]) for t in range(max(counts))) / len(top),
    )


def mean_distances(pairs: Sequence[tuple[Steps, Steps]]) -> list[float]:
    """Total variation between two distributions at latent step 1, 2 ..., as means over the pairs that both reach it.

    Entries that were not kept count as apart: the distance of two mixtures of few entries is exact.
    """
    longest = max((min(len(one), len(other)) for one, other in pairs), default=0)
    total, count = np.zeros(longest), np.zeros(longest)
    for one, other in pairs:
        num = min(len(one), len(other))
        same = one.ids[:num, :, None] == other.ids[:num, None, :]
        least = np.minimum(one.weights[:num, :, None], other.weights[:num, None, :])
        total[:num] += 1 - np.where(same, least, 0).sum((1, 2))
        count[:num] += 1
    means: list[float] = (total / count).tolist()
    return means


def distance_between(embeds: Floats) -> float | None:
    """Mean Euclidean distance of an answer's latents from each other; near zero where they have collapsed into one.

    Args:
        embeds: (latent, hidden), what was fed.
    Returns: None for fewer than two.
    Source: arXiv:2509.20317, inter-latent distance.
    """
    num = len(embeds)
    if num < 2:
        return None
    wide = embeds.astype(np.float64)
    each = np.sqrt(((wide[:, None] - wide[None]) ** 2).sum(-1))
    return float(each.sum() / (num * (num - 1)))


def distance_from(embeds: Floats, centre: Floats) -> float | None:
    """Mean Euclidean distance of an answer's latents from the centre of the vocabulary.

    Args:
        embeds: (latent, hidden); centre: (hidden,) mean row of the input embeddings.
    Returns: None without latents.
    Source: arXiv:2509.20317, distance to the vocabulary centre.
    """
    return float(np.sqrt(((embeds.astype(np.float64) - centre) ** 2).sum(-1)).mean()) if len(embeds) else None


def spans(length: int, parts: int) -> list[tuple[int, int]]:
    """Step 1 of N_eff: span s is tokens floor(s L / A) to floor((s + 1) L / A), the last excluded."""
    return [(part * length // parts, (part + 1) * length // parts) for part in range(parts)]


def mean_references(embeds: Floats, num_steps: int) -> Floats:
    """Reference latents of a path: the mean input embedding of each span's tokens.

    Args:
        embeds: (token, hidden) of the path, not empty; num_steps: of the candidate.
    Returns: (min(num_steps, tokens), hidden), of the spans that step 1 of N_eff cuts.
    """
    bounds = spans(len(embeds), min(num_steps, len(embeds)))
    return np.stack([embeds[start:end].mean(0) for start, end in bounds])


def cosine_distance(candidate: Floats, references: Floats) -> Floats:
    """1 - cosine of every pair: (candidate, hidden), (reference, hidden) -> (candidate, reference)."""
    a, b = (x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), NO_MASS) for x in (candidate, references))
    distance: Floats = 1 - a @ b.T
    return distance


def greedy_matching(distance: Floats) -> list[int]:
    """Step t takes the nearest reference that no earlier step has taken: (step, reference) -> reference of each."""
    left = distance.astype(float)
    taken = []
    for row in left:
        taken.append(int(row.argmin()))
        left[:, taken[-1]] = np.inf
    return taken


def span_mass(steps: Steps, path: Sequence[int], parts: int, top_k: int | None = MASS_TOP_K) -> Floats:
    """Probability of each span's tokens, with multiplicity, at each step: (latent, parts).

    Args:
        path: token ids; top_k: entries of a distribution that count, None: all that were kept.
    """
    ids, weights = steps.ids[:, :top_k], steps.weights[:, :top_k]
    tokens, place = np.unique(np.asarray(path), return_inverse=True)
    found = np.searchsorted(tokens, ids).clip(max=len(tokens) - 1)
    each = np.zeros((len(steps), len(tokens)))
    rows = np.broadcast_to(np.arange(len(steps))[:, None], ids.shape)
    np.add.at(each, (rows, found), np.where(tokens[found] == ids, weights, 0.0))
    sums = np.concatenate([np.zeros((len(steps), 1)), each[:, place].cumsum(1)], axis=1)
    starts, ends = np.transpose(spans(len(path), parts))
    mass: Floats = sums[:, ends] - sums[:, starts]
    return mass.clip(min=0)


def effective_number(scores: Floats) -> Floats:
    """exp of the entropy of a softmax over the last axis: (..., path) log-scores -> (...), from 1 to M."""
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights = weights / weights.sum(-1, keepdims=True)
    number: Floats = np.exp(-(weights * np.log(np.maximum(weights, 1e-300))).sum(-1))
    return number


def path_parallelism(
    steps: Steps,
    paths: Sequence[tuple[Sequence[int], Floats]],
    key: str,
    *,
    top_k: int | None = MASS_TOP_K,
    trials: int = TRIALS,
) -> Parallelism:
    """N_eff over known paths, and its mean over random matchings (arXiv:2510.15522v1, global parallelism; tau = 1).

    Args:
        steps: at least one, with their embeddings.
        paths: token ids and reference latents (reference, hidden) of each; two paths or more.
        key: of the random matchings; trials: how many.
    Raises: ValueError: fewer than two paths.
    """
    if len(paths) < 2:
        raise ValueError(f"N_eff needs at least two paths, got {len(paths)}")
    rng = np.random.default_rng(list(key.encode()))
    scores, random_scores = [], []
    for path, references in paths:
        logs = _logs(steps, path, references, top_k)
        shuffles = rng.permuted(np.tile(np.arange(len(logs)), (trials, 1)), axis=1)
        scores.append(path_score(steps, path, references, top_k))
        random_scores.append(logs[np.arange(len(logs)), shuffles].mean(-1))
    return Parallelism(
        n_eff=float(effective_number(np.array(scores))),
        n_eff_random=float(effective_number(np.stack(random_scores, axis=-1)).mean()),
        num_paths=len(paths),
    )


def path_score(steps: Steps, path: Sequence[int], references: Floats, top_k: int | None = MASS_TOP_K) -> float:
    """Mean over the matched steps of the log-mass of their spans; what a longer path or answer has beyond is left."""
    assert steps.embeds is not None, "matching needs the embeddings"
    logs = _logs(steps, path, references, top_k)
    num = len(logs)
    matched = greedy_matching(cosine_distance(steps.embeds[:num], references[:num]))
    return float(logs[np.arange(num), matched].mean())


def _logs(steps: Steps, path: Sequence[int], references: Floats, top_k: int | None) -> Floats:
    """Log-mass of every span at every step, A of both."""
    num = min(len(steps), len(references))
    logs: Floats = np.log(span_mass(steps, path, num, top_k)[:num] + NO_MASS)
    return logs


def _top(steps: Steps, k: int) -> Ints:
    return np.where(steps.weights[:, :k] > 0, steps.ids[:, :k], -1)


def _padded(ids: Ints, width: int) -> Ints:
    return np.pad(ids, ((0, 0), (0, width - ids.shape[1])), constant_values=-1)


def _shuffled(top: Ints, tokens: Ints) -> float:
    """Expected number of hits of all steps, each with a segment drawn from those that hold these tokens."""
    kept = top[top >= 0]
    counts = np.bincount(tokens, minlength=int(kept.max(initial=0)) + 1)
    return float(counts[kept].sum()) / max(len(top), 1)
