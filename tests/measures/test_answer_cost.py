"""Cost of an answer: who takes turns with whom, what is stored, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from latbench.evaluation.evaluate import evaluate
from latbench.evaluation.records import append_records, read_evaluation, read_records
from latbench.evaluation.statistics import median_ratio
from latbench.measures.answer_cost import AnswerFlops, cost
from latbench.measures.measure_files import COST, CostFile, Measures, read_measure, read_measures
from latbench.method import Method
from latbench.report.markdown import markdown_tables
from latbench.report.measure_tables import tables_of_run
from latbench.runs.run import Run
from tests.measured_runs import call, job_of


def test_runs_take_turns_and_stand_beside_the_first(runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int, int]] = []
    generate = Method.generate

    def noted(self: Method[Any], prompts: Any, config: Any, **more: Any) -> Any:
        asked.append((self.name, config.batch_size, len(prompts)))
        return generate(self, prompts, config, **more)

    monkeypatch.setattr(Method, "generate", noted)
    jobs = [job_of(run) for run in runs.values()]
    found = cost(jobs, rounds=2, num_single=3)
    turn = [(name, *part) for name in runs for part in ((1, 3), (20, 20))]
    assert asked == turn * 3  # a round to warm up, two that count
    for job, (path, one) in zip(jobs, found, strict=True):
        assert path == job.folder / COST
        evaluation = read_evaluation(path.parent)
        assert read_measure(path.parent, CostFile, evaluation.manifest) == one
        assert one.reference == runs["coconut"].folder.name
        assert one.reference_single == found[0][1].seconds_single
        assert (one.num_single, one.batch_size, len(one.seconds_full)) == (3, 20, 2)
        assert one.peak_memory_bytes == evaluation.manifest.evaluation["peak_memory_bytes"]
        formula = AnswerFlops.of(job.run.method)
        assert one.flops == pytest.approx(sum(map(formula.of_record, evaluation.records)) / 20)
    assert (found[0][1].ratio_single, found[0][1].ratio_full) == (1, 1)


def test_the_formula_by_hand(coconut: Run) -> None:
    record = read_evaluation(job_of(coconut).folder).records[0]
    prompt, steps, width, vocab = record.num_prompt_tokens, record.decode_steps, 16, 297
    weights = 4 * width * width + 3 * width * 16  # one layer: q, k, v, o; gate, up, down of 16
    keys = prompt * prompt + sum(prompt + step for step in range(1, steps + 1))
    expected = 2 * weights * (prompt + steps) + 2 * vocab * width * (steps + 1) + 4 * width * keys
    assert AnswerFlops.of(coconut.method).of_record(record) == expected


def test_ratio_is_the_median_over_rounds() -> None:
    assert median_ratio([2.0, 9.0, 3.0], [1.0, 3.0, 3.0]) == 2


def test_command_and_table(runs: dict[str, Run], capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(run.folder) for run in runs.values()]
    code, out, _ = call(capsys, "cost", *folders, "--rounds", "1")
    assert code == 0
    assert out.count(runs["latent_sft"].folder.name) == 1
    code, out, _ = call(capsys, "cost", folders[0], "--rounds", "1", "--json")
    (one,) = json.loads(out)["costs"]
    assert code == 0
    assert len(one["seconds_single"]) == 1
    run = runs["coconut"]
    folder = job_of(run).folder
    found = read_measures(read_evaluation(folder))[0].cost
    line = markdown_tables(tables_of_run(Measures(cost=found))).splitlines()[-1]
    assert "1.00" in line


def test_what_cannot_be_measured_is_refused(
    coconut: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = call(capsys, "cost", str(coconut.folder), "--limit", "3")
    assert code == 2
    assert "latbench eval" in err
    folder = job_of(coconut).folder
    records, _ = read_records(folder / "records.jsonl")
    (folder / "records.jsonl").unlink()
    append_records(folder / "records.jsonl", records[:5])
    code, _, err = call(capsys, "cost", str(coconut.folder))
    assert code == 2
    assert "5 of 20 records" in err
    assert not (folder / COST).exists()
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ValueError, match="one process"):
        cost([job_of(coconut)])


def test_a_damaged_file_is_not_shown(coconut: Run, tmp_path: Path) -> None:
    job = job_of(coconut)
    ((path, one),) = cost([job], rounds=2, num_single=1)
    row = json.loads(path.read_text())
    path.write_text(json.dumps({**row, "reference_full": row["reference_full"][:1]}))
    found, notices = read_measures(read_evaluation(path.parent))
    assert found.cost is None
    assert "not every round" in notices[0]
    assert "latbench cost" in notices[0]
    assert one.ratio_full == 1


def test_runs_that_are_asked_other_questions_have_no_ratio(runs: dict[str, Run]) -> None:
    job, other = job_of(runs["coconut"]), job_of(runs["latent_sft"], limit=1)
    evaluate(other)
    with pytest.raises(ValueError, match=r"first1 do not ask the same questions.*; measure runs on the same task"):
        cost([job, other], rounds=1)
    assert not (job.folder / COST).exists()
