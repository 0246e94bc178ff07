"""Nothing that lies beside a model runs unless this very call allows it; a Hugging Face id becomes a folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
import transformers.dynamic_module_utils
from safetensors.torch import load_file, save_file

from latbench import registry
from latbench.config import ModelConfig
from latbench.method import MethodConfig
from latbench.model.backbone import Backbone
from latbench.model.source import CHECKPOINT_INFO, file_hashes
from latbench.training import checkpoint
from latbench.util.files import sha256_of
from tests.training.toy_run import Toy, toy

CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
Path({ran!r}).touch()
class OddConfig(LlamaConfig):
    model_type = "odd"
class OddModel(LlamaForCausalLM):
    config_class = OddConfig
"""


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    entry = registry.Entry(name="toy", cls=Toy, config=MethodConfig)
    monkeypatch.setitem(registry._entries["method"], "toy", entry)


def with_code(folder: Path) -> Path:
    """Make the model in a folder one of a class of its own. Returns: a file that is there once its code has run."""
    ran = folder.parent / "ran"
    (folder / "odd.py").write_text(CODE.format(ran=str(ran)))
    config = json.loads((folder / "config.json").read_text())
    classes = {"AutoConfig": "odd.OddConfig", "AutoModelForCausalLM": "odd.OddModel"}
    (folder / "config.json").write_text(
        json.dumps({**config, "model_type": "odd", "auto_map": classes, "architectures": ["OddModel"]})
    )
    return ran


def saved(backbone: Backbone, folder: Path) -> Path:
    backbone.model.save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)
    return folder


def test_code_beside_a_model_runs_on_this_calls_word_alone(
    backbone_of: Callable[..., Backbone], tmp_path: Path
) -> None:
    backbone = backbone_of("llama", dtype=torch.float32)
    folder = saved(backbone, tmp_path / "odd")
    ran = with_code(folder)
    with pytest.raises(ValueError, match=r"comes with code of its own, .*; read it, and pass --trust-remote-code"):
        Backbone.load(ModelConfig(id=str(folder)))
    assert not ran.exists()
    loaded = Backbone.load(ModelConfig(id=str(folder), device="cpu"), trust_remote_code=True)
    assert ran.exists()
    assert type(loaded.model).__name__ == "OddModel"
    for name, tensor in backbone.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor)


def test_no_word_in_a_checkpoint_makes_it_run_code(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    checkpoint.save(toy(), folder)
    ran = with_code(folder)
    info = checkpoint.read_info(folder)
    files = {name: sha256_of(folder / name) for name in info["files"]}  # as whoever changes a file would

    def write(**changes: object) -> None:
        (folder / CHECKPOINT_INFO).write_text(json.dumps({**info, "files": files, **changes}))

    write()
    with pytest.raises(ValueError, match="comes with code of its own"):
        checkpoint.load(folder)
    write(model={**info["model"], "trust_remote_code": True})
    with pytest.raises(ValueError, match="does not fit this latbench: trust_remote_code"):
        checkpoint.load(folder)
    assert not ran.exists()
    write()
    checkpoint.load(folder, trust_remote_code=True)
    assert ran.exists()


def test_a_checkpoint_given_as_a_model_must_be_the_one_that_was_saved(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    checkpoint.save(toy(), folder)
    Backbone.load(ModelConfig(id=str(folder)))
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor + 1e-3 for name, tensor in tensors.items()}, folder / "model.safetensors")  # another seed's
    with pytest.raises(ValueError, match=r"damaged: model\.safetensors is not the file that was saved"):
        Backbone.load(ModelConfig(id=str(folder)))


def test_a_hub_id_is_read_from_the_cache_at_its_revision(
    backbone_of: Callable[..., Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = backbone_of("gpt2", dtype=torch.float32)
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--someone--small"
    saved(backbone, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for revision in (None, commit):
        loaded = Backbone.load(ModelConfig(id="someone/small", revision=revision, device="cpu"))
        assert loaded.name == "small"
        assert loaded.model.config.name_or_path == "someone/small"
        for name, tensor in backbone.model.state_dict().items():
            assert torch.equal(loaded.model.state_dict()[name], tensor)
    with pytest.raises(ValueError, match=r"model\.id 'someone/small' could not be loaded"):
        Backbone.load(ModelConfig(id="someone/small", revision="other"))


def test_hashes_name_every_file_that_is_read(backbone_of: Callable[..., Backbone], tmp_path: Path) -> None:
    folder = saved(backbone_of("llama", dtype=torch.float32), tmp_path / "m")
    (folder / "README.md").write_text("a card")
    hashes = file_hashes(str(folder), None, weights=True)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= hashes.keys()
    assert "README.md" not in hashes
    other = shutil.copytree(folder, tmp_path / "other")
    assert file_hashes(str(other), None, weights=True) == hashes
    (other / "chat_template.jinja").write_text("{{ messages }}")
    assert file_hashes(str(other), None, weights=True).keys() - hashes.keys() == {"chat_template.jinja"}
