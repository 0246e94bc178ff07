"""Averages over tasks: which settings and tasks a table takes, and its numbers."""

from __future__ import annotations

import json
from math import isclose, sqrt
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from latbench.cli import main
from latbench.evaluation.metrics import Summary, summarise
from latbench.evaluation.statistics import Interval, mean_interval, mean_of_estimates
from latbench.report.averages import Average, averages
from latbench.report.cells import rows
from latbench.report.leaderboard import leaderboard
from latbench.report.task_sections import report_sections
from latbench.report.terminal import to_terminal
from latbench.task import Fingerprint


@pytest.fixture
def run(make: Any, record: Any) -> Any:
    """Summary of a method's run on a task, with `num_correct` of `n` questions right."""
    made: list[Summary] = []

    def summary(task: str, method: str, num_correct: int, n: int = 4, **changes: Any) -> Summary:
        records = [record(f"{task}{i}", i < num_correct, num_latents=n) for i in range(n)]
        data = {f"{task}/{changes.get('split', 'test')}": Fingerprint(source=task, sha256="00", num_examples=n)}
        fields = {"task": task, "method": method, "setting": method, "data": data, "run": f"run{len(made)}", **changes}
        made.append(summarise(make(records, **fields)))
        return made[-1]

    return summary


def of(*summaries: Summary) -> list[Average]:
    return averages(report_sections(rows(summaries)))


def methods(average: Average) -> list[str]:
    return [line.identity.method for line in average.lines]


def test_the_mean_of_independent_estimates_has_the_interval_of_a_normal_mean() -> None:
    found = mean_of_estimates([Interval(0.5, 0.2, 0.9), Interval(0.7, 0.3, 0.8)])
    assert isclose(found.value, 0.6)
    assert isclose(found.low, 0.6 - sqrt(0.3**2 + 0.4**2) / 2)
    assert isclose(found.high, 0.6 + sqrt(0.4**2 + 0.1**2) / 2)
    assert mean_of_estimates([Interval(0.5, 0.2, 0.9)]) == Interval(0.5, 0.2, 0.9)
    with pytest.raises(ValueError, match="at least one"):
        mean_of_estimates([])


def test_a_table_averages_over_the_tasks_that_all_its_lines_have(run: Any) -> None:
    full = [run(task, "cot", right) for task, right in (("a", 4), ("b", 2), ("c", 0))]
    part = [run(task, "codi", right) for task, right in (("a", 2), ("b", 1))]
    alone = run("a", "icot", 4)
    elsewhere = run("b", "icot", 4, backbone="other", setting="x")
    (found,) = of(*full, *part, alone, elsewhere)
    assert found.tasks == ("a / test", "b / test")
    assert methods(found) == ["cot", "codi"]
    assert [line.accuracy.value for line in found.lines] == [0.75, 0.375], "c is no part of either"
    assert [rank.value for rank in found.ranks] == [1, 2]
    assert (
        found.table.title == "2 tasks: a / test, b / test. Backbone: tiny. Layout: default. Training data: synth/train."
    )
    assert [head.name for head in found.table.heads] == [
        "method", "variant", "seeds", "average", "rank", "#L", "a / test", "b / test",
    ]  # fmt: skip
    assert found.table.lines[0][3].startswith("75.0 [")


def test_ragged_settings_give_a_table_for_each_set_of_shared_tasks(run: Any) -> None:
    has = {"cot": "abc", "codi": "abc", "icot": "ab", "pause": "bc"}
    found = of(*(run(task, method, 2) for method, tasks in has.items() for task in tasks))
    assert [(average.tasks, sorted(methods(average))) for average in found] == [
        (("a / test", "b / test", "c / test"), ["codi", "cot"]),
        (("a / test", "b / test"), ["codi", "cot", "icot"]),
        (("b / test", "c / test"), ["codi", "cot", "pause"]),
    ]


def test_seeds_that_a_task_lacks_are_left_out_of_every_task(run: Any) -> None:
    more = [run("a", "cot", right, seed=seed) for seed, right in enumerate((4, 3, 0))]
    fewer = [run("b", "cot", right, seed=seed) for seed, right in enumerate((2, 1))]
    none = [run("a", "codi", 1, seed=7), run("b", "codi", 1, seed=8)]
    other = [run(task, "icot", 1) for task in "ab"]
    (found,) = of(*more, *fewer, *none, *other)
    assert methods(found) == ["cot", "icot"], "codi has no seed on both"
    line = found.lines[0]
    assert line.accuracy == mean_interval([0.75, 0.5]).clipped(0, 1)
    assert [accuracy.value for accuracy in line.accuracies] == [0.875, 0.375], "without the third seed of a"


def test_one_test_set_of_a_task_counts(run: Any) -> None:
    sets: dict[str, dict[str, Any]] = {"few": {"split": "validation", "n": 2}, "many": {"n": 4}}
    made = [run("a", method, 1, **how) for method in ("cot", "codi") for how in sets.values()]
    assert of(*made) == [], "two test sets of one task are no two tasks"
    (found,) = of(*made, *(run("b", method, 2) for method in ("cot", "codi")))
    assert found.tasks == ("a / test", "b / test")


def test_settings_of_one_variant_are_never_mixed(run: Any) -> None:
    """Two trainings on task a, one of which was evaluated on b as well: that one is the line."""
    both = [run(task, "cot", 4, setting="s1") for task in "ab"]
    lone = run("a", "cot", 0, setting="s2")
    each = [run(task, "codi", 2, setting=f"on {task}", train_data=f"{task}/train") for task in "ab"]
    (found,) = of(*both, lone, *each)
    assert [line.accuracy.value for line in found.lines] == [1, 0.5]
    assert found.table.heads[2].name == "training data"
    assert found.table.lines[1][2] == "a/train; b/train", "one run of a variant for each task"


def test_every_format_shows_them_and_json_their_numbers(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for task in "ab":
        for method in ("cot", "codi"):
            run(task, method, 3 if method == "cot" else 1)
    texts = leaderboard([tmp_path], ["md", "latex", "html"]).text_by_format
    assert all("2 tasks: a / test, b / test." in text for text in texts.values())
    assert "\n## Average over tasks\n" in texts["md"]
    assert main(["leaderboard", str(tmp_path), "--json"]) == 0
    shown = leaderboard([tmp_path], ())
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(*to_terminal(shown.sections, 80, averages=shown.averages), sep="\n")
    assert "75.0 [" in console.export_text().split("Average over tasks")[1]
    (average,) = json.loads(capsys.readouterr().out)["averages"]
    assert average["tasks"] == ["a / test", "b / test"]
    assert [(line["method"], line["rank"], line["average"], line["accuracies"]) for line in average["lines"]] == [
        ("cot", 1, 0.75, [0.75, 0.75]),
        ("codi", 2, 0.25, [0.25, 0.25]),
    ]
