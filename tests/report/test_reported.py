"""Published numbers: what is committed can be read, and is never taken for a measured cell."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from latbench.report.leaderboard import leaderboard
from latbench.report.reported import TITLE, Reported, find_reported, read_reported, reported_markdown, reported_tables

COMMITTED = Path(__file__).parents[2] / "results" / "reported.csv"
HEADINGS = ",".join(f.name for f in fields(Reported))
LINE = "CODI,2502.21074,Table 1,codi,6 latents,GPT-2,gsm8k_aug,gsm8k,accuracy,43.7,,table,"


def found(method: str, backbone: str, task: str, metric: str = "accuracy", **others: str) -> list[str]:
    rows = [row for row in read_reported(COMMITTED) if (row.method, row.backbone, row.task) == (method, backbone, task)]
    return [row.value for row in rows if row.metric == metric and all(getattr(row, k) == v for k, v in others.items())]


def test_the_committed_file_holds_the_disagreement_that_the_readme_names() -> None:
    llama = "Llama-3.2-1B-Instruct"
    assert {"49.4", "63.00"} <= set(found("cot", llama, "gsm8k"))
    assert {"13.3", "53.90"} <= set(found("codi", llama, "gsm8k"))


def test_figures_stand_with_their_table_and_how_they_were_read() -> None:
    llama = "Llama-3.2-1B-Instruct"
    assert found("latent_sft", llama, "gsm8k", variant="r=2", quality="secondary", spread="0.1") == ["50.4"]
    assert found("latent_sft", llama, "gsm_hard", "#L", variant="r=4") == ["7.68"]
    assert found("colar", llama, "multiarith", variant="c=5", table="Table 1", paper="CoLaR") == ["86.4"]
    assert found("colar", "Llama-3 8B", "gsm8k", variant="c=5", quality="plot") == ["42.6"]
    assert found("sim_cot", "Llama-3.1-8B", "svamp", variant="on codi") == ["79.4"]
    assert found("latent_grpo", "Qwen2.5-Math-7B", "aime24", "pass@64") == ["50.0"]


def test_every_number_has_a_source_and_accuracies_are_percentages() -> None:
    rows = read_reported(COMMITTED)
    assert {row.quality for row in rows} <= {"table", "plot", "project page", "repository", "secondary"}
    assert all(row.arxiv or row.quality in ("secondary", "table") for row in rows)
    assert all(0 <= float(row.value) <= 100 for row in rows if row.metric in ("accuracy", "pass@64"))


def test_tables_keep_every_number_once() -> None:
    rows = read_reported(COMMITTED)
    texts = [text for table in reported_tables(rows) for line in table.lines for text in line[4:-2] if text != "–"]
    assert sorted(texts) == sorted(f"{row.value} ± {row.spread}" if row.spread else row.value for row in rows)


def test_they_stand_apart_and_only_on_demand(make: Any, record: Any, tmp_path: Path) -> None:
    make([record("a")])
    plain = leaderboard([tmp_path], ["md", "csv"]).text_by_format
    shown = leaderboard([tmp_path], ["md", "csv"], reported=True).text_by_format
    assert TITLE not in plain["md"]
    assert shown["md"] == plain["md"] + "\n" + reported_markdown(read_reported(COMMITTED))
    assert shown["csv"] == plain["csv"]


def test_a_folder_brings_its_own_file(make: Any, record: Any, tmp_path: Path) -> None:
    make([record("a")])
    assert find_reported([tmp_path]) == COMMITTED
    (tmp_path / "reported.csv").write_text(f"{HEADINGS}\n{LINE}\n")
    assert find_reported([tmp_path]) == tmp_path / "reported.csv"
    text = leaderboard([tmp_path], reported=True).text_by_format["md"]
    assert text.count("## Reported: ") == 1
    assert "| 43.7 |" in " ".join(text.split())


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (f"{HEADINGS},x\n", "must have the columns paper, arxiv"),
        (f"{HEADINGS}\n{LINE.replace('43.7', 'high')}\n", "line 2: value 'high' or spread '' is not a number"),
        (f"{HEADINGS}\n{LINE.replace('CODI', '')}\n", "line 2 lacks paper, task or metric"),
        (f"{HEADINGS}\n{LINE}\n{LINE}\n", "line 3 repeats the accuracy of codi on gsm8k"),
        (f"{HEADINGS}\n{LINE},more\n", "line 2 has not 13 fields"),
    ],
)
def test_a_faulty_file_is_refused_with_the_line(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "reported.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match="reported") as caught:
        read_reported(path)
    assert sentence in str(caught.value)
