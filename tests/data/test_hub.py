"""The Hugging Face cache and the Hub as sources: the pinned commit or nothing, and quick answers without network."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import pytest

from latbench.data import hub
from latbench.data.hub import HubSource, hub_reachable, hub_rows
from tests.data.hub_cache import make_cache


def row(value: Mapping[str, Any], index: int) -> dict[str, Any]:
    return {"id": str(index), **value}


PINNED = HubSource(id="lab/Toy", split="train+test", revision="c0ffee", row=row)
NEWEST = HubSource(id="lab/Toy", split="test", row=row)


@pytest.fixture(autouse=True)
def _fresh_probe() -> Iterator[None]:
    hub_reachable.cache_clear()
    yield
    hub_reachable.cache_clear()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data-set cache that holds commit c0ffee of lab/Toy."""
    rows = {split: [{"problem": f"from {split}"}] for split in ("train", "test")}
    made = make_cache(tmp_path, "lab/Toy", rows, "c0ffee")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", made)
    return made


def test_a_cached_commit_is_read_without_asking_the_hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "hub_reachable", lambda: pytest.fail("the Hub was asked"))
    found = hub_rows(PINNED)
    assert [value["problem"] for value in found.rows] == ["from train", "from test"]
    assert found.origin == "lab/Toy/default@c0ffee:train+test"


def test_another_cached_commit_does_not_stand_in_for_the_pinned_one(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cache / "lab___toy" / "default" / "0.0.0"
    (folder / "c0ffee").rename(folder / "decaf")
    monkeypatch.setattr(hub, "hub_reachable", lambda: False)
    with pytest.raises(LookupError, match="lab/Toy is not in the Hugging Face cache and the Hub cannot be reached"):
        hub_rows(PINNED)
    assert hub_rows(NEWEST).origin == "lab/Toy/default@decaf:test"


def test_what_is_not_cached_is_loaded_from_the_hub_at_the_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def load_dataset(*arguments: Any, **settings: Any) -> datasets.Dataset:
        calls.append((arguments, settings))
        return datasets.Dataset.from_list([{"problem": "new"}])

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(hub, "hub_reachable", lambda: True)
    assert [value["problem"] for value in hub_rows(PINNED).rows] == ["new"]
    assert calls == [(("lab/Toy", "default"), {"split": "train+test", "revision": "c0ffee"})]


@pytest.mark.parametrize("error", [ConnectionError("reset\nby peer"), ValueError("unknown split"), OSError()])
def test_a_failed_download_is_a_reason_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def load_dataset(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(hub, "hub_reachable", lambda: True)
    with pytest.raises(LookupError, match="lab/Toy could not be loaded from the Hub") as caught:
        hub_rows(PINNED)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("switch", hub.OFFLINE_SWITCHES)
def test_offline_switches_are_honoured_without_a_probe(monkeypatch: pytest.MonkeyPatch, switch: str) -> None:
    for name in hub.OFFLINE_SWITCHES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hub, "_answers", lambda endpoint: True)
    assert hub_reachable()
    hub_reachable.cache_clear()
    monkeypatch.setenv(switch, "true")
    assert not hub_reachable()


def test_a_hub_that_never_answers_is_given_up_and_probed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in hub.OFFLINE_SWITCHES:
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hub, "PROBE_SECONDS", 0.2)
    with socket.socket() as silent:  # accepts connections, answers nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert not hub_reachable()
        monkeypatch.setattr(hub, "_answers", lambda endpoint: True)
        assert not hub_reachable()


def test_a_refused_connection_and_a_senseless_address_are_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    assert not hub._answers(f"http://127.0.0.1:{port}")
    assert not hub._answers("no address")
