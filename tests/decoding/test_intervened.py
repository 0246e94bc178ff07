"""Replaced latents, on every registered method that takes latent steps, in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from latbench import registry
from latbench.config import GenerateConfig, ModelConfig
from latbench.decoding.intervened import Intervened, fitted, matched_noise, zeros
from latbench.decoding.loop import Generation
from latbench.decoding.rule import FixedLatents, Latent, LatentRule, RowState, StepRule
from latbench.decoding.sampling import row_keys
from latbench.method import Method
from latbench.model.backbone import Backbone

QUESTIONS = ["n0 = 3 + 4 ;n0 ?", "x", "a longer question of many bytes", "7", "n1 = 5 - 2 ;n2 = n1 + 1 ;n2 ?"]
GENERATE = GenerateConfig(max_new_tokens=8, max_latents=10, batch_size=3)


def wide(backbone: Backbone) -> Backbone:
    """Weights wide enough to tell tokens apart."""
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    return backbone


@pytest.fixture(params=registry.method_names())
def latent_method(request: pytest.FixtureRequest) -> Method[Any]:
    """Each registered method whose rule takes latent steps."""
    config = ModelConfig(hidden_size=32, num_layers=2, num_heads=2, mlp_size=48, dtype="float64", device="cpu")
    entry = registry.get_method(request.param)
    torch.manual_seed(7)
    made: Method[Any] = entry.cls(wide(Backbone.load(config, seed=7)), entry.config())
    if not isinstance(made.rule(GENERATE), LatentRule):
        pytest.skip("explicit")
    return made.eval()


def generate(method: Method[Any], rule: StepRule | None = None, **changes: Any) -> list[Generation]:
    return method.generate(QUESTIONS, replace(GENERATE, **changes), seed=3, trace=True, rule=rule)


def latent_rule(method: Method[Any]) -> LatentRule:
    """The method's own rule."""
    rule = method.rule(GENERATE)
    assert isinstance(rule, LatentRule)
    return rule


def latents_of(answers: list[Generation]) -> list[Tensor]:
    return [torch.zeros(0, 0) if a.trace is None else a.trace.embeds for a in answers]


def without_trace(answers: list[Generation]) -> list[Generation]:
    return [replace(answer, trace=None) for answer in answers]


def test_a_runs_own_latents_leave_its_answers(latent_method: Method[Any]) -> None:
    """Fed from outside or made by the rule; but for rows that end within the thought, which now answer."""
    before = generate(latent_method)
    counts = [answer.num_latents for answer in before]
    rule = latent_rule(latent_method)
    closed = [index for index, answer in enumerate(before) if answer.closed]
    for latents in (latents_of(before), None):
        after = without_trace(generate(latent_method, Intervened(rule, counts, latents)))
        assert [answer.num_latents for answer in after] == counts
        assert [after[i] for i in closed] == [without_trace(before)[i] for i in closed]


def test_replaced_latents_are_what_is_fed_and_their_number_stays(latent_method: Method[Any]) -> None:
    before = generate(latent_method)
    counts = [answer.num_latents for answer in before]
    rule = latent_rule(latent_method)
    given = [torch.randn(count, 32, generator=torch.Generator().manual_seed(count)) for count in counts]
    for batch_size in (1, 3):  # rows are refilled
        after = generate(latent_method, Intervened(rule, counts, given), batch_size=batch_size)
        for answer, row in zip(after, given, strict=True):
            torch.testing.assert_close(latents_of([answer])[0], row if len(row) else torch.zeros(0, 0))


def test_a_cut_keeps_the_first_latents_and_closes(latent_method: Method[Any]) -> None:
    before = generate(latent_method)
    counts = [min(answer.num_latents, 1) for answer in before]
    after = generate(latent_method, Intervened(latent_rule(latent_method), counts))
    assert [answer.num_latents for answer in after] == counts
    assert all(answer.closed for answer in after)
    for one, other in zip(latents_of(before), latents_of(after), strict=True):
        torch.testing.assert_close(one[:1], other)
    none = generate(latent_method, Intervened(latent_rule(latent_method), [0] * len(QUESTIONS)))
    assert all(answer.num_latents == 0 and answer.closed for answer in none)


class Uneven(FixedLatents):
    """Rows stop at different steps, some at once."""

    def latent(self, hidden: Tensor, logits: Tensor, rows: RowState) -> Latent:
        return Latent(hidden, rows.num_latents >= rows.question % 4)


def test_rows_with_different_numbers_get_their_own_latents() -> None:
    method = registry.get_method("coconut")
    config = ModelConfig(hidden_size=32, num_layers=2, num_heads=2, mlp_size=48, dtype="float64", device="cpu")
    made: Method[Any] = method.cls(wide(Backbone.load(config, seed=7)), method.config())
    rule = Uneven(made.backbone, 0)
    before = generate(made, rule)
    assert [answer.num_latents for answer in before] == [0, 1, 2, 3, 0]
    after = generate(made, Intervened(rule, [0, 1, 2, 3, 0], latents_of(before)))
    assert without_trace(after) == without_trace(before)
    silenced = generate(made, Intervened(rule, [0, 1, 2, 3, 0], [zeros(row) for row in latents_of(before)]))
    assert all(not row.any() for row in latents_of(silenced))
    assert [without_trace(silenced)[i] == without_trace(before)[i] for i in (0, 4)] == [True, True]
    assert without_trace(silenced) != without_trace(before)


def test_noise_has_mean_deviation_and_norm_of_the_vector_and_is_keyed() -> None:
    latents = torch.randn(5, 64, dtype=torch.float64) * torch.tensor([[0.0], [0.1], [1], [10], [100]]) + 3
    a, b = row_keys(0, ["a", "b"], [0, 0])
    noise = matched_noise(latents, a)
    torch.testing.assert_close(noise.mean(-1), latents.mean(-1))
    torch.testing.assert_close(noise.std(-1), latents.std(-1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(noise.norm(dim=-1), latents.norm(dim=-1), atol=1e-5, rtol=1e-5)
    assert torch.equal(noise, matched_noise(latents, a))
    assert torch.equal(noise[:2], matched_noise(latents[:2], a))
    assert not torch.allclose(noise[1:], matched_noise(latents, b)[1:])
    directions = (noise - noise.mean(-1, keepdim=True))[1:]
    cosines = torch.nn.functional.cosine_similarity(directions[:-1], directions[1:])
    assert cosines.abs().max() < 0.6, "each step has noise of its own"


@pytest.mark.parametrize(("num", "places"), [(2, [0, 1]), (3, [0, 1, 2]), (7, [0, 1, 2, 0, 1, 2, 0]), (0, [])])
def test_another_answers_latents_are_cut_or_begun_again(num: int, places: list[int]) -> None:
    latents = torch.arange(6.0).reshape(3, 2)
    assert torch.equal(fitted(latents, num), latents[places])
