"""Measures of own data: what `eval` was told of them need not be told again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import latbench
from latbench.evaluation.job import EvalJob
from latbench.evaluation.stored import job_on_file
from latbench.runs.run import Run
from tests.measured_runs import call

Say = Callable[..., tuple[int, str, str]]
WORDS = ("--columns", "question=q,steps=work,answer=a", "--kind", "math", "--prompt", "mod 10: {question}")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "sums.jsonl"
    rows = [{"q": f"n0={n}+2; n0?", "work": [f"<<{n}+2={n + 2}>>"], "a": n + 2} for n in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def say(coconut: Run, capsys: pytest.CaptureFixture[str]) -> Say:
    """Runs a command on the run. Returns: exit code, standard output, standard error."""

    def run(command: str, *words: str) -> tuple[int, str, str]:
        return call(capsys, command, *words, "--runs-dir", str(coconut.folder.parent))

    return run


def evaluated(say: Say, run: Run, data: Path, *words: str) -> Path:
    """The folder of an evaluation on the data."""
    code, out, err = say("eval", run.folder.name, "--tasks", str(data), "--limit", "3", *words)
    assert code == 0, err
    return Path(out.splitlines()[-1])


def test_the_evaluation_is_named_and_nothing_is_said_twice(say: Say, coconut: Run, data: Path) -> None:
    folder = evaluated(say, coconut, data, *WORDS)
    for command in (["trace"], ["inspect"], ["parallelism"], ["reliance", "--interventions", "zeros"]):
        code, _, err = say(command[0], str(folder), *command[1:])
        assert code == 0, err
    assert {"trace", "latents.json", "parallelism.json", "reliance.json"} <= {path.name for path in folder.iterdir()}
    assert len(list(folder.parent.iterdir())) == 2  # that of the run's own task, and this one
    code, out, _ = say("inspect", str(folder), "--index", "1", "--json")
    assert json.loads(out)["question"] == "mod 10: n0=1+2; n0?"
    assert say("cost", str(folder), "--rounds", "1")[0] == 0
    code, _, err = say("trace", str(folder), "--task", "synth")
    assert (code, err) == (
        2,
        f"error: {folder} is an evaluation, which has its task; leave out --task, or name the run\n",
    )


def test_settings_of_a_named_evaluation_give_way_to_options(say: Say, coconut: Run, data: Path) -> None:
    folder = evaluated(say, coconut, data, *WORDS)
    code, out, _ = say("trace", str(folder), "--limit", "2", "--json")
    found = json.loads(out)
    assert (code, found["n"], found["shown"]) == (0, 2, None)
    assert Path(found["folder"]).parent.name == folder.name.replace("first3", "first2")


def test_the_words_of_eval_are_those_of_a_measure(say: Say, coconut: Run, data: Path) -> None:
    folder = evaluated(say, coconut, data, *WORDS)
    code, out, err = say("trace", coconut.folder.name, "--task", str(data), "--limit", "3", *WORDS, "--json")
    assert code == 0, err
    assert Path(json.loads(out)["folder"]) == folder / "trace"


def test_data_alone_are_asked_as_the_run_was_evaluated_on_them(say: Say, coconut: Run, data: Path) -> None:
    folder = evaluated(say, coconut, data, *WORDS)
    moved = data.rename(data.with_name("moved.jsonl")).rename(data)
    assert job_on_file(coconut, str(moved), limit=3).folder.name == folder.name
    code, out, err = say("trace", coconut.folder.name, "--task", str(data), "--limit", "3", "--json")
    assert code == 0, err
    assert Path(json.loads(out)["folder"]) == folder / "trace"
    plain = EvalJob.of(coconut, str(data), limit=3)
    said = job_on_file(coconut, str(data), limit=3, changes={"task.kind": "text"})
    assert plain.folder != said.folder != job_on_file(coconut, str(data), limit=3).folder


def test_several_ways_are_told_apart_by_their_folders(say: Say, coconut: Run, data: Path) -> None:
    folders = [evaluated(say, coconut, data, *WORDS[:2], "--kind", kind) for kind in ("math", "number")]
    code, _, err = say("trace", coconut.folder.name, "--task", str(data))
    assert code == 2
    assert err.startswith(f"error: {coconut.folder} was evaluated on sums.jsonl in 2 ways; name one of these as RUN: ")
    assert all(str(folder) in err for folder in folders)


def test_python_takes_a_result_in_place_of_a_task(coconut: Run, data: Path) -> None:
    run = latbench.load_run(coconut.folder)
    columns = {"question": "q", "steps": "work", "answer": "a"}
    result = run.evaluate(str(data), columns=columns, prompt="mod 10: {question}", limit=3)
    assert run.trace(result).folder == result.folder / "trace"
    assert run.trace(str(data), limit=3).folder == result.folder / "trace"
    assert run.inspect(task=result, index=2).question == "mod 10: n0=2+2; n0?"
    assert run.parallelism(result).header.n == 3
    assert [cost.header.n for cost in latbench.cost([result], rounds=1)] == [3]
    other = latbench.load_run(next(path for path in run.folder.parent.iterdir() if path.name != run.folder.name))
    with pytest.raises(ValueError, match=r"is no evaluation of .*; give a result of this run"):
        other.trace(result)
    run.evaluate(str(data), columns=columns, limit=3)
    with pytest.raises(ValueError, match="in 2 ways; give the result in one of these folders as task: "):
        run.trace(str(data))
