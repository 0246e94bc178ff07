"""CoLaR's Lightning files: adapters and a latent head over a base model that hparams.yaml names."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from latbench.decoding.sampling import normal, row_keys
from latbench.runs.importing import plan_import
from tests.methods.importers.release_writers import QUESTION, LatentHead, gpt2, llama
from tests.methods.importers.slow_reference import assert_same, imported, slow_answer

SCALE = {"method__embedding_scale": 0.3}
GREEDY = {"generate__temperature": 0.0, "generate__method__latent_noise": 0.0, "generate__max_latents": 5}


def written(folder: Path, base: Any, *, spread: bool = True, hparams: str | None = None, **more: Any) -> Any:
    """The checkpoint as Lightning lays it out, and the adapted model with its head."""
    torch.manual_seed(2)
    targets = ["c_attn"] if base.config.model_type == "gpt2" else ["q_proj", "v_proj"]
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=1, target_modules=targets, task_type="CAUSAL_LM")).eval()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape) * 0.5
    head = LatentHead(16, 12, spread=spread)
    trained = {f"llm.{name}": p.data for name, p in model.named_parameters() if "lora_" in name}
    trained |= {f"latent_policy.{name}": tensor for name, tensor in head.state_dict().items()}
    file = folder / "version_0" / "checkpoints" / "epoch1__step2__monitor0.4.ckpt"
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": trained, "epoch": 1, "loops": {"a": [1]}, "hyper_parameters": {"seed": 0}, **more}, file)
    if hparams is not None:
        (folder / "version_0" / "hparams.yaml").write_text(f"all_config:\n  model:\n    model_id: {hparams}\n")
    return file, model, head


def run_of(file: Path, tmp_path: Path, **asked: Any) -> Any:
    return imported(file, tmp_path / "runs", **{"imported__lora_alpha": 1.0, **SCALE, **GREEDY, **asked})


def slow_colar(model: Any, head: Any, run: Any, prompt: list[int], num_cap: int) -> Any:
    close = run.method.backbone.tokenizer.encode("###", add_special_tokens=False)
    return slow_answer(
        model,
        prompt,
        next_embeds=lambda hidden, _: head(hidden) * 0.3,
        stop=lambda logits, done: done == num_cap or (done > 0 and int(logits.argmax()) == close[0]),
        close=close,
        eos=run.method.backbone.layout.eos,
        num_new=8,
    )


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("spread", [True, False])
def test_the_latent_loop_is_that_of_the_adapted_model(family: str, spread: bool, tmp_path: Path) -> None:
    base = {"llama": llama, "gpt2": gpt2}[family](tmp_path / "base")
    file, model, head = written(tmp_path, base, spread=spread, hparams=str(tmp_path / "base"))
    run = run_of(file, tmp_path)
    assert run.config.method.latent_loss == ("soft_mse" if spread else "mse")
    text = f"Question: {QUESTION} Let's think step by step:(Thinking speed: 5)"
    prompt = run.method.backbone.tokenizer.encode(text + "###", add_special_tokens=False)
    assert run.method.prompt_ids(QUESTION) == prompt
    slow = slow_colar(model, head, run, prompt, 5)
    assert_same(run, slow, QUESTION, 8, max_latents=5)
    assert "hparams.yaml" in run.report["imported"]["files"]


def test_latents_are_drawn_with_the_spread_of_the_release(tmp_path: Path) -> None:
    file, model, head = written(tmp_path, llama(tmp_path / "base"), hparams=str(tmp_path / "base"))
    run = run_of(file, tmp_path, generate__method__latent_noise=1.0)
    keys, place = row_keys(0, ["0"], [0]), iter(range(5))

    def drawn(hidden: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        eps = normal(keys, torch.tensor([next(place)]), 1, 16)[0]
        latent: torch.Tensor = (head(hidden) + head.log_std(head.fc(hidden)).exp() * eps) * 0.3
        return latent

    close = run.method.backbone.tokenizer.encode("###", add_special_tokens=False)
    slow = slow_answer(
        model, run.method.prompt_ids(QUESTION), next_embeds=drawn, close=close, eos=run.method.backbone.layout.eos,
        stop=lambda logits, done: done == 5 or (done > 0 and int(logits.argmax()) == close[0]), num_new=8,
    )  # fmt: skip
    assert_same(run, slow, QUESTION, 8, max_latents=5, method={"latent_noise": 1.0})


def test_the_base_of_hparams_gives_the_scale_and_must_be_at_hand(tmp_path: Path) -> None:
    llama(tmp_path / "base")
    file, _, _ = written(tmp_path, llama(tmp_path / "base"), hparams="/somewhere/Llama-3.2-1B-Instruct")
    with pytest.raises(ValueError, match=r"needs /somewhere/Llama-3.2-1B-Instruct as its base: give it with --base"):
        plan_import(str(file))
    plan = plan_import(str(file), base=str(tmp_path / "base"))
    assert plan.config.method.embedding_scale == 0.018
    file, _, _ = written(tmp_path / "unsaid", llama(tmp_path / "base"))
    with pytest.raises(ValueError, match="does not say of which base model"):
        plan_import(str(file))
    with pytest.raises(ValueError, match=r"does not store method.embedding_scale"):
        plan_import(str(file), base=str(tmp_path / "base"))


def test_hparams_that_are_no_text_name_no_base(tmp_path: Path) -> None:
    file, _, _ = written(tmp_path, llama(tmp_path / "base"))
    (tmp_path / "version_0" / "hparams.yaml").write_bytes(b"\xff\xfe\x00model_id: x")
    with pytest.raises(ValueError, match="does not say of which base model it is; give it with --base"):
        plan_import(str(file))
    assert run_of(file, tmp_path, base=tmp_path / "base").config.method_name == "colar"


def test_an_adapter_without_a_rank_is_refused(tmp_path: Path) -> None:
    file, _, _ = written(tmp_path, llama(tmp_path / "base"))
    whole = torch.load(file, weights_only=True)
    a = next(name for name in whole["state_dict"] if "lora_A" in name)
    whole["state_dict"][a] = torch.ones(0, 16)
    torch.save(whole, file)
    with pytest.raises(ValueError, match=rf"has {a} of shape \[0, 16\], but a matrix"):
        run_of(file, tmp_path, base=tmp_path / "base")


def test_a_base_of_another_width_is_refused(tmp_path: Path) -> None:
    file, _, _ = written(tmp_path, llama(tmp_path / "base"))
    llama(tmp_path / "other", hidden_size=32)
    with pytest.raises(ValueError, match=r"q_proj.* do not fit the weight .* the adapter is of another base model"):
        run_of(file, tmp_path, base=tmp_path / "other")
    llama(tmp_path / "shallow", num_hidden_layers=1)
    with pytest.raises(ValueError, match=r"adapts model.layers.1.self_attn.q_proj, which .*shallow has not"):
        run_of(file, tmp_path, base=tmp_path / "shallow")
    llama(tmp_path / "deep", num_hidden_layers=3)  # the adapter would silently be left out of a layer
    with pytest.raises(ValueError, match=r"adapts 4 of 6 such layers of .*deep, not model.layers.2.self_attn.q_proj"):
        run_of(file, tmp_path, base=tmp_path / "deep")


def test_a_missing_or_unknown_tensor_is_refused(tmp_path: Path) -> None:
    base = tmp_path / "base"
    file, _, _ = written(tmp_path, llama(base))
    whole = torch.load(file, weights_only=True)
    for change, reason in (
        (("latent_policy.mean.bias", None), "lacks latent_policy.mean.bias"),
        (("llm.base_model.model.model.layers.0.self_attn.v_proj.lora_B.default.weight", None), "lacks .*lora_B"),
        (("latent_policy.more", torch.ones(1)), "1 tensor is unexpected: latent_policy.more"),
    ):
        state = {k: v for k, v in {**whole["state_dict"], change[0]: change[1]}.items() if v is not None}
        torch.save({**whole, "state_dict": state}, file)
        with pytest.raises(ValueError, match=reason):
            run_of(file, tmp_path, base=base)


def test_hyper_parameters_of_a_configuration_library_are_inert_and_others_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning pickles OmegaConf's containers; neither they nor anything else of the file is run."""

    class DictConfig:
        def __init__(self) -> None:
            self.__dict__["_content"] = {"seed": 0}

        def __setstate__(self, state: Any) -> None:
            raise AssertionError("the library itself is not used")

    module = types.ModuleType("omegaconf.dictconfig")
    DictConfig.__module__, DictConfig.__qualname__ = "omegaconf.dictconfig", "DictConfig"
    vars(module)["DictConfig"] = DictConfig
    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
    monkeypatch.setitem(sys.modules, "omegaconf.dictconfig", module)
    base = tmp_path / "base"
    file, _, _ = written(tmp_path, llama(base), hyper_parameters={"config": DictConfig()})
    assert run_of(file, tmp_path, base=base).config.method_name == "colar"

    class Custom:
        pass

    Custom.__module__, Custom.__qualname__ = "omegaconf.dictconfig", "Custom"
    vars(module)["Custom"] = Custom
    file, _, _ = written(tmp_path / "custom", llama(base), hyper_parameters=Custom())
    with pytest.raises(ValueError, match=r"it names omegaconf.dictconfig.Custom\).* rewrite it as tensors alone"):
        run_of(file, tmp_path, base=base)
