"""The public CI runs what the Makefile has, on the versions of Python that the package names."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import yaml

from tests.docs.published import ROOT

WORKFLOW: Any = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))


def test_each_step_is_a_target_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    runs = [step["run"] for job in WORKFLOW["jobs"].values() for step in job["steps"] if "run" in step]
    targets = [line.split()[1] for line in runs if line.startswith("make ")]
    assert len(targets) == len(runs)
    assert set(targets) == {"check", "test", "docs"}
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []


def test_the_oldest_python_of_the_package_is_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    versions = WORKFLOW["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert project["requires-python"] == f">={versions[0]}"
