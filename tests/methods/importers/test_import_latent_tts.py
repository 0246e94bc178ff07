"""LatentTTS's folders: known by the class that config.json names, which transformers itself does not know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from latbench.config import ModelConfig
from latbench.model.backbone import Backbone
from tests.methods.importers.release_writers import QUESTION, LatentHead, gpt2, llama, project, projection
from tests.methods.importers.slow_reference import assert_same, exactly, imported, slow_answer


def named(folder: Path, cls: str, tensors: dict[str, torch.Tensor], **config: Any) -> None:
    """Turn a saved model into one of a class of the release."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": [cls], **config}))
    save_file(load_file(folder / "model.safetensors") | tensors, folder / "model.safetensors")


def gpt2_with_tokens(folder: Path) -> Any:
    model = gpt2(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = ["<|latent|>", "<|start-latent|>", "<|end-latent|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    tokenizer.save_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(folder)
    return model


def test_coconut(tmp_path: Path) -> None:
    model = gpt2_with_tokens(tmp_path / "tts")
    named(tmp_path / "tts", "COCONUTGPT2", {}, latent_id=-100)
    run = imported(tmp_path / "tts", tmp_path / "runs")
    tokenizer = run.method.backbone.tokenizer
    prompt = run.method.prompt_ids(QUESTION)
    assert prompt == [*tokenizer.encode(QUESTION + "\n"), 258]
    slow = slow_answer(
        model, prompt, next_embeds=lambda hidden, _: hidden, stop=exactly(6), close=[259], num_new=8,
        eos=tokenizer.eos_token_id,
    )  # fmt: skip
    assert_same(run, slow, QUESTION, 8)
    assert run.config.method_name == "coconut"


@pytest.mark.parametrize("projects", [True, False])
def test_codi(projects: bool, tmp_path: Path) -> None:
    model, prj = gpt2_with_tokens(tmp_path / "tts"), projection(16, 6)
    renamed = {"1": "1", "3": "3", "ln": "4"}
    tensors = {
        f"projector.{renamed[name.split('.')[0]]}.{name.split('.')[1]}": tensor
        for name, tensor in prj.state_dict().items()
    }
    named(tmp_path / "tts", "CODIGPT2", tensors if projects else {}, projector=projects)
    run = imported(tmp_path / "tts", tmp_path / "runs")
    tokenizer = run.method.backbone.tokenizer
    prompt = run.method.prompt_ids(QUESTION)
    assert prompt == [*tokenizer.encode(QUESTION.replace("  ", " ")), 258]
    slow = slow_answer(
        model, prompt, next_embeds=lambda hidden, _: project(prj, hidden) if projects else hidden, stop=exactly(6),
        close=[259], num_new=8, eos=tokenizer.eos_token_id,
    )  # fmt: skip
    assert_same(run, slow, QUESTION, 8)
    assert run.config.method.projection is projects


def test_the_folder_is_no_plain_model(tmp_path: Path) -> None:
    gpt2_with_tokens(tmp_path / "tts")
    named(tmp_path / "tts", "CODIGPT2", {"projector.1.weight": torch.ones(6, 16)})
    with pytest.raises(ValueError, match=r"projector.1.weight"):
        Backbone.load(ModelConfig(id=str(tmp_path / "tts"), device="cpu"))
    with pytest.raises(ValueError, match=r"lacks projector.1.bias"):
        imported(tmp_path / "tts", tmp_path / "runs")


def test_a_tokenizer_without_the_tokens_is_refused(tmp_path: Path) -> None:
    gpt2(tmp_path / "tts")
    named(tmp_path / "tts", "COCONUTGPT2", {})
    with pytest.raises(ValueError, match=r"lacks the token <\|start-latent\|>"):
        imported(tmp_path / "tts", tmp_path / "runs")


def test_colar(tmp_path: Path) -> None:
    model, head = llama(tmp_path / "tts"), LatentHead(16, 12, spread=False)
    tensors = {f"lt_head.{name}": tensor for name, tensor in head.state_dict().items()}
    named(tmp_path / "tts", "ColarLlama", tensors, latent_embedding_std=0.3, latent_intermediate_size=12)
    run = imported(tmp_path / "tts", tmp_path / "runs")
    tokenizer = run.method.backbone.tokenizer
    prompt = run.method.prompt_ids(QUESTION)
    text = f"Question: {QUESTION} Let's think step by step:(Thinking speed: 2)###"
    assert prompt == tokenizer.encode(text, add_special_tokens=False)
    close = tokenizer.encode("###", add_special_tokens=False)
    slow = slow_answer(
        model, prompt, next_embeds=lambda hidden, _: head(hidden) * 0.3, close=close, num_new=8,
        stop=lambda logits, done: done == 5 or (done > 0 and int(logits.argmax()) == close[0]),
        eos=tokenizer.eos_token_id,
    )  # fmt: skip
    assert_same(run, slow, QUESTION, 8, max_latents=5)
    assert run.config.generate.max_latents == 64


def test_a_model_of_rewards_is_of_no_known_format(tmp_path: Path) -> None:
    llama(tmp_path / "rm")
    named(tmp_path / "rm", "RewardModel", {"score.weight": torch.ones(1, 16)})
    with pytest.raises(ValueError, match="of no known format"):
        imported(tmp_path / "rm", tmp_path / "runs")
