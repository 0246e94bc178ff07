"""A checkpoint is a folder that other tools read; it comes back as it was, or is refused with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaModel

from latbench import registry
from latbench.config import LoraConfig, ModelConfig
from latbench.method import MethodConfig
from latbench.model.backbone import Backbone
from latbench.model.source import CHECKPOINT_INFO
from latbench.training import checkpoint
from latbench.training.trainer import train_method
from methods.cot import Cot, CotConfig
from tests.training.toy_run import CONFIG, Toy, toy, toy_examples, train

SIZES: dict[str, Any] = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "mlp_size": 32, "device": "cpu"}


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = registry.Entry(name="toy", cls=Toy, config=MethodConfig)
    monkeypatch.setitem(registry._entries["method"], "toy", entry)


def logits(backbone: Backbone) -> torch.Tensor:
    tokens = backbone.batch_sequences(toy_examples(4), supervise="steps").tokens
    with torch.inference_mode():
        return backbone.logits_at_labels(tokens)[0]


def test_weights_heads_and_notes_come_back(tmp_path: Path) -> None:
    method = toy()
    checkpoint.save(method, tmp_path / "c", {"config": {"seed": 3}})
    loaded = checkpoint.load(tmp_path / "c", method="toy", layout="default", backbone="tiny-16x1")
    assert {name for name, _ in loaded.heads.named_parameters()} == {"length.weight", "length.bias"}
    for name, tensor in method.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert loaded.backbone.name == method.backbone.name
    assert not loaded.training
    info = checkpoint.read_info(tmp_path / "c")
    assert info["extra"] == {"config": {"seed": 3}}
    assert set(info["versions"]) >= {"latbench", "torch", "transformers"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]


def test_the_instruction_stays_with_the_model(tmp_path: Path) -> None:
    method = Cot(Backbone.load(ModelConfig(**SIZES, instruction="Add.")), CotConfig())
    checkpoint.save(method, tmp_path / "c")
    assert checkpoint.load(tmp_path / "c").prompt_ids("1+1?") == method.prompt_ids("1+1?")
    assert Cot(Backbone.load(ModelConfig(**SIZES)), CotConfig()).prompt_ids("1+1?") != method.prompt_ids("1+1?")


def test_a_method_without_heads_has_no_file_for_them(tmp_path: Path) -> None:
    checkpoint.save(Cot(toy().backbone, CotConfig()), tmp_path / "c")
    assert not (tmp_path / "c" / checkpoint.HEADS).exists()
    assert type(checkpoint.load(tmp_path / "c")) is Cot


def test_hugging_face_reads_the_folder(tmp_path: Path) -> None:
    method = toy()
    checkpoint.save(method, tmp_path / "c")
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(tmp_path / "c"),
        AutoTokenizer.from_pretrained(tmp_path / "c"),
    )
    ids = tokenizer("n0 = 3 + 4 ; <think>", return_tensors="pt").input_ids
    assert torch.equal(ids[0], torch.tensor(method.backbone.prompt("n0 = 3 + 4 ; ")))
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, method.backbone.model(ids).logits)


@pytest.mark.parametrize("train_markers", [True, False])
def test_trained_adapters_are_merged_and_kept_beside(tmp_path: Path, train_markers: bool) -> None:
    lora = LoraConfig(rank=2, train_markers=train_markers)
    method = Toy(Backbone.load(ModelConfig(**SIZES, lora=lora), seed=3))
    before = logits(method.backbone)
    train_method(method, toy_examples(), CONFIG, folder=tmp_path / "run", seed=0)
    checkpoint.save(method, tmp_path / "c")
    assert not torch.allclose(logits(method.backbone), before)
    loaded = checkpoint.load(tmp_path / "c")
    torch.testing.assert_close(logits(loaded.backbone), logits(method.backbone), rtol=1e-4, atol=1e-5)
    assert not any("lora" in name for name, _ in loaded.named_parameters())
    assert any("lora_A" in name for name in load_file(tmp_path / "c" / "adapter" / "adapter_model.safetensors"))
    assert any("lora" in name for name, _ in method.named_parameters())  # saving leaves the method as it was


def test_helper_models_are_loaded_on_request_alone(tmp_path: Path) -> None:
    class Helped(Toy):
        def __init__(self, backbone: Backbone, config: MethodConfig | None = None) -> None:
            super().__init__(backbone)
            self.auxiliary["encoder"] = LlamaModel(backbone.model.config)
            self.auxiliary["gate"] = nn.Linear(2, 2)

    registry._entries["method"]["toy"] = registry.Entry(name="toy", cls=Helped, config=MethodConfig)
    method = Helped(toy().backbone)
    nn.init.constant_(method.auxiliary["gate"].get_parameter("weight"), 3.0)
    checkpoint.save(method, tmp_path / "c")
    without, with_ = checkpoint.load(tmp_path / "c"), checkpoint.load(tmp_path / "c", auxiliary=True)
    for name, tensor in method.auxiliary.state_dict().items():
        assert torch.equal(with_.auxiliary.state_dict()[name], tensor)
    gates = [one.auxiliary["gate"].get_parameter("weight") for one in (without, method)]
    assert not torch.equal(*gates)
    encoder = LlamaModel.from_pretrained(tmp_path / "c" / "auxiliary" / "encoder")
    assert torch.equal(encoder.embed_tokens.weight, method.auxiliary["encoder"].get_parameter("embed_tokens.weight"))


def test_saving_again_replaces_and_a_torn_save_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = toy()
    checkpoint.save(method, tmp_path / "c", {"number": 1})
    checkpoint.save(method, tmp_path / "c", {"number": 2})
    assert checkpoint.read_info(tmp_path / "c")["extra"] == {"number": 2}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("safetensors.torch.save_model", full)
        with pytest.raises(OSError, match="No space left"):
            checkpoint.save(method, tmp_path / "c", {"number": 3})
    assert checkpoint.read_info(tmp_path / "c")["extra"] == {"number": 2}
    checkpoint.load(tmp_path / "c")


def edit_info(folder: Path, **changes: object) -> None:
    path = folder / CHECKPOINT_INFO
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def unlist(folder: Path, name: str) -> None:
    files = checkpoint.read_info(folder)["files"]
    edit_info(folder, files={other: sha256 for other, sha256 in files.items() if other != name})


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def garble(path: Path) -> None:
    path.write_bytes(b"\xff" * path.stat().st_size)


DAMAGE: list[tuple[Callable[[Path], object], str]] = [
    (lambda c: (c / CHECKPOINT_INFO).unlink(), "is not a latbench checkpoint"),
    (lambda c: cut(c / CHECKPOINT_INFO), "latbench.json is damaged"),
    (
        lambda c: cut(c / "model.safetensors"),
        r"c is damaged: model.safetensors is not the file that was saved \(sha256",
    ),
    (lambda c: garble(c / "model.safetensors"), r"c is damaged: model.safetensors is not the file that was saved"),
    (
        lambda c: garble(c / "config.json"),
        r"c is damaged: config.json is not the file that was saved .*; train the run",
    ),
    (lambda c: unlist(c, "model.safetensors"), "model.safetensors is none of the files that were saved"),
    (lambda c: unlist(c, "heads.safetensors"), "heads.safetensors is none of the files that were saved"),
    (lambda c: (c / "chat_template.jinja").write_text("{{ 1 }}"), "chat_template.jinja is none of the files that"),
    (lambda c: (c / "adapter_config.json").write_text("{}"), "adapter_config.json is none of the files that were"),
    (lambda c: (c / CHECKPOINT_INFO).write_text('{"format_version": 2}'), "latbench.json is damaged"),
    (lambda c: (c / "config.json").unlink(), "config.json is missing"),
    (lambda c: cut(c / checkpoint.HEADS), "heads.safetensors is not the file that was saved"),
    (lambda c: (c / checkpoint.HEADS).unlink(), "heads.safetensors is missing"),
    (lambda c: edit_info(c, format_version=1), "has format version 1, this latbench reads 2; use latbench 0"),
    (lambda c: edit_info(c, vocab_size=7), r"tokens, but the checkpoint was saved with 7"),
    (lambda c: edit_info(c, method_config={"nonsense": 1}), "does not fit this latbench: nonsense"),
    (lambda c: edit_info(c, method="coconnut"), "unknown method 'coconnut'"),
    (lambda c: edit_info(c, files={}, method_config={}, markers=False, model=5), "does not fit this latbench"),
]


@pytest.mark.parametrize(("damage", "reason"), DAMAGE)
def test_damaged_and_foreign_folders_are_refused_with_the_reason(
    tmp_path: Path, damage: Callable[[Path], object], reason: str
) -> None:
    checkpoint.save(toy(), tmp_path / "c")
    damage(tmp_path / "c")
    with pytest.raises(ValueError, match=reason) as caught:
        checkpoint.load(tmp_path / "c")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("what", "other"), [("method", "cot"), ("layout", "plain_hash_answer"), ("backbone", "tiny-128x3")]
)
def test_a_checkpoint_of_another_setup_is_refused(tmp_path: Path, what: str, other: str) -> None:
    checkpoint.save(toy(), tmp_path / "c")
    expected: dict[str, Any] = {what: other}
    with pytest.raises(ValueError, match=f"has {what} '.*', not '{other}'; give the folder of another run"):
        checkpoint.load(tmp_path / "c", **expected)


def test_heads_of_another_shape_are_refused(tmp_path: Path) -> None:
    method = toy()
    method.heads["length"] = nn.Linear(16, 2)
    checkpoint.save(method, tmp_path / "c")
    with pytest.raises(
        ValueError, match=r"heads\.safetensors does not fit: 2 tensors are of another shape: length"
    ) as caught:
        checkpoint.load(tmp_path / "c")
    assert "\n" not in str(caught.value)


def test_training_files_are_no_checkpoint(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(ValueError, match="is not a latbench checkpoint"):
        checkpoint.load(tmp_path / "stages" / "0-all")
