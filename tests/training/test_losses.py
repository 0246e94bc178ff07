"""Losses that methods share: worked values, and what they must not depend on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from latbench.model.batches import IGNORE_INDEX
from latbench.training.losses import soft_label_kl, standardised_mse, token_cross_entropy, unlikelihood

STUDENT = torch.tensor([[1, 0.5, 0, -1, 2, 0.25]])
IDS, TEACHER = torch.tensor([[4, 0, 2]]), torch.tensor([[0.7, 0.2, 0.1]])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_worked_divergence_is_met() -> None:
    assert float(soft_label_kl(STUDENT, IDS, TEACHER)) == pytest.approx(0.2659625, abs=1e-6)


@pytest.mark.parametrize("factor", [0.5, 2.0, 1e-3])
def test_the_teachers_scale_does_not_matter(factor: float) -> None:
    scaled = soft_label_kl(STUDENT, IDS, factor * TEACHER)
    torch.testing.assert_close(scaled, soft_label_kl(STUDENT, IDS, TEACHER), rtol=1e-5, atol=1e-6)


def test_the_divergence_is_zero_for_equal_distributions_alone() -> None:
    logits = random(8, 30)
    own = logits.softmax(-1)
    torch.testing.assert_close(soft_label_kl(logits, None, own), torch.zeros(8).double(), rtol=0, atol=1e-9)
    other = random(8, 30, seed=1).softmax(-1)
    assert (soft_label_kl(logits, None, other) > 1e-2).all()


def test_the_divergence_is_never_negative() -> None:
    logits, ids = 3 * random(200, 30), torch.stack([torch.randperm(30)[:5] for _ in range(200)])
    assert (soft_label_kl(logits, ids, random(200, 5, seed=1).softmax(-1)) >= 0).all()


def test_the_student_answers_for_the_mass_it_puts_elsewhere() -> None:
    """A student equal to the teacher on its support, but with half its mass outside, is log 2 away."""
    logits = torch.tensor([[0.35, 0.1, 0.05, 0.5]]).log()
    divergence = soft_label_kl(logits, torch.tensor([[0, 1, 2]]), TEACHER)
    assert float(divergence) == pytest.approx(float(torch.tensor(2.0).log()), abs=1e-6)


def test_the_divergence_is_forward() -> None:
    """By hand: sum of p (log p - log q), which differs from the other direction."""
    logits = random(1, 6)
    p, q = TEACHER[0].double(), logits.softmax(-1)[0, IDS[0]]
    found = float(soft_label_kl(logits, IDS, TEACHER))
    assert found == pytest.approx(float((p * (p / q).log()).sum()), abs=1e-6)
    assert found != pytest.approx(float((q * (q / p).log()).sum()), abs=1e-2)


def test_all_ids_are_the_whole_vocabulary() -> None:
    logits, teacher = random(5, 12), random(5, 12, seed=1).softmax(-1)
    every = torch.arange(12).flip(0).expand(5, 12)
    torch.testing.assert_close(soft_label_kl(logits, every, teacher.flip(1)), soft_label_kl(logits, None, teacher))


def test_a_teachers_zero_costs_nothing() -> None:
    with_zero = soft_label_kl(STUDENT, torch.tensor([[4, 0, 2, 3]]), torch.tensor([[0.7, 0.2, 0.1, 0.0]]))
    torch.testing.assert_close(with_zero, soft_label_kl(STUDENT, IDS, TEACHER))
    assert torch.isfinite(with_zero).all()


def test_the_divergence_pulls_the_student_towards_the_teacher() -> None:
    logits = random(1, 6).requires_grad_()
    (gradient,) = torch.autograd.grad(soft_label_kl(logits, IDS, TEACHER).sum(), logits)
    expected = logits.detach().softmax(-1)
    expected[0, IDS[0]] -= TEACHER[0].double()
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-7)


def test_cross_entropy_is_a_sum_over_supervised_tokens() -> None:
    logits, labels = random(2, 3, 7), torch.tensor([[3, IGNORE_INDEX, 0], [IGNORE_INDEX, 6, IGNORE_INDEX]])
    term = token_cross_entropy(logits, labels, weight=0.5)
    minus_log = -logits.log_softmax(-1)
    torch.testing.assert_close(term.total, minus_log[0, 0, 3] + minus_log[0, 2, 0] + minus_log[1, 1, 6])
    assert (term.num_items, term.weight) == (3, 0.5)


def test_shares_make_a_mean_of_means() -> None:
    """Two tokens of one segment and one of another: (mean of two + one) over two items."""
    logits, labels = random(3, 7), torch.tensor([1, 2, 3])
    term = token_cross_entropy(logits, labels, shares=torch.tensor([0.5, 0.5, 1.0]))
    each = -logits.log_softmax(-1)[torch.arange(3), labels]
    torch.testing.assert_close(term.total, each[:2].mean() + each[2])
    assert term.num_items == 2


def test_moving_targets_by_one_changes_the_losses() -> None:
    logits, labels, teacher = random(6, 12), torch.arange(6), random(6, 4, seed=1).softmax(-1)
    ids = torch.arange(24).reshape(6, 4) % 12
    moved = token_cross_entropy(logits, labels.roll(1)).total
    assert (token_cross_entropy(logits, labels).total - moved).abs() > 1e-2
    moved = soft_label_kl(logits, ids.roll(1, 0), teacher.roll(1, 0)).sum()
    assert (soft_label_kl(logits, ids, teacher).sum() - moved).abs() > 1e-2


def test_losses_of_bfloat16_logits_are_computed_in_float32() -> None:
    coarse = random(4, 12).bfloat16()
    assert token_cross_entropy(coarse, torch.arange(4)).total.dtype == torch.float32
    assert soft_label_kl(coarse, None, random(4, 12).softmax(-1)).dtype == torch.float32


def test_unlikelihood_of_a_token() -> None:
    logits = torch.tensor([[0.25, 0.75], [0.5, 0.5], [1e-9, 1 - 1e-9]], dtype=torch.float64).log()
    expected = [0.28768207245178085, 0.6931471805599453, 1.000000000500e-9]  # -ln(1 - p)
    assert unlikelihood(logits, 0).tolist() == pytest.approx(expected, rel=1e-6)
    certain = torch.tensor([[60.0, 0.0]])
    assert unlikelihood(certain, 0).tolist() == [60.0], "finite where 1 - p underflows"
    assert unlikelihood(logits.bfloat16(), 0).dtype == torch.float32


def test_squared_distances_count_in_units_of_each_dimensions_spread() -> None:
    states, targets = torch.tensor([[1.0, 10.0], [0.0, 0.0]]), torch.tensor([[0.0, 30.0], [0.0, 0.0]])
    found = standardised_mse(states, targets, torch.tensor([1.0, 10.0]))
    torch.testing.assert_close(found, torch.tensor([(1.0 + 4.0) / 2, 0.0]))
