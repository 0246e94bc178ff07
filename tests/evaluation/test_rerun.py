"""Repeating a result, the first leaderboard, and the lists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from latbench.cli.quickstart import quickstart, quickstart_configs
from latbench.config import RunConfig, parse
from latbench.evaluation.evaluate import evaluate
from latbench.evaluation.job import EvalJob
from latbench.evaluation.records import MANIFEST, RECORDS, read_manifest
from latbench.evaluation.rerun import rerun
from latbench.listing import texts
from latbench.report.leaderboard import find_evaluations
from latbench.runs import environment
from latbench.runs.run import Run
from latbench.runs.train import base_run

QUICK = {
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


def test_a_repeated_result_has_identical_records(run: Run) -> None:
    changes = {"generate.temperature": 1.0, "generate.samples": 2, "seed": 4, "task.scorer": "last_number"}
    result = evaluate(EvalJob.of(run, "synth", limit=5, changes=changes))
    found = rerun(result, runs_dir=run.folder.parent)
    assert (found.num_identical, found.n) == (10, 10)
    assert found.reproduced
    assert found.differences == ()
    assert found.folder != result


def test_a_repetition_is_no_further_row_of_the_leaderboard(run: Run) -> None:
    result = evaluate(EvalJob.of(run, "synth", limit=3))
    rerun(result, runs_dir=run.folder.parent)
    assert list(find_evaluations([run.folder.parent])) == [result]


@pytest.mark.parametrize(
    ("state", "shared"), [(("c0ffee", False), True), (("c0ffee", True), False), ((None, None), False)]
)
def test_only_committed_code_goes_on_with_an_earlier_repetition(
    run: Run, monkeypatch: pytest.MonkeyPatch, state: tuple[str | None, bool | None], shared: bool
) -> None:
    result = evaluate(EvalJob.of(run, "synth", limit=3))
    monkeypatch.setattr(environment, "git_state", lambda: state)
    first, second = (rerun(result, runs_dir=run.folder.parent).folder for _ in range(2))
    assert (first == second) == shared
    assert first.is_dir(), "no repetition removes another's"


def test_a_result_without_training_is_repeated_too(small: RunConfig, tmp_path: Path) -> None:
    base = base_run(small, runs_dir=tmp_path)
    found = rerun(evaluate(EvalJob.of(base, "synth", limit=3)), runs_dir=tmp_path)
    assert found.num_identical == found.n == 3


def test_another_result_is_told_from_its_repetition(run: Run) -> None:
    result = evaluate(EvalJob.of(run, "synth"))
    rows = [json.loads(line) for line in (result / RECORDS).read_text().splitlines()]
    for row in rows:
        row["status"] = "correct"
    (result / RECORDS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = json.loads((result / MANIFEST).read_text())
    manifest["versions"]["torch"] = "1.0"
    (result / MANIFEST).write_text(json.dumps(manifest))
    found = rerun(result, runs_dir=run.folder.parent)
    assert found.accuracy_before.value == 1
    assert not found.reproduced
    assert any(text.startswith("torch 1.0 there, ") for text in found.differences)


def test_chains_of_another_length_are_not_reproduced_at_equal_accuracy(run: Run) -> None:
    result = evaluate(EvalJob.of(run, "synth"))
    rows = [json.loads(line) for line in (result / RECORDS).read_text().splitlines()]
    shorter = [{**row, "num_latents": 1, "num_reasoning_tokens": 0} for row in rows]
    (result / RECORDS).write_text("".join(json.dumps(row) + "\n" for row in shorter))
    found = rerun(result, runs_dir=run.folder.parent)
    assert found.accuracy_now == found.accuracy_before
    assert found.length_before is not None
    assert found.length_before.value == 1
    assert not found.reproduced


def test_an_incomplete_result_is_not_repeated(run: Run) -> None:
    result = evaluate(EvalJob.of(run, "synth", limit=3))
    (result / RECORDS).write_text("")
    with pytest.raises(ValueError, match=r"is incomplete \(0 of 3 records\)"):
        rerun(result, runs_dir=run.folder.parent)


def test_a_run_is_not_taken_for_one_of_its_results(run: Run) -> None:
    result = evaluate(EvalJob.of(run, "synth", limit=2))
    with pytest.raises(ValueError, match="is a run; name one of its evaluations:") as refused:
        rerun(run.folder, runs_dir=run.folder.parent)
    assert str(result) in str(refused.value)


def test_quickstart_runs_what_is_registered_and_repeats_nothing(tmp_path: Path) -> None:
    configs = quickstart_configs(every=False, seeds=[0], settings=QUICK)
    assert [config.method_name for config in configs][:2] == ["cot", "direct"]
    assert {config.method_name for config in configs} == {"cot", "direct", "latent_sft"}
    assert all(config.preset == "tiny" for config in configs)
    done = quickstart(configs, runs_dir=tmp_path / "runs", out=tmp_path / "out")
    names = sorted(path.name for path in done.paths)
    assert names == ["accuracy_vs_length.png", "accuracy_vs_length.svg", "leaderboard.html", "leaderboard.md"]
    assert all(path.stat().st_size > 0 for path in done.paths)
    created = [read_manifest(folder).created for folder in done.evaluations]
    again = quickstart(configs, runs_dir=tmp_path / "runs", out=tmp_path / "out")
    assert [read_manifest(folder).created for folder in again.evaluations] == created
    assert again.board.text_by_format == done.board.text_by_format


def test_quickstart_shows_only_its_own_runs(run: Run, tmp_path: Path) -> None:
    evaluate(EvalJob.of(run, "synth"))
    every = quickstart_configs(every=False, seeds=[0], settings=QUICK)
    configs = [config for config in every if config.method_name == "direct"]
    done = quickstart(configs, runs_dir=run.folder.parent, out=tmp_path)
    assert "| cot " not in done.board.text_by_format["md"]


def test_quickstart_of_every_method_takes_those_with_a_tiny_preset() -> None:
    names = [config.method_name for config in quickstart_configs(every=True, seeds=[0, 1], settings={})]
    assert {"cot", "direct"} <= set(names)
    assert len(names) == 2 * len(set(names))


def test_lists_show_runs_with_their_state(run: Run) -> None:
    evaluate(EvalJob.of(run, "synth", limit=2))
    unfinished = run.folder.parent / "begun"
    unfinished.mkdir()
    (unfinished / "config.yaml").write_text("")
    assert texts("runs", run.folder.parent) == {"begun": "unfinished", run.folder.name: "trained, synth-test-first2"}


def test_lists_name_every_method_task_and_preset(tmp_path: Path) -> None:
    assert {"cot", "direct"} <= texts("methods", tmp_path).keys()
    assert {"synth", "gsm8k"} <= texts("tasks", tmp_path).keys()
    presets = texts("presets", tmp_path)
    assert presets["cot: coconut-gpt2"] == "openai-community/gpt2 on gsm8k_aug"
    for name in presets:
        method, preset = name.split(": ")
        assert parse({"method": method}, preset=preset).preset == preset
