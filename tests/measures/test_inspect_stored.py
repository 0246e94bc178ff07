"""`latbench inspect` of a committed evaluation, whose model is not at hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from latbench.cli import main
from latbench.evaluation.records import read_evaluation
from latbench.measures.inspect import inspect_stored
from latbench.measures.measure_files import LatentsFile, read_measure

ROOT = Path(__file__).parents[2]
COMMITTED = sorted(path.parent for path in (ROOT / "results" / "synth" / "coconut").glob("*/latents.json"))[0]


def test_a_committed_answer_is_shown_with_its_latent_steps(capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = read_evaluation(COMMITTED)
    kept = read_measure(COMMITTED, LatentsFile, evaluation.manifest)
    assert kept is not None
    place = kept.rows[1]
    record = evaluation.records[place]
    assert main(["inspect", str(COMMITTED), "--index", str(place), "--top", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["id"], found["text"], found["status"]) == (record.id, record.text, record.status)
    assert len(found["latents"]) == record.num_latents > 0
    for shown, step in zip(found["latents"], kept.get(place, 3), strict=True):
        assert [tuple(entry) for entry in shown["tokens"]] == list(step.tokens)
    again = inspect_stored(COMMITTED, text=found["question"])
    assert (again.id, again.question) == (record.id, found["question"])
    assert again.question.startswith("mod 10: ")
    assert main(["inspect", str(COMMITTED)]) == 0
    assert "stored trace" in capsys.readouterr().out


def test_what_is_not_kept_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(COMMITTED), "--index", "999999"]) == 2
    assert "keeps no latent steps of this question; choose --index among " in capsys.readouterr().err
    bare = shutil.copytree(COMMITTED, tmp_path / "bare", ignore=shutil.ignore_patterns("latents.json"))
    assert main(["inspect", str(bare)]) == 2
    assert "keeps no latent steps; `latbench trace RUN` writes them" in capsys.readouterr().err
