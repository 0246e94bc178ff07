"""Intervals and paired tests: closed forms without random numbers, so that a table is the same text everywhere.

For means and ratios of means these stand in for a bootstrap, whose interval they meet on 1,000 questions (the tests
compare them) and which is too narrow on the few of AIME.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, inf, sqrt
from statistics import NormalDist, median

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A point estimate and its two-sided confidence interval, in the unit of the estimate."""

    value: float
    low: float
    high: float

    def clipped(self, low: float = -inf, high: float = inf) -> Interval:
        """The interval cut to the range the quantity can have."""
        return Interval(self.value, max(low, self.low), min(high, self.high))


def wilson_interval(successes: float, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Score interval of a proportion (Wilson 1927, JASA 22:209-212); never empty, also at 0 and n successes.

    Args:
        successes: may be fractional where a trial is a mean over samples in [0, 1]; the interval is then conservative,
            since no variable in [0, 1] of mean p varies more than p (1 - p).
        n: number of independent trials (questions).
    Raises: ValueError: n < 1, or successes outside [0, n].
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"a proportion needs 0 <= successes <= n and n >= 1, got successes={successes}, n={n}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Interval(p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)))


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Mean with Student's t-interval: mean +- t(n - 1) * s / sqrt(n), s with n - 1 in the denominator.

    Returns: unbounded for a single value, which says nothing about its spread.
    Raises: ValueError: no value.
    """
    n = len(values)
    if n == 0:
        raise ValueError("a mean needs at least one value")
    mean = fsum(values) / n
    if n == 1:
        return Interval(mean, -inf, inf)
    deviation = sqrt(fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = _t_quantile((1 + confidence) / 2, n - 1) * deviation / sqrt(n)
    return Interval(mean, mean - half, mean + half)


def over_seeds(found: Sequence[Interval], low: float = 0, high: float = inf) -> Interval | None:
    """One run with its own interval, several as their mean and t-interval, cut to low..high; None for none."""
    if len(found) > 1:
        return mean_interval([one.value for one in found]).clipped(low, high)
    return found[0] if found else None


def mean_of_estimates(found: Sequence[Interval]) -> Interval:
    """Mean of independent estimates, such as the accuracies of one run on several tasks, with its interval.

    The distances from the estimates to their limits add up as squares (MOVER: Zou and Donner, Statistics in Medicine,
    2008, 27:1693-1702), so that intervals need not be symmetric.

    Raises: ValueError: no estimate.
    """
    if not found:
        raise ValueError("a mean needs at least one estimate")
    n = len(found)
    mean = fsum(one.value for one in found) / n
    below = sqrt(fsum((one.value - one.low) ** 2 for one in found)) / n
    above = sqrt(fsum((one.high - one.value) ** 2 for one in found)) / n
    return Interval(mean, mean - below, mean + above)


def ratio_of_means(values: Sequence[float], others: Sequence[float]) -> Interval | None:
    """Mean of values / mean of others, pair by pair of the same question, with a t-interval (Cochran, Sampling
    Techniques, 1977, section 2.11): the deviation of value - ratio * other, over the mean of others.

    Returns: None where the others sum to nothing; unbounded for a single pair.
    Raises: ValueError: no pair, or not as many of both.
    """
    total = fsum(others)
    if total <= 0:
        return None
    ratio = fsum(values) / total
    rest = mean_interval([value - ratio * other for value, other in zip(values, others, strict=True)])
    half = (rest.high - rest.low) / 2 * len(others) / total
    return Interval(ratio, ratio - half, ratio + half)


def median_ratio(values: Sequence[float], reference: Sequence[float]) -> float:
    """Median over rounds of value / reference of the same round, so that a slow round slows both.

    Raises: ValueError: no round, or not as many of both.
    """
    return median(value / other for value, other in zip(values, reference, strict=True))


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided exact p-value of McNemar's test (McNemar 1947, Psychometrika 12:153-157).

    Under the null hypothesis each question that exactly one of two runs solves is as likely a's as b's, so `only_a` is
    Binomial(only_a + only_b, 1/2); the smaller tail is doubled and cut at 1. Questions that both or neither solve say
    nothing. Whole numbers throughout: exact for any count.

    Args:
        only_a: questions that a alone solves.
        only_b: questions that b alone solves.
    """
    n, fewer = only_a + only_b, min(only_a, only_b)
    if 2 * fewer >= n - 1:  # both tails together hold everything
        return 1.0
    tail, term = 0, 1  # sums of binomial coefficients C(n, i)
    for i in range(fewer + 1):
        tail, term = tail + term, term * (n - i) // (i + 1)
    return tail / (1 << (n - 1))


def _t_quantile(probability: float, degrees: int) -> float:
    from scipy.special import stdtrit  # not scipy.stats, which takes a second to import

    return float(stdtrit(degrees, probability))
