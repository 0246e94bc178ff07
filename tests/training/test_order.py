"""The order of examples: passes are whole, steps even, and no cut of a step changes its rows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latbench.training.order import Order


def order(num_rows: int, **changes: Any) -> Order:
    settings: dict[str, Any] = {"rows_per_step": 8, "num_parts": 1, "num_processes": 1, "seed": 0, "lengths": None}
    return Order(num_rows=num_rows, **{**settings, **changes})


def step_rows(of: Order, epoch: int, step: int, num_processes: int = 1) -> list[int]:
    parts = range(of.parts_per_process)
    return [row for process in range(num_processes) for part in parts for row in of.part(epoch, step, part, process)]


@given(num_rows=st.integers(1, 300), rows_per_step=st.integers(1, 40), bucket=st.booleans())
def test_a_pass_visits_every_row_once_in_even_steps(num_rows: int, rows_per_step: int, bucket: bool) -> None:
    lengths = [row * 7 % 11 for row in range(num_rows)] if bucket else None
    tested = order(num_rows, rows_per_step=rows_per_step, lengths=lengths)
    steps = [step_rows(tested, 3, step) for step in range(tested.steps_per_epoch)]
    assert sorted(row for rows in steps for row in rows) == list(range(num_rows))
    sizes = {len(rows) for rows in steps}
    assert max(sizes) <= rows_per_step
    assert max(sizes) - min(sizes) <= 1


@given(
    num_rows=st.integers(4, 100), accumulation=st.integers(1, 5), num_processes=st.integers(1, 4), bucket=st.booleans()
)
def test_parts_and_processes_cut_the_same_step(
    num_rows: int, accumulation: int, num_processes: int, bucket: bool
) -> None:
    lengths = [row * 7 % 11 for row in range(num_rows)] if bucket else None
    whole = order(num_rows, rows_per_step=20, lengths=lengths)
    cut = order(
        num_rows,
        rows_per_step=20,
        lengths=lengths,
        num_parts=accumulation * num_processes,
        num_processes=num_processes,
    )
    assert cut.steps_per_epoch == whole.steps_per_epoch
    for step in range(whole.steps_per_epoch):
        assert sorted(step_rows(cut, 0, step, num_processes)) == sorted(step_rows(whole, 0, step))
        assert all(cut.part(0, step, 0, process) for process in range(num_processes))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    assert step_rows(order(50), 1, 2) == step_rows(order(50), 1, 2)
    assert step_rows(order(50), 1, 2) != step_rows(order(50), 2, 2)
    assert step_rows(order(50), 1, 2) != step_rows(order(50, seed=1), 1, 2)


def test_bucketed_steps_hold_rows_of_similar_length_in_random_order() -> None:
    lengths = [row * 37 % 101 for row in range(800)]
    tested = order(800, lengths=lengths)
    spreads, firsts = [], []
    for step in range(tested.steps_per_epoch):
        found = [lengths[row] for row in step_rows(tested, 0, step)]
        spreads.append(max(found) - min(found))
        firsts.append(found[0])
    assert sorted(spreads)[len(spreads) // 2] <= 5
    assert firsts != sorted(firsts)


def test_more_processes_than_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="3 training examples are too few for 4 processes; use fewer"):
        order(3, num_parts=4, num_processes=4)


def test_steps_too_small_for_the_processes_are_refused_for_what_they_are() -> None:
    with pytest.raises(ValueError, match=r"make steps of 7, in which 8 processes .* raise train\.batch_size"):
        order(1001, rows_per_step=8, num_parts=8, num_processes=8)
    assert order(1001, rows_per_step=16, num_parts=8, num_processes=8).parts_per_process == 1
