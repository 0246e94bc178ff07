"""Latent steps against a known graph: worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from latbench.measures.compression import Steps
from latbench.measures.known_graph import Known, settle, superposition, told_apart

# two quantities with nothing before them, and one that needs both
TREE = Known(
    values=[frozenset({1}), frozenset({2}), frozenset({3})],
    needs=[(), (), (0, 1)],
    order=[0, 1, 2],
    counts=[True] * 3,
)


def steps(*rows: dict[int, float]) -> Steps:
    ids = np.zeros((len(rows), 3), dtype=int)
    weights = np.zeros((len(rows), 3))
    for row, given in enumerate(rows):
        ids[row, : len(given)], weights[row, : len(given)] = list(given), list(given.values())
    return Steps(ids, weights)


def test_a_superposition_carries_two_at_once_and_an_order_one() -> None:
    both = settle(steps({1: 0.5, 2: 0.5}, {3: 1.0}), TREE)
    assert (both.computable, both.carried, both.early) == ([2, 1], [2, 1], 0)
    assert both.settled == {0: 0, 1: 0, 2: 1}
    one = settle(steps({1: 1.0}, {2: 1.0}, {3: 1.0}), TREE)
    assert (one.computable, one.carried) == ([2, 1, 1], [1, 1, 1])
    found = superposition([(steps({1: 0.5, 2: 0.5}, {3: 1.0}), TREE), (steps({1: 1.0}, {2: 1.0}, {3: 1.0}), TREE)])
    assert found is not None
    assert found.share_parallel is not None
    assert found.share_parallel.value == 0.5
    assert found.share_carried is not None
    assert found.share_carried.value == pytest.approx(6 / 7)
    assert (found.computable, found.carried) == ([2, 1, 1], [1.5, 1, 1])
    assert (found.settled, found.early, found.in_order, found.together, found.reversed) == (1, 0, 1, 0, 0)
    assert found.gold_order == 1


def test_what_comes_before_its_needs_is_early_and_reversed() -> None:
    answer = steps({3: 1.0}, {1: 0.6, 2: 0.4})
    found = settle(answer, TREE)
    assert (found.computable, found.carried, found.early) == ([2, 2], [0, 2], 1)
    whole = superposition([(answer, TREE)])
    assert whole is not None
    assert (whole.in_order, whole.reversed, whole.gold_order) == (0, 1, 0)
    assert (whole.chance_carried, whole.chance_parallel) == (None, None)  # no other question


def test_needed_and_needing_at_one_step_are_together() -> None:
    found = superposition([(steps({1: 0.4, 2: 0.3, 3: 0.3}), TREE)])
    assert found is not None
    assert (found.in_order, found.together, found.early, found.gold_order) == (0, 1, 1 / 3, None)


@pytest.mark.parametrize(("threshold", "carried"), [(0.3, 1), (0.31, 0)])
def test_the_least_probable_token_of_a_value_decides(threshold: float, carried: int) -> None:
    known = Known(values=[frozenset({1, 2})], needs=[()], order=[0], counts=[True])
    assert settle(steps({1: 0.7, 2: 0.3}), known, threshold).carried == [carried]


def test_values_written_elsewhere_are_left_out_with_what_needs_them() -> None:
    values = [frozenset({1}), frozenset({2}), frozenset({3})]
    needs = [(), (), (0,)]
    assert told_apart(values, [[9, 1], [9, 2], [1, 9, 3]], needs) == [True, True, True]
    assert told_apart(values, [[9, 1], [1, 2], [1, 9, 3]], needs) == [False, True, False]  # 1 is a literal elsewhere
    assert told_apart(values, [[9, 1], [9, 2], [1, 3, 3]], needs) == [True, True, False]  # twice in its own step
    assert told_apart([frozenset(), *values[1:]], [[9], [9, 2], [9, 3]], needs) == [False, True, False]
    found = settle(steps({2: 1.0}), Known(values, needs, [0, 1, 2], [False, True, False]))
    assert (found.computable, found.carried, found.settled) == ([1], [1], {1: 0})


def test_chance_is_the_graph_of_another_question() -> None:
    other = Known(values=[frozenset({7})], needs=[()], order=[0], counts=[True])
    found = superposition([(steps({1: 0.5, 2: 0.5}), TREE), (steps({7: 1.0}), other)])
    assert found is not None
    assert found.share_carried is not None
    assert (found.share_carried.value, found.chance_carried) == (1, 0)


def test_nothing_to_see_is_none() -> None:
    assert superposition([]) is None
    assert superposition([(steps({1: 1.0}), Known([frozenset({1})], [()], [0], [False]))]) is None
