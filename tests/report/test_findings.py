"""Findings of results/README.md: every number stands in a table, and every table follows from the committed records."""

from __future__ import annotations

import re

import pytest

from tests.report.findings import AGAINST, COLUMNS, RESULTS, tables, value

TEXT = (RESULTS / "README.md").read_text(encoding="utf-8")
FINDINGS = TEXT.partition("\n## Findings\n")[2]


def parts() -> list[str]:
    """The findings, each with its heading first."""
    return re.split(r"^### ", FINDINGS, flags=re.MULTILINE)[1:]


@pytest.mark.parametrize("part", parts(), ids=lambda part: part.splitlines()[0])
def test_the_table_of_a_finding_follows_from_the_records(part: str) -> None:
    task = "graphs" if "results --only '^graphs" in part else "synth"
    found = list(tables(part))
    assert found, "a finding is a claim, a table and a command"
    for header, _, *lines in found:
        columns = header[1:]
        assert all(column in COLUMNS or column.startswith(AGAINST) for column in columns), columns
        for label, *shown in lines:
            for column, text in zip(columns, shown, strict=True):
                assert text == value(task, label.strip("`"), column), (label, column)


@pytest.mark.parametrize("part", parts(), ids=lambda part: part.splitlines()[0])
def test_a_finding_has_the_command_that_shows_it(part: str) -> None:
    command = re.search(
        r"^```\nlatbench (?:leaderboard results --only '(.*)'|compare results/.*)\n```$", part, re.MULTILINE
    )
    assert command is not None
    if command[1]:
        task = command[1].removeprefix("^").split()[0]
        labels = [line[0].strip("`") for _, _, *lines in tables(part) for line in lines]
        assert [label for label in labels if not re.search(command[1], f"{task} {label}")] == []


def test_running_prose_has_no_decimals() -> None:
    prose = re.sub(r"^```.*?^```$|^\|.*$|`[^`]*`", "", TEXT, flags=re.DOTALL | re.MULTILINE)
    assert re.findall(r"\d+\.\d+", prose) == []
