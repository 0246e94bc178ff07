"""The manifest that is already there, compared with the one that the same evaluation would get today."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from latbench.evaluation.provenance import refuse_others
from latbench.evaluation.records import MANIFEST, RECORDS, Manifest, read_manifest
from latbench.task import Example


def questions_hash(prompts: Sequence[Example]) -> str:
    """`Manifest.questions_sha256` of what is asked, worded by the task."""
    rows = [[example.id, example.question, example.answer] for example in prompts]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def known_manifest(folder: Path, fresh: Manifest, *, nothing_to_add: bool) -> Manifest | None:
    """The manifest already there, if it is of the same evaluation.

    Args:
        folder: of the evaluation.
        fresh: the manifest that it would get today.
        nothing_to_add: all records stand there; then they may be those of another version of the code.
    Returns: None where there is none.
    Raises: ValueError: it is of another evaluation, or records stand there without a manifest.
    """
    if not (folder / MANIFEST).exists():
        if (folder / RECORDS).exists():
            raise ValueError(f"{folder} holds records without {MANIFEST}; remove the folder to evaluate anew")
        return None
    known = read_manifest(folder)
    if known.complete and nothing_to_add:
        fresh = replace(fresh, git_commit=known.git_commit, versions=known.versions)
    what, way_out = f"{folder} holds records", "remove the folder to evaluate anew"
    there, here = (circumstances(manifest, batch=known.is_rounded) for manifest in (known, fresh))
    refuse_others(what, there, here, way_out)
    return replace(known, git_dirty=fresh.git_dirty or known.git_dirty)


def circumstances(manifest: Manifest, *, batch: bool) -> Mapping[str, str]:
    """All that the records of one evaluation must have in common, by name, as JSON.

    Args:
        manifest: of the records.
        batch: the batch size counts.
    """
    found = {
        "setting": manifest.setting,
        "latbench commit": manifest.git_commit,
        "versions": manifest.versions,
        "Python files": manifest.code,
        "number of answers": manifest.n,
        "generate.chunk": manifest.configured("generate", "chunk"),
        **({"generate.batch_size": manifest.configured("generate", "batch_size")} if batch else {}),
        "data": {name: fingerprint.sha256 for name, fingerprint in manifest.data.items()},
    }
    return {name: json.dumps(value) for name, value in found.items()}
