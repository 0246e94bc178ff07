"""A wheel, installed outside the checkout, has all that the commands need."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = ("train.max_steps=1", "task.num_train=40", "task.num_test=5", "model.hidden_size=32", "start=null")


def run(*command: str, folder: Path) -> str:
    """Standard output of a command that must succeed, with nothing of this process's own import path."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow  # builds and installs
def test_the_wheel_works_in_an_environment_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77")
    source, dist, home = tmp_path / "source", tmp_path / "dist", tmp_path / "elsewhere"
    home.mkdir()
    for name in ("latbench", "methods", "tasks"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    build = f"from setuptools import build_meta; print(build_meta.build_wheel({str(dist)!r}))"
    wheel = dist / run(sys.executable, "-c", build, folder=source).splitlines()[-1]
    run(sys.executable, "-m", "venv", str(tmp_path / "venv"), folder=tmp_path)
    python = str(tmp_path / "venv" / "bin" / "python")
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel), folder=home)
    (packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    # what latbench needs comes from here: installing it takes minutes; a plain path does not bring this checkout along
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n", encoding="utf-8")

    latbench = str(Path(python).with_name("latbench"))
    where = run(python, "-c", "import latbench, methods, tasks; print(latbench.__file__)", folder=home)
    assert Path(where.strip()).is_relative_to(packages)
    assert "coconut" in run(latbench, "list", "methods", folder=home)
    assert "gsm8k" in run(latbench, "list", "tasks", folder=home)
    assert "latent_sft: tiny" in run(latbench, "list", "presets", folder=home)
    settings = [word for text in SMALL for word in ("--set", text)]
    run(latbench, "train", "--method", "coconut", *settings, folder=home)
    run(latbench, "eval", folder=home)
    run(latbench, "leaderboard", "--format", "md,html,latex,csv", "--out", "out", folder=home)
    assert (home / "out" / "leaderboard.html").stat().st_size > 10_000
    (made,) = (home / "runs").glob("synth-coconut-*")
    run(latbench, "export", made.name, "shared", folder=home)
    assert (home / "shared" / "README.md").is_file()
    page = "from latbench.serving.app import PAGE; print(PAGE.read_text()[:15])"
    assert run(python, "-c", page, folder=home) == "<!doctype html>\n"
    run(latbench, "new", "method", "mine", folder=home)
