"""Rows, cells and their texts."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from latbench.evaluation.metrics import Summary, summarise
from latbench.evaluation.statistics import Interval, mean_interval, wilson_interval
from latbench.measures.measure_files import Measures
from latbench.report.cells import Row, cells, comparable, ranked, ranks, rows
from latbench.report.columns import COLUMNS, DASH, IDENTITY, Column, interval_text, mean, number_text, rank_text
from latbench.report.csv import to_csv
from latbench.report.latex import to_latex
from latbench.report.markdown import to_markdown
from latbench.report.table import Head
from latbench.report.task_sections import report_sections

REQUIRED = [
    "task",
    "split",
    "method",
    "variant",
    "setting",
    "backbone",
    "layout",
    "train_data",
    "run",
    "seed",
    "n",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "chain_length",
    "compression",
    "answer_tokens",
    "decode_steps",
    "no_answer",
    "timeout",
    "truncated",
    "answers_per_second",
    "train_flops",
]


def test_an_unknown_length_is_a_dash_with_its_share_beside(make: Any, record: Any) -> None:
    def summary(name: str, *lengths: int | None) -> Summary:
        records = [record(f"q{i}", num_latents=0, num_reasoning_tokens=length) for i, length in enumerate(lengths)]
        return summarise(make(records, run=name, setting=name, variant=name))

    header, _, *lines = table_lines(markdown(rows([summary("dash", None, None), summary("half", 4, None)])))
    by_variant = {line[1]: dict(zip(header, line, strict=True)) for line in lines}
    assert (by_variant["dash"]["#L"], by_variant["dash"]["#L unknown"]) == (DASH, "100.0")
    assert by_variant["dash"]["compression"] == DASH
    assert by_variant["half"]["#L"].startswith("4.0 ")
    assert by_variant["half"]["#L unknown"] == "50.0"
    known = markdown(rows([summary("known", 4, 6)]))
    assert "#L unknown" not in table_lines(known)[0]
    (line,) = csv.DictReader(io.StringIO(to_csv(rows([summary("once more", 4, None)]))))
    assert line["unknown_length"] == "0.5"


@pytest.fixture
def run(make: Any, record: Any) -> Any:
    """Summary of a run of `n` questions with `num_correct` correct answers and `length` latent steps each."""

    def summary(
        name: str, num_correct: int = 2, length: int = 4, n: int = 4, gold: int = 0, samples: int = 1, **changes: Any
    ) -> Summary:
        records = [
            record(f"q{i}", i < num_correct, sample=s, num_latents=length, gold_chain_length=gold)
            for i in range(n)
            for s in range(samples)
        ]
        return summarise(make(records, run=name, **changes))

    return summary


EXACT = {"model": {"dtype": "float32"}}


def markdown(rows: list[Row]) -> str:
    return to_markdown(report_sections(rows))


def table_lines(text: str) -> list[list[str]]:
    return [[part.strip() for part in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


def test_csv_starts_with_the_required_columns_and_reads_back(run: Any) -> None:
    text = to_csv(rows([run("a", 1), run("b", 3, seed=1)]))
    read = list(csv.DictReader(io.StringIO(text)))
    assert list(read[0])[: len(REQUIRED)] == REQUIRED
    assert [(row["run"], float(row["accuracy"]), row["compression"]) for row in read] == [
        ("b", 0.75, ""),
        ("a", 0.25, ""),
    ]


def test_one_run_has_wilsons_interval_and_several_seeds_students(run: Any) -> None:
    single, several = cells(rows([run("a", 4, setting="s2"), run("b", 1), run("c", 2, seed=1), run("d", 1, seed=2)]))
    assert single.accuracy == wilson_interval(4, 4)
    assert several.accuracy == mean_interval([0.25, 0.5, 0.25]).clipped(0, 1)
    assert several.chain_length == Interval(4, 4, 4)
    assert len(several.rows) == 3


@pytest.mark.parametrize("name", ["method", "variant", "setting", "backbone", "layout", "train_data"])
def test_runs_that_differ_in_the_identity_are_never_averaged(run: Any, name: str) -> None:
    assert len(cells(rows([run("a"), run("b", seed=1, **{name: "other"})]))) == 2


def test_other_questions_or_numbers_of_answers_are_never_put_in_one_cell(run: Any, make: Any, record: Any) -> None:
    ids = summarise(make([record(f"p{i}") for i in range(4)], run="ids", seed=1))
    for other in (run("more", n=5, seed=1), ids, run("twice", samples=2, seed=1)):
        made = cells(rows([run("few " + other.manifest.run), other]))
        assert [len(cell.rows) for cell in made] == [1, 1]
    assert len(comparable(cells(rows([run("same"), ids])))) == 2


def test_rows_are_sorted_by_task_then_accuracy_whatever_their_order(run: Any) -> None:
    from latbench.task import Fingerprint

    other = {"task": "aime", "data": {"aime/test": Fingerprint(source="a", sha256="1", num_examples=4)}}
    summaries = [run("a", 1), run("b", 3, setting="s2"), run("c", 2, **other), run("d", 2, setting="s3")]
    assert [row.manifest.run for row in rows(summaries)] == ["c", "b", "d", "a"]
    for write in (to_csv, markdown):
        assert write(rows(summaries)) == write(rows(summaries[::-1]))


def test_compression_refers_to_the_gold_chain_where_there_is_one(run: Any) -> None:
    (row,) = rows([run("a", length=4, gold=12)])
    assert row.compression is not None
    assert (row.compression.value, row.reference.name, row.reference.mean_length) == (3, "gold chain", 12)


def test_compression_refers_to_cot_on_the_same_questions_and_backbone_where_there_is_no_gold_chain(run: Any) -> None:
    summaries = [
        run("latent", length=4),
        run("cot-0", length=10, method="cot"),
        run("cot-1", length=14, method="cot", seed=1),
        run("cot-far", length=40, method="cot", backbone="other"),
        run("cot-variant", length=50, method="cot", variant="lr=1", setting="s2"),
        run("cot-layout", length=60, method="cot", layout="plain_hash_answer"),
    ]
    made = rows(summaries)
    names = {row.manifest.run: row.reference.name for row in made}
    ratios = {row.manifest.run: row.compression.value for row in made if row.compression}
    assert (names["latent"], names["cot-layout"]) == ("run cot-0, cot-1", "run cot-layout")
    assert (ratios["latent"], ratios["cot-far"], ratios["cot-variant"]) == (12 / 4, 1, 12 / 50)


def test_no_compression_without_reasoning_or_reference(run: Any) -> None:
    silent, alone = run("direct", length=0, gold=9), run("alone", length=4, setting="s2")
    assert [row.compression for row in rows([silent, alone])] == [None, None]


def test_markdown_names_reference_interval_and_length_and_shows_an_interval_in_every_cell(run: Any) -> None:
    text = markdown(rows([run("a", 3, gold=12, variant="c=3"), run("b", 1, length=0, gold=12, method="direct")]))
    for fact in (
        "Wilson",
        "Student's t",
        "latent steps plus explicit reasoning tokens",
        "gold chain (mean #L 12.0, tiny)",
    ):
        assert fact in text
    header, _, first, second = table_lines(text)
    best, worst = dict(zip(header, first, strict=True)), dict(zip(header, second, strict=True))
    assert (best["variant"], best["accuracy"]) == ("c=3", "75.0 [30.1, 95.4]")
    assert (best["#L"], best["compression"]) == ("4.0 [4.0, 4.0]", "3.00 [3.00, 3.00]")
    assert (worst["method"], worst["#L"], worst["compression"]) == ("direct", "0.0 [0.0, 0.0]", DASH)


def test_markdown_tells_cells_apart_by_what_differs(run: Any) -> None:
    def header(*summaries: Summary) -> list[str]:
        return table_lines(markdown(rows(summaries)))[0]

    base = run("a")
    assert not {"setting", "backbone", "layout", "training data"} & set(header(base))
    assert "setting" in header(base, run("b", setting="s2"))
    assert "setting" not in header(base, run("c", setting="s2", variant="lr=1"))
    assert "backbone" in header(base, run("d", backbone="gpt2"))
    assert "training data" in header(base, run("e", train_data="other"))


def test_markdown_shows_the_passes_and_operations_of_training(run: Any) -> None:
    header, _, line = table_lines(markdown(rows([run("a"), run("b", seed=1, train={"epochs": 2.5, "flops": 4e12})])))
    shown = dict(zip(header, line, strict=True))
    assert (shown["passes"], shown["train FLOPs"]) == ("2", "3.00e+12")


def test_other_test_sets_stand_in_tables_of_their_own(run: Any) -> None:
    text = markdown(rows([run("a"), run("b", n=5, setting="s2")]))
    assert text.count("## synth / test") == 2


def test_several_samples_show_pass_and_majority(run: Any) -> None:
    header, _, line = table_lines(markdown(rows([run("a", 3, samples=2)])))
    shown = dict(zip(header, line, strict=True))
    assert (shown["k"], shown["pass@2"], shown["maj@k"]) == ("2", "75.0 [30.1, 95.4]", "75.0 [30.1, 95.4]")
    assert "pass@1" not in header, "that is the accuracy"
    header, _, *lines = table_lines(markdown(rows([run("b", 3, samples=2), run("c", 3, samples=4, setting="s2")])))
    place = header.index("pass@4")
    assert header[place - 1] == "pass@2"
    cells = {line[place] for line in lines}
    assert "–" in cells, "two answers have no pass@4"
    assert len(cells) == 2


def test_hostile_names_stay_inside_their_cell(run: Any) -> None:
    text = markdown(rows([run("a", variant="x|y\nz\udce9"), run("b", setting="s2")]))
    assert r"x\|y z\udce9" in text
    assert text.encode()
    assert len({line.count("|") - line.count(r"\|") for line in text.splitlines() if line[:1] == "|"}) == 1


def test_a_new_metric_is_one_column_in_every_format(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    column: Column[Row] = Column(
        "longest", lambda row: max(row.summary.lengths.values()), mean(".1f"), csv="longest", after="#L",
        legend="tokens of the longest chain.",
    )  # fmt: skip
    before = to_csv([]).strip()
    monkeypatch.setattr("latbench.report.columns.COLUMNS", (*COLUMNS, column))
    monkeypatch.setattr("latbench.report.csv.COLUMNS", (*COLUMNS, column))
    made = rows([run("a", length=7), run("b", length=8, seed=1)])
    assert to_csv([]).strip() == before + ",longest"
    assert [line.split(",")[-1] for line in to_csv(made).splitlines()[1:]] == ["7", "8"]
    text = markdown(made)
    header, _, line = table_lines(text)
    place = header.index("longest")
    assert (header[place - 1], line[place]) == ("#L", "7.5")
    assert "- longest: tokens of the longest chain." in text
    (section,) = report_sections(made)
    latex = to_latex([section])
    assert " & longest & " in latex
    assert section.tables[0].heads[place] == Head("longest", legend="tokens of the longest chain.", is_front=False)


def test_a_cell_that_a_spreadsheet_would_run_is_told_to_be_text(run: Any) -> None:
    for hostile in ("=1+1", "+1", "-2+3", "@SUM(A1)", "\t=1", "\n=1", " =1", "\r=1"):
        made = to_csv(rows([run(f"r{ord(hostile[0])}{ord(hostile[-1])}{len(hostile)}", variant=hostile)]))
        (line,) = csv.DictReader(io.StringIO(made, newline=""))
        assert line["variant"] == f"'{hostile.strip()}"
    (line,) = csv.DictReader(io.StringIO(to_csv(rows([run("whole", variant="a=-1 \udce9")]))))
    assert line["variant"] == "a=-1 \\udce9"
    assert not any(value.startswith("'") for value in line.values())


def test_share_of_latents_prompt_tokens_and_speed_at_batch_1(make: Any, record: Any) -> None:
    made = make(
        [record(f"q{i}", num_latents=3 * i, num_reasoning_tokens=2, num_prompt_tokens=9 + i) for i in (0, 1, 2)]
    )
    cost: Any = SimpleNamespace(seconds_single=[0.5, 0.25, 4.0])
    (row,) = [replace(row, measures=Measures(cost=cost)) for row in rows([summarise(made)])]
    (line,) = csv.DictReader(io.StringIO(to_csv([row])))
    last = [float(line[name]) for name in ("prompt_tokens", "latent_share", "answers_per_second_batch_1")]
    assert last == [10, 0.6, 2]
    header, _, shown = table_lines(markdown([replace(row, measures=Measures())]))
    assert "answers/s, batch 1" not in header, "nobody has measured it"
    assert dict(zip(header, shown, strict=True))["latent share"] == "60.0"


def test_what_is_known_against_a_number_stands_beside_it(make: Any, record: Any) -> None:
    tested: Any = {"config": {"model": {"dtype": "bfloat16"}}, "contaminated": 12}
    half = make([record("q0"), record("q1", stop_reason="length")], run="cut", **tested)
    whole = make([record("q0"), record("q1")], run="whole", seed=1, **tested)
    bad = rows([summarise(half), summarise(whole)])
    header, _, line = table_lines(markdown(bad))
    place = header.index("caveats")
    assert header[place - 1] == "accuracy"
    assert line[place] == "contaminated (12 rows); mixed precision; truncated 25.0 %"
    by_run = {row["run"]: row["caveats"] for row in csv.DictReader(io.StringIO(to_csv(bad)))}
    assert by_run == {
        "cut": "contaminated (12 rows); mixed precision; truncated 50.0 %",
        "whole": "contaminated (12 rows); mixed precision",
    }
    answers = [record(f"p{i}", stop_reason="length" if i == 0 else "eos") for i in range(101)]
    good = make(answers, run="good", config=EXACT)
    header, _, line = table_lines(markdown(rows([summarise(good)])))
    assert "caveats" not in header
    assert dict(zip(header, line, strict=True))["truncated"] == "1.0", "below one percent: in its column alone"


def test_names_of_csv_columns_are_told_once() -> None:
    names = to_csv([]).strip().split(",")
    assert len(names) == len(set(names)) == sum(bool(column.csv) for column in (*IDENTITY, *COLUMNS))


def test_what_rounds_to_zero_has_no_sign() -> None:
    assert [number_text(value, ".1f") for value in (-0.0, -0.04, -0.06, None)] == ["0.0", "0.0", "-0.1", "–"]
    assert interval_text(Interval(-0.001, -0.2, 0.1)) == "0.0 [-0.2, 0.1]"


def test_ranks_share_places_and_say_which_the_intervals_allow(run: Any) -> None:
    accuracies = [
        Interval(0.9, 0.85, 0.95),
        Interval(0.5, 0.4, 0.6),
        Interval(0.5, 0.45, 0.55),
        Interval(0.42, 0.1, 0.44),
    ]
    assert ranks(accuracies) == [Interval(1, 1, 1), Interval(2, 2, 4), Interval(2, 2, 3), Interval(4, 3, 4)]
    assert [rank_text(rank) for rank in ranks(accuracies)] == ["1", "2 [2, 4]", "2 [2, 3]", "4 [3, 4]"]
    summaries = [run("a", 4), run("b", 1, setting="s2"), run("c", 1, setting="s3", method="cot"), run("d", 0, n=5)]
    found = {row.manifest.run: row.rank for row in ranked(rows(summaries))}
    assert {name: rank and rank.value for name, rank in found.items()} == {"a": 1, "b": 2, "c": 2, "d": 1}, "d alone"
    (line, *_) = csv.DictReader(io.StringIO(to_csv(ranked(rows(summaries)))))
    assert list(line)[-1] == "rank", "a new column goes to the end"
    assert rows(summaries)[0].rank is None
    assert "rank" not in table_lines(markdown(rows(summaries)))[0]


def test_a_mean_over_seeds_in_another_order_shares_the_place() -> None:
    one, other = (sum(values) / 3 for values in ((0.1, 0.2, 0.3), (0.3, 0.2, 0.1)))
    assert one != other
    assert {rank.value for rank in ranks([Interval(value, 0, 1) for value in (one, other)])} == {1}
