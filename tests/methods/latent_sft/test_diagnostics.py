"""What stage 1 reports about itself, against slow recomputation."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from latbench.method import DIAGNOSTICS, HeldOut, Stage
from latbench.model.backbone import Backbone
from latbench.model.batches import IGNORE_INDEX
from latbench.task import Example, Fingerprint, Score, Task, TaskConfig
from methods.latent_sft import LatentSFT
from methods.latent_sft.diagnostics import ANSWER, diagnose
from methods.latent_sft.method import STAGE2
from methods.latent_sft.sequences import encoder_tokens
from tests.methods.latent_sft.latent_sft_cases import EXAMPLES, built

BackboneOf = Callable[..., Backbone]


class Exact(Task[TaskConfig]):
    """Correct is what equals the gold answer, blanks included."""

    def load(self, split: str) -> list[Example]:
        return EXAMPLES

    def fingerprint(self, split: str) -> Fingerprint:
        return Fingerprint(source="tests", sha256="", num_examples=len(EXAMPLES))

    def score_many(self, pairs: Sequence[tuple[str, Example]]) -> list[Score]:
        return [Score(status="correct" if text == one.answer else "incorrect", extracted=text) for text, one in pairs]


def held_out(examples: Sequence[Example]) -> HeldOut:
    return HeldOut(task=Exact(TaskConfig()), split="validation", examples=examples)


def latents(method: LatentSFT, example: Example) -> torch.Tensor:
    with torch.no_grad():
        return method.latents(
            encoder_tokens([method.backbone.layout.encode(example)], method.config.tokens_per_latent)
        ).embeds


@torch.no_grad()
def answer(method: LatentSFT, example: Example, z: torch.Tensor) -> str:
    """The decoder's greedy answer after these latents, without cache."""
    backbone, layout = method.backbone, method.backbone.layout
    parts = [torch.tensor(method.prompt_ids(example.question)), torch.tensor(layout.close)]
    embeds = torch.cat([backbone.embed(parts[0]), z, backbone.embed(parts[1])])
    ids: list[int] = []
    while len(ids) < ANSWER:
        positions = torch.arange(len(embeds))[None]
        token = int(backbone.causal(embeds[None], positions, select=positions == len(embeds) - 1).logits.argmax())
        if token == layout.eos:
            break
        ids.append(token)
        embeds = torch.cat([embeds, backbone.embed(torch.tensor([token]))])
    return layout.decode(ids)


@pytest.fixture(params=[{}, {"supervision_mask": False}, {"top_k": None, "tokens_per_latent": 5}], ids=str)
def method(request: pytest.FixtureRequest, backbone_of: BackboneOf) -> LatentSFT:
    return built(backbone_of("llama"), **request.param)


def test_losses_by_slot_equal_a_slow_recomputation(method: LatentSFT) -> None:
    found = diagnose(method, held_out(EXAMPLES))
    by_slot: dict[int, list[float]] = {}
    segment: list[float] = []
    final: list[float] = []
    for example in EXAMPLES:
        pieces = method.backbone.layout.encode(example)
        decoder = method.decoder_tokens([pieces])
        with torch.no_grad():
            logits = method.decode_latents(decoder, latents(method, example), select=decoder.mask).log_softmax(-1)
        num_final = len(pieces.close) + len(pieces.answer) + 1
        for position, label in enumerate(decoder.labels[0].tolist()):
            if label != IGNORE_INDEX:
                slot = int(decoder.is_latent[0, : position + 1].sum())
                value = -float(logits[position, label])
                by_slot.setdefault(slot, []).append(value)
                (final if position + 1 >= len(logits) - num_final else segment).append(value)
    assert found.loss_by_slot == pytest.approx([sum(v) / len(v) for _, v in sorted(by_slot.items())], abs=1e-4)
    assert found.segment_loss == pytest.approx(sum(segment) / len(segment), rel=1e-5)
    assert found.final_loss == pytest.approx(sum(final) / len(final), rel=1e-5)


def test_entropy_and_top_weight_are_means_over_latents(method: LatentSFT) -> None:
    found = diagnose(method, held_out(EXAMPLES))
    entropies, tops = [], []
    for example in EXAMPLES:
        pieces = [method.backbone.layout.encode(example)]
        with torch.no_grad():
            weights = method.latents(encoder_tokens(pieces, method.config.tokens_per_latent)).weights
        assert weights is not None
        entropies += [-sum(w * torch.tensor(w).log().item() for w in row if w > 0) for row in weights.tolist()]
        tops += [max(row) for row in weights.tolist()]
    assert found.entropy == pytest.approx(sum(entropies) / len(entropies), rel=1e-4)
    assert found.top1 == pytest.approx(sum(tops) / len(tops), rel=1e-4)


def test_oracles_score_answers_after_the_given_latents(method: LatentSFT) -> None:
    """Gold is what the decoder says after all latents for one half, and after all but the last for one example more."""
    examples = []
    for number, example in enumerate(EXAMPLES):
        z = latents(method, example)
        whole, cut = answer(method, example, z), answer(method, example, z[:-1])
        gold = (whole, whole, cut, "neither")[number]
        examples.append(replace(example, answer=gold, meta={"whole": whole, "cut": cut}))
    found = diagnose(method, held_out(examples))
    assert found.oracle == sum(e.answer == e.meta["whole"] for e in examples) / 4
    assert found.oracle_without_last == sum(e.answer == e.meta["cut"] for e in examples) / 4
    assert found.oracle >= 0.5
    assert found.oracle_without_last >= 0.25


def test_no_latents_at_all_are_no_trouble(backbone_of: BackboneOf) -> None:
    """One segment per chain: without its last latent none is left."""
    found = diagnose(built(backbone_of("llama"), tokens_per_latent=100), held_out(EXAMPLES[:2]))
    assert len(found.loss_by_slot) == 1
    assert 0 <= found.oracle_without_last <= 1


def test_examples_without_a_chain_are_left_out(backbone_of: BackboneOf) -> None:
    method = built(backbone_of("llama"))
    bare = [replace(example, id="bare" + example.id, steps=()) for example in EXAMPLES[:2]]
    assert diagnose(method, held_out([*bare, *EXAMPLES])) == diagnose(method, held_out(EXAMPLES))


def test_examples_longer_than_the_context_are_left_out(backbone_of: BackboneOf) -> None:
    method = built(backbone_of("gpt2"))
    long = replace(EXAMPLES[0], id="long", steps=("<<3+4=7>>",) * 40)
    assert diagnose(method, held_out([long, *EXAMPLES])) == diagnose(method, held_out(EXAMPLES))


def test_nothing_to_look_at_stops_no_training(backbone_of: BackboneOf, tmp_path: Path) -> None:
    method = built(backbone_of("llama"))
    method.held_out = held_out([replace(example, steps=()) for example in EXAMPLES])
    method.prepare(Stage(name=STAGE2), EXAMPLES, tmp_path)


def test_they_are_written_before_stage_2_once(backbone_of: BackboneOf, tmp_path: Path) -> None:
    method = built(backbone_of("llama"))
    method.held_out = held_out(EXAMPLES)
    method.prepare(Stage(name=STAGE2), EXAMPLES, tmp_path)
    written = (tmp_path / DIAGNOSTICS).read_text(encoding="utf-8")
    assert json.loads(written) == asdict(diagnose(method, method.held_out))
    (tmp_path / DIAGNOSTICS).write_text("kept", encoding="utf-8")
    method.prepare(Stage(name=STAGE2), EXAMPLES, tmp_path)
    assert (tmp_path / DIAGNOSTICS).read_text(encoding="utf-8") == "kept"


def test_hidden_latents_have_no_entropy(backbone_of: BackboneOf) -> None:
    found = diagnose(built(backbone_of("llama"), latent_space="hidden", noise=0.0), held_out(EXAMPLES[:2]))
    assert found.entropy is None
    assert found.top1 is None
