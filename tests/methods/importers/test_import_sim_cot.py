"""SIM-CoT's files are those of Coconut and of CODI with a second model, which is dropped by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.methods.importers.release_writers import QUESTION, coconut, codi, gpt2, llama, project, shard
from tests.methods.importers.slow_reference import assert_same, exactly, imported, slow_answer


def with_helpers(state: dict[str, Any]) -> dict[str, Any]:
    helpers = {
        "decoder.transformer.wte.weight": torch.ones(3, 4),
        "pj_in.weight": torch.ones(4, 4),
        "pj_in.bias": torch.ones(4),
    }
    return {name: tensor.contiguous() for name, tensor in {**state, **helpers}.items()}


@pytest.mark.parametrize("sharded", [False, True])
def test_on_codi_the_helper_is_dropped_and_the_rest_is_codi(sharded: bool, tmp_path: Path) -> None:
    state, model, prj = codi(llama(tmp_path / "base"), alpha=1.0)
    folder = tmp_path / "SIM_COT-tiny-CODI"
    folder.mkdir()
    (folder / "config.json").touch()  # of 0 bytes, as in the releases
    if sharded:
        shard(with_helpers(state), folder, 3)
    else:
        save_file(with_helpers(state), folder / "model.safetensors")
    run = imported(folder, tmp_path / "runs", base=tmp_path / "base", imported__lora_alpha=1.0)
    assert run.config.method_name == "sim_cot_codi"
    dropped = [name for name in run.report["imported"]["dropped"] if "lm_head" not in name]
    assert sorted(dropped) == ["decoder.transformer.wte.weight", "pj_in.bias", "pj_in.weight"]
    slow = slow_answer(
        model, run.method.prompt_ids(QUESTION), next_embeds=lambda hidden, _: project(prj, hidden), stop=exactly(6),
        close=[262], never=[262], eos=run.method.backbone.layout.eos, num_new=8,
    )  # fmt: skip
    assert_same(run, slow, QUESTION, 8)
    assert run.with_helpers_for("read_latents").method.read_latents(slow.latents) is None  # the helper is not there


def test_on_coconut_the_released_file_has_ten_latents(tmp_path: Path) -> None:
    state, model = coconut(gpt2(tmp_path / "base"))
    helper = {name.replace("base_causallm", "expainable_llm"): tensor.clone() for name, tensor in state.items()}
    torch.save({**state, **{k: v for k, v in helper.items() if "llm" in k}}, tmp_path / "checkpoint_28")
    run = imported(tmp_path / "checkpoint_28", tmp_path / "runs", base=tmp_path / "base")
    assert run.config.method_name == "sim_cot"
    slow = slow_answer(
        model, run.method.prompt_ids(QUESTION), next_embeds=lambda hidden, _: hidden, stop=exactly(10), close=[258],
        eos=run.method.backbone.layout.eos, num_new=8,
    )  # fmt: skip
    assert_same(run, slow, QUESTION, 8)
    assert {name for name in run.report["imported"]["dropped"] if name.startswith("expainable_llm.")} >= set(helper) - {
        "embedding.weight"
    }

    (tmp_path / "checkpoint_28").rename(tmp_path / "checkpoint_12")
    with pytest.raises(ValueError, match=r"does not store method.latents_per_step"):
        imported(tmp_path / "checkpoint_12", tmp_path / "runs", base=tmp_path / "base")
