"""Reinforcement learning of the tokens, the projector's refresh, and resuming in every stage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.optim import AdamW

from latbench.config import RLConfig, RolloutConfig
from latbench.decoding.action_batch import ActionBatch
from latbench.decoding.actions import Kind
from latbench.decoding.loop import Prompt
from latbench.task import Example
from latbench.training.rl.action_tensors import action_batch
from latbench.training.rl.advantages import group_advantages
from latbench.training.rl.groups import Group, Rollout
from latbench.training.rl.surrogate import policy_losses
from latbench.training.stage_trainer import StageTrainer
from latbench.training.trainer import set_trainable
from methods.litereason import LiteReason, refresh
from methods.litereason.rule import TagRule
from tests.methods.litereason.nudged import Nudged, method, script
from tests.methods.litereason.toy_litereason import CONFIG, stopping, talker, train
from tests.training.processes import launch, outcome, run_script

SCRIPT = "tests.methods.litereason.toy_litereason"
RL = RLConfig(prompts=4, group_size=2, rollout=RolloutConfig(max_new_tokens=14))
ASKED = [Example(id=str(n), question=f"n{n} = {n}", steps=(), answer=str(n)) for n in range(8)]


def rollouts(model: LiteReason, config: RLConfig = RL) -> list[Group]:
    """Sampled answers, with tags in some and not in others."""
    decoding = config.rollout.sampled(model.decoding)
    rule = model.rollout_rule(decoding)
    assert isinstance(rule, TagRule)
    parts: list[tuple[str | int, ...]] = [
        (2, "[3]", 2, "[2][1]", 3), (5,), ("a.\nb[1]c", "</think>", 2), ("[5]", 3, "</think>", 3),
        ("one. Two\n[2]", "</think>", "7"), (9,), ("[1]", 1, "[1]", 1, "[1]", 1, "[1]"), (1, "[12]"),
    ]  # fmt: skip
    rule.sampling = Nudged.of([script(model.tags, *part) for part in parts], temperature=config.rollout.temperature)
    prompts = [Prompt(id=example.id, text=example.question) for example in ASKED]
    answers = model.generate(prompts, decoding, rule=rule, actions=True)
    rows = [
        Rollout.of(model.prompt_ids(example.question), answer, float(n % 2 == 0), float(n % 2 == 0))
        for n, (example, answer) in enumerate(zip(ASKED, answers, strict=True))
    ]
    for n, row in enumerate(rows):
        row.advantage = row.first_advantage = 1.0 if n % 2 == 0 else -1.0
    return [Group(number=n, example=2 * n, rollouts=rows[2 * n : 2 * n + 2]) for n in range(4)]


def batch_of(model: LiteReason, config: RLConfig = RL) -> ActionBatch:
    return action_batch(model, rollouts(model, config), config)


# actions


@pytest.mark.parametrize("latents", ["recomputed", "drawn"])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_recomputed_log_probs_are_those_of_the_loop(name: str, latents: str) -> None:
    model = method(name, latents=latents)
    batch = batch_of(model)
    found = model.action_log_probs(batch)
    assert set(batch.actions.kinds.tolist()) == {Kind.TOKEN}  # latents are no actions
    assert int(batch.is_latent.sum()) == 6 + 1 + 5 + 2 + 3 + 5  # the last [1] is cut at the cap
    torch.testing.assert_close(found.values, batch.actions.said.to(found.values.dtype), rtol=0, atol=1e-9)
    losses = policy_losses(found, batch, RL)
    assert losses["rl/clipped_text"].total == 0
    tags = torch.isin(batch.actions.ids, torch.tensor(model.tags.encode("[]")))
    assert int(tags.sum()) > 20  # the tags' own tokens are among the actions


def test_latents_are_constants_of_an_update() -> None:
    model = method()
    set_trainable(model, model.rl_stage())
    batch = batch_of(model)
    policy_losses(model.action_log_probs(batch), batch, RL).objective().backward()
    assert all(parameter.grad is None for parameter in model.projector.parameters())
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in model.backbone.parameters())
    assert all(not parameter.requires_grad for parameter in model.heads.parameters())


def test_latents_follow_the_weights_unless_those_of_the_rollout_are_fed() -> None:
    for latents, follows in (("recomputed", True), ("drawn", False)):
        model = method(latents=latents)
        batch = batch_of(model)
        before = model.action_log_probs(batch).values
        with torch.no_grad():
            for parameter in model.projector.parameters():
                parameter.add_(0.3)
        assert torch.equal(before, model.action_log_probs(batch).values) != follows


def test_advantages_of_the_worked_example() -> None:
    advantages = group_advantages([1, 1, 0, 0, 0, 0, 0, 0], [True] * 8, epsilon=1e-9)
    torch.testing.assert_close(advantages[[0, 7]], torch.tensor([1.6202, -0.5401]).double(), rtol=0, atol=5e-5)


def test_equal_rewards_change_nothing() -> None:
    model = method()
    groups = rollouts(model)
    for group in groups:
        for row in group.rollouts:
            row.advantage = row.first_advantage = 0.0
    set_trainable(model, model.rl_stage())
    batch = action_batch(model, groups, RL)
    policy_losses(model.action_log_probs(batch), batch, RL).objective().backward()
    assert not any(parameter.grad.any() for parameter in model.backbone.parameters() if parameter.grad is not None)


# refresh


def test_correct_traces_are_kept_with_their_tags(tmp_path: Path) -> None:
    model = method()
    model.after_rollout(rollouts(model), 3, tmp_path)
    rows = json.loads((tmp_path / "rollout-traces-3.json").read_text())["traces"]
    assert [row["example"] for row in rows] == [2, 4]  # of four right ones; one has no end, another nothing to replace
    assert rows[0]["trace"] == ["a.", "b", "[1]", "c"]
    assert rows[1]["trace"] == ["one.", "Two", "[2]"]
    method(refresh_every=0).after_rollout(rollouts(model), 4, tmp_path)
    assert not (tmp_path / "rollout-traces-4.json").exists()


def test_a_refresh_learns_from_reference_answers_at_each_ratio() -> None:
    model = method(replaced=(0.1, 1.0), refresh_share=0.5)
    model.asked = ASKED
    rows = [{"example": n, "trace": ["a.", "b", "[1]", "c"]} for n in range(4)]
    examples = refresh.samples(model, rows, 6)
    assert len(examples) == 2 * 2  # half of the traces
    assert [example.answer for example in examples] == [example.id for example in examples]
    assert [sum("[" in step for step in example.steps) for example in examples] == [2, 4, 2, 4]
    assert examples == refresh.samples(model, rows, 6)
    assert examples != refresh.samples(model, rows, 9)
    assert refresh.samples(model, [], 6) == []


def test_a_refresh_moves_the_projector_alone() -> None:
    model = method(refresh_lr=1e-2)
    model.asked = ASKED
    set_trainable(model, model.rl_stage())
    flags = [parameter.requires_grad for parameter in model.parameters()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    refresh.refresh(model, refresh.samples(model, [{"example": 1, "trace": ["abcde", "fg"]}], 2))
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name in before if name.startswith("heads.projector")}
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("every", "drawn", "at"),
    [
        (None, 4, {4: [0, 1, 2, 3], 7: [4, 5, 6]}),  # of 14 questions; a pass ends within the fourth rollout
        (None, 20, {1: [0], 2: [1], 3: [2]}),  # groups of equal reward are drawn anew: a rollout asks more
        (3, 4, {3: [0, 1, 2], 6: [3, 4, 5], 9: [6, 7, 8]}),
        (0, 4, {}),
    ],
)
def test_a_refresh_comes_after_each_pass_over_the_questions(
    every: int | None, drawn: int, at: dict[int, list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[int, list[int]] = {}
    monkeypatch.setattr(refresh, "samples", lambda model, rows, number: seen.update({number: rows} if rows else {}))
    model = method(refresh_every=every)
    for number in range(max(at, default=8) + 1):
        model.before_rollout(number, drawn * number // 14, RL, tmp_path)
        kept = {"passes": model.passes, "traces": [number]}
        (tmp_path / f"rollout-traces-{number}.json").write_text(json.dumps(kept))
        model = method(refresh_every=every)  # a killed run goes on in the same way
    assert seen == at


# whole runs


class Stopped(BaseException):
    """Ends training as a kill would: nothing is written any more."""


def stop() -> None:
    raise Stopped


@pytest.mark.parametrize(("where", "count"), [("traces", 2), ("update", 5), ("rl update", 5), ("refresh", 3)])
def test_training_stopped_in_each_stage_resumes_to_the_same_bits(
    where: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AdamW, "step", AdamW.step)
    monkeypatch.setattr(StageTrainer, "_save_rng_state", StageTrainer._save_rng_state)
    model = talker()
    undisturbed = outcome(model, tmp_path / "a", train(tmp_path / "a", model))
    with pytest.raises(Stopped):
        train(tmp_path / "b", stopping(talker(), where, count, stop))
    monkeypatch.undo()
    model = talker()
    assert outcome(model, tmp_path / "b", train(tmp_path / "b", model, resume=True)) == undisturbed
    log = [json.loads(line) for line in (tmp_path / "b/stages/1-rl/log.jsonl").read_text().splitlines()]
    assert any(row.get("rl/latents", 0) > 0 for row in log)
    assert max(row.get("rl/log_prob_difference_max", 0) for row in log) < 1e-4


@pytest.mark.slow
def test_a_run_killed_in_each_stage_ends_with_the_same_bits(tmp_path: Path) -> None:
    assert run_script(SCRIPT, "killed", str(tmp_path)) == "equal"


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_accumulation(tmp_path: Path) -> None:
    first, second = launch(SCRIPT, tmp_path / "two", 2, TOY_ACCUMULATION="1")
    (alone,) = launch(SCRIPT, tmp_path / "one", 1, TOY_ACCUMULATION="2")
    moved = talker(dtype="float64").state_dict()
    for name, tensor in alone["weights"].items():
        torch.testing.assert_close(first["weights"][name], tensor, rtol=1e-9, atol=1e-11)
        assert torch.equal(first["weights"][name], second["weights"][name])
        assert not torch.equal(tensor, moved[name]) or not name.startswith("heads.")
    ours, theirs = (sorted((tmp_path / name).glob("stages/*/*traces*")) for name in ("two", "one"))
    assert [path.name for path in ours] == [path.name for path in theirs] != []
    assert [path.read_bytes() for path in ours] == [path.read_bytes() for path in theirs]
    assert first["report"]["rollouts"] == alone["report"]["rollouts"]


def test_the_projector_moves_in_its_stage_and_in_refreshes_alone(tmp_path: Path) -> None:
    first, second = talker(), talker(refresh_every=0)
    config = replace(CONFIG, rl=None)
    train(tmp_path / "sft", first, config=config)
    after_sft = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    fresh = talker().state_dict()
    assert {name for name, tensor in after_sft.items() if not torch.equal(tensor, fresh[name])} == {
        name for name in fresh if name.startswith("heads.")
    }
    train(tmp_path / "never", second)
    for name, tensor in second.state_dict().items():
        assert torch.equal(tensor, after_sft[name]) == name.startswith("heads.") or not tensor.is_floating_point()


def test_rl_alone_needs_a_projector_that_was_trained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train.only leaves out the stages that train the heads"):
        train(tmp_path, talker(), config=replace(CONFIG, only=["rl"]))
