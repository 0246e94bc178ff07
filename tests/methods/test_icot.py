"""`icot`: the removal schedule, its smoothing, what is left of a sequence, and that every stage trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from latbench.config import GenerateConfig, ModelConfig, TrainConfig, parse, tree
from latbench.decoding.sampling import Sampling, row_keys
from latbench.evaluation.evaluate import evaluate
from latbench.evaluation.job import EvalJob
from latbench.evaluation.records import read_evaluation
from latbench.method import Stage
from latbench.model.backbone import Backbone
from latbench.model.batches import IGNORE_INDEX, sequence_batch
from latbench.model.layout import Pieces
from latbench.runs.train import train
from latbench.task import Example
from latbench.training.trainer import train_method
from methods.cot import Cot, CotConfig
from methods.icot import NUM_OFFSETS, Icot, IcotConfig, removal_offsets, without_tokens
from tests.conftest import CHAINS, make_backbone, small_model

BackboneOf = Callable[..., Backbone]
EXAMPLES = CHAINS
# q q | c1 c2 c3 | close | a a EOS
PIECES = Pieces(prompt=(11, 12), steps=(31, 32, 33), close=(21,), answer=(41, 42), eos=2)


def at(s: int) -> Stage:
    return Stage(name=f"remove{s}", index=s)


# schedule


def test_stages_remove_one_token_more_each_and_then_all() -> None:
    stages = Icot(make_backbone("gpt2"), IcotConfig()).stages()
    assert [stage.index for stage in stages] == list(range(40))
    assert [stage.name for stage in stages] == [*(f"remove{s}" for s in range(39)), "final"]
    assert sum(stage.share for stage in stages) == pytest.approx(1)


def test_fewer_stages_remove_several_tokens_at_once() -> None:
    config = IcotConfig(max_removed=10, tokens_per_stage=4, removal_share=0.6)
    stages = Icot(make_backbone("gpt2"), config).stages()
    assert [(stage.name, stage.index) for stage in stages] == [
        ("remove0", 0), ("remove4", 4), ("remove8", 8), ("final", 10),
    ]  # fmt: skip
    assert [stage.share for stage in stages] == pytest.approx([0.2, 0.2, 0.2, 0.4])


@pytest.mark.parametrize("preset", [name for name in tree.presets("icot") if name != "tiny"])
def test_paper_presets_remove_8_tokens_an_epoch_up_to_39(preset: str) -> None:
    config = parse({"method": "icot"}, preset=preset)
    stages = Icot(make_backbone("gpt2"), config.method).stages()
    lengths = [stage.share * config.train.epochs for stage in stages]
    assert [stage.index for stage in stages] == list(range(40))
    assert lengths[:-1] == pytest.approx([1 / 8] * 39)
    assert lengths[-1] == pytest.approx(config.train.epochs - 39 / 8)


def test_mistral_keeps_each_count_for_3013_batches_of_16() -> None:
    """385,620 rows in batches of 16 are B = 24,102; round(B / 8) = 3,013 batches, in optimiser steps of two."""
    config = parse({"method": "icot"}, preset="mistral7b-gsm8k")
    share = Icot(make_backbone("gpt2"), config.method).stages()[0].share
    num_batches = 385_620 / config.train.batch_size * config.train.epochs * share
    assert config.train.batch_size * config.train.accumulation == 32
    assert round(num_batches) == 3013


def test_the_optimiser_is_new_in_every_stage(
    backbone_of: BackboneOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    created = torch.optim.AdamW.__init__

    def counting(self: Any, *args: Any, **kwargs: Any) -> None:
        made.append(1)
        created(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "__init__", counting)
    method = Icot(backbone_of("gpt2", dtype=torch.float32), IcotConfig(max_removed=3))
    train_method(method, EXAMPLES, TrainConfig(epochs=8, batch_size=4), folder=tmp_path, seed=0)
    assert len(made) == len(method.stages()) == 4


# smoothing


def test_offsets_have_the_published_probabilities() -> None:
    """P(0) = 0.98168, P(1) = 0.01798, P(2) = 0.00033 for lambda = 4, within four standard errors."""
    keys = row_keys(0, [str(i) for i in range(200_000)], [0] * 200_000)
    offsets = removal_offsets(keys, 4.0)
    found = [float((offsets == o).double().mean()) for o in range(3)]
    for probability, expected in zip(found, (0.98168, 0.01798, 0.00033), strict=True):
        assert probability == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 200_000) ** 0.5)


def test_a_draw_is_the_inverse_of_the_cumulative_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    lam = 0.7
    weights = torch.tensor([(1 - torch.e**-lam) * torch.e ** (-lam * o) for o in range(NUM_OFFSETS)]).double()
    weights[-1] += 1 - weights.sum()
    tails = weights.flip(0).cumsum(0).flip(0)  # P(o >= k)
    for k in (0, 1, 2, 7):
        for u, expected in ((tails[k] * (1 - 1e-5), k), (tails[k] * (1 + 1e-5), k - 1)):
            monkeypatch.setattr("methods.icot.uniform", lambda keys, steps, u=u: u[None].clamp(max=1))
            assert removal_offsets(torch.zeros(1, dtype=torch.long), lam).item() == max(expected, 0)
    monkeypatch.setattr("methods.icot.uniform", lambda keys, steps: torch.tensor([1e-300]).double())
    assert removal_offsets(torch.zeros(1, dtype=torch.long), lam).item() == NUM_OFFSETS - 1


def test_infinite_lambda_draws_nothing_but_zero() -> None:
    keys = row_keys(0, [str(i) for i in range(1000)], [0] * 1000)
    assert not removal_offsets(keys, inf).any()


def test_draws_are_keyed_by_seed_epoch_and_example_alone(backbone_of: BackboneOf) -> None:
    method = Icot(backbone_of("gpt2"), IcotConfig(smoothing=0.3))

    def lengths(examples: list[Example], seed: int = 0, epoch: int = 0) -> dict[str, int]:
        method.seed, method.epoch = seed, epoch
        tokens = method.batch(examples, at(0)).tokens
        return {example.id: int(length) for example, length in zip(examples, tokens.lengths, strict=True)}

    examples = [replace(EXAMPLES[2], id=f"x{i}") for i in range(20)]
    usual = lengths(examples)
    assert lengths(examples[::-1]) == usual
    assert {key: value for e in examples for key, value in lengths([e]).items()} == usual
    assert lengths(examples, seed=1) != usual != lengths(examples, epoch=1)
    assert len(set(usual.values())) > 3


# removal


@pytest.mark.parametrize(
    ("num_removed", "side", "ids", "labels"),
    [
        (0, "left", "11 12 31 32 33 21 41 42 2", "- 31 32 33 21 41 42 2"),
        (2, "left", "11 12 33 21 41 42 2", "- 33 21 41 42 2"),
        (2, "right", "11 12 31 21 41 42 2", "- 31 21 41 42 2"),
        (3, "left", "11 12 21 41 42 2", "- 21 41 42 2"),
        (9, "left", "11 12 21 41 42 2", "- 21 41 42 2"),
        (9, "right", "11 12 21 41 42 2", "- 21 41 42 2"),
    ],
)
def test_tokens_go_from_the_chain_and_the_close_marker_stays_supervised(
    num_removed: int, side: Any, ids: str, labels: str
) -> None:
    tokens = sequence_batch([without_tokens(PIECES, num_removed, side)], supervise="steps").tokens
    expected = [IGNORE_INDEX if word == "-" else int(word) for word in labels.split()]
    assert tokens.ids[0].tolist() == [int(word) for word in ids.split()]
    assert tokens.labels[0].tolist() == [*expected, IGNORE_INDEX]
    assert tokens.positions[0].tolist() == list(range(len(ids.split())))


@pytest.mark.parametrize("layout", ["default", "plain_hash_answer"])
def test_a_stage_removes_s_tokens_and_the_final_one_every_chain(backbone_of: BackboneOf, layout: str) -> None:
    backbone = backbone_of("gpt2", layout=layout)
    method = Icot(backbone, IcotConfig(max_removed=6, smoothing=None))
    for s in (0, 1, 5, 6):
        batch = method.batch(EXAMPLES, at(s))
        for example, row, length in zip(EXAMPLES, batch.tokens.ids, batch.tokens.lengths, strict=True):
            whole = backbone.layout.encode(example)
            rest = () if s == 6 else whole.steps[s:]
            expected = [*whole.prompt, *rest, *whole.close, *whole.answer, whole.eos]
            assert row[:length].tolist() == expected
        assert batch.num_items == {"ce": int((batch.tokens.labels != IGNORE_INDEX).sum())}


def test_smoothing_removes_more_tokens_than_the_stage_says(backbone_of: BackboneOf) -> None:
    backbone = backbone_of("gpt2")
    method = Icot(backbone, IcotConfig(smoothing=0.2))
    keys = row_keys(0, [example.id for example in EXAMPLES], [0] * len(EXAMPLES))
    lengths = method.batch(EXAMPLES, at(2)).tokens.lengths
    for example, offset, length in zip(EXAMPLES, removal_offsets(keys, 0.2), lengths, strict=True):
        whole = backbone.layout.encode(example)
        assert int(length) == len(whole) - min(2 + int(offset), len(whole.steps))


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2"])
def test_loss_equals_a_slow_loop_over_single_rows(backbone_of: BackboneOf, name: str) -> None:
    backbone = backbone_of(name)
    method = Icot(backbone, IcotConfig(smoothing=None))
    total = torch.zeros((), dtype=torch.float64)
    for example in EXAMPLES:
        whole = backbone.layout.encode(example)
        target = [*whole.steps[4:], *whole.close, *whole.answer, whole.eos]
        for end, label in enumerate(target):  # no cache, no padding, one token at a time
            ids = torch.tensor([[*whole.prompt, *target[:end]]])
            logits: Tensor = backbone.model(input_ids=ids).logits[0, -1]
            total = total + cross_entropy(logits, torch.tensor(label))
    term = method(method.batch(EXAMPLES, at(4)), at(4))["ce"]
    torch.testing.assert_close(term.total, total, rtol=0, atol=1e-10)


def test_nothing_removed_is_cot(backbone_of: BackboneOf) -> None:
    backbone = backbone_of("llama")
    cot, icot = Cot(backbone, CotConfig()), Icot(backbone, IcotConfig(smoothing=None))
    ours, theirs = icot.batch(EXAMPLES, at(0)).tokens, cot.batch(EXAMPLES, at(0)).tokens
    assert torch.equal(ours.ids, theirs.ids)
    assert torch.equal(ours.labels, theirs.labels)


def test_long_sequences_are_skipped_in_every_stage(backbone_of: BackboneOf) -> None:
    backbone = backbone_of("gpt2")  # context 256
    long = replace(EXAMPLES[0], steps=("<<3+4=7>>",) * 40)
    length = len(backbone.layout.encode(EXAMPLES[0]))
    for stage in (at(0), at(39)):
        assert Icot(backbone, IcotConfig()).skip_reason(long, stage) == "longer than the context"
        limited = Icot(backbone, IcotConfig(max_tokens=length - 1))
        assert limited.skip_reason(EXAMPLES[0], stage) == "longer than method.max_tokens"
        assert Icot(backbone, IcotConfig(max_tokens=length)).skip_reason(EXAMPLES[0], stage) is None


@pytest.mark.parametrize("bad", [{"removal_share": 1.0}, {"max_removed": 0}, {"smoothing": 0}, {"side": "middle"}])
def test_bad_settings_are_refused_by_name(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"method.{next(iter(bad))}"):
        parse({"method": {"name": "icot", **bad}})


# decoding


@pytest.mark.parametrize(("chain", "reasoning"), [("", ""), ("<<3*4=12>>\n<<12-2=10>>", "<<3*4=12>>\n<<12-2=10>>")])
def test_length_is_what_is_written_before_the_close_marker(
    backbone_of: BackboneOf, monkeypatch: pytest.MonkeyPatch, chain: str, reasoning: str
) -> None:
    backbone = backbone_of("llama")
    layout = backbone.layout
    chain_ids = backbone.tokenizer.encode(chain, add_special_tokens=False)
    script = [*chain_ids, *layout.close, *backbone.tokenizer.encode("10", add_special_tokens=False), layout.eos]
    told = torch.tensor(script)
    monkeypatch.setattr(Sampling, "choose", lambda self, logits, keys, steps: told[steps])
    (found,) = Icot(backbone, IcotConfig()).generate(["n0 = 3"], GenerateConfig(max_new_tokens=64))
    assert (found.text, found.reasoning, found.stop_reason) == ("10", reasoning, "eos")
    assert (found.num_latents, found.num_reasoning_tokens, found.num_answer_tokens) == (0, len(chain_ids), 2)


# presets

ARCHITECTURE = {"mistral": "mistral_sliding", "gpt2": "gpt2", "codi": "llama"}
STEPS = 2


@pytest.mark.parametrize("preset", tree.presets("icot"))
def test_every_stage_of_a_preset_trains_and_the_run_answers(preset: str, tmp_path: Path) -> None:
    """With a tiny model of its architecture; the 40 stages of the papers' presets shrink to four."""
    name = None
    if preset != "tiny":
        name = next(found for start, found in ARCHITECTURE.items() if preset.startswith(start))
    usual = tree.preset("icot", preset)
    schedule = usual["method"] | ({} if preset == "tiny" else {"max_removed": 3})
    numbers = range(0, schedule["max_removed"], schedule.get("tokens_per_stage", 1))
    stages = {stage: {"steps": STEPS} for stage in (*(f"remove{s}" for s in numbers), "final")}
    changes: dict[str, Any] = {
        "method": {"name": "icot", **schedule},
        "task": {"name": "synth", "num_train": 32, "num_test": 3},
        "model": small_model(name, tmp_path / "model"),
        "train": {"batch_size": 2, "accumulation": 2, "stages": stages},
        "generate": {"max_new_tokens": 4, "batch_size": 4},
    }
    if "start" in usual:
        changes["start"] = {"train": {"max_steps": STEPS, "batch_size": 2, "accumulation": 1}}
    run = train(parse(changes, preset=preset), runs_dir=tmp_path / "runs")
    assert run.report["report"]["optimiser_steps"] == STEPS * len(stages)
    assert len(read_evaluation(evaluate(EvalJob.of(run, "synth", limit=3))).records) == 3


def test_a_few_examples_are_learnt_by_heart_without_their_chains(tmp_path: Path) -> None:
    backbone = Backbone.load(ModelConfig(hidden_size=32, num_layers=1, mlp_size=64, device="cpu"), seed=1)
    method = Icot(backbone, IcotConfig(max_removed=20, tokens_per_stage=10, removal_share=0.5, smoothing=None))
    train_method(method, EXAMPLES, TrainConfig(epochs=60, batch_size=4, lr=1e-2), folder=tmp_path, seed=0)
    found = method.generate([example.question for example in EXAMPLES], GenerateConfig(max_new_tokens=40))
    assert [generation.text for generation in found] == [example.answer for example in EXAMPLES]
    assert [generation.num_reasoning_tokens for generation in found] == [0] * 4


def test_data_without_a_chain_are_refused(tmp_path: Path) -> None:
    method = Icot(make_backbone("llama"), IcotConfig())
    silent = [replace(example, steps=()) for example in EXAMPLES]
    with pytest.raises(ValueError, match=r"'icot' removes the tokens of a chain, but none of 4 examples has one"):
        train_method(method, silent, TrainConfig(), folder=tmp_path, seed=0)
