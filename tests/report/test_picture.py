"""The picture: deterministic, complete, legible, and the same in every format."""

from __future__ import annotations

import re
from itertools import combinations
from math import hypot
from pathlib import Path
from typing import Any

import pytest

from latbench.evaluation.metrics import summarise
from latbench.report.cells import Cell, cells, main_cells, rows
from latbench.report.chart import COLOURS, MARKERS, Point, _overlap, _places, chart, charts, pareto_front, style
from latbench.report.picture import plot


@pytest.fixture
def summary(make: Any, record: Any) -> Any:
    """Summary of 40 answers, of which some are correct, with chains of a length."""

    def made(method: str, num_correct: int, length: int, **changes: Any) -> Any:
        records = [record(f"q{i}", i < num_correct, num_latents=length + i % 2 * (length > 9)) for i in range(40)]
        return summarise(make(records, **{"run": method, "method": method, **changes}))

    return made


@pytest.fixture
def drawn(summary: Any) -> list[Cell]:
    """Four cells, one of them without reasoning, and two at the same point."""
    return cells(
        rows([summary("direct", 9, 0), summary("cot", 38, 80), summary("codi", 20, 6), summary("sim_cot", 20, 6)])
    )


def points(drawn: list[Cell], **options: Any) -> dict[str, Point]:
    made = chart(drawn, **options)
    assert made is not None
    return {point.name: point for point in made.points}


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_same_cells_give_the_same_bytes_without_a_date(drawn: list[Cell], tmp_path: Path, suffix: str) -> None:
    first, second = tmp_path / f"a{suffix}", tmp_path / "new" / f"b{suffix}"
    plot(drawn, first)
    plot(drawn, second)
    assert first.read_bytes() == second.read_bytes()
    assert not re.search(rb"dc:date|Software|matplotlib\.org", first.read_bytes())
    assert [path.name for path in second.parent.iterdir()] == [second.name]


def test_the_users_matplotlib_settings_change_nothing(drawn: list[Cell], tmp_path: Path) -> None:
    import matplotlib

    plot(drawn, tmp_path / "a.png")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black", "lines.linewidth": 9}):
        plot(drawn, tmp_path / "b.png")
        assert matplotlib.rcParams["font.size"] == 30
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("scale", ["auto", "linear", "log"])
def test_every_label_is_drawn_and_a_chain_of_zero_has_its_place(drawn: list[Cell], tmp_path: Path, scale: Any) -> None:
    plot(drawn, tmp_path / "a.svg", scale)
    text = (tmp_path / "a.svg").read_text()
    for label in ("direct", "cot", "codi", "sim_cot"):
        assert f">{label}</text>" in text
    made = points(drawn, scale=scale)
    assert made["direct"].x < made["codi"].x < made["cot"].x


def test_a_logarithmic_scale_is_taken_where_lengths_differ_much(summary: Any) -> None:
    near, far = (
        cells(rows([summary("a", 1, 3, run=f"a{length}"), summary("b", 2, length, run=f"b{length}")]))
        for length in (9, 200)
    )
    assert [made.is_log for made in (*charts(near), *charts(far))] == [False, True]
    assert points(near, scale="log")["a"].x > points(near, scale="linear")["a"].x


def test_marks_and_labels_of_cells_at_one_point_do_not_lie_on_each_other(summary: Any) -> None:
    """As many as there are settings of one method: each can be reached."""
    crowd = cells(rows([summary(f"m{i}", 40, 6) for i in range(12)]))
    made = list(points(crowd, label_all=True).values())
    assert len({(point.x, point.y) for point in made}) == 1
    for a, b in combinations(made, 2):
        assert hypot(a.mark[0] - b.mark[0], a.mark[1] - b.mark[1]) >= 10
    few = points(crowd[:3], label_all=True)
    boxes = [(one.x, one.y - 12, one.x + 8 * len(one.text), one.y) for point in few.values() if (one := point.label)]
    assert len(boxes) == 3
    assert all(_overlap(a, b) == 0 for a, b in combinations(boxes, 2))


def test_the_first_49_methods_have_styles_of_their_own() -> None:
    assert len({style(number) for number in range(49)}) == 49 == len(COLOURS) * len(MARKERS)


def test_places_leave_the_mark_itself_free() -> None:
    for _, dx, dy in _places(60, 10):
        assert _overlap((dx, dy, dx + 60, dy + 10), (-4.0, -4.0, 4.0, 4.0)) == 0


def test_one_cell_stands_for_a_method_and_the_others_are_hollow(summary: Any) -> None:
    made = cells(
        rows([
            summary("codi", 9, 5, run="usual"), summary("codi", 30, 5, run="best", variant="lr=1", setting="s2"),
            summary("cot", 3, 5, run="low", variant="p=1", setting="s3"),
            summary("cot", 4, 5, run="high", variant="p=2"),
        ])
    )  # fmt: skip
    assert [cell.rows[0].manifest.run for cell in made] == ["best", "usual", "high", "low"]
    assert main_cells(made) == [1, 1, 2, 2]
    hollow = {name for name, point in points(made).items() if point.is_variant}
    assert hollow == {"codi lr=1", "cot p=1"}


def test_the_front_holds_what_no_cell_beats(make: Any, record: Any) -> None:
    def one(run: str, correct: int, length: int) -> Any:
        records = [record(f"q{i}", i < correct, num_latents=length) for i in range(10)]
        return summarise(make(records, run=run, method=run, setting=run))

    made = cells(rows([one("short", 2, 0), one("best", 9, 8), one("beaten", 8, 9), one("tie", 9, 9)]))
    assert [cell.rows[0].manifest.run for cell in pareto_front(made)] == ["short", "best"]
    by_run = points(made)
    assert by_run["short"].x < by_run["best"].x < by_run["tie"].x
    assert by_run["short"].y > by_run["beaten"].y > by_run["best"].y  # y points down
    assert {name for name, point in by_run.items() if point.on_front} == {"short", "best"}
    assert {name for name, point in by_run.items() if point.label} == {"short", "best"}


def test_one_panel_for_each_test_set(drawn: list[Cell], make: Any, record: Any, tmp_path: Path) -> None:
    others = [summarise(make([record(f"p{i}") for i in range(n)], run=f"other{n}", setting=f"s{n}")) for n in (1, 2)]
    every = [*drawn, *cells(rows(others))]
    plot(every, tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert [f", n = {n}</text>" in text for n in (40, 1, 2)] == [True] * 3
    assert text.count(">accuracy (%)</text>") == 3
    styles = {name: (colour, marker) for panel in charts(every) for colour, marker, name in panel.legend}
    assert len(set(styles.values())) == len(styles) == 5, "a method looks the same in all panels"


def test_labels_with_dollars_or_lone_surrogates_are_plain_text(make: Any, record: Any, tmp_path: Path) -> None:
    variant = "a=$x$ $ \udce9 <b>" + "long " * 20
    for name in ("a.png", "a.svg"):
        made = cells(rows([summarise(make([record("a"), record("b")], variant=variant, run=f"of {name}"))]))
        plot(made, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "coconut a=$x$ $ \\udce9 &lt;b&gt;long l" in (tmp_path / "a.svg").read_text()


def test_what_cannot_be_drawn_is_refused_in_one_sentence(drawn: list[Cell], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown picture format '.gif'"):
        plot(drawn, tmp_path / "a.gif")
    with pytest.raises(ValueError, match="nothing to plot"):
        plot([], tmp_path / "a.svg")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write"):
        plot(drawn, tmp_path / "file" / "a.svg")
