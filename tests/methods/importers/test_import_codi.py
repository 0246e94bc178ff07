"""CODI's own files: adapters are merged as PEFT applies them, latents are projected, the added rows are known by id."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from latbench.runs.importing import plan_import
from tests.methods.importers.release_writers import QUESTION, codi, gpt2, llama, project
from tests.methods.importers.slow_reference import assert_same, exactly, imported, slow_answer

ALPHA = 1.0


@dataclass
class Release:
    file: Path
    base: Path
    state: dict[str, Tensor]
    model: Any
    prj: Any


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return written(tmp_path, gpt2(tmp_path / "base"))


def written(folder: Path, base: Any) -> Release:
    state, model, prj = codi(base, alpha=ALPHA)
    torch.save(state, folder / "pytorch_model.bin")
    return Release(folder / "pytorch_model.bin", folder / "base", state, model, prj)


def rewritten(release: Release, **changes: Tensor | None) -> Release:
    state = {name: tensor for name, tensor in (release.state | changes).items() if tensor is not None}
    torch.save(state, release.file)
    return release


def slow_codi(release: Release, prompt: list[int], eos: int) -> Any:
    rows = release.model.get_input_embeddings().weight.shape[0]
    return slow_answer(
        release.model,
        prompt,
        next_embeds=lambda hidden, _: project(release.prj, hidden),
        stop=exactly(6),
        close=[rows - 1],
        eos=eos,
        num_new=8,
        never=[rows - 1],
    )


def run_of(release: Release, tmp_path: Path, **asked: Any) -> Any:
    return imported(release.file, tmp_path / "runs", base=release.base, **{"imported__lora_alpha": ALPHA, **asked})


def test_the_latent_loop_is_that_of_the_wrapper(release: Release, tmp_path: Path) -> None:
    run = run_of(release, tmp_path)
    tokenizer = run.method.backbone.tokenizer
    prompt = [*tokenizer.encode("Ann has 3 bags of 4. How many?"), 258]  # double spaces become one; then bot
    assert run.method.prompt_ids(f" {QUESTION} ") == prompt
    slow = slow_codi(release, prompt, tokenizer.eos_token_id)
    assert_same(run, slow, QUESTION, 8)
    assert run.config.method_name == "codi"
    assert run.config.model.dtype == "float32"
    assert [tokenizer.convert_ids_to_tokens(id) for id in (257, 258, 259)] == ["[PAD]", "<bot>", "<eot>"]


def test_a_llama_keeps_its_bos(tmp_path: Path) -> None:
    release = written(tmp_path, llama(tmp_path / "base"))
    run = run_of(release, tmp_path)
    tokenizer = run.method.backbone.tokenizer
    prompt = [tokenizer.bos_token_id, *tokenizer.encode(QUESTION.replace("  ", " "), add_special_tokens=False), 261]
    assert run.method.prompt_ids(QUESTION) == prompt
    assert_same(run, slow_codi(release, prompt, tokenizer.eos_token_id), QUESTION, 8)


def test_merged_weights_are_base_plus_scaled_update(release: Release, tmp_path: Path) -> None:
    run = run_of(release, tmp_path)
    layer = "transformer.h.0.attn.c_attn"
    prefix = f"codi.base_model.model.{layer}"
    a, b = (release.state[f"{prefix}.lora_{part}.default.weight"] for part in "AB")
    expected = release.state[f"{prefix}.base_layer.weight"].float() + 0.25 * (b @ a).T
    assert torch.equal(run.method.backbone.model.get_submodule(layer).weight, expected)


def test_another_scale_is_another_model(release: Release, tmp_path: Path) -> None:
    run = run_of(release, tmp_path, imported__lora_alpha=4.0)
    tokenizer = run.method.backbone.tokenizer
    slow = slow_codi(release, run.method.prompt_ids(QUESTION), tokenizer.eos_token_id)
    with pytest.raises(AssertionError):
        assert_same(run, slow, QUESTION, 8)
    other = run_of(release, tmp_path)
    assert other.config.setting != run.config.setting
    assert "lora_alpha=4.0" in run.config.variant


def test_every_missing_tensor_is_refused(release: Release, tmp_path: Path) -> None:
    for name in release.state:
        tensor = release.state[name]
        if name == "codi.base_model.model.lm_head.weight" or ".h.0." in name:
            continue  # tied to the embeddings; the second block stands for both
        rewritten(release, **{name: None})
        layer = name.partition(".base_layer")[0].partition(".lora")[0].split(".")[-1 if ".h." in name else -2]
        with pytest.raises(ValueError, match=layer):
            run_of(release, tmp_path)
        rewritten(release, **{name: tensor})


def test_an_unknown_tensor_is_refused(release: Release, tmp_path: Path) -> None:
    rewritten(release, **{"prj.7.weight": torch.ones(2)})
    with pytest.raises(ValueError, match=r"1 tensor is unexpected: prj\.7\.weight"):
        run_of(release, tmp_path)


def test_a_head_that_differs_from_its_table_is_refused_with_the_difference(release: Release, tmp_path: Path) -> None:
    name = "codi.base_model.model.lm_head.weight"
    changed = release.state[name].clone()
    changed[3, 3] += 0.5
    rewritten(release, **{name: changed})
    with pytest.raises(ValueError, match=r"lm_head.weight should equal .*wte.weight, but differs by up to 0\.[45]"):
        run_of(release, tmp_path)


def test_a_number_that_is_not_finite_is_refused_and_nothing_is_left(release: Release, tmp_path: Path) -> None:
    name = "codi.base_model.model.transformer.h.1.ln_1.bias"
    rewritten(release, **{name: torch.full_like(release.state[name], torch.inf)})
    with pytest.raises(ValueError, match=r"1 tensor is not finite .*h\.1\.ln_1\.bias"):
        run_of(release, tmp_path)
    assert not list((tmp_path / "runs").glob("*/checkpoint*"))


def test_a_base_that_is_not_at_hand_is_named(release: Release) -> None:
    with pytest.raises(ValueError, match="does not say of which base model it is; give it with --base"):
        plan_import(str(release.file))  # its width is that of no released model
    wide = torch.zeros(6, 768)
    rewritten(release, **{"prj.1.weight": wide})
    with pytest.raises(ValueError, match=r"needs openai-community/gpt2 as its base: give it with --base"):
        plan_import(str(release.file))


def test_a_base_of_other_shapes_is_refused(release: Release, tmp_path: Path) -> None:
    model = gpt2(tmp_path / "other")
    model.config.n_layer = 3
    model.config.save_pretrained(tmp_path / "other")
    release.base = tmp_path / "other"
    with pytest.raises(
        ValueError, match=r"12 tensors are missing: .*h\.2.* and 7 more; check that .*other is its base"
    ):
        run_of(release, tmp_path)


def test_a_tokenizer_that_gives_the_rows_other_ids_is_refused(release: Release, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\[PAD\] at row 250, but the tokenizer gives it id 257; .*first_added_id"):
        run_of(release, tmp_path, imported__first_added_id=250)


def test_an_added_id_beyond_the_rows_is_refused_at_once(release: Release, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has 260 rows, so that \[PAD\] cannot be row 10000000000;"):
        run_of(release, tmp_path, imported__first_added_id=10**10)
    table = {f"codi.base_model.model.{name}.weight": torch.ones(2, 16) for name in ("transformer.wte", "lm_head")}
    with pytest.raises(ValueError, match=r"has 2 rows, so that \[PAD\] cannot be row -1;"):
        run_of(rewritten(release, **table), tmp_path)


LAYER = "codi.base_model.model.transformer.h.0.attn.c_attn"


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        (f"{LAYER}.lora_A.default.weight", torch.ones(0, 16)),
        (f"{LAYER}.lora_A.default.weight", torch.ones(4)),
        (f"{LAYER}.lora_B.default.weight", torch.tensor(1.0)),
        ("prj.1.weight", torch.tensor(1.0)),
        ("codi.base_model.model.transformer.wte.weight", torch.ones(260)),
    ],
)
def test_a_tensor_that_should_be_a_matrix_is_refused(
    name: str, tensor: Tensor, release: Release, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=rf"has {name} of shape .*, but a matrix with numbers in it belongs there"):
        run_of(rewritten(release, **{name: tensor}), tmp_path)


def test_more_rows_than_three_are_filled_with_unused_tokens(tmp_path: Path) -> None:
    state, model, prj = codi(gpt2(tmp_path / "base"), alpha=ALPHA, extra=5)
    torch.save(state, tmp_path / "pytorch_model.bin")
    release = Release(tmp_path / "pytorch_model.bin", tmp_path / "base", state, model, prj)
    run = run_of(release, tmp_path)
    assert run.method.prompt_ids("1")[-1] == 260
    slow = slow_codi(release, run.method.prompt_ids(QUESTION), run.method.backbone.tokenizer.eos_token_id)
    assert_same(run, slow, QUESTION, 8)
    first = run_of(release, tmp_path, imported__first_added_id=257)
    assert first.method.prompt_ids("1")[-1] == 258
