"""From the encoder's state to a mixture of embeddings: worked values, tables, gradients, and Gumbel noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from latbench.decoding.superposition import mixture, top_k_mixture, with_gumbel
from latbench.model.backbone import Backbone
from methods.latent_sft import LatentSFT, LatentSFTConfig
from methods.latent_sft.sequences import RoleTokens, encoder_tokens
from tests.methods.latent_sft.latent_sft_cases import EXAMPLES, built, random_latents

BackboneOf = Callable[..., Backbone]
TABLE = torch.tensor([[1.0, 0], [0, 1], [1, 1], [-1, 0], [0, -1], [0.5, -0.5]])
STATE = torch.tensor([2.0, 1])
WORKED = {  # k -> ids, weights, z for STATE
    1: ([2], [1.0], [1.0, 1.0]),
    2: ([2, 0], [0.731059, 0.268941], [1.0, 0.731059]),
    3: ([2, 0, 1], [0.665241, 0.244728, 0.090031], [0.909969, 0.755271]),
    6: (None, None, [0.870731, 0.668162]),
}


class States(nn.Module):
    """An encoder that has these states, whatever it reads."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states

    def forward(self, _tokens: RoleTokens) -> Tensor:
        return self.states


def with_states(backbone: Backbone, states: Tensor, **settings: Any) -> LatentSFT:
    method = built(backbone, **settings)
    method.auxiliary["encoder"] = States(states)
    return method


TOKENS = encoder_tokens([], 2)  # for encoders that do not read


@pytest.fixture
def worked(backbone_of: BackboneOf) -> Backbone:
    """A backbone whose first six rows are TABLE in its first two dimensions; the others never score."""
    backbone = backbone_of("llama", dtype=torch.float32)
    with torch.no_grad():
        table = backbone.model.get_input_embeddings().weight
        table.zero_()
        table[:, :2] = -100
        table[:6, :2] = TABLE
    return backbone


def state_of(backbone: Backbone, first: Tensor = STATE) -> Tensor:
    return nn.functional.pad(first, (0, backbone.hidden_size - 2))[None]


@pytest.mark.parametrize("k", WORKED)
def test_the_worked_values_are_met(worked: Backbone, k: int) -> None:
    latents = with_states(worked, state_of(worked), top_k=k).latents(TOKENS)
    ids, weights, z = WORKED[k]
    torch.testing.assert_close(latents.embeds[0, :2], torch.tensor(z), rtol=0, atol=1e-6)
    assert latents.embeds.shape == (1, worked.hidden_size)
    assert not latents.embeds[0, 2:].any()
    if ids is not None:
        assert latents.ids is not None
        assert latents.weights is not None
        assert latents.ids[0].tolist() == ids
        torch.testing.assert_close(latents.weights[0], torch.tensor(weights), rtol=0, atol=1e-6)


def test_all_entries_are_the_full_softmax(worked: Backbone) -> None:
    whole = with_states(worked, state_of(worked), top_k=None).latents(TOKENS)
    six = with_states(worked, state_of(worked), top_k=6).latents(TOKENS)
    reached = with_states(worked, state_of(worked), top_k=10_000).latents(TOKENS)
    assert whole.ids is None
    assert reached.ids is None
    torch.testing.assert_close(whole.embeds, six.embeds)
    torch.testing.assert_close(reached.embeds, whole.embeds)


@pytest.mark.parametrize("k", [1, 4, 17, 60])
def test_weights_sum_to_one_over_the_largest_scores(k: int) -> None:
    scores = 5 * torch.randn(20, 60, generator=torch.Generator().manual_seed(0))
    ids, weights = top_k_mixture(scores, k)
    torch.testing.assert_close(weights.sum(-1), torch.ones(20))
    assert (weights >= 0).all()
    for row in range(20):
        largest = sorted(range(60), key=lambda v: -float(scores[row, v]))[:k]
        assert ids[row].tolist() == largest
        torch.testing.assert_close(weights[row], scores[row, largest].exp() / scores[row, largest].exp().sum())
    if k == 60:
        full = mixture(scores, None)
        assert full[0] is None
        torch.testing.assert_close(full[1].gather(-1, ids), weights)


def test_the_temperature_divides_the_scores(worked: Backbone) -> None:
    warm = with_states(worked, state_of(worked), top_k=3, temperature=4.0).latents(TOKENS)
    torch.testing.assert_close(warm.weights, torch.tensor([[3.0, 2, 1]]).div(4).softmax(-1))


def test_one_entry_is_a_lookup(backbone_of: BackboneOf) -> None:
    backbone = backbone_of("qwen2")
    latents = built(backbone, top_k=1).latents(encoder_tokens([backbone.layout.encode(e) for e in EXAMPLES], 2))
    assert latents.ids is not None
    torch.testing.assert_close(latents.embeds, backbone.embed(latents.ids[:, 0]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scores", ["embedding", "head"])
def test_scores_are_float32_under_bfloat16_autocast(backbone_of: BackboneOf, scores: str) -> None:
    backbone = backbone_of("llama_untied", dtype=torch.float32)
    method = with_states(backbone, random_latents(backbone, 20), scores=scores)
    expected = method.latents(TOKENS).weights
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(method.latents(TOKENS).weights, expected)


@pytest.mark.parametrize("whole", [False, True])
def test_mixtures_are_float32_under_bfloat16_autocast(backbone_of: BackboneOf, whole: bool) -> None:
    backbone = backbone_of("llama", dtype=torch.float32)
    ids, weights = mixture(torch.randn(20, 297, generator=torch.Generator().manual_seed(0)), None if whole else 10)
    expected = backbone.mix(ids, weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(backbone.mix(ids, weights), expected)


# gradients


def test_gradients_reach_the_state_as_finite_differences_say(worked: Backbone) -> None:
    """Through the kept scores alone: dz/dh is the covariance of the kept rows under their weights."""
    first = STATE.clone().requires_grad_()
    z = with_states(worked, state_of(worked, first), top_k=3).latents(TOKENS).embeds[0, :2]
    direction = torch.tensor([0.3, -1.7])
    (gradient,) = torch.autograd.grad(z @ direction, first)
    step = 1e-2
    for axis in range(2):
        moved = [STATE + sign * step * torch.eye(2)[axis] for sign in (1, -1)]
        up, down = (
            with_states(worked, state_of(worked, h), top_k=3).latents(TOKENS).embeds[0, :2].detach() @ direction
            for h in moved
        )
        assert float(gradient[axis]) == pytest.approx(float(up - down) / (2 * step), abs=1e-3)
    rows, alpha = TABLE[[2, 0, 1]].double(), torch.tensor([2.0 + 1, 2, 1], dtype=torch.float64).softmax(-1)
    centred = rows - alpha @ rows
    covariance = centred.T @ (alpha[:, None] * centred)
    torch.testing.assert_close(gradient.double(), covariance @ direction.double(), rtol=1e-5, atol=1e-6)
    assert gradient.abs().min() > 1e-2


@pytest.mark.parametrize("scores", ["embedding", "head"])
@pytest.mark.parametrize("name", ["llama", "llama_untied"])
def test_no_stage_gives_the_decoders_tables_a_gradient(backbone_of: BackboneOf, name: str, scores: str) -> None:
    method = built(backbone_of(name), scores=scores, top_k=3)
    model = method.backbone.model
    tables = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    for stage in method.stages():
        assert not tables & {id(parameter) for _, parameter in method.trainable_parameters(stage)}, stage.name


# which table scores


@pytest.mark.parametrize("scores", ["embedding", "head"])
def test_scores_come_from_the_named_table_and_mixtures_from_the_input_table(
    backbone_of: BackboneOf, scores: str
) -> None:
    backbone = backbone_of("llama_untied")
    states = random_latents(backbone, 7) * 30
    latents = with_states(backbone, states, scores=scores, top_k=5).latents(TOKENS)
    model = backbone.model
    table = (model.get_input_embeddings() if scores == "embedding" else model.get_output_embeddings()).weight.detach()
    logits, ids = (states @ table.T).topk(5)
    assert latents.ids is not None
    assert torch.equal(latents.ids, ids)
    expected = (logits.softmax(-1)[..., None] * model.get_input_embeddings().weight.detach()[ids]).sum(1)
    torch.testing.assert_close(latents.embeds.double(), expected, rtol=1e-5, atol=1e-5)


def test_the_two_tables_score_differently_where_they_are_untied(backbone_of: BackboneOf) -> None:
    def ids(name: str, scores: str) -> list[list[int]]:
        backbone = backbone_of(name)
        found = with_states(backbone, random_latents(backbone, 4), scores=scores).latents(TOKENS).ids
        assert found is not None
        return found.tolist()

    assert ids("llama_untied", "embedding") != ids("llama_untied", "head")
    assert ids("llama", "embedding") == ids("llama", "head")


@pytest.mark.parametrize("target", [0.9, None])
def test_a_target_entropy_forgets_the_scale_of_the_table(backbone_of: BackboneOf, target: float | None) -> None:
    found = []
    for scale in (1.0, 7.0):
        backbone = backbone_of("llama")
        states = random_latents(backbone, 6)
        with torch.no_grad():
            backbone.model.get_input_embeddings().weight.mul_(scale)
        weights = with_states(backbone, states, target_entropy=target).latents(TOKENS).weights
        assert weights is not None
        found.append(weights)
    assert torch.allclose(found[0], found[1], atol=1e-4) == (target is not None)


@pytest.mark.parametrize("k", [3, 10, None])
@pytest.mark.parametrize("target", [0.05, 0.5, 1.0])
def test_a_target_entropy_is_reached_by_every_latent(k: int | None, target: float) -> None:
    scores = torch.randn(50, 30, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 50)[:, None]
    _, weights = mixture(scores, k, target_entropy=target)
    entropies = -(weights * weights.clamp(min=1e-30).log()).sum(-1)
    torch.testing.assert_close(entropies, torch.full((50,), target), rtol=0, atol=5e-3)


def test_a_target_entropy_above_the_uniform_mixture_is_refused() -> None:
    with pytest.raises(ValueError, match=r"target_entropy must be below ln\(method.top_k\) = 1.10, got 1.2; lower it"):
        LatentSFTConfig(top_k=3, target_entropy=1.2)


def test_hidden_space_takes_the_state_itself(backbone_of: BackboneOf) -> None:
    backbone = backbone_of("llama")
    states = random_latents(backbone, 3)
    latents = with_states(backbone, states, latent_space="hidden", noise=0.0).latents(TOKENS)
    assert torch.equal(latents.embeds, states)
    assert latents.weights is None


def test_noise_on_hidden_states_is_refused(backbone_of: BackboneOf) -> None:
    with pytest.raises(ValueError, match=r"method\.noise must be 0 with method\.latent_space=hidden"):
        built(backbone_of("llama"), latent_space="hidden")


# noise

P, G = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([-2.0, 0.5, 4.0])


@pytest.mark.parametrize(
    ("scale", "temperature", "clamp", "expected"),
    [
        (1.0, 1.0, (-1.5, 3.0), (0.062614, 0.132189, 0.805196)),
        (0.5, 1.0, (-1.5, 3.0), (0.205482, 0.204915, 0.589603)),
        (1.0, 0.5, (-1.5, 3.0), (0.005854, 0.026091, 0.968055)),
        (1.0, 1.0, (-1e9, 1e9), (0.016100, 0.056038, 0.927862)),
        (0.0, 1.0, (-1.5, 3.0), (0.7, 0.2, 0.1)),
    ],
)
def test_the_worked_noise_is_met(
    scale: float, temperature: float, clamp: tuple[float, float], expected: tuple[float, ...]
) -> None:
    noisy = with_gumbel(P, G, scale=scale, temperature=temperature, clamp=clamp)
    torch.testing.assert_close(noisy, torch.tensor(expected), rtol=0, atol=1e-6)


def test_the_scale_comes_before_the_clamp() -> None:
    """Scaled first, 100 * 4 and 100 * 0.5 are both cut to 3."""
    noisy = with_gumbel(P, G, scale=100.0)
    expected = P.log() + torch.tensor([-1.5, 3.0, 3.0])
    torch.testing.assert_close(noisy, expected.softmax(-1))
