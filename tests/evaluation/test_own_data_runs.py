"""Own data in every command: trained on, evaluated, repeated, checked; known by content, not by place."""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import latbench
from latbench.cli import main
from latbench.config import RunConfig, parse
from latbench.data.own_data import OwnDataConfig
from latbench.evaluation.evaluate import evaluate
from latbench.evaluation.job import EvalJob
from latbench.evaluation.plan import plan, questions
from latbench.evaluation.records import read_evaluation, write_manifest
from latbench.evaluation.rerun import rerun
from latbench.runs.run import Run, load_run
from latbench.runs.train import train
from latbench.submission import check
from latbench.sweeps.sweep import SweepConfig, members
from tests.made_runs import SMALL

SETTINGS = [text for text in SMALL if not text.startswith("task.")]
OPTIONS = [f"--set={text}" for text in SETTINGS]


def write(path: Path, first: int, count: int) -> Path:
    rows = [
        {"q": f"{number}+2?", "steps": [f"{number}+2={number + 2}"], "a": number + 2}
        for number in range(first, first + count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and a run on them in `runs`; not to be written to."""
    folder = tmp_path_factory.mktemp("own")
    data = write(folder / "sums.jsonl", 0, 12)
    write(folder / "others.jsonl", 100, 5)
    columns = {"question": "q", "answer": "a"}
    task = {"name": str(data), "columns": columns, "held_out": 4, "prompt": "Sum: {question}"}
    train(parse({"method": "cot", "task": task}, overrides=SETTINGS), runs_dir=folder / "runs")
    return folder


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> Run:
    """A copy of the run; the data stay where they were."""
    (original,) = (folder / "runs").iterdir()
    shutil.copytree(original, tmp_path / "runs" / original.name)
    return load_run(tmp_path / "runs" / original.name)


def test_a_run_is_evaluated_on_what_it_held_out(run: Run, folder: Path) -> None:
    found = latbench.evaluate(run)
    manifest = found.manifest
    assert (manifest.task, manifest.split, manifest.n, manifest.contaminated) == ("sums.jsonl", "test", 4, 0)
    assert manifest.train_data.startswith("sums.jsonl/train n=8 sha256=")
    assert manifest.variant.startswith("task.columns.question=q task.columns.answer=a task.prompt=Sum: {question} ")
    assert "sha256" not in manifest.variant
    assert str(folder) not in manifest.variant
    assert found.folder.name == "sums.jsonl-test"
    by_path = latbench.evaluate(run, str(folder / "sums.jsonl"))
    assert by_path.folder == found.folder  # the same file: the run's own data


def test_other_own_data_are_asked_as_the_runs_own(run: Run, folder: Path) -> None:
    job = EvalJob.of(run, str(folder / "others.jsonl"), limit=3)
    assert [example.question for example in job.examples] == ["Sum: 100+2?", "Sum: 101+2?", "Sum: 102+2?"]
    assert job.folder.name.startswith("others.jsonl-test-first3-")
    other = EvalJob.of(run, str(folder / "others.jsonl"), limit=3, changes={"task.prompt": "{question}"})
    assert other.folder != job.folder
    assert other.manifest.setting != job.manifest.setting


def test_columns_named_for_other_own_data_are_all_of_its_columns(run: Run, tmp_path: Path) -> None:
    tree = run.config.to_tree()
    tree["task"]["columns"] = {"question": "q", "answer": "a", "steps": "work"}
    named = RunConfig.from_tree(tree)
    data = tmp_path / "bare.jsonl"
    data.write_text('{"q": "1+2?", "a": 3}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"field 'work' is missing; .*, or name the other columns alone"):
        questions(plan(named, str(data)))
    asked = plan(named, str(data), changes={"task.columns": {"question": "q", "answer": "a"}})
    [example] = questions(asked)[1]
    assert (example.question, example.steps, example.answer) == ("Sum: 1+2?", (), "3")


def test_a_free_question_is_asked_as_it_is(run: Run) -> None:
    assert latbench.Run.of(run).inspect("Sum: 7 and 2?").question == "Sum: 7 and 2?"
    (first, *_) = EvalJob.of(run).examples
    assert latbench.Run.of(run).inspect(first.question).id == first.id


@pytest.mark.parametrize("name", ["sums.jsonl", "others.jsonl"])
def test_a_result_is_repeated_and_checked_wherever_its_file_lies(
    name: str, run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LATBENCH_DATA_DIR", raising=False)
    data = shutil.copy(folder / name, tmp_path / name)
    result = evaluate(EvalJob.of(run, str(data)))
    found = rerun(result, runs_dir=tmp_path / "again")
    assert found.num_identical == found.n
    assert found.reproduced
    submitted = tmp_path / "results"
    shutil.copytree(result, submitted)
    (submitted / "records.jsonl.gz").write_bytes(gzip.compress((submitted / "records.jsonl").read_bytes()))
    (submitted / "records.jsonl").unlink()
    assert check([submitted]).problems == []
    moved = Path(data).rename(tmp_path / "again" / name)
    (problem,) = check([submitted]).problems
    assert f"cannot be checked: the data of task '{name}' are no longer at {data}; put the file" in problem
    monkeypatch.setenv("LATBENCH_DATA_DIR", str(moved.parent))
    assert check([submitted]).problems == []
    moved.write_text(moved.read_text().replace("2?", "3?"))
    assert "is not the file that task" in check([submitted]).problems[0]


def test_a_check_downloads_no_data_set_that_a_submission_names(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = evaluate(EvalJob.of(run, str(folder / "others.jsonl"), limit=2))
    manifest = read_evaluation(result).manifest
    config = json.loads(json.dumps(manifest.config))
    config["eval"]["task"] |= {"name": "lab--sums", "path": "lab/sums", "sha256": ""}
    write_manifest(result, replace(manifest, config=config))
    monkeypatch.setattr("latbench.data.own_data.is_cached", lambda source: False)
    monkeypatch.setattr("latbench.data.own_data.hub_rows", lambda source: pytest.fail("it was loaded"))
    (problem,) = check([result]).problems
    assert "its data set lab/sums is not in the Hugging Face cache, and a check downloads none" in problem


def test_another_file_of_that_name_is_another_task(run: Run, tmp_path: Path) -> None:
    other = write(tmp_path / "sums.jsonl", 50, 6)
    job, own = EvalJob.of(run, str(other)), EvalJob.of(run)
    assert job.folder != own.folder
    assert len(job.examples) == 6  # what the run held out says nothing of another file
    assert own.examples[0].question.startswith("Sum: ")


def test_the_commands_take_a_file(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    runs = ["--runs-dir", str(tmp_path / "runs")]
    own = ["--columns", "question=q,answer=a", "--kind", "math", "--prompt", "{question}"]
    latent = ["--method", "coconut", "--set=start=null", "--set=method.max_stage=1"]
    assert main(["train", *latent, "--task", "sums.jsonl", *own, *OPTIONS, *runs]) == 0
    (trained,) = (tmp_path / "runs").iterdir()
    task = load_run(trained).config.task
    assert isinstance(task, OwnDataConfig)
    assert task.kind == "math"
    assert main(["eval", "--tasks", "others.jsonl,synth", "--limit", "2", *runs]) == 0
    assert sorted(path.name[:10] for path in (trained / "eval").iterdir()) == ["others.jso", "synth-test"]
    assert main(["trace", trained.name, "--task", "others.jsonl", "--limit", "2", *runs]) == 0
    base = ["eval", "--model", "tiny", "--method", "cot", "--tasks", "others.jsonl", *own, *OPTIONS[-5:], *runs]
    assert main([*base, "--limit", "2"]) == 0
    capsys.readouterr()
    assert main(["eval", "--tasks", "absent.jsonl", *runs]) == 2
    assert capsys.readouterr().err == "error: task 'absent.jsonl': there is no such file; give the path of one\n"
    assert main(["train", "--method", "cot", "--task", "sums.jsonl", "--columns", "question", *runs]) == 2
    assert "--columns takes FIELD=COLUMN pairs" in capsys.readouterr().err
    assert main(["train", "--method", "cot", "--task", "sums.jsonl", "--columns", "answer=a,answer=b", *runs]) == 2
    assert "--columns names 'answer' twice" in capsys.readouterr().err
    assert main(["train", "--method", "cot", "--task", "sums.jsonl", *OPTIONS, *runs]) == 2
    assert "sums.jsonl, line 1: field 'question' is missing; the row has q, steps, a" in capsys.readouterr().err
    assert not list((tmp_path / "runs").glob("sums.jsonl-cot-*"))  # refused, so that nothing is left


def test_a_sweep_takes_files(folder: Path, tmp_path: Path) -> None:
    sweep = SweepConfig(
        methods=["cot"],
        tasks=[str(folder / "sums.jsonl")],
        evaluate=[str(folder / "others.jsonl")],
        base={"task": {"columns": {"question": "q", "answer": "a"}}},
    )
    (member,) = members(sweep, tmp_path)
    assert member.run.folder.name.startswith("sums.jsonl-cot-")
    assert [job.settings.task_name for job in member.jobs(sweep)] == ["others.jsonl"]
    assert len(member.jobs(sweep)[0].examples) == 5


def test_an_evaluation_begun_on_a_file_that_changed_is_refused(run: Run, folder: Path, tmp_path: Path) -> None:
    data = shutil.copy(folder / "others.jsonl", tmp_path / "others.jsonl")
    result = evaluate(EvalJob.of(run, str(data)))
    before = read_evaluation(result)
    write(Path(data), 200, 5)
    again = evaluate(EvalJob.of(run, str(data)))
    assert again != result  # other questions, in a folder of their own
    assert read_evaluation(result) == before
