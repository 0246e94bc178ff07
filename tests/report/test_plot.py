"""The picture: deterministic, complete, legible."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from latbench.evaluation.metrics import summarise
from latbench.report.plot import COLOURS, MARKERS, _overlap, _places, _style, plot
from latbench.report.rows import Cell, cells, rows


@pytest.fixture
def drawn(make: Any, record: Any) -> list[Cell]:
    """Four cells, one of them without reasoning, and two at the same point."""

    def summary(method: str, num_correct: int, length: int, **changes: Any) -> Any:
        records = [record(f"q{i}", i < num_correct, num_latents=length + i % 2 * (length > 9)) for i in range(40)]
        return summarise(make(records, run=method, method=method, **changes))

    return cells(
        rows([summary("direct", 9, 0), summary("cot", 38, 80), summary("codi", 20, 6), summary("sim_cot", 20, 6)])
    )


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

    plot(drawn, tmp_path / "a.svg")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black"}):
        plot(drawn, tmp_path / "b.svg")
        assert matplotlib.rcParams["font.size"] == 30
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize("scale", ["auto", "linear", "log"])
def test_every_label_is_drawn_and_a_chain_of_zero_has_its_place(drawn: list[Cell], tmp_path: Path, scale: Any) -> None:
    plot(drawn, tmp_path / "a.svg", scale)
    text = (tmp_path / "a.svg").read_text()
    for label in ("direct", "cot", "codi", "sim_cot"):
        assert f"<!-- {label} -->" in text


def test_labels_of_cells_at_one_point_do_not_lie_on_each_other(drawn: list[Cell], tmp_path: Path) -> None:
    plot(drawn, tmp_path / "a.svg", "linear")
    text = (tmp_path / "a.svg").read_text()
    places = [
        re.search(rf"<!-- {label} -->\s*<g [^>]*translate\(([\d.]+) ([\d.]+)\)", text) for label in ("codi", "sim_cot")
    ]
    (x1, y1), (x2, y2) = [tuple(map(float, place.groups())) for place in places if place]
    assert abs(x1 - x2) > 25 or abs(y1 - y2) > 9


def test_the_first_49_methods_have_styles_of_their_own() -> None:
    methods = [f"m{i:02}" for i in range(49)]
    styles = {_style(method, methods) for method in methods}
    assert len(styles) == 49 == len(COLOURS) * len(MARKERS)


def test_places_leave_the_point_itself_free() -> None:
    point = (-4.0, -4.0, 4.0, 4.0)
    for _, dx, dy in _places(60, 10, 1.0):
        assert _overlap((dx, dy, dx + 60, dy + 10), point) == 0


def test_one_panel_for_each_test_set(drawn: list[Cell], make: Any, record: Any, tmp_path: Path) -> None:
    others = [summarise(make([record(f"p{i}") for i in range(n)], run=f"other{n}", setting=f"s{n}")) for n in (1, 2)]
    plot([*drawn, *cells(rows(others))], tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert ", n = 40 " in text
    assert ", n = 1 " in text
    assert text.count("<!-- accuracy (%) -->") == 3
    assert "<!-- 0.2 -->" not in text  # the fourth panel of the grid stays blank


def test_labels_with_dollars_or_lone_surrogates_are_plain_text(make: Any, record: Any, tmp_path: Path) -> None:
    variant = "a=$x$ $ \udce9 " + "long " * 20
    plot(cells(rows([summarise(make([record("a"), record("b")], variant=variant))])), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_drawn_is_refused_in_one_sentence(drawn: list[Cell], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown picture format '.gif'"):
        plot(drawn, tmp_path / "a.gif")
    with pytest.raises(ValueError, match="nothing to plot"):
        plot([], tmp_path / "a.svg")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write"):
        plot(drawn, tmp_path / "file" / "a.svg")
