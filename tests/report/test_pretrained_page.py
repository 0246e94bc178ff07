"""Tables of results/pretrained.md follow from the committed records, and so do the figures that are counted in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from statistics import median_low

import pytest

from latbench.answers.formulas import constant
from latbench.evaluation.records import Record, read_evaluation
from tests.report.findings import RESULTS, cells, tables, value

PAGE = (RESULTS / "pretrained.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())
WORDS = "preset=smollm2-135m task.num_train=2400"
FLOAT32 = f"{WORDS} train.precision=float32"
FOURTH = f"{WORDS} method.tokens_per_latent=4 train.precision=float32"
BOXED = "model.layout=boxed_chain"
GSM8K = "preset=smollm2-135m"
CAPPED = f"{GSM8K} generate.max_new_tokens=160 generate.max_latents=128"
LABELS = {  # of the lines of a table, by its heading
    "Worded problems on SmolLM2-135M": {
        "`cot`": f"cot {WORDS} train.epochs=1.0",
        "`soft_thinking`": f"soft_thinking {WORDS} start.train.epochs=1.0",
        "`colar`, speed 1": f"colar {WORDS} generate.thinking_speed=1",
        "`direct`": f"direct {WORDS} train.epochs=1.0",
        "`colar`, speed 3": f"colar {WORDS} generate.thinking_speed=3",
        "`latent_sft`, r = 2": f"latent_sft {WORDS}",
        "`colar`, speed 2": f"colar {WORDS}",
        "`coconut`, 3 latents": f"coconut {WORDS}",
    },
    "GSM8K with chains of equations on SmolLM2-135M": {
        "`cot`": f"cot {GSM8K} train.epochs=1.0 generate.max_new_tokens=160",
        "`soft_thinking`": f"soft_thinking {CAPPED} start.train.epochs=1.0",
        "`colar`, speed 1": f"colar {CAPPED} generate.thinking_speed=1",
        "`direct`": f"direct {GSM8K} train.epochs=1.0 generate.max_new_tokens=160",
        "`latent_sft`, r = 2": f"latent_sft {CAPPED}",
        "`colar`, speed 2": f"colar {CAPPED}",
        "`colar`, speed 3": f"colar {CAPPED} generate.thinking_speed=3",
    },
    "The same worded problems in float32": {
        "`cot`": f"cot {WORDS} train.epochs=1.0 train.precision=float32",
        "`colar`, speed 1": f"colar {FLOAT32} generate.thinking_speed=1 start.train.precision=float32",
        "`colar`, speed 2": f"colar {FLOAT32} start.train.precision=float32",
        "`coconut`, 3 latents": f"coconut {FLOAT32} start.train.precision=float32",
        "`latent_sft`, r = 2": f"latent_sft {FLOAT32} start.train.precision=float32",
        "`latent_sft`, r = 4": f"latent_sft {FOURTH} start.train.precision=float32",
        "`direct`": f"direct {WORDS} train.epochs=1.0 train.precision=float32",
    },
    "Soft Thinking on the model as it comes": {
        "`cot`": f"cot {BOXED} generate.max_new_tokens=512",
        "`soft_thinking`": f"soft_thinking {BOXED} generate.max_new_tokens=64 generate.max_latents=512",
    },
}
CHAINS = LABELS["GSM8K with chains of equations on SmolLM2-135M"]
SPEEDS = {speed: CHAINS[f"`colar`, speed {speed}"] for speed in (1, 2, 3)}
TASKS = {"GSM8K, % (95 %)": "gsm8k", "SVAMP, %": "svamp", "MultiArith, %": "multiarith", "ASDiv, %": "asdiv"}
RUN = "gsm8k_eq-cot-smollm2_135m_instruct_q4_1-bb27bd0c-s0"
EQUATION = re.compile(r"<<([^=<>]+)=([^=<>]+)>>")


@pytest.mark.parametrize("heading", LABELS)
def test_a_table_follows_from_the_records(heading: str) -> None:
    part = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    [[header, _, *lines]] = tables(part)
    assert [line[0] for line in lines] == list(LABELS[heading])
    own = "synth_words" if "GSM8K, % (95 %)" not in header else "gsm8k"
    for name, *shown in lines:
        for column, text in zip(header[1:], shown, strict=True):
            measure = "accuracy, % (95 %)" if column in TASKS else column
            assert text == value(TASKS.get(column, own), LABELS[heading][name], measure), (name, column)


def test_the_readme_shows_the_table_of_worded_problems() -> None:
    table = PAGE.partition("\n## Worded problems")[2].partition("\n| ")[2].partition("\n\n")[0]
    assert f"\n| {table}\n\n" in (RESULTS.parent / "README.md").read_text(encoding="utf-8")


def answers(task: str) -> Sequence[Record]:
    records = read_evaluation(RESULTS / task / "cot" / RUN).records
    assert len(records) == 300
    return records


def equations(record: Record) -> list[tuple[str, str]]:
    """Both sides of each step that is one equation."""
    return EQUATION.findall(record.reasoning or "")


def is_false(left: str, right: str) -> bool:
    """Whether the sides are numbers that differ by more than a rounding."""
    one, other = constant(left), constant(right)
    return one is not None and other is not None and abs(one - other) > max(abs(other), Fraction(1)) / 100


def is_first_right(record: Record) -> bool:
    found = equations(record)
    return bool(found) and constant(found[0][1]) == constant(record.gold) is not None


def share(flags: Sequence[bool]) -> str:
    return f"{100 * sum(flags) / len(flags):.0f} %"


def test_chains_have_a_second_step_where_the_first_was_enough() -> None:
    single = {task: sum(len(equations(record)) == 1 for record in answers(task)) for task in ("svamp", "asdiv")}
    assert f"of the answers to SVAMP {single['svamp']} of 300 and to ASDiv {single['asdiv']}," in TEXT
    first = {task: share([is_first_right(record) for record in answers(task)]) for task in ("svamp", "asdiv")}
    assert f"gives the right answer to {first['svamp']} of SVAMP and {first['asdiv']} of ASDiv" in TEXT


@pytest.mark.parametrize(
    ("task", "name"), [("gsm8k", "GSM8K"), ("svamp", "SVAMP"), ("multiarith", "MultiArith"), ("asdiv", "ASDiv")]
)
def test_wrong_chains_hold_false_equations(task: str, name: str) -> None:
    wrong = [record for record in answers(task) if record.status != "correct"]
    found = share([any(is_false(*sides) for sides in equations(record)) for record in wrong])
    assert f"{found} ({name})" in TEXT


def test_thoughts_that_do_not_end_are_counted() -> None:
    lengths = {}
    for speed, label in SPEEDS.items():
        [row] = cells()["gsm8k", label].rows
        lengths[speed] = [record.num_latents for record in read_evaluation(row.summary.folder).records]
    capped = {speed: sum(length == 128 for length in found) for speed, found in lengths.items()}
    assert f"{capped[3]} of 300 thoughts at speed 3 go on to the cap" in TEXT
    assert f"{capped[2]} at speed 2 and {capped[1]} at speed 1" in TEXT
    assert f"Half of those at speed 3 have at most {median_low(lengths[3])} latents" in TEXT


def test_tests_of_significance_follow_from_the_records() -> None:
    def p(task: str, label: str, other: str) -> str:
        return value(task, label, f"p against {CHAINS[other]}")

    tasks = TASKS.values()
    first = [p(task, SPEEDS[1], "`direct`") for task in ("multiarith", "svamp")]
    assert f"(p = {first[0]} and {first[1]}, exact McNemar)" in TEXT
    svamp = sorted(float(p("svamp", label, "`cot`")) for label in SPEEDS.values())
    assert f"On SVAMP no speed differs from `cot` (p = {svamp[0]} to {svamp[-1]})" in TEXT
    soft = {task: p(task, CHAINS["`soft_thinking`"], "`cot`") for task in tasks}
    assert f"it loses nine points (p = {soft.pop('multiarith')})" in TEXT
    others = sorted(map(float, soft.values()))
    assert f"(p = {others[0]} to {others[-1]})" in TEXT


def test_what_latent_sft_has_learnt_on_gsm8k() -> None:
    found = cells()["gsm8k", CHAINS["`latent_sft`, r = 2"]].rows[0].manifest.diagnostics
    assert f"with {found['segment_loss']:.2f} nats a token of a segment" in TEXT
    assert f"gold chain {100 * found['oracle']:.1f} % of 254 validation answers" in TEXT


def test_float32_is_compared_with_the_worded_problems_above() -> None:
    above, here = LABELS["Worded problems on SmolLM2-135M"], LABELS["The same worded problems in float32"]
    for name in ("`cot`", "`colar`, speed 1"):
        p = value("synth_words", here[name], f"p against {above[name]}")
        ours, theirs = (value("synth_words", labels[name], "accuracy, %") for labels in (here, above))
        assert f"{ours} against {theirs} % (p = {p}" in TEXT
    first = value("synth_words", here["`colar`, speed 1"], "needed first, %")
    assert f"one quantity at a time, {first} % of pairs in the order" in TEXT


def test_what_shortens_the_chain_is_compared_with_guessing_in_float32() -> None:
    labels = LABELS["The same worded problems in float32"]
    names = ("`latent_sft`, r = 2", "`latent_sft`, r = 4", "`coconut`, 3 latents", "`colar`, speed 2")

    def values(column: str) -> str:
        *others, last = [value("synth_words", labels[name], column) for name in names]
        return f"{', '.join(others)} and {last}"

    against = f"p against {labels['`direct`']}"
    assert f"p = {values(against)} (exact McNemar)" in TEXT
    assert f"computed next ({values('carried, %')} %)" in TEXT
    assert f"the graph of another question ({values('carried by chance, %')} %)" in TEXT
    diagnostics = [cells()["synth_words", labels[name]].rows[0].manifest.diagnostics for name in names[:2]]
    second, fourth = [(f"{found['segment_loss']:.2f}", f"{100 * found['oracle']:.1f} %") for found in diagnostics]
    assert f"segment is {second[0]} nats a token at r = 2" in TEXT
    assert f"latents {second[1]} of 256" in TEXT
    assert f"At r = 4 these are {fourth[0]} and {fourth[1]}." in TEXT


def test_soft_thinking_is_compared_with_the_written_chain() -> None:
    cot, soft = LABELS["Soft Thinking on the model as it comes"].values()
    rows = [cells()["gsm8k", label].rows[0] for label in (cot, soft)]
    written, mixed = ({record.id: record for record in read_evaluation(row.summary.folder).records} for row in rows)
    right = [{key for key, record in found.items() if record.status == "correct"} for found in (written, mixed)]
    assert f"(p = {value('gsm8k', soft, f'p against {cot}')}, exact McNemar)" in TEXT
    assert f"solves {len(right[1] - right[0])} questions that `cot` does not" in TEXT
    assert f"`cot` {len(right[0] - right[1])} that it does not" in TEXT
    capped = sum(record.num_latents == 512 for record in mixed.values())
    cut = sum(record.stop_reason == "length" for record in written.values())
    assert f"Of 200 thoughts {capped} run to the cap of 512 latents; {cut} written chains do" in TEXT
    other = "cot model.dtype=bfloat16 generate.max_new_tokens=512"
    assert f"do not differ (p = {value('gsm8k', cot, f'p against {other}')})" in TEXT
