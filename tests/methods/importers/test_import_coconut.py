"""Coconut's checkpoints: one tensor under three names, wrappers' prefixes, and a number of latents that only the user
knows."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from latbench.config import read_config
from latbench.runs.import_files import open_source
from latbench.runs.importing import plan_import
from tests.methods.importers.release_writers import QUESTION, coconut, gpt2, llama
from tests.methods.importers.slow_reference import assert_same, exactly, imported, slow_answer

LATENTS = {"method__latents_per_step": 2, "method__max_stage": 3}


def run_of(tmp_path: Path, state: Any, **asked: Any) -> Any:
    torch.save(state, tmp_path / "checkpoint_33")
    return imported(tmp_path / "checkpoint_33", tmp_path / "runs", base=tmp_path / "base", **{**LATENTS, **asked})


def slow_coconut(model: Any, prompt: list[int], eos: int, num: int = 6) -> Any:
    start = model.get_input_embeddings().weight.shape[0] - 3
    return slow_answer(
        model, prompt, next_embeds=lambda hidden, _: hidden, stop=exactly(num), close=[start + 1], eos=eos, num_new=8
    )


@pytest.mark.parametrize("prefix", ["", "module.", "module._fsdp_wrapped_module.", "_orig_mod."])
def test_the_latent_loop_is_that_of_the_wrapper(prefix: str, tmp_path: Path) -> None:
    state, model = coconut(gpt2(tmp_path / "base"))
    assert len(state) == 30
    run = run_of(tmp_path, {prefix + name: tensor for name, tensor in state.items()})
    tokenizer = run.method.backbone.tokenizer
    prompt = [*tokenizer.encode(QUESTION + "\n"), 257]
    assert run.method.prompt_ids(QUESTION) == prompt
    assert_same(run, slow_coconut(model, prompt, tokenizer.eos_token_id), QUESTION, 8)
    assert tokenizer.convert_ids_to_tokens(259) == "<|latent|>"
    dropped = run.report["imported"]["dropped"]
    assert dropped == {
        "embedding.weight": "equals base_causallm.transformer.wte.weight",
        "base_causallm.lm_head.weight": "equals base_causallm.transformer.wte.weight",
    }


def test_a_llama_is_known_by_its_embeddings_and_old_buffers_are_dropped(tmp_path: Path) -> None:
    state, model = coconut(llama(tmp_path / "base"))
    buffer = "base_causallm.model.layers.0.self_attn.rotary_emb.inv_freq"
    run = run_of(tmp_path, {**state, buffer: torch.ones(4)})
    tokenizer = run.method.backbone.tokenizer
    prompt = run.method.prompt_ids(QUESTION)
    assert prompt == [tokenizer.bos_token_id, *tokenizer.encode(QUESTION + "\n", add_special_tokens=False), 260]
    assert_same(run, slow_coconut(model, prompt, tokenizer.eos_token_id), QUESTION, 8)
    assert run.report["imported"]["dropped"][buffer] == "a buffer that the model computes itself"


def test_the_number_of_latents_must_be_said(tmp_path: Path) -> None:
    state, model = coconut(gpt2(tmp_path / "base"))
    torch.save(state, tmp_path / "checkpoint_33")
    with pytest.raises(ValueError, match=r"does not store method.latents_per_step .*, nor method.max_stage .*--set"):
        plan_import(str(tmp_path / "checkpoint_33"), base=str(tmp_path / "base"))
    run = run_of(tmp_path, state, method__latents_per_step=1)
    slow = slow_coconut(model, run.method.prompt_ids(QUESTION), run.method.backbone.layout.eos, num=3)
    assert_same(run, slow, QUESTION, 8)


def test_an_embedding_that_is_no_duplicate_is_refused(tmp_path: Path) -> None:
    state, _ = coconut(gpt2(tmp_path / "base"))
    other = state["embedding.weight"].clone()
    other[0, 0] += 0.25
    with pytest.raises(ValueError, match=r"embedding.weight should equal .*, but differs by up to 0.25"):
        run_of(tmp_path, {**state, "embedding.weight": other})
    with pytest.raises(ValueError, match=r"embedding.weight should equal .*, but has another shape"):
        run_of(tmp_path, {**state, "embedding.weight": other[:-1].clone()})
    assert not (tmp_path / "runs").exists()


def test_two_names_of_one_tensor_are_refused(tmp_path: Path) -> None:
    state, _ = coconut(gpt2(tmp_path / "base"))
    name = "base_causallm.transformer.ln_f.bias"
    with pytest.raises(ValueError, match=f"both {name} and module.{name}"):
        run_of(tmp_path, {**state, f"module.{name}": state[name]})


class Payload:
    def __reduce__(self) -> Any:
        return (io.open, ("/tmp/never-opened-by-latbench", "w"))


def test_a_pickle_with_objects_is_not_run(tmp_path: Path) -> None:
    state, _ = coconut(gpt2(tmp_path / "base"))
    with pytest.raises(
        ValueError, match=r"no torch.save file of tensors alone \(it names .*open\).*could run code; where"
    ):
        run_of(tmp_path, {**state, "extra": Payload()})
    assert not Path("/tmp/never-opened-by-latbench").exists()


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"a": 1}, r"1 entries that are no tensors \(a\)"),
        ([1], "a list, no state dictionary"),
        ({"a": torch.ones(1).expand(10**6, 10**6)}, "no plain tensor of its own"),
    ],
)
def test_a_file_of_something_else_is_refused(state: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=reason):
        run_of(tmp_path, state)


def test_the_key_of_a_nested_state_dictionary_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"no tensors \(model\); save its tensors alone .*weights_only=True\)\['model'\]"
    ):
        run_of(tmp_path, {"model": {"a": torch.ones(1)}})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\n", "is a pointer of Git LFS .*`git lfs pull`"),
        (b"<!DOCTYPE html><html>404</html>", "is no file of weights .it begins with b'<!DOCTYPE html"),
        (b"root:x:0:0:root:/root:/bin/bash\n", "is no file of weights .it begins with b'root:x"),
        (b"", "is no file of weights .it is empty"),
        (b"\x80\x02.", "is damaged, or no file of weights"),  # pops from an empty stack
    ],
)
def test_a_file_that_is_neither_archive_nor_pickle_is_named_so(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoint_3").write_bytes(content)
    with pytest.raises(ValueError, match=reason) as refused:
        plan_import(str(tmp_path / "checkpoint_3"))
    assert "torch.load" not in str(refused.value)


def test_a_pointer_in_place_of_safetensors_is_named_so(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\n")
    with pytest.raises(ValueError, match="is a pointer of Git LFS"):
        plan_import(str(tmp_path))


def test_the_advice_of_torch_to_run_a_file_is_not_repeated(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "checkpoint_3")
    with zipfile.ZipFile(tmp_path / "checkpoint_3", "a") as archive:
        archive.writestr("checkpoint_3/constants.pkl", b"")  # marks a TorchScript archive
    with pytest.raises(ValueError, match=r"is damaged, or no file of weights \(RuntimeError\); copy it anew"):
        plan_import(str(tmp_path / "checkpoint_3"))


@pytest.mark.parametrize("place", ["checkpoint_3", "checkpoints/a.ckpt", "version_0/checkpoints/a.ckpt"])
def test_a_single_file_is_found_where_trainers_write_it(place: str, tmp_path: Path) -> None:
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    torch.save({"a": torch.ones(1)}, tmp_path / place)
    assert open_source(str(tmp_path)).path == tmp_path / place


@pytest.mark.parametrize("place", ["a/b/c.pt", "lib/torch.pt", ".cache/checkpoints/a.ckpt", ".a.pt"])
def test_a_folder_is_not_searched_to_its_bottom_nor_in_what_it_hides(place: str, tmp_path: Path) -> None:
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    torch.save({"a": torch.ones(1)}, tmp_path / place)
    with pytest.raises(ValueError, match="holds no files of weights"):
        open_source(str(tmp_path))


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    state, _ = coconut(gpt2(tmp_path / "base"))
    torch.save(state, tmp_path / "whole")
    (tmp_path / "checkpoint_3").write_bytes((tmp_path / "whole").read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"checkpoint_3 is .*damaged|checkpoint_3 is no torch.save file"):
        plan_import(str(tmp_path / "checkpoint_3"))


def test_the_configuration_of_the_run_says_which_files_it_is_made_of(tmp_path: Path) -> None:
    state, _ = coconut(gpt2(tmp_path / "base"))
    run = run_of(tmp_path, state)
    known = read_config(run.folder / "config.yaml")
    assert known == run.config
    assert known.imported is not None
    files = run.report["imported"]["files"]
    assert set(files) == {"checkpoint_33", "base/config.json", "base/generation_config.json", "base/tokenizer.json",
                          "base/tokenizer_config.json"}  # fmt: skip
    other = run_of(tmp_path, {**state, "base_causallm.transformer.ln_f.bias": torch.ones(16)})
    assert other.config.imported.sha256 != known.imported.sha256
    assert other.config.setting != known.setting
    assert known.variant == "imported=checkpoint_33"
