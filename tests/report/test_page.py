"""The page as a browser shows it, and what stands in it."""

from __future__ import annotations

import html
import io
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from latbench.decoding.latent_trace import LatentTrace
from latbench.evaluation.asked import asked
from latbench.evaluation.metrics import summarise
from latbench.evaluation.records import MANIFEST, RECORDS, TRACE, TRACE_HEADER, Evaluation
from latbench.measures.latents import stored_latents
from latbench.measures.shown_latents import MAX_RECORDS, choice, write_latents
from latbench.report.browse import Choice, browsable
from latbench.report.cells import rows
from latbench.report.leaderboard import leaderboard
from latbench.report.page import _figure
from latbench.task import Fingerprint

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")


UNTIL = """
    async function until(holds) {
      for (let turn = 0; turn < 200 && !holds(); turn += 1) await new Promise((resolve) => setTimeout(resolve, 20));
    }
"""
FRAMED = """
    const frame = document.querySelector("iframe");
    await until(() => frame.contentWindow.eval("typeof openTab") !== "undefined");
    return frame.contentWindow.eval(`(async () => {{ {script} }})()`);
"""


def framed(page: Path, width: int) -> Path:
    """A page that shows another in a frame: a browser without a window is at least 500 pixels wide."""
    frame = page.with_name("frame.html")
    style = f"width:{width}px;height:900px;border:0"
    frame.write_text(f'<body style="margin:0"><iframe src="{page.name}" style="{style}"></iframe></body>')
    return frame


def drive(page: Path, script: str, *options: str, fragment: str = "") -> Any:
    """Run a script (the body of an async function) in the page; its result. Fails where the console shows an error."""
    assert CHROMIUM is not None
    run = f"{UNTIL} (async () => {{ {script} }})().then((found) => {{ document.title = JSON.stringify(found); }});"
    driven = page.with_name("driven.html")
    driven.write_text(page.read_text(encoding="utf-8").replace("</body>", f"<script>{run}</script></body>"))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    command += [f"--user-data-dir={page.parent / 'profile'}", "--virtual-time-budget=5000", *options, "--dump-dom"]
    done = subprocess.run(
        [*command, driven.as_uri() + fragment], capture_output=True, text=True, timeout=120, check=True
    )
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


def of_task(task: str) -> dict[str, Fingerprint]:
    """The data of a manifest of this task."""
    return {f"{task}/test": Fingerprint(source="x", sha256="00", num_examples=4)}


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
    other["config"] = {"generate": {"temperature": 0.7}}
    other["data"] = of_task("gsm8k")
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
        const first = panels[1], out = {};
        const methods = () => [...first.querySelector("table").tBodies[0].rows]
          .filter((line) => !line.hidden).map((line) => line.cells[0].textContent);
        out.tabs = tabs.map((tab) => tab.textContent);
        out.hidden = panels.map((panel) => panel.hidden);
        const press = (key) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key }));
        tabs[1].focus();
        press("ArrowRight");
        out.hiddenAfter = panels.map((panel) => panel.hidden);
        out.focused = [document.activeElement.id, location.hash];
        press("End");
        out.order = methods();
        const header = [...first.querySelectorAll("th")].find((th) => th.textContent.trim() === "#L");
        header.querySelector("button").click();
        out.byLength = [methods(), header.getAttribute("aria-sort")];
        header.querySelector("button").click();
        out.byLengthAgain = [methods(), header.getAttribute("aria-sort")];
        header.querySelector("button").dispatchEvent(new Event("focus"));
        out.explained = tip.textContent;
        const input = first.querySelector("input.filter");
        input.value = "coco"; input.dispatchEvent(new Event("input"));
        const count = first.querySelector(".count").textContent;
        out.filtered = [methods(), count, first.querySelectorAll(".point.off").length];
        input.value = ""; input.dispatchEvent(new Event("input"));
        const point = first.querySelector(".point");
        point.dispatchEvent(new Event("focus"));
        out.tip = [tip.hidden, tip.textContent];
        const select = first.querySelector(".run-choice");
        select.value = data.runs.findIndex((run) => run.name === "second"); select.dispatchEvent(new Event("change"));
        const verdict = first.querySelector(".verdict-choice");
        verdict.value = "incorrect"; verdict.dispatchEvent(new Event("change"));
        const buttons = first.querySelectorAll(".list button");
        buttons[0].focus();
        buttons[0].dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowDown", bubbles: true }));
        out.records = [...buttons].map((button) => button.firstChild.textContent);
        out.record = first.querySelector(".record").textContent;
        const search = first.querySelector(".search");
        search.value = "q4"; search.dispatchEvent(new Event("input"));
        out.searched = [...first.querySelectorAll(".list .id")].map((node) => node.textContent);
        return out;
        """,
        "--window-size=1440,900",
    )
    assert found["tabs"] == ["gsm8k / test", "synth / test"]
    assert (found["hidden"], found["hiddenAfter"]) == ([True, False], [False, True]), "the larger table comes first"
    assert found["focused"] == ["tab-0", "#gsm8k-test"]
    assert found["order"] == ["coconut", "cot"]
    assert found["byLength"] == [["cot", "coconut"], "descending"]
    assert found["byLengthAgain"] == [["coconut", "cot"], "ascending"]
    assert found["explained"].startswith("#L: chain length: latent steps plus")
    assert found["filtered"] == [["coconut"], "1 of 2 lines", 1]
    assert found["tip"][0] is False
    assert found["tip"][1].startswith("coconut\naccuracy 66.7 [")
    assert found["records"] == ["q0", "q2", "q4", "q6", "q8"]
    assert found["record"].startswith("q2about this runlink to this record")
    assert "incorrect" in found["record"]
    assert "a\nb" in found["record"]
    assert found["searched"] == ["q4"]


PHONE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@browser
def test_tables_fit_their_box_and_are_cards_on_a_phone(make: Any, record: Any, tmp_path: Path) -> None:
    changes = {"contaminated": 3, "config": {"model": {"dtype": "bfloat16"}}, "variant": "key.of.a.setting=1"}
    for number in range(3):
        answers = [record(f"q{i}", i > number, num_reasoning_tokens=i, gold_chain_length=9) for i in range(9)]
        make(answers, run=f"r{number}", method=f"a_long_name_{number}", setting=str(number), **changes)
    script = f"""
        const table = document.querySelector("table.main"), box = table.parentNode;
        const heads = () => headsOf(table).filter((head) => !head.hidden).map((head) => head.textContent.trim());
        const fit = heads(), over = box.scrollWidth - box.clientWidth;
        document.querySelector(".columns").open = true;
        const labels = [...document.querySelectorAll(".columns label")];
        labels.find((one) => one.textContent.trim() === "prompt tokens").querySelector("input").click();
        const chosen = heads();
        const line = table.tBodies[0].rows[0];
        const names = [0, 1].map((column) => getComputedStyle(line.cells[column]).position);
        return {{ fit, over, chosen, names, page: {PHONE}, card: getComputedStyle(table.tHead).display === "none",
          named: [...line.cells].filter((cell) => !cell.hidden).map((cell) => cell.dataset.h) }};
        """
    page = written(tmp_path)
    wide, narrow = (drive(page, script, f"--window-size={size}") for size in ("1440,900", "760,900"))
    assert wide["over"] <= 0 >= narrow["over"]
    assert len(wide["fit"]) > len(narrow["fit"]) >= 4
    assert wide["fit"][:5] == ["method", "variant", "accuracy", "rank", "caveats"]
    assert not {"timeout", "truncated", "no answer"} & set(wide["fit"]), "zero throughout"
    assert "prompt tokens" in wide["chosen"]
    assert "prompt tokens" not in wide["fit"]
    assert wide["names"] == ["sticky", "sticky"]
    phone = drive(framed(page, 390), FRAMED.format(script=script), "--allow-file-access-from-files")
    assert phone["card"]
    assert phone["page"] <= 0, "nothing scrolls sideways"
    assert phone["named"] == phone["chosen"]
    assert set(phone["fit"]) >= {"accuracy", "#L", "compression", "caveats"}


@browser
def test_every_number_leads_to_its_run_and_addresses_open_what_they_name(board: Path) -> None:
    page = written(board)
    script = """
        await until(() => document.readyState === "complete");
        const open = panels.filter((panel) => !panel.hidden);
        const record = open.map((panel) => panel.querySelector(".record").textContent);
        return { open: sheet.open, sheet: sheet.textContent, record,
          hidden: panels.map((panel) => panel.hidden), hash: location.hash };
        """
    numbers = """
        const cells = [...document.querySelectorAll("tr[data-cell] td.n")].filter((cell) => cell.textContent !== "–");
        const bare = cells.filter((cell) => !cell.querySelector("a")).length;
        panels[1].querySelector("td.n a").click();
        await until(() => sheet.open);
        const before = [sheet.open, location.hash];
        sheet.querySelector(".close").click();
        await until(() => !location.hash.startsWith("#run"));
        return { all: cells.length, bare, before, after: location.hash };
        """
    found = drive(page, numbers)
    assert found["all"] > 20
    assert found["bare"] == 0
    assert found["before"] == [True, "#run/first"]
    assert found["after"] == "#synth-test"
    opened = drive(page, script, fragment="#run/third")
    assert opened["hidden"] == [False, True]
    assert opened["open"]
    for fact in (
        "latbench eval",
        "sha256 ",
        "Configuration",
        "Versions",
        "third/records.jsonl",
        "generate.temperature0.7",
    ):
        assert fact in opened["sheet"], fact
    shown = drive(page, script, fragment="#record/second/q5/0")
    assert not shown["open"]
    assert shown["record"][0].startswith("q5about this runlink to this record")


@browser
def test_two_runs_are_read_beside_each_other(board: Path) -> None:
    script = """
        const root = panels[1].querySelector(".browser");
        const choose = (name, value) => {
          const node = root.querySelector(name);
          node.value = value;
          node.dispatchEvent(new Event("change"));
        };
        choose(".run-choice", runNumber("first"));
        choose(".other-choice", runNumber("second"));
        root.querySelector(".list button").click();
        const named = decodeURIComponent(location.hash);
        const both = [...root.querySelectorAll(".answer header strong")].map((node) => node.textContent);
        choose(".verdict-choice", "differ");
        const texts = (one) => [...one.children].map((node) => node.textContent);
        const rows = [...root.querySelectorAll(".list button")].map(texts);
        return { both, rows, named };
        """
    page = written(board)
    found = drive(page, script)
    assert found["named"] == "#record/first/q0/0/second"
    opened = """
        const root = panels[1].querySelector(".browser"), link = root.querySelectorAll(".record header a")[1];
        return [root.querySelector(".run-choice").value, root.querySelector(".other-choice").value]
          .map((number) => data.runs[number].name).concat(root.querySelector(".record strong").textContent, link.hash);
        """
    address = "#record/first/q4/0/second"
    assert drive(page, opened, fragment=address) == ["first", "second", "q4", address]
    assert found["both"] == ["coconut", "cot"]
    verdicts = {f"q{i}": (i % 3 > 0, i % 2 > 0) for i in range(9)}
    words = {True: "correct", False: "incorrect"}
    assert sorted(found["rows"]) == [
        [name, words[one], words[other]] for name, (one, other) in sorted(verdicts.items()) if one != other
    ]


@browser
def test_names_of_methods_and_sources_of_published_numbers_lead_to_papers(board: Path) -> None:
    script = """
        const leads = (name) => [...document.querySelectorAll(name)].map((link) => [link.textContent, link.href]);
        showRun(runNumber("second"));
        return { methods: leads("table.main a.paper"), sources: leads(".reported a.paper").length,
          sheet: leads("#sheet .papers a") };
        """
    found = drive(written(board), script)
    assert ["coconut", "https://arxiv.org/abs/2412.06769"] in found["methods"]
    assert found["sources"] > 100
    assert ["arXiv:2502.21074", "https://arxiv.org/abs/2502.21074"] in found["sheet"], "a baseline of several papers"


@browser
def test_the_prompt_is_shown_as_it_was_fed(make: Any, record: Any, tmp_path: Path) -> None:
    from latbench.api import get_task
    from latbench.evaluation.manifest import questions_hash

    settings = {"num_test": 2, "num_train": 1, "num_validation": 1}
    examples = get_task("synth", **settings).load("test")
    config = {"eval": {"task": {"name": "synth", **settings}, "split": "test", "limit": None, "seed": 0}}
    asked_of = {"config": config, "questions_sha256": questions_hash(examples)}
    records = [record(example.id, gold=example.answer) for example in examples]
    around = {"before": "<s>Question:\n", "after": "<think>"}
    make(records, run="around", method="cot", setting="s1", prompt=around, **asked_of)
    make(records, run="first", method="codi", setting="s2", prompt={"first": "all of it"}, **asked_of)
    make(records, run="unknown", method="icot", setting="s3", **asked_of)
    make(records, run="published", prompt=around, questions_sha256="other")
    script = """
        const found = {};
        for (const [number, run] of data.runs.entries()) {
          location.hash = recordAddress(number, run.records[1]);
          const isOpen = (one) => !one.hidden && one.querySelector(".run-choice").value === String(number)
            && one.querySelector(".record strong").textContent === run.records[1].id;
          await until(() => panels.some(isOpen));
          const panel = panels.find(isOpen);
          found[run.name] = [...panel.querySelector(".answer .prompt").children].map((one) => one.textContent);
        }
        return found;
        """
    found = drive(written(tmp_path), script)
    assert found["around"] == ["Prompt as it was fed, 10 tokens", f"<s>Question:\n{examples[1].question}<think>"]
    assert found["first"][1:] == [
        "Of the first question, since prompts of this evaluation differ in more than the question:", "all of it",
    ]  # fmt: skip
    assert found["unknown"][1:] == ["It was not stored with this evaluation; its layout is default."]
    assert found["published"][1] == "<s>Question:\n(the question, which is not on this page)<think>"


@browser
def test_averages_have_a_tab_whose_accuracies_lead_to_their_runs(make: Any, record: Any, tmp_path: Path) -> None:
    for number, task in enumerate(("synth", "gsm8k")):
        for method, right in (("cot", 4), ("codi", 2)):
            answers = [record(f"q{i}", i < right - number) for i in range(4)]
            make(answers, run=f"{task}-{method}", method=method, task=task, setting=method, data=of_task(task))
    script = """
        const before = panels.map((panel) => panel.hidden);
        const panel = panels[2];
        tabs[2].click();
        const texts = (line) => [...line.cells].map((cell) => cell.textContent);
        const lines = [...panel.querySelectorAll("tbody tr")].map(texts);
        const leads = [...panel.querySelectorAll("td[data-run] a")].map((link) => decodeURIComponent(link.hash));
        const address = location.hash, facts = panel.querySelector("h3 + .facts").textContent;
        const input = panel.querySelector("input.filter");
        input.value = "codi"; input.dispatchEvent(new Event("input"));
        const count = panel.querySelector(".count").textContent;
        panel.querySelector("td[data-run] a").click();
        await until(() => sheet.open);
        return { before, tab: tabs[2].textContent, lines, leads, address, facts, count, open: sheet.textContent };
        """
    found = drive(written(tmp_path), script)
    assert found["before"] == [True, False, True] or found["before"] == [False, True, True]
    assert (found["tab"], found["address"]) == ("Average over tasks", "#average")
    assert [line[0] for line in found["lines"]] == ["cot", "codi"]
    assert found["lines"][0][3].startswith("87.5 [")
    assert found["leads"] == ["#run/gsm8k-cot", "#run/synth-cot", "#run/gsm8k-codi", "#run/synth-codi"]
    assert "2 tasks: gsm8k / test, synth / test" in found["facts"]
    assert found["count"] == "1 of 2 lines"
    assert "gsm8k-cot" in found["open"]


@browser
def test_other_settings_are_folded_and_all_points_can_be_reached(make: Any, record: Any, tmp_path: Path) -> None:
    for number, variant in enumerate(("", "a=1", "a=2")):
        make([record(f"q{i}", i >= number) for i in range(9)], run=f"r{number}", variant=variant, setting=str(number))
    make([record(f"q{i}") for i in range(9)], run="other", method="cot", setting="x")
    script = """
        const isShown = (one) => getComputedStyle(one).display !== "none";
        const shown = (name) => [...document.querySelectorAll(name)].filter(isShown);
        const visible = () => shown("table.main tbody tr").map((line) => line.cells[1].textContent);
        const points = () => shown(".point");
        const before = [visible(), points().length];
        const press = document.querySelector(".unfold");
        const text = press.textContent;
        press.click();
        const after = [visible(), points().length];
        const places = points().map((point) => {
          const box = point.querySelector(".mark").getBoundingClientRect();
          const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
          return top && top.closest(".point") === point;
        });
        const twin = points()[0];
        twin.dispatchEvent(new Event("focus"));
        return { before, text, after, places, told: tip.children.length };
        """
    found = drive(written(tmp_path), script, "--window-size=1200,1600")
    assert found["before"] == [["default", "default"], 2]
    assert found["text"] == "+ 2 settings"
    assert found["after"][1] == 4
    assert found["after"][0] == ["default", "a=1", "a=2", "default"]
    assert all(found["places"]), "no mark lies under another"
    assert found["told"] == 2, "the two runs that got everything right stand at one point"


@browser
def test_what_is_downloaded_is_the_csv(board: Path) -> None:
    import csv

    make_csv = leaderboard([board], ["csv"]).text_by_format["csv"]
    text, rows_ = drive(written(board), "return [csvOf(data.runs), JSON.parse(jsonOf(data.runs))];")
    expected = list(csv.reader(io.StringIO(make_csv)))
    got = list(csv.reader(io.StringIO(text)))
    assert got[0] == expected[0]
    for line, wanted in zip(got[1:], expected[1:], strict=True):
        for name, value, there in zip(got[0], line, wanted, strict=True):
            if name in ("pass_at", "diagnostics"):
                assert json.loads(value or "{}") == json.loads(there or "{}")
            else:
                assert value == there or float(value) == float(there), name
    assert [row["run"] for row in rows_] == ["third", "first", "second"]


@browser
def test_training_curves_are_drawn(make: Any, record: Any, tmp_path: Path) -> None:
    make([record("a"), record("b")], run="run/eval/synth-test")
    manifest = tmp_path / "run/eval/synth-test" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"run/eval/synth-test"', '"run"'))
    stage = tmp_path / "run" / "stages" / "0-sft"
    stage.mkdir(parents=True)
    lines = [json.dumps({"step": step, "epoch": 0.1, "loss": 4 / step, "grad_norm": 1.0}) for step in range(1, 400)]
    (stage / "log.jsonl").write_text("\n".join([*lines, "{", '{"loss": NaN, "step": 400}', "7"]))
    script = """
        showRun(0);
        const points = (one) => one.querySelector("path").getAttribute("d").split("L").length;
        return [...sheet.querySelectorAll(".curve")].map((one) => [one.textContent, points(one)]);
        """
    loss, norm = drive(written(tmp_path), script)
    assert loss[0] == "loss 0.01003 to 4, steps 1 to 399", "the first and the last stay; the last line has no loss"
    assert 30 <= loss[1] <= 60
    assert norm[0].startswith("grad norm 1 to 1")


@browser
def test_curves_of_reinforcement_learning_stand_by_their_kind_and_none_is_lost(
    make: Any, record: Any, tmp_path: Path
) -> None:
    make([record("a")], run="run/eval/synth-test")
    manifest = tmp_path / "run/eval/synth-test" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"run/eval/synth-test"', '"run"'))
    rollout = [f"rl/{name}" for name in ("reward", "accuracy", "chain_length", "mixed_groups", "clipped_text")]
    losses = ["loss", "grad_norm", "learning_rate", "policy", "kl", *(f"term_{number}" for number in range(10))]
    lines = []
    for step in range(1, 301):
        lines.append({"step": step, "epoch": 0.0, **dict.fromkeys([*losses, *rollout], step / 300)})
        if step % 100 == 0:  # a row of its own
            lines.append({"step": step, "epoch": 0.0, "held_out/accuracy": step / 1000, "held_out/chain_length": 4})
    for stage, logged in (("0-sft", lines[:1]), ("1-rl", lines)):
        (tmp_path / "run" / "stages" / stage).mkdir(parents=True)
        (tmp_path / "run" / "stages" / stage / "log.jsonl").write_text("\n".join(map(json.dumps, logged)))
    script = """
        showRun(0);
        const kinds = (stage) => [...stage.querySelectorAll("h5")].map((title) =>
          [title.textContent, [...title.nextElementSibling.querySelectorAll("strong")].map((one) => one.textContent)]);
        const curves = [...sheet.querySelectorAll(".curve")];
        const held = curves.find((one) => one.textContent.startsWith("accuracy 0.1 to 0.3"));
        return { stages: [...sheet.querySelectorAll("h4")].map((one) => one.textContent),
          kinds: [...sheet.querySelectorAll("section")].map(kinds),
          drawn: [...sheet.querySelectorAll(".curve path")].every((one) => one.getAttribute("d").startsWith("M")),
          held: held.querySelector("path").getAttribute("d").split("L").length };
        """
    found = drive(written(tmp_path), script)
    assert found["stages"] == ["Stage 0-sft", "Stage 1-rl"]
    kinds = dict(found["kinds"][1])
    assert list(kinds) == ["Loss and updates", "Rollouts of reinforcement learning", "Held-out questions"]
    assert len(kinds["Loss and updates"]) == len(losses)
    assert kinds["Rollouts of reinforcement learning"] == [
        "reward", "accuracy", "chain length", "mixed groups", "clipped text",
    ]  # fmt: skip
    assert (found["held"], found["drawn"]) == (3, True), "the three held-out points are not thinned out"


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
    assert [_figure(one) for one in ("0.8/1.2, 0.5/1.1", "0.03, 0.04", "∞", "99.8 [97.9, 100.0]", "–")] == [
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
        await until(() => document.querySelectorAll(".list button").length > before);
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
    outside = re.findall(r'<(\w+)[^>]*\s(?:src|href)="(?!data:,")([^"]*)"|(url\(|@import)', page)
    assert {tag for tag, *_ in outside} == {"a"}, "what leads out is a link, and nothing is fetched"
    assert all(address.startswith("https://arxiv.org/abs/") for _, address, _ in outside)
    assert "throw 1</script>" not in page  # texts of records cannot leave their place
    assert "&lt;/script&gt;&lt;b&gt;&amp;" in page
    assert page == written(board).read_text(encoding="utf-8")


SYNTH = Path(__file__).parents[2] / "results" / "synth"
MEASURED = [SYNTH / "sim_cot", min((SYNTH / "latent_sft").iterdir())]  # with tables of every kind


@browser
def test_tables_of_measures_fit_their_box_too_and_their_columns_are_chosen(tmp_path: Path) -> None:
    leaderboard(MEASURED, ["html"], tmp_path)
    script = """
        const tables = [...panels[0].querySelectorAll("table.sortable")];
        const over = tables.map((table) => table.parentNode.scrollWidth - table.parentNode.clientWidth);
        const heads = (table) => headsOf(table).filter((head) => !head.hidden).map((head) => head.textContent.trim());
        const wide = tables.find((table) => headsOf(table).length > 15 && !table.classList.contains("main"));
        const press = (name) => {
          const labels = [...choosers.get(wide).querySelectorAll("label")];
          labels.find((one) => one.textContent.trim() === name).querySelector("input").click();
        };
        const before = heads(wide);
        for (const name of before.slice(2)) press(name);
        press("ratio");
        const chosen = heads(wide), said = choosers.get(wide).querySelector("summary").textContent;
        choosers.get(wide).querySelector("button").click();
        return { over, before, chosen, said, all: headsOf(wide).length, after: heads(wide) };
        """
    found = drive(tmp_path / "leaderboard.html", script, "--window-size=1440,900")
    assert len(found["over"]) >= 5
    assert max(found["over"]) <= 0
    assert 4 < len(found["before"]) < found["all"]
    assert found["chosen"] == ["method", "variant", "ratio"]
    assert found["said"] == f"Columns, 3 of {found['all']}"
    assert found["after"] == found["before"]


def test_every_column_head_explains_itself() -> None:
    page = leaderboard(MEASURED, ["html"]).text_by_format["html"]
    heads = re.findall(r'<th scope="col"([^>]*)><button type="button">([^<]*)', page)
    assert {"ECR@5", "N_eff", "needed first", "change", "peak MiB", "segment loss", "tokens"} <= {
        name for _, name in heads
    }
    assert [name for attributes, name in heads if "data-tip" not in attributes] == []


def test_a_lone_surrogate_anywhere_is_shown_as_an_escape(make: Any, record: Any, tmp_path: Path) -> None:
    lone = "\udce9"
    make([record("alone", text=lone, extracted=lone, gold=lone, reasoning=lone)], variant=f"v{lone}")
    for name in ("train_data", "backbone", "setting", "method", "layout"):
        make([record("a")], run=name, **{name: name + lone})
    runs = data(written(tmp_path).read_text(encoding="utf-8"))["runs"]
    (shown,) = [one for run in runs for one in run["records"] if one["id"] == "alone"]
    assert shown["text"] == "\\udce9"
    assert leaderboard([tmp_path], ["md", "csv", "latex"], tmp_path / "out").paths


def test_templates_ship_with_the_package() -> None:
    root = Path(__file__).parents[2]
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["latbench"]
    shipped = {path for pattern in patterns for path in (root / "latbench").glob(pattern)}
    assert shipped >= set((root / "latbench" / "report" / "templates").iterdir())


def test_texts_of_records_come_back_whole(board: Path) -> None:
    found = data(written(board).read_text(encoding="utf-8"))
    (third,) = [run for run in found["runs"] if run["name"] == "third"]
    assert third["records"][0]["text"] == "</script><script>throw 1</script>"
    assert third["values"][found["columns"].index("variant")] == "</script><b>&"


def test_questions_are_shown_where_the_manifest_asks_for_the_same(make: Any, record: Any, tmp_path: Path) -> None:
    from latbench.api import get_task
    from latbench.evaluation.manifest import questions_hash

    settings = {"num_test": 3, "num_train": 1, "num_validation": 1}
    examples = get_task("synth", **settings).load("test")
    config = {"eval": {"task": {"name": "synth", **settings}, "split": "test", "limit": None, "seed": 0}}
    records = [record(example.id, gold=example.answer) for example in examples]
    make(records, run="same", config=config, questions_sha256=questions_hash(examples))
    make(records, run="other", config=config, setting="s2")
    found = data(written(tmp_path).read_text(encoding="utf-8"))
    by_run = {found["runs"][part["lines"][0][0]]["name"]: part["questions"] for part in found["sections"]}
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
    assert all(len(run["records"]) > 3 for run in data(page.read_text(encoding="utf-8"))["runs"])


@pytest.mark.slow
def test_a_hundred_runs_with_long_prompts_and_logs_stay_under_two_megabytes(
    make: Any, record: Any, tmp_path: Path
) -> None:
    log = "\n".join(json.dumps({"step": step, **{f"rl/{i}": step % 97 / 97 for i in range(25)}}) for step in range(70))
    for number in range(100):
        records = [record(f"q{i}", i % 2 > 0, text="ä" * 3000) for i in range(9)]
        prompt = {"before": f"{number}" + "b" * 9000, "after": "a" * 9000}
        run = make(
            records, run=f"r{number}/run/eval/x", setting=str(number), variant=f"train.lr={number}", prompt=prompt
        )
        path = run.folder / MANIFEST
        path.write_text(path.read_text().replace(f'"r{number}/run/eval/x"', '"run"'))
        stage = run.folder.parents[1] / "stages" / "0-rl"
        stage.mkdir(parents=True)
        (stage / "log.jsonl").write_text(log)
    page = written(tmp_path)
    assert page.stat().st_size < 2_000_000
    found = data(page.read_text(encoding="utf-8"))
    for run in found["runs"]:
        assert len(run["records"]) > 1
        assert run["curves"]
        assert found["pool"][run["facts"]["prompt"]]["before"].endswith("more characters)")


def test_a_section_without_decoded_answers_has_no_picture(make: Any, record: Any, tmp_path: Path) -> None:
    make([record("a", False, stop_reason="prompt_too_long", status="no_answer", extracted=None)])
    page = written(tmp_path).read_text(encoding="utf-8")
    assert "<figure>" not in page
    assert "Records" in page
