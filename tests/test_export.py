"""A run that is exported is a plain model, says where it comes from, and gives the same answers when it is loaded."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

import latbench
from latbench.cli import main
from latbench.config import parse
from latbench.evaluation.metrics import summarise
from latbench.evaluation.records import write_manifest
from latbench.exporting import export
from latbench.report.columns import interval_text
from latbench.report.model_card import model_card
from latbench.runs.run import Run, load_run
from latbench.runs.train import base_run
from tests.integrations.conftest import random_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A CODI run, which has heads, with an evaluation."""
    made = random_run("codi", tmp_path_factory.mktemp("made"))
    latbench.evaluate(made)
    return made


@pytest.fixture(scope="module")
def shared(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What it looks like elsewhere."""
    folder = tmp_path_factory.mktemp("shared") / "model"
    assert main(["export", str(run.folder), str(folder)]) == 0
    return folder


def test_it_answers_as_before_and_evaluates_to_the_same_records(run: Run, shared: Path, tmp_path: Path) -> None:
    before = latbench.evaluate(run)
    loaded = latbench.load_run(shutil.copytree(shared, tmp_path / "copy"))
    assert loaded.config == run.config
    questions = ["mod 12: n0=3+4; n1=n0*5; n1?", "n0?"]
    assert loaded.generate(questions) == run.generate(questions)
    copied = latbench.evaluate(loaded)
    assert copied.records == before.records
    anew = latbench.evaluate(loaded, limit=9)
    assert anew.records == before.records[:9]


def test_it_is_a_plain_model_without_code_or_pickles(run: Run, shared: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(shared)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in run.method.backbone.model.parameters())
    assert AutoTokenizer.from_pretrained(shared).encode("n0") == run.method.backbone.tokenizer.encode("n0")
    kinds = {path.suffix for path in shared.rglob("*") if path.is_file()}
    assert kinds <= {".json", ".jsonl", ".safetensors", ".yaml", ".md", ".bin", ".jinja"}
    assert {path.name for path in shared.rglob("*.bin")} <= {"train_questions.bin"}


def test_its_card_says_method_data_numbers_command_licence_and_citation(run: Run, shared: Path) -> None:
    text = (shared / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    evaluation = latbench.evaluate(run)
    summary = summarise(evaluation)
    values: dict[str, Any] = yaml.safe_load(front)
    assert values["library_name"] == "latbench"
    assert values["license"] == "apache-2.0"
    (result,) = values["model-index"][0]["results"]
    assert result["dataset"] == {"type": "synth", "name": "synth", "split": "test"}
    assert result["metrics"][0]["value"] == round(100 * summary.accuracy.value, 2)
    for told in (
        "arXiv:2502.21074",
        run.report["train_data"],
        f"| synth/test | {summary.n} | {interval_text(summary.accuracy, 100)} | {interval_text(summary.chain_length)} ",
        run.config.setting,
        run.report["command"],
        "\napache-2.0.\n",
        "@software{latbench,",
        f'load_run("{run.folder.name}")',
    ):
        assert told in body, told
    assert "&" not in body
    assert "{{" not in text
    assert "\n\n\n" not in text


def test_its_card_names_a_base_model_of_the_hub_alone(run: Run, tmp_path: Path) -> None:
    for model, is_named in (("openai-community/gpt2", True), ("gpt2", True), (str(tmp_path), False), ("tiny", False)):
        config = replace(run.config, model=replace(run.config.model, id=model))
        _, front, body = model_card(config, run.report, [], name="run", licence=None).split("---\n", 2)
        assert yaml.safe_load(front).get("base_model") == (model if is_named else None)
        assert model in body
    (tmp_path / "gpt2").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)  # a folder comes before the Hub
        config = replace(run.config, model=replace(run.config.model, id="gpt2"))
        assert "base_model:" not in model_card(config, run.report, [], name="run", licence=None)


def test_what_cannot_be_exported_is_refused_and_nothing_is_written(
    run: Run, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run.folder), str(shared)]) == 2
    assert f"error: {shared} exists; remove it" in capsys.readouterr().err
    assert main(["export", str(run.folder), "hub:alone"]) == 2
    assert "'hub:alone' names no repository; give hub:OWNER/NAME" in capsys.readouterr().err
    tree: dict[str, Any] = {"method": {"name": "soft_thinking", "variant": "moi"}, "start": None}
    untrained = base_run(parse(tree), runs_dir=tmp_path / "runs")
    with pytest.raises(ValueError, match=r"trained nothing, so there is no model to share"):
        export(untrained, str(tmp_path / "nothing"))
    damaged = tmp_path / "damaged"
    export(run, str(damaged))
    (damaged / "heads.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"is damaged \(heads.safetensors is not the file that was saved"):
        export(load_run(damaged), str(tmp_path / "nothing"))
    assert not list(tmp_path.glob("nothing*"))


def test_evaluations_that_are_only_begun_stay_behind(run: Run, tmp_path: Path) -> None:
    begun = load_run(shutil.copytree(run.folder, tmp_path / run.folder.name))
    manifest = replace(latbench.evaluate(begun).manifest, complete=False)
    (begun.folder / "eval" / "graphs-test").mkdir()
    write_manifest(begun.folder / "eval" / "graphs-test", manifest)
    export(begun, str(tmp_path / "model"))
    assert [path.name for path in (tmp_path / "model" / "eval").iterdir()] == ["synth-test"]


def test_a_repository_of_the_hub_gets_the_same_files(run: Run, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    told: dict[str, Any] = {}

    class Hub:
        def create_repo(self, name: str, **settings: Any) -> str:
            told.update(name=name, **settings)
            return f"https://huggingface.co/{name}"

        def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
            files = {
                path.relative_to(folder_path): path.read_bytes() for path in folder_path.rglob("*") if path.is_file()
            }
            told.update(repo=repo_id, files=files)

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    assert export(run, "hub:me/mine", private=True) == "https://huggingface.co/me/mine"
    assert (told["name"], told["repo"], told["private"]) == ("me/mine", "me/mine", True)
    expected = {path.relative_to(shared): path.read_bytes() for path in shared.rglob("*") if path.is_file()}
    assert told["files"] == expected


def test_a_licence_of_ones_own_is_named(run: Run, tmp_path: Path) -> None:
    export(run, str(tmp_path / "own"), licence="cc-by-4.0")
    text = (tmp_path / "own" / "README.md").read_text(encoding="utf-8")
    assert "\nlicense: cc-by-4.0\n" in text
    assert "\ncc-by-4.0.\n" in text
    assert json.loads((tmp_path / "own" / "latbench.json").read_text(encoding="utf-8"))["method"] == "codi"
