"""Soft labels: what is read is what was written, a killed writer continues, labels of something else are refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from itertools import count, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from methods.latent_sft.soft_labels import LabelWriter, SoftLabels, fingerprint_of_tensors, fingerprint_of_texts

TOP_K = 10
FIELDS = {"ids": (TOP_K, "int32"), "probs": (TOP_K, "float16")}
FINGERPRINT = {"r": 2, "k": TOP_K, "model": "0a", "data": ["gsm8k", 3]}
NUM_ROWS = 7
ROOT = Path(__file__).parents[3]


def label_row(index: int) -> dict[str, Tensor]:
    """A row that depends on its index alone; every third has no labels."""
    generator = torch.Generator().manual_seed(index)
    shape = (index % 3, TOP_K)
    ids = torch.randint(128_256, shape, generator=generator)
    return {"ids": ids, "probs": torch.rand(shape, generator=generator).softmax(-1)}


def write(folder: Path, num_rows: int = NUM_ROWS, fingerprint: Mapping[str, Any] = FINGERPRINT) -> LabelWriter:
    """Start or continue, up to `num_rows` rows in pairs."""
    writer = LabelWriter(folder, FIELDS, fingerprint)
    while writer.num_rows < num_rows:
        writer.add([label_row(index) for index in range(writer.num_rows, min(writer.num_rows + 2, num_rows))])
    return writer


def write_without_end(folder: Path) -> None:
    writer = LabelWriter(folder, FIELDS, FINGERPRINT)
    for index in count():
        writer.add([label_row(index)])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def restore(folder: Path, files: Mapping[str, bytes]) -> None:
    for path in folder.iterdir():
        path.unlink()
    for name, data in files.items():
        (folder / name).write_bytes(data)


def test_rows_come_back_with_exact_ids_and_probabilities_rounded_to_half_precision(tmp_path: Path) -> None:
    write(tmp_path).finish()
    labels = SoftLabels.open(tmp_path, FINGERPRINT)
    assert (len(labels), labels.num_labels) == (NUM_ROWS, sum(index % 3 for index in range(NUM_ROWS)))
    for index in range(NUM_ROWS):
        row, written = labels.row(index), label_row(index)
        assert (row["ids"].dtype, row["probs"].dtype) == (torch.int64, torch.float32)
        assert row["ids"].shape == row["probs"].shape == (index % 3, TOP_K)
        assert torch.equal(row["ids"], written["ids"])
        assert torch.equal(row["probs"], written["probs"].half().float())


def test_a_latent_of_ten_entries_takes_sixty_bytes(tmp_path: Path) -> None:
    writer = LabelWriter(tmp_path, FIELDS, FINGERPRINT)
    writer.add([{name: torch.zeros(50, TOP_K) for name in FIELDS}] * 4)
    writer.finish()
    sizes = {name: len(data) for name, data in contents(tmp_path).items() if name.endswith(".bin")}
    assert sizes == {"ids.bin": 200 * 40, "probs.bin": 200 * 20, "offsets.bin": 4 * 8}


def test_how_rows_are_grouped_changes_no_byte(tmp_path: Path) -> None:
    write(tmp_path / "pairs").finish()
    writer = LabelWriter(tmp_path / "once", FIELDS, FINGERPRINT)
    writer.add([])
    writer.add([label_row(index) for index in range(NUM_ROWS)])
    writer.finish()
    assert contents(tmp_path / "once") == contents(tmp_path / "pairs")


def test_float32_and_bfloat16_values_are_kept(tmp_path: Path) -> None:
    values = torch.linspace(0, 1, 12).view(3, 4)
    writer = LabelWriter(tmp_path, {"exact": (4, "float32"), "halved": (4, "float16")}, {})
    writer.add([{"exact": values, "halved": values.bfloat16()}])
    writer.finish()
    row = SoftLabels.open(tmp_path, {}).row(0)
    assert torch.equal(row["exact"], values)
    assert torch.equal(row["halved"], values.bfloat16().float())  # its 8 bits fit into 11


def test_labels_are_mapped_and_not_read_at_opening(tmp_path: Path) -> None:
    write(tmp_path).finish()
    labels = SoftLabels.open(tmp_path, FINGERPRINT)
    assert all(isinstance(values, np.memmap) and values.mode == "r" for values in labels._values.values())
    row = labels.row(1)
    row["ids"] += 1  # a copy
    assert torch.equal(labels.row(1)["ids"], label_row(1)["ids"])


def test_a_folder_without_labels_opens(tmp_path: Path) -> None:
    write(tmp_path / "no rows", num_rows=0).finish()
    assert len(SoftLabels.open(tmp_path / "no rows", FINGERPRINT)) == 0
    write(tmp_path / "an empty row", num_rows=1).finish()
    labels = SoftLabels.open(tmp_path / "an empty row", FINGERPRINT)
    assert (len(labels), labels.num_labels, labels.row(0)["ids"].shape) == (1, 0, (0, TOP_K))


def test_a_torn_folder_continues_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # slow, and no power is cut here
    write(tmp_path / "undisturbed").finish()
    expected = contents(tmp_path / "undisturbed")
    torn = tmp_path / "torn"
    write(torn)
    before = contents(torn)
    for cuts in product((0, 1, 45, 10_000), repeat=3):
        files = zip(("ids.bin", "probs.bin", "offsets.bin"), cuts, strict=True)
        kept = {name: before[name][: max(0, len(before[name]) - cut)] for name, cut in files}
        restore(torn, {"fields.json": before["fields.json"], **kept})
        whole = LabelWriter(torn, FIELDS, FINGERPRINT).num_rows
        assert (whole == NUM_ROWS) == (cuts == (0, 0, 0)), cuts
        write(torn).finish()
        assert contents(torn) == expected, cuts


@pytest.mark.parametrize("file", ["ids.bin", "probs.bin", "offsets.bin"])
@pytest.mark.parametrize("tail", [b"\x01", b"\x00" * 8, b"\xff" * 8, b"\x7f" * 60], ids=["1", "zeros", "-1", "60"])
def test_what_stands_behind_the_whole_rows_is_cut(tmp_path: Path, file: str, tail: bytes) -> None:
    write(tmp_path)
    before = contents(tmp_path)
    with (tmp_path / file).open("ab") as stream:
        stream.write(tail)
    assert LabelWriter(tmp_path, FIELDS, FINGERPRINT).num_rows == NUM_ROWS
    assert contents(tmp_path) == before


@pytest.mark.parametrize("num_calls", range(6))
def test_no_end_is_written_before_its_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_calls: int) -> None:
    calls = count()

    def killed(_: int) -> None:
        if next(calls) == num_calls:
            raise KeyboardInterrupt

    write(tmp_path, 2)
    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, 6)
    num_labels = np.fromfile(tmp_path / "offsets.bin", np.int64)[-1]
    for name, size in (("ids.bin", 40), ("probs.bin", 20)):
        assert (tmp_path / name).stat().st_size >= num_labels * size


def test_a_process_killed_while_writing_continues_to_the_same_bytes(tmp_path: Path) -> None:
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    code = f"from pathlib import Path; from test_soft_labels import write_without_end as w; w(Path({str(killed)!r}))"
    paths = os.pathsep.join([str(Path(__file__).parent), str(ROOT)])
    offsets = killed / "offsets.bin"
    with subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}) as process:
        while process.poll() is None and not (offsets.exists() and offsets.stat().st_size > 20 * 8):
            time.sleep(0.001)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not SoftLabels.is_finished(killed)
    num_rows = LabelWriter(killed, FIELDS, FINGERPRINT).num_rows
    assert num_rows > 19
    write(killed, num_rows + 3).finish()
    write(undisturbed, num_rows + 3).finish()
    assert contents(killed) == contents(undisturbed)


def test_a_writer_killed_while_finishing_has_finished_or_continues(tmp_path: Path) -> None:
    writer = write(tmp_path)
    before = contents(tmp_path)
    writer.finish()
    finished = contents(tmp_path)
    restore(tmp_path, {**before, "labels.json.tmp": finished["labels.json"][:9]})
    assert not SoftLabels.is_finished(tmp_path)
    write(tmp_path).finish()
    assert contents(tmp_path) == finished
    restore(tmp_path, {**before, **finished})
    assert len(SoftLabels.open(tmp_path, FINGERPRINT)) == NUM_ROWS


@pytest.mark.parametrize("key", FINGERPRINT)
def test_an_unfinished_folder_of_something_else_is_started_anew(tmp_path: Path, key: str) -> None:
    write(tmp_path)
    other = {**FINGERPRINT, key: "other"}
    assert LabelWriter(tmp_path, FIELDS, other).num_rows == 0
    assert write(tmp_path, 2, other).num_rows == 2
    assert LabelWriter(tmp_path, FIELDS, other).num_rows == 2
    assert LabelWriter(tmp_path, {"scores": (1, "float32")}, other).num_rows == 0
    assert sorted(contents(tmp_path)) == ["fields.json", "offsets.bin", "scores.bin"]


def test_files_without_a_header_are_not_taken_for_ours(tmp_path: Path) -> None:
    write(tmp_path).finish()
    (tmp_path / "labels.json").unlink()
    assert LabelWriter(tmp_path, FIELDS, FINGERPRINT).num_rows == 0


def test_a_finished_folder_is_not_written_again(tmp_path: Path) -> None:
    write(tmp_path).finish()
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"are finished; use them, or remove it to make them again$"):
        LabelWriter(tmp_path, FIELDS, FINGERPRINT)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("key", "value", "difference"),
    [
        ("r", 4, "r 2, not 4"),
        ("r", 2.5, "r 2, not 2.5"),
        ("k", 5, "k 10, not 5"),
        ("model", "0b", 'model "0a", not "0b"'),
        ("data", ["gsm8k", 4], 'data ["gsm8k", 3], not ["gsm8k", 4]'),
        ("seed", None, "seed absent, not null"),
    ],
)
def test_labels_of_another_fingerprint_are_refused(tmp_path: Path, key: str, value: object, difference: str) -> None:
    write(tmp_path).finish()
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole sentence is compared
        SoftLabels.open(tmp_path, {**FINGERPRINT, key: value})
    assert str(caught.value) == (
        f"the soft labels in {tmp_path} were made with {difference}; "
        f"change {key} back, or remove the folder to make them again"
    )


def test_a_fingerprint_that_lacks_a_key_is_refused(tmp_path: Path) -> None:
    write(tmp_path).finish()
    with pytest.raises(ValueError, match='were made with model "0a", not absent; change model back'):
        SoftLabels.open(tmp_path, {key: value for key, value in FINGERPRINT.items() if key != "model"})


def test_unfinished_labels_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    assert not SoftLabels.is_finished(tmp_path)
    with pytest.raises(ValueError, match=r"are not finished \(labels.json is missing\); make them first"):
        SoftLabels.open(tmp_path, FINGERPRINT)


@pytest.mark.parametrize("file", ["ids.bin", "probs.bin", "offsets.bin"])
@pytest.mark.parametrize("change", [-1, -1000, 1, None], ids=str)
def test_files_that_do_not_fit_are_refused(tmp_path: Path, file: str, change: int | None) -> None:
    write(tmp_path).finish()
    path = tmp_path / file
    if change is None:
        path.unlink()
    else:
        os.truncate(path, max(0, path.stat().st_size + change))
    with pytest.raises(ValueError, match=rf"damaged: {file} (is missing|has \d+ bytes instead of \d+); remove"):
        SoftLabels.open(tmp_path, FINGERPRINT)


@pytest.mark.parametrize(
    "ends", [[0, 1, 3, 2, 4, 6, 6], [0, 1, 3, 3, 4, 6, 5], [0, 1, 3, 3, 4, 7, 6], [0, 1, 3, 3, 4, 5, 5]]
)
def test_ends_that_are_impossible_are_refused(tmp_path: Path, ends: list[int]) -> None:
    write(tmp_path).finish()
    np.array(ends, np.int64).tofile(tmp_path / "offsets.bin")
    with pytest.raises(ValueError, match=r"damaged: offsets.bin does not fit 6 labels; remove"):
        SoftLabels.open(tmp_path, FINGERPRINT)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"fingerprint": 1}', "\x00" * 40])
def test_an_unreadable_list_of_facts_is_refused(tmp_path: Path, text: str) -> None:
    write(tmp_path).finish()
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(ValueError, match=r"damaged: labels.json cannot be read; remove"):
        SoftLabels.open(tmp_path, FINGERPRINT)


def test_the_facts_name_what_is_stored(tmp_path: Path) -> None:
    write(tmp_path).finish()
    facts = json.loads((tmp_path / "labels.json").read_text())
    fields = {name: list(field) for name, field in FIELDS.items()}
    assert facts == {"fields": fields, "fingerprint": FINGERPRINT, "num_rows": NUM_ROWS, "num_labels": 6}


def test_fingerprint_of_tensors_follows_names_dtypes_shapes_and_bytes() -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    changed = weight.clone()
    changed[1, 2] += 1e-6
    variants = [
        [("w", weight)],
        [("v", weight)],
        [("w", weight.view(torch.int32))],
        [("w", weight.reshape(3, 2))],
        [("w", changed.double())],
        [("w", weight.double())],
        [("w", weight.bfloat16())],
        [("w", weight), ("empty", torch.empty(0, 3))],
        [("w", weight), ("scalar", torch.tensor(True))],
        [],
    ]
    digests = [fingerprint_of_tensors(tensors) for tensors in variants]
    assert len(set(digests)) == len(variants)
    assert all(len(digest) == 16 and int(digest, 16) >= 0 for digest in digests)
    spaced = torch.stack([weight, -weight], -1)[..., 0].requires_grad_()  # the same values at other strides
    assert fingerprint_of_tensors(iter([("w", spaced)])) == digests[0]


def test_fingerprint_of_texts_follows_rows_and_their_cuts() -> None:
    variants: list[list[tuple[str, ...]]] = [
        [("a", "b")],
        [("ab",)],
        [("a",), ("b",)],
        [("b", "a")],
        [("a\nb",)],
        [("a", "b"), ()],
        [("\ud800",)],
        [],
    ]
    digests = {fingerprint_of_texts(rows) for rows in variants}
    assert len(digests) == len(variants)
    assert fingerprint_of_texts(iter([("a", "b")])) == fingerprint_of_texts([("a", "b")])
