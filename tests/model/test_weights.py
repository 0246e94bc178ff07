"""Weights load whole and alike, or not at all; what a folder asks for is bounded before it is built."""

from __future__ import annotations

import json
import logging
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GPTNeoConfig, LlamaConfig

from latbench.config import ModelConfig
from latbench.model import weights
from latbench.model.backbone import Backbone

WEIGHTS = "model.safetensors"
Edit = Callable[[dict[str, Tensor]], dict[str, Tensor]]


@pytest.fixture
def saved(backbone_of: Callable[..., Backbone], tmp_path: Path) -> Path:
    """A tied Llama of three layers as a plain folder."""
    return save(backbone_of("llama", dtype=torch.float32), tmp_path)


def save(backbone: Backbone, folder: Path) -> Path:
    backbone.model.save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)
    return folder


def load(folder: Path, **settings: Any) -> Backbone:
    return Backbone.load(ModelConfig(id=str(folder), device="cpu", **settings))


def edit_weights(folder: Path, edit: Edit) -> None:
    save_file({name: t.contiguous() for name, t in edit(load_file(folder / WEIGHTS)).items()}, folder / WEIGHTS)


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_every_architecture_comes_back_as_it_was(backbone: Backbone, tmp_path: Path) -> None:
    save(backbone, tmp_path)
    loaded = load(tmp_path, dtype="float64").model.state_dict()
    assert loaded.keys() == backbone.model.state_dict().keys()
    for name, tensor in backbone.model.state_dict().items():
        assert torch.equal(loaded[name], tensor), name


@pytest.mark.parametrize("name", ["gpt2", "llama_untied", "gemma3"])
def test_shards_are_read_alike_and_a_missing_one_is_named(
    name: str, backbone_of: Callable[..., Backbone], tmp_path: Path
) -> None:
    backbone = backbone_of(name, dtype=torch.float32)
    backbone.model.save_pretrained(tmp_path, max_shard_size="40KB")
    backbone.tokenizer.save_pretrained(tmp_path)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    loaded = load(tmp_path).model.state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in backbone.model.state_dict().items())
    shards[1].unlink()
    with pytest.raises(ValueError, match=rf"lacks 1 of {len(shards)} shards \({shards[1].name}\)"):
        load(tmp_path)


def test_an_index_leads_to_no_file_elsewhere(saved: Path) -> None:
    (saved / WEIGHTS).rename(saved.parent / WEIGHTS)
    index = {"weight_map": {"model.norm.weight": f"../{WEIGHTS}"}}
    (saved / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="which is no safetensors file beside it"):
        load(saved)


def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"codi.base_model.model.{name}": tensor for name, tensor in tensors.items()}


def without_a_layer(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if "layers.1." not in name}


def with_(value: float) -> Edit:
    def edit(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        tensors["model.layers.2.mlp.up_proj.weight"][3, 4] = value
        return tensors

    return edit


def narrower(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:-1]
    return tensors


def as_integers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    name = "model.layers.0.mlp.up_proj.weight"
    return tensors | {name: tensors[name].to(torch.int8)}


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (
            renamed,
            r"30 tensors are missing: lm_head\.weight, .* and 25 more; 29 tensors are unexpected: codi\.base_model",
        ),
        (
            without_a_layer,
            r"does not fit: 9 tensors are missing: model\.layers\.1\.input_layernorm\.weight, .* 4 more;",
        ),
        (with_(float("nan")), r"1 tensor is not finite \(NaN or infinity\): model\.layers\.2\.mlp\.up_proj\.weight"),
        (with_(float("-inf")), r"1 tensor is not finite"),
        (narrower, r"of another shape: model\.norm\.weight \(\[31\] instead of \[32\]\)"),
        (as_integers, r"no floating-point numbers: model\.layers\.0\.mlp\.up_proj\.weight \(I8\)"),
        (lambda tensors: {**tensors, "extra": torch.ones(1)}, "1 tensor is unexpected: extra"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(saved: Path, edit: Edit, reason: str) -> None:
    edit_weights(saved, edit)
    with pytest.raises(ValueError, match=reason) as caught:
        load(saved)
    assert str(saved) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_with_more_layers_than_the_architecture_is_refused(saved: Path) -> None:
    edit_config(saved, num_hidden_layers=2, layer_types=None)
    with pytest.raises(ValueError, match=r"9 tensors are unexpected: model\.layers\.2\."):
        load(saved)


def test_a_cut_file_is_named(saved: Path) -> None:
    (saved / WEIGHTS).write_bytes((saved / WEIGHTS).read_bytes()[:-100])
    with pytest.raises(ValueError, match=rf"{WEIGHTS} cannot be read .*; fetch it anew"):
        load(saved)


def test_a_file_without_the_prefix_and_with_old_masks_loads_and_names_what_is_dropped(
    backbone_of: Callable[..., Backbone], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backbone = backbone_of("gpt2", dtype=torch.float32)  # as the released GPT-2 is stored
    save(backbone, tmp_path)
    masks = {f"h.{layer}.attn.bias": torch.ones(1, 1, 4, 4) for layer in range(3)}
    edit_weights(tmp_path, lambda t: {n.removeprefix("transformer."): tensor for n, tensor in t.items()} | masks)
    with caplog.at_level(logging.WARNING):
        loaded = load(tmp_path)
    assert all(torch.equal(loaded.model.state_dict()[n], t) for n, t in backbone.model.state_dict().items())
    assert "dropped 3 tensors that its architecture does not read: h.0.attn.bias, h.1.attn.bias" in caplog.text


def test_a_tied_head_may_lie_in_the_file_too(saved: Path) -> None:
    edit_weights(saved, lambda t: t | {"lm_head.weight": t["model.embed_tokens.weight"].clone()})
    model = load(saved).model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


class Touch:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_pickled_weights_are_refused_unread(saved: Path) -> None:
    touched = saved / "touched"
    torch.save({"weights": Touch(touched)}, saved / "pytorch_model.bin")
    load(saved)  # beside whole safetensors it is passed over
    (saved / WEIGHTS).unlink()
    with pytest.raises(ValueError, match=r"has no model\.safetensors \(it has pytorch_model\.bin, which is not read\)"):
        load(saved)
    assert not touched.exists()


def test_an_adapter_does_not_lead_to_another_model(saved: Path) -> None:
    (saved / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "elsewhere", "peft_type": "LORA"})
    )
    with pytest.raises(ValueError, match="holds an adapter"):
        load(saved)


def test_quantised_weights_are_refused(saved: Path) -> None:
    edit_config(saved, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(ValueError, match="has quantised weights"):
        load(saved)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hidden_size": 131072, "intermediate_size": 524288}, r"tensors are of another shape: .*131072"),
        ({"vocab_size": 10**9}, r"1 tensor is of another shape: .*1000000000"),
        ({"num_hidden_layers": 10**9, "layer_types": None}, r"num_hidden_layers=1000000000, more than 10000; mend it"),
        ({"num_hidden_layers": 9999, "layer_types": None}, r"asks for more than 1116 tensors"),
    ],
)
def test_sizes_are_refused_before_they_are_allocated(saved: Path, changes: dict[str, Any], reason: str) -> None:
    edit_config(saved, **changes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=reason) as caught:
        load(saved)
    assert "\n" not in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_masks_out_of_all_proportion_are_refused(saved: Path) -> None:
    shape = GPTNeoConfig(
        vocab_size=297, hidden_size=16, num_layers=1, attention_types=[[["global"], 1]], num_heads=2,
        max_position_embeddings=64,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(shape).save_pretrained(saved)
    edit_config(saved, max_position_embeddings=10**6)  # its mask has the square of that
    with pytest.raises(ValueError, match=r"asks for 1000\.0 GB of masks and positions beside \d+ weights"):
        load(saved, attention="eager")


def test_fresh_weights_beyond_the_free_memory_are_refused(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit_config(saved, hidden_size=2**15, head_dim=2**13)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Free", (), {"available": 10**9}))
    for config in (ModelConfig(id=str(saved), weights="random"), ModelConfig(hidden_size=2**15)):
        with pytest.raises(ValueError, match=r"takes \d+\.\d GB, more than the 1\.0 GB of memory that are free"):
            Backbone.load(config)


def test_more_ids_than_rows_is_one_sentence(saved: Path) -> None:
    tokenizer = json.loads((saved / "tokenizer.json").read_text())
    rows = load_file(saved / WEIGHTS)["model.embed_tokens.weight"].shape[0]
    added = {"id": rows, "content": "<more>", "single_word": False, "lstrip": False, "rstrip": False}
    tokenizer["added_tokens"].append({**added, "normalized": False, "special": True})
    (saved / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(
        ValueError, match=rf"tokenizer has ids up to {rows}, but its embedding has {rows} rows"
    ) as caught:
        load(saved)
    assert "\n" not in str(caught.value)


class Two(nn.Module):
    """Two layers whose weights are one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(2, 2), nn.Linear(2, 2, bias=False)
        self.other.weight = self.one.weight
        self.register_buffer("scale", torch.ones(1))


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"one.bias": torch.ones(2), "scale": torch.ones(1)}, "1 tensor is missing: one.weight"),
        ({"other.weight": torch.ones(2, 2), "scale": torch.ones(1)}, "1 tensor is missing: one.bias"),
        ({"one.weight": torch.ones(3, 2)}, r"of another shape: one.weight \(\[3, 2\] instead of \[2, 2\]\)"),
        ({"two.weight": torch.ones(2)}, "1 tensor is unexpected: two.weight"),
    ],
)
def test_a_module_of_its_own_is_accounted_for_alike(tmp_path: Path, tensors: dict[str, Tensor], reason: str) -> None:
    file = tmp_path / "heads.safetensors"
    save_file(tensors, file)
    with pytest.raises(ValueError, match=reason):
        weights.load_module(Two(), file)


def test_of_tied_tensors_one_is_enough(tmp_path: Path) -> None:
    file, module = tmp_path / "heads.safetensors", Two()
    whole = {"other.weight": torch.full((2, 2), 3.0), "one.bias": torch.zeros(2), "scale": torch.tensor([2.0])}
    save_file(whole, file)
    weights.load_module(module, file)
    assert torch.equal(module.one.weight, whole["other.weight"])
    save_file(whole | {"scale": torch.tensor([float("nan")])}, file)
    with pytest.raises(ValueError, match=r"not finite \(NaN or infinity\): scale"):
        weights.load_module(module, file)


PEAK = """
import sys
import torch
from latbench.config import ModelConfig
from latbench.model import weights
from latbench.model.loading import from_hub
weights.PART_BYTES = 2**24  # of 240 MB in all
def memory(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) * 1024
from_hub(ModelConfig(id=sys.argv[1], dtype="float32", device="cpu"), seed=0)  # imports, pools
before = memory("VmRSS")
model, _ = from_hub(ModelConfig(id=sys.argv[2], dtype="float32", device="cpu"), seed=0)
print((memory("VmHWM") - before) / sum(p.numel() * p.element_size() for p in model.parameters()))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux counts the pages of a process")
def test_a_load_takes_little_more_memory_than_the_weights(saved: Path, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.mkdir()
    shape = LlamaConfig(
        vocab_size=297, hidden_size=768, intermediate_size=3072, num_hidden_layers=6, num_attention_heads=8
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape)
    names = list(model.state_dict())
    for half in (0, 1):
        part = {n: torch.zeros(model.state_dict()[n].shape, dtype=torch.bfloat16) for n in names[half::2]}
        save_file(part, large / f"part{half}.safetensors")
    places = {name: f"part{number % 2}.safetensors" for number, name in enumerate(names)}
    (large / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    shape.save_pretrained(large)
    for file in saved.glob("tokenizer*"):
        (large / file.name).write_bytes(file.read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(saved), str(large)], capture_output=True, text=True, check=False
    )
    assert float(done.stdout) < 1.3, done.stderr
