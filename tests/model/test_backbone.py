"""Any causal LM behind few calls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, MambaConfig, PreTrainedTokenizerFast

from latbench.config import LoraConfig, ModelConfig
from latbench.model.backbone import Backbone
from latbench.model.batches import IGNORE_INDEX
from latbench.task import Example
from tests.architectures import architecture
from tests.model.test_layout import ANN, word_tokenizer

SHORT = Example(id="s", question="1+1", steps=("<<1+1=2>>",), answer="2")


def fresh(name: str, tokenizer: PreTrainedTokenizerFast, **config: Any) -> Backbone:
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(architecture(name, len(tokenizer)))
    return Backbone(model, tokenizer, ModelConfig(**config), name=name)


def test_hidden_is_what_enters_the_output_embedding(backbone: Backbone) -> None:
    ids = torch.tensor([backbone.prompt("n0 = 3 + 4 ;n0 ?")])
    length = ids.shape[1]
    positions = torch.arange(length)[None]
    causal = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
    out = backbone(backbone.embed(ids), positions, causal, layers=True)
    plain = backbone.model(ids, output_hidden_states=True)
    torch.testing.assert_close(out.hidden, plain.hidden_states[-1])
    torch.testing.assert_close(out.logits, plain.logits)
    assert out.layers is not None
    assert len(out.layers) == 4


def test_logits_at_labels_equal_the_full_pass_of_each_row(backbone: Backbone) -> None:
    batch = backbone.batch_sequences([ANN, SHORT], "steps")
    logits, labels = backbone.logits_at_labels(batch.tokens)
    expected, targets = [], []
    for row in range(2):
        ids = batch.tokens.ids[row, batch.tokens.mask[row]][None]
        here = batch.tokens.labels[row, : ids.shape[1]]
        expected.append(backbone.model(ids).logits[0][here != IGNORE_INDEX])
        targets.append(here[here != IGNORE_INDEX])
    torch.testing.assert_close(logits, torch.cat(expected))
    assert labels.tolist() == torch.cat(targets).tolist()


def test_mix_goes_through_the_embedding_module(backbone: Backbone) -> None:
    ids, weights = torch.tensor([[3, 5], [7, 7]]), torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    mixed = backbone.mix(ids, weights)
    torch.testing.assert_close(
        mixed[0], 0.25 * backbone.embed(ids[0, 0]) + 0.75 * backbone.embed(ids[0, 1]), atol=1e-6, rtol=1e-6
    )
    torch.testing.assert_close(mixed[1], backbone.embed(ids[1, 0]), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["gpt2", "llama", "llama_untied", "gemma3"])
def test_markers_are_added_where_the_tokenizer_has_none(name: str) -> None:
    tokenizer = word_tokenizer(eos_token="<eos>")
    size = len(tokenizer)
    backbone = fresh(name, tokenizer)
    assert backbone.layout.open == (size,)
    assert backbone.layout.close == (size + 1,)
    model = backbone.model
    assert model.get_input_embeddings().weight.shape[0] == size + 2
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert tied == (name != "llama_untied")
    rows = model.get_input_embeddings().weight[[size, size + 1]]
    assert not torch.equal(rows[0], rows[1])
    assert rows.norm(dim=1).max() < model.get_input_embeddings().weight[:size].norm(dim=1).max()


@pytest.mark.parametrize("eos", ["x", [3, None], True])
def test_generation_settings_whose_end_is_no_id_are_refused(eos: Any) -> None:
    tokenizer = word_tokenizer(eos_token="<eos>")
    model = AutoModelForCausalLM.from_config(architecture("llama", len(tokenizer)))
    model.generation_config.eos_token_id = eos
    with pytest.raises(ValueError, match=r"of plain has eos_token_id=.*, which is neither an id nor a list of ids"):
        Backbone(model, tokenizer, ModelConfig(), name="plain")


def test_own_think_tokens_are_used(llama: Backbone) -> None:
    ids = tuple(llama.tokenizer.convert_tokens_to_ids(["<think>", "</think>"]))
    assert (*llama.layout.open, *llama.layout.close) == ids
    assert len(llama.tokenizer) == llama.model.get_input_embeddings().weight.shape[0]


def test_a_plain_model_without_markers_has_an_answer_segment_alone() -> None:
    tokenizer = word_tokenizer(eos_token="<eos>")
    model = AutoModelForCausalLM.from_config(architecture("llama", len(tokenizer)))
    backbone = Backbone(model, tokenizer, ModelConfig(), name="plain", markers=False)
    assert backbone.layout.open == backbone.layout.close == ()
    assert len(tokenizer) == model.get_input_embeddings().weight.shape[0]


def test_adapters_for_another_architecture_are_refused_with_the_layers_there_are() -> None:
    tokenizer = word_tokenizer(eos_token="<eos>")
    with pytest.raises(ValueError, match=r"'q_proj' names no linear layer .*, which has c_attn, c_fc, c_proj"):
        fresh("gpt2", tokenizer, lora=LoraConfig(rank=4, targets=["c_attn", "q_proj"]))


@pytest.mark.parametrize("name", ["gpt2", "llama", "llama_untied"])
def test_lora_trains_adapters_and_added_rows_alone_and_is_saved_merged(name: str, tmp_path: Path) -> None:
    tokenizer = word_tokenizer(eos_token="<eos>")
    backbone = fresh(name, tokenizer, lora=LoraConfig(rank=4, alpha=8))
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    every = torch.arange(len(tokenizer))
    old = backbone.embed(every).detach().clone()
    trainable = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=0.5)
    for _ in range(2):  # the first step moves B alone, whose zeros hide A
        logits, labels = backbone.logits_at_labels(backbone.batch_sequences([ANN, SHORT], "steps").tokens)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, labels).backward()
        optimizer.step()
    moved = {key for key, value in backbone.state_dict().items() if not torch.equal(value, before[key])}
    assert any("lora_A" in key for key in moved)
    assert any("trainable_tokens_delta" in key for key in moved)
    assert all("lora_" in key or "trainable_tokens" in key for key in moved)
    markers = [*backbone.layout.open, *backbone.layout.close]
    different = (backbone.embed(every) != old).any(1).nonzero()[:, 0].tolist()
    assert set(different) <= set(markers)
    assert markers[0] in different

    backbone.eval().save(tmp_path)
    assert (tmp_path / "adapter" / "adapter_config.json").exists()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([backbone.prompt("1+1")])
    torch.testing.assert_close(merged(ids).logits, backbone.model(ids).logits, atol=1e-4, rtol=1e-4)


def test_a_saved_backbone_loads_as_a_plain_model(backbone: Backbone, tmp_path: Path) -> None:
    backbone.save(tmp_path)
    again = Backbone.load(ModelConfig(id=str(tmp_path), dtype="auto"))
    assert again.layout.encode(ANN) == backbone.layout.encode(ANN)
    ids = torch.tensor([backbone.prompt("1+1")])
    torch.testing.assert_close(again.model(ids).logits, backbone.model(ids).logits, atol=1e-5, rtol=1e-4)
    assert again.tokenizer.encode("n0 = 3") == backbone.tokenizer.encode("n0 = 3")
    fresh_weights = Backbone.load(ModelConfig(id=str(tmp_path), weights="random", dtype="float64"))
    assert not torch.allclose(fresh_weights.model(ids).logits, backbone.model(ids).logits)


def test_the_tiny_backbone_is_a_pure_function_of_its_seed() -> None:
    one, same, other = (Backbone.load(ModelConfig(), seed=seed) for seed in (0, 0, 1))
    weights = [b.model.get_input_embeddings().weight for b in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert one.context >= 4096


def test_linear_attention_is_refused() -> None:
    tokenizer = word_tokenizer(eos_token="<eos>")
    model = AutoModelForCausalLM.from_config(MambaConfig(vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1))
    with pytest.raises(ValueError, match="key-value cache"):
        Backbone(model, tokenizer, ModelConfig(), name="mamba")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"device": "cuda:63"}, "model.device"),
        ({"device": "gpu"}, "model.device must be"),
        ({"id": "/nowhere/at/all"}, "model.id '/nowhere/at/all' could not be loaded"),
        ({"chat_template": True}, "model.chat_template"),
    ],
)
def test_bad_settings_are_one_sentence(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        Backbone.load(ModelConfig(**config))
    assert "\n" not in str(error.value)


def test_too_long_examples_say_so(backbone_of: Callable[..., Backbone]) -> None:
    backbone = backbone_of("gpt2")
    assert backbone.too_long(ANN) is None
    assert backbone.too_long(Example(id="x", question="y" * 400, steps=(), answer="1")) == "longer than the context"
