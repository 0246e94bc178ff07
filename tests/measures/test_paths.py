"""Sampled paths: distinct, correct, with their questions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from latbench.evaluation.records import read_evaluation, read_records
from latbench.measures.parallelism import parallelism
from latbench.measures.paths import PATHS, SAMPLING, chain_of, chosen, distinct, read_paths, sample_paths, steps_of
from latbench.model.layout import Layout
from latbench.model.tiny import tiny_tokenizer
from latbench.runs.run import Run
from latbench.task import Score
from tasks.synth import Synth
from tests.measured_runs import call, job_of


def test_chains_are_told_apart_but_for_white_space_and_case() -> None:
    chains = [("A b",), ("a", "B "), ("a  b",), ("c",), (), ("C",), ("d",)]
    assert distinct(chains) == [("A b",), ("c",), ("d",)]
    assert steps_of(" <<1+1=2>>\n\n<<2+2=4>> ") == ("<<1+1=2>>", "<<2+2=4>>")
    many = [(str(number),) for number in range(50)]
    some = chosen(("7",), many, 5, "key")
    assert some[0] == ("7",)
    assert len(set(some)) == 5
    assert some == chosen(("7",), many, 5, "key") != chosen(("7",), many, 5, "other")
    assert len(chosen(("7",), many, 100, "key")) == 50
    assert chosen((), many[:2], 5, "key") == many[:2]
    assert chosen((), [], 5, "key") == []


def test_a_chain_written_without_a_joiner_is_the_gold_chain() -> None:
    gold = ("<<3+4=7>>", "<<7*2=14>>")
    layout = Layout("clause", tiny_tokenizer())
    written = steps_of(layout.decode(layout.steps(gold)))
    assert len(written) == 1
    assert chosen(gold, [written], 5, "key") == [gold]
    assert chosen(gold, [written, gold[::-1]], 5, "key") == [gold, gold[::-1]]


def test_the_chain_of_a_model_without_think_tokens_stands_before_its_answer(record: Any) -> None:
    text = "3*4=12\n12-2=10\nThe answer is 10."
    written = record("a", text=text, num_latents=0, num_reasoning_tokens=14)
    assert chain_of(written) == ("3*4=12", "12-2=10")
    assert chain_of(replace(written, num_reasoning_tokens=None)) == ()
    assert chain_of(replace(written, num_reasoning_tokens=0)) == ()
    assert chain_of(replace(written, text="10", reasoning="5*2=10\n")) == ("5*2=10",)


def accept_all(self: Synth, pairs: Any) -> list[Score]:
    """A scorer that is right about every second question."""
    return [Score(status="correct" if int(e.id.split("-")[1]) % 2 else "incorrect", extracted="1") for _, e in pairs]


def test_paths_are_distinct_correct_chains_and_go_with_their_questions(
    run: Run, coconut: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Synth, "score_many", accept_all)
    job = job_of(run, changes={**SAMPLING, "generate.samples": 4})
    path, known = sample_paths(job)
    assert path.name == PATHS
    records, _ = read_records(path.parent / "records.jsonl")
    for name, chains in known.by_id.items():
        assert int(name.split("-")[1]) % 2 == 1
        written = [steps_of(record.reasoning) for record in records if record.id == name]
        assert set(chains) <= set(written)
        assert len(distinct(chains)) == len(chains) > 0
    other = read_evaluation(job_of(coconut).folder).manifest.questions_sha256
    stored = read_paths(path, other)  # of another run, on the same questions
    assert (stored.source, dict(stored.by_id)) == (known.source, dict(known.by_id))
    found = parallelism(job_of(coconut), paths_file=path)[1]
    assert found.paths is not None
    assert found.paths.source == f"run {run.folder.name}, 4 samples"
    assert found.paths.num_questions <= len(known.by_id)
    with pytest.raises(ValueError, match="has chains of other questions"):
        read_paths(path, "0")
    path.write_text(path.read_text()[:-5])
    with pytest.raises(
        ValueError, match=rf"line {len(known.by_id) + 1} is damaged; make the file with `latbench paths`"
    ):
        read_paths(path, other)
    with pytest.raises(ValueError, match=r"nowhere: .*; make the file with `latbench paths`"):
        read_paths(Path("nowhere"), other)
    code, out, err = call(capsys, "paths", str(run.folder), "--samples", "4", "--json")
    assert code == 0, err
    assert json.loads(out)["questions"] == len(known.by_id)


def test_a_run_that_writes_no_chain_out_has_no_paths(coconut: Run) -> None:
    with pytest.raises(ValueError, match="writes no reasoning out; sample paths from a run of `cot`"):
        sample_paths(job_of(coconut, limit=2))
