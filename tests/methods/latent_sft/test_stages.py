"""What every stage trains and leaves alone, and what a checkpoint keeps of the encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from latbench.config import GenerateConfig, LoraConfig, ModelConfig, StageOverrides, TrainConfig
from latbench.method import Stage
from latbench.model.backbone import Backbone
from latbench.task import Example
from latbench.training import checkpoint
from latbench.training.trainer import train_method
from methods.latent_sft import LatentSFT, LatentSFTConfig
from methods.latent_sft.sequences import encoder_tokens
from tests.methods.latent_sft.latent_sft_cases import EXAMPLES, built

BackboneOf = Callable[..., Backbone]
LORA = LoraConfig(rank=2, alpha=4)
ENCODER, DECODER = "auxiliary.encoder.", "backbone."
TRAINS = {
    "stage1_encoder": (ENCODER,),
    "stage1_decoder": (DECODER,),
    "stage1_union": (ENCODER, DECODER),
    "stage1_joint": (ENCODER, DECODER),
    "stage2": (DECODER,),
}


def trainable(method: LatentSFT) -> dict[str, set[str]]:
    """Names of what each stage trains."""
    return {stage.name: {name for name, _ in method.trainable_parameters(stage)} for stage in method.stages()}


@pytest.mark.parametrize(
    ("stage1", "names"),
    [
        ("sequential", ["stage1_encoder", "stage1_decoder", "stage1_union", "stage2"]),
        ("joint", ["stage1_joint", "stage2"]),
    ],
)
def test_the_stages_share_the_budget_as_the_paper_does(backbone_of: BackboneOf, stage1: str, names: list[str]) -> None:
    stages = built(backbone_of("llama"), stage1=stage1).stages()
    assert [stage.name for stage in stages] == names
    assert sum(stage.share for stage in stages[:-1]) == pytest.approx(0.3)
    assert stages[-1].share == pytest.approx(0.7)


@pytest.mark.parametrize("stage1", ["sequential", "joint"])
@pytest.mark.parametrize("name", ["llama", "llama_untied", "gpt2"])
def test_full_training_reaches_all_but_the_decoders_tables_and_the_encoders_head(
    backbone_of: BackboneOf, name: str, stage1: str
) -> None:
    method = built(backbone_of(name), stage1=stage1)
    table, head = (
        "transformer.wte.weight" if name == "gpt2" else "model.embed_tokens.weight",
        "lm_head.weight",
    )
    kept_out = {f"backbone.model.{table}", f"backbone.model.{head}", f"auxiliary.encoder.backbone.model.{head}"}
    every = {name for name, _ in method.named_parameters()}
    assert f"auxiliary.encoder.backbone.model.{table}" in every, "the encoder may move its token table"
    for stage, found in trainable(method).items():
        assert found == {name for name in every if name.startswith(TRAINS[stage])} - kept_out, stage


@pytest.mark.parametrize("name", ["llama", "llama_untied"])
def test_lora_trains_adapters_and_the_compress_slot(backbone_of: BackboneOf, name: str) -> None:
    method = built(backbone_of(name, lora=LORA))
    every = {name for name, _ in method.named_parameters()}
    adapters = {name for name in every if "lora_" in name} | {"auxiliary.encoder.slot"}
    for stage, found in trainable(method).items():
        assert found == {name for name in adapters if name.startswith(TRAINS[stage])}, stage
        assert found


def small(lora: LoraConfig | None = None, **settings: Any) -> LatentSFT:
    """A fresh method in float32; always the same weights."""
    model = ModelConfig(hidden_size=16, num_layers=1, num_heads=2, mlp_size=16, device="cpu", lora=lora)
    torch.manual_seed(2)
    return LatentSFT(Backbone.load(model, seed=2), LatentSFTConfig(**settings))


class Watched(LatentSFT):
    """Notes the weights at the beginning of each stage."""

    def prepare(self, stage: Stage, examples: Sequence[Example], folder: Path) -> None:
        self.__dict__.setdefault("notes", []).append((stage.name, weights(self)))
        super().prepare(stage, examples, folder)


def weights(method: LatentSFT) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in method.named_parameters()}


def train(method: LatentSFT, folder: Path, steps: int = 2) -> None:
    method.build_auxiliary()
    overrides = {stage.name: StageOverrides(steps=steps) for stage in method.stages()}
    config = TrainConfig(batch_size=2, lr=1e-2, warmup_ratio=0, schedule="constant", stages=overrides)
    train_method(method, EXAMPLES, config, folder=folder, seed=0)


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"stage1": "joint", "stage2": "alternating"}, {"latent_space": "hidden", "noise": 0.0, "top_k": None}],
    ids=["sequential", "joint", "hidden"],
)
def test_two_steps_move_what_a_stage_trains_and_no_bit_of_the_rest(
    tmp_path: Path, settings: dict[str, Any], lora: LoraConfig | None
) -> None:
    model = ModelConfig(hidden_size=16, num_layers=1, num_heads=2, mlp_size=16, device="cpu", lora=lora)
    method = Watched(Backbone.load(model, seed=2), LatentSFTConfig(**settings))
    train(method, tmp_path)
    notes = [*method.__dict__["notes"], ("end", weights(method))]
    expected = trainable(method)
    for (stage, before), (_, after) in pairwise(notes):
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        assert moved == expected[stage], stage
    assert [name for name, _ in notes[:-1]] == list(expected)


def test_the_encoder_of_a_run_starts_as_its_backbone_and_shares_no_weight_with_it() -> None:
    method = small()
    method.build_auxiliary()
    own, copied = method.backbone.state_dict(), method.encoder.backbone.state_dict()
    assert own.keys() == copied.keys()
    for name, tensor in own.items():
        assert torch.equal(tensor, copied[name])
        assert tensor.data_ptr() != copied[name].data_ptr()
    assert method.encoder.backbone.tokenizer is method.backbone.tokenizer
    model = method.encoder.backbone.model
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight, "the copy stays tied"


def test_frozen_parts_drop_nothing_out() -> None:
    method = small()
    method.build_auxiliary()
    method.train()
    for stage in method.stages()[:3]:
        method(method.batch(EXAMPLES, stage), stage)
        assert method.encoder.training == (ENCODER in stage.trainable)
        assert method.backbone.training == (DECODER in stage.trainable)
    method.eval()
    method(method.batch(EXAMPLES, stage), stage)
    assert not method.encoder.training
    assert not method.backbone.training


# checkpoint


def latents(method: LatentSFT) -> Tensor:
    pieces = [method.backbone.layout.encode(example) for example in EXAMPLES]
    with torch.no_grad():
        return method.latents(encoder_tokens(pieces, method.config.tokens_per_latent)).embeds


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_a_checkpoint_keeps_the_encoder_and_its_latents(tmp_path: Path, lora: LoraConfig | None) -> None:
    method = small(lora, top_k=3)
    method.build_auxiliary()
    untrained = latents(method.eval())
    train(method, tmp_path / "run", steps=3)
    before = latents(method)
    assert not torch.allclose(before, untrained, atol=1e-4)
    checkpoint.save(method, tmp_path / "checkpoint")
    loaded = checkpoint.load(tmp_path / "checkpoint", auxiliary=True)
    assert isinstance(loaded, LatentSFT)
    torch.testing.assert_close(latents(loaded), before, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(latents(method), before, rtol=0, atol=0)  # saving leaves the method as it was


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_training_goes_on_with_the_encoder_of_a_checkpoint(tmp_path: Path, lora: LoraConfig | None) -> None:
    method = small(lora, top_k=3)
    train(method, tmp_path / "run", steps=3)
    checkpoint.save(method, tmp_path / "checkpoint")
    further = small(lora, top_k=3)
    further.build_auxiliary()
    checkpoint.load_parts(further, tmp_path / "checkpoint")
    torch.testing.assert_close(latents(further.eval()), latents(method.eval()), rtol=1e-5, atol=1e-5)


def test_inference_loads_no_encoder(tmp_path: Path) -> None:
    method = small()
    method.build_auxiliary()
    config = GenerateConfig(max_new_tokens=4, max_latents=3)
    before = method.generate(["n0 = 3"], config)
    checkpoint.save(method, tmp_path / "checkpoint")
    loaded = checkpoint.load(tmp_path / "checkpoint")
    assert "encoder" not in loaded.auxiliary
    assert loaded.generate(["n0 = 3"], config) == before


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_a_model_that_cannot_stop_is_refused(noise: float, tmp_path: Path) -> None:
    method = built(Backbone.load(ModelConfig(hidden_size=16, num_layers=1, num_heads=2, mlp_size=16)), noise=noise)
    method.backbone.layout.close = ()
    with pytest.raises(ValueError, match=r"method 'latent_sft' stops at the close marker, which tiny.* has not"):
        train_method(method, EXAMPLES, TrainConfig(max_steps=2), folder=tmp_path, seed=0)
