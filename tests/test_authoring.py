"""What an author does: a new file, trained and evaluated as it stands, imports included."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from latbench import registry
from latbench.cli import main
from latbench.cli.new_command import write_template
from latbench.config import GenerateConfig, ModelConfig
from latbench.decoding.loop import unroll
from latbench.decoding.rule import FixedLatents
from latbench.model.backbone import Backbone
from latbench.model.batches import pad
from latbench.task import Example

SMALL = (
    "model.hidden_size=16", "model.num_heads=2", "model.num_layers=1", "model.mlp_size=16", "train.max_steps=2",
    "generate.max_new_tokens=4",
)  # fmt: skip
ROOT = Path(__file__).parents[1]


def latbench(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, so that nothing stays registered."""
    command = [sys.executable, "-m", "latbench", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)


def test_new_files_train_and_evaluate_as_they_stand(tmp_path: Path) -> None:
    assert latbench("new", "method", "my_way", folder=tmp_path).returncode == 0
    assert latbench("new", "task", "my_sums", folder=tmp_path).returncode == 0
    settings = [word for key in SMALL for word in ("--set", key)]
    trained = latbench("train", "--method", "my_way.py", "--task", "./my_sums.py", *settings, folder=tmp_path)
    assert trained.returncode == 0, trained.stderr
    run = next((tmp_path / "runs").iterdir()).name
    assert run.startswith("my_sums-my_way-tiny")
    assert trained.stderr.strip().endswith("--method my_way.py --tasks ./my_sums.py")
    unknown = latbench("eval", run, "--limit", "3", folder=tmp_path)
    assert unknown.returncode == 2
    assert "LATBENCH_FILES=FILE.py" in unknown.stderr
    evaluated = latbench("eval", run, "--method", "my_way.py", "--tasks", "my_sums.py", "--limit", "3", folder=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    assert evaluated.stdout.splitlines()[-1].endswith("my_sums-test-first3")
    manifest = next((tmp_path / "runs" / run).glob("eval/*/manifest.json"))
    assert sorted(json.loads(manifest.read_text())["code"]) == ["method my_way.py", "task my_sums.py"]

    with (tmp_path / "my_sums.py").open("a") as file:  # results of one code are never taken for those of another
        file.write("# another version\n")
    other = latbench("eval", run, "--method", "my_way.py", "--tasks", "my_sums.py", "--limit", "3", folder=tmp_path)
    assert (other.returncode, other.stdout) == (2, "")
    assert "holds records of another Python files" in other.stderr
    resumed = latbench("train", "--method", "my_way.py", "--task", "my_sums.py", "--resume", *settings, folder=tmp_path)
    assert (resumed.returncode, resumed.stdout) == (2, "")
    assert "was begun with other versions (task my_sums.py " in resumed.stderr


def test_the_method_of_the_template_learns_and_generates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._entries, "method", {})  # it is registered for this test alone
    monkeypatch.setenv(registry.FILES, "")  # what the call adds is taken away after the test
    write_template("method", "template_way", tmp_path / "template_way.py")
    entry = registry.get_method(registry.from_file("method", str(tmp_path / "template_way.py")))
    method = entry.cls(Backbone.load(ModelConfig(hidden_size=32, num_layers=2, mlp_size=48)), entry.config())
    examples = [Example(id=str(i), question=f"n{i}?", steps=("<<1+1=2>>",), answer=str(i)) for i in range(4)]
    (stage,) = method.stages()
    batch = method.batch(examples, stage)
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        terms = method(batch, stage)
        assert terms["ce"].num_items == batch.num_items["ce"]
        optimizer.zero_grad()
        terms.objective().backward()
        optimizer.step()
        losses.append(float(terms.objective().detach()))
    assert losses[-1] < 0.1 * losses[0]
    answers = method.generate([example.question for example in examples], GenerateConfig(max_new_tokens=4))
    assert [answer.text for answer in answers] == [example.answer for example in examples]
    assert all((answer.num_latents, answer.num_reasoning_tokens) == (6, 0) for answer in answers)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("cot", "a method named 'cot' is registered already"),
        ("My-Way", "'My-Way' cannot name a method"),
        ("class", "'class' cannot name a method"),
    ],
)
def test_names_that_cannot_be_are_refused(name: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        write_template("method", name, tmp_path / f"{name}.py")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("kept")
    with pytest.raises(ValueError, match="exists; remove it or choose another name"):
        write_template("method", "mine", tmp_path / "mine.py")
    assert (tmp_path / "mine.py").read_text() == "kept"


def test_a_file_without_a_method_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.py").write_text("x = 1\n")
    assert main(["train", "--method", str(tmp_path / "empty.py")]) == 2
    assert "must register one method with @register_method(...); found none" in capsys.readouterr().err
    with pytest.raises(ValueError, match="there is no such file"):
        registry.from_file("method", str(tmp_path / "absent.py"))


class Endless(FixedLatents):
    """A rule that never stops."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone, 10**6)


def test_unroll_does_not_stop_a_rule_without_a_word(llama: Backbone) -> None:
    state = llama.prefill(pad([llama.prompt("n1?")]))
    with pytest.raises(ValueError, match="Endless took latent steps to the end of the context"):
        unroll(llama, state, Endless(llama))
