"""The command line: results on standard output, one sentence per error, exit codes 0, 1 and 2."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.logging import disable_progress_bar

from latbench.cli import main
from latbench.cli.console import print_json
from latbench.evaluation import evaluate as evaluate_module
from latbench.evaluation.records import RECORDS
from latbench.runs.lock import locked
from latbench.training import checkpoint
from latbench.util.files import sha256_of

CHECKOUT = Path(__file__).parents[1]
SMALL = [
    "train.max_steps=1",
    "train.batch_size=4",
    "task.num_train=40",
    "task.num_test=6",
    "generate.max_new_tokens=4",
    "model.hidden_size=16",
    "model.num_heads=2",
    "model.num_layers=1",
    "model.mlp_size=16",
]
TRAIN = ["train", "--method", "cot", *(f"--set={text}" for text in SMALL)]

Call = Callable[..., tuple[int, str, list[str]]]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs a command in an empty folder. Returns: exit code, standard output, lines of standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("latbench.model.loading.is_slow_in_bfloat16", lambda _device: False)  # on every machine alike
    disable_progress_bar()  # a process of its own has this from `main`, which here comes after the import

    def run(*arguments: str) -> tuple[int, str, list[str]]:
        capsys.readouterr()
        code = main(arguments)
        found = capsys.readouterr()
        return code, found.out, found.err.splitlines()

    return run


def refuse(found: tuple[int, str, list[str]], code: int, *starts: str) -> None:
    """Nothing on standard output, one sentence per expected start, and the exit code."""
    assert found[0] == code, found
    assert found[1] == ""
    assert len(found[2]) == len(starts), found[2]
    for line, start in zip(found[2], starts, strict=True):
        assert line.startswith(start), line


def test_train_eval_leaderboard_compare_with_defaults(call: Call) -> None:
    code, out, _ = call(*TRAIN)
    assert (code, out.split(":")[0][:20]) == (0, "runs/synth-cot-tiny-")
    assert re.search(r": 1 steps, \d+ s, loss \d+\.\d+$", out.strip())
    code, out, _ = call("eval")
    assert code == 0
    head, _, line, folder = out.splitlines()
    assert [name.strip() for name in head.strip("|").split("|")][:3] == ["task", "accuracy", "#L"]
    assert line.startswith("| synth/test, n=6 |")
    assert folder.startswith("runs/synth-cot-tiny-")
    code, out, _ = call("leaderboard")
    assert code == 0
    assert "| cot " in out
    assert call("eval", "--seed", "1")[0] == 0
    folders = sorted(str(path.parent) for path in Path("runs").glob(f"*/eval/*/{RECORDS}"))
    code, out, _ = call("compare", *folders)
    assert code == 0
    assert "exact McNemar test" in out
    code, out, _ = call("rerun", folders[0], "--check")
    assert code == 0
    assert out.startswith("6 of 6 records identical")
    code, out, _ = call("list", "runs")
    assert "trained, synth-test" in out


def test_json_is_one_object_on_standard_output(call: Call) -> None:
    trained = json.loads(call(*TRAIN, "--json")[1])
    assert trained["costs"]["optimiser_steps"] == 1
    evaluated = json.loads(call("eval", trained["run"], "--json")[1])
    (found,) = evaluated["evaluations"]
    assert found["n"] == 6
    assert found["accuracy"]["low"] >= 0
    board = json.loads(call("leaderboard", "--format", "md,csv", "--json")[1])
    assert set(board["tables"]) == {"md", "csv"}
    assert json.loads(call("rerun", found["folder"], "--json")[1])["num_identical"] == 6
    for what in ("methods", "tasks", "presets", "runs"):
        assert json.loads(call("list", what, "--json")[1])[what]
    assert json.loads(call("compare", found["folder"], found["folder"], "--json")[1])["p_value"] == 1


def test_csv_alone_goes_to_standard_output_and_files_to_out(call: Call) -> None:
    call(*TRAIN)
    call("eval")
    code, out, _ = call("leaderboard", "--format", "csv")
    assert out.startswith("task,split,method,variant,setting,backbone,")
    assert len(out.splitlines()) == 2
    code, out, _ = call("leaderboard", "--format", "md,csv", "--out", "tables")
    assert (code, out) == (0, "")
    assert call("leaderboard", "--format", "md,csv", "--out", "tables", "--check")[0] == 0
    Path("tables/leaderboard.md").write_text("old")
    code, out, lines = call("leaderboard", "--out", "tables", "--check")
    assert (code, out) == (1, "")
    assert lines[-1] == "refused: tables/leaderboard.md is not up to date; write it anew without --check"
    assert all(line.startswith("mind: ") for line in lines[:-1])
    assert Path("tables/leaderboard.md").read_text() == "old"


def test_quickstart_ends_with_a_leaderboard_and_its_files(call: Call) -> None:
    code, out, _ = call("quickstart", "--steps", "1", *(f"--set={text}" for text in SMALL))
    assert code == 0
    assert "| cot " in out
    assert "| direct " in out
    for name in ("leaderboard.md", "leaderboard.html", "accuracy_vs_length.png", "accuracy_vs_length.svg"):
        assert (Path("runs") / name).stat().st_size > 0


def test_quickstart_trains_in_float32_where_the_cpu_is_slow_at_bfloat16(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latbench.model.loading.is_slow_in_bfloat16", lambda _device: True)
    code, out, lines = call(
        "quickstart", "--steps", "1", "--set=model.device=cpu", *(f"--set={text}" for text in SMALL)
    )
    assert code == 0
    assert any("trained in float32" in line for line in lines)
    assert "train.precision=float32" in out
    assert len(list(Path("runs").glob("*/train.json"))) == 3, "latent_sft starts from that cot run"


@pytest.mark.slow
def test_sweep_runs_processes_and_refuses_absent_data(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    precise = [*SMALL, "train.precision=float32"]  # of which no CPU has anything to say in the logs
    settings = ", ".join(text.replace("=", ": ") for text in precise)
    Path("sweep.yaml").write_text(f"methods: [cot, direct]\nsettings: [{{{settings}}}]\nlimit: 4\n")
    code, out, lines = call("sweep", "sweep.yaml", "--jobs", "2")
    assert code == 0
    *table, _, last = out.splitlines()
    assert last == "2 runs done, 0 complete before, 0 failed"
    assert [line.split()[1].split("-")[1] for line in table[2:]] == ["cot", "direct"]
    assert sorted(line.split()[0] for line in lines if "accuracy (%)" in line) == ["[1]", "[2]"]
    assert not list(Path("runs/logs").glob("*.progress"))
    for log in Path("runs/logs").glob("*.log"):  # commands and their results, nothing else
        starts = [line[:2] for line in log.read_text().splitlines()]
        assert starts[:4] == ["$ ", "ru", "ne", "$ "]
        assert set(starts[4:]) <= {"| ", "|-", "ru", "mi"}, "the table of the evaluation, its folder and its caveats"
    Path("sweep.yaml").write_text(f"methods: [cot]\nsettings: [{{{settings}}}]\nlimit: 4\nevaluate: [math500]\n")
    monkeypatch.delenv("LATBENCH_DATA_DIR", raising=False)
    code, _, lines = call("sweep", "sweep.yaml", "--resume", "--json")
    assert code == 2, "refused before the first run"
    assert lines[0].startswith("error: no data for task 'math500'")


def test_a_dry_run_counts_what_the_sweep_then_costs(call: Call) -> None:
    settings = ", ".join(text.replace("=", ": ") for text in SMALL)
    Path("sweep.yaml").write_text(f"methods: [cot, codi]\nseeds: [0, 1]\nsettings: [{{{settings}}}]\n")
    code, out, _ = call("sweep", "sweep.yaml", "--dry-run", "--json", "--limit", "3")
    assert code == 0
    assert not Path("runs").exists()
    found = json.loads(out)
    assert (len(found["runs"]), found["num_evaluations"], found["num_answers"]) == (4, 4, 12)
    assert call(*TRAIN)[0] == 0
    report = json.loads(next(Path("runs").glob("*/train.json")).read_text())
    (same,) = (run for run in found["runs"] if run["run"] == next(Path("runs").glob("synth-*")).name)
    costs = report["costs"]
    assert (same["steps"], same["passes"]) == (costs["optimiser_steps"], costs["examples_seen"])
    assert same["flops"] == pytest.approx(costs["flops"], rel=0.2)  # of other rows, padded otherwise
    code, out, _ = call("sweep", "sweep.yaml", "--dry-run")
    assert "3 runs to train (0 complete)" in out


def test_lists_and_tables_start_without_torch(call: Call) -> None:
    call(*TRAIN)
    call("eval")
    code = (
        "import sys; from latbench.cli import main; "
        "codes = [main([*words.split()]) for words in ('list methods', 'list tasks', 'list presets', 'list runs', "
        "'leaderboard', '--help')]; assert codes == [0] * 6, codes; assert 'torch' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "starts"),
    [
        ("trian", ["error: No such command 'trian'. Did you mean 'train'"]),
        ("train --metod cot", ["error: unknown option '--metod'; did you mean '--method'?"]),
        ("train --seed x", ["error: Invalid value for '--seed'"]),
        ("eval --limit 0", ["error: Invalid value for '--limit'"]),
        ("train extra", ["error: Got unexpected extra argument"]),
        ("train", ["error: method.name is missing; choose with --method one of "]),
        ("train --method ctt", ["error: unknown method 'ctt'; did you mean 'cot'?"]),
        ("train --method cot --task syth", ["error: unknown task 'syth'; did you mean 'synth'?"]),
        ("train --method cot --preset tinny", ["error: unknown cot preset 'tinny'; did you mean 'tiny'?"]),
        ("train --method cot --set train.lrr=1", ["error: unknown key 'train.lrr'; did you mean 'train.lr'?"]),
        ("train --method cot --set train.lr", ["error: --set takes KEY=VALUE such as train.lr=1e-4"]),
        (
            "train --method cot --set train.lr=0 --seed -1 --set generate.chunk=0",
            [
                "error: seed must be >= 0, got -1",
                "error: train.lr must be > 0, got 0",
                "error: generate.chunk must be >= 1, got 0",
            ],
        ),
        ("train --method cot --config none.yaml", ["error: cannot read none.yaml"]),
        ("train --method cot --device cuda:63", ["error: model.device is 'cuda:63' but this machine has"]),
        ("train --method cot --set task.num_train=9 --model ./none", ["error: model.id './none' could not be loaded"]),
        ("train --method cot --data-dir none", ["error: --data-dir none is no folder"]),
        ("eval", ["error: no trained run in runs; start one with `latbench train"]),
        ("eval none", ["error: no run in runs/none"]),
        ("eval --model tiny", ["error: an evaluation without a run needs both --model and --method"]),
        ("eval a --model tiny --method cot", ["error: RUN names a trained run and --model with --method an"]),
        ("eval --preset tiny", ["error: --preset belongs to an evaluation with --model and --method"]),
        ("leaderboard", ["error: folder 'runs' does not exist"]),
        ("leaderboard --format md,csv", ["error: --format md,csv names several formats; give --out DIR"]),
        ("leaderboard --check", ["error: folder 'runs' does not exist"]),
        ("leaderboard --check --only x", ["error: --check looks at all results; leave out --only and --plot"]),
        ("leaderboard --all-records", ["error: --all-records writes files beside the page"]),
        ("compare a b", ["error: "]),
        ("rerun none", ["error: no manifest.json in none"]),
        ("sweep none.yaml", ["error: cannot read none.yaml"]),
        ("list things", ["error: unknown list 'things'"]),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(call: Call, arguments: str, starts: list[str]) -> None:
    refuse(call(*arguments.split()), 2, *starts)


CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
Path({ran!r}).touch()
class OddConfig(LlamaConfig):
    model_type = "odd"
class OddModel(LlamaForCausalLM):
    config_class = OddConfig
"""


def with_code(folder: Path, ran: Path) -> None:
    """Make the model in a folder one whose code writes a file, and let its checkpoint list the changed files."""
    (folder / "odd.py").write_text(CODE.format(ran=str(ran)))
    config = json.loads((folder / "config.json").read_text())
    classes = {"AutoConfig": "odd.OddConfig", "AutoModelForCausalLM": "odd.OddModel"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "odd", "auto_map": classes}))
    info = json.loads((folder / "latbench.json").read_text())
    info["files"] = {name: sha256_of(folder / name) for name in info["files"]}
    (folder / "latbench.json").write_text(json.dumps(info))


def test_only_the_option_of_a_call_lets_code_beside_a_model_run(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    call(*TRAIN)
    (run,) = (path.parent for path in Path("runs").glob("*/config.yaml"))
    ran = tmp_path / "ran"
    with_code(run / "checkpoint", ran)
    refuse(call("eval", "--limit", "2"), 2, f"error: model.id '{run}/checkpoint' comes with code of its own")
    model = ["--model", str(run / "checkpoint"), "--method", "cot"]
    refuse(call("eval", "--limit", "2", *model), 2, f"error: model.id '{run}/checkpoint' comes with code of its own")
    refuse(call(*TRAIN, "--model", str(run / "checkpoint")), 2, f"error: model.id '{run}/checkpoint' comes with code")
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("model:\n", "model:\n  trust_remote_code: true\n", 1))
    refuse(call("eval", "--limit", "2"), 2, "error: model.trust_remote_code is no setting: no file can allow")
    (run / "config.yaml").write_text(config)
    assert not ran.exists()

    code, _, lines = call("eval", "--limit", "2", "--trust-remote-code")
    assert code == 0, lines
    assert ran.exists()
    assert "trust_remote_code" not in (run / "config.yaml").read_text()
    (manifest,) = run.rglob("manifest.json")
    assert "trust_remote_code" not in json.loads(manifest.read_text())["config"]["model"]


def test_a_manifest_that_asks_to_run_code_is_not_repeated(call: Call, tmp_path: Path) -> None:
    call(*TRAIN)
    call("eval", "--limit", "2")
    (path,) = Path("runs").rglob("manifest.json")
    manifest = json.loads(path.read_text())
    manifest["config"]["model"]["trust_remote_code"] = True
    path.write_text(json.dumps(manifest))
    refuse(call("rerun", str(path.parent)), 2, "error: model.trust_remote_code is no setting: no file can allow")


def test_rows_that_ask_a_test_question_are_reported(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from latbench.data import ContaminationReport
    from latbench.runs import train as train_module

    overlap = ContaminationReport(num_train=40, num_test=6, pairs=(("train-0", "test-1"), ("train-0", "test-2")))
    monkeypatch.setattr(train_module, "overlaps", lambda *_, **__: {"synth": overlap})
    code, _, lines = call(*TRAIN)
    assert code == 0
    assert lines[0].startswith("1 training rows ask a test question; leave them out with --set train.drop_contaminated")


@pytest.mark.slow
def test_two_processes_train_one_run(call: Call) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "latbench", *TRAIN]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    report = json.loads(next(Path("runs").glob("*/train.json")).read_text())
    assert report["costs"]["examples_seen"] == 8
    assert call("eval", "--limit", "2")[0] == 0


def test_tasks_are_evaluated_once_each_and_an_empty_name_is_none(call: Call) -> None:
    call(*TRAIN)
    code, out, _ = call("eval", "--tasks", "graphs,, graphs,", "--limit", "1", "--json")
    assert (code, len(json.loads(out)["evaluations"])) == (0, 1)
    assert [path.name.split("-")[0] for path in Path("runs").glob("*/eval/*")] == ["graphs"]


def test_absent_data_say_what_to_set(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    call(*TRAIN)
    monkeypatch.delenv("LATBENCH_DATA_DIR", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    code, out, lines = call("eval", "--tasks", "math500")
    assert (code, out, len(lines)) == (2, "", 1)
    assert "LATBENCH_DATA_DIR" in lines[0]


def test_unwritable_output_is_one_sentence_and_exit_code_1(call: Call) -> None:
    Path("runs").write_text("a file")
    refuse(call(*TRAIN), 1, "error: cannot write runs/")
    Path("runs").unlink()
    call(*TRAIN)
    (run,) = Path("runs").iterdir()
    (run / "eval").write_text("a file")
    refuse(call("eval"), 1, "error: cannot write ")


def test_a_full_disk_is_one_sentence_and_the_run_resumes(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "model.safetensors")

    def full_in_rust(*_: Any, **__: Any) -> None:
        raise RuntimeError("I/O error: No space left on device (os error 28)")

    def full_in_torch(*_: Any, **__: Any) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 388992 vs 388880")

    for failure in (full, full_in_rust, full_in_torch):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "save", failure)
            refuse(call(*TRAIN, "--resume"), 1, "error: the disk is full")
    assert call(*TRAIN, "--resume")[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(evaluate_module, "append_records", full)
        refuse(call("eval"), 1, "error: the disk is full while writing model.safetensors; free some space")
    assert call("eval")[0] == 0


def test_a_run_in_use_is_refused(call: Call) -> None:
    call(*TRAIN)
    (run,) = Path("runs").iterdir()
    with locked(run):
        refuse(call(*TRAIN, "--resume"), 2, f"error: {run} is being written by process {os.getpid()}")
    refuse(call(*TRAIN), 2, f"error: run {run} exists and is finished; continue it with --resume")


def test_a_finished_run_says_which_settings_of_decoding_it_keeps(call: Call) -> None:
    call(*TRAIN)
    code, _, lines = call(*TRAIN, "--set", "generate.max_latents=3", "--resume")
    assert code == 0
    assert "it was finished before and keeps its own generate.max_latents; give other values to latbench eval" in lines
    _, _, lines = call(*TRAIN, "--resume")
    assert not any("finished before" in line for line in lines)


def test_ctrl_c_says_how_to_resume(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", interrupted)
        refuse(call(*TRAIN), 1, f"stopped; `latbench {' '.join(TRAIN)} --resume` continues where it stopped")
    assert call(*TRAIN, "--resume")[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(evaluate_module, "answer_chunk", interrupted)
        refuse(call("eval"), 1, "stopped; `latbench eval` continues where it stopped")
    assert call("eval")[0] == 0


def test_an_unexpected_failure_is_one_sentence_unless_debug(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("gears\nsprings")

    monkeypatch.setattr(checkpoint, "save", broken)
    refuse(call(*TRAIN), 1, "error: RuntimeError: gears; --debug shows where")
    for place in (["--debug", *TRAIN], [*TRAIN, "--debug"]):
        code, _, lines = call(*place, "--resume")
        assert code == 1
        assert any(line.startswith("Traceback") for line in lines)
        assert lines[-1] == "error: RuntimeError: gears; --debug shows where"


def test_a_method_without_training_is_evaluated_on_a_model(call: Call) -> None:
    arguments = ["--model", "tiny", "--method", "cot", "--limit", "2", "--set", "generate.max_new_tokens=3"]
    code, out, _ = call("eval", *arguments)
    assert (code, out.splitlines()[-1][:10]) == (0, "runs/base-")
    assert call("eval", *arguments, "--set", "model.layout=plain_hash_answer")[0] == 0
    layouts = {json.loads(path.read_text())["layout"] for path in Path("runs").glob("*/eval/*/manifest.json")}
    assert layouts == {"default", "plain_hash_answer"}
    refuse(call("eval", *arguments, "--set", "model.layot=x"), 2, "error: unknown key 'model.layot'; did you mean")


def test_several_evaluations_of_a_run_must_be_told_apart(call: Call) -> None:
    call(*TRAIN)
    call("eval")
    call("eval", "--limit", "2")
    (run,) = Path("runs").iterdir()
    refuse(call("compare", run.name, run.name), 2, f"error: {run} holds 2 evaluations; name one, such as {run}/eval/")


def test_help_is_shown_without_a_command(call: Call) -> None:
    code, out, lines = call()
    assert code == 0
    assert all(
        name in out for name in ("quickstart", "train", "eval", "sweep", "leaderboard", "compare", "rerun", "list")
    )
    assert lines == []


def test_json_has_no_infinite_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [1.5, float("inf")], "b": {"c": (float("nan"), "x")}, "d": None})
    assert json.loads(capsys.readouterr().out) == {"a": [1.5, None], "b": {"c": [None, "x"]}, "d": None}
