"""The leaderboard in a terminal, and as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from latbench.cli import main
from latbench.cli.eval_table import eval_table, notices
from latbench.evaluation.metrics import summarise
from latbench.report.cells import rows
from latbench.report.task_sections import Section, report_sections
from latbench.report.terminal import broken, fitting, names_and_texts, to_rich, to_terminal, upright


@pytest.fixture
def section(make: Any, record: Any) -> Section:
    """Two lines, one of a long variant, with a gold chain."""
    answers = [record(f"q{i}", i > 1, gold_chain_length=9) for i in range(8)]
    runs = [make(answers, run="a"), make(answers, run="b", method="cot", variant="a.long.key=1 " * 3, setting="s2")]
    (found,) = report_sections(rows(list(map(summarise, runs))))
    return found


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_lines_are_never_wider_than_the_terminal(section: Section, width: int) -> None:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(*to_terminal([section], width, with_legend=True), sep="\n")
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    heads = next(line for line in lines if line.startswith("method"))
    assert heads.split()[:3] == ["method", "variant", "accuracy"]
    assert any(
        "latent steps plus explicit reasoning" in " ".join(lines[place : place + 2]) for place in range(len(lines))
    )


def test_columns_of_interest_come_first_and_empty_ones_not_at_all(section: Section) -> None:
    wide, narrow = (fitting(section.tables[0], width).headings for width in (300, 80))
    assert wide == ("method", "variant", "accuracy", "#L", "latent share", "compression", "train FLOPs")
    assert narrow == ("method", "variant", "accuracy", "#L", "compression")
    assert fitting(section.tables[0], 40).headings == wide[:3]
    assert fitting(section.tables[0], 300).lines[0][3] == "4.0 [4.0, 4.0]"
    (first, _) = fitting(section.tables[0], 80).lines
    assert "[" in first[2], "the accuracy keeps its interval"
    assert not any("[" in text for text in first[3:])


def test_words_that_are_the_same_of_all_lines_are_said_once(section: Section) -> None:
    (place,) = (place for place, head in enumerate(section.tables[0].heads) if head.name == "caveats")
    (words,) = {line[place] for line in section.tables[0].lines}
    _, facts, *_ = to_terminal([section], 120)
    assert str(facts).rstrip().endswith(f" Caveats of all: {words}.")
    (first, *_) = section.tables[0].lines
    alone = replace(section, tables=(replace(section.tables[0], lines=(first,)),))
    assert "caveats" in fitting(alone.tables[0], 300).headings


def test_a_long_word_ends_a_line_where_it_has_a_sign() -> None:
    assert broken("generate.thinking_speed=1 seed=2", 20) == "generate.thinking_ speed=1 seed=2"
    assert broken("generate.latents=1", 12) == "generate. latents=1"
    assert broken("abcdefgh", 3) == "abc def gh"
    assert "".join(broken("a.b_c=d e", 2).split()) == "a.b_c=de"


def test_names_and_texts_fit_the_terminal() -> None:
    for texts in ({"cot": "word " * 40, "direct": "x"}, {"name" * 20: "word " * 40}):
        console = Console(width=60, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        console.print(names_and_texts(texts, 60))
        shown = console.export_text()
        assert max(map(len, shown.splitlines())) <= 60 or len(max(texts, key=len)) > 60
        assert shown.count("word") == 40


def test_a_terminal_gets_a_table_a_pipe_markdown_and_json_rows_with_numbers(
    make: Any, record: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make([record("a"), record("b", False)], run="one")
    assert main(["leaderboard", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("# Leaderboard")
    assert main(["leaderboard", str(tmp_path), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["run"], row["accuracy"], row["chain_length"], row["pass_at"]) == ("one", 0.5, 4, {"1": 0.5})
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert main(["leaderboard", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "─" in shown
    assert "latent steps plus" not in shown
    assert main(["leaderboard", str(tmp_path), "--legend"]) == 0
    assert "latent steps plus" in capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 80, 120])
def test_an_evaluation_ends_with_a_table_that_fits(make: Any, record: Any, width: int) -> None:
    answers = [record(f"q{i}", i > 1, gold_chain_length=9) for i in range(8)]
    made = eval_table([summarise(make(answers, run="a")), summarise(make(answers, run="b"))])
    assert made.headings[:5] == ("task", "accuracy", "#L", "compression", "answers/s")
    assert {"correct", "incorrect"} <= set(made.headings)
    assert "timeout" not in made.headings  # nothing ran out of time
    line = dict(zip(made.headings, made.lines[0], strict=True))
    assert (line["task"], line["correct"], line["incorrect"]) == ("synth/test, n=8", "6", "2")
    turned = upright(made)
    assert turned.headings == ("", "synth/test, n=8", "synth/test, n=8")
    assert turned.lines[1] == ("#L", *(line[2] for line in made.lines))
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(to_rich(made, width), to_rich(turned, width))
    assert "[" in fitting(made, width).lines[0][1], "the accuracy keeps its interval"
    assert max(map(len, console.export_text().splitlines())) <= width


def test_an_evaluation_is_no_reference_of_its_own(make: Any, record: Any) -> None:
    without, known = (
        summarise(make([record("a", gold_chain_length=gold)], run=f"cot{gold}", method="cot")) for gold in (0, 8)
    )
    made = eval_table([without, known])
    assert [line[made.headings.index("compression")][:4] for line in made.lines] == ["–", "2.00"]


def test_an_evaluation_says_which_part_of_its_chains_is_unknown(make: Any, record: Any) -> None:
    exact = {"model": {"dtype": "float32"}}
    answers = [record("a"), record("b", num_reasoning_tokens=None), record("c"), record("d")]
    assert notices(summarise(make(answers, run="a", config=exact))) == [
        "the chain of 25.0 % of its answers is unknown: they are left out of #L"
    ]
    assert notices(summarise(make(answers[:1], run="b", config=exact))) == []
