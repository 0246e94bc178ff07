"""Where a release and its base model are: paths, the Hub and its cache; which files were read, and their hashes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from latbench.config import TINY
from latbench.data.hub import hub_reachable
from latbench.importer import Base, Importer, Recipe, Release
from latbench.model.source import TEXTS
from latbench.model.tensor_files import INDEX, TensorFiles
from latbench.util.files import sha256_of

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
TEXT_FILES = (*TEXTS, "adapter_config.json", "pccot_args.json")
"""What is read of a model folder beside its weights."""
PLACES = ("*", "checkpoints/*", "*/checkpoints/*")
"""Where a single file of weights lies in a folder: Lightning writes version_N/checkpoints/*.ckpt."""
HPARAMS = ("hparams.yaml", "*/hparams.yaml")
"""Lightning writes it as version_N/hparams.yaml, beside the folder of checkpoints."""
WEIGHT_FILES = ("*.safetensors", "*.bin", "*.pt", "*.ckpt", "checkpoint_*", "*" + INDEX)


def open_source(name: str, revision: str | None = None) -> Release:
    """The files of a released checkpoint. Raises: ValueError: not at hand, or no weights are there."""
    path, commit = _located(name, revision, what="SOURCE", patterns=(*TEXT_FILES, *HPARAMS, *WEIGHT_FILES))
    if path.is_dir() and not _has_weights(path):
        single = _single_files(path)
        if len(single) != 1:
            choice = f"; give one of its files, such as {single[0]}" if single else ""
            looked = "*.safetensors, pytorch_model.bin, their shards, *.pt, *.ckpt, checkpoint_N"
            raise ValueError(f"{name} holds {len(single) or 'no'} files of weights (looked for {looked}){choice}")
        path = single[0]
    return Release(name, path, TensorFiles.open(path), commit)


def _located(name: str, revision: str | None, *, what: str, patterns: Iterable[str]) -> tuple[Path, str | None]:
    """Path of what a user named, and the commit of a Hub id; its files are fetched or taken from the cache."""
    path = Path(name).expanduser()
    if path.exists():
        return path, None
    if not HUB_ID.fullmatch(name):
        raise ValueError(f"{what} {name!r} is neither a file, nor a folder, nor a Hugging Face id")
    try:
        fetched = Path(
            snapshot_download(
                name, revision=revision, allow_patterns=list(patterns), local_files_only=not hub_reachable()
            )
        )
    except (OSError, ValueError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        reason = " ".join(str(error).split("\n")[0].split())
        raise ValueError(
            f"{what} {name!r} is no path here, and not to be had from the Hub or its cache ({reason}); give a folder "
            "with its files, or the id with network"
        ) from None
    return fetched, fetched.name


def _has_weights(folder: Path) -> bool:
    return any(folder.glob("*model*.safetensors")) or any(folder.glob("*model*.bin")) or any(folder.glob("*" + INDEX))


def _single_files(folder: Path) -> list[Path]:
    """Files that are a whole checkpoint each, in a folder and where Lightning puts them below it."""
    inside = [path for places in PLACES for path in folder.glob(places)]
    return sorted(
        path
        for path in inside
        if (path.suffix in (".pt", ".ckpt") or (path.name.startswith("checkpoint_") and path.suffix in ("", ".bin")))
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def lasting(name: str) -> str:
    """A path that means the same from every folder; a Hub id as it is."""
    return str(Path(name).expanduser().resolve()) if Path(name).expanduser().exists() else name


def model_name(name: str) -> str:
    """What tables call a model: a Hub id, or a folder's name, wherever the folder lies."""
    path = Path(name).expanduser()
    short = path.resolve().name if path.exists() else name
    return f"{short}_" if short == TINY else short


def open_base(importer: Importer, source: Release, given: str | None, revision: str | None = None) -> Base | None:
    """The base model that a format needs. Raises: ValueError: it is not at hand."""
    usual = importer.base_id(source)
    if usual is None:
        if given is not None:
            raise ValueError(
                f"format {importer.name!r} takes no base model, so --base {given} says nothing; leave it out"
            )
        return None
    if given is None and not usual:
        raise ValueError(f"{source.name} does not say of which base model it is; give it with --base ID_OR_PATH")
    name = given or usual
    texts = (*TEXT_FILES, "*.safetensors", "*" + INDEX) if importer.needs_base_weights else TEXT_FILES
    try:
        path, commit = _located(name, revision, what="the base model", patterns=texts)
    except ValueError as error:
        hint = "" if given else f" {source.name} needs {usual} as its base: give it with --base ID_OR_PATH."
        raise ValueError(f"{error}.{hint}" if hint else str(error)) from None
    return Base(name, path, commit)


def files_read(source: Release, base: Base | None, recipe: Recipe) -> dict[str, Path]:
    """Files that the run is made of, by the name they have in its provenance."""
    read = [*source.tensors.files, *recipe.files]
    if source.path.is_dir():
        read += [source.folder / name for name in TEXT_FILES if (source.folder / name).is_file()]
    named = {path.name: path for path in read}
    if base is not None:
        named |= {f"base/{name}": base.folder / name for name in TEXT_FILES if (base.folder / name).is_file()}
        if any(part is not source.tensors for part in _part_files(recipe)):
            named |= {f"base/{path.name}": path for path in base.tensors.files}
    return named


def _part_files(recipe: Recipe) -> list[TensorFiles]:
    pieces = (*recipe.assembly.pieces.values(), *recipe.assembly.heads.values())
    return [files for piece in pieces for files, _ in piece.parts]


def identity_of(files: Mapping[str, Path]) -> str:
    """One hash of all files, whatever folder they lie in."""
    lines = sorted(f"{name} {sha256_of(path)}" for name, path in files.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
