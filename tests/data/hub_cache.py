"""A cache of data sets as `load_dataset` leaves it behind, made without the Hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets


def make_cache(folder: Path, name: str, splits: Mapping[str, Sequence[Mapping[str, Any]]], commit: str) -> Path:
    """A cache folder that holds one commit of one data set.

    Args:
        folder: for the cache and what it is made from.
        name: of the data set, such as `lab/Toy`.
        splits: rows by split.
        commit: of the data set.
    """
    files = {split: str(folder / f"{split}.jsonl") for split in splits}
    for split, rows in splits.items():
        Path(files[split]).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    prepared = datasets.load_dataset("json", data_files=files, cache_dir=str(folder / "build"))
    built = Path(next(iter(prepared.values())).cache_files[0]["filename"]).parent
    owner, short = name.lower().split("/")
    place = folder / "cache" / f"{owner}___{short}" / "default" / "0.0.0" / commit
    place.mkdir(parents=True)
    for split in files:
        shutil.copy(built / f"json-{split}.arrow", place / f"{short}-{split}.arrow")
    info = json.loads((built / "dataset_info.json").read_text())
    info["config_name"] = "default"
    for about in info["splits"].values():
        about["dataset_name"] = short
    (place / "dataset_info.json").write_text(json.dumps(info))
    return folder / "cache"
