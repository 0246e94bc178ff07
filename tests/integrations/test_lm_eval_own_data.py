"""A data file in lm-eval's `--tasks` is asked and checked as `latbench eval` does it."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import lm_eval
import pytest
from lm_eval.evaluator import evaluate as lm_evaluate
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

import latbench
from latbench.config import parse
from latbench.data import hub
from latbench.integrations.lm_eval_adapter import LatbenchLM
from latbench.integrations.lm_eval_tasks import examples, own_data_task, with_own_data
from latbench.runs.run import Run
from latbench.runs.train import train
from tests.data.hub_cache import make_cache


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "sums.jsonl"
    rows = [{"q": f"mod 12: n0={number}+2; n0?", "answer": number + 2} for number in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "sums.yaml").write_text("columns: {question: q}\nkind: math\n")
    return path


def test_data_files_among_the_tasks_become_yaml_files(data: Path, tmp_path: Path) -> None:
    yaml = str(tmp_path / "sums.jsonl.yaml")
    given = ["--tasks", f"gsm8k,{data}", "--limit", "2"]
    assert with_own_data(given, tmp_path) == ["--tasks", f"gsm8k,{yaml}", "--limit", "2"]
    assert with_own_data([f"--tasks={data}"], tmp_path) == [f"--tasks={yaml}"]
    assert with_own_data(["run", "--tasks", "a", str(data), "--model", "b.json"], tmp_path)[3:] == [
        yaml, "--model", "b.json",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"task 'absent.csv': there is no such file"):
        with_own_data(["--tasks", "absent.csv"], tmp_path)


def test_the_options_say_what_own_data_are_and_only_that(data: Path, tmp_path: Path) -> None:
    (tmp_path / "sums.yaml").unlink()
    settings = {"task.columns": {"question": "q"}, "task.kind": "text"}
    (path,) = with_own_data(["--tasks", str(data)], tmp_path, settings)[1:]
    task = load_yaml(Path(path))
    assert task["metric_list"][0]["kind"] == "text"
    (rows,) = examples(**task["metadata"], **task["dataset_kwargs"]).values()
    assert rows["question"][1] == "mod 12: n0=1+2; n0?"
    with pytest.raises(ValueError, match="--columns, --kind and --prompt are about own data, and --tasks names none"):
        with_own_data(["--tasks", "gsm8k"], tmp_path, settings)


def test_a_run_on_own_data_says_how_others_are_asked_and_checked(data: Path, tmp_path: Path) -> None:
    own = ["train.max_steps=1", "train.batch_size=2", "model.hidden_size=16", "model.mlp_size=16"]
    run = train(
        parse({"method": "direct", "task": {"name": str(data), "prompt": "Q: {question}"}}, overrides=own),
        runs_dir=tmp_path / "runs",
    )
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"q": "1?", "answer": "x"}) + "\n", encoding="utf-8")
    arguments = ["--model_args", f"run={run.folder},think=false", "--tasks", str(other)]
    task = load_yaml(Path(with_own_data(arguments, tmp_path)[-1]))
    assert task["metric_list"][0]["kind"] == "math"
    (rows,) = examples(run=str(run.folder), **task["metadata"], **task["dataset_kwargs"]).values()
    assert rows["question"] == ["Q: 1?"]


def test_a_split_of_a_data_set_on_the_hub_is_a_task(
    latent: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"q": f"mod 12: n0={number}+2; n0?", "answer": number + 2} for number in range(3)]
    cache = make_cache(tmp_path, "lab/Sums", {"train": rows[:1], "held": rows}, "c0ffee")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr(hub, "hub_reachable", lambda: pytest.fail("the Hub was asked"))
    columns = {"task.columns": {"question": "q"}}
    own = latbench.evaluate(latent, "lab/Sums:held", columns=columns["task.columns"])
    assert own.manifest.data["lab--Sums/test"].source == "lab/Sums/default@c0ffee:held"
    given = ["--model", "latbench", "--model_args", f"run={latent.folder}", "--tasks", "lab/Sums:held"]
    (path,) = with_own_data(given, tmp_path, columns)[-1:]
    loaded = TaskManager(include_defaults=False, metadata={"run": str(latent.folder)}).load([load_yaml(Path(path))])
    done = lm_evaluate(LatbenchLM(latent.folder, batch_size="auto"), loaded, bootstrap_iters=0)
    answers = [text for sample in done["samples"]["lab--Sums"] for ((text,),) in [sample["resps"]]]
    assert answers == [record.text for record in own.records]
    assert latbench.get_task("lab/Sums", columns=columns["task.columns"]).load("train")[0].answer == "2"


def test_a_yaml_file_about_own_data_is_no_yaml_file_of_lm_eval(data: Path, tmp_path: Path) -> None:
    about, theirs = tmp_path / "about.yaml", tmp_path / "theirs.yaml"
    about.write_text("path: sums.jsonl\nkind: number\n")
    theirs.write_text("task: mine\ndataset_path: json\n")
    found = with_own_data(["--tasks", f"{about},{theirs},{tmp_path}"], tmp_path)[1].split(",")
    assert [Path(name).name for name in found[:2]] == ["sums.jsonl.yaml", "theirs.yaml"]
    assert found[1:] == [str(theirs), str(tmp_path)]
    assert load_yaml(Path(found[0]))["metric_list"][0]["kind"] == "number"


def test_python_takes_own_data_as_a_task_of_lm_eval(latent: Run, data: Path) -> None:
    own = latbench.evaluate(latent, str(data), limit=3)
    task = own_data_task(str(data), run=latent.folder)
    done = lm_eval.simple_evaluate(
        model="latbench", model_args={"run": str(latent.folder)}, tasks=[task], batch_size="auto", limit=3,
        bootstrap_iters=0,
    )  # fmt: skip
    correct = sum(record.status == "correct" for record in own.records)
    assert done["results"]["sums.jsonl"]["latbench_correct,none"] == pytest.approx(correct / 3)


def test_the_answers_are_those_of_our_own_evaluation(latent: Run, data: Path, tmp_path: Path) -> None:
    own = latbench.evaluate(latent, str(data))
    (path,) = with_own_data(["--tasks", str(data)], tmp_path)[1:]
    task = load_yaml(Path(path))
    loaded = TaskManager(include_defaults=False, metadata={"run": str(latent.folder)}).load([task])
    done = lm_evaluate(LatbenchLM(latent.folder, batch_size="auto"), loaded, bootstrap_iters=0)
    assert [text for sample in done["samples"]["sums.jsonl"] for ((text,),) in [sample["resps"]]] == [
        record.text for record in own.records
    ]
    correct = sum(record.status == "correct" for record in own.records)
    assert done["results"]["sums.jsonl"]["latbench_correct,none"] == pytest.approx(correct / 4)
