"""Soft labels on disk, their noise, and the two losses of stage 2, against slow loops."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from latbench.config import ModelConfig, TrainConfig
from latbench.decoding.sampling import row_keys
from latbench.method import Stage
from latbench.model.backbone import Backbone, Output
from latbench.model.batches import IGNORE_INDEX
from latbench.task import Example
from latbench.training.trainer import train_method
from methods.latent_sft import LatentSFT, LatentSFTConfig
from methods.latent_sft.condenser import Latents, Stage2Batch
from methods.latent_sft.labels import MAX_REDRAWS, StoredLabels, noisy_weights
from methods.latent_sft.method import STAGE2
from methods.latent_sft.sequences import compressed_tokens, encoder_tokens
from tests.methods.latent_sft.latent_sft_cases import EXAMPLES, built, superposition

BackboneOf = Callable[..., Backbone]
STAGE = Stage(name=STAGE2, trainable=("backbone.",))


def prepared(backbone: Backbone, folder: Path, **settings: Any) -> LatentSFT:
    """A method before the first batch of stage 2."""
    method = built(backbone, **settings)
    method.prepare(STAGE, EXAMPLES, folder)
    return method


def encoded(method: LatentSFT) -> Any:
    """The encoder's latents of all examples, straight from its forward pass."""
    pieces = [method.backbone.layout.encode(example) for example in EXAMPLES]
    with torch.no_grad():
        return method.latents(encoder_tokens(pieces, method.config.tokens_per_latent))


def stage2_batch(method: LatentSFT, examples: list[Example] = EXAMPLES) -> Stage2Batch:
    """What stage 2 learns from."""
    batch = method.batch(examples, STAGE)
    assert isinstance(batch, Stage2Batch)
    return batch


def num_latents(method: LatentSFT) -> list[int]:
    return [-(-method.backbone.num_step_tokens(e) // method.config.tokens_per_latent) for e in EXAMPLES]


# labels


@pytest.mark.parametrize("settings", [{}, {"top_k": None}, {"scores": "head", "temperature": 3.0, "top_k": 3}])
def test_stored_labels_are_the_encoders_latents(
    backbone_of: BackboneOf, tmp_path: Path, settings: dict[str, Any]
) -> None:
    method = prepared(backbone_of("llama_untied"), tmp_path, **settings)
    assert method.labels is not None
    stored, counts = method.labels.of(EXAMPLES)
    direct = encoded(method)
    assert counts.tolist() == num_latents(method)
    assert stored.weights is not None
    torch.testing.assert_close(stored.weights.sum(-1), torch.ones(len(stored.weights)))
    torch.testing.assert_close(stored.weights, direct.weights, rtol=1e-3, atol=1e-4)
    if stored.ids is not None:
        assert torch.equal(stored.ids, direct.ids)
    mixed = method.backbone.mix(stored.ids, stored.weights)
    torch.testing.assert_close(mixed, direct.embeds, rtol=0, atol=2e-3 * float(direct.embeds.abs().max()))


def test_rows_are_found_by_id_in_any_order(backbone_of: BackboneOf, tmp_path: Path) -> None:
    method = prepared(backbone_of("llama"), tmp_path)
    assert method.labels is not None
    whole, counts = method.labels.of(EXAMPLES)
    assert whole.weights is not None
    parts = whole.weights.split(counts.tolist())
    for row in (2, 0, 3):
        alone, num = method.labels.of([EXAMPLES[row]])
        assert alone.weights is not None
        assert num.tolist() == [counts[row]]
        assert torch.equal(alone.weights, parts[row])


def test_a_latent_takes_60_bytes_at_k_10(backbone_of: BackboneOf, tmp_path: Path) -> None:
    method = prepared(backbone_of("llama"), tmp_path)
    sizes = [(tmp_path / "soft_labels" / f"{name}.bin").stat().st_size for name in ("ids", "probabilities")]
    assert sum(sizes) == 60 * sum(num_latents(method))


def test_hidden_states_are_stored_with_the_spread_of_each_dimension(backbone_of: BackboneOf, tmp_path: Path) -> None:
    method = prepared(backbone_of("llama"), tmp_path, latent_space="hidden", noise=0.0)
    assert method.labels is not None
    stored, _ = method.labels.of(EXAMPLES)
    direct = encoded(method).embeds.float()
    torch.testing.assert_close(stored.embeds, direct, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(method.labels.scale, direct.std(0), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("changed", "value"),
    [
        ("tokens_per_latent", 3), ("top_k", 5), ("temperature", 2.0), ("scores", "head"),
        ("target_entropy", 0.5), ("induction_mask", False),
    ],
)  # fmt: skip
def test_labels_of_other_settings_are_refused(
    backbone_of: BackboneOf, tmp_path: Path, changed: str, value: Any
) -> None:
    method = prepared(backbone_of("llama"), tmp_path)
    settings: Any = {changed: value}
    method.config = replace(method.config, **settings)
    with pytest.raises(ValueError, match=rf"made with {changed} .*, not .*; change {changed} back, or remove"):
        method.prepare(STAGE, EXAMPLES, tmp_path)


def test_settings_that_do_not_make_labels_leave_them_valid(backbone_of: BackboneOf, tmp_path: Path) -> None:
    method = prepared(backbone_of("llama"), tmp_path)
    method.config = replace(method.config, noise=0.3, kl_weight=2.0, stage2="alternating")
    method.prepare(STAGE, EXAMPLES, tmp_path)


@pytest.mark.parametrize("which", ["encoder", "slot", "table", "head"])
def test_labels_of_other_weights_are_refused(backbone_of: BackboneOf, tmp_path: Path, which: str) -> None:
    method = prepared(backbone_of("llama_untied"), tmp_path)
    model = method.backbone.model
    weight = {
        "encoder": method.encoder.backbone.model.model.layers[0].mlp.up_proj.weight,
        "slot": method.encoder.slot,
        "table": model.get_input_embeddings().weight,
        "head": model.get_output_embeddings().weight,
    }[which]
    with torch.no_grad():
        weight.view(-1)[3] += 0.5
    with pytest.raises(ValueError, match=r"made with model .* remove the folder"):
        method.prepare(STAGE, EXAMPLES, tmp_path)


def test_labels_of_other_data_are_refused(backbone_of: BackboneOf, tmp_path: Path) -> None:
    method = prepared(backbone_of("llama"), tmp_path)
    other = [replace(EXAMPLES[0], steps=("<<1+1=2>>",) * 3), *EXAMPLES[1:]]
    with pytest.raises(ValueError, match="made with data"):
        method.prepare(STAGE, other, tmp_path)


def test_ids_that_are_not_unique_are_refused(backbone_of: BackboneOf, tmp_path: Path) -> None:
    method = built(backbone_of("llama"))
    with pytest.raises(ValueError, match="ids must be unique"):
        StoredLabels.write(method, [EXAMPLES[0], EXAMPLES[0]], tmp_path)


def test_empty_chains_are_skipped_and_counted(tmp_path: Path) -> None:
    model = ModelConfig(hidden_size=16, num_layers=1, num_heads=2, mlp_size=16, device="cpu")
    method = LatentSFT(Backbone.load(model), LatentSFTConfig(stage1="joint"))
    empty = [replace(EXAMPLES[0], id=f"empty{i}", steps=()) for i in range(3)]
    report = train_method(method, [*EXAMPLES, *empty], TrainConfig(batch_size=2), folder=tmp_path, seed=0)
    assert report.skipped == {"no reasoning steps": 3}
    assert method.labels is not None
    assert len(method.labels.labels) == len(EXAMPLES)


# noise

CLOSE = 3


def noisy(weights: Tensor, ids: Tensor | None, row: Tensor, *, seed: int = 0, **changed: Any) -> Tensor:
    keys = row_keys(seed, [f"r{i}" for i in range(int(row.max()) + 1)], [0] * (int(row.max()) + 1))
    return noisy_weights(weights, ids, row, keys, **{"scale": 1.0, "temperature": 1.0, "close": CLOSE, **changed})


def random_labels(num: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Weights and ids of which none is the close marker."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.stack([torch.randperm(50, generator=generator)[:5] + 10 for _ in range(num)])
    return torch.randn(num, 5, generator=generator).softmax(-1), ids


def test_noise_has_the_moments_of_a_clamped_gumbel() -> None:
    """From uniform weights, log p~ - mean(log p~) is the noise up to its mean over the entries."""
    weights = torch.full((4000, 5), 0.2)
    found = noisy(weights, torch.arange(10, 15).expand(4000, 5), torch.arange(4000)).log()
    centred = found - found.mean(-1, keepdim=True)
    u = (torch.arange(1_000_000, dtype=torch.float64) + 0.5) / 1_000_000
    clamped = (-(-u.log()).log()).clamp(-1.5, 3.0)
    assert float(centred.square().sum(-1).mean() / 4) == pytest.approx(float(clamped.var()), rel=0.05)


def test_rows_whose_latent_would_read_as_the_end_are_drawn_again() -> None:
    """The close marker has a fifth of the weight in every latent: without rejection it would top about one in five."""
    weights = torch.full((300, 5), 0.2)
    ids = torch.tensor([7, CLOSE, 8, 9, 11]).expand(300, 5)
    row = torch.arange(100).repeat_interleave(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = noisy(weights, ids, row)
    assert not (ids.gather(-1, found.argmax(-1, keepdim=True)) == CLOSE).any()
    unhindered = noisy(weights, ids, row, close=-1)
    tops = ids.gather(-1, unhindered.argmax(-1, keepdim=True))[:, 0] == CLOSE
    assert 0.1 < float(tops.float().mean()) < 0.3
    hit = torch.isin(row, row[tops])
    assert torch.equal(found[~hit], unhindered[~hit]), "rows without it keep their first draw"
    assert ((found[hit] - unhindered[hit]).abs().amax(-1) > 1e-4).all(), "a row is drawn again whole"


def test_hopeless_rows_are_used_with_a_warning_and_leave_others_alone() -> None:
    weights, ids = random_labels(4)
    weights[1] = torch.tensor([0.9999, 0.00005, 0.00005, 0, 0])
    ids[1, 0] = CLOSE
    row = torch.tensor([0, 0, 1, 1])
    with pytest.warns(UserWarning, match=f"1 rows .* {MAX_REDRAWS} draws .*lower method.noise"):
        found = noisy(weights, ids, row, scale=0.01)
    assert found[1].argmax() == 0
    torch.testing.assert_close(found[1].sum(), torch.tensor(1.0))
    assert torch.equal(found[2:], noisy(weights, ids, row, scale=0.01, close=-1)[2:])


def test_the_close_marker_is_found_in_whole_distributions_too() -> None:
    weights = torch.full((60, 8), 0.125)
    found = noisy(weights, None, torch.arange(60))
    assert not (found.argmax(-1) == CLOSE).any()
    assert (noisy(weights, None, torch.arange(60), close=-1).argmax(-1) == CLOSE).any()


def test_noise_is_keyed_by_the_row_alone() -> None:
    weights, ids = random_labels(6)
    together = noisy_weights(
        weights, ids, torch.tensor([0, 0, 0, 1, 1, 1]), row_keys(0, ["a", "b"], [0, 0]),
        scale=1.0, temperature=1.0, close=CLOSE,
    )  # fmt: skip
    alone = noisy_weights(
        weights[3:], ids[3:], torch.zeros(3, dtype=torch.long), row_keys(0, ["b"], [0]),
        scale=1.0, temperature=1.0, close=CLOSE,
    )  # fmt: skip
    assert torch.equal(together[3:], alone)


def batch_weights(method: LatentSFT, examples: list[Example]) -> list[Tensor]:
    """Noisy weights of each example of a batch."""
    batch = stage2_batch(method, examples)
    counts = batch.sequence.is_latent.sum(1).tolist()
    return list(superposition(batch.latents)[1].split(counts))


def test_neither_batch_nor_order_changes_the_noise_but_epoch_and_seed_do(
    backbone_of: BackboneOf, tmp_path: Path
) -> None:
    method = prepared(backbone_of("llama"), tmp_path)
    together = batch_weights(method, EXAMPLES)
    backwards = batch_weights(method, EXAMPLES[::-1])[::-1]
    alone = [batch_weights(method, [example])[0] for example in EXAMPLES]
    for one, two, three in zip(together, backwards, alone, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)
    for name in ("epoch", "seed"):
        setattr(method, name, 1)
        assert not torch.allclose(batch_weights(method, EXAMPLES)[0], together[0], atol=1e-3), name
        setattr(method, name, 0)
    assert torch.equal(batch_weights(method, EXAMPLES)[0], together[0])


def test_noise_keeps_the_support_and_its_absence_the_labels(backbone_of: BackboneOf, tmp_path: Path) -> None:
    method = prepared(backbone_of("llama"), tmp_path)
    assert method.labels is not None
    stored, _ = method.labels.of(EXAMPLES)
    ids, weights = superposition(stage2_batch(method).latents)
    assert stored.ids is not None
    assert stored.weights is not None
    assert torch.equal(ids, stored.ids)
    assert not torch.allclose(weights, stored.weights, atol=1e-2)
    method.config = replace(method.config, noise=0.0)
    assert torch.equal(superposition(stage2_batch(method).latents)[1], stored.weights)


# losses


def slow_terms(
    method: LatentSFT, batch: Stage2Batch, examples: list[Example], *, shift: int = 0
) -> tuple[float, float, int]:
    """KL, mean over rows of means over latents, CE, mean over tokens, and the number of tokens: one row at a time.

    Args:
        shift: positions between the latent's own predecessor and the one that is read.
    """
    backbone = method.backbone
    entries, weights = superposition(batch.latents)
    z = method.backbone.mix(entries, weights)  # the same p~ is input and target
    kls, ces, at = [], [], 0
    for row, example in enumerate(examples):
        pieces = backbone.layout.encode(example)
        num = int(batch.sequence.is_latent[row].sum())
        final = [*pieces.close, *pieces.answer, pieces.eos]
        parts = [backbone.embed(torch.tensor(pieces.prompt)), z[at : at + num], backbone.embed(torch.tensor(final))]
        embeds = torch.cat(parts)[None]
        positions = torch.arange(embeds.shape[1])[None]
        logits = backbone.causal(embeds, positions, select=torch.ones_like(positions).bool()).logits.log_softmax(-1)
        start = len(pieces.prompt)
        kl = []
        for t in range(num):
            p, ids = weights[at + t].double(), entries[at + t]
            kl.append(float((p * (p.log() - logits[start + t - 1 + shift, ids])).sum()))
        kls.append(sum(kl) / num)
        ces += [-float(logits[start + num - 1 + i, token]) for i, token in enumerate(final)]
        at += num
    return sum(kls) / len(kls), sum(ces) / len(ces), len(ces)


@pytest.mark.parametrize("layout", ["default", "plain_hash_answer"])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_losses_equal_a_slow_loop(backbone_of: BackboneOf, tmp_path: Path, name: str, layout: str) -> None:
    """The layout `coconut` closes with three tokens."""
    method = prepared(backbone_of(name, layout=layout), tmp_path)
    batch = stage2_batch(method)
    with torch.no_grad():
        losses = method(batch, STAGE)
        kl, ce, num_tokens = slow_terms(method, batch, EXAMPLES)
        shifted, _, _ = slow_terms(method, batch, EXAMPLES, shift=1)
    assert len(method.backbone.layout.close) == (1 if layout == "default" else 3)
    assert float(losses["kl"].total) / losses["kl"].num_items == pytest.approx(kl, rel=1e-5)
    assert float(losses["ce"].total) / losses["ce"].num_items == pytest.approx(ce, rel=1e-9)
    assert batch.num_items == {"kl": len(EXAMPLES), "ce": num_tokens}
    assert abs(shifted - kl) > 1e-2, "reading one position later must matter"


def producing(method: LatentSFT, example: Example) -> tuple[Output, Latents]:
    """What the decoder says, without padding, at the positions that produce an example's latents; the latents."""
    assert method.labels is not None
    latents, num = method.labels.of([example])
    tokens = compressed_tokens([method.backbone.layout.encode(example)], num.tolist())
    embeds = method.backbone.embed(tokens.ids).clone()
    embeds[tokens.is_latent] = latents.embeds.to(embeds)
    with torch.no_grad():
        return method.backbone.causal(embeds, tokens.positions, select=tokens.is_latent.roll(-1, 1)), latents


def test_hidden_states_are_taught_by_their_distance(backbone_of: BackboneOf, tmp_path: Path) -> None:
    method = prepared(backbone_of("llama"), tmp_path, latent_space="hidden", noise=0.0)
    assert method.labels is not None
    with torch.no_grad():
        term = method(method.batch(EXAMPLES, STAGE), STAGE)["mse"]
    rows = []
    for example in EXAMPLES:
        output, states = producing(method, example)
        rows.append((((output.hidden - states.embeds) / method.labels.scale) ** 2).mean())
    assert float(term.total) / term.num_items == pytest.approx(float(torch.stack(rows).mean()), rel=1e-6)


def test_in_hidden_space_the_close_marker_is_unlikely_where_the_thought_goes_on(
    backbone_of: BackboneOf, tmp_path: Path
) -> None:
    method = prepared(backbone_of("llama"), tmp_path, latent_space="hidden", noise=0.0, ce_weight=3.0)
    with torch.no_grad():
        term = method(method.batch(EXAMPLES, STAGE), STAGE)["going_on"]
    outputs = [producing(method, example)[0] for example in EXAMPLES]
    rows = [-(1 - one.logits.softmax(-1)[:, method.backbone.layout.close[0]]).log().mean() for one in outputs]
    assert float(term.total) / term.num_items == pytest.approx(float(torch.stack(rows).mean()), rel=1e-6)
    assert term.weight == 3.0


def test_teacher_forced_logits_are_those_of_stage_1s_main_line(backbone_of: BackboneOf, tmp_path: Path) -> None:
    method = prepared(backbone_of("qwen2"), tmp_path, noise=0.0)
    assert method.labels is not None
    latents, counts = method.labels.of(EXAMPLES)
    z = method.backbone.mix(*superposition(latents))
    pieces = [method.backbone.layout.encode(example) for example in EXAMPLES]
    decoder, sequence = method.decoder_tokens(pieces), compressed_tokens(pieces, counts.tolist())
    embeds = method.backbone.embed(sequence.ids).clone()
    embeds[sequence.is_latent] = z
    with torch.no_grad():
        stage1 = method.decode_latents(decoder, z, select=decoder.mask & (decoder.roles != 2))
        stage2 = method.backbone.causal(embeds, sequence.positions, select=sequence.mask).logits
    torch.testing.assert_close(stage1, stage2, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("stage2", ["joint", "alternating"])
def test_steps_alternate_where_they_should(backbone_of: BackboneOf, tmp_path: Path, stage2: str) -> None:
    method = prepared(backbone_of("llama"), tmp_path, stage2=stage2, kl_weight=0.5, ce_weight=3.0)
    for step in range(4):
        method.step = step
        with torch.no_grad():
            losses = method(method.batch(EXAMPLES, STAGE), STAGE)
        kl, ce = (float(term.total) / term.num_items for term in (losses["kl"], losses["ce"]))
        expected = 0.5 * kl + 3 * ce if stage2 == "joint" else (0.5 * kl, 3 * ce)[step % 2]
        assert float(losses.objective()) == pytest.approx(expected)


def test_no_gradient_flows_into_the_inputs_of_stage_2(backbone_of: BackboneOf, tmp_path: Path) -> None:
    method = prepared(backbone_of("llama"), tmp_path)
    latents = stage2_batch(method).latents
    assert not superposition(latents)[1].requires_grad
    assert not latents.embeds.requires_grad


# stage 1


@pytest.mark.parametrize("reduction", ["tokens", "segments"])
@pytest.mark.parametrize("layout", ["default", "plain_hash_answer"])
def test_stage_1_is_the_mean_over_tokens_or_over_segments(backbone_of: BackboneOf, layout: str, reduction: str) -> None:
    """One example at a time, a latent's targets gathered into one list."""
    method = built(backbone_of("llama", layout=layout), stage1_reduction=reduction)
    stage = method.stages()[0]
    with torch.no_grad():
        losses = method(method.batch(EXAMPLES, stage), stage)
    per_latent: list[list[float]] = []
    for example in EXAMPLES:
        pieces = [method.backbone.layout.encode(example)]
        decoder = method.decoder_tokens(pieces)
        with torch.no_grad():
            z = method.latents(encoder_tokens(pieces, 2)).embeds
            logits = method.decode_latents(decoder, z, select=decoder.mask).log_softmax(-1)
        of_latent: dict[int, list[float]] = {}
        for position, label in enumerate(decoder.labels[0].tolist()):
            if label != IGNORE_INDEX:
                slot = int(decoder.is_latent[0, : position + 1].sum())
                of_latent.setdefault(slot, []).append(-float(logits[position, label]))
        per_latent += of_latent.values()
    every = [value for values in per_latent for value in values]
    expected = sum(every) / len(every)
    if reduction == "segments":
        expected = sum(sum(values) / len(values) for values in per_latent) / len(per_latent)
    assert float(losses.objective()) == pytest.approx(expected, rel=1e-6)
    assert losses["ce"].num_items == (len(every) if reduction == "tokens" else len(per_latent))
