"""Runs that start from the run of another method: recipe, identity, reuse, costs, errors."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from latbench import registry
from latbench.cli.quickstart import quickstart_configs
from latbench.config import ConfigError, RunConfig, parse, read_config, tree
from latbench.evaluation.evaluate import evaluate
from latbench.evaluation.job import EvalJob
from latbench.evaluation.metrics import summarise
from latbench.evaluation.records import read_evaluation
from latbench.evaluation.rerun import rerun
from latbench.runs.lock import locked
from latbench.runs.run import CHECKPOINT, CONFIG, TRAIN, Run, load_run
from latbench.runs.train import base_run, keep, train
from latbench.training import checkpoint, trainer
from tests.made_runs import SMALL

DIRECT = {"method": "direct"}
START = ("start.method=cot", "start.train.max_steps=2", "start.train.batch_size=4")  # the run of the fixture `trained`
STILL = ("train.lr=1e-12", "train.weight_decay=0", "train.max_steps=1")


def started(*overrides: str) -> RunConfig:
    return parse(DIRECT, overrides=(*SMALL, *START, *overrides))


def start_of(config: RunConfig) -> RunConfig:
    """What a run starts from."""
    assert config.start is not None
    return config.start


def weights(run: Run) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(run.folder / CHECKPOINT / "model.safetensors")
    return found


def equal(a: Run, b: Run, tolerance: float = 0) -> bool:
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    return all(torch.allclose(ours[name], theirs[name], rtol=0, atol=tolerance) for name in ours)


@pytest.fixture
def runs_dir(trained: Run, tmp_path: Path) -> Path:
    """A folder of runs that holds the start already."""
    shutil.copytree(trained.folder, tmp_path / "runs" / trained.folder.name)
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that trained its start itself; not to be written to."""
    return train(started(), runs_dir=tmp_path_factory.mktemp("started"))


@pytest.fixture
def presets(monkeypatch: pytest.MonkeyPatch) -> dict[str, tree.Tree]:
    """The tiny presets of direct and cot, to be replaced."""
    tiny: dict[str, tree.Tree] = {"direct": {}, "cot": {}}
    monkeypatch.setattr(tree, "presets", lambda method: {"tiny": tiny[method]} if method in tiny else {})
    return tiny


# recipe and identity


def test_the_start_is_the_run_that_the_same_settings_train_with_its_method(small: RunConfig) -> None:
    assert started().start == small


def test_configuration_and_file_round_trip_with_a_start(undisturbed: Run) -> None:
    config = started("start.start.method=cot")
    assert RunConfig.from_tree(config.to_tree()) == config
    assert parse(config.to_tree()) == config
    assert read_config(undisturbed.folder / CONFIG) == undisturbed.config == started()


def test_the_identity_has_the_start_but_not_its_seed_or_what_changes_no_result() -> None:
    base = started()
    without = parse(DIRECT, overrides=SMALL)
    assert (base.setting, base.run_id) != (without.setting, without.run_id)
    assert started("seed=3").setting == base.setting
    assert started("seed=3").start == parse({"method": "cot"}, overrides=(*SMALL, "seed=3"))
    for override in ("start.train.log_every=1", "start.generate.temperature=1", "start.start=null"):
        assert (started(override).setting, started(override).run_id) == (base.setting, base.run_id)
    for override in ("start.train.lr=1", "start.method=direct", "start.start.method=cot"):
        assert started(override).setting != base.setting
        assert started(override).run_id != base.run_id


def test_overrides_reach_into_the_start_of_a_preset(presets: dict[str, tree.Tree]) -> None:
    presets["direct"] = {"start": {"method": "cot"}}
    assert parse(DIRECT, overrides=["start.train.lr=0.5"]).start == parse({"method": "cot"}, overrides=["train.lr=0.5"])
    assert parse(DIRECT, overrides=["start=null"]).start is None
    assert parse(DIRECT, overrides=["start.method=direct", "start.start=null"]).start == parse(
        DIRECT, overrides=["start=null"]
    )


def test_a_start_has_its_own_preset_but_task_and_model_of_the_run() -> None:
    config = parse(DIRECT, overrides=["start.method=cot", "start.preset=codi-gpt2", "start.train.epochs=2"])
    assert config.start is not None
    assert (config.start.train.epochs, config.start.train.lr, config.start.preset) == (2, 3e-3, "codi-gpt2")
    assert (config.start.task, config.start.model) == (config.task, config.model)


def test_a_start_is_trained_on_the_data_of_the_run_unless_told_otherwise() -> None:
    config = started("train.num_examples=8", "train.drop_contaminated=true")
    assert config.start is not None
    assert (config.start.train.num_examples, config.start.train.drop_contaminated) == (8, True)
    other = started("train.num_examples=8", "start.train.num_examples=9").start
    assert other is not None
    assert other.train.num_examples == 9


def test_variant_names_an_unusual_start_and_the_keys_that_differ_in_it(presets: dict[str, tree.Tree]) -> None:
    def variant(*overrides: str) -> str:
        return parse(DIRECT, overrides=overrides).variant

    assert variant("start.method=cot") == "start=cot"
    assert variant("start.method=cot", "start.preset=none") == "start=cot/none"
    assert (
        variant("start.method=cot", "start.start.method=direct", "start.train.lr=1")
        == "start=cot<direct start.train.lr=1.0"
    )
    assert variant("start.method=cot", "train.num_examples=8") == "start=cot train.num_examples=8"
    presets["direct"] = {"start": {"method": "cot", "train": {"epochs": 0.5}}}
    assert variant() == ""
    assert variant("start.train.epochs=1") == "start.train.epochs=1.0"
    assert variant("start=null") == "start=null"


# errors


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["start.method=cott"], "start.method: unknown method 'cott'; did you mean 'cot'?"),
        (["start.train.lr=1"], "start.method.name is missing; choose one of "),
        (["start=cot"], "start must be a mapping such as {method: cot}, or null, got cot"),
        (["start.method=cot", "start.start=3"], "start.start must be a mapping such as {method: cot}, or null, got 3"),
        (["start.method=cot", "start.train.lr=-1"], "start.train.lr must be > 0, got -1"),
        (["start.method=cot", "start.train.lrr=1"], "unknown key 'start.train.lrr'; did you mean 'start.train.lr'?"),
        (["start.method=cot", "start.trian=1"], "unknown key 'start.trian'; did you mean 'start.train'?"),
        (["start.method.name=cot", "start.method.latents=1"], "unknown key 'start.method.latents'; available:"),
        (["start.method=cot", "start.preset=tinny"], "start.preset: unknown cot preset 'tinny'; did you mean 'tiny'?"),
        (
            ["start.method=cot", "start.model.id=gpt2"],
            "start.model cannot be set; a run has the model of the one it starts",
        ),
        (
            ["start.method=cot", "start.start.method=cott"],
            "start.start.method: unknown method 'cott'; did you mean 'cot'?",
        ),
    ],
)
def test_an_error_in_a_start_is_one_sentence_with_its_key(overrides: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(DIRECT, overrides=overrides)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_presets_that_start_from_each_other_are_refused_and_a_finite_chain_is_not(
    presets: dict[str, tree.Tree],
) -> None:
    presets["cot"] = {"start": {"method": "cot"}}
    with pytest.raises(ConfigError, match=r"method 'cot' with preset 'tiny' starts from itself, without end; set "):
        parse({"method": "cot"})
    presets |= {"cot": {"start": {"method": "direct"}}, "direct": {"start": {"method": "cot"}}}
    with pytest.raises(ConfigError, match=r"starts from itself, without end; set start\.start\.start=null"):
        parse({"method": "cot"})
    found = parse({"method": "cot"}, overrides=["start.start.method=cot", "start.start.start=null"])
    assert found.start is not None
    assert found.start.start is not None
    assert found.start.start.start is None


def test_a_method_without_training_is_no_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.get_method("cot").cls, "stages", lambda _: [])
    with pytest.raises(ValueError, match=r"start\.method 'cot' needs no training, so nothing starts from it"):
        train(started(), runs_dir=tmp_path)


@pytest.mark.parametrize("method", ["coconut", "codi", "sim_cot"])
def test_a_model_that_a_method_cannot_learn_with_is_refused_before_its_start_is_trained(
    method: str, tmp_path: Path
) -> None:
    config = parse({"method": method}, overrides=[*SMALL, "start.method=cot", "model.gradient_checkpointing=true"])
    with pytest.raises(ValueError, match="gradient_checkpointing is true, which silently drops the cache"):
        train(config, runs_dir=tmp_path)
    assert list(tmp_path.rglob("*.safetensors")) == []


def test_a_start_trained_on_data_that_have_changed_is_refused(runs_dir: Path) -> None:
    folder = runs_dir / start_of(started()).run_id
    report = json.loads((folder / TRAIN).read_text())
    report["data"]["synth/train"]["sha256"] = "0"
    (folder / TRAIN).write_text(json.dumps(report))
    with pytest.raises(ValueError, match="was trained on another synth/train than is there now; remove that folder"):
        train(started(), runs_dir=runs_dir)


def test_a_start_whose_weights_are_gone_says_how_to_get_them_back(runs_dir: Path) -> None:
    folder = runs_dir / start_of(started()).run_id
    (folder / CHECKPOINT / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=rf"^start: .*remove {folder} to train it anew"):
        train(started(), runs_dir=runs_dir)


# training


def test_a_start_is_trained_once_for_all_runs_that_want_it(
    small: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    plain = trainer.train_method

    def counted(method: Any, *args: Any, **kwargs: Any) -> Any:
        trained.append(method.name)
        return plain(method, *args, **kwargs)

    monkeypatch.setattr(trainer, "train_method", counted)
    for lr in (1e-3, 2e-3):
        train(started(f"train.lr={lr}"), runs_dir=tmp_path)
    assert train(small, runs_dir=tmp_path, resume=True).is_complete
    assert trained == ["cot", "direct", "direct"]


@pytest.mark.parametrize("lora", [(), ("model.lora.rank=2", "model.lora.train_markers=false")])
def test_the_model_is_that_of_the_start(lora: tuple[str, ...], tmp_path: Path) -> None:
    config = started(*STILL, "start.train.lr=0.1", *lora)
    assert config.start is not None
    run = train(config, runs_dir=tmp_path)
    start = load_run(tmp_path / config.start.run_id)
    plain = train(parse(DIRECT, overrides=(*SMALL, *STILL, *lora)), runs_dir=tmp_path)
    assert equal(run, start, tolerance=1e-6)
    assert not equal(plain, start, tolerance=1e-3)


def test_a_start_trained_before_gives_the_same_weights_as_one_trained_now(undisturbed: Run, runs_dir: Path) -> None:
    assert equal(train(started(), runs_dir=runs_dir), undisturbed)


@pytest.mark.parametrize("num_saved", [0, 1])
def test_a_run_killed_in_its_start_or_after_it_resumes_to_the_same_weights(
    undisturbed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_saved: int
) -> None:
    saved: list[Path] = []
    save = checkpoint.save

    def killed(method: Any, folder: Path, extra: Any, **more: Any) -> None:
        saved.append(folder)
        if len(saved) > num_saved:
            raise KeyboardInterrupt
        save(method, folder, extra, **more)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            train(started(), runs_dir=tmp_path)
    assert saved[-1].parent.name.startswith("synth-direct-" if num_saved else "synth-cot-")
    assert equal(train(started(), runs_dir=tmp_path, resume=True), undisturbed)


def test_costs_are_those_of_the_start_and_the_run_together(undisturbed: Run, trained: Run) -> None:
    report = undisturbed.report
    assert report["start"]["run"] == trained.folder.name
    start, own, total = report["start"]["costs"], report["report"], report["costs"]
    assert own["optimiser_steps"] == 2
    for name in ("optimiser_steps", "epochs", "examples_seen", "tokens_seen", "flops", "seconds"):
        assert start[name] > 0
        assert total[name] == start[name] + own[name]
    assert total["peak_memory_bytes"] == max(start["peak_memory_bytes"], own["peak_memory_bytes"])
    assert start["flops"] == trained.report["costs"]["flops"]
    assert trained.report["start"] is None


def test_a_start_of_a_start_costs_too(tmp_path: Path) -> None:
    report = train(started("start.start.method=cot", "start.start.train.max_steps=1"), runs_dir=tmp_path).report
    assert report["start"]["costs"]["optimiser_steps"] == 3
    assert report["costs"]["optimiser_steps"] == 5


def test_backbone_and_checkpoint_are_named_as_without_a_start(undisturbed: Run, trained: Run) -> None:
    info = checkpoint.read_info(undisturbed.folder / CHECKPOINT)
    assert info["backbone"] == undisturbed.config.backbone == trained.config.backbone
    assert info["model"] == checkpoint.read_info(trained.folder / CHECKPOINT)["model"]


def test_a_model_as_it_comes_has_no_start(tmp_path: Path) -> None:
    run = base_run(started(), runs_dir=tmp_path)
    keep(run)
    assert run.config == parse(DIRECT, overrides=SMALL) == read_config(run.folder / CONFIG)


# evaluation, repetition, first leaderboard


def test_a_result_shows_what_training_cost_in_all_and_is_repeated_with_its_start(
    undisturbed: Run, tmp_path: Path
) -> None:
    run = load_run(shutil.copytree(undisturbed.folder, tmp_path / undisturbed.folder.name))
    result = evaluate(EvalJob.of(run, "synth", limit=5))
    evaluation = read_evaluation(result)
    assert evaluation.manifest.config["start"]["method"]["name"] == "cot"
    assert evaluation.manifest.backbone == run.config.backbone
    summary = summarise(evaluation)
    costs = undisturbed.report["costs"]
    assert (summary.train_flops, summary.train_passes) == (costs["flops"], costs["epochs"])
    found = rerun(result, runs_dir=tmp_path)
    assert (found.num_identical, found.differences) == (5, ())
    assert (found.folder.parents[2] / start_of(run.config).run_id / TRAIN).exists()


def test_quickstart_trains_what_others_start_from_first_and_shortens_it_too(presets: dict[str, tree.Tree]) -> None:
    presets["direct"] = {"start": {"method": "cot", "train": {"epochs": 2}}}
    configs = quickstart_configs(every=False, seeds=[0, 1], settings={"train.max_steps": 3, "train.epochs": 2})
    assert [(config.method_name, config.seed) for config in configs] == [
        ("cot", 0),
        ("direct", 0),
        ("cot", 1),
        ("direct", 1),
    ]
    assert configs[1].start == configs[0]


def test_quickstart_lets_settings_of_a_start_win() -> None:
    settings = {"start.method": "cot", "train.lr": 1.0, "start.train.lr": 0.5}
    for config in quickstart_configs(every=False, seeds=[0], settings=settings):
        assert config.start is not None
        assert (config.train.lr, config.start.train.lr) == (1.0, 0.5)


# the lock


@contextmanager
def held(folder: Path, *, for_another: bool) -> Iterator[Event]:
    """Another thread holds the folder until the event is set."""
    taken, free = Event(), Event()

    def hold() -> None:
        with locked(folder, for_another=for_another):
            taken.set()
            free.wait(30)

    with ThreadPoolExecutor(1) as pool:
        holder = pool.submit(hold)
        assert taken.wait(30)
        try:
            yield free
        finally:
            free.set()
            holder.result(30)


@pytest.mark.parametrize(("holder", "waiter"), [(False, True), (True, False), (True, True)])
def test_a_start_that_another_process_trains_is_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], holder: bool, waiter: bool
) -> None:
    def take() -> bool:
        with locked(tmp_path, for_another=waiter):
            return free.is_set()

    with held(tmp_path, for_another=holder) as free, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(take)
        message = ""
        for _ in range(3000):
            if message := capsys.readouterr().err:
                break
            time.sleep(0.01)
        assert message.startswith("waiting for process ")
        assert message.rstrip().endswith(f"to finish {tmp_path}")
        assert not waiting.done()
        free.set()
        assert waiting.result(30)


def test_several_processes_of_a_run_do_not_wait_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        held(tmp_path, for_another=True),
        pytest.raises(ValueError, match="is being written by process"),
        locked(tmp_path, for_another=True),
    ):
        pass
