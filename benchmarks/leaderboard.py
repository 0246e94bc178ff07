"""How long the leaderboard takes over many runs, and what memory: `python benchmarks/leaderboard.py`.

Writes 200 made-up evaluations of 1,319 records each (the size of GSM8K's test set) into a temporary folder and runs
`latbench leaderboard` over them, each format in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tabulate import tabulate

from latbench.evaluation.records import RECORDS, Manifest, Record, append_records, write_manifest
from latbench.task import Fingerprint


def main() -> None:
    """Print seconds and peak memory of each format."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--records", type=int, default=1319)
    parser.add_argument("--formats", default="md,csv,latex,html")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for run in range(arguments.runs):
            write_run(Path(name) / f"run{run}", run, arguments.records)
        lines = [(kind, *measured(Path(name), kind)) for kind in arguments.formats.split(",")]
    print(f"{arguments.runs} runs x {arguments.records} records")
    print(tabulate(lines, headers=("format", "seconds", "peak memory, MB", "bytes written"), tablefmt="github"))


def write_run(folder: Path, run: int, num_records: int) -> None:
    """One evaluation: 40 settings of 5 seeds each on the same questions."""
    draw = random.Random(run)
    setting, seed = divmod(run, 5)
    records = [
        Record(
            id=f"gsm8k-{place:04d}",
            sample=0,
            text=f"The answer is: {place}",
            reasoning="<<12*7=84>> <<84-4=80>> " * draw.randint(1, 4),
            extracted=str(place),
            gold=str(place),
            status="correct" if draw.random() < 0.5 else "incorrect",
            num_latents=draw.randint(0, 12),
            num_reasoning_tokens=draw.randint(0, 40),
            num_answer_tokens=6,
            gold_chain_length=25,
            num_prompt_tokens=60,
            decode_steps=40,
            stop_reason="eos",
            seed=seed,
            chunk=place // 256,
        )
        for place in range(num_records)
    ]
    folder.mkdir()
    append_records(folder / RECORDS, records)
    write_manifest(
        folder,
        Manifest(
            task="gsm8k",
            split="test",
            method=f"method{setting % 8}",
            variant=f"train.lr={setting}e-4",
            setting=f"s{setting}",
            backbone="tiny",
            layout="default",
            train_data="gsm8k_aug/train",
            run=folder.name,
            seed=seed,
            n=num_records,
            complete=True,
            command="latbench eval",
            config={},
            questions_sha256="0" * 64,
            data={"gsm8k/test": Fingerprint(source="made up", sha256="0" * 64, num_examples=num_records)},
            versions={},
            git_commit=None,
            git_dirty=None,
            hardware={},
        ),
    )


def measured(folder: Path, kind: str) -> tuple[float, float, int]:
    """Seconds, peak memory in MB and bytes written of one format."""
    code = (
        "import json, resource, sys; from latbench.cli import main; code = main(sys.argv[1:]); "
        "print(json.dumps([code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))"
    )
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-c", code, "leaderboard", str(folder), "--format", kind, "--out", out]
        start = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        seconds = time.monotonic() - start
        code_and_memory = json.loads(done.stdout.splitlines()[-1]) if done.stdout else [1, 0]
        if code_and_memory[0]:
            raise SystemExit(done.stderr)
        size = sum(path.stat().st_size for path in Path(out).iterdir())
    unit = 1 if sys.platform == "darwin" else 1024
    return round(seconds, 2), round(code_and_memory[1] * unit / 1e6), size


if __name__ == "__main__":
    main()
