"""Adaptive latent reasoning: a folder of a class of its own, of which only what a method here decodes is imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from tests.methods.importers.release_writers import QUESTION, llama, project, projection
from tests.methods.importers.slow_reference import assert_same, exactly, imported, slow_answer

SETTINGS = {
    "start_token_id": 260, "end_token_id": 261, "continue_token_id": 262, "stop_token_id": 263,
    "unused_token_ids": list(range(264, 384)), "recurrent_filter_mode": "MLP", "add_latent_to_end": False,
    "detach_binary_head_inputs": True, "lora_mode": False, "binary_head_temp": 1.0,
}  # fmt: skip


def written(folder: Path, **changed: Any) -> tuple[Any, Any]:
    model = llama(folder, rows=384)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = ["<START>", "<END>", "<|CONTINUE|>", "<|STOP|>", *(f"<|unused_{i}|>" for i in range(120))]
    tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    tokenizer.save_pretrained(folder)
    prj = projection(16, 16)
    names = {"1": "input_layer", "3": "output_layer", "ln": "norm"}
    tensors = {f"_base_model.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    for name, tensor in prj.state_dict().items():
        layer, part = name.split(".")
        tensors[f"recurrent_filter.{names[layer]}.{part}"] = tensor
    save_file(tensors, folder / "model.safetensors")
    path = folder / "config.json"
    section = {"_inserted_LatentThinkingModelSettings": SETTINGS | changed}
    path.write_text(json.dumps(json.loads(path.read_text()) | section | {"architectures": ["LatentThinkingModel"]}))
    return model, prj


def test_a_model_of_six_latents_is_a_run_of_codi(tmp_path: Path) -> None:
    model, prj = written(tmp_path / "adaLR")
    run = imported(tmp_path / "adaLR", tmp_path / "runs")
    assert run.config.method_name == "codi"
    tokenizer = run.method.backbone.tokenizer
    prompt = [*tokenizer.encode(QUESTION), 260]
    assert run.method.prompt_ids(QUESTION) == prompt
    close = [261, *tokenizer.encode(" The answer is:", add_special_tokens=False)]
    slow = slow_answer(
        model, prompt, next_embeds=lambda hidden, _: project(prj, hidden), stop=exactly(6), close=close, num_new=8,
        eos=tokenizer.eos_token_id, never=[261, 262, 263, *range(264, 384)],
    )  # fmt: skip
    assert_same(run, slow, QUESTION, 8)
    other = imported(tmp_path / "adaLR", tmp_path / "runs", model__layout="question_clause")
    assert tokenizer.decode(other.method.prompt_ids("1+1?")) == "<|begin_of_text|>Question: 1+1?<START>"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"detach_binary_head_inputs": False}, "decides after each latent whether another follows"),
        ({"lora_mode": True}, "adapters that are not merged"),
        ({"recurrent_filter_mode": "softmax"}, "recurrent_filter_mode='softmax'"),
        ({"add_latent_to_end": True}, "add_latent_to_end=True"),
        ({"start_token_id": None}, "lacks _inserted_LatentThinkingModelSettings.start_token_id"),
        ({"start_token_id": 99999}, "start_token_id in config.json of .*adaLR is 99999, which is no token"),
        ({"stop_token_id": -5}, "stop_token_id in config.json of .*adaLR is -5, which is no token"),
        ({"unused_token_ids": "abc"}, "unused_token_ids in .* is abc, which is no list of ids below 384"),
        ({"unused_token_ids": 5}, "unused_token_ids in .* is 5, which is no list of ids"),
        ({"unused_token_ids": [264, 99999]}, r"unused_token_ids in .* is \[264, 99999\], which is no list of ids"),
    ],
)
def test_what_no_method_decodes_is_refused(changed: dict[str, Any], reason: str, tmp_path: Path) -> None:
    written(tmp_path / "adaLR", **changed)
    with pytest.raises(ValueError, match=reason):
        imported(tmp_path / "adaLR", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["cot", "no_cot"])
def test_models_of_text_alone(name: str, tmp_path: Path) -> None:
    folder = tmp_path / f"Llama-adaLR-model-{name}_sft"
    model = llama(folder)
    run = imported(folder, tmp_path / "runs")
    tokenizer = run.method.backbone.tokenizer
    assert run.config.method_name == {"cot": "cot", "no_cot": "direct"}[name]
    clause = tokenizer.encode(" The answer is:", add_special_tokens=False)
    prompt = [*tokenizer.encode(QUESTION), *(clause if name == "no_cot" else [])]
    assert run.method.prompt_ids(QUESTION) == prompt
    slow = slow_answer(
        model, prompt, next_embeds=lambda hidden, _: hidden, stop=exactly(0), close=[], num_new=8,
        eos=tokenizer.eos_token_id,
    )  # fmt: skip
    with torch.no_grad():
        (answer,) = run.method.generate([QUESTION], run.config.generate.__class__(max_new_tokens=8))
    assert answer.reasoning + answer.text == tokenizer.decode(slow.answer)


def test_another_folder_is_not_taken_for_a_model_of_text_alone(tmp_path: Path) -> None:
    llama(tmp_path / "other")
    with pytest.raises(
        ValueError, match=r"^other is not a folder whose config.json has .*; give the folder its name on"
    ):
        imported(tmp_path / "other", tmp_path / "runs", format="adaptive_latent")
    assert not (tmp_path / "runs").exists()
