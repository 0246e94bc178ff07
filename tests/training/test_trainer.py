"""Training of a toy method with two stages: exact accumulation, bit-identical resume, budgets, refusals."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file

from latbench.config import LoraConfig, ModelConfig, StageOverrides, TrainConfig
from latbench.method import Stage
from latbench.model.backbone import Backbone
from latbench.model.batches import SequenceBatch
from latbench.task import Example
from latbench.training import stage_trainer, trainer
from latbench.training.resume import STATE, hashes, resume_points
from latbench.training.trainer import train_method
from latbench.util import heap
from tests.training.processes import at, launch, outcome, run_script
from tests.training.toy_run import CONFIG, Toy, toy, toy_examples, train

SCRIPT = "tests.training.toy_run"
FIRST, SECOND = Path("stages/0-all"), Path("stages/1-head")


class Killed(BaseException):
    """Ends training as a kill would: nothing is written any more."""


def dies_at(call: int, method: Toy) -> Toy:
    """The method, raising at the given call of its loss."""

    def kill() -> None:
        raise Killed

    method.before_loss = at(call, kill)
    return method


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def weights(method: Toy) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in method.state_dict().items()}


# exactness


@pytest.mark.parametrize("bucket", [True, False])
def test_an_accumulated_step_equals_one_big_batch(tmp_path: Path, bucket: bool) -> None:
    results = []
    for batch_size, accumulation in [(8, 1), (2, 4)]:
        method = toy(0.0, dtype="float64")
        config = replace(CONFIG, batch_size=batch_size, accumulation=accumulation, bucket_by_length=bucket)
        train(tmp_path / f"{accumulation}", method, config=config)
        results.append(weights(method))
    start = weights(toy(0.0, dtype="float64"))
    for name, tensor in results[0].items():
        torch.testing.assert_close(tensor, results[1][name], rtol=1e-9, atol=1e-11)
    assert any(not torch.equal(start[name], results[0][name]) for name in start)


def test_the_objective_is_the_mean_per_item_of_the_whole_step(tmp_path: Path) -> None:
    method, config = toy(0.0, dtype="float64"), replace(CONFIG, max_steps=1, log_every=1, batch_size=20, accumulation=1)
    batch = method.batch(toy_examples(), method.stages()[0])
    expected = method.loss(batch, method.stages()[0])
    train(tmp_path, method, config=config)
    row = log(tmp_path / FIRST)[0]
    for name, term in expected.items():
        assert row[f"loss/{name}"] == pytest.approx(term.total.item() / term.num_items, rel=1e-9)
    assert row["loss"] == pytest.approx(expected.objective().item(), rel=1e-9)


def test_terms_that_are_counted_otherwise_than_by_the_batch_are_refused(tmp_path: Path) -> None:
    method = toy()
    counted = method.batch

    def miscounted(examples: Sequence[Example], stage: Stage) -> SequenceBatch:
        batch = counted(examples, stage)
        batch.num_items["length"] += 1
        return batch

    method.batch = miscounted  # type: ignore[method-assign]
    with pytest.raises(
        ValueError, match=r"stage 'all': loss returns terms of .*'length': 3} items, but .*'length': 4}"
    ):
        train(tmp_path, method)


@pytest.mark.slow
def test_two_processes_equal_one_with_the_double_batch(tmp_path: Path) -> None:
    first, second = launch(SCRIPT, tmp_path / "two", 2, TOY_BATCH="2")
    (alone,) = launch(SCRIPT, tmp_path / "one", 1, TOY_BATCH="4")
    for name, tensor in alone["weights"].items():
        torch.testing.assert_close(first["weights"][name], tensor, rtol=1e-9, atol=1e-11)
        assert torch.equal(first["weights"][name], second["weights"][name])
    assert sorted(first["seen"] + second["seen"]) == sorted(alone["seen"])
    for count in ("optimiser_steps", "examples_seen", "tokens_seen", "supervised_tokens"):
        assert first["report"][count] == alone["report"][count]
    ours, theirs = log(tmp_path / "two" / FIRST), log(tmp_path / "one" / FIRST)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for row, other in zip(ours, theirs, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-9)
        assert row["loss/length"] == pytest.approx(other["loss/length"], rel=1e-9)


def test_processes_wait_for_a_main_one_that_prepares_for_hours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def state(**options: Any) -> PartialState:
        asked.update(options)
        return PartialState(**options)

    monkeypatch.setattr(trainer, "PartialState", state)
    train(tmp_path, toy(0.0), config=replace(CONFIG, max_steps=1))
    assert asked["timeout"] >= timedelta(hours=12), "soft labels of a large training set take so long"


@pytest.mark.slow
def test_two_processes_resume_to_the_same_bits(tmp_path: Path) -> None:
    settings = {"TOY_BATCH": "2", "TOY_DROPOUT": "0.2"}
    undisturbed = launch(SCRIPT, tmp_path / "a", 2, **settings)
    assert launch(SCRIPT, tmp_path / "b", 2, **settings, TOY_EXIT="11") == []
    resumed = launch(SCRIPT, tmp_path / "b", 2, **settings)
    for before, after in zip(undisturbed, resumed, strict=True):
        assert all(torch.equal(tensor, after["weights"][name]) for name, tensor in before["weights"].items())
    assert (tmp_path / "a" / FIRST / "log.jsonl").read_bytes() == (tmp_path / "b" / FIRST / "log.jsonl").read_bytes()


def test_every_pass_sees_each_example_once_and_no_pass_repeats_an_order(tmp_path: Path) -> None:
    method = toy()
    train(tmp_path, method)
    passes = [[id_ for epoch, id_ in method.seen if epoch == number] for number in range(4)]
    assert [sorted(ids) for ids in passes] == [sorted(example.id for example in toy_examples())] * 4
    assert len({tuple(ids) for ids in passes}) == 4


# resume


@pytest.mark.parametrize("call", [1, 4, 9, 16, 17, 21, 32])
def test_training_stopped_anywhere_resumes_to_the_same_bits(tmp_path: Path, call: int) -> None:
    method = toy()
    undisturbed = outcome(method, tmp_path / "a", train(tmp_path / "a", method))
    with pytest.raises(Killed):
        train(tmp_path / "b", dies_at(call, toy()))
    method = toy()
    report = train(tmp_path / "b", method, resume=True)
    assert outcome(method, tmp_path / "b", report) == undisturbed


@pytest.mark.slow
def test_killed_training_resumes_to_the_same_bits(tmp_path: Path) -> None:
    assert run_script(SCRIPT, "killed", str(tmp_path)) == "equal"


def test_training_killed_before_its_first_resume_point_starts_its_log_anew(tmp_path: Path) -> None:
    config = replace(CONFIG, save_every=1000)
    method = toy()
    undisturbed = outcome(method, tmp_path / "a", train(tmp_path / "a", method, config=config))
    with pytest.raises(Killed):
        train(tmp_path / "b", dies_at(12, toy()), config=config)
    assert log(tmp_path / "b" / FIRST)
    method = toy()
    assert outcome(method, tmp_path / "b", train(tmp_path / "b", method, config=config, resume=True)) == undisturbed


def test_a_half_written_resume_point_is_passed_over(tmp_path: Path) -> None:
    method = toy()
    undisturbed = outcome(method, tmp_path / "a", train(tmp_path / "a", method))
    with pytest.raises(Killed):
        train(tmp_path / "b", dies_at(10, toy()))
    point = resume_points(tmp_path / "b" / FIRST)[0]
    half = point.with_name("checkpoint-6")
    half.mkdir()
    (half / "trainer_state.json").write_text('{"global_step": 6, "ep')
    (tmp_path / "b" / FIRST / "log.jsonl").open("a").write('{"step": 7, "lo')
    method = toy()
    assert outcome(method, tmp_path / "b", train(tmp_path / "b", method, resume=True)) == undisturbed


def test_a_complete_run_is_loaded_and_not_trained_again(tmp_path: Path) -> None:
    method = toy()
    report = train(tmp_path, method)
    again = dies_at(1, toy())
    assert train(tmp_path, again, resume=True) == report
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in method.state_dict().items())


def test_ctrl_c_leaves_a_resume_point_at_the_last_whole_step(tmp_path: Path) -> None:
    method = toy()
    undisturbed = outcome(method, tmp_path / "a", train(tmp_path / "a", method))
    method = toy()
    calls = [0]

    def press() -> None:
        calls[0] += 1
        if calls[0] == 5:  # in the first half of step 3, which no regular resume point follows
            os.kill(os.getpid(), signal.SIGINT)

    method.before_loss = press
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", method)
    assert [point.name for point in resume_points(tmp_path / "b" / FIRST)] == ["checkpoint-3"]
    assert calls[0] == 6
    method = toy()
    assert outcome(method, tmp_path / "b", train(tmp_path / "b", method, resume=True)) == undisturbed


def test_ctrl_c_in_the_last_step_of_a_stage_starts_no_other(tmp_path: Path) -> None:
    method = toy()
    calls = [0]

    def press() -> None:
        calls[0] += 1
        if calls[0] == 16:
            os.kill(os.getpid(), signal.SIGINT)

    method.before_loss = press
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, method)
    assert (tmp_path / FIRST / "report.json").exists()
    assert not (tmp_path / SECOND).exists()


def test_adapters_resume_without_the_frozen_weights(tmp_path: Path) -> None:
    def adapted() -> Toy:
        model = ModelConfig(
            hidden_size=16, num_layers=1, num_heads=2, mlp_size=32, device="cpu", lora=LoraConfig(rank=2, dropout=0.1)
        )
        return Toy(Backbone.load(model, seed=3))

    method = adapted()
    undisturbed = outcome(method, tmp_path / "a", train(tmp_path / "a", method))
    with pytest.raises(Killed):
        train(tmp_path / "b", dies_at(12, adapted()))
    saved = (resume_points(tmp_path / "b" / FIRST)[0] / "model.safetensors").stat().st_size
    assert saved < sum(parameter.numel() * 4 for parameter in method.parameters()) / 2
    method = adapted()
    assert outcome(method, tmp_path / "b", train(tmp_path / "b", method, resume=True)) == undisturbed


def test_only_the_latest_resume_point_stays_and_holds_no_pickled_arguments(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(tmp_path, dies_at(16, toy()))
    names = sorted(path.name for path in (tmp_path / FIRST).iterdir())
    assert names == ["checkpoint-6", "log.jsonl"]
    files = {path.name for path in (tmp_path / FIRST / "checkpoint-6").iterdir()}
    assert "training_args.bin" not in files
    assert "optimizer.pt" in files


def flip(path: Path) -> None:
    """Change one byte of a file, not its size."""
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def forget(point: Path) -> None:
    """The state file of an earlier version, without hashes."""
    path = point / STATE
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "files"}))


def poison(point: Path) -> None:
    """NaN among the weights, with a hash that fits."""
    tensors = load_file(point / "model.safetensors")
    next(iter(tensors.values())).view(-1)[0] = float("nan")
    save_file(tensors, point / "model.safetensors")
    state = json.loads((point / STATE).read_text())
    (point / STATE).write_text(json.dumps(state | {"files": hashes(point)}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (
            lambda point: flip(point / "model.safetensors"),
            r"damaged: model\.safetensors is not the file that was saved",
        ),
        (lambda point: flip(point / "optimizer.pt"), r"damaged: optimizer\.pt is not the file that was saved"),
        (lambda point: (point / "scheduler.pt").unlink(), r"damaged: scheduler\.pt is missing; remove .* and resume"),
        (forget, "does not name the files that were saved"),
        (poison, "holds NaN or infinity in "),
    ],
)
def test_a_damaged_resume_point_is_refused(tmp_path: Path, damage: Callable[[Path], object], reason: str) -> None:
    with pytest.raises(Killed):
        train(tmp_path, dies_at(16, toy()))
    damage(tmp_path / FIRST / "checkpoint-6")
    with pytest.raises(ValueError, match=reason) as caught:
        train(tmp_path, toy(), resume=True)
    assert "\n" not in str(caught.value)


def test_damaged_weights_of_a_complete_stage_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(tmp_path, dies_at(20, toy()))
    flip(resume_points(tmp_path / FIRST)[0] / "model.safetensors")
    with pytest.raises(ValueError, match=r"damaged: model\.safetensors is not the file that was saved"):
        train(tmp_path, toy(), resume=True)


# stages and budget


def test_a_stage_moves_exactly_what_it_trains(tmp_path: Path) -> None:
    before, method = weights(toy()), toy()
    config = replace(CONFIG, weight_decay=0.5, stages={"all": StageOverrides(steps=1, lr=1e-12)})
    train(tmp_path, method, config=config)  # first stage: as good as nothing
    for name, tensor in weights(method).items():
        moved = not torch.allclose(tensor, before[name], atol=1e-6)
        assert moved == name.startswith("heads."), name


@pytest.mark.parametrize(
    ("config", "steps"),
    [
        (replace(CONFIG, epochs=1.0), [2, 2]),
        (replace(CONFIG, max_steps=10), [8, 2]),
        (replace(CONFIG, max_steps=5), [5]),
        (replace(CONFIG, stages={"all": StageOverrides(steps=3), "head": StageOverrides(epochs=0.5)}), [3, 2]),
    ],
)
def test_passes_are_split_over_stages_and_capped(tmp_path: Path, config: TrainConfig, steps: list[int]) -> None:
    report = train(tmp_path, config=config)
    stages = sorted((tmp_path / "stages").iterdir())
    assert [log(stage)[-1]["step"] for stage in stages] == steps
    assert report.optimiser_steps == sum(steps)
    assert report.examples_seen == sum(steps) * 5  # 20 examples in 4 steps a pass


def test_cosine_falls_to_its_floor_after_warm_up(tmp_path: Path) -> None:
    config = replace(CONFIG, log_every=1, min_lr_ratio=0.1, warmup_ratio=0.25, max_steps=8)
    train(tmp_path, config=config)
    rates = [row["learning_rate"] for row in log(tmp_path / FIRST)]
    assert rates[0] < max(rates) == pytest.approx(config.lr)
    assert rates.index(max(rates)) == 2
    assert rates[-1] == pytest.approx(config.lr * 0.1, rel=0.7)
    assert rates[-1] >= config.lr * 0.1


def test_bfloat16_computes_in_autocast_over_float32_weights(tmp_path: Path) -> None:
    method = toy()
    train(tmp_path, method, config=replace(CONFIG, precision="bfloat16", max_steps=2))
    assert method.dtypes == {torch.bfloat16}
    assert {parameter.dtype for parameter in method.parameters()} == {torch.float32}


def test_the_run_says_the_precision_whatever_a_launcher_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    method = toy()
    train(tmp_path, method, config=replace(CONFIG, max_steps=2))
    assert method.dtypes == {torch.float32}


def test_fewer_examples_than_a_step_holds_still_train(tmp_path: Path) -> None:
    method = toy()
    config = replace(CONFIG, batch_size=4, accumulation=8)
    report = train_method(method, toy_examples(3), config, folder=tmp_path, seed=0)
    assert report.examples_seen == 3 * 4


# refusals and reports


def test_examples_that_do_not_fit_are_counted_by_reason(tmp_path: Path) -> None:
    examples = toy_examples()
    long = replace(examples[0], question="n1 + " * 5000)
    marked = [replace(example, meta={"skip": True}) for example in examples[1:4]]
    method = toy()
    report = train_method(method, [long, *marked, *examples[4:]], CONFIG, folder=tmp_path, seed=0)
    assert report.skipped == {"longer than the context": 1, "marked": 3}
    assert {id_ for _, id_ in method.seen} == {example.id for example in examples[4:]}


def test_training_is_refused_only_when_no_example_fits(tmp_path: Path) -> None:
    marked = [replace(example, meta={"skip": True}) for example in toy_examples()]
    with pytest.raises(ValueError, match=r"none of 20 training examples fits stage 'all' \(marked\)"):
        train_method(toy(), marked, CONFIG, folder=tmp_path, seed=0)


def test_another_training_in_the_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(tmp_path, dies_at(10, toy()))
    with pytest.raises(ValueError, match="already holds training; resume it"):
        train(tmp_path)
    with pytest.raises(ValueError, match="was trained with steps 8, now it is 4; resume with the settings"):
        train(tmp_path, config=replace(CONFIG, epochs=2.0), resume=True)


def test_unknown_stages_and_trackers_are_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown stage in train.stages 'haed'; did you mean 'head'\?"):
        train(tmp_path, config=replace(CONFIG, stages={"haed": StageOverrides(steps=1)}))
    with pytest.raises(ValueError, match=r"unknown tracker in train.trackers 'wanbd'; did you mean 'wandb'\?"):
        train(tmp_path, config=replace(CONFIG, trackers=["wanbd"]))


def test_a_tracker_that_is_not_installed_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latbench.training.trainer.get_available_reporting_integrations", list)
    with pytest.raises(ValueError, match="names 'trackio', which is not installed; run `pip install trackio`"):
        train(tmp_path, config=replace(CONFIG, trackers=["trackio"]))


def test_a_tracker_receives_every_loss_term(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import TrainerCallback
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    received: list[set[str]] = []

    class Recorder(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
            received.append(set(logs))

    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "tensorboard", Recorder)
    monkeypatch.setattr("latbench.training.trainer.get_available_reporting_integrations", lambda: ["tensorboard"])
    train(tmp_path, config=replace(CONFIG, trackers=["tensorboard"], max_steps=3))
    assert {"loss", "loss/ce", "loss/length", "learning_rate", "grad_norm"} <= received[0]


def test_a_loss_that_is_not_finite_stops_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the loss became (nan|inf) by step 3 of stage 'all'; lower train.lr"):
        train(tmp_path, config=replace(CONFIG, lr=1e30, clip_norm=0, warmup_ratio=0))


def test_a_training_free_method_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = toy()
    monkeypatch.setattr(method, "stages", list)
    assert train(tmp_path, method).optimiser_steps == 0
    assert not (tmp_path / "stages").exists()


def test_nothing_is_printed_where_there_is_no_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train(tmp_path, config=replace(CONFIG, max_steps=3))
    assert capfd.readouterr() == ("", "")


# the optimiser between stages


class TwoStages(Toy):
    """Two stages that train the same parameters."""

    def stages(self) -> list[Stage]:
        return [Stage(name="first", share=0.5), Stage(name="second", share=0.5)]


def one_backbone_in_two_stages() -> TwoStages:
    base = toy(dropout=0)
    return TwoStages(base.backbone, dropout=0)


def test_moments_are_carried_over_where_they_are_not_reset(tmp_path: Path) -> None:
    """Two stages at one constant rate then equal one stage of the same batches, up to the rounding of sums."""
    config = replace(CONFIG, schedule="constant", warmup_ratio=0, bucket_by_length=False)

    def trained(name: str, config: TrainConfig, method: Toy) -> dict[str, torch.Tensor]:
        train(tmp_path / name, method, config=config)
        return weights(method)

    class Whole(Toy):
        def stages(self) -> list[Stage]:
            return [Stage(name="whole")]

    whole = trained("whole", config, Whole(toy(dropout=0).backbone, dropout=0))
    carried = trained("carried", replace(config, reset_optimizer=False), one_backbone_in_two_stages())
    reset = trained("reset", config, one_backbone_in_two_stages())
    for name, tensor in whole.items():
        torch.testing.assert_close(carried[name], tensor, rtol=1e-5, atol=1e-6)
    assert not all(torch.allclose(reset[name], tensor, rtol=1e-3, atol=1e-4) for name, tensor in whole.items())


def test_carried_moments_survive_a_kill_between_the_stages(tmp_path: Path) -> None:
    config = replace(CONFIG, reset_optimizer=False)
    method = one_backbone_in_two_stages()
    undisturbed = outcome(method, tmp_path / "whole", train(tmp_path / "whole", method, config=config))
    per_stage = undisturbed["counts"]["optimiser_steps"]  # two stages of two micro-batches a step: calls of one stage
    for call in (per_stage + 1, per_stage + 6):
        folder = tmp_path / str(call)
        with pytest.raises(Killed):
            train(folder, dies_at(call, one_backbone_in_two_stages()), config=config)
        method = one_backbone_in_two_stages()
        assert outcome(method, folder, train(folder, method, config=config, resume=True)) == undisturbed


def test_carrying_moments_to_other_parameters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train.reset_optimizer must be true: stage 'head' trains other parameters"):
        train(tmp_path, config=replace(CONFIG, reset_optimizer=False))


# helper models


class Helped(Toy):
    """The toy, whose head counts as a helper model."""

    def build_auxiliary(self) -> None:
        self.auxiliary["length"] = self.heads["length"]


def helped() -> Helped:
    return Helped(toy(dropout=0).backbone, dropout=0)


def test_helper_models_have_a_rate_of_their_own(tmp_path: Path) -> None:
    """The first step of Adam moves every weight with a gradient by the rate."""
    config = replace(CONFIG, schedule="constant", warmup_ratio=0, weight_decay=0.0, max_steps=1, lr=1e-2)
    before = weights(helped())
    for rate, expected in [(1e-4, 1e-4), (None, 1e-2)]:
        method = helped()
        train(tmp_path / str(rate), method, config=replace(config, auxiliary_lr=rate))
        moved = {
            name: float((tensor - before[name]).abs().max())
            for name, tensor in weights(method).items()
            if name in before
        }
        assert moved.pop("heads.length.weight") == pytest.approx(expected, rel=1e-3)
        assert moved.pop("heads.length.bias") == pytest.approx(expected, rel=1e-3)
        assert max(moved.values()) == pytest.approx(1e-2, rel=1e-3)


def test_with_a_rate_for_helper_models_a_killed_training_resumes_to_the_same(tmp_path: Path) -> None:
    config, method = replace(CONFIG, auxiliary_lr=1e-3), helped()
    undisturbed = outcome(method, tmp_path / "whole", train(tmp_path / "whole", method, config=config))
    with pytest.raises(Killed):
        train(tmp_path / "killed", dies_at(9, helped()), config=config)
    method = helped()
    assert (
        outcome(method, tmp_path / "killed", train(tmp_path / "killed", method, config=config, resume=True))
        == undisturbed
    )


def test_a_rate_for_helper_models_that_do_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train.auxiliary_lr is set, but method 'toy' trains no helper model"):
        train(tmp_path, config=replace(CONFIG, auxiliary_lr=1e-3))


# memory


def test_freed_memory_is_given_back_every_few_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(stage_trainer, "RELEASE_EVERY", 2)
    monkeypatch.setattr(heap, "release", lambda: calls.append(1))
    report = train(tmp_path, toy(), config=replace(CONFIG, max_steps=6))
    assert (report.optimiser_steps, len(calls)) == (6, 3)
