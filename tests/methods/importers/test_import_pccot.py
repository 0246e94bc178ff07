"""PCCoT's adapter folders: rows of the table are replaced in the order of their indices; of its latents only the
sequential limit is decoded here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import GPT2LMHeadModel

from tests.methods.importers.release_writers import QUESTION, byte_tokenizer, gpt2
from tests.methods.importers.slow_reference import assert_same, exactly, imported, slow_answer

INDICES = [257, 258, 259, 260, 50]


def written(tmp_path: Path, *, passes: int = 4, indices: list[int] = INDICES) -> GPT2LMHeadModel:
    """An adapter folder of PEFT, and the model that it makes of its base."""
    gpt2(tmp_path / "base")
    base = GPT2LMHeadModel.from_pretrained(tmp_path / "base")
    base.resize_token_embeddings(261, mean_resizing=False)
    torch.manual_seed(6)
    config = LoraConfig(
        r=4, lora_alpha=2, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True, task_type="CAUSAL_LM",
        trainable_token_indices={"wte": indices}, base_model_name_or_path=str(tmp_path / "base"),
    )  # fmt: skip
    model = get_peft_model(base, config).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape) * 0.5
    folder = tmp_path / "pccot"
    model.save_pretrained(folder, save_embedding_layers=False)
    tokenizer = byte_tokenizer()
    tokens = ["<pcot.bot>", "<pcot.eot>", "<pcot.latent>", "[PAD]"]
    tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "pccot-gpt2", "num_iterations": passes}))
    arguments = {"bot_token_id": 257, "eot_token_id": 258, "latent_token_id": 259, "num_latent_tokens": 4}
    (folder / "pccot_args.json").write_text(json.dumps({**arguments, "answer_prompt": "The answer is:"}))
    return model


def run_of(tmp_path: Path, **asked: Any) -> Any:
    return imported(tmp_path / "pccot", tmp_path / "runs", base=tmp_path / "base", **asked)


def test_as_many_passes_as_latents_are_the_sequential_chain(tmp_path: Path) -> None:
    model = written(tmp_path)
    assert len(load_file(tmp_path / "pccot" / "adapter_model.safetensors")) == 17
    run = run_of(tmp_path)
    tokenizer = run.method.backbone.tokenizer
    prompt = [*tokenizer.encode(QUESTION), 257]
    assert run.method.prompt_ids(QUESTION) == prompt
    slow = slow_answer(
        model.merge_and_unload(), prompt, next_embeds=lambda hidden, _: hidden, stop=exactly(4), num_new=8,
        close=[258, *tokenizer.encode("The answer is:")], eos=tokenizer.eos_token_id,
    )  # fmt: skip
    assert_same(run, slow, QUESTION, 8)


def test_rows_are_replaced_in_the_order_of_their_indices(tmp_path: Path) -> None:
    written(tmp_path)
    delta = load_file(tmp_path / "pccot" / "adapter_model.safetensors")[
        "base_model.model.transformer.wte.token_adapter.trainable_tokens_delta"
    ]
    base = load_file(tmp_path / "base" / "model.safetensors")["transformer.wte.weight"]

    def table() -> torch.Tensor:
        weight: torch.Tensor = run_of(tmp_path).method.backbone.model.get_input_embeddings().weight.detach()
        return weight

    assert torch.equal(table()[INDICES], delta)
    others = [row for row in range(257) if row != 50]
    assert torch.equal(table()[others], base[others])
    path = tmp_path / "pccot" / "adapter_config.json"
    config = json.loads(path.read_text())
    config["trainable_token_indices"]["wte"] = INDICES[::-1]
    path.write_text(json.dumps(config))
    assert torch.equal(table()[INDICES[::-1]], delta)
    config["trainable_token_indices"]["wte"] = [257, 258, 260, 49, 50]
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="does not give every row that was added"):
        run_of(tmp_path)
    config["trainable_token_indices"]["wte"] = [257, 258, 259, 260, 260]
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"does not give every row .*, each once"):
        run_of(tmp_path)


@pytest.mark.parametrize("id", [99999, 261, -1])
def test_a_marker_that_is_no_token_is_refused(id: int, tmp_path: Path) -> None:
    written(tmp_path)
    path = tmp_path / "pccot" / "pccot_args.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eot_token_id": id}))
    with pytest.raises(ValueError, match=rf"eot_token_id in .*pccot_args.json is {id}, which is no token"):
        run_of(tmp_path)


def test_fewer_passes_than_latents_are_refused(tmp_path: Path) -> None:
    written(tmp_path, passes=3)
    with pytest.raises(ValueError, match="3 parallel passes over 4 latents, which no method of this latbench decodes"):
        run_of(tmp_path)


def test_an_adapter_of_another_kind_or_with_more_tensors_is_refused(tmp_path: Path) -> None:
    written(tmp_path)
    path, weights = tmp_path / "pccot" / "adapter_config.json", tmp_path / "pccot" / "adapter_model.safetensors"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"use_rslora": True}))
    with pytest.raises(ValueError, match="sets use_rslora; merge the adapter with PEFT first"):
        run_of(tmp_path)
    path.write_text(json.dumps(config))
    save_file(load_file(weights) | {"more": torch.ones(1)}, weights)
    with pytest.raises(ValueError, match="1 tensor is unexpected: more"):
        run_of(tmp_path)


def test_a_base_that_is_not_at_hand_is_named(tmp_path: Path) -> None:
    written(tmp_path)
    path = tmp_path / "pccot" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "nobody/gpt2"}))
    with pytest.raises(ValueError, match="needs nobody/gpt2 as its base: give it with --base ID_OR_PATH"):
        imported(tmp_path / "pccot", tmp_path / "runs")
