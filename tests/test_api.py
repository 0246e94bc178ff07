"""The public Python names: what the command line can do, and messages that speak Python."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.request import Request, urlopen

import pandas
import pytest
import typer

import latbench
from latbench.cli import app
from latbench.evaluation.records import write_manifest
from latbench.task import Score
from latbench.util.wording import in_python

ROOT = Path(__file__).parents[1]
SMALL = {
    "train.max_steps": 1,
    "train.batch_size": 4,
    "task.num_train": 40,
    "task.num_test": 6,
    "generate.max_new_tokens": 4,
    "model.hidden_size": 16,
    "model.num_heads": 2,
    "model.num_layers": 1,
    "model.mlp_size": 16,
}
LATENT = {**SMALL, "start": None, "generate.max_latents": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs."""
    folder = tmp_path_factory.mktemp("runs")
    latbench.train("cot", seed=3, settings=SMALL, runs_dir=folder)
    latbench.train("coconut", settings=LATENT, runs_dir=folder)
    return folder


@pytest.fixture(scope="module")
def cot(folder: Path) -> latbench.Run:
    return latbench.load_run(next(folder.glob("synth-cot-*")).name, runs_dir=folder)


def test_importing_latbench_imports_no_torch() -> None:
    code = "import sys, latbench; assert 'torch' not in sys.modules; assert callable(latbench.get_task)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there_and_listed() -> None:
    assert set(latbench.__all__) <= set(dir(latbench))
    for name in latbench.__all__:
        assert getattr(latbench, name)
        for module in (name, f"{name}.py"):  # importing it would hide the name
            assert not (ROOT / "latbench" / module).exists()
    assert re.fullmatch(r"\d+\.\d+.*", latbench.__version__)
    api = ast.parse((ROOT / "latbench" / "api.py").read_text(encoding="utf-8"))
    (own,) = [
        node.value for node in api.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    assert {*ast.literal_eval(own), "__version__"} == set(latbench.__all__)


CALLS: Mapping[str, Callable[..., Any]] = {
    "train": latbench.train,
    "eval": latbench.evaluate,
    "rerun": latbench.rerun,
    "sweep": latbench.sweep,
    "import": latbench.import_release,
    "export": latbench.export,
    "serve": latbench.serve,
    "leaderboard": latbench.leaderboard,
    "compare": latbench.compare,
    "list": latbench.available,
    "trace": latbench.Run.trace,
    "inspect": latbench.Run.inspect,
    "parallelism": latbench.Run.parallelism,
    "paths": latbench.Run.paths,
    "reliance": latbench.Run.reliance,
    "cost": latbench.cost,
}
"""What does in Python what a command does."""
COMMANDS_ALONE = ("quickstart", "new", "lm-eval")
"""Commands without a function; docs/api.md says what to do in Python."""
NAMES = {
    "trust": "trust_remote_code", "file": "sweep", "settings": "settings", "runs": "given", "licence": "license",
    "jobs_at_once": "jobs", "gpus": "gpus_per_job", "cpus": "cpus_per_job",
}  # fmt: skip
"""Arguments that are called otherwise in Python."""
OPTIONS_ALONE = {
    "as_json": "what a call returns has the numbers",
    "shard": "a shard is answered by a process of its own",
    "legend": "a table in a terminal",
    "markdown": "a page of the documentation",
    "leaderboard check": "a function of its own, `check`",
    "leaderboard workers": "of `check`",
    "leaderboard again": "`check` always looks again",
    "rerun check": "what `rerun` returns says whether it is `reproduced`",
}
"""Options without an argument, of all commands or of one, with the reason."""


def test_every_command_has_its_function_and_every_option_its_argument() -> None:
    group: Any = typer.main.get_command(app)
    assert set(group.commands) == {*CALLS, *COMMANDS_ALONE}
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    for name in COMMANDS_ALONE:
        assert f"| `{name}` |" in page
    shared = {*inspect.signature(latbench.Run._job).parameters, *inspect.signature(latbench.load_run).parameters}
    missing = []
    for name, function in CALLS.items():
        parameters = inspect.signature(function).parameters
        known = {*parameters, *(shared if {"asked", "self"} & set(parameters) else ())}
        options = [option.name for option in group.commands[name].params if option.name != "help"]
        options = [option for option in options if {option, f"{name} {option}"}.isdisjoint(OPTIONS_ALONE)]
        missing += [f"{name} {option}" for option in options if NAMES.get(option, option) not in known]
    assert missing == []


def test_a_run_is_found_as_the_commands_find_it(folder: Path, cot: latbench.Run) -> None:
    assert isinstance(cot, latbench.Run)
    assert cot.config.seed == 3
    assert latbench.load_run(cot.folder).folder == cot.folder
    assert latbench.load_run(runs_dir=folder).config.method_name == "coconut"  # the latest trained one
    with pytest.raises(ValueError, match=r"no run in .*nowhere"):
        latbench.load_run("nowhere", runs_dir=folder)
    again = latbench.train("cot", seed=3, settings=SMALL, runs_dir=folder, resume=True)
    assert again.folder == cot.folder


def test_one_question_has_one_answer(cot: latbench.Run) -> None:
    one = cot.generate("mod 10: n0=1+2; n0?")
    assert isinstance(one.text, str)
    assert cot.generate(["mod 10: n0=1+2; n0?"]) == [one]
    assert len(cot.generate(["a", "b"])) == 2
    with pytest.raises(ValueError, match=r"^unknown key 'generate.temprature'; did you mean 'generate.temperature'\?$"):
        cot.generate("a", temprature=1)
    with pytest.raises(ValueError, match=r"^generate.temperature must be >= 0, got -1$"):
        cot.generate("a", temperature=-1)


def test_a_result_carries_its_figures(cot: latbench.Run) -> None:
    found = latbench.evaluate(cot, limit=4)
    assert isinstance(found, latbench.Result)
    assert len(found.records) == found.manifest.n == 4
    assert found.accuracy == found.interval.value == sum(r.status == "correct" for r in found.records) / 4
    assert 0 <= found.interval.low <= found.accuracy <= found.interval.high <= 1
    assert sum(found.statuses.values()) == 4
    assert list(found.statuses) == ["correct", "incorrect", "no_answer", "timeout"]
    assert found.chain_length == pytest.approx(sum(found.lengths.values()) / 4)
    gold = sum(record.gold_chain_length for record in found.records) / 4
    assert found.chain_length is not None
    assert found.compression == pytest.approx(gold / found.chain_length)
    assert found.answers_per_second is not None
    assert any("end at a cap" in sentence for sentence in found.caveats)
    table = found.to_pandas()
    assert isinstance(table, pandas.DataFrame)
    assert list(table["id"]) == [record.id for record in found.records]
    assert table["correct"].mean() == found.accuracy
    assert list(table["chain_length"]) == [record.chain_length for record in found.records]
    assert repr(found).startswith("<Result synth/test: accuracy 0.")
    assert "\n" not in repr(found)


def test_one_task_has_one_result_and_several_a_list(folder: Path, cot: latbench.Run) -> None:
    one = cot.evaluate(limit=4)
    (same, other) = latbench.evaluate(str(cot.folder), ["synth", "graphs"], limit=4)
    assert same == one
    assert other.manifest.task == "graphs"
    assert latbench.evaluate(cot.folder.name, "synth", limit=4, runs_dir=folder) == one
    sampled = cot.evaluate(limit=2, samples=2, seed=5, settings={"generate.temperature": 1.0})
    assert (len(sampled.records), sampled.records[0].seed) == (4, 5)


def test_a_run_at_hand_takes_every_argument_of_an_evaluation_or_refuses_it(cot: latbench.Run) -> None:
    with pytest.raises(ValueError, match=r"^preset belongs to an evaluation with model and method"):
        cot.evaluate(limit=4, preset="tiny")
    for device in ({"device": "cuda:9"}, {"settings": {"model.device_map": "no-such-map"}}):
        with pytest.raises(ValueError, match=r"cuda:9|no-such-map"):
            cot.evaluate(limit=3, **device)
    for limit in (0, -1):
        with pytest.raises(ValueError, match=rf"^limit must be >= 1, got {limit}; leave it out to ask all questions$"):
            cot.evaluate(limit=limit)
    assert not list(cot.folder.glob("eval/*first[0-]*"))


def test_a_model_as_it_comes_is_evaluated(tmp_path: Path) -> None:
    tiny = {key: value for key, value in SMALL.items() if key.startswith(("model.", "generate."))}
    found = latbench.evaluate(model="tiny", method="cot", tasks="synth", limit=2, settings=tiny, runs_dir=tmp_path)
    assert (found.manifest.train_data, len(found.records)) == ("none", 2)
    with pytest.raises(ValueError, match=r"^an evaluation without a run needs both model and method$"):
        latbench.evaluate(model="tiny", runs_dir=tmp_path)


def test_results_are_compared_and_repeated(folder: Path, cot: latbench.Run, tmp_path: Path) -> None:
    latent = latbench.load_run(runs_dir=folder).evaluate(limit=4)
    mine = cot.evaluate(limit=4)
    found = latbench.compare(mine, latent)
    assert found.n == 4
    assert latbench.compare(mine.folder, latent.folder).p_value == found.p_value
    agreement = latbench.rerun(mine, runs_dir=tmp_path)
    assert agreement.num_identical == 4


def test_a_leaderboard_is_a_table_and_a_frame(folder: Path, cot: latbench.Run, tmp_path: Path) -> None:
    mine = cot.evaluate(limit=4)
    board = latbench.leaderboard(folder, formats=["md", "csv"], out=tmp_path)
    assert {path.name for path in board.paths} == {"leaderboard.md", "leaderboard.csv"}
    assert latbench.leaderboard(folder, "csv").text_by_format == {"csv": board.text_by_format["csv"]}
    frame = board.to_pandas()
    row = frame[(frame["run"] == cot.folder.name) & (frame["n"] == 4) & (frame["task"] == "synth")].iloc[0]
    assert row["accuracy"] == pytest.approx(mine.accuracy)
    assert list(frame.columns) == board.text_by_format["csv"].splitlines()[0].split(",")
    assert latbench.leaderboard([mine.folder]).text_by_format["md"].startswith("# Leaderboard")


def test_a_submission_is_checked(cot: latbench.Run, tmp_path: Path) -> None:
    mine = cot.evaluate(limit=4)
    assert latbench.check(mine.folder).problems == []
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "records.jsonl").write_bytes(
        (mine.folder / "records.jsonl").read_bytes().replace(b'"seed": 3', b'"seed": 4')
    )
    write_manifest(copy, mine.manifest)
    assert any("seed of 4 records" in problem for problem in latbench.check(copy).problems)


def test_what_is_at_hand_is_listed_with_numbers(folder: Path, cot: latbench.Run) -> None:
    mine = cot.evaluate(limit=4)
    (row,) = [row for row in latbench.available("runs", runs_dir=folder) if row["name"] == cot.folder.name]
    assert (row["method"], row["task"], row["model"], row["seed"], row["steps"]) == ("cot", "synth", "tiny", 3, 1)
    (found,) = [found for found in row["evaluations"] if found["name"] == mine.folder.name]
    assert (found["n"], found["accuracy"], found["chain_length"]) == (4, mine.accuracy, mine.chain_length)
    assert any(found["name"] == "cot" and found["description"] for found in latbench.available("methods"))
    assert {row["preset"] for row in latbench.available("presets") if row["method"] == "cot"} >= {"tiny"}
    assert any(row["name"] == "task.min_ops" for row in latbench.available("keys", task="synth"))
    with pytest.raises(ValueError, match="unknown list 'method'; did you mean 'methods'"):
        latbench.available("method")


def test_a_run_is_shared_and_loaded_back(cot: latbench.Run, tmp_path: Path) -> None:
    written = latbench.export(cot, tmp_path / "shared", license="mit")
    assert "license: mit" in (tmp_path / "shared" / "README.md").read_text(encoding="utf-8")
    question = "mod 10: n0=1+2; n0?"
    assert latbench.load_run(written).generate(question) == cot.generate(question)
    with pytest.raises(ValueError, match="exists; remove it, or export to another folder"):
        latbench.export(cot.folder.name, tmp_path / "shared", runs_dir=cot.folder.parent)


def test_a_run_is_served_from_python(cot: latbench.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ask(url: str) -> None:
        """Once it is up: ask it from another thread, and stop it."""

        def questions() -> None:
            body = json.dumps({"model": "mine", "prompt": "mod 10: n0=1+2; n0?"}).encode()
            request = Request(f"{url}/v1/completions", body, {"content-type": "application/json"})
            with urlopen(request, timeout=60) as reply:
                asked.append(json.load(reply)["choices"][0]["text"])
            os.kill(os.getpid(), signal.SIGINT)

        Thread(target=questions, daemon=True).start()

    latbench.serve(cot, port=0, name="mine", on_start=ask)
    assert asked == [cot.generate("mod 10: n0=1+2; n0?").text]
    with pytest.raises(ValueError, match=r"model with method an untrained one; give one of the two"):
        latbench.serve(cot, model="tiny", method="cot")


def test_chains_are_sampled(cot: latbench.Run) -> None:
    file = cot.paths(limit=2, samples=2)
    assert file.name == "paths.jsonl"
    header = json.loads(file.read_text(encoding="utf-8").splitlines()[0])
    assert (header["samples"], header["run"]) == (2, cot.folder.name)


def test_latent_steps_are_looked_into(folder: Path) -> None:
    run = latbench.load_run(runs_dir=folder)
    run.evaluate()
    trace = run.trace()
    assert trace.num_latents == 6 * 4
    shown = run.inspect(index=1, top=2)
    assert shown.from_file
    assert len(shown.latents) == 4
    assert run.inspect("mod 10: n0=1+2; n0?").id is None
    assert list(run.reliance(interventions=["zeros"]).replaced) == ["zeros"]
    assert run.parallelism().header.n == 6
    (cost,) = latbench.cost(run, rounds=1)
    assert cost.header.run == run.folder.name
    with pytest.raises(ValueError, match=r"rounds must be >= 1, got 0"):
        latbench.cost(run, rounds=0)
    with pytest.raises(ValueError, match=r"a result says itself what it asked, got task 'synth'"):
        latbench.cost(run.evaluate(), "synth", rounds=1)
    with pytest.raises(ValueError, match=r"index 99 is none of the questions 0 to 5"):
        run.inspect(index=99)


@pytest.mark.slow  # starts processes
def test_a_sweep_runs_from_python(tmp_path: Path) -> None:
    base: dict[str, Any] = {}
    for key, value in SMALL.items():
        section, name = key.split(".")
        base.setdefault(section, {})[name] = value
    content = {"methods": ["cot", "direct"], "base": base, "limit": 2}
    report = latbench.sweep(content, runs_dir=tmp_path)
    assert [result.returncode for result in report.results] == [0, 0]
    assert len(latbench.sweep(content, runs_dir=tmp_path).skipped) == 2
    with pytest.raises(ValueError, match=r"unknown key 'sweep\.method'; did you mean 'sweep.methods'"):
        latbench.sweep({"method": "cot"}, runs_dir=tmp_path)


def test_a_score_says_whether_it_is_correct_and_has_no_truth_value() -> None:
    task = latbench.get_task("synth", num_test=3)
    example = task.load("test")[0]
    right, wrong = task.score(example.answer, example), task.score("no", example)
    assert right.correct
    assert right.status == "correct"
    assert not wrong.correct
    with pytest.raises(TypeError, match=r"ask for score\.correct"):
        bool(wrong)
    assert right == Score(status="correct", extracted=right.extracted)


def test_errors_name_field_and_value(cot: latbench.Run, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown key 'task.levels'"):
        latbench.get_task("synth", levels=3)
    with pytest.raises(ValueError, match=r"train.lr must be > 0, got 0"):
        latbench.train("cot", settings={"train.lr": 0})
    with pytest.raises(ValueError, match="unknown method 'ctt'; did you mean 'cot'"):
        latbench.get_method("ctt")
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        latbench.trian  # noqa: B018
    with pytest.raises(ValueError, match=r"exists and is finished; continue it with resume=True, or remove"):
        latbench.train("cot", seed=3, settings=SMALL, runs_dir=folder)
    with pytest.raises(ValueError, match=r"use `latbench.evaluate\(model=\"tiny\", method=\"soft_thinking\"\)`"):
        latbench.train("soft_thinking", settings={**SMALL, "start": None}, runs_dir=folder / "none")
    assert not (folder / "none").exists()


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("continue it with --resume, or remove it", "continue it with resume=True, or remove it"),
        ("choose another --runs-dir", "choose another runs_dir"),
        ("give its base model with --base ID_OR_PATH", "give its base model with base ID_OR_PATH"),
        ("set X (or --data-dir) to a folder", "set X (or data_dir) to a folder"),
        ("try --set imported.first_added_id=N", 'try settings={"imported.first_added_id": N}'),
        ("read it, and pass --trust-remote-code", "read it, and pass trust_remote_code=True"),
        ("launch it (accelerate launch --multi_gpu)", "launch it (accelerate launch --multi_gpu)"),
        ("make one with `latbench trace`", "make one with `run.trace()`"),
    ],
)
def test_messages_speak_python(said: str, meant: str) -> None:
    assert in_python(said) == meant


def test_no_message_of_the_harness_names_an_option_in_python() -> None:
    own = ("latbench/cli", "latbench/integrations", "latbench/serving")
    files = [path for room in ("latbench", "methods") for path in (ROOT / room).rglob("*.py")]
    texts = [
        f"{path.name}: {in_python(text)}"
        for path in files
        if not str(path.relative_to(ROOT)).startswith(own)
        for text in _raised(path)
    ]
    assert len(texts) > 100
    left = [text for text in texts if re.search(r"(?<!\S)--[a-z]|`latbench ", text)]
    assert [text for text in left if "accelerate launch --multi_gpu" not in text] == []


def _raised(path: Path) -> list[str]:
    """The texts of every `raise ValueError(...)` of a file, with `x` for what is filled in."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            for part in node.exc.args:
                if isinstance(part, ast.JoinedStr):
                    found.append("".join(str(v.value) if isinstance(v, ast.Constant) else "x" for v in part.values))
                elif isinstance(part, ast.Constant) and isinstance(part.value, str):
                    found.append(part.value)
    return found
