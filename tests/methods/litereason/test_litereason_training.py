"""Projector, masked traces and the loss through the frozen model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from latbench.config import LoraConfig
from latbench.decoding.loop import Generation
from latbench.method import HeldOut
from latbench.model.batches import IGNORE_INDEX, pad
from latbench.task import Example, Fingerprint, Score, Task, TaskConfig
from latbench.training import checkpoint
from latbench.training.trainer import set_trainable
from methods.litereason import LiteReason, LiteReasonConfig, traces
from methods.litereason.projector import Projector, fed_with, last_mlp, projected
from methods.litereason.tagged import TaggedBatch
from methods.litereason.traces import TRACES, TraceFile, choosable, masked, num_replaced, sentences
from tests.conftest import CHAINS, make_backbone
from tests.methods.litereason.nudged import method

TEXT = "<<1+2=3>>\n[3]ab[2]\ncd"


# projector


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3"])
def test_blocks_are_copies_of_the_last_mlp(name: str) -> None:
    backbone = make_backbone(name)
    projector = Projector(backbone, 3)
    source = last_mlp(backbone)
    assert source is not None
    for block in projector.blocks:
        assert block.state_dict().keys() == source.state_dict().keys()
        assert all(torch.equal(tensor, source.state_dict()[key]) for key, tensor in block.state_dict().items())
    hidden = torch.randn(4, backbone.hidden_size, dtype=torch.float64)
    torch.testing.assert_close(projector(hidden), source(source(source(hidden))))
    next(iter(projector.blocks[0].parameters())).data.zero_()
    assert next(iter(source.parameters())).any()
    assert next(iter(projector.blocks[1].parameters())).any()


def test_parameters_are_nine_times_hidden_times_inner_size() -> None:
    assert sum(parameter.numel() for parameter in Projector(make_backbone("llama"), 3).parameters()) == 9 * 32 * 48


def test_adapters_are_not_copied_and_weights_are_float32_at_least() -> None:
    model = {"lora": LoraConfig(rank=2), "dtype": torch.bfloat16}
    projector = method(model=model).projector
    assert {parameter.dtype for parameter in projector.parameters()} == {torch.float32}
    assert not [name for name, _ in projector.named_parameters() if "lora" in name]
    assert projector(torch.ones(1, 32, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_a_saved_projector_is_loaded_strictly(tmp_path: Path) -> None:
    model = method(model={"dtype": torch.float32})
    checkpoint.save(model, tmp_path / "run")
    loaded = checkpoint.load(tmp_path / "run", method="litereason")
    assert isinstance(loaded, LiteReason)
    hidden = torch.randn(2, 32)
    assert torch.equal(loaded.projector(hidden), model.projector(hidden))
    with pytest.raises(ValueError, match=r"the settings of method 'litereason' must be those of the run"):
        checkpoint.load_parts(method(blocks=2), tmp_path / "run")


# the loss


def batch_of(model: LiteReason, texts: Sequence[str]) -> TaggedBatch:
    """Prompts and masked traces as they are."""
    examples = [Example(id=str(n), question=f"n{n} = {n}", steps=(text,), answer="7") for n, text in enumerate(texts)]
    return model.trace_batch(examples)


def latents_by_hand(model: LiteReason, batch: TaggedBatch, row: int) -> Tensor:
    """Uncached: for each latent the whole sequence before it once more, with gradients."""
    embeds = model.backbone.embed(batch.sequence.ids[row, : int(batch.sequence.lengths[row])])
    made = []
    for at in batch.is_latent[row].nonzero()[:, 0].tolist():
        positions = torch.arange(at)[None]
        hidden = model.backbone.causal(embeds[None, :at], positions, select=positions == at - 1).hidden
        made.append(model.projector(hidden)[0])
        embeds = torch.cat([embeds[:at], made[-1][None], embeds[at + 1 :]])
    return torch.stack(made)


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen2_sliding"])
@pytest.mark.parametrize("text", ["ab[3]cd", "[1]a[2]b[3]", TEXT])
def test_cached_and_uncached_projector_gradients_agree(name: str, text: str) -> None:
    model = method(name)
    set_trainable(model, model.stages()[-1])
    batch = batch_of(model, [text])
    model.loss(batch, model.stages()[-1]).objective().backward()
    cached = [parameter.grad for parameter in model.projector.parameters()]
    model.zero_grad(set_to_none=True)
    embeds = fed_with(model.backbone.embed(batch.sequence.ids), batch.is_latent, latents_by_hand(model, batch, 0))
    supervised = batch.sequence.labels != IGNORE_INDEX
    logits = model.backbone.causal(embeds, batch.sequence.positions, select=supervised).logits
    torch.nn.functional.cross_entropy(logits, batch.sequence.labels[supervised]).backward()
    for ours, parameter in zip(cached, model.projector.parameters(), strict=True):
        assert ours is not None
        assert parameter.grad is not None
        assert ours.any()
        assert (ours - parameter.grad).norm() < 1e-6 * parameter.grad.norm()  # some norms compute in float32
    assert all(parameter.grad is None for parameter in model.backbone.parameters())


@torch.no_grad()
def test_latents_of_a_padded_batch_are_those_of_its_rows() -> None:
    model = method("qwen3")
    batch = batch_of(model, ["ab[3]cd", TEXT, "[5][5][1]", "a long piece of text before the only tag [2]"])
    together = projected(model.backbone, model.projector, batch.sequence, batch.is_latent)
    alone = [latents_by_hand(model, batch, row) for row in range(4)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-9, atol=1e-10)


def test_a_later_latent_depends_on_an_earlier_one() -> None:
    model = method()
    batch = batch_of(model, ["ab[2]cd[1]"])
    latents = latents_by_hand(model, batch, 0)
    first, second, third = projected(model.backbone, model.projector, batch.sequence, batch.is_latent)
    torch.testing.assert_close(torch.stack([first, second, third]), latents)
    weight = model.projector.blocks[0].get_parameter("up_proj.weight")
    only_last = torch.autograd.grad(third.sum(), weight, retain_graph=True)[0]
    constant = batch.is_latent.nonzero()[:2, 1]
    embeds = model.backbone.embed(batch.sequence.ids).index_put((torch.zeros(2).long(), constant), latents[:2].detach())
    at = int(batch.is_latent.nonzero()[2, 1])
    positions = torch.arange(at)[None]
    hidden = model.backbone.causal(embeds[:, :at], positions, select=positions == at - 1).hidden
    detached = torch.autograd.grad(model.projector(hidden).sum(), weight)[0]
    assert not torch.allclose(only_last, detached)


@torch.no_grad()
def test_without_a_tag_nothing_is_changed() -> None:
    model = method()
    tokens = pad([[5, 6, 7, 8]])
    nothing = torch.zeros_like(tokens.mask)
    assert len(projected(model.backbone, model.projector, tokens, nothing)) == 0
    embeds = model.backbone.embed(tokens.ids)
    assert torch.equal(fed_with(embeds, nothing, embeds.new_zeros(0, 32)), embeds)


# labels


def test_labels_begin_after_the_first_tag_and_keep_the_end_of_sequence() -> None:
    model = method()
    backbone = model.backbone
    assert model.backbone.tokenizer.pad_token_id != backbone.layout.eos
    batch = batch_of(model, ["ab[2]cd[1]ef", "x[1]y"])
    ids, labels = batch.sequence.ids[0].tolist(), batch.sequence.labels[0].tolist()
    num_prompt = len(model.prompt_ids("n0 = 0"))
    first = num_prompt + len("ab[2]")
    assert labels[: first + 1] == [IGNORE_INDEX] * (first + 1)  # the last of it is the first latent's
    expected = [*model.tags.encode("cd[1]"), *model.tags.encode("ef"), *backbone.layout.close, *model.tags.encode("7")]
    assert [label for label in labels if label != IGNORE_INDEX] == [*expected, backbone.layout.eos]
    assert labels[first + 1] == model.tags.encode("c")[0]  # predicted at the last latent
    assert ids[first : first + 2] == [0, 0]
    last = method(loss_from="last")
    found = batch_of(last, ["ab[2]cd[1]ef"]).sequence.labels
    assert int((found != IGNORE_INDEX).sum()) == len("ef") + 1 + 1 + 1
    taught = model.trace_batch([Example(id="0", question="n0 = 0", steps=("ab[2]cd",), answer="7")], teach=True)
    assert int((taught.sequence.labels != IGNORE_INDEX).sum()) == len("ab[2]cd") + 3


def test_eos_stays_a_target_where_it_is_also_the_padding() -> None:
    model = method()
    model.backbone.tokenizer.pad_token = model.backbone.tokenizer.eos_token
    labels = batch_of(model, ["a[1]b", "a[1]bcdefg"]).sequence.labels
    assert (labels == model.backbone.layout.eos).sum(1).tolist() == [1, 1]


# masked traces


@pytest.mark.parametrize(
    ("num", "share", "replaced"),
    [(12, 0.10, 1), (12, 0.25, 3), (3, 0.25, 1), (30, 0.1, 3), (100, 0.29, 29), (2, 1.0, 2)],
)
def test_number_of_replaced_sentences(num: int, share: float, replaced: int) -> None:
    assert num_replaced(num, share) == replaced


@pytest.mark.parametrize(("num_tokens", "budget"), [(4, 1), (5, 1), (9, 1), (10, 2), (24, 4), (25, 5), (60, 5)])
def test_budget_of_a_replaced_sentence(num_tokens: int, budget: int) -> None:
    assert masked(("a" * num_tokens,), 0.1, [0.5], method().tags, 5) == (f"[{budget}]",)


def test_a_sentence_that_occurs_twice_is_replaced_where_it_was_chosen() -> None:
    model = method(spaced=True)
    assert masked(("same", "other", "same"), 0.1, [0.9, 0.5, 0.1], model.tags, 5) == ("same", "other", " [1] ")


def test_sentences_with_a_tag_are_kept() -> None:
    tags = method().tags
    trace = sentences("First. [3] Then this!\nLast one? (Really) ---\n\\boxed", tags)
    assert trace == ("First.", "[3]", "Then this!", "Last one?", "(Really) ---", "\\boxed")
    assert choosable(trace, tags) == [0, 2, 3, 4, 5]
    assert masked(trace, 1.0, [0.5] * 6, tags, 5)[1] == "[3]"
    assert choosable(("[3]", "a[1]"), tags) == []


def test_traces_of_other_lengths_are_drawn_anew_at_each_pass() -> None:
    model = method(replaced=(0.25, 0.75))
    seen = set()
    for epoch in range(8):
        model.epoch = epoch
        found = model.masked_examples(CHAINS)
        assert all(any("[" in step for step in example.steps) for example in found)
        assert [e.steps for e in model.masked_examples(CHAINS[::-1])] == [e.steps for e in found[::-1]]
        seen.add(found[2].steps)
    assert len(seen) > 2
    assert {sum("[" in step for step in steps) for steps in seen} == {1, 3}


def test_a_tag_in_the_question_stays_text() -> None:
    model = method()
    batch = model.trace_batch([Example(id="0", question="see [3]", steps=("a[1]b",), answer="7")])
    assert int(batch.is_latent.sum()) == 1


def test_a_chain_without_a_sentence_to_replace_is_skipped() -> None:
    model, stage = method(), method().stages()[0]
    empty = Example(id="0", question="q", steps=(), answer="1")
    assert model.skip_reason(empty, stage) == "no reasoning step to replace"
    assert model.skip_reason(replace(empty, steps=("a" * 300,)), stage) == "longer than the context"


def test_a_model_without_think_tokens_is_asked_for_tags_once() -> None:
    model = method(model={"layout": "plain_boxed"})
    text = model.backbone.layout.decode(model.prompt_ids("How many?"))
    assert text.startswith("How many?\n\nReason step by step")
    assert text.count("[N]") == 1
    assert model.tags.find(model.prompt_ids("How many?")) == []
    told = method(model={"layout": "plain_boxed"}, ask="")
    assert told.backbone.layout.decode(told.prompt_ids("Write [number] to think.")) == "Write [number] to think."
    pieces = model.pieces(Example(id="0", question="q", steps=("a", "[1]"), answer="7"))
    assert model.backbone.layout.decode([*pieces.steps, *pieces.answer]) == "a\n[1]\n\\boxed{7}"


# own traces


class Lengths(Task[TaskConfig]):
    """An answer of an even number of characters is right."""

    name = "lengths"

    def __init__(self) -> None:
        super().__init__(TaskConfig())

    def load(self, split: str) -> list[Example]:
        return CHAINS

    def fingerprint(self, split: str) -> Fingerprint:
        return Fingerprint(source="lengths", sha256="0" * 64, num_examples=4)

    def score_many(self, pairs: Sequence[tuple[str, Example]]) -> list[Score]:
        return [Score(status="incorrect" if len(text) % 2 else "correct", extracted=text) for text, _ in pairs]


class Writer(LiteReason):
    """Writes what the test wants; the answer's length says whether it is right."""

    calls = 0

    def generate(self, prompts: Any, config: Any, **options: Any) -> list[Generation]:
        self.calls += 1
        assert (config.temperature, config.top_p, config.top_k) == (0.7, 0.8, 20)
        counts: dict[str, Any] = {"num_latents": 0, "num_reasoning_tokens": 3, "decode_steps": 5}
        return [
            Generation(
                text="x" * (int(p.id[1:]) + p.sample), reasoning=f"{p.id} one. Two {p.sample}.", num_answer_tokens=1,
                stop_reason="eos", closed=True, num_prompt_tokens=1, **counts,
            )
            for p in prompts
        ]  # fmt: skip


def writer() -> Writer:
    made = Writer(make_backbone(), LiteReasonConfig(traces="own", samples=3, spaced=False))
    made.held_out = HeldOut(task=Lengths(), split="validation", examples=CHAINS)
    return made


def test_own_traces_are_those_of_right_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "CHUNK", 2)
    model = writer()
    stage = model.stages()[0]
    model.prepare(stage, CHAINS, tmp_path)
    assert model.own is not None
    assert model.own.kept["e3"] == [("e3 one.", "Two 1.")]
    assert model.own.kept["e2"] == [("e2 one.", "Two 0."), ("e2 one.", "Two 2.")]
    batch = model.batch(CHAINS, stage)
    text = model.backbone.layout.decode(batch.sequence.ids[0].tolist())
    assert "[1]" in text
    assert " one." in text or "Two" in text
    before = (tmp_path / TRACES).read_bytes()
    again = writer()
    again.prepare(stage, CHAINS, tmp_path)
    assert again.calls == 0
    assert again.own is not None
    assert again.own.pool == model.own.pool
    lines = before.splitlines(keepends=True)
    (tmp_path / TRACES).write_bytes(b"".join(lines[:4]) + lines[4][:5])  # killed while a chunk was written
    again.prepare(stage, CHAINS, tmp_path)
    assert again.calls == 1
    assert (tmp_path / TRACES).read_bytes() == before
    assert json.loads(lines[0])["samples"] == 3


def test_own_traces_that_cannot_be_had_are_refused(tmp_path: Path) -> None:
    model = writer()
    stage = model.stages()[0]
    never = Lengths()
    never.rewards = lambda pairs: [0.0] * len(pairs)  # type: ignore[method-assign]
    model.held_out = HeldOut(task=never, split="validation", examples=CHAINS)
    with pytest.raises(ValueError, match=r"none of 12 answers to 4 training questions was right .* method.traces=gold"):
        model.prepare(stage, CHAINS, tmp_path)
    other = Writer(make_backbone(), LiteReasonConfig(traces="own", samples=2))
    other.held_out = model.held_out
    with pytest.raises(ValueError, match=r"traces.jsonl holds traces that were drawn with other settings; remove it"):
        other.prepare(stage, CHAINS, tmp_path)
    other.held_out = None
    with pytest.raises(ValueError, match=r"method.traces is own, but no task is at hand"):
        other.prepare(stage, CHAINS, tmp_path)


class Judged(Lengths):
    """Its answers are not what a model should write."""

    answers_teach = False


def test_a_projector_is_not_refreshed_on_answers_that_do_not_teach(tmp_path: Path) -> None:
    model = writer()
    model.held_out = HeldOut(task=Judged(), split="validation", examples=CHAINS)
    with pytest.raises(ValueError, match=r"'lengths' are not what a model should write.*; set method.refresh_every=0"):
        model.prepare(model.rl_stage(), CHAINS, tmp_path)
    model.config = replace(model.config, refresh_every=0)
    model.prepare(model.rl_stage(), CHAINS, tmp_path)


def test_an_example_without_a_right_answer_gives_its_turn_to_one_that_has_a_trace() -> None:
    model = writer()
    model.own = TraceFile(CHAINS, {"e3": [("only", "trace")], "e1": []})
    (owner,) = (example for example in CHAINS if example.id == "e3")
    for example in model.masked_examples(CHAINS):
        assert replace(example, steps=owner.steps) == owner
        assert example.steps in (("[1]", "trace"), ("only", "[1]"))


def test_own_traces_that_do_not_fit_the_context_are_left_out(tmp_path: Path) -> None:
    model = writer()
    model.config = replace(model.config, replaced=(1.0,))
    stage = model.stages()[0]
    (shortest,) = (example for example in CHAINS if example.answer == "7")  # by one character
    num_tokens = len(model.pieces(replace(shortest, steps=(f"{shortest.id} one.", "Two 1."))))
    model.backbone.context = num_tokens + 2 * (model.tags.longest + model.config.max_budget)
    model.prepare(stage, CHAINS, tmp_path)
    assert model.own is not None
    assert list(model.own.kept) == [shortest.id]
    model.backbone.context -= 1
    with pytest.raises(ValueError, match=r"was right and had reasoning that fits the context"):
        model.prepare(stage, CHAINS, tmp_path)
