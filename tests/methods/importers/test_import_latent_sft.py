"""Merged folders of Latent-SFT: markers of several ids, no token added, and a superposition whose size is in a name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from latbench.runs.importing import plan_import
from tests.methods.importers.release_writers import QUESTION, TEMPLATE, llama, shard
from tests.methods.importers.slow_reference import assert_same, imported, slow_answer

NAME = "LLaMA-tiny-Latent-SFT-Top3"


def run_of(tmp_path: Path, name: str = NAME, **asked: Any) -> Any:
    return imported(tmp_path / name, tmp_path / "runs", **{"generate__temperature": 0.0, **asked})


def slow_superposition(model: Any, tokenizer: Any, prompt: list[int], num_cap: int, k: int = 3) -> Any:
    close = tokenizer.encode("</think>", add_special_tokens=False)
    table = model.get_input_embeddings().weight

    def mix(_: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        scores, ids = logits.topk(k)
        mixed: torch.Tensor = scores.softmax(-1) @ table[ids]
        return mixed

    return slow_answer(
        model,
        prompt,
        next_embeds=mix,
        stop=lambda logits, done: done == num_cap or int(logits.argmax()) == close[0],
        close=close,
        eos=tokenizer.eos_token_id,
        num_new=8,
    )


def test_the_latent_loop_is_the_authors(tmp_path: Path) -> None:
    model = llama(tmp_path / NAME, rows=300)
    run = run_of(tmp_path)
    tokenizer = run.method.backbone.tokenizer
    text = (
        "<|start_header_id|>user<|end_header_id|>\n\nPlease reason step by step, and put your final answer within "
        f"\\boxed{{}}.\n{QUESTION}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    prompt = tokenizer.encode(text, add_special_tokens=False) + tokenizer.encode("<think>", add_special_tokens=False)
    assert run.method.prompt_ids(QUESTION) == prompt
    assert len(run.method.backbone.layout.open) == len("<think>")
    assert_same(run, slow_superposition(model, tokenizer, prompt, 5), QUESTION, 8, max_latents=5)
    assert run.method.config.top_k == 3
    assert run.method.backbone.model.get_input_embeddings().weight.shape[0] == 300
    assert len(tokenizer) == 260


def test_the_first_id_of_the_close_marker_ends_the_thought(tmp_path: Path) -> None:
    model = llama(tmp_path / NAME)
    run = run_of(tmp_path)
    tokenizer = run.method.backbone.tokenizer
    prompt = run.method.prompt_ids(QUESTION)
    slow = slow_superposition(model, tokenizer, prompt, 4)
    with torch.no_grad():  # after three latents `<` is the likeliest by far
        table = model.get_input_embeddings().weight
        row = tokenizer.encode("<", add_special_tokens=False)[0]
        hidden = model.model(inputs_embeds=torch.cat([table[torch.tensor(prompt)], slow.latents[:3]])[None])
        table[row] = 3 * hidden.last_hidden_state[0, -1]
    model.save_pretrained(tmp_path / NAME)
    run = run_of(tmp_path)
    slow = slow_superposition(model, tokenizer, run.method.prompt_ids(QUESTION), 9)
    answer = assert_same(run, slow, QUESTION, 8, max_latents=9)
    assert answer.num_latents < 9


def test_the_other_evaluator_and_our_own_layout_are_cells_of_their_own(tmp_path: Path) -> None:
    llama(tmp_path / NAME)
    own = run_of(tmp_path)
    boxed = run_of(tmp_path, model__layout="boxed", model__chat_template=True)
    ours = run_of(tmp_path, model__layout="default", model__chat_template=True)
    assert len({own.config.setting, boxed.config.setting, ours.config.setting}) == 3
    decode = own.method.backbone.tokenizer.decode
    question = f"Please reason step by step, and put your final answer within \\boxed{{}}.\n{QUESTION}"
    header = "<|start_header_id|>user<|end_header_id|>"
    reply = "<|eot_id|><|start_header_id|>assistant<|end_header_id|><think>"
    assert decode(boxed.method.prompt_ids(QUESTION)) == f"{header}{question}{reply}"
    assert decode(ours.method.prompt_ids(QUESTION)) == f"{header}{QUESTION}{reply}"
    assert own.method.backbone.tokenizer.chat_template == TEMPLATE


def test_an_untied_model_of_qwen_keeps_its_head_and_shards_are_joined(tmp_path: Path) -> None:
    name = "Qwen2.5-tiny-Latent-GRPO-4k-Top3"
    from transformers import Qwen2Config, Qwen2ForCausalLM

    llama(tmp_path / name)
    torch.manual_seed(5)
    config = Qwen2Config(vocab_size=300, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                         num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=False)  # fmt: skip
    model = Qwen2ForCausalLM(config).eval()
    model.save_pretrained(tmp_path / name)
    (tmp_path / name / "model.safetensors").unlink()
    shard(model.state_dict(), tmp_path / name, 3)
    run = run_of(tmp_path, name)
    prompt = run.method.prompt_ids(QUESTION)
    assert run.config.task_name == "math500"
    assert run.method.backbone.tokenizer.decode(prompt).startswith("<|start_header_id|>system<|end_header_id|>Please")
    assert_same(run, slow_superposition(model, run.method.backbone.tokenizer, prompt, 5), QUESTION, 8, max_latents=5)
    assert len(run.report["imported"]["files"]) == 9

    (tmp_path / name / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lacks 1 of 3 shards \(model-00002-of-00003.safetensors\)"):
        run_of(tmp_path, name)


def test_a_folder_whose_name_says_nothing_needs_format_and_size(tmp_path: Path) -> None:
    llama(tmp_path / "some-llama")
    with pytest.raises(
        ValueError, match=r"no known format; choose one with --format. Looked for .*latent_sft: a folder"
    ):
        run_of(tmp_path, "some-llama")
    with pytest.raises(ValueError, match=r"does not store method.top_k"):
        run_of(tmp_path, "some-llama", format="latent_sft")
    run = run_of(tmp_path, "some-llama", format="latent_sft", method__top_k=7)
    assert run.method.config.top_k == 7


def test_the_last_number_of_a_name_is_the_size_of_the_superposition(tmp_path: Path) -> None:
    llama(tmp_path / "Laptop4-Latent-SFT-Top3")
    assert run_of(tmp_path, "Laptop4-Latent-SFT-Top3").method.config.top_k == 3


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("imported__lora_alpha", 4.0, r"imported.lora_alpha is nothing that the format latent_sft leaves open"),
        ("imported__first_added_id", 4, r"imported.first_added_id is nothing that the format latent_sft leaves open"),
        ("model__id", "some/other", r"model.id cannot be set: it follows from SOURCE"),
        ("model__weights", "random", r"model.weights cannot be set: it follows from SOURCE"),
    ],
)
def test_what_would_change_the_name_and_not_the_weights_is_refused(
    key: str, value: Any, sentence: str, tmp_path: Path
) -> None:
    llama(tmp_path / NAME)
    with pytest.raises(ValueError, match=sentence):
        run_of(tmp_path, **{key: value})
    assert not (tmp_path / "runs").exists()


def test_an_index_that_names_no_weights_is_refused(tmp_path: Path) -> None:
    llama(tmp_path / NAME)
    index = tmp_path / NAME / "model.safetensors.index.json"
    for text, reason in (("[]", "holds no JSON object"), ('{"weight_map": [1]}', "names no weights"), ("", "read")):
        index.write_text(text)
        with pytest.raises(ValueError, match=f"index.json .*{reason}"):
            run_of(tmp_path)


def test_architectures_that_are_no_list_of_names_are_refused(tmp_path: Path) -> None:
    llama(tmp_path / NAME)
    path = tmp_path / NAME / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": 5}))
    with pytest.raises(ValueError, match="has architectures=5, which is no list of names"):
        run_of(tmp_path)


@pytest.mark.parametrize(
    ("eos", "reason"),
    [
        ("x", "eos_token_id='x', which is neither an id nor a list of ids"),
        ([0, "1"], r"eos_token_id=\[0, '1'\], which is neither an id nor a list of ids"),
        (260, "eos_token_id=260, but its embedding has 260 rows"),
        ([0, -1], "eos_token_id=-1, but its embedding has 260 rows"),
    ],
)
def test_an_end_of_answers_that_is_no_row_is_refused_before_anything_is_written(
    eos: Any, reason: str, tmp_path: Path
) -> None:
    llama(tmp_path / NAME)
    (tmp_path / NAME / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
    with pytest.raises(ValueError, match=reason):
        run_of(tmp_path)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "damage", [{"hidden_act": "gleu"}, {"num_attention_heads": 0}, {"hidden_size": "16"}, {"vocab_size": None}]
)
def test_a_configuration_that_describes_no_model_is_refused(damage: dict[str, Any], tmp_path: Path) -> None:
    llama(tmp_path / NAME)
    path = tmp_path / NAME / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    with pytest.raises(ValueError, match=r"configuration of .* cannot be read") as caught:
        run_of(tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_does_not_fit_its_configuration_is_refused(tmp_path: Path) -> None:
    llama(tmp_path / NAME)
    path = tmp_path / NAME / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ValueError, match=r"9 tensors are missing: model.layers.2.*, .* and 4 more"):
        run_of(tmp_path)
    path.write_text(json.dumps(config | {"num_hidden_layers": 10**9}))
    with pytest.raises(ValueError, match="num_hidden_layers=1000000000, more than"):
        run_of(tmp_path)
    path.write_text(json.dumps(config | {"vocab_size": 261}))
    with pytest.raises(ValueError, match=r"embed_tokens.weight \(\[260, 16\] instead of \[261, 16\]\)"):
        run_of(tmp_path)


def test_a_tokenizer_with_more_ids_than_rows_is_refused(tmp_path: Path) -> None:
    llama(tmp_path / NAME, rows=258, eos_token_id=0)
    with pytest.raises(ValueError, match="ids up to 259, but its embedding has 258 rows"):
        run_of(tmp_path)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_weights_keep_their_precision(dtype: str, tmp_path: Path) -> None:
    model = llama(tmp_path / NAME)
    model.to(getattr(torch, dtype)).save_pretrained(tmp_path / NAME)
    run = run_of(tmp_path)
    assert run.config.model.dtype == dtype
    assert all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(run.method.backbone.model.parameters(), model.parameters(), strict=True)
    )


def test_something_that_is_no_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither a file, nor a folder, nor a Hugging Face id"):
        plan_import("no such/thing here")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no files of weights \(looked for \*.safetensors"):
        plan_import(str(tmp_path / "empty"))
    with pytest.raises(ValueError, match="not to be had from the Hub or its cache"):
        plan_import("nobody/nothing-at-all")
    llama(tmp_path / NAME)
    with pytest.raises(ValueError, match="unknown format 'cody'; did you mean 'codi'"):
        plan_import(str(tmp_path / NAME), format="cody")
    with pytest.raises(ValueError, match="takes no base model"):
        plan_import(str(tmp_path / NAME), base="gpt2")
