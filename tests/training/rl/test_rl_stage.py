"""The stage of reinforcement learning: bit-identical resume, exact accumulation, figures, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from latbench import registry
from latbench.config import LoraConfig, ModelConfig, TrainConfig, identity, parse
from latbench.method import HeldOut, Stage
from latbench.model.backbone import Backbone
from latbench.training.trainer import train_method
from tests.training.processes import at, launch, outcome, run_script
from tests.training.rl import toy_rl
from tests.training.rl.toy_rl import CONFIG, RL, Parity, Talker, examples, talker, train

SCRIPT = "tests.training.rl.toy_rl"
STAGE = Path("stages/0-rl")


class Killed(BaseException):
    """Ends training as a kill would: nothing is written any more."""


def dies_at(where: str, call: int, method: Talker) -> Talker:
    """The method, raising at the given call of its answers or updates."""

    def kill() -> None:
        raise Killed

    setattr(method, f"before_{where}", at(call, kill))
    return method


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / STAGE / "log.jsonl").read_text().splitlines()]


# resume


@pytest.mark.parametrize(("where", "call"), [("answers", 2), ("answers", 5), ("update", 2), ("update", 6)])
def test_training_stopped_anywhere_resumes_to_the_same_bits(tmp_path: Path, where: str, call: int) -> None:
    method = talker()
    undisturbed = outcome(method, tmp_path / "a", train(tmp_path / "a", method))
    with pytest.raises(Killed):
        train(tmp_path / "b", dies_at(where, call, talker()))
    method = talker()
    assert outcome(method, tmp_path / "b", train(tmp_path / "b", method, resume=True)) == undisturbed


@pytest.mark.slow
def test_killed_training_resumes_to_the_same_bits(tmp_path: Path) -> None:
    assert run_script(SCRIPT, "killed", str(tmp_path)) == "equal"


def test_the_best_weights_survive_a_kill(tmp_path: Path) -> None:
    method = talker()
    settings: dict[str, Any] = {"keep_best": True, "eval_every": 2, "lr": 3e-2, "kl": 0.0}
    undisturbed = outcome(method, tmp_path / "a", train(tmp_path / "a", method, **settings))
    with pytest.raises(Killed):
        train(tmp_path / "b", dies_at("update", 12, talker()), **settings)
    method = talker()
    report = train(tmp_path / "b", method, resume=True, **settings)
    assert outcome(method, tmp_path / "b", report) == undisturbed
    again = talker()  # a complete stage is loaded with them
    train(tmp_path / "b", again, resume=True, **settings)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in method.state_dict().items())


def test_the_best_weights_are_those_of_the_best_held_out_accuracy(tmp_path: Path) -> None:
    method = talker()
    train(tmp_path / "best", method, keep_best=True, eval_every=2, lr=3e-2, kl=0.0)
    curve = {row["step"]: row["held_out/accuracy"] for row in log(tmp_path / "best") if "held_out/accuracy" in row}
    best = max(curve, key=lambda step: (curve[step], -step))
    assert 0 < best < 12
    assert list(curve) == [0, 2, 4, 6, 8, 10, 12]
    until = talker()
    train(tmp_path / "until", until, eval_every=2, lr=3e-2, kl=0.0, steps=best)
    assert all(torch.equal(tensor, until.state_dict()[name]) for name, tensor in method.state_dict().items())


# exactness


def test_accumulation_changes_nothing(tmp_path: Path) -> None:
    results = []
    for accumulation in (1, 2):
        method = talker(dtype="float64")
        train(tmp_path / str(accumulation), method, config=replace(CONFIG, accumulation=accumulation))
        results.append(method.state_dict())
    start = talker(dtype="float64").state_dict()
    for name, tensor in results[0].items():
        torch.testing.assert_close(tensor, results[1][name], rtol=1e-9, atol=1e-11)
    assert any(not torch.equal(start[name], tensor) for name, tensor in results[0].items())


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_accumulation(tmp_path: Path) -> None:
    first, second = launch(SCRIPT, tmp_path / "two", 2, TOY_ACCUMULATION="1")
    (alone,) = launch(SCRIPT, tmp_path / "one", 1, TOY_ACCUMULATION="2")
    for name, tensor in alone["weights"].items():
        torch.testing.assert_close(first["weights"][name], tensor, rtol=1e-9, atol=1e-11)
        assert torch.equal(first["weights"][name], second["weights"][name])
    assert sorted(first["asked"] + second["asked"]) == sorted(alone["asked"])
    for count in ("optimiser_steps", "examples_seen", "tokens_seen", "supervised_tokens", "rollouts"):
        assert first["report"][count] == alone["report"][count]
    ours, theirs = log(tmp_path / "two"), log(tmp_path / "one")
    assert len(ours) == len(theirs)
    for row, other in zip(ours, theirs, strict=True):
        assert row.keys() == other.keys()
        for name, value in row.items():
            assert value == pytest.approx(other[name], rel=1e-6, abs=1e-9), name


def test_with_adapters_only_they_move(tmp_path: Path) -> None:
    method = talker(lora=LoraConfig(rank=2, dropout=0.5))
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    train(tmp_path, method)
    moved = {name for name, tensor in method.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved
    assert all("lora" in name or "trainable_tokens" in name for name in moved)
    first = next(row for row in log(tmp_path) if "rl/log_prob_difference_max" in row)
    assert first["rl/log_prob_difference_max"] < 1e-4  # no dropout, or the two would differ
    assert first["rl/clipped_text"] < 0.5


# figures and costs


def test_log_and_report_say_what_a_rollout_was(tmp_path: Path) -> None:
    report = train(tmp_path)
    assert report.rollouts == 3 * 4 * 4  # a rollout of 4 questions for each 4 updates
    assert report.optimiser_steps == 12
    rows = log(tmp_path)
    assert [row["step"] for row in rows if "held_out/accuracy" in row] == [0, 5, 10, 12]
    assert [row["step"] for row in rows if "loss" in row] == [2, 4, 6, 8, 10, 12]
    assert {
        "loss/policy", "loss/kl", "grad_norm", "rl/reward", "rl/accuracy", "rl/chain_length", "rl/invalid",
        "rl/mixed_groups", "rl/clipped_text", "rl/entropy_text", "rl/log_prob_difference", "rl/log_prob_difference_max",
    } <= rows[1].keys()  # fmt: skip
    assert rows[1]["loss/kl"] >= 0
    found = json.loads((tmp_path / STAGE / "diagnostics.json").read_text())
    last = [row for row in rows if "rl/reward" in row][-1]
    assert (found["sampled_reward"], found["mixed_groups"]) == (last["rl/reward"], last["rl/mixed_groups"])
    diagnostics = found["rl"]
    assert [point[0] for point in diagnostics["held_out"]] == [0, 5, 10, 12]
    assert diagnostics["seconds"].keys() == {"rollout", "scoring", "recompute"}
    assert diagnostics["best_accuracy"] == max(point[1] for point in diagnostics["held_out"])


def test_operations_count_rollouts_and_leave_out_held_out_questions(tmp_path: Path) -> None:
    often = train(tmp_path / "often", eval_every=1)
    never = train(tmp_path / "never", eval_every=0)
    assert often.flops == never.flops
    more = train(tmp_path / "more", eval_every=0, passes=1, minibatches=1)  # a rollout for every update
    assert more.rollouts == 4 * never.rollouts
    assert more.flops > never.flops


def test_operations_count_the_passes_of_the_reference(tmp_path: Path) -> None:
    alone = train(tmp_path / "alone", steps=1, eval_every=0, kl=0.0)
    beside = train(tmp_path / "beside", steps=1, eval_every=0, kl=0.1)  # the first rollout is the same
    assert beside.rollouts == alone.rollouts
    assert beside.flops > alone.flops


def test_the_model_learns_what_is_rewarded(tmp_path: Path) -> None:
    class FirstIsOdd(Parity):
        def rewards(self, pairs: Any) -> list[float]:
            return [float(ord(text[0]) % 2) if text else 0.0 for text, _ in pairs]

    rl = toy_rl.with_changes(RL, steps=40, group_size=8, minibatches=1, passes=1, kl=0, lr=2e-2, eval_every=0)
    held_out = HeldOut(task=FirstIsOdd(), split="validation", examples=examples())
    config = replace(CONFIG, rl=rl)
    train_method(talker(), examples(), config, folder=tmp_path, seed=0, held_out=held_out)
    rewards = [row["rl/reward"] for row in log(tmp_path) if "rl/reward" in row]
    assert sum(rewards[:3]) / 3 < 0.75
    assert sum(rewards[-3:]) / 3 > 0.9


def test_an_update_without_a_finite_gradient_changes_nothing(tmp_path: Path) -> None:
    method = talker()
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    handle = next(iter(method.parameters())).register_hook(lambda gradient: gradient * float("inf"))
    train(tmp_path, method, steps=2)
    handle.remove()
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.state_dict().items())


# refusals


def test_a_task_whose_answers_are_always_equal_is_refused_after_the_cap(tmp_path: Path) -> None:
    class Always(Parity):
        def rewards(self, pairs: Any) -> list[float]:
            return [1.0] * len(pairs)

    held_out = HeldOut(task=Always(), split="validation", examples=examples())
    for dynamic in (True, False):
        config = replace(CONFIG, rl=toy_rl.with_changes(RL, dynamic=dynamic, max_draws=3, steps=60))
        with pytest.raises(
            ValueError, match=r"none of the last 12 questions had answers of unequal reward.*raise train"
        ):
            train_method(talker(), examples(), config, folder=tmp_path / str(dynamic), seed=0, held_out=held_out)


def test_rewards_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    class Broken(Parity):
        def rewards(self, pairs: Any) -> list[float]:
            return [float("nan")] * len(pairs)

    held_out = HeldOut(task=Broken(), split="validation", examples=examples())
    with pytest.raises(ValueError, match=r"the reward of an answer to example '\d' is nan; task 'parity' must reward"):
        train_method(talker(), examples(), CONFIG, folder=tmp_path, seed=0, held_out=held_out)


def test_questions_without_an_answer_cannot_be_rewarded(tmp_path: Path) -> None:
    held_out = HeldOut(task=Parity(), split="validation", examples=examples())
    blank = [replace(example, answer=" ") for example in examples()]
    with pytest.raises(ValueError, match=r"none of 10 training examples fits stage 'rl' \(no answer to check\)"):
        train_method(talker(), blank, CONFIG, folder=tmp_path, seed=0, held_out=held_out)
    report = train_method(
        talker(), [*blank[:3], *examples()[3:]], CONFIG, folder=tmp_path / "some", seed=0, held_out=held_out
    )
    assert report.skipped == {"no answer to check": 3}


def test_too_few_groups_for_the_micro_batches_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"= 2 groups in an update are too few for 3 micro-batches; lower train.accum"):
        train(tmp_path, config=replace(CONFIG, accumulation=3))


@pytest.mark.parametrize("name", ["soft_thinking", "coconut"])
def test_methods_that_cannot_be_reinforced_are_refused(tmp_path: Path, name: str) -> None:
    entry = registry.get_method(name)
    method = entry.cls(
        Backbone.load(ModelConfig(hidden_size=16, num_layers=1, num_heads=2, device="cpu")), entry.config()
    )
    expected = {
        "soft_thinking": "needs no training, so there is",
        "coconut": "no density of its latent steps.*colar, cot",
    }
    with pytest.raises(ValueError, match=rf"method '{name}' .*{expected[name]}.*"):
        train_method(method, examples(), TrainConfig(rl=RL), folder=tmp_path, seed=0)


def test_heads_that_nothing_has_trained_are_refused(tmp_path: Path) -> None:
    entry = registry.get_method("colar")
    method = entry.cls(
        Backbone.load(ModelConfig(hidden_size=16, num_layers=1, num_heads=2, device="cpu")), entry.config()
    )
    with pytest.raises(ValueError, match=r"train.only leaves out the stages that train the heads of method 'colar'"):
        train_method(method, examples(), CONFIG, folder=tmp_path, seed=0)


def test_unknown_stages_in_only_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown stage in train.only 'lr'; .*Available: rl, sft"):
        train(tmp_path, config=replace(CONFIG, only=["lr"]))


def test_stages_follow_each_other_and_take_their_rates(tmp_path: Path) -> None:
    class Both(Talker):
        def stages(self) -> list[Stage]:
            return [Stage(name="sft", steps=2)]

    method = Both(talker().backbone)
    report = train(tmp_path, method, config=replace(CONFIG, only=None), lr=3e-4)
    assert report.optimiser_steps == 14
    assert sorted(path.name for path in (tmp_path / "stages").iterdir()) == ["0-sft", "1-rl"]
    rows = [json.loads(line) for line in (tmp_path / "stages/1-rl/log.jsonl").read_text().splitlines()]
    assert {row["learning_rate"] for row in rows if "loss" in row} == {3e-4}


# settings


def test_a_run_without_reinforcement_keeps_its_identity() -> None:
    assert parse({"method": "cot"}).run_id == "synth-cot-tiny-128x2-85cb6a01-s0"  # of committed results
    assert not [key for key in identity(parse({"method": "latent_sft"}).to_tree()) if "rl" in key.split(".")]


def test_a_variant_is_said_with_what_differs_from_it() -> None:
    config = parse({"method": "cot"}, overrides=["train.rl.variant=dapo", "train.rl.prompts=64"])
    assert config.variant == "train.rl.variant=dapo train.rl.prompts=64"
    assert config.train.rl is not None
    assert (config.train.rl.average, config.train.rl.clip_high, config.train.rl.dynamic) == ("token", 0.28, True)
    spelled_out = parse(config.to_tree())
    assert spelled_out.run_id == config.run_id
    with pytest.raises(ValueError, match=r"train.rl.group_size must be >= 2, got 1"):
        parse({"method": "cot"}, overrides=["train.rl.group_size=1"])
    with pytest.raises(ValueError, match=r"train.rl.minibatches must be at most train.rl.prompts = 4, got 8"):
        parse({"method": "cot"}, overrides=["train.rl.minibatches=8", "train.rl.prompts=4"])
