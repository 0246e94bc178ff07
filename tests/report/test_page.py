"""The page as a browser shows it, and what stands in it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from latbench.decoding.trace import LatentTrace
from latbench.evaluation.asked import asked
from latbench.evaluation.metrics import summarise
from latbench.evaluation.records import RECORDS, TRACE, TRACE_HEADER, Evaluation
from latbench.measures.latents import stored_latents
from latbench.measures.shown_latents import MAX_RECORDS, choice, write_latents
from latbench.report.browse import Choice, browsable
from latbench.report.chart import chart, pareto_front
from latbench.report.leaderboard import leaderboard
from latbench.report.page import _sort_key
from latbench.report.rows import cells, rows

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")


def drive(page: Path, script: str, *options: str) -> Any:
    """Run a script (the body of an async function) in the page; its result. Fails where the console shows an error."""
    assert CHROMIUM is not None
    run = f"(async () => {{ {script} }})().then((found) => {{ document.title = JSON.stringify(found); }});"
    driven = page.with_name("driven.html")
    driven.write_text(page.read_text(encoding="utf-8").replace("</body>", f"<script>{run}</script></body>"))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    command += [f"--user-data-dir={page.parent / 'profile'}", "--virtual-time-budget=5000", *options, "--dump-dom"]
    done = subprocess.run([*command, driven.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    messages = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not messages, messages
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title is not None
    return json.loads(html.unescape(title.group(1)))


def data(page: str) -> Any:
    """What the page's script reads."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))


def write_trace(run: Evaluation, steps: list[list[tuple[int, float]]]) -> None:
    """A trace of one chunk: each record has these latent steps, as (token id, weight)."""
    from latbench.measures import trace
    from latbench.measures.latents import HEADER, TraceHeader, chunk_path

    count = len(run.records)
    header = TraceHeader(
        run=run.manifest.run, setting=run.manifest.setting, questions_sha256=run.manifest.questions_sha256, n=count,
        samples=1, chunk=count, top_k=2, git_commit=None, versions={},
    )  # fmt: skip
    one = LatentTrace(
        ids=torch.tensor([[token for token, _ in step] for step in steps], dtype=torch.int32),
        weights=torch.tensor([[weight for _, weight in step] for step in steps]),
        entropy=torch.arange(1.0, 1.0 + len(steps)),
        norm=torch.ones(len(steps)),
        embeds=torch.zeros(len(steps), 3),
    )

    class Answer:
        trace = one

    folder = run.folder / TRACE
    folder.mkdir()
    trace._write_chunk(chunk_path(folder, 0), trace._tensors([Answer()] * count), header)  # type: ignore[list-item]
    (folder / TRACE_HEADER).write_text(HEADER.dump_json(header).decode())


@pytest.fixture
def board(make: Any, record: Any, tmp_path: Path) -> Path:
    """The folder of a page of three runs on two tasks."""
    answers = [record(f"q{i}", i % 3 > 0) for i in range(9)]
    make(answers, run="first", method="coconut")
    longer = [record(f"q{i}", i % 2 > 0, num_latents=0, num_reasoning_tokens=20, reasoning="a\nb") for i in range(9)]
    make(longer, run="second", method="cot", setting="s2")
    other = {"data": {}, "task": "gsm8k", "variant": "</script><b>&"}
    from latbench.task import Fingerprint

    other["data"] = {"gsm8k/test": Fingerprint(source="x", sha256="00", num_examples=1)}
    make([record("x", text="</script><script>throw 1</script>")], run="third", **other)
    return tmp_path


def written(folder: Path, **options: Any) -> Path:
    leaderboard([folder], ["html"], folder / "out", asked=asked, **options)
    return folder / "out" / "leaderboard.html"


@browser
def test_sort_filter_tabs_and_records_work_without_console_errors(board: Path) -> None:
    found = drive(
        written(board),
        """
        const first = document.querySelectorAll(".panel")[1], out = {};
        const methods = () => [...first.querySelectorAll("table")[0].tBodies[0].rows]
          .filter((line) => !line.hidden).map((line) => line.cells[0].textContent);
        out.tabs = tabs.map((tab) => tab.textContent);
        out.hidden = [...document.querySelectorAll(".panel")].map((panel) => panel.hidden);
        const press = (key) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key }));
        tabs[1].focus();
        press("ArrowRight");
        out.hiddenAfter = [...document.querySelectorAll(".panel")].map((panel) => panel.hidden);
        out.focused = document.activeElement.id;
        press("End");
        out.order = methods();
        const header = [...first.querySelectorAll("th")].find((th) => th.textContent.trim() === "#L");
        header.querySelector("button").click();
        out.byLength = [methods(), header.getAttribute("aria-sort")];
        header.querySelector("button").click();
        out.byLengthAgain = [methods(), header.getAttribute("aria-sort")];
        const input = first.querySelector("input.filter");
        input.value = "coco"; input.dispatchEvent(new Event("input"));
        const count = first.querySelector(".count").textContent;
        out.filtered = [methods(), count, first.querySelectorAll(".point.off").length];
        input.value = ""; input.dispatchEvent(new Event("input"));
        const point = first.querySelector(".point");
        point.dispatchEvent(new Event("focus"));
        out.tip = [tip.hidden, tip.textContent];
        const select = first.querySelector(".run");
        select.value = 1; select.dispatchEvent(new Event("change"));
        const verdict = first.querySelector(".verdict-choice");
        verdict.value = "incorrect"; verdict.dispatchEvent(new Event("change"));
        const buttons = first.querySelectorAll(".list button");
        buttons[0].focus();
        buttons[0].dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowDown", bubbles: true }));
        out.records = [...buttons].map((button) => button.firstChild.textContent);
        out.record = first.querySelector(".record").textContent;
        out.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
        return out;
        """,
        "--window-size=500,900",
    )
    assert found["tabs"] == ["gsm8k / test", "synth / test"]
    assert (found["hidden"], found["hiddenAfter"]) == ([True, False], [False, True]), "the larger table comes first"
    assert found["focused"] == "tab-0"
    assert found["order"] == ["coconut", "cot"]
    assert found["byLength"] == [["cot", "coconut"], "descending"]
    assert found["byLengthAgain"] == [["coconut", "cot"], "ascending"]
    assert found["filtered"] == [["coconut"], "1 of 2 lines", 1]
    assert found["tip"][0] is False
    assert found["tip"][1].startswith("coconut\naccuracy 66.7 [")
    assert found["records"] == ["q0", "q2", "q4", "q6", "q8"]
    assert "q2incorrect" in found["record"]
    assert "a\nb" in found["record"]
    assert found["wide"] <= 0  # nothing but the tables scrolls sideways on a phone


@browser
def test_latent_steps_are_bars_as_wide_as_their_weights(make: Any, record: Any, tmp_path: Path) -> None:
    run = make([record("constructor", num_latents=2)])  # an id that every object of the script's language has
    write_trace(run, [[(5, 0.75), (2, 0.25)], [(1, 0.5), (7, 0.03125)]])
    script = """
        const bars = [...document.querySelectorAll(".record .mixture")];
        const width = (one) => one.getBoundingClientRect().width;
        const share = (part) => Math.round(100 * width(part) / width(part.parentNode));
        const shares = (bar) => [...bar.children].map((part) => [part.textContent, share(part)]);
        return [bars.map(shares),
          [...document.querySelectorAll(".record .tokens")].map((line) => line.textContent)];
        """
    bars, lines = drive(written(tmp_path), script, "--window-size=1200,900")
    assert bars == [[["#5", 75], ["#2", 25]], [["#1", 50], ["", 3]]]
    assert lines == ["#5 0.75  #2 0.25", "#1 0.50  #7 0.03"]


def test_a_figure_column_sorts_by_the_number_a_cell_begins_with() -> None:
    assert [_sort_key(one) for one in ("0.8/1.2, 0.5/1.1", "0.03, 0.04", "∞", "99.8 [97.9, 100.0]", "–")] == [
        "0.8", "0.03", "inf", "99.8", "",
    ]  # fmt: skip


@browser
def test_files_beside_the_page_hold_all_records(make: Any, record: Any, tmp_path: Path) -> None:
    make([record(f"q{i}", text=f"</script> {i}") for i in range(300)])
    page = written(tmp_path, all_records=True)
    assert sorted(path.name for path in (page.parent / "leaderboard-records").iterdir()) == ["0-0.js", "0-1.js"]
    script = """
        const before = document.querySelectorAll(".list button").length;
        document.querySelector(".more").click();
        await new Promise((resolve) => setTimeout(resolve, 1000));
        const buttons = document.querySelectorAll(".list button");
        buttons[299].click();
        return [before, buttons.length, document.querySelector(".record").textContent];
        """
    before, after, text = drive(page, script)
    assert (before, after) == (MAX_RECORDS, 300)
    assert "</script> 299" in text


@browser
def test_published_numbers_come_on_demand_one_task_at_a_time(board: Path) -> None:
    script = """
        const details = document.getElementById("reported");
        const before = details.open;
        details.open = true;
        const choice = document.getElementById("reported-task");
        choice.value = [...choice.options].findIndex((option) => option.textContent === "prosqa");
        choice.dispatchEvent(new Event("change"));
        const shown = [...details.querySelectorAll(".published")].filter((part) => !part.hidden);
        return [before, shown.length, shown[0].textContent, details.querySelector("summary").textContent];
        """
    before, count, text, summary = drive(written(board), script)
    assert (before, count) == (False, 1)
    assert "97.0 ± 0.3" in text
    assert "arXiv:2412.06769" in text
    assert "not measured here" in summary


def test_the_page_needs_nothing_from_outside_and_is_the_same_again(board: Path) -> None:
    page = written(board).read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!data:,")[^"]*"|url\(|@import', page)
    assert "throw 1</script>" not in page  # texts of records cannot leave their place
    assert "&lt;/script&gt;&lt;b&gt;&amp;" in page
    assert page == written(board).read_text(encoding="utf-8")


def test_a_lone_surrogate_anywhere_is_shown_as_an_escape(make: Any, record: Any, tmp_path: Path) -> None:
    lone = "\udce9"
    make([record("alone", text=lone, extracted=lone, gold=lone, reasoning=lone)], variant=f"v{lone}")
    for name in ("train_data", "backbone", "setting", "method", "layout"):
        make([record("a")], run=name, **{name: name + lone})
    runs = [run for section in data(written(tmp_path).read_text(encoding="utf-8")) for run in section["runs"]]
    (shown,) = [one for run in runs for one in run["records"] if one["id"] == "alone"]
    assert shown["text"] == "\\udce9"
    assert leaderboard([tmp_path], ["md", "csv", "latex"], tmp_path / "out").paths


def test_templates_ship_with_the_package() -> None:
    root = Path(__file__).parents[2]
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["latbench"]
    shipped = {path for pattern in patterns for path in (root / "latbench").glob(pattern)}
    assert shipped >= set((root / "latbench" / "report" / "templates").iterdir())


def test_texts_of_records_come_back_whole(board: Path) -> None:
    (first, _) = data(written(board).read_text(encoding="utf-8"))
    assert first["runs"][0]["records"][0]["text"] == "</script><script>throw 1</script>"
    assert first["runs"][0]["variant"] == "</script><b>&"


def test_questions_are_shown_where_the_manifest_asks_for_the_same(make: Any, record: Any, tmp_path: Path) -> None:
    from latbench.api import get_task
    from latbench.evaluation.manifest import questions_hash

    settings = {"num_test": 3, "num_train": 1, "num_validation": 1}
    examples = get_task("synth", **settings).load("test")
    config = {"eval": {"task": {"name": "synth", **settings}, "split": "test", "limit": None, "seed": 0}}
    records = [record(example.id, gold=example.answer) for example in examples]
    make(records, run="same", config=config, questions_sha256=questions_hash(examples))
    make(records, run="other", config=config, setting="s2")
    same, other = data(written(tmp_path).read_text(encoding="utf-8"))[::-1]
    by_run = {part["runs"][0]["name"]: part["questions"] for part in (same, other)}
    assert by_run["same"] == {row.id: [row.question, "\n".join(row.steps)] for row in examples}
    assert by_run["other"] == {}


def test_latent_steps_are_those_of_the_stored_trace(make: Any, record: Any) -> None:
    run = make([record("a", num_latents=2), record("b", num_latents=2)])
    assert stored_latents(run.folder, run.manifest) is None
    write_trace(run, [[(5, 0.75), (2, 0.25)], [(1, 0.5), (7, 0.125)]])
    (shown,) = browsable(rows([summarise(run)]), {run.folder: Choice.of(run.records)})
    assert [row["steps"] for row in shown.records] == [
        [[1.0, [["#5", 0.75], ["#2", 0.25]]], [2.0, [["#1", 0.5], ["#7", 0.125]]]]
    ] * 2  # ids, since there is no tokenizer at hand


def test_the_page_has_the_same_latent_steps_where_the_trace_is_gone(make: Any, record: Any, tmp_path: Path) -> None:
    run = make([record("a", num_latents=40), record("b", False, num_latents=0)])
    steps = [[(5, 1 / 3), (2, 0.25)], [(1, 0.5), (7, 0.125)]] * 20
    write_trace(run, steps)
    traced = written(tmp_path).read_text(encoding="utf-8")
    assert '[1.0,[["#5",0.333],["#2",0.25]]]' in traced
    path = write_latents(run.folder, "#{}".format)
    assert path is not None
    assert path.name == "latents.json"
    shutil.rmtree(run.folder / TRACE)
    assert written(tmp_path).read_text(encoding="utf-8") == traced
    path.write_text(path.read_text().replace('"run0"', '"run1"'))
    (notice,) = leaderboard([tmp_path]).notices
    assert "latents.json is of another run (run1, now run0); remove it, or measure again with" in notice


def test_nothing_is_written_of_an_evaluation_without_records_or_trace(make: Any, record: Any) -> None:
    run = make([record("a", num_latents=1)])
    assert write_latents(run.folder, str) is None
    write_trace(run, [[(5, 0.75), (2, 0.25)]])
    (run.folder / RECORDS).unlink()
    assert write_latents(run.folder, str) is None


def test_a_trace_of_other_answers_or_a_damaged_one_is_not_shown(make: Any, record: Any) -> None:
    run = make([record("a", num_latents=1)])
    write_trace(run, [[(5, 0.75), (2, 0.25)]])
    (run.folder / "trace" / "chunk-00000.safetensors").write_bytes(b"nothing")
    (shown,) = browsable(rows([summarise(run)]), {run.folder: Choice.of(run.records)})
    assert "steps" not in shown.records[0]
    header = run.folder / "trace" / "trace.json"
    header.write_text(header.read_text().replace('"run0"', '"run1"'))
    assert stored_latents(run.folder, run.manifest) is None


def test_records_are_chosen_across_verdicts_in_file_order(record: Any) -> None:
    records = [record(f"q{i}", i not in (70, 80)) for i in range(100)]
    chosen = choice(records)
    assert len(chosen) == MAX_RECORDS
    assert chosen[:6] == [0, 70, 1, 80, 2, 3]


def test_twenty_runs_with_long_texts_stay_under_two_megabytes(make: Any, record: Any, tmp_path: Path) -> None:
    for seed in range(20):
        records = [record(f"q{i}", i % 2 > 0, text="ä" * 3000, reasoning="<" * 3000) for i in range(60)]
        make(records, run=f"run{seed}", seed=seed)
    page = written(tmp_path)
    assert page.stat().st_size < 2_000_000
    assert all(len(run["records"]) > 3 for run in data(page.read_text(encoding="utf-8"))[0]["runs"])


def test_the_front_holds_what_no_cell_beats(make: Any, record: Any) -> None:
    def summary(run: str, correct: int, length: int) -> Any:
        records = [record(f"q{i}", i < correct, num_latents=length) for i in range(10)]
        return summarise(make(records, run=run, setting=run))

    made = cells(rows([summary("short", 2, 0), summary("best", 9, 8), summary("beaten", 8, 9), summary("tie", 9, 9)]))
    assert [cell.rows[0].manifest.run for cell in pareto_front(made)] == ["short", "best"]
    picture = chart(made)
    assert picture is not None
    by_run = {cell.rows[0].manifest.run: point for cell, point in zip(made, picture.points, strict=True)}
    assert by_run["short"].x < by_run["best"].x < by_run["tie"].x
    assert by_run["short"].y > by_run["beaten"].y > by_run["best"].y  # y points down
    assert [by_run[name].on_front for name in ("short", "best", "beaten", "tie")] == [True, True, False, False]


def test_a_section_without_decoded_answers_has_no_picture(make: Any, record: Any, tmp_path: Path) -> None:
    make([record("a", False, stop_reason="prompt_too_long", status="no_answer", extracted=None)])
    page = written(tmp_path).read_text(encoding="utf-8")
    assert "<figure>" not in page
    assert "Records" in page
