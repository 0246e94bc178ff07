"""Runs of a method without training: over the model of a start, which is all that is trained, or of any model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from latbench.cli import main
from latbench.cli.quickstart import quickstart, quickstart_configs
from latbench.config import RunConfig, parse
from latbench.evaluation.evaluate import evaluate
from latbench.evaluation.job import EvalJob
from latbench.evaluation.metrics import summarise
from latbench.evaluation.records import read_evaluation
from latbench.evaluation.rerun import rerun
from latbench.listing import texts
from latbench.measures.latents import StoredTrace
from latbench.measures.trace import NoLatentStepsError, trace
from latbench.report.leaderboard import leaderboard
from latbench.runs.run import CHECKPOINT, TRAIN, Run, load_run
from latbench.runs.train import base_run, train
from latbench.sweeps.running import run_sweep
from latbench.sweeps.sweep import SweepConfig
from latbench.training import checkpoint
from tests.made_runs import SMALL
from tests.runs.test_start import equal
from tests.sweep.test_sweep import InProcess, ignore

START = ("start.train.max_steps=2", "start.train.batch_size=4")  # the run of the fixture `trained`
DECODING = ("generate.max_latents=6",)


def over_cot(*overrides: str) -> RunConfig:
    """The tiny preset, which starts from `cot`."""
    return parse({"method": "soft_thinking"}, overrides=(*SMALL, *DECODING, *START, *overrides))


@pytest.fixture
def runs_dir(trained: Run, tmp_path: Path) -> Path:
    """A folder of runs that holds the start already."""
    shutil.copytree(trained.folder, tmp_path / "runs" / trained.folder.name)
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def undisturbed(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run over the trained start; not to be written to."""
    folder = tmp_path_factory.mktemp("training_free")
    shutil.copytree(trained.folder, folder / trained.folder.name)
    return train(over_cot(), runs_dir=folder)


@pytest.fixture
def run(undisturbed: Run, tmp_path: Path) -> Run:
    """A copy of it, beside its start."""
    shutil.copytree(undisturbed.folder.parent, tmp_path / "runs")
    return load_run(tmp_path / "runs" / undisturbed.folder.name)


# training


def test_the_tiny_preset_starts_from_the_cot_run_of_the_same_settings(small: RunConfig) -> None:
    config = over_cot("generate.max_latents=128")
    assert config.start is not None
    assert config.start.run_id == small.run_id


def test_the_checkpoint_is_the_starts_model_under_the_method(undisturbed: Run, trained: Run) -> None:
    assert equal(undisturbed, trained)
    info = checkpoint.read_info(undisturbed.folder / CHECKPOINT)
    assert info["method"] == undisturbed.method.name == "soft_thinking"
    assert not (undisturbed.folder / "stages").exists()


def test_costs_and_data_are_those_of_the_start(undisturbed: Run, trained: Run) -> None:
    report, start = undisturbed.report, trained.report
    assert report["trained"]
    assert report["costs"] == start["costs"] == report["start"]["costs"]
    assert report["start"]["run"] == trained.folder.name
    assert report["report"]["optimiser_steps"] == 0
    for key in ("train_data", "data", "num_contaminated", "dropped"):
        assert report[key] == start[key]


def test_data_that_the_start_alone_was_trained_on_are_named(tmp_path: Path) -> None:
    run = train(over_cot("start.train.num_examples=8"), runs_dir=tmp_path)
    assert run.report["train_data"].startswith("synth/train n=8 ")


def test_variants_share_one_start(runs_dir: Path, trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing is trained")

    monkeypatch.setattr("latbench.training.trainer._train_stage", refuse)
    for variant in ("soft", "gumbel", "moi"):
        assert equal(train(over_cot(f"method.variant={variant}"), runs_dir=runs_dir), trained)


def test_the_start_is_trained_where_it_is_absent(tmp_path: Path, undisturbed: Run) -> None:
    assert equal(train(over_cot(), runs_dir=tmp_path), undisturbed)


def test_adapters_change_nothing(tmp_path: Path) -> None:
    config = over_cot("model.lora.rank=2")
    assert config.start is not None
    run = train(config, runs_dir=tmp_path)
    assert equal(run, load_run(tmp_path / config.start.run_id), tolerance=1e-6)


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_killed_after_its_start_goes_on(
    runs_dir: Path, undisturbed: Run, monkeypatch: pytest.MonkeyPatch, resume: bool
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            train(over_cot(), runs_dir=runs_dir)
    assert equal(train(over_cot(), runs_dir=runs_dir, resume=resume), undisturbed)  # nothing was lost either way
    with pytest.raises(ValueError, match="exists and is finished"):
        train(over_cot(), runs_dir=runs_dir)
    assert train(over_cot(), runs_dir=runs_dir, resume=True).is_complete


def test_another_run_may_start_from_it(runs_dir: Path, trained: Run) -> None:
    still = ("train.lr=1e-12", "train.weight_decay=0", "train.max_steps=1")
    given = ("start.method=soft_thinking", "start.start.train.max_steps=2", "start.start.train.batch_size=4")
    run = train(parse({"method": "direct"}, overrides=(*SMALL, *still, *given)), runs_dir=runs_dir)
    assert equal(run, trained, tolerance=1e-6)
    assert run.report["costs"]["optimiser_steps"] == 3


def test_without_a_start_there_is_nothing_to_train(tmp_path: Path) -> None:
    sentence = "method 'soft_thinking' needs no training; use `latbench eval --model tiny --method soft_thinking`"
    with pytest.raises(ValueError, match=sentence):
        train(over_cot("start=null"), runs_dir=tmp_path)
    given = ("start.method=soft_thinking", "start.start=null")
    with pytest.raises(ValueError, match=r"start\.method 'soft_thinking' needs no training, so nothing starts from it"):
        train(parse({"method": "direct"}, overrides=(*SMALL, *given)), runs_dir=tmp_path)


# evaluation


def test_a_result_is_listed_ranked_traced_and_repeated_with_its_start(run: Run) -> None:
    runs_dir, result = run.folder.parent, evaluate(EvalJob.of(run, "synth", limit=5))
    evaluation = read_evaluation(result)
    assert all(0 <= record.num_latents <= 6 for record in evaluation.records)
    assert any(record.num_latents for record in evaluation.records)
    assert summarise(evaluation).train_flops == run.report["costs"]["flops"]
    assert texts("runs", runs_dir)[run.folder.name] == "trained, synth-test-first5"
    assert "| soft_thinking" in leaderboard([runs_dir], ("md",), None).text_by_format["md"]
    found = rerun(result, runs_dir=runs_dir)
    assert (found.num_identical, found.differences) == (5, ())
    traces = StoredTrace.open(trace(EvalJob.of(run, "synth", limit=5)))
    assert traces.num_latents == sum(record.num_latents for record in evaluation.records)


def test_text_has_no_trace(runs_dir: Path) -> None:
    run = train(over_cot("method.variant=discrete"), runs_dir=runs_dir)
    with pytest.raises(NoLatentStepsError, match=r"takes no latent steps \(method 'soft_thinking'\)"):
        trace(EvalJob.of(run, "synth", limit=5))


def test_a_method_over_a_checkpoint_answers_as_the_run_that_starts_from_it(run: Run) -> None:
    config = run.config
    assert config.start is not None
    model = str(run.folder.parent / config.start.run_id / CHECKPOINT)
    keys = ("temperature", "top_k", "top_p", "min_p", "max_topk", "cold_stop_steps")
    settings = [f"method.{key}={getattr(config.method, key)}" for key in keys]
    task = ["task.min_ops=2", "task.max_ops=4", "task.order=canonical", "task.step_names=false"]
    given = {"method": "soft_thinking", "model": {"id": model}}
    over = base_run(parse(given, overrides=(*SMALL, *DECODING, *task, *settings)), runs_dir=run.folder.parent)
    answers = [
        [record.text for record in read_evaluation(evaluate(EvalJob.of(each, "synth"))).records] for each in (run, over)
    ]
    assert answers[0] == answers[1]
    assert rerun(over.folder / "eval" / "synth-test", runs_dir=run.folder.parent).num_identical == 20


def test_what_is_not_there_to_evaluate_is_one_sentence(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.folder.parent.parent)
    (run.folder / TRAIN).unlink()
    for arguments, sentence in (
        ([run.folder.name], "is not trained to its end; continue it with `latbench train --resume`"),
        (["synth-soft_thinking"], "error: no run in runs/synth-soft_thinking (config.yaml is missing); runs"),
        (["--model", "runs/cot/checkpoint", "--method", "soft_thinking"], "'runs/cot/checkpoint' could not be loaded"),
    ):
        capsys.readouterr()
        assert main(["eval", *arguments]) == 2
        found = capsys.readouterr()
        assert sentence in found.err
        assert (found.out, found.err.count("\n")) == ("", 1)


# sweep and quickstart


@pytest.mark.slow
def test_a_sweep_trains_and_evaluates_variants_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base: dict[str, Any] = {
        "task": {"num_train": 40, "num_test": 6},
        "start": {"train": {"max_steps": 1, "batch_size": 4}},
        "generate": {"max_new_tokens": 4, "max_latents": 4},
        "model": {"hidden_size": 16, "num_heads": 2, "num_layers": 1, "mlp_size": 16},
    }
    variants: list[dict[str, Any]] = [{}, {"method.variant": "gumbel"}, {"method.variant": "discrete"}]
    sweep = SweepConfig(methods=["soft_thinking"], base=base, settings=variants)
    report = run_sweep(sweep, InProcess(), runs_dir=tmp_path / "runs", resume=False, on_end=ignore)
    assert (len(report.results), report.failed) == (3, [])
    again = run_sweep(sweep, InProcess(), runs_dir=tmp_path / "runs", resume=False, on_end=ignore)
    assert (len(again.skipped), again.results) == (3, [])
    board = leaderboard([tmp_path / "runs"], ("csv",), None).text_by_format["csv"]
    assert board.count("method.variant=") == 2
    assert len(list((tmp_path / "runs").glob(f"synth-cot-*/{TRAIN}"))) == 1


@pytest.mark.slow
def test_quickstart_of_all_methods_trains_the_start_first(tmp_path: Path) -> None:
    settings = {text.split("=")[0]: json.loads(text.split("=")[1]) for text in (*SMALL, *DECODING)}
    configs = quickstart_configs(every=True, seeds=[0], settings=settings)
    names = [config.method_name for config in configs]
    assert names.index("cot") < names.index("soft_thinking")
    chosen = [config for config in configs if config.method_name in ("cot", "soft_thinking")]
    done = quickstart(chosen, runs_dir=tmp_path, out=tmp_path / "out", limit=4)
    costs = [read_evaluation(folder).manifest.train for folder in done.evaluations]
    assert costs[0] == costs[1]
