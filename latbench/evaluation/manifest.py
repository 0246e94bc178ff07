"""The manifest of an evaluation: made before its first answer, compared with the one already there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from latbench.config import stable_hash, tree
from latbench.evaluation.plan import EvalConfig, plan
from latbench.evaluation.records import MANIFEST, RECORDS, Manifest, read_manifest
from latbench.runs import environment
from latbench.runs.run import Run
from latbench.task import Example, Fingerprint


def new_manifest(run: Run, wanted: EvalConfig, fingerprint: Fingerprint, prompts: Sequence[Example]) -> Manifest:
    """The manifest before the first answer: identity, configuration, data, environment, costs of training.

    Args:
        prompts: what is asked, worded by the task.
    """
    config, report = replace(run.config, generate=wanted.generate), run.report
    scoring = {"name": wanted.task_name, **asdict(wanted.task)}
    usual = plan(run.config, wanted.task_name).task
    variant = [config.variant]
    if wanted.task != usual:
        base = asdict(usual)
        variant += [
            f"task.{key}={tree.show(value)}" for key, value in asdict(wanted.task).items() if base[key] != value
        ]
    setting = config.setting if wanted.task == usual else stable_hash([config.setting, scoring])
    if wanted.seed != config.seed:  # other draws of the same trained model are no further seed of the method
        variant.append(f"eval.seed={wanted.seed}")
        setting = stable_hash([setting, wanted.seed])
    commit, dirty = environment.git_state()
    return Manifest(
        task=wanted.task_name,
        split=wanted.split,
        method=config.method_name,
        variant=" ".join(filter(None, variant)),
        setting=setting,
        backbone=config.backbone,
        layout=config.model.layout,
        train_data=str(report["train_data"]),
        run=run.folder.name,
        seed=config.seed,
        n=len(prompts) * wanted.generate.samples,
        complete=False,
        command=environment.command_line(),
        config=config.to_tree()
        | {"eval": {"task": scoring, "split": wanted.split, "limit": wanted.limit, "seed": wanted.seed}},
        questions_sha256=questions_hash(prompts),
        data={
            **{name: Fingerprint(**row) for name, row in report.get("data", {}).items()},
            f"{wanted.task_name}/{wanted.split}": fingerprint,
        },
        versions=environment.versions(),
        git_commit=commit,
        git_dirty=dirty,
        hardware=environment.hardware(),
        train=dict(report.get("costs", {})),
        diagnostics={k: v for k, v in report.get("diagnostics", {}).items() if type(v) is float},
        created=environment.now(),
    )


def questions_hash(prompts: Sequence[Example]) -> str:
    """`Manifest.questions_sha256` of what is asked, worded by the task."""
    rows = [[example.id, example.question, example.answer] for example in prompts]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def known_manifest(folder: Path, fresh: Manifest, *, nothing_to_add: bool) -> Manifest | None:
    """The manifest already there, if it is of the same evaluation.

    Args:
        nothing_to_add: all records stand there; then they may be those of another version of the code.
    Raises: ValueError: it is of another one, or records stand there without a manifest.
    """
    if not (folder / MANIFEST).exists():
        if (folder / RECORDS).exists():
            raise ValueError(f"{folder} holds records without {MANIFEST}; remove the folder to evaluate anew")
        return None
    known = read_manifest(folder)
    if known.complete and nothing_to_add:
        fresh = replace(fresh, git_commit=known.git_commit, versions=known.versions)
    for name, there, here in (
        ("setting", known.setting, fresh.setting),
        ("latbench commit", known.git_commit, fresh.git_commit),
        ("versions", known.versions, fresh.versions),
        ("number of answers", known.n, fresh.n),
        ("generate.chunk", _chunk(known), _chunk(fresh)),
        ("data", _hashes(known), _hashes(fresh)),
    ):
        if there != here:
            raise ValueError(
                f"{folder} holds records of another {name} ({json.dumps(there)}, now {json.dumps(here)}); "
                "remove the folder to evaluate anew"
            )
    return replace(known, git_dirty=fresh.git_dirty or known.git_dirty)


def _chunk(manifest: Manifest) -> int:
    return int(manifest.config["generate"]["chunk"])


def _hashes(manifest: Manifest) -> dict[str, str]:
    return {name: fingerprint.sha256 for name, fingerprint in manifest.data.items()}
