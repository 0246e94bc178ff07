"""Intervals and tests agree with scipy, with published worked values and with brute force."""

from __future__ import annotations

from itertools import product
from math import inf, isclose

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from latbench.evaluation.statistics import Interval, mcnemar_exact, mean_interval, ratio_of_means, wilson_interval


@settings(deadline=None, derandomize=True)
@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.9, 0.95]))
def test_wilson_equals_scipy(counts: tuple[int, int], confidence: float) -> None:
    successes, n = counts
    expected = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    interval = wilson_interval(successes, n, confidence)
    assert interval.value == successes / n
    assert isclose(interval.low, expected.low, abs_tol=1e-9)
    assert isclose(interval.high, expected.high, abs_tol=1e-9)


def test_wilson_equals_published_values() -> None:
    """Newcombe 1998 (Statistics in Medicine 17:857-872), table I, method 3."""
    for successes, n, low, high in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)]:
        interval = wilson_interval(successes, n)
        assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)


@settings(deadline=None, derandomize=True)
@given(st.floats(0, 1), st.integers(1, 10**6))
def test_wilson_holds_its_estimate_and_is_never_empty(share: float, n: int) -> None:
    interval = wilson_interval(min(share * n, n), n)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    assert interval.low < interval.high


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(successes, n)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20).filter(lambda values: max(values) - min(values) > 1e-3))
def test_mean_interval_equals_scipy(values: list[float]) -> None:
    low, high = stats.t.interval(0.95, len(values) - 1, loc=stats.tmean(values), scale=stats.sem(values))
    interval = mean_interval(values)
    assert isclose(interval.low, low, rel_tol=1e-9, abs_tol=1e-9)
    assert isclose(interval.high, high, rel_tol=1e-9, abs_tol=1e-9)


def test_mean_interval_of_a_worked_example() -> None:
    """s^2 = 0.001 / 4, t(4) = 2.776445: half-width 2.776445 * sqrt(0.00025 / 5) = 0.019632."""
    interval = mean_interval([0.49, 0.50, 0.51, 0.48, 0.52])
    assert interval.value == pytest.approx(0.5)
    assert interval.high - 0.5 == pytest.approx(0.0196324, abs=1e-7)


def test_mean_interval_of_equal_values_is_a_point_and_of_one_value_unbounded() -> None:
    assert mean_interval([3, 3, 3]) == Interval(3, 3, 3)
    assert mean_interval([3]) == Interval(3, -inf, inf)
    with pytest.raises(ValueError, match="at least one"):
        mean_interval([])


def test_t_interval_of_lengths_is_that_of_the_bootstrap() -> None:
    """Why lengths need no resampling: at the size of a test set, skewed as they are, both ends agree to 3 % of it."""
    lengths = stats.nbinom(2, 0.1).rvs(1319, random_state=0)
    resampled = stats.bootstrap((lengths,), lambda x, axis: x.mean(axis), n_resamples=4000, rng=0).confidence_interval
    interval = mean_interval(lengths.tolist())
    width = interval.high - interval.low
    assert abs(interval.low - resampled.low) < 0.03 * width
    assert abs(interval.high - resampled.high) < 0.03 * width


def test_interval_of_a_ratio_is_that_of_the_bootstrap() -> None:
    rng = np.random.default_rng(0)
    own = rng.integers(3, 12, 1000)
    gold = 2 * own + rng.integers(0, 9, 1000)
    found = ratio_of_means(gold.tolist(), own.tolist())
    again = stats.bootstrap(
        (gold, own), lambda a, b, axis: a.mean(axis) / b.mean(axis), paired=True, vectorized=True, rng=rng
    ).confidence_interval
    assert found is not None
    assert found.value == gold.mean() / own.mean()
    assert found.low == pytest.approx(again.low, abs=0.005)
    assert found.high == pytest.approx(again.high, abs=0.005)


def test_clipping_keeps_the_estimate() -> None:
    assert Interval(0.9, 0.7, 1.1).clipped(0, 1) == Interval(0.9, 0.7, 1)


@pytest.mark.parametrize(("only_a", "only_b"), product([0, 1, 2, 5, 13, 400], repeat=2))
def test_mcnemar_equals_scipys_binomial_test(only_a: int, only_b: int) -> None:
    expected = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert mcnemar_exact(only_a, only_b) == pytest.approx(expected, rel=1e-9, abs=0)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 5), (1, 4), (2, 3), (3, 3), (1, 8)])
def test_mcnemar_equals_counting_all_outcomes(only_a: int, only_b: int) -> None:
    n, distance = only_a + only_b, abs(only_a - only_b)
    as_far = sum(abs(2 * sum(outcome) - n) >= distance for outcome in product([0, 1], repeat=n))
    assert mcnemar_exact(only_a, only_b) == as_far / 2**n


def test_mcnemar_is_finite_for_many_questions() -> None:
    assert mcnemar_exact(0, 5000) == 0
    assert 0 < mcnemar_exact(2400, 2600) < 0.01
