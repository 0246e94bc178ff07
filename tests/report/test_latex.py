"""LaTeX tables: structure and escaping."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from latbench.evaluation.metrics import summarise
from latbench.report.cells import rows
from latbench.report.latex import latex_text, to_latex
from latbench.report.leaderboard import leaderboard
from latbench.report.reported import read_reported
from latbench.report.task_sections import report_sections

RESULTS = Path(__file__).parents[2] / "results"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("latent_sft", r"latent\_sft"),
        ("50 % & #L $x$ {a}", r"50 \% \& \#L \$x\$ \{a\}"),
        (r"a\b~c^d", r"a\textbackslash{}b\textasciitilde{}c\textasciicircum{}d"),
        ("– ∞ ±", r"-- $\infty$ $\pm$"),
        ("a\n b\u2028c", "a b c"),
        ("|<>|", r"\textbar{}\textless{}\textgreater{}\textbar{}"),
    ],
)
def test_every_special_character_is_set_as_it_stands(text: str, expected: str) -> None:
    assert latex_text(text) == expected


def test_environments_are_closed_and_every_line_has_as_many_fields_as_columns(make: Any, record: Any) -> None:
    runs = [
        make([record("a"), record("b", False)], run="one", variant="a_b & 50%", diagnostics={"final_loss": 0.5}),
        make([record("a"), record("b", num_latents=0)], run="two", setting="s2", variant="x\\\\y"),
        make([record("a")], run="three", split="validation", data=_data("synth/validation")),
    ]
    text = to_latex(report_sections(rows([summarise(run) for run in runs])))
    tables = re.findall(r"\\begin\{table\*\}\n(.*?)\\end\{table\*\}", text, re.DOTALL)
    assert len(tables) == 3  # two sections, and what training reported in one
    for number, table in enumerate(tables, start=1):
        begun = re.search(r"\\begin\{tabular\}\{@\{\}([lr]+)@\{\}\}\n\\toprule\n(.*)\\bottomrule\n\\end", table, re.S)
        assert begun is not None
        lines = [line for line in begun.group(2).splitlines() if line != r"\midrule"]
        assert all(line.endswith(r" \\") for line in lines)
        assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines} == {len(begun.group(1))}
        assert rf"\label{{tab:latbench-{number}}}" in table
        assert table.count("{") - table.count(r"\{") == table.count("}") - table.count(r"\}")
    assert r"a\_b \& 50\%" in text
    assert not re.search(r"(?<!\\)_", re.sub(r"\\label\{.*?\}", "", text))


def test_a_line_never_begins_with_what_a_line_end_takes_as_its_argument(make: Any, record: Any) -> None:
    text = to_latex(report_sections(rows([summarise(make([record("a")], method="[2pt]"))])))
    assert "\n{}[2pt] & " in text


def test_nothing_complete_is_a_comment() -> None:
    assert to_latex([]).endswith("% No complete evaluation.\n")


def test_published_numbers_have_captions_that_say_so(make: Any, record: Any, tmp_path: Path) -> None:
    measured = report_sections(rows([summarise(make([record("a")]))]))
    reported = read_reported(RESULTS / "reported.csv")
    text = to_latex(measured, reported)
    assert text.startswith(to_latex(measured).rstrip("\n"))
    captions = re.findall(r"\\caption\{(.*)\}", text)
    assert len(captions) == 1 + len({row.task for row in reported})
    assert all(caption.startswith("Reported, not measured: ") for caption in captions[1:])


def test_the_file_ends_in_tex(make: Any, record: Any, tmp_path: Path) -> None:
    make([record("a")])
    assert leaderboard([tmp_path], ["latex"], tmp_path / "out").paths == (tmp_path / "out" / "leaderboard.tex",)


def _data(name: str) -> dict[str, Any]:
    from latbench.task import Fingerprint

    return {name: Fingerprint(source="synth", sha256="00", num_examples=1)}
