"""Training runs: the folder, who may write it, what is refused, what is recorded."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from latbench.config import RunConfig, parse, read_config
from latbench.runs.lock import LOCK, locked
from latbench.runs.run import CHECKPOINT, CONFIG, TRAIN, Run, find_run, load_run, run_folders
from latbench.runs.train import base_run, keep, train, training_examples
from latbench.task import Example, Fingerprint, Task, TaskConfig
from latbench.training import checkpoint
from latbench.util.files import write_whole
from tests.generations import num_reasoning_tokens


def weights(run: Run) -> bytes:
    return (run.folder / CHECKPOINT / "model.safetensors").read_bytes()


def test_a_run_holds_configuration_checkpoint_and_report(small: RunConfig, trained: Run) -> None:
    assert trained.folder.name == small.run_id
    assert read_config(trained.folder / CONFIG) == small
    report = json.loads((trained.folder / TRAIN).read_text())
    assert report["costs"]["optimiser_steps"] == 2
    assert report["costs"]["flops"] > 0
    assert report["train_data"].startswith("synth/train n=40 sha256=")
    assert report["data"]["synth/train"]["num_examples"] == 40
    assert report["num_contaminated"] == 0
    assert report["versions"]["torch"]


def test_a_loaded_run_generates(trained: Run) -> None:
    answers = load_run(trained.folder).generate(["n0 = 1 + 2 ; n0 ?", "n0 = 3 + 2 ; n0 ?"], max_new_tokens=3)
    assert [num_reasoning_tokens(answer) <= 3 for answer in answers] == [True, True]


def test_an_existing_run_is_refused_unless_resumed(run: Run) -> None:
    before = weights(run)
    with pytest.raises(ValueError, match="exists and is finished; continue it with --resume"):
        train(run.config, runs_dir=run.folder.parent)
    resumed = train(run.config, runs_dir=run.folder.parent, resume=True)
    assert resumed.folder == run.folder
    assert weights(run) == before


def test_an_interrupted_run_is_unfinished_and_resumes_to_the_same_weights(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(trained.config, runs_dir=tmp_path)
    with pytest.raises(ValueError, match="exists and is unfinished"):
        train(trained.config, runs_dir=tmp_path)
    with pytest.raises(ValueError, match="is not trained to its end"):
        load_run(tmp_path / trained.config.run_id).method  # noqa: B018
    assert weights(train(trained.config, runs_dir=tmp_path, resume=True)) == weights(trained)


def test_a_run_that_failed_before_its_first_step_starts_anew(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_data(*_: Any) -> None:
        raise ValueError("no data")

    with monkeypatch.context() as patch:
        patch.setattr("latbench.runs.train.training_examples", no_data)
        with pytest.raises(ValueError, match="no data"):
            train(trained.config, runs_dir=tmp_path)
    assert weights(train(trained.config, runs_dir=tmp_path)) == weights(trained)


def test_a_finished_run_keeps_its_logs_and_one_copy_of_its_weights(trained: Run) -> None:
    assert list(trained.folder.rglob("*.safetensors")) == [trained.folder / CHECKPOINT / "model.safetensors"]
    assert (trained.folder / "stages" / "0-sft" / "log.jsonl").exists()


def test_a_folder_of_other_files_is_left_alone(small: RunConfig, tmp_path: Path) -> None:
    (tmp_path / small.run_id).mkdir()
    (tmp_path / small.run_id / "thesis.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(ValueError, match=r"holds files that are no run \(thesis.txt\)"):
            train(small, runs_dir=tmp_path, resume=resume)
    assert sorted(path.name for path in (tmp_path / small.run_id).iterdir()) == [LOCK, "thesis.txt"]


def test_two_writers_on_one_folder_are_refused(run: Run) -> None:
    with (
        locked(run.folder),
        pytest.raises(ValueError, match=f"is being written by process {os.getpid()}; wait for it"),
    ):
        train(run.config, runs_dir=run.folder.parent, resume=True)


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from latbench.runs.lock import locked\n"
        "with locked(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[2], check=False)
    assert (tmp_path / LOCK).read_text().isdigit()
    with locked(tmp_path):
        assert (tmp_path / LOCK).read_text() == str(os.getpid())


def test_other_ranks_of_a_distributed_run_take_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with locked(tmp_path / "run"):
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("num_whole", [0, 1])
def test_a_full_disk_leaves_a_run_that_resumes(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_whole: int
) -> None:
    calls: list[Any] = []

    def full(*args: Any) -> None:
        calls.append(args)
        if len(calls) > num_whole:  # 0: the configuration, 1: what is written after training
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            train(trained.config, runs_dir=tmp_path)
    assert not Run(tmp_path / trained.config.run_id, trained.config).is_complete
    assert weights(train(trained.config, runs_dir=tmp_path, resume=True)) == weights(trained)


def test_a_file_that_must_be_whole_is_never_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "a", "before")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "a", "after")
    assert (tmp_path / "a").read_text() == "before"


def test_a_foreign_or_corrupt_checkpoint_is_refused(run: Run) -> None:
    info = run.folder / CHECKPOINT / "latbench.json"
    info.write_text(info.read_text().replace('"method": "cot"', '"method": "direct"'))
    with pytest.raises(ValueError, match="has method 'direct', not 'cot'"):
        load_run(run.folder).method  # noqa: B018
    (run.folder / CHECKPOINT / "model.safetensors").write_bytes(b"")
    info.write_text(info.read_text().replace('"method": "direct"', '"method": "cot"'))
    with pytest.raises(ValueError, match="is damaged"):
        load_run(run.folder).method  # noqa: B018
    for text in ("{", '{"trained": true}'):
        (run.folder / TRAIN).write_text(text)
        with pytest.raises(ValueError, match=r"train.json is damaged"):
            load_run(run.folder).method  # noqa: B018


def test_a_finished_run_that_lost_its_report_keeps_its_weights(run: Run) -> None:
    before = weights(run)
    (run.folder / TRAIN).unlink()
    with pytest.raises(ValueError, match=f"is complete but its weights are gone; remove {run.folder} to train anew"):
        train(run.config, runs_dir=run.folder.parent, resume=True)
    assert weights(run) == before


def test_a_place_where_no_folder_can_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(path: Path, **_: Any) -> None:  # as /proc does
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path.parent))

    monkeypatch.setattr(Path, "mkdir", refuses)
    with pytest.raises(NotADirectoryError, match=f"no folder can be made there: '{tmp_path / 'run'}'"):
        locked(tmp_path / "run").__enter__()


def test_a_missing_run_names_those_at_hand(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"no run in .*; runs beside it: {run.folder.name}"):
        load_run(run.folder.parent / "other")
    with pytest.raises(ValueError, match="`latbench list runs` shows"):
        load_run(tmp_path / "nowhere" / "run")


def test_a_configuration_that_was_changed_after_training_is_not_believed(run: Run) -> None:
    path = run.folder / CONFIG
    text = path.read_text()
    for there, edited, told in (
        ("seed: 0", "seed: 7", "seed 7, which was 0"),
        ("hidden_size: 16", "hidden_size: 32", "model.hidden_size 32, which was 16"),
        ("max_steps: 2", "max_steps: 200", "train.max_steps 200, which was 2"),
    ):
        path.write_text(text.replace(there, edited, 1))
        with pytest.raises(ValueError, match=rf"config.yaml is not what the model .* was trained with \({told}\)"):
            _ = load_run(run.folder).method
    path.write_text(text.replace("max_new_tokens: 12", "max_new_tokens: 9").replace("device: auto", "device: cpu"))
    assert load_run(run.folder).method.backbone.device.type == "cpu"


def test_the_latest_trained_run_is_the_default(run: Run) -> None:
    runs_dir = run.folder.parent
    config, report = (run.folder / CONFIG).read_text(), json.loads((run.folder / TRAIN).read_text())
    for name, age, trained in (("older", -100, True), ("newer", 100, True), ("untrained", 200, False)):
        other = runs_dir / name
        other.mkdir()
        (other / CONFIG).write_text(config)
        (other / TRAIN).write_text(json.dumps(report | {"trained": trained}))
        os.utime(other / TRAIN, (run.folder.stat().st_mtime + age,) * 2)
    (runs_dir / "unfinished").mkdir()
    (runs_dir / "unfinished" / CONFIG).write_text(config)
    assert find_run(None, runs_dir).name == "newer"
    assert find_run("older", runs_dir) == runs_dir / "older"
    assert [folder.name for folder in run_folders(runs_dir)] == sorted(
        ["older", "newer", "unfinished", "untrained", run.folder.name]
    )
    with pytest.raises(ValueError, match="no trained run in"):
        find_run(None, runs_dir / "none")


@pytest.mark.parametrize("error", [OSError("no route"), RuntimeError("no memory"), ModuleNotFoundError("no flash")])
def test_a_start_that_fails_leaves_no_folder(
    error: Exception, small: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("latbench.model.backbone.Backbone.load", fail)
    with pytest.raises(type(error)):
        train(small, runs_dir=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_the_last_loss_is_that_of_the_log(run: Run) -> None:
    (log,) = run.folder.glob("stages/*/log.jsonl")
    assert run.last_loss == json.loads(log.read_text(encoding="utf-8").splitlines()[-1])["loss"]


def test_a_base_run_has_a_method_without_training(small: RunConfig, tmp_path: Path) -> None:
    run = base_run(small, runs_dir=tmp_path)
    assert run.folder.name == small.base_id == small.run_id.replace("synth-", "base-")
    assert run.report["trained"] is False
    assert base_run(small, runs_dir=tmp_path).method.name == "cot"
    assert list(tmp_path.iterdir()) == [], "a start that fails leaves no folder"
    keep(run)
    assert load_run(run.folder).report == run.report


class Leaky(Task[TaskConfig]):
    """Row 1 of training is a test question, written otherwise."""

    splits = ("train", "test")

    def load(self, split: str) -> list[Example]:
        questions = ["One?", "Two, or three?", "Four?"] if split == "train" else ["two or  THREE"]
        return [Example(id=f"{split}-{i}", question=q, steps=(), answer="1") for i, q in enumerate(questions)]

    def fingerprint(self, split: str) -> Fingerprint:
        return Fingerprint(source="here", sha256="0" * 64, num_examples=3)

    def score_many(self, pairs: Any) -> Any:
        raise AssertionError("nothing is scored in training")


def test_contaminated_rows_are_counted_and_dropped_on_request() -> None:
    for drop, ids in (("false", ["train-0", "train-1", "train-2"]), ("true", ["train-0", "train-2"])):
        config = parse({"method": "cot"}, overrides=[f"train.drop_contaminated={drop}"])
        examples, facts = training_examples(Leaky(TaskConfig()), config)
        assert [example.id for example in examples] == ids
        assert facts["num_contaminated"] == 1
        assert facts["train_data"] == f"synth/train n={len(ids)} sha256=00000000"


def test_rows_that_another_task_asks_are_counted_by_its_name_and_dropped_too(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [Example(id="a", question="Four?", steps=(), answer="1")]
    monkeypatch.setattr(Leaky, "overlaps", ("multiarith", "svamp"))
    monkeypatch.setattr("tasks.multiarith.MultiArith.load", lambda self, split: asked)

    def absent(self: Any, split: str) -> list[Example]:
        raise ValueError("no data for task 'svamp'")

    monkeypatch.setattr("tasks.svamp.Svamp.load", absent)
    examples, facts = training_examples(Leaky(TaskConfig()), parse({"method": "cot"}))
    assert len(examples) == 3
    assert facts["num_contaminated"] == 1
    assert facts["overlaps"] == {"multiarith": 1}
    drop = parse({"method": "cot"}, overrides=["train.drop_contaminated=true"])
    with pytest.raises(ValueError, match="no data for task 'svamp'"):
        training_examples(Leaky(TaskConfig()), drop)
    monkeypatch.setattr(Leaky, "overlaps", ("multiarith",))
    examples, facts = training_examples(Leaky(TaskConfig()), drop)
    assert [example.id for example in examples] == ["train-0"]


def test_num_examples_takes_the_first_of_the_split() -> None:
    config = parse({"method": "cot"}, overrides=["train.num_examples=1"])
    examples, facts = training_examples(Leaky(TaskConfig()), config)
    assert [example.id for example in examples] == ["train-0"]
    assert facts["num_contaminated"] == 0
