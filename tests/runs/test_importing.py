"""A run of a released checkpoint is a run: every command takes it, and its results can be repeated from a manifest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import latbench
from latbench.cli import main
from latbench.evaluation.records import read_evaluation
from latbench.runs.run import load_run
from latbench.submission import check
from tests.methods.importers.release_writers import codi, gpt2

FIRST = ["--limit", "3"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    state, _, _ = codi(gpt2(folder / "base"))
    torch.save(state, folder / "pytorch_model.bin")
    return folder


@pytest.fixture(scope="module")
def run(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    assert main(import_command(source, runs)) == 0
    (folder,) = runs.iterdir()
    return folder


def import_command(source: Path, runs: Path, *more: str) -> list[str]:
    settings = ["imported.lora_alpha=1", "task.name=synth", "generate.max_new_tokens=4", "model.device=cpu"]
    return [
        "import", str(source / "pytorch_model.bin"), "--base", str(source / "base"), "--runs-dir", str(runs),
        *[part for setting in settings for part in ("--set", setting)], *more,
    ]  # fmt: skip


def test_the_command_says_what_it_found(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(import_command(source, tmp_path)) == 0
    out = capsys.readouterr()
    (folder,) = tmp_path.iterdir()
    assert out.out == f"{folder}: codi on base, layout answer_sentence\n"
    assert "format codi: 51 tensors, 5 files" in out.err
    assert (
        "dropped: codi.base_model.model.lm_head.weight (equals codi.base_model.model.transformer.wte.weight)" in out.err
    )
    assert "method.num_latents=6 (default of the authors' test script; the file does not store it)" in out.err
    assert "generate.max_new_tokens=4 (given on the command line)" in out.err
    assert main(import_command(source, tmp_path, "--json")) == 0  # a second time there is nothing left to do
    found = json.loads(capsys.readouterr().out)
    assert Path(found["run"]) == folder
    assert len(found["files"]["pytorch_model.bin"]["sha256"]) == 64


def test_python_does_what_the_command_does(source: Path, run: Path) -> None:
    settings = {"imported.lora_alpha": 1, "task.name": "synth", "generate.max_new_tokens": 4, "model.device": "cpu"}
    made = latbench.import_release(
        source / "pytorch_model.bin", base=source / "base", settings=settings, runs_dir=run.parent
    )
    assert made.folder == run
    assert made.config == load_run(run).config


def test_a_folder_may_be_named(source: Path, tmp_path: Path) -> None:
    assert main(import_command(source, tmp_path / "none", "--out", str(tmp_path / "mine"))) == 0
    assert load_run(tmp_path / "mine").config.method_name == "codi"
    assert not (tmp_path / "none").exists()


def test_a_folder_with_another_run_is_refused(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = ["--out", str(tmp_path / "mine")]
    assert main(import_command(source, tmp_path, *here)) == 0
    name = load_run(tmp_path / "mine").config.run_id
    written = (tmp_path / "mine" / "train.json").read_bytes()
    assert main(import_command(source, tmp_path, *here)) == 0
    assert main(import_command(source, tmp_path, *here, "--set", "generate.batch_size=3")) == 0  # finds the same
    capsys.readouterr()
    assert main(import_command(source, tmp_path, *here, "--set", "method.num_latents=2")) == 2
    assert f"mine holds another run ({name}); choose another --out, or remove it" in capsys.readouterr().err
    assert main(import_command(source, tmp_path, *here, "--set", "generate.temperature=0.5")) == 2
    assert "mine has this release already, with other settings of generate.*" in capsys.readouterr().err
    settings = {"imported.lora_alpha": 2, "task.name": "synth", "model.device": "cpu"}
    with pytest.raises(ValueError, match=r"mine holds another run \(.*\); choose another out, or remove it"):
        latbench.import_release(source, base=source / "base", settings=settings, out=tmp_path / "mine")
    assert (tmp_path / "mine" / "train.json").read_bytes() == written


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--set", "train.lr=1"], "train.lr cannot be set: an import trains nothing; leave it out"),
        (["--set", "start.method=cot"], "start.method cannot be set: an import trains nothing; leave it out"),
        (["--set", "imported.source=x"], "imported.source cannot be set: it follows from SOURCE"),
        (["--set", "imported.format=x"], "imported.format cannot be set: it follows from SOURCE"),
        (["--revision", "abc"], "--revision abc is of a Hugging Face id, but"),
    ],
)
def test_what_says_nothing_of_an_import_is_refused(
    source: Path, tmp_path: Path, more: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(import_command(source, tmp_path / "runs", *more)) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_evaluation_and_measures_take_it(run: Path) -> None:
    settings = ["--set", "task.max_ops=4"]
    assert main(["eval", str(run), *FIRST]) == 0
    (evaluation,) = (run / "eval").iterdir()
    manifest = read_evaluation(evaluation).manifest
    assert manifest.train_data.startswith("imported pytorch_model.bin,lora_alpha=1.0 sha256=")
    assert manifest.variant == "imported=pytorch_model.bin,lora_alpha=1.0 generate.max_new_tokens=4"
    imported = load_run(run).config.imported
    assert imported is not None
    assert manifest.config["imported"]["sha256"] == imported.sha256
    assert main(["trace", str(run), *FIRST]) == 0
    assert main(["reliance", str(run), *FIRST]) == 0
    assert main(["cost", str(run), *FIRST, "--rounds", "1"]) == 0
    assert main(["inspect", str(run), "--limit", "1"]) == 0
    assert main(["leaderboard", str(run.parent)]) == 0
    assert main(["eval", str(run), *FIRST, *settings]) == 0


@pytest.mark.parametrize("out", [(), ("--out", "mine")], ids=["its own name", "a name of the user's"])
def test_its_results_pass_the_check(
    source: Path, tmp_path: Path, out: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(import_command(source, tmp_path / "runs", *out)) == 0
    (run,) = (path.parent for path in tmp_path.rglob("train.json"))
    assert main(["eval", str(run), *FIRST]) == 0
    assert check([run]).problems == []


def test_lm_eval_takes_it(run: Path) -> None:
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance

    from latbench.integrations.lm_eval_adapter import LatbenchLM

    asked = Instance("generate_until", {}, ("1+1?", {"until": ["\n"], "max_gen_toks": 3}), 0)
    (text,) = LatbenchLM(run=str(run)).generate_until([asked])
    assert isinstance(text, str)


def test_a_result_is_repeated_from_its_manifest_alone(run: Path, source: Path, tmp_path: Path) -> None:
    assert main(["eval", str(run), *FIRST]) == 0
    evaluation = next(path for path in (run / "eval").iterdir() if path.name.endswith("first3"))
    assert main(["rerun", str(evaluation), "--check", "--runs-dir", str(tmp_path)]) == 0
    again = next(tmp_path.rglob("records.jsonl"))
    assert again.read_bytes() == (evaluation / "records.jsonl").read_bytes()

    weights = source / "pytorch_model.bin"
    before = weights.read_bytes()
    state = torch.load(weights, weights_only=True)
    torch.save({**state, "prj.1.bias": state["prj.1.bias"] + 1}, weights)
    try:
        assert main(["rerun", str(evaluation), "--runs-dir", str(tmp_path / "other")]) == 2
    finally:
        weights.write_bytes(before)


def test_a_second_start_after_a_kill_begins_anew(source: Path, tmp_path: Path) -> None:
    assert main(import_command(source, tmp_path)) == 0
    (folder,) = tmp_path.iterdir()
    (folder / "train.json").unlink()
    (folder / "checkpoint").rename(folder / "checkpoint.tmp")
    assert main(import_command(source, tmp_path)) == 0
    assert load_run(folder).is_complete
    assert not (folder / "checkpoint.tmp").exists()


def test_bad_input_is_one_sentence_and_exit_code_2(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", str(tmp_path / "nothing"), "--runs-dir", str(tmp_path / "runs")]) == 2
    assert main(["import", str(source / "base"), "--runs-dir", str(tmp_path / "runs")]) == 2
    assert main(import_command(source, tmp_path / "runs", "--set", "imported.alpha=3")) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3
    assert "did you mean 'imported.lora_alpha'" in errors[2]
    assert not (tmp_path / "runs").exists()
