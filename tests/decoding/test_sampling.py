"""Keyed random numbers and the choice of a token."""

from __future__ import annotations

import pytest
import torch

from latbench.decoding.sampling import Sampling, gumbel, normal, row_keys, uniform
from latbench.decoding.superposition import entropy, top_k_mixture


def many_keys(num: int = 20000) -> torch.Tensor:
    return row_keys(0, [str(i) for i in range(num)], [0] * num)


def test_uniform_draws_are_uniform_and_unrelated_across_keys_steps_and_draws() -> None:
    keys = many_keys()
    zeros = torch.zeros_like(keys)
    streams = torch.stack([uniform(keys, zeros), uniform(keys, zeros + 1), uniform(keys, zeros, draw=1)])
    streams = torch.cat([streams, uniform(keys, zeros, draw=2, num=3).T])
    assert ((streams > 0) & (streams < 1)).all()
    counts = torch.stack([torch.histc(row, bins=20, min=0, max=1) for row in streams])
    chi_square = ((counts - 1000) ** 2 / 1000).sum(1)
    assert (chi_square < 45).all()  # 19 degrees of freedom: p = 0.0007
    correlation = torch.corrcoef(streams) - torch.eye(len(streams), dtype=torch.double)
    assert correlation.abs().max() < 0.03


def test_a_key_depends_on_seed_example_and_sample() -> None:
    keys = {int(row_keys(s, [i], [n])) for s in (0, 1) for i in ("a", "b", "a\0") for n in (0, 1, 10)}
    assert len(keys) == 18


def test_gumbel_noise_has_its_mean_and_variance() -> None:
    keys = many_keys(5000)
    noise = gumbel(keys, torch.zeros_like(keys), draw=0, num=4).double()
    assert abs(float(noise.mean()) - 0.5772) < 0.03
    assert abs(float(noise.var()) - 1.6449) < 0.08


def test_normal_noise_is_standard_and_keyed_by_row_step_and_draw() -> None:
    keys = many_keys(5000)
    zeros = torch.zeros_like(keys)
    noise = normal(keys, zeros, draw=0, num=4)
    assert noise.dtype == torch.float32
    assert torch.equal(normal(keys[7:9], zeros[7:9], draw=0, num=4), noise[7:9])
    values = noise.flatten().double().sort().values
    levels = (torch.arange(len(values)) + 0.5).double() / len(values)
    distance = (0.5 * (1 + torch.erf(values / 2**0.5)) - levels).abs().max()  # Kolmogorov and Smirnov's
    assert distance < 1.95 / len(values) ** 0.5  # p = 0.001
    others = [normal(keys, zeros + 1, draw=0, num=4), normal(keys, zeros, draw=1, num=4)]
    streams = torch.cat([noise, *others], dim=1).T
    assert (torch.corrcoef(streams) - torch.eye(12)).abs().max() < 0.06


def test_sampled_frequencies_follow_the_softmax() -> None:
    keys = many_keys()
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0])
    chosen = Sampling(temperature=0.7).choose(logits.expand(len(keys), 4), keys, torch.zeros_like(keys))
    torch.testing.assert_close(chosen.bincount(minlength=4) / len(keys), (logits / 0.7).softmax(0), atol=0.01, rtol=0)


@pytest.mark.parametrize("vocab", [100, 297, 5000])
@pytest.mark.parametrize("kind", ["sharp", "tied", "masked", "double", "mixed"])
def test_looking_at_the_likeliest_first_draws_the_very_tokens_of_the_whole_order(kind: str, vocab: int) -> None:
    torch.manual_seed(vocab)
    logits = torch.randn(4000 if vocab < 5000 else 400, vocab) * 5
    if kind == "tied":
        logits = logits.round()
    if kind == "masked":
        logits[:, ::3] = -torch.inf
    if kind == "double":
        logits = logits.double()
    if kind == "mixed":
        logits[::2] /= 50
    keys = many_keys(len(logits))
    steps = torch.arange(len(logits)) % 7
    for temperature in (0.7, 1.0, 1.3):
        sampling = Sampling(temperature=temperature)
        expected = sampling._by_order(logits, uniform(keys, steps))
        assert torch.equal(sampling.choose(logits, keys, steps), expected)
        likely = sampling._among_likeliest(logits, uniform(keys, steps))
        if vocab == 297 and temperature == 0.7:
            assert likely is not None
            token, sure = likely
            assert torch.equal(token[sure], expected[sure])
            assert float(sure.double().mean()) > {"tied": 0.2, "mixed": 0.45}.get(kind, 0.9)
    one = Sampling(temperature=1.0)
    few = torch.cat([one.choose(row[None], key[None], step[None]) for row, key, step in zip(
        logits[:20], keys[:20], steps[:20], strict=True)])  # fmt: skip
    assert torch.equal(few, one.choose(logits, keys, steps)[:20])


def test_draws_close_to_a_bound_are_left_to_the_whole_order() -> None:
    logits = torch.full((3, 80), -50.0)
    logits[:, 5], logits[:, 9] = 0.0, 0.0  # half each
    logits[0, 9] += 0.1
    sampling = Sampling(temperature=1.0)
    bound = float(logits[0].double().softmax(-1)[9])
    found = sampling._among_likeliest(logits, torch.tensor([bound + 1e-6, 0.3, 0.7], dtype=torch.double))
    assert found is not None
    assert found[1].tolist() == [False, False, False]
    found = sampling._among_likeliest(logits[:1], torch.tensor([bound + 1e-4], dtype=torch.double))
    assert found is not None
    assert (found[0].tolist(), found[1].tolist()) == ([5], [True])


def test_where_it_does_not_pay_all_tokens_are_ordered() -> None:
    draws, flat, sharp = torch.full((2,), 0.5).double(), torch.zeros(2, 300), torch.eye(300)[:2] * 20
    assert Sampling(temperature=1.0)._among_likeliest(flat, draws) is None
    assert Sampling(temperature=1.0)._among_likeliest(sharp, draws) is not None
    assert Sampling(temperature=1.0)._among_likeliest(sharp[:, :50], draws) is None
    assert Sampling(temperature=1.0, top_p=0.9)._among_likeliest(sharp, draws) is None
    assert Sampling(temperature=1.0, top_k=20)._among_likeliest(sharp, draws) is None


def test_filters_keep_their_support() -> None:
    keys = many_keys(3000)
    zeros = torch.zeros_like(keys)
    logits = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05]).log().expand(len(keys), 5)
    assert set(Sampling(temperature=1.0, top_k=2).choose(logits, keys, zeros).tolist()) == {0, 1}
    assert set(Sampling(temperature=1.0, top_p=0.69).choose(logits, keys, zeros).tolist()) == {0, 1}
    assert set(Sampling(temperature=1.0, top_p=0.71).choose(logits, keys, zeros).tolist()) == {0, 1, 2}
    assert set(Sampling(temperature=1.0, top_p=0.01).choose(logits, keys, zeros).tolist()) == {0}
    assert set(Sampling(temperature=1.0).choose(logits, keys, zeros).tolist()) == set(range(5))
    assert set(Sampling().choose(logits, keys, zeros).tolist()) == {0}


def test_the_mixture_has_the_golden_values_of_the_spec() -> None:
    """Golden values of a superposition, worked by hand."""
    rows = torch.tensor([[1, 0], [0, 1], [1, 1], [-1, 0], [0, -1], [0.5, -0.5]])
    scores = rows @ torch.tensor([2.0, 1.0])
    for k, expected in {
        1: (1, 1),
        2: (1, 0.731059),
        3: (0.909969, 0.755271),
        6: (0.870731, 0.668162),
        99: (0.870731, 0.668162),
    }.items():
        ids, weights = top_k_mixture(scores, k)
        torch.testing.assert_close(weights @ rows[ids], torch.tensor(expected, dtype=torch.float), atol=1e-5, rtol=0)
        torch.testing.assert_close(weights.sum(), torch.tensor(1.0))


def test_entropy_counts_effective_entries() -> None:
    torch.testing.assert_close(entropy(torch.zeros(3, 8)).exp(), torch.full((3,), 8.0))
    assert float(entropy(torch.tensor([0.0, 100.0]))) < 1e-6
