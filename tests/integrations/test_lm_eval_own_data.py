"""A data file in lm-eval's `--tasks` is asked and checked as `latbench eval` does it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lm_eval.evaluator import evaluate as lm_evaluate
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

import latbench
from latbench.integrations.lm_eval_adapter import LatbenchLM
from latbench.integrations.lm_eval_tasks import with_own_data
from latbench.runs.run import Run


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
