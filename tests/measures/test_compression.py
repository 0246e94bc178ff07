"""ECR@K and N_eff: golden values worked by hand, bounds, and slow versions written out here."""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest

from latbench.measures.compression import (
    Steps,
    compression_rate,
    cosine_distance,
    distance_between,
    distance_from,
    effective_number,
    even_cuts,
    greedy_matching,
    mean_distances,
    mean_references,
    path_parallelism,
    path_score,
    segment_hits,
    sizes,
    span_mass,
    spans,
)

TOLERANCE = 1e-6  # of golden values with six digits
UNIT = np.eye(2)


def distributions(*rows: list[float], embeds: np.ndarray | None = None) -> Steps:
    """Whole distributions, sorted as a trace keeps them."""
    weights = np.array(rows)
    ids = np.argsort(-weights, axis=1, kind="stable")
    return Steps(ids, np.take_along_axis(weights, ids, 1), embeds)


def random_steps(rng: np.random.Generator, num: int, vocab: int) -> Steps:
    return distributions(*rng.dirichlet(np.ones(vocab), num).tolist(), embeds=rng.normal(size=(num, 4)))


@pytest.mark.parametrize(
    ("scores", "number"), [([-1, -1], 2.0), ([-1, -2, -4], 2.041869), ([0, -50], 1.0), ([-1e4, -1e4], 2.0)]
)
def test_effective_number_of_the_specification(scores: list[float], number: float) -> None:
    assert effective_number(np.array(scores, dtype=float)) == pytest.approx(number, abs=TOLERANCE)


def test_distances_are_total_variations_by_step_over_the_pairs_that_reach_it() -> None:
    one = distributions([0.5, 0.5, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0])
    other = distributions([0.25, 0.25, 0.5, 0], [0, 1, 0, 0])
    assert mean_distances([(one, other)]) == [0.5, 1]
    assert mean_distances([(one, other), (one, one)]) == [0.25, 0.5, 0]
    kept = Steps(one.ids[:, :1], one.weights[:, :1])
    assert mean_distances([(one, kept)]) == [0.5, 0, 0], "what was not kept is apart"
    assert mean_distances([]) == []


def test_distances_of_latents_are_those_of_a_right_triangle() -> None:
    embeds = np.array([[0, 0], [3, 0], [0, 4]], dtype=np.float32)
    assert distance_between(embeds) == pytest.approx((3 + 4 + 5) / 3)
    assert distance_from(embeds, np.array([0, 0], dtype=np.float32)) == pytest.approx(7 / 3)
    assert distance_between(np.ones((4, 2), dtype=np.float32)) == 0, "collapsed"
    assert distance_between(embeds[:1]) is None
    assert distance_from(embeds[:0], embeds[0]) is None


def test_spans_and_matching_of_the_specification() -> None:
    assert spans(7, 3) == [(0, 2), (2, 4), (4, 7)]
    assert greedy_matching(np.array([[0.3, 0.1, 0.9], [0.2, 0.05, 0.4], [0.1, 0.2, 0.3]])) == [1, 0, 2]


@pytest.mark.parametrize(("top_k", "second", "number"), [(None, -0.510826, 1.999307), (2, -0.601986, 1.994847)])
def test_the_worked_example_of_the_specification(top_k: int | None, second: float, number: float) -> None:
    steps = distributions([0.5, 0.3, 0.1, 0.1], [0.1, 0.2, 0.6, 0.1], embeds=UNIT)
    paths = [([0, 1, 2], UNIT), ([2, 0, 3], UNIT[::-1])]
    scores = [path_score(steps, *path, top_k) for path in paths]
    assert scores == pytest.approx([-0.458145, second], abs=TOLERANCE)
    found = path_parallelism(steps, paths, "key", top_k=top_k)
    assert found.n_eff == pytest.approx(number, abs=TOLERANCE)
    assert found.num_paths == 2
    assert found.ratio == found.n_eff / found.n_eff_random


def test_order_of_paths_changes_nothing_and_equal_paths_are_all_effective() -> None:
    rng = np.random.default_rng(0)
    steps = random_steps(rng, 4, 12)
    paths = [(rng.integers(0, 12, 9).tolist(), rng.normal(size=(4, 4))) for _ in range(3)]
    numbers = [path_parallelism(steps, list(order), "k").n_eff for order in permutations(paths)]
    assert numbers == pytest.approx([numbers[0]] * 6)
    assert 1 <= numbers[0] <= 3
    assert path_parallelism(steps, paths[:1] * 5, "k").n_eff == pytest.approx(5)
    with pytest.raises(ValueError, match="at least two paths, got 1"):
        path_parallelism(steps, paths[:1], "k")


def test_random_matchings_are_keyed_and_those_of_one_step_are_the_only_one() -> None:
    rng = np.random.default_rng(1)
    steps = random_steps(rng, 5, 12)
    paths = [(rng.integers(0, 12, 9).tolist(), rng.normal(size=(5, 4))) for _ in range(3)]
    assert path_parallelism(steps, paths, "a") == path_parallelism(steps, paths, "a")
    assert path_parallelism(steps, paths, "a") != path_parallelism(steps, paths, "b")
    single = path_parallelism(random_steps(rng, 1, 12), paths, "a")
    assert single.ratio == pytest.approx(1)


def test_the_average_over_random_matchings_nears_that_over_all_of_them() -> None:
    rng = np.random.default_rng(2)
    steps = random_steps(rng, 3, 8)
    paths = [(rng.integers(0, 8, 7).tolist(), rng.normal(size=(3, 4))) for _ in range(2)]
    logs = [np.log(span_mass(steps, path, 3) + 1e-12) for path, _ in paths]
    scores = [[rows[range(3), list(order)].mean() for order in permutations(range(3))] for rows in logs]
    every = [effective_number(np.array([a, b])) for a in scores[0] for b in scores[1]]
    found = path_parallelism(steps, paths, "k", trials=4000)
    assert found.n_eff_random == pytest.approx(np.mean(every), abs=4 * np.std(every) / 4000**0.5)


def test_mass_counts_tokens_as_often_as_they_stand_there() -> None:
    rng = np.random.default_rng(3)
    whole = random_steps(rng, 4, 9)
    steps = Steps(whole.ids[:, :5], whole.weights[:, :5])
    path = [3, 3, 8, 1, 0, 3, 2]
    slow = np.zeros((4, 3))
    for t in range(4):
        kept = dict(zip(steps.ids[t, :2].tolist(), steps.weights[t, :2].tolist(), strict=True))
        for s, (start, end) in enumerate(spans(7, 3)):
            slow[t, s] = sum(kept.get(token, 0.0) for token in path[start:end])
    np.testing.assert_allclose(span_mass(steps, path, 3, 2), slow, atol=1e-12)
    assert span_mass(steps, [42, 43], 2).tolist() == [[0, 0]] * 4


def test_a_path_shorter_than_the_thought_is_matched_by_its_first_steps() -> None:
    rng = np.random.default_rng(4)
    steps = random_steps(rng, 6, 9)
    references = mean_references(rng.normal(size=(4, 4)), 6)
    assert references.shape == (4, 4)
    first = Steps(steps.ids[:4], steps.weights[:4], steps.embeds[:4])  # type: ignore[index]
    assert path_score(steps, [1, 2, 3, 4], references) == path_score(first, [1, 2, 3, 4], references)


def test_references_are_means_over_the_spans() -> None:
    embeds = np.arange(14.0).reshape(7, 2)
    expected = [embeds[:2].mean(0), embeds[2:4].mean(0), embeds[4:].mean(0)]
    np.testing.assert_allclose(mean_references(embeds, 3), expected)


def test_cosine_ignores_length_and_takes_a_zero_vector() -> None:
    found = cosine_distance(np.array([[3.0, 0.0], [0.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 2.0], [-5.0, 0.0]]))
    np.testing.assert_allclose(found, [[0, 1, 2], [1, 1, 1]], atol=1e-12)


# ECR


@pytest.mark.parametrize("num_tokens", [15, 16, 23, 31])
def test_even_cuts_are_the_segments_of_two_tokens(num_tokens: int) -> None:
    num = -(-num_tokens // 2)
    assert even_cuts(num_tokens, num) == [*range(0, num_tokens, 2), num_tokens]


def test_hits_are_counted_with_multiplicity_and_without_entries_of_no_weight() -> None:
    steps = Steps(np.array([[1, 2, 3], [1, 2, 3]]), np.array([[0.9, 0.1, 0.0], [0.4, 0.3, 0.3]]))
    assert segment_hits(steps, [1, 1, 3, 3], [0, 3, 4], 1).tolist() == [2, 0]
    assert segment_hits(steps, [1, 1, 3, 3], [0, 3, 4], 3).tolist() == [2, 1]
    assert segment_hits(steps, [1], [0, 0, 1], 3).tolist() == [0, 1]


def test_ecr_of_the_whole_vocabulary_is_the_mean_segment_length_and_grows_with_k() -> None:
    rng = np.random.default_rng(5)
    rows = []
    for _ in range(6):
        num, length = int(rng.integers(1, 5)), int(rng.integers(0, 12))
        rows.append((random_steps(rng, num, 7), rng.integers(0, 7, length).tolist(), even_cuts(length, num)))
    mean = sum(len(chain) for _, chain, _ in rows) / sum(len(steps) for steps, _, _ in rows)
    found = [compression_rate(rows, k) for k in range(1, 8)]
    assert found[-1].value.value == pytest.approx(mean)
    assert found[-1].chance == pytest.approx(mean)
    assert found[-1].chance_in_place == pytest.approx(mean)
    values = [rate.value.value for rate in found]
    assert values == sorted(values)
    assert all(0 <= rate.value.low <= rate.value.value <= rate.value.high for rate in found)
    with pytest.raises(ValueError, match="at least one latent"):
        compression_rate([(random_steps(rng, 1, 7), [1], [0, 1])][:0], 1)


def test_chance_is_the_mean_over_all_shuffles() -> None:
    rng = np.random.default_rng(6)
    chains = [rng.integers(0, 6, 5).tolist() for _ in range(2)]
    rows = [(random_steps(rng, 2, 6), chain, even_cuts(5, 2)) for chain in chains]
    segments = [chain[a:b] for _, chain, cuts in rows for a, b in pairwise(cuts)]
    tops = [set(steps.ids[t, :2].tolist()) for steps, _, _ in rows for t in range(2)]

    def rate(order: tuple[int, ...]) -> float:
        return sum(token in top for top, i in zip(tops, order, strict=True) for token in segments[i]) / 4

    found = compression_rate(rows, 2)
    assert found.value.value == pytest.approx(rate((0, 1, 2, 3)))
    assert found.chance == pytest.approx(np.mean([rate(order) for order in permutations(range(4))]))
    in_place = [(a, b, c, d) for a, c in ((0, 2), (2, 0)) for b, d in ((1, 3), (3, 1))]
    assert found.chance_in_place == pytest.approx(np.mean([rate(order) for order in in_place]))


def test_a_latent_that_is_its_segment_beats_chance() -> None:
    chains = [[1, 2], [3, 4], [5, 6], [7, 0]]
    rows = [(Steps(np.array([chain]), np.array([[0.6, 0.4]])), chain, [0, 2]) for chain in chains]
    found = compression_rate(rows, 2)
    assert (found.value.value, found.chance, found.chance_in_place) == (2, 0.5, 0.5)


def test_k_stays_below_a_quarter_of_the_vocabulary_and_what_was_kept() -> None:
    assert sizes(297, 50) == [1, 5, 10, 50]
    assert sizes(200, 50) == [1, 5, 10]
    assert sizes(50000, 7) == [1, 5]
