"""Rows of a Hugging Face data set: from the cache at the pinned revision, else from the Hub; no long wait offline.

`datasets` is imported on use, it takes seconds.
"""

from __future__ import annotations

import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

Row = dict[str, Any]
RowMapping = Callable[[Mapping[str, Any], int], Row | None]
PROBE_SECONDS = 4.0  # leaves room for the import of `datasets` within the 10 s that an answer without network may take
OFFLINE_SWITCHES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
TRUE_VALUES = {"1", "ON", "YES", "TRUE"}  # as huggingface_hub reads them


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """Where a split lives on the Hub and how its columns become a row.

    Args:
        id: the data set.
        name: its configuration.
        split: Hub split, several joined by "+".
        revision: commit; None where no commit is known for certain: then the newest, or whatever the cache holds, is
            read and the commit found is named in the fingerprint.
        row: (Hub row, its 0-based index) -> {id, question, steps, answer, ...}, or None to leave the row out. It gives
            the id of the local file where both are known to be in one order, otherwise an id of its own ("-hub-"), so
            that runs on different sources are never paired by accident.
    """

    id: str
    split: str
    row: RowMapping
    name: str = "default"
    revision: str | None = None


@dataclass(frozen=True, kw_only=True)
class HubRows:
    """Raw rows in Hub order, and the data set, configuration, commit and split they came from in one word."""

    rows: Iterable[Mapping[str, Any]]
    origin: str


def hub_rows(source: HubSource) -> HubRows:
    """The raw rows of a source, from the cache if the pinned revision is there, else from the Hub.

    Raises: LookupError: in neither place; the message is the reason, a clause without full stop.
    """
    dataset = _cached(source)
    if dataset is None:
        if not hub_reachable():
            raise LookupError(f"{source.id} is not in the Hugging Face cache and the Hub cannot be reached")
        dataset = _downloaded(source)
    files = [Path(file["filename"]) for file in dataset.cache_files]
    commit = source.revision or (files[0].parent.name if files else "unpinned")
    return HubRows(rows=dataset, origin=f"{source.id}/{source.name}@{commit}:{source.split}")


def is_cached(source: HubSource) -> bool:
    """Whether the rows of a source can be had without the Hub."""
    return _cached(source) is not None


@cache
def hub_reachable() -> bool:
    """Whether the Hub answers within a few seconds; asked once per process, no where the offline switches are set.

    The request goes through the proxies of the environment. It runs in a thread: a name look-up has no time limit.
    """
    if any(os.environ.get(name, "").upper() in TRUE_VALUES for name in OFFLINE_SWITCHES):
        return False
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    answers: list[bool] = []
    probe = threading.Thread(target=lambda: answers.append(_answers(endpoint)), daemon=True)
    probe.start()
    probe.join(PROBE_SECONDS)
    return answers == [True]


def _answers(endpoint: str) -> bool:
    try:
        urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError:
        return True  # refused, hence reached
    except (OSError, ValueError):  # no route, no name, no such address
        return False
    return True


def _cached(source: HubSource) -> Any | None:
    """The data set as prepared in the cache, or None.

    `load_dataset` without network takes the newest cached commit whatever revision it is given, so the cache's own
    builder is called with the commit.
    """
    from datasets.packaged_modules.cache.cache import Cache

    pinned = {"version": "0.0.0", "hash": source.revision} if source.revision else {"version": "auto", "hash": "auto"}
    try:
        builder = Cache(repo_id=source.id, dataset_name=source.id.split("/")[-1], config_name=source.name, **pinned)
        builder.download_and_prepare()
        return builder.as_dataset(split=source.split)
    except (OSError, ValueError):  # not cached: no such folder, no such configuration, no such commit
        return None


def _downloaded(source: HubSource) -> Any:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        return load_dataset(source.id, source.name, split=source.split, revision=source.revision)
    except (OSError, ValueError, DatasetsError) as error:  # network, authorisation, unknown data set, revision or split
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise LookupError(f"{source.id} could not be loaded from the Hub ({reason})") from error
